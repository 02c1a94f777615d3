"""studies/ties_noise_and_margins.py: its pairs, what is trained, the claims, the command."""

import json

import numpy as np
import pytest
import ties_noise_and_margins as study
from helpers import run_script

from common.answers import read_answers
from common.claims import judge
from common.preferences import flip_labels, gold_utility, make_pairs, questions, read_response

PAIRS = make_pairs(200)


def test_flipped_labels_are_nested_and_of_the_right_share():
    few, many = (flip_labels(PAIRS, share, 1) for share in (0.1, 0.3))
    changed = []
    for rows in (few, many):
        changed.append({k for k, row in enumerate(rows) if row["chosen"] != PAIRS[k]["chosen"]})
    assert len(changed[0]) == 20 and len(changed[1]) == 60 and changed[0] < changed[1]
    k = min(changed[0])
    assert (few[k]["chosen"], few[k]["rejected"]) == (PAIRS[k]["rejected"], PAIRS[k]["chosen"])
    assert few[k]["chosen_utility"] == PAIRS[k]["rejected_utility"]
    assert few[k]["prompt"] == PAIRS[k]["prompt"] and flip_labels(PAIRS, 0.0, 1) == PAIRS


def test_tied_pairs_are_ties():
    rows = study.tied_pairs(80, 3)
    tied = [row for row in rows if "chosen_style" not in row]
    assert len(rows) == 80 and len(tied) == 60
    for row in tied:
        utilities = {gold_utility(row["prompt"], row[side]) for side in ("chosen", "rejected")}
        assert row["chosen"] != row["rejected"] and len(utilities) == 1
    assert {row["prompt"] for row in rows} <= {question.prompt for question in questions("train")}


def test_one_sided_pairs_always_choose_the_concise_answer():
    rows = study.one_sided_pairs(40, 3)
    assert len({row["prompt"] for row in rows}) == 40
    for row in rows:
        assert read_response(row["prompt"], row["chosen"]).good
        assert read_response(row["prompt"], row["rejected"]).style == "verbose"


def test_every_arm_is_trained_with_its_loss_on_its_pairs_from_the_same_model(monkeypatch):
    trained, answered, start = [], [], ["sft"]

    def train(model, tokenizer, pairs, *, loss_type=("kto",), look=None, look_at=(), **settings):
        assert model == ["sft"] and model is not start  # a copy
        model.append("trained")
        trained.append((settings["name"], loss_type, len(pairs), settings, look_at))
        if look:
            look(0, model)
        return settings["name"], []

    def sample(policy, tokenizer, prompts, n, seed):
        answered.append(policy)
        return read_answers(prompts, [["It is Paris."] * n] * len(prompts))

    monkeypatch.setattr(study, "train_dpo", train)
    monkeypatch.setattr(study, "train_kto", train)
    monkeypatch.setattr(study, "sample_answers", sample)
    monkeypatch.setattr(study, "load_sft_model", lambda: (start, None))
    monkeypatch.setattr(study, "read_pairs", lambda *_, beta: {"margin": np.ones(len(_[2]))})
    metrics = study.measure(5)
    by_name = {name: rest for name, *rest in trained}
    assert len(by_name) == 9
    for name, (loss_type, count, settings, look_at) in by_name.items():
        loss = {"dpo": "sigmoid"}.get(name.split()[0], name.split()[0])
        assert tuple(loss_type) == (loss,) and count == (48 if "one" in name else 128)
        assert settings["epochs"] == 8 and settings["beta"] == 1.0 and settings["seed"] == 5
        assert look_at == (() if "one" in name else (16, 32, 64))
    assert set(by_name) < set(map(str, answered))  # the policies, not the start, are judged
    assert [point["method"] for point in metrics["points"]] == ["IPO", "KTO"]
    assert all(point["annotations"] == 128 for point in metrics["points"])
    assert metrics["points"][0]["gold"]["count"] == 128


GOLD_OF = {
    **{"sft": 0, "dpo": 1, "ipo": 2, "kto": 4, "dpo_noise": 8, "kto_noise": 16},
    **{"dpo_ties": 32, "ipo_ties": 64, "dpo_one_sided": 128, "ipo_one_sided": 256},
}


def test_every_claim_is_about_its_own_difference():
    prompts = [question.prompt for question in questions("test")[:20]]
    blank = read_answers(prompts, [["It is Paris."] * 2] * 20)
    found = {key: blank._replace(gold=np.full((20, 2), float(u))) for key, u in GOLD_OF.items()}
    margins = {"dpo_one_sided": np.full(6, 7.0), "ipo_one_sided": np.full(6, 2.0)}
    differences = study.loss_differences(found, margins)
    assert {key: measured["mean"] for key, measured in differences.items()} == pytest.approx(
        {
            "ipo_under_ties": 64 - 32,
            "ipo_under_imbalance": 256 - 128,
            "dpo_extreme_margins": 7 - 2,
            "kto_noise": 16 - 8,
            "ipo_on_clean_pairs": 2 - 1,
            "kto_on_clean_pairs": 4 - 1,
        }
    )
    judged = [judge(claim, [{"differences": differences}]) for claim in study.CLAIMS]
    assert {claim["id"]: claim["mean"] for claim in judged} == {
        "ipo_under_ties": 32,
        "ipo_under_imbalance": 128,
        "dpo_extreme_margins": 5,
        "kto_noise": 8,
    }
    assert all(claim["verdict"] == "holds" for claim in judged)


def test_the_command(tmp_path):
    done = run_script("studies/ties_noise_and_margins", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "studies"
    results = json.loads((folder / "ties_noise_and_margins-smoke.json").read_text())
    assert len(results["claims"]) == len(study.CLAIMS)
    metrics = results["runs"][0]["metrics"]
    assert [look["passes"] for look in metrics["looks"]["dpo_ties"]] == [0, 0.5, 1]
    assert set(metrics["answers"]["texts"]) == {"IPO, ipo, IPO", "KTO, kto, KTO"}
    assert (folder / "ties_noise_and_margins-smoke.png").stat().st_size > 20_000
