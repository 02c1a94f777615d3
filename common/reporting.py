"""Claims and files: how every script reports what it measured.

A claim names a measured quantity by its path in the metrics and says before the run where it is
true; `judge` compares the two. `finish` is the end of every script.
"""

import argparse
import contextlib
import json
import math
import platform
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from common.files import replacing
from common.intervals import Z95, interval, seed_half_width, student_t

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "figures"  # the committed run over all seeds
INFINITY = float("inf")
ABOVE_ZERO = (0.0, INFINITY)
VERDICTS = ("holds", "does not hold", "no difference", "undecided")
VERSIONED = ("numpy", "matplotlib", "torch", "transformers", "datasets", "trl", "peft")
VERSIONED += ("accelerate",)
# What `read_results` gives where there are no results.
NOTHING = {"settings": {}, "metrics": None, "claims": [], "checks": []}

# --- Claims and checks ---


class Claim(NamedTuple):
    """What the tutorial says, and the measurement that decides it, written before the run."""

    id: str
    says: str
    measured: str  # what is measured, with its unit
    path: str  # where in the metrics the quantity stands: keys joined by dots
    true: tuple[float, float] = ABOVE_ZERO  # it holds where the whole interval lies between these
    smallest: float = 0.0  # the smallest difference from a border that is worth calling one


class Check(NamedTuple):
    """An identity or a piece of bookkeeping: right, or a fault; no matter of evidence."""

    id: str
    says: str
    path: str
    between: tuple[float, float]


def judge(claims: Sequence[Claim], metrics: dict) -> list[dict]:
    """Every claim with what was measured and its verdict, ready for JSON (None for infinity)."""
    return [_judge_one(claim, at(metrics, claim.path)) for claim in claims]


def _judge_one(claim: Claim, measured: dict) -> dict:
    ci95 = measured["ci95"]
    judged = {
        **claim._asdict(),
        "true": [_finite(border) for border in claim.true],
        "mean": round(float(measured["mean"]), 6),
        "ci95": ci95 and [round(float(end), 6) for end in ci95],
        "verdict": verdict(ci95, claim.true, claim.smallest),
    }
    if "by_seed" in measured:
        judged["by_seed"] = [round(float(mean), 6) for mean in measured["by_seed"]]
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


def run_checks(checks: Sequence[Check], metrics: dict) -> list[dict]:
    """Every check with its value and whether it passes."""
    results = []
    for check in checks:
        value = float(at(metrics, check.path))
        low, high = check.between
        row = {**check._asdict(), "between": [_finite(low), _finite(high)], "value": value}
        results.append({**row, "passes": low <= value <= high})
    return results


def at(metrics: dict, path: str):
    """What stands at a path of the metrics: keys, or places in lists, joined by dots."""
    for key in path.split("."):
        metrics = metrics[int(key)] if isinstance(metrics, list | tuple) else metrics[key]
    return metrics


def _finite(border: float) -> float | None:
    return None if math.isinf(border) else float(border)


def _borders(claim: dict) -> tuple[float, float]:
    """The region in which a judged claim is true, with infinity where JSON has none."""
    low, high = claim["true"]
    return -INFINITY if low is None else low, INFINITY if high is None else high


def count_verdicts(claims: Sequence[dict]) -> str:
    """The verdicts in words: 3 hold, 1 does not hold, 1 undecided."""
    singular = {name: name for name in VERDICTS}
    plural = {**singular, "holds": "hold", "does not hold": "do not hold"}
    parts = []
    for name in VERDICTS:
        count = sum(claim["verdict"] == name for claim in claims)
        if count:
            parts.append(f"{count} {(singular if count == 1 else plural)[name]}")
    return ", ".join(parts)


def where_true(claim: dict) -> str:
    """The region of a claim in words."""
    low, high = claim["true"]
    if low is None:
        return f"below {high:g}"
    return f"above {low:g}" if high is None else f"between {low:g} and {high:g}"


# --- Many claims, and claims that are left open ---


def false_discovery(claims: Sequence[dict]) -> dict[str, float]:
    """id -> adjusted p of each judged claim that holds or does not hold (Benjamini-Hochberg).

    The largest of them is the false-discovery rate at which all decided claims stand. A p-value is
    the two-sided normal one of the distance from the mean to the nearest border, in standard errors
    as the interval implies them. Undecided claims count among the tests; "no difference" does not,
    since it is told by another test.
    """
    tested = [claim for claim in claims if claim["ci95"] and claim["verdict"] != "no difference"]
    adjusted = benjamini_hochberg([_p_value(claim) for claim in tested])
    return {
        claim["id"]: p
        for claim, p in zip(tested, adjusted, strict=True)
        if claim["verdict"] != "undecided"
    }


def _p_value(claim: dict) -> float:
    mean, (low, high) = claim["mean"], claim["ci95"]
    distance = min((border - mean for border in _borders(claim)), key=abs)
    towards = high - mean if distance > 0 else mean - low
    if towards <= 0:
        return float(distance == 0)
    return 2 * NormalDist().cdf(-abs(distance) * Z95 / towards)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the lowest false-discovery rate at which each is still a discovery.

    Of m sorted p-values the k-th becomes min over j >= k of p_j m / j (Benjamini, Hochberg 1995).
    """
    order, count = np.argsort(p_values), len(p_values)
    scaled = np.asarray(p_values, dtype=float)[order] * count / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return adjusted.tolist()


def seeds_needed(claim: dict) -> int | None:
    """How many seeds would decide a judged claim that is undecided over its seeds (`by_seed`).

    If mean and spread stay what they are: the part of the interval that comes from seeds shrinks
    as 1/sqrt(seeds), the part from prompts stays. None: it alone leaves the claim open, so it takes
    more prompts; or the claim has been decided, or was measured with one seed.
    """
    means = claim.get("by_seed", [])
    if claim["verdict"] != "undecided" or not claim["ci95"] or len(means) < 2:
        return None
    mean, (low, high), between = claim["mean"], claim["ci95"], seed_half_width(means)
    below, above = (math.sqrt(max(0, end**2 - between**2)) for end in (mean - low, high - mean))
    spread, seeds, most = float(np.std(means, ddof=1)), len(means), 100_000
    while seeds < most:
        seeds += 1 + seeds // 100  # to one in a hundred
        half = student_t(seeds - 1) * spread / math.sqrt(seeds)
        ci95 = mean - math.hypot(half, below), mean + math.hypot(half, above)
        if verdict(ci95, _borders(claim), claim["smallest"]) != "undecided":
            return seeds
    return None


# --- The end of every script ---


def finish(
    args: argparse.Namespace,
    metrics: dict,
    draw: Callable,
    findings: Sequence[str],
    claims: Sequence[Claim] = (),
    checks: Sequence[Check] = (),
    settings: dict | None = None,
    device: str = "cpu",
    trained: Sequence[Path] = (),
    timings: dict | None = None,
) -> dict:
    """Judge the claims, draw the figure, write the JSON, and tell the reader; returns the metrics.

    `draw(metrics, default)` makes the drawing, which writes the figure and, with --panels, its
    panels; `default` are the metrics of the committed run, to stand in grey behind a run with other
    settings, or None. `settings` are what the script made of the flags (a default learning rate),
    `trained` the folders it wrote. Texts that were sampled, "answers" in the metrics, stand beside
    the numbers in the JSON. A check whose quantity a run does not measure is left out.
    """
    answers = metrics.pop("answers", None)
    settings = {**args.settings, **(settings or {})}
    committed = read_results(COMMITTED / f"{args.name}.json")
    figure, path = (args.figures_dir / f"{args.run_name}.{end}" for end in ("png", "json"))
    results = {
        "script": args.script,
        "settings": settings,
        "versions": versions(),
        "seed": args.seed,
        "device": device,
        "wall_seconds": {"total": round(time.time() - args.started, 1), **(timings or {})},
        "metrics": metrics,
        "claims": judge(claims, metrics),
        "checks": run_checks([check for check in checks if check.path in metrics], metrics),
        **({"answers": answers} if answers else {}),
    }
    write_json(path, results)  # before the figure: a PNG without its JSON would be a stranger's
    drawing = draw(metrics, committed["metrics"] if args.changed else None)
    drawing.save(figure, caption(settings))
    written = [*trained, figure, path]
    if args.panels:
        written.append(args.figures_dir / f"{args.run_name}-panels")
        drawing.save_panels(written[-1], caption(settings))
    print_findings(findings)
    print_verdicts(results, committed, args.claims)
    print(f"wrote {', '.join(map(str, written))}")
    if committed["metrics"]:
        print(f"compare with {COMMITTED / args.name}.png")
    return metrics


def caption(settings: dict) -> str:
    """The settings that a figure names, in one line."""
    named = ("model", "reward_backbone", "dataset", "pairs", "reward_pairs", "loss_type", "beta")
    named += ("epochs", "learning_rate", "epsilon", "n", "prompts", "smoke")
    given = {name: settings[name] for name in named if settings.get(name)}
    texts = [f"{name.replace('_', ' ')} {_plain(value)}".strip() for name, value in given.items()]
    seeds = settings.get("seeds", [settings["seed"]])
    mean = "mean of " if len(seeds) > 1 else ""
    return ", ".join([*texts, mean + name_seeds(seeds)])


def name_seeds(seeds: Sequence[int]) -> str:
    """The seeds of a run in words: seeds 0 to 7."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _plain(value) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " + ".join(map(_plain, value))
    return Path(value).name if isinstance(value, str | Path) else str(value)


def print_findings(findings: Sequence[str]) -> None:
    """The sentences of a run, wrapped for the terminal; one of several lines stands as it is."""
    print()
    for finding in findings:
        wrapped = textwrap.fill(finding, 100, subsequent_indent="  ")
        print(finding if "\n" in finding else wrapped)


def print_verdicts(results: dict, committed: dict, every_claim: bool) -> None:
    """How many claims hold, here and over the seeds of the committed run; or each of them."""
    claims, checks = results["claims"], results["checks"]
    over = {claim["id"]: claim for claim in committed["claims"]}
    if claims:
        print(f"claims   with this seed alone: {count_verdicts(claims)}")
    same = [over[claim["id"]] for claim in claims if claim["id"] in over]
    if same:
        seeds = name_seeds(committed["settings"].get("seeds", [0]))
        print(f"         over {seeds}, the committed run: {count_verdicts(same)}")
    if claims and not every_claim:
        print("         --claims lists them")
    for claim in claims if every_claim else ():
        print_claim(claim, over.get(claim["id"]))
    failed = [check["says"] for check in checks if not check["passes"]]
    if checks:
        fault = f"; FAILED: {'; '.join(failed)}" if failed else ""
        print(f"checks   {len(checks) - len(failed)} of {len(checks)} pass{fault}")


def print_claim(claim: dict, over: dict | None) -> None:
    """A claim, what was measured in words, and both verdicts."""
    print(f"\n  {claim['verdict'].upper()}: {claim['says']}")
    print(f"    {claim['measured']}: {interval(claim, 3)}; true {where_true(claim)}")
    if over:
        print(f"    over all seeds: {over['verdict']}, {interval(over, 3)}")


# --- Files ---


def read_results(path: Path) -> dict:
    """What `finish` wrote to a JSON file; empty results where there is no such file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return NOTHING
    complete = isinstance(results, dict) and NOTHING.keys() <= results.keys()
    return results if complete else NOTHING


def write_json(path: Path, content: dict) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_path_name)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _path_name(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON")


def versions() -> dict:
    """Of Python and of the libraries that are installed."""
    installed = {"python": platform.python_version()}
    for package in VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed
