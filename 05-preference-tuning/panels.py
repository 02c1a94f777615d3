"""How the figures of the model scripts are drawn, kept apart so that a script reads like its section. Read it last."""

from pathlib import Path

import numpy as np

from common.preferences import BIASES, STYLES
from common.reporting import COLORS, draw_band, new_figure, save_figure

# ---------------------------------------------------------------------------------------------------------
# reward_model.py
# ---------------------------------------------------------------------------------------------------------


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
    width = min(20, len(losses))
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    ax.plot(np.arange(width, len(losses) + 1), smooth, color=COLORS["proxy"])
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: no preference")
    if floor is not None:
        ax.axhline(floor, color=COLORS["theory"], ls="--", label="entropy of the labels")
    ax.set(title="Bradley-Terry loss in training", xlabel="step", ylabel="nats per pair", ylim=(0, None))
    ax.legend()


def reasons_panel(ax, metrics: dict) -> None:
    """Gold-order accuracy per style of the worse response, with intervals and the two controls."""
    rows = {"all": metrics["gold_order_accuracy"], "unseen subjects": metrics["gold_order_unseen_subjects"]}
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
    names = {"human": "unbiased", "human_2": "unbiased 2", "length": "like length", "style": "like style"}
    rows = [effects[group] for group in names]
    ax.bar(list(names.values()), [r["mean"] for r in rows], yerr=error_bars(rows), color=COLORS["proxy"], alpha=0.85)
    planted = [BIASES["length"] if group == "length" else 0.0 for group in names]
    ax.plot(range(len(names)), planted, "_", color=COLORS["theory"], ms=34, mew=2, label="planted in the annotators")
    ax.set(title="The annotators' taste for length comes through", ylabel="reward per filler word")
    ax.legend()


# ---------------------------------------------------------------------------------------------------------
# dpo_trainer.py
# ---------------------------------------------------------------------------------------------------------

ARMS = (("", COLORS["dpo"], "default"), ("_too_far", COLORS["rejected"], "learning rate x4"))


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
    title = f"DPO takes the share of good answers from {before:.0%} to {after:.0%}; "
    contrast = (
        "with better-looking margins" if margin_at_end(metrics, "_too_far") > margin_at_end(metrics, "") else "too"
    )
    save_figure(fig, path, title + f"four times the learning rate ends at {far:.0%}, {contrast}")


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


def margin_at_end(metrics: dict, arm: str) -> float:
    """Mean training margin over the last tenth of the steps."""
    margins = metrics[f"training{arm}"]["rewards/margins"]
    return float(np.mean(margins[-max(1, len(margins) // 10) :]))


def smooth(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """(steps, running mean over a tenth of the run)."""
    width = max(1, len(values) // 10)
    return np.arange(width, len(values) + 1), np.convolve(values, np.ones(width) / width, "valid")


def training_panel(ax, metrics: dict) -> None:
    """The loss of each arm, from ln 2."""
    for arm, color, label in ARMS:
        if f"training{arm}" in metrics:
            ax.plot(*smooth(metrics[f"training{arm}"]["loss"]), color=color, label=label)
    ax.axhline(np.log(2), color=COLORS["theory"], ls=":", label="ln 2: the start")
    ax.set(title="The loss falls", xlabel="step", ylabel="DPO loss, nats per pair")
    ax.legend()


def margins_panel(ax, metrics: dict) -> None:
    """Share of training pairs that the implicit reward ranks right, for each arm."""
    for arm, color, label in ARMS:
        ax.plot(*smooth(metrics[f"training{arm}"]["rewards/accuracies"]), color=color, label=label)
    ax.set(title="The training metric looks fine ...", xlabel="step", ylabel="implicit-reward accuracy", ylim=(0, 1))
    ax.legend(loc="lower right")


def rewards_panel(ax, training: dict) -> None:
    """Implicit rewards of chosen and rejected responses."""
    for side in ("chosen", "rejected"):
        ax.plot(*smooth(training[f"rewards/{side}"]), color=COLORS[side], label=side)
    ax.plot(*smooth(training["rewards/margins"]), color=COLORS["theory"], ls="--", label="margin")
    ax.set(title="Chosen rises relative to rejected", xlabel="step", ylabel="implicit reward (log-odds)")
    ax.legend()


def good_panel(ax, metrics: dict) -> None:
    """Share of good answers among those sampled during training, for each arm."""
    for arm, color, label in ARMS:
        curve = metrics[f"curve{arm}"]
        rows = [look["good"] for look in curve]
        low, high = np.array([row["ci95"] for row in rows]).T
        draw_band(
            ax, [look["step"] for look in curve], [r["mean"] for r in rows], low, high, color, label, marker="o", ms=4
        )
    ax.set(title="... whether or not the answers are", xlabel="step", ylabel="good answers (validation)", ylim=(0, 1))
    ax.legend(loc="lower left")


def frontier_panel(ax, metrics: dict) -> None:
    """Gold utility against KL along each training run."""
    for arm, color, label in ARMS:
        kl, utility = ([look[name]["mean"] for look in metrics[f"curve{arm}"]] for name in ("kl", "utility"))
        errors = error_bars([look["utility"] for look in metrics[f"curve{arm}"]])
        ax.errorbar(np.sqrt(kl), utility, errors, color=color, marker="o", ms=4, lw=1.2, label=label)
    ax.set(title="Gold utility on the way from the reference", ylabel="gold utility (log-odds)")
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


# ---------------------------------------------------------------------------------------------------------
# best_of_n.py
# ---------------------------------------------------------------------------------------------------------

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


def curves_panel(ax, curves: dict, name: str, title: str, kind: str) -> None:
    """Expected value of the best of n by reward, from the pools of both policies."""
    for arm, color, label in (("sft", COLORS["best_of_n"], "from SFT"), ("dpo", COLORS["dpo_best_of_n"], "from DPO")):
        band = curves[arm][name]
        draw_band(ax, range(1, len(band["mean"]) + 1), band["mean"], band["low"], band["high"], color, label)
        ax.plot(1, band["mean"][0], "o", color=COLORS["sft" if arm == "sft" else "dpo"], ms=7)
    ax.set_xscale("log", base=2)
    ax.set_xticks([n for n in (1, 2, 4, 8, 16, 32, 64) if n <= len(band["mean"])], minor=False)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ylabel = {"reward": "reward (log-odds)", "utility": "gold utility (log-odds)", "good": "share"}[name]
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


# ---------------------------------------------------------------------------------------------------------
# Shared
# ---------------------------------------------------------------------------------------------------------


def error_bars(rows) -> np.ndarray:
    """Distances (2, K) from the means of summaries to the ends of their intervals, as matplotlib wants them."""
    rows = list(rows)
    means = np.array([row["mean"] for row in rows])
    return np.abs(np.array([row["ci95"] for row in rows]).T - means)
