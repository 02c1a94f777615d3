"""Run every script of the lab in order and sum up: what was measured, which claims of the tutorial hold, and how long.

    python 05-preference-tuning/run_all.py
    python 05-preference-tuning/run_all.py --seeds 0 1 2

With several seeds every script runs once per seed, the figures are those of the first, and the table shows the mean and
the range of the headline numbers. About three minutes per seed on 2 cores. Also writes run_all.json and, with the table
of claims that stands in the README, run_all.md.
"""

import argparse
import importlib
import json
import time
from pathlib import Path

import numpy as np

from common.cli import check_writable, make_parser, run, whole_number
from common.reporting import write_json

# Script, the file of its results, and its headline numbers: label and path in the metrics.
SCRIPTS = (
    (
        "preference_data_explorer",
        "preference_data",
        {"tau of pairs": "recovery.tau.pairwise.3.mean", "of rankings": "recovery.tau.listwise.3.mean"},
    ),
    (
        "reward_model",
        "reward_model",
        {"gold-order accuracy": "gold_order_accuracy.mean", "label accuracy": "label_accuracy.mean"},
    ),
    ("rlhf_objectives", "ppo_objectives", {"gold of PPO with KL": "end.KL.gold", "without": "end.no KL.gold"}),
    (
        "dpo_trainer",
        "dpo_training",
        {"good before": "reference.good.mean", "good after": "policy.good.mean", "win rate": "win_rate.mean"},
    ),
    (
        "best_of_n",
        "best_of_n",
        {
            "good best-of-n": "methods.best_of_n.good.mean",
            "good DPO + best-of-n": "methods.dpo_best_of_n.good.mean",
        },
    ),
)
VERDICTS = ("holds", "does not hold", "no difference")


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=whole_number(0), nargs="+", help="seeds to repeat over; default: --seed")
    return parser


def run_seed(args: argparse.Namespace, seed: int, first: bool) -> list[dict]:
    """Run all scripts with one seed; returns their results files. Later seeds write below outputs/seed-N."""
    outputs = args.output_dir if first else args.output_dir / f"seed-{seed}"
    figures = args.figures_dir if first else outputs / "figures"
    flags = ["--seed", str(seed), "--output-dir", str(outputs), "--figures-dir", str(figures)]
    results = []
    for script, name, _ in SCRIPTS:
        print(f"\n=== {script}.py, seed {seed}", flush=True)
        importlib.import_module(script).main(flags + ["--smoke"] * args.smoke)
        results.append(json.loads((figures / f"{name}.json").read_text(encoding="utf-8")))
    return results


def headline(results: dict, path: str) -> float:
    """The number at a dotted path of the metrics."""
    value = results["metrics"]
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return float(value)


def table_rows(by_seed: list[list[dict]]) -> list[tuple[str, ...]]:
    """One row per script: name, headline numbers (mean and range over seeds), counts of verdicts, seconds."""
    rows = []
    for k, (script, _, paths) in enumerate(SCRIPTS):
        runs = [results[k] for results in by_seed]
        numbers = []
        for label, path in paths.items():
            values = [headline(run, path) for run in runs]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            numbers.append(f"{label} {np.mean(values):.3f}{spread}")
        verdicts = [claim["verdict"] for run in runs for claim in run["claims"]]
        seconds = np.mean([run["wall_seconds"]["total"] for run in runs])
        rows.append((script, ", ".join(numbers), *(str(verdicts.count(v)) for v in VERDICTS), f"{seconds:.0f}"))
    return rows


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows under their headings, columns aligned."""
    table = [("script", "headline numbers", *VERDICTS, "seconds"), *rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def markdown(by_seed: list[list[dict]]) -> str:
    """The table of the README: the claims as the first seed measured them, and in how many seeds they held."""
    lines = ["| claim | measured | 95 % interval | verdict |", "|---|---|---|---|"]
    for k in range(len(SCRIPTS)):
        for claim in by_seed[0][k]["claims"]:
            verdicts = [c["verdict"] for results in by_seed for c in results[k]["claims"] if c["id"] == claim["id"]]
            same = verdicts.count(claim["verdict"])
            verdict = claim["verdict"] + (f" ({same} of {len(verdicts)} seeds)" if len(verdicts) > 1 else "")
            low, high = claim["ci95"]
            lines.append(f"| {claim['claim']} | {claim['measured']:.3g} | {low:.3g} ... {high:.3g} | {verdict} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> dict:
    """Run everything, print the table, write run_all.json; returns its content."""
    args = build_parser().parse_args(argv)
    started = time.time()
    check_writable(args.output_dir, args.figures_dir)
    seeds = args.seeds or [args.seed]
    by_seed = [run_seed(args, seed, first=k == 0) for k, seed in enumerate(seeds)]
    summary = {
        "seeds": seeds,
        "headlines": {
            script: {label: [headline(r[k], path) for r in by_seed] for label, path in paths.items()}
            for k, (script, _, paths) in enumerate(SCRIPTS)
        },
        "claims": {
            claim["id"]: {
                "claim": claim["claim"],
                "predicted": claim["predicted"],
                "runs": [
                    {key: c[key] for key in ("measured", "ci95", "verdict")}
                    for results in by_seed
                    for c in results[k]["claims"]
                    if c["id"] == claim["id"]
                ],
            }
            for k in range(len(SCRIPTS))
            for claim in by_seed[0][k]["claims"]
        },
        "wall_seconds": round(time.time() - started, 1),
    }
    path = Path(args.figures_dir) / "run_all.json"
    write_json(path, summary)
    path.with_suffix(".md").write_text(markdown(by_seed), encoding="utf-8")
    print()
    print_table(table_rows(by_seed))
    print(f"\n{len(seeds)} seed(s) in {summary['wall_seconds']:.0f} s; wrote {path}")
    return summary


if __name__ == "__main__":
    run(main)
