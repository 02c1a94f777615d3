"""Pairs or scores: which format of annotations recovers more of the true order of answers?

    python 05-preference-tuning/studies/pairs_or_scores.py             # one seed, 2 seconds
    python 05-preference-tuning/studies/pairs_or_scores.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/pairs_or_scores.py --claims    # what is claimed

Twelve answers to each of 150 questions, whose true order is known, are read again and again with
the same noise. The readings are written down as pairs, as rankings of four or as scores, an order
is fitted to each, and Kendall's tau says how much of the true order comes back: 1 all of it, 0
nothing. A score costs one answer read, a pair two, a ranking of four costs four. Formats are
compared at 96 answers read for each question, or at 48 annotations.

The tutorial calls scores noisier. Here they are not, beyond the raters' leniency. So the noise of a
score's reading is raised until pairs win: the break-even.

What this cannot tell: how much noisier people's scores are than their comparisons. Left out: ties,
pairs chosen adaptively, time beyond reading.
"""

import lessons  # noqa: F401

from common.claims import Claim, run_study

# isort: split
import random
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from preference_data_explorer import Rater, draw_raters, rate

from common.figures import new_figure, seed_lines
from common.intervals import summary
from common.preferences import annotate, gold_utility, questions, styles_for, write_response

RESPONSES = 12  # to each question
LIST_SIZE, RATER_POOL = 4, 400
PASSES = (1, 2, 4, 8, 16, 32)  # how often each of the 12 answers is read
COMPARED = -3  # the place in PASSES at which formats are compared: 96 answers read
NOISE_FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # a score's reading against a pair's


class RaterDesign(NamedTuple):
    """Who scores: one rater for `ratings` readings in a row, or (None) always for one answer."""

    name: str
    ratings: int | None
    standardised: bool = False  # to mean 0 and deviation 1 within the ratings in a row


NEW_RATER = RaterDesign("new_rater_each_time", 1)
SAME_RATER = RaterDesign("one_rater_for_all", RESPONSES)
OWN_RATER = RaterDesign("one_rater_per_response", None)
TWO_STANDARDISED = RaterDesign("two_standardised", 2, standardised=True)
DESIGNS = (NEW_RATER, SAME_RATER, OWN_RATER, TWO_STANDARDISED)

ONE_PAIR = 0.03  # tau moves by 2/66 when one of the 66 pairs of answers turns round
TAU = "difference of Kendall's tau, at 96 answers read or at 48 annotations"
FACTOR = "how many times as noisy a score's reading may be until pairs recover as much, factor"
PUBLISHED = {
    "pairwise_beats_pointwise_at_equal_cost": "compatible: of both formats HelpSteer2-Preference "
    "(arXiv 2410.01257) finds the combination best",
    "listwise_more_per_annotation": "agrees: listwise losses beat pairwise ones in LiPO "
    "(arXiv 2402.01878)",
}
DIFFERENCES = {
    "pairwise_beats_pointwise_at_equal_cost": "pairs beat scores at equal cost",
    "pairwise_beats_pointwise_per_annotation": "pairs beat as many scores",
    "pairwise_beats_one_rater_per_response": "pairs beat scores by one rater per answer: "
    "calibration across raters is difficult",
    "listwise_more_per_annotation": "rankings of 4 beat as many pairs",
    "listwise_more_at_equal_cost": "rankings of 4 beat pairs at equal cost",
}
CLAIMS = (
    *(
        Claim(
            id,
            says,
            TAU,
            of=lambda m, id=id: m["differences"][id],
            smallest=ONE_PAIR,
            published=PUBLISHED.get(id, ""),
        )
        for id, says in DIFFERENCES.items()
    ),
    *(
        Claim(
            f"break_even_{basis}",
            f"{says} pairs win only where scores are noisier",
            FACTOR,
            of=lambda m, basis=basis: m["break_even"][basis],
            true=(1, float("inf")),
            smallest=0.1,
        )
        for basis, says in (
            ("at_equal_cost", "at equal cost"),
            ("per_annotation", "per annotation"),
        )
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """The order that each format recovers, by answers read, and the break-even of pairs."""
    prompts, passes = (10, PASSES[:4]) if smoke else (150, PASSES)
    rng = np.random.default_rng(seed)
    costs = [RESPONSES * times for times in passes]
    readings = read_responses(response_utilities(prompts), passes[-1], rng)
    raters = draw_raters(RATER_POOL, rng)
    taus = recover_order(readings, costs, raters, rng)
    return {
        "responses_read": costs,
        "tau": {name: tau.mean(1).tolist() for name, tau in taus.items()},
        "differences": differences(taus),
        "break_even": break_even(readings, taus["pairwise"][COMPARED], costs, raters, rng),
    }


# --- What is annotated ---


def response_utilities(prompts: int) -> np.ndarray:
    """Gold utilities (prompts, 12) in all styles, no two answers to a question equally good."""
    rows = []
    for question in questions("train")[:prompts]:
        rng, utilities = random.Random(question.prompt), {}
        while len(utilities) < RESPONSES:
            text = write_response(question, rng.choice(styles_for(question)), rng)
            utilities[round(gold_utility(question.prompt, text), 6)] = text
        rows.append(list(utilities))
    return np.array(rows)


class Readings(NamedTuple):
    """P questions, each of whose answers is read again and again; a row of looks for each."""

    gold: np.ndarray  # (P, 12), utilities
    items: np.ndarray  # (P, n), which answer is read
    perceived: np.ndarray  # (P, n), its utility as perceived in that look

    def first(self, n: int) -> "Readings":
        """The first n readings of each question."""
        return Readings(self.gold, self.items[:, :n], self.perceived[:, :n])

    def noisier(self, factor: float) -> "Readings":
        """The same looks with `factor` times the noise."""
        gold = np.take_along_axis(self.gold, self.items, axis=1)
        return self._replace(perceived=gold + factor * (self.perceived - gold))


def read_responses(gold: np.ndarray, passes: int, rng: np.random.Generator) -> Readings:
    """Every answer read `passes` times with the same noise, whatever is made of the readings."""
    items = np.tile(np.arange(gold.shape[1]), (len(gold), passes, 1))
    items = rng.permuted(items, axis=-1).reshape(len(gold), -1)  # each pass in random order
    return Readings(gold, items, annotate(np.take_along_axis(gold, items, axis=1), rng))


def assign_raters(
    raters: Rater, items: np.ndarray, ratings: int | None, rng: np.random.Generator
) -> Rater:
    """Who scores each reading (P, n), drawn from a pool: offset and scale (P, n).

    A new rater after every `ratings` of them; or, for None, one rater for each answer.
    """
    (prompts, n), pool = items.shape, len(raters.offset)
    if ratings is None:
        of_response = rng.integers(pool, size=(prompts, items.max() + 1))
        numbers = np.take_along_axis(of_response, items, axis=1)
    else:
        in_a_row = rng.integers(pool, size=(prompts, n // ratings))
        numbers = np.repeat(in_a_row, ratings, axis=1)
    return Rater(raters.offset[numbers], raters.scale[numbers])


# --- From annotations to an order ---


def rank_blocks(items: np.ndarray, perceived: np.ndarray, size: int) -> np.ndarray:
    """Readings (P, n) in blocks of `size`, each from best to worst: (P, n / size, size)."""
    blocks = items.reshape(len(items), -1, size)
    order = np.argsort(-perceived.reshape(blocks.shape), axis=-1)
    return np.take_along_axis(blocks, order, axis=-1)


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


def standardise(scores: np.ndarray, ratings: int) -> np.ndarray:
    """Scores (P, n) to mean 0, deviation 1 within every `ratings` of one rater.

    Of two scores only their order is left.
    """
    blocks = scores.reshape(len(scores), -1, ratings)
    centred = blocks - blocks.mean(-1, keepdims=True)
    deviation = blocks.std(-1, keepdims=True)
    return (centred / np.where(deviation > 0, deviation, 1)).reshape(scores.shape)


def mean_scores(items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean score (P, answers) of every answer over equally many readings (P, n) of each."""
    responses = items.max() + 1
    sums = np.zeros((len(items), responses))
    np.add.at(sums, (np.arange(len(items))[:, None], items), scores)
    return sums * responses / items.shape[1]


def kendall_tau(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Kendall's tau between two orders, both (P, N) -> (P,): 1 the same, -1 reversed.

    (Concordant - discordant) / all pairs of items; a pair tied in the estimate counts 0, as a coin
    flip would.
    """
    i, j = np.triu_indices(truth.shape[1], 1)
    gaps = (estimate[:, i] - estimate[:, j]).round(6)
    return (np.sign(truth[:, i] - truth[:, j]) * np.sign(gaps)).mean(1)


def tau_of_rankings(readings: Readings, size: int) -> np.ndarray:
    """Kendall's tau (P,) of the order fitted to rankings of `size` readings; pairs are size 2."""
    rankings = rank_blocks(readings.items, readings.perceived, size)
    return kendall_tau(readings.gold, fit_plackett_luce(rankings, readings.gold.shape[1]))


def tau_of_scores(readings: Readings, rater: Rater, design: RaterDesign) -> np.ndarray:
    """Kendall's tau (P,) of the order of mean scores, given who scores each reading."""
    n = readings.items.shape[1]  # the budget; raters are assigned to the largest one
    scores = rate(readings.perceived, Rater(rater.offset[:, :n], rater.scale[:, :n]))
    if design.standardised:
        scores = standardise(scores, design.ratings)
    return kendall_tau(readings.gold, mean_scores(readings.items, scores))


# --- What is compared ---


def recover_order(
    readings: Readings, costs: Sequence[int], raters: Rater, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Kendall's tau (budgets, P) of every format, for budgets of `costs` answers read."""
    budgets = [readings.first(n) for n in costs]
    taus = {}
    for name, size in (("listwise", LIST_SIZE), ("pairwise", 2)):
        taus[name] = np.array([tau_of_rankings(budget, size) for budget in budgets])
    for design in DESIGNS:
        rater = assign_raters(raters, readings.items, design.ratings, rng)
        taus[design.name] = np.array([tau_of_scores(budget, rater, design) for budget in budgets])
    return taus


def differences(taus: dict[str, np.ndarray]) -> dict:
    """The claims as differences of tau, paired by question.

    The budget doubles from row to row of `taus`: for equally many annotations pairs take one row
    more than scores, and rankings of 4 one row more than pairs.
    """
    pairs, rankings = taus["pairwise"], taus["listwise"]
    scores, own_rater = taus[NEW_RATER.name], taus[OWN_RATER.name]
    at = COMPARED
    rows = {
        "pairwise_beats_pointwise_at_equal_cost": pairs[at] - scores[at],
        "pairwise_beats_pointwise_per_annotation": pairs[at] - scores[at - 1],
        "pairwise_beats_one_rater_per_response": pairs[at] - own_rater[at],
        "listwise_more_per_annotation": rankings[at + 1] - pairs[at],
        "listwise_more_at_equal_cost": rankings[at] - pairs[at],
    }
    return {name: summary(values) for name, values in rows.items()}


def break_even(
    readings: Readings, pairs: np.ndarray, costs: Sequence[int], raters: Rater, rng
) -> dict:
    """The factor of noise at which scores recover no more than pairs, tau (P,), do.

    A new rater each time. Scores read as many answers as the pairs, or half: one an annotation.
    """
    rater = assign_raters(raters, readings.items, NEW_RATER.ratings, rng)
    where_equal = partial(crossing, factors=NOISE_FACTORS)
    measured = {"pairs": float(pairs.mean())}
    for basis, n in (("at_equal_cost", costs[COMPARED]), ("per_annotation", costs[COMPARED - 1])):
        budget = readings.first(n)
        taus = [tau_of_scores(budget.noisier(f), rater, NEW_RATER) for f in NOISE_FACTORS]
        measured[f"scores_{basis}"] = [float(tau.mean()) for tau in taus]
        measured[basis] = summary(np.column_stack([pairs, *taus]), where_equal)
    return measured


def crossing(values: np.ndarray, factors: tuple[float, ...], axis: int = 0) -> float:
    """The factor at which a falling curve meets a level; values (N, 1 + factors): level, curve.

    Means over N; between two factors the logarithm of the factor is interpolated. Where the curve
    meets the level before the first factor or after the last, that factor is returned.
    """
    level, *curve = values.mean(axis)
    falling = np.minimum.accumulate(curve)  # but for noise it falls anyway
    return float(np.exp(np.interp(-level, -falling, np.log(factors))))


# --- The figure ---

OLIVE, INDIGO, BROWN = "#999933", "#332288", "#8C564B"  # rankings, pairs, scores
FORMATS = {  # label, style, colour, answers read for one annotation
    "listwise": ("rankings of 4", "-", OLIVE, 4),
    "pairwise": ("pairs", "-", INDIGO, 2),
    SAME_RATER.name: ("scores, one rater for all 12", "--", BROWN, 1),
    NEW_RATER.name: ("scores, a new rater each time", "-", BROWN, 1),
    OWN_RATER.name: ("scores, one rater per answer", ":", BROWN, 1),
}


def draw(runs: list[dict]):
    """The order recovered by reading and by annotation, the differences, the break-even."""
    pairs, scores = (mean_tau(runs, name)[COMPARED] for name in ("pairwise", NEW_RATER.name))
    than = "less than" if pairs < scores else "more than"
    title = f"For the same reading, pairs recover {than} scores of the true order\n"
    title += f"(Kendall's tau {pairs:.2f} and {scores:.2f} at 96 answers read)"
    figure, axes = new_figure(2, 2, title)
    recovered_panel(axes[0], runs, per_annotation=False)
    recovered_panel(axes[1], runs, per_annotation=True)
    differences_panel(axes[2], runs)
    noise_panel(axes[3], runs)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def mean_tau(runs: list[dict], name: str) -> np.ndarray:
    """Kendall's tau of a format by budget, mean over seeds."""
    return np.mean([run["tau"][name] for run in runs], axis=0)


def recovered_panel(ax, runs: list[dict], per_annotation: bool) -> None:
    """Kendall's tau of every format against what it costs."""
    costs, ticks = np.array(runs[0]["responses_read"]), set()
    for name, (label, line, color, read) in FORMATS.items():
        x = costs // read if per_annotation else costs
        ticks |= set(x.tolist())
        values = np.array([run["tau"][name] for run in runs])
        seed_lines(ax, x, values, color, label, ls=line, marker="")
    ax.set(xscale="log", ylabel="order recovered, Kendall's tau", ylim=(0, 1))
    ax.set_xticks(sorted(ticks), sorted(ticks))
    ax.minorticks_off()
    pairs, scores, rankings = (
        mean_tau(runs, name) for name in ("pairwise", NEW_RATER.name, "listwise")
    )
    if per_annotation:  # at as many annotations, see `differences`
        above = rankings[COMPARED + 1] > max(pairs[COMPARED], scores[COMPARED - 1])
        title, cost = f"A ranking tells {'most' if above else 'no more'}", "annotations"
    else:
        above = scores[COMPARED] > pairs[COMPARED]
        title = f"Scores by many raters lie {'above' if above else 'below'} pairs"
        cost = "answers read"
    ax.set(title=title, xlabel=f"{cost} for each question")


def differences_panel(ax, runs: list[dict]) -> None:
    """What the claims compare, a dot for each seed."""
    rows = {
        "pairwise_beats_pointwise_at_equal_cost": "pairs - scores,\nsame reading",
        "pairwise_beats_pointwise_per_annotation": "pairs - scores,\nas many",
        "pairwise_beats_one_rater_per_response": "pairs - scores, one\nrater per answer",
        "listwise_more_at_equal_cost": "rankings - pairs,\nsame reading",
        "listwise_more_per_annotation": "rankings - pairs,\nas many",
    }
    for place, name in enumerate(rows):
        values = [run["differences"][name]["mean"] for run in runs]
        color = OLIVE if name.startswith("listwise") else INDIGO
        ax.barh(place, np.mean(values), 0.6, color=color, alpha=0.4)
        ax.plot(values, [place] * len(values), "o", color=color, ms=3)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(rows)), rows.values(), fontsize=8)
    ax.invert_yaxis()
    ax.set(title="What one format recovers more than another", xlabel="difference of Kendall's tau")


def noise_panel(ax, runs: list[dict]) -> None:
    """Kendall's tau of scores as their readings become noisier, against that of pairs."""
    level = np.array([[run["break_even"]["pairs"]] * 2 for run in runs])
    seed_lines(ax, [1, 4], level, INDIGO, "48 pairs (96 read)", marker="")
    for basis, line, label in (
        ("at_equal_cost", "-", "96 scores"),
        ("per_annotation", "-.", "48 scores"),
    ):
        values = np.array([run["break_even"][f"scores_{basis}"] for run in runs])
        seed_lines(ax, NOISE_FACTORS, values, BROWN, label, ls=line, marker="")
        factor = np.mean([run["break_even"][basis]["mean"] for run in runs])
        ax.plot(factor, level.mean(), "o", color=INDIGO, mec="white", ms=8)
        if basis == "at_equal_cost":
            ax.set(title=f"Pairs win once scores are {factor:.1f} times as noisy")
    ax.set(
        xlabel="noise of a score / noise of a comparison", ylabel="order recovered, Kendall's tau"
    )
    ax.legend()


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
