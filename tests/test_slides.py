"""Slides: a page with notes for every figure that is there."""

import json
import re

import pytest
import run_all
import slides
from helpers import SCRIPTS

from common import runs

SCRIPT = '''
"""Why is it so?"""

def draw(looks):
    """All of it."""
    line_panel(ax, looks)
    after_panel(ax)

def line_panel(ax, looks):
    """How it went.

    In more words.
    """

def after_panel(ax):
    """How it was at the end."""

def own_panel(ax):
    """What is drawn of other data alone."""

def helper(rows):
    """No panel."""
'''


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """A committed run of one lesson and one study, and an own run of the lesson."""
    monkeypatch.setattr(runs, "COMMITTED", tmp_path / "figures")
    for path, content in {
        "figures/dpo_training": {"seed": 0, "metrics": {}},
        "figures/studies/what_dpo_does": {"seeds": [0, 1], "claims": [claim()]},
        "outputs/dpo_training": {"seed": 3, "metrics": {}},
    }.items():
        picture = tmp_path / f"{path}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(path.encode())
        picture.with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def claim() -> dict:
    found = {"mean": 0.5, "ci95": [0.25, 0.75], "verdict": "holds"}
    return {"says": "it is so", **found}


def test_every_figure_that_is_there_has_a_page_and_the_others_are_named(figures, capsys):
    deck = slides.main(["--output-dir", str(figures / "outputs")])
    assert deck == figures / "outputs" / "slides" / "slides.md"
    said = capsys.readouterr().out
    assert "left out, since there is no figure yet: " in said
    assert "dpo_trainer" not in said and "too_much_dpo" in said
    pages = deck.read_text(encoding="utf-8").split("\n---\n\n")
    assert pages[0].startswith("---\nmarp: true\n")
    lesson, study = pages[-2:]
    assert len(pages) == 4  # the head has a line of dashes, too
    for page, script, name in (
        (lesson, SCRIPTS / "dpo_trainer.py", "dpo_training"),
        (study, SCRIPTS / "studies" / "what_dpo_does.py", "what_dpo_does"),
    ):
        assert page.startswith(f"# {run_all.title_of(script)}\n\n![]({name}.png)\n\n<!--\n- ")
        assert f"python {script.relative_to(SCRIPTS.parent)} (seed" in page
    assert (deck.parent / "dpo_training.png").read_bytes() == b"outputs/dpo_training"
    assert "(seed 3)" in lesson  # the own run goes before the committed one
    assert "- Claim: it is so. 0.50 [0.25, 0.75]: holds\n" in study and "(seeds 0, 1)" in study


def test_the_notes_are_what_the_figure_shows(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.strip(), encoding="utf-8")
    assert slides.panels_of(script) == ["How it went.", "How it was at the end."]


@pytest.mark.parametrize("name", run_all.LESSONS)
def test_every_lesson_has_panels_with_a_sentence_each(name):
    lines = slides.panels_of(SCRIPTS / f"{name}.py")
    assert lines and all(re.match(r"[A-Z].*[.?]$", line) for line in lines)
