"""The figure of best_of_n.py."""

from pathlib import Path

import numpy as np

from drawing import COLORS, draw_band, error_bars, new_figure, save_figure

METHODS = {"sft": "SFT", "best_of_n": "best of n", "dpo": "DPO", "dpo_best_of_n": "DPO +\nbest of n"}


def best_of_n_figure(path: Path, metrics: dict, seconds: dict[str, float]) -> None:
    """The default run of best_of_n.py."""
    fig, axes = new_figure(2, 3)
    curves_panel(axes[0, 0], metrics["curves"], "reward", "Reward model's score", "proxy")
    curves_panel(axes[0, 1], metrics["curves"], "utility", "Gold utility", "gold")
    curves_panel(axes[0, 2], metrics["curves"], "good", "Share of good answers", "gold")
    bound_panel(axes[1, 0], metrics)
    cost_panel(axes[1, 1], metrics, seconds)
    methods_panel(axes[1, 2], metrics["methods"])
    good = {method: found["good"]["mean"] for method, found in metrics["methods"].items()}
    n = len(metrics["kl_bound"])
    title = f"Good answers: SFT {good['sft']:.0%}, best of {n} {good['best_of_n']:.0%}, DPO {good['dpo']:.0%}, "
    save_figure(fig, path, title + f"DPO with best of {n} {good['dpo_best_of_n']:.0%}")


def own_best_of_n_figure(path: Path, metrics: dict, seconds: dict[str, float]) -> None:
    """The run on the user's own pairs: no gold, so what the reward model says, at which length, KL and cost."""
    fig, axes = new_figure(1, 4)
    curves_panel(axes[0, 0], metrics["curves"], "reward", "Reward model's score", "proxy")
    curves_panel(axes[0, 1], metrics["curves"], "words", "Length", "theory")
    bound_panel(axes[0, 2], metrics)
    cost_panel(axes[0, 3], metrics, seconds)
    n, reward = len(metrics["kl_bound"]), {arm: found["reward"]["mean"] for arm, found in metrics["curves"].items()}
    title = f"Reward: one sample {reward['sft'][0]:.2f}, best of {n} {reward['sft'][-1]:.2f}, after DPO "
    save_figure(fig, path, title + f"{reward['dpo'][0]:.2f} and {reward['dpo'][-1]:.2f}")


def curves_panel(ax, curves: dict, name: str, title: str, kind: str) -> None:
    """Expected value of the best of n by reward, from the pools of both policies."""
    for arm, color, label in (("sft", COLORS["best_of_n"], "from SFT"), ("dpo", COLORS["dpo_best_of_n"], "from DPO")):
        band = curves[arm][name]
        draw_band(ax, range(1, len(band["mean"]) + 1), band["mean"], band["low"], band["high"], color, label)
        ax.plot(1, band["mean"][0], "o", color=COLORS["sft" if arm == "sft" else "dpo"], ms=7)
    ax.set_xscale("log", base=2)
    ax.set_xticks([n for n in (1, 2, 4, 8, 16, 32, 64) if n <= len(band["mean"])], minor=False)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ylabel = {"reward": "reward (log-odds)", "utility": "gold utility (log-odds)", "good": "share", "words": "words"}[
        name
    ]
    ax.set(title=title, xlabel="n", ylabel=ylabel)
    ax.title.set_color(COLORS[kind])
    ax.legend(loc="lower right")


def bound_panel(ax, metrics: dict) -> None:
    """Reward against KL: best-of-n, its bound, and the closed-form optimum on the same pool."""
    best, optimum = metrics["frontiers"]["best_of_n"], metrics["frontiers"]["optimum"]
    ax.plot(optimum["kl"], optimum["reward"], color=COLORS["theory"], ls="--", label="optimum, any policy")
    ax.plot(best["kl"], best["reward"], "o-", color=COLORS["best_of_n"], ms=5, label="best of n, KL of the pool")
    bounds = [metrics["kl_bound"][n - 1] for n in best["setting"]]
    ax.plot(bounds, best["reward"], "|", color=COLORS["best_of_n"], ms=11, mew=2, label="bound: log n - (n - 1)/n")
    for n, x, y in zip(best["setting"], best["kl"], best["reward"], strict=True):
        ax.annotate(f"n={n}", (x, y), xytext=(4, -12), textcoords="offset points", fontsize=8)
    ax.set(title="Reward against KL on one pool", xlabel="KL from the reference, nats", ylabel="reward")
    ax.set_xlim(-0.08, max(bounds) + 0.3)
    ax.legend(loc="lower right")


def cost_panel(ax, metrics: dict, seconds: dict[str, float]) -> None:
    """Work and time against n, on logarithmic axes."""
    ns, flops = np.array(metrics["cost"]["n"]), np.array(metrics["cost"]["flops"])
    ax.loglog(ns, flops / flops[0], "o-", color=COLORS["best_of_n"], label="FLOPs")
    times = np.array(list(seconds.values()))
    ax.loglog(ns, times / times[0], "s:", color=COLORS["sft"], label="seconds")
    ax.loglog(ns, ns, color=COLORS["theory"], ls="--", label="linear")
    ax.set_xticks(ns, ns)
    ax.set_yticks(ns, ns)
    ax.minorticks_off()
    ax.set(
        title=f"Cost: FLOPs grow as n^{metrics['cost_exponent']['mean']:.2f}", xlabel="n", ylabel="relative to n = 1"
    )
    ax.legend()


def methods_panel(ax, methods: dict) -> None:
    """Gold utility of the four ways to answer, on the same prompts."""
    rows = [methods[name]["utility"] for name in METHODS]
    colors = [COLORS[name] for name in METHODS]
    ax.bar(list(METHODS.values()), [r["mean"] for r in rows], yerr=error_bars(rows), color=colors, error_kw={"lw": 1})
    for k, row in enumerate(rows):
        ax.annotate(f"{row['mean']:.2f}", (k, row["ci95"][1]), xytext=(0, 3), textcoords="offset points", ha="center")
    ax.set(title="Same prompts, four ways to answer", ylabel="gold utility (log-odds)")
    ax.margins(y=0.12)
