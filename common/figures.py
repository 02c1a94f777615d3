"""One style for all figures: palette, panels, seeds made visible, whole files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.saving import whole_file

# Named as matplotlib has "tab:blue": color="lab:gold". Okabe and Ito's palette, which colour-blind
# readers can tell apart, three greys, and three of Tol's; one meaning per colour.
COLORS = {
    "sft": "#7A7A7A",
    "dpo": "#0072B2",
    "ipo": "#332288",
    "kto": "#999933",
    "ai": "#44AA99",
    "rl": "#6B4226",
    "best_of_n": "#E69F00",
    "dpo_best_of_n": "#CC79A7",
    "gold": "#009E73",
    "reward": "#D55E00",
    "biased": "#D55E00",
    "chosen": "#56B4E9",
    "rejected": "#882255",
    "human": "#0072B2",
    "other": "#B5B5B5",
    "length": "#D55E00",
    "style": "#CC79A7",
    "agreement": "#E69F00",
    "right and concise": "#009E73",
    "right, with filler": "#B5DFC9",
    "wrong": "#882255",
    "agrees with the user": "#CC79A7",
    "off topic": "#BDBDBD",
    "malformed": "#262626",
}
GOLD = "gold utility: 3 right, 1 on topic,\n-0.15 a filler word (log-odds)"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def new_figure(rows: int, columns: int, title: str, height: float = 3.1):
    """(figure, axes in reading order) in the lab's style, 8.4 inches wide, `height` a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {f"lab:{name}": color for name, color in COLORS.items()}
    matplotlib.colors.get_named_colors_mapping().update(names)
    plt.rcParams.update(STYLE)
    figure = plt.figure(figsize=(8.4, height * rows + 0.4), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    bold = {"fontsize": 11, "fontweight": "bold", "parse_math": False}
    figure.suptitle(title, x=0.01, ha="left", **bold)
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()


def save_figure(figure, path: Path) -> None:
    """Write the PNG, whole; a file of that name is replaced in one step."""
    import matplotlib.pyplot as plt

    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=figure.dpi, metadata={"Software": None})
    plt.close(figure)


def seed_lines(ax, x: Sequence, values: np.ndarray, color: str, label: str, **line) -> None:
    """A thin line for each seed, values (seeds, len(x)), and a thick one for their mean."""
    values = np.asarray(values, dtype=float)
    if len(values) > 1:
        ax.plot(x, values.T, color=color, lw=0.7, alpha=0.4, ls=line.get("ls", "-"))
    line = {"lw": 2, "marker": "o", "ms": 3, **line}
    ax.plot(x, values.mean(0), color=color, label=label, **line)


def seed_dots(ax, place: float, values: Sequence, color: str, label: str | None = None) -> None:
    """A dot for each seed at a place of the x axis, and a short bar for their mean."""
    values = np.asarray(values, dtype=float)
    spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
    ax.plot(place + spread, values, "o", color=color, ms=3.5, alpha=0.6, label=label)
    ax.hlines(values.mean(), place - 0.25, place + 0.25, color=color, lw=2.5)


def seed_columns(ax, columns: dict[str, Sequence], colors: Sequence[str], digits: int = 2) -> None:
    """A column of dots for each name, a dot a seed, with their mean in numbers."""
    above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
    for place, (values, color) in enumerate(zip(columns.values(), colors, strict=True)):
        seed_dots(ax, place, values, color)
        ax.annotate(f"{np.mean(values):,.{digits}f}", (place, max(values)), fontsize=8, **above)
    names = [name.replace(", ", ",\n") for name in columns]
    ax.set_xticks(range(len(columns)), names, fontsize=8)
    ax.margins(y=0.15)
    ax.set_xlim(-0.6, len(columns) - 0.4)


def draw_cells(ax, rows: Sequence[str], columns: Sequence[str], values) -> None:
    """A table of cells, values (seeds, rows, columns); None where nothing was measured.

    In each cell the mean over seeds, and how many seeds are above 0: green where all of them are,
    purple where none is, pale in between.
    """
    values = np.array(values, dtype=float)
    count = len(values)
    for (i, k), mean in np.ndenumerate(values.mean(0)):
        if np.isnan(mean):
            continue
        above = int((values[:, i, k] > 0).sum())
        color = COLORS["gold"] if 2 * above > count else COLORS["rejected"]
        strength = 0.75 if above in (0, count) and abs(mean) > 0.005 else 0.2
        ax.barh(i, 0.96, 0.92, left=k - 0.48, color=color, alpha=strength, lw=0)
        told = f"{mean:+z.2f}" + (f"\n{above} of {count} above 0" if count > 1 else "")
        ink = "white" if strength > 0.5 else "black"
        ax.text(k, i, told, ha="center", va="center", fontsize=8, color=ink)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(visible=False)
    ax.tick_params(length=0)


def legend_below(ax, **options) -> None:
    """A legend under an axis and its label, off the data."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0, -0.42, ax.figure.dpi_scale_trans)  # inches
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, **options)
