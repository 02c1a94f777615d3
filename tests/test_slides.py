"""The talk: its slides, what they are drawn from, and the deck in a browser."""

import json
import re

import pytest
import run_all
import slides
from browser import find_browser, start_browser

from common import answers, preferences, runs, saving

TALK = json.loads((slides.TALK / "talk.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def deck(tmp_path_factory):
    """(path, text) of the deck of the committed run."""
    path = slides.main(["--output-dir", str(tmp_path_factory.mktemp("deck"))])
    return path, path.read_text(encoding="utf-8")


def test_the_talk_fills_45_minutes_and_every_slide_has_notes_and_a_question():
    assert 14 <= len(TALK) <= 16 and sum(entry["minutes"] for entry in TALK) == 45
    for entry in TALK:
        assert len(entry["notes"]) == 3 and entry["ask"].endswith("?") and entry["text"]
    assert {*slides.ANSWERS} == {entry["answers"] for entry in TALK if "answers" in entry}


def test_the_deck_of_the_committed_run_is_whole(deck):
    path, text = deck
    assert text.count("<section>") == len(TALK) + len(run_all.LESSONS) + len(run_all.STUDIES)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[: len(TALK)] == [entry["title"] for entry in TALK]
    assert {f"{name}.png" for name in (*run_all.LESSONS.values(), *run_all.STUDIES)} == {
        picture.name for picture in path.parent.glob("*.png")
    }
    assert "{{" not in text and not re.search(r"(src|href)=.?(http|//)", text)
    assert path.stat().st_size < 12e6


def committed_metrics() -> dict[str, dict]:
    found = {path.stem: saving.read_json(path) for path in runs.COMMITTED.rglob("*.json")}
    return {name: results.get("runs", [results])[0]["metrics"] for name, results in found.items()}


@pytest.mark.parametrize("name", [entry["picture"] for entry in TALK if "picture" in entry])
def test_every_panel_of_a_picture_is_drawn(name):
    axes = slides.draw(name, committed_metrics()).axes
    assert len(axes) == 1 + (name in slides.TWO_PANELS)
    assert all(ax.has_data() or ax.texts or ax.patches for ax in axes)


def test_the_hacked_answer_is_one_whose_reward_rose_while_its_quality_fell():
    html = slides.hacked_answer(committed_metrics())
    rewards = [float(value) for value in re.findall(r"reward (-?[\d.]+),", html)]
    gold = [float(value) for value in re.findall(r"gold utility (-?[\d.]+)", html)]
    assert rewards[1] > rewards[0] and gold[1] < gold[0]


def test_answers_before_and_after_show_one_mended_and_one_wrong():
    kept = {
        "prompts": [question.prompt for question in preferences.questions("test")[:3]],
        "texts": {"SFT, sft, a": ["No.", "No.", "No."], "DPO, 768, b": ["No."] * 3},
    }
    answer = preferences.all_questions()[kept["prompts"][1]].answer
    kept["texts"]["DPO, 768, b"][1] = f"It is {answer}."
    html = slides.before_and_after(
        {name: {"answers": kept} for name in ("too_much_dpo", "likelihood_term")}
    )
    first, second = kept["prompts"][1], kept["prompts"][0]
    assert html.index(slides.escape(first)) < html.index(slides.escape(second))
    assert html.count("after") == 2 and f"It is {answer}." in html


def test_what_has_no_results_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "COMMITTED", tmp_path / "figures")
    picture = tmp_path / "outputs" / "dpo_training.png"
    picture.parent.mkdir()
    picture.write_bytes(b"a picture")
    kinds = dict.fromkeys(answers.KINDS, 1 / len(answers.KINDS))
    looks = [{"step": step, "kinds": kinds} for step in (0, 9)]
    results = {"seed": 3, "metrics": {"looks": looks}}
    picture.with_suffix(".json").write_text(json.dumps(results), encoding="utf-8")
    deck = slides.main(["--output-dir", str(picture.parent)])
    said = capsys.readouterr().out
    assert "the slide 'One hacked answer'" in said and "too_much_dpo" in said
    assert "dpo_trainer" not in said
    text = deck.read_text(encoding="utf-8")
    assert "(seed 3)" in text and 'data-main="4"' in text  # what needs no results is there
    assert (deck.parent / "dpo_training.png").read_bytes() == b"a picture"


@pytest.mark.skipif(not find_browser(), reason="no Chromium here")
def test_the_deck_in_a_browser(deck, tmp_path):
    path, _ = deck
    count = len(TALK)
    with start_browser(tmp_path) as browser:
        browser.emulate(1280, 720)
        browser.requests()
        browser.open(path)
        for number in range(1, count + 1):
            shown = browser.run(
                "const now = document.querySelectorAll('section.now');"
                "const box = now[0].querySelector('.body');"
                "return [now.length, document.querySelector('#place').textContent,"
                " box.scrollHeight - box.clientHeight, box.scrollWidth - box.clientWidth,"
                " [...now[0].querySelectorAll('img')].map(i => i.clientWidth)]"
            )
            assert shown[0] == 1 and shown[1].startswith(f"{number} of ")
            assert max(shown[2:4]) <= 1, f"slide {number} does not fit"
            assert all(width > 300 for width in shown[4])
            browser.press("\ue014")  # to the right
        assert browser.run("return location.hash") == f"#{count + 1}"
        assert "appendix" in browser.run("return document.querySelector('#place').textContent")
        hidden = "return getComputedStyle(document.querySelector('.now aside')).display"
        assert browser.run(hidden) == "none"
        browser.press("n")
        assert browser.run(hidden) == "block"
        browser.press("\ue012")  # to the left
        assert browser.run("return location.hash") == f"#{count}"
        pdf = browser.call("print", {"pageRanges": ["1-2"]})
        assert len(pdf) > 5000
        loaded = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
        assert not loaded and not browser.log("browser")
