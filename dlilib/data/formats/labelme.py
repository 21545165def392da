"""LabelMe: a JSON file for each photograph, its shapes filled as labelme fills them."""

import base64
import binascii
import io
import json
import re
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dlilib.data.files import DataError, Files, digest, read_text
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
from dlilib.data.images import IMAGE_SUFFIXES, UNDECODABLE

# The kinds of shapes that are read, and the points that each needs.
LEAST = {
    "polygon": 3,
    "rectangle": 2,
    "circle": 2,
    "line": 2,
    "linestrip": 2,
    "point": 1,
    "mask": 2,
}
THIN = ("line", "linestrip", "point")  # drawn with a width
# Folders that labelme's exports write: pictures in them are of masks.
EXPORTS = re.compile(r"(^|/)(SegmentationClass|SegmentationObject)[^/]*/", re.IGNORECASE)
EXPORTED = ("img.png", "label.png", "label_viz.png", "label_names.txt")  # labelme_export_json's
# What tools add to a photograph's name for a picture of its mask.
OF_MASKS = re.compile(
    r"[ _.-]*(mask|masks|label|labels|seg|segmentation|gt|viz|vis|overlay)", re.IGNORECASE
)


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read a folder of photographs and JSON files."""
    pictures = Pictures(files)
    found: dict[str, Photograph] = {}
    listed = [path for path in sorted(files) if path.lower().endswith(".json")]
    for path in listed:
        content = _content(files, root, path, notes)
        photograph = _photograph(files, pictures, path, content, f"{root}/{path}")
        if photograph is None:
            if "shapes" in content:
                why = "its photograph is neither there nor in the file"
                notes.slip("annotation file", why, f"{root}/{path}")
            continue
        if photograph.path in found:
            raise DataError(
                f"{root}/{path}: is of {photograph.path}, as another JSON file is; the photograph "
                "is what imagePath says: correct it, or remove one file"
            )
        if "shapes" in content:
            _add_shapes(photograph, content["shapes"], f"{root}/{path}", options, notes)
        else:
            photograph.unread = 1
        found[photograph.path] = photograph
    for path in _defect_free(files, found, root, notes):
        found[path] = Photograph(path, files[path])
    labels = {region.label for photograph in found.values() for region in photograph.regions}
    return Annotations(list(found.values()), sorted(labels), len(listed))


def _content(files: Files, root: object, path: str, notes: Notes) -> dict[str, Any]:
    """What a JSON file of LabelMe holds; nothing where it cannot be read or is no such file."""
    place = f"{root}/{path}"
    try:
        with expected("LabelMe", place):
            content = json.loads(read_text(files, root, path))
            if isinstance(content, dict) and isinstance(content.get("shapes"), list):
                return content
    except DataError as error:
        why = str(error).removeprefix(f"{place}: ")
        notes.slip("annotation file", why, place)
        return {}
    notes.slip("annotation file", "not as LabelMe writes it: it lists no shapes", place)
    return {}


def _photograph(
    files: Files, pictures: Pictures, path: str, content: dict[str, Any], place: str
) -> Photograph | None:
    """The photograph of a JSON file: that of imagePath, of its name beside it, or embedded."""
    size = None
    with expected("LabelMe", place):
        name = content.get("imagePath") or ""
        if not isinstance(name, str):
            raise TypeError(f"its imagePath is {name!r}")
        sides = content.get("imageHeight"), content.get("imageWidth")
        if None not in sides:
            size = int(sides[0]), int(sides[1])
    image = _meant(files, pictures, path, name)
    if image is not None:
        return Photograph(image, files[image], size=size)
    embedded = content.get("imageData")
    if not embedded:
        return None
    with expected("LabelMe", place):
        stored = _unpacked(embedded)
        kind = Image.open(io.BytesIO(stored)).format or ""
    suffix = {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}")
    stem = PurePosixPath(path).with_suffix("")
    return Photograph(f"{stem}{suffix}", lambda: stored, size=size)


def _unpacked(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its embedded picture is cut off ({error})") from None


def _meant(files: Files, pictures: Pictures, path: str, name: str) -> str | None:
    """The picture that imagePath names, or that of the JSON file's own name beside it."""
    here = PurePosixPath(path).parent
    if name:
        parts: list[str] = list(here.parts)
        for part in PurePosixPath(name.replace("\\", "/")).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        exact = "/".join(parts)
        if exact in files and exact.lower().endswith(IMAGE_SUFFIXES):
            return exact
    beside = _beside(files, path)
    stem = PurePosixPath(name.replace("\\", "/")).stem
    if len(beside) == 1 or (beside and stem != PurePosixPath(path).stem):
        return beside[0]
    found = pictures.find(name, path) if name else None
    return found or (beside[0] if beside else None)


def _beside(files: Files, path: str) -> list[str]:
    """The pictures in a JSON file's folder that have its name."""
    stem = PurePosixPath(path).with_suffix("").as_posix()
    names = (f"{stem}{suffix}" for ending in IMAGE_SUFFIXES for suffix in (ending, ending.upper()))
    return [name for name in names if name in files]


def _add_shapes(
    photograph: Photograph, shapes: list[Any], place: str, options: Options, notes: Notes
) -> None:
    for item in shapes:
        try:
            with expected("LabelMe", place):
                region = _region(item, place, options)
        except DataError as error:
            notes.slip("annotation", str(error).removeprefix(f"{place}: "), place)
            photograph.unread += 1
            continue
        if item["shape_type"] in THIN:
            notes.remark(f"lines and points are drawn {options.width} pixels wide (--width)")
        photograph.regions.append(region)


def _region(item: dict[str, Any], place: str, options: Options) -> Region:
    label, kind = class_name(item["label"]), item.get("shape_type") or "polygon"
    if kind not in LEAST:
        raise DataError(f"{place}: a shape of {label} is a {kind}; these are read: {sorted(LEAST)}")
    points = np.array(item["points"], float)
    pairs = points.ndim == 2 and points.shape[1] == 2
    if not pairs or len(points) < LEAST[kind] or not np.isfinite(points).all():
        raise DataError(
            f"{place}: a {kind} of {label} has the points {item['points']}; it needs {LEAST[kind]} "
            "or more pairs of numbers"
        )
    stored = _stored_mask(item, points, label, place) if kind == "mask" else None
    pixels = partial(_pixels, kind, points, options.width, stored, f"{place}: a {kind} of {label}")
    return Region(label, pixels, place)


def _stored_mask(item: dict[str, Any], points: np.ndarray, label: str, place: str) -> np.ndarray:
    """The pixels of a shape of type mask in its box."""
    packed = item.get("mask")
    if not isinstance(packed, str):
        raise DataError(f"{place}: a mask of {label} holds no picture")
    try:
        pixels = np.asarray(Image.open(io.BytesIO(_unpacked(packed))).convert("L")) > 0
    except UNDECODABLE as error:
        raise DataError(f"{place}: a mask of {label} holds no readable picture: {error}") from None
    (left, top), (right, bottom) = points[:2].astype(int)
    if pixels.shape != (bottom - top + 1, right - left + 1):
        raise DataError(
            f"{place}: a mask of {label} is {pixels.shape[1]}×{pixels.shape[0]} pixels, its box "
            f"{right - left + 1}×{bottom - top + 1}"
        )
    return pixels


def _pixels(
    kind: str,
    points: np.ndarray,
    width: int,
    stored: np.ndarray | None,
    what: str,
    height: int,
    across: int,
) -> np.ndarray:
    """The pixels of a shape on a photograph, bool (height, across)."""
    if points.max(axis=0).min() < 0 or (points.min(axis=0) >= (across, height)).any():
        raise DataError(f"{what} lies outside the photograph's {across}×{height} pixels")
    canvas = Image.new("L", (across, height))
    draw = ImageDraw.Draw(canvas)
    corners = [tuple(point) for point in points]
    if stored is not None:
        left, top = points[0].astype(int)
        canvas.paste(Image.fromarray(stored.astype(np.uint8)), (int(left), int(top)))
    elif kind == "polygon":
        draw.polygon(corners, fill=1)
    elif kind == "rectangle":
        draw.rectangle([*points.min(axis=0), *points.max(axis=0)], fill=1)
    elif kind in ("line", "linestrip"):
        draw.line(corners, fill=1, width=width)
    else:
        centre = points[0]
        radius = width / 2 if kind == "point" else np.hypot(*(points[1] - centre))
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=1)
    return np.asarray(canvas) > 0


def _defect_free(
    files: Files, found: dict[str, Photograph], root: object, notes: Notes
) -> list[str]:
    """The photographs without a JSON file; pictures of masks and copies are told and left out."""
    annotated = {_stem(path) for path in found}
    suffixes = {PurePosixPath(path).suffix.lower() for path in found}
    by_stem: dict[str, list[str]] = {}
    for path in sorted(files):
        if not path.lower().endswith(IMAGE_SUFFIXES) or path in found:
            continue
        if _is_exported(files, path):
            notes.leave_out("picture", "in a folder that an export wrote", f"{root}/{path}")
        elif _stem(path) in annotated or _of_a_mask(_stem(path), annotated):
            why = "a mask or another version of an annotated photograph"
            notes.leave_out("picture", why, f"{root}/{path}")
        else:
            by_stem.setdefault(_stem(path), []).append(path)
    paths = [_the_photograph(paths, suffixes, root, notes) for paths in by_stem.values()]
    return _without_copies(files, paths, found, root, notes)


def _is_exported(files: Files, path: str) -> bool:
    """Whether a picture lies where labelme's exports put pictures of masks."""
    folder = PurePosixPath(path).parent
    return sum((folder / name).as_posix() in files for name in EXPORTED) > 1 or bool(
        EXPORTS.search(path)
    )


def _without_copies(
    files: Files, paths: list[str], found: dict[str, Photograph], root: object, notes: Notes
) -> list[str]:
    """The photographs that are no copy of one with annotations, which would be defect-free."""
    if not paths:
        return []
    annotated = [photograph for photograph in found.values() if photograph.is_annotated]
    contents = {digest(photograph.read()) for photograph in annotated}
    kept = []
    for path in paths:
        if digest(files[path]()) in contents:
            notes.leave_out("picture", "a copy of an annotated photograph", f"{root}/{path}")
        else:
            kept.append(path)
    return kept


def _stem(path: str) -> str:
    return PurePosixPath(path).with_suffix("").as_posix()


def _of_a_mask(stem: str, annotated: set[str]) -> bool:
    """Whether a picture is called as an annotated one with "_mask" or the like after it."""
    folder, _, name = stem.rpartition("/")
    for start in range(len(name) - 1, 0, -1):
        if OF_MASKS.fullmatch(name[start:]):
            base = f"{folder}/{name[:start]}" if folder else name[:start]
            if base in annotated:
                return True
    return False


def _the_photograph(paths: list[str], suffixes: set[str], root: object, notes: Notes) -> str:
    """The photograph among pictures of one name."""
    if len(paths) == 1:
        return paths[0]
    likely = [path for path in paths if PurePosixPath(path).suffix.lower() in suffixes]
    if len(likely) != 1:
        raise DataError(
            f"{root}/{paths[0]}: and {paths[1]} have one name and no JSON file: which is the "
            "photograph? Move the other one elsewhere"
        )
    for path in paths:
        if path not in likely:
            why = "a mask or another version of a photograph"
            notes.leave_out("picture", why, f"{root}/{path}")
    return likely[0]
