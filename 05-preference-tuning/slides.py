"""Slides for a class: every panel of the committed run, and a deck with speaker's notes.

    python 05-preference-tuning/slides.py       # or: make slides

Draws the panels anew from figures/*.json, in half a minute, and trains nothing. It writes
outputs/slides/: a PNG per panel (1600 x 900, fonts for a projector), and slides.md, which Marp
shows as a talk. Slides of a run of your own: run_all.py --panels, or --panels with any script.
"""

import argparse
from pathlib import Path

from support.slides import write_slides

from run_all import SECTIONS

from common import cli
from common.reporting import COMMITTED, read_results


def main(argv: list[str] | None = None) -> Path:
    """Write the slides of the committed run; returns the path of the deck."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("slides.py", description=__doc__, formatter_class=formatter)
    output_help = "the slides go here; default: outputs/slides"
    default = Path("outputs/slides")
    parser.add_argument("--output-dir", type=cli.folder, default=default, help=output_help)
    folder = parser.parse_args(argv).output_dir
    paths = [COMMITTED / f"{section.name}.json" for section in SECTIONS]
    results = [read_results(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if not result["metrics"]:
            raise cli.UserError(f"{path} holds no results; restore it with git checkout figures")
    cli.check_writable(folder)
    deck = write_slides(SECTIONS, results, folder)
    print(f"wrote {deck}, and a PNG for each of its panels")
    return deck


if __name__ == "__main__":
    cli.run(main)
