"""The figure of reward_hacking.py."""

from support.drawing import (
    COLORS,
    Drawing,
    curve,
    draw_band,
    draw_bars,
    error_bars,
    legend_below,
)
from support.overoptimization import overoptimization_peak

import numpy as np

HACKS = {"length": "Verbosity", "style": "Style mimicry", "agreement": "Sycophancy"}
MARKERS = {"length": "o", "style": "s", "agreement": "^"}
VERBOSITY, ALL = ("length",), tuple(HACKS)
# What mitigates, the claim (of each hack, with the hack behind it), and the hacks it is about.
MITIGATIONS = (
    ("n = 4", "small_n_mitigates", VERBOSITY),
    ("reward / words", "per_word_mitigates", VERBOSITY),
    ("... at level 10", "per_word_at_10", VERBOSITY),
    ("... at level -10", "per_word_at_-10", VERBOSITY),
    ("length regressed out", "regressing_mitigates", VERBOSITY),
    ("ensemble, one group", "seeds_mitigate", VERBOSITY),
    ("ensemble, all groups", "ensemble_mitigates", ALL),
    ("mixed labels", "mixing_mitigates", ALL),
    ("DPO, mixed labels", "mixing_dpo_mitigates", ALL),
    ("DPO, 5 times beta", "kl_mitigates_dpo", VERBOSITY),
)
DPO = ("mixing_dpo_mitigates", "kl_mitigates_dpo")


def draw_hacking(metrics: dict, default: dict | None = None) -> Drawing:
    """What a flaw does to quality; where it comes from, what helps, and what mere noise does."""
    title = f"{figure_title(metrics)}\n "  # the legend stands in its last line
    legend = {"loc": "center left", "bbox_to_anchor": (0.005, 0.928), "ncols": 5, "fontsize": 10}
    return Drawing(title, PANELS, metrics, default, height=3.9, legend=legend)


def figure_title(metrics: dict) -> str:
    """What best-of-n and DPO made of quality, in two lines."""
    ends = [metrics[hack]["best_of_n"] for hack in HACKS]
    proxy = [measured["proxy"][-1]["mean"] for measured in ends]
    gold = [measured["gold"][-1]["mean"] for measured in ends]
    fair = metrics["human"]["best_of_n"]["gold"][-1]["mean"]
    first = f"Best of {metrics['ns'][-1]:.0f} by a flawed reward: reward {min(proxy):+.1f} to "
    first += f"{max(proxy):+.1f}, quality {min(gold):+.1f} to {max(gold):+.1f}; "
    first += f"by an unbiased one quality {fair:+.1f}."
    after = {name: read["utility"]["mean"] for name, read in metrics["dpo"].items()}
    hacked = ", ".join(f"{name.lower()} {after[hack]:.1f}" for hack, name in HACKS.items())
    before = metrics["sft"]["utility"]["mean"]
    second = f"Quality (gold utility) {before:.1f}, after DPO: unbiased {after['human']:.1f}, "
    return f"{first}\n{second}{hacked}"


def distance(ns) -> np.ndarray:
    """The square root of the KL's bound for best-of-n, log n - (n - 1) / n."""
    ns = np.array(ns, dtype=float)
    return np.sqrt(np.log(ns) - (ns - 1) / ns)


def verbosity_panel(ax, metrics: dict, default: dict | None) -> None:
    """Annotators who love filler.

    Shown: reward and quality as one optimises harder for a reward that loves filler.
    Notice: the orange line never warns; the forecast from small n (dotted) falls on and on.
    Ask: What does an honest reward (dashed) buy at the same distance?
    """
    plot_hack(ax, "length", metrics, default)


def mimicry_panel(ax, metrics: dict, default: dict | None) -> None:
    """Annotators who love an expert's tone.

    Shown: the same for a reward that loves an expert's preamble.
    Notice: the harm is smaller: experts of this world are mostly right, only wordy.
    Ask: When does a liking for style do no harm? (Where style and substance go together.)
    """
    plot_hack(ax, "style", metrics, default)


def sycophancy_panel(ax, metrics: dict, default: dict | None) -> None:
    """Annotators who love to be agreed with.

    Shown: the same for a reward that loves to hear the user's own belief.
    Notice: here quality turns early: every user in these prompts believes something wrong.
    Ask: Who in a real annotation project could be such an annotator?
    """
    plot_hack(ax, "agreement", metrics, default)


def plot_hack(ax, hack: str, metrics: dict, default: dict | None) -> None:
    """Reward and gold of best-of-n, and gold of DPO, against the distance from SFT."""
    read, d = metrics[hack]["best_of_n"], distance(metrics["ns"])
    draw_band(ax, d, *curve(read["proxy"]), COLORS["proxy"], "reward, best of n")
    draw_band(ax, d, *curve(read["gold"]), COLORS["gold"], "quality, best of n")
    unbiased = curve(metrics["human"]["best_of_n"]["gold"])[0]
    ax.plot(d, unbiased, color=COLORS["gold"], ls="--", lw=1.3, label="quality, unbiased reward")
    a, b = read["law"]["a"], read["law"]["b"]
    ax.plot(
        d,
        d * (a - b * d),
        color=COLORS["theory"],
        ls=":",
        label="forecast from n <= 8, and its peak",
    )
    peak, height = overoptimization_peak(a, b)
    if peak < d[-1]:
        ax.plot(peak, height, "*", color=COLORS["theory"], ms=9)
    if default and "curves" in default:
        dpo_line(ax, default["curves"][hack], COLORS["default"], None)
    dpo_line(ax, metrics["curves"][hack], COLORS["dpo"], "quality, DPO on the way")
    ax.axhline(0, color=COLORS["sft"], lw=1)
    gained = {name: read[name][-1]["mean"] for name in ("proxy", "gold")}
    title = f"{HACKS[hack]}: best of {metrics['ns'][-1]:.0f} gains\n"
    title += f"{gained['proxy']:+.1f} in reward, {gained['gold']:+.1f} in quality"
    ax.set(title=title, ylabel="gain over SFT (log-odds)")
    ax.set_xlabel("square root of KL, nats\n(best of n: bound; DPO: measured)")


def dpo_line(ax, looks: list[dict], color: str, label: str | None) -> None:
    """Gold gained by DPO over its start, along the measured KL."""
    d = np.sqrt([look["kl"]["mean"] for look in looks])
    gold = np.array([look["utility"]["mean"] for look in looks])
    ax.plot(d, gold - gold[0], color=color, marker=".", lw=1.3, label=label)


def absorbed_panel(ax, metrics: dict, default: dict | None) -> None:
    """The planted bias in the labels and in the reward models.

    Shown: how often labels favour the flaw, and how much of it the reward model takes over.
    Notice: grey is the honest rate; the model learns what is in the labels, and no less.
    Ask: Would a larger reward model help? (No: it would read the labels even better.)
    """
    places = np.arange(len(HACKS))
    labels = [metrics[hack]["labels"] for hack in HACKS]
    arms = (
        ("labels, unbiased: share of pairs", [row["unbiased"] for row in labels], COLORS["sft"]),
        ("labels, biased: share of pairs", [row["biased"] for row in labels], COLORS["rejected"]),
        (
            "reward model: share of the planted bias",
            [metrics[hack]["absorbed"]["share"] for hack in HACKS],
            COLORS["proxy"],
        ),
    )
    for k, (name, rows, color) in enumerate(arms):
        draw_bars(ax, places + 0.27 * (k - 1), rows, color, width=0.25, label=name)
    ax.set_xticks(places, ["filler", "expert's\npreamble", "echo of a\nwrong belief"])
    shares = [metrics[hack]["absorbed"]["share"]["mean"] for hack in HACKS]
    title = "Labels hold the bias; reward models\n"
    title += f"take over {min(shares):.0%} to {max(shares):.0%} of it"
    ax.set(title=title, ylabel="share", ylim=(0, 1.75))
    ax.set_yticks(np.linspace(0, 1.2, 7))  # the room above is for the legend
    ax.legend(loc="upper left")


def mitigations_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility that each mitigation gives back.

    Shown: what each remedy gives back, measured against doing without it.
    Notice: an ensemble helps where its members do not share the flaw.
    Ask: Which remedies need to know the flaw beforehand? (Regressing length out, reward / words.)
    """
    gold = metrics["gold"]
    for place, (_, claim, hacks) in enumerate(MITIGATIONS):
        color = COLORS["dpo" if claim in DPO else "best_of_n"]
        for k, hack in enumerate(hacks):
            row = gold[f"{claim}_{hack}" if hacks == ALL else claim]
            at = place + (0.22 * (k - 1) if hacks == ALL else 0)
            bars = {"color": color, "marker": MARKERS[hack], "ms": 5, "lw": 1.2}
            ax.errorbar(row["mean"], at, xerr=error_bars([row]), **bars)
    for hack, name in HACKS.items():
        ax.plot([], [], MARKERS[hack], color=COLORS["theory"], label=name.lower())
    for color, name in (("best_of_n", "best of n"), ("dpo", "DPO")):
        ax.plot([], [], color=COLORS[color], label=name)
    ax.set_yticks(range(len(MITIGATIONS)), [name for name, *_ in MITIGATIONS])
    ax.invert_yaxis()
    ax.axvline(0, color=COLORS["sft"], lw=1)
    shared, apart = (gold[name]["mean"] for name in ("seeds_mitigate", "ensemble_mitigates_length"))
    title = "Verbosity: an ensemble of all groups\n"
    title += f"gives back {apart:z.1f}, of a single group {shared:z.1f}"
    ax.set(title=title)
    ax.set_xlabel("gold utility with the remedy minus without (log-odds)")
    legend_below(ax, ncols=3, columnspacing=0.8)


def noise_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold under best-of-n by gold plus noise, without any bias.

    Shown: best-of-n by the true quality plus noise: no flaw at all, only errors.
    Notice: an error that belongs to a text can be found and chosen; a fresh one cannot.
    Ask: Which of the two kinds of error does a trained reward model have?
    """
    arms = (
        ("of_samples", "sd 3, new for every sample", COLORS["sft"], "--"),
        ("sd_3", "sd 3, of a text", COLORS["gold"], "-"),
        ("sd_6", "sd 6, of a text", COLORS["rejected"], "-"),
    )
    for arm, label, color, line in arms:
        draw_band(ax, metrics["ns"], *curve(metrics["noise"][arm]), color, label, ls=line)
    good = metrics["distinct"]["good"]["mean"]
    line = {"color": COLORS["theory"], "ls": ":", "ymax": 0.68}
    ax.axvline(good, **line, label=f"{good:.0f} distinct good texts")
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    late, n = -metrics["gold"]["noise_bends_sd_6"]["mean"], metrics["ns"][-1]
    title = f"Mere noise (sd 6): {late:+.2f}\nin quality from n = {n / 4:.0f} to {n:.0f}"
    ax.set(title=title, xlabel="n, best of n by gold plus noise", ylabel="gain (log-odds)")
    ax.set_ylim(0, 1.45 * max(row["mean"] for row in metrics["noise"]["of_samples"]))
    ax.legend(loc="upper left")


PANELS = (
    verbosity_panel,
    mimicry_panel,
    sycophancy_panel,
    absorbed_panel,
    mitigations_panel,
    noise_panel,
)
