"""studies/pairs_or_scores.py: the fit, tau, raters, what is compared, the break-even, claims."""

import itertools

import numpy as np
import pairs_or_scores as study
import pytest
from preference_data_explorer import Rater, draw_raters, plackett_luce_nll

from common.claims import judge
from common.preferences import annotate

# --- From annotations to an order ---


@pytest.mark.parametrize("size", [2, 4])
def test_the_fit_recovers_known_qualities(size):
    truth = np.array([[2.0, 1.0, 0.5, 0.0, -1.0, -2.5], [0.0, 0.3, -0.3, 0.6, -0.6, 0.0]])
    rng = np.random.default_rng(1)
    items = rng.permuted(np.tile(np.arange(6), (2, 20000, 1)), axis=-1)[:, :, :size]
    perceived = annotate(np.take_along_axis(truth[:, None], items, axis=-1), rng)
    rankings = np.take_along_axis(items, np.argsort(-perceived, axis=-1), axis=-1)
    scores = study.fit_plackett_luce(rankings, 6)
    centred = scores - scores.mean(1, keepdims=True)
    truth_centred = truth - truth.mean(1, keepdims=True)
    np.testing.assert_allclose(centred, truth_centred, atol=0.12)  # 4 standard errors
    np.testing.assert_array_equal(study.kendall_tau(truth[:1], scores[:1]), 1)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_fit_minimises_the_summed_likelihood(size):
    rng = np.random.default_rng(2)
    rankings = np.array([[rng.permutation(5)[:size] for _ in range(12)]])
    best = study.fit_plackett_luce(rankings, 5, prior=0.1)[0]

    def objective(scores):
        # 0.1 wins and losses of each item against a score of 0
        phantom = np.logaddexp(0, scores) + np.logaddexp(0, -scores)
        return plackett_luce_nll(scores[rankings[0]]).sum() + 0.1 * phantom.sum()

    for k, sign in itertools.product(range(5), (1, -1)):
        shifted = best + sign * 1e-4 * np.eye(5)[k]
        assert objective(shifted) > objective(best)


def test_an_item_that_always_wins_keeps_a_finite_score():
    scores = study.fit_plackett_luce(np.array([[[0, 1]] * 50]), 3)[0]
    assert np.isfinite(scores).all() and scores[0] > 2 > -2 > scores[1]
    assert scores[2] == pytest.approx(0, abs=1e-9)  # never seen


def test_kendall_tau():
    truth = np.array([[3.0, 1.0, 2.0, 0.0]])
    assert study.kendall_tau(truth, 7 * truth - 3) == 1
    assert study.kendall_tau(truth, -truth) == -1
    one_swap, one_tie = np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[3.0, 1.0, 1.0, 0.0]])
    assert study.kendall_tau(truth, one_swap) == pytest.approx(4 / 6)
    assert study.kendall_tau(truth, one_tie) == pytest.approx(5 / 6)
    equal_but_for_rounding = np.array([[0.1, 0.1, 0.1, 0.1 + 1e-12]])
    assert study.kendall_tau(truth, equal_but_for_rounding) == 0
    both = study.kendall_tau(np.vstack([truth, truth]), np.vstack([truth, -truth]))
    np.testing.assert_array_equal(both, [1, -1])


def test_who_scores():
    rng, raters = np.random.default_rng(0), Rater(np.arange(1000.0), 2 * np.arange(1000.0))
    items = np.array([np.concatenate([rng.permutation(12) for _ in range(4)])])
    new = study.assign_raters(raters, items, 1, rng)
    assert len(set(new.offset[0])) > 40
    np.testing.assert_array_equal(new.scale, 2 * new.offset)
    in_a_row = study.assign_raters(raters, items, 6, rng).offset.reshape(8, 6)
    assert (in_a_row == in_a_row[:, :1]).all() and len(set(in_a_row[:, 0])) == 8
    own = study.assign_raters(raters, items, None, rng).offset[0]
    assert len(set(zip(items[0], own, strict=True))) == 12  # the same whenever an answer comes back


# --- What is compared ---


@pytest.fixture(scope="module")
def recovered() -> tuple:
    """Readings of 60 questions, budgets, raters, and what `recover_order` finds."""
    rng, costs = np.random.default_rng(3), [12 * passes for passes in study.PASSES[:5]]
    readings = study.read_responses(60, study.PASSES[4], 3, rng)
    raters = draw_raters(400, rng)
    return readings, costs, raters, study.recover_order(readings, costs, raters, rng)


def test_a_pass_reads_every_answer_once(recovered):
    readings = recovered[0]
    assert all(len(set(row)) == 12 for row in readings.gold.tolist())
    passes = readings.items.reshape(60, -1, 12)
    assert (np.sort(passes, axis=-1) == np.arange(12)).all()
    assert (passes[:, 0] != passes[:, 1]).any()
    noise = readings.perceived - np.take_along_axis(readings.gold, readings.items, axis=1)
    assert noise.mean() == pytest.approx(0.5772, abs=4 * 1.2825 / np.sqrt(noise.size))  # Gumbel's
    assert noise.std() == pytest.approx(np.pi / np.sqrt(6), rel=0.03)


def test_recovery_gets_better_with_budget_and_the_formats_differ_as_derived(recovered):
    taus, _ = recovered[3]
    for name, tau in taus.items():
        assert tau.shape == (5, 60) and np.abs(tau).max() <= 1
        assert tau[4].mean() > tau[0].mean() + 0.05, name
    mean = {name: tau.mean(1) for name, tau in taus.items()}
    new, same = mean["new_rater_each_time"], mean["one_rater_for_all"]
    assert (mean["listwise"] > mean["pairwise"]).all()  # three choices among four, not two pairs
    assert (same > new).all()  # leniency cancels
    assert mean["one_rater_per_response"][4] < mean["pairwise"][4] - 0.05  # it passes for quality
    assert new[2] > mean["pairwise"][2] + 0.05


def test_an_order_from_four_readings():
    """Ranked in blocks, best first; scored by an average rater, with the noise or without it."""
    items, gold = np.array([[0, 1, 2, 3]]), np.array([[0.0, 3.0, 2.5, -1.0]])
    readings, rater = study.Readings(gold, items, gold), Rater(np.zeros((1, 4)), np.ones((1, 4)))
    assert study.tau_of_rankings(readings, 4, 4)[0] == 1
    turned = readings._replace(perceived=-gold)
    assert study.tau_of_rankings(turned, 4, 4)[0] == -1
    # Pairs (0, 1) and (2, 3): of six pairs 1 beats 0 and 3, 2 beats 0 and 3; 1, 2 and 0, 3 tie.
    assert study.tau_of_rankings(readings, 4, 2)[0] == pytest.approx(4 / 6)
    assert study.tau_of_scores(readings, 4, rater)[0] == pytest.approx(5 / 6)  # 3, 2.5: both a 4
    assert study.tau_of_scores(turned, 4, rater)[0] < 0
    assert study.tau_of_scores(turned, 4, rater, noise=0.0)[0] == pytest.approx(5 / 6)


def test_every_claim_is_about_its_own_difference_at_equal_cost():
    taus = {"listwise": 1.0, "pairwise": 0.3, "new_rater_each_time": 0.1}
    taus |= {"one_rater_for_all": 9.0, "one_rater_per_response": 0.25}
    at_compared = np.zeros(6)
    at_compared[study.COMPARED] = 1  # what other budgets recover is not read
    found = {name: (tau * at_compared).tolist() for name, tau in taus.items()}
    metrics = [{"tau": found}] * 5
    assert [judge(claim, metrics)["mean"] for claim in study.CLAIMS] == [0.2, 0.05, 0.7]
    assert {judge(claim, metrics)["verdict"] for claim in study.CLAIMS} == {"holds"}


# --- The break-even ---


def test_crossing_of_a_curve_with_a_level():
    factors, curve = (1.0, 2.0, 4.0), np.array([0.7, 0.5, 0.1])
    expected = 2 * 2**0.25  # a quarter of the way from 0.5 to 0.1, in the logarithm of the factor
    assert study.crossing(0.4, curve, factors) == pytest.approx(expected)
    assert study.crossing(0.4, curve + 1, factors) == 4.0  # beyond the last
    assert study.crossing(0.4, curve - 1, factors) == pytest.approx(1.0)
    bumpy = (0.8, 0.35, 0.45, 0.43, 0.42, 0.1)  # rises again, by noise
    first = study.crossing(0.4, bumpy, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0))
    assert first == pytest.approx(2 ** (0.4 / 0.45))


def test_break_even_is_where_scores_recover_as_much_as_pairs(recovered):
    readings, costs, raters, (taus, curve) = recovered
    pairs, rng = taus["pairwise"][study.COMPARED], np.random.default_rng(5)
    factor = study.crossing(pairs.mean(), curve)
    # Read again with just that noise, by other raters: scores recover what pairs do.
    rater = study.assign_raters(raters, readings.items, 1, rng)
    tau = study.tau_of_scores(readings, costs[study.COMPARED], rater, factor)
    assert tau.mean() == pytest.approx(pairs.mean(), abs=4 * (tau - pairs).std() / np.sqrt(60))
    assert curve[0] > curve[3] > curve[-1]  # more noise, less order
