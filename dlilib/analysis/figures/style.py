"""What all figures share: colours, sizes, titles and how they are saved."""

import functools
import itertools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from dlilib.losses import METHODS
from dlilib.tiles import MOST_CLASSES
from dlilib.wording import counted

Drawn = TypeVar("Drawn")
PALETTE = sns.color_palette("colorblind", 10)
METHOD_COLOURS = dict(zip(METHODS, itertools.cycle(PALETTE), strict=False))
CLASS_PALETTE = sns.color_palette("colorblind", MOST_CLASSES)  # its ten colours again and again
FREE_COLOUR = "0.6"

WIDTH = 5.6  # inches; at the 350 pixels of a phone's page 9 points are then 8 pixels
SMALL = 9  # points
HEADER = 0.24  # inches, of a name above its row
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.labelsize": SMALL,
    "axes.labelcolor": "0.25",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.edgecolor": "0.4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def styled(draw: Callable[..., Drawn]) -> Callable[..., Drawn]:
    """Let a function draw in this style; the user's own settings stay as they are."""

    @functools.wraps(draw)
    def drawn(*args: Any, **options: Any) -> Drawn:
        with plt.style.context(["default", STYLE]):
            found = draw(*args, **options)
            interactive = plt.isinteractive()
        # Jupyter switches this on with the first figure, and the context off again: then no later
        # figure is shown.
        plt.interactive(interactive)
        return found

    return drawn


def axes_or_new(ax: Axes | None, height: float) -> Axes:
    """Return `ax` if given, else the Axes of a new figure of this height in inches."""
    return panels(1, height)[0] if ax is None else ax


def panels(count: int, height: float, columns: int = 1, **shared: bool) -> list[Axes]:
    """Return the Axes of a new figure of this height in inches, row by row."""
    rows = -(-count // columns)
    _, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **shared)
    axes = list(grid.flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return axes[:count]


def state(ax: Axes, finding: str, chars: int = 54) -> None:
    """Write what a plot shows above it."""
    ax.set_title(wrapped(finding, chars), loc="left")


def state_all(ax: Axes, finding: str) -> None:
    """Write what all panels show above the figure that holds `ax`."""
    ax.get_figure(root=True).suptitle(wrapped(finding, 61), x=0.01, ha="left")


def wrapped(text: str, chars: int) -> str:
    """Break lines that are longer than this, between words."""
    lines = [
        textwrap.fill(line, chars, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    ]
    return "\n".join(lines)


def legend_below(ax: Axes, columns: int, lines: int) -> None:
    """Draw the legend under what stands below the axis: so many lines of text."""
    down = -(0.8 + 1.3 * lines) * SMALL
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=offset_copy(ax.transAxes, ax.figure, y=down, units="points"),
        ncols=columns,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=1,
        borderaxespad=0.2,
    )


def name_rows(ax: Axes, names: Sequence[str], height: float) -> None:
    """Give each name a row of this height, the first one on top, and write it above what is in it.

    The axis then counts inches from the top; the name takes the first `HEADER` of its row.
    """
    for k, name in enumerate(names):
        top = (0, k * height)
        where = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        style = {"weight": "bold", "fontsize": SMALL}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(name, top, (0, -3), va="top", **where, **style)
        if k > 0:
            ax.axhline(k * height, color="0.9", linewidth=1, zorder=0)
    ax.set(ylim=(len(names) * height, 0), yticks=[])
    ax.spines["left"].set_visible(False)


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def seeds(fewest: int, most: int) -> str:
    """Write how many seeds there are."""
    return f"n {'=' if fewest == most else '≤'} {counted(most, 'seed')}"


def save(ax: Axes, folder: str | Path, name: str) -> None:
    """Write the figure that holds `ax` to folder/figures/name.png."""
    path = Path(folder) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    ax.get_figure(root=True).savefig(path, dpi=200, bbox_inches="tight")
