"""Intervals of cases and over seeds (common/intervals.py)."""

import json

import numpy as np
import pytest

from common import intervals
from common.intervals import around_the_best, half_width, summary, t_interval, wilson_ci


def test_seed_interval_is_students():
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.30 / 3**0.5, abs=1e-2)
    assert half_width([0.0, 1.0]) == pytest.approx(12.71 * 0.5, abs=1e-2)
    five = [0.1, 0.4, 0.2, 0.3, 0.5]  # deviation sqrt(0.025), t(4) = 2.776
    assert half_width(five) == pytest.approx(2.776 * 0.005**0.5, abs=1e-3)
    for freedom, t in ((14, 2.145), (15, 2.131), (20, 2.086), (30, 2.042), (100, 1.984)):
        values = np.arange(freedom + 1)
        error = np.std(values, ddof=1) / np.sqrt(freedom + 1)
        assert half_width(values) / error == pytest.approx(t, abs=0.006)
    rng = np.random.default_rng(5)
    runs = rng.normal(size=(4000, 3))
    covered = np.mean([abs(run.mean()) < half_width(run) for run in runs])
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
    assert summary([0, 1] * 10)["ci95"] == wilson_ci(0.5, 20)
    values = [3.0, 4.0, 5.0, 6.0, 9.0]
    half = 2.776 * np.std(values, ddof=1) / 5**0.5
    assert summary(values)["ci95"] == pytest.approx((5.4 - half, 5.4 + half), abs=1e-2)
    assert intervals.percent(summary([1, 0])) == "50 % (too few cases for an interval)"
    assert intervals.interval({"mean": 0.123, "ci95": (0.1, 0.2)}) == "0.12 [0.10, 0.20]"


# --- Over seeds ---


def test_the_interval_over_seeds_is_students():
    assert t_interval([2.0]) == {"mean": 2.0, "ci95": None, "by_seed": [2.0]}
    found = t_interval(np.float32([1.0, 2.0, 3.0]))
    half = half_width([1.0, 2.0, 3.0])
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


# --- Around the best ---


def test_what_is_lost_after_the_best_look_is_not_made_by_choosing_it():
    """Where nothing changes, the best of noisy looks is no peak; where something does, it is."""
    rng, level = np.random.default_rng(0), np.full((4000, 8), 2.0)
    chance = [around_the_best(level[:100] + rng.normal(size=(100, 8)))[1] for _ in range(60)]
    assert abs(np.mean(chance)) < 4 * np.std(chance) / np.sqrt(len(chance)) + 0.02
    level += np.array([0, 0.5, 1, 0.5, 0, -0.5, -1, -1.5])
    gained, lost = around_the_best(level + rng.normal(size=level.shape))
    assert gained == pytest.approx(1, abs=0.1) and lost == pytest.approx(2.5, abs=0.1)


def test_half_of_the_rows_is_measured_where_the_other_half_is_best():
    curve = [[0.0, 4, 1], [0, 1, 3], [0, 6, 1], [0, 1, 5]]  # even rows peak at 1, odd at 2
    gained, lost = around_the_best(np.array(curve))
    assert gained == np.mean([1, 1, 1, 1])  # even rows at 2, odd rows at 1
    assert lost == np.mean([0, 1 - 3, 0, 1 - 5])
    rising = np.arange(12.0) + np.zeros((6, 1))
    assert around_the_best(rising) == (11, 0) and around_the_best(-rising) == (0, 11)
