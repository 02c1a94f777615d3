"""The annotation study behind preference_data_explorer.py: who reads what, and what is estimated.

A reading is one look of an annotator at a response; readings (P, n) are rows of P prompts.
"""

import random
from typing import NamedTuple

import numpy as np

from common.preferences import annotate, gold_utility, questions, styles_for, write_response

# --- What is annotated ---


RESPONSES = 12  # to each prompt


def response_utilities(prompts: int, responses: int = RESPONSES) -> np.ndarray:
    """Gold utilities (prompts, responses) in all styles, no two to a prompt equally good."""
    rows = []
    for question in questions("train")[:prompts]:
        rng, utilities = random.Random(question.prompt), {}
        while len(utilities) < responses:
            text = write_response(question, rng.choice(styles_for(question)), rng)
            utilities[round(gold_utility(question.prompt, text), 6)] = text
        rows.append(list(utilities))
    return np.array(rows)


class Readings(NamedTuple):
    """P prompts, each of whose responses is read again and again."""

    gold: np.ndarray  # (P, responses), utilities
    items: np.ndarray  # (P, n), which response is read
    perceived: np.ndarray  # (P, n), its utility as perceived in that look

    def first(self, n: int) -> "Readings":
        """The first n readings of each prompt."""
        return Readings(self.gold, self.items[:, :n], self.perceived[:, :n])

    def noisier(self, factor: float) -> "Readings":
        """The same looks with `factor` times the noise."""
        gold = np.take_along_axis(self.gold, self.items, axis=1)
        return self._replace(perceived=gold + factor * (self.perceived - gold))


def read_responses(gold: np.ndarray, passes: int, rng: np.random.Generator) -> Readings:
    """Every response read `passes` times with the same noise, whatever is made of the readings."""
    items = np.tile(np.arange(gold.shape[1]), (len(gold), passes, 1))
    items = rng.permuted(items, axis=-1).reshape(len(gold), -1)  # each pass in random order
    return Readings(gold, items, annotate(np.take_along_axis(gold, items, axis=1), rng))


def rank_blocks(items: np.ndarray, perceived: np.ndarray, size: int) -> np.ndarray:
    """Readings (P, n) in blocks of `size`, each from best to worst: (P, n / size, size)."""
    blocks = items.reshape(len(items), -1, size)
    order = np.argsort(-perceived.reshape(blocks.shape), axis=-1)
    return np.take_along_axis(blocks, order, axis=-1)


class Rater(NamedTuple):
    """How one person turns a perceived utility into a score; or many people, as arrays."""

    offset: float | np.ndarray  # in points of the score
    scale: float | np.ndarray  # 1: the average rater's


def draw_raters(count: int, rng: np.random.Generator) -> list[Rater]:
    """Raters with an offset (standard deviation 0.8 points) and a scale (log-normal, 30 %)."""
    return [Rater(rng.normal(0, 0.8), np.exp(rng.normal(0, 0.3))) for _ in range(count)]


def pick_raters(raters: list[Rater], numbers: np.ndarray) -> Rater:
    """The raters of these numbers, as one Rater whose offset and scale have their shape."""
    offsets, scales = np.array(raters).T
    return Rater(offsets[numbers], scales[numbers])


def rater_for_each(count: int, rng: np.random.Generator) -> Rater:
    """As many new raters as there are readings, one for each: offset and scale (count,)."""
    return pick_raters(draw_raters(count, rng), np.arange(count))


class RaterDesign(NamedTuple):
    """Who scores: one rater for `ratings` readings in a row, or (None) always for one response."""

    name: str
    ratings: int | None
    standardised: bool = False  # to mean 0 and deviation 1 within the ratings in a row


NEW_RATER = RaterDesign("new_rater_each_time", 1)
SAME_RATER = RaterDesign("one_rater_for_all", RESPONSES)
OWN_RATER = RaterDesign("one_rater_per_response", None)
TWO_STANDARDISED = RaterDesign("two_standardised", 2, standardised=True)
DESIGNS = (NEW_RATER, SAME_RATER, OWN_RATER, TWO_STANDARDISED)


def assign_raters(
    raters: list[Rater], items: np.ndarray, ratings: int | None, rng: np.random.Generator
) -> Rater:
    """Who scores each reading (P, n), drawn from a pool.

    A new rater after every `ratings` of them; or, for None, one rater for each response.
    """
    prompts, n = items.shape
    if ratings is None:
        of_response = rng.integers(len(raters), size=(prompts, items.max() + 1))
        return pick_raters(raters, np.take_along_axis(of_response, items, axis=1))
    in_a_row = rng.integers(len(raters), size=(prompts, n // ratings))
    return pick_raters(raters, np.repeat(in_a_row, ratings, axis=1))


# --- From annotations to qualities ---


def fit_plackett_luce(rankings: np.ndarray, count: int, prior: float = 0.1) -> np.ndarray:
    """Scores (P, count) that minimise the Plackett-Luce loss of rankings (P, R, K) of items.

    Newton's method for all P prompts at once; the gradient of a choice is one-hot - softmax. Every
    item also wins and loses `prior` comparisons against one of score 0, so that an item which never
    loses keeps a finite score.
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
    """Mean score (P, responses) of every response over equally many readings (P, n) of each."""
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
    differences = (estimate[:, i] - estimate[:, j]).round(6)
    return (np.sign(truth[:, i] - truth[:, j]) * np.sign(differences)).mean(1)


def crossing(values: np.ndarray, factors: tuple[float, ...], axis: int = 0) -> float:
    """The factor at which a falling curve meets a level; values (N, 1 + factors): level, curve.

    Means over N; between two factors the logarithm of the factor is interpolated. Where the curve
    meets the level before the first factor or after the last, that factor is returned.
    """
    level, *curve = values.mean(axis)
    falling = np.minimum.accumulate(curve)  # but for noise it falls anyway
    return float(np.exp(np.interp(-level, -falling, np.log(factors))))


def tau_of_rankings(readings: Readings, size: int) -> np.ndarray:
    """Kendall's tau (P,) of the order fitted to rankings of `size` readings; pairs are size 2."""
    rankings = rank_blocks(readings.items, readings.perceived, size)
    return kendall_tau(readings.gold, fit_plackett_luce(rankings, readings.gold.shape[1]))
