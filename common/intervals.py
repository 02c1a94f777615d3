"""Measured quantities: {mean, ci95, count} from values, over seeds, and in words.

`summary` makes a quantity from independent cases, `over_seeds` makes one of several runs.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Z95 = 1.96  # a normal 95 % interval reaches so many standard errors to each side
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)

# --- From values ---


def bootstrap_ci(
    values: Sequence, statistic=np.mean, resamples: int = 2000, seed: int = 0
) -> tuple:
    """95 % percentile interval of statistic(values, axis=0), resampling the first axis.

    `values` has shape (N,) or (N, ...); then the statistic returns one number per resample.
    """
    values, rng, draws = np.asarray(values, dtype=float), np.random.default_rng(seed), []
    at_once = max(1, 1_000_000 // len(values))  # resamples whose rows fit in memory together
    for done in range(0, resamples, at_once):
        picks = rng.integers(len(values), size=(min(at_once, resamples - done), len(values)))
        if statistic is np.mean and values.ndim == 1:  # the most frequent case, ten times as fast
            draws.extend(values[picks].mean(axis=1))
        else:
            draws.extend(statistic(values[rows], axis=0) for rows in picks)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def wilson_ci(share: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of a share of `count` cases: honest for few of them (Wilson 1927)."""
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    spread = share * (1 - share) / count + Z95**2 / (4 * count**2)
    half = Z95 * math.sqrt(spread) / (1 + Z95**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def student_t(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, to 0.005."""
    if freedom <= len(STUDENT_T):
        return STUDENT_T[freedom - 1]
    return Z95 + 2.5 / freedom


def seed_half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % t interval of the mean over two seeds or more."""
    count = len(values)
    return float(student_t(count - 1) * np.std(values, ddof=1) / np.sqrt(count))


def summary(values: Sequence, statistic: Callable = np.mean, resamples: int = 2000) -> dict:
    """{mean, ci95, count} of independent cases, values (N,) or (N, ...), resampled over the first.

    Shares of fewer than 20 cases get a Wilson interval; fewer than 5 cases get none (ci95: None).
    """
    values = np.asarray(values, dtype=float)
    mean, count = float(statistic(values, axis=0)), len(values)
    is_share = statistic is np.mean and np.isin(values, (0, 0.5, 1)).all()  # half: a tie
    if count < 5:
        ci95 = None
    elif count < 20 and is_share:
        ci95 = wilson_ci(mean, count)
    else:
        ci95 = bootstrap_ci(values, statistic, resamples)
    return {"mean": mean, "ci95": ci95, "count": count}


def mean_of(quantities: Sequence[dict]) -> dict:
    """The mean of quantities that were measured on the same cases: their errors go together."""
    lows, highs = zip(*(quantity["ci95"] for quantity in quantities), strict=True)
    return {
        "mean": float(np.mean([quantity["mean"] for quantity in quantities])),
        "ci95": (float(np.mean(lows)), float(np.mean(highs))),
        "count": min(quantity["count"] for quantity in quantities),
    }


# --- Over seeds ---


def t_interval(values: Sequence[float]) -> dict:
    """{mean, ci95, by_seed} of one number a seed: the 95 % t interval of the mean.

    Each seed draws its own pairs, training and test prompts, so its number is an independent draw
    and the spread over seeds holds all three. It is for this world's test prompts. One seed has no
    interval (ci95 None).
    """
    values = [float(value) for value in values]
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"mean": mean, "ci95": None, "by_seed": values}
    half = seed_half_width(values)
    return {"mean": mean, "ci95": [mean - half, mean + half], "by_seed": values}


# --- In words ---


def interval(measured: dict, digits: int = 2, unit: str = "") -> str:
    """A quantity in words: 0.88 [0.85, 0.90]."""
    mean = f"{measured['mean']:.{digits}f}{unit}"
    if measured["ci95"] is None:
        return f"{mean} (too few cases for an interval)"
    low, high = measured["ci95"]
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(share: dict) -> str:
    """A share in words: 88 % [85, 90]."""
    ci95 = share["ci95"] and [100 * end for end in share["ci95"]]
    return interval({"mean": 100 * share["mean"], "ci95": ci95}, digits=0, unit=" %")


# --- Over seeds ---


def over_seeds(runs: Sequence):
    """The metrics of one run per seed as metrics of the same form, quantities averaged.

    The half-width of an interval is sqrt(t interval over seeds^2 + mean interval over cases^2), and
    `by_seed` are the means of the runs. What is equal in all runs stays as it is (steps, counts);
    other numbers are averaged, lists entry by entry; other texts and flags are the first run's.
    Of dictionaries the keys that all runs have are kept; what one run lacks (None) is None.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    if any(run is None for run in runs):
        return None
    if isinstance(first, dict):
        quantity = _measured_over_seeds(runs) if "ci95" in first else {}
        known = [key for key in first if all(key in run for run in runs)]
        others = [key for key in known if key not in quantity]
        return quantity | {key: over_seeds([run[key] for run in runs]) for key in others}
    if isinstance(first, list | tuple):
        return [over_seeds(entries) for entries in zip(*runs, strict=False)]
    is_number = isinstance(first, int | float) and not isinstance(first, bool)
    if is_number and any(run != first for run in runs):
        return float(np.mean(runs))
    return first


def _measured_over_seeds(runs: Sequence[dict]) -> dict:
    means = [run["mean"] for run in runs]
    mean, between = float(np.mean(means)), seed_half_width(means)
    known = [run for run in runs if run["ci95"]]
    below = np.mean([run["mean"] - run["ci95"][0] for run in known]) if known else 0
    above = np.mean([run["ci95"][1] - run["mean"] for run in known]) if known else 0
    ci95 = [mean - math.hypot(between, below), mean + math.hypot(between, above)]
    return {"mean": mean, "ci95": ci95, "by_seed": means}
