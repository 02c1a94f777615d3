"""How long a text is, in words that people would count."""

import re
from collections.abc import Iterable

# Scripts that set no spaces between words: Thai to Lao, Burmese, Khmer, kana, Chinese characters.
UNSPACED = re.compile(
    "[\u0e01-\u0e4e\u0e81-\u0ec6\u1000-\u104f\u1780-\u17d3\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
MARKS = re.compile("[\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")


def count_words(text: str) -> int:
    """Words where there are spaces; of scripts that set none, characters."""
    if text.isascii():
        return len(text.split())
    spaced, characters = UNSPACED.subn(" ", text)
    return len((MARKS.sub(" ", spaced) if characters else spaced).split()) + characters


def length_unit(texts: Iterable[str]) -> str:
    """What `count_words` mostly counts in these texts: "words" or "characters"."""
    counted = characters = 0
    for text in texts:
        counted += count_words(text)
        characters += 0 if text.isascii() else len(UNSPACED.findall(text))
    return "characters" if 2 * characters > counted else "words"
