"""The figure of preference_data_explorer.py for answers with a label."""

from support.drawing import COLORS, Drawing
from support.drawing.cards import draw_cards
from support.drawing.glyphs import drawable, fonts_for
from support.label_diagnosis import KINDS

KIND_COLORS = {"good": COLORS["chosen"], "bad": COLORS["rejected"]}


def draw_labelled(metrics: dict) -> Drawing:
    """The user's answers with labels: how many of each kind, their lengths, the first of them."""
    labels = metrics["labels"]
    title = f"{labels['usable']:.0f} usable answers, {labels['good']['mean']:.0%} of them good;\n"
    title += f"{labels['prompts_with_both']:.0f} of {labels['prompts']:.0f} prompts have both kinds"
    return Drawing(title, PANELS, metrics, mosaic="AB\nCC", height=2.9)


def lengths_panel(ax, metrics: dict, default: dict | None) -> None:
    """Distributions of the lengths of good and bad answers.

    Notice whether length alone tells them apart.
    Then a model may learn the length and nothing else.
    What would you collect to find out?
    """
    for kind in KINDS:
        lengths, is_good = metrics["lengths"][kind], kind == "good"
        filled = {"fill": True, "color": KIND_COLORS[kind]}
        outline = {"fill": False, "lw": 2, "ec": KIND_COLORS[kind]}
        style = filled if is_good else outline
        ax.stairs(lengths["counts"], lengths["edges"], label=kind, **style)
    words = metrics["labels"]["words"]
    means = [f"{words[kind]['mean']:.1f} words {kind}" for kind in KINDS if kind in words]
    ax.set_title(f"On average {', '.join(means)}")
    ax.set(xlabel="words (the last bin: or more)", ylabel="answers")
    ax.legend()


def counts_panel(ax, metrics: dict, default: dict | None) -> None:
    """How many answers there are of each kind.

    KTO weighs the kinds so that both count alike.
    An answer that has both labels teaches nothing.
    Which kind is rarer in feedback that people leave?
    """
    labels = metrics["labels"]
    good = round(labels["good"]["mean"] * labels["usable"])
    counts = {"good": good, "bad": labels["usable"] - good}
    counts["labelled both ways"] = labels["contradictory"]
    colors = [KIND_COLORS.get(name, "grey") for name in counts]
    ax.bar_label(ax.barh(list(counts), list(counts.values()), color=colors), padding=3)
    ax.set(title=f"Labels of {labels['usable']:.0f} answers", xlabel="answers")
    ax.set_xlim(0, 1.15 * max(counts.values()))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def answer_panel(ax, metrics: dict, default: dict | None) -> None:
    """The first answer and its label.

    Read a few more of them in the file.
    Does the label follow what the answer says, or how it says it?
    Would you have labelled it so?
    """
    first = metrics["first_answer"]
    kind = "good" if first["label"] else "bad"
    cards = [(f"prompt: {first['prompt']}", "grey"), (f"{kind}: {first['completion']}", None)]
    shown = [(drawable(text), color or KIND_COLORS[kind]) for text, color in cards]
    width = int(12.5 * ax.figure.get_figwidth())
    draw_cards(ax, [("", shown)], width, max_lines=12, fonts=fonts_for(str(cards)))
    ax.set_title("The first answer")


PANELS = (lengths_panel, counts_panel, answer_panel)
