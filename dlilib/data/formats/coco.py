"""COCO: JSON files that list photographs, categories and annotations; filled by pycocotools."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dlilib.data.class_names import reserved
from dlilib.data.files import DataError, Files
from dlilib.data.formats.annotations import (
    FARTHEST,
    KNOWN_SUFFIXES,
    Annotations,
    Notes,
    OddValueError,
    Options,
    Photograph,
    Pictures,
    Region,
    add_unlisted,
    class_name,
    expected,
    fitness,
    read_json,
    side,
    whose,
)
from dlilib.data.subsets import folder_subset, original_name, subset_of
from dlilib.extras import require
from dlilib.wording import counted, listed

# Coordinates between these are shares of the width and height: no region of pixels is so small.
SHARES = (-0.05, 1.05)
NEARLY_ALL = 0.95  # of a file's annotations, which then are meant in shares
FARTHEST_SHARE = 2  # that a region of shares reaches, which may leave the photograph
BOX = "a box without an outline: export polygons or masks, not boxes alone"


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
        raise DataError(f"{root}: nothing is left to convert: {'; '.join(notes.left_out)}")
    pictures = Pictures(files)
    found: dict[str, Photograph] = {}
    missing = len(listings) < len(paths)  # whether a photograph may have an annotation unseen
    listed_by: dict[str, str] = {}  # photograph -> the first file that lists it
    for listing in listings:
        photographs, unseen = _read_listing(listing, files, pictures, found, notes)
        missing |= unseen
        _tell_listed_twice(listing, photographs, listed_by, notes)
    where = "listed in no JSON file"
    add_unlisted(files, found, root, options, notes, where=where, missing=missing)
    return Annotations(list(found.values()), _classes(listings), len(listings))


def _listing(files: Files, root: object, path: str, notes: Notes) -> _Listing | None:
    """What a JSON file lists; None: it cannot be read, or is no list of annotated regions."""
    place = f"{root}/{path}"
    try:
        with expected("COCO", place):
            content = read_json(files, root, path)
            _check_lists(content)
            names: dict[Any, str] = {}
            for category in content["categories"]:
                if category.get("name") in (None, ""):  # a region of it is refused
                    continue
                name, number = class_name(category["name"]), _id(category["id"])
                if names.setdefault(number, name) != name:
                    raise OddValueError(
                        f"the category id {number} is there twice, as {names[number]} and as {name}"
                    )
            parents = {
                category.get("supercategory")
                for category in content["categories"]
                if category.get("supercategory") != category.get("name")
            }
            items = content["annotations"]
            listing = _Listing(path, place, content["images"], items, names, parents)
            reaches = [reach for item in items if (reach := _reach(item)) is not None]
            listing.normalised = (
                bool(reaches) and np.mean(list(map(_are_shares, reaches))) >= NEARLY_ALL
            )
            listing.used = {
                _id(item["category_id"]) for item in items if item.get("category_id") is not None
            }
            _tell_equal_names(listing, notes)
    except DataError as error:
        notes.slip("JSON file", str(error).removeprefix(f"{place}: "), place)
        return None
    return listing


def _tell_equal_names(listing: _Listing, notes: Notes) -> None:
    """Say that categories in use have one name, and so become one class."""
    by_name: dict[str, list[str]] = {}
    for number in sorted(listing.used & listing.names.keys(), key=str):
        by_name.setdefault(listing.names[number], []).append(str(number))
    for name, numbers in by_name.items():
        if len(numbers) > 1:
            notes.remark(
                f"{listing.place}: the categories {listed(numbers)} are all called {name} and "
                "become one class: rename them where they are meant to be several"
            )


def _check_lists(content: Any) -> None:
    """Raise OddValueError unless a JSON's content lists images, categories and annotations."""
    for key in ("images", "categories", "annotations"):
        missing = not isinstance(content, dict) or not isinstance(content.get(key), list)
        if missing or (key == "categories" and not content[key] and content.get("annotations")):
            other = whose(content)
            hint = other or "export instances (polygons or masks) with their images and categories"
            raise OddValueError(f"it lists no {key}; {hint}")
        if not all(isinstance(item, dict) for item in content[key]):
            raise OddValueError(f"its {key} are no objects")


def _id(value: Any) -> int | str:
    """An id as a number where it is one, also as text or with a decimal point."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    if not isinstance(value, int | str):
        raise OddValueError(f"the id {value!r} is neither a number nor a name")
    return value


def _reach(item: dict[str, Any]) -> tuple[float, float] | None:
    """The least and the largest coordinate of an annotation's polygons; None: there are none."""
    try:
        parts = [part for part in _parts(item.get("segmentation")) if part.size]
    except (TypeError, ValueError, OverflowError):
        return None
    return _reach_of(parts) if parts else None


def _reach_of(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)


def _are_shares(reach: tuple[float, float]) -> bool:
    return reach[0] >= SHARES[0] and reach[1] <= SHARES[1]


def _parts(segmentation: Any) -> list[np.ndarray]:
    """The polygons (P, 2) of an annotation: lists of x, y, x, y, … or of pairs, or one list."""
    if not isinstance(segmentation, list):
        return []
    if segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]
    parts = []
    for flat in segmentation:
        numbers = np.array(flat, float).ravel()
        if len(numbers) % 2 or not np.isfinite(numbers).all():
            raise ValueError("a polygon of an odd number of values, or of no numbers")
        parts.append(numbers.reshape(-1, 2))
    return parts


def _read_listing(
    listing: _Listing,
    files: Files,
    pictures: Pictures,
    found: dict[str, Photograph],
    notes: Notes,
) -> tuple[set[str], bool]:
    """Add a file's photographs and annotations.

    Returns:
        The paths of its photographs, and whether some could not be found.
    """
    by_id: dict[Any, Photograph | None] = {}
    places = _places(listing, pictures)
    for image in listing.images:
        try:
            with expected("COCO", listing.place):
                number = _id(image["id"])
                if number in by_id:
                    raise OddValueError(
                        f"the image id {number} is there twice: which photograph do its "
                        "annotations belong to?"
                    )
        except DataError as error:
            if "twice" in str(error):
                raise
            why = str(error).removeprefix(f"{listing.place}: ")
            notes.slip("image entry", why, listing.place)
            continue
        by_id[number] = _photograph(image, places, listing, files, found, notes)
    missing = None in by_id.values()
    if listing.normalised:
        notes.remark(
            f"{listing.place}: its coordinates are shares of width and height: scaled to pixels"
        )
    for item in listing.annotations:
        place = f"{listing.place}, annotation {item.get('id')}"
        try:
            owner = _id(item.get("image_id"))
        except ValueError:
            owner = None
        if owner not in by_id:
            notes.slip("annotation", f"of an image that {listing.path} does not list", place)
            missing = True
        elif by_id[owner] is not None:
            _add(by_id[owner], item, listing, notes)
    return {photograph.path for photograph in by_id.values() if photograph}, missing


def _places(listing: _Listing, pictures: Pictures) -> dict[str, tuple[str | None, bool]]:
    """Where the photographs of a file's entries lie, by their names; None: not there.

    Of several names that lead to one photograph, since others are missing, the one that fits best
    is meant; of equally good ones none. Beside the path: whether it is surely no other one.
    """
    names = {_name_of(image) for image in listing.images}
    found = {name: (_picture(pictures, name, listing.path), True) for name in sorted(names)}
    leading: dict[str, list[str]] = {}
    for name, (path, _) in found.items():
        if path is not None:
            leading.setdefault(path, []).append(name)
    for path, rivals in leading.items():
        if len(rivals) > 1:
            fits = {name: fitness(path, name) for name in rivals}
            best = [name for name in rivals if fits[name] == max(fits.values())]
            found |= dict.fromkeys(rivals, (None, True))
            if len(best) == 1:
                is_whole, *_ = fits[best[0]]
                found[best[0]] = path, is_whole
    return found


def _name_of(image: dict[str, Any]) -> str:
    """What an entry calls its photograph: LVIS has its address alone."""
    return str(image.get("file_name") or image.get("coco_url") or "without a file_name")


def _picture(pictures: Pictures, name: str, beside: str) -> str | None:
    found = pictures.find(name, beside)
    has_suffix = name.lower().endswith(KNOWN_SUFFIXES)
    return found if found or has_suffix else pictures.find_stem(name, beside)


def _tell_listed_twice(
    listing: _Listing, photographs: set[str], listed_by: dict[str, str], notes: Notes
) -> None:
    """Say that photographs are listed in an earlier file as well, as one of an older state is."""
    if not listing.annotations:
        return
    again = [listed_by[path] for path in photographs if path in listed_by]
    for other in sorted(set(again)):
        notes.remark(
            f"{counted(again.count(other), 'photograph')} listed in {other} and in {listing.path}: "
            "the annotations of both are drawn. Is one an older state of the other? Remove it. "
            "Or of other photographs of the same names? Convert the folders one by one"
        )
    for path in photographs:
        listed_by.setdefault(path, listing.path)


def _photograph(
    image: dict[str, Any],
    places: dict[str, tuple[str | None, bool]],
    listing: _Listing,
    files: Files,
    found: dict[str, Photograph],
    notes: Notes,
) -> Photograph | None:
    """The photograph of an image's entry, one for all files that list it; None: not there."""
    name = _name_of(image)
    path, is_sure = places[name]
    if path is None:
        why = f"listed in {listing.path}, but not there"
        notes.slip("photograph", why, f"{listing.place}, {name}")
        return None
    height, width = side(image.get("height")), side(image.get("width"))
    size = (height, width) if height and width else None
    photograph = found.setdefault(path, Photograph(path, files[path], size=size))
    if size and photograph.size and size != photograph.size:
        raise DataError(
            f"{listing.place}: says {name} is {_by(size)} pixels, another entry "
            f"{_by(photograph.size)}"
        )
    if not is_sure:  # an entry that is left out may be of it, too
        photograph.unread += 1
    extra = image.get("extra")
    said = extra.get("name") if isinstance(extra, dict) else None  # Roboflow's original
    photograph.group = said if isinstance(said, str) else original_name(name)
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


def _add(photograph: Photograph, item: dict[str, Any], listing: _Listing, notes: Notes) -> None:
    """Add an annotation to its photograph, or count that it cannot be read."""
    place = f"{listing.place}, annotation {item.get('id')}"
    try:
        with expected("COCO", place):
            category = _id(item["category_id"])
            if category not in listing.names:
                raise DataError(
                    f"{place}: is of category {category}, which the file's categories do not list"
                )
            draw = _outline(item.get("segmentation"), listing.normalised, place, notes)
            photograph.regions.append(Region(listing.names[category], draw, place))
    except DataError as error:
        notes.slip("annotation", str(error).removeprefix(f"{place}: "), place)
        photograph.unread += 1


def _outline(segmentation: Any, normalised: bool, place: str, notes: Notes) -> partial:
    """What draws an annotation's polygons or run lengths."""
    if isinstance(segmentation, dict):
        return partial(_run_lengths, segmentation, place)
    if not segmentation:
        raise DataError(f"{place}: {BOX}")
    try:
        parts = _parts(segmentation)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{place}: a polygon whose points are no pairs of numbers") from None
    good = [part for part in parts if len(part) > 2]
    if not good:
        raise DataError(f"{place}: a polygon of fewer than 3 points")
    _check_unit(_reach_of(good), normalised, place)
    if len(good) < len(parts):
        notes.leave_out("part of an annotation", "a polygon of fewer than 3 points", place)
    return partial(_polygons, good, normalised, place)


def _check_unit(reach: tuple[float, float], normalised: bool, place: str) -> None:
    """Raise DataError unless polygons are meant as most of their file: in shares or in pixels."""
    if normalised and max(map(abs, reach)) > FARTHEST_SHARE:
        raise DataError(
            f"{place}: coordinates up to {reach[1]:g}, in a file whose coordinates are shares of "
            "width and height"
        )
    if not normalised and _are_shares(reach):
        raise DataError(
            f"{place}: coordinates between 0 and 1, in a file that has others in pixels: shares of "
            "width and height? Write all of them in pixels"
        )


def _polygons(
    polygons: list[np.ndarray], normalised: bool, place: str, height: int, width: int
) -> np.ndarray:
    scale = (width, height) if normalised else (1, 1)
    return fill([points * scale for points in polygons], height, width, place)


def fill(polygons: Sequence[np.ndarray], height: int, width: int, place: str) -> np.ndarray:
    """Fill polygons (P, 2), x and y in pixels, as pycocotools does: bool (height, width)."""
    if max(abs(points).max() for points in polygons) > FARTHEST:
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
        size = [side(length) for length in coded["size"]]
        counts = coded["counts"]
        packed = isinstance(counts, str)
        lengths = _unpacked(counts) if packed else [int(count) for count in counts]
    if size != [height, width]:
        raise DataError(
            f"{place}: run lengths of {' × '.join(map(str, size))} pixels (height first), the "
            f"photograph has {height} × {width}"
        )
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
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


def _classes(listings: Sequence[_Listing]) -> list[str]:
    """One class list for all files, by their lowest id; those in use first take a name's id."""
    used: dict[str, tuple[str, Any]] = {}
    listed: dict[str, tuple[str, Any]] = {}
    parents = set().union(*(listing.parents for listing in listings))
    for listing in listings:
        for number, name in listing.names.items():
            if reserved(name) is not None:
                continue
            rank = (type(number).__name__, number)
            into = used if number in listing.used else listed
            into[name] = min(rank, into.get(name, rank))
    for name, rank in listed.items():
        if name not in used and name not in parents:  # a root is no class
            used[name] = rank
    return sorted(used, key=lambda name: (used[name], name))
