"""Scripts and seeds side by side, as processes; a run that was killed goes on where it stopped."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError
from common.reporting import write_json

SCRIPTS = Path(__file__).resolve().parents[1]


class Job(NamedTuple):
    """One script with one seed."""

    script: str
    seed: int


def run_jobs(
    jobs: list[Job], needs: dict[str, tuple[str, ...]], at_once: int, output_dir: Path, smoke: bool
) -> None:
    """Run the jobs in order, `at_once` of them side by side.

    `needs` are the scripts that must be done before a script, with the same seed.

    A job that is done is noted in a progress file, so that a killed run goes on where it stopped.
    Raises UserError where a script fails.
    """
    progress = output_dir / "run_all-progress.json"
    done = jobs_done(progress)
    if done:
        print(f"going on with a run that stopped: {len(done)} of {len(jobs)} are done")
    waiting, running = [job for job in jobs if job not in done], {}
    try:
        while waiting or running:
            ready = [job for job in waiting if not is_blocked(job, needs, {*waiting, *running})]
            for job in ready[: at_once - len(running)]:
                waiting.remove(job)
                running[job] = start_job(job, output_dir, smoke, threads=1 if at_once > 1 else None)
            ended = [job for job, (process, _) in running.items() if process.poll() is not None]
            for job in ended:
                check_job(job, *running.pop(job), output_dir)
                done.append(job)
                write_json(progress, {"code": code_hash(), "done": done})
            time.sleep(0.1)
    finally:
        stop_all(running)
    progress.unlink(missing_ok=True)


def is_blocked(job: Job, needs: dict[str, tuple[str, ...]], unfinished: set[Job]) -> bool:
    """Whether something that the job needs is still to come."""
    return any(Job(script, job.seed) in unfinished for script in needs.get(job.script, ()))


def start_job(job: Job, output_dir: Path, smoke: bool, threads: int | None) -> tuple:
    """(process, time of its start); what it prints goes to its log."""
    flags = ["--seed", str(job.seed), "--output-dir", str(output_dir)]
    flags += ["--smoke"] if smoke else []
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    log = log_of(job, output_dir)
    log.parent.mkdir(exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, str(SCRIPTS / f"{job.script}.py"), *flags]
        streams = {"stdout": output, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(command, env=environment, **streams), time.time()


def check_job(job: Job, process: subprocess.Popen, started: float, output_dir: Path) -> None:
    """Say how long a job took. Raises UserError where it failed."""
    if process.returncode:
        log = log_of(job, output_dir)
        raise UserError(f"{job.script}.py failed with seed {job.seed}: see {log}")
    print(f"{job.script:<25} seed {job.seed}  {time.time() - started:4.0f} s", flush=True)


def log_of(job: Job, output_dir: Path) -> Path:
    """Where the output of a job goes."""
    return output_dir / "logs" / f"{job.script}-seed-{job.seed}.txt"


def stop_all(running: dict) -> None:
    """End the processes that still run; they clean up."""
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        process.wait()


def jobs_done(progress: Path) -> list[Job]:
    """What a killed run of today's code had done."""
    try:
        stored = json.loads(progress.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [Job(*job) for job in stored["done"]] if stored["code"] == code_hash() else []


def code_hash() -> str:
    """SHA-256 of all code of the lab."""
    files = sorted([*SCRIPTS.rglob("*.py"), *(SCRIPTS.parent / "common").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
