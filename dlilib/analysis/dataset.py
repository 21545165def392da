"""What is in a data set, and what its splits let a model see."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from dlilib.data import splits
from dlilib.tiles import FREE, TileSet


def images(tiles: TileSet) -> pd.DataFrame:
    """List the images of a data set.

    Args:
        tiles: The data set, with the sizes and exposures of its images.

    Returns:
        A row each: class ("Free" without a defect), part (its id), exposure, height and width
        (pixels, before resizing) and "mask share, %" (of the pixels).
    """
    return pd.DataFrame(
        {
            "class": np.array([FREE, *tiles.classes])[tiles.labels],
            "part": tiles.groups,
            "exposure": tiles.exposure,
            "height": tiles.sizes[:, 0],
            "width": tiles.sizes[:, 1],
            "mask share, %": 100 * (tiles.masks > 0).double().mean(dim=(1, 2)).numpy(),
        }
    )


def overview(tiles: TileSet) -> pd.DataFrame:
    """Count images, parts and masks by class, the defect-free images last."""
    by_class = images(tiles).groupby("class")
    columns = {
        "images": ("part", "size"),
        "parts": ("part", "nunique"),
        "mean share, %": ("mask share, %", "mean"),
        "median share, %": ("mask share, %", "median"),
        "empty masks": ("mask share, %", lambda share: int((share == 0).sum())),
    }
    return by_class.agg(**columns).reindex([*tiles.classes, FREE])


def exposures(tiles: TileSet, most: int = 4, largest: int = 6) -> dict[str, Tensor]:
    """Choose a part of each class that was photographed several times.

    Args:
        tiles: The data set.
        most: How many of its images.
        largest: Parts of more images than that, in which look-alikes may have met, are left out.

    Returns:
        Class -> images of one part, uint8 (most, C, H, W); white ones where it has fewer.
    """
    listed = images(tiles)
    single = listed[listed["part"].map(listed.groupby("part").size()) <= largest]
    found = {}
    for name in tiles.classes:
        parts = single.loc[single["class"] == name, "part"]
        if len(parts):
            same = (listed["class"] == name) & (listed["part"] == parts.mode()[0])
            shown = tiles.images[same.to_numpy().nonzero()[0][:most]]
            missing = most - len(shown)
            found[name] = F.pad(shown, (0, 0, 0, 0, 0, 0, 0, missing), value=255)
    return found


def edge_ratios(tiles: TileSet, solid: TileSet) -> pd.DataFrame:
    """Compare the masks' areas at two thresholds.

    Args:
        tiles: The data set, its masks cut at the lower threshold.
        solid: The same images, their masks cut at the higher one.

    Returns:
        A row for each class: the median over its images of the larger area over the smaller one.
        Images whose mask all but vanishes at the higher threshold are left out.
    """
    listed = images(tiles)
    area, smaller = listed["mask share, %"], images(solid)["mask share, %"]
    shown = (area > 0) & (100 * smaller > area)
    ratios = (area[shown] / smaller[shown]).rename("area ratio")
    return ratios.groupby(listed["class"]).median().reindex(tiles.classes).to_frame()


def leaks(tiles: TileSet, seeds: Sequence[int]) -> pd.DataFrame:
    """Measure what the splits let a model see.

    Args:
        tiles: The data set.
        seeds: Of the splits.

    Returns:
        A row for each protocol and seed: "val images" (how many validate), and the shares of these
        whose part has an image in training too: any ("leak"), or a defective one ("leak,
        defective").
    """
    labels = tiles.labels.numpy()
    rows = []
    for protocol in ("image", "tile"):
        for seed in seeds:
            train, val = splits.split(tiles, protocol, seed)
            rows.append(
                {
                    "protocol": protocol,
                    "seed": seed,
                    "val images": len(val),
                    "leak": splits.leak(tiles, train, val),
                    "leak, defective": splits.leak(tiles, train[labels[train] > 0], val),
                }
            )
    return pd.DataFrame(rows)


def finding(tiles: TileSet, leaked: pd.DataFrame) -> str:
    """Say in words how imbalanced a data set is, and how much its splits leak.

    Args:
        tiles: The data set.
        leaked: Of its splits, as `leaks` measures.
    """
    counts = tiles.counts()
    free = counts.pop(FREE) / len(tiles)
    ratio = max(counts.values()) / min(counts.values())
    mean = leaked.groupby("protocol")[["leak", "leak, defective"]].mean()
    seen, seen_defective = mean.loc["image"]
    return (
        f"{free:.0%} of the images are defect-free, and the most frequent defect class has "
        f"{ratio:.1f} times the images of the rarest. With the image-level split {seen:.1%} of the "
        f"validation images show a part that is in training ({seen_defective:.1%} one that is "
        f"there with a defect), with the tile-disjoint split {mean.loc['tile', 'leak']:.0%}."
    )
