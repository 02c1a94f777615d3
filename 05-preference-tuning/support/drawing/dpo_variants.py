"""The figure of dpo_variants.py."""

from pathlib import Path

from support.drawing import (
    COLORS,
    curve,
    draw_band,
    draw_bars,
    draw_point,
    error_bars,
    new_figure,
    save_figure,
)

import numpy as np

ARM_COLORS = {"dpo": COLORS["dpo"], "ipo": COLORS["ipo"], "kto": COLORS["kto"]}
GOLD, ROOT_KL = "gold utility (log-odds)", "square root of the measured KL, nats"


def draw_variants(path: Path, metrics: dict, caption: str, default: dict | None = None) -> None:
    """The whole section on the world's pairs, or a few losses, or a run on the user's pairs."""
    if "differences" not in metrics:
        draw_losses(path, metrics, caption, default)
        return
    arms = {"reference": metrics["reference"], **metrics["arms"]}
    differences = metrics["differences"]
    fig, axes = new_figure(2, 3, height=3.5)
    table_panel(axes[0, 0], metrics["table"])
    ties_panel(axes[0, 1], arms)
    noise_panel(axes[0, 2], arms)
    labels_panel(axes[1, 0], metrics["labels"], differences["rlaif_is_its_judge"]["mean"])
    sources_panel(axes[1, 1], arms, differences["on_policy_is_better"])
    budget_panel(axes[1, 2], arms)
    shown = {"DPO": "dpo", "IPO": "ipo", "KTO": "kto", "AI labels": "ai_labels"}
    good = ", ".join(f"{name} {arms[key]['good']['mean']:.0%}" for name, key in shown.items())
    sft = arms["reference"]["good"]["mean"]
    save_figure(fig, path, f"Good answers of the SFT checkpoint {sft:.0%}, after {good}", caption)


def table_panel(ax, table: dict) -> None:
    """The margin of one pair over gradient steps, and where each loss should stop."""
    names = {"dpo": "DPO", "cdpo": "conservative DPO", "ipo": "IPO"}
    colors = {"dpo": COLORS["dpo"], "cdpo": COLORS["sft"], "ipo": COLORS["ipo"]}
    for pair, line in zip(table["pairs"], ("-", "--"), strict=True):
        for loss, name in names.items():
            label = name if line == "-" else None
            ax.plot(table["steps"], pair["h"][loss], color=colors[loss], ls=line, label=label)
            stop = pair["stops"][loss]
            if stop is not None:
                ax.plot(table["steps"][-1] * 1.25, stop, "<", color=colors[loss], clip_on=False)
    ax.plot([], [], "<", color=COLORS["theory"], label="predicted stop")
    ax.plot([], [], color=COLORS["theory"], ls="--", label="won in 80 %")
    ax.set_xscale("log")
    title = "One pair that always wins:\nDPO never stops, IPO does"
    ax.set(title=title, xlabel="gradient steps", ylabel="margin h, nats")
    ax.legend(loc="upper left")


def plot_path(ax, arm: dict, color: str, line: str, label: str) -> None:
    """Gold utility against the root of the KL along a training, on validation prompts."""
    root_kl = np.sqrt([seen["kl"]["mean"] for seen in arm["curve"]])
    bands = curve([seen["utility"] for seen in arm["curve"]])
    marker = "o" if line == "-" else None
    draw_band(ax, root_kl, *bands, color, label, ls=line, marker=marker, ms=3.5)


def legend_below(ax, share: float = 0.5, **options) -> None:
    """The legend in room made for it under the data, `share` of their height."""
    low, high = ax.get_ylim()
    ax.set_ylim(bottom=low - share * (high - low))
    ax.legend(loc="lower right", **options)


def cost(arms: dict, arm: str, worse: str) -> float:
    """Gold utility that worse data cost a method, at the end of the training."""
    return arms[arm]["utility"]["mean"] - arms[worse]["utility"]["mean"]


def ties_panel(ax, arms: dict) -> None:
    """DPO and IPO on clean and on tied pairs."""
    for loss, name in (("dpo", "DPO"), ("ipo", "IPO")):
        plot_path(ax, arms[loss], ARM_COLORS[loss], "--", f"{name}, clean pairs")
        plot_path(ax, arms[f"{loss}_ties"], ARM_COLORS[loss], "-", f"{name}, 75 % ties")
    lost = [cost(arms, loss, f"{loss}_ties") for loss in ("dpo", "ipo")]
    title = f"75 % ties cost DPO {lost[0]:.1f}, IPO {lost[1]:.1f}\nof gold utility in the end"
    ax.set(title=title, xlabel=ROOT_KL, ylabel=GOLD)
    legend_below(ax)


def noise_panel(ax, arms: dict) -> None:
    """DPO and KTO on clean and on flipped labels."""
    for loss, name in (("dpo", "DPO"), ("kto", "KTO")):
        plot_path(ax, arms[loss], ARM_COLORS[loss], "--", f"{name}, clean labels")
        plot_path(ax, arms[f"{loss}_noise"], ARM_COLORS[loss], "-", f"{name}, 30 % flipped")
    lost = [cost(arms, loss, f"{loss}_noise") for loss in ("dpo", "kto")]
    title = f"30 % flipped labels cost DPO {lost[0]:.1f},\nKTO {lost[1]:.1f} of gold utility"
    ax.set(title=title, xlabel=ROOT_KL, ylabel=GOLD)
    legend_below(ax)


def labels_panel(ax, labels: dict, off_line: float) -> None:
    """Gold utility against how often the labels agree with the gold order."""
    human = labels["human"]
    x = [point["agreement"]["mean"] for point in human]
    slope, height = np.polyfit(x, [point["gold"]["mean"] for point in human], 1)
    ends = np.array([min(x) - 0.03, max(x) + 0.03])
    ax.plot(ends, height + slope * ends, color=COLORS["theory"], ls=":", label="their line")
    dots = {"color": COLORS["dpo"], "fmt": "o", "label": "human labels, 0 to 30 % flipped"}
    gold = [point["gold"] for point in human]
    ax.errorbar(x, [row["mean"] for row in gold], error_bars(gold), **dots)
    for point, marker, name in zip(
        labels["judge"], "sD", ("both orders", "one order"), strict=True
    ):
        style = {"marker": marker, "ms": 8, "mfc": "white"}
        draw_point(ax, point["agreement"], point["gold"], COLORS["proxy"], f"AI, {name}", **style)
    side = "on" if abs(off_line) < 0.2 else "below" if off_line < 0 else "above"
    title = f"RLAIF: the judge's labels lie {side}\nthe line of human labels"
    ax.set(title=title, xlabel="labels that agree with the gold order, share", ylabel=GOLD)
    legend_below(ax)


def sources_panel(ax, arms: dict, gain: dict) -> None:
    """Where the pairs come from: gold utility against KL at as many annotations."""
    names = {"reference": "SFT", "written": "written pairs", "sft": "samples of the SFT model"}
    names["policy"] = "samples of the policy"
    colors = (COLORS["sft"], COLORS["theory"], COLORS["chosen"], COLORS["dpo"])
    for (key, name), color, marker in zip(names.items(), colors, "o^sD", strict=True):
        arm = arms[key]
        draw_point(ax, arm["kl"], arm["utility"], color, name, marker=marker, ms=7)
    better = f"add {gain['mean']:.2f} to" if gain["mean"] > 0 else f"take {-gain['mean']:.2f} from"
    title = f"Fresh samples of the policy {better}\nthe gold utility of old ones"
    ax.set(title=title, xlabel="measured KL(policy || reference), nats", ylabel=GOLD)
    legend_below(ax)


def budget_panel(ax, arms: dict) -> None:
    """All losses after all passes, and after one pass DPO, KTO without pairs, and two controls."""
    points = (
        ("reference", "SFT", COLORS["sft"], "o"),
        ("dpo", "DPO", COLORS["dpo"], "o"),
        ("ipo", "IPO", COLORS["ipo"], "o"),
        ("kto", "KTO", COLORS["kto"], "o"),
        ("flipped_0", "DPO, one pass", COLORS["dpo"], "v"),
        ("kto_singles", "KTO, no pairs", COLORS["kto"], "v"),
        ("sft_on_chosen", "SFT on chosen", COLORS["sft"], "v"),
        ("coin", "coin labels", COLORS["rejected"], "v"),
    )
    for key, name, color, marker in points:
        arm, fill = arms[key], color if marker == "o" else "white"
        style = {"marker": marker, "ms": 7, "mfc": fill}
        draw_point(ax, arm["kl"], arm["utility"], color, name, **style)
    gains = [-cost(arms, "reference", key) for key in ("flipped_0", "sft_on_chosen", "coin")]
    title = f"One pass: DPO gains {gains[0]:.1f}, SFT on the\nchosen {gains[1]:.1f}, coin labels "
    title += f"{gains[2]:.1f}".replace("-0.0", "0.0")
    ax.set(title=title, xlabel="measured KL(policy || reference), nats", ylabel=GOLD)
    legend_below(ax, ncols=2)


def draw_losses(path: Path, metrics: dict, caption: str, default: dict | None) -> None:
    """A few losses side by side: held-out pairs, KL, and gold utility where there is a standard."""
    trained = metrics["arms"]
    panels = {
        "implicit_reward_accuracy": ("Held-out pairs ranked as labelled", "share of pairs"),
        "margin": ("Held-out margins", "margin h, nats"),
        "kl": ("KL of sampled answers", "measured KL(policy || reference), nats"),
        "utility": ("Sampled answers", GOLD),
    }
    has_gold = "utility" in metrics["reference"]
    shown = [name for name in panels if has_gold or name != "utility"]
    fig, axes = new_figure(1, len(shown), height=3.6)
    names = [arm["name"].replace(", ", ",\n").replace(" + ", "\n+ ") for arm in trained.values()]
    colors = [ARM_COLORS.get(key, COLORS["gold"]) for key in trained]
    for ax, name in zip(axes[0], shown, strict=True):
        draw_bars(ax, names, [arm[name] for arm in trained.values()], colors)
        title, unit = panels[name]
        ax.set(title=title, ylabel=unit)
        ax.tick_params(axis="x", labelsize=8)
    axes[0, 0].axhline(0.5, color=COLORS["theory"], ls=":")
    if has_gold:
        level = metrics["reference"]["utility"]["mean"]
        axes[0, -1].axhline(level, color=COLORS["sft"], ls="--", label="SFT")
        if default:
            committed = default["arms"].get("dpo", {}).get("utility", {"mean": np.nan})["mean"]
            axes[0, -1].axhline(committed, color=COLORS["default"], label="DPO, the default run")
        axes[0, -1].set_ylim(top=1.3 * axes[0, -1].get_ylim()[1])
        axes[0, -1].legend(loc="upper left")
    best = max(trained.values(), key=lambda arm: arm["implicit_reward_accuracy"]["mean"])
    accuracy = best["implicit_reward_accuracy"]["mean"]
    title = f"{best['name']} ranks {accuracy:.0%} of the held-out pairs as they are labelled"
    if has_gold:
        golds = [f"{arm['name']} {arm['utility']['mean']:.2f}" for arm in trained.values()]
        title = f"Gold utility of sampled answers: SFT {level:.2f}, {', '.join(golds)}"
    save_figure(fig, path, title, caption)
