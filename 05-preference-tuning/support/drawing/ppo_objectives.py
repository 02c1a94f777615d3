"""The figure of rlhf_objectives.py."""

import numpy as np

from drawing import COLORS, draw_band, heat_map

Array = np.ndarray


def mean_band(values: Array) -> tuple[Array, Array, Array]:
    """Mean over the questions (last axis) and its 95 % normal interval."""
    mean, half = values.mean(-1), 1.96 * values.std(-1, ddof=1) / np.sqrt(values.shape[-1])
    return mean, mean - half, mean + half


def plot_objective(axes, policies: dict, frontier: dict, betas: Array, runs: dict, world: dict, styles: list) -> None:
    """The optimum by beta, its frontier, and PPO with and without the KL term."""
    top, long = world["favourite"], np.isin(styles, ("verbose", "expert"))
    short = np.array(styles) == "concise"
    masks = {"proxy's favourite": top, "other long": long & ~top, "concise": short & ~top, "bad": ~(top | long | short)}
    bottom = np.zeros(len(policies))
    paint = (("proxy", 1), ("proxy", 0.4), ("gold", 1), ("sft", 0.5))
    for (label, mask), (color, alpha) in zip(masks.items(), paint, strict=True):
        height = np.array([(probs * mask).sum(-1).mean() for probs in policies.values()])
        axes[0].bar(list(policies), height, 0.8, bottom, color=COLORS[color], alpha=alpha, label=label)
        bottom += height
    axes[0].set(ylabel="probability", title="Optimum π* by β, and where PPO ends", ylim=(0, 1))
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.48, -0.17), ncols=4, columnspacing=0.8, handlelength=0.9)
    for name in ("proxy", "gold"):
        draw_band(axes[1], frontier["kl"].mean(-1), *mean_band(frontier[name]), COLORS[name], f"{name} of π*")
        for run_name, marker, line in (("KL", "o", "-"), ("no KL", "X", "--")):
            end, band = mean_band(runs[run_name]["kl"])[0][-1], mean_band(runs[run_name][name])
            label = f"PPO, {run_name}" if name == "gold" else None
            axes[1].plot(end, band[0][-1], marker, color=COLORS[name], mec="black", markersize=9, label=label)
            draw_band(axes[2], np.arange(len(band[0])), *band, COLORS[name], f"{name}, {run_name}", linestyle=line)
    peak = betas[frontier["gold"].mean(-1).argmax()]
    axes[1].set(xlabel="KL(π ‖ reference), nats", ylabel="utility", title=f"Optimum π*: gold is best at β = {peak:.1f}")
    axes[2].set(xlabel="PPO updates", ylabel="utility", title="PPO with and without the KL term", xscale="symlog")
    axes[2].set_xticks((0, 1, 10, 100), (0, 1, 10, 100))
    axes[1].legend(loc="center right")
    axes[2].legend(loc="upper left")


def plot_update(axes, ratio: Array, surrogates: dict[int, Array], epsilon: float, gae: dict, estimates: dict) -> None:
    """The clipped surrogate, advantages from TD errors to returns, and bias and spread of the KL estimators."""
    for (sign, surrogate), color in zip(surrogates.items(), (COLORS["chosen"], COLORS["rejected"]), strict=True):
        dead = sign * (ratio - 1) > epsilon
        axes[0].plot(ratio, surrogate, color=color)
        axes[0].fill_between(ratio, 0, surrogate, where=dead, color=color, alpha=0.2, linewidth=0)
        axes[0].text(0.85, 1.2 * sign, f"A = {sign:+d}", ha="right", va="center")
        axes[0].text(1 + 0.6 * sign, 0.45 * sign, "no\ngradient", ha="center", va="center")
    axes[0].set(xlabel="ratio π / π old", ylabel="objective", title=f"Clipped surrogate, ε = {epsilon:g}")
    for t, shade in enumerate(("#000000", "#555555", "#999999")):
        axes[1].plot(list(gae), [advantages[t] for advantages in gae.values()], color=shade)
        axes[1].text(1.02, gae[1.0][t], f"t = {t}", color=shade, va="center")
    axes[1].set(xlabel="λ:  0 = TD errors, 1 = returns − values", ylabel="advantage", xlim=(0, 1.15))
    axes[1].set_title("GAE for r = 0, 0, 1 and V = .5, .6, .7")
    for i, (name, marker, shade) in enumerate((("k1", "o", "#000000"), ("k2", "s", "#999999"), ("k3", "^", "#555555"))):
        mean, std = np.array([found[name] for found in estimates.values()]).T
        axes[2].errorbar(np.arange(4) + 0.2 * (i - 1), mean, std / 10, fmt=marker, color=shade, capsize=3, label=name)
    axes[2].set_xticks(range(4), [f"{mu**2 / 2:.3g}" for mu in estimates])
    axes[2].set(xlabel="true KL, nats", ylabel="estimate / true KL", title="KL from 100 samples: mean ± 1 std")
    axes[2].legend()


def plot_cost(axes, held: dict[str, dict], distances: Array, rates: tuple, epochs: tuple, epsilon: float) -> None:
    """Weights in memory, and how far PPO ends from the optimum by learning rate and epochs, clipped or not."""
    for (method, row), color in zip(held.items(), ("sft", "dpo", "best_of_n", "dpo"), strict=True):
        left = 0.0
        for role, size in row["by_role"].items():
            alpha = 0.9 if role in row["trained_roles"] else 0.35
            axes[0].barh(method, size, left=left, color=COLORS[color], alpha=alpha, edgecolor="white")
            axes[0].text(left + size / 2, method, role if size > 1 else "", ha="center", va="center", fontsize=8.5)
            left += size
        axes[0].text(left + 1, method, f"{left:.0f} GB", va="center")
    axes[0].set(xlabel="GB of fp16 weights (dark: trained), no optimizer", title="Memory of 7B models", xlim=(0, 68))
    axes[0].invert_yaxis()
    for ax, grid, name in ((axes[1], distances[:, 0], f"ε = {epsilon:g}"), (axes[2], distances[:, 1], "no clipping")):
        heat_map(ax, grid.mean(-1), ".2f", origin="lower")
        ax.set_xticks(range(len(rates)), rates)
        ax.set_yticks(range(len(epochs)), epochs)
        ax.set(xlabel="learning rate", ylabel="epochs per batch", title=f"PPO's distance to π*, {name}")
