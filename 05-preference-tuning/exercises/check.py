"""Are the exercises right, and where one is wrong, which mistake is it?

    python 05-preference-tuning/exercises/check.py                 # all of them; or: make exercises
    python 05-preference-tuning/exercises/check.py e08_dpo_loss    # one

An exercise is a file in this folder with a gap, `raise NotImplementedError` or an empty answer. A
gap is no error: the exit status is 1 only where an answer is wrong.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lessons have the right answers

import installed  # noqa: F401

from common import runs


def grade_all(folder: Path, names: Sequence[str] = ()) -> list[str]:
    """Print what is said of the exercises of these names, or of all; returns their states."""
    from grade import grade
    from mistakes_of_formulas import FORMULAS
    from mistakes_of_training import DEBUGS, FILE, STUDY, grade_debug, grade_study, grade_training

    graders = {item.file: partial(grade, item) for item in FORMULAS}
    graders = dict(sorted([*graders.items(), (FILE, grade_training)]))
    graders |= {name: partial(grade_debug, name) for name in DEBUGS} | {STUDY: grade_study}
    asked, states = [], []
    for name in names:  # e08_dpo_loss, dpo_loss, e08, or the path of its file
        found = [file for file in graders if Path(name).stem in (file, *file.split("_", 1))]
        if not found:
            raise runs.UserError(f"no exercise {name}; there are {', '.join(graders)}")
        asked += found[:1]
    for file in asked or graders:
        graded = graders[file](folder)
        states.append(graded.state)
        print(f"{file:<36}{': '.join(filter(None, graded))}", flush=True)
    if len(states) > 1:
        counts = [f"{states.count(state)} {state}" for state in ("right", "wrong", "not begun")]
        print(f"\n{', '.join(counts)}")
    return states


def main() -> None:
    parser = runs.OneLineParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="file or function; default: all")
    states = grade_all(Path(__file__).resolve().parent, parser.parse_args().names)
    sys.exit("wrong" in states)


if __name__ == "__main__":
    runs.run(main)
