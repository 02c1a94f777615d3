"""The figures of preference_data_explorer.py."""

import textwrap
import warnings
from pathlib import Path

from support.drawing import (
    COLORS,
    curve,
    draw_band,
    draw_bars,
    heat_map,
    new_figure,
    save_figure,
)
from support.findings.preference_data import length_finding

import numpy as np

from common.preferences import COLUMNS, SIDES, STYLES

OLIVE, INDIGO, BROWN = "#999933", "#332288", "#8C564B"  # rankings, pairs, scores
COMPARED = -3  # the budget at which the script compares formats
SCORES = {
    "one_rater_for_all": ("scores, one rater for all 12", "--"),
    "new_rater_each_time": ("scores, a new rater each time", "-"),
    "one_rater_per_response": ("scores, one rater per response", ":"),
}
RESPONSES_PER_ANNOTATION = {"listwise": 4, "pairwise": 2}  # and 1 for a score


def draw_preference_data(
    path: Path, metrics: dict, caption: str, default: dict | None = None
) -> None:
    """The world's formats, raters and pairs, and what each format recovers; or your own pairs."""
    if "tau" not in metrics:
        draw_own_pairs(path, metrics, caption)
        return
    fig, axes = new_figure(3, 3)
    prompt = metrics["example"]["pairwise"]["prompt"]
    cards_panel(axes[0], f"One prompt in every format: {prompt}", example_cards(metrics), 40, 8)
    raters_panel(axes[1, 0], metrics["raters"])
    place = axes[1, 1].get_subplotspec().get_gridspec()
    axes[1, 2].remove()
    axes[1, 1].set_subplotspec(place[1, 1:])
    styles_panel(axes[1, 1], metrics["styles"], metrics["pairs"]["words"])
    budget_panels(axes[2, 0], axes[2, 1], metrics)
    noise_panel(axes[2, 2], metrics["break_even"], int(metrics["responses_read"][COMPARED]))
    tau = {name: f"{budgets[COMPARED]['mean']:.2f}" for name, budgets in metrics["tau"].items()}
    factor = metrics["break_even"]["at_equal_cost"]["mean"]
    than = compare_words(metrics["differences"]["pairwise_beats_pointwise_at_equal_cost"])
    title = f"For the same reading, pairs recover {than} scores of the true order (tau "
    title += f"{tau['pairwise']} and {tau['new_rater_each_time']});\nthey win once a score has "
    title += f"{factor:.1f} times the noise"
    if metrics["differences"]["pairwise_beats_one_rater_per_response"]["ci95"][0] > 0:
        title += ", or where one rater always meets the same response "
        title += f"({tau['one_rater_per_response']})"
    save_figure(fig, path, title, caption)


def draw_own_pairs(path: Path, metrics: dict, caption: str) -> None:
    """The user's pairs: lengths, what is wrong with them, and the first of them."""
    warnings.filterwarnings("ignore", message="Glyph")  # the font lacks some alphabets: boxes
    fig, axes = new_figure(2, 3, height=2.9)
    pairs, lengths = metrics["pairs"], metrics["lengths"]
    lengths_panel(axes[0, 0], lengths, pairs["words"])
    difference_panel(axes[0, 1], lengths["difference"], pairs["words"])
    faults_panel(axes[0, 2], pairs)
    first = metrics["first_pair"]
    cards = [(f"{key}: {first[key]}", COLORS.get(key, "grey")) for key in COLUMNS]
    cards_panel(axes[1], "The first pair", [("", cards)], 150, 12)
    faulty = pairs["rows"] - pairs["usable"]
    title = f"{pairs['usable']:.0f} usable pairs, {faulty:.0f} rows that teach nothing;\n"
    save_figure(fig, path, title + length_finding(pairs["longer_wins"]), caption)


# --- Texts ---


def compare_words(difference: dict) -> str:
    """What the interval of a difference allows to say."""
    low, high = difference["ci95"]
    if high < 0:
        return "less than"
    return "more than" if low > 0 else "about as much as"


def shorten(text: str, width: int) -> str:
    """The words of a text that fit."""
    return textwrap.shorten(text, width, placeholder=" ...")


def example_lines(example: dict) -> list[str]:
    """One prompt in every format, for the terminal."""
    pair = example["pairwise"]
    chosen, rejected = (row["scores"] for row in example["pointwise"])
    good, bad = (row["label"] for row in example["unpaired"])
    ranking = " > ".join(shorten(row["response"], 25) for row in example["listwise"])
    return [
        f"prompt     {pair['prompt']}",
        f"pairwise   chosen: {shorten(pair['chosen'], 80)}",
        f"           rejected: {shorten(pair['rejected'], 80)}",
        f"pointwise  three raters score the chosen {chosen}, the rejected {rejected}",
        f"listwise   {ranking}",
        f"unpaired   chosen: {good}, rejected: {bad}",
    ]


def example_cards(metrics: dict) -> list[tuple[str, list]]:
    """The columns of the panel of formats: heading, and cards of (text, colour)."""
    example = metrics["example"]
    pair = [(f"{side}: {example['pairwise'][side]}", COLORS[side]) for side in SIDES]
    points = [(f"{row['scores']}: {row['response']}", "grey") for row in example["pointwise"]]
    ranking = []
    for place, row in enumerate(example["listwise"], start=1):
        ranking.append((f"{place}. (u={row['utility']}) {row['response']}", "grey"))
    labels = zip(example["unpaired"], SIDES, strict=True)
    unpaired = [(f"{row['label']}: {row['completion']}", COLORS[side]) for row, side in labels]
    return [
        ("Pairwise: which is better?", pair),
        ("Pointwise: 1 to 5, by three raters", points),
        ("Listwise: rank (true utility u)", ranking),
        ("Unpaired: good or bad?", unpaired),
    ]


def cards_panel(
    axes, title: str, columns: list[tuple[str, list]], width: int, max_lines: int
) -> None:
    """Columns of cards with wrapped text over a row of axes, made as high as they need."""
    from matplotlib.patches import Rectangle

    ax, place, bottom = axes[0], axes[0].get_subplotspec(), 0.0
    for x, (heading, cards) in enumerate(columns):
        ax.text(x, 0.8, heading, weight="bold")
        y = 1.3 if heading else 0.0
        for text, color in cards:
            most = max_lines // len(cards)
            lines = textwrap.wrap(text, width, max_lines=most, placeholder=" ...")
            card = Rectangle((x, y), 0.97, len(lines) + 0.5, color=color, alpha=0.2, lw=0)
            ax.add_patch(card)
            for k, line in enumerate(lines):
                left = x + 0.005 * len(columns)
                ax.text(left, y + k + 0.95, line, size=9.5, parse_math=False)
            y += len(lines) + 0.8
        bottom = max(bottom, y)
    grid, row = place.get_gridspec(), place.rowspan.start
    grid.set_height_ratios([bottom / 14 if k == row else 1 for k in range(grid.nrows)])
    ax.set_subplotspec(grid[row, :])
    for other in axes[1:]:
        other.remove()
    ax.set(xlim=(0, len(columns)), ylim=(bottom, 0))
    ax.set_title(title, parse_math=False)
    ax.set_axis_off()


# --- The world ---


def raters_panel(ax, raters: dict) -> None:
    """P(second rater's score | first rater's score) for the same response."""
    table = np.array(raters["second_given_first"])
    heat_map(ax, table, ".0%")
    ax.set_xticks(range(5), range(1, 6))
    ax.set_yticks(range(5), range(1, 6))
    ax.set(xlabel="score by a second rater", ylabel="score by a first rater")
    agree = raters["two_raters_agree"]["mean"]
    again = raters["one_rater_asked_twice_agrees"]["mean"]
    title = f"One person's 4 is another's 3 ({table[3, 2]:.0%}):\n{agree:.0%} of scores agree, "
    ax.set_title(title + f"{again:.0%} by the same rater")


def styles_panel(ax, styles: dict, words: dict) -> None:
    """Share of every style among the chosen and among the rejected."""
    for k, side in enumerate(SIDES):
        y, rows = np.arange(len(STYLES)) + 0.4 * k, [styles[side][style] for style in STYLES]
        label = f"of the {side} ({words[side]['mean']:.1f} words on average)"
        draw_bars(ax, y, rows, COLORS[side], horizontal=True, height=0.38, label=label)
    ax.set_yticks(np.arange(len(STYLES)) + 0.2, [style.replace("_", " ") for style in STYLES])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    concise = styles["chosen"]["concise"]["mean"]
    title = f"{concise:.0%} of the chosen answers are concise;\nthe rejected ones are off topic, "
    ax.set(title=title + "wrong, or padded", xlabel="share of answers", xlim=(0, None))
    ax.legend(loc="lower right")


def budget_panels(cost_ax, count_ax, metrics: dict) -> None:
    """tau against responses read, and against annotations."""
    costs, tau = np.array(metrics["responses_read"], dtype=int), metrics["tau"]
    lines = {"listwise": ("rankings of 4", "-", OLIVE), "pairwise": ("pairs", "-", INDIGO)}
    lines |= {name: (label, style, BROWN) for name, (label, style) in SCORES.items()}
    for name, (label, style, color) in lines.items():
        size = RESPONSES_PER_ANNOTATION.get(name, 1)
        for ax, x in ((cost_ax, costs), (count_ax, costs / size)):
            marker = "" if name in SCORES else "o"
            draw_band(ax, x, *curve(tau[name]), color, label, ls=style, marker=marker, ms=4)
    at_cost, per_annotation = (
        compare_words(metrics["differences"][f"pairwise_beats_pointwise_{basis}"])
        for basis in ("at_equal_cost", "per_annotation")
    )
    cost_ax.set_title(f"For the same reading pairs recover\n{at_cost} scores")
    count_ax.set_title(f"Each ranking tells most,\neach pair {per_annotation} a score")
    cost_ax.set_xlabel("responses read per prompt")
    count_ax.set_xlabel("annotations per prompt")
    for ax, ticks in ((cost_ax, costs), (count_ax, sorted({*costs // 4, *costs}))):
        ax.set(xscale="log", ylabel="order recovered, Kendall's tau", ylim=(0, 1))
        ax.set_xticks(ticks, ticks)
        ax.minorticks_off()
    handles, labels = cost_ax.get_legend_handles_labels()
    cost_ax.figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)


def noise_panel(ax, breaks: dict, read: int) -> None:
    """tau of scores as their readings become noisier, against that of pairs."""
    factors = breaks["factors"]
    rows = {
        "at_equal_cost": (f"{read} scores", "-"),
        "per_annotation": (f"{read // 2} scores", "-."),
    }
    level = curve([breaks["pairs"]] * 2)
    draw_band(ax, [factors[0], factors[-1]], *level, INDIGO, f"{read // 2} pairs ({read} read)")
    for basis, (label, style) in rows.items():
        draw_band(ax, factors, *curve(breaks[f"scores_{basis}"]), BROWN, label, ls=style)
        ax.plot(breaks[basis]["mean"], level[0, 0], "o", color=INDIGO, mec="white", ms=8)
    equal, each = (breaks[basis]["mean"] for basis in rows)
    ax.set_title(
        f"Pairs win once scores are {equal:.1f} times\nas noisy ({each:.1f} per annotation)"
    )
    ax.set(xlabel="noise of a score / of a comparison", ylabel="order recovered, Kendall's tau")
    ax.legend()


# --- Your own pairs ---


def lengths_panel(ax, lengths: dict, words: dict) -> None:
    """Distributions of the lengths of chosen and rejected."""
    for side, style in zip(SIDES, ({}, {"fill": False, "lw": 2}), strict=True):
        counts, edges = lengths[side]["counts"], lengths[side]["edges"]
        color = {"ec": COLORS[side]} if style else {"color": COLORS[side]}
        ax.stairs(counts, edges, label=side, **{"fill": True, **style, **color})
    chosen, rejected = (words[side]["mean"] for side in SIDES)
    ax.set_title(f"On average {chosen:.1f} words chosen, {rejected:.1f} rejected")
    ax.set(xlabel="words (the last bin: or more)", ylabel="responses")
    ax.legend()


def difference_panel(ax, difference: dict, words: dict) -> None:
    """How many words longer the chosen response is."""
    ax.stairs(difference["counts"], difference["edges"], fill=True, color="grey")
    ax.axvline(0, color=COLORS["theory"], ls=":")
    mean = words["chosen"]["mean"] - words["rejected"]["mean"]
    longer = "longer" if mean > 0 else "shorter"
    ax.set_title(f"Chosen is {abs(mean):.1f} words {longer} on average")
    ax.set(xlabel="words of chosen - words of rejected (outer bins: or more)", ylabel="pairs")


def faults_panel(ax, pairs: dict) -> None:
    """Counts of what is wrong with the rows."""
    names = {
        "identical": "identical answers",
        "empty": "empty answer",
        "duplicate": "duplicate row",
        "contradictory": "labelled both ways",
        "leaked": f"prompt leaks\n({pairs['held_out']:.0f} held out)",
    }
    counts = [pairs[key] for key in names]
    ax.bar_label(ax.barh(list(names.values()), counts, color="grey"), padding=3)
    ax.set(title=f"Faults among {pairs['rows']:.0f} rows", xlabel="rows")
    ax.set_xlim(0, 1.15 * max(1, *counts))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
