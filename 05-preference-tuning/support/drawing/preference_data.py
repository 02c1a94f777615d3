"""The figures of preference_data_explorer.py."""

import textwrap
import warnings
from pathlib import Path

import numpy as np

from common.preferences import COLUMNS, SIDES, STYLES
from drawing import COLORS, curve, draw_band, error_bars, heat_map, new_figure, save_figure


def draw_world(path: Path, words: np.ndarray, metrics: dict, claims: list[dict], list_size: int) -> None:
    """The figure of the synthetic world: formats, raters, pairs, and what each format recovers.

    `words` (N, 2) are the lengths of chosen and rejected; rankings are of `list_size` responses.
    """
    fig, axes = new_figure(3, 3)
    example = metrics["example"]
    cards_panel(axes[0], f"One prompt in every format: {example['pairwise']['prompt']}", example_cards(example), 40, 8)
    raters_panel(axes[1, 0], metrics["raters"])
    lengths_panel(axes[1, 1], words)
    reasons_panel(axes[1, 2], metrics["styles"])
    recovery_panels(axes[2], metrics["recovery"], list_size)
    verbs = {"holds": "better than", "does not hold": "less well than", "no difference": "about as well as"}
    tau = {name: f"{budgets[-3]['mean']:.2f}" for name, budgets in metrics["recovery"]["tau"].items()}
    title = f"At equal cost, pairs (tau {tau['pairwise']}) recover the true order {verbs[claims[0]['verdict']]} scores "
    title += f"({tau['a new rater each time']}),\nand {verbs[claims[2]['verdict']]} scores where every response has "
    save_figure(fig, path, title + f"a rater of its own ({tau['one rater per response']})")


def draw_own_pairs(path: Path, name: str, first: dict, words: np.ndarray, metrics: dict) -> None:
    """The figure of the user's pairs: lengths (N, 2), what is wrong with them, and the first of them."""
    warnings.filterwarnings("ignore", message="Glyph")  # the font lacks some alphabets: boxes, without a complaint
    fig, axes = new_figure(2, 3, height=2.9)
    lengths_panel(axes[0, 0], words)
    difference_panel(axes[0, 1], words @ [1, -1])
    faults_panel(axes[0, 2], metrics)
    cards = [(f"{key}: {first[key]}", COLORS.get(key, "grey")) for key in COLUMNS]
    cards_panel(axes[1], "The first pair", [("", cards)], 150, 12)
    name, faulty = shorten(name, 50).replace("$", r"\$"), metrics["rows"] - metrics["usable"]
    title = f"{name}: {metrics['usable']} usable pairs, {faulty} rows that teach nothing;\n"
    save_figure(fig, path, title + length_finding(metrics["longer_wins"]))


def length_finding(longer: dict) -> str:
    """What the interval of the length baseline allows to say."""
    (low, high), share = longer["ci95"], longer["mean"]
    if high < 0.5:
        return f"the shorter answer wins {1 - share:.0%} [{1 - high:.0%}, {1 - low:.0%}]"
    undecided = "" if low > 0.5 else "no telling by length: "
    return f"{undecided}the longer answer wins {share:.0%} [{low:.0%}, {high:.0%}]"


def shorten(text: str, width: int) -> str:
    """The words of a text that fit."""
    return textwrap.shorten(text, width, placeholder=" ...")


def example_cards(example: dict) -> list[tuple[str, list]]:
    """The columns of the panel of formats: heading, and cards of (text, colour)."""
    pair, points, ranking = example["pairwise"], example["pointwise"], enumerate(example["listwise"], start=1)
    labels = zip(example["unpaired"], SIDES, strict=True)
    return [
        ("Pairwise: which is better?", [(f"{side}: {pair[side]}", COLORS[side]) for side in SIDES]),
        ("Pointwise: 1 to 5, by three raters", [(f"{r['scores']} {r['response']}", "grey") for r in points]),
        (
            "Listwise: rank (true utility u)",
            [(f"{k}. (u={r['utility']:g}) {r['response']}", "grey") for k, r in ranking],
        ),
        ("Unpaired: good or bad?", [(f"{row['label']}: {row['completion']}", COLORS[side]) for row, side in labels]),
    ]


def cards_panel(axes, title: str, columns: list[tuple[str, list]], width: int, max_lines: int) -> None:
    """Columns of cards with wrapped text over a whole row of axes, which becomes as high as they need."""
    from matplotlib.patches import Rectangle

    ax, place, bottom = axes[0], axes[0].get_subplotspec(), 0.0
    for x, (heading, cards) in enumerate(columns):
        ax.text(x, 0.8, heading, weight="bold")
        y = 1.3 if heading else 0.0
        for text, color in cards:
            lines = textwrap.wrap(text, width, max_lines=max_lines // len(cards), placeholder=" ...")
            ax.add_patch(Rectangle((x, y), 0.97, len(lines) + 0.5, color=color, alpha=0.2, lw=0))
            for k, line in enumerate(lines):
                ax.text(x + 0.005 * len(columns), y + k + 0.95, line, size=9.5, parse_math=False)
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


def raters_panel(ax, raters: dict) -> None:
    """P(second rater's score | first rater's score) for the same response."""
    table = np.array(raters["second_given_first"])
    heat_map(ax, table, ".0%")
    ax.set_xticks(range(5), range(1, 6))
    ax.set_yticks(range(5), range(1, 6))
    ax.set(xlabel="score by a second rater", ylabel="score by a first rater")
    agree, again = raters["two_raters_agree"]["mean"], raters["one_rater_asked_twice_agrees"]["mean"]
    title = f"One rater's 4 is another's 3 in {table[3, 2]:.0%} of cases;\n"
    ax.set_title(title + f"two agree on {agree:.0%}, one asked twice on {again:.0%}")


def lengths_panel(ax, words: np.ndarray) -> None:
    """Distributions of the lengths (N, 2) of chosen and rejected; the last bin holds all longer ones."""
    end = max(8, int(np.percentile(words, 98)))
    bins = np.arange(0, end + 2, max(1, end // 25)) - 0.5
    clipped, (chosen, rejected) = np.clip(words, 0, bins[-1]), words.mean(0)
    ax.hist(clipped[:, 0], bins, color=COLORS["chosen"], label="chosen")
    ax.hist(clipped[:, 1], bins, color=COLORS["rejected"], label="rejected", histtype="step", lw=2)
    ax.set(xlabel="words (the last bin: or more)", ylabel="responses")
    ax.set_title(f"On average {chosen:.1f} words chosen, {rejected:.1f} rejected")
    ax.legend()


def reasons_panel(ax, styles: dict) -> None:
    """Share of every style among the chosen and among the rejected."""
    for k, side in enumerate(SIDES):
        y, rows = np.arange(len(STYLES)) + 0.4 * k, styles[side].values()
        bars = {"xerr": error_bars(rows), "error_kw": {"lw": 1}}
        ax.barh(y, curve(rows)[0], 0.38, color=COLORS[side], label=f"of the {side}", **bars)
    worst = max(STYLES, key=lambda style: styles["rejected"][style]["mean"])
    ax.set_yticks(np.arange(len(STYLES)) + 0.2, [style.replace("_", " ") for style in STYLES])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    share = styles["rejected"][worst]["mean"]
    ax.set(title=f"Most rejected: {worst.replace('_', ' ')} ({share:.0%})", xlabel="share")
    ax.legend(loc="lower right")


def recovery_panels(axes, recovery: dict, list_size: int) -> None:
    """tau against responses read and against annotations, and of scores against ratings by one rater."""
    from matplotlib.ticker import MultipleLocator

    olive, indigo, brown = "#999933", "#332288", "#8C564B"  # the formats; no colour of another meaning in the lab
    lines = {"listwise": (olive, "-", "s", list_size), "pairwise": (indigo, "-", "o", 2)}
    designs = [name for name in recovery["tau"] if name not in lines]
    lines |= {name: (brown, style, "", 1) for name, style in zip(designs, ("-", "--", ":"), strict=True)}
    costs = np.array(recovery["responses_read"])
    for name, (color, style, marker, size) in lines.items():
        label = f"scores, {name}" if name in designs else name
        for ax, x in ((axes[0], costs), (axes[1], costs / size)):
            draw_band(ax, x, *curve(recovery["tau"][name]), color, label, ls=style, marker=marker, ms=4)
    for kind, style in (("standardised_scores", "--"), ("scores", "-")):
        rows = recovery[f"tau_of_{kind}_by_ratings_per_rater"]
        x = [int(ratings) for ratings in rows]
        draw_band(axes[2], x, *curve(rows.values()), brown, kind.replace("_", " "), ls=style, marker="o", ms=4)
    pairs = curve([recovery["tau"]["pairwise"][-3]] * 2)
    draw_band(axes[2], [1, x[-1]], *pairs, indigo, "pairwise")
    axes[2].text(2.9, pairs[2, 0] + 0.006, "two standardised scores\nare one comparison", size=9)
    axes[0].set(title="The order recovered at equal cost", xlabel="responses read per prompt", ylim=(0, 1))
    axes[1].set(title="The same per annotation", xlabel="annotations per prompt", ylim=(0, 1))
    axes[2].set(title=f"Scores at {costs[-3]} responses read", xlabel="ratings by one rater")
    for ax, ticks in zip(axes, (costs, sorted({*costs // 4, *costs}), x), strict=True):
        ax.set(xscale="log", ylabel="Kendall's tau")
        ax.set_xticks(ticks, ticks)
        ax.minorticks_off()
    axes[0].legend(loc="lower right", fontsize=8.5)
    axes[2].legend(loc="center right")
    axes[2].yaxis.set_major_locator(MultipleLocator(0.05))


def difference_panel(ax, difference: np.ndarray) -> None:
    """How many words longer the chosen response is; the outer bins hold all beyond."""
    reach = max(3, int(np.percentile(np.abs(difference), 98)))
    bins = np.arange(-reach, reach + 2, max(1, reach // 12)) - 0.5
    ax.hist(np.clip(difference, bins[0], bins[-1]), bins, color="grey")
    ax.axvline(0, color=COLORS["theory"], ls=":")
    title = (
        f"Chosen is {abs(difference.mean()):.1f} words {'longer' if difference.mean() > 0 else 'shorter'} on average"
    )
    ax.set(title=title, xlabel="words of chosen - words of rejected", ylabel="pairs")


def faults_panel(ax, metrics: dict) -> None:
    """Counts of what is wrong with the rows."""
    names = {"identical": "identical answers", "empty": "empty answer", "duplicate": "duplicate row"}
    names |= {"contradictory": "labelled both ways", "leaked": f"prompt leaks\n({metrics['held_out']} held out)"}
    counts = [metrics[key] for key in names]
    ax.bar_label(ax.barh(list(names.values()), counts, color="grey"), padding=3)
    ax.set(title=f"Faults among {metrics['rows']} rows", xlabel="rows", xlim=(0, 1.15 * max(1, *counts)))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
