"""The figure of dpo_variants.py."""

from support.drawing import (
    COLORS,
    Drawing,
    curve,
    draw_band,
    draw_bars,
    draw_point,
    error_bars,
)

import numpy as np

ARM_COLORS = {"dpo": COLORS["dpo"], "ipo": COLORS["ipo"], "kto": COLORS["kto"]}
GOLD, ROOT_KL = "gold utility (log-odds)", "square root of the measured KL, nats"


def draw_variants(metrics: dict, default: dict | None = None) -> Drawing:
    """The whole section on the world's pairs, or a few losses, or a run on the user's pairs."""
    if "differences" not in metrics:
        return draw_losses(metrics, default)
    arms, sft = metrics["arms"], metrics["reference"]["good"]["mean"]
    once = f"{arms['flipped_0']['good']['mean']:.0%}"
    many = [f"{key.upper()} {arms[key]['good']['mean']:.0%}" for key in ("dpo", "ipo", "kto")]
    title = f"Good answers: SFT {sft:.0%}; one pass of DPO {once}; {passes(metrics)} of "
    title += ", ".join(many)
    return Drawing(title, PANELS, metrics, default, height=3.5)


def passes(metrics: dict) -> str:
    """How often the repeated pairs were shown: 8 passes."""
    count = metrics["passes"]
    return f"{count} passes" if count > 1 else "1 pass"


def arms_of(metrics: dict) -> dict:
    """Everything that answered: the SFT checkpoint as `reference`, and what was tuned."""
    return {"reference": metrics["reference"], **metrics["arms"]}


def table_panel(ax, metrics: dict, default: dict | None) -> None:
    """The margin of one pair over gradient steps, and where each loss should stop.

    Shown: how far each loss pushes the two answers of a single pair apart.
    Notice: on a pair that always wins DPO has no stopping point; IPO and label smoothing have.
    Ask: Which pairs in a real data set always win? (Every pair that was labelled only once.)
    """
    table = metrics["table"]
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
    ax.xaxis.set_major_formatter("{x:,.0f}")
    title = "One pair that always wins:\nDPO never stops, IPO does"
    ax.set(title=title, xlabel="gradient steps", ylabel="margin h, nats")
    ax.legend(loc="upper left")


def plot_path(ax, arm: dict, color: str, line: str, label: str) -> None:
    """Gold utility against the root of the KL along a training, on validation prompts."""
    root_kl = np.sqrt([seen["kl"]["mean"] for seen in arm["curve"]])
    bands = curve([seen["utility"] for seen in arm["curve"]])
    marker = "o" if line == "-" else None
    draw_band(ax, root_kl, *bands, color, label, ls=line, marker=marker, ms=3.5)


def legend_under_data(ax, share: float = 0.5, **options) -> None:
    """The legend in room made for it under the data, `share` of their height."""
    low, high = ax.get_ylim()
    ax.set_ylim(bottom=low - share * (high - low))
    ax.legend(loc="lower right", **options)


def side(difference: dict) -> str:
    """On which side, and how far: 0.5 above."""
    return f"{abs(difference['mean']):.1f} {'above' if difference['mean'] > 0 else 'below'}"


def ties_panel(ax, metrics: dict, default: dict | None) -> None:
    """DPO and IPO on clean and on tied pairs, after 1, 2, 4 and 8 passes.

    Shown: quality along the training, on clean pairs and where most pairs are ties.
    Notice: both fall in the end, DPO further, with ties and on clean pairs alike.
    Ask: What should a loss do with two answers that are equally good?
    """
    arms = arms_of(metrics)
    for loss, name in (("dpo", "DPO"), ("ipo", "IPO")):
        plot_path(ax, arms[loss], ARM_COLORS[loss], "--", f"{name}, clean pairs")
        plot_path(ax, arms[f"{loss}_ties"], ARM_COLORS[loss], "-", f"{name}, 75 % ties")
    ties, clean = (metrics["differences"][key] for key in ("ipo_under_ties", "ipo_on_clean_pairs"))
    title = f"75 % ties: IPO ends {side(ties)} DPO,\non clean pairs {side(clean)}"
    ax.set(title=title, xlabel=ROOT_KL, ylabel=GOLD)
    legend_under_data(ax)


def noise_panel(ax, metrics: dict, default: dict | None) -> None:
    """DPO and KTO on clean and on flipped labels, after 1, 2, 4 and 8 passes.

    Shown: quality along the training, with clean labels and with some of them flipped.
    Notice: on flipped labels DPO ends below where it started; KTO gains and stays.
    Ask: Is a loss that stands many passes also one that stands noise?
    """
    arms = arms_of(metrics)
    for loss, name in (("dpo", "DPO"), ("kto", "KTO")):
        plot_path(ax, arms[loss], ARM_COLORS[loss], "--", f"{name}, clean labels")
        plot_path(ax, arms[f"{loss}_noise"], ARM_COLORS[loss], "-", f"{name}, 30 % flipped")
    noise, clean = (metrics["differences"][key] for key in ("kto_noise", "kto_on_clean_pairs"))
    title = f"30 % flipped: KTO ends {side(noise)} DPO,\non clean labels {side(clean)}"
    ax.set(title=title, xlabel=ROOT_KL, ylabel=GOLD)
    legend_under_data(ax)


def one_sided_panel(ax, metrics: dict, default: dict | None) -> None:
    """Pairs with one winner: how far apart they are pushed, and what the answers are worth.

    Shown: DPO and IPO after many passes over pairs in which the concise answer always wins.
    Notice: to the right is more extreme, and not better.
    Ask: Where would DPO go with ten times the passes? (Further: on such pairs it has no end.)
    """
    arms, margins = metrics["arms"], []
    for loss, marker in (("dpo", "o"), ("ipo", "s")):
        arm, style = arms[f"{loss}_one_sided"], {"marker": marker, "ms": 7}
        color, name = ARM_COLORS[loss], f"{loss.upper()}, {passes(metrics)}"
        draw_point(ax, arm["margin"], arm["utility"], color, name, **style)
        margins.append(f"{arm['margin']['mean']:.0f}")
    start = {"mean": 0.0, "ci95": None}
    draw_point(ax, start, metrics["reference"]["utility"], COLORS["sft"], "SFT", marker="o", ms=7)
    title = f"One-sided pairs, margins of {' and '.join(margins)} nats:\nIPO ends "
    title += f"{side(metrics['differences']['ipo_under_imbalance'])} DPO"
    ax.set(title=title, xlabel="margin h of the pairs trained on, nats", ylabel=GOLD)
    legend_under_data(ax)


def labels_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility against how often the labels agree with the gold order.

    Shown: what DPO makes of better and worse labels, by people and by a language model.
    Notice: whether the hollow marks lie on the line of the people; the intervals are wide.
    Ask: When is the same error rate worse? (When the errors are alike and do not average out.)
    """
    labels = metrics["labels"]
    off_line = metrics["differences"]["rlaif_is_its_judge"]["mean"]
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
    where = f"{abs(off_line):.2f} {'below' if off_line < 0 else 'above'}"
    title = f"RLAIF: the judge's labels lie\n{where} the line of human labels"
    ax.set(title=title, xlabel="labels that agree with the gold order, share", ylabel=GOLD)
    legend_under_data(ax)


def budget_panel(ax, metrics: dict, default: dict | None) -> None:
    """All losses after many passes, and after one pass DPO, KTO without pairs, and two controls.

    Shown: every loss on the same pairs, and two controls that any claim has to beat.
    Notice: labels by a coin gain nothing; imitating the chosen answers gains a good part.
    Ask: Which comparison would you ask for first when a paper reports only its own loss?
    """
    arms, many = arms_of(metrics), passes(metrics)
    points = (
        ("reference", "SFT", COLORS["sft"], "o"),
        ("dpo", f"DPO, {many}", COLORS["dpo"], "o"),
        ("ipo", f"IPO, {many}", COLORS["ipo"], "o"),
        ("kto", f"KTO, {many}", COLORS["kto"], "o"),
        ("flipped_0", "DPO, one pass", COLORS["dpo"], "v"),
        ("kto_singles", "KTO, no pairs", COLORS["kto"], "v"),
        ("sft_on_chosen", "SFT on chosen", COLORS["sft"], "v"),
        ("coin", "coin labels", COLORS["rejected"], "v"),
    )
    for key, name, color, marker in points:
        arm, fill = arms[key], color if marker == "o" else "white"
        style = {"marker": marker, "ms": 7, "mfc": fill}
        draw_point(ax, arm["kl"], arm["utility"], color, name, **style)
    sft = arms["reference"]["utility"]["mean"]
    once = ("flipped_0", "sft_on_chosen", "coin")
    gains = [arms[key]["utility"]["mean"] - sft for key in once]
    title = f"One pass: DPO gains {gains[0]:.1f}, SFT on the\nchosen {gains[1]:.1f}, coin labels "
    title += f"{gains[2]:z.1f}"
    ax.set(title=title, xlabel="measured KL(policy || reference), nats", ylabel=GOLD)
    legend_under_data(ax, ncols=2)


# --- A few losses side by side ---


def draw_losses(metrics: dict, default: dict | None) -> Drawing:
    """Held-out pairs, KL, and gold utility where there is a standard."""
    trained, panels = metrics["arms"].values(), (accuracy_panel, margin_panel, kl_panel)
    if "utility" in metrics["reference"]:
        golds = [f"{arm['name']} {arm['utility']['mean']:.2f}" for arm in trained]
        level = metrics["reference"]["utility"]["mean"]
        title = f"Gold utility of sampled answers: SFT {level:.2f}, {', '.join(golds)}"
        panels = (*panels, utility_panel)
        return Drawing(title, panels, metrics, default, mosaic="ABCD", height=3.6)
    best = max(trained, key=lambda arm: arm["implicit_reward_accuracy"]["mean"])
    accuracy = best["implicit_reward_accuracy"]["mean"]
    title = f"{best['name']} ranks {accuracy:.0%} of the held-out pairs as they are labelled"
    return Drawing(title, panels, metrics, default, mosaic="ABC", height=3.6)


def plot_arms(ax, arms: dict, name: str) -> str:
    """One quantity of every loss as bars; returns its range in words."""
    names = [arm["name"].replace(", ", ",\n").replace(" + ", "\n+ ") for arm in arms.values()]
    colors = [ARM_COLORS.get(key, COLORS["gold"]) for key in arms]
    draw_bars(ax, names, [arm[name] for arm in arms.values()], colors)
    ax.tick_params(axis="x", labelsize=8)
    means = [arm[name]["mean"] for arm in arms.values()]
    least, most = min(means), max(means)
    return f"{least:z.1f} to {most:z.1f}" if len(means) > 1 else f"{most:z.1f}"


def accuracy_panel(ax, metrics: dict, default: dict | None) -> None:
    """How many held-out pairs the implicit reward ranks as labelled."""
    plot_arms(ax, metrics["arms"], "implicit_reward_accuracy")
    most = max(arm["implicit_reward_accuracy"]["mean"] for arm in metrics["arms"].values())
    ax.axhline(0.5, color=COLORS["theory"], ls=":")
    title = f"Held-out pairs: {most:.0%} at best"
    ax.set(title=title, ylabel="share of pairs ranked as labelled")


def margin_panel(ax, metrics: dict, default: dict | None) -> None:
    """How far apart the answers of held-out pairs are."""
    margins = plot_arms(ax, metrics["arms"], "margin")
    ax.set(title=f"Margins of {margins} nats", ylabel="margin h, held-out pairs, nats")


def kl_panel(ax, metrics: dict, default: dict | None) -> None:
    """How far the sampled answers lie from the reference."""
    kl = plot_arms(ax, metrics["arms"], "kl")
    ax.set(title=f"Sampled answers: KL {kl}", ylabel="measured KL(policy || reference), nats")


def utility_panel(ax, metrics: dict, default: dict | None) -> None:
    """Gold utility of the sampled answers, beside that of the SFT checkpoint."""
    gold = plot_arms(ax, metrics["arms"], "utility")
    sft = metrics["reference"]["utility"]["mean"]
    ax.set(title=f"Gold {gold}, SFT {sft:.1f}", ylabel=GOLD)
    ax.axhline(sft, color=COLORS["sft"], ls="--", label="SFT")
    if default:
        committed = default["arms"].get("dpo", {}).get("utility", {"mean": np.nan})["mean"]
        ax.axhline(committed, color=COLORS["default"], label="DPO, the default run")
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    ax.legend(loc="upper left")


PANELS = (table_panel, ties_panel, noise_panel, one_sided_panel, labels_panel, budget_panel)
