"""Win rates as a judge reports them, and as it would between answers of equal length."""

import numpy as np

from common.intervals import summary


def length_controlled_win_rate(preferences: np.ndarray, length_differences: np.ndarray) -> float:
    """Win rate that a judge would report between answers of equal length.

    A logistic regression of the judge's preferences for ours (N,) in [0, 1] on tanh of the
    standardised differences in length (N,), ours minus theirs, read off at difference 0. Dubois et
    al. 2024 (arXiv 2404.04475), without their term for the difficulty of the prompt. Newton's
    method; a ridge of 1e-3 keeps a length-only judge finite.
    """
    x = np.tanh(length_differences / max(np.std(length_differences), 1e-12))
    design, weights = np.column_stack([np.ones_like(x), x]), np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - preferences) + 1e-3 * weights
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step / max(1, np.abs(step).max())
    return float(1 / (1 + np.exp(-weights[0])))


def judged_win_rates(ours: dict, theirs: dict) -> dict:
    """Win rates by `reward`, raw and length-controlled, and by gold `utility`; ties count half.

    Both hold arrays (P, n) of reward, words and utility; as many samples of each are paired.
    """
    k = min(ours["reward"].shape[1], theirs["reward"].shape[1])
    names = ("reward", "words", "utility")
    reward, words, gold = (ours[name][:, :k] - theirs[name][:, :k] for name in names)
    table = np.stack([(1 + np.sign(reward)) / 2, words], axis=-1)  # (P, k, 2)

    def controlled(rows: np.ndarray, axis: int = 0) -> float:
        return length_controlled_win_rate(*rows.reshape(-1, 2).T)

    def inflation(rows: np.ndarray, axis: int = 0) -> float:
        return rows[..., 0].mean() - controlled(rows)

    return {
        "raw": summary(table[..., 0].mean(1)),
        "gold": summary(((1 + np.sign(gold)) / 2).mean(1)),
        "length_controlled": summary(table, controlled, resamples=300),
        "raw_minus_controlled": summary(table, inflation, resamples=300),
    }
