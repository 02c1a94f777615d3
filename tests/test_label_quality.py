"""studies/label_quality.py: who labels what, what is trained on it, the claims, the command."""

import json

import dpo_variants
import label_quality as study
import numpy as np
import pytest
import torch
from helpers import run_script

from common import training
from common.answers import read_answers
from common.claims import judge
from common.models import load_causal_lm
from common.preferences import flip_labels, make_pairs

PAIRS = make_pairs(200)
GAPS = np.array([row["chosen_utility"] - row["rejected_utility"] for row in PAIRS])

# --- The labels ---


def test_single_labels_have_one_answer_per_pair():
    rows = study.single_labels(PAIRS, 0.25, 1)
    assert len(rows) == 200 and sum(row["label"] for row in rows) == 50
    for row, pair in zip(rows, PAIRS, strict=True):
        assert row["prompt"] == pair["prompt"]
        assert row["completion"] == pair["chosen" if row["label"] else "rejected"]


def test_gold_agreement_leaves_ties_out_and_falls_with_flips():
    clear = GAPS[GAPS != 0]
    right = (clear > 0).mean()
    assert len(clear) < len(GAPS) and study.gold_agreement(PAIRS) == pytest.approx(right)
    assert study.gold_agreement(flip_labels(PAIRS, 1.0, 0)) == pytest.approx(1 - right)
    assert study.gold_agreement(flip_labels(PAIRS, 0.5, 0)) == pytest.approx(0.5, abs=0.08)


def test_both_orders_see_through_a_position_bias():
    gaps = np.sign(GAPS[GAPS != 0])
    forward, backward = (1 / (1 + np.exp(-(2 * sign * gaps + 3))) for sign in (1, -1))
    assert ((dpo_variants.averaged_preference(forward, backward) > 0.5) == (gaps > 0)).all()


def test_pairs_are_swapped_where_the_judge_prefers_the_rejected_answer(monkeypatch):
    kept = np.arange(200) % 3 > 0
    says_a = torch.tensor([*kept, *~kept]).double(), None  # in both orders
    monkeypatch.setattr(dpo_variants.scoring, "judge_first_better", lambda *_: says_a)
    labelled = dpo_variants.label_with_judge(None, None, PAIRS)
    for row, pair, same in zip(labelled, PAIRS, kept, strict=True):
        assert row["chosen"] == pair["chosen" if same else "rejected"]
        assert row["rejected_utility"] == pair["rejected_utility" if same else "chosen_utility"]


# --- The trainings ---


def test_sft_reads_the_chosen_answers_alone(monkeypatch):
    made = []
    monkeypatch.setattr(training, "run_trainer", lambda trainer, name: made.append(trainer))
    model, tokenizer = load_causal_lm("tiny-gpt2")
    settings = {"seed": 0, "name": "SFT", "lora": study.lora_config(model)}
    policy = training.train_on_chosen(model, tokenizer, PAIRS[:8], **settings)
    texts = [tokenizer.decode(row["input_ids"]) for row in made[0].train_dataset]
    for text, pair in zip(texts, PAIRS, strict=False):
        assert pair["prompt"] in text and pair["chosen"] in text and pair["rejected"] not in text
    trainable = {name for name, x in policy.named_parameters() if x.requires_grad}
    assert trainable and all("lora" in name for name in trainable)


def test_every_arm_gets_its_labels_once(monkeypatch):
    trained = {}

    def train_dpo(model, tokenizer, rows, *, name, **settings):
        trained[name] = (rows, settings)
        return name, []

    def train_sft(model, tokenizer, rows, *, name, **settings):
        return train_dpo(model, tokenizer, rows, name=name, **settings)[0]

    def sample(policy, tokenizer, prompts, n, seed):
        return read_answers(prompts, [["It is Paris."] * n] * len(prompts))

    def says_a(model, tokenizer, asked):  # the chosen answer, in both orders
        return torch.arange(len(asked)) < len(asked) / 2, None

    monkeypatch.setattr(study, "train_dpo", train_dpo)
    monkeypatch.setattr(study, "train_kto", train_dpo)
    monkeypatch.setattr(training, "train_on_chosen", train_sft)
    monkeypatch.setattr(study, "lora_config", lambda model: "an adapter")
    monkeypatch.setattr(study, "sample_answers", sample)
    monkeypatch.setattr(dpo_variants.scoring, "judge_first_better", says_a)
    monkeypatch.setattr(training, "load_sft_model", lambda: ("sft", None))
    metrics = study.measure(3)
    pairs = make_pairs(384, seed=3)
    for share, swapped in ((0, 0), (15, 58), (30, 115)):
        rows, settings = trained[f"flipped {share}"]
        same = [row["chosen"] == pair["chosen"] for row, pair in zip(rows, pairs, strict=True)]
        assert same.count(False) == swapped
        assert settings == {"beta": 0.3, "learning_rate": 1.4e-3, "seed": 3}
    assert trained["ai labels"][0] == pairs == trained["sft on chosen"][0]
    assert trained["sft on chosen"][1]["lora"] == "an adapter"
    singles, settings = trained["kto singles"]
    assert len(singles) == 768 and sum(row["label"] for row in singles) == 192
    assert settings["beta"] == 1.0 and len(trained) == 7
    assert [point["series"] for point in metrics["points"]] == list(study.OF_PLANE)
    assert {point["annotations"] for point in metrics["points"]} == {384}


def test_every_claim_is_about_its_own_difference():
    gold = {"sft": 0.1, "flipped_0": 3.0, "flipped_15": 4.0, "flipped_30": 2.0, "coin": 64.0}
    gold |= {"ai_labels": 128.0, "kto_singles": 512.0, "sft_on_chosen": 1024.0}
    judged = {claim.id: judge(claim, [{"gold": gold}])["mean"] for claim in study.CLAIMS}
    assert judged == pytest.approx(
        {
            "data_bounds_quality": 1.0,
            "rlaif_is_dpo": 127.9,
            "kto_no_pairs": 511.9,
            "more_than_sft_on_chosen": -1021.0,
        }
    )


def test_the_command(tmp_path):
    done = run_script("studies/label_quality", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "studies"
    results = json.loads((folder / "label_quality-smoke.json").read_text())
    assert len(results["claims"]) == len(study.CLAIMS)
    assert len(results["runs"][0]["metrics"]["answers"]["texts"]) == 3
    assert (folder / "label_quality-smoke.png").stat().st_size > 20_000
