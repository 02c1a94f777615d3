"""The figure of reward_model.py."""

from support.drawing import (
    COLORS,
    Drawing,
    curve,
    draw_band,
    draw_bars,
    error_bars,
    legend_below,
    smooth,
)

import numpy as np

ARMS = {  # of the accuracy curves, and of the contrasts
    "encoder": (COLORS["proxy"], "encoder that read the facts"),
    "sft": (COLORS["sft"], "from the SFT checkpoint"),
    "dpo": (COLORS["dpo"], "DPO's implicit reward"),
}
READ = (  # whose labels, colour, label
    ("people", COLORS["proxy"], "people"),
    ("length", COLORS["rejected"], "people who like length"),
    ("sft", COLORS["sft"], "people, from the SFT checkpoint"),
)
COMPONENTS = {
    "right": "right\nanswer",
    "on_topic": "on\ntopic",
    "filler": "10 words\nof filler",
    "style": "expert's\ntone",
    "agreement": "echo of\nbelief",
}
WORDS = {"filler": 10}  # units to draw


def draw_reward_model(metrics: dict, default: dict | None = None) -> Drawing:
    """The world's run, or one on the user's pairs, which has no gold standard."""
    if "gold_order" not in metrics:
        accuracy, control = (
            metrics[name]["mean"] for name in ("label_accuracy", "control_length_labels")
        )
        title = f"It ranks {accuracy:.0%} of held-out pairs as labelled; "
        title += f"the shorter response wins {control:.0%}"
        return Drawing(title, OWN_PANELS, metrics, mosaic="ABC")
    gold, label = metrics["gold_order"]["all"]["mean"], metrics["label_accuracy"]["mean"]
    ceiling = metrics["bayes_ceiling"]["accuracy"]
    words = {group: row["filler"]["reward"]["mean"] for group, row in metrics["contrasts"].items()}
    title = f"It orders {gold:.0%} of held-out pairs right, and predicts {label:.0%} of labels, of "
    title += f"which {ceiling:.0%} can be predicted.\nA word of filler counts "
    title += f"{words['people']:+.2f} by people's labels, {words['length']:+.2f} by length-lovers'"
    return Drawing(title, PANELS, metrics, default, height=3.5)


def loss_panel(ax, metrics: dict, default: dict | None) -> None:
    """Training loss between ln 2 and, where it is known, the entropy of the labels.

    Shown: the Bradley-Terry loss of the reward model as it sees the pairs.
    Notice: it starts at ln 2, whatever the data, and cannot fall below the noise of the labels.
    Ask: What would a loss below the dashed line mean? (The model learns the noise by heart.)
    """
    losses, floor = metrics["loss"], metrics.get("bayes_ceiling", {}).get("nll")
    steps, means = smooth(losses, max(1, len(losses) // 20))
    ax.plot(steps, means, color=COLORS["proxy"])
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: no preference")
    if floor is not None:
        ax.axhline(floor, color=COLORS["theory"], ls="--", label="entropy of the labels")
    ax.set(xlabel="step", ylabel="Bradley-Terry loss, nats per pair", ylim=(0, 0.95))
    title = f"The loss starts at ln 2 and ends at {means[-1]:.2f}"
    ax.set_title("The loss falls from ln 2 towards the labels' noise" if floor else title)
    ax.legend(loc="upper right")


def curve_panel(ax, metrics: dict, default: dict | None) -> None:
    """Accuracy on the gold order against the number of pairs, for style and for facts.

    Shown: the share of held-out pairs in the right order, by the number of training pairs.
    Notice: style (dashed) comes with few pairs; facts (solid) need many, or a start that has them.
    Ask: Where do the facts come from? (From pre-training: pairs teach what to do with them.)
    """
    curves = metrics["curve"]
    if default:
        for rows in default["curve"].values():
            pairs = [row["pairs"] for row in rows]
            ax.plot(pairs, curve([row["facts"] for row in rows])[0], ":", color=COLORS["default"])
    for name, (color, label) in ARMS.items():
        pairs = [row["pairs"] for row in curves[name]]
        style = curve([row["style"] for row in curves[name]])
        facts = curve([row["facts"] for row in curves[name]])
        draw_band(ax, pairs, *facts, color, label, marker="o", ms=4)
        ax.plot(pairs, style[0], color=color, ls="--", lw=1.2, marker="s", ms=3)
    ax.axhline(0.5, color=COLORS["theory"], ls=":", lw=1)
    ax.plot([], [], color=COLORS["theory"], label="worse one is wrong")
    ax.plot([], [], color=COLORS["theory"], ls="--", lw=1.2, label="worse one by its style")
    ax.set_xscale("log")
    ticks = [row["pairs"] for row in max(curves.values(), key=len)]
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    ax.minorticks_off()
    size = curves["dpo"][-1]
    facts, pairs = size["facts"]["mean"], size["pairs"]
    ax.set(title=f"DPO tells facts apart in {facts:.0%} ({pairs:,.0f} pairs)")
    ax.set_ylim(0.3, 1.02)
    ax.set(xlabel="training pairs", ylabel="held-out pairs in the gold order")
    legend_below(ax, ncols=2, fontsize=8, columnspacing=1, handlelength=1.6)


def reasons_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold-order accuracy per style of the worse response, and of two controls.

    Shown: how often the better answer gets more, by what is the matter with the other one.
    Notice: the grey bars: length alone orders many pairs right, so it is the bar to beat.
    Ask: What does an accuracy tell you that is reported without such a control?
    """
    names = ("verbose", "off_topic", "wrong", "sycophantic", "expert")
    gold = metrics["gold_order"]
    rows = {"all": gold["all"], "unseen facts": metrics["gold_order_unseen_facts"]}
    rows |= {name.replace("_", " "): gold[name] for name in names if name in gold}
    rows["shorter wins"], rows["untrained"] = (
        metrics["control_length_only"],
        metrics["control_untrained"],
    )
    colors = [COLORS["sft"] if k >= len(rows) - 2 else COLORS["proxy"] for k in range(len(rows))]
    draw_bars(ax, list(rows), rows.values(), colors, horizontal=True, alpha=0.85)
    ax.axvline(0.5, color=COLORS["theory"], ls=":", lw=1)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    facts, style = (gold[kind]["mean"] for kind in ("facts", "style"))
    title = f"Ordered right: style {style:.0%}, facts {facts:.0%}"
    ax.set(title=title, xlim=(0, 1))
    ax.set_xlabel("share of pairs in the gold order")
    ax.set_ylabel("style of the worse response")


def contrasts_panel(ax, metrics: dict, default: dict | None) -> None:
    """What a reward model gives for each thing alone, beside what is planted.

    Shown: what changes in the reward when one single thing in an answer changes.
    Notice: filler: the model takes over what its annotators like, and the sign turns with them.
    Ask: How could you find a liking that nobody has planted?
    """
    contrasts = metrics["contrasts"]
    places = np.arange(len(COMPONENTS))
    for k, (group, color, label) in enumerate(READ):
        shifted, width = places + (k - 1) * 0.27, 0.25
        for place, name in zip(shifted, COMPONENTS, strict=True):
            row, units = contrasts[group][name], WORDS.get(name, 1)
            mean, end = row["reward"]["mean"] * units, error_bars([row["reward"]]) * units
            named = label if name == "right" else None
            bar = {"color": color, "label": named, "width": width, "error_kw": {"lw": 1}}
            ax.bar(place, mean, yerr=end, **bar)
            planted = row["planted"] * units
            ax.plot([place - width / 2, place + width / 2], [planted] * 2, color=COLORS["theory"])
    ax.plot([], [], color=COLORS["theory"], label="planted in the annotators")
    ax.axhline(0, color=COLORS["theory"], lw=0.8)
    ax.set_xticks(places, COMPONENTS.values(), fontsize=9)
    share = contrasts["people"]["right"]["share"]["mean"]
    title = f"Of a right answer's worth {share:.0%} is absorbed"
    ax.set(title=title, ylabel="reward that it adds (log-odds)")
    ax.legend(fontsize=8)


def style_panel(ax, metrics: dict, default: dict | None) -> None:
    """Rewards of held-out responses by style, and their gold utility.

    Shown: the rewards of each style of answer beside what such an answer is worth.
    Notice: the order is right and the level is not: only differences are trained.
    Ask: Which uses of a reward depend on its level? (Dividing by length, thresholds.)
    """
    styles = metrics["by_style"]
    for place, row in enumerate(styles.values()):
        low, lower, median, upper, high = row["rewards"]
        line = {"color": COLORS["proxy"], "solid_capstyle": "butt"}
        ax.plot([low, high], [place] * 2, lw=1, **line)
        ax.plot([lower, upper], [place] * 2, lw=8, alpha=0.8, **line)
        ax.plot(median, place, "|", color="white", ms=8, mew=2)
    utilities = [row["utility"] for row in styles.values()]
    ax.plot(utilities, range(len(styles)), "D", color=COLORS["gold"], ms=6, label="gold utility")
    ax.plot([], [], lw=8, color=COLORS["proxy"], alpha=0.8, label="middle half of rewards")
    ax.set_yticks(range(len(styles)), [name.replace("_", " ") for name in styles])
    ax.invert_yaxis()
    ax.set(title="Differences are learned, the level is free", xlabel="log-odds")
    legend_below(ax, ncols=2, fontsize=8)


def groups_panel(ax, metrics: dict, default: dict | None) -> None:
    """How many held-out pairs two groups' reward models order unlike.

    Shown: how often two reward models disagree, by the people whose labels they learned from.
    Notice: two samples of the same people are nearly of one mind; two tastes are not.
    Ask: Whose preferences does a single reward model stand for?
    """
    disagreement = metrics["disagreement"]
    names = ["people and\nother people", "people and\nlength-lovers"]
    rows = [disagreement["others"], disagreement["length"]]
    draw_bars(ax, names, rows, [COLORS["proxy"], COLORS["rejected"]], alpha=0.85, width=0.55)
    title = f"Length-lovers disagree on {rows[1]['mean']:.0%} of pairs"
    ax.set(title=title, ylabel="held-out pairs ordered unlike (share)")
    ax.set_ylim(0, None)


# --- The user's own pairs ---


def margins_panel(ax, metrics: dict, default: dict | None) -> None:
    """Quantiles of the margins of held-out pairs."""
    low, lower, median, upper, high = metrics["margin_quantiles"]
    ax.plot([low, high], [0, 0], color=COLORS["proxy"], lw=1)
    ax.plot([lower, upper], [0, 0], color=COLORS["proxy"], lw=10, solid_capstyle="butt")
    ax.plot(median, 0, "|", color="white", ms=12, mew=2)
    ax.axvline(0, color=COLORS["theory"], ls=":")
    ax.set(
        title=f"Half of the margins lie above {median:z.1f}",
        xlabel="reward of chosen - rejected (log-odds)",
    )
    ax.set(yticks=[], ylabel="5, 25, 50, 75, 95 % of pairs")


def calibration_panel(ax, metrics: dict, default: dict | None) -> None:
    """Reliability of the preference probability."""
    result = metrics["calibration"]
    counts = np.array(result["count"])
    keep = counts > 0
    predicted, observed = (np.array(result[key])[keep] for key in ("predicted", "observed"))
    half = 1.96 * np.sqrt(observed * (1 - observed) / counts[keep])
    ax.plot([0, 1], [0, 1], color=COLORS["theory"], ls="--", label="calibrated")
    line = {"fmt": "o-", "color": COLORS["proxy"], "ms": 5, "lw": 1.2}
    ax.errorbar(predicted, observed, half, label="reward model", **line)
    ax.set(xlabel="predicted P(first is preferred)", ylabel="observed frequency")
    ax.set_title(f"Calibration: temperature {result['temperature']:.2f}")
    ax.legend()


PANELS = (
    loss_panel,
    curve_panel,
    reasons_panel,
    contrasts_panel,
    style_panel,
    groups_panel,
)
OWN_PANELS = (loss_panel, margins_panel, calibration_panel)
