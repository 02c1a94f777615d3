"""Killed trainings: checkpoints on the way, and a later run that goes on from them.

Each run has a folder of its own, parent/run-ID/checkpoint-STEP, which is locked while it lives.
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.artifacts import SETTINGS, files_below, stored_settings, trained_settings
from support.divergence import Diverged

from common.cli import UserError, is_main_process
from common.files import lock_left_folder, lock_new_folder
from common.reporting import write_json

SIZES = "lab_sizes.json"  # of all files of a checkpoint, written last
CURVE = "curve.json"  # what a run has seen on the way


class Checkpoints(NamedTuple):
    """Where a run leaves checkpoints, and the one that it goes on from, if any."""

    folder: Path
    last: Path | None


# --- One run ---


@contextlib.contextmanager
def keep_checkpoints(parent: Path, settings: dict, resume: bool) -> Iterator[Checkpoints]:
    """A folder for the checkpoints of one run, which goes when the run ends well.

    With `resume` the furthest whole checkpoint of a dead run with these settings is handed out;
    raises UserError where there is none. When the run ends well, those of such runs go, too; other
    settings may still be gone on with. What diverged would diverge again, and goes as well.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    settings = stored_settings(settings)
    with contextlib.ExitStack() as locks:
        found = [None, None]
        if is_main_process():  # the others would find its locks
            found = _begin(parent, settings, resume, locks)
        own, last = broadcast_object_list(found)
        if resume and not last:
            reason = f"{parent} holds no whole checkpoint of an ended run with these settings"
            raise UserError(f"--resume: {reason}; leave --resume out")
        try:
            yield Checkpoints(own, last if resume else None)
        except Diverged:
            _remove(parent, own)
            raise
        PartialState().wait_for_everyone()
        locks.close()
        _remove(parent, own, *left_runs(parent, settings))


def _begin(parent: Path, settings: dict, resume: bool, locks: contextlib.ExitStack) -> list:
    """[folder of a new run, the checkpoint that is left], and what there is to say about that."""
    _remove(parent, *(run for run in left_runs(parent) if not whole_checkpoints(run)))
    last = find_checkpoint(parent, settings)
    if resume and not (last and _hold(lock_left_folder(last.parent), locks)):
        return [None, None]
    others = set(left_runs(parent)) - set(left_runs(parent, settings))
    if last:
        hint = f"{last} is left over; --resume would go on there"
        print(f"going on from {last}" if resume else hint)
    if others:
        count = f"{parent} holds checkpoints of {len(others)} killed run(s) with other settings"
        print(f"{count}; delete those that you do not want to go on with")
    own = parent / f"run-{uuid.uuid4().hex[:8]}"
    own.mkdir(parents=True)
    _hold(lock_new_folder(own), locks)
    write_json(own / SETTINGS, {"settings": settings})
    if resume:
        shutil.copy(last.parent / CURVE, own)
    return [own, last]


def _hold(lock, locks: contextlib.ExitStack) -> bool:
    """Keep a lock until the stack is closed; whether there is one."""
    if lock:
        locks.enter_context(lock)
    return lock is not None


def _remove(parent: Path, *runs: Path) -> None:
    """Remove folders of runs, and their parent when nothing else is in it."""
    if is_main_process():
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)
        with contextlib.suppress(OSError):
            parent.rmdir()


# --- What dead runs left ---


def left_runs(parent: Path, settings: dict | None = None) -> list[Path]:
    """The folders of runs that have died: all of them, or those with these settings."""
    left = []
    for run in sorted(parent.glob("run-*")):
        if settings in (None, trained_settings(run)):
            with lock_left_folder(run) or contextlib.nullcontext() as lock:
                left += [run] if lock else []
    return left


def find_checkpoint(parent: Path, settings: dict) -> Path | None:
    """The furthest whole checkpoint of a dead run with these settings. None: there is none."""
    whole = []
    for run in left_runs(parent, settings):
        whole += whole_checkpoints(run)
    return max(whole, key=step_of, default=None)


def whole_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run whose files are all there, none of them cut short."""
    return [path for path in run.glob("checkpoint-*") if _sizes(path) == _noted_sizes(path)]


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.split("-")[1])


def note_sizes(checkpoint: Path) -> None:
    """Write down the sizes of a checkpoint's files, now that they are all written."""
    write_json(checkpoint / SIZES, _sizes(checkpoint))


def _noted_sizes(checkpoint: Path) -> dict | None:
    try:
        return json.loads((checkpoint / SIZES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _sizes(checkpoint: Path) -> dict[str, int]:
    names = set(files_below(checkpoint)) - {SIZES}
    return {name: (checkpoint / name).stat().st_size for name in sorted(names)}


def looks_before(checkpoint: Path) -> list[dict]:
    """What a killed run had seen until its checkpoint."""
    curve = json.loads((checkpoint.parent / CURVE).read_text(encoding="utf-8"))
    return [seen for seen in curve if seen["step"] <= step_of(checkpoint)]
