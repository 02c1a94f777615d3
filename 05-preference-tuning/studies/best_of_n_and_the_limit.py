"""Best-of-n and the limit: what does choosing among n answers gain, and how much could be had?

    python 05-preference-tuning/studies/best_of_n_and_the_limit.py  # 4 minutes; 1 after others

Every method is measured with 768 labelled pairs and with 6,400, one pass over them: best-of-n, its
reward model from the small encoder or (768 pairs) from the SFT model; DPO; and DPO with best-of-n
on top, both from the same pairs. Of 64 answers of the SFT model to each of 128 questions, fresh
ones for every seed, probability and gold utility (3 if right, 1 if on topic, -0.15 for a word of
filler; in log-odds) are known, so also pi*: the policy that gains most gold utility at each KL from
it. The better start of a reward model, by gold utility on 128 validation questions with seed 0,
stands for best-of-n in the claims. With 6,400 pairs DPO has a likelihood term, which was better on
the same questions by more than 0.1. Models of likelihood_term.py and of other studies are used
again where they are there.
"""

import lessons  # noqa: F401

import numpy as np
from best_of_n import Pool, best_of_n_curve, best_probs, make_pool, measured_kl
from dpo_trainer import dpo_policy
from frontier import BUDGETS, JUDGE, gain_and_share, limit_curve
from reward_model import reward_model_in
from rlhf_objectives import kl_regularized_optimum

from common import answers, figures, preferences, scoring
from common.claims import Claim, run_study, study_folder
from common.prompts import encode_response
from common.training import load_sft_model

MOST_N, CUT_AT = 16, 4  # the largest n of the claims, and the n at which its curve is cut in two
SIZES_OF_N = (1, 2, 4, 8, 16, 32)
BETAS = (8, 4, 2, 1.5, 1, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # of pi*
# Each reward model: where the studies of a seed keep it, what it starts from, pairs, whose labels.
JUDGES = {
    "768": ("reward_model_768", "tiny-distilbert", 768, "human"),
    "768, SFT start": ("reward_model_768_sft", "tiny-gpt2", 768, "human"),
    "6400": ("reward_model_6400", "tiny-distilbert", 6400, "human"),
    "length": ("reward_model_length", "tiny-distilbert", 6400, "length"),
}
TUNED = {  # the DPO of each budget: where it is kept, and what is not default in its training
    "768": ("dpo", {}),
    "6400": ("dpo_6400_sft", {"loss_type": ("sigmoid", "sft"), "learning_rate": 3e-4}),
}
BOTH = "DPO + best of n"
WHOLE_POOLS = 6  # prompts whose candidates are all kept, for the page

CLAIMS = (
    Claim(
        "one_to_four_beats_four_to_sixteen",
        "n from 1 to 4 gains more than from 4 to 16",
        "gold utility gained from n = 1 to 4, minus that from 4 to 16, log-odds; 6,400 labels",
        of=lambda m: m["first_step"] - m["second_step"],
        smallest=0.05,
    ),
    Claim(
        "dpo_plus_best_of_n_is_best",
        "DPO with best-of-n on top is better than either alone",
        "gold utility: DPO with best of 16 minus the better alone, same labels; mean of 768, 6,400",
        of=lambda m: float(np.mean(list(m["both_minus_better_single"].values()))),
        smallest=0.05,
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """The pools of one seed, and what the claims, the plane and the page need of them."""
    asked, size = (8, 2 * MOST_N) if smoke else (128, 64)
    prompts = [question.prompt for question in preferences.questions("test", seed=seed)[:asked]]
    kept, judges, pools = study_folder(seed, smoke), {}, {}
    for series, (name, backbone, count, annotator) in JUDGES.items():
        pairs = preferences.make_pairs(32 if smoke else count, annotator=annotator, seed=seed)
        judges[series] = reward_model_in(kept / name, backbone, pairs, seed=seed)
    model, tokenizer = load_sft_model()
    pool = make_pool(model, tokenizer, judges["6400"], prompts, size, seed)
    for series, judge in judges.items():
        rewards = scoring.score_texts(judge, prompts, pool.answers.texts)
        pools["best of n", series] = pool._replace(rewards=rewards)
    whole = [whole_pool(k, prompts[k], pools, model, tokenizer) for k in range(WHOLE_POOLS)]
    for budget, (name, training) in TUNED.items():
        model, tokenizer = load_sft_model()  # a fresh one: the adapter is put into it
        pairs = preferences.make_pairs(32 if smoke else int(budget), seed=seed)
        policy = dpo_policy(kept / name, model, tokenizer, pairs, seed=seed, **training)
        judge = judges[JUDGE[budget]]
        pools[BOTH, budget] = make_pool(policy, tokenizer, judge, prompts, 2 * MOST_N, seed)
    points, kept_answers = plane_points(prompts, pools)
    return {
        **compare_ways(pools),
        "points": points,
        "answers": {**kept_answers, "pools": whole},
    }


def compare_ways(pools: dict[tuple, Pool]) -> dict:
    """Gold utility of each way to answer by the pairs of its budget, and their differences."""
    ways = {"best of n": {}, BOTH: {}, "DPO": {}}
    for (method, series), pool in pools.items():
        one, best = best_of_n_curve(pool.rewards, pool.answers.gold, [1, MOST_N]).mean(0).tolist()
        ways[method][series] = best
        if method == BOTH:
            ways["DPO"][series] = one
    pool, ns = pools["best of n", "6400"], [1, CUT_AT, MOST_N]
    curve = best_of_n_curve(pool.rewards, pool.answers.gold, ns)
    sft, at_cut, end = curve.mean(0).tolist()
    both_minus_better = {}
    for budget in JUDGE:
        better = max(ways["best of n"][JUDGE[budget]], ways["DPO"][budget])
        both_minus_better[budget] = ways[BOTH][budget] - better
    found = {"sft": sft, "ways": ways, "both_minus_better_single": both_minus_better}
    return found | {"first_step": at_cut - sft, "second_step": end - at_cut}


def plane_points(prompts: list[str], pools: dict[tuple, Pool]) -> tuple:
    """(points of KL and gold, answers): every pool by n, and pi*.

    The answers of a point are the best of the first n candidates; pi* has none.
    """
    points, texts, rewards = [], [], []
    for (method, series), pool in pools.items():
        shared = {"method": method, "series": series, "biased": series == "length"}
        shared["annotations"] = JUDGES[series][2]
        judge = series if method == "best of n" else JUDGE[series]
        before = pools["best of n", judge].rewards[:, 0]
        for n in [n for n in SIZES_OF_N if 2 * n <= pool.rewards.shape[1]]:
            about = {"label": f"n = {n}", "n": n}
            points.append(shared | about | reweighted(pool, best_probs(pool, n)))
            first = pool.rewards[:, :n]
            chosen = zip(pool.answers.texts, first.argmax(1), strict=True)
            texts.append([[row[k]] for row, k in chosen])
            rewards.append({"before": before, "after": first.max(1)})
    kept = answers.answers_of_points(prompts, points, texts, rewards)
    pool = pools["best of n", "6400"]
    even = np.full(pool.rewards.shape[1], 1 / pool.rewards.shape[1])
    for beta in BETAS:
        shared = {"method": "optimum", "series": "gold", "biased": False, "annotations": 0}
        probs = [kl_regularized_optimum(even, gold, beta) for gold in pool.answers.gold]
        point = shared | {"label": f"beta = {beta:g}", "beta": beta}
        points.append(point | reweighted(pool, np.array(probs)))
    return points, kept


def reweighted(pool: Pool, probs: np.ndarray) -> dict:
    """KL from the SFT model (nats), gold and good of a policy with these probs (P, M) of the pool.

    `sample_share` is the effective sample size over M: from 0.1 on the pool is large enough.
    """
    point = {"kl": float(measured_kl(pool, probs).mean())}
    for name in ("gold", "good"):
        point[name] = float((probs * getattr(pool.answers, name)).sum(1).mean())
    return point | {"sample_share": float(np.mean(1 / (probs.shape[1] * (probs**2).sum(1))))}


def whole_pool(k: int, prompt: str, pools: dict, model, tokenizer) -> dict:
    """Every candidate for prompt k: the distinct texts, and which of them was drawn when.

    `logp` is the SFT model's log-probability of the text in nats; `reward` (the unbiased
    annotators' reward model), `length_reward` (the others') and `gold` are in log-odds.
    """
    human, length = pools["best of n", "6400"], pools["best of n", "length"]
    drawn = human.answers.texts[k]
    distinct = list(dict.fromkeys(drawn))
    first = [drawn.index(text) for text in distinct]
    token_ids = [encode_response(tokenizer, text) for text in distinct]
    logps = scoring.response_logps(model, tokenizer, [prompt] * len(distinct), token_ids)
    values = {"logp": logps.double().numpy(), "reward": human.rewards[k, first]}
    values |= {"length_reward": length.rewards[k, first], "gold": human.answers.gold[k, first]}
    return {
        "prompt": prompt,
        "texts": distinct,
        **{name: of_texts.round(4).tolist() for name, of_texts in values.items()},
        "drawn": [distinct.index(text) for text in drawn],
    }


def draw(runs: list[dict]):
    """The plane with its limit, the ways to answer by labels, two steps of n, both together."""
    gains = [
        np.mean([run["ways"]["best of n"][JUDGE[b]] - run["sft"] for run in runs]) for b in JUDGE
    ]
    title = f"Best-of-n gains {gains[0]:.1f} with few labels, {gains[1]:.1f} with many"
    figure, axes = figures.new_figure(2, 2, title)
    limit_panel(axes[0], [run["points"] for run in runs])
    ways_panel(axes[1], runs)
    first, second = ([run[step] for run in runs] for step in ("first_step", "second_step"))
    steps = {f"from 1 to {CUT_AT}": first, f"from {CUT_AT} to {MOST_N}": second}
    figures.seed_columns(axes[2], steps, ["lab:best_of_n"] * 2)
    told = f"The first candidates gain {np.mean(first):.1f}, the next {np.mean(second):.1f}"
    axes[2].set(title=told, ylim=(0, None))
    axes[2].set(xlabel="n: candidates to choose among", ylabel="gold utility gained (log-odds)")
    both = {}
    for budget, pairs in zip(JUDGE, BUDGETS, strict=True):
        both[f"{pairs:,}"] = [run["both_minus_better_single"][budget] for run in runs]
    figures.seed_columns(axes[3], both, ["lab:dpo_best_of_n"] * 2)
    axes[3].axhline(0, color="black", lw=0.8)
    axes[3].set(title="DPO and best-of-n minus the better alone", xlabel="labelled pairs")
    axes[3].set_ylabel("gold utility (log-odds)")
    return figure


def limit_panel(ax, seeds: list[list[dict]]) -> None:
    """Gold utility against KL of the SFT model's pools, a thin line a seed, and what pi* has."""
    limits, shares = [limit_curve(points) for points in seeds], []
    lines = {
        "gold": ("black", "--", "pi*: the best possible"),
        "6400": ("lab:best_of_n", "o-", "best of n, 6,400 labels"),
        "768, SFT start": ("lab:best_of_n", "o:", "768, from the SFT model"),
        "768": ("lab:other", "o-", "768, from the encoder"),
    }
    for series, (color, style, label) in lines.items():
        paths = limits
        if series != "gold":
            of = "best of n", series
            rows = [[p for p in points if (p["method"], p["series"]) == of] for points in seeds]
            paths = [[(point["kl"], point["gold"]) for point in of_seed] for of_seed in rows]
            ends = [point for of_seed in rows for point in of_seed if point["n"] == MOST_N]
            found = [gain_and_share(*end)["share"] for end in zip(ends, limits, strict=True)]
            shares.append(100 * np.mean(found))
        fewest = min(map(len, paths))  # of pi* the pool can tell more for one seed than another
        kl, gold = np.array([path[:fewest] for path in paths]).transpose(2, 1, 0)
        ax.plot(kl, gold, color=color, lw=0.6, alpha=0.5)
        ax.plot(kl.mean(1), gold.mean(1), style, ms=4, color=color, label=label)
    ax.set_title(f"Of pi*'s gain: {shares[0]:.0f} % with many labels, {shares[1]:.0f} % with few")
    ax.set(xlabel="measured KL from the SFT model (nats)", ylabel=figures.GOLD)
    figures.legend_below(ax, ncols=2)


def ways_panel(ax, runs: list[dict]) -> None:
    """Gold utility of every way to answer by its number of labelled pairs."""
    best = [[run["ways"]["best of n"][JUDGE[budget]] for budget in JUDGE] for run in runs]
    figures.seed_lines(ax, [0, 1], best, "lab:best_of_n", f"best of {MOST_N}")
    both = [[run["ways"][BOTH][budget] for budget in JUDGE] for run in runs]
    figures.seed_lines(ax, [0, 1], both, "lab:dpo_best_of_n", f"DPO, best of {MOST_N}")
    for place, (budget, label) in enumerate(zip(JUDGE, ("DPO", None), strict=True)):
        alone = [run["ways"]["DPO"][budget] for run in runs]  # no line: the recipes differ
        figures.seed_dots(ax, place, alone, "lab:dpo", label)
    encoder = [run["ways"]["best of n"]["768"] for run in runs]
    figures.seed_dots(ax, 0, encoder, "lab:other", f"best of {MOST_N}, from the encoder")
    ax.axhline(np.mean([run["sft"] for run in runs]), color="lab:sft", lw=1, label="SFT model")
    ax.set_xticks([0, 1], [f"{pairs:,}" for pairs in BUDGETS])
    ax.set(title=f"More labels: best-of-n {np.diff(best).mean():+.2f}", xlim=(-0.4, 1.4))
    ax.set(xlabel="labelled pairs", ylabel="gold utility (log-odds)")
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
