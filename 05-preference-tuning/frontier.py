"""What to notice: which method buys how much quality, and how far does it move the model?

    python 05-preference-tuning/frontier.py

collected from   seven studies, each seed measured on the same 128 held-out questions: from outputs/
                 where all of them were run, else from the committed run; nothing is trained
judged by        gold utility (3 if right, 1 if on topic, -0.15 for a word of filler; in log-odds)
                 against the measured KL from the SFT model, in nats
writes           outputs/frontier.png, outputs/frontier.json

Methods are compared at equal labels, those of a reward model included: one plane for at most 768
labelled pairs, one for 6,400. KL says how far a policy's answers have moved from the SFT model,
where all start. No policy gains more at its KL than pi*, the exact optimum of gold utility, which
no training sees: that is the black line.

About a second. Left out: seconds and memory (studies/rl_beside_dpo.py and rlhf_objectives.py).
"""

from pathlib import Path
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np

from common import runs
from common.answers import print_table
from common.figures import new_figure
from common.intervals import t_interval
from common.saving import read_json

SOURCES = ("too_much_dpo", "on_policy_pairs", "ties_noise_and_margins", "label_quality")
SOURCES += ("rl_beside_dpo", "likelihood_term", "best_of_n_and_the_limit")
BUDGETS = (768, 6400)  # labelled pairs; a point belongs to the first that it does not exceed
# By validation questions, for the studies: the recipe and the reward model that stand for each.
RECIPE = {"768": "DPO", "6400": "DPO + likelihood term"}
JUDGE = {"768": "768, SFT start", "6400": "6400"}
TRUSTED = 0.1  # share of the pool that must still count for pi* to be believed
N = 16  # of the best-of-n that stands for the method


class Method(NamedTuple):
    """A method and which of its trainings stands for it, with its colour."""

    name: str
    series: str
    color: str


METHODS = (
    Method("best of n", "768", "best_of_n"),
    Method("best of n", "768, SFT start", "best_of_n"),
    Method("DPO", "768", "dpo"),
    Method("DPO + likelihood term", "768", "dpo"),
    Method("DPO + best of n", "768", "dpo_best_of_n"),
    Method("PPO", "768", "rl"),
    Method("PPO", "768, SFT start", "rl"),
    Method("on-policy DPO", "policy", "chosen"),
    Method("IPO", "ipo", "ipo"),
    Method("KTO", "kto", "kto"),
    Method("AI labels", "ai_labels", "ai"),
    Method("SFT on chosen", "sft_on_chosen", "sft"),
    Method("random labels", "coin", "other"),
    Method("best of n", "6400", "best_of_n"),
    Method("DPO", "6400", "dpo"),
    Method("DPO + likelihood term", "6400", "dpo"),
    Method("DPO + best of n", "6400", "dpo_best_of_n"),
    Method("PPO", "6400", "rl"),
    Method("RLOO", "6400", "rl"),
)
LINES = ("best of n", "DPO", "PPO", "DPO + best of n")  # several points, along one training
JOINED = ("unbiased", "biased")  # series of DPO whose points are joined
DIAMONDS = ("DPO + likelihood term", "RLOO")  # they share a colour with another method

# --- 1. Collecting what the studies measured ---


def collect_points(output_dir: Path) -> list[list[dict]]:
    """Every study's points of (KL, gold utility), a list for each seed.

    From the output folder where all studies were run there with the same seeds, else from the
    committed run: one seed of yours beside eight would not be alike.
    """
    for folder in (output_dir / "studies", runs.COMMITTED / "studies"):
        results = [read_json(folder / f"{study}.json") for study in SOURCES]
        if len({str(result.get("seeds")) for result in results}) == 1 and results[0]:
            break
    for study, result in zip(SOURCES, results, strict=True):
        if "runs" not in result:
            command = f"python 05-preference-tuning/studies/{study}.py"
            raise runs.UserError(f"no results of {study} that can be read; {command} makes them")
    print(f"read from {folder}: {len(SOURCES)} studies, seeds {results[0]['seeds']}")
    seeds = zip(*(result["runs"] for result in results), strict=True)
    return [[point for run in seed for point in run["metrics"]["points"]] for seed in seeds]


def mean_points(seeds: list[list[dict]]) -> list[dict]:
    """Every point with its KL, gold utility and share of good answers averaged over the seeds."""
    points = []
    for rows in zip(*seeds, strict=True):
        names = [name for name in ("kl", "gold", "good", "sample_share") if name in rows[0]]
        means = {name: float(np.mean([row[name] for row in rows])) for name in names}
        points.append(rows[0] | means)
    return points


def point_for(method: Method, points: list[dict]) -> dict:
    """The point that stands for a method: best-of-n's, or the end of its training."""
    rows = [p for p in points if (p["method"], p["series"]) == (method.name, method.series)]
    if not rows:
        what = f"{method.name} ({method.series})"
        raise runs.UserError(f"nothing was measured of {what}: run the studies again")
    return next((point for point in rows if point.get("n") == N), rows[-1])


def budget_of(point: dict) -> int:
    """The number of labelled pairs at which a point is compared."""
    return next(budget for budget in BUDGETS if point["annotations"] <= budget)


# --- 2. The limit: pi* of gold utility at every KL ---


def limit_curve(points: list[dict]) -> list[tuple[float, float]]:
    """(KL, gold utility) of pi* along beta, from the SFT model as far as the pool can tell.

    pi* = pi_ref exp(u / beta) / Z of gold utility u, on the pool of best_of_n_and_the_limit;
    `sample_share` is the effective sample size over the pool's.
    """
    of_sft = next(p for p in points if p["method"] == "best of n" and p["n"] == 1)
    optima = [p for p in points if p["method"] == "optimum" and p["sample_share"] >= TRUSTED]
    return sorted([(0.0, of_sft["gold"]), *((p["kl"], p["gold"]) for p in optima)])


def gain_and_share(point: dict, limit: list[tuple[float, float]]) -> dict[str, float]:
    """Gold utility gained over the SFT model, and as a share of what pi* gains at the same KL."""
    kl, gold = zip(*limit, strict=True)
    gain = point["gold"] - gold[0]
    most = float(np.interp(point["kl"], kl, gold)) - gold[0]  # flat beyond the limit's last KL
    return {"gain": gain, "share": gain / max(most, 0.05)}


def compare_methods(seeds: list[list[dict]]) -> list[dict]:
    """A row for each method: its labels, KL, gain and share, with t intervals over the seeds."""
    limits, rows = [limit_curve(points) for points in seeds], []
    for method in METHODS:
        points = [point_for(method, of_seed) for of_seed in seeds]
        of_seeds = [gain_and_share(*pair) for pair in zip(points, limits, strict=True)]
        shown = method.name.replace("best of n", f"best of {N}")
        shown += ", SFT start" if "SFT start" in method.series else ""
        row = {"method": shown, "color": method.color, "budget": budget_of(points[0])}
        row |= {"labels": points[0]["annotations"], "kl": float(np.mean([p["kl"] for p in points]))}
        for name in ("gain", "share"):
            row[name] = t_interval([of_seed[name] for of_seed in of_seeds])
        rows.append(row)
    return rows


# --- 3. The figure ---


def draw(points: list[dict], limit: list, rows: list[dict]):
    """A plane for each number of labels, and two rankings of the methods."""
    title = "Quality that each method buys, and how far it moves the model, at equal labels"
    figure, axes = new_figure(3, 2, title, 3.2)
    grid = axes[0].get_gridspec()
    grid.set_height_ratios([1, 1, 1.4])
    for ax in axes[:4]:
        ax.remove()  # each plane takes the place of two
    few = figure.add_subplot(grid[0, :])
    many = figure.add_subplot(grid[1, :], sharex=few, sharey=few)
    for ax, budget in zip((few, many), BUDGETS, strict=True):
        plane_of_methods(ax, [p for p in points if budget_of(p) == budget], limit)
    few.set_title("At most 768 labelled pairs (points without a line: colours of the bars)")
    many.set_title("6,400 labelled pairs (diamonds: DPO with the likelihood term, RLOO)")
    most = max(point["kl"] for point in points)
    ticks = [tick for tick in (0, 0.1, 0.5, 1, 2, 4, 8, 16, 32) if tick <= most]
    few.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    many.set_xlabel("measured KL from the SFT model (nats; square-root axis)")
    figure.legend(*few.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    ranking_panel(axes[4], [row for row in rows if row["kl"] > 0.1], "share")
    axes[4].set(title="Share of the limit's gain at the same KL", xlabel="share")
    ranking_panel(axes[5], rows, "gain")
    axes[5].set(title="Gold utility gained over the SFT model", xlabel="log-odds")
    return figure


def plane_of_methods(ax, points: list[dict], limit: list) -> None:
    """Points of every method and the limit above them; hollow: annotators who prefer length."""
    ax.plot(*zip(*limit, strict=True), color="black", label="limit: pi* of gold utility")
    ax.plot(0, limit[0][1], "s", color="lab:sft", label="SFT model", zorder=3)
    for method in {method.name: method for method in METHODS}.values():
        of_method = [point for point in points if point["method"] == method.name]
        if method.name in LINES:
            ax.plot([], [], "o-", color=f"lab:{method.color}", ms=4, label=method.name)
        for series in dict.fromkeys(point["series"] for point in of_method):
            rows = [point for point in of_method if point["series"] == series]
            style = {"color": f"lab:{method.color}", "ms": 4, "lw": 0.8}
            style["marker"] = "D" if method.name in DIAMONDS else "o"
            style |= {"mfc": "white"} if rows[0]["biased"] else {}
            joined = method.name in LINES and (method.name != "DPO" or series in JOINED)
            dashes = ":" if "SFT start" in series else "-"
            x, y = ([point[name] for point in rows] for name in ("kl", "gold"))
            ax.plot(x, y, ls=dashes if joined else "none", **style)
    ax.plot([], [], "o", mfc="white", color="black", label="annotators prefer length")
    ax.plot([], [], ":", color="black", label="reward model from the SFT model")
    ax.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    ax.set(ylabel="gold utility (log-odds)")


def ranking_panel(ax, rows: list[dict], name: str) -> None:
    """A bar for every method with its interval: above with few labels, the best on top."""
    place, ticks = 0, {}
    for budget in reversed(BUDGETS):
        group = [row for row in rows if row["budget"] == budget]
        for row in sorted(group, key=lambda row: row[name]["mean"]):
            mean, ci95 = row[name]["mean"], row[name]["ci95"]
            half = {"xerr": ci95[1] - mean, "error_kw": {"lw": 0.8}} if ci95 else {}
            ax.barh(place, mean, color=f"lab:{row['color']}", **half)
            ticks[place], place = row["method"], place + 1
        ticks[place], place = f"with {budget:,} pairs:", place + 1.3
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    for label in ax.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().endswith(":") else "normal")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


# --- 4. The run ---


def main(argv: list[str] | None = None) -> dict:
    """Collect, compare, print, draw; returns the metrics."""
    args = runs.start(runs.make_parser(__file__, __doc__), argv, "frontier")
    seeds = collect_points(args.output_dir)
    points, rows = mean_points(seeds), compare_methods(seeds)
    limit, table = limit_curve(points), []
    for row in sorted(rows, key=lambda row: (row["budget"], -row["gain"]["mean"])):
        numbers = row["labels"], row["kl"], row["gain"]["mean"], row["share"]["mean"]
        table.append((row["method"], *numbers, ""))
    print_table(("method", "labels", "KL (nats)", "gold gained", "share of pi*"), table)
    print(f"best of {N} draws {N} answers for one; labels: those of a reward model count")
    metrics = {"limit": limit, "methods": rows, "points": points}
    next_step = "python 05-preference-tuning/run_all.py --studies: measure all of it yourself"
    return runs.finish(args, metrics, draw(points, limit, rows), next_step)


if __name__ == "__main__":
    runs.run(main)
