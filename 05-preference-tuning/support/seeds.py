"""The results of several seeds as one: metrics merged, claims judged anew, and the two tables."""

from collections.abc import Sequence

import numpy as np

from common.intervals import interval, over_seeds
from common.reporting import (
    at,
    count_verdicts,
    false_discovery,
    judge,
    run_checks,
    seeds_needed,
    where_true,
)

RATE = 0.05  # of false discoveries among the decided claims
MANY = 100  # seeds, beyond which the number says no more


def merge_runs(runs: list[dict], claims: Sequence, checks: Sequence) -> dict:
    """The results of several seeds as results of the same form, every claim judged anew.

    Sampled answers are those of the first seed.
    """
    first, seeds = runs[0], [run["seed"] for run in runs]
    metrics = over_seeds([run["metrics"] for run in runs])
    seconds = [run["wall_seconds"]["total"] for run in runs]
    known = {claim["id"] for claim in first["claims"]}  # some need larger settings
    judged = judge([claim for claim in claims if claim.id in known], metrics)
    for claim in judged:
        alone = [judge_alone(run, claim["id"]) for run in runs]
        claim["verdict_by_seed"] = alone
        claim["mean_by_seed"] = at(metrics, claim["path"])["by_seed"]
        claim["seeds_needed"] = seeds_needed(claim)
    return {
        **{key: first[key] for key in ("script", "versions", "device")},
        "settings": {**first["settings"], "seeds": seeds},
        "seed": seeds[0],
        "wall_seconds": {"total": round(float(np.mean(seconds)), 1)},
        "metrics": metrics,
        "claims": judged,
        "checks": run_checks(checks, metrics),
        **({"answers": first["answers"]} if "answers" in first else {}),
    }


def judge_alone(run: dict, claim_id: str) -> str:
    """The verdict of one seed."""
    return next(claim["verdict"] for claim in run["claims"] if claim["id"] == claim_id)


def adjust_claims(results: list[dict]) -> None:
    """Give every decided claim its p-value, adjusted for the number of claims that were tried."""
    claims = [claim for result in results for claim in result["claims"]]
    adjusted = false_discovery(claims)
    for claim in claims:
        claim["p_adjusted"] = adjusted.get(claim["id"])


def claims_table(sections: Sequence, results: list[dict]) -> str:
    """Markdown: every claim, what was measured over the seeds, and the verdict.

    Below it, at which false-discovery rate the decided claims stand (Benjamini & Hochberg 1995).
    """
    lines = [
        "| section | claim | measured | mean and 95 % interval | true | verdict | alike |",
        "|---|---|---|---|---|---|---|",
    ]
    for section, result in zip(sections, results, strict=True):
        lines += [claim_row(section.title, claim) for claim in result["claims"]]
    claims = [claim for result in results for claim in result["claims"]]
    adjusted = [claim["p_adjusted"] for claim in claims if claim["p_adjusted"] is not None]
    stand = sum(p <= RATE for p in adjusted)
    lines += ["", f"{len(claims)} claims: {count_verdicts(claims)}. Of the {len(adjusted)} that"]
    lines[-1] += f" are decided, {stand} stand at a false-discovery rate of {RATE:.0%}."
    return "\n".join(lines) + "\n"


def claim_row(title: str, claim: dict) -> str:
    """A row of the table of claims; `alike` counts the seeds that alone say the same."""
    by_seed, verdict = claim["verdict_by_seed"], claim["verdict"]
    alike = f"{by_seed.count(verdict)} of {len(by_seed)}"
    if verdict == "undecided":
        more = claim["seeds_needed"]
        seeds = f"{more} seeds" if more and more <= MANY else f"more than {MANY} seeds"
        verdict += f" ({seeds} would tell)" if more else " (more prompts needed)"
    cells = (title, claim["says"], claim["measured"], interval(claim), where_true(claim))
    return f"| {' | '.join((*cells, verdict, alike))} |"


def headlines_table(sections: Sequence, results: list[dict]) -> str:
    """Markdown: the headline numbers and the seconds of every script."""
    lines = ["| script | measured | mean and 95 % interval |", "|---|---|---|"]
    for section, result in zip(sections, results, strict=True):
        script = f"{section.script}.py"
        for label, path in section.headlines.items():
            lines.append(f"| {script} | {label} | {interval(at(result['metrics'], path))} |")
        lines.append(f"| {script} | seconds | {result['wall_seconds']['total']:.0f} |")
    return "\n".join(lines) + "\n"
