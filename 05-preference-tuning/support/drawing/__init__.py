"""How the figures are drawn: the lab's style here, and one module per script.

A drawing function takes the metrics of one run, or of several as `common.intervals.over_seeds`
makes them: draw(path, metrics, caption, default). `default` are the metrics of the committed run,
for a run with other settings, or None.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One meaning per colour across all figures: Okabe & Ito's colour-blind-safe palette, three greys,
# and three of Tol's.
COLORS = {
    "sft": "#7A7A7A",
    "dpo": "#0072B2",
    "ipo": "#332288",
    "kto": "#999933",
    "best_of_n": "#E69F00",
    "dpo_best_of_n": "#CC79A7",
    "gold": "#009E73",
    "proxy": "#D55E00",
    "chosen": "#56B4E9",
    "rejected": "#882255",
    "rl": "#6B4226",
    "theory": "#000000",
    "default": "#B5B5B5",  # the committed run, behind a run with other settings
}
DPI = 130
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}

# --- Style ---


def new_figure(rows: int, columns: int, height: float = 3.1) -> tuple["Figure", np.ndarray]:
    """A grid of axes in the lab's style: 12 inches wide, `height` inches per row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    size = (12, height * rows + 0.6)
    return plt.subplots(rows, columns, figsize=size, dpi=DPI, layout="constrained", squeeze=False)


def save_figure(fig: "Figure", path: Path, title: str, caption: str = "") -> None:
    """Write the PNG under a title that states the finding, with its settings in small print.

    A file of that name is replaced in one step.
    """
    import matplotlib.pyplot as plt

    fig.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    if caption:
        small = {"fontsize": 8, "color": COLORS["sft"], "parse_math": False}
        fig.supxlabel(caption, x=0.99, ha="right", **small)
    with replacing(path) as temporary:
        fig.canvas.draw()  # savefig would draw twice, once for the layout alone
        pixels = fig.canvas.buffer_rgba()
        plt.imsave(temporary, pixels, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(fig)


# --- Quantities {mean, ci95} on axes ---


def curve(rows) -> np.ndarray:
    """Means and ends of the intervals of quantities: (3, K); NaN where there is no interval."""
    return np.array([[row["mean"], *(row["ci95"] or (np.nan, np.nan))] for row in rows]).T


def error_bars(rows) -> np.ndarray:
    """Distances (2, K) from the means to the ends of the intervals, as matplotlib wants them."""
    mean, low, high = curve(rows)
    return np.nan_to_num(np.abs([low - mean, high - mean]))


def draw_band(ax: "Axes", x, mean, low, high, color: str, label: str | None, **line) -> None:
    """A curve with its 95 % interval as a band."""
    ax.plot(x, mean, color=color, label=label, **line)
    ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def draw_point(ax: "Axes", x: dict, y: dict, color: str, label: str | None, **marker) -> None:
    """Two quantities as a point with both intervals."""
    bars = {"xerr": error_bars([x]), "yerr": error_bars([y]), "lw": 1}
    ax.errorbar(x["mean"], y["mean"], **bars, color=color, ls="none", label=label, **marker)


def draw_bars(ax: "Axes", names, rows, color, horizontal: bool = False, **bars) -> None:
    """Quantities as bars with their intervals."""
    rows = list(rows)
    ends = {"xerr" if horizontal else "yerr": error_bars(rows), "error_kw": {"lw": 1}}
    bar = ax.barh if horizontal else ax.bar
    bar(names, [row["mean"] for row in rows], color=color, **ends, **bars)


def smooth(values: list[float], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, running mean over `width` steps)."""
    width = min(width, len(values))
    steps = np.arange(width, len(values) + 1)
    return steps, np.convolve(values, np.ones(width) / width, "valid")


def heat_map(ax: "Axes", table: np.ndarray, form: str, **image) -> None:
    """Shares (rows, columns) as shades of grey, each with its number."""
    ax.imshow(table, cmap="Greys", vmin=0, vmax=1, aspect="auto", **image)
    for (row, column), share in np.ndenumerate(table):
        color = "white" if share > 0.5 else "black"
        ax.text(column, row, format(share, form), ha="center", va="center", color=color)
    ax.grid(visible=False)
