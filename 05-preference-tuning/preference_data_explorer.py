"""Preference data formats: how are preferences written down, and what does each format recover?

    python 05-preference-tuning/preference_data_explorer.py
    python 05-preference-tuning/preference_data_explorer.py --dataset pairs.jsonl  # yours
    python 05-preference-tuning/preference_data_explorer.py --dataset pairs.jsonl --model FOLDER

One prompt in every format; how far raters disagree; what is chosen and what is rejected. Then 12
responses per prompt, whose true order is known, are annotated in each format, and Kendall's tau
says how much of that order comes back. A score costs 1 response read, a pair 2, a ranking of 4
costs 4. The tutorial calls scores noisier; here they are not, beyond the raters' leniency. So their
noise is raised until pairs win: the break-even.

About 2 seconds. Expect, at 96 responses read per prompt, a tau of 0.67 from pairs and 0.78 from
rankings and from scores: pairs win only where every response has a rater of its own (0.62), or
where a score is twice as noisy. Left out: ties, pairs chosen adaptively, time beyond reading.
"""

import argparse
import random
from collections.abc import Sequence
from functools import partial

from support.annotation_study import (
    DESIGNS,
    NEW_RATER,
    OWN_RATER,
    RESPONSES,
    Rater,
    RaterDesign,
    Readings,
    assign_raters,
    crossing,
    draw_raters,
    kendall_tau,
    mean_scores,
    rater_for_each,
    read_responses,
    response_utilities,
    standardise,
    tau_of_rankings,
)
from support.drawing.preference_data import draw_preference_data, example_lines
from support.findings.preference_data import findings
from support.pair_diagnosis import diagnose, study_own_pairs, style_shares

import numpy as np

from common import cli
from common import preferences as world
from common.intervals import summaries, summary
from common.reporting import INFINITY, Claim, finish

LIST_SIZE, RATER_POOL = 4, 400
PASSES = (1, 2, 4, 8, 16, 32)  # how often each of the 12 responses is read
COMPARED = -3  # the place in PASSES at which formats are compared: 96 responses read
NOISE_FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # a score's reading against a pair's
ONE_PAIR = 0.03  # tau moves by 2/66 when one of the 66 pairs of responses turns round

TAU = "difference of Kendall's tau, at 96 responses read or at 48 annotations"
FACTOR = "how many times as noisy a score's reading may be until pairs recover as much, factor"
DIFFERENCES = (
    ("pairwise_beats_pointwise_at_equal_cost", "pairs beat scores at equal cost"),
    ("pairwise_beats_pointwise_per_annotation", "pairs beat as many scores"),
    (
        "pairwise_beats_one_rater_per_response",
        "calibration across raters is difficult: pairs beat scores by one rater per response",
    ),
    ("listwise_more_per_annotation", f"rankings of {LIST_SIZE} beat as many pairs"),
    ("listwise_more_at_equal_cost", f"rankings of {LIST_SIZE} beat pairs at equal cost"),
)
BREAK_EVENS = (
    ("at_equal_cost", "at equal cost pairs win only where scores are noisier"),
    ("per_annotation", "per annotation pairs win only where scores are noisier"),
)
CLAIMS = (
    *(Claim(id, says, TAU, f"differences.{id}", smallest=ONE_PAIR) for id, says in DIFFERENCES),
    *(
        Claim(f"break_even_{basis}", says, FACTOR, f"break_even.{basis}", (1, INFINITY), 0.1)
        for basis, says in BREAK_EVENS
    ),
)


# --- 1. The formats: views of one annotation ---


def rate(perceived: np.ndarray, rater: Rater) -> np.ndarray:
    """Scores 1 to 5 of perceived utilities, same shape; the average rater maps -1 ... 4 evenly."""
    centred = 0.8 * (np.asarray(perceived) - 1.5)
    return np.clip(np.rint(3 + rater.offset + rater.scale * centred), 1, 5).astype(int)


def example_in_every_format(seed: int) -> dict:
    """Four responses to one prompt, read once: as a pair, scores, a ranking and unpaired labels."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    question = next(filter(world.holds_wrong_belief, world.questions("train")))
    styles = ("concise", "verbose", "sycophantic", "expert")
    texts = [world.write_response(question, style, rng) for style in styles]
    utilities = np.array([world.gold_utility(question.prompt, text) for text in texts])
    perceived = world.annotate(utilities, noise)
    better = int(np.argmax(perceived[:2]))
    worse = 1 - better
    pair = {"prompt": question.prompt, "chosen": texts[better], "rejected": texts[worse]}
    scores = np.array([rate(perceived, rater) for rater in draw_raters(3, noise)])  # (3 raters, 4)
    pointwise = []
    for i in (better, worse):
        pointwise.append({"response": texts[i], "scores": " ".join(map(str, scores[:, i]))})
    listwise = []
    for i in np.argsort(-perceived):
        listwise.append({"response": texts[i], "utility": f"{utilities[i]:.2f}"})
    unpaired = world.make_unpaired([pair])
    return {"pairwise": pair, "pointwise": pointwise, "listwise": listwise, "unpaired": unpaired}


# --- 2. One person's 4 is another's 3 ---


def rater_disagreement(utilities: np.ndarray, seed: int) -> dict:
    """How two raters score the same responses of gold `utilities` (N,), two new ones for each.

    `second_given_first` (5, 5) is P(second rater's score | first rater's score).
    """
    rng, count = np.random.default_rng(seed), len(utilities)
    first, second = rater_for_each(count, rng), rater_for_each(count, rng)
    one_look, other_look = world.annotate(utilities, rng), world.annotate(utilities, rng)
    scores = rate(one_look, first)  # (N,)
    scores_of_second = rate(other_look, second)
    table = np.histogram2d(scores, scores_of_second, bins=np.arange(0.5, 6))[0]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    return {
        "second_given_first": shares.tolist(),
        "two_raters_agree": summary(scores == scores_of_second),
        "two_raters_agree_if_they_perceive_the_same": summary(scores == rate(one_look, second)),
        "one_rater_asked_twice_agrees": summary(scores == rate(other_look, first)),
    }


# --- 3. From annotations to qualities: Plackett-Luce, of which Bradley-Terry is the case of two ---


def plackett_luce_nll(scores_in_rank_order: np.ndarray) -> np.ndarray:
    """-log P(ranking) in nats: -sum_k [s_k - logsumexp_{j>=k} s_j]; (..., K), best first -> (...).

    The best is chosen among K, the next among the rest, and so on (Luce 1959; Plackett 1975). K = 2
    is Bradley-Terry's -log sigmoid(s_1 - s_2); K > 2 is K - 1 choices among ever fewer, not the
    mean of the pairwise losses. `fit_plackett_luce` minimises it.
    """
    scores = np.asarray(scores_in_rank_order, dtype=float)
    rest = np.logaddexp.accumulate(scores[..., ::-1], axis=-1)[..., ::-1]  # logsumexp over j >= k
    return (rest - scores).sum(-1)


# --- 4. Which format recovers the true order? ---


def tau_of_scores(readings: Readings, rater: Rater, design: RaterDesign) -> np.ndarray:
    """Kendall's tau (P,) of the order of mean scores, given who scores each reading."""
    n = readings.items.shape[1]  # the budget; raters are assigned to the largest one
    scores = rate(readings.perceived, Rater(rater.offset[:, :n], rater.scale[:, :n]))
    if design.standardised:
        scores = standardise(scores, design.ratings)
    return kendall_tau(readings.gold, mean_scores(readings.items, scores))


def recover_order(
    readings: Readings, costs: Sequence[int], raters: list[Rater], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Kendall's tau (budgets, P) of every format, for budgets of `costs` responses read."""
    budgets = [readings.first(n) for n in costs]
    taus = {}
    for name, size in (("listwise", LIST_SIZE), ("pairwise", 2)):
        taus[name] = np.array([tau_of_rankings(budget, size) for budget in budgets])
    for design in DESIGNS:
        rater = assign_raters(raters, readings.items, design.ratings, rng)
        taus[design.name] = np.array([tau_of_scores(budget, rater, design) for budget in budgets])
    return taus


def differences(taus: dict[str, np.ndarray]) -> dict:
    """The claims as differences of tau, paired by prompt.

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


# --- 5. How much noisier may a score be? ---


def break_even(
    readings: Readings, pairs: np.ndarray, costs: Sequence[int], raters: list[Rater], rng
) -> dict:
    """The factor of noise at which scores recover no more than pairs, tau (P,), do.

    A new rater each time. Scores read as many responses as the pairs, or half: one an annotation.
    """
    rater = assign_raters(raters, readings.items, NEW_RATER.ratings, rng)
    where_equal = partial(crossing, factors=NOISE_FACTORS)
    measured = {"factors": NOISE_FACTORS, "pairs": summary(pairs)}
    for basis, n in (("at_equal_cost", costs[COMPARED]), ("per_annotation", costs[COMPARED - 1])):
        budget = readings.first(n)
        taus = [tau_of_scores(budget.noisier(f), rater, NEW_RATER) for f in NOISE_FACTORS]
        measured[f"scores_{basis}"] = summaries(np.array(taus))
        measured[basis] = summary(np.column_stack([pairs, *taus]), where_equal)
    return measured


# --- 6. The study ---


def study(
    *,
    seed: int,
    dataset: str | None = None,
    model: str | None = None,
    reading: dict[str, str] | None = None,
    pairs: int = 1500,
    prompts: int = 150,
    passes: Sequence[int] = PASSES,
) -> dict:
    """The section on the world's pairs, or what of it your own pairs allow."""
    if dataset:
        return study_own_pairs(dataset, model, seed, **(reading or {}))
    rows = world.make_pairs(pairs, seed=seed)
    example = example_in_every_format(seed)
    print("\n".join(example_lines(example)))
    utilities = np.array([row[f"{side}_utility"] for row in rows for side in world.SIDES])
    costs = [RESPONSES * times for times in passes]
    rng = np.random.default_rng(seed)
    readings = read_responses(response_utilities(prompts, RESPONSES), passes[-1], rng)
    raters = draw_raters(RATER_POOL, rng)
    taus = recover_order(readings, costs, raters, rng)
    return {
        "pairs": diagnose(rows, seed)[0],
        "example": example,
        "raters": rater_disagreement(utilities, seed),
        "styles": {side: style_shares(rows, side) for side in world.SIDES},
        "responses_read": costs,
        "tau": {name: summaries(budgets) for name, budgets in taus.items()},
        "differences": differences(taus),
        "break_even": break_even(readings, taus["pairwise"][COMPARED], costs, raters, rng),
    }


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    group = parser.add_argument_group("data")
    cli.add_dataset_flag(group)
    group.add_argument("--model", type=cli.non_empty, help="count your pairs in its tokens")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Measure, draw; returns the metrics."""
    args = cli.start(build_parser(), argv, "preference_data")
    if args.model and not args.dataset:
        raise cli.UserError("--model says how it reads your pairs: give them with --dataset")
    small = {"pairs": 200, "prompts": 10, "passes": PASSES[:4]} if args.smoke else {}
    own = {"dataset": args.dataset, "model": args.model, "reading": args.reading}
    metrics = study(seed=args.seed, **own, **small)
    lines, claims = findings(metrics, COMPARED), () if args.dataset else CLAIMS
    return finish(args, metrics, draw_preference_data, lines, claims)


if __name__ == "__main__":
    cli.run(main)
