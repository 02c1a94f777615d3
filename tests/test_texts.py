"""Words of any script, and texts of any script in a figure."""

from support.drawing import glyphs

import pytest

from common.texts import count_words, length_unit

COUNTS = {
    "": 0,
    "two words": 2,
    "ein Wörtchen, naïve café": 4,
    "Это три слова": 3,
    "مرحبا بكم": 2,
    "한국어 단어": 2,
    "放冰箱里。": 4,
    "先洗，再放；GPT 4 好": 7,
    "ラーメン": 4,
    "สวัสดี": 6,
    "Great 👍 thanks": 3,
}


@pytest.mark.parametrize("text", COUNTS)
def test_words_where_there_are_spaces_and_characters_elsewhere(text):
    assert count_words(text) == COUNTS[text]
    if not any(ord(letter) > 0xE00 for letter in text):
        assert count_words(text) == len(text.split())


def test_what_is_counted():
    assert length_unit(["two words", "放冰箱里。"]) == "characters"
    assert length_unit(["three or more words", "放。"]) == length_unit(["한국어 단어"]) == "words"
    assert length_unit([]) == "words"


def test_a_figure_says_how_many_characters_no_font_has(monkeypatch):
    own = {"DejaVu Sans": frozenset(map(ord, "abc: é"))}
    monkeypatch.setattr(glyphs, "installed_fonts", lambda: own)
    assert glyphs.drawable("a: é b") == "a: é b" and glyphs.fonts_for("a红") == ["DejaVu Sans"]
    assert glyphs.drawable("a: 红绿 b蓝") == "a: [2 characters] b[1 character]"
    monkeypatch.setitem(own, "Noto Sans CJK SC", frozenset(map(ord, "红绿蓝")))
    monkeypatch.setitem(own, "SimHei", frozenset(map(ord, "红")))
    assert glyphs.drawable("a: 红绿 b蓝") == "a: 红绿 b蓝"
    assert glyphs.fonts_for("a红") == ["DejaVu Sans", "Noto Sans CJK SC"]


def test_matplotlibs_own_font_is_there():
    pytest.importorskip("matplotlib")
    fonts = glyphs.installed_fonts()
    assert next(iter(fonts)) == "DejaVu Sans" and {ord("a"), ord("ж")} <= fonts["DejaVu Sans"]
