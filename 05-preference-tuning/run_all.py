"""Run every script of the lab and sum up: what was measured, which claims hold, how long it took.

    python 05-preference-tuning/run_all.py                       # one seed
    python 05-preference-tuning/run_all.py --seeds 0 1 2         # the same over three seeds
    python 05-preference-tuning/run_all.py --scripts best_of_n   # again; keeps the others' results

Scripts and seeds run side by side, as processes of one thread each: as many as there are cores, or
--jobs. What a script prints goes to outputs/logs/. A run that was killed goes on where it stopped.
About eight minutes a seed on 2 cores. With several seeds it also writes every figure and JSON over
the seeds, claims.md and headlines.md, to --figures-dir (default: outputs/all-seeds). `make figures`
does that for the committed run in figures/. With --panels it also writes slides, as slides.py does.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from support.drawing.best_of_n import draw_best_of_n
from support.drawing.dpo_training import draw_dpo
from support.drawing.dpo_variants import draw_variants
from support.drawing.frontier import draw_frontier
from support.drawing.online_rl import draw_online_rl
from support.drawing.ppo_objectives import draw_objectives
from support.drawing.preference_data import draw_preference_data
from support.drawing.reward_hacking import draw_hacking
from support.drawing.reward_model import draw_reward_model
from support.jobs import Job, run_jobs
from support.seeds import adjust_claims, claims_table, headlines_table, merge_runs
from support.slides import write_slides

import best_of_n
import dpo_trainer
import dpo_variants
import frontier
import online_rl
import preference_data_explorer
import reward_hacking
import reward_model
import rlhf_objectives

from common import cli
from common.files import replacing, sweep
from common.intervals import interval
from common.reporting import at, caption, count_verdicts, read_results, write_json


class Section(NamedTuple):
    """A section of the tutorial: its script, the figure's name and function, and its numbers."""

    title: str
    script: str
    name: str
    draw: Callable
    claims: tuple
    checks: tuple
    headlines: dict[str, str]  # label: path of a quantity in the metrics
    needs: tuple[str, ...] = ()  # scripts that have to be done before, with the same seed


SECTIONS = (
    Section(
        "Preference data formats",
        "preference_data_explorer",
        "preference_data",
        draw_preference_data,
        preference_data_explorer.CLAIMS,
        (),
        {
            "Kendall's tau of pairs, 96 responses read": "tau.pairwise.3",
            "Kendall's tau of scores, the same reading": "tau.new_rater_each_time.3",
            "Kendall's tau of rankings of 4, the same reading": "tau.listwise.3",
            "noise of scores from which pairs win, times": "break_even.at_equal_cost",
        },
    ),
    Section(
        "Reward models",
        "reward_model",
        "reward_model",
        draw_reward_model,
        reward_model.CLAIMS,
        reward_model.CHECKS,
        {
            "pairs in the gold order": "gold_order.all",
            "pairs in the gold order, facts that no pair asked about": "gold_order_unseen_facts",
            "noisy labels predicted": "label_accuracy",
            "reward of a word of filler, people's labels": "contrasts.people.filler.reward",
            "reward of a word of filler, length-lovers' labels": "contrasts.length.filler.reward",
        },
    ),
    Section(
        "PPO-based RLHF",
        "rlhf_objectives",
        "ppo_objectives",
        draw_objectives,
        rlhf_objectives.CLAIMS,
        rlhf_objectives.CHECKS,
        {
            "gold utility after PPO with the KL term": "end.with_kl.gold",
            "gold utility after PPO without it": "end.without_kl.gold",
        },
    ),
    Section(
        "DPO",
        "dpo_trainer",
        "dpo_training",
        draw_dpo,
        dpo_trainer.CLAIMS,
        dpo_trainer.CHECKS,
        {
            "good answers of the SFT checkpoint": "reference.good",
            "good answers after DPO": "policy.good",
            "KL of DPO, nats": "policy.kl",
            "gold utility lost by five passes": "unbiased_lost",
            "gold utility lost by five passes, length-biased labels": "biased_lost",
        },
    ),
    Section(
        "DPO variants",
        "dpo_variants",
        "dpo_variants",
        draw_variants,
        dpo_variants.CLAIMS,
        dpo_variants.CHECKS,
        {
            "gold utility after eight passes: DPO": "arms.dpo.utility",
            "gold utility after eight passes: IPO": "arms.ipo.utility",
            "gold utility after eight passes: KTO": "arms.kto.utility",
            "gold utility after one pass: DPO": "arms.flipped_0.utility",
            "gold utility after one pass: DPO on AI labels": "arms.ai_labels.utility",
        },
    ),
    Section(
        "Online RL",
        "online_rl",
        "online_rl",
        draw_online_rl,
        online_rl.CLAIMS,
        online_rl.CHECKS,
        {
            "good answers after online RL": "policy.good",
            "KL of online RL, nats": "policy.kl",
            "gold utility, online RL minus DPO": "rl_minus_dpo",
            "gold utility saved by the KL term, length-biased reward": "held_by_kl",
        },
        needs=("reward_model", "dpo_trainer"),
    ),
    Section(
        "Best-of-N",
        "best_of_n",
        "best_of_n",
        draw_best_of_n,
        best_of_n.CLAIMS,
        best_of_n.CHECKS,
        {
            "share of DPO's gain, best of 16, as many pairs": "share_of_dpo_gain.as_many_pairs",
            "share of DPO's gain, best of 16, 6,400 pairs": "share_of_dpo_gain.best_of_n",
            "good answers, DPO and best of 16": "methods.dpo_best_of_n.good",
        },
        needs=("reward_model", "dpo_trainer"),
    ),
    Section(
        "Reward hacking",
        "reward_hacking",
        "reward_hacking",
        draw_hacking,
        reward_hacking.CLAIMS,
        reward_hacking.CHECKS,
        {
            "gold utility of SFT": "sft.utility",
            "gold utility of DPO, unbiased labels": "dpo.human.utility",
            "gold utility of DPO, length-biased labels": "dpo.length.utility",
            "gold utility of DPO, style-biased labels": "dpo.style.utility",
            "gold utility of DPO, agreement-biased labels": "dpo.agreement.utility",
        },
    ),
    Section(
        "What to notice",
        "frontier",
        "frontier",
        draw_frontier,
        frontier.CLAIMS,
        frontier.CHECKS,
        {
            "gain of best-of-16 over that of the best tuned policy": "best_of_n_share",
        },
        needs=("dpo_trainer", "dpo_variants", "online_rl", "best_of_n"),
    ),
)

# --- Results ---


def read_run(section: Section, seed: int, output_dir: Path, smoke: bool) -> dict:
    """The results of a script with a seed. Raises UserError where they are missing, or older."""
    changed = {"seed": seed} if seed else {}
    changed |= {"smoke": True} if smoke else {}
    path = output_dir / f"{cli.name_run(section.name, changed)}.json"
    results = read_results(path)
    if results["metrics"] is None:
        raise cli.UserError(f"{path} is missing: run {section.script}.py first")
    tried = [claim["id"] for claim in results["claims"]]
    if not smoke and tried != [claim.id for claim in section.claims]:
        raise cli.UserError(
            f"{path} is of another version of the lab: run {section.script}.py again"
        )
    return results


def write_over_seeds(results: list[dict], folder: Path) -> None:
    """Every section's JSON and figure over the seeds, and the two tables."""
    for section, result in zip(SECTIONS, results, strict=True):
        write_json(folder / f"{section.name}.json", result)
        drawing = section.draw(result["metrics"])
        drawing.save(folder / f"{section.name}.png", caption(result["settings"]))
    tables = {"claims.md": claims_table, "headlines.md": headlines_table}
    for name, make_table in tables.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(make_table(SECTIONS, results), encoding="utf-8")


def print_overview(results: list[dict]) -> None:
    """Every headline number, of one seed or of several."""
    for section, result in zip(SECTIONS, results, strict=True):
        print(f"\n{section.title} ({section.script}.py, {result['wall_seconds']['total']:.0f} s)")
        for label, path in section.headlines.items():
            print(f"  {label}: {interval(at(result['metrics'], path))}")


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    seed = cli.whole_number(0)
    parser.add_argument("--seeds", type=seed, nargs="+", help="default: the one of --seed")
    names = [section.script for section in SECTIONS]
    parser.add_argument("--scripts", nargs="+", choices=names, metavar="NAME", help="only these")
    jobs = "processes side by side, of one thread each; default: as many as there are cores"
    parser.add_argument("--jobs", type=cli.whole_number(1), default=os.cpu_count(), help=jobs)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Run, sum up, and write run_all.json; returns its content."""
    parser = build_parser()
    args = parser.parse_args(argv)
    started, seeds = time.time(), args.seeds or [args.seed]
    if len(set(seeds)) < len(seeds):
        raise cli.UserError("--seeds: the same seed twice would count one run as two")
    folder = args.figures_dir or args.output_dir / "all-seeds"
    several = len(seeds) > 1
    cli.check_writable(args.output_dir, *([folder] if several or args.figures_dir else []))
    sweep(args.output_dir, folder)
    for section in SECTIONS if several else ():
        cli.check_replaceable(folder, section.name)
    scripts = args.scripts or [section.script for section in SECTIONS]
    # What waits for others comes last, so that the cores are busy to the end.
    in_order = sorted(SECTIONS, key=lambda section: bool(section.needs))
    jobs = [Job(section.script, seed) for seed in seeds for section in in_order]
    jobs = [job for job in jobs if job.script in scripts]
    needs = {section.script: section.needs for section in SECTIONS}
    run_jobs(jobs, needs, args.jobs, args.output_dir, args.smoke)
    results = []
    for section in SECTIONS:
        runs = [read_run(section, seed, args.output_dir, args.smoke) for seed in seeds]
        results.append(merge_runs(runs, section.claims, section.checks) if several else runs[0])
    if several:
        adjust_claims(results)
        write_over_seeds(results, folder)
    summary = {
        "seeds": seeds,
        "jobs": args.jobs,
        "wall_seconds": round(time.time() - started, 1),
        "seconds": {result["script"]: result["wall_seconds"]["total"] for result in results},
    }
    path = (folder if several else args.output_dir) / "run_all.json"
    write_json(path, summary)
    if args.panels:
        write_slides(SECTIONS, results, path.parent / "run_all-panels")
    print_overview(results)
    claims = [claim for result in results for claim in result["claims"]]
    checks = [check for result in results for check in result["checks"]]
    passed = sum(check["passes"] for check in checks)
    seconds = summary["wall_seconds"]
    print(
        f"\n{len(claims)} claims: {count_verdicts(claims)}; {passed} of {len(checks)} checks pass"
    )
    print(f"{len(seeds)} seed(s) in {seconds:.0f} s; results in {path.parent}")
    return summary


if __name__ == "__main__":
    cli.run(main)
