"""95 % intervals of the cases of one run (`summary`) or of one number a seed (`t_interval`)."""

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.96  # a normal 95 % interval reaches so many standard errors to each side
# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond, to 0.005: Z95 + 2.5 / df.
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % t interval of the mean of two independent values or more."""
    count, freedom = len(values), len(values) - 1
    student_t = STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else Z95 + 2.5 / freedom
    return float(student_t * np.std(values, ddof=1) / np.sqrt(count))


def t_interval(values: Sequence[float]) -> dict:
    """{mean, ci95, by_seed} of one number a seed: the 95 % t interval of the mean.

    Each seed draws its own pairs, training and test prompts, so its number is an independent draw
    and the spread over seeds holds all three. One seed has no interval (ci95 None).
    """
    values = [float(value) for value in values]
    mean, ci95 = float(np.mean(values)), None
    if len(values) > 1:
        half = half_width(values)
        ci95 = [mean - half, mean + half]
    return {"mean": mean, "ci95": ci95, "by_seed": values}


def wilson_ci(share: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of a share of `count` cases: honest for few of them (Wilson 1927)."""
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    spread = share * (1 - share) / count + Z95**2 / (4 * count**2)
    half = Z95 * math.sqrt(spread) / (1 + Z95**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def summary(values: Sequence[float]) -> dict:
    """{mean, ci95, count} of independent cases: a Wilson interval of a share, else one by t.

    Fewer than 5 cases get no interval (ci95 None).
    """
    values = np.asarray(values, dtype=float)
    mean, count = float(values.mean()), len(values)
    if count < 5:
        ci95 = None
    elif np.isin(values, (0, 0.5, 1)).all():  # a half: a tie
        ci95 = wilson_ci(mean, count)
    else:
        ci95 = (mean - half_width(values), mean + half_width(values))
    return {"mean": mean, "ci95": ci95, "count": count}


def around_the_best(values: np.ndarray) -> tuple[float, float]:
    """(gained from the first column to the best, lost from there to the last), means; (N, K).

    The best of many noisy columns is partly luck. So each half of the rows is measured at the
    column that is best for the other half.
    """
    gained, lost = np.empty(len(values)), np.empty(len(values))
    for half in (0, 1):
        best, other = values[half::2].mean(0).argmax(), slice(1 - half, None, 2)
        gained[other] = values[other, best] - values[other, 0]
        lost[other] = values[other, best] - values[other, -1]
    return float(gained.mean()), float(lost.mean())


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
