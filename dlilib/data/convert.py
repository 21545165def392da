"""Write the folder that `from_folder` reads, from LabelMe, COCO or a TileSet."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dlilib.data.files import DataError, Files, open_files, read_text, write_whole
from dlilib.data.images import IMAGE_SUFFIXES, read_image
from dlilib.tiles import MOST_CLASSES, TileSet

# The masks' palette, red, green and blue of each class index: with it a viewer shows them coloured.
COLOURS = (
    *(0, 0, 0),  # background
    *(222, 143, 5),
    *(1, 115, 178),
    *(2, 158, 115),
    *(213, 94, 0),
    *(204, 120, 188),
)
LEAST = {"polygon": 3, "rectangle": 2, "circle": 2}  # points that a shape needs


@dataclass(frozen=True)
class Shape:
    """One annotated region."""

    label: str  # name of its class
    kind: str  # "polygon", "rectangle" or "circle", as LabelMe names them
    # (x, y) in pixels: a polygon's or a rectangle's corners; a circle's centre and a point on it
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Annotations:
    """What an annotation program knows of a set of images."""

    classes: list[str]  # names of the classes 1..K
    shapes: dict[str, list[Shape]]  # image path -> its shapes, none for a defect-free image
    # image path -> its height and width when it was annotated, None where the program does not say
    sizes: dict[str, tuple[int | None, int | None]]


def convert(source: str, root: str | Path, out: str | Path) -> Path:
    """Convert annotated shapes to the folder that `from_folder` reads.

    Writes images/, masks/ (class indices) and classes.txt. Images are copied as they are; an image
    "a/b.png" becomes "a_b.png" where the images lie in several folders. Where shapes overlap, the
    later one stands.

    Args:
        source: The annotation program.

            - "labelme": images, and beside each image with defects a JSON file of the same name.
              The classes are in alphabetical order.
            - "coco": one JSON file, and the images that it lists. The classes are those in use, in
              the order of their ids.
        root: Folder or zip of the images and annotations.
        out: The folder to write, new or empty, outside root.

    Returns:
        `out`.

    Raises:
        ValueError: The source is unknown, or `out` is not a new or empty folder outside root.
        DataError: A file cannot be used; the message names it, and nothing is written.
        WriteError: `out` cannot be written.

    Example:
        >>> folder = convert("labelme", "annotated", out="my_parts")
        >>> tiles = from_folder(folder)
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {tuple(SOURCES)}, got {source!r}")
    out = Path(out)
    _check_out(out, root)
    files = open_files(Path(root))
    found = SOURCES[source](files, root)
    _check_classes(found.classes, root)
    names = _flat_names(list(found.shapes), root)
    # every mask is drawn before anything is written, so that an error leaves nothing behind
    masks = {path: _mask_png(files, path, found) for path in found.shapes}
    for path, name in names.items():
        write_whole(out / "images" / name, files[path](), sync=False)
        mask_name = PurePosixPath(name).stem + ".png"
        write_whole(out / "masks" / mask_name, masks[path], sync=False)
    write_whole(out / "classes.txt", _text(found.classes), sync=False)
    return out


def to_folder(tiles: TileSet, out: str | Path) -> Path:
    """Write a data set as the folder that `from_folder` reads.

    Writes images/, masks/ (class indices), classes.txt and tiles.csv. The same tiles give the same
    files. An image "a/b" is written as "a_b".

    Args:
        tiles: The data set.
        out: The folder to write.

    Returns:
        `out`.

    Raises:
        WriteError: The folder cannot be written.

    Example:
        >>> folder = to_folder(toy_tiles(size=64), "toy_parts")
        >>> tiles = from_folder(folder, size=64)
    """
    out = Path(out)
    stems = [name.replace("/", "_") for name in tiles.names]
    for stem, image, mask in zip(stems, tiles.images, tiles.masks, strict=True):
        pixels = image.permute(1, 2, 0).squeeze(2).cpu().numpy()  # (H, W), or (H, W, 3)
        write_whole(out / "images" / f"{stem}.png", _png(Image.fromarray(pixels)), sync=False)
        drawn = _paletted(mask.cpu().numpy())
        write_whole(out / "masks" / f"{stem}.png", _png(drawn), sync=False)
    rows = [f"{stem},{part}" for stem, part in zip(stems, tiles.groups.tolist(), strict=True)]
    write_whole(out / "tiles.csv", _text(["image,tile", *rows]), sync=False)
    write_whole(out / "classes.txt", _text(tiles.classes), sync=False)
    return out


def _check_out(out: Path, root: str | Path) -> None:
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise ValueError(f"{out}: is a file or holds something already; name a new folder")
    if out.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"{out}: lies in {root}, where the next conversion would find it; name a folder "
            "elsewhere"
        )


def _check_classes(classes: Sequence[str], root: str | Path) -> None:
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise DataError(
            f"{root}: its shapes are of {len(classes)} classes; a mask can hold 1 to {MOST_CLASSES}"
        )
    distinct = {name.strip() for name in classes} - {"Free"}
    if len(distinct) < len(classes):
        raise DataError(f"{root}: needs distinct class names, not Free; has {classes}")


def _flat_names(paths: Sequence[str], root: str | Path) -> dict[str, str]:
    """Image path -> its file name in one folder: "a/b.png" becomes "a_b.png"."""
    folders = [PurePosixPath(path).parent for path in paths]
    top = os.path.commonpath(folders or [""])
    names = {path: "_".join(PurePosixPath(path).relative_to(top).parts) for path in paths}
    counts = Counter(PurePosixPath(name).stem for name in names.values())
    repeated = [stem for stem, count in counts.items() if count > 1]
    if repeated:
        raise DataError(f"{root}: more than one image would be called {min(repeated)}")
    return names


def _text(lines: Iterable[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _paletted(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(COLOURS)
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _mask_png(files: Files, path: str, found: Annotations) -> bytes:
    """Draw the shapes of an image as a PNG of class indices, of the image's size."""
    height, width = read_image(files, path).shape[:2]
    annotated = found.sizes.get(path)
    if annotated and None not in annotated and annotated != (height, width):
        # the points would lie elsewhere
        raise DataError(
            f"{path}: is {width}×{height} pixels, annotated as {annotated[1]}×{annotated[0]}"
        )
    mask = _paletted(np.zeros((height, width), np.uint8))
    draw = ImageDraw.Draw(mask)
    for shape in found.shapes[path]:
        points = _draw(draw, shape, 1 + found.classes.index(shape.label), path)
        if points.max(axis=0).min() < 0 or (points.min(axis=0) >= (width, height)).any():
            raise DataError(
                f"{path}: a {shape.kind} of {shape.label} lies outside its {width}×{height} pixels"
            )
    return _png(mask)


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, value: int, path: str) -> np.ndarray:
    """Fill the shape with the value and return its points, (N, 2)."""
    with _expected("an annotation program", path):
        points = np.array(shape.points, float)
    pairs = points.ndim == 2 and points.shape[1] == 2
    if not pairs or len(points) < LEAST[shape.kind] or not np.isfinite(points).all():
        raise DataError(f"{path}: a {shape.kind} of {shape.label} has the points {shape.points}")
    if shape.kind == "polygon":
        draw.polygon([tuple(point) for point in points], fill=value)
    elif shape.kind == "rectangle":
        draw.rectangle([*points.min(axis=0), *points.max(axis=0)], fill=value)
    else:
        centre, on_circle = points[:2]
        radius = np.hypot(*(on_circle - centre))
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=value)
    return points


def _labelme(files: Files, root: str | Path) -> Annotations:
    images: dict[str, str] = {}  # path without its suffix -> path
    for path in sorted(files):
        if path.lower().endswith(IMAGE_SUFFIXES):
            images[str(PurePosixPath(path).with_suffix(""))] = path
    shapes: dict[str, list[Shape]] = {path: [] for path in images.values()}
    sizes = {}
    for path in sorted(files):
        if not path.endswith(".json"):
            continue
        place = f"{root}/{path}"
        stem = path.removesuffix(".json")
        if stem not in images:
            raise DataError(f"{place}: there is no image of that name beside it")
        image = images[stem]
        with _expected("LabelMe", place):
            listed = json.loads(read_text(files, root, path))
            sizes[image] = listed.get("imageHeight"), listed.get("imageWidth")
            shapes[image] = [_labelme_shape(item, place) for item in listed["shapes"]]
    used = {shape.label for found in shapes.values() for shape in found}
    return Annotations(sorted(used), shapes, sizes)


def _labelme_shape(item: dict[str, Any], place: str) -> Shape:
    shape = Shape(_name(item["label"]), item["shape_type"], item["points"])
    if shape.kind not in LEAST:
        raise DataError(f"{place}: holds a {shape.kind}: draw it as {', '.join(LEAST)}")
    return shape


def _coco(files: Files, root: str | Path) -> Annotations:
    lists = sorted(path for path in files if path.endswith(".json"))
    if len(lists) != 1:
        raise DataError(f"{root}: needs one JSON file of annotations, has {lists}")
    place = f"{root}/{lists[0]}"
    with _expected("COCO", place):
        listed = json.loads(read_text(files, root, lists[0]))
        categories = sorted(listed["categories"], key=lambda category: category["id"])
        classes = {category["id"]: _name(category["name"]) for category in categories}
        images = listed["images"]
        paths = {image["id"]: _listed(files, image["file_name"], place) for image in images}
        if len(classes) != len(categories) or len(set(paths.values())) != len(images):
            raise DataError(
                f"{place}: an id of a category, or an id or a file of an image, is there twice"
            )
        sizes = {}
        for image in images:
            sizes[paths[image["id"]]] = image.get("height"), image.get("width")
        shapes: dict[str, list[Shape]] = {path: [] for path in paths.values()}
        for item in listed["annotations"]:
            polygons = _polygons(item, place)
            found = shapes[paths[item["image_id"]]]
            label = classes[item["category_id"]]
            found.extend(Shape(label, "polygon", points) for points in polygons)
    used = {shape.label for found in shapes.values() for shape in found}
    return Annotations([name for name in classes.values() if name in used], shapes, sizes)


def _name(label: str | int) -> str:
    """The name of a class; TypeError unless it fits on a line of classes.txt."""
    if not isinstance(label, str | int) or not str(label).isprintable():
        raise TypeError(f"the label {label!r}")
    return str(label)


def _listed(files: Files, name: str, place: str) -> str:
    """The path that ends with a listed file name."""
    paths = [path for path in files if f"/{path}".endswith(f"/{name}")]
    if len(paths) != 1:
        raise DataError(f"{place}: lists the image {name!r}, of which there are {len(paths)}")
    return paths[0]


def _polygons(item: dict[str, Any], place: str) -> list[list[tuple[float, float]]]:
    """The polygons of a COCO annotation, each from a list x, y, x, y, …"""
    polygons = item["segmentation"]
    listed = isinstance(polygons, list) and all(
        isinstance(flat, list) and len(flat) % 2 == 0 for flat in polygons
    )
    if not listed or not polygons:
        raise DataError(
            f"{place}: annotation {item.get('id')} is no list of polygons (nor boxes nor runs are "
            "read)"
        )
    return [list(zip(flat[::2], flat[1::2], strict=True)) for flat in polygons]


@contextmanager
def _expected(source: str, place: str) -> Iterator[None]:
    """Convert parsing errors into DataError."""
    try:
        yield
    except DataError:
        raise
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{place}: not as {source} writes it ({type(error).__name__}: {error})"
        ) from None


# Annotation program -> its reader, of (files, root).
SOURCES: dict[str, Callable[[Files, str | Path], Annotations]] = {
    "labelme": _labelme,
    "coco": _coco,
}
