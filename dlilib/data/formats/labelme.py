"""LabelMe: a JSON file for each photograph, its shapes filled as labelme fills them."""

import base64
import binascii
import io
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dlilib.data.files import DataError, Files
from dlilib.data.formats.annotations import (
    FARTHEST,
    Annotations,
    Notes,
    OddValueError,
    Options,
    Photograph,
    Pictures,
    Region,
    class_name,
    expected,
    parent,
    plain,
    read_json,
    shows_mask,
    side,
    unannotated,
    whose,
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
    "oriented_rectangle": 4,
    "rotation": 4,  # X-AnyLabeling's oriented rectangle
    "quadrilateral": 4,  # X-AnyLabeling's
}
OUTLINES = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")  # filled alike
THIN = ("line", "linestrip", "point")  # drawn with a width
THUMBNAIL = (32, 32)  # pixels, at which a picture is compared with an embedded one
ANOTHER = 8  # grey levels, by which another picture differs there on average, at least
DATA_URL = ";base64,"  # ends the head of a picture that is embedded as a URL


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read a folder of photographs and JSON files."""
    paths = sorted(path for path in files if path.lower().endswith(".json"))
    pictures = Pictures(files, (path[: -len(".json")] for path in paths))
    found: dict[str, Photograph] = {}
    lost: set[str] = set()  # what the photographs of unusable JSON files may be called
    used = 0
    for path in paths:
        place = f"{root}/{path}"
        content = _content(files, root, path, notes)
        name = content.get("imagePath")
        name = name if isinstance(name, str) else ""
        try:
            photograph = _photograph(files, pictures, path, content, name, place)
        except DataError as error:
            notes.slip("annotation file", str(error).removeprefix(f"{place}: "), place)
            photograph = None
        if photograph is None:
            lost |= {plain(PurePosixPath(path).stem), plain(_name_of(name).stem)}
            continue
        used += 1
        if photograph.path in found:
            raise DataError(
                f"{place}: is of {photograph.path}, as another JSON file is; the photograph is "
                "what imagePath says: correct it, or remove one file"
            )
        if "shapes" in content:
            photograph.said = _flags(content)
            _add_shapes(photograph, content["shapes"], place, options, notes)
        else:
            photograph.unread = 1
        found[photograph.path] = photograph
    for path in unannotated(files, found, root, notes, own=".json"):
        if plain(PurePosixPath(path).stem) in lost:
            notes.leave_out("photograph", "whose JSON file cannot be used", f"{root}/{path}")
        elif f"{PurePosixPath(path).with_suffix('')}.json" in files:
            notes.leave_out("picture", "whose JSON file is of another one", f"{root}/{path}")
        else:
            found[path] = Photograph(path, files[path])
    labels = {region.label for photograph in found.values() for region in photograph.regions}
    return Annotations(list(found.values()), sorted(labels), used)


def _content(files: Files, root: object, path: str, notes: Notes) -> dict[str, Any]:
    """What a JSON file of LabelMe holds; nothing where it cannot be read or is no such file."""
    place = f"{root}/{path}"
    try:
        content = read_json(files, root, path)
    except DataError as error:
        why = "not as LabelMe writes it: " + str(error).removeprefix(f"{place}: ")
        notes.slip("annotation file", why, place)
        return {}
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        return content
    why = "not as LabelMe writes it: it lists no shapes"
    other = whose(content)
    notes.slip("annotation file", f"{why}; {other}" if other else why, place)
    return {}


def _photograph(
    files: Files, pictures: Pictures, path: str, content: dict[str, Any], name: str, place: str
) -> Photograph | None:
    """The photograph of a JSON file: that of imagePath, of the file's name, or embedded.

    None: there is none, and the file was told of already.
    """
    height, width = side(content.get("imageHeight")), side(content.get("imageWidth"))
    size = (height, width) if height and width else None
    embedded = content.get("imageData")
    image = _exact(files, path, name, place)
    if image is None:
        image = _likely(files, pictures, path, name)
        if embedded:
            with expected("LabelMe", place):
                stored = _unpacked(embedded)
            if image is None or not _alike(files[image](), stored):
                return _embedded(stored, path, place, size)
    if image is not None:
        return Photograph(image, files[image], size=size)
    if "shapes" in content:
        raise DataError(f"{place}: its photograph is neither there nor in the file")
    return None


def _embedded(stored: bytes, path: str, place: str, size: tuple[int, int] | None) -> Photograph:
    """The photograph that a JSON file holds."""
    try:
        kind = Image.open(io.BytesIO(stored)).format or ""
    except UNDECODABLE:
        raise DataError(f"{place}: its embedded photograph is no readable picture") from None
    suffix = {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}")
    stem = PurePosixPath(path).with_suffix("")
    return Photograph(f"{stem}{suffix}", lambda: stored, size=size)


def _alike(content: bytes, stored: bytes) -> bool:
    """Whether a picture shows what an embedded one does, which LabelMe may have stored anew.

    It may have been turned, and either may have been resized. What cannot be read tells nothing.
    """
    try:
        images = [Image.open(io.BytesIO(each)) for each in (content, stored)]
        small = [ImageOps.exif_transpose(image).convert("L").resize(THUMBNAIL) for image in images]
    except UNDECODABLE:
        return True
    first, second = (np.asarray(image, np.float32) for image in small)
    return float(abs(first - second).mean()) < ANOTHER


def _unpacked(text: object) -> bytes:
    """The bytes of a base64 text, which may be broken into lines or begin as a URL."""
    if not isinstance(text, str):
        raise OddValueError("an embedded picture is no text")
    body = "".join(text.partition(DATA_URL)[2].split() if DATA_URL in text else text.split())
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise OddValueError("an embedded picture is cut off, or no base64") from None


def _name_of(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _exact(files: Files, path: str, name: str, place: str) -> str | None:
    """The picture where imagePath says, from the JSON file's folder; None: it is not there."""
    parts = list(PurePosixPath(path).parent.parts)
    for part in _name_of(name).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    exact, stem = "/".join(parts), PurePosixPath(path).with_suffix("").as_posix()
    if exact not in files or not exact.lower().endswith(IMAGE_SUFFIXES):
        return None
    own = f"{stem}{PurePosixPath(exact).suffix}"
    if own in files and PurePosixPath(exact).stem != PurePosixPath(path).stem:
        raise DataError(
            f"{place}: its imagePath names {exact}, and {own} is called as the file is: renamed "
            "together? Correct imagePath"
        )
    return exact


def _likely(files: Files, pictures: Pictures, path: str, name: str) -> str | None:
    """The picture of the JSON file's own name beside it, else of imagePath's or its name elsewhere.

    One whose suffix is not that of imagePath may be of the mask, if its folder says so.
    """
    stem = PurePosixPath(path).with_suffix("").as_posix()
    names = (f"{stem}{suffix}" for ending in IMAGE_SUFFIXES for suffix in (ending, ending.upper()))
    beside = [known for known in names if known in files]
    if len(beside) == 1:
        return beside[0]
    home = parent(path)
    found = pictures.find(name, path, home=home) if name else None
    if found is not None:
        return found
    found = pictures.find_stem(name, path, home=home) if name else None
    found = found or pictures.find_stem(PurePosixPath(path).stem, path, home=home)
    if found is not None and parent(found) != home:
        return None if shows_mask(PurePosixPath(found).parent.name) else found
    return found


def _flags(content: dict[str, Any]) -> list[str]:
    """The flags of the whole photograph that are set."""
    flags = content.get("flags")
    return [name for name, is_set in flags.items() if is_set] if isinstance(flags, dict) else []


def _add_shapes(
    photograph: Photograph, shapes: list[Any], place: str, options: Options, notes: Notes
) -> None:
    for item in shapes:
        try:
            with expected("LabelMe", place):
                kind = item.get("shape_type") or "polygon"
                region = _region(item, kind, place, options)
        except DataError as error:
            notes.slip("annotation", str(error).removeprefix(f"{place}: "), place)
            photograph.unread += 1
            continue
        if kind in THIN:
            notes.remark(f"lines and points are drawn {options.width} pixels wide (--width)")
        photograph.regions.append(region)


def _region(item: dict[str, Any], kind: str, place: str, options: Options) -> Region:
    label = class_name(item["label"])
    if kind not in LEAST:
        raise DataError(
            f"{place}: a shape of {label} is of the kind {kind}; draw it as {', '.join(LEAST)}"
        )
    points = np.array(item["points"], float)
    pairs = points.ndim == 2 and points.shape[1] == 2
    if not pairs or len(points) < LEAST[kind] or not np.isfinite(points).all():
        raise DataError(
            f"{place}: a {kind} of {label} has the points {item['points'][:3]}; it needs "
            f"{LEAST[kind]} or more pairs of numbers"
        )
    if abs(points).max() > FARTHEST:
        raise DataError(f"{place}: a {kind} of {label} lies outside the photograph")
    stored = _stored_mask(item, points, label, place) if kind == "mask" else None
    pixels = partial(_pixels, kind, points, options.width, stored)
    return Region(label, pixels, place)


def _stored_mask(item: dict[str, Any], points: np.ndarray, label: str, place: str) -> np.ndarray:
    """The pixels of a shape of type mask in its box."""
    packed = item.get("mask")
    if not isinstance(packed, str):
        raise DataError(f"{place}: a mask of {label} holds no picture")
    try:
        pixels = np.asarray(Image.open(io.BytesIO(_unpacked(packed))).convert("L")) > 0
    except UNDECODABLE:
        raise DataError(f"{place}: a mask of {label} holds no readable picture") from None
    corners = points[:2].round()
    (left, top), (right, bottom) = corners.astype(int)
    whole = (points[:2] == corners).all()  # else its size is that of the picture
    if whole and pixels.shape != (bottom - top + 1, right - left + 1):
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
    height: int,
    across: int,
) -> np.ndarray:
    """The pixels of a shape on a photograph, bool (height, across)."""
    canvas = Image.new("L", (across, height))
    draw = ImageDraw.Draw(canvas)
    corners = [tuple(point) for point in points]
    if stored is not None:
        left, top = points[0].round().astype(int)
        canvas.paste(Image.fromarray(stored.astype(np.uint8)), (int(left), int(top)))
    elif kind in OUTLINES:
        draw.polygon(corners, fill=1)
    elif kind == "rectangle":
        draw.rectangle([*points.min(axis=0), *points.max(axis=0)], fill=1)
    elif kind in ("line", "linestrip"):
        joint = "curve" if kind == "linestrip" else None  # from version 7 on; else it is notched
        draw.line(corners, fill=1, width=width, joint=joint)
    else:
        centre = points[0]
        radius = width / 2 if kind == "point" else np.hypot(*(points[1] - centre))
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=1)
    return np.asarray(canvas) > 0
