"""Figures of measured times."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from dlilib.analysis.figures.style import (
    HEADER,
    PALETTE,
    SMALL,
    name_rows,
    panels,
    state,
    styled,
)

STEP = 0.34  # inches, of a step's words and its point


@styled
def timings(frame: pd.DataFrame, by: str, label: str) -> Axes:
    """Draw milliseconds, as medians with quartiles, each with its ratio to the first step.

    Args:
        frame: Rows of `speed.compare`, with another column.
        by: The name of that column, whose values group the points.
        label: What stands before these values.
    """
    names, groups = frame["what"].unique(), frame[by].unique()
    row = HEADER + STEP * len(names) + 0.05
    (ax,) = panels(1, 1.2 + row * len(groups))
    name_rows(ax, [f"{label} {group}" for group in groups], row)
    for k, group in enumerate(groups):
        for j, name in enumerate(names):
            top = k * row + HEADER + j * STEP
            found = frame[(frame[by] == group) & (frame["what"] == name)]
            for step in found.itertuples():
                _time(ax, step, top, PALETTE[j % len(PALETTE)])
    n = frame["n"].min()
    ax.set(xscale="log")
    few = frame["high"].max() < 10 * frame["low"].min()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if few else (1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"milliseconds: median and quartiles of n = {n} repeats")
    state(ax, _comparison(frame), chars=60)
    return ax


def _time(ax: Axes, step: tuple, top: float, colour: tuple) -> None:
    """A step's name, median and ratio, and below them its point."""
    text = f"{step.what}: {_rounded(step.ms, 3)} ms, × {_rounded(step.ratio, 3)}"
    where = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (0, top), (0, -2), va="top", fontsize=SMALL, **where)
    spread = [[step.ms - step.low], [step.high - step.ms]]
    ax.errorbar(step.ms, top + 0.7 * STEP, xerr=spread, fmt="o", color=colour, capsize=2)


def _comparison(frame: pd.DataFrame) -> str:
    """How long the first step takes, and how many times as long what is not of its name."""
    ours = frame["what"].iloc[0]
    text = f"{ours} takes {_span(frame.loc[frame['what'] == ours, 'ms'])} ms"
    others = frame[~frame["what"].str.startswith(ours)]
    if others.empty:
        return text
    names = others["what"].unique()
    who = names[0] if len(names) == 1 else f"{len(names)} others"
    return f"{text}; {who} {_span(others['ratio'])} times as long"


def _span(values: pd.Series) -> str:
    low, high = (_rounded(value, 2) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _rounded(value: float, digits: int) -> str:
    return f"{float(f'{value:.{digits}g}'):,g}"
