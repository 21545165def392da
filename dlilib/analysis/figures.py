"""The study's figures: one function each, on Axes that can be placed anywhere."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from PIL import Image
from torch import Tensor

from dlilib.analysis.stats import IOU_RANGE, estimate
from dlilib.analysis.tables import PAPER_IMAGES, learning_curve
from dlilib.losses import METHODS
from dlilib.metrics import NOTHING
from dlilib.tiles import IGNORE, MOST_CLASSES, TileSet

PALETTE = sns.color_palette("colorblind", 10)
METHOD_COLOURS = dict(zip(METHODS, itertools.cycle(PALETTE), strict=False))
CLASS_PALETTE = sns.color_palette("colorblind", MOST_CLASSES)  # its ten colours again and again
Batch = tuple[Tensor, Tensor, Tensor]  # images (B, C, H, W), masks (B, H, W), labels (B,)
IGNORED_COLOUR = (0.5, 0.5, 0.5)
# background is transparent
CLASS_COLOURS = ListedColormap([(0, 0, 0, 0), *CLASS_PALETTE, IGNORED_COLOUR])


def class_distribution(tiles: TileSet, ax: Axes | None = None) -> Axes:
    """Draw Figure 2: images per class, the defect-free ones last.

    Args:
        tiles: The data set.
        ax: Where to draw; None: on a new figure.
    """
    counts = tiles.counts()
    colours = [*CLASS_PALETTE[: tiles.num_classes], "0.6"]
    ax = _axes(ax, 6, 3.5)
    sns.barplot(
        x=list(counts),
        y=list(counts.values()),
        hue=list(counts),
        palette=dict(zip(counts, colours, strict=True)),
        legend=False,
        ax=ax,
    )
    for bars in ax.containers:
        ax.bar_label(bars)
    ax.margins(y=0.12)
    ax.set(xlabel="", ylabel="images", title=f"{tiles.source}, n = {len(tiles)}")
    return ax


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The Axes that are given, else those of a new figure of this size in inches."""
    if ax is not None:
        return ax
    _, new = plt.subplots(figsize=(width, height))
    return new


def class_iou_bars(frame: pd.DataFrame, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw Figure 3: IoU of each class and method, with a red line at DLI's level.

    Bars are means over the runs, with 95 % intervals. A class without a pixel to find in any run's
    validation images is marked "–".

    Args:
        frame: The runs' records, as `records.records` gives them.
        classes: Names of the defect classes.
        ax: Where to draw; None: on a new figure.
    """
    columns = [f"iou_{name}" for name in classes]
    long = frame.melt(["method", "seed"], columns, "class", "IoU")
    long["class"] = long["class"].str.removeprefix("iou_")
    found = set(long["method"])
    methods = [method for method in METHOD_COLOURS if method in found]
    ax = _axes(ax, 8, 3.5)
    sns.barplot(
        long,
        x="class",
        y="IoU",
        order=classes,
        hue="method",
        hue_order=methods,
        palette=METHOD_COLOURS,
        errorbar=_interval,
        err_kws={"linewidth": 1},
        ax=ax,
    )
    dli = long[long["method"] == "dli"]
    for k, name in enumerate(classes):
        level = dli.loc[dli["class"] == name, "IoU"].mean()
        if long.loc[long["class"] == name, "IoU"].isna().all():
            ax.text(k, 0.02, NOTHING, ha="center")
            ax.update_datalim([(k - 0.4, 0), (k + 0.4, 0)])  # or the axis leaves its place out
        ax.hlines(level, k - 0.4, k + 0.4, color="crimson", linewidth=1)
    encoders = ", ".join(frame["encoder"].unique())
    n = f"n {'≤' if long['IoU'].isna().any() else '='} {frame['seed'].nunique()}"
    title = f"{encoders}: IoU per class at the best epoch, {n}; red line: DLI"
    ax.set(xlabel="", ylim=(0, 1), title=title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(methods), frameon=False)
    return ax


def _interval(values: pd.Series) -> tuple[float, float]:
    found = estimate(values, within=IOU_RANGE)
    return found.low, found.high


def data_fraction(
    summary: pd.DataFrame, drop: pd.DataFrame, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw Figure 5: IoU against the share of training data, and its drop from all of the data.

    Args:
        summary: method, fraction, mean, low, high and n, as `stats.summarise` gives them. Rows that
            are pending are left out.
        drop: As `stats.drop` gives it.
        axes: Two to draw on; None: those of a new figure.

    Returns:
        The two Axes.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    absolute, relative = axes
    finished = summary.dropna(subset="mean").sort_values("fraction")
    for method, found in finished.groupby("method"):
        style = {"color": METHOD_COLOURS[method], "marker": "o", "label": method}
        percent = 100 * found["fraction"]
        absolute.errorbar(percent, found["mean"], _error_bars(found), capsize=3, **style)
        change = drop[method].dropna()
        relative.plot(100 * change.index, change, **style)
    title = f"absolute, n ≤ {summary['n'].max()}"
    absolute.set(xlabel="training data, %", ylabel="micro IoU", title=title)
    relative.set(xlabel="training data, %", ylabel="change from 100 %, %", title="relative drop")
    if absolute.has_data():
        absolute.legend(frameon=False)
    for ax in (absolute, relative):
        sns.despine(ax=ax)
    return axes


def _error_bars(rows: pd.DataFrame) -> np.ndarray:
    """Lengths (2, N) of the error bars below and above the means: 0 where there is no interval."""
    return np.nan_to_num([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])


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
    size = (1.5 * len(columns), 1.5 * len(rows))
    shape = (len(rows), len(columns))
    _, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for line, images, name in zip(axes, rows, names, strict=True):
        for ax, image in zip(line, images, strict=True):
            show_image(ax, image)
        line[0].set_ylabel(name)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize="medium")
    return axes


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
    colours = ["0.6", *CLASS_PALETTE[: len(names) - 1]]
    counts = {}
    for title, (_, _, labels) in batches.items():
        counts[title] = np.bincount(labels, minlength=len(names))
    tallest = max(count.max() for count in counts.values())
    figure = plt.figure(figsize=(4 * len(batches), 5.6), layout="constrained")
    panels = figure.subfigures(1, len(batches), squeeze=False)[0]
    bars = []
    for panel, title in zip(panels, batches, strict=True):
        above, below = panel.subfigures(2, 1, height_ratios=(3, 1))
        above.suptitle(title)
        _show_outlined(above.subplots(side, side).flatten(), batches[title], colours)
        ax = below.subplots()
        ax.bar_label(ax.bar(names, counts[title], color=colours))
        ax.set(yticks=[], ylim=(0, 1.3 * tallest))
        ax.tick_params(axis="x", labelsize="small", length=0)
        sns.despine(ax=ax, left=True)
        bars.append(ax)
    return bars


def _show_outlined(axes: Sequence[Axes], batch: Batch, colours: Sequence) -> None:
    """Draw a batch's first images, each with its defect outlined in the colour of its label."""
    images, masks, labels = batch
    shown = min(len(labels), len(axes))
    for k in range(shown):
        label = int(labels[k])
        show_image(axes[k], images[k])
        axes[k].spines[:].set(color=colours[label], linewidth=2)
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
    return image_grid(rows, ["image", "truth", *maps], classes)


def learning_curves(records: dict[str, dict]) -> list[Axes]:
    """Draw IoU on the validation images against training images seen.

    One panel is for all classes, and one for each class; one without a pixel to find in any run's
    validation images is marked "–". On the Magnetic Tiles the first panel marks how many images the
    paper trains on.

    Args:
        records: Title -> record; each is a line.

    Returns:
        The Axes.
    """
    first = next(iter(records.values()))
    num_panels = 1 + len(first["data"]["classes"])
    figure, grid = plt.subplots(
        2,
        math.ceil(num_panels / 2),
        figsize=(12, 7),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    axes = list(grid.flat)
    for k, (title, record) in enumerate(records.items()):
        colour = PALETTE[k % len(PALETTE)]
        curves = learning_curve(record).groupby("what", sort=False)
        for ax, (name, found) in zip(axes, curves, strict=False):
            ax.plot(found["images"], found["IoU"], color=colour, label=title, linewidth=1.2)
            ax.set(title=name, xscale="log", ylim=(-0.03, 1))
    for ax in axes[:num_panels]:
        if all(np.isnan(line.get_ydata()).all() for line in ax.lines):
            ax.text(0.5, 0.5, NOTHING, transform=ax.transAxes, ha="center", fontsize="x-large")
    if all(record["run"]["data"] == "magnetic_tiles" for record in records.values()):
        label = "images in the paper: 1.26 million"
        axes[0].axvline(PAPER_IMAGES, color="0.4", linestyle=":", label=label)
    _mark_powers_of_ten(axes[0])
    for ax in axes[num_panels:]:
        ax.set_axis_off()
    figure.supxlabel("training images seen", fontsize="medium")
    figure.supylabel("IoU of the validation images", fontsize="medium")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=2, frameon=False)
    sns.despine(figure)
    return axes


def _mark_powers_of_ten(ax: Axes) -> None:
    """Put ticks at 1, 10, …, and where they would be few also at 2 and 5 times these."""
    low, high = ax.get_xlim()
    multiples = (1, 2, 5) if high < 100 * low else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=multiples))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_locator(NullLocator())


def few_shot(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw micro IoU of each variant and number of shots: a dot for each seed, a bar at their mean.

    Args:
        frame: Rows of `few_shot.runs`.
        ax: Where to draw; None: on a new figure.
    """
    variants = list(dict.fromkeys(frame["variant"]))
    ax = _axes(ax, 8, 1 + 0.45 * len(variants))
    style = {
        "x": "iou",
        "y": "variant",
        "hue": "shots",
        "order": variants,
        "palette": PALETTE[: frame["shots"].nunique()],
    }
    sns.barplot(frame, errorbar=None, alpha=0.4, ax=ax, **style)
    sns.stripplot(frame, dodge=True, jitter=False, legend=False, ax=ax, **style)
    data = frame["run"].iloc[0].data
    encoders = ", ".join(frame["encoder"].unique())
    n = frame.dropna(subset="iou")["seed"].nunique()
    title = (
        f"{data}, {encoders}: last epoch, n ≤ {n} seeds\nNBR and weighted BCE in our interpretation"
    )
    ax.set(xlabel="micro IoU of the parts that are left", ylabel="", title=title)
    ax.legend(
        title="annotated images a class", frameon=False, bbox_to_anchor=(1, 1), loc="upper left"
    )
    sns.despine(ax=ax)
    return ax


def feature_planes(records: dict[str, dict]) -> np.ndarray:
    """Draw normal and defect cells of the validation images on two principal directions.

    Args:
        records: Title -> record of a few-shot run, whose encoder's features they are.

    Returns:
        The Axes, one for each record.
    """
    figure, axes = plt.subplots(
        1,
        len(records),
        figsize=(3.2 * len(records), 3.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    axes = axes[0]
    for ax, (title, record) in zip(axes, records.items(), strict=True):
        features = record["features"]
        for name, colour in (("normal", "0.6"), ("defect", PALETTE[3])):
            x, y = np.transpose(features[name])
            ax.scatter(x, y, s=8, color=colour, label=f"{name}, n = {len(x)}")
        ax.set(
            xticks=[],
            yticks=[],
            aspect="equal",
            xlabel="first principal direction",
            ylabel="second",
        )
        ax.set_title(f"{title}\nAUROC {features['auroc']:.3f}", fontsize="medium")
    points, labels = axes[0].get_legend_handles_labels()
    figure.legend(points, labels, loc="outside lower center", ncols=2, frameon=False)
    return axes


def effects(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw each claim's difference under each protocol, beside the paper's (diamond).

    Intervals are those of the claims. What is pending or not measurable is left out, and a claim
    of which nothing is left says why.

    Args:
        frame: Rows of `claims.claims`, of one encoder.
        ax: Where to draw; None: on a new figure.
    """
    measured = frame[(frame["n"] > 0) & (frame["state"] != "not measurable")]
    claims = list(dict.fromkeys(frame["claim"]))[::-1]  # the first one is drawn on top
    row_of = {claim: row for row, claim in enumerate(claims)}
    protocols = list(dict.fromkeys(measured["protocol"]))
    ax = _axes(ax, 8, 1 + 0.6 * len(claims))
    for k, (protocol, colour) in enumerate(zip(protocols, itertools.cycle(PALETTE), strict=False)):
        found = measured[measured["protocol"] == protocol]
        offset = 0.3 - 0.6 * k / max(1, len(protocols) - 1)
        ax.errorbar(
            found["mean"],
            found["claim"].map(row_of) + offset,
            xerr=_error_bars(found),
            fmt="o",
            color=colour,
            label=protocol,
            capsize=2,
            markersize=4,
        )
    paper = frame.drop_duplicates("claim").dropna(subset="paper")
    height = paper["claim"].map(row_of) + 0.42
    ax.plot(paper["paper"], height, "D", color="black", markersize=5, label="paper")
    ax.axvline(0, color="0.6", linewidth=1)
    for claim, row in row_of.items():
        ax.axhline(row - 0.5, color="0.9", linewidth=1, zorder=0)
        if claim not in set(measured["claim"]):
            why = frame.loc[frame["claim"] == claim, "state"].iloc[0]
            ax.annotate(why, (0, row), (4, 0), textcoords="offset points", va="center", color="0.4")
    ax.set(
        yticks=range(len(claims)),
        yticklabels=claims,
        xlabel="difference in IoU, 95 % interval where n > 1",
    )
    ax.set_title(f"{', '.join(frame['encoder'].unique())}, n ≤ {frame['n'].max()} seeds")
    ax.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    sns.despine(ax=ax)
    return ax


def save(ax: Axes, folder: str | Path, name: str) -> None:
    """Write the figure that holds `ax` to folder/figures/name.png."""
    path = Path(folder) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    ax.get_figure(root=True).savefig(path, dpi=150, bbox_inches="tight")


def timings(frame: pd.DataFrame, by: str, label: str) -> Axes:
    """Draw milliseconds, as medians with quartiles, each with its ratio to the first step.

    Args:
        frame: Rows of `speed.compare`, with another column.
        by: The name of that column, whose values group the points.
        label: What the axis calls it.
    """
    names = list(dict.fromkeys(frame["what"]))
    groups = list(dict.fromkeys(frame[by]))
    ax = _axes(None, 8, 1 + 0.3 * len(names) * len(groups))
    for k, (name, colour) in enumerate(zip(names, itertools.cycle(PALETTE), strict=False)):
        rows = frame[frame["what"] == name].set_index(by).reindex(groups)
        height = np.arange(len(groups)) + 0.7 * (k / max(1, len(names) - 1) - 0.5)
        spread = [rows["ms"] - rows["low"], rows["high"] - rows["ms"]]
        ax.errorbar(rows["ms"], height, xerr=spread, fmt="o", color=colour, label=name, capsize=2)
        for y, row in zip(height, rows.itertuples(), strict=True):
            text = f"{row.ms:.3g} ms, × {row.ratio:.3g}"
            ax.annotate(text, (row.high, y), (8, 0), textcoords="offset points", va="center")
    ax.set(
        xscale="log",
        xlabel=f"milliseconds: median and quartiles of {frame['n'].min()}",
        ylabel=label,
        yticks=range(len(groups)),
        yticklabels=groups,
        xlim=(None, 5 * frame["high"].max()),
    )
    ax.invert_yaxis()
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0 + 0.5 / ax.figure.get_figheight()),
        ncol=4,
        frameon=False,
    )
    sns.despine(ax=ax)
    return ax
