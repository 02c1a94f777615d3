"""The figure of best_of_n.py."""

from support.drawing import (
    COLORS,
    Drawing,
    curve,
    draw_band,
    draw_bars,
    error_bars,
    legend_below,
)

import numpy as np

METHODS = {
    "sft": "SFT",
    "as_many_pairs": "best of n,\nDPO's pairs",
    "best_of_n": "best of n,\nall pairs",
    "dpo": "DPO",
    "dpo_best_of_n": "DPO +\nbest of n",
}
SHADES = {"as_many_pairs": COLORS["best_of_n"]} | {name: COLORS[name] for name in COLORS}
UNITS = {"utility": "gold utility (log-odds)", "reward": "reward (log-odds)", "words": "words"}
ARMS = (
    ("sft", "best_of_n", "-", "of the SFT checkpoint"),
    ("as_many_pairs", "best_of_n", ":", "of SFT, reward model of as many pairs as DPO"),
    ("dpo", "dpo_best_of_n", "-", "of DPO"),
)


def draw_best_of_n(metrics: dict, default: dict | None = None) -> Drawing:
    """The world's run, or one on the user's pairs, which has no gold standard."""
    curves, n = metrics["curves"], round(metrics["n"])
    if "methods" not in metrics:
        first, best = (curves["sft"]["reward"][at]["mean"] for at in (0, -1))
        after = curves["dpo"]["reward"][0]["mean"]
        title = (
            f"Reward: one sample {first:.2f}, best of {n} {best:.2f}, one sample of DPO {after:.2f}"
        )
        return Drawing(title, OWN_PANELS, metrics, mosaic="AB\nCD", height=3.6)
    good = {name: values["good"]["mean"] for name, values in metrics["methods"].items()}
    title = f"Good answers: SFT {good['sft']:.0%}, best of {n} {good['best_of_n']:.0%} "
    title += f"({good['as_many_pairs']:.0%} where the reward model has as many pairs as DPO),\n"
    title += f"DPO {good['dpo']:.0%}, DPO with best of {n} {good['dpo_best_of_n']:.0%}"
    return Drawing(title, PANELS, metrics, default, height=4.0)


def over_n(ax, ns) -> None:
    """An axis for n with its powers of two."""
    ax.set_xscale("log", base=2)
    ticks = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= max(ns)]
    ax.set_xticks(ticks, ticks)
    ax.set_xlabel("n: candidates per answer")


def utility_panel(ax, metrics: dict, default: dict | None) -> None:
    """Expected gold utility of the best of n by reward, from the pools of both policies.

    Shown: the quality of the answer that a reward model likes best of n samples.
    Notice: the first few candidates buy most; the dots at the left are one sample each.
    Ask: Why does the curve flatten? (A good answer is already among the first few.)
    """
    plot_curves(ax, metrics["curves"], "utility", default)
    few, n = min(4, round(metrics["n"])), round(metrics["n"])
    title = f"Up to n = {few} gold gains {metrics['first_step']['mean']:.2f}"
    if "second_step" in metrics:
        title += f", then to {n} {metrics['second_step']['mean']:.2f}"
    ax.set(title=title)


def reward_panel(ax, metrics: dict, default: dict | None) -> None:
    """Expected reward of the best of n."""
    plot_curves(ax, metrics["curves"], "reward")
    ends = [metrics["curves"]["sft"]["reward"][at]["mean"] for at in (0, -1)]
    ax.set(title=f"The chosen answer's reward: {ends[0]:z.1f} to {ends[1]:z.1f}")


def words_panel(ax, metrics: dict, default: dict | None) -> None:
    """Expected length of the best of n."""
    plot_curves(ax, metrics["curves"], "words")
    ends = [metrics["curves"]["sft"]["words"][at]["mean"] for at in (0, -1)]
    ax.set(title=f"The chosen answer has {ends[0]:.0f} to {ends[1]:.0f} words")


def plot_curves(ax, curves: dict, name: str, default: dict | None = None) -> None:
    """Expected value of the best of n by reward, from the pools of both policies."""
    if default and "as_many_pairs" in default["curves"]:
        rows = default["curves"]["sft"][name]
        ax.plot(range(1, len(rows) + 1), curve(rows)[0], color=COLORS["default"], label="default")
    for arm, color, line, label in ARMS:
        if arm not in curves:
            continue
        rows = curves[arm][name]
        draw_band(ax, range(1, len(rows) + 1), *curve(rows), COLORS[color], label, ls=line)
        ax.plot(1, rows[0]["mean"], "o", color=COLORS["dpo" if arm == "dpo" else "sft"], ms=7)
    over_n(ax, range(1, len(rows) + 1))
    ax.set(ylabel=UNITS[name])
    legend_below(ax, fontsize=8)


def methods_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility of the ways to answer, on the same prompts.

    Shown: the quality of five ways to answer the same prompts.
    Notice: best-of-n is as good as its reward model: compare the two orange bars.
    Ask: Which comparison with DPO is fair: the same labels, or the best that each can do?
    """
    rows = [metrics["methods"][name]["utility"] for name in METHODS]
    draw_bars(ax, list(METHODS.values()), rows, [SHADES[name] for name in METHODS], width=0.7)
    for k, row in enumerate(rows):
        ax.annotate(f"{row['mean']:.2f}", (k, 0.1), ha="center", color="white", fontweight="bold")
    ax.tick_params(axis="x", labelsize=8)
    share = metrics["share_of_dpo_gain"]["as_many_pairs"]["mean"]
    title = f"Best of {metrics['n']:.0f}, as many pairs: {share:.0%} of DPO's gain"
    ax.set(title=title, ylabel=UNITS["utility"])


def frontier_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility against measured KL, with the limit of the pool.

    Shown: quality against the measured distance from SFT; the dashed line is the best possible.
    Notice: best-of-n stays near the limit; hollow marks are chosen by a model that loves length.
    Ask: What does a policy above the dashed line tell you? (An error in the measurement.)
    """
    points, n = metrics["frontier"], round(metrics["n"])
    limit = [p for p in points if p["method"] == "optimum" and p["sample_share"] >= 0.1]
    best = [p for p in points if p["method"] == "best of n" and p["series"] == "human"]
    biased = [p for p in points if p["biased"]]
    both = [p for p in points if p["method"] == "DPO + best of n"]
    start = best[0]
    rows = sorted((p["kl"]["mean"], p["gold"]["mean"]) for p in [*limit, start])
    ax.plot(*np.array(rows).T, color=COLORS["theory"], ls="--", label="the limit: pi*")
    styles = (
        (best, "best_of_n", "o", "best of n"),
        (biased, "best_of_n", "o", "best of n, length-biased"),
        (both[1:], "dpo_best_of_n", "D", "DPO + best of n"),
        (both[:1], "dpo", "D", "DPO"),
    )
    for some, color, marker, label in styles:
        kl = [p["kl"]["mean"] for p in some]
        gold = [p["gold"]["mean"] for p in some]
        face = "white" if some is biased else COLORS[color]
        bars = error_bars([p["gold"] for p in some])
        look = {"color": COLORS[color], "marker": marker, "mfc": face, "ms": 5, "lw": 1}
        ax.errorbar(kl, gold, bars, label=label, **look)
    for p in best[2::2]:
        at = (p["kl"]["mean"], p["gold"]["mean"])
        ax.annotate(p["label"], at, xytext=(2, -12), textcoords="offset points", fontsize=8)
    here = next((p for p in best if round(p["n"]) == n), best[-1])
    most = np.interp(here["kl"]["mean"], *np.array(rows).T) - start["gold"]["mean"]
    share = (here["gold"]["mean"] - start["gold"]["mean"]) / most
    ax.set(title=f"Best of {round(here['n'])}: {share:.0%} of what its KL could buy")
    ax.set(xlabel="measured KL from the SFT checkpoint, nats", ylabel=UNITS["utility"])
    legend_below(ax, fontsize=8)


def annotators_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold and reward by a reward model of annotators who love length, beside unbiased ones.

    Shown: reward and quality as n grows, where the annotators were fond of length.
    Notice: the reward only rises; quality falls from early on.
    Ask: Which n would you choose, and how would you notice without the solid line?
    """
    annotators = metrics["annotators"]
    ns, length, human = (annotators[name] for name in ("n", "length", "human"))
    level = length["utility"][0]["mean"]
    reward = curve(length["reward"])[0]
    draw_band(
        ax, ns, *curve(human["utility"]), COLORS["gold"], "gold, by unbiased annotators", ls="--"
    )
    draw_band(
        ax,
        ns,
        *curve(length["utility"]),
        COLORS["gold"],
        "gold, by those fond of length",
        marker="o",
    )
    label = "its reward, from the same start"
    ax.plot(ns, level + reward - reward[0], color=COLORS["proxy"], ls=":", label=label)
    over_n(ax, ns)
    ends = [length["utility"][at]["mean"] for at in (0, -1)]
    title = f"Annotators fond of length: gold {ends[0]:.1f} to {ends[1]:.1f}"
    ax.set(title=title, ylabel="log-odds")
    legend_below(ax, fontsize=8)


def bound_panel(ax, metrics: dict, default: dict | None) -> None:
    """Measured KL of best-of-n against n, and its bound.

    Shown: the distance that best-of-n takes from SFT, and the formula that is often quoted.
    Notice: the formula is an upper bound; where answers repeat, the measured KL stays below it.
    Ask: When is the bound exact? (When no two samples are ever the same.)
    """
    best = [p for p in metrics["frontier"] if p["method"] == "best of n" and p["series"] == "human"]
    ns = [p["n"] for p in best]
    measured = [p["kl"] for p in best]
    ax.plot(
        ns,
        metrics["kl_bound"],
        color=COLORS["theory"],
        ls="--",
        label="the bound log n - (n - 1)/n",
    )
    draw_band(ax, ns, *curve(measured), COLORS["best_of_n"], "measured on the pool", marker="o")
    over_n(ax, ns)
    share = measured[-1]["mean"] / metrics["kl_bound"][-1]
    title = f"KL reaches {share:.0%} of its bound at n = {round(ns[-1])}"
    ax.set(title=title, ylabel="KL from the SFT checkpoint, nats")
    legend_below(ax, fontsize=8)


def cost_panel(ax, metrics: dict, default: dict | None) -> None:
    """Work against n, on logarithmic axes: each candidate alone, and as the lab does it.

    Shown: the computing that one answer takes, by the number of candidates.
    Notice: both axes are logarithmic, so a straight line is a power of n.
    Ask: What is shared among the candidates? (The prompt, and equal texts are scored once.)
    """
    cost = metrics["cost"]
    ns = np.array(cost["n"])
    lines = (
        ("alone", "sft", "each candidate by itself"),
        ("shared", "best_of_n", "shared prompt, equal texts once"),
    )
    for name, color, label in lines:
        draw_band(ax, ns, *curve(cost[name]), COLORS[color], label, marker="o")
    over_n(ax, ns)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter("{x:g}")
    title = (
        f"Cost grows as n^{cost['exponent']['mean']:.2f}; sharing saves {cost['saved']['mean']:.0%}"
    )
    ax.set(title=title, ylabel="MFLOPs per answer")
    legend_below(ax, fontsize=8)


PANELS = (
    utility_panel,
    methods_panel,
    frontier_panel,
    annotators_panel,
    bound_panel,
    cost_panel,
)
OWN_PANELS = (reward_panel, words_panel, bound_panel, cost_panel)
