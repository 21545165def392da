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

from dlilib.analysis.stats import SHARE, estimate
from dlilib.analysis.tables import PAPER_IMAGES, learning_curve
from dlilib.losses import METHODS
from dlilib.tiles import TileSet

PALETTE = sns.color_palette("colorblind", 10)
METHOD_COLOURS = {name: PALETTE[method.colour] for name, method in METHODS.items()}
CLASS_PALETTE = sns.color_palette("colorblind", 255)  # its ten colours again and again
Batch = tuple[Tensor, Tensor, Tensor]  # images (B, C, H, W), masks (B, H, W), labels (B,)
CLASS_COLOURS = ListedColormap([(0, 0, 0, 0), *CLASS_PALETTE])  # background is transparent


def class_distribution(tiles: TileSet, ax: Axes | None = None) -> Axes:
    """Figure 2: images per class, free ones last."""
    counts = tiles.counts()
    colours = dict(zip(counts, [*CLASS_PALETTE[: tiles.num_classes], "0.6"], strict=True))
    ax = ax or plt.subplots(figsize=(6, 3.5))[1]
    sns.barplot(
        x=list(counts),
        y=list(counts.values()),
        hue=list(counts),
        palette=colours,
        legend=False,
        ax=ax,
    )
    for bars in ax.containers:
        ax.bar_label(bars)
    ax.margins(y=0.12)
    ax.set(xlabel="", ylabel="images", title=f"{tiles.source}, n = {len(tiles)}")
    return ax


def class_iou_bars(frame: pd.DataFrame, classes: Sequence[str], ax: Axes | None = None) -> Axes:
    """Figure 3: IoU of each class and method, mean of the frame's runs with its 95 % interval; red: DLI's level."""
    long = frame.melt(["method", "seed"], [f"iou_{name}" for name in classes], "class", "IoU")
    long["class"] = long["class"].str.removeprefix("iou_")
    methods = [m for m in METHOD_COLOURS if m in set(long["method"])]
    ax = ax or plt.subplots(figsize=(8, 3.5))[1]
    style = {"hue_order": methods, "palette": METHOD_COLOURS, "err_kws": {"linewidth": 1}}
    sns.barplot(long, x="class", y="IoU", hue="method", ax=ax, errorbar=_interval, **style)
    for k, name in enumerate(classes):
        level = long.loc[(long["method"] == "dli") & (long["class"] == name), "IoU"].mean()
        ax.hlines(level, k - 0.4, k + 0.4, color="crimson", linewidth=1)
    n = frame["seed"].nunique()
    title = f"{', '.join(frame['encoder'].unique())}: IoU per class at the best epoch, n = {n}; red line: DLI"
    ax.set(xlabel="", ylim=(0, 1), title=title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(methods), frameon=False)
    return ax


def _interval(values: pd.Series) -> tuple[float, float]:
    found = estimate(values, within=SHARE)
    return found.low, found.high


def data_fraction(
    summary: pd.DataFrame, drop: pd.DataFrame, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Figure 5: IoU against the share of training data, and its drop from all of it, of each method.

    summary: method, fraction, mean, low, high, as `stats.summarise` gives them; pending points are left out. drop: as
    `stats.drop` gives it.
    """
    axes = plt.subplots(1, 2, figsize=(9, 3.5))[1] if axes is None else axes
    for method, found in summary.dropna(subset="mean").sort_values("fraction").groupby("method"):
        percent, colour = 100 * found["fraction"], METHOD_COLOURS[method]
        spread = np.nan_to_num([found["mean"] - found["low"], found["high"] - found["mean"]])
        axes[0].errorbar(
            percent, found["mean"], spread, color=colour, marker="o", label=method, capsize=3
        )
        change = drop[method].dropna()
        axes[1].plot(100 * change.index, change, color=colour, marker="o", label=method)
    axes[0].set(
        xlabel="training data, %", ylabel="micro IoU", title=f"absolute, n ≤ {summary['n'].max()}"
    )
    axes[1].set(xlabel="training data, %", ylabel="change from 100 %, %", title="relative drop")
    if axes[0].has_data():
        axes[0].legend(frameon=False)
    sns.despine(ax=axes[0])
    sns.despine(ax=axes[1])
    return axes


def image_grid(
    rows: Sequence[Sequence[Tensor]], columns: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """Figures 4, 6, 7 and 8: rows of images and class maps, each with its name; returns the Axes.

    An image is (C, H, W), float in [0, 1] or uint8, a class map (H, W) with 0 background, a colour for each class.
    """
    size = (1.5 * len(columns), 1.5 * len(rows))
    axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")[
        1
    ]
    for line, images, name in zip(axes, rows, names, strict=True):
        for ax, image in zip(line, images, strict=True):
            show_image(ax, image)
        line[0].set_ylabel(name)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize="medium")
    return axes


def overview(parts: dict[str, Batch], names: Sequence[str], side: int = 4) -> list[Axes]:
    """Figure 1: batches beside each other, as what comes, what is injected and what is fed to the network; the Axes.

    parts: title -> images, masks and labels; the first side² images are shown, defects outlined, and the bars count
    all. names: of the labels.
    """
    colours, bars = ["0.6", *CLASS_PALETTE[: len(names) - 1]], []
    counts = {
        title: np.bincount(labels, minlength=len(names)) for title, (_, _, labels) in parts.items()
    }
    tallest = 1.3 * max(map(max, counts.values()))
    figure = plt.figure(figsize=(4 * len(parts), 5.6), layout="constrained")
    for panel, (title, (images, masks, labels)) in zip(
        figure.subfigures(1, len(parts)), parts.items(), strict=True
    ):
        above, below = panel.subfigures(2, 1, height_ratios=(3, 1))
        above.suptitle(title)
        places, batch = (
            above.subplots(side, side).flat,
            zip(images, masks, labels.tolist(), strict=True),
        )
        for ax in places[len(labels) :]:
            ax.set_axis_off()
        for ax, (image, mask, label) in zip(places, batch, strict=False):
            show_image(ax, image)
            ax.spines[:].set(color=colours[label], linewidth=2)
            if label:
                ax.contour(mask.numpy() == label, [0.5], colors=[colours[label]], linewidths=1)
        bars.append(below.subplots())
        bars[-1].bar_label(bars[-1].bar(names, counts[title], color=colours))
        bars[-1].set(yticks=[], ylim=(0, tallest))
        bars[-1].tick_params(axis="x", labelsize="small", length=0)
        sns.despine(ax=bars[-1], left=True)
    return bars


def show_image(ax: Axes, image: Tensor) -> None:
    """Draw an image (C, H, W), uint8 or float in [0, 1], or a class map (H, W) on `ax`, without ticks."""
    if image.ndim == 2:
        ax.set_facecolor("black")
        ax.imshow(
            image.numpy(),
            cmap=CLASS_COLOURS,
            vmin=0,
            vmax=CLASS_COLOURS.N - 1,
            interpolation="nearest",
        )
    else:
        pixels = image.float() / (255 if image.dtype == torch.uint8 else 1)
        ax.imshow(pixels.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])


def example_maps(record: dict) -> dict[str, Tensor]:
    """Image name -> predicted class map (H, W) at the best epoch, as kept in a record."""
    pngs = record["best"]["examples"].items()
    return {
        name: torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(png)))))
        for name, png in pngs
    }


def predicted_masks(tiles: TileSet, records: dict[str, dict | None]) -> np.ndarray | None:
    """Figures 4 and 7: a validation image of each class, its mask and the one of each record (None: left out).

    The records are of runs on one split. Returns the Axes, or None without a record.
    """
    maps = {title: example_maps(record) for title, record in records.items() if record}
    if not maps:
        return None
    index = [tiles.names.index(name) for name in next(iter(maps.values()))]
    rows = [
        [tiles.images[i], tiles.masks[i], *[m[tiles.names[i]] for m in maps.values()]]
        for i in index
    ]
    return image_grid(
        rows, ["image", "truth", *maps], [tiles.classes[tiles.labels[i] - 1] for i in index]
    )


def learning_curves(records: dict[str, dict]) -> list[Axes]:
    """IoU of the validation images against training images seen: a panel for all classes, one for each; the Axes.

    records: title -> record; a line each. Of runs on the Magnetic Tiles the first panel marks the paper's images.
    """
    classes = next(iter(records.values()))["data"]["classes"]
    size = {"figsize": (12, 7), "sharex": True, "sharey": True, "layout": "constrained"}
    figure, grid = plt.subplots(2, math.ceil((len(classes) + 1) / 2), squeeze=False, **size)
    axes = list(grid.flat)
    for (title, record), colour in zip(records.items(), itertools.cycle(PALETTE), strict=False):
        panels = zip(axes, learning_curve(record).groupby("what", sort=False), strict=False)
        for ax, (name, found) in panels:
            ax.plot(found["images"], found["IoU"], color=colour, label=title, linewidth=1.2)
            ax.set(title=name, xscale="log", ylim=(-0.03, 1))
    if all(record["run"]["data"] == "magnetic_tiles" for record in records.values()):
        axes[0].axvline(
            PAPER_IMAGES, color="0.4", linestyle=":", label="images in the paper: 1.26 million"
        )
    low, high = axes[0].get_xlim()
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0].xaxis.set_minor_locator(NullLocator())
    for ax in axes[len(classes) + 1 :]:
        ax.set_axis_off()
    figure.supxlabel("training images seen", fontsize="medium")
    figure.supylabel("IoU of the validation images", fontsize="medium")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    sns.despine(figure)
    return axes


def few_shot(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Micro IoU of each variant and number of shots: a dot a seed, a bar their mean. frame: rows of `few_shot.runs`."""
    variants = list(dict.fromkeys(frame["variant"]))
    ax = ax or plt.subplots(figsize=(8, 1 + 0.45 * len(variants)))[1]
    style = {
        "x": "iou",
        "y": "variant",
        "hue": "shots",
        "order": variants,
        "palette": PALETTE[: frame["shots"].nunique()],
    }
    sns.barplot(frame, errorbar=None, alpha=0.4, ax=ax, **style)
    sns.stripplot(frame, dodge=True, jitter=False, legend=False, ax=ax, **style)
    found = frame.dropna(subset="iou")
    runs, of = (
        f"{frame['run'].iloc[0].data}, {', '.join(frame['encoder'].unique())}",
        found["seed"].nunique(),
    )
    title = f"{runs}: last epoch, n ≤ {of} seeds\nNBR and weighted BCE in our interpretation"
    ax.set(xlabel="micro IoU of the tiles that are left", ylabel="", title=title)
    ax.legend(
        title="annotated images a class", frameon=False, bbox_to_anchor=(1, 1), loc="upper left"
    )
    sns.despine(ax=ax)
    return ax


def feature_planes(records: dict[str, dict]) -> np.ndarray:
    """Normal and defect cells of the validation images in the encoder's first two principal directions.

    records: title -> record of a few-shot run. Returns the Axes, one for each.
    """
    size = {"figsize": (3.2 * len(records), 3.4), "layout": "constrained"}
    figure, axes = plt.subplots(1, len(records), squeeze=False, sharex=True, sharey=True, **size)
    for ax, (title, record) in zip(axes[0], records.items(), strict=True):
        for name, colour in (("normal", "0.6"), ("defect", PALETTE[3])):
            points = np.transpose(record["features"][name])
            ax.scatter(*points, s=8, color=colour, label=f"{name}, n = {points.shape[1]}")
        ax.set(
            xticks=[],
            yticks=[],
            aspect="equal",
            xlabel="first principal direction",
            ylabel="second",
        )
        ax.set_title(f"{title}\nAUROC {record['features']['auroc']:.3f}", fontsize="medium")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return axes[0]


def effects(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Each claim's difference under each protocol, with its interval, beside the paper's (diamond).

    frame: rows of `claims.claims` of one encoder; those that are pending or not measurable are left out.
    """
    measured = (frame["n"] > 0) & (frame["state"] != "not measurable")
    found, claims = frame[measured], list(dict.fromkeys(frame["claim"]))[::-1]
    protocols = list(dict.fromkeys(found["protocol"]))
    ax = ax or plt.subplots(figsize=(8, 1 + 0.6 * len(claims)))[1]
    for k, (protocol, colour) in enumerate(zip(protocols, PALETTE, strict=False)):
        rows = found[found["protocol"] == protocol]
        height = [
            claims.index(claim) + 0.3 - 0.6 * k / max(1, len(protocols) - 1)
            for claim in rows["claim"]
        ]
        spread = np.nan_to_num([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
        ax.errorbar(
            rows["mean"],
            height,
            xerr=spread,
            fmt="o",
            color=colour,
            label=protocol,
            capsize=2,
            markersize=4,
        )
    paper = frame.drop_duplicates("claim").dropna(subset="paper")
    where = [claims.index(claim) + 0.42 for claim in paper["claim"]]
    ax.plot(paper["paper"], where, "D", color="black", markersize=5, label="paper")
    ax.axvline(0, color="0.6", linewidth=1)
    for k, claim in enumerate(claims):
        ax.axhline(k - 0.5, color="0.9", linewidth=1, zorder=0)
        if claim not in set(found["claim"]):
            why = frame.loc[frame["claim"] == claim, "state"].iloc[0]
            ax.annotate(why, (0, k), (4, 0), textcoords="offset points", va="center", color="0.4")
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
    """Milliseconds (median, quartiles) of `speed.compare`'s rows, grouped by another column, which `label` names."""
    names, groups = list(dict.fromkeys(frame["what"])), list(dict.fromkeys(frame[by]))
    ax = plt.subplots(figsize=(8, 1 + 0.3 * len(names) * len(groups)))[1]
    for k, (name, colour) in enumerate(zip(names, PALETTE, strict=False)):
        rows = frame[frame["what"] == name].set_index(by).reindex(groups)
        place = np.arange(len(groups)) + 0.7 * (k / max(1, len(names) - 1) - 0.5)
        spread = [rows["ms"] - rows["low"], rows["high"] - rows["ms"]]
        ax.errorbar(rows["ms"], place, xerr=spread, fmt="o", color=colour, label=name, capsize=2)
        for y, (ms, high, ratio) in zip(
            place, rows[["ms", "high", "ratio"]].to_numpy(), strict=True
        ):
            ax.annotate(
                f"{ms:.3g} ms, × {ratio:.3g}",
                (high, y),
                (8, 0),
                textcoords="offset points",
                va="center",
            )
    ax.set(
        xscale="log",
        xlabel=f"milliseconds: median and quartiles of {frame['n'].min()}",
        ylabel=label,
    )
    ax.set(yticks=range(len(groups)), yticklabels=groups, xlim=(None, 5 * frame["high"].max()))
    ax.invert_yaxis()
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0 + 0.5 / ax.figure.get_figheight()),
        ncol=4,
        frameon=False,
    )
    sns.despine(ax=ax)
    return ax
