"""Intervals from values and over seeds (common/intervals.py)."""

import json

import numpy as np
import pytest

from common import intervals
from common.intervals import bootstrap_ci, seed_half_width, summary, t_interval, wilson_ci


def test_bootstrap_covers_the_truth_in_95_of_100_cases():
    rng, runs = np.random.default_rng(0), 400
    intervals = [bootstrap_ci(rng.exponential(size=60), resamples=300, seed=k) for k in range(runs)]
    covered = np.mean([low < 1 < high for low, high in intervals])
    # Percentile intervals of 60 skewed values: 93 %.
    assert abs(covered - 0.93) < 4 * np.sqrt(0.93 * 0.07 / runs)
    low, high = np.array(intervals).T
    assert np.mean(high < 1) < 0.1 and np.mean(low > 1) < 0.05


def test_bootstrap_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 3, size=2000)
    low, high = bootstrap_ci(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )
    assert all(isinstance(end, float) for end in (low, high))


def test_bootstrap_is_deterministic():
    values = np.random.default_rng(2).normal(size=50)
    np.random.seed(3)
    assert bootstrap_ci(values) == bootstrap_ci(list(values)) != bootstrap_ci(values, seed=1)
    assert bootstrap_ci([2.5] * 7) == (2.5, 2.5)
    assert bootstrap_ci(np.array([True, False] * 50))[0] > 0.35


def test_bootstrap_resamples_rows():
    rng = np.random.default_rng(4)
    table = np.column_stack([rng.normal(10, 1, 300), rng.normal(5, 1, 300)])
    table[:, 1] += table[:, 0]  # columns belong together: their difference has mean 5, deviation 1

    def difference(rows, axis):
        assert axis == 0 and rows.shape == (300, 2)
        return (rows[:, 1] - rows[:, 0]).mean()

    low, high = bootstrap_ci(table, difference)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(300), rel=0.15) and low < 5 < high
    low, high = bootstrap_ci(table[:, 0], np.median)
    assert low < np.median(table[:, 0]) < high


def test_seed_interval_is_students():
    assert seed_half_width([1.0, 2.0, 3.0]) == pytest.approx(4.30 / 3**0.5, abs=1e-2)
    assert seed_half_width([0.0, 1.0]) == pytest.approx(12.71 * 0.5, abs=1e-2)
    five = [0.1, 0.4, 0.2, 0.3, 0.5]  # deviation sqrt(0.025), t(4) = 2.776
    assert seed_half_width(five) == pytest.approx(2.776 * 0.005**0.5, abs=1e-3)
    for freedom, t in ((14, 2.145), (15, 2.131), (20, 2.086), (30, 2.042), (100, 1.984)):
        assert intervals.student_t(freedom) == pytest.approx(t, abs=0.006)
    rng = np.random.default_rng(5)
    runs = rng.normal(size=(4000, 3))
    covered = np.mean([abs(run.mean()) < seed_half_width(run) for run in runs])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_wilson_interval():
    assert wilson_ci(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_ci(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_ci(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_ci(0.0, 7)[0] >= 0 and wilson_ci(1.0, 7)[1] <= 1


def test_summary_of_few_cases_is_honest():
    assert summary([1, 0, 1, 1]) == {"mean": 0.75, "ci95": None, "count": 4}
    for count in (5, 19):
        hits = [True] * count
        assert summary(hits) == {"mean": 1.0, "ci95": wilson_ci(1.0, count), "count": count}
    assert summary([0.5, 1, 0, 1, 1])["ci95"] == wilson_ci(0.7, 5)  # ties count half
    for values in ([0.2, 0.4, 0.9, 1.0, 0.0], [0, 1] * 10, [3.0, 4.0, 5.0, 6.0, 9.0]):
        ci95 = bootstrap_ci(values)
        assert summary(values) == {"mean": np.mean(values), "ci95": ci95, "count": len(values)}
    assert intervals.percent(summary([1, 0])) == "50 % (too few cases for an interval)"
    assert intervals.interval({"mean": 0.123, "ci95": (0.1, 0.2)}) == "0.12 [0.10, 0.20]"


# --- Over seeds ---


def test_the_interval_over_seeds_is_students():
    assert t_interval([2.0]) == {"mean": 2.0, "ci95": None, "by_seed": [2.0]}
    found = t_interval(np.float32([1.0, 2.0, 3.0]))
    half = seed_half_width([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0 and found["ci95"] == [2 - half, 2 + half]
    assert json.loads(json.dumps(found)) == found


def coverage(fresh_prompts: bool, rng, trials: int = 2000) -> float:
    """How often the interval of eight seeds holds what is true of all prompts of a world."""
    seeds, asked, world = 8, 128, 420
    covered = []
    for _ in range(trials):
        of_prompts = rng.normal(0, 1.0, world)  # what a training changes at each prompt
        of_prompts -= of_prompts.mean()  # the truth is 0
        of_seeds = rng.normal(0, 0.06, seeds)  # what a training is worth, by its pairs and start
        picked = rng.permutation(world)[:asked]
        means = []
        for of_seed in of_seeds:
            picked = rng.permutation(world)[:asked] if fresh_prompts else picked
            noise = rng.normal(0, 0.5, asked)  # of the sampled answers
            means.append(of_seed + (of_prompts[picked] + noise).mean())
        low, high = t_interval(means)["ci95"]
        covered.append(low < 0 < high)
    return float(np.mean(covered))


def test_fresh_prompts_for_each_seed_make_the_interval_honest():
    """With the same prompts in all seeds, the spread over seeds lacks that of the prompts."""
    rng = np.random.default_rng(6)
    assert abs(coverage(True, rng) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)
    assert coverage(False, rng) < 0.9
