"""Your own data: a folder of images and masks."""

import csv
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from dlilib.checks import is_count
from dlilib.data.class_names import (
    LABEL_MAP,
    checked,
    classes_of,
    find_class_list,
    read_class_list,
    read_label_map,
    without_reserved,
)
from dlilib.data.duplicates import warn_of_near_duplicates
from dlilib.data.files import DataError, Files, digest, digest_of, read_text
from dlilib.data.images import (
    check_kept,
    check_resizes,
    check_size,
    deep_values,
    image_sides,
    mask_values,
    read_image,
    stack,
    stack_patches,
)
from dlilib.data.layout import TABLE, Layout, as_spelt, class_folders, find_layout, open_folder
from dlilib.data.mask_files import ClassFolders, ColourMasks, IndexMasks, is_white
from dlilib.data.subsets import SUBSETS, is_split, original_name, subset_named
from dlilib.patches import check_patch, corners
from dlilib.tiles import IGNORE, TileSet, defective, labels_of

Item = TypeVar("Item")
ONLY_CLASS = "defect"  # what black and white masks without a class list show
LOOKED_AT = 4  # times the number of images that are wanted
DEEP = (".png", ".tif", ".tiff")  # formats that may hold 16 bits a value
DARKEST, BRIGHTEST = 0.001, 0.999  # shares of all values of 16 bits, which become 0 and 255


def from_folder(
    root: str | Path,
    size: int | None = 256,
    resize: str = "bilinear",
    *,
    masks: str = "nearest",
    mask_suffix: str = "",
    tile: tuple[int, int] | None = None,
    free_patches: int | None = None,
    value_range: tuple[int, int] | None = None,
    most: int | None = None,
    classes: Sequence[str] | None = None,
) -> TileSet:
    """Read your own images and masks.

    `images/` holds the images, `masks/` one of these kinds of masks (PNG, BMP or TIFF):

    - Class indices: masks/<stem>.png for each image, 0 background, 255 ignored. classes.txt names
      the classes 1..K, a line each.
    - Black and white, for one class: masks/<stem>.png for each image. classes.txt names the class,
      else it is called "defect".
    - A folder for each class: masks/<class>/<stem>.png where the image has that defect, which is
      anything above 0 (of a mask with soft edges the brighter half). Where two overlap, the later
      class stands. The order of the classes is that of classes.txt if there is one, else
      alphabetical.
    - Colours: masks/<stem>.png for each image; CVAT's labelmap.txt names them.

    The folder of masks may also be called annotations, labels or ground_truth. All of it may lie in
    folders train, val and test, as images/train and masks/train or as train/images and train/masks;
    `split(tiles, "given")` takes that split. With mask_suffix masks may also lie beside the images,
    as 1.png and 1_GT.png.

    An image's label is the class with the most pixels in its mask, 0 when it has none. An optional
    tiles.csv with the columns image,tile (image: the file's stem) says which images show the same
    part; without it each is its own part, but for identical files. A column split says train, val
    or test.

    Args:
        root: The folder, or a zip of it.
        size: Side of the square images, pixels, a multiple of 8. None keeps the pixels and pads
            every image at the right and the bottom, by its last column and row, to the largest
            height and width, rounded up to multiples of 8 (resize is then "pad").
        resize: "bilinear" (smoothed first where it shrinks, as Pillow does) or "nearest", as the
            study's data are.
        masks: How masks are resized: "nearest", or "any": a pixel has the class that any of its
            pixels had, the rarest one of several, so that nothing thin vanishes.
        mask_suffix: What a mask's name adds to its image's, such as "_mask" or "_GT".
        tile: Cut images into square patches instead of resizing them: (side, overlap), pixels. Use
            it for large photographs with small defects; `models.predict` takes it too. Patches of
            one image are one part.
        free_patches: With tile: how many defect-free patches of an image are kept at most, evenly
            spread; None: all.
        value_range: The values of images of 16 bits that become 0 and 255; None: chosen for the
            whole data set, with a warning that tells them.
        most: Read at most so many of the images, for a first look at a large folder: a fixed random
            choice, half of them with a defect where there are so many, each class alike. At most
            four times as many masks are looked at, but all to see how a single class is marked.
            None: all.
        classes: Names of the classes 1..K, where no classes.txt names them.

    Raises:
        DataError: A file cannot be used, or a class of an image vanishes at this size; the message
            names it.
        ValueError: An argument is none of the above.

    Warns:
        UserWarning: Pictures are left out for their format; images of 16 bits were scaled;
            identical images have different masks; images that look like one photograph are
            different parts; more classes are named than the masks have indices.

    Example:
        >>> tiles = from_folder("my_parts", size=128)
        >>> tiles.counts()
    """
    patch = _check_arguments(size, resize, masks, tile, free_patches, value_range)
    if most is not None and not is_count(most):
        raise ValueError(f"most must be a number of images, got {most!r}")
    if not isinstance(mask_suffix, str):
        raise ValueError(f"mask_suffix must be a text, got {mask_suffix!r}")
    files = open_folder(root)
    layout = find_layout(files, root, mask_suffix)
    names = tuple(sorted(layout.images))
    named, reader = _mask_reader(files, root, layout, classes)
    if most is not None and most < len(names):
        names = _chosen(files, layout, reader, names, most, len(named))
    levels = value_range or _levels(files, [layout.images[name] for name in names])

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(files, layout.images[name], levels)
        return image, reader.read(name, image)

    table = _table(files, root, layout, names)
    paths = [f"{root}/{layout.images[name]}" for name in names]
    if patch:
        found = _cut(files, read, layout, names, patch, free_patches)
    else:
        largest = _largest(files, layout, names) if size is None else (0, 0)
        images, marks, sizes, shown = stack(read, names, size, resize, masks=masks, largest=largest)
        check_kept(paths, shown, marks, classes=named)
        found = _Found(images, marks, sizes, names, np.arange(len(names)))
    _check_ignored(found, [reader.paths(name) for name in names], root)
    listed = find_class_list(files, root)
    if isinstance(reader, IndexMasks) and not reader.is_white:
        _warn_of_unused(found.masks, named, f"{root}/{listed or 'classes'}")
    used = [path for name in names for path in (layout.images[name], *reader.paths(name))]
    tables = [as_spelt(files, root, name) for name in (TABLE, LABEL_MAP)]
    used += [path for path in (listed, *tables) if path in files]
    hashes = {path: digest(files[path]()) for path in used}
    parts = _with_twins(table.parts, [hashes[layout.images[name]] for name in names])
    tiles = TileSet(
        images=found.images,
        masks=found.masks,
        labels=labels_of(found.masks, len(named)),
        groups=torch.from_numpy(parts[found.of]),
        names=found.names,
        classes=tuple(named),
        source=_source(root),
        digest=digest_of(
            hashes,
            masks=masks if masks != "nearest" and size and not patch else None,
            patches=found.names if patch else None,
            value_range=levels and tuple(levels),
            classes=None if classes is None or listed else named,
        ),
        sizes=found.sizes,
        resize=resize if size and not patch else "pad",
        given=tuple(table.subsets[k] for k in found.of) if any(table.subsets) else None,
    )
    if not patch:
        _warn_of_contradictions(tiles, [hashes[layout.images[name]] for name in names])
    warn_of_near_duplicates(tiles)
    return tiles


@dataclass(frozen=True)
class Sizes:
    """How large the images and defects of a folder are, in pixels, found on some of the images."""

    images: np.ndarray  # int64 (N, 2), heights and widths
    defects: np.ndarray  # float64 (M,), square roots of the areas of connected regions


def measure_sizes(
    root: str | Path,
    *,
    mask_suffix: str = "",
    classes: Sequence[str] | None = None,
    most: int = 100,
) -> Sizes:
    """Measure a folder that `from_folder` reads, to choose how to read it.

    Args:
        root: The folder, or a zip of it.
        mask_suffix: As in `from_folder`.
        classes: As in `from_folder`.
        most: How many of the images are looked at, a fixed random choice.

    Raises:
        DataError: As in `from_folder`.

    Example:
        >>> sizes = measure_sizes("my_parts")
        >>> np.median(sizes.images, axis=0), np.median(sizes.defects)
    """
    files = open_folder(root)
    layout = find_layout(files, root, mask_suffix)
    _, reader = _mask_reader(files, root, layout, classes)
    names = sorted(layout.images)
    images, defects = [], []
    for k in np.random.default_rng(0).permutation(len(names))[:most]:
        sides = image_sides(files, layout.images[names[k]])
        images.append(sides)
        mask = defective(reader.read(names[k], _without_pixels(sides))).astype(np.uint8)
        _, _, regions, _ = cv2.connectedComponentsWithStats(mask)
        defects += np.sqrt(regions[1:, cv2.CC_STAT_AREA]).tolist()
    return Sizes(np.array(images), np.array(defects))


def _without_pixels(sides: tuple[int, int]) -> np.ndarray:
    """An image of a size, where its mask alone is read."""
    return np.broadcast_to(np.uint8(0), sides)


@dataclass(frozen=True)
class _Found:
    """M images or patches of the N files."""

    images: Tensor
    masks: Tensor
    sizes: Tensor
    names: tuple[str, ...]
    of: np.ndarray  # int64 (M,), the file of each


@dataclass(frozen=True)
class _Table:
    """What is known of the N images beside their pixels."""

    parts: np.ndarray  # int64 (N,), the part that each shows
    subsets: list[str]  # "train", "val", "test" or ""


def _check_arguments(
    size: int | None,
    resize: str,
    masks: str,
    tile: tuple[int, int] | None,
    free_patches: int | None,
    value_range: tuple[int, int] | None,
) -> tuple[int, int] | None:
    """Check what `from_folder` was given; return the patches' side and overlap."""
    if size is None:
        check_resizes(resize, masks)
    else:
        check_size(size, resize, masks)
    natural = isinstance(free_patches, int) and free_patches >= 0
    if free_patches is not None and (tile is None or not natural):
        raise ValueError(f"free_patches must be 0 or more, with tile, got {free_patches!r}")
    if value_range is not None:
        pair = isinstance(value_range, tuple | list) and len(value_range) == 2
        whole = pair and all(isinstance(value, int) for value in value_range)
        if not whole or not 0 <= value_range[0] < value_range[1] < 2**16:
            raise ValueError(f"value_range must be (low, high) in 0..65535, got {value_range!r}")
    return None if tile is None else check_patch(tile)


def _source(root: str | Path) -> str:
    """The data set's name: that of the folder or zip, as records can hold it."""
    path = Path(root).resolve()
    return re.sub(r"[^\w-]+", "_", path.stem if path.is_file() else path.name)


def _mask_reader(
    files: Files, root: str | Path, layout: Layout, given: Sequence[str] | None
) -> tuple[list[str], IndexMasks | ClassFolders | ColourMasks]:
    """The classes 1..K, and what reads the masks."""
    listed = find_class_list(files, root)
    classes = read_class_list(files, root, listed) if listed else None
    if given is not None:
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"classes must be names, got {given!r}")
        given = checked(without_reserved(list(given), "classes"), "classes")
        if classes not in (None, given):
            raise DataError(f"{root}/{listed}: names {classes}, not the given {given}")
        listed, classes = "the argument classes", given
    if layout.class_masks:
        folders = class_folders(layout)
        classes = classes or checked(folders, f"{root}/masks")
        strange = sorted(set(folders) - set(classes))
        if strange:
            raise DataError(
                f"{root}/masks/{strange[0]}: {listed} does not name this class, but {classes}"
            )
        return classes, ClassFolders(files, classes, layout.class_masks)
    _check_complete(layout, root)
    label_map = as_spelt(files, root, LABEL_MAP)
    if label_map in files:
        colours = read_label_map(files, root, label_map)
        classes = classes or checked(classes_of(colours), f"{root}/{label_map}")
        strange = sorted(set(classes_of(colours)) - set(classes))
        if strange:
            raise DataError(f"{root}/{label_map}: {listed} does not name {strange[0]}")
        return classes, ColourMasks(files, classes, colours, layout.masks)
    if classes is None:
        _check_one_class(files, root, layout)
        classes = [ONLY_CLASS]
    return classes, IndexMasks(files, classes, layout.masks)


def _check_complete(layout: Layout, root: str | Path) -> None:
    for name in sorted(layout.images):
        if name not in layout.masks:
            raise DataError(
                f"{root}/{layout.images[name]}: no mask masks/{name}.png, or beside it as "
                "mask_suffix says (a defect-free image has one of zeros)"
            )


def _check_one_class(files: Files, root: str | Path, layout: Layout) -> None:
    """Raise DataError where there is no class list and masks hold more than one value."""
    for path in layout.masks.values():
        values = set(np.unique(mask_values(files, path)).tolist()) - {0}
        if not values <= {1} and not values <= {IGNORE}:
            enough = ""
            if is_white(files, list(layout.masks.values())):
                enough = "where it is all of one class, its name alone is all that is needed; else "
            raise DataError(
                f"{root}/classes.txt: missing; {path} holds {_values(values)} beside 0: {enough}"
                "name the classes 1..K there, a line each, or by the argument classes, or the "
                f"colours in {LABEL_MAP}"
            )


def _values(values: set[int]) -> str:
    """So many values of a mask, in words."""
    if len(values) == 1:
        return f"the value {min(values)}"
    return f"{len(values)} values from {min(values)} to {max(values)}"


def _chosen(
    files: Files,
    layout: Layout,
    reader: IndexMasks | ClassFolders | ColourMasks,
    names: Sequence[str],
    most: int,
    num_classes: int,
) -> tuple[str, ...]:
    """At most so many of the images, half of them with a defect, each class alike."""
    by_label: dict[int, list[str]] = {label: [] for label in range(num_classes + 1)}
    for k in np.random.default_rng(0).permutation(len(names))[: LOOKED_AT * most]:
        name = names[k]
        sides = image_sides(files, layout.images[name])
        mask = reader.read(name, _without_pixels(sides))
        label = int(labels_of(torch.from_numpy(mask)[None], num_classes)[0])
        by_label[label].append(name)
    return tuple(sorted(half_marked(list(by_label.values()), most)))


def half_marked(by_label: Sequence[Sequence[Item]], most: int) -> list[Item]:
    """Choose at most so many of what is listed by label, the defect-free ones first.

    Half of them have a defect where there are so many, each class alike.
    """
    free, *kinds = map(list, by_label)
    in_turn = [item for row in zip_longest(*kinds) for item in row if item is not None]
    marked = in_turn[: max(most - most // 2, most - len(free))]
    return marked + free[: most - len(marked)]


def _levels(files: Files, paths: Sequence[str]) -> tuple[int, int] | None:
    """The range of values of the images of 16 bits, told by a warning; None: there are none."""
    counts, deep = np.zeros(2**16, np.int64), 0
    for path in paths:
        values = deep_values(files, path) if path.lower().endswith(DEEP) else None
        if values is not None:
            counts += np.bincount(values.ravel(), minlength=2**16)
            deep += 1
    if not deep:
        return None
    shares = counts.cumsum() / counts.sum()
    low, high = (int(np.searchsorted(shares, share)) for share in (DARKEST, BRIGHTEST))
    high = max(high, low + 1)
    warnings.warn(
        f"{deep} images have 16 bits a value: scaled so that {low} becomes 0 and {high} 255. Give "
        f"from_folder value_range=({low}, {high}) for all images that the model is used on (dli "
        f"data folder --range {low} {high})",
        stacklevel=3,
    )
    return low, high


def _largest(files: Files, layout: Layout, names: Sequence[str]) -> tuple[int, int]:
    """The greatest height and the greatest width of images."""
    sides = [image_sides(files, layout.images[name]) for name in names]
    return max(height for height, _ in sides), max(width for _, width in sides)


def _cut(
    files: Files,
    read: Callable[[str], tuple[np.ndarray, np.ndarray]],
    layout: Layout,
    names: Sequence[str],
    patch: tuple[int, int],
    most_free: int | None,
) -> _Found:
    """Cut images into patches."""
    size, overlap = patch
    places, sizes = [], []
    for name in names:
        height, width = image_sides(files, layout.images[name])
        found = corners(height, width, size, overlap)
        if most_free is not None:
            mask = read(name)[1]
            shows = [defective(mask[y : y + size, x : x + size]).any() for y, x in found.tolist()]
            found = found[_kept(np.array(shows), most_free)]
        places.append(found)
        sizes += [(min(size, height), min(size, width))] * len(found)
    images, masks = stack_patches(read, names, places, size)
    patches = [
        f"{name}_{top}_{left}"
        for name, found in zip(names, places, strict=True)
        for top, left in found.tolist()
    ]
    of = np.repeat(np.arange(len(names)), [len(found) for found in places])
    if not patches:
        raise DataError(f"{layout.images[names[0]]}: no patch of any image is left")
    return _Found(images, masks, torch.tensor(sizes, device="cpu"), tuple(patches), of)


def _kept(shows: np.ndarray, most_free: int) -> np.ndarray:
    """Which patches are kept, bool: those with a defect, and some others evenly spread."""
    kept, free = shows.copy(), np.flatnonzero(~shows)
    if len(free) and most_free:
        steps = np.linspace(0, len(free) - 1, min(most_free, len(free)))
        kept[free[steps.round().astype(int)]] = True
    return kept


def _check_ignored(found: _Found, paths: Sequence[Sequence[str]], root: str | Path) -> None:
    """Raise DataError where 255 seems to mean a defect: no mask shows a class."""
    first = None
    for mask, of in zip(found.masks, found.of.tolist(), strict=True):
        if defective(mask).any():
            return
        if first is None and mask.any():
            first = paths[of][0]
    if first is not None:
        raise DataError(
            f"{root}/{first}: holds {IGNORE}, which is ignored, and no mask shows a class: where "
            f"{IGNORE} marks a defect, put the masks into a folder of its class, masks/<class>/, "
            "or name that one class alone in classes.txt"
        )


def _warn_of_unused(masks: Tensor, classes: Sequence[str], place: str) -> None:
    """Warn where more classes are named than masks have indices: the names may be shifted."""
    top = 0
    for mask in masks:
        top = max(top, int(torch.where(mask == IGNORE, 0, mask).amax()))
        if top == len(classes):
            return
    if top:
        warnings.warn(
            f"{place}: names {len(classes)} classes, the highest index in the masks is {top}: is "
            f"{classes[top]} in no mask, or does {classes[0]} stand for the background, which is 0 "
            "in masks? Then call it background, or take it out of the list",
            stacklevel=3,
        )


def _with_twins(parts: np.ndarray, hashes: Sequence[str]) -> np.ndarray:
    """The part of each image, one for all that share an image with the same bytes."""
    first: dict[str, int] = {}
    parts = parts.copy()
    for k, content in enumerate(hashes):
        twin = first.setdefault(content, k)
        if parts[twin] != parts[k]:
            parts[parts == parts[k]] = parts[twin]
    return parts


def _warn_of_contradictions(tiles: TileSet, hashes: Sequence[str]) -> None:
    """Warn of images that are the same file with different masks."""
    first: dict[str, int] = {}
    wrong = []
    for k, content in enumerate(hashes):
        twin = first.setdefault(content, k)
        if not torch.equal(tiles.masks[twin], tiles.masks[k]):
            wrong.append((tiles.names[twin], tiles.names[k]))
    if wrong:
        warnings.warn(
            f"images {wrong[0][0]} and {wrong[0][1]} are the same file with different masks "
            f"({len(wrong)} such pairs): keep one of them",
            stacklevel=3,
        )


def _table(files: Files, root: str | Path, layout: Layout, names: Sequence[str]) -> _Table:
    """Read tiles.csv, or take each image for its own part."""
    folders = [layout.subsets[name] for name in names]
    if not is_split(folders):  # a single folder may be called so by chance
        folders = [""] * len(names)
    path = as_spelt(files, root, TABLE)
    if path not in files:
        originals = [original_name(layout.images[name]) or f"{name}/" for name in names]
        _, first, parts = np.unique(originals, return_index=True, return_inverse=True)
        return _Table(first.argsort().argsort()[parts], folders)  # numbered as they come
    place = f"{root}/{path}"
    try:
        table = csv.reader(read_text(files, root, path).splitlines())
        head = [word.strip().casefold() for word in next(table, [])]
        rows = [dict(zip_longest(head, row)) for row in table if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{place}: not a table ({error})") from None
    if not rows or not {"image", "tile"} <= rows[0].keys():
        raise DataError(f"{place}: needs the columns image,tile, has {','.join(head)!r}")
    listed: dict[str, str] = {}
    subsets: dict[str, str] = {}
    for row in rows:
        image = unicodedata.normalize("NFC", row["image"] or "")
        tile, word = (row["tile"] or "").strip(), (row.get("split") or "").strip()
        if not tile or listed.setdefault(image, tile) != tile:
            raise DataError(f"{place}: image {image!r} needs one tile, got {tile!r}")
        if word and not subset_named(word):
            raise DataError(
                f"{place}: image {image!r} has the split {word!r}, not one of {SUBSETS}"
            )
        subsets[image] = subset_named(word)
    missing = [name for name in names if name not in listed]
    if missing:
        raise DataError(
            f"{place}: no row for image {missing[0]!r} (its stem; {len(missing) - 1} more)"
        )
    parts = np.unique([listed[name] for name in names], return_inverse=True)[1]
    said = [subsets[name] or folder for name, folder in zip(names, folders, strict=True)]
    return _Table(parts, said)
