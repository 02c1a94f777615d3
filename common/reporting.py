"""Intervals, claims and JSON files: how every script reports what it measured."""

import contextlib
import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from common.cli import is_main_process

# --- Intervals and claims ---


def bootstrap_ci(
    values: Sequence, statistic: Callable[..., np.ndarray] = np.mean, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of statistic(values, axis=0), resampling the first axis (prompts, or seeds).

    `values` has shape (N,) or (N, K); with K columns the statistic must return one number per resample of rows.
    """
    values, rng, draws = np.asarray(values, dtype=float), np.random.default_rng(seed), []
    at_once = max(1, 1_000_000 // len(values))  # resamples whose rows fit in memory together
    for done in range(0, resamples, at_once):
        picks = rng.integers(len(values), size=(min(at_once, resamples - done), len(values)))
        if statistic is np.mean and values.ndim == 1:  # by far the most frequent case, ten times as fast
            draws.extend(values[picks].mean(axis=1))
        else:
            draws.extend(statistic(values[rows], axis=0) for rows in picks)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def seed_ci(values: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of the mean over two seeds or more: too few for a bootstrap."""
    t = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}.get(len(values) - 1, 2.2)
    half = t * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def make_claim(
    id: str, claim: str, predicted: str, measured: float, ci95: Sequence[float], holds_between=(0.0, float("inf"))
) -> dict:
    """A claim of the tutorial with its verdict, computed from where the interval lies; JSON has null for infinity."""
    borders = [None if abs(x) == float("inf") else float(x) for x in holds_between]
    numbers = {"measured": round(float(measured), 6), "ci95": [round(float(x), 6) for x in ci95]}
    told = {"id": id, "claim": claim, "predicted": predicted}
    return {**told, "holds_between": borders, **numbers, "verdict": verdict(ci95, holds_between)}


def verdict(ci95: Sequence[float], holds_between: Sequence[float | None]) -> str:
    """The verdict "holds" when all of the interval lies within `holds_between` (None: no border), "does not hold" when
    all of it lies outside, and "no difference" when it straddles a border, so that the data do not decide."""
    (low, high), (lowest, highest) = ci95, holds_between
    lowest, highest = -np.inf if lowest is None else lowest, np.inf if highest is None else highest
    if lowest < low and high < highest:
        return "holds"
    return "does not hold" if high <= lowest or low >= highest else "no difference"


# --- Results ---


def write_results(
    path: Path, script: str, settings: dict, started: float, metrics: dict, claims=(), device: str = "cpu", **timings
) -> dict:
    """Write figures/NAME.json and return its content.

    `settings` are the command line's values, `started` is time.time() at the start, `timings` are measured seconds to
    keep beside the total: all that differs between two runs of one seed on one machine is in `wall_seconds`.
    """
    results = {
        "script": script,
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
        "versions": _versions(),
        "seed": settings["seed"],
        "device": device,
        "wall_seconds": {"total": round(time.time() - started, 1), **timings},
        "metrics": metrics,
        "claims": list(claims),
    }
    write_json(path, results)
    return results


def write_json(path: Path, content: dict) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` in one step, or is gone when writing fails.

    Of several processes only the first one writes.
    """
    if not is_main_process():
        yield Path(os.devnull)
        return
    path = path.resolve()  # what a symbolic link points to is replaced, not the link
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def print_summary(lines: Sequence[str], paths: Sequence[Path]) -> None:
    """The last words of a script: the numbers that matter, and the files written."""
    print("", *lines, "wrote " + ", ".join(map(str, paths)), sep="\n")


def print_claims(claims: Sequence[dict]) -> None:
    """One line per claim: verdict, claim, measured value with its interval."""
    for c in claims:
        print(f"  {c['verdict']:<13}  {c['claim']}: {c['measured']:.3g} [{c['ci95'][0]:.3g}, {c['ci95'][1]:.3g}]")


def _versions() -> dict:
    found = {"python": platform.python_version()}
    for package in ("numpy", "matplotlib", "torch", "transformers", "datasets", "trl", "peft", "accelerate"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
