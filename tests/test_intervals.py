"""Intervals from values and over seeds (common/intervals.py)."""

import json

import numpy as np
import pytest

from common import intervals
from common.intervals import bootstrap_ci, over_seeds, seed_half_width, summary, wilson_ci


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


def quantity(mean: float, half: float | None, **others) -> dict:
    return {"mean": mean, "ci95": half and [mean - half, mean + half], **others}


def test_one_seed_is_as_it_is():
    run = {"a": quantity(1.0, 0.1), "b": [1, 2]}
    assert over_seeds([run]) is run


def test_quantities_over_seeds():
    merged = over_seeds([quantity(m, 0.3, count=50) for m in (1.0, 2.0, 3.0)])
    half = np.hypot(seed_half_width([1.0, 2.0, 3.0]), 0.3)
    assert merged["ci95"] == pytest.approx([2 - half, 2 + half])
    assert (merged["mean"], merged["by_seed"], merged["count"]) == (2.0, [1.0, 2.0, 3.0], 50)
    uneven = over_seeds([{"mean": 1.0, "ci95": [0.9, 1.4]}, {"mean": 1.0, "ci95": [0.7, 1.2]}])
    assert uneven["ci95"] == pytest.approx([0.8, 1.3])  # no spread: the mean interval over cases


def test_quantities_without_an_interval_get_one_over_seeds():
    merged = over_seeds([quantity(m, None) for m in (1.0, 2.0)])
    half = seed_half_width([1.0, 2.0])
    assert merged["ci95"] == pytest.approx([1.5 - half, 1.5 + half])
    mixed = over_seeds([quantity(1.0, None), quantity(2.0, 0.4)])
    half = np.hypot(half, 0.4)
    assert mixed["ci95"] == pytest.approx([1.5 - half, 1.5 + half])


def test_the_form_of_metrics_survives_over_seeds():
    def run(seed: int) -> dict:
        return {
            "pairs": 768,
            "words": 10 + seed,
            "prompts": ["a", "b"],
            "converged": True,
            "peak": None if seed else 3.0,
            "curve": [{"step": step, "kl": quantity(step + seed, 1)} for step in (0, 16)],
            "losses": (0.5 + seed, 0.25),
            **({} if seed else {"only the first": 1}),
        }

    merged = over_seeds([run(0), run(1)])
    steps = [look["step"] for look in merged["curve"]]
    assert steps == [0, 16] and all(isinstance(step, int) for step in (*steps, merged["pairs"]))
    assert merged["words"] == 10.5 and merged["losses"] == [1.0, 0.25]
    assert merged["prompts"] == ["a", "b"] and merged["converged"] is True
    assert merged["peak"] is None and "only the first" not in merged
    assert [look["kl"]["mean"] for look in merged["curve"]] == [0.5, 16.5]
    assert json.loads(json.dumps(merged)) == merged
