"""The figure of dpo_trainer.py."""

from pathlib import Path

from support.drawing import (
    COLORS,
    curve,
    draw_band,
    draw_bars,
    error_bars,
    new_figure,
    save_figure,
    smooth,
)

import numpy as np

LABELS = {"unbiased": "unbiased labels", "biased": "labels that love length"}
LINES = {"unbiased": "-", "biased": "--", "low_beta": ":", "high_beta": "-."}
MARKERS = {"low_beta": ">", "high_beta": "<"}
HUES = {"unbiased": COLORS["dpo"], "biased": COLORS["proxy"]}


def draw_dpo(path: Path, metrics: dict, caption: str, default: dict | None = None) -> None:
    """The world's run, or one on the user's pairs, which has no gold standard."""
    fig, axes = new_figure(2, 3)
    if "amounts" not in metrics:
        draw_own(axes, metrics)
        accuracy = metrics["held_out_pairs"]["accuracy"]["mean"]
        title = f"The implicit reward ranks {accuracy:.0%} of held-out pairs as labelled"
        save_figure(fig, path, title, caption)
        return
    amounts = metrics["amounts"]
    grey = (default or {}).get("amounts", {}).get("unbiased")
    good_panel(axes[0, 0], amounts, grey)
    gold_panel(axes[0, 1], amounts, grey)
    training_panel(axes[0, 2], amounts)
    sides_panel(axes[1, 0], amounts["unbiased"]["curve"])
    beta_panel(axes[1, 1], amounts, grey)
    change_panel(axes[1, 2], metrics)
    before, after = (metrics[name]["good"]["mean"] for name in ("reference", "policy"))
    last, lost = amounts["biased"]["curve"][-1], amounts["biased"]["gold_lost"]["mean"]
    title = f"DPO takes the share of good answers from {before:.0%} to {after:.0%}. Much more of it"
    title += f" on labels that love length\nloses {lost:.1f} of gold utility, while training still"
    save_figure(fig, path, f"{title} ranks {last['accuracy']['mean']:.0%} as labelled", caption)


# --- More of it ---


def good_panel(ax, amounts: dict, grey: dict | None) -> None:
    """Share of good answers against the amount of training, whose labels."""
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
    ax.legend(loc="upper right", ncols=2, columnspacing=1)


def gold_panel(ax, amounts: dict, grey: dict | None) -> None:
    """Gold utility against the square root of the measured KL, whose labels."""
    plot_frontier(ax, amounts, {**LABELS}, grey)
    lost = [amounts[name]["gold_lost"]["mean"] for name in LABELS]
    ax.set(title=f"Far from the start gold is lost: {lost[0]:.1f} and {lost[1]:.1f}")


def beta_panel(ax, amounts: dict, grey: dict | None) -> None:
    """Gold utility against the square root of the measured KL, by beta."""
    names = ("low_beta", "unbiased", "high_beta")
    labels = {name: f"beta {amounts[name]['beta']:.2g}" for name in names}
    plot_frontier(ax, amounts, labels, grey)
    ax.set(title="A weak beta goes far, a strong one stays")
    ax.legend(loc="lower center")


def plot_frontier(ax, amounts: dict, labels: dict, grey: dict | None) -> None:
    """Gold utility against KL along trainings; hollow marks where the labels are biased."""
    if grey:
        kl, gold = np.sqrt(series(grey, "kl")), series(grey, "gold")
        ax.plot(kl, gold, color=COLORS["default"], label="the default run")
    for name, label in labels.items():
        gold = [seen["gold"] for seen in amounts[name]["curve"]]
        line = {"color": HUES.get(name, COLORS["dpo"]), "ls": LINES[name], "lw": 1.4}
        marks = {
            "marker": MARKERS.get(name, "o"),
            "ms": 5,
            "mfc": "white" if name == "biased" else None,
        }
        kl = np.sqrt(series(amounts[name], "kl"))
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


def training_panel(ax, amounts: dict) -> None:
    """What a practitioner sees: accuracy and loss on the pairs that are trained on."""
    for name, label in LABELS.items():
        epochs = series(amounts[name], "epoch")[1:]
        line = {"color": HUES[name], "ls": LINES[name], "marker": "o", "ms": 4}
        ax.plot(epochs, series(amounts[name], "accuracy")[1:], label=f"accuracy, {label}", **line)
        line |= {"marker": "v", "alpha": 0.5}
        ax.plot(epochs, series(amounts[name], "loss")[1:], label=f"loss, {label}", **line)
    ax.set(title="Training shows only improvement", xlabel=epochs_label(amounts))
    ax.set(ylabel="share of pairs; loss in nats", ylim=(0, 1.6))
    ax.legend(loc="upper left", fontsize=8)


def sides_panel(ax, looks: list[dict]) -> None:
    """Log-probabilities of chosen and rejected responses, relative to the start."""
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


def change_panel(ax, metrics: dict) -> None:
    """What the default training changed: shares of the room, and of what there was to learn."""
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
    ax.legend(ncols=2, loc="upper left")


# --- The user's own pairs ---


def draw_own(axes, metrics: dict) -> None:
    """What there is without a gold standard."""
    training = metrics["training"]
    steps, losses = smoothed(training["loss"])
    axes[0, 0].plot(steps, losses, color=COLORS["dpo"])
    axes[0, 0].axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: the start")
    axes[0, 0].set(title="The loss starts at ln 2", xlabel="step", ylabel="DPO loss, nats per pair")
    axes[0, 0].legend()
    for side in ("chosen", "rejected"):
        axes[0, 1].plot(*smoothed(training[f"rewards/{side}"]), color=COLORS[side], label=side)
    title = "Rewards of both sides drift apart"
    axes[0, 1].set(title=title, xlabel="step", ylabel="implicit reward (log-odds)")
    axes[0, 1].legend()
    held_out_panel(axes[0, 2], metrics["held_out_pairs"])
    for ax, name, unit in zip(axes[1], ("kl", "words"), ("nats", "words"), strict=False):
        watched_panel(ax, metrics["curve"], name, unit)
    axes[1, 2].remove()


def smoothed(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve of training as its running mean over a tenth of the run."""
    return smooth(values, max(1, len(values) // 10))


def held_out_panel(ax, held: dict) -> None:
    """How many held-out pairs are ranked as labelled."""
    rows = [held["accuracy"], held["likelier"]]
    names = ["implicit reward\nranks chosen higher", "chosen is likelier\nas text"]
    draw_bars(ax, names, rows, COLORS["dpo"], alpha=0.85, width=0.6)
    ax.axhline(0.5, color=COLORS["theory"], ls=":")
    ax.set(title="Held-out pairs", ylim=(0, 1), ylabel="share of pairs")


def watched_panel(ax, looks: list[dict], name: str, unit: str) -> None:
    """What was seen of sampled answers during training, without a gold standard."""
    steps, rows = [seen["step"] for seen in looks], [seen[name] for seen in looks]
    draw_band(ax, steps, *curve(rows), COLORS["dpo"], None, marker="o", ms=4)
    title = {"kl": "KL of sampled answers from the reference", "words": "Length of sampled answers"}
    ax.set(title=title[name], xlabel="step", ylabel=unit, ylim=(0, None))
