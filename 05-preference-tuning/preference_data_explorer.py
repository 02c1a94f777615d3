"""Preference data formats: how are preferences written down, and how much of the true order does each format recover?

    python 05-preference-tuning/preference_data_explorer.py
    python 05-preference-tuning/preference_data_explorer.py --dataset pairs.jsonl
    python 05-preference-tuning/preference_data_explorer.py --dataset pairs.jsonl --model FOLDER  # in its tokens

Shows one prompt in every format, how far raters disagree, how long chosen and rejected responses are and why responses
are rejected. Then annotates 12 responses per prompt, whose true order is known, in each format, and measures Kendall's
tau between the order estimated from the annotations and the true one. Cost model: what an annotator reads is paid for,
so a score costs 1 response, a pair 2, a ranking of 4 costs 4; tau per annotation is reported beside it. Every format is
a view of the same readings, utility + Gumbel noise: no format is noisier than another, only raters differ.

About 2 s. Expect, at 96 responses read per prompt, a tau near 0.67 from pairs and near 0.78 from rankings and scores:
pairs lose to scores at equal cost, narrowly even per annotation, and win only where every response has a rater of its
own (0.63, however much is read), whose leniency then passes for quality. With --dataset (needs `datasets`) your pairs
are drawn, with what is wrong with them, and --model says which of them a language model cannot read whole. Left out:
ties, pairs chosen adaptively, the time a task takes beyond reading, and that people may be steadier when they compare
than when they score.
"""

import argparse
import random
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from drawing.preference_data import draw_own_pairs, draw_world, length_finding, shorten
from own_pairs import MAX_LENGTH, contradictory, count_by_reason, fingerprint, load_preferences, pick, usable_pairs

from common import preferences as world
from common import reporting
from common.cli import UserError, add_dataset_flag, check_writable, make_parser, quiet_libraries, run
from common.preferences import COLUMNS, SIDES, STYLES, annotate, gold_utility, styles_for, write_response
from common.reporting import bootstrap_ci

RESPONSES, LIST_SIZE, RATER_POOL = 12, 4, 400
PASSES = (1, 2, 4, 8, 16, 32)  # how often each of the 12 responses is read; formats are compared at PASSES[-3]
# Who scores: the number of ratings in a row by one rater, or None where every response has a rater of its own.
RATER_DESIGNS = {"a new rater each time": 1, "one rater for all 12": RESPONSES, "one rater per response": None}
WHY = """\
why: all formats read with the same noise, and a score keeps how far apart two responses are, which a comparison drops;
the raters' leniency averages out of scores, except where a response always meets the same rater"""


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    group = parser.add_argument_group("data")
    add_dataset_flag(group)
    group.add_argument("--model", help="hub id or folder of a language model, for the lengths of your pairs in tokens")
    return parser


# --- 1. The formats: views of one annotation ---


class Rater(NamedTuple):
    """How one person turns a perceived utility into a score from 1 to 5."""

    offset: float
    scale: float


def draw_raters(count: int, rng: np.random.Generator) -> list[Rater]:
    """Raters with their own offset (standard deviation 0.8 points) and scale (log-normal, 30 %)."""
    return [Rater(rng.normal(0, 0.8), np.exp(rng.normal(0, 0.3))) for _ in range(count)]


def rate(perceived: np.ndarray, rater: Rater) -> np.ndarray:
    """Scores 1 to 5 of perceived utilities; the average rater maps utilities -1 ... 4 evenly onto 1 ... 5."""
    centred = 0.8 * (np.asarray(perceived) - 1.5)
    return np.clip(np.rint(3 + rater.offset + rater.scale * centred), 1, 5).astype(int)


def make_rankings(count: int, size: int = LIST_SIZE, split: str = "train", seed: int = 0) -> list[dict]:
    """Listwise view: rows with prompt, responses from best to worst as perceived, and their gold utilities."""
    rng, noise = random.Random(f"rankings {split} {seed}"), np.random.default_rng(seed)
    pool, rows = world.questions(split), []
    for _ in range(count):
        question = rng.choice(pool)
        texts = [write_response(question, style, rng) for style in rng.sample(styles_for(question), size)]
        utilities = np.array([gold_utility(question.prompt, text) for text in texts])
        order = np.argsort(-annotate(utilities, noise))
        ranked = {"responses": [texts[i] for i in order], "utilities": utilities[order].tolist()}
        rows.append({"prompt": question.prompt, **ranked})
    return rows


def example_in_every_format(seed: int) -> dict:
    """Four responses to one prompt, read once, as pairwise, pointwise (three raters), listwise and unpaired data."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    question = next(q for q in world.questions("train") if q.belief not in (None, q.answer))
    texts = [write_response(question, style, rng) for style in ("concise", "verbose", "sycophantic", "expert")]
    utilities = np.array([gold_utility(question.prompt, text) for text in texts])
    perceived = annotate(utilities, noise)
    best = int(np.argmax(perceived[:2]))
    pair = {"prompt": question.prompt, "chosen": texts[best], "rejected": texts[1 - best]}
    scores = np.array([rate(perceived, rater) for rater in draw_raters(3, noise)])  # (3 raters, 4)
    return {
        "pairwise": pair,
        "pointwise": [{"response": texts[i], "scores": scores[:, i].tolist()} for i in (best, 1 - best)],
        "listwise": [{"response": texts[i], "utility": round(utilities[i], 2)} for i in np.argsort(-perceived)],
        "unpaired": world.make_unpaired([pair]),
    }


def print_example(example: dict) -> None:
    """The views in a few lines."""
    pair, (first, second) = example["pairwise"], [" ".join(map(str, r["scores"])) for r in example["pointwise"]]
    print(f"prompt     {pair['prompt']}")
    print(f"pairwise   chosen: {shorten(pair['chosen'], 90)}\n           rejected: {shorten(pair['rejected'], 90)}")
    print(f"pointwise  three raters score the chosen {first}, the rejected {second}")
    print(f"listwise   {' > '.join(shorten(row['response'], 25) for row in example['listwise'])}")
    print(f"unpaired   chosen: {example['unpaired'][0]['label']}, rejected: {example['unpaired'][1]['label']}\n")


# --- 2. Raters disagree ---


def rater_disagreement(utilities: np.ndarray, seed: int) -> dict:
    """How two raters score the same responses of gold `utilities` (N,); each response has two raters of its own.

    `second_given_first` (5, 5) is P(second rater's score | first rater's score).
    """
    rng, everyone = np.random.default_rng(seed), np.arange(len(utilities))
    first, second = (pick_raters(draw_raters(len(utilities), rng), everyone) for _ in range(2))
    perceived, again = annotate(utilities, rng), annotate(utilities, rng)
    a, b = rate(perceived, first), rate(again, second)
    table = np.histogram2d(a, b, bins=np.arange(0.5, 6))[0]
    return {
        "second_given_first": (table / np.maximum(table.sum(1, keepdims=True), 1)).round(4).tolist(),
        "two_raters_agree": interval(a == b),
        "two_raters_agree_if_they_perceive_the_same": interval(a == rate(perceived, second)),
        "one_rater_asked_twice_agrees": interval(a == rate(again, first)),
    }


def pick_raters(raters: list[Rater], who: np.ndarray) -> Rater:
    """The raters numbered `who`, as one Rater whose offset and scale are arrays of that shape."""
    offsets, scales = np.array(raters).T
    return Rater(offsets[who], scales[who])


# --- 3. Pairs: lengths, reasons for rejection, and what is wrong with them ---


def interval(values, statistic=np.mean) -> dict:
    """The statistic of values (N,) or (N, K) with its bootstrap interval."""
    low, high = bootstrap_ci(values, statistic, resamples=500)
    return {"mean": round(float(statistic(values, axis=0)), 4), "ci95": [round(low, 4), round(high, 4)]}


def word_counts(rows: list[dict]) -> np.ndarray:
    """Words of chosen and rejected: (N, 2)."""
    return np.array([[len(row[side].split()) for side in SIDES] for row in rows])


def longer_wins(rows: list[dict]) -> dict:
    """Accuracy of "the longer response is the chosen one", ties counting half; resampled over prompts."""
    _, which = np.unique([fingerprint(row["prompt"]) for row in rows], return_inverse=True)
    difference = word_counts(rows) @ [1, -1]
    hits = np.bincount(which, weights=(np.sign(difference) + 1) / 2)
    return interval(np.stack([hits, np.bincount(which)], axis=1), lambda sums, axis: np.divide(*sums.sum(axis)))


def diagnose(rows: list[dict], seed: int) -> dict:
    """What to know of pairs before training on them; from `prompts` on, of the usable rows only.

    `contradictory` counts comparisons that occur with both labels; `leaked` counts the rows of a random fifth
    (`held_out`) whose prompt is also among the other four fifths.
    """
    kept, dropped = usable_pairs(rows)
    if not kept:
        raise UserError(f"no usable pair among {len(rows)} rows: {count_by_reason(dropped)}")
    usable = pick(rows, kept)
    order = np.random.default_rng(seed).permutation(len(usable))
    held_out, training = np.split(order, [max(1, round(0.2 * len(usable)))])
    prompts, words = np.array([fingerprint(row["prompt"]) for row in usable], dtype=np.uint64), word_counts(usable)
    return {
        "rows": len(rows),
        "usable": len(usable),
        **{reason: len(which) for reason, which in dropped.items()},
        "first_dropped_row": {reason: which[0] + 1 for reason, which in dropped.items() if which},
        "prompts": len(np.unique(prompts)),
        "contradictory": len(contradictory(usable)) // 2,
        "held_out": len(held_out),
        "leaked": int(np.isin(prompts[held_out], prompts[training]).sum()),
        "words": {s: {"mean": w.mean().round(2), "median": np.median(w)} for s, w in zip(SIDES, words.T, strict=True)},
        "longer_wins": longer_wins(usable),
    }


def token_counts(rows: list[dict], model: str) -> dict:
    """Tokens of the pairs as the language model reads them, and which of them are too long for it: those are left out
    of training, since a cut answer would be another answer."""
    from common.models import encode_prompt, encode_response, load_tokenizer

    tokenizer = load_tokenizer(model)
    limit = min(MAX_LENGTH, tokenizer.model_max_length)
    prompts = np.array([len(encode_prompt(tokenizer, row["prompt"])) for row in rows])
    answers = np.array([[len(encode_response(tokenizer, row[side])) for side in SIDES] for row in rows])  # (N, 2)
    longest = prompts + answers.max(1)
    sides = dict(zip(("prompt", *SIDES), (prompts, *answers.T), strict=True))
    return {
        **{name: {"mean": counts.mean().round(2), "longest": int(counts.max())} for name, counts in sides.items()},
        "limit": limit,
        "too_long": int((longest > limit).sum()),
    }


# --- 4. From annotations to qualities: Plackett-Luce, of which Bradley-Terry is the case of two ---


def plackett_luce_nll(scores_in_rank_order: np.ndarray) -> np.ndarray:
    """-log P(ranking) in nats: -sum_k [s_k - logsumexp_{j>=k} s_j], for scores (..., K) from best to worst -> (...).

    The best is chosen among K, the next among the rest, and so on (Luce 1959; Plackett 1975). K = 2 is Bradley-Terry's
    -log sigmoid(s_1 - s_2); K > 2 is K - 1 choices among ever fewer, not the mean of the pairwise losses.
    """
    scores = np.asarray(scores_in_rank_order, dtype=float)
    rest = np.logaddexp.accumulate(scores[..., ::-1], axis=-1)[..., ::-1]  # logsumexp over j >= k
    return (rest - scores).sum(-1)


def fit_plackett_luce(rankings: np.ndarray, count: int, prior: float = 0.1) -> np.ndarray:
    """Scores (P, count) that minimise the summed `plackett_luce_nll` of rankings (P, R, K) of item numbers.

    Newton's method for all P prompts at once; the gradient of a choice is one-hot - softmax. Every item also wins and
    loses `prior` comparisons against one of score 0, so that an item which never loses keeps a finite score.
    """
    item = np.eye(count)[rankings]  # (P, R, K, count)
    scores, wins = np.zeros((len(rankings), count)), item[:, :, :-1].sum((1, 2))
    left = np.cumsum(item[:, :, ::-1], axis=2)[:, :, :0:-1]  # (P, R, K-1, count): who is left at each choice
    left = left.reshape(len(rankings), -1, count)
    for _ in range(50):
        p = np.exp(scores)[:, None] * left
        p /= p.sum(-1, keepdims=True)
        half = 1 / (1 + np.exp(-scores))
        gradient = wins - p.sum(1) + prior * (1 - 2 * half)
        hessian = np.eye(count) * (p.sum(1) + 2 * prior * half * (1 - half))[:, None] - p.transpose(0, 2, 1) @ p
        step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -1, 1)
        scores += step
        if np.abs(step).max() < 1e-9:
            break
    return scores


def kendall_tau(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Kendall's tau between the orders of truth and estimate, both (P, N) -> (P,): 1 the same, -1 reversed.

    (Concordant - discordant) / all pairs of items; a pair tied in the estimate counts 0, as a coin flip would.
    """
    i, j = np.triu_indices(truth.shape[1], 1)
    differences = (estimate[:, i] - estimate[:, j]).round(6)
    return (np.sign(truth[:, i] - truth[:, j]) * np.sign(differences)).mean(1)


# --- 5. Which format recovers the true order? ---


def response_utilities(prompts: int) -> np.ndarray:
    """Gold utilities (prompts, 12) of responses in all styles, no two to a prompt equally good."""
    rows = []
    for question in world.questions("train")[:prompts]:
        rng, found = random.Random(question.prompt), {}
        while len(found) < RESPONSES:
            text = write_response(question, rng.choice(styles_for(question)), rng)
            found[round(gold_utility(question.prompt, text), 6)] = text
        rows.append(list(found))
    return np.array(rows)


def recover_order(gold: np.ndarray, passes: tuple[int, ...], seed: int) -> tuple[dict, dict]:
    """Kendall's tau per format and budget, and of scores per number of ratings by one rater.

    All formats view the same readings of gold (P, 12): a pass reads every response once, in random order, and the
    readings are cut into scores, pairs or rankings. Returns {format: (budgets, P)}, and at passes[-3]
    {(ratings by one rater, standardised): (P,)}.
    """
    rng = np.random.default_rng(seed)
    items = rng.permuted(np.tile(np.arange(RESPONSES), (len(gold), passes[-1], 1)), axis=-1).reshape(len(gold), -1)
    perceived = annotate(np.take_along_axis(gold, items, axis=1), rng)  # (P, readings), as items
    raters, costs, taus, by_ratings = draw_raters(RATER_POOL, rng), RESPONSES * np.array(passes), {}, {}
    for name, size in (("listwise", LIST_SIZE), ("pairwise", 2)):
        fits = [fit_plackett_luce(rank_blocks(items[:, :n], perceived[:, :n], size), RESPONSES) for n in costs]
        taus[name] = np.array([kendall_tau(gold, fit) for fit in fits])
    for name, ratings in RATER_DESIGNS.items():
        scores = rate(perceived, assign_raters(raters, items, ratings, rng))
        taus[name] = np.array([kendall_tau(gold, mean_scores(items[:, :n], scores[:, :n])) for n in costs])
    items, perceived = items[:, : costs[-3]], perceived[:, : costs[-3]]
    for ratings in (m for m in (1, 2, 3, 4, 6, 12, 24, 48, 96) if costs[-3] % m == 0):
        scores = rate(perceived, assign_raters(raters, items, ratings, rng))
        by_ratings[ratings, False] = kendall_tau(gold, mean_scores(items, scores))
        if ratings > 1:
            by_ratings[ratings, True] = kendall_tau(gold, mean_scores(items, standardise(scores, ratings)))
    return taus, by_ratings


def rank_blocks(items: np.ndarray, perceived: np.ndarray, size: int) -> np.ndarray:
    """Cut readings (P, n) into blocks of `size` and sort each from best to worst as perceived: (P, n / size, size)."""
    blocks = items.reshape(len(items), -1, size)
    return np.take_along_axis(blocks, np.argsort(-perceived.reshape(blocks.shape), axis=-1), axis=-1)


def assign_raters(raters: list[Rater], items: np.ndarray, ratings: int | None, rng: np.random.Generator) -> Rater:
    """Who scores each of the readings (P, n): a new rater after every `ratings` of them, or one for each response."""
    prompts, n = items.shape
    if ratings is None:
        return pick_raters(raters, np.take_along_axis(rng.integers(len(raters), size=(prompts, RESPONSES)), items, 1))
    return pick_raters(raters, np.repeat(rng.integers(len(raters), size=(prompts, n // ratings)), ratings, axis=1))


def standardise(scores: np.ndarray, ratings: int) -> np.ndarray:
    """Scores (P, n) to mean 0, deviation 1 within every `ratings` of one rater. Of two scores only order is left."""
    blocks = scores.reshape(len(scores), -1, ratings)
    deviation = blocks.std(-1, keepdims=True)
    return ((blocks - blocks.mean(-1, keepdims=True)) / np.where(deviation > 0, deviation, 1)).reshape(scores.shape)


def mean_scores(items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Mean score (P, 12) of every response over the readings (P, n)."""
    sums = np.zeros((len(items), RESPONSES))
    np.add.at(sums, (np.arange(len(items))[:, None], items), scores)
    return sums * RESPONSES / items.shape[1]


def recovery_claims(taus: dict) -> list[dict]:
    """The tutorial's claims on the formats as differences of tau, paired by prompt.

    The budget doubles from row to row of `taus`: for an equal number of annotations, pairs take one row more than
    scores, and rankings of 4 one row more than pairs.
    """
    pairs, lists, scores, own = (taus[k] for k in ("pairwise", "listwise", *list(RATER_DESIGNS)[::2]))
    noise = "> 0 by the tutorial; < 0 by theory: with equal noise per reading, a comparison drops distances"
    reads = "> 0 by the tutorial; open by theory: a pair drops distances but reads twice as much"
    never = "> 0: the offset of a rater, 0.8 points, never averages out"
    more = f"> 0: a ranking of {LIST_SIZE} makes {LIST_SIZE - 1} choices"
    rows = (
        ("pairwise_beats_pointwise_at_equal_cost", "pairs beat scores at equal cost", noise, pairs[-3] - scores[-3]),
        ("pairwise_beats_pointwise_per_annotation", "pairs beat scores per annotation", reads, pairs[-3] - scores[-4]),
        ("pairwise_beats_one_rater_per_response", "pairs beat one rater per response", never, pairs[-3] - own[-3]),
        ("listwise_more_per_annotation", "rankings beat pairs per annotation", more, lists[-2] - pairs[-3]),
        ("listwise_more_at_equal_cost", "rankings beat pairs at equal cost", more, lists[-3] - pairs[-3]),
    )
    return [reporting.make_claim(id, text, predicted, d.mean(), bootstrap_ci(d)) for id, text, predicted, d in rows]


# --- 6. Running it ---


def main(argv: list[str] | None = None) -> dict:
    args, started = build_parser().parse_args(argv), time.time()
    if args.model and not args.dataset:
        raise UserError("--model says how it reads your pairs: give them with --dataset")
    check_writable(args.figures_dir)
    return explore_own_pairs(args, started) if args.dataset else explore_world(args, started)


def explore_world(args: argparse.Namespace, started: float) -> dict:
    """Sections 1 to 5 on the synthetic world."""
    prompts, passes, count = (10, PASSES[:4], 200) if args.smoke else (150, PASSES, 1500)
    print_example(example := example_in_every_format(args.seed))
    rows = world.make_pairs(count, seed=args.seed)
    utilities = np.array([row[f"{side}_utility"] for row in rows for side in SIDES])
    taus, by_ratings = recover_order(response_utilities(prompts), passes, args.seed)
    claims = recovery_claims(taus)
    styles = {side: {s: interval([row[f"{side}_style"] == s for row in rows]) for s in STYLES} for side in SIDES}
    recovery = {"responses_read": [RESPONSES * p for p in passes]}
    recovery["tau"] = {name: [interval(tau) for tau in budgets] for name, budgets in taus.items()}
    for kind, standardised in (("scores", False), ("standardised_scores", True)):
        chosen = {str(m): interval(tau) for (m, z), tau in by_ratings.items() if z == standardised}
        recovery[f"tau_of_{kind}_by_ratings_per_rater"] = chosen
    raters, pairs = rater_disagreement(utilities, args.seed), diagnose(rows, args.seed)
    metrics = {"example": example, "raters": raters, "pairs": pairs, "styles": styles, "recovery": recovery}
    reporting.print_claims(claims)
    if claims[0]["verdict"] == "does not hold":
        print(WHY)
    path = args.figures_dir / "preference_data.png"
    draw_world(path, word_counts(rows), metrics, claims, LIST_SIZE)
    reporting.write_results(path.with_suffix(".json"), Path(__file__).name, vars(args), started, metrics, claims)
    pairwise, listwise, *scores = (
        f"{recovery['tau'][k][-3]['mean']:.2f}" for k in ("pairwise", "listwise", *RATER_DESIGNS)
    )
    lines = [
        f"two raters agree on {raters['two_raters_agree']['mean']:.0%} of responses, "
        f"one rater asked twice on {raters['one_rater_asked_twice_agrees']['mean']:.0%}",
        f"tau at {recovery['responses_read'][-3]} responses read: pairs {pairwise}, rankings {listwise},",
        "scores by " + ", by ".join(f"{name} {tau}" for name, tau in zip(RATER_DESIGNS, scores, strict=True)),
    ]
    reporting.print_summary(lines, [path, path.with_suffix(".json")])
    return metrics


def explore_own_pairs(args: argparse.Namespace, started: float) -> dict:
    """Section 3 on the user's pairs."""
    rows, name = load_preferences(args.dataset), Path(args.dataset).stem
    m, path = diagnose(rows, args.seed), args.figures_dir / f"preference_data_{name}.png"
    usable = pick(rows, usable_pairs(rows)[0])
    draw_own_pairs(path, name, usable[0], word_counts(usable), m)
    lines = [
        f"{m['rows']} rows, {m['usable']} usable pairs on {m['prompts']} prompts",
        f"dropped: {m['identical']} with identical answers, {m['empty']} with an empty one, {m['duplicate']} repeated",
        f"comparisons labelled both ways: {m['contradictory']}",
        f"split by row: {m['leaked']} of {m['held_out']} held-out rows have a prompt that is also in training "
        "(the lab's scripts split by prompt)",
        f"words on average: {m['words']['chosen']['mean']} chosen, {m['words']['rejected']['mean']} rejected",
        length_finding(m["longer_wins"]),
    ]
    if args.model:
        quiet_libraries()
        m["tokens"] = tokens = token_counts(usable, args.model)
        means = ", ".join(f"{name} {tokens[name]['mean']} (at most {tokens[name]['longest']})" for name in COLUMNS)
        lines.append(f"tokens of {args.model}: {means}; {tokens['too_long']} pairs are longer than {tokens['limit']}")
    reporting.write_results(path.with_suffix(".json"), Path(__file__).name, vars(args), started, m)
    reporting.print_summary(lines, [path, path.with_suffix(".json")])
    return m


if __name__ == "__main__":
    run(main)
