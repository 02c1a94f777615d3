"""The figures of preference_data_explorer.py."""

import textwrap

from support.drawing import COLORS, Drawing, curve, draw_band, draw_bars, heat_map
from support.drawing.cards import draw_cards
from support.drawing.glyphs import drawable, fonts_for
from support.drawing.labelled_data import draw_labelled
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
LINES = {"listwise": ("rankings of 4", "-", OLIVE), "pairwise": ("pairs", "-", INDIGO)}
LINES |= {name: (label, style, BROWN) for name, (label, style) in SCORES.items()}
RESPONSES_PER_ANNOTATION = {"listwise": 4, "pairwise": 2}  # and 1 for a score


def draw_preference_data(metrics: dict, default: dict | None = None) -> Drawing:
    """The world's formats, raters and pairs, and what each format recovers; or your own pairs."""
    if "labels" in metrics:
        return draw_labelled(metrics)
    if "tau" not in metrics:
        return draw_own_pairs(metrics)
    tau = {name: f"{budgets[COMPARED]['mean']:.2f}" for name, budgets in metrics["tau"].items()}
    factor = metrics["break_even"]["at_equal_cost"]["mean"]
    than = compare_words(metrics["differences"]["pairwise_beats_pointwise_at_equal_cost"])
    title = f"For the same reading, pairs recover {than} scores of the true order (tau "
    title += f"{tau['pairwise']} and {tau['new_rater_each_time']});\nthey win once a score has "
    title += f"{factor:.1f} times the noise"
    if metrics["differences"]["pairwise_beats_one_rater_per_response"]["ci95"][0] > 0:
        title += ", or where one rater always meets the same response "
        title += f"({tau['one_rater_per_response']})"
    legend = {"loc": "outside lower center", "ncols": 5, "fontsize": 9}
    return Drawing(title, PANELS, metrics, default, mosaic="AAA\nBCC\nDEF", legend=legend)


def draw_own_pairs(metrics: dict) -> Drawing:
    """The user's pairs: lengths, what is wrong with them, and the first of them."""
    pairs = metrics["pairs"]
    faulty = pairs["rows"] - pairs["usable"]
    title = f"{pairs['usable']:.0f} usable pairs, {faulty:.0f} rows that teach nothing;\n"
    title += length_finding(pairs["longer_wins"])
    return Drawing(title, OWN_PANELS, metrics, mosaic="ABC\nDDD", height=2.9)


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


# --- The world ---


def formats_panel(ax, metrics: dict, default: dict | None) -> None:
    """The same responses to one prompt as each format records them.

    Shown: one prompt and its answers as a pair, as scores, as a ranking and as single labels.
    Notice: the true utility u: the order that annotators gave need not be the true one.
    Ask: Which of these could you collect from users who do not know that they are asked?
    """
    prompt = metrics["example"]["pairwise"]["prompt"]
    draw_cards(ax, example_cards(metrics), width=40, max_lines=8)
    utilities = [float(row["utility"]) for row in metrics["example"]["listwise"]]
    verb = "is" if utilities == sorted(utilities, reverse=True) else "is not"
    title = f"The ranking {verb} the true order. Prompt: {prompt}"
    ax.set_title(title, parse_math=False)


def raters_panel(ax, metrics: dict, default: dict | None) -> None:
    """P(second rater's score | first rater's score) for the same response.

    Shown: the score that a second rater gives, for each score of the first.
    Notice: off the diagonal one person's four is another's three, though both read one text.
    Ask: What of it is leniency, and what is noise? (Compare the same rater, asked twice.)
    """
    raters = metrics["raters"]
    table = np.array(raters["second_given_first"])
    heat_map(ax, table, ".0%")
    ax.set_xticks(range(5), range(1, 6))
    ax.set_yticks(range(5), range(1, 6))
    ax.set(xlabel="score by a second rater", ylabel="score by a first rater")
    agree = raters["two_raters_agree"]["mean"]
    again = raters["one_rater_asked_twice_agrees"]["mean"]
    title = f"One person's 4 is another's 3 ({table[3, 2]:.0%}):\n{agree:.0%} of scores agree, "
    ax.set_title(title + f"{again:.0%} by the same rater")


def styles_panel(ax, metrics: dict, default: dict | None) -> None:
    """Share of every style among the chosen and among the rejected.

    Shown: which styles of answers are chosen, and which are rejected.
    Notice: no rejected style dominates: there are several ways to lose.
    Ask: What is the simplest rule that predicts most labels? (Length: then measure against it.)
    """
    styles, words = metrics["styles"], metrics["pairs"]["words"]
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


def cost_panel(ax, metrics: dict, default: dict | None) -> None:
    """tau against responses read.

    Shown: how much of the true order each format recovers from the same amount of reading.
    Notice: a score keeps how far apart two answers are; a pair keeps only which is better.
    Ask: Why does one line stop rising? (Each response keeps one rater, and his leniency.)
    """
    costs = np.array(metrics["responses_read"], dtype=int)
    than = compare_words(metrics["differences"]["pairwise_beats_pointwise_at_equal_cost"])
    plot_recovered(ax, metrics["tau"], dict.fromkeys(LINES, costs), costs)
    ax.set_title(f"For the same reading pairs recover\n{than} scores")
    ax.set_xlabel("responses read per prompt")


def count_panel(ax, metrics: dict, default: dict | None) -> None:
    """tau against annotations.

    Shown: the same curves, counted by annotations and not by answers read.
    Notice: the curves moved sideways; a ranking says most because it reads most.
    Ask: Which count is yours: is an annotator paid by the click, or by the text read?
    """
    costs = np.array(metrics["responses_read"], dtype=int)
    than = compare_words(metrics["differences"]["pairwise_beats_pointwise_per_annotation"])
    counts = {name: costs / RESPONSES_PER_ANNOTATION.get(name, 1) for name in LINES}
    plot_recovered(ax, metrics["tau"], counts, sorted({*costs // 4, *costs}))
    ax.set_title(f"Each ranking tells most,\neach pair {than} a score")
    ax.set_xlabel("annotations per prompt")


def plot_recovered(ax, tau: dict, x: dict, ticks) -> None:
    """The order recovered by every format, against its own x."""
    for name, (label, style, color) in LINES.items():
        marker = "" if name in SCORES else "o"
        draw_band(ax, x[name], *curve(tau[name]), color, label, ls=style, marker=marker, ms=4)
    ax.set(xscale="log", ylabel="order recovered, Kendall's tau", ylim=(0, 1))
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()


def noise_panel(ax, metrics: dict, default: dict | None) -> None:
    """tau of scores as their readings become noisier, against that of pairs.

    Shown: scores that are made noisier and noisier, against pairs that stay as they are.
    Notice: each dot is a break-even; right of it pairs are the better buy.
    Ask: How would you measure how noisy your annotators' scores are? (Ask one of them twice.)
    """
    breaks, read = metrics["break_even"], int(metrics["responses_read"][COMPARED])
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


def lengths_panel(ax, metrics: dict, default: dict | None) -> None:
    """Distributions of the lengths of chosen and rejected."""
    lengths, words = metrics["lengths"], metrics["pairs"]["words"]
    unit = metrics.get("unit", "words")
    for side, style in zip(SIDES, ({}, {"fill": False, "lw": 2}), strict=True):
        counts, edges = lengths[side]["counts"], lengths[side]["edges"]
        color = {"ec": COLORS[side]} if style else {"color": COLORS[side]}
        ax.stairs(counts, edges, label=side, **{"fill": True, **style, **color})
    chosen, rejected = (words[side]["mean"] for side in SIDES)
    ax.set_title(f"On average {chosen:.1f} {unit} chosen, {rejected:.1f} rejected")
    ax.set(xlabel=f"{unit} (the last bin: or more)", ylabel="responses")
    ax.legend()


def difference_panel(ax, metrics: dict, default: dict | None) -> None:
    """How many words longer the chosen response is."""
    difference, words = metrics["lengths"]["difference"], metrics["pairs"]["words"]
    ax.stairs(difference["counts"], difference["edges"], fill=True, color="grey")
    ax.axvline(0, color=COLORS["theory"], ls=":")
    mean = words["chosen"]["mean"] - words["rejected"]["mean"]
    longer = "longer" if mean > 0 else "shorter"
    unit = metrics.get("unit", "words")
    ax.set_title(f"Chosen is {abs(mean):.1f} {unit} {longer} on average")
    ax.set(xlabel=f"{unit} of chosen - of rejected (outer bins: or more)", ylabel="pairs")


def faults_panel(ax, metrics: dict, default: dict | None) -> None:
    """Counts of what is wrong with the rows."""
    pairs = metrics["pairs"]
    names = {
        "identical": "identical answers",
        "empty": "empty answer",
        "duplicate": "duplicate row",
        "contradictory": "labelled both ways",
        "leaked": f"prompt leaks\n({pairs['held_out']:.0f} held out)",
    }
    counts = [pairs[key] for key in names]
    ax.bar_label(ax.barh(list(names.values()), counts, color="grey"), padding=3)
    title = f"{pairs['usable']:.0f} of {pairs['rows']:.0f} rows can be trained on"
    ax.set(title=title, xlabel="rows with this fault")
    ax.set_xlim(0, 1.15 * max(1, *counts))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def pair_panel(ax, metrics: dict, default: dict | None) -> None:
    """The first pair."""
    first = metrics["first_pair"]
    cards = [(drawable(f"{key}: {first[key]}"), COLORS.get(key, "grey")) for key in COLUMNS]
    width = int(12.5 * ax.figure.get_figwidth())
    draw_cards(ax, [("", cards)], width, max_lines=12, fonts=fonts_for(str(first)))
    ax.set_title("The first pair")


PANELS = (formats_panel, raters_panel, styles_panel, cost_panel, count_panel, noise_panel)
OWN_PANELS = (lengths_panel, difference_panel, faults_panel, pair_panel)
