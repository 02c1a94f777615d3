"""What to notice: which method buys how much quality, and how far does it move the model?

    python 05-preference-tuning/frontier.py

collected from   six studies, all measured on the same 128 held-out questions: from outputs/
                 where all of them were run, else from the committed run over eight seeds
trained          nothing
judged by        gold utility (3 if right, 1 if on topic, -0.15 for a word of filler; in log-odds)
                 against the measured KL from the SFT model, in nats
writes           outputs/frontier.png, outputs/frontier.json

The SFT model is the one that all methods start from. KL says how far a policy's answers have moved
away from it: 0 nats is not at all. No policy gains more at its KL than pi*, the exact optimum of
gold utility, which no training sees: that is the black line.

About a second. Left out: seconds and memory (studies/rl_beside_dpo.py and rlhf_objectives.py).
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np

from common import runs
from common.answers import print_table
from common.figures import legend_below, new_figure
from common.intervals import over_seeds
from common.saving import read_json

SOURCES = (
    "too_much_dpo",
    "on_policy_pairs",
    "ties_noise_and_margins",
    "label_quality",
    "rl_beside_dpo",
    "best_of_n_and_the_limit",
)
TRUSTED = 0.1  # share of the pool that must still count for pi* to be believed
N = 16  # of the best-of-n that stands for the method


class Method(NamedTuple):
    """A method, which of its trainings stands for it, its colour, and what an answer costs."""

    name: str
    series: str
    color: str
    samples: int = 1  # for one answer


METHODS = (
    Method("best of n", "human", "best_of_n", N),
    Method("DPO", "default", "dpo"),
    Method("DPO + best of n", "human", "dpo_best_of_n", N),
    Method("IPO", "ipo", "ipo"),
    Method("KTO", "kto", "kto"),
    Method("AI labels", "ai_labels", "ai"),
    Method("on-policy DPO", "policy", "chosen"),
    Method("online RL", "default", "rl"),
    Method("SFT on chosen", "sft_on_chosen", "sft"),
    Method("random labels", "coin", "other"),
)
LINES = ("best of n", "DPO", "online RL", "DPO + best of n")  # several points, along one training

# --- 1. Collecting what the studies measured ---


def collect_points(output_dir: Path) -> list[dict]:
    """Every study's points of (KL, gold utility), averaged over its seeds.

    They are read from the output folder where all studies were run there with the same seeds, else
    from the committed run: one seed of yours beside eight would not be alike. Raises UserError
    where a result is missing, and says which command makes it.
    """
    for folder in (output_dir / "studies", runs.COMMITTED / "studies"):
        results = [read_json(folder / f"{study}.json") for study in SOURCES]
        if len({str(result.get("seeds")) for result in results}) == 1 and results[0]:
            break
    points = []
    for study, result in zip(SOURCES, results, strict=True):
        parts = [run["metrics"].get("points") for run in result.get("runs", ())]
        if not parts or None in parts:
            command = f"python 05-preference-tuning/studies/{study}.py"
            raise runs.UserError(f"no results of {study} that can be read; {command} makes them")
        points += over_seeds(parts)
    print(f"read from {folder}: {len(SOURCES)} studies, seeds {results[0]['seeds']}")
    return points


def point_for(method: Method, points: list[dict]) -> dict:
    """The point that stands for a method: best-of-N's, or the end of its training."""
    rows = [p for p in points if (p["method"], p["series"]) == (method.name, method.series)]
    if not rows:
        raise runs.UserError(f"nothing was measured of {method.name}: run the studies again")
    return next((point for point in rows if point.get("n") == N), rows[-1])


# --- 2. The limit: pi* of gold utility at every KL ---


def limit_curve(points: list[dict]) -> list[tuple[float, float]]:
    """(KL, gold utility) of pi* along beta, from the SFT model as far as the pool can tell.

    pi* = pi_ref exp(u / beta) / Z of gold utility u, on the pool of best_of_n_and_the_limit;
    `sample_share` is the effective sample size over the pool's.
    """
    optima = [point for point in points if point["method"] == "optimum"]
    rows = []
    for point in optima:
        if point["sample_share"] >= TRUSTED:
            rows.append((point["kl"]["mean"], point["gold"]["mean"]))
    start = point_of_sft(points)["gold"]["mean"]
    return sorted([*rows, (0.0, start)])


def point_of_sft(points: list[dict]) -> dict:
    """The SFT model on the pool of the limit: best-of-n with n = 1."""
    return next(p for p in points if p["method"] == "best of n" and p["series"] == "human")


def gain_and_share(point: dict, limit: list[tuple[float, float]]) -> dict:
    """Gold utility gained over the SFT model, and as a share of what pi* gains at the same KL.

    Beyond the last KL of the limit pi* counts as flat.
    """
    kl, gold = zip(*limit, strict=True)
    start = gold[0]
    best = float(np.interp(point["kl"]["mean"], kl, gold))
    ends = np.array([point["gold"]["mean"], *point["gold"]["ci95"]]) - start
    share = ends / max(best - start, 0.05)
    return {
        "gain": {"mean": ends[0], "ci95": list(ends[1:])},
        "share": {"mean": share[0], "ci95": list(share[1:])},
    }


# --- 3. The figure ---


def draw(points: list[dict], limit: list, rows: list[dict]):
    """The plane, and two rankings of the methods."""
    figure, axes = new_figure(
        2, 2, "Quality that each method buys, and how far it moves the model", 3.4
    )
    grid = axes[0].get_gridspec()
    for ax in axes[:2]:
        ax.remove()
    plane_of_methods(figure.add_subplot(grid[0, :]), points, limit)
    ranking_panel(axes[2], [row for row in rows if row["kl"] > 0.1], "share")
    axes[2].set(title="Share of the limit's gain at the same KL", xlabel="share")
    ranking_panel(axes[3], rows, "gain")
    axes[3].set(title="Gold utility gained over the SFT model", xlabel="log-odds")
    return figure


def plane_of_methods(ax, points: list[dict], limit: list) -> None:
    """Every point of every method, the limit above them; hollow: annotators who prefer length."""
    ax.plot(*zip(*limit, strict=True), color="black", label="limit: pi* of gold utility")
    for method in METHODS:
        of_method = [point for point in points if point["method"] == method.name]
        for series in dict.fromkeys(point["series"] for point in of_method):
            rows = [point for point in of_method if point["series"] == series]
            x, y = ([point[name]["mean"] for point in rows] for name in ("kl", "gold"))
            biased, joined = rows[0]["biased"], method.name in LINES
            style = {"color": f"lab:{method.color}", "marker": "o", "ms": 4, "lw": 0.8}
            style |= {"mfc": "white"} if biased else {}
            named = joined and series == method.series
            ax.plot(
                x, y, ls="-" if joined else "none", label=method.name if named else None, **style
            )
            if series == "as_many_pairs":  # as many labels as DPO had
                few = {"xytext": (4, -9), "textcoords": "offset points", "fontsize": 7}
                ax.annotate(f"{rows[-1]['annotations']} labels", (x[-1], y[-1]), **few)
    start = point_of_sft(points)
    ax.plot(0, start["gold"]["mean"], "s", color="lab:sft", label="SFT model")
    ax.plot([], [], "o", mfc="white", color="black", label="hollow: annotators prefer length")
    ax.plot([], [], " ", label="no line: colours of the bars")
    ax.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    ax.set_xticks([0, 0.1, 0.5, 1, 2, 4, 8, 16, 32])
    ax.set(xlabel="measured KL from the SFT model (nats; square-root axis)", ylim=(0, 4.2))
    ax.set(title="Quality against distance", ylabel="gold utility (log-odds)")
    legend_below(ax, ncols=4)


def ranking_panel(ax, rows: list[dict], name: str) -> None:
    """One quantity of every method with its interval, the best on top."""
    rows = sorted(rows, key=lambda row: row[name]["mean"])
    means = np.array([row[name]["mean"] for row in rows])
    ends = np.array([row[name]["ci95"] for row in rows]).T
    colors = [f"lab:{row['color']}" for row in rows]
    bars = {"xerr": np.abs(ends - means), "error_kw": {"lw": 0.8}}
    ax.barh([row["method"] for row in rows], means, color=colors, **bars)
    ax.grid(axis="y", visible=False)


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    return runs.make_parser(__file__, __doc__)


def main(argv: list[str] | None = None) -> dict:
    """Collect, compare, print, draw; returns the metrics."""
    args = runs.start(build_parser(), argv, "frontier")
    points = collect_points(args.output_dir)
    limit, rows = limit_curve(points), []
    for method in METHODS:
        point = point_for(method, points)
        about = {"method": method.name, "color": method.color, "kl": point["kl"]["mean"]}
        costs = {"labels": point["annotations"], "samples": method.samples}
        rows.append({**about, **costs, "gold": point["gold"], **gain_and_share(point, limit)})
    table = []
    for row in sorted(rows, key=lambda row: -row["gain"]["mean"]):
        of_row = (row["kl"], row["gain"]["mean"], row["labels"], row["samples"])
        table.append((row["method"], *of_row, ""))
    print_table(("method", "KL (nats)", "gold gained", "labels", "samples"), table)
    print("samples: answers that are drawn for one answer; labels: those of a reward model count")
    metrics = {"limit": limit, "methods": rows, "points": points}
    next_step = "python 05-preference-tuning/run_all.py --studies: measure all of it yourself"
    return runs.finish(args, metrics, draw(points, limit, rows), next_step)


if __name__ == "__main__":
    runs.run(main)
