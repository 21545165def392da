"""Figures of a data set."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dlilib.analysis.figures.style import (
    CLASS_PALETTE,
    FREE_COLOUR,
    axes_or_new,
    panels,
    percent,
    state,
    styled,
    wrapped,
)
from dlilib.tiles import FREE, TileSet
from dlilib.wording import listed

MOST_IMAGES = 20  # of one part: those with more are counted here


@styled
def class_distribution(tiles: TileSet, ax: Axes | None = None) -> Axes:
    """Draw Figure 2: images per class, the defect-free ones last.

    Args:
        tiles: The data set.
        ax: Where to draw; None: on a new figure.
    """
    counts = tiles.counts()
    ax = axes_or_new(ax, 1.3 + 0.28 * len(counts))
    colours = [*CLASS_PALETTE[: tiles.num_classes], FREE_COLOUR]
    bars = ax.barh(list(counts), list(counts.values()), color=colours)
    ax.bar_label(bars, fmt="{:,.0f}", padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(wrapped(f"images of {tiles.source}, n = {len(tiles):,}", 70))
    state(ax, _imbalance(counts))
    return ax


def _imbalance(counts: dict[str, int]) -> str:
    """The share of defect-free images, which are the last count, and the rarest defect."""
    *defects, (_, free) = counts.items()
    everything = sum(counts.values())
    fewest = min(count for _, count in defects)
    rarest = [name for name, count in defects if count == fewest]
    if len(rarest) == 1:
        ending = f"the rarest defect, {rarest[0]}, has {fewest:,}"
    else:
        ending = f"the rarest defects, {listed(rarest)}, have {fewest:,} each"
    return f"{percent(free / everything)} of {everything:,} images are defect-free; {ending}"


@styled
def areas_and_sizes(images: pd.DataFrame, classes: Sequence[str]) -> list[Axes]:
    """Draw how large the defects and the images are, and how many images show one part.

    Args:
        images: As `dataset.images` gives them.
        classes: Names of the defect classes.

    Returns:
        The three Axes: boxes of the mask areas, points of the sizes, bars of images a part.
    """
    axes = panels(3, 8.6)
    colours = {FREE: FREE_COLOUR, **dict(zip(classes, CLASS_PALETTE, strict=False))}
    _areas(axes[0], images[images["mask share, %"] > 0], classes, colours)
    _sizes(axes[1], images, colours)
    _images_of_parts(axes[2], images.groupby("part").size())
    return axes


def _areas(ax: Axes, images: pd.DataFrame, classes: Sequence[str], colours: dict) -> None:
    by_class = [images.loc[images["class"] == name, "mask share, %"] for name in classes]
    options = {"orientation": "horizontal", "widths": 0.7, "patch_artist": True}
    boxes = ax.boxplot(by_class, tick_labels=classes, flierprops={"markersize": 2}, **options)
    for name, box, median in zip(classes, boxes["boxes"], boxes["medians"], strict=True):
        box.set_facecolor(colours[name])
        median.set_color("black")
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlabel(f"mask area, % of the image; n = {len(images)} (empty masks left out)")
    ax.xaxis.set_major_formatter("{x:g}")
    medians = images.groupby("class")["mask share, %"].median()
    if len(medians):
        small, large = medians.idxmin(), medians.idxmax()
        state(
            ax,
            f"Median mask: from {medians[small]:.2g} % ({small}) "
            f"to {medians[large]:.2g} % of the image ({large})",
        )


def _sizes(ax: Axes, images: pd.DataFrame, colours: dict) -> None:
    ax.scatter(images["width"], images["height"], s=10, color=images["class"].map(colours))
    ax.set(
        xlabel=f"width, pixels, before resizing; n = {len(images):,}\n"
        "colours as above, grey: defect-free",
        ylabel="height, pixels",
    )
    state(ax, f"Images: {_span(images['width'])} pixels wide, {_span(images['height'])} high")


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _images_of_parts(ax: Axes, per_part: pd.Series) -> None:
    """per_part: how many images each part has."""
    counts = np.bincount(per_part.clip(upper=MOST_IMAGES), minlength=2)[1:]
    ax.bar(range(1, len(counts) + 1), counts, color=FREE_COLOUR)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel(
        f"images of one part ({MOST_IMAGES}: {MOST_IMAGES} or more); n = {len(per_part)} parts"
    )
    ax.set_ylabel("parts")
    more = int((per_part > 1).sum())
    state(ax, f"{more} of {len(per_part)} parts have several images, one has {per_part.max()}")
