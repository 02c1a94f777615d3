"""A study, from its claims to its verdicts: one run a seed, statistics, JSON, figure, table.

A claim says before the run what the tutorial says, what is measured, and where that is true; the
interval over seeds decides.
"""

import argparse
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import NormalDist
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from common import runs
from common.figures import save_figure
from common.intervals import Z95, interval, t_interval
from common.models import init_compute
from common.saving import check_results, read_json, versions, whole_file, write_json

INFINITY = float("inf")
ABOVE_ZERO = (0.0, INFINITY)
VERDICTS = ("holds", "does not hold", "no difference", "undecided")
FEWEST = 5  # seeds for a verdict; of one to four the interval misleads
OUTPUT = {"folder": Path("outputs")}  # where the study that runs writes, see `study_folder`

# --- Claims ---


class Claim(NamedTuple):
    """What the tutorial says, and the measurement that decides it, written before the run."""

    id: str
    says: str
    measured: str  # what is measured, with its unit
    of: Callable[[dict], float]  # the quantity in the metrics of one seed
    true: tuple[float, float] = ABOVE_ZERO  # it holds where the whole interval lies between these
    smallest: float = 0.0  # the smallest difference from a border that is worth calling one
    predicted: str = "holds"  # the verdict that was expected before the run


def judge(claim: Claim, metrics: Sequence[dict], published: str = "") -> dict:
    """A claim with its quantity over the seeds, its verdict, and what a paper found, for JSON."""
    measured = t_interval([claim.of(of_seed) for of_seed in metrics])
    ci95 = measured["ci95"]
    judged = claim._asdict() | {
        "true": [None if math.isinf(border) else float(border) for border in claim.true],
        "mean": round(measured["mean"], 6),
        "ci95": ci95 and [round(end, 6) for end in ci95],
        "by_seed": [round(value, 6) for value in measured["by_seed"]],
        "verdict": verdict(ci95, claim.true, claim.smallest),
        "published": published,
    }
    del judged["of"]
    return judged


def verdict(ci95: Sequence[float] | None, true: Sequence[float], smallest: float = 0.0) -> str:
    """What an interval says of the region (low, high) in which a claim is true.

    "no difference": all of it lies within `smallest` of a border; "holds": all of it lies inside;
    "does not hold": all of it outside; "undecided": none of these, so the experiment was too weak.
    """
    if ci95 is None:
        return "undecided"
    (low, high), (lowest, highest) = ci95, true
    if any(border - smallest < low and high < border + smallest for border in true):
        return "no difference"
    if lowest < low and high < highest:
        return "holds"
    return "does not hold" if high <= lowest or low >= highest else "undecided"


def where_true(borders: Sequence[float | None]) -> str:
    """The region in which a claim is true, in words; None is infinity."""
    low, high = borders
    if low is None:
        return f"below {high:g}"
    return f"above {low:g}" if high is None else f"between {low:g} and {high:g}"


def discoveries(claims: Sequence[dict], rate: float = 0.05) -> set[str]:
    """The ids of judged claims that stand at a false-discovery rate (Benjamini, Hochberg 1995).

    Of m sorted p-values those up to the last with p_k <= rate k / m stand. A p-value is the
    two-sided normal one of the distance from the mean to the nearest border, in standard errors as
    the interval implies them. Undecided claims count among the tests; "no difference" does not,
    since it is told by another test.
    """
    ranked = []
    for claim in claims:
        if claim["ci95"] and claim["verdict"] != "no difference":
            low, high = claim["ci95"]
            borders = [border for border in claim["true"] if border is not None]
            distance = min(abs(border - claim["mean"]) for border in borders)
            errors = distance * 2 * Z95 / ((high - low) or 1e-12)  # equal seeds have no width
            ranked.append((2 * NormalDist().cdf(-errors), claim["id"]))
    ranked.sort()
    stand = [k for k, (p, _) in enumerate(ranked, start=1) if p <= rate * k / len(ranked)]
    return {name for _, name in ranked[: max(stand, default=0)]}


# --- The run of a study ---


def study_folder(seed: int, smoke: bool = False) -> Path:
    """Where models stay that several studies of a seed need (see `load_or_train`)."""
    return OUTPUT["folder"] / "studies" / f"seed-{seed}{'-smoke' if smoke else ''}"


def run_study(claims: Sequence[Claim], measure: Callable, draw: Callable) -> None:
    """The command line of a study: `measure(seed, smoke)` once a seed, verdicts, `draw(runs)`.

    Several seeds run side by side as processes of one thread; a seed that is done is not run again,
    as long as no code has changed.
    """
    runs.run(lambda: _run_study(Path(sys.argv[0]), claims, measure, draw))


def _run_study(script: Path, claims: Sequence[Claim], measure: Callable, draw: Callable) -> None:
    args = study_parser(script).parse_args()
    OUTPUT["folder"] = args.output_dir
    name = script.stem + ("-smoke" if args.smoke else "")
    folder = args.output_dir / "studies"
    saved, figure = (folder / f"{name}.{end}" for end in ("json", "png"))
    committed = read_json(runs.COMMITTED / "studies" / f"{script.stem}.json")
    if args.claims:
        own = read_json(saved)
        tell_claims(own if len(own.get("seeds", ())) >= FEWEST else committed or own)
        return
    check_results(folder, name)
    lessons, common = script.resolve().parents[1], runs.ROOT / "common"
    files = sorted([script.resolve(), *lessons.glob("*.py"), *common.glob("*.py")])
    code = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    parts = {seed: folder / name / f"seed-{seed}.json" for seed in args.seeds}
    todo = [seed for seed, part in parts.items() if read_json(part).get("code") != code]
    if len(parts) > 1:
        flags = ["--part", "--output-dir", args.output_dir, *(["--smoke"] if args.smoke else [])]
        commands = {folder / name / f"seed-{n}.log": [script, "--seeds", n, *flags] for n in todo}
        runs.run_side_by_side(commands, args.jobs)
    elif todo:
        init_compute("cpu")
        started = time.time()
        metrics = measure(args.seeds[0], args.smoke)
        seconds = round(time.time() - started, 1)
        part = {"seed": args.seeds[0], "wall_seconds": seconds, "code": code, "metrics": metrics}
        write_json(parts[args.seeds[0]], part)
    if args.part:  # the process of the other seeds sums up
        return
    published = read_json(script.parent / "published.json")  # by the id of a claim
    results = sum_up(script.name, list(map(read_json, parts.values())), claims, published)
    write_json(saved, results)
    save_figure(draw([run["metrics"] for run in results["runs"]]), figure)
    print_claims(results, committed)
    print(f"\nwrote {figure}, {saved}   ({results['wall_seconds']:.0f} s a seed)")


def study_parser(script: Path) -> argparse.ArgumentParser:
    """--seeds, --jobs, --claims, and what all scripts have."""
    parser = runs.bare_parser(script, sys.modules["__main__"].__doc__)
    seed = runs.whole_number(0)
    parser.add_argument("--seeds", type=seed, nargs="+", default=[0], help="default: 0")
    jobs = "seeds side by side, one thread each; default: as many as there are cores"
    parser.add_argument("--jobs", type=runs.whole_number(1), default=os.cpu_count(), help=jobs)
    listed = "list what is claimed and what was found, from the saved results"
    parser.add_argument("--claims", action="store_true", help=listed)
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    return parser


def sum_up(script: str, parts: list[dict], claims: Sequence[Claim], published: dict) -> dict:
    """The results of all seeds with every claim judged, ready for JSON."""
    metrics = [part["metrics"] for part in parts]
    for of_seed in metrics[1:]:  # the page shows answers of the first
        of_seed.pop("answers", None)
    return {
        "script": script,
        "seeds": [part["seed"] for part in parts],
        "wall_seconds": round(float(np.mean([part["wall_seconds"] for part in parts])), 1),
        "versions": versions(),
        "runs": [{key: part[key] for key in ("seed", "wall_seconds", "metrics")} for part in parts],
        "claims": [judge(claim, metrics, published.get(claim.id, "")) for claim in claims],
    }


# --- For the reader ---


def print_claims(results: dict, committed: dict) -> None:
    """Every claim with what this run measured, and the verdict: from five seeds on its own."""
    own = len(results["seeds"]) >= FEWEST
    source = results if own else committed
    known = {claim["id"]: claim["verdict"] for claim in source.get("claims", ())}
    print(f"\n{'claim':<58} {name_seeds(results['seeds']):<20} verdict")
    for claim in results["claims"]:
        found = known.get(claim["id"], "undecided: too few seeds")
        told = interval(claim) if own else f"{claim['mean']:.2f}"
        print(f"{shorten(claim['says'], 58, placeholder=' ...'):<58} {told:<20} {found}")
    if not own and known:
        seeds = name_seeds(committed["seeds"])
        print(f"verdicts: of the committed run, {seeds}; fewer than {FEWEST} seeds decide nothing")


def name_seeds(seeds: Sequence[int]) -> str:
    """The seeds of a run in words: seeds 0 to 7."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def tell_claims(results: dict) -> None:
    """Every claim with what was measured, where it is true, and what was found and published."""
    if not results:
        raise runs.UserError("no results yet; run the study without --claims first")
    print(f"measured: {name_seeds(results['seeds'])}")
    for claim in results["claims"]:
        print(f"\n{claim['says']}")
        print(f"  measured   {claim['measured']}; true {where_true(claim['true'])}")
        print(f"  predicted  {claim['predicted']}")
        print(f"  found      {interval(claim, 3)}: {claim['verdict']}")
        print(f"  published  {claim['published'] or 'nothing found'}")


def link_papers(text: str) -> str:
    """A text for Markdown, where the number of a paper leads to it."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def write_claims_table(path: Path, results: dict[str, dict]) -> None:
    """Markdown: every claim of every study, by its title, with interval and verdict.

    Below it, how many of the decided claims stand at a false-discovery rate of 5 %.
    """
    names = ("study", "claim", "measured", "mean and 95 % interval", "true", "predicted")
    names += ("verdict", "published: what was found, and how it was read")
    lines, claims = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"], []
    for title, result in results.items():
        claims += result["claims"]
        for claim in result["claims"]:
            row = [title, claim["says"], claim["measured"], interval(claim)]
            row += [where_true(claim["true"]), claim["predicted"], claim["verdict"]]
            lines.append(f"| {' | '.join(row)} | {link_papers(claim['published'])} |")
    decided = {claim["id"] for claim in claims if claim["verdict"] in ("holds", "does not hold")}
    stand = len(decided & discoveries(claims))
    counts = Counter(claim["verdict"] for claim in claims)
    verdicts = ", ".join(f"{name}: {counts[name]}" for name in VERDICTS)
    told = f"{len(claims)} claims ({verdicts}). Of the {len(decided)} that are decided, {stand}"
    failed = sum(claim["predicted"] != claim["verdict"] for claim in claims)
    lines += ["", f"{told} stand at a false-discovery rate of 5 %.", ""]
    lines += [f"{failed} verdicts are not what was predicted before the run.", ""]
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
