"""How the figures are drawn: the lab's style here, and one module per script.

A module's draw(metrics, default) makes a `Drawing` of the metrics of one run, or of several as
`common.intervals.over_seeds` makes them. `default` are the metrics of the committed run, for a run
with other settings, or None.
"""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
DPI, SLIDE_DPI = 130, 250
TITLE_WIDTH, CAPTION_WIDTH = 56, 110  # of a slide, in characters
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

# --- Figures and slides ---

Panel = Callable[["Axes", dict, dict | None], None]


class Drawing(NamedTuple):
    """A title that states the finding, and the panels that show it, as one figure or as slides.

    A panel is a function(ax, metrics, default) that draws on one Axes and gives it a title. Where
    its docstring ends with three lines for the one who teaches it, they are the slide's notes.
    """

    title: str
    panels: Sequence[Panel]
    metrics: dict
    default: dict | None = None
    mosaic: str = "ABC\nDEF"  # where the panels stand, in their order, as for subplot_mosaic
    height: float = 3.1  # of a row, in inches
    legend: dict | None = None  # place of the legend that panels share which have none themselves

    def save(self, path: Path, caption: str = "") -> None:
        """Write the figure, with its settings in small print."""
        fig, axes = new_figure(self.mosaic, self.height)
        for panel, ax in zip(self.panels, axes, strict=True):
            panel(ax, self.metrics, self.default)
        if self.legend:
            fig.legend(*next(filter(None, map(unplaced_legend, axes))), **self.legend)
        save_figure(fig, path, self.title, caption)

    def save_panels(self, folder: Path, caption: str = "") -> dict[str, str]:
        """Write every panel as a slide into a folder: FOLDER/1-good.png; returns {name: title}."""
        folder.mkdir(parents=True, exist_ok=True)
        titles = {}
        for place, panel in enumerate(self.panels, start=1):
            name = panel.__name__.removesuffix("_panel").replace("_", "-")
            path = folder / f"{place}-{name}.png"
            titles[path.name] = self.save_panel(panel, path, caption)
        return titles

    def save_panel(self, panel: Panel, path: Path, caption: str = "") -> str:
        """Write one panel as a slide; returns its title, in one line."""
        fig, ax = new_slide()
        panel(ax, self.metrics, self.default)
        if legend := unplaced_legend(ax):
            ax.legend(*legend, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8)
        lines = ax.get_title(loc="left")
        ax.set_title("")
        title = " ".join(lines.split())
        if len(title) <= TITLE_WIDTH or "\n" not in lines:
            lines = textwrap.fill(title, TITLE_WIDTH)
        save_figure(fig, path, lines, textwrap.fill(caption, CAPTION_WIDTH))
        return title


def notes(panel: Panel) -> list[str]:
    """The three lines for the one who teaches a panel: what it shows, what to notice, to ask."""
    return inspect.getdoc(panel).splitlines()[-3:]


def unplaced_legend(ax: "Axes") -> tuple[list, list] | None:
    """(handles, labels) of a panel that has labels and leaves their legend to the figure."""
    handles, labels = ax.get_legend_handles_labels()
    return (handles, labels) if labels and ax.get_legend() is None else None


def new_figure(mosaic: str, height: float = 3.1) -> tuple["Figure", list["Axes"]]:
    """Axes in the lab's style, in the order of their letters: 12 inches wide, `height` a row."""
    plt = styled_pyplot()
    size = (12, height * len(mosaic.split()) + 0.6)
    options = {"figsize": size, "dpi": DPI, "layout": "constrained"}
    fig, axes = plt.subplot_mosaic(mosaic, **options)
    return fig, [axes[letter] for letter in sorted(axes)]


def new_slide() -> tuple["Figure", "Axes"]:
    """One Axes in the lab's style, on 1600 x 900 pixels.

    The fonts have the size in points that they have in a figure, on half its width: on a screen
    they are twice as large.
    """
    plt = styled_pyplot()
    return plt.subplots(figsize=(6.4, 3.6), dpi=SLIDE_DPI, layout="constrained")


def styled_pyplot():
    """matplotlib.pyplot, drawing to files in the lab's style."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    return plt


def save_figure(fig: "Figure", path: Path, title: str, caption: str = "") -> None:
    """Write the PNG under a title that states the finding, with its settings in small print.

    A file of that name is replaced in one step.
    """
    import matplotlib.pyplot as plt

    bold = {"fontsize": 13, "fontweight": "bold", "parse_math": False}
    fig.suptitle(title, x=0.01, ha="left", **bold)
    if caption:
        small = {"fontsize": 8, "color": COLORS["sft"], "parse_math": False}
        fig.supxlabel(caption, x=0.99, ha="right", **small)
    with replacing(path) as temporary:
        fig.canvas.draw()  # savefig would draw twice, once for the layout alone
        pixels = fig.canvas.buffer_rgba()
        plt.imsave(temporary, pixels, format="png", dpi=fig.dpi, metadata={"Software": None})
    plt.close(fig)


def legend_below(ax: "Axes", **options) -> None:
    """A legend under an axis and its label, off the data."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0, -0.42, ax.figure.dpi_scale_trans)  # inches
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, **options)


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
