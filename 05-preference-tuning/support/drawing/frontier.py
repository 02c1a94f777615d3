"""The figure of frontier.py."""

from pathlib import Path

from support.drawing import COLORS, draw_bars, error_bars, new_figure, save_figure

import numpy as np

# Colour and marker of each method; hollow: tuned for annotators who love length.
LOOKS = {
    "SFT": (COLORS["sft"], "s"),
    "best of n": (COLORS["best_of_n"], "o"),
    "DPO": (COLORS["dpo"], "o"),
    "IPO": (COLORS["ipo"], "v"),
    "KTO": (COLORS["kto"], "^"),
    "AI labels": (COLORS["dpo"], "P"),
    "on-policy DPO": (COLORS["dpo"], "D"),
    "online RL": (COLORS["rl"], "o"),
    "SFT on chosen": (COLORS["sft"], "^"),
    "random labels": (COLORS["sft"], "x"),
    "DPO + best of n": (COLORS["dpo_best_of_n"], "o"),
}
LINES = ("best of n", "DPO", "online RL", "DPO + best of n")  # points along one run


def draw_frontier(path: Path, metrics: dict, caption: str, default: dict | None = None) -> None:
    """Gold utility against KL for all methods, and how near each comes to the limit."""
    fig, axes = new_figure(2, 3, height=3.4)
    for ax in axes[:, :2].flat:
        ax.remove()
    plane = fig.add_subplot(axes[0, 0].get_gridspec()[:, :2])
    plane_panel(plane, metrics)
    moved = [row for row in metrics["methods"] if row["kl"]["mean"] > 0.1]
    bars_panel(axes[0, 2], moved, "share", "How near the limit at its own KL")
    axes[0, 2].set_xlabel("share of pi*'s gain at the same KL")
    bars_panel(axes[1, 2], metrics["methods"], "gain", "What the answers gain")
    axes[1, 2].set_xlabel("gold utility over SFT (log-odds)")
    rows = {row["method"]: row["share"]["mean"] for row in metrics["methods"]}
    title = "No method reaches the limit at its KL: "
    names = [name for name in ("best of n", "online RL", "DPO") if name in rows]
    title += ", ".join(f"{name} {rows[name]:.0%}" for name in names)
    save_figure(fig, path, f"{title} of its gain;\na reward that loves length bends down", caption)


def plane_panel(ax, metrics: dict) -> None:
    """Every point of every method, the limit above them, and the biased twins as hollow marks."""
    limit = metrics["limit"]
    kl = [point["kl"] for point in limit]
    gold = [point["gold"] for point in limit]
    ax.plot(kl, gold, color=COLORS["theory"], label="limit: pi* of gold, which no training sees")
    for method, (color, marker) in LOOKS.items():
        for biased in (False, True):
            points = select(metrics["points"], method, biased)
            draw_method(ax, method, points, color, marker, biased)
    ax.plot([], [], "o", mfc="white", color=COLORS["theory"], label="hollow: length-biased labels")
    ax.set_xscale("function", functions=(root, np.square))
    ax.set_xlim(left=0)
    ax.set_xticks([0, 0.1, 0.5, 1, 2, 4, 8, 16, 32])
    ax.set_ylim(bottom=0)
    ax.set(xlabel="measured KL from the SFT checkpoint, nats (square-root axis)")
    ax.set(ylabel="gold utility (log-odds)", title="Gold utility that a KL buys")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), fontsize=8, ncols=4)


def root(kl: np.ndarray) -> np.ndarray:
    """The square root, and 0 below 0, which an axis may ask for."""
    return np.sqrt(np.maximum(kl, 0))


def select(points: list[dict], method: str, biased: bool) -> list[dict]:
    """The points of one method, tuned on unbiased or on biased labels."""
    return [p for p in points if p["method"] == method and p["biased"] == biased]


def draw_method(ax, method: str, points: list[dict], color: str, marker: str, biased: bool) -> None:
    """The points of one method, joined where they lie along one run."""
    if not points:
        return
    for series in sorted({point["series"] for point in points}):
        rows = [point for point in points if point["series"] == series]
        kl = [point["kl"]["mean"] for point in rows]
        gold = [point["gold"] for point in rows]
        line = {"color": color, "marker": marker, "ms": 6, "lw": 0.8}
        line["ls"] = ("--" if biased else "-") if method in LINES else "none"
        line["mfc"] = "white" if biased else color
        first = series == min(point["series"] for point in points)
        label = method if first and not biased else None
        bars = error_bars(gold)
        ax.errorbar(kl, [row["mean"] for row in gold], bars, elinewidth=0.6, label=label, **line)


def bars_panel(ax, methods: list[dict], name: str, title: str) -> None:
    """One quantity of every method, the best first."""
    rows = sorted(methods, key=lambda row: row[name]["mean"])
    colors = [LOOKS[row["method"]][0] for row in rows]
    names = [row["method"] for row in rows]
    draw_bars(ax, names, [row[name] for row in rows], colors, horizontal=True)
    ax.axvline(0, color=COLORS["theory"], lw=0.8)
    ax.grid(axis="y", visible=False)
    ax.set_title(title)
