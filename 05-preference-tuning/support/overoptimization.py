"""The law of over-optimisation: gain = d (a - b d), with d the square root of the KL.

Gao, Schulman & Hilton 2022 (arXiv 2210.10760), for best-of-n. Here it has to forecast: fitted where
n is small, compared with what is measured where n is large.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from common.intervals import summary

INFINITY = float("inf")
NOISE = (3, 6)  # standard deviations of an error in the reward; that of gold utility is 1.5
DRAWS = 10  # of noise, to average over


def fit_overoptimization(d: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """(a, b) of gain = d (a - b d) by least squares; both (K,)."""
    (a, minus_b), *_ = np.linalg.lstsq(np.column_stack([d, d**2]), gain, rcond=None)
    return float(a), float(-minus_b)


def overoptimization_peak(a: float, b: float) -> tuple[float, float]:
    """(d, gain) at the top of d (a - b d): a / 2b and a^2 / 4b; (inf, inf) where it never bends."""
    return (a / (2 * b), a**2 / (4 * b)) if a > 0 and b > 0 else (INFINITY, INFINITY)


def forecast(gold: np.ndarray, d: np.ndarray, fitted: int, tolerance: float = 0.5) -> dict:
    """The law fitted to the first `fitted` points of gold (P, K), and how it does at the last one.

    `d` (K,) are distances. `error` is forecast minus measured gain, `margin` what its size leaves
    of the tolerance, in log-odds; both are fitted anew in every resample of the prompts.
    """

    def error(table: np.ndarray, axis: int = 0) -> float:
        gain = table.mean(axis) - table.mean(axis)[0]
        a, b = fit_overoptimization(d[:fitted], gain[:fitted])
        return d[-1] * (a - b * d[-1]) - gain[-1]

    def margin(table: np.ndarray, axis: int = 0) -> float:
        return tolerance - abs(error(table, axis))

    gain = (gold - gold[:, :1]).mean(0)
    a, b = fit_overoptimization(d[:fitted], gain[:fitted])
    return {
        "a": a,
        "b": b,
        "error": summary(gold, error, resamples=500),
        "margin": summary(gold, margin, resamples=500),
    }


def gains(curve: np.ndarray) -> list[dict]:
    """What a curve over n (P, K) gains over its first point."""
    return [summary(gain) for gain in (curve - curve[:, :1]).T]


def late_loss(curve: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """What a curve over n (P, K) loses from a quarter of the largest n to it: (P,)."""
    quarter = max(k for k, n in enumerate(ns) if 4 * n <= ns[-1])
    return curve[:, quarter] - curve[:, -1]


def noise_of_texts(texts: list[list[str]], sd: float, rng) -> np.ndarray:
    """Gaussian errors (P, M) of a reward, one for each distinct text of a prompt.

    A reward model errs alike whenever it reads a text. Where every sample had an error of its own,
    no text would ever be sampled twice.
    """
    errors = []
    for candidates in texts:
        distinct, index = np.unique(candidates, return_inverse=True)
        errors.append(rng.normal(0, sd, len(distinct))[index])
    return np.array(errors)


def study_noise(
    best_of_n_curve: Callable,
    texts: list[list[str]],
    gold: np.ndarray,
    ns: Sequence[int],
    seed: int,
) -> dict:
    """Gold utility (P, len(ns)) of the best of n by gold plus noise, which has no bias at all.

    `sd_3`, `sd_6`: one error per distinct text; `of_samples`: a new one per sample, of sd 3.
    """
    rng = np.random.default_rng(seed)

    def average(draw: Callable[[], np.ndarray]) -> np.ndarray:
        return np.mean([best_of_n_curve(gold + draw(), gold, ns) for _ in range(DRAWS)], axis=0)

    curves = {f"sd_{sd}": average(partial(noise_of_texts, texts, sd, rng)) for sd in NOISE}
    return {**curves, "of_samples": average(partial(rng.normal, 0, NOISE[0], gold.shape))}
