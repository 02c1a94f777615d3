"""reward_model.py: the loss and its known answers, ceilings, calibration, and a small training with a known optimum."""

import math
import random

import numpy as np
import pytest
import reward_model as rm
import torch

from common.preferences import make_pairs

rng = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---------------------------------------------------------------------------------------------------------
# The loss
# ---------------------------------------------------------------------------------------------------------


def test_zero_margin_costs_ln_2():
    rewards = torch.randn(7, dtype=torch.float64)
    assert rm.bradley_terry_loss(rewards, rewards).item() == pytest.approx(math.log(2), abs=1e-12)


def test_worked_loss_is_a_mean_over_pairs():
    chosen = torch.tensor([1.0, 0.0], dtype=torch.float64)
    rejected = torch.tensor([0.0, 2.0], dtype=torch.float64)
    expected = (-math.log(sigmoid(1.0)) - math.log(sigmoid(-2.0))) / 2
    assert rm.bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected, abs=1e-12)


def test_only_differences_matter():
    chosen, rejected, per_prompt = torch.randn(3, 5, dtype=torch.float64)
    shifted = rm.bradley_terry_loss(chosen + per_prompt, rejected + per_prompt)
    assert shifted.item() == pytest.approx(rm.bradley_terry_loss(chosen, rejected).item(), abs=1e-12)


def test_gradient_raises_chosen_by_the_probability_of_being_wrong():
    chosen = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-0.4], dtype=torch.float64, requires_grad=True)
    rm.bradley_terry_loss(chosen, rejected).backward()
    assert chosen.grad.item() == pytest.approx(-sigmoid(-0.7), abs=1e-12)
    assert rejected.grad.item() == pytest.approx(sigmoid(-0.7), abs=1e-12)


def test_training_free_rewards_recovers_the_utility_differences():
    # Population preferences between four items: the minimum of the loss has differences equal to the utilities'.
    utility = torch.tensor([0.0, 1.0, 2.5, -1.0], dtype=torch.float64)
    i, j = torch.combinations(torch.arange(4)).T
    p = torch.sigmoid(utility[i] - utility[j])
    rewards = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        losses = [
            w * rm.bradley_terry_loss(rewards[a, None], rewards[b, None])
            for a, b, q in zip(i, j, p, strict=True)
            for a, b, w in ((a, b, q), (b, a, 1 - q))
        ]
        loss = sum(losses)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = rewards.detach()
    torch.testing.assert_close(found - found.mean(), utility - utility.mean(), atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------------
# Judging
# ---------------------------------------------------------------------------------------------------------


def test_ceilings_bound_what_the_true_utilities_reach():
    gaps = rng.normal(size=200_000) * 2
    won = rng.random(len(gaps)) < sigmoid(gaps)
    ceilings = rm.bayes_ceilings(gaps)
    standard_error = 0.5 / math.sqrt(len(gaps))
    assert np.mean((gaps > 0) == won) == pytest.approx(ceilings["accuracy"], abs=4 * standard_error)
    assert np.mean((won - sigmoid(gaps)) ** 2) == pytest.approx(ceilings["brier"], abs=4 * standard_error)
    nll = np.where(won, np.logaddexp(0, -gaps), np.logaddexp(0, gaps)).mean()
    assert nll == pytest.approx(ceilings["nll"], abs=8 * standard_error)
    for other in (0.5 * gaps, 2 * gaps, gaps + 0.5):
        assert np.where(won, np.logaddexp(0, -other), np.logaddexp(0, other)).mean() > nll


def test_ceilings_worked():
    ceilings = rm.bayes_ceilings([math.log(4), -math.log(4)])  # p = 0.8 and 0.2
    assert ceilings["accuracy"] == pytest.approx(0.8)
    assert ceilings["brier"] == pytest.approx(0.16)
    assert ceilings["nll"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))


def test_temperature_of_calibrated_and_overconfident_margins():
    gaps = rng.normal(size=100_000) * 1.5
    signed = np.where(rng.random(len(gaps)) < sigmoid(gaps), gaps, -gaps)  # margins of chosen over rejected
    assert rm.calibration(signed)["temperature"] == pytest.approx(1, abs=0.03)
    assert rm.calibration(2 * signed)["temperature"] == pytest.approx(2, abs=0.06)
    assert rm.calibration(signed)["expected_calibration_error"] < 0.01
    assert rm.calibration(2 * signed)["expected_calibration_error"] > 0.03


def test_reliability_counts_each_pair_from_both_sides():
    result = rm.calibration(np.array([10.0, 10.0, -10.0]))
    assert sum(result["count"]) == 6
    assert result["observed"][-1] == pytest.approx(2 / 3) and result["observed"][0] == pytest.approx(1 / 3)


def test_pair_hits_counts_ties_half():
    hits = rm.pair_hits(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))
    assert hits.tolist() == [1.0, 0.0, 0.5]


def test_gold_order_ignores_the_labels():
    pairs = make_pairs(300, "test")
    ordered = rm.gold_order(pairs)
    utilities = {(r["prompt"], r[s]): r[f"{s}_utility"] for r in pairs for s in ("chosen", "rejected")}
    assert all(utilities[r["prompt"], r["chosen"]] > utilities[r["prompt"], r["rejected"]] for r in ordered)
    assert any(r["chosen_utility"] < r["rejected_utility"] for r in pairs)  # noisy labels are there
    assert len(ordered) == sum(r["chosen_utility"] != r["rejected_utility"] for r in pairs)


def test_length_effect_is_the_partial_one():
    pairs = make_pairs(400, "test")
    from common.preferences import read_response

    filler = np.array([[read_response(r["prompt"], r[s]).filler_words for s in ("chosen", "rejected")] for r in pairs])
    utility = np.array([[r["chosen_utility"], r["rejected_utility"]] for r in pairs])
    result = rm.length_effect(pairs, 2 + 0.5 * utility + 0.3 * filler)
    assert result["mean"] == pytest.approx(0.3, abs=1e-9)
    assert rm.length_effect(pairs, 2 + 0.5 * utility)["mean"] == pytest.approx(0, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------


def test_batches_hold_every_pair_once_and_similar_lengths():
    lengths = [len(row["prompt"] + row["chosen"] + row["rejected"]) for row in make_pairs(200)]
    batches = rm.length_sorted_batches(lengths, 16, random.Random(0))
    assert sorted(i for batch in batches for i in batch) == list(range(200))

    def spread(groups):
        return np.mean([max(lengths[i] for i in group) - min(lengths[i] for i in group) for group in groups])

    assert spread(batches) < 0.5 * spread([range(i, min(i + 16, 200)) for i in range(0, 200, 16)])
    assert batches != rm.length_sorted_batches(lengths, 16, random.Random(1))


@pytest.fixture(scope="module")
def trained():
    args = rm.build_parser().parse_args(["--learning-rate", "0.001"])
    return rm.fit(args, "cpu", make_pairs(384, seed=3))


def test_a_short_training_learns_which_responses_are_chosen(trained):
    model, tokenizer, losses = trained
    assert losses[0] == pytest.approx(math.log(2), abs=0.15) and len(losses) == 24
    ordered = rm.gold_order(make_pairs(200, "test"))
    assert rm.pair_hits(rm.score_pairs(model, tokenizer, ordered)).mean() > 0.6


def test_swapped_labels_teach_the_opposite(trained):
    args = rm.build_parser().parse_args(["--learning-rate", "0.001"])
    swapped = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in make_pairs(384, seed=3)]
    model, tokenizer, _ = rm.fit(args, "cpu", swapped)
    ordered = rm.gold_order(make_pairs(200, "test"))
    assert rm.pair_hits(rm.score_pairs(model, tokenizer, ordered)).mean() < 0.4
