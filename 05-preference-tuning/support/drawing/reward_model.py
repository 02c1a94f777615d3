"""The figure of reward_model.py."""

from pathlib import Path

import numpy as np

from common.preferences import BIASES, STYLES
from drawing import COLORS, error_bars, new_figure, save_figure, smooth


def reward_figure(path: Path, metrics: dict, losses: list[float], held: list[dict], rewards: np.ndarray) -> None:
    """The default run of reward_model.py; `rewards` (N, 2) are those of the held-out pairs."""
    fig, axes = new_figure(2, 3)
    loss_panel(axes[0, 0], losses, metrics["bayes_ceiling"]["nll"])
    reasons_panel(axes[0, 1], metrics)
    style_panel(axes[0, 2], held, rewards)
    calibration_panel(axes[1, 0], metrics["calibration"])
    level_panel(axes[1, 1], held, rewards)
    groups_panel(axes[1, 2], metrics["annotator_groups"]["length_effect"])
    gold, label = metrics["gold_order_accuracy"]["mean"], metrics["label_accuracy"]["mean"]
    ceiling = metrics["bayes_ceiling"]["accuracy"]
    title = f"Trained on labels of which at most {ceiling:.1%} are predictable ({label:.1%} reached), "
    save_figure(fig, path, title + f"it orders {gold:.1%} of held-out pairs right")


def own_reward_figure(path: Path, metrics: dict, losses: list[float], margins: np.ndarray) -> None:
    """reward_model.py on the user's own pairs: loss, held-out margins, calibration."""
    fig, axes = new_figure(1, 3)
    loss_panel(axes[0, 0], losses, None)
    axes[0, 1].hist(margins, bins=40, color=COLORS["proxy"], alpha=0.85)
    axes[0, 1].axvline(0, color=COLORS["theory"], ls=":")
    axes[0, 1].set(title="Margins on held-out pairs", xlabel="reward of chosen - rejected", ylabel="pairs")
    calibration_panel(axes[0, 2], metrics["calibration"])
    accuracy, control = metrics["label_accuracy"], metrics["control_length_only"]["mean"]
    low, high = accuracy["ci95"]
    title = f"Held-out accuracy {accuracy['mean']:.1%} [{low:.1%}, {high:.1%}]; the shorter response wins {control:.1%}"
    save_figure(fig, path, title)


def loss_panel(ax, losses: list[float], floor: float | None) -> None:
    """Training loss, smoothed over 20 steps, between ln 2 and the entropy of the labels."""
    ax.plot(*smooth(losses, 20), color=COLORS["proxy"])
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: no preference")
    if floor is not None:
        ax.axhline(floor, color=COLORS["theory"], ls="--", label="entropy of the labels")
    ax.set(title="Bradley-Terry loss in training", xlabel="step", ylabel="nats per pair", ylim=(0, None))
    ax.legend()


def reasons_panel(ax, metrics: dict) -> None:
    """Gold-order accuracy per style of the worse response, with intervals and the two controls."""
    rows = {"all": metrics["gold_order_accuracy"], "unseen facts": metrics["gold_order_unseen_facts"]}
    rows |= metrics["gold_order_by_reason"]
    means = [row["mean"] for row in rows.values()]
    names = [name.replace("_", " ") for name in rows]
    ax.barh(names, means, xerr=error_bars(rows.values()), color=COLORS["proxy"], alpha=0.85, error_kw={"lw": 1})
    for name, style, label in (("control_untrained", ":", "untrained"), ("control_length_only", "--", "shorter wins")):
        ax.axvline(metrics[name]["mean"], color=COLORS["sft"], ls=style, label=label)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(title="Accuracy on gold order, by the worse response", xlim=(0, 1.0))
    ax.legend(loc="lower left", facecolor="white", framealpha=0.9, frameon=True)


def style_panel(ax, held: list[dict], rewards: np.ndarray) -> None:
    """Distribution of rewards of held-out responses by style."""
    styles = np.array([[row["chosen_style"], row["rejected_style"]] for row in held])
    present = [style for style in STYLES if (styles == style).sum() > 1]
    parts = ax.violinplot([rewards[styles == s] for s in present], orientation="horizontal", widths=0.85)
    for body in parts["bodies"]:
        body.set(facecolor=COLORS["proxy"], alpha=0.5)
    for name in ("cbars", "cmins", "cmaxes"):
        parts[name].set(color=COLORS["proxy"], linewidth=0.8)
    ax.set_yticks(range(1, len(present) + 1), [style.replace("_", " ") for style in present])
    ax.invert_yaxis()
    ax.set(title="Reward of held-out responses", xlabel="reward (log-odds)")


def calibration_panel(ax, result: dict) -> None:
    """Reliability diagram of the preference probability."""
    counts = np.array(result["count"])
    keep = counts > 0
    predicted, observed = np.array(result["predicted"])[keep], np.array(result["observed"])[keep]
    half = 1.96 * np.sqrt(observed * (1 - observed) / counts[keep])
    ax.plot([0, 1], [0, 1], color=COLORS["theory"], ls="--", label="calibrated")
    ax.errorbar(predicted, observed, half, fmt="o-", color=COLORS["proxy"], ms=5, lw=1.2, label="reward model")
    ax.set(xlabel="predicted P(first is preferred)", ylabel="observed frequency")
    ax.set_title(f"Calibration: temperature {result['temperature']:.2f}")
    ax.legend()


def level_panel(ax, held: list[dict], rewards: np.ndarray) -> None:
    """Reward against gold utility: the slope is learned, the level is not."""
    utilities = np.array([[row["chosen_utility"], row["rejected_utility"]] for row in held])
    level, ends = (rewards - utilities).mean(), np.array([utilities.min(), utilities.max()])
    ax.plot(utilities.ravel(), rewards.ravel(), ".", color=COLORS["proxy"], ms=3, alpha=0.25)
    ax.plot(ends, ends + level, color=COLORS["theory"], ls="--", label=f"utility {level:+.1f}")
    ax.plot(ends, ends, color=COLORS["gold"], label="utility")
    ax.set(title="Differences are learned, the level is free", xlabel="gold utility", ylabel="reward")
    ax.legend()


def groups_panel(ax, effects: dict) -> None:
    """Length effect per group of annotators, beside the planted one."""
    names = {"human": "unbiased", "human_2": "unbiased,\nother people", "length": "fond of\nlength"}
    rows = [effects[group] for group in names]
    ax.bar(list(names.values()), [r["mean"] for r in rows], yerr=error_bars(rows), color=COLORS["proxy"], alpha=0.85)
    planted = [BIASES["length"] if group == "length" else 0.0 for group in names]
    ax.plot(range(len(names)), planted, "D", color=COLORS["theory"], ms=6, label="planted in the annotators")
    ax.axhline(0, color=COLORS["theory"], lw=0.8)
    ax.set(title="Length effect by group of annotators", ylabel="reward per filler word")
    ax.margins(y=0.2)
    ax.legend(loc="upper left")
