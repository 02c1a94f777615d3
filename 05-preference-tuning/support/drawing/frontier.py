"""The figure of frontier.py."""

from support.drawing import COLORS, Drawing, draw_bars, error_bars, legend_below

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


def draw_frontier(metrics: dict, default: dict | None = None) -> Drawing:
    """Gold utility against KL for all methods, and how near each comes to the limit."""
    rows = {row["method"]: row["share"]["mean"] for row in metrics["methods"]}
    title = "No method reaches the limit at its KL: "
    names = [name for name in ("best of n", "online RL", "DPO") if name in rows]
    title += ", ".join(f"{name} {rows[name]:.0%}" for name in names)
    title += " of its gain;\na reward that loves length bends down"
    return Drawing(title, PANELS, metrics, default, mosaic="AAB\nAAC", height=3.4)


def plane_panel(ax, metrics: dict, default: dict | None) -> None:
    """Every point of every method, the limit above them, and the biased twins as hollow marks.

    Shown: the quality of every method against the distance from the SFT checkpoint.
    Notice: nothing lies above the black line; hollow marks, tuned for length, sink below SFT.
    Ask: Which point would you ship, and which of its costs does this plane not show?
    """
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
    ax.set(ylabel="gold utility (log-odds)", title=plane_title(metrics["points"]))
    legend_below(ax, fontsize=8, ncols=4)


def plane_title(points: list[dict]) -> str:
    """What the filled and the hollow marks do, each compared with the SFT checkpoint."""
    start = min(points, key=lambda point: point["kl"]["mean"])["gold"]["mean"]
    far = [point for point in points if point["kl"]["mean"] > 1]
    gained = [point["gold"]["mean"] - start for point in far if not point["biased"]]
    lost = [start - point["gold"]["mean"] for point in far if point["biased"]]
    if not gained or not lost or min(lost) < 0:
        return "Gold utility that a KL buys"
    title = f"Past 1 nat: up to {max(gained):.1f} gained, "
    return title + f"with labels that love length up to {max(lost):.1f} lost"


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


def share_panel(ax, metrics: dict, default: dict | None) -> None:
    """The gain of every method that moved, as a share of the limit's.

    Shown: of what the best possible policy gains at the same distance, the share of each method.
    Notice: best-of-n only reweights what SFT says, and so wastes little of its KL.
    Ask: Where does the KL of a tuned policy go that buys no quality?
    """
    moved = [row for row in metrics["methods"] if row["kl"]["mean"] > 0.1]
    plot_methods(ax, moved, "share")
    best = max(moved, key=lambda row: row["share"]["mean"])
    title = f"{best['method']} comes nearest\nthe limit at its KL: {best['share']['mean']:.0%}"
    ax.set(title=title, xlabel="share of pi*'s gain at the same KL")


def gain_panel(ax, metrics: dict, default: dict | None) -> None:
    """What every method gains, wherever it ended.

    Shown: the gold utility that the answers gain over those of the SFT checkpoint.
    Notice: random labels gain nothing, so what the others gain comes from the preferences.
    Ask: Which of these methods pays at every answer, and which only once, in training?
    """
    plot_methods(ax, metrics["methods"], "gain")
    best = max(metrics["methods"], key=lambda row: row["gain"]["mean"])
    title = f"{best['method']} gains most:\n{best['gain']['mean']:.1f} over the SFT checkpoint"
    ax.set(title=title, xlabel="gold utility over SFT (log-odds)")


def plot_methods(ax, methods: list[dict], name: str) -> None:
    """One quantity of every method, the best first."""
    rows = sorted(methods, key=lambda row: row[name]["mean"])
    colors = [LOOKS[row["method"]][0] for row in rows]
    names = [row["method"] for row in rows]
    draw_bars(ax, names, [row[name] for row in rows], colors, horizontal=True)
    ax.axvline(0, color=COLORS["theory"], lw=0.8)
    ax.grid(axis="y", visible=False)


PANELS = (plane_panel, share_panel, gain_panel)
