"""Texts in a figure: columns of cards."""

import textwrap
from collections.abc import Sequence

COLUMN_INCHES = 3  # the least that a column takes


def draw_cards(
    ax,
    columns: list[tuple[str, list]],
    width: int,
    max_lines: int,
    fonts: Sequence[str] | None = None,
) -> None:
    """Columns of cards with wrapped text, in a panel that is as high as they need.

    A column is a heading and its cards, (text, colour) each; lines have `width` characters, and a
    column at most `max_lines`. On a slide fewer columns stand side by side than in a figure.
    `fonts` are asked for a character in their order; None: matplotlib's own.
    """
    abreast = min(len(columns), int(ax.figure.get_figwidth() // COLUMN_INCHES))
    top = bottom = 0.0
    for place, (heading, cards) in enumerate(columns):
        if place % abreast == 0:
            top = bottom
        left, y = place % abreast, top
        if heading:
            ax.text(left, y + 0.8, heading, weight="bold")
            y += 1.3
        for text, color in cards:
            most = max_lines // len(cards)
            lines = textwrap.wrap(text, width, max_lines=most, placeholder=" ...")
            draw_card(ax, left, y, lines, color, left + 0.005 * abreast, fonts)
            y += len(lines) + 0.8
        bottom = max(bottom, y)
    place = ax.get_subplotspec()
    grid, row = place.get_gridspec(), place.rowspan.start
    grid.set_height_ratios([bottom / 14 if k == row else 1 for k in range(grid.nrows)])
    ax.set(xlim=(0, abreast), ylim=(bottom, 0))
    ax.set_axis_off()


def draw_card(
    ax,
    left: float,
    top: float,
    lines: list[str],
    color: str,
    margin: float,
    fonts: Sequence[str] | None,
) -> None:
    """Lines of text on a coloured rectangle."""
    from matplotlib.patches import Rectangle

    card = Rectangle((left, top), 0.97, len(lines) + 0.5, color=color, alpha=0.2, lw=0)
    ax.add_patch(card)
    for k, line in enumerate(lines):
        ax.text(margin, top + k + 0.95, line, size=9.5, parse_math=False, family=fonts)
