"""The figure of dpo_trainer.py."""

from support.drawing import (
    COLORS,
    Drawing,
    curve,
    draw_band,
    draw_bars,
    draw_point,
    error_bars,
    smooth,
)
from support.sources import SOURCES

import numpy as np

LABELS = {"unbiased": "unbiased labels", "biased": "labels that love length"}
LINES = {"unbiased": "-", "biased": "--", "low_beta": ":", "high_beta": "-."}
MARKERS = {"low_beta": ">", "high_beta": "<"}
SHARES = np.linspace(0, 1, 6)  # ticks: the room above 1 is for a legend
HUES = {"unbiased": COLORS["dpo"], "biased": COLORS["proxy"]}


def draw_dpo(metrics: dict, default: dict | None = None) -> Drawing:
    """The world's run, or one on the user's pairs, which has no gold standard."""
    if "amounts" not in metrics:
        accuracy = metrics["held_out_pairs"]["accuracy"]["mean"]
        title = f"The implicit reward ranks {accuracy:.0%} of held-out pairs as labelled"
        return Drawing(title, OWN_PANELS, metrics, mosaic="ABC\nDE.")
    before, after = (metrics[name]["good"]["mean"] for name in ("reference", "policy"))
    biased = metrics["amounts"]["biased"]
    accuracy, lost = biased["curve"][-1]["accuracy"]["mean"], biased["gold_lost"]["mean"]
    title = f"DPO takes the share of good answers from {before:.0%} to {after:.0%}. Much more of it"
    title += f" on labels that love length\nloses {lost:.1f} of gold utility, while training still"
    return Drawing(f"{title} ranks {accuracy:.0%} as labelled", PANELS, metrics, default)


# --- More of it ---


def good_panel(ax, metrics: dict, default: dict | None) -> None:
    """Share of good answers against the amount of training, whose labels.

    Shown: good answers to held-out prompts as training goes on, for two kinds of annotators.
    Notice: where the curve turns; more training is not better, even on unbiased labels.
    Ask: What would you have to look at to stop in time? (Sampled answers; no training metric.)
    """
    amounts, grey = metrics["amounts"], unbiased_run(default)
    if grey:
        epochs, good = series(grey, "epoch"), series(grey, "good")
        ax.plot(epochs, good, color=COLORS["default"], label="the default run")
    for name, label in LABELS.items():
        looks = amounts[name]["curve"]
        band = curve([seen["good"] for seen in looks])
        line = {"ls": LINES[name], "marker": "o", "ms": 4}
        draw_band(ax, series(amounts[name], "epoch"), *band, HUES[name], label, **line)
    ends = [amounts[name]["curve"][-1]["good"]["mean"] for name in LABELS]
    ax.set(title=f"Good answers end at {ends[0]:.0%} and {ends[1]:.0%}")
    ax.set(xlabel=epochs_label(amounts), ylabel="share (test prompts)", ylim=(0, 1.25))
    ax.set_yticks(SHARES)
    ax.legend(loc="upper right", ncols=2, columnspacing=1)


def gold_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility against the square root of the measured KL, by labels and by beta.

    Shown: the quality of answers against the distance that the policy has moved from SFT.
    Notice: the first steps buy most, and far out quality is lost; a weak beta only goes further.
    Ask: Could early stopping do what beta does? (Largely: compare the curves where they overlap.)
    """
    amounts = metrics["amounts"]
    plot_frontier(ax, amounts, unbiased_run(default))
    lost = [amounts[name]["gold_lost"]["mean"] for name in LABELS]
    ax.set(title=f"Past its best point gold loses {lost[0]:.1f} and {lost[1]:.1f}")


def unbiased_run(default: dict | None) -> dict | None:
    """What the committed run says of unbiased labels, to stand behind another run."""
    return (default or {}).get("amounts", {}).get("unbiased")


def plot_frontier(ax, amounts: dict, grey: dict | None) -> None:
    """Gold utility against KL along trainings; hollow marks where the labels are biased."""
    if grey:
        kl, gold = np.sqrt(series(grey, "kl")), series(grey, "gold")
        ax.plot(kl, gold, color=COLORS["default"], label="the default run")
    for name, amount in amounts.items():
        label = LABELS["biased"] if name == "biased" else f"beta {amount['beta']:.2g}"
        line = {"color": HUES.get(name, COLORS["dpo"]), "ls": LINES[name], "lw": 1.4}
        fill = "white" if name == "biased" else None
        marks = {"marker": MARKERS.get(name, "o"), "ms": 5, "mfc": fill}
        kl, gold = np.sqrt(series(amount, "kl")), [seen["gold"] for seen in amount["curve"]]
        ax.errorbar(kl, curve(gold)[0], error_bars(gold), label=label, **line, **marks)
    ax.set_xlabel("square root of the measured KL from SFT, nats")
    ax.set_ylabel("gold utility (log-odds)")
    ax.legend(loc="lower left")


def series(amount: dict, name: str) -> np.ndarray:
    """A quantity along a training."""
    values = [seen[name] for seen in amount["curve"]]
    return np.array([value["mean"] if isinstance(value, dict) else value for value in values])


def epochs_label(amounts: dict) -> str:
    """The axis of the amount of training."""
    return f"epochs over {amounts['unbiased']['pairs']:.0f} pairs at a constant rate"


def training_panel(ax, metrics: dict, default: dict | None) -> None:
    """What a practitioner sees: accuracy and loss on the pairs that are trained on.

    Shown: the two curves that a training log has, for both kinds of labels.
    Notice: nothing here bends where the quality of the answers does.
    Ask: Which of the two trainings would you call healthy from this panel alone?
    """
    amounts = metrics["amounts"]
    for name, label in LABELS.items():
        epochs = series(amounts[name], "epoch")[1:]
        line = {"color": HUES[name], "ls": LINES[name], "marker": "o", "ms": 4}
        ax.plot(epochs, series(amounts[name], "accuracy")[1:], label=f"accuracy, {label}", **line)
        line |= {"marker": "v", "alpha": 0.5}
        ax.plot(epochs, series(amounts[name], "loss")[1:], label=f"loss, {label}", **line)
    first, *_, last = series(amounts["biased"], "accuracy")[1:]
    looks = "better" if last > first else "no better"
    title = f"Training looks {looks}: {first:.0%} to {last:.0%}"
    ax.set(title=title, xlabel=epochs_label(amounts))
    ax.set(ylabel="share of pairs; loss in nats", ylim=(0, 1.6))
    ax.set_yticks(SHARES)
    ax.legend(loc="upper left", fontsize=8)


def sides_panel(ax, metrics: dict, default: dict | None) -> None:
    """Log-probabilities of chosen and rejected responses, relative to the start.

    Shown: how likely held-out chosen and rejected responses become, as training goes on.
    Notice: the loss only wants a gap between the two; both may fall.
    Ask: Where does the probability go that both lose? (To texts that no pair shows.)
    """
    looks = metrics["amounts"]["unbiased"]["curve"]
    epochs = [seen["epoch"] for seen in looks]
    for side in ("chosen", "rejected"):
        band = curve([seen[side] for seen in looks])
        draw_band(ax, epochs, *band, COLORS[side], side, marker="o", ms=4)
    ax.axhline(0, color=COLORS["theory"], ls=":", lw=1)
    chosen, rejected = (looks[-1][side]["mean"] for side in ("chosen", "rejected"))
    verb = f"falls by {-chosen:.1f}" if chosen < 0 else f"rises by {chosen:.1f}"
    title = f"Rejected falls by {-rejected:.0f} nats, chosen {verb}"
    ax.set(title=title, xlabel="epochs at a constant rate, unbiased labels")
    ax.set_ylabel("change of log p (nats)")
    ax.legend(loc="lower left")


# --- The default training ---


def change_panel(ax, metrics: dict, default: dict | None) -> None:
    """What the default training changed: shares of the room, and of what there was to learn.

    Shown: of what style and substance could gain, the share that they did gain.
    Notice: in sampled answers (left) the two are nearer than in log-odds (right).
    Ask: Which of them does a reader see first, and which matters more?
    """
    odds = metrics["log_odds"]
    style = [metrics["style_of_room"], odds["filler"]["share"]]
    substance = [metrics["substance_of_room"], odds["right"]["share"]]
    names = ("answers: share of the\nroom that was gained", "log-odds: share of what\nlabels say")
    for shift, rows, color, label in (
        (-0.2, style, COLORS["dpo"], "style (no filler)"),
        (0.2, substance, COLORS["gold"], "substance (right)"),
    ):
        draw_bars(ax, np.arange(2) + shift, rows, color, width=0.38, label=label)
    ax.set_xticks(range(2), names)
    ends = [metrics[name]["mean"] for name in ("style_of_room", "substance_of_room")]
    ax.set(title=f"Room gained: style {ends[0]:.0%}, substance {ends[1]:.0%}")
    ax.set(ylabel="share (default training)", ylim=(0, 1.2))
    ax.set_yticks(SHARES)
    ax.legend(ncols=2, loc="upper left")


# --- Other pairs ---


def sources_panel(ax, metrics: dict, default: dict | None) -> None:
    """Where the pairs come from: gold utility against KL at as many annotations.

    Shown: as many annotations of written answers or of the model's own, each at the better rate.
    Notice: compare to the right as well as up: quality at which distance from SFT?
    Ask: What can a pair of the model's own answers teach that a written one cannot?
    """
    points = (
        (metrics["reference"], "SFT", COLORS["sft"], "o"),
        (metrics["policy"], "written pairs", COLORS["theory"], "^"),
        (metrics["sources"]["sft"], SOURCES["sft"], COLORS["chosen"], "s"),
        (metrics["sources"]["policy"], SOURCES["policy"], COLORS["dpo"], "D"),
    )
    for point, name, color, marker in points:
        draw_point(ax, point["kl"], point["utility"], color, name, marker=marker, ms=7)
    gain = metrics["fresh_minus_old"]["mean"]
    adds = "adds" if gain > 0 else "costs"
    ax.set(title=f"Sampling pairs anew {adds} {abs(gain):.1f} of gold utility")
    ax.set_xlabel("measured KL(policy || reference), nats")
    ax.set_ylabel("gold utility (log-odds)")
    ax.legend(loc="lower right")


# --- The user's own pairs ---


def loss_panel(ax, metrics: dict, default: dict | None) -> None:
    """The loss of training."""
    steps, losses = smoothed(metrics["training"]["loss"])
    ax.plot(steps, losses, color=COLORS["dpo"])
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: the start")
    title = f"The loss starts at ln 2 and ends at {losses[-1]:.2f}"
    ax.set(title=title, xlabel="step", ylabel="DPO loss, nats per pair")
    ax.legend()


def rewards_panel(ax, metrics: dict, default: dict | None) -> None:
    """The implicit rewards of both sides in training."""
    ends = []
    for side in ("chosen", "rejected"):
        steps, rewards = smoothed(metrics["training"][f"rewards/{side}"])
        ax.plot(steps, rewards, color=COLORS[side], label=side)
        ends.append(rewards[-1])
    title = f"In the end chosen has {ends[0] - ends[1]:z.1f} more reward"
    ax.set(title=title, xlabel="step", ylabel="implicit reward (log-odds)")
    ax.legend()


def smoothed(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve of training as its running mean over a tenth of the run."""
    return smooth(values, max(1, len(values) // 10))


def held_out_panel(ax, metrics: dict, default: dict | None) -> None:
    """How many held-out pairs are ranked as labelled."""
    held = metrics["held_out_pairs"]
    rows = [held["accuracy"], held["likelier"]]
    names = ["implicit reward\nranks chosen higher", "chosen is likelier\nas text"]
    draw_bars(ax, names, rows, COLORS["dpo"], alpha=0.85, width=0.6)
    ax.axhline(0.5, color=COLORS["theory"], ls=":")
    title = f"Held-out pairs: {held['accuracy']['mean']:.0%} ranked as labelled"
    ax.set(title=title, ylim=(0, 1), ylabel="share of pairs")


def kl_panel(ax, metrics: dict, default: dict | None) -> None:
    """The KL of sampled answers during training."""
    plot_watched(ax, metrics["curve"], "kl")
    last = metrics["curve"][-1]["kl"]["mean"]
    ax.set(title=f"Sampled answers end {last:z.1f} nats away")
    ax.set(ylabel="measured KL from the reference, nats")


def words_panel(ax, metrics: dict, default: dict | None) -> None:
    """The length of sampled answers during training."""
    plot_watched(ax, metrics["curve"], "words")
    first, last = (metrics["curve"][at]["words"]["mean"] for at in (0, -1))
    ax.set(title=f"Sampled answers: {first:.0f} to {last:.0f} words", ylabel="words")


def plot_watched(ax, looks: list[dict], name: str) -> None:
    """What was seen of sampled answers during training, without a gold standard."""
    steps, rows = [seen["step"] for seen in looks], [seen[name] for seen in looks]
    draw_band(ax, steps, *curve(rows), COLORS["dpo"], None, marker="o", ms=4)
    ax.set(xlabel="step", ylim=(0, None))


PANELS = (good_panel, gold_panel, training_panel, sides_panel, sources_panel, change_panel)
OWN_PANELS = (loss_panel, rewards_panel, held_out_panel, kl_panel, words_panel)
