"""Run every script of the lab in order and sum up: what was measured, which claims of the tutorial hold, and how long.

    python 05-preference-tuning/run_all.py
    python 05-preference-tuning/run_all.py --seeds 0 1 2

With several seeds every script runs once per seed, and the figures are those of the first. About six minutes per seed
on 2 cores. Writes run_all.json; with several seeds also claims.json, every claim with its verdict over the seeds, and
the tables that the README shows: claims.md and headlines.md.
"""

import argparse
import importlib
import json
import time

import numpy as np

from common.cli import check_writable, make_parser, process_count, run, whole_number
from common.reporting import replacing, seed_ci, verdict, write_json

# Script, section of the tutorial, the file of its results, and its headline numbers: label and path in the metrics.
SCRIPTS = (
    (
        "preference_data_explorer",
        "Preference data formats",
        "preference_data",
        {
            "order recovered (Kendall's tau) from pairs, 96 responses read": "recovery.tau.pairwise.3.mean",
            "the same from rankings": "recovery.tau.listwise.3.mean",
        },
    ),
    (
        "reward_model",
        "Reward models",
        "reward_model",
        {
            "accuracy on gold order": "gold_order_accuracy.mean",
            "the same, facts that no preference data ask about": "gold_order_unseen_facts.mean",
            "accuracy on noisy labels": "label_accuracy.mean",
            "its ceiling": "bayes_ceiling.accuracy",
        },
    ),
    (
        "rlhf_objectives",
        "PPO-based RLHF",
        "ppo_objectives",
        {"gold after PPO with the KL term": "end.KL.gold", "gold without it": "end.no KL.gold"},
    ),
    (
        "dpo_trainer",
        "DPO",
        "dpo_training",
        {
            "good answers of the SFT checkpoint": "reference.good.mean",
            "good answers after DPO": "policy.good.mean",
            "win rate of DPO over SFT, ties half": "win_rate.mean",
            "KL from the SFT checkpoint, nats": "policy.kl.mean",
        },
    ),
    (
        "dpo_variants",
        "DPO variants",
        "dpo_variants",
        {
            "good answers on half the budget: DPO": "arms.sigmoid, clean.good.mean",
            "IPO": "arms.ipo, clean.good.mean",
            "KTO": "arms.kto, noise 0@0.good.mean",
            "DPO on AI labels": "arms.AI labels.good.mean",
            "DPO on on-policy pairs": "arms.on-policy.good.mean",
        },
    ),
    (
        "best_of_n",
        "Best-of-N",
        "best_of_n",
        {
            "good answers, best of 16": "methods.best_of_n.good.mean",
            "good answers, DPO and best of 16": "methods.dpo_best_of_n.good.mean",
            "share of DPO's gain that best-of-16 reaches": "share_of_dpo_gain.mean",
        },
    ),
    (
        "reward_hacking",
        "Reward hacking",
        "reward_hacking",
        {
            "gold utility gained by DPO: unbiased labels": "dpo.length.control_gold_gain.mean",
            "length-biased labels": "dpo.length.gold_gain.mean",
            "style-biased labels": "dpo.style.gold_gain.mean",
            "agreement-biased labels": "dpo.agreement.gold_gain.mean",
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
    for script, _, name, _ in SCRIPTS:
        print(f"\n=== {script}.py, seed {seed}", flush=True)
        importlib.import_module(script).main(flags + ["--smoke"] * args.smoke)
        wait_for_files()
        results.append(json.loads((figures / f"{name}.json").read_text(encoding="utf-8")))
    return results


def wait_for_files() -> None:
    """Of several processes the first one writes; the others read only then."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def headline(results: dict, path: str) -> float:
    """The number at a dotted path of the metrics (@ stands for a dot inside a name)."""
    value = results["metrics"]
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key.replace("@", ".")]
    return float(value)


def sum_up_claims(by_seed: list[list[dict]]) -> list[dict]:
    """Every claim with its section, measured over the seeds, and each seed's own measurement under `runs`.

    `measured` is the mean over seeds, `ci95` the wider, at each end, of two intervals: that of one run (over prompts,
    pairs or chunks; its ends averaged over runs) and the t interval over seeds. One verdict comes from that.
    """
    found = []
    for k, (script, section, _, _) in enumerate(SCRIPTS):
        for place, claim in enumerate(by_seed[0][k]["claims"]):
            runs = [results[k]["claims"][place] for results in by_seed]
            values, intervals = [run["measured"] for run in runs], [run["ci95"] for run in runs]
            low, high = np.mean(intervals, axis=0)
            if len(runs) > 1:
                low, high = min(low, seed_ci(values)[0]), max(high, seed_ci(values)[1])
            borders = claim["holds_between"]
            found.append(
                {
                    **{key: claim[key] for key in ("id", "claim", "predicted", "holds_between")},
                    "section": section,
                    "script": f"{script}.py",
                    "measured": round(float(np.mean(values)), 6),
                    "ci95": [round(float(low), 6), round(float(high), 6)],
                    "verdict": verdict((low, high), borders),
                    "runs": [{key: run[key] for key in ("measured", "ci95", "verdict")} for run in runs],
                }
            )
    return found


def table_rows(by_seed: list[list[dict]]) -> list[tuple[str, ...]]:
    """A row per headline number; the first one of a script begins with its counts of verdicts and its seconds."""
    rows = []
    for k, (script, _, _, paths) in enumerate(SCRIPTS):
        runs = [results[k] for results in by_seed]
        verdicts = [claim["verdict"] for run in runs for claim in run["claims"]]
        seconds = np.mean([run["wall_seconds"]["total"] for run in runs])
        first = (script, *(str(verdicts.count(v)) for v in VERDICTS), f"{seconds:.0f}")
        for place, (label, path) in enumerate(paths.items()):
            values = [headline(run, path) for run in runs]
            spread = f" ({min(values):.3f} ... {max(values):.3f})" if len(values) > 1 else ""
            number = f"{np.mean(values):.3f}{spread}"
            rows.append((*(first if place == 0 else ("",) * len(first)), label, number))
    return rows


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows under their headings, columns aligned."""
    table = [("script", *VERDICTS, "seconds", "headline numbers", ""), *rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def claims_table(claims: list[dict]) -> str:
    """Markdown: every claim, what was measured over the seeds, the verdict, and how many seeds alone say the same."""
    lines = ["| section | claim | measured | 95 % interval | verdict | seeds |", "|---|---|---|---|---|---|"]
    for c in claims:
        same = sum(run["verdict"] == c["verdict"] for run in c["runs"])
        numbers = f"{c['measured']:.3g} | {c['ci95'][0]:.3g} ... {c['ci95'][1]:.3g}"
        lines.append(f"| {c['section']} | {c['claim']} | {numbers} | {c['verdict']} | {same} of {len(c['runs'])} |")
    return "\n".join(lines) + "\n"


def headlines_table(by_seed: list[list[dict]]) -> str:
    """Markdown: the headline numbers and the seconds of every script, mean and range over the seeds."""
    lines = ["| script | measured | mean | range over seeds |", "|---|---|---|---|"]
    for k, (script, _, _, paths) in enumerate(SCRIPTS):
        runs = [results[k] for results in by_seed]
        for label, path in paths.items():
            values = [headline(run, path) for run in runs]
            lines.append(f"| {script}.py | {label} | {np.mean(values):.3f} | {min(values):.3f} ... {max(values):.3f} |")
        seconds = [run["wall_seconds"]["total"] for run in runs]
        lines.append(f"| {script}.py | seconds | {np.mean(seconds):.0f} | {min(seconds):.0f} ... {max(seconds):.0f} |")
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
            for k, (script, _, _, paths) in enumerate(SCRIPTS)
        },
        "wall_seconds": round(time.time() - started, 1),
    }
    claims, written = sum_up_claims(by_seed), [args.figures_dir / "run_all.json"]
    write_json(written[0], summary)
    if len(seeds) > 1:
        written += [args.figures_dir / name for name in ("claims.json", "claims.md", "headlines.md")]
        write_json(written[1], {"seeds": seeds, "claims": claims})
        for path, table in zip(written[2:], (claims_table(claims), headlines_table(by_seed)), strict=True):
            with replacing(path) as temporary:
                temporary.write_text(table, encoding="utf-8")
    print()
    print_table(table_rows(by_seed))
    counts = ", ".join(f"{sum(claim['verdict'] == v for claim in claims)} {v}" for v in VERDICTS)
    print(f"\n{len(claims)} claims: {counts}")
    print(f"{len(seeds)} seed(s) in {summary['wall_seconds']:.0f} s; wrote {', '.join(map(str, written))}")
    return summary


if __name__ == "__main__":
    run(main)
