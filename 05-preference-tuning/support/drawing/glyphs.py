"""Texts that people write in any script, in a figure: a font that has it, or how much there is."""

import re
from functools import cache

# Fonts for the scripts that matplotlib's own lacks, as systems install them.
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans GB", "Heiti SC", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari"),
    *("Noto Sans Thai", "Tahoma", "Nirmala UI", "Noto Emoji", "Segoe UI Emoji"),
)


@cache
def installed_fonts() -> dict[str, frozenset[int]]:
    """The codes of the characters that each font has: matplotlib's own, and those of FONTS."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    files = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    names = [name for name in ("DejaVu Sans", *FONTS) if name in files]
    return {name: frozenset(FT2Font(files[name]).get_charmap()) for name in names}


def fonts_for(text: str) -> list[str]:
    """The fonts to draw a text with: matplotlib's own, and those that have what it lacks."""
    fonts = installed_fonts()
    names, missing = [], {ord(letter) for letter in text if letter.isprintable()}
    for name, codes in fonts.items():
        if not names or missing & codes:
            names.append(name)
            missing -= codes
    return names


def drawable(text: str) -> str:
    """The text with how many characters there are in place of those that no font has."""
    codes = frozenset().union(*installed_fonts().values())
    missing = {letter for letter in text if ord(letter) not in codes and not letter.isspace()}
    if not missing:
        return text
    run = f"[{re.escape(''.join(sorted(missing)))}]+"
    return re.sub(run, lambda found: _say_count(len(found[0])), text)


def _say_count(count: int) -> str:
    return f"[{count} characters]" if count > 1 else "[1 character]"
