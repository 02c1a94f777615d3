"""Slides of a run: a PNG per panel, and a Markdown deck with speaker's notes."""

from collections.abc import Sequence
from pathlib import Path

from support.drawing import Drawing, notes

from common.reporting import caption, count_verdicts, replacing

# Marp (the extension of VS Code, or marp-cli) shows the deck and keeps comments for the speaker;
# any other viewer of Markdown shows the pages one below the other.
HEAD = """---
marp: true
paginate: true
style: |
  section:has(img) { padding: 0; }
  img { width: 100%; }
---

# Preference tuning, measured

One page per panel of the figures. The comment of a page has the speaker's notes: what the panel
shows, what to notice, and a question for the class.
"""


def write_slides(sections: Sequence, results: Sequence[dict], folder: Path) -> Path:
    """Write FOLDER/NAME/*.png of every section, and the deck FOLDER/slides.md; returns its path."""
    pages = [HEAD]
    for section, result in zip(sections, results, strict=True):
        drawing = section.draw(result["metrics"])
        titles = drawing.save_panels(folder / section.name, caption(result["settings"]))
        pages.append(section_page(section, drawing, result["claims"]))
        for panel, (name, title) in zip(drawing.panels, titles.items(), strict=True):
            spoken = "\n".join(f"- {line}" for line in notes(panel))
            pages.append(f"![{title}]({section.name}/{name})\n\n<!--\n{spoken}\n-->\n")
    with replacing(folder / "slides.md") as temporary:
        temporary.write_text("\n---\n\n".join(pages), encoding="utf-8")
    return folder / "slides.md"


def section_page(section, drawing: Drawing, claims: list[dict]) -> str:
    """The page before a section's panels: its finding, its claims, and its command."""
    finding = " ".join(drawing.title.split())
    command = f"python 05-preference-tuning/{section.script}.py"
    counted = f"Claims: {count_verdicts(claims)}."
    return f"# {section.title}\n\n{finding}.\n\n{counted}\n\n    {command}\n"
