"""Figures that show images, class maps and what changes in them."""

import base64
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from PIL import Image
from torch import Tensor

from dlilib.analysis.figures.style import (
    CLASS_PALETTE,
    FREE_COLOUR,
    SMALL,
    panels,
    state_all,
    styled,
    wrapped,
)
from dlilib.tiles import IGNORE, TileSet

Batch = tuple[Tensor, Tensor, Tensor]  # images (B, C, H, W), masks (B, H, W), labels (B,)
IGNORED_COLOUR = (0.5, 0.5, 0.5)
# background is transparent
CLASS_COLOURS = ListedColormap([(0, 0, 0, 0), *CLASS_PALETTE, IGNORED_COLOUR])
GRID_WIDTH = 6.4  # inches, of a grid of images, as long as each has the least side
SIDES = 0.75, 1.4  # inches: the least and the greatest side of an image
GREATEST_CHANGE = 0.3  # where the colours of `changes` end


@styled
def image_grid(
    rows: Sequence[Sequence[Tensor]], columns: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """Draw rows of images and class maps, as in Figures 4, 6, 7 and 8.

    Args:
        rows: Of images (C, H, W), float in [0, 1] or uint8, and class maps (H, W), 0 background,
            in which each class has a colour.
        columns: A title for each column.
        names: A name for each row.

    Returns:
        The Axes: (rows, columns).

    Example:
        >>> tiles = dlilib.toy_tiles()
        >>> rows = [[tiles.images[i], tiles.masks[i]] for i in (240, 270)]
        >>> axes = image_grid(rows, columns=["image", "mask"], names=["Blowhole", "Break"])
        >>> axes.shape
        (2, 2)
    """
    side = float(np.clip(GRID_WIDTH / len(columns), *SIDES))
    size = (side * len(columns), side * len(rows))
    shape = (len(rows), len(columns))
    _, axes = plt.subplots(*shape, figsize=size, squeeze=False)
    for line, images, name in zip(axes, rows, names, strict=True):
        for ax, image in zip(line, images, strict=True):
            show_image(ax, image)
        line[0].set_ylabel(name)
    for ax, title in zip(axes[0], columns, strict=True):
        _name(ax, wrapped(title, round(11 * side)))
    return axes


def _name(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="center", fontsize=SMALL, weight="normal")


@styled
def overview(batches: dict[str, Batch], names: Sequence[str], side: int = 4) -> list[Axes]:
    """Draw Figure 1: batches beside each other, such as one before and after injection.

    Each batch shows its first side² images, defects outlined, above bars that count all of its
    images by class.

    Args:
        batches: Title -> images, masks and labels of a batch.
        names: Of the labels, the defect-free one first.
        side: How many images a batch shows in a row, and how many rows of them.

    Returns:
        The Axes of the bars.
    """
    colours = [FREE_COLOUR, *CLASS_PALETTE[: len(names) - 1]]
    counts = {}
    for title, (_, _, labels) in batches.items():
        counts[title] = np.bincount(labels, minlength=len(names))
    most = max(count.max() for count in counts.values())
    width = GRID_WIDTH / 3  # inches, of a batch
    below = 0.3 + 0.17 * len(names)  # inches, of the bars
    figure = plt.figure(figsize=(width * len(batches), width + 0.5 + below))
    grid = figure.subfigures(2, len(batches), squeeze=False, height_ratios=(width + 0.5, below))
    lines = [wrapped(title, 22).split("\n") for title in batches]
    height = max(len(title) for title in lines)
    bars = []
    for above, under, title, words in zip(*grid, batches, lines, strict=True):
        words += [""] * (height - len(words))  # so that the images of all batches are level
        above.suptitle("\n".join(words), fontsize=SMALL, weight="normal")
        _show_outlined(above.subplots(side, side).flatten(), batches[title], colours)
        ax = under.subplots()
        ax.bar_label(ax.barh(names, counts[title], color=colours), padding=2, fontsize=SMALL)
        ax.set(xticks=[], xlim=(0, 1.3 * most))
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.spines[:].set_visible(False)
        bars.append(ax)
    return bars


def _show_outlined(axes: Sequence[Axes], batch: Batch, colours: Sequence) -> None:
    """Draw a batch's first images, each with its defect outlined in the colour of its label."""
    images, masks, labels = batch
    shown = min(len(labels), len(axes))
    for k in range(shown):
        label = int(labels[k])
        show_image(axes[k], images[k])
        axes[k].spines[:].set(color=colours[label], linewidth=2, visible=True)
        if label:
            inside = masks[k].numpy() == label
            axes[k].contour(inside, [0.5], colors=[colours[label]], linewidths=1)
    for ax in axes[shown:]:
        ax.set_axis_off()


def show_image(ax: Axes, image: Tensor) -> None:
    """Draw an image or a class map on `ax`, without ticks.

    Args:
        ax: Where to draw.
        image: (C, H, W), uint8 or float in [0, 1], or a class map (H, W), 0 background; what is
            ignored is grey and hatched.
    """
    if image.ndim == 2:
        ax.set_facecolor("black")
        ax.imshow(
            image.numpy(),
            cmap=CLASS_COLOURS,
            vmin=0,
            vmax=CLASS_COLOURS.N - 1,
            interpolation="nearest",
        )
        ignored = image.numpy() == IGNORE
        if ignored.any():
            ax.contourf(ignored, levels=[0.5, 1.5], colors="none", hatches=["////"])
    else:
        brightest = 255 if image.dtype == torch.uint8 else 1
        pixels = (image.float() / brightest).clamp(0, 1)
        ax.imshow(pixels.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)  # (H, W, C)
    ax.set(xticks=[], yticks=[])


def example_maps(record: dict) -> dict[str, Tensor]:
    """Read the class maps that a record keeps: those predicted at the best epoch.

    Returns:
        Name of the image -> class map (H, W), uint8.
    """
    maps = {}
    for name, png in record["best"]["examples"].items():
        pixels = Image.open(io.BytesIO(base64.b64decode(png)))
        maps[name] = torch.from_numpy(np.array(pixels))
    return maps


def predicted_masks(tiles: TileSet, records: dict[str, dict | None]) -> np.ndarray | None:
    """Draw Figures 4, 6 and 7: an image of each class, its mask and the predicted ones.

    Args:
        tiles: The data set.
        records: Title -> record, of runs on one split; those that are None are left out.

    Returns:
        The Axes, or None without a record.
    """
    maps = {title: example_maps(record) for title, record in records.items() if record}
    if not maps:
        return None
    first = next(iter(maps.values()))  # one split, so the others keep the same images
    rows, classes = [], []
    for name in first:
        i = tiles.names.index(name)
        predicted = [by_image[name] for by_image in maps.values()]
        rows.append([tiles.images[i], tiles.masks[i], *predicted])
        classes.append(tiles.classes[tiles.labels[i] - 1])
    grid = image_grid(rows, ["image", "truth", *maps], classes)
    for ax, name in zip(grid[:, 0], classes, strict=True):  # the colours' key
        ax.yaxis.label.set(color=CLASS_PALETTE[tiles.classes.index(name)], weight="bold")
    return grid


@styled
def changes(maps: dict[str, Tensor], name: str) -> list[Axes]:
    """Draw where and how much several settings change one image.

    Args:
        maps: Setting -> absolute change of each pixel (H, W), in [0, 1].
        name: Of the class that was injected.

    Returns:
        The Axes, one for each setting.
    """
    axes = panels(len(maps), 0.9 + 2.6 * -(-len(maps) // 2), columns=2)
    for ax, (setting, change) in zip(axes, maps.items(), strict=True):
        shown = ax.imshow(change.numpy(), cmap="rocket", vmin=0, vmax=GREATEST_CHANGE)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        _name(ax, setting)
    label = f"absolute change of one image, in [0, 1]; injected class: {name}"
    axes[0].figure.colorbar(shown, ax=axes, location="bottom", extend="max", label=label, aspect=40)
    means = {setting: float(change.mean()) for setting, change in maps.items()}
    least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    state_all(
        axes[0],
        f"Mean change of a pixel: from {means[least]:.2g} ({least}) to {means[most]:.2g} ({most})",
    )
    return axes
