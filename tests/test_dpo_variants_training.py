"""dpo_variants.py: what training starts from, TRL's KTO, who labels sampled pairs, the judge's order, the claims."""

import math

import dpo_trainer as dpo
import dpo_variants as variants
import numpy as np
import pytest
import torch
from datasets import Dataset
from evaluation import response_logps

from common.models import encode_response, load_causal_lm
from common.preferences import gold_utility, make_pairs, make_unpaired, questions

D = torch.float64


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_weights_and_signs_of_the_kto_gradient():
    policy = torch.full((2,), -4.0, dtype=D, requires_grad=True)
    labels, ref = torch.tensor([True, False]), torch.full((2,), -4.0, dtype=D)
    variants.kto_loss(policy, ref, labels, 0.0, 0.4, 3.0, 2.0).sum().backward()
    # At the start sigmoid' = 1/4: minus w beta / 4 for good, plus w beta / 4 for bad.
    np.testing.assert_allclose(policy.grad.numpy(), [-0.3, 0.2], rtol=1e-6)


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """Settings with which the script's functions make TRL's trainers but do not train."""
    for module in (dpo, variants):
        monkeypatch.setattr(module, "run_trainer", lambda trainer, *_, **__: trainer)
    return variants.build_parser().parse_args(["--output-dir", str(tmp_path), "--pairs", "4"])


def perturb(model, sign: float = 1.0) -> None:
    """Move the adapter away from zero, so that policy and reference differ."""
    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05).mul_(sign)


def trl_loss(trainer) -> float:
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item()


def test_ipo_is_trained_per_token_with_its_own_beta(untrained):
    pairs = make_pairs(8, seed=3)
    trainer, tokenizer = variants.train_variant(untrained, "cpu", pairs, "ipo")
    assert trainer.beta == variants.BETAS["ipo"] and trainer.loss_types == ["ipo"]
    perturb(trainer.model)
    policy, reference = dpo.pair_logps(trainer.model, tokenizer, pairs)
    lengths = [
        torch.tensor([len(encode_response(tokenizer, row[side])) for row in pairs]) for side in ("chosen", "rejected")
    ]

    def ours(*lengths) -> float:
        return variants.ipo_loss(*policy, *reference, trainer.beta, *lengths).mean().item()

    assert ours(*lengths) == pytest.approx(trl_loss(trainer), abs=1e-5)
    for wrong in (lengths[::-1], [x - 1 for x in lengths]):  # sides swapped, EOS left out
        assert abs(ours(*wrong) - trl_loss(trainer)) > 1e-4


def test_kto_equals_trls_with_unequal_classes(untrained):
    rows = [row | {"label": k in (1, 2, 4, 9, 12)} for k, row in enumerate(make_unpaired(make_pairs(8, seed=3)))]
    trainer, tokenizer = variants.fit_kto(untrained, "cpu", rows)
    assert trainer.args.per_device_train_batch_size == 16 and trainer.desirable_weight == pytest.approx(11 / 5)
    shuffled = Dataset.from_list(rows).shuffle(untrained.seed).to_list()
    labels = torch.tensor([row["label"] for row in shuffled])
    assert labels.tolist() == list(trainer.train_dataset["label"]) and shuffled != rows
    own = [row["completion"] for row in shuffled]

    def log_ratios(completions: list[str]) -> list[torch.Tensor]:
        prompts, responses = [row["prompt"] for row in shuffled], [encode_response(tokenizer, x) for x in completions]
        policy = response_logps(trainer.model, tokenizer, prompts, responses)
        with trainer.model.disable_adapter():
            return policy, response_logps(trainer.model, tokenizer, prompts, responses)

    points = []
    for sign in (1.0, -1.0):
        perturb(trainer.model, sign)
        policy_kl, ref_kl = log_ratios(own[-1:] + own[:-1])
        points.append((policy_kl - ref_kl).mean().item())
        policy, ref = log_ratios(own)
        loss = variants.kto_loss(policy, ref, labels, max(points[-1], 0.0), trainer.beta, 11 / 5)
        assert loss.mean().item() == pytest.approx(trl_loss(trainer), abs=1e-5)
    assert min(points) < 0 < max(points)  # clamped, and not


def test_classes_count_alike_only_when_balanced(untrained):
    rows = make_unpaired(make_pairs(8, seed=3))[:5]  # three good, two bad
    assert variants.fit_kto(untrained, "cpu", rows, balance=False)[0].desirable_weight == 1
    assert variants.fit_kto(untrained, "cpu", rows)[0].desirable_weight == pytest.approx(2 / 3)


def test_on_policy_rounds_keep_the_checkpoint_as_reference(untrained, monkeypatch):
    asked = []

    def pairs(args, policy, tokenizer, count, seed):
        asked.append((policy, count, seed))
        return make_pairs(count, seed=seed)

    monkeypatch.setattr(variants, "sample_pairs", pairs)
    trainer, _ = variants.fit_on_policy(untrained, "cpu", rounds=2)
    assert [x[1:] for x in asked] == [(2, 0), (2, 1)]
    assert asked[1][0] is trainer.model  # the second round samples from what the first one trained
    assert trainer.ref_model is not None and not hasattr(trainer.ref_model, "disable_adapter")


def test_sampled_pairs_are_labelled_by_the_annotator(monkeypatch):
    monkeypatch.setattr(variants, "annotate", lambda utilities, rng: utilities)  # without noise
    rows = variants.sample_pairs(variants.build_parser().parse_args([]), *load_causal_lm("tiny-gpt2"), 6, 2)
    gaps = [gold_utility(row["prompt"], row["chosen"]) - gold_utility(row["prompt"], row["rejected"]) for row in rows]
    assert len(rows) == 6 and min(gaps) >= 0 and max(gaps) > 0.5
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert {row["prompt"] for row in rows} <= {q.prompt for q in questions("train")}


def test_forward_shows_the_chosen_answer_as_a(monkeypatch):
    shown = []

    def judge(model, tokenizer, prompts):
        shown.extend(prompts)
        return torch.linspace(0, 1, len(prompts)), torch.ones(len(prompts))

    monkeypatch.setattr("common.models.judge_first_better", judge)
    found = variants.judge_pairs(None, None, [{"prompt": "p", "chosen": "good", "rejected": "bad"}])
    assert ["A: good\nB: bad" in shown[0], "A: bad\nB: good" in shown[1], "A: good\nB: good" in shown[2]] == [True] * 3
    assert (found["forward"], found["backward"], found["same"]) == (0, 0.5, 1)


def judged(monkeypatch, pairs: list[dict], forward: np.ndarray, backward: np.ndarray) -> dict:
    found = {"forward": forward, "backward": backward, "same": np.full(len(pairs), 0.7)}
    monkeypatch.setattr(variants, "judge_pairs", lambda *_: found | {"answered": np.array([1.0] * 9 + [0.2])})
    return variants.study_judge(None, None, pairs)


def mean(table: dict) -> dict:
    return {name: found["mean"] for name, found in table.items()}


@pytest.fixture
def clear():
    """Pairs of unequal gold utility, and chosen minus rejected."""
    pairs = [row for row in make_pairs(200, "test", seed=1) if row["chosen_utility"] != row["rejected_utility"]]
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in pairs])
    assert (gaps < 0).sum() > 10
    return pairs, gaps


def test_a_perfect_judge_and_its_opposite(clear, monkeypatch):
    pairs, gaps = clear
    forward, right = (gaps > 0) * 0.98 + 0.01, (gaps > 0).mean()
    for p, agreement in ((forward, 1), (1 - forward, 0)):
        found = judged(monkeypatch, pairs, p, 1 - p)
        assert mean(found["agrees_with_gold"]) == pytest.approx(
            {"human labels": right, "judge, one order": agreement, "judge, both orders": agreement}
        )
        assert found["agrees_with_human"]["mean"] == pytest.approx(right if agreement else 1 - right)
        assert found["human_minus_judge"]["mean"] == pytest.approx(right - agreement)
        assert found["position_bias"]["verdict depends on the order"]["mean"] == 0
    assert found["answers_a_or_b"]["mean"] == pytest.approx(0.9)
    assert found["position_bias"]["P(A) for two equal answers"]["mean"] == pytest.approx(0.7)
    worse = [row["rejected_style" if gap > 0 else "chosen_style"] for row, gap in zip(pairs, gaps, strict=True)]
    by_reason = found["agrees_with_gold_by_reason"]["human labels"]["wrong"]
    assert by_reason["count"] == worse.count("wrong") > 0
    assert by_reason["mean"] == pytest.approx((gaps > 0)[np.array(worse) == "wrong"].mean())


def test_both_orders_see_through_a_position_bias(clear, monkeypatch):
    pairs, gaps = clear
    forward, backward = (np.array([sigmoid(x + 3) for x in 2 * np.sign(d)]) for d in (gaps, -gaps))
    found = judged(monkeypatch, pairs, forward, backward)
    assert found["position_bias"]["verdict depends on the order"]["mean"] == 1
    assert found["position_bias"]["P(A) in one order"]["mean"] == 1
    assert found["agrees_with_gold"]["judge, both orders"]["mean"] == 1
    expected = np.where(np.arange(len(pairs)) % 2, gaps > 0, gaps < 0).mean()  # chosen is A in every second pair
    assert found["agrees_with_gold"]["judge, one order"]["mean"] == pytest.approx(expected)


UTILITY = {
    **{"SFT": 0.0, "sigmoid, clean": 1.0, "ipo, clean": 2.0, "kto, noise 0.0": 4.0, "sigmoid, noise 0.3": 8.0},
    **{"kto, noise 0.3": 16.0, "sigmoid, ties": 32.0, "ipo, ties": 64.0, "sigmoid, one-sided": 128.0},
    **{"ipo, one-sided": 256.0, "kto, no pairs, weighted": 512.0, "kto, no pairs, unweighted": 1024.0},
    **{"AI labels": 2048.0, "on-policy": 4096.0},
}


def test_every_claim_is_about_its_own_difference():
    readings = {name: {"utility": np.full((5, 2), u)} for name, u in UTILITY.items()}
    margins = {"sigmoid, one-sided": np.full(5, 7.0), "ipo, one-sided": np.full(5, 2.0)}
    found = variants.differences(readings, margins)
    assert mean(found) == {
        "ipo_under_ties": (1 - 32) - (2 - 64),
        "ipo_under_imbalance": (1 - 128) - (2 - 256),
        "dpo_extreme_margins": 7 - 2,
        "kto_no_pairs": 512,
        "kto_noise": (1 - 8) - (4 - 16),
        "data_bounds_quality": 1 - 8,
        "rlaif_is_dpo": 2048,
        "rlaif_is_its_judge": 1 - 2048,
        "on_policy_is_better": 4096 - 1,
        "kto_class_weights": 512 - 1024,
    }
    claims = {claim["id"]: claim for claim in variants.world_claims({"differences": found})}
    assert list(claims) == list(variants.CLAIMS)
    assert claims["kto_noise"]["verdict"] == "holds" and claims["rlaif_is_its_judge"]["verdict"] == "does not hold"
