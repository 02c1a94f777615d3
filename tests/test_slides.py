"""Slides: every panel of every figure as a PNG of its own, and the deck with speaker's notes."""

import json
import re
from pathlib import Path

import support.drawing
from support.drawing import Drawing, notes

import matplotlib.image
import matplotlib.pyplot as plt
import pytest
import rlhf_objectives
import run_all
import slides
from matplotlib.colors import to_rgba

from common import cli
from common.reporting import COMMITTED, NOTHING, caption

SECTIONS = {section.name: section for section in run_all.SECTIONS}
PARSERS = {section.script: __import__(section.script).build_parser for section in run_all.SECTIONS}
PARSERS["run_all"] = run_all.build_parser


def results_of(name: str) -> dict:
    return json.loads((COMMITTED / f"{name}.json").read_text(encoding="utf-8"))


def drawing_of(name: str) -> Drawing:
    return SECTIONS[name].draw(results_of(name)["metrics"])


# --- Every panel ---


@pytest.mark.parametrize("script", PARSERS)
def test_every_script_takes_panels(script):
    parser = PARSERS[script]()
    assert parser.parse_args(["--panels"]).panels and not parser.parse_args([]).panels
    assert "panels" in cli.NOT_A_SETTING


@pytest.mark.parametrize("name", SECTIONS)
def test_every_panel_has_three_lines_for_the_one_who_teaches_it(name):
    for panel in drawing_of(name).panels:
        lines = notes(panel)
        assert [line.split(": ")[0] for line in lines] == ["Shown", "Notice", "Ask"], panel
        assert "?" in lines[2] and panel.__doc__.splitlines()[0] not in lines
        # Numbers belong to the run: titles and axes have them.
        assert not re.search(r"\d", " ".join(lines).replace("ln 2", "")), panel


@pytest.mark.parametrize("name", SECTIONS)
def test_every_panel_is_a_slide_with_a_title_that_fits(name, monkeypatch, tmp_path):
    saved = {}

    def look(fig, path, title, small):
        saved[path.name] = title
        pixels = fig.get_size_inches() * fig.dpi
        assert pixels.tolist() == [1600, 900] and len(fig.axes) == 1
        (ax,) = fig.axes
        assert ax.get_title(loc="left") == ""  # it stands above, and not twice
        assert ax.get_legend() or not ax.get_legend_handles_labels()[1]
        lines = title.splitlines()
        assert 1 <= len(lines) <= 2
        assert max(map(len, lines)) <= support.drawing.TITLE_WIDTH
        assert small.replace("\n", " ") == caption(results_of(name)["settings"])
        plt.close(fig)

    monkeypatch.setattr(support.drawing, "save_figure", look)
    drawing = drawing_of(name)
    titles = drawing.save_panels(tmp_path, caption(results_of(name)["settings"]))
    assert len(drawing.panels) == len(set(drawing.mosaic) - set("\n.")) <= 6
    assert list(titles) == list(saved) and len(saved) == len(drawing.panels)
    assert list(titles.values()) == [title.replace("\n", " ") for title in saved.values()]
    assert len(set(titles.values())) == len(titles)


def test_a_slide_is_a_png_of_1600_pixels_with_the_panel_on_it(tmp_path):
    drawing = Drawing("A figure", [line_panel], {"height": 2.0}, {"height": 1.0}, mosaic="A")
    titles = drawing.save_panels(tmp_path / "new" / "panels", "seed 0")
    assert titles == {"1-line.png": "It goes up by 2"}
    image = matplotlib.image.imread(tmp_path / "new/panels/1-line.png")
    assert image.shape[:2] == (900, 1600)
    drawing.save(tmp_path / "figure.png", "seed 0")
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[1] == 1560
    for pixels in (image, matplotlib.image.imread(tmp_path / "figure.png")):
        for color in ("dpo", "default"):
            color = to_rgba(support.drawing.COLORS[color])
            assert (abs(pixels - color).max(-1) < 0.01).sum() > 500


def line_panel(ax, metrics: dict, default: dict | None) -> None:
    """A line.

    Shown: a line.
    Notice: it is straight.
    Ask: Why?
    """
    ax.plot([0, 1], [0, default["height"]], color=support.drawing.COLORS["default"])
    ax.plot([0, 1], [0, metrics["height"]], color=support.drawing.COLORS["dpo"], label="it")
    ax.set(title=f"It goes up\nby {metrics['height']:.0f}")


# --- The deck ---


@pytest.fixture(scope="module")
def deck(tmp_path_factory) -> Path:
    """The deck of the committed run, with pictures that are empty files."""

    def touch(fig, path, title, small):
        path.touch()
        plt.close(fig)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support.drawing, "save_figure", touch)
        return slides.main(["--output-dir", str(tmp_path_factory.mktemp("slides"))])


def test_the_deck_has_a_page_for_every_panel(deck):
    text = deck.read_text(encoding="utf-8")
    pages = re.findall(r"^!\[(.+)\]\((.+)\)\n\n<!--\n((?:- .+\n)+)-->\n", text, re.M)
    pictures = {str(path.relative_to(deck.parent)) for path in deck.parent.rglob("*.png")}
    assert {picture for _, picture, _ in pages} == pictures
    panels = [panel for name in SECTIONS for panel in drawing_of(name).panels]
    assert len(pages) == len(panels) == len(pictures)
    for (title, _, spoken), panel in zip(pages, panels, strict=True):
        assert title and spoken.splitlines() == [f"- {line}" for line in notes(panel)]


def test_the_deck_is_one_for_marp(deck):
    text = deck.read_text(encoding="utf-8")
    assert text.startswith("---\nmarp: true\n")
    panels = sum(len(drawing_of(name).panels) for name in SECTIONS)
    # After the first page one for every section and one for every panel.
    assert text.count("\n\n---\n\n") == len(SECTIONS) + panels
    for section in run_all.SECTIONS:
        assert f"\n# {section.title}\n" in text
        assert f"    python 05-preference-tuning/{section.script}.py\n" in text


def test_slides_go_where_git_does_not_look():
    ignored = (COMMITTED.parent / ".gitignore").read_text(encoding="utf-8").split()
    assert "outputs/" in ignored
    makefile = (COMMITTED.parent / "Makefile").read_text(encoding="utf-8")
    assert "slides: $(STAMP)\n\t$(BIN)/python 05-preference-tuning/slides.py\n" in makefile


def test_results_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(slides, "read_results", lambda path: NOTHING)
    with pytest.raises(cli.UserError, match=r"preference_data\.json holds no results"):
        slides.main(["--output-dir", str(tmp_path / "slides")])
    assert list(tmp_path.iterdir()) == []


# --- With a script ---


def test_a_script_saves_its_panels(tmp_path, capsys):
    rlhf_objectives.main(["--smoke", "--panels", "--output-dir", str(tmp_path)])
    folder = tmp_path / "ppo_objectives-smoke-panels"
    names = [path.name for path in sorted(folder.iterdir())]
    assert len(names) == 6 and names[0] == "1-updates.png" and names[5] == "6-memory.png"
    assert all(matplotlib.image.imread(path).shape[1] == 1600 for path in folder.iterdir())
    assert f", {folder}\n" in capsys.readouterr().out
    settings = json.loads((tmp_path / "ppo_objectives-smoke.json").read_text())["settings"]
    assert "panels" not in settings


def test_a_folder_that_is_not_the_labs_stays(tmp_path):
    cli.check_replaceable(tmp_path, "a", panels=True)
    (tmp_path / "a-panels").mkdir()
    cli.check_replaceable(tmp_path, "a")
    with pytest.raises(cli.UserError, match="a-panels was not written by the lab"):
        cli.check_replaceable(tmp_path, "a", panels=True)
    (tmp_path / "a.json").write_text(json.dumps({"script": "", "settings": {}, "metrics": {}}))
    cli.check_replaceable(tmp_path, "a", panels=True)
    (tmp_path / "a-panels").rmdir()
    (tmp_path / "a-panels").touch()
    with pytest.raises(cli.UserError, match="a-panels was not written by the lab"):
        cli.check_replaceable(tmp_path, "a", panels=True)
