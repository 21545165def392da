"""COCO: JSON files that list photographs, categories and annotations; filled by pycocotools."""

import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dlilib.data.class_names import reserved
from dlilib.data.files import DataError, Files, read_text
from dlilib.data.formats.annotations import (
    Annotations,
    Notes,
    Options,
    Photograph,
    Pictures,
    Region,
    class_name,
    expected,
)
from dlilib.data.images import IMAGE_SUFFIXES
from dlilib.data.subsets import folder_subset, subset_of
from dlilib.extras import require

SHARE = 1.01  # where nearly all coordinates lie below, they are shares of the width and height
NEARLY_ALL = 0.95
# Roboflow calls an augmented copy of "part.jpg" "part_jpg.rf.<letters and digits>.jpg".
ROBOFLOW = re.compile(r"(?:.*/)?(.+)\.rf\.\w+\.\w+")


@dataclass
class _Listing:
    """One JSON file."""

    path: str
    place: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    names: dict[Any, str]  # id of a category -> its name
    parents: set[str]  # names that categories have as their supercategory
    normalised: bool = False
    used: set[Any] = field(default_factory=set)  # ids of categories with annotations


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read all JSON files of a folder as one data set."""
    paths = sorted(path for path in files if path.lower().endswith(".json"))
    if not paths:
        raise DataError(f"{root}: holds no JSON file; COCO's lists the photographs")
    listings = [found for path in paths if (found := _listing(files, root, path, notes))]
    if not listings:
        raise DataError(f"{root}/{paths[0]}: not as COCO writes it: it lists no images")
    pictures = Pictures(files)
    found: dict[str, Photograph] = {}
    for listing in listings:
        _read_listing(listing, files, pictures, found, notes)
    _add_unlisted(files, root, found, options, notes)
    return Annotations(list(found.values()), _classes(listings, notes), len(listings))


def _listing(files: Files, root: object, path: str, notes: Notes) -> _Listing | None:
    """What a JSON file lists; None: it is another program's."""
    place = f"{root}/{path}"
    with expected("COCO", place):
        content = json.loads(read_text(files, root, path))
        if not isinstance(content, dict) or not content.keys() & {"images", "annotations"}:
            notes.slip("JSON file", "not as COCO writes it: it lists no images", place)
            return None
        lists = {}
        for key in ("categories", "images", "annotations"):
            lists[key] = content[key]
            if not isinstance(lists[key], list):
                raise TypeError(f"{key} is no list")
        names: dict[Any, str] = {}
        for category in lists["categories"]:
            name = class_name(category["name"])
            if not isinstance(category["id"], int):
                raise TypeError(f"the category id {category['id']!r} is no whole number")
            if names.setdefault(category["id"], name) != name:
                raise DataError(
                    f"{place}: the category id {category['id']} is there twice, as "
                    f"{names[category['id']]} and as {name}"
                )
        parents = {category.get("supercategory") for category in lists["categories"]}
        listing = _Listing(path, place, lists["images"], lists["annotations"], names, parents)
        tops = [top for item in listing.annotations if (top := _top(item)) is not None]
        listing.normalised = bool(tops) and np.quantile(tops, NEARLY_ALL) <= SHARE
        listing.used = {item.get("category_id") for item in listing.annotations}
    return listing


def _top(item: dict[str, Any]) -> float | None:
    """The largest coordinate of an annotation's polygons."""
    polygons = item.get("segmentation")
    numbers = []
    if isinstance(polygons, list):
        for flat in polygons:
            numbers += flat if isinstance(flat, list) else []
    numbers = [x for x in numbers if isinstance(x, int | float) and math.isfinite(x)]
    return max(numbers) if numbers else None


def _read_listing(
    listing: _Listing,
    files: Files,
    pictures: Pictures,
    found: dict[str, Photograph],
    notes: Notes,
) -> None:
    by_id: dict[Any, Photograph | None] = {}
    with expected("COCO", listing.place):
        for image in listing.images:
            if image["id"] in by_id:
                raise DataError(
                    f"{listing.place}: the image id {image['id']} is there twice: which "
                    "photograph do its annotations belong to?"
                )
            by_id[image["id"]] = _photograph(image, listing, files, pictures, found, notes)
    if listing.normalised:
        notes.remark(
            f"{listing.place}: its coordinates are shares of width and height: scaled to pixels"
        )
    for item in listing.annotations:
        with expected("COCO", listing.place):
            owner = item["image_id"]
        if owner not in by_id:
            why = f"of an image that {listing.path} does not list"
            notes.slip("annotation", why, f"{listing.place}, annotation {item.get('id')}")
        elif by_id[owner] is not None:
            _add(by_id[owner], item, listing, notes)


def _photograph(
    image: dict[str, Any],
    listing: _Listing,
    files: Files,
    pictures: Pictures,
    found: dict[str, Photograph],
    notes: Notes,
) -> Photograph | None:
    """The photograph of an image's entry, one for all files that list it; None: not there."""
    name = str(image["file_name"])
    path = pictures.find(name, listing.path)
    if path is None:
        why = f"listed in {listing.path}, but not there"
        notes.slip("photograph", why, f"{listing.place}, {name}")
        return None
    height, width = image.get("height"), image.get("width")
    size = None if height is None or width is None else (int(height), int(width))
    photograph = found.setdefault(path, Photograph(path, files[path], size=size))
    if size and photograph.size and size != photograph.size:
        raise DataError(
            f"{listing.place}: says {name} is {_by(size)} pixels, another entry "
            f"{_by(photograph.size)}"
        )
    photograph.group = original_name(name, image.get("extra"))
    split = subset_of(listing.path) or folder_subset(path)
    if split and photograph.split and split != photograph.split:
        raise DataError(
            f"{listing.place}: lists {name} for {split}, another file lists it for "
            f"{photograph.split}"
        )
    photograph.split = photograph.split or split
    return photograph


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"


def original_name(name: str, extra: Any = None) -> str:
    """The photograph that a file is an augmented copy of, as Roboflow says it; else ""."""
    if isinstance(extra, dict) and isinstance(extra.get("name"), str):
        return extra["name"]
    match = ROBOFLOW.fullmatch(name)
    return match[1] if match else ""


def _add(photograph: Photograph, item: dict[str, Any], listing: _Listing, notes: Notes) -> None:
    """Add an annotation to its photograph, or count that it cannot be read."""
    place = f"{listing.place}, annotation {item.get('id')}"
    try:
        with expected("COCO", place):
            category = item["category_id"]
            if category not in listing.names:
                raise DataError(
                    f"{place}: is of category {category}, which the file's categories do not list"
                )
            draw = _outline(item.get("segmentation"), listing.normalised, place)
            photograph.regions.append(Region(listing.names[category], draw, place))
    except DataError as error:
        notes.slip("annotation", str(error).removeprefix(f"{place}: "), place)
        photograph.unread += 1


def _outline(segmentation: Any, normalised: bool, place: str) -> partial:
    """What draws an annotation's polygons or run lengths."""
    if isinstance(segmentation, dict):
        return partial(_run_lengths, segmentation, place)
    if not segmentation:
        raise DataError(
            f"{place}: a box without an outline: export polygons or masks, not boxes alone"
        )
    for flat in segmentation:
        numbers = isinstance(flat, list) and all(isinstance(x, int | float) for x in flat)
        if not numbers or len(flat) < 6 or len(flat) % 2 or not np.isfinite(flat).all():
            raise DataError(f"{place}: a polygon of fewer than 3 points, or not of numbers")
    return partial(_polygons, segmentation, normalised, place)


def _polygons(
    polygons: list[list[float]], normalised: bool, place: str, height: int, width: int
) -> np.ndarray:
    points = [np.array(flat, float).reshape(-1, 2) for flat in polygons]
    if normalised:
        points = [share * (width, height) for share in points]
    return fill(points, height, width, place)


def fill(polygons: Sequence[np.ndarray], height: int, width: int, place: str) -> np.ndarray:
    """Fill polygons (P, 2), x and y in pixels, as pycocotools does: bool (height, width)."""
    every = np.concatenate(polygons)
    if every.max(axis=0).min() < 0 or (every.min(axis=0) >= (width, height)).any():
        raise DataError(f"{place}: a polygon outside the photograph's {width}×{height} pixels")
    runs = require("pycocotools.mask", "formats")
    coded = runs.frPyObjects([points.ravel().tolist() for points in polygons], height, width)
    return _decoded(runs.merge(coded))


def _decoded(coded: dict[str, Any]) -> np.ndarray:
    """The pixels of run lengths as pycocotools packs them, bool (H, W)."""
    runs = require("pycocotools.mask", "formats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own use of numpy
        return runs.decode(coded) > 0


def _run_lengths(coded: dict[str, Any], place: str, height: int, width: int) -> np.ndarray:
    """Decode run lengths, of either kind; bool (height, width)."""
    runs = require("pycocotools.mask", "formats")
    with expected("COCO", place):
        size = [int(side) for side in coded["size"]]
        counts = coded["counts"]
        packed = isinstance(counts, str)
        lengths = _unpacked(counts) if packed else [int(count) for count in counts]
    if size != [height, width]:
        raise DataError(
            f"{place}: run lengths of {size[-1]}×{size[0]} pixels, the photograph has "
            f"{width}×{height}"
        )
    if sum(lengths) != height * width or min(lengths) < 0:
        raise DataError(f"{place}: run lengths that do not add up to {width}×{height} pixels")
    whole = {"size": size, "counts": counts if packed else lengths}
    return _decoded(whole if packed else runs.frPyObjects(whole, height, width))


def _unpacked(counts: str) -> list[int]:
    """The run lengths of COCO's string: five bits a character, differences from the third on."""
    lengths: list[int] = []
    value = shift = 0
    for character in counts.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:  # negative
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths or [0]


def _add_unlisted(
    files: Files, root: object, found: dict[str, Photograph], options: Options, notes: Notes
) -> None:
    for path in sorted(files):
        if not path.lower().endswith(IMAGE_SUFFIXES) or path in found:
            continue
        if options.unlisted == "free":
            split = folder_subset(path)
            group = original_name(path)
            found[path] = Photograph(path, files[path], split=split, group=group)
            notes.remark("photographs that no JSON file lists are taken as defect-free")
        else:
            why = "listed in no JSON file (--unlisted free takes such as defect-free)"
            notes.leave_out("photograph", why, f"{root}/{path}")


def _classes(listings: Sequence[_Listing], notes: Notes) -> list[str]:
    """One class list for all files: the names in use by their lowest id."""
    ids: dict[str, Any] = {}
    unused: set[str] = set()
    parents = set().union(*(listing.parents for listing in listings))
    for listing in listings:
        for number, name in listing.names.items():
            if number in listing.used and reserved(name) is None:
                ids[name] = min(number, ids.get(name, number))
            else:
                unused.add(name)
    for name in sorted(unused - ids.keys()):
        if name not in parents and reserved(name) is None:
            why = "without an annotation (--classes FILE keeps it in its place)"
            notes.leave_out("class", why, name)
    return sorted(ids, key=lambda name: (ids[name], name))
