"""What to notice: all methods on one plane, gold utility against KL, with the theoretical limit.

    python 05-preference-tuning/frontier.py
    python 05-preference-tuning/frontier.py --seed 1     # what the other scripts measured with it

Every method moves a policy away from the SFT checkpoint, at a cost in KL, and gains gold utility
for it. No policy gains more at its KL than the exact optimum pi* of gold, which no training sees.
This script trains nothing: it collects what the other scripts measured on the same 128 held-out
prompts, from outputs/ where a run is there, else from the committed run over all seeds.

About a second. Expect best-of-16 at 95 % of the limit's gain at its KL, online RL at 88 % and DPO
at 80 %, and all that is tuned for annotators who love length to bend down. Writes frontier.png.
Left out: cost in memory and seconds as axes (the table has them).
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from support.drawing.frontier import draw_frontier
from support.findings.frontier import findings

import numpy as np

from common import cli
from common.reporting import COMMITTED, Check, Claim, finish, read_results

# Who measured what: the results' name, and the script that makes them.
SOURCES = {
    "dpo_training": "dpo_trainer.py",
    "dpo_variants": "dpo_variants.py",
    "online_rl": "online_rl.py",
    "best_of_n": "best_of_n.py",
}
TRUSTED = 0.1  # share of the pool that must still count for pi* to be believed
N = 16  # of the best-of-n that stands for the method


class Method(NamedTuple):
    """A method: which of its runs stands for it, and what must be held and sampled.

    A LoRA policy counts once in memory: its reference is the same model with the adapter off.
    """

    name: str
    series: str
    models_in_training: int = 1
    models_in_use: int = 1
    samples_per_answer: int = 1


METHODS = (
    Method("best of n", "human", 1, 2, N),
    Method("DPO", "default"),
    Method("DPO + best of n", "human", 2, 2, N),
    Method("IPO", "ipo"),
    Method("KTO", "kto"),
    Method("AI labels", "ai_labels"),
    Method("on-policy DPO", "policy"),
    Method("online RL", "default", 2),
    Method("SFT on chosen", "sft_on_chosen"),
    Method("random labels", "coin"),
)

CLAIMS = (
    Claim(
        "best_of_n_is_a_strong_baseline",
        "best-of-N is a strong baseline: a large part of the gain of tuning with zero training",
        f"gold utility gained by best-of-{N}, as a share of what the best tuned policy gains",
        path="best_of_n_share",
        true=(0.5, float("inf")),
        smallest=0.05,
    ),
    Claim(
        "best_of_n_spends_kl_better",
        "best-of-N is nearer to the limit at its KL than DPO is at its own",
        f"share of pi*'s gain at the same KL, best-of-{N} minus DPO",
        path="best_of_n_minus_dpo",
        smallest=0.05,
    ),
    Claim(
        "online_rl_spends_kl_better",
        "online RL is nearer to the limit at its KL than DPO is at its own",
        "share of pi*'s gain at the same KL, online RL minus DPO",
        path="online_rl_minus_dpo",
        smallest=0.05,
    ),
    Claim(
        "over_optimization_is_real",
        "over-optimisation is a real risk: tuned on for a flawed reward, quality falls",
        "gold utility that DPO on length-biased labels loses from its best point to its last",
        path="lost_by_biased_dpo",
        smallest=0.1,
    ),
)
CHECKS = (
    Check("limit", "no method's interval lies above pi* at its KL", "excess", (-float("inf"), 0.1)),
)


# --- 1. Collecting what the other scripts measured ---


def collect(seed: int, output_dir: Path, smoke: bool) -> tuple[list[dict], dict]:
    """Every script's points of (KL, gold), and the seconds that its parts took.

    Raises UserError where a result is missing, and says which script makes it.
    """
    changed = {"seed": seed} if seed else {}
    changed |= {"smoke": True} if smoke else {}
    points, seconds, places = [], {}, []
    for name, script in SOURCES.items():
        here = output_dir / f"{cli.name_run(name, changed)}.json"
        place = here if here.is_file() else COMMITTED / f"{name}.json"
        results = read_results(place)
        metrics = results["metrics"] or {}
        if "frontier" not in metrics:
            command = f"python 05-preference-tuning/{script}"
            raise cli.UserError(f"{here} is missing; {command} makes it")
        points += metrics["frontier"]
        seconds[script] = results["wall_seconds"]
        places.append(str(place))
    print(f"reading {', '.join(places)}")
    return points, seconds


def points_of(points: list[dict], method: str, series: str | None = None) -> list[dict]:
    """The points of a method, or of one of its runs, in the order of the run."""
    rows = [point for point in points if point["method"] == method]
    return [point for point in rows if series in (None, point["series"])]


def stands_for(method: Method, points: list[dict]) -> dict:
    """The point that stands for a method: best-of-N's, or the end of its run.

    Raises UserError where nothing was measured of it.
    """
    rows = points_of(points, method.name, method.series)
    if not rows:
        reason = "the results are of another version of the lab; run the scripts again"
        raise cli.UserError(f"nothing was measured of {method.name}: {reason}")
    return next((point for point in rows if point.get("n") == N), rows[-1])


# --- 2. The limit: pi* of gold at every KL ---


def limit_curve(points: list[dict]) -> list[dict]:
    """KL and gold utility of pi* along beta, from the SFT checkpoint as far as the pool can tell.

    pi* = pi_ref exp(u / beta) / Z of gold u on best_of_n.py's pool; `sample_share` is the effective
    sample size over the pool's.
    """
    trusted = [p for p in points_of(points, "optimum") if p["sample_share"] >= TRUSTED]
    start = points_of(points, "best of n", "human")[0]  # n = 1: the checkpoint, on the same pool
    rows = [{"kl": point["kl"]["mean"], "gold": point["gold"]["mean"]} for point in trusted]
    rows.append({"kl": 0.0, "gold": start["gold"]["mean"]})
    return sorted(rows, key=lambda row: row["kl"])


def gain_and_share(point: dict, limit: list[dict]) -> dict:
    """Gold utility gained over the SFT checkpoint, and as a share of pi*'s gain at the same KL.

    Beyond the last KL of the limit pi* counts as flat.
    """
    start = limit[0]["gold"]
    kl = [row["kl"] for row in limit]
    gold = [row["gold"] for row in limit]
    best = float(np.interp(point["kl"]["mean"], kl, gold))
    gain = shifted(point["gold"], start)
    share = scaled(gain, 1 / max(best - start, 0.05))
    return {"gain": gain, "share": share, "excess": point["gold"]["ci95"][0] - best}


def shifted(measured: dict, by: float) -> dict:
    """A quantity minus a number."""
    return {"mean": measured["mean"] - by, "ci95": [end - by for end in measured["ci95"]]}


def scaled(measured: dict, factor: float) -> dict:
    """A quantity times a number above 0."""
    return {"mean": measured["mean"] * factor, "ci95": [end * factor for end in measured["ci95"]]}


def difference(first: dict, second: dict) -> dict:
    """first - second of two quantities, their errors taken as independent."""
    mean = first["mean"] - second["mean"]
    halves = [(q["ci95"][1] - q["ci95"][0]) / 2 for q in (first, second)]
    half = float(np.hypot(*halves))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


# --- 3. The study ---


def study(points: list[dict]) -> dict:
    """The limit, every method's gain and share of it, and the comparisons of the claims."""
    limit = limit_curve(points)
    rows = {}
    for method in METHODS:
        point = stands_for(method, points)
        about = {"method": method.name, "label": point["label"], "kl": point["kl"]}
        costs = {**method._asdict(), "annotations": point["annotations"]}
        rows[method.name] = {**about, **gain_and_share(point, limit), "costs": costs}
    best, dpo, online = (rows[name] for name in ("best of n", "DPO", "online RL"))
    one_answer = [row for row in rows.values() if row["costs"]["samples_per_answer"] == 1]
    tuned = max(one_answer, key=lambda row: row["gain"]["mean"])
    biased = points_of(points, "DPO", "biased")
    top = max(biased, key=lambda point: point["gold"]["mean"])
    return {
        "points": [point for point in points if point["method"] != "optimum"],
        "limit": limit,
        "methods": list(rows.values()),
        "best_tuned": tuned["method"],
        "best_of_n_share": scaled(best["gain"], 1 / tuned["gain"]["mean"]),
        "best_of_n_minus_dpo": difference(best["share"], dpo["share"]),
        "online_rl_minus_dpo": difference(online["share"], dpo["share"]),
        "lost_by_biased_dpo": difference(top["gold"], biased[-1]["gold"]),
        "excess": max(row["excess"] for row in rows.values()),
    }


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    return cli.make_parser(__file__, __doc__)


def main(argv: list[str] | None = None) -> dict:
    """Collect, compare, draw; returns the metrics."""
    args = cli.start(build_parser(), argv, "frontier")
    points, seconds = collect(args.seed, args.output_dir, args.smoke)
    metrics = study(points)
    lines = findings(metrics, N)
    return finish(args, metrics, draw_frontier, lines, CLAIMS, CHECKS, timings={"of": seconds})


if __name__ == "__main__":
    cli.run(main)
