"""Gold utility against KL on a pool of candidates: best-of-n, DPO with best-of-n, and the limit.

The pool is the reference: its M candidates for a prompt count 1/M each, and a policy reweights
them exactly. So KL and gold are those of the pool, and no policy has more gold than the optimum pi*
at its KL. `sample_share` is the effective sample size over M: from 0.1 on the pool is large enough.
"""

from collections.abc import Callable, Sequence

import numpy as np

from common.reporting import summary

NS = (1, 2, 4, 8, 16, 32, 64)
BETAS = (8, 4, 2, 1.5, 1, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # of the optimum pi*


def sizes_for(pool: dict) -> list[int]:
    """The n that a pool is large enough for: it holds twice as many candidates."""
    return [n for n in NS if 2 * n <= pool["reward"].shape[1]]


def reweighted(pool: dict, scores: np.ndarray, policy: Callable, setting: float) -> dict:
    """KL from the SFT checkpoint (nats), gold and good answers of policy(uniform, scores, setting).

    scores are (P, M). For a pool of another policy than the SFT checkpoint, `log_ratio` (P, M)
    leads from it to the checkpoint.
    """
    size = scores.shape[1]
    uniform = np.full(size, 1 / size)
    probs = np.array([policy(uniform, row, setting) for row in scores])  # (P, M)
    log_weights = np.log(np.where(probs > 0, probs * size, 1))
    return {
        "kl": summary((probs * (log_weights + pool["log_ratio"])).sum(1)),
        "gold": summary((probs * pool["utility"]).sum(1)),
        "good": summary((probs * pool["good"]).sum(1)),
        "sample_share": float(np.mean(1 / (size * (probs**2).sum(1)))),
    }


def frontier_points(
    pools: dict[str, dict],
    rewards: dict[str, np.ndarray],
    annotations: dict[str, int | None],
    best_of_n: Callable,
    optimum: Callable,
) -> list[dict]:
    """Points of KL and gold: best-of-n by each judge, DPO with best-of-n, and pi* of gold.

    `pools` are "sft" and "dpo"; `rewards` (P, M) of the SFT pool and `annotations`, the number of
    pairs, are given by judge: "human", "length" (the biased one), ...; `annotations["dpo"]` are
    those of DPO. `best_of_n` and `optimum` are policies as `reweighted` takes them.
    """
    sft, dpo, points = pools["sft"], pools["dpo"], []
    for judge, scores in rewards.items():
        common = {"method": "best of n", "judge": judge, "biased": judge == "length"}
        for n in sizes_for(sft):
            point = common | {"label": f"n = {n}", "n": n, "annotations": annotations[judge]}
            points.append(point | reweighted(sft, scores, best_of_n, n))
    for n in sizes_for(dpo):
        pairs = annotations["dpo"]
        if n > 1 and pairs is not None:
            pairs += annotations["human"] or 0
        point = {"method": "DPO + best of n", "judge": "human", "biased": False}
        point |= {"label": f"n = {n}", "n": n, "annotations": pairs}
        points.append(point | reweighted(dpo, dpo["reward"], best_of_n, n))
    for beta in BETAS:
        point = {"method": "optimum", "biased": False, "annotations": 0}
        point |= {"label": f"beta = {beta:g}", "beta": beta}
        points.append(point | reweighted(sft, sft["utility"], optimum, beta))
    return points


def excess_over_optimum(points: Sequence[dict]) -> float:
    """The most gold that best-of-n has above pi* at its KL, in log-odds: by identity none.

    Between the measured points of pi* the line runs below it, and before the first one from n = 1.
    """
    best = [point for point in points if point["method"] == "best of n"]
    limit = [point for point in points if point["method"] == "optimum"] + best[:1]
    rows = sorted((point["kl"]["mean"], point["gold"]["mean"]) for point in limit)
    kl, gold = np.array(rows).T
    above = [p["gold"]["mean"] - np.interp(p["kl"]["mean"], kl, gold) for p in best]
    return float(max(above))
