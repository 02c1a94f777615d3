"""The figure of dpo_trainer.py."""

from pathlib import Path

import numpy as np

from drawing import COLORS, curve, draw_band, error_bars, new_figure, save_figure, smooth

ARMS = (("", "-", "default"), ("_too_far", ":", "ten times the\nlearning rate"))


def dpo_figure(path: Path, metrics: dict) -> None:
    """The default run of dpo_trainer.py."""
    fig, axes = new_figure(2, 3)
    training_panel(axes[0, 0], metrics)
    rewards_panel(axes[0, 1], metrics["training"])
    margins_panel(axes[0, 2], metrics)
    good_panel(axes[1, 0], metrics)
    frontier_panel(axes[1, 1], metrics)
    change_panel(axes[1, 2], metrics["reference"], metrics["policy"])
    before, after, far = (metrics[name]["good"]["mean"] for name in ("reference", "policy", "policy_too_far"))
    title = f"DPO takes the share of good answers from {before:.0%} to {after:.0%},\n"
    margin, far_margin = (np.mean(metrics[f"training{arm}"]["rewards/margins"][-10:]) for arm, *_ in ARMS)
    title += (
        f"ten times the learning rate to {far:.0%} (training margins at the end: {margin:.1f} and {far_margin:.1f})"
    )
    save_figure(fig, path, title)


def own_dpo_figure(path: Path, metrics: dict) -> None:
    """dpo_trainer.py on the user's own model and pairs."""
    fig, axes = new_figure(1, 3)
    training_panel(axes[0, 0], metrics)
    rewards_panel(axes[0, 1], metrics["training"])
    rows = {name: metrics["held_out_pairs"][name] for name in ("implicit_reward_accuracy", "ranking_accuracy")}
    names = ["implicit reward\nranks chosen higher", "chosen is likelier\nas text"]
    means = [row["mean"] for row in rows.values()]
    axes[0, 2].bar(names, means, yerr=error_bars(rows.values()), color=COLORS["dpo"], alpha=0.85, width=0.6)
    axes[0, 2].axhline(0.5, color=COLORS["theory"], ls=":")
    axes[0, 2].set(title="Held-out pairs", ylim=(0, 1), ylabel="share of pairs")
    accuracy = metrics["held_out_pairs"]["implicit_reward_accuracy"]
    low, high = accuracy["ci95"]
    save_figure(fig, path, f"Held-out implicit-reward accuracy {accuracy['mean']:.1%} [{low:.1%}, {high:.1%}]")


def plot_smooth(ax, values: list[float], color: str, label: str, **line) -> None:
    """A curve of training as its running mean over a tenth of the run."""
    ax.plot(*smooth(values, max(1, len(values) // 10)), color=color, label=label, **line)


def training_panel(ax, metrics: dict) -> None:
    """The loss of each arm, from ln 2."""
    for arm, line, label in ARMS:
        if f"training{arm}" in metrics:
            plot_smooth(ax, metrics[f"training{arm}"]["loss"], COLORS["dpo"], label, ls=line)
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: the start")
    ax.set(title="The loss, from ln 2", xlabel="step", ylabel="DPO loss, nats per pair")
    ax.legend()


def margins_panel(ax, metrics: dict) -> None:
    """Training margins of each arm."""
    for arm, line, label in ARMS:
        plot_smooth(ax, metrics[f"training{arm}"]["rewards/margins"], COLORS["dpo"], label, ls=line)
    ax.set(title="What training shows: margins", xlabel="step", ylabel="margin (log-odds)")
    ax.legend(loc="upper right")


def rewards_panel(ax, training: dict) -> None:
    """Implicit rewards of chosen and rejected responses."""
    for side in ("chosen", "rejected"):
        plot_smooth(ax, training[f"rewards/{side}"], COLORS[side], side)
    plot_smooth(ax, training["rewards/margins"], COLORS["theory"], "margin", ls="--")
    ax.set(title="Chosen rises relative to rejected", xlabel="step", ylabel="implicit reward (log-odds)")
    ax.legend()


def good_panel(ax, metrics: dict) -> None:
    """Share of good answers among those sampled during training, for each arm."""
    for arm, line, label in ARMS:
        steps, good = ([look[name] for look in metrics[f"curve{arm}"]] for name in ("step", "good"))
        draw_band(ax, steps, *curve(good), COLORS["dpo"], label, ls=line, marker="o", ms=4)
    ax.set(title="What people would see: good answers", xlabel="step", ylabel="share (validation)", ylim=(0, 1))
    ax.legend(loc="lower right")


def frontier_panel(ax, metrics: dict) -> None:
    """Gold utility against KL along each training run."""
    for arm, line, label in ARMS:
        kl, utility = ([look[name]["mean"] for look in metrics[f"curve{arm}"]] for name in ("kl", "utility"))
        errors = error_bars([look["utility"] for look in metrics[f"curve{arm}"]])
        ax.errorbar(np.sqrt(kl), utility, errors, color=COLORS["dpo"], ls=line, marker="o", ms=4, lw=1.2, label=label)
    ax.set(title="The way from the reference", ylabel="gold utility (log-odds)")
    ax.set_xlabel("square root of KL(policy || reference), nats")
    ax.legend(loc="lower left")


def change_panel(ax, before: dict, after: dict) -> None:
    """Before and after, on test prompts: what kind of answers."""
    names = {"good": "good", "plain": "no filler", "on_topic": "on topic", "correct": "right"}
    for k, (found, color, label) in enumerate(((before, COLORS["sft"], "reference"), (after, COLORS["dpo"], "DPO"))):
        rows = [found[name] for name in names]
        at = np.arange(len(names)) + (k - 0.5) * 0.38
        ax.bar(at, [r["mean"] for r in rows], 0.36, yerr=error_bars(rows), color=color, label=label, error_kw={"lw": 1})
    ax.set_xticks(range(len(names)), names.values())
    ax.set(title="Style and substance of sampled answers", ylabel="share (test prompts)", ylim=(0, 1.18))
    ax.legend(ncols=2, loc="upper left")
