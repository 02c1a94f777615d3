"""The figures of dpo_variants.py."""

from pathlib import Path

import numpy as np

from drawing import COLORS, error_bars, new_figure, save_figure, smooth

LOSS_COLORS = {"sigmoid": COLORS["dpo"], "ipo": COLORS["ipo"], "kto": COLORS["kto"]}
LABELS = {"sigmoid": "DPO", "ipo": "IPO", "kto": "KTO"}


def variants_figure(path: Path, metrics: dict) -> None:
    """The default run of dpo_variants.py."""
    fig, axes = new_figure(2, 3, height=3.4)
    table_panel(axes[0, 0], metrics["table"])
    margins_panel(axes[0, 1], metrics["training_margins"])
    data_panel(axes[0, 2], metrics["arms"])
    noise_panel(axes[1, 0], metrics["arms"])
    judge_panel(axes[1, 1], metrics["judge"])
    frontier_panel(axes[1, 2], metrics["arms"])
    arms = {"DPO": "sigmoid, clean", "IPO": "ipo, clean", "KTO": "kto, noise 0.0", "AI labels": "AI labels"}
    good = ", ".join(f"{label} {metrics['arms'][arm]['good']['mean']:.0%}" for label, arm in arms.items())
    sft = metrics["arms"]["SFT"]["good"]["mean"]
    save_figure(fig, path, f"Good answers from the same budget: SFT {sft:.0%}, {good}")


def table_panel(ax, table: dict) -> None:
    """The margin of one pair over gradient steps, and where each loss should stop."""
    lines = {"dpo": ("DPO", COLORS["dpo"]), "cdpo": ("conservative DPO", COLORS["sft"]), "ipo": ("IPO", COLORS["ipo"])}
    for p, style in (("1.0", "-"), ("0.8", "--")):
        for loss, (label, color) in lines.items():
            ax.plot(table["steps"], table["h"][p][loss], color=color, ls=style, label=label if p == "1.0" else None)
            stop = table["stops"][p][loss]
            if stop is not None:
                ax.plot(table["steps"][-1] * 1.25, stop, "<", color=color, ms=6, clip_on=False)
    ax.plot([], [], "<", color=COLORS["theory"], label="predicted stop")
    ax.plot([], [], color=COLORS["theory"], ls="--", label="won in 80 %")
    ax.set_xscale("log")
    ax.set(title="One pair that always wins: DPO never stops", xlabel="gradient steps", ylabel="margin h, nats")
    ax.legend(loc="upper left")


def margins_panel(ax, training: dict) -> None:
    """The log-ratio margin of each batch during training."""
    for data, style in (("clean", "--"), ("one-sided", "-")):
        for loss in ("sigmoid", "ipo"):
            steps, h = smooth(training[f"{loss}, {data}"], 5)
            ax.plot(steps, h, color=LOSS_COLORS[loss], ls=style, label=f"{LABELS[loss]}, {data} pairs")
    ax.set(title="Margins in training, 48 one-sided pairs x 8", xlabel="step", ylabel="margin h, nats")
    ax.legend(loc="upper left")


def data_panel(ax, arms: dict) -> None:
    """Gold utility after training on clean, tied and one-sided pairs."""
    for k, loss in enumerate(("sigmoid", "ipo")):
        rows = [arms[f"{loss}, {data}"]["utility"] for data in ("clean", "ties", "one-sided")]
        at = np.arange(3) + (k - 0.5) * 0.38
        heights = [r["mean"] for r in rows]
        ax.bar(
            at, heights, 0.36, yerr=error_bars(rows), color=LOSS_COLORS[loss], label=LABELS[loss], error_kw={"lw": 1}
        )
    ax.axhline(arms["SFT"]["utility"]["mean"], color=COLORS["sft"], ls="--", label="SFT")
    ax.set_xticks(range(3), ("clean", "75 % ties", "one-sided"))
    ax.set(title="What ties and one-sided pairs cost", ylabel="gold utility (log-odds)", ylim=(0, 4.9))
    ax.legend(ncols=3, loc="upper left")


def noise_panel(ax, arms: dict) -> None:
    """Gold utility against label noise."""
    noise = [float(name.split()[-1]) for name in arms if name.startswith("kto, noise")]
    for k, loss in enumerate(("sigmoid", "kto")):
        names = [f"{loss}, noise {x}" if loss == "kto" or x else "sigmoid, clean" for x in noise]
        rows = [arms[name]["utility"] for name in names]
        x, y = np.array(noise) + (k - 0.5) * 0.006, [r["mean"] for r in rows]
        ax.errorbar(x, y, error_bars(rows), color=LOSS_COLORS[loss], marker="o", label=LABELS[loss])
    at = noise[-1] + 0.12
    for name, marker, label in (("weighted", "^", "weighted classes"), ("unweighted", "v", "unweighted")):
        row = arms[f"kto, no pairs, {name}"]["utility"]
        ax.errorbar(at, row["mean"], error_bars([row]), color=COLORS["kto"], marker=marker, ls="none", label=label)
    ax.axhline(arms["SFT"]["utility"]["mean"], color=COLORS["sft"], ls="--", label="SFT")
    ax.set_xticks((*noise, at), (*(f"{x:.0%}" for x in noise), "no pairs,\n1 to 3"))
    ax.set(title="KTO and DPO under label noise", xlabel="flipped labels", ylabel="gold utility (log-odds)")
    ax.set_ylim(bottom=min(2.0, ax.get_ylim()[0]) - 0.7)
    ax.legend(ncols=2, loc="lower left")


def judge_panel(ax, judge: dict) -> None:
    """Agreement with the gold order by what is wrong with the worse answer: human labels and the judge's."""
    found = judge["agrees_with_gold_by_reason"]
    kinds = list(found["human labels"])
    bars = {"human labels": "white", "judge, one order": COLORS["sft"], "judge, both orders": COLORS["dpo"]}
    for k, (name, color) in enumerate(bars.items()):
        rows = [judge["agrees_with_gold"][name], *found[name].values()]
        at = np.arange(len(rows)) + (k - 1) * 0.27
        style = {"color": color, "edgecolor": COLORS["theory"] if color == "white" else color, "label": name}
        ax.bar(at, [r["mean"] for r in rows], 0.25, yerr=error_bars(rows), error_kw={"lw": 0.8}, **style)
    biased = judge["position_bias"]["P(A) for two equal answers"]["mean"]
    ax.set_xlabel(f"fault of the worse answer (equal ones: A in {biased:.0%})")
    ax.set_xticks(range(len(kinds) + 1), ["all", *(kind.replace("_", "-") for kind in kinds)], rotation=20)
    ax.axhline(0.5, color=COLORS["theory"], lw=0.8, ls=":")
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set(title="Who labels like the gold order?", ylabel="share of held-out pairs", ylim=(0, 1.35))
    ax.legend(loc="upper center", ncols=2, columnspacing=1)


def frontier_panel(ax, arms: dict) -> None:
    """Gold utility against KL for all variants trained on as many annotations."""
    points = {
        "SFT": ("SFT", COLORS["sft"], "o"),
        "DPO": ("sigmoid, clean", COLORS["dpo"], "o"),
        "IPO": ("ipo, clean", COLORS["ipo"], "o"),
        "KTO": ("kto, noise 0.0", COLORS["kto"], "o"),
        "DPO, AI labels": ("AI labels", COLORS["dpo"], "s"),
        "DPO, on-policy": ("on-policy", COLORS["dpo"], "D"),
    }
    for label, (name, color, marker) in points.items():
        x, y = arms[name]["kl"], arms[name]["utility"]
        fill = "white" if marker != "o" else color
        bars = {"xerr": error_bars([x]), "yerr": error_bars([y])}
        ax.errorbar(
            x["mean"], y["mean"], **bars, color=color, marker=marker, mfc=fill, ms=7, lw=1, ls="none", label=label
        )
    ax.set(title="All on the same budget", xlabel="KL from the reference, nats", ylabel="gold utility (log-odds)")
    ax.legend(loc="lower right")


def losses_figure(path: Path, arms: dict) -> None:
    """Single losses, or your own pairs: held-out accuracy, margins and KL of each."""
    fig, axes = new_figure(1, 3)
    names = list(arms)
    titles = {
        "implicit_reward_accuracy": "Held-out accuracy",
        "margin": "Held-out margin",
        "kl": "KL of sampled answers",
    }
    for ax, (key, title) in zip(axes[0], titles.items(), strict=True):
        rows = [arms[name][key] for name in names]
        colors = [LOSS_COLORS.get(name, COLORS["dpo"]) for name in names]
        ax.bar([LABELS.get(n, n) for n in names], [r["mean"] for r in rows], yerr=error_bars(rows), color=colors)
        ax.set(title=title, ylabel="share" if key == "implicit_reward_accuracy" else "nats")
    best = max(names, key=lambda name: arms[name]["implicit_reward_accuracy"]["mean"])
    accuracy = arms[best]["implicit_reward_accuracy"]["mean"]
    save_figure(fig, path, f"{LABELS.get(best, best)} orders {accuracy:.0%} of the held-out pairs as they are labelled")
