"""Are the exercises right, and where one is wrong, which mistake is it?

    python 05-preference-tuning/exercises/check.py                 # all of them; or: make exercises
    python 05-preference-tuning/exercises/check.py e08_dpo_loss    # one

An exercise is a file in this folder with a gap, `raise NotImplementedError`. A gap is no error: the
exit status is 1 only where an answer is wrong.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the scripts: the right answers are their functions

from support.grading import grade_all  # noqa: E402

from common import cli  # noqa: E402


def main() -> None:
    """Grade what is named, print a line for each, and exit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="file or function; default: all")
    args, unknown = parser.parse_known_args()
    states = grade_all(HERE, args.names + unknown)
    sys.exit(1 if "wrong" in states else 0)


if __name__ == "__main__":
    cli.run(main)
