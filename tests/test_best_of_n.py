"""best_of_n.py: the unbiased estimator, the exact policy and its KL, against known answers and brute force."""

import itertools
import math

import best_of_n as bon
import numpy as np
import pytest

rng = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------------------------
# The estimator from a pool
# ---------------------------------------------------------------------------------------------------------


def test_weights_of_four_choose_two():
    np.testing.assert_allclose(bon.best_of_n_weights(4, 2), np.array([0, 1, 2, 3]) / 6, atol=1e-12)


@pytest.mark.parametrize("size, n", [(1, 1), (5, 1), (5, 3), (7, 7), (64, 16), (2000, 500)])
def test_weights_are_a_distribution(size, n):
    weights = bon.best_of_n_weights(size, n)
    assert weights.sum() == pytest.approx(1, abs=1e-9) and (weights[: n - 1] == 0).all()
    assert weights[-1] == pytest.approx(n / size, abs=1e-9)  # the best of the pool is drawn n times in size


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_estimate_is_the_mean_over_all_subsets(n):
    rewards, values = rng.permutation(6).astype(float), rng.normal(size=6)
    subsets = list(itertools.combinations(range(6), n))
    best = [max(subset, key=lambda i: rewards[i]) for subset in subsets]
    assert bon.expected_best_of_n(rewards, n) == pytest.approx(np.mean([rewards[i] for i in best]), abs=1e-12)
    assert bon.expected_best_of_n(rewards, n, values) == pytest.approx(np.mean([values[i] for i in best]), abs=1e-12)


def test_ties_count_equally_whatever_their_order():
    rewards = np.array([1.0, 0.0, 1.0, 1.0])
    values = np.array([4.0, 100.0, 1.0, 1.0])
    expected = np.mean(
        [
            np.mean([values[i] for i in s if rewards[i] == max(rewards[list(s)])])
            for s in itertools.combinations(range(4), 2)
        ]
    )
    for order in itertools.permutations(range(4)):
        order = list(order)
        assert bon.expected_best_of_n(rewards[order], 2, values[order]) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_the_binary_case():
    assert bon.expected_best_of_n(np.array([0, 1, 0, 1, 0]), 3) == pytest.approx(0.9, abs=1e-12)


def test_n_outside_the_pool_is_refused():
    for n in (0, 4):
        with pytest.raises(ValueError, match="pool size 3"):
            bon.expected_best_of_n(np.zeros(3), n)


@pytest.mark.parametrize("n, maximum", [(2, 0.5642), (4, 1.0294), (8, 1.4237), (16, 1.7661)])
def test_expected_maximum_of_normals(n, maximum):
    estimates = [bon.expected_best_of_n(rng.normal(size=64), n) for _ in range(400)]
    assert np.mean(estimates) == pytest.approx(maximum, abs=4 * np.std(estimates) / math.sqrt(400))


# ---------------------------------------------------------------------------------------------------------
# The exact policy
# ---------------------------------------------------------------------------------------------------------

BASE = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


def test_worked_policy():
    policy = bon.best_of_n_policy(BASE, np.arange(5), 4)
    np.testing.assert_allclose(policy, [0.0256, 0.2145, 0.2819, 0.2925, 0.1855], atol=5e-5)
    assert bon.kl_divergence(policy, BASE) == pytest.approx(0.5927, abs=5e-5)
    assert bon.best_of_n_kl_bound(4) == pytest.approx(0.6363, abs=5e-5)
    # Win rate against one draw of the base, ties half.
    win_rate = sum(policy[i] * (BASE[:i].sum() + BASE[i] / 2) for i in range(5))
    assert win_rate == pytest.approx(0.7857, abs=5e-5) and win_rate <= 4 / 5


def test_policy_agrees_with_sampling_and_shares_ties():
    rewards, n, draws = np.array([0.0, 1.0, 1.0, 2.0, 2.0]), 3, 200_000
    sampled = rng.choice(5, size=(draws, n), p=BASE)
    scores = rewards[sampled] + 1e-6 * rng.random((draws, n))  # break ties at random
    winners = sampled[np.arange(draws), scores.argmax(1)]
    policy = bon.best_of_n_policy(BASE, rewards, n)
    frequencies = np.bincount(winners, minlength=5) / draws
    assert (np.abs(frequencies - policy) < 4 * np.sqrt(policy * (1 - policy) / draws) + 1e-9).all()
    assert policy[1] / policy[2] == pytest.approx(BASE[1] / BASE[2])


def test_n_1_is_the_base_and_order_does_not_matter():
    rewards = rng.normal(size=5)
    np.testing.assert_allclose(bon.best_of_n_policy(BASE, rewards, 1), BASE, atol=1e-12)
    order = rng.permutation(5)
    np.testing.assert_allclose(
        bon.best_of_n_policy(BASE[order], rewards[order], 4), bon.best_of_n_policy(BASE, rewards, 4)[order], atol=1e-12
    )


def test_kl_stays_below_the_bound_and_reaches_it_without_ties():
    for n in (2, 4, 16):
        coarse = bon.best_of_n_policy(BASE, np.arange(5), n)
        fine_base = np.full(20_000, 1 / 20_000)
        fine = bon.best_of_n_policy(fine_base, np.arange(20_000), n)
        bound = bon.best_of_n_kl_bound(n)
        assert bon.kl_divergence(coarse, BASE) < bound
        assert bon.kl_divergence(fine, fine_base) == pytest.approx(bound, abs=2e-3)


def test_best_of_n_does_not_beat_the_optimum_at_its_kl():
    from rlhf_objectives import kl_regularized_optimum

    rewards = rng.normal(size=(3, 16))
    uniform = np.full(16, 1 / 16)
    for r in rewards:
        policy = bon.best_of_n_policy(uniform, r, 4)
        kl = bon.kl_divergence(policy, uniform)
        betas = np.geomspace(0.05, 50, 400)
        optima = [kl_regularized_optimum(uniform, r, beta) for beta in betas]
        within = [p @ r for p in optima if bon.kl_divergence(p, uniform) <= kl]
        assert max(within) > policy @ r - 0.02


# ---------------------------------------------------------------------------------------------------------
# Curves and cost
# ---------------------------------------------------------------------------------------------------------


def test_curve_starts_at_the_mean_and_ends_at_the_best():
    pool = {"reward": rng.normal(size=(3, 8)), "utility": rng.normal(size=(3, 8))}
    curve = bon.best_of_n_curve(pool["reward"], pool["utility"], range(1, 9))
    np.testing.assert_allclose(curve[:, 0], pool["utility"].mean(1), atol=1e-12)
    best = pool["utility"][np.arange(3), pool["reward"].argmax(1)]
    np.testing.assert_allclose(curve[:, -1], best, atol=1e-12)
    assert (np.diff(bon.best_of_n_curve(pool["reward"], pool["reward"], range(1, 9))) > 0).all()


def test_fitted_exponent():
    ns = [1, 2, 4, 8]
    assert bon.fitted_exponent(ns, 3 * np.array(ns) ** 1.5) == pytest.approx(1.5, abs=1e-9)


def test_comparison_takes_the_ends_of_the_curves():
    def arm(first, last):
        return {name: np.array([[first, 0.0, last]] * 5) for name in ("reward", "utility", "good")}

    found = bon.compare_methods({"sft": arm(1.0, 3.0), "dpo": arm(2.0, 4.0)})
    assert [found["methods"][m]["utility"]["mean"] for m in ("sft", "best_of_n", "dpo", "dpo_best_of_n")] == [
        1,
        3,
        2,
        4,
    ]
    assert found["share_of_dpo_gain"]["mean"] == pytest.approx(2.0)
    assert found["better_single_method"] == "best_of_n"
    assert found["both_minus_better_single"]["mean"] == pytest.approx(1.0)
