"""What exercises/check.py does: a reader's answers against the scripts' own functions.

An answer that differs is compared with named mistakes, each a small function of the right one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from common.cli import UserError


def graders() -> dict[str, Callable[[Path], object]]:
    """By the name of an exercise's file, what gives the verdict on it in a folder; in order."""
    from support.grading import losses, objectives, samples
    from support.grading.grade import grade
    from support.grading.loop import FILE, grade_loop

    formulas = (
        samples.PLACKETT_LUCE,
        losses.BRADLEY_TERRY,
        objectives.OPTIMUM,
        objectives.CLIP,
        objectives.GAE,
        objectives.KL,
        samples.LEAVE_ONE_OUT,
        losses.DPO,
        losses.IPO,
        losses.KTO,
        samples.EXPECTED,
        samples.POLICY,
        samples.BOUND,
    )
    by_file = {exercise.file: partial(grade, exercise) for exercise in formulas}
    return {**by_file, FILE: grade_loop}


def grade_all(folder: Path, names: Sequence[str] = ()) -> list[str]:
    """Print the verdict on the exercises of these names, or on all; returns their states.

    A name is that of the file, with or without its folder and number. Raises UserError for others.
    """
    known = graders()
    files = [find_exercise(name, known) for name in names] or list(known)
    states = []
    for file in files:
        verdict = known[file](folder)
        states.append(verdict.state)
        print(f"{file:<36}{': '.join(filter(None, verdict))}", flush=True)
    if len(states) > 1:
        counts = [f"{states.count(state)} {state}" for state in ("right", "wrong", "not begun")]
        print(f"\n{', '.join(counts)}")
    return states


def find_exercise(name: str, known: Sequence[str]) -> str:
    """The exercise that is meant by e08_dpo_loss, dpo_loss, e08, or the path of its file."""
    for file in known:
        if Path(name).stem in (file, *file.split("_", 1)):
            return file
    raise UserError(f"no exercise {name}; there are {', '.join(known)}")
