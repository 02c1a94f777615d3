"""The figure of reward_hacking.py."""

from pathlib import Path

import numpy as np

from drawing import COLORS, curve, draw_band, error_bars, new_figure, save_figure

HACKS = {"length": "Verbosity", "style": "Style mimicry", "agreement": "Sycophancy"}


def hacking_figure(path: Path, metrics: dict) -> None:
    """The default run of reward_hacking.py."""
    fig, axes = new_figure(3, 3, height=3.3)
    for ax, (hack, name) in zip(axes[0], HACKS.items(), strict=True):
        hack_panel(ax, name, metrics["best_of_n"][hack], metrics["best_of_n"]["human"], metrics["dpo"][hack])
    axes[0, 0].legend(loc="upper left", fontsize=8)
    labels_panel(axes[1, 0], metrics["labels"])
    effects_panel(axes[1, 1], metrics["effects"])
    noise_panel(axes[1, 2], metrics["noise"])
    for ax in axes[2, :2]:
        ax.remove()
    mitigations_panel(fig.add_subplot(axes[2, 0].get_gridspec()[2, :2]), metrics["mitigations"])
    win_rates_panel(axes[2, 2], metrics["win_rates"])
    costs = ", ".join(
        f"{name.lower()} {metrics['dpo'][hack]['gold_gain']['mean']:+.2f}" for hack, name in HACKS.items()
    )
    control = metrics["dpo"]["length"]["control_gold_gain"]["mean"]
    save_figure(fig, path, f"Gold utility gained by DPO: unbiased labels {control:+.2f}, {costs}")


def hack_panel(ax, name: str, found: dict, control: dict, dpo: dict) -> None:
    """Gains of proxy and gold against the square root of the KL, by best-of-n and by DPO, beside unbiased labels."""
    d = np.array(found["d"])
    for key, color in (("proxy", COLORS["proxy"]), ("gold", COLORS["gold"])):
        draw_band(ax, d, *curve(found[key]), color, f"{key}, best of n")
    ax.plot(d, curve(control["gold"])[0], color=COLORS["gold"], ls="--", lw=1.2, label="gold, unbiased labels")
    a, b = found["fit"]["a"], found["fit"]["b"]
    ax.plot(d, d * (a - b * d), color=COLORS["theory"], ls=":", lw=1.2, label="fit d (a - b d) to gold")
    if found["fit"]["peak"] is not None:
        ax.plot(
            found["fit"]["peak"], found["fit"]["height"], "*", color=COLORS["theory"], ms=9, label="peak of the fit"
        )
    peak = found["measured_peak"]["mean"]
    ax.plot(peak, found["gold"][found["d"].index(peak)]["mean"], "v", color=COLORS["gold"], ms=8, label="measured peak")
    for k, (key, color) in enumerate((("proxy_gain", COLORS["proxy"]), ("gold_gain", COLORS["gold"]))):
        bars = {"color": color, "marker": "s", "mfc": "white", "ms": 6, "ls": "none"}
        ax.errorbar(np.sqrt(dpo["kl"]["mean"]) + 0.03 * k, dpo[key]["mean"], error_bars([dpo[key]]), **bars)
    ax.plot([], [], "s", color=COLORS["theory"], mfc="white", label="the same by DPO")
    ax.axhline(0, color=COLORS["sft"], lw=1)
    ax.set(title=name, xlabel="square root of the KL, nats", ylabel="gain over SFT (log-odds)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + (0.9 if name == "Verbosity" else 0.1) * (high - low))


def paired_bars(ax, pairs: list[tuple[dict, dict]], colors: tuple[str, str], labels: tuple[str, str]) -> None:
    """Two bars with intervals for every entry."""
    for k, (color, label) in enumerate(zip(colors, labels, strict=True)):
        rows = [pair[k] for pair in pairs]
        at = np.arange(len(rows)) + (k - 0.5) * 0.4
        ax.bar(at, [r["mean"] for r in rows], 0.38, yerr=error_bars(rows), color=color, label=label, error_kw={"lw": 1})


def labels_panel(ax, labels: dict) -> None:
    """What is seen in the data: how often the response with more of the liked thing is chosen."""
    pairs = [(labels[hack]["human"], labels[hack][hack]) for hack in HACKS]
    paired_bars(ax, pairs, (COLORS["sft"], COLORS["proxy"]), ("unbiased annotators", "biased annotators"))
    ax.axhline(0.5, color=COLORS["theory"], lw=0.8, ls=":")
    ax.set_xticks(range(len(HACKS)), ("filler", "preamble", "echo of belief"))
    ax.set(title="In the labels: the liked side wins", ylabel="share of pairs", ylim=(0, 1.3))
    ax.legend(loc="upper left")


def effects_panel(ax, effects: dict) -> None:
    """What the reward models absorbed, as a share of the planted bias."""

    def share(hack: str, arm: str) -> dict:
        found = effects[hack]
        return {
            "mean": found[arm]["mean"] / found["planted"],
            "ci95": [x / found["planted"] for x in found[arm]["ci95"]],
        }

    pairs = [(share(hack, "control"), share(hack, "biased")) for hack in HACKS]
    paired_bars(ax, pairs, (COLORS["sft"], COLORS["proxy"]), ("unbiased annotators", "biased annotators"))
    ax.axhline(0, color=COLORS["sft"], lw=1)
    ax.axhline(1, color=COLORS["theory"], lw=0.8, ls=":")
    ax.set_xticks(range(len(HACKS)), ("filler", "preamble", "echo of belief"))
    ax.set(title="In the reward, at equal gold utility", ylabel="share of the planted bias", ylim=(-0.6, 1.5))
    ax.legend(loc="upper left")


def mitigations_panel(ax, found: dict) -> None:
    """What each mitigation gives back in gold utility."""
    names = {
        "small n, length": "n = 4 (verbosity)",
        "optimum at larger beta, length": "optimum, beta 0.1 to 1 (verbosity)",
        "per word, length": "reward / words (verbosity)",
        "regressed, length": "length regressed out (verbosity)",
        "DPO strong KL term, length": "DPO, 5 beta (verbosity)",
        "DPO normalised, length": "DPO, per token (verbosity)",
        **{f"mixed annotators, {h}": f"mixed labels ({n.lower()})" for h, n in HACKS.items()},
        **{f"DPO mixed annotators, {h}": f"DPO, mixed labels ({n.lower()})" for h, n in HACKS.items()},
        **{f"ensemble, {h}": f"ensemble ({n.lower()})" for h, n in HACKS.items()},
    }
    rows = [found[name]["gain"] for name in names]
    at = np.arange(len(rows))[::-1]
    colors = [COLORS["dpo"] if name.startswith("DPO") else COLORS["best_of_n"] for name in names]
    ax.barh(at, [r["mean"] for r in rows], xerr=error_bars(rows), color=colors, error_kw={"lw": 1})
    ax.set_yticks(at, names.values(), fontsize=8)
    ax.axvline(0, color=COLORS["sft"], lw=1)
    ax.set(title="Mitigations: best of 64 (orange) and DPO (blue)", xlabel="gold utility with minus without")


def noise_panel(ax, found: dict) -> None:
    """A proxy that is gold plus noise: nothing bad happens."""
    d = np.array(found["d"])
    for key, color in (("proxy", COLORS["proxy"]), ("gold", COLORS["gold"])):
        draw_band(ax, d, *curve(found[key]), color, key)
    ax.set(title="Noise without bias: gold keeps rising", xlabel="square root of the KL, nats", ylabel="gain over SFT")
    ax.legend(loc="upper left")


def win_rates_panel(ax, rates: dict) -> None:
    """How often the verbose policy beats SFT: by the biased judge, raw and length-controlled, and by gold."""
    names = {"raw": "biased\njudge, raw", "length-controlled": "biased judge,\nlength-contr.", "gold": "gold"}
    rows = [rates[name] for name in names]
    colors = [COLORS["proxy"], COLORS["proxy"], COLORS["gold"]]
    bars = ax.bar(names.values(), [r["mean"] for r in rows], yerr=error_bars(rows), color=colors, error_kw={"lw": 1})
    bars[1].set(hatch="//", edgecolor="white")
    ax.axhline(0.5, color=COLORS["theory"], lw=0.8, ls=":")
    ax.set(title="Win rate of verbose DPO against SFT", ylabel="win rate, ties half", ylim=(0, 1.1))
