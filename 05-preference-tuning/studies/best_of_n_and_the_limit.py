"""Best-of-n and the limit: what does choosing among n answers gain, and how much could be had?

    python 05-preference-tuning/studies/best_of_n_and_the_limit.py  # one seed, 80 s
    python 05-preference-tuning/studies/best_of_n_and_the_limit.py --seeds 0 1 2 3 4 5 6 7 --jobs 2
    python 05-preference-tuning/studies/best_of_n_and_the_limit.py --claims

The SFT model writes 128 answers to each of 128 held-out questions. Three reward models choose among
them: one of 6,400 pairs, one of as many pairs as DPO has (768), and one of 6,400 pairs from
annotators who prefer long answers. Beside them DPO, and DPO with best-of-n on top. Since every
candidate's probability and gold utility (3 if right, 1 if on topic, -0.15 for a word of filler) are
known, so is pi*: the policy that gains most gold utility at each KL from the SFT model.
"""

from collections.abc import Sequence

import lessons  # noqa: F401

from common.claims import Claim, run_study, study_folder

# isort: split
import numpy as np
from best_of_n import (
    Pool,
    best_of_n_curve,
    best_of_n_policy,
    make_pool,
    measure_cost,
    powers_of_two,
)
from dpo_trainer import dpo_policy
from reward_model import reward_model_in
from rlhf_objectives import kl_regularized_optimum

from common import answers, figures, preferences, scoring
from common.intervals import summary
from common.prompts import encode_response
from common.training import load_sft_model

MOST_N, CUT_AT = 16, 4  # the largest n of the claims, and the n at which its curve is cut in two
SIZES_OF_N = (1, 2, 4, 8, 16, 32, 64)
BETAS = (8, 4, 2, 1.5, 1, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # of pi*
POOL_TRUSTED = 0.1  # share of the pool that must still count for pi* to be believed
WHOLE_POOLS = 6  # prompts whose candidates are all kept, for the page
# Each way to answer: whose curve over n it lies on, and the end of it.
ENDS = {
    "SFT": ("human", 0),
    "best of n, 768 pairs": ("as_many_pairs", -1),
    "best of n, 6,400 pairs": ("human", -1),
    "DPO, 768 pairs": ("dpo", 0),
    "DPO, best of n": ("dpo", -1),
}

CLAIMS = (
    Claim(
        "best_of_n_cost_is_linear",
        "the cost of best-of-n is roughly linear in n, not counting batching",
        "FLOPs grow as n to this power, each candidate sampled and scored on its own",
        of=lambda m: m["cost_exponent"],
        true=(0.9, 1.1),
        smallest=0.02,
    ),
    Claim(
        "one_to_four_beats_four_to_sixteen",
        "n from 1 to 4 gains more than from 4 to 16",
        "gold utility gained from n = 1 to 4, minus that from 4 to 16, log-odds",
        of=lambda m: m["first_step_minus_second"],
        smallest=0.05,
    ),
    Claim(
        "best_of_n_captures_dpo_gain",
        "best-of-n captures a large part of DPO's gain without training",
        "share of DPO's gain in gold utility, by a reward model trained on as many pairs as DPO",
        of=lambda m: m["share_of_dpo_gain"],
        true=(0.5, float("inf")),
        smallest=0.05,
    ),
    Claim(
        "dpo_plus_best_of_n_is_best",
        "DPO with best-of-n on top is better than either alone",
        "gold utility of both together, minus that of the better one alone, log-odds",
        of=lambda m: m["both_minus_better_single"],
        smallest=0.05,
    ),
    Claim(
        "length_bias_slows_best_of_n",
        "a reward model of annotators who prefer length makes best-of-n worse",
        "gold utility at the largest n, unbiased minus length-preferring annotators, log-odds",
        of=lambda m: m["lost_to_length"],
        smallest=0.1,
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """The pools of one seed, and what the claims, the plane and the page need of them."""
    count, size = (8, 2 * MOST_N) if smoke else (128, 128)
    prompts = [question.prompt for question in preferences.questions("test")[:count]]
    model, tokenizer = load_sft_model()
    kept = study_folder(seed, smoke)
    labels, judges = {}, {}
    for judge, pairs in pairs_of_judges(seed, smoke).items():
        name = {"human": "6400", "as_many_pairs": "768", "length": "length"}[judge]
        folder = kept / f"reward_model_{name}"
        judges[judge] = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)
        labels[judge] = len(pairs)

    human = judges["human"]
    pool = make_pool(model, tokenizer, human, prompts, size, seed)
    pools = {name: rescored(pool, prompts, judge) for name, judge in judges.items()}
    cost = measure_cost(model, tokenizer, human, prompts[: 2 if smoke else 8], MOST_N)
    whole = [whole_pool(k, prompts[k], pools, model, tokenizer) for k in range(WHOLE_POOLS)]

    pairs = preferences.make_pairs(64 if smoke else 768, seed=seed)
    policy = dpo_policy(kept / "dpo", model, tokenizer, pairs, seed=seed)
    dpo_pool = make_pool(policy, tokenizer, human, prompts, 2 * MOST_N, seed)

    points = plane_points(pools, dpo_pool, {**labels, "dpo": len(pairs)})
    return {
        "cost_exponent": summary(cost["alone"], growth),
        **compare_ways({**pools, "dpo": dpo_pool}),
        **compare_annotators(pools),
        "excess_over_optimum": excess_over_optimum(points),
        "points": points,
        "answers": {**answers_of_pools(prompts, points, pools, dpo_pool), "pools": whole},
    }


def pairs_of_judges(seed: int, smoke: bool) -> dict[str, list[dict]]:
    """The labelled pairs that each reward model learns from."""
    many, as_many = (64, 64) if smoke else (6400, 768)
    return {
        "human": preferences.make_pairs(many, seed=seed),
        "as_many_pairs": preferences.make_pairs(as_many, seed=seed),
        "length": preferences.make_pairs(many, annotator="length", seed=seed),
    }


def rescored(pool: Pool, prompts: list[str], judge: tuple) -> Pool:
    """The same candidates with the rewards of another judge, a (reward model, tokenizer)."""
    return pool._replace(rewards=scoring.score_texts(judge, prompts, pool.answers.texts))


def growth(costs: np.ndarray, axis: int = 0) -> float:
    """The power of n with which costs (P, ns) grow: slope of log cost against log n."""
    ns = powers_of_two(MOST_N)
    return float(np.polyfit(np.log(ns), np.log(costs.sum(axis)), 1)[0])


# --- What the claims compare ---


def compare_ways(pools: dict[str, Pool]) -> dict:
    """Gold utility and good answers of each way to answer, and their differences.

    `pools` are the SFT model's by two reward models, "human" and "as_many_pairs", and "dpo".
    """
    curves = {}
    for name in ("human", "as_many_pairs", "dpo"):
        gold = best_of_n_curve(pools[name].rewards, pools[name].answers.gold, range(1, MOST_N + 1))
        good = best_of_n_curve(pools[name].rewards, pools[name].answers.good, range(1, MOST_N + 1))
        curves[name] = {"gold": gold, "good": good}
    ways, gold = {}, {}
    for way, (name, end) in ENDS.items():
        ways[way] = {what: summary(curve[:, end]) for what, curve in curves[name].items()}
        gold[way] = curves[name]["gold"][:, end]
    sft, fair, best, dpo, both = gold.values()
    better = max(best, dpo, key=np.mean)
    curve = curves["human"]["gold"]
    first, second = curve[:, CUT_AT - 1] - curve[:, 0], curve[:, -1] - curve[:, CUT_AT - 1]
    return {
        "ways": ways,
        "first_step": summary(first),
        "second_step": summary(second),
        "first_step_minus_second": summary(first - second),
        "share_of_dpo_gain": summary(np.column_stack([fair - sft, dpo - sft]), gains_ratio),
        "both_minus_better_single": summary(both - better),
    }


def gains_ratio(table: np.ndarray, axis: int = 0) -> float:
    """Sum of the first column over that of the second; table (P, 2)."""
    first, second = table.sum(axis)
    return float(first / second)


def compare_annotators(pools: dict[str, Pool]) -> dict:
    """Gold utility and reward by n, as the unbiased and the length-preferring annotators choose."""
    ns = sizes_for(pools["human"])
    gold, by_judge = {}, {}
    for judge in ("human", "length"):
        pool = pools[judge]
        gold[judge] = best_of_n_curve(pool.rewards, pool.answers.gold, ns)
        reward = best_of_n_curve(pool.rewards, pool.rewards, ns)
        by_judge[judge] = {"gold": gold[judge].mean(0).tolist(), "reward": reward.mean(0).tolist()}
    lost = summary(gold["human"][:, -1] - gold["length"][:, -1])
    return {"annotators": {"n": ns, **by_judge}, "lost_to_length": lost}


# --- The plane: gold utility against KL ---


def sizes_for(pool: Pool) -> list[int]:
    """The n that a pool is large enough for: it holds twice as many candidates."""
    return [n for n in SIZES_OF_N if 2 * n <= pool.rewards.shape[1]]


def plane_points(pools: dict[str, Pool], dpo_pool: Pool, labels: dict[str, int]) -> list[dict]:
    """Points of KL and gold: best-of-n by each judge, DPO with best-of-n, and pi* of gold.

    `labels` are how many pairs each judge, and "dpo", learned from.
    """
    points = []
    for judge, pool in pools.items():
        shared = {"method": "best of n", "series": judge, "biased": judge == "length"}
        for n in sizes_for(pool):
            point = shared | {"label": f"n = {n}", "n": n, "annotations": labels[judge]}
            points.append(point | reweighted(pool, best_probs(pool, n)))
    for n in sizes_for(dpo_pool):
        pairs = labels["dpo"] + (labels["human"] if n > 1 else 0)  # then a reward model chooses
        shared = {"method": "DPO + best of n", "series": "human", "biased": False}
        point = shared | {"label": f"n = {n}", "n": n, "annotations": pairs}
        points.append(point | reweighted(dpo_pool, best_probs(dpo_pool, n)))
    pool = pools["human"]
    even = np.full(pool.rewards.shape[1], 1 / pool.rewards.shape[1])
    for beta in BETAS:
        shared = {"method": "optimum", "series": "gold", "biased": False, "annotations": 0}
        point = shared | {"label": f"beta = {beta:g}", "beta": beta}
        probs = [kl_regularized_optimum(even, gold, beta) for gold in pool.answers.gold]
        points.append(point | reweighted(pool, np.array(probs)))
    return points


def best_probs(pool: Pool, n: int) -> np.ndarray:
    """The chance of each candidate (P, M) to be the best of n by reward."""
    even = np.full(pool.rewards.shape[1], 1 / pool.rewards.shape[1])
    return np.array([best_of_n_policy(even, rewards, n) for rewards in pool.rewards])


def reweighted(pool: Pool, probs: np.ndarray) -> dict:
    """KL from the SFT model (nats), reward and gold of a policy with these probs (P, M).

    The pool is the reference: its M candidates for a prompt count 1/M each. `sample_share` is the
    effective sample size over M: from 0.1 on the pool is large enough.
    """
    size = probs.shape[1]
    log_weights = np.log(np.where(probs > 0, probs * size, 1))
    values = {"kl": log_weights + pool.answers.kl, "reward": pool.rewards}
    values |= {"gold": pool.answers.gold, "good": pool.answers.good}
    point = {name: summary((probs * value).sum(1), plain_mean) for name, value in values.items()}
    return point | {"sample_share": float(np.mean(1 / (size * (probs**2).sum(1))))}


def plain_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean of quantities that are no shares, though they may all be 0: KL at n = 1."""
    return values.mean(axis)


def excess_over_optimum(points: Sequence[dict]) -> float:
    """The most gold that best-of-n has above pi* at its KL, in log-odds: by identity none.

    Between the measured points of pi* the line runs below it, and before the first one from n = 1.
    """
    best = [point for point in points if point["method"] == "best of n"]
    limit = [point for point in points if point["method"] == "optimum"] + best[:1]
    kl, gold = np.array(sorted(place_of(point) for point in limit)).T
    return float(max(place_of(p)[1] - np.interp(place_of(p)[0], kl, gold) for p in best))


def place_of(point: dict) -> tuple[float, float]:
    """Mean KL in nats and mean gold utility in log-odds of a point."""
    return point["kl"]["mean"], point["gold"]["mean"]


# --- The answers themselves ---


def answers_of_pools(prompts: list[str], points: list[dict], pools: dict, dpo_pool: Pool) -> dict:
    """The best of the first n candidates for every point of best-of-n."""
    chosen_points, texts, rewards = [], [], []
    for point in points:
        if "n" not in point:  # the optimum reweights a pool and has no answers of its own
            continue
        pool = dpo_pool if point["method"] == "DPO + best of n" else pools[point["series"]]
        best = pool.rewards[:, : point["n"]].argmax(1)
        chosen_points.append(point)
        texts.append([[row[k]] for row, k in zip(pool.answers.texts, best, strict=True)])
        after = pool.rewards[np.arange(len(best)), best]
        rewards.append({"before": pools[point["series"]].rewards[:, 0], "after": after})
    return answers.answers_of_points(prompts, chosen_points, texts, rewards)


def whole_pool(k: int, prompt: str, pools: dict[str, Pool], model, tokenizer) -> dict:
    """Every candidate for prompt k: the distinct texts, and which of them was drawn when.

    `logp` is the SFT model's log-probability of the text in nats; `reward` (the unbiased
    annotators' reward model), `length_reward` (the others') and `gold` are in log-odds.
    """
    human = pools["human"]
    drawn = human.answers.texts[k]
    distinct = list(dict.fromkeys(drawn))
    first = [drawn.index(text) for text in distinct]
    token_ids = [encode_response(tokenizer, text) for text in distinct]
    logps = scoring.response_logps(model, tokenizer, [prompt] * len(distinct), token_ids)
    return {
        "prompt": prompt,
        "texts": distinct,
        "logp": logps.double().numpy().round(4).tolist(),
        "reward": human.rewards[k, first].round(4).tolist(),
        "length_reward": pools["length"].rewards[k, first].round(4).tolist(),
        "gold": human.answers.gold[k, first].round(4).tolist(),
        "drawn": [distinct.index(text) for text in drawn],
    }


# --- The figure ---


def draw(runs: list[dict]):
    """The plane with its limit, the ways to answer, two steps of n, and biased annotators."""
    share = np.mean([run["share_of_dpo_gain"]["mean"] for run in runs])
    title = f"Best of {MOST_N} has {100 * share:.0f} % of DPO's gain, both from 768 pairs"
    figure, axes = figures.new_figure(2, 2, title)
    limit_panel(axes[0], runs)
    steps = {f"from 1 to {CUT_AT}": "first_step", f"from {CUT_AT} to {MOST_N}": "second_step"}
    gains = {way: [run[name]["mean"] for run in runs] for way, name in steps.items()}
    gained_panel(axes[1], gains, ["best_of_n"] * 2, f"The first {CUT_AT} candidates gain most")
    axes[1].set(ylabel="gold utility gained (log-odds)", xlabel="n: candidates to choose among")
    axes[1].set_ylim(bottom=0)
    worth = {}
    for way in ENDS:
        name = way.replace("best of n", f"best of {MOST_N}").replace(", ", ",\n")
        worth[name] = [run["ways"][way]["gold"]["mean"] for run in runs]
    colors = ["sft", "best_of_n", "best_of_n", "dpo", "dpo_best_of_n"]
    gained_panel(axes[2], worth, colors, "More labels for the reward model help best of n")
    axes[2].set_ylabel("gold utility (log-odds)")
    annotators_panel(axes[3], runs)
    return figure


def limit_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL, a thin line a seed, and what pi* has."""
    lines = {
        "pi*: the best possible": ("optimum", "gold", "black", "--"),
        "best of n": ("best of n", "human", "lab:best_of_n", "-"),
        "annotators prefer length": ("best of n", "length", "lab:biased", "-"),
        "DPO, best of n on top": ("DPO + best of n", "human", "lab:dpo_best_of_n", "-"),
    }
    for label, (method, series, color, dashes) in lines.items():
        places = []
        for run in runs:
            rows = [p for p in run["points"] if (p["method"], p["series"]) == (method, series)]
            rows = [p for p in rows if method != "optimum" or p["sample_share"] >= POOL_TRUSTED]
            places.append([place_of(point) for point in rows])
            ax.plot(*np.array(places[-1]).T, color=color, lw=0.6, alpha=0.5, ls=dashes)
        fewest = min(map(len, places))
        mean = np.mean([place[:fewest] for place in places], axis=0)
        marker = "" if method == "optimum" else "o"
        ax.plot(*mean.T, marker=marker, ms=4, color=color, ls=dashes, label=label)
    share = 100 * np.mean([share_of_limit(run["points"]) for run in runs])
    ax.set_title(f"Best of {MOST_N} gains {share:.0f} % of what its KL could buy")
    ax.set_xlabel("measured KL from the SFT model (nats)")
    ax.set_ylabel(figures.GOLD)
    figures.legend_below(ax, ncols=2)


def share_of_limit(points: Sequence[dict]) -> float:
    """The gold utility that best of MOST_N gains, as a share of what pi* gains at the same KL."""
    best = {}
    for point in points:
        if (point["method"], point["series"]) == ("best of n", "human"):
            best[point["n"]] = place_of(point)
    limit = [p for p in points if p["method"] == "optimum" and p["sample_share"] >= POOL_TRUSTED]
    kl, gold = np.array(sorted([best[1], *map(place_of, limit)])).T
    most = np.interp(best[MOST_N][0], kl, gold)
    return (best[MOST_N][1] - best[1][1]) / (most - best[1][1])


def gained_panel(ax, values: dict[str, list[float]], colors: list[str], title: str) -> None:
    """A column of dots for each way, a dot a seed, with the mean in numbers."""
    for place, (of_way, color) in enumerate(zip(values.values(), colors, strict=True)):
        figures.seed_dots(ax, place, of_way, f"lab:{color}")
        above = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
        ax.annotate(f"{np.mean(of_way):.2f}", (place, max(of_way)), (0, 6), **above)
    ax.set_xticks(range(len(values)), values, fontsize=7)
    ax.margins(y=0.15)
    ax.set(xlim=(-0.6, len(values) - 0.4), title=title)


def annotators_panel(ax, runs: list[dict]) -> None:
    """Gold utility by n under two reward models, and the reward of the second."""
    ns = runs[0]["annotators"]["n"]
    lines = {
        "gold, unbiased annotators choose": ("human", "gold", "lab:gold", "-"),
        "gold, annotators who prefer length choose": ("length", "gold", "lab:biased", "-"),
        "the reward that they give": ("length", "reward", "lab:reward", ":"),
    }
    for label, (judge, what, color, dashes) in lines.items():
        values = np.array([run["annotators"][judge][what] for run in runs])
        figures.seed_lines(ax, ns, values, color, label, ls=dashes)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ns, ns)
    ax.minorticks_off()
    ends = [np.mean([run["annotators"]["length"]["gold"][at] for run in runs]) for at in (0, -1)]
    ax.set_title(f"Annotators prefer length: gold from {ends[0]:.1f} to {ends[1]:.1f}")
    ax.set(xlabel="n: candidates to choose among", ylabel="log-odds")
    figures.legend_below(ax)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
