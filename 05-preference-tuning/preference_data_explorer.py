"""Preference data: how are preferences written down, and what is chosen and rejected?

    python 05-preference-tuning/preference_data_explorer.py
    python 05-preference-tuning/preference_data_explorer.py --dataset pairs.jsonl  # yours

looked at    1,500 pairs of answers, labelled by noisy annotators without a bias
by           counting; one prompt is shown in the tutorial's three formats and in KTO's (unpaired)
judged by    gold utility, the true quality of an answer: 3 if it is right, 1 if it is on topic,
             -0.15 for a word of filler; differences are log-odds
writes       outputs/preference_data.png, outputs/preference_data.json

About 2 seconds. With --dataset: what is wrong with your pairs or labelled answers; with --model
also which rows it cannot read. Left out: which format tells more (studies/pairs_or_scores.py).
"""

import random
import shlex
import sys
import textwrap
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np
from own_data import look, read

from common import answers, runs
from common import preferences as world
from common.figures import legend_below, new_figure
from common.intervals import percent, summary
from common.models import load_tokenizer
from common.prompts import as_text, reads_pairs

# --- 1. Rankings, and scores: one person's 4 is another's 3 ---


def plackett_luce_nll(scores_in_rank_order: np.ndarray) -> np.ndarray:
    """-log P(ranking) in nats: -sum_k [s_k - logsumexp_{j>=k} s_j]; (..., K), best first -> (...).

    The best is chosen among K, the next among the rest, and so on (Luce 1959; Plackett 1975). K = 2
    is Bradley-Terry's -log sigmoid(s_1 - s_2); K > 2 is K - 1 choices among ever fewer, not the
    mean of the pairwise losses. studies/pairs_or_scores.py fits qualities by minimising it.
    """
    worst_first = np.asarray(scores_in_rank_order, dtype=float)[..., ::-1]
    rest = np.logaddexp.accumulate(worst_first, axis=-1)  # logsumexp over j >= k
    return (rest - worst_first).sum(-1)


class Rater(NamedTuple):
    """How people turn what they perceive into a score; arrays of one shape."""

    offset: np.ndarray  # how lenient: points that are added to the score
    scale: np.ndarray  # how far apart their scores are; 1: as the average rater's


def draw_raters(count: int, rng: np.random.Generator) -> Rater:
    """Raters with an offset (standard deviation 0.8 points) and a scale (log-normal, 30 %)."""
    offset, scale = rng.normal(0, (0.8, 0.3), size=(count, 2)).T
    return Rater(offset, np.exp(scale))


def rate(perceived: np.ndarray, rater: Rater) -> np.ndarray:
    """Scores 1 to 5 of perceived utilities; the average rater maps -1 ... 4 evenly."""
    centred = 0.8 * (np.asarray(perceived) - 1.5)
    return np.clip(np.rint(3 + rater.offset + rater.scale * centred), 1, 5).astype(int)


def rater_disagreement(utilities: np.ndarray, seed: int) -> dict:
    """How two raters score the same answers of gold `utilities` (N,), two new ones for each.

    `second_given_first` (5, 5) is P(second rater's score | first rater's score).
    """
    rng, count = np.random.default_rng(seed), len(utilities)
    first, second = draw_raters(count, rng), draw_raters(count, rng)
    one_look, other_look = world.annotate(utilities, rng), world.annotate(utilities, rng)
    scores, of_second = rate(one_look, first), rate(other_look, second)  # (N,)
    table = np.histogram2d(scores, of_second, bins=np.arange(0.5, 6))[0]
    return {
        "second_given_first": table / np.maximum(table.sum(1, keepdims=True), 1),
        "two_raters_agree": float((scores == of_second).mean()),
        "one_rater_asked_twice_agrees": float((scores == rate(other_look, first)).mean()),
    }


# --- 2. One prompt in every format, and what is chosen ---


def example_in_every_format(seed: int) -> dict:
    """Four answers to one prompt, each perceived once; all but the ranking show two of them."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    (question,) = world.wrong_users("train", 1)
    styles = ("concise", "verbose", "sycophantic", "expert")
    texts = [world.write_response(question, style, rng) for style in styles]
    utilities = [world.gold_utility(question.prompt, text) for text in texts]
    perceived = world.annotate(np.array(utilities), noise)
    chosen, rejected = np.argsort(-perceived[:2])
    pair = {"prompt": question.prompt, "chosen": texts[chosen], "rejected": texts[rejected]}
    raters = draw_raters(3, noise)
    scores = [" ".join(map(str, rate(one, raters))) for one in perceived[:2]]
    return {
        "pairwise": pair,
        "pointwise": {"chosen": scores[chosen], "rejected": scores[rejected]},
        "listwise": [{"text": texts[k], "utility": utilities[k]} for k in np.argsort(-perceived)],
        "unpaired": world.make_unpaired([pair]),
    }


def describe_sides(rows: list[dict]) -> dict:
    """Of chosen and rejected: how often each style, how many words; and how often length wins."""
    sides = {}
    for side in world.SIDES:
        styles = [row[f"{side}_style"] for row in rows]
        shares = {style: styles.count(style) / len(rows) for style in world.STYLES}
        sides[side] = {"styles": shares, "words": [answers.count_words(row[side]) for row in rows]}
    longer = np.sign(np.subtract(sides["chosen"]["words"], sides["rejected"]["words"]))
    return {**sides, "longer_is_chosen": float((longer.mean() + 1) / 2)}  # a tie counts half


# --- 3. The figure ---


def draw(metrics: dict):
    """The cards of the example; what a second rater says; both sides by style and by length."""
    figure, axes = new_figure(2, 3, "One prompt in four formats, and what annotators choose")
    grid, sides = axes[0].get_gridspec(), metrics["sides"]
    grid.set_height_ratios([0.8, 1])
    for ax in axes[:3]:
        ax.remove()
    cards_panel(figure.add_subplot(grid[0, :]), metrics["example"])

    ax, shares = axes[3], metrics["raters"]["second_given_first"]
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto", extent=(0.5, 5.5, 5.5, 0.5))
    for (first, second), share in np.ndenumerate(shares):
        ink = {"color": "white" if share > 0.5 else "black", "ha": "center", "va": "center"}
        ax.text(second + 1, first + 1, f"{100 * share:.0f}", **ink)
    ax.grid(visible=False)
    ax.set(title="What a second rater says (%)", xlabel="second score", ylabel="first score")

    ax = axes[4]
    for k, side in enumerate(world.SIDES):
        shares = [100 * share for share in sides[side]["styles"].values()]
        ax.barh(np.arange(len(shares)) + 0.4 * k, shares, 0.38, color=f"lab:{side}", label=side)
    told = {"off_topic": "off topic", "sycophantic": "agrees with\nthe user"}
    ax.set_yticks(np.arange(6) + 0.2, [told.get(style, style) for style in world.STYLES])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(title="What is chosen, by style", xlabel="% of chosen or of rejected answers")
    ax.legend(loc="lower right")

    edges = np.arange(max(sides["chosen"]["words"] + sides["rejected"]["words"]) + 2) - 0.5
    counted = {side: np.histogram(sides[side]["words"], edges) for side in world.SIDES}
    lengths_panel(axes[5], counted, "What is chosen, by length", "words")
    axes[5].legend()
    return figure


def cards_of(example: dict) -> dict[str, list[tuple[str, str]]]:
    """What each format says of which answer: for the figure and for the terminal."""
    pair, scores, ranked = (example[name] for name in ("pairwise", "pointwise", "listwise"))
    return {
        "Pairwise: which is better?": [(f"{side}:", pair[side]) for side in world.SIDES],
        "Pointwise: three people, 1 to 5": [(f"{scores[s]}:", pair[s]) for s in world.SIDES],
        "Listwise: a ranking": [(f"{k}.", row["text"]) for k, row in enumerate(ranked, 1)],
        "Unpaired, for KTO: good or bad?": [
            ("good:" if row["label"] else "bad:", row["completion"]) for row in example["unpaired"]
        ],
    }


def cards_panel(ax, example: dict) -> None:
    """The same answers to one prompt as each format records them; wrong ones are marked."""
    prompt = example["pairwise"]["prompt"]
    for left, (heading, cards) in enumerate(cards_of(example).items()):
        ax.text(left, 1, heading.replace(": ", "\n"), weight="bold", va="bottom")
        colors = ("lab:chosen", "lab:rejected") if left in (0, 3) else 4 * ("#888888",)
        y = 1.4
        for (told, text), color in zip(cards, colors, strict=False):
            wrong = "(wrong) " if "[wrong" in answers.marks(prompt, text) else ""
            most = {"max_lines": 10 // len(cards), "placeholder": " ..."}
            lines = textwrap.wrap(f"{told} {wrong}{text}", 30, **most)
            card = {"align": "edge", "color": color, "alpha": 0.2, "lw": 0}
            ax.bar(left, len(lines) + 0.4, 0.97, bottom=y, **card)
            for k, line in enumerate(lines):
                ax.text(left + 0.02, y + k + 0.9, line, size=8, parse_math=False)
            y += len(lines) + 0.8
    ax.set_title(f"The prompt: {prompt}", parse_math=False)
    ax.set(xlim=(0, 4), ylim=(12, -0.8))
    ax.set_axis_off()


def lengths_panel(ax, counted: dict[str, tuple], title: str, xlabel: str) -> None:
    """How long answers of two kinds are: {label: (counts, edges)}; the first: chosen, or good."""
    styles = {"fill": True, "color": "lab:chosen"}, {"ec": "lab:rejected", "lw": 1.6}
    for (label, (counts, edges)), style in zip(counted.items(), styles, strict=False):
        ax.stairs(counts, edges, label=label, **style)
    ax.set(title=title, xlabel=xlabel, ylabel="answers")


# --- 4. Your own data ---


def describe_pairs(path: str, model: str | None = None, **reading: str) -> dict:
    """Print two of your pairs, or of your answers with labels (`kind`), and what is wrong with all.

    Returns what was counted; `lengths` are side -> histogram, in `unit`. Raises UserError.
    """
    tokenizer = load_tokenizer(model) if model else None
    room = 48 if tokenizer and not reads_pairs(tokenizer) else None  # tokens, to sample an answer
    data = read.usable(read.read_data(path, "pairs", "labels", **reading), tokenizer, room)
    kind, rows, said = data.kind, data.rows, read.count_by_reason(data.dropped)
    if not len(rows):
        raise runs.UserError(f"{path}: no usable row: {said}")
    texts = [text for row in rows for text in read.answers_of(row)]
    signs = sum(len(answers.UNSPACED.findall(text)) for text in texts)  # each counts as a word
    found = {
        "kind": kind,
        "rows": len(rows) + sum(map(len, data.dropped.values())),
        "usable": len(rows),
        "what": "pairs" if kind == "pairs" else "answers with a label",
        **look.count_marks(rows),
        **describe_answers(kind, rows),
        "contradictory": len(data.places.get(read.CONTRARY, ())) // 2,
        "dropped": {reason: places for reason, places in data.dropped.items() if places},
        "unit": "characters" if 2 * signs > sum(map(answers.count_words, texts)) else "words",
    }
    beside = look.side_by_side(rows)
    for row in () if len(beside) else (rows[0], rows[-1]):  # all are good, or all are bad
        print(f"\n{as_text(row['prompt'])}\n    {row['completion']}")
    look.show_pairs(beside, kind == "labels")
    print("\n{rows} rows, {usable} usable {what}, {prompts} prompts".format(**found))
    shown = {**found, "marked": round(100 * found["marks"])}
    shown |= {k: percent(found[k]) for k in ("longer_wins", "good") if k in found}
    told = [text.format(**shown) for key, text in look.DESCRIBED.items() if shown.get(key)]
    for line in filter(None, [said and f"dropped: {said}", "; ".join(data.remarks), *told]):
        print(textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="    "))
    return found


def describe_answers(kind: str, rows) -> dict:
    """How often the longer answer wins, or how many are good; how long the answers are."""
    keys = np.array([read.key_of(row["prompt"]) for row in rows], dtype=np.uint64)
    prompts = np.unique(keys, return_inverse=True)[1]
    if kind == "pairs":
        words = {side: np.array([*map(answers.count_words, rows[side])]) for side in world.SIDES}
        longer = (np.sign(words["chosen"] - words["rejected"]) + 1) / 2  # ties half
        hits, pairs, wins = np.bincount(prompts, longer), np.bincount(prompts), longer.mean()
        # Pairs of one prompt go together: the interval is that of a ratio, linearised, over prompts
        found = {"longer_wins": summary(wins + (hits - wins * pairs) / pairs.mean())}
    else:
        good = np.array(rows["label"])
        counts = np.array([*map(answers.count_words, rows["completion"])])
        words = {"good": counts[good], "bad": counts[~good]}
        both = len(np.intersect1d(prompts[good], prompts[~good]))
        found = {"prompts_with_both": both, "good": summary(good)}
    found |= {"prompts": int(prompts.max()) + 1, "lengths": {}}
    for side, counts in words.items():
        if len(counts):  # the last bin holds what lies beyond 98 % of them, too
            reach = max(3, int(np.percentile(counts, 98)))
            edges = np.arange(0, reach + 2, max(1, reach // 25)) - 0.5
            bars = np.histogram(np.clip(counts, edges[0], edges[-1]), edges)[0].tolist()
            found["lengths"][side] = {"mean": counts.mean(), "counts": bars, "edges": edges}
    return found


def draw_own_data(found: dict):
    """How long your answers are, and how many rows have which fault."""
    title = "{usable:,} of {rows:,} rows are usable {what}".format(**found)
    figure, (left, right) = new_figure(1, 2, title)
    counted = {}
    for side, bars in found["lengths"].items():
        label = f"{sum(bars['counts']):,} {side}, mean {bars['mean']:.1f}"
        counted[label] = bars["counts"], bars["edges"]
    lengths_panel(left, counted, "How long the answers are", f"{found['unit']} (last bin: or more)")
    legend_below(left, ncols=1)
    faults = {textwrap.fill(reason, 22): len(rows) for reason, rows in found["dropped"].items()}
    faults["labelled both ways"] = found["contradictory"]
    right.bar_label(right.barh(list(faults), faults.values(), color="#888888"), padding=3)
    right.set(title="Rows with a fault", xlabel="rows", xlim=(0, 1.2 * max(1, *faults.values())))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    return figure


# --- 5. The run ---


def print_found(example: dict, raters: dict, sides: dict) -> None:
    """One prompt in every format, and what was counted."""
    prompt = example["pairwise"]["prompt"]
    print(f"\n{prompt}")
    for heading, cards in cards_of(example).items():
        beside = iter(heading.split(": "))  # its name, and below it the question
        for told, text in cards:
            shown = answers.in_short(text, 40) + answers.marks(prompt, text)
            print(f"  {next(beside, ''):<23}{told:<10}{shown}")
    rows = [
        ("two raters give an answer the same score", raters["two_raters_agree"], "% of answers"),
        ("one rater, asked twice", raters["one_rater_asked_twice_agrees"], "% of answers"),
        *((f"concise among the {s}", sides[s]["styles"]["concise"], "%") for s in world.SIDES),
        *((f"length of the {s}", float(np.mean(sides[s]["words"])), "words") for s in world.SIDES),
        ("the longer answer is chosen", sides["longer_is_chosen"], "% of pairs"),
    ]
    answers.print_table(("", "measured"), rows)


def main(argv: list[str] | None = None) -> dict:
    """Look at the world's pairs or at yours; returns the metrics."""
    parser = runs.make_parser(__file__, __doc__)
    runs.add_dataset_flags(parser)
    parser.add_argument("--model", type=runs.non_empty, help="says which rows it cannot read")
    parser.add_argument("--pairs", type=runs.whole_number(1), default=1500, help="default: 1500")
    args = runs.start(parser, argv, "preference_data", smoke={"pairs": 200})
    if args.held_out or args.max_length:
        reason = "the explorer looks at all of --dataset; what is held out and how long, a training"
        raise runs.UserError(f"--held-out, --max-length: {reason} is told")
    if args.model and not args.dataset:
        raise runs.UserError("--model says how it reads your pairs: give them with --dataset")

    if args.dataset:
        metrics = describe_pairs(args.dataset, args.model, **args.reading)
        trainers = {"pairs": "dpo_trainer.py", "labels": "dpo_variants.py --loss-type kto"}
        given = shlex.join(sys.argv[1:] if argv is None else argv)
        next_step = f"python 05-preference-tuning/{trainers[metrics['kind']]} {given}"
        return runs.finish(args, metrics, draw_own_data(metrics), next_step)

    print(f"{args.pairs:,} pairs of answers, labelled by noisy annotators without a bias")
    rows = world.make_pairs(args.pairs, seed=args.seed)
    utilities = np.array([row[f"{side}_utility"] for row in rows for side in world.SIDES])
    metrics = {
        "example": example_in_every_format(args.seed),
        "raters": rater_disagreement(utilities, args.seed),
        "sides": describe_sides(rows),
    }
    print_found(**metrics)
    next_step = "python 05-preference-tuning/studies/pairs_or_scores.py: which format tells more?"
    return runs.finish(args, metrics, draw(metrics), next_step)


if __name__ == "__main__":
    runs.run(main)
