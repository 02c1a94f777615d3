"""The figure of dpo_trainer.py."""

from pathlib import Path

import numpy as np
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

ARMS = (("", "-", "default"), ("_too_far", ":", "ten times the\nlearning rate"))


def draw_dpo(path: Path, metrics: dict, caption: str, default: dict | None = None) -> None:
    """The world's run, or one on the user's pairs, which has no gold standard."""
    has_gold = "good" in metrics["policy"]
    arms = [arm for arm in ARMS if f"training{arm[0]}" in metrics]
    fig, axes = new_figure(2, 3)
    loss_panel(axes[0, 0], metrics, arms)
    rewards_panel(axes[0, 1], metrics["training"])
    if not has_gold:
        held_out_panel(axes[0, 2], metrics["held_out_pairs"])
        for ax, name, unit in zip(axes[1], ("kl", "words"), ("nats", "words"), strict=False):
            watched_panel(ax, metrics["curve"], name, unit)
        axes[1, 2].remove()
        accuracy = metrics["held_out_pairs"]["implicit_reward_accuracy"]
        title = f"The implicit reward ranks {accuracy['mean']:.0%} of held-out pairs as labelled"
        save_figure(fig, path, title, caption)
        return
    margins_panel(axes[0, 2], metrics, arms)
    good_panel(axes[1, 0], metrics, arms, default)
    frontier_panel(axes[1, 1], metrics, arms, default)
    change_panel(axes[1, 2], metrics["reference"], metrics["policy"])
    before, after = (metrics[name]["good"]["mean"] for name in ("reference", "policy"))
    title = f"DPO takes the share of good answers from {before:.0%} to {after:.0%},\n"
    far = metrics["policy_too_far"]["good"]["mean"]
    ends = [np.mean(metrics[f"training{arm}"]["rewards/margins"][-10:]) for arm, *_ in ARMS]
    title += f"ten times the learning rate to {far:.0%}, though its training margins end at "
    save_figure(fig, path, title + f"{ends[1]:.1f} instead of {ends[0]:.1f}", caption)


def plot_smooth(ax, values: list[float], color: str, label: str | None, **line) -> None:
    """A curve of training as its running mean over a tenth of the run."""
    ax.plot(*smooth(values, max(1, len(values) // 10)), color=color, label=label, **line)


def loss_panel(ax, metrics: dict, arms) -> None:
    """The loss of each arm, from ln 2."""
    for arm, line, label in arms:
        plot_smooth(ax, metrics[f"training{arm}"]["loss"], COLORS["dpo"], label, ls=line)
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: the start")
    ax.set(title="The loss falls from ln 2", xlabel="step", ylabel="DPO loss, nats per pair")
    ax.legend()


def margins_panel(ax, metrics: dict, arms) -> None:
    """Training margins of each arm."""
    for arm, line, label in arms:
        margins = metrics[f"training{arm}"]["rewards/margins"]
        plot_smooth(ax, margins, COLORS["dpo"], label, ls=line)
    ax.set(title="Training shows only margins", xlabel="step", ylabel="margin (log-odds)")
    ax.legend(loc="upper left")


def rewards_panel(ax, training: dict) -> None:
    """Implicit rewards of chosen and rejected responses."""
    for side in ("chosen", "rejected"):
        plot_smooth(ax, training[f"rewards/{side}"], COLORS[side], side)
    plot_smooth(ax, training["rewards/margins"], COLORS["theory"], "margin", ls="--")
    title = "Chosen rises relative to rejected"
    ax.set(title=title, xlabel="step", ylabel="implicit reward (log-odds)")
    ax.legend()


def held_out_panel(ax, held: dict) -> None:
    """How many held-out pairs are ranked as labelled."""
    rows = [held["implicit_reward_accuracy"], held["ranking_accuracy"]]
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


def good_panel(ax, metrics: dict, arms, default: dict | None) -> None:
    """Share of good answers among those sampled during training, for each arm."""
    if default:
        steps = [seen["step"] for seen in default["curve"]]
        good = [seen["good"]["mean"] for seen in default["curve"]]
        ax.plot(steps, good, color=COLORS["default"], label="the default run")
    for arm, line, label in arms:
        looks = metrics[f"curve{arm}"]
        steps, good = [seen["step"] for seen in looks], [seen["good"] for seen in looks]
        draw_band(ax, steps, *curve(good), COLORS["dpo"], label, ls=line, marker="o", ms=4)
    title = "A reader would see this: good answers"
    ax.set(title=title, xlabel="step", ylabel="share (validation prompts)", ylim=(0, 1))
    ax.legend(loc="lower right")


def frontier_panel(ax, metrics: dict, arms, default: dict | None) -> None:
    """Gold utility against KL along each training run."""
    if default:
        kl = np.sqrt([seen["kl"]["mean"] for seen in default["curve"]])
        gold = [seen["utility"]["mean"] for seen in default["curve"]]
        ax.plot(kl, gold, color=COLORS["default"], label="the default run")
    for arm, line, label in arms:
        looks = metrics[f"curve{arm}"]
        kl = np.sqrt([seen["kl"]["mean"] for seen in looks])
        gold = [seen["utility"] for seen in looks]
        bars = {"color": COLORS["dpo"], "ls": line, "marker": "o", "ms": 4, "lw": 1.2}
        ax.errorbar(kl, curve(gold)[0], error_bars(gold), label=label, **bars)
    ax.set(title="Utility gained and lost on the way", ylabel="gold utility (log-odds)")
    ax.set_xlabel("square root of the measured KL(policy || reference), nats")
    ax.legend(loc="lower left")


def change_panel(ax, before: dict, after: dict) -> None:
    """Before and after, on test prompts: what kind of answers."""
    names = {"good": "good", "plain": "no filler", "on_topic": "on topic", "correct": "right"}
    arms = ((before, COLORS["sft"], "reference"), (after, COLORS["dpo"], "DPO"))
    for k, (answers, color, label) in enumerate(arms):
        places = np.arange(len(names)) + (k - 0.5) * 0.38
        rows = [answers[name] for name in names]
        draw_bars(ax, places, rows, color, width=0.36, label=label)
    ax.set_xticks(range(len(names)), names.values())
    title = "Style changes more than substance"
    ax.set(title=title, ylabel="share (test prompts)", ylim=(0, 1.18))
    ax.legend(ncols=2, loc="upper left")
