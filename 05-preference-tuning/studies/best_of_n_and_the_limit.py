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

import lessons  # noqa: F401

import numpy as np
from best_of_n import Pool, best_of_n_curve, best_probs, make_pool, measure_cost, measured_kl
from dpo_trainer import dpo_policy
from frontier import METHODS, gain_and_share, limit_curve, point_for
from reward_hacking import axis_of_n
from reward_model import reward_model_in
from rlhf_objectives import kl_regularized_optimum

from common import answers, figures, preferences, scoring
from common.claims import Claim, run_study, study_folder
from common.intervals import summary
from common.prompts import encode_response
from common.training import load_sft_model

MOST_N, CUT_AT = 16, 4  # the largest n of the claims, and the n at which its curve is cut in two
SIZES_OF_N = (1, 2, 4, 8, 16, 32, 64)
BETAS = (8, 4, 2, 1.5, 1, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # of pi*
# Each reward model: where the studies of a seed keep it, its pairs, and whose labels they are.
JUDGES = {
    "human": ("reward_model_6400", 6400, "human"),
    "as_many_pairs": ("reward_model_768", 768, "human"),
    "length": ("reward_model_length", 6400, "length"),
}
WHOLE_POOLS = 6  # prompts whose candidates are all kept, for the page
# Each way to answer: whose curve over n it lies on, the end of it, and its colour.
ENDS = {
    "SFT": ("human", 0, "lab:sft"),
    f"best of {MOST_N}, 768 pairs": ("as_many_pairs", -1, "lab:best_of_n"),
    f"best of {MOST_N}, 6,400 pairs": ("human", -1, "lab:best_of_n"),
    "DPO, 768 pairs": ("dpo", 0, "lab:dpo"),
    f"DPO, best of {MOST_N}": ("dpo", -1, "lab:dpo_best_of_n"),
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
    asked, size = (8, 2 * MOST_N) if smoke else (128, 128)
    prompts = [question.prompt for question in preferences.questions("test")[:asked]]
    model, tokenizer = load_sft_model()
    kept, labels, judges = study_folder(seed, smoke), {}, {}
    for judge, (name, count, annotator) in JUDGES.items():
        pairs = preferences.make_pairs(64 if smoke else count, annotator=annotator, seed=seed)
        judges[judge] = reward_model_in(kept / name, "tiny-distilbert", pairs, seed=seed)
        labels[judge] = len(pairs)
    pool = make_pool(model, tokenizer, judges["human"], prompts, size, seed)
    pools = {}
    for name, judge in judges.items():
        rewards = scoring.score_texts(judge, prompts, pool.answers.texts)
        pools[name] = pool._replace(rewards=rewards)
    cost = measure_cost(model, tokenizer, judges["human"], prompts[: 2 if smoke else 8], MOST_N)
    whole = [whole_pool(k, prompts[k], pools, model, tokenizer) for k in range(WHOLE_POOLS)]

    pairs = preferences.make_pairs(64 if smoke else 768, seed=seed)
    policy = dpo_policy(kept / "dpo", model, tokenizer, pairs, seed=seed)
    dpo_pool = make_pool(policy, tokenizer, judges["human"], prompts, 2 * MOST_N, seed)
    points = plane_points(pools, dpo_pool, {**labels, "dpo": len(pairs)})
    return {
        "cost_exponent": summary(cost["alone"], growth),
        **compare_ways({**pools, "dpo": dpo_pool}),
        **compare_annotators(pools),
        "points": points,
        "answers": {**answers_of_pools(prompts, points, pools, dpo_pool), "pools": whole},
    }


def growth(costs: np.ndarray, axis: int = 0) -> float:
    """The power of n with which costs (P, ns) for n = 1, 2, 4, ... grow."""
    return float(np.polyfit(np.arange(costs.shape[1]), np.log2(costs.sum(axis)), 1)[0])


# --- What the claims compare ---


def compare_ways(pools: dict[str, Pool]) -> dict:
    """Gold utility of each way to answer, and their differences."""
    ns, curves = range(1, MOST_N + 1), {}
    for name in ("human", "as_many_pairs", "dpo"):
        curves[name] = best_of_n_curve(pools[name].rewards, pools[name].answers.gold, ns)
    ways = {way: curves[name][:, end] for way, (name, end, _) in ENDS.items()}
    sft, fair, best, dpo, both = ways.values()
    at_cut = curves["human"][:, CUT_AT - 1]
    gains = np.column_stack([fair - sft, dpo - sft])
    return {
        "ways": {way: summary(gold) for way, gold in ways.items()},
        "first_step": summary(at_cut - sft),
        "second_step": summary(best - at_cut),
        "first_step_minus_second": summary((at_cut - sft) - (best - at_cut)),
        "share_of_dpo_gain": summary(gains, lambda table, axis: np.divide(*table.sum(axis))),
        "both_minus_better_single": summary(both - max(best, dpo, key=np.mean)),
    }


def compare_annotators(pools: dict[str, Pool]) -> dict:
    """Gold utility by n, as the unbiased and the length-preferring annotators choose."""
    ns, human, length = sizes_for(pools["human"]), pools["human"], pools["length"]
    gold = best_of_n_curve(human.rewards, human.answers.gold, ns)
    biased = best_of_n_curve(length.rewards, length.answers.gold, ns)
    reward = best_of_n_curve(length.rewards, length.rewards, ns)
    curves = {"human": gold, "length": biased, "reward": reward}
    means = {name: curve.mean(0).tolist() for name, curve in curves.items()}
    return {"annotators": {"n": ns, **means}, "lost_to_length": summary((gold - biased)[:, -1])}


# --- The plane of gold utility against KL, and the answers ---


def sizes_for(pool: Pool) -> list[int]:
    """The n that a pool is large enough for: it holds twice as many candidates."""
    return [n for n in SIZES_OF_N if 2 * n <= pool.rewards.shape[1]]


def plane_points(pools: dict[str, Pool], dpo_pool: Pool, labels: dict[str, int]) -> list[dict]:
    """Points of best-of-n by each judge, DPO with best-of-n, and pi*; `labels`: pairs of each."""
    points = []
    ways = [("best of n", judge, pool) for judge, pool in pools.items()]
    for method, series, pool in [*ways, ("DPO + best of n", "human", dpo_pool)]:
        shared = {"method": method, "series": series, "biased": series == "length"}
        for n in sizes_for(pool):
            used = labels[series]
            if pool is dpo_pool:  # a reward model chooses where there are several
                used = labels["dpo"] + (labels["human"] if n > 1 else 0)
            point = shared | {"label": f"n = {n}", "n": n, "annotations": used}
            points.append(point | reweighted(pool, best_probs(pool, n)))
    pool = pools["human"]
    even = np.full(pool.rewards.shape[1], 1 / pool.rewards.shape[1])
    for beta in BETAS:
        shared = {"method": "optimum", "series": "gold", "biased": False, "annotations": 0}
        probs = [kl_regularized_optimum(even, gold, beta) for gold in pool.answers.gold]
        point = shared | {"label": f"beta = {beta:g}", "beta": beta}
        points.append(point | reweighted(pool, np.array(probs)))
    return points


def reweighted(pool: Pool, probs: np.ndarray) -> dict:
    """KL from the SFT model (nats), gold and good of a policy with these probs (P, M) of the pool.

    `sample_share` is the effective sample size over M: from 0.1 on the pool is large enough.
    """
    point = {"kl": summary(measured_kl(pool, probs))}
    for name in ("gold", "good"):
        point[name] = summary((probs * getattr(pool.answers, name)).sum(1))
    return point | {"sample_share": float(np.mean(1 / (probs.shape[1] * (probs**2).sum(1))))}


def answers_of_pools(prompts: list[str], points: list[dict], pools: dict, dpo_pool: Pool) -> dict:
    """The best of the first n candidates for every point of best-of-n."""
    of_pools = [point for point in points if "n" in point]  # pi* has no answers of its own
    texts, rewards = [], []
    for point in of_pools:
        pool = dpo_pool if point["method"] == "DPO + best of n" else pools[point["series"]]
        best = pool.rewards[:, : point["n"]].argmax(1)
        texts.append([[row[k]] for row, k in zip(pool.answers.texts, best, strict=True)])
        after = pool.rewards[np.arange(len(best)), best]
        rewards.append({"before": pools[point["series"]].rewards[:, 0], "after": after})
    return answers.answers_of_points(prompts, of_pools, texts, rewards)


def whole_pool(k: int, prompt: str, pools: dict[str, Pool], model, tokenizer) -> dict:
    """Every candidate for prompt k: the distinct texts, and which of them was drawn when.

    `logp` is the SFT model's log-probability of the text in nats; `reward` (the unbiased
    annotators' reward model), `length_reward` (the others') and `gold` are in log-odds.
    """
    human, drawn = pools["human"], pools["human"].answers.texts[k]
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
    limit_panel(axes[0], [run["points"] for run in runs])
    first, second = ([run[step]["mean"] for run in runs] for step in ("first_step", "second_step"))
    steps = {f"from 1 to {CUT_AT}": first, f"from {CUT_AT} to {MOST_N}": second}
    figures.seed_columns(axes[1], steps, ["lab:best_of_n"] * 2)
    axes[1].set(title=f"The first {CUT_AT} candidates gain most", ylim=(0, None))
    axes[1].set(xlabel="n: candidates to choose among", ylabel="gold utility gained (log-odds)")
    worth = {way: [run["ways"][way]["mean"] for run in runs] for way in ENDS}
    figures.seed_columns(axes[2], worth, [color for _, _, color in ENDS.values()])
    axes[2].set(title="More labels for the reward model help", ylabel="gold utility (log-odds)")
    annotators_panel(axes[3], [run["annotators"] for run in runs])
    return figure


def limit_panel(ax, seeds: list[list[dict]]) -> None:
    """Gold utility against KL of the points of all seeds, a thin line a seed, and what pi* has."""
    limits = [limit_curve(points) for points in seeds]
    shares = []
    for points, limit in zip(seeds, limits, strict=True):
        shares.append(gain_and_share(point_for(METHODS[0], points), limit)["share"]["mean"])
    lines = {
        ("optimum", "gold"): ("black", "--", "pi*: the best possible"),
        ("best of n", "human"): ("lab:best_of_n", "o-", "best of n"),
        ("best of n", "length"): ("lab:biased", "o-", "annotators prefer length"),
        ("DPO + best of n", "human"): ("lab:dpo_best_of_n", "o-", "DPO, best of n on top"),
    }
    for which, (color, style, label) in lines.items():
        paths = []
        for points in seeds:
            rows = [point for point in points if (point["method"], point["series"]) == which]
            paths.append([(point["kl"]["mean"], point["gold"]["mean"]) for point in rows])
        paths = limits if style == "--" else paths
        fewest = min(map(len, paths))  # of pi* the pool can tell more for one seed than another
        kl, gold = np.array([path[:fewest] for path in paths]).transpose(2, 1, 0)
        ax.plot(kl, gold, color=color, lw=0.6, alpha=0.5)
        ax.plot(kl.mean(1), gold.mean(1), style, ms=4, color=color, label=label)
    ax.set_title(f"Best of {MOST_N} gains {100 * np.mean(shares):.0f} % of what its KL could buy")
    ax.set(xlabel="measured KL from the SFT model (nats)", ylabel=figures.GOLD)
    figures.legend_below(ax, ncols=2)


def annotators_panel(ax, seeds: list[dict]) -> None:
    """Gold utility by n under two reward models, and the reward of the second."""
    lines = {
        "human": ("lab:gold", "gold, unbiased annotators choose", "-"),
        "length": ("lab:biased", "gold, annotators who prefer length choose", "-"),
        "reward": ("lab:reward", "the reward that they give", ":"),
    }
    ns = seeds[0]["n"]
    for name, (color, label, dashes) in lines.items():
        figures.seed_lines(ax, ns, [of_seed[name] for of_seed in seeds], color, label, ls=dashes)
    axis_of_n(ax, ns)
    start, end = np.mean([of_seed["length"] for of_seed in seeds], axis=0)[[0, -1]]
    ax.set(title=f"Annotators prefer length: gold from {start:.1f} to {end:.1f}", ylabel="log-odds")
    figures.legend_below(ax)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
