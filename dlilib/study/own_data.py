"""Notebook 8's choices for a folder that nobody has seen yet: how to read it, what to train."""

import json
import shlex
import timeit
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dlilib import metrics, models
from dlilib.data.files import DataError
from dlilib.data.folder import from_folder, half_marked, measure_sizes
from dlilib.data.splits import split
from dlilib.export import Runtime, Segmenter, to_onnx
from dlilib.tiles import IGNORE, TileSet
from dlilib.training.run import Run
from dlilib.training.trainer import injected
from dlilib.wording import duration

# A first look costs the same whatever the folder: so many images are read and trained on.
SIDE = 128  # pixels, of its images
RESIZE, MASKS = "bilinear", "any"  # how images and masks shrink, unless the notebook is told
MOST_READ = 240  # images
PIXELS_READ = 800e6  # of large images, fewer are read
FEWEST_READ = 40
MEASURED = 40  # images whose size and defects choose how it reads
SEEN = 480  # images that training sees, repetitions counted
SMALLEST = 6  # pixels, side of a typical defect after shrinking, below which patches are cut
FREE_PATCHES = 2  # of each image
MOST_FREE_PATCHES = 20  # of each image in a real try, which needs memory for all of them
AT_ONCE = 16  # images that are predicted together
SAME_LOGIT = 1e-3  # how far logits of onnxruntime and torch may differ
LOOK = {"batch": 8, "lr": 1e-3, "precision": "auto", "ties": "random"}


def look(
    root: str | Path,
    size: int = 0,
    tile: Sequence[int] = (),
    *,
    resize: str = RESIZE,
    **options: Any,
) -> tuple[dict[str, Any], str]:
    """Choose how `from_folder` reads a folder for a first look.

    Args:
        root: The folder.
        size: Side of the images, pixels; 0: 128.
        tile: Side and overlap of patches; empty: chosen by the size of images and defects.
        resize: "bilinear" or "nearest"; "pad": images keep their size.
        **options: Of `from_folder`, which are kept.

    Returns:
        Arguments of `from_folder`, and a sentence that says what was chosen and why.

    Raises:
        DataError: As `from_folder`.
    """
    side = size or SIDE
    known = {name: options[name] for name in ("classes", "mask_suffix") if name in options}
    sizes = measure_sizes(root, most=MEASURED, **known)
    height, width = np.median(sizes.images, axis=0).astype(int).tolist()
    defect = float(np.median(sizes.defects)) if len(sizes.defects) else 0.0
    most = int(min(MOST_READ, max(FEWEST_READ, PIXELS_READ / (height * width))))
    shrunk = defect * side / max(height, width)
    told = f"Images of {width}×{height} pixels, defects of {defect:.0f} (medians). "
    options["most"] = most
    if resize == "pad":
        return {**options, "size": None}, told + f"A first look at {most} or fewer, as they are."
    large = max(height, width) > 2 * side
    if not tile and (not large or shrunk >= SMALLEST or not defect):
        told += f"A first look at {most} or fewer, resized to {side}×{side}."
        return {**options, "size": side, "resize": resize}, told
    side, overlap = tile or (side, min(side // 2, ceil(2 * defect)))
    told += f"A first look at {most} or fewer, in patches of {side}×{side}, {overlap} shared"
    told += "." if tile else f": resized, a defect would be {shrunk:.1f} pixels wide."
    return {**options, "tile": (side, overlap), "free_patches": FREE_PATCHES}, told


def whole(
    base: Run, size: int = 0, tile: Sequence[int] = (), *, resize: str = RESIZE, **options: Any
) -> dict[str, Any]:
    """Return the arguments of `from_folder` for a real try: the whole folder, as the preset has it.

    Args: as those of `look`; size 0: the preset's.
    """
    if resize == "pad":
        return {**options, "size": None}
    if tile:
        return {**options, "tile": tuple(tile), "free_patches": MOST_FREE_PATCHES}
    return {**options, "size": size or base.size, "resize": resize}


def read(root: str | Path, **options: Any) -> tuple[TileSet, list[str]]:
    """Read a folder by `from_folder`; its classes are those that some mask shows.

    Returns:
        The data set, named after the folder and its content so that a changed folder is trained on
        anew, and what its owner must know: the warnings, which classes were left out, and which
        are not injected.

    Raises:
        DataError: As `from_folder`.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tiles = from_folder(root, **options)
    remarks = [str(warning.message) for warning in told]
    tiles = replace(tiles, source=f"{tiles.source}-{tiles.digest[:8]}")
    shown = set(tiles.masks.unique().tolist())
    kept = [value for value in range(1, tiles.num_classes + 1) if value in shown]
    if kept and len(kept) < tiles.num_classes:
        names = tiles.classes
        tiles = _with_classes(tiles, kept)
        dropped = ", ".join(name for name in names if name not in tiles.classes)
        remarks.append(f"No mask shows {dropped}: left out.")
    target = injected(tiles) or {}
    below = ", ".join(name for name, share in target.items() if not share)
    if below:
        remarks.append(
            f"No image is labelled with {below}, as each shows more of another class: found where "
            "it is marked, but not injected."
        )
    return tiles, remarks


def require_both(tiles: TileSet, root: str | Path) -> None:
    """Raise DataError unless some image shows a defect, and some none, into which DLI injects.

    Args:
        tiles: The data set.
        root: Its folder, for the message.
    """
    if not tiles.labels.any():
        raise DataError(f"{root}: no mask of the {len(tiles)} images that were read marks a defect")
    if bool((tiles.labels > 0).all()):
        raise DataError(
            f"{root}: each of the {len(tiles)} images that were read shows a defect, and DLI "
            "injects into defect-free ones: add photographs without a defect, or cut patches so "
            'small that some show none: tile=[side, overlap], as -y "tile: [96, 8]"'
        )


def _with_classes(tiles: TileSet, kept: Sequence[int]) -> TileSet:
    """The same images with some of the classes, which are all that the masks show."""
    lookup = torch.full((IGNORE + 1,), IGNORE, dtype=torch.uint8)
    lookup[[0, *kept]] = torch.arange(len(kept) + 1, dtype=torch.uint8)
    return replace(
        tiles,
        classes=tuple(tiles.classes[value - 1] for value in kept),
        labels=lookup[tiles.labels].long(),
        masks=lookup[tiles.masks.long()],
    )


def thinned(tiles: TileSet, most: int = MOST_READ) -> TileSet:
    """Keep at most so many images, half of them with a defect where there are so many.

    A fixed random choice, each class alike; large photographs give far more patches than a first
    look trains on.
    """
    if len(tiles) <= most:
        return tiles
    order = np.random.default_rng(0).permutation(len(tiles))
    labels = range(tiles.num_classes + 1)
    by_label = [order[tiles.labels[order] == label].tolist() for label in labels]
    return tiles.subset(sorted(half_marked(by_label, most)))


def divide(tiles: TileSet, seed: int) -> tuple[np.ndarray, np.ndarray, str, int]:
    """Split a data set, as it came split or by parts: every class and a free image must train.

    Returns:
        Indices that train and that validate, the protocol, and the seed that was taken: `seed`, or
        one of the next four where a class would have no image to train with, or no image would be
        defect-free.

    Raises:
        ValueError: No such split has all of them in training.
    """
    protocol = "given" if tiles.given else "tile"
    target = injected(tiles) or dict.fromkeys(tiles.classes, 1.0)
    needed = {k: f"an image of {n}" for k, n in enumerate(tiles.classes, start=1) if target[n]}
    needed[0] = "a defect-free image"
    lacking = set(needed)  # in every split so far
    for taken in range(seed, seed + 5):
        train, val = split(tiles, protocol, taken, free_in_val=True)
        labels = tiles.labels[train]
        missing = needed.keys() - set(labels[tiles.marked[train] | (labels == 0)].tolist())
        if not missing:
            return train, val, protocol, taken
        lacking &= missing
    always = [told for k, told in needed.items() if k in lacking]
    told = always[0] if always else "images of every class and a defect-free one"
    raise ValueError(
        f"{tiles.source}: no split leaves {told} to train with: add images of more parts, or take "
        "a class out of the classes"
    )


def look_run(base: Run, tiles: TileSet, train: np.ndarray, **changes: Any) -> Run:
    """The run of a first look: some steps, from ImageNet weights where they are at hand.

    Args:
        base: The preset's run, for what it does not choose itself.
        tiles: The data.
        train: Indices of the images that train.
        **changes: Other fields.
    """
    run = Run.for_tiles(tiles, **LOOK, free_in_val=True, **changes)
    epochs = max(1, round(SEEN / len(train)))
    weights = "imagenet" if base.weights or models.has_weights(run.encoder) else None
    return replace(run, epochs=epochs, weights=weights)


def scores(records: dict[Run, dict[str, Any]]) -> pd.DataFrame:
    """Return what each run finds at its last epoch.

    Args:
        records: Run -> its record; all of one data set.

    Returns:
        A row for each run: IoU of all defects and of each class (NaN without a pixel to find),
        "false alarms" (defect-free images in which something is marked) and "false pixels".
    """
    rows = {}
    for run, record in records.items():
        last, alarms = record["last"], record["last"]["false_alarms"]
        by_class = zip(record["data"]["classes"], last["classes"], strict=True)
        rows[run.encoder, "DLI" if run.method == "dli" else "none"] = {
            "all defects": last["iou"],
            **{name: metrics.iou_score(*counts) for name, counts in by_class},
            "false alarms": f"{alarms['images']} of {alarms['of']}",
            "false pixels": alarms["pixels"],
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["encoder", "injection"])


def export_models(
    trained: dict[Run, nn.Module], images: Tensor, folder: str | Path
) -> pd.DataFrame:
    """Export models to ONNX and compare each file with torch.

    Args:
        trained: Run -> its model.
        images: (N, C, H, W) float in [0, 1], of the size that the models were trained at.
        folder: Where the files are written.

    Returns:
        A row for each encoder: "MB", "ms per image" (median of single images by onnxruntime on the
        CPU), "largest difference of a logit" (between onnxruntime and torch, over all images) and
        "file".

    Raises:
        ValueError: A file's logits are not the model's.
    """
    rows = {}
    for run, model in trained.items():
        path = to_onnx(model, Path(folder, f"{run.id}.onnx"), tuple(images.shape[1:]))
        runtime, segmenter = Runtime(path), Segmenter(model)
        largest = 0.0
        for some in images.split(AT_ONCE):
            with torch.inference_mode():
                wanted = segmenter(some).numpy()
            largest = max(largest, float(np.abs(runtime(some.numpy()) - wanted).max()))
        if not largest < SAME_LOGIT:
            raise ValueError(f"{path}: its logits differ from the model's by {largest:.2g}")
        seconds = timeit.repeat(partial(runtime, images[:1].numpy()), number=1, repeat=20)
        rows[run.encoder] = {
            "MB": path.stat().st_size / 1e6,
            "ms per image": 1000 * float(np.median(seconds)),
            "largest difference of a logit": largest,
            "file": path.name,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("encoder")


def worst_misses(
    maps: np.ndarray | Tensor, tiles: TileSet, val: np.ndarray, *, most: int = 6
) -> pd.DataFrame:
    """Find the validation images on which a model is most wrong, one of each part.

    Args:
        maps: Class maps that it predicts, (V, H, W).
        tiles: The data set.
        val: Indices of its images that validate, (V,).
        most: How many.

    Returns:
        A row each, the worst first, the index being the image's place in `val`: "share" (wrong
        pixels, of those that are marked or should be) and "pixels" (wrong). Where nothing is
        wrong, one image.
    """
    truth, maps = tiles.masks[val], torch.as_tensor(maps)
    counted = truth != IGNORE
    wrong = ((maps != truth) & counted).sum((1, 2))
    marked = (((maps > 0) | (truth > 0)) & counted).sum((1, 2))
    table = pd.DataFrame({"share": wrong / marked.clamp(min=1), "pixels": wrong})
    table["part"] = tiles.groups[val].numpy()
    table = table.sort_values(["share", "pixels"], ascending=False, kind="stable")
    table = table.drop_duplicates("part").drop(columns="part")
    found = int((table["pixels"] > 0).sum())
    return table.head(min(most, max(1, found)))


def real_try(
    record: dict[str, Any],
    base: Run,
    options: dict[str, Any],
    *,
    size: int,
    encoders: Sequence[str],
    runs: int,
    steps: int,
    preset: str,
) -> str:
    """Say how to train in earnest, and what it will cost on this machine, by a first look's record.

    Args:
        record: The first look's.
        base: The run of the preset that would be taken.
        options: Of `from_folder`, those of the first look: what they choose is kept.
        size: The size that the user gave, 0 for none.
        encoders: The encoders that the user named, if any.
        runs: How many runs that are.
        steps: Of each.
        preset: The preset's name.
    """
    look = record["run"]
    seen = look["epochs"] * sum(record["data"]["train"])
    rate = seen / record["seconds"]  # images a second
    images = steps * base.batch
    side = _side(options, size, base, look["size"])
    seconds = images * (side / look["size"]) ** 2 / rate
    words = [f"-p preset {preset} -p steps {steps}", *_words(options, size, encoders, look["seed"])]
    return (
        f"Measured here: {rate:.1f} images of {look['size']}×{look['size']} a second, validation "
        f"included. A real try, `{' '.join(words)}`, trains {images:,} images of {side}×{side} a "
        f"run: about {duration(seconds)} each, {runs} runs."
    )


def _side(options: dict[str, Any], size: int, base: Run, looked_at: int) -> int:
    """The side of a real try's images, pixels."""
    if "tile" in options:
        return options["tile"][0]
    return looked_at if options["size"] is None else size or base.size


def _words(options: dict[str, Any], size: int, encoders: Sequence[str], seed: int) -> list[str]:
    """The notebook's parameters that keep what a first look chose or was given."""
    told: dict[str, Any] = {}
    if "tile" in options:
        told["tile"] = list(options["tile"])
    elif options["size"] is None:
        told["resize"] = "pad"
    else:
        told |= {"size": size} if size else {}
        told |= {"resize": options["resize"]} if options["resize"] != RESIZE else {}
    told |= {"masks": options["masks"]} if options["masks"] != MASKS else {}
    for name, value in (
        ("mask_suffix", options["mask_suffix"]),
        ("classes", list(options["classes"] or [])),
        ("value_range", list(options.get("value_range") or [])),
        ("encoders", as_list(encoders)),
        ("seed", seed),
    ):
        told |= {name: value} if value else {}
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in told.items()}
    return [f"-y {shlex.quote(f'{name}: {text}')}" for name, text in texts.items()]


def as_list(encoders: str | Sequence[str]) -> list[str]:
    """Encoders as a list, also where one is given by its name alone."""
    return [encoders] if isinstance(encoders, str) else list(encoders)
