"""Slides for a class: every figure of the lessons and the studies, with speaker's notes.

    python 05-preference-tuning/classroom/slides.py       # or: make slides

Takes the figures of today's runs where there are any (outputs/), else those of the committed run,
and trains nothing. Writes outputs/slides/: the PNGs, and slides.md, which Marp (an extension of VS
Code, or marp-cli) shows as a talk; any other viewer of Markdown shows the pages one below the
other. A figure that is nowhere is left out, and named.

About a second.
"""

import ast
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lessons

import installed  # noqa: F401

import run_all

from common import runs
from common.claims import name_seeds
from common.intervals import interval
from common.saving import check_writable, read_json, whole_file

HEAD = """---
marp: true
paginate: true
style: |
  section { font-size: 22px; padding: 24px; }
  h1 { font-size: 30px; }
  img { display: block; margin: auto; max-height: 600px; }
---

# Preference tuning, measured

One page per figure: first the lessons in the order of the tutorial, then the studies. The comment
of a page has the speaker's notes: what each panel shows, and what was claimed and found.
"""


def page_of(script: Path, figure: Path) -> str:
    """The page of a figure: the script's question, the picture, the notes, the command."""
    results = read_json(figure.with_suffix(".json"))
    seeds = name_seeds(results.get("seeds") or [results.get("seed", 0)])
    notes = panels_of(script)
    for claim in results.get("claims", ()):
        notes.append(f"Claim: {claim['says']}. {interval(claim)}: {claim['verdict']}")
    notes.append(f"Run it: python {script.relative_to(runs.ROOT)} ({seeds})")
    spoken = "\n".join(f"- {line}" for line in notes)
    return f"# {run_all.title_of(script)}\n\n![]({figure.name})\n\n<!--\n{spoken}\n-->\n"


def panels_of(script: Path) -> list[str]:
    """What the panels of a script's figure show: the first lines of what `draw` calls."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    lines = []
    for node in ast.walk(functions["draw"]) if "draw" in functions else ():
        panel = functions.get(node.id) if isinstance(node, ast.Name) else None
        if panel and panel.args.args and panel.args.args[0].arg == "ax":
            lines += (ast.get_docstring(panel) or "").splitlines()[:1]
    return list(dict.fromkeys(lines))


def find_figures(output_dir: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """((script, its figure) of each that has one; the names of the others)."""
    wanted = {f"{script}.py": f"{name}.png" for script, name in run_all.LESSONS.items()}
    wanted |= {f"studies/{name}.py": f"studies/{name}.png" for name in run_all.STUDIES}
    found, missing = [], []
    for script, name in wanted.items():
        figures = [folder / name for folder in (output_dir, runs.COMMITTED)]
        found += [(run_all.HERE / script, path) for path in figures if path.is_file()][:1]
        missing += [] if any(path.is_file() for path in figures) else [Path(script).stem]
    return found, missing


def main(argv: list[str] | None = None) -> Path:
    """Copy the figures and write the deck; returns its path."""
    parser = runs.OneLineParser("slides.py", description=__doc__)
    where = "figures are looked for here first, the slides go to slides/ in it; default: outputs"
    parser.add_argument("--output-dir", type=runs.folder, default=Path("outputs"), help=where)
    output_dir = parser.parse_args(argv).output_dir
    folder = output_dir / "slides"
    check_writable(folder)
    found, missing = find_figures(output_dir)
    for _, figure in found:
        with whole_file(folder / figure.name) as temporary:
            shutil.copy(figure, temporary)
    deck = folder / "slides.md"
    with whole_file(deck) as temporary:
        pages = [HEAD, *(page_of(*pair) for pair in found)]
        temporary.write_text("\n---\n\n".join(pages), encoding="utf-8")
    if missing:
        print(f"left out, since there is no figure yet: {', '.join(missing)}")
    print(f"wrote {deck}, and the PNGs of its {len(found)} pages")
    return deck


if __name__ == "__main__":
    runs.run(main)
