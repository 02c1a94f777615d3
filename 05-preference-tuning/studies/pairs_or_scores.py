"""Pairs or scores: which format of annotations recovers more of the true order of answers?

    python 05-preference-tuning/studies/pairs_or_scores.py  # one seed, 2 seconds

Twelve answers to each of 150 questions, whose true order is known, are read again and again with
the same noise. The readings are written down as pairs, rankings of four or scores; an order is
fitted to each, and Kendall's tau says how much of the true one comes back: 1 all of it, 0 nothing.
Formats are compared at 96 answers read a question: 96 scores, 48 pairs or 24 rankings. The tutorial
calls scores noisier. Here only the raters differ; so the noise of a score's reading grows until
pairs win: the break-even. How much noisier people's scores are than their comparisons, this cannot
tell. Left out: ties, pairs chosen adaptively, time beyond reading.
"""

import random
from functools import partial
from typing import NamedTuple

import lessons  # noqa: F401

import numpy as np
from preference_data_explorer import Rater, draw_raters, rate

from common.claims import Claim, run_study
from common.figures import new_figure, seed_columns, seed_lines
from common.preferences import annotate, gold_utility, questions, styles_for, write_response

RESPONSES = 12  # to each question
PASSES = (1, 2, 4, 8, 16, 32)  # how often each of the 12 answers is read
COMPARED = -3  # the place in PASSES at which formats are compared: 96 answers read
NOISE_FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # a score's reading against a pair's
# So many readings in a row are one rater's; None: all of an answer.
SCORED_BY = {"new_rater_each_time": 1, "one_rater_for_all": RESPONSES}
SCORED_BY |= {"one_rater_per_response": None}


def tau_of(m: dict, name: str) -> float:
    """Kendall's tau of a format at 96 answers read for each question."""
    return m["tau"][name][COMPARED]


AT_EQUAL_COST = "difference of Kendall's tau at 96 answers read for each question"
# It is 2/66 if one of 66 pairs of answers turns.
claim_on_tau = partial(Claim, measured=AT_EQUAL_COST, smallest=0.03)
CLAIMS = (
    claim_on_tau(
        "pairwise_beats_pointwise_at_equal_cost",
        "pairs beat scores at equal cost",
        of=lambda m: tau_of(m, "pairwise") - tau_of(m, "new_rater_each_time"),
        predicted="does not hold",
    ),
    claim_on_tau(
        "pairwise_beats_one_rater_per_response",
        "pairs beat scores by one rater per answer: calibration across raters is difficult",
        of=lambda m: tau_of(m, "pairwise") - tau_of(m, "one_rater_per_response"),
    ),
    claim_on_tau(
        "listwise_more_at_equal_cost",
        "rankings of 4 beat pairs at equal cost",
        of=lambda m: tau_of(m, "listwise") - tau_of(m, "pairwise"),
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """The order that each format recovers, by answers read, and the break-even of pairs."""
    prompts, passes = (10, PASSES[:4]) if smoke else (150, PASSES)
    rng, costs = np.random.default_rng(seed), [RESPONSES * times for times in passes]
    readings, raters = read_responses(prompts, passes[-1], seed, rng), draw_raters(400, rng)
    taus, noisier = recover_order(readings, costs, raters, rng)
    factor = crossing(taus["pairwise"][COMPARED].mean(), noisier)
    return {
        "responses_read": costs,
        "tau": {name: tau.mean(1).tolist() for name, tau in taus.items()},
        "break_even": {"scores": noisier, "factor": factor},
    }


class Readings(NamedTuple):
    """P questions, each of whose answers is read again and again; a row of looks for each."""

    gold: np.ndarray  # (P, 12), utilities
    items: np.ndarray  # (P, n), which answer is read
    perceived: np.ndarray  # (P, n), its utility as perceived in that look


def read_responses(prompts: int, passes: int, seed: int, rng: np.random.Generator) -> Readings:
    """Twelve answers to each question, no two equally good, read in every pass in another order."""
    gold = []
    for question in questions("train", seed=seed)[:prompts]:
        writer, utilities = random.Random(question.prompt), {}
        while len(utilities) < RESPONSES:
            text = write_response(question, writer.choice(styles_for(question)), writer)
            utilities[round(gold_utility(question.prompt, text), 6)] = text
        gold.append(list(utilities))
    items = rng.permuted(np.tile(np.arange(RESPONSES), (prompts, passes, 1)), axis=-1)
    items = items.reshape(prompts, -1)
    perceived = annotate(np.take_along_axis(np.array(gold), items, axis=1), rng)
    return Readings(np.array(gold), items, perceived)


def assign_raters(raters: Rater, items: np.ndarray, ratings: int | None, rng) -> Rater:
    """Who of a pool scores each reading (P, n): a new rater every `ratings`, see SCORED_BY."""
    turns = items if ratings is None else np.indices(items.shape)[1] // ratings
    drawn = rng.integers(len(raters.offset), size=(len(items), turns.max() + 1))
    numbers = np.take_along_axis(drawn, turns, axis=1)
    return Rater(raters.offset[numbers], raters.scale[numbers])


def tau_of_rankings(readings: Readings, n: int, size: int) -> np.ndarray:
    """Blocks of `size` readings are ranked, and an order is fitted; pairs are blocks of 2."""
    blocks = readings.items[:, :n].reshape(len(readings.items), -1, size)
    worst_last = np.argsort(-readings.perceived[:, :n].reshape(blocks.shape), axis=-1)
    rankings = np.take_along_axis(blocks, worst_last, axis=-1)
    return kendall_tau(readings.gold, fit_plackett_luce(rankings, readings.gold.shape[1]))


def tau_of_scores(readings: Readings, n: int, rater: Rater, noise: float = 1.0) -> np.ndarray:
    """Readings with `noise` times the noise are scored, each by its rater; sums make the order."""
    gold, items, perceived = readings
    truth, sums = np.take_along_axis(gold, items, axis=1), np.zeros(gold.shape)
    scores = rate(truth + noise * (perceived - truth), rater)[:, :n]
    np.add.at(sums, (np.arange(len(items))[:, None], items[:, :n]), scores)  # each equally often
    return kendall_tau(gold, sums)


def fit_plackett_luce(rankings: np.ndarray, count: int, prior: float = 0.1) -> np.ndarray:
    """Scores (P, count) that minimise `plackett_luce_nll` of rankings (P, R, K), best first.

    Newton's method for all P questions at once; the gradient of a choice is one-hot - softmax.
    Every item also wins and loses `prior` comparisons against one of score 0, so that an item which
    never loses keeps a finite score.
    """
    item = np.eye(count)[rankings]  # (P, R, K, count)
    scores, wins = np.zeros((len(rankings), count)), item[:, :, :-1].sum((1, 2))
    left = np.cumsum(item[:, :, ::-1], axis=2)[:, :, :0:-1]  # (P, R, K-1, count): who is left
    left = left.reshape(len(rankings), -1, count)
    for _ in range(50):
        p = np.exp(scores)[:, None] * left
        p /= p.sum(-1, keepdims=True)
        half = 1 / (1 + np.exp(-scores))
        gradient = wins - p.sum(1) + prior * (1 - 2 * half)
        diagonal = p.sum(1) + 2 * prior * half * (1 - half)
        hessian = np.eye(count) * diagonal[:, None] - p.transpose(0, 2, 1) @ p
        step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -1, 1)
        scores += step
        if np.abs(step).max() < 1e-9:
            break
    return scores


def kendall_tau(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(Concordant - discordant) / all pairs of items, (P, N) -> (P,); tied in the estimate: 0."""
    i, j = np.triu_indices(truth.shape[1], 1)
    gaps = (estimate[:, i] - estimate[:, j]).round(6)
    return (np.sign(truth[:, i] - truth[:, j]) * np.sign(gaps)).mean(1)


def recover_order(readings: Readings, costs: list[int], raters: Rater, rng) -> tuple:
    """Kendall's tau (budgets, P) of every format, for budgets of `costs` answers read.

    And the mean one of scores, by a new rater each time, with each of NOISE_FACTORS.
    """
    taus = {}
    for name, size in (("listwise", 4), ("pairwise", 2)):
        taus[name] = np.array([tau_of_rankings(readings, n, size) for n in costs])
    for name, ratings in SCORED_BY.items():
        rater = assign_raters(raters, readings.items, ratings, rng)
        taus[name] = np.array([tau_of_scores(readings, n, rater) for n in costs])
    rater, n = assign_raters(raters, readings.items, 1, rng), costs[COMPARED]
    noisier = [tau_of_scores(readings, n, rater, factor).mean() for factor in NOISE_FACTORS]
    return taus, noisier


def crossing(level: float, curve: list[float], factors=NOISE_FACTORS) -> float:
    """The factor, on a logarithmic scale, at which a falling curve meets a level; or an end."""
    falling = np.minimum.accumulate(curve)  # but for noise it falls anyway
    return float(np.exp(np.interp(-level, -falling, np.log(factors))))


OLIVE, INDIGO, BROWN = "#999933", "#332288", "#8C564B"  # rankings, pairs, scores
FORMATS = {  # label, style, colour, answers read for one annotation
    "listwise": ("rankings of 4", "-", OLIVE, 4),
    "pairwise": ("pairs", "-", INDIGO, 2),
    "one_rater_for_all": ("scores, one rater for all 12", "--", BROWN, 1),
    "new_rater_each_time": ("scores, a new rater each time", "-", BROWN, 1),
    "one_rater_per_response": ("scores, one rater per answer", ":", BROWN, 1),
}


def draw(runs: list[dict]):
    """The order recovered by reading and by annotation, the differences, the break-even."""
    tau = {name: np.mean([tau_of(run, name) for run in runs]) for name in FORMATS}
    title = "For the same reading, pairs recover less than scores of the true order\n"
    told = "(Kendall's tau {pairwise:.2f} and {new_rater_each_time:.2f})"
    figure, axes = new_figure(2, 2, title + told.format(**tau))
    recovered_panel(axes[0], runs, "answers read", "Scores by many raters lie above pairs")
    recovered_panel(axes[1], runs, "annotations", "A ranking tells most")
    told = ("pairs - scores", "pairs - scores, one rater per answer", "rankings - pairs")
    columns = {name: [CLAIMS[k].of(run) for run in runs] for k, name in enumerate(told)}
    axes[2].axhline(0, color="black", lw=0.8)
    seed_columns(axes[2], columns, (INDIGO, INDIGO, OLIVE))
    axes[2].set_title("One format against another, same reading")
    axes[2].set_ylabel("difference of Kendall's tau")
    # Scores whose readings become noisier, against pairs.
    pairs = [[tau_of(run, "pairwise")] * 2 for run in runs]
    seed_lines(axes[3], [1, 4], pairs, INDIGO, "48 pairs (96 read)", marker="")
    scores = [run["break_even"]["scores"] for run in runs]
    seed_lines(axes[3], NOISE_FACTORS, scores, BROWN, "96 scores", marker="")
    factor = np.mean([run["break_even"]["factor"] for run in runs])
    axes[3].plot(factor, np.mean(pairs), "o", color=INDIGO, mec="white", ms=8)
    axes[3].set_title(f"Pairs win once scores are {factor:.1f} times as noisy")
    axes[3].set_xlabel("noise of a score / noise of a comparison")
    axes[3].set_ylabel("order recovered, Kendall's tau")
    axes[3].legend()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def recovered_panel(ax, runs: list[dict], cost: str, title: str) -> None:
    """Kendall's tau of every format against what it costs."""
    ticks = set()
    for name, (label, line, color, read) in FORMATS.items():
        x = [n // (read if cost == "annotations" else 1) for n in runs[0]["responses_read"]]
        ticks |= {*x}
        seed_lines(ax, x, [run["tau"][name] for run in runs], color, label, ls=line, marker="")
    ax.set(title=title, xscale="log", xlabel=f"{cost} for each question", ylim=(0, 1))
    ax.set_ylabel("order recovered, Kendall's tau")
    ax.set_xticks(sorted(ticks), sorted(ticks))
    ax.minorticks_off()


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
