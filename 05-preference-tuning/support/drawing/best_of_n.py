"""The figure of best_of_n.py."""

from pathlib import Path

import numpy as np
from support.drawing import COLORS, curve, draw_band, draw_bars, new_figure, save_figure

METHODS = {
    "sft": "SFT",
    "best_of_n": "best of n",
    "dpo": "DPO",
    "dpo_best_of_n": "DPO +\nbest of n",
}
UNITS = {"reward": "reward (log-odds)", "utility": "gold utility (log-odds)"}
UNITS |= {"good": "share", "words": "words"}


def draw_best_of_n(path: Path, metrics: dict, caption: str, default: dict | None = None) -> None:
    """The world's run, or one on the user's pairs, which has no gold standard."""
    curves, n = metrics["curves"], len(metrics["kl_bound"])
    if "methods" not in metrics:
        fig, axes = new_figure(1, 4)
        curves_panel(axes[0, 0], curves, "reward", "Reward model's score")
        curves_panel(axes[0, 1], curves, "words", "Length")
        bound_panel(axes[0, 2], metrics)
        cost_panel(axes[0, 3], metrics)
        first, best = (curves["sft"]["reward"][at]["mean"] for at in (0, -1))
        title = f"Reward: one sample {first:.2f}, best of {n} {best:.2f}"
        save_figure(fig, path, title, caption)
        return
    fig, axes = new_figure(2, 3)
    curves_panel(axes[0, 0], curves, "reward", "Reward model's score")
    curves_panel(axes[0, 1], curves, "utility", "Gold utility")
    curves_panel(axes[0, 2], curves, "good", "Share of good answers")
    bound_panel(axes[1, 0], metrics)
    cost_panel(axes[1, 1], metrics)
    methods_panel(axes[1, 2], metrics["methods"])
    good = {name: values["good"]["mean"] for name, values in metrics["methods"].items()}
    title = f"Good answers: SFT {good['sft']:.0%}, best of {n} {good['best_of_n']:.0%}, "
    title += f"DPO {good['dpo']:.0%}, DPO with best of {n} {good['dpo_best_of_n']:.0%}"
    save_figure(fig, path, title, caption)


def curves_panel(ax, curves: dict, name: str, title: str) -> None:
    """Expected value of the best of n by reward, from the pools of both policies."""
    arms = (("sft", "best_of_n", "from SFT"), ("dpo", "dpo_best_of_n", "from DPO"))
    for arm, color, label in arms:
        rows = curves[arm][name]
        draw_band(ax, range(1, len(rows) + 1), *curve(rows), COLORS[color], label)
        ax.plot(1, rows[0]["mean"], "o", color=COLORS[arm], ms=7)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(title=title, xlabel="n", ylabel=UNITS[name])
    ax.legend(loc="lower right")


def bound_panel(ax, metrics: dict) -> None:
    """Reward against KL: best-of-n, its bound, and the closed-form optimum on the same pool."""
    best, optimum = metrics["frontiers"]["best_of_n"], metrics["frontiers"]["optimum"]
    for rows, line in ((optimum, "--"), (best, "o-")):
        color = COLORS["theory" if rows is optimum else "best_of_n"]
        ax.plot(curve(rows["kl"])[0], curve(rows["reward"])[0], line, color=color, ms=5)
    ax.set(title="Reward against KL on one pool", xlabel="measured KL, nats", ylabel="reward")


def cost_panel(ax, metrics: dict) -> None:
    """Work against n, on logarithmic axes."""
    ns, flops = np.array(metrics["cost"]["n"]), np.array(metrics["cost"]["flops"])
    ax.loglog(ns, flops / flops[0], "o-", color=COLORS["best_of_n"], label="FLOPs")
    ax.loglog(ns, ns, color=COLORS["theory"], ls="--", label="linear")
    title = f"Cost: FLOPs grow as n^{metrics['cost_exponent']['mean']:.2f}"
    ax.set(title=title, xlabel="n", ylabel="relative to n = 1")
    ax.legend()


def methods_panel(ax, methods: dict) -> None:
    """Gold utility of the four ways to answer, on the same prompts."""
    rows, colors = (
        [methods[name]["utility"] for name in METHODS],
        [COLORS[name] for name in METHODS],
    )
    draw_bars(ax, list(METHODS.values()), rows, colors)
    ax.set(title="Same prompts, four ways to answer", ylabel="gold utility (log-odds)")
