"""The figure of online_rl.py."""

from support.drawing import COLORS, Drawing, curve, draw_band, error_bars, smooth

import numpy as np


def draw_online_rl(metrics: dict, default: dict | None = None) -> Drawing:
    """The world's run, or one on the user's prompts, which has no gold standard."""
    if "good" not in metrics["policy"]:
        ends = [metrics[name]["reward"]["mean"] for name in ("reference", "policy")]
        title = f"Online RL takes the reward from {ends[0]:.2f} to {ends[1]:.2f}"
        return Drawing(title, OWN_PANELS, metrics, mosaic="ABC")
    good = [metrics[name]["good"]["mean"] for name in ("reference", "policy", "dpo")]
    title = f"Online RL takes the share of good answers from {good[0]:.0%} to {good[1]:.0%}, "
    title += f"DPO to {good[2]:.0%};\nagainst a reward model that loves length, "
    utility = [
        metrics["curves"][name][-1]["utility"]["mean"] for name in ("biased", "biased_no_kl")
    ]
    title += (
        f"gold utility ends at {utility[0]:.1f} with the KL term and at {utility[1]:.1f} without"
    )
    return Drawing(title, PANELS, metrics, default)


def steps_of(looks: list[dict]) -> list[float]:
    """The updates at which a policy was looked at."""
    return [seen["step"] for seen in looks]


def mean_of(measured: dict) -> str:
    """A share as a percentage."""
    return f"{measured['mean']:.0%}"


def sign_of(measured: dict) -> int:
    """0 where the interval lies above zero, 1 where below, 2 where the data do not say."""
    low, high = measured["ci95"] or (-1, 1)
    return 0 if low > 0 else 1 if high < 0 else 2


def reward_panel(ax, metrics: dict, default: dict | None) -> None:
    """The reward of the answers sampled in training, and as it is optimised.

    Shown: the reward model's score of the answers that the policy samples as it learns.
    Notice: the gap between the lines is the price of distance; it grows with the KL.
    Ask: Can the solid line rise while the answers get worse? (Yes: look two panels on.)
    """
    training = metrics["training"]
    width = max(1, len(training["reward"]) // 7)
    ax.plot(*smooth(training["reward"], width), color=COLORS["proxy"], label="reward")
    label = "minus beta times the log-ratio\n(what is optimised)"
    ax.plot(*smooth(training["optimized"], width), color=COLORS["proxy"], ls="--", label=label)
    first, last = metrics["reference"]["reward"]["mean"], metrics["policy"]["reward"]["mean"]
    title = "The reward model's score " + ("rises" if last > first else "does not rise")
    low, high = ax.get_ylim()
    limits = (low - (high - low) / 2, high)
    ax.set(title=title, xlabel="update", ylabel="reward in training (log-odds)", ylim=limits)
    ax.legend(loc="lower right")


def good_panel(ax, metrics: dict, default: dict | None) -> None:
    """Share of good answers to held-out prompts on the way.

    Shown: good answers to held-out prompts after so many updates, and where DPO ended.
    Notice: no answer was ever labelled here; a reward model scores what the policy says now.
    Ask: What did the reward model cost, that this panel does not count? (Its own labels.)
    """
    if default:
        looks = default["curves"]["default"]
        good = [seen["good"]["mean"] for seen in looks]
        ax.plot(steps_of(looks), good, color=COLORS["default"], label="the default run")
    looks = metrics["curves"]["default"]
    good = [seen["good"] for seen in looks]
    draw_band(ax, steps_of(looks), *curve(good), COLORS["rl"], "online RL", marker="o", ms=4)
    ax.axhline(metrics["dpo"]["good"]["mean"], color=COLORS["dpo"], ls="--", label="DPO, trained")
    title = f"Good answers: {mean_of(good[0])} to {mean_of(good[-1])}"
    title += f" (DPO {mean_of(metrics['dpo']['good'])})"
    ax.set(title=title, xlabel="update", ylabel="share of held-out answers", ylim=(0, 1.02))
    ax.legend(loc="lower right")


def frontier_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility against the measured KL: online RL on its way, and where DPO ended.

    Shown: the quality that online RL has at each distance from the reference, beside DPO.
    Notice: the intervals decide: do they allow to say that one method is better?
    Ask: At the distance of DPO, which of the two would you take?
    """
    looks = metrics["curves"]["default"]
    kl = [seen["kl"] for seen in looks]
    gold = [seen["utility"] for seen in looks]
    line = {"color": COLORS["rl"], "marker": "o", "ms": 4, "lw": 1.2}
    ax.errorbar(
        curve(kl)[0],
        curve(gold)[0],
        error_bars(gold),
        label="online RL, after so many updates",
        **line,
    )
    for k, seen in enumerate(looks[1:]):
        place = seen["kl"]["mean"], seen["utility"]["mean"]
        right_below, left_above = (6, -11), (-15, 6)  # in turn, since the last points lie close
        xytext = left_above if k % 2 else right_below
        shift = {"xytext": xytext, "textcoords": "offset points"}
        ax.annotate(f"{seen['step']:.0f}", place, **shift, fontsize=8)
    dpo = metrics["dpo"]
    point = {"color": COLORS["dpo"], "marker": "s", "ls": "none"}
    bars = {"xerr": error_bars([dpo["kl"]]), "yerr": error_bars([dpo["utility"]])}
    ax.errorbar(dpo["kl"]["mean"], dpo["utility"]["mean"], **bars, **point, label="DPO")
    titles = ("Online RL ends above DPO", "Online RL ends below DPO", "No clear winner in gold")
    title = titles[sign_of(metrics["rl_minus_dpo"])]
    ax.set(title=title, ylabel="gold utility (log-odds)")
    ax.set_xlabel("measured KL from the reference, nats")
    ax.locator_params(axis="x", nbins=5)
    ax.legend(loc="lower right")


def bias_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility against a reward model that loves length, with the KL term and without.

    Shown: reward and quality when the reward model comes from annotators who love length.
    Notice: reward and quality part; what the KL term saves differs much from seed to seed.
    Ask: Does the KL term mend the reward? (No: it only limits how far one follows it.)
    """
    arms = (("biased", "-", "with the KL term"), ("biased_no_kl", ":", "without"))
    for name, line, label in arms:
        looks = metrics["curves"][name]
        for reading, color, what in (("utility", "gold", "gold"), ("reward", "proxy", "reward")):
            rows = [seen[reading] for seen in looks]
            look = {"ls": line, "marker": "o", "ms": 4}
            draw_band(ax, steps_of(looks), *curve(rows), COLORS[color], f"{what}, {label}", **look)
    titles = (
        "the KL term keeps gold up",
        "the KL term costs gold",
        "no clear effect of the KL term",
    )
    title = f"Love of length: {titles[sign_of(metrics['held_by_kl'])]}"
    low, high = ax.get_ylim()
    ax.set(title=title, xlabel="update", ylabel="log-odds", ylim=(low, high + (high - low) / 3))
    ax.legend(loc="upper left", fontsize=8, ncols=2)


def spread_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility of both methods at three learning rates; small dots are seeds.

    Shown: the quality of both methods at half, once and twice the learning rate.
    Notice: which line is flatter; the tutorial expects it to be that of DPO.
    Ask: Is a run that is not finished unstable? (DPO sees each pair once at any rate.)
    """
    spread = metrics["spread"]
    places = np.arange(len(spread["factors"]))
    for name, label, shift in (("rl", "online RL", -0.06), ("dpo", "DPO", 0.06)):
        rows, color = spread[name], COLORS[name]
        line = {"color": color, "marker": "o", "ms": 5}
        ax.errorbar(places + shift, curve(rows)[0], error_bars(rows), label=label, **line)
        for place, row in zip(places, rows, strict=True):
            seeds = row.get("by_seed", [])
            ax.plot([place + 2.5 * shift] * len(seeds), seeds, ".", color=color, alpha=0.5)
    ax.set_xticks(places, [f"x {factor:g}" for factor in spread["factors"]])
    titles = ("Online RL", "DPO", "Neither clearly")
    title = f"{titles[sign_of(spread['difference'])]} depends more on the rate"
    ax.set(title=title, xlabel="learning rate over the default", ylabel="gold utility (log-odds)")
    ax.legend(loc="lower right")


def budget_panel(ax, metrics: dict, default: dict | None) -> None:
    """Labels, scores and tokens through models that each training takes, on a log scale.

    Shown: what each method asks for: people's labels, a model's scores, computing.
    Notice: the scale is logarithmic; labels for the reward model can be used again.
    Ask: Which of the three is dear in your project: people, scores, or computing?
    """
    budget, cost = metrics["budget"], metrics["cost"]
    names = ("people's\ncomparisons", "reward model's\nscores", "1,000 tokens\nthrough models")
    rows = {
        "dpo": (budget["dpo_labels"], 0, cost["dpo_passes"] / 1000),
        "rl": (budget["rl_labels"] or 0, budget["rl_scores"], cost["rl_passes"] / 1000),
    }
    for (name, counts), shift, label in zip(
        rows.items(), (0.2, -0.2), ("DPO", "online RL"), strict=True
    ):
        places = np.arange(len(names)) - shift
        ax.bar(places, np.maximum(counts, 1), width=0.38, color=COLORS[name], label=label)
        for place, count in zip(places, counts, strict=True):
            ax.text(place, max(count, 1), f"{count:,.0f}", ha="center", va="bottom", fontsize=8)
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), names)
    times = cost["rl_passes"] / cost["dpo_passes"]
    title = f"Online RL takes {times:.1f} times the computing"
    ax.set(title=title, ylabel="count, log scale", ylim=(1, 3e5))
    ax.legend(loc="upper left", ncols=2)


# --- The user's own prompts ---


def kl_panel(ax, metrics: dict, default: dict | None) -> None:
    """The KL of held-out answers on the way."""
    looks = metrics["curves"]["default"]
    plot_watched(ax, looks, "kl")
    ax.set(title=f"Sampled answers end {looks[-1]['kl']['mean']:z.1f} nats away")
    ax.set(ylabel="measured KL from the reference, nats")


def words_panel(ax, metrics: dict, default: dict | None) -> None:
    """The length of held-out answers on the way."""
    looks = metrics["curves"]["default"]
    plot_watched(ax, looks, "words")
    first, last = (looks[at]["words"]["mean"] for at in (0, -1))
    ax.set(title=f"Sampled answers: {first:.0f} to {last:.0f} words", ylabel="words")


def plot_watched(ax, looks: list[dict], name: str) -> None:
    """What was seen of held-out answers on the way, without a gold standard."""
    rows = [seen[name] for seen in looks]
    draw_band(ax, steps_of(looks), *curve(rows), COLORS["rl"], None, marker="o", ms=4)
    ax.set(xlabel="update", ylim=(0, None))


PANELS = (reward_panel, good_panel, frontier_panel, bias_panel, spread_panel, budget_panel)
OWN_PANELS = (reward_panel, kl_panel, words_panel)
