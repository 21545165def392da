"""YOLO segmentation: a text file a photograph, polygons in shares of its width and height."""

from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dlilib.data.class_names import BACKGROUND
from dlilib.data.files import DataError, Files, read_text
from dlilib.data.formats.annotations import (
    Annotations,
    Notes,
    Options,
    Photograph,
    Region,
    class_name,
    expected,
)
from dlilib.data.formats.coco import fill, original_name
from dlilib.data.images import IMAGE_SUFFIXES
from dlilib.data.subsets import folder_subset
from dlilib.extras import require

LISTS = ("classes.txt", "obj.names", "labels.txt")  # of names 0..K-1, where there is no data.yaml


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read images/…, labels/… and data.yaml, as Ultralytics, Roboflow and CVAT write them."""
    names = options.classes or _names(files, root)
    labels = {path: path for path in files if path.lower().endswith(".txt")}
    photographs = []
    used = set()
    for path in sorted(files):
        if not path.lower().endswith(IMAGE_SUFFIXES):
            continue
        photograph = Photograph(
            path, files[path], split=folder_subset(path), group=original_name(path)
        )
        photographs.append(photograph)
        listed = next((label for label in _label_files(path) if label in labels), None)
        if listed is not None:
            used.add(listed)
            _read_lines(files, root, listed, names, photograph, notes)
    if not used:
        raise DataError(
            f"{root}: has no label file labels/<name>.txt for any of its {len(photographs)} "
            "photographs images/<name>"
        )
    for path in sorted(set(labels) - used):
        *folders, name = PurePosixPath(path).parts
        if "labels" in folders and name not in LISTS:
            notes.slip("label file", "without a photograph of that name", f"{root}/{path}")
    classes = [name for name in names if name.casefold() not in BACKGROUND]
    return Annotations(photographs, classes, len(used))


def _label_files(path: str) -> list[str]:
    """Where the label file of a photograph may lie: labels/ for its last images/, or beside it."""
    parts = list(PurePosixPath(path).with_suffix(".txt").parts)
    beside = "/".join(parts)
    for k in range(len(parts) - 2, -1, -1):
        if parts[k] == "images":
            return ["/".join([*parts[:k], "labels", *parts[k + 1 :]]), beside]
    return [beside]


def _names(files: Files, root: object) -> tuple[str, ...]:
    """The names of the classes 0..K-1."""
    tables = sorted(path for path in files if path.lower().endswith((".yaml", ".yml")))
    for path in tables:
        found = _names_in_yaml(files, root, path)
        if found:
            return found
    lists = sorted(path for path in files if PurePosixPath(path).name in LISTS)
    if not lists:
        raise DataError(
            f"{root}: no data.yaml (nor {', '.join(LISTS)}) names the classes; name them by "
            "--classes FILE, a line each, the class of number 0 first"
        )
    lines = read_text(files, root, lists[0]).splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _names_in_yaml(files: Files, root: object, path: str) -> tuple[str, ...] | None:
    yaml = require("yaml", "formats")
    place = f"{root}/{path}"
    try:
        content = yaml.safe_load(read_text(files, root, path))
    except yaml.YAMLError as error:
        raise DataError(f"{place}: not readable as YAML: {error}") from None
    names: Any = content.get("names") if isinstance(content, dict) else None
    if not names:
        return None
    with expected("YOLO", place):
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise TypeError(f"names are numbered {list(names)}, not 0, 1, 2 and so on")
            names = [names[number] for number in range(len(names))]
        return tuple(class_name(name) for name in names)


def _read_lines(
    files: Files,
    root: object,
    path: str,
    names: tuple[str, ...],
    photograph: Photograph,
    notes: Notes,
) -> None:
    for number, line in enumerate(read_text(files, root, path).splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{root}/{path}, line {number}"
        try:
            photograph.regions.append(_region(line.split(), names, place))
        except DataError as error:
            notes.slip("annotation", str(error).removeprefix(f"{place}: "), place)
            photograph.unread += 1


def _region(words: list[str], names: tuple[str, ...], place: str) -> Region:
    with expected("YOLO", place):
        number, shares = int(words[0]), np.array(words[1:], float)
    if not 0 <= number < len(names):
        raise DataError(
            f"{place}: is of class {number}; the names are those of 0..{len(names) - 1}"
        )
    if len(shares) == 4:
        raise DataError(
            f"{place}: a box without an outline: export polygons or masks, not boxes alone"
        )
    if len(shares) < 6 or len(shares) % 2 or not np.isfinite(shares).all():
        raise DataError(f"{place}: a polygon of fewer than 3 points, or not of numbers")
    if abs(shares).max() > 2:
        raise DataError(
            f"{place}: has the coordinate {shares.max():g}; they are shares of width and height, "
            "0 to 1"
        )
    return Region(names[number], partial(_pixels, shares.reshape(-1, 2), place), place)


def _pixels(shares: np.ndarray, place: str, height: int, width: int) -> np.ndarray:
    return fill([shares * (width, height)], height, width, place)
