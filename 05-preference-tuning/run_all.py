"""Run every lesson, or every study, side by side.

    python 05-preference-tuning/run_all.py                              # the nine lessons
    python 05-preference-tuning/run_all.py --studies                    # all studies, one seed
    python 05-preference-tuning/run_all.py --studies --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/run_all.py --scripts best_of_n frontier # only these

Each script is a process of one thread, as many at a time as there are cores, or --jobs. What it
prints goes to outputs/logs/. A study's seed that is done is not run again. With --figures-dir the
figures and results are copied there, with a table of all claims: `make figures` does that for the
committed run, lessons with seed 0 and studies with eight seeds, in about an hour and a half.
"""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import installed  # noqa: F401

from common import runs
from common.claims import write_claims_table
from common.saving import check_writable, read_json

HERE = Path(__file__).resolve().parent
# Of each lesson the name of its figure, in the order of the tutorial.
LESSONS = {
    "preference_data_explorer": "preference_data",
    "reward_model": "reward_model",
    "rlhf_objectives": "ppo_objectives",
    "dpo_trainer": "dpo_training",
    "online_rl": "online_rl",
    "dpo_variants": "dpo_variants",
    "best_of_n": "best_of_n",
    "reward_hacking": "reward_hacking",
    "frontier": "frontier",
}
STUDIES = sorted({path.stem for path in (HERE / "studies").glob("*.py")} - {"lessons"})
# Who waits for whom: scripts of a wave run side by side. What is not named is of wave 1.
WAVES = {"reward_model": 0, "dpo_trainer": 0, "what_dpo_does": 0, "what_a_reward_model_absorbs": 0}
WAVES |= {"remedies": 2, "rl_beside_dpo": 2, "best_of_n_and_the_limit": 3}  # use models of others
WAVES |= {"frontier": 4, "methods_at_the_limit": 4}  # read what others measured


def run_scripts(scripts: Sequence[Path], flags: Sequence, jobs: int, logs: Path) -> None:
    """The scripts, wave by wave."""
    for wave in range(1 + max(WAVES.values())):
        paths = [path for path in scripts if WAVES.get(path.stem, 1) == wave]
        runs.run_side_by_side({logs / f"{path.stem}.log": [path, *flags] for path in paths}, jobs)


def title_of(script: Path) -> str:
    """The first line of a script's docstring."""
    return script.read_text(encoding="utf-8").splitlines()[0].strip('"')


def build_parser() -> argparse.ArgumentParser:
    parser = runs.make_parser(__file__, __doc__)
    parser.add_argument("--studies", action="store_true", help="the studies, not the lessons")
    seeds = "of the studies; default: the one of --seed"
    parser.add_argument("--seeds", type=runs.whole_number(0), nargs="+", help=seeds)
    names = [*LESSONS, *STUDIES]
    parser.add_argument("--scripts", nargs="+", choices=names, metavar="NAME", help="only these")
    jobs = "processes side by side; default: as many as there are cores"
    parser.add_argument("--jobs", type=runs.whole_number(1), default=os.cpu_count(), help=jobs)
    figures = "copy figures, results and the table of claims there"
    parser.add_argument("--figures-dir", type=runs.folder, help=figures)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the lessons or the studies, and say how long each took."""
    args, started = build_parser().parse_args(argv), time.time()
    if args.smoke and args.figures_dir:
        raise runs.UserError("--figures-dir: figures of --smoke are not for keeping")
    check_writable(args.output_dir, *([args.figures_dir] if args.figures_dir else []))
    wanted = args.scripts or (STUDIES if args.studies else list(LESSONS))
    lessons = [HERE / f"{name}.py" for name in LESSONS if name in wanted]
    studies = [HERE / "studies" / f"{name}.py" for name in STUDIES if name in wanted]
    seeds, logs = args.seeds or [args.seed], args.output_dir / "logs"
    shared = ["--output-dir", args.output_dir, *(["--smoke"] if args.smoke else [])]
    run_scripts(lessons, [*shared, "--seed", args.seed], args.jobs, logs)
    several = len(seeds) > 1  # then a study runs its seeds side by side
    flags = [*shared, "--jobs", args.jobs, "--seeds", *seeds]
    run_scripts(studies, flags, 1 if several else args.jobs, logs)
    if args.figures_dir:
        (args.figures_dir / "studies").mkdir(parents=True, exist_ok=True)
        names = [LESSONS[path.stem] for path in lessons] + [f"studies/{p.stem}" for p in studies]
        for file in [f"{name}.{end}" for name in names for end in ("png", "json")]:
            shutil.copy(args.output_dir / file, args.figures_dir / file)
        found = args.figures_dir / "studies"
        results = {title_of(path): read_json(found / f"{path.stem}.json") for path in studies}
        if results:
            write_claims_table(args.figures_dir / "claims.md", results)
    print(f"{len(lessons) + len(studies)} scripts in {time.time() - started:.0f} s")
    print(f"figures and results are in {args.output_dir}, what the scripts said in {logs}")


if __name__ == "__main__":
    runs.run(main)
