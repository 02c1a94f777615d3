"""Gold utility against KL on a pool of candidates: best-of-n, DPO with best-of-n, and the limit.

The pool is the reference: its M candidates for a prompt count 1/M each, and a policy reweights
them exactly. So KL and gold are those of the pool, and no policy has more gold than the optimum pi*
at its KL. `sample_share` is the effective sample size over M: from 0.1 on the pool is large enough.
"""

from collections.abc import Callable, Sequence

from support.evaluation import score_texts

import numpy as np

from common.intervals import summary

FEW = 4  # where a curve over n is cut in two
NS = (1, 2, 4, 8, 16, 32, 64)
GOLD = {"gold": "utility", "good": "good"}  # names in a point: in a pool
BETAS = (8, 4, 2, 1.5, 1, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # of the optimum pi*


def sizes_for(pool: dict) -> list[int]:
    """The n that a pool is large enough for: it holds twice as many candidates."""
    return [n for n in NS if 2 * n <= pool["reward"].shape[1]]


def rescored(pool: dict, prompts: list[str], judge: tuple) -> dict:
    """The same candidates with the rewards of another judge, a (reward model, tokenizer)."""
    return {**pool, "reward": score_texts(judge, prompts, pool["texts"])}


def reweighted(pool: dict, policy: Callable, scores: np.ndarray, setting: float) -> dict:
    """KL from the SFT checkpoint (nats), reward and gold of policy(uniform, scores, setting).

    scores are (P, M). For a pool of another policy than the SFT checkpoint, `log_ratio` (P, M)
    leads from it to the checkpoint.
    """
    size = scores.shape[1]
    uniform = np.full(size, 1 / size)
    probs = np.array([policy(uniform, row, setting) for row in scores])  # (P, M)
    log_weights = np.log(np.where(probs > 0, probs * size, 1))
    values = {"kl": log_weights + pool["log_ratio"], "reward": pool["reward"]}
    values |= {name: pool[key] for name, key in GOLD.items() if key in pool}
    point = {name: summary((probs * value).sum(1), average) for name, value in values.items()}
    return point | {"sample_share": float(np.mean(1 / (size * (probs**2).sum(1))))}


def average(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean of quantities that are no shares, though they may all be 0: KL at n = 1."""
    return values.mean(axis)


def frontier_points(
    pools: dict[str, dict],
    dpo_pool: dict,
    annotations: dict[str, int | None],
    best_of_n: Callable,
    optimum: Callable,
) -> list[dict]:
    """Points of KL and gold: best-of-n by each judge, DPO with best-of-n, and pi* of gold.

    `pools` are of the SFT checkpoint, with the rewards of each judge: "human", "length" (the biased
    one), ...; `annotations` are their pairs and those of "dpo". `best_of_n` and `optimum` are
    policies as `reweighted` takes them.
    """
    points = []
    for judge, pool in pools.items():
        shared = {"method": "best of n", "series": judge, "biased": judge == "length"}
        for n in sizes_for(pool):
            point = shared | {"label": f"n = {n}", "n": n, "annotations": annotations[judge]}
            points.append(point | reweighted(pool, best_of_n, pool["reward"], n))
    for n in sizes_for(dpo_pool):
        pairs = annotations["dpo"] or 0
        if n > 1:  # then a reward model chooses
            pairs += annotations["human"] or 0
        shared = {"method": "DPO + best of n", "series": "human", "biased": False}
        point = shared | {"label": f"n = {n}", "n": n, "annotations": pairs}
        points.append(point | reweighted(dpo_pool, best_of_n, dpo_pool["reward"], n))
    pool = pools["human"]
    if "utility" not in pool:
        return points
    for beta in BETAS:
        shared = {"method": "optimum", "series": "gold", "biased": False, "annotations": 0}
        point = shared | {"label": f"beta = {beta:g}", "beta": beta}
        points.append(point | reweighted(pool, optimum, pool["utility"], beta))
    return points


def excess_over_optimum(points: Sequence[dict]) -> float:
    """The most gold that best-of-n has above pi* at its KL, in log-odds: by identity none.

    Between the measured points of pi* the line runs below it, and before the first one from n = 1.
    """
    best = [point for point in points if point["method"] == "best of n"]
    limit = [point for point in points if point["method"] == "optimum"] + best[:1]
    kl, gold = np.array(sorted(means(point) for point in limit)).T
    excesses = []
    for point in best:
        its_kl, its_gold = means(point)
        excesses.append(its_gold - np.interp(its_kl, kl, gold))
    return float(max(excesses))


def means(point: dict) -> tuple[float, float]:
    """Mean KL in nats and mean gold utility in log-odds of a point."""
    return point["kl"]["mean"], point["gold"]["mean"]


# --- SFT, best-of-n, DPO, and both, on the same prompts ---

# Each method: the curve over n that it lies on, and the end of it: 0 at n = 1, -1 at the largest n.
ENDS = {
    "sft": ("sft", 0),
    "as_many_pairs": ("as_many_pairs", -1),
    "best_of_n": ("sft", -1),
    "dpo": ("dpo", 0),
    "dpo_best_of_n": ("dpo", -1),
}


def compare_methods(curves: dict[str, dict]) -> dict:
    """Every method's gold, good answers and reward, and the differences of the claims.

    `curves[arm][name]` (P, n): of the SFT checkpoint by both reward models, of DPO by the main one.
    """
    methods, gold = {}, {}
    for method, (arm, end) in ENDS.items():
        methods[method] = {name: summary(values[:, end]) for name, values in curves[arm].items()}
        gold[method] = curves[arm]["utility"][:, end]
    dpo_gain, shares = gold["dpo"] - gold["sft"], {}
    for method in ("as_many_pairs", "best_of_n"):
        shares[method] = summary(np.column_stack([gold[method] - gold["sft"], dpo_gain]), ratio)
    better_single = max(("best_of_n", "dpo"), key=lambda method: gold[method].mean())
    curve = curves["sft"]["utility"]
    few = curve[:, min(FEW, curve.shape[1]) - 1]
    first, second = few - curve[:, 0], curve[:, -1] - few
    steps = {"first_step": summary(first)}
    if curve.shape[1] > FEW:  # else the first step would be the larger one by construction
        steps["second_step"] = summary(second)
        steps["first_step_minus_second"] = summary(first - second)
    return {
        "methods": methods,
        **steps,
        "share_of_dpo_gain": shares,
        "best_of_n_minus_dpo": summary(gold["best_of_n"] - gold["dpo"]),
        "both_minus_better_single": summary(gold["dpo_best_of_n"] - gold[better_single]),
    }


def compare_annotators(ns: Sequence[int], curves: dict[str, dict]) -> dict:
    """Best-of-n as far as the pool goes, by two judges: "human", "length"; curves (P, ns)."""
    human, length = (curves[judge]["utility"] for judge in ("human", "length"))
    few = ns.index(max(n for n in ns if n <= FEW))
    by_judge = {judge: over_prompts(values) for judge, values in curves.items()}
    return {
        "annotators": {"n": list(ns), **by_judge},
        "lost_to_length": summary(human[:, -1] - length[:, -1]),
        "lost_after_few": summary(length[:, few] - length[:, -1]),
    }


def over_prompts(curves: dict[str, np.ndarray]) -> dict:
    """Curves (P, n) as lists of quantities, one for each n."""
    quantities = {}
    for name, curve in curves.items():
        quantities[name] = [summary(at_n, resamples=500) for at_n in curve.T]
    return quantities


def ratio(table: np.ndarray, axis: int = 0) -> float:
    """Sum of the first column over that of the second; table (N, 2)."""
    first, second = table.sum(axis)
    return float(first / second)


# --- All of it ---


def read_pools(
    pools: dict[str, dict],
    dpo_pool: dict,
    annotations: dict[str, int | None],
    n: int,
    curve: Callable,
    best_of_n: Callable,
    optimum: Callable,
) -> dict:
    """Curves over n, points of KL and gold, and what the claims compare, by the section's formulas.

    `pools` are of the SFT checkpoint with the rewards of each judge; where gold is known there are
    "human", "as_many_pairs" and "length". `curve(rewards, values, ns)` is (P, len(ns)).
    """

    def curves_of(pool: dict, ns: Sequence[int]) -> dict[str, np.ndarray]:
        names = [name for name in ("reward", "words", "ended", "utility", "good") if name in pool]
        return {name: curve(pool["reward"], pool[name], ns) for name in names}

    arms = {"sft": pools["human"], "dpo": dpo_pool}
    if "as_many_pairs" in pools:
        arms["as_many_pairs"] = pools["as_many_pairs"]
    curves = {arm: curves_of(pool, range(1, n + 1)) for arm, pool in arms.items()}
    points = frontier_points(pools, dpo_pool, annotations, best_of_n, optimum)
    metrics = {
        "curves": {arm: over_prompts(values) for arm, values in curves.items()},
        "frontier": points,
    }
    if "length" in pools:
        ns = sizes_for(pools["human"])
        annotators = {name: curves_of(pools[name], ns) for name in ("human", "length")}
        metrics |= compare_methods(curves) | compare_annotators(ns, annotators)
        metrics["excess_over_optimum"] = excess_over_optimum(points)
    return metrics
