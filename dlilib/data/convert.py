"""The folder of images and masks that `from_folder` reads, from the polygons of LabelMe and COCO, or from tiles."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dlilib.data.files import DataError, Files, open_files, read_text, write_whole
from dlilib.data.images import IMAGE_SUFFIXES, read_image
from dlilib.tiles import TileSet

COLOURS = (
    0,
    0,
    0,
    222,
    143,
    5,
    1,
    115,
    178,
    2,
    158,
    115,
    213,
    94,
    0,
    204,
    120,
    188,
)  # of the palette; for the eye
LEAST = {"polygon": 3, "rectangle": 2, "circle": 2}  # points of a shape


@dataclass(frozen=True)
class Shape:
    """One annotated region."""

    label: str  # its class
    kind: str  # "polygon", "rectangle" or "circle", as LabelMe names them
    points: list[
        tuple[float, float]
    ]  # x, y in pixels; a rectangle's corners; a circle's centre and a point on it


# class names; image path -> shapes; image path -> height and width as annotated, None where they are not said
Annotations = tuple[list[str], dict[str, list[Shape]], dict[str, tuple[int | None, int | None]]]


def convert(source: str, root: str | Path, out: str | Path) -> Path:
    """Write `out`/images, masks and classes.txt from `root`, a folder or zip, and return `out`.

    source: "labelme", images with a JSON file of the same name beside those that have defects, classes in alphabetical
        order; "coco", one JSON file and the images that it lists, classes in the order of their ids, without those
        of which there is nothing. Where shapes overlap, the later one stands. Images are copied as they are; "a/b.png"
        among others becomes "a_b.png".
    Raises ValueError for another source or where `out` holds something, DataError naming a file that cannot be used.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {tuple(SOURCES)}, got {source!r}")
    out = Path(out)
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise ValueError(f"{out}: is a file or holds something already; name a new folder")
    if out.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"{out}: lies in {root}, where the next conversion would find it; name a folder elsewhere"
        )
    files = open_files(Path(root))
    classes, shapes, sizes = SOURCES[source](files, root)
    if not 1 <= len(classes) <= 255:
        raise DataError(
            f"{root}: its shapes are of {len(classes)} classes; a mask can hold 1 to 255"
        )
    if len({"Free", *(name.strip() for name in classes)}) <= len(classes):
        raise DataError(f"{root}: needs distinct class names, not Free; has {classes}")
    top = PurePosixPath(os.path.commonpath([PurePosixPath(path).parent for path in shapes] or [""]))
    names = {path: "_".join(PurePosixPath(path).relative_to(top).parts) for path in shapes}
    stems = [PurePosixPath(name).stem for name in names.values()]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise DataError(f"{root}: more than one image would be called {min(twice)}")
    masks = {
        path: _drawn(files, path, found, classes, sizes.get(path)) for path, found in shapes.items()
    }
    for path, stem in zip(
        shapes, stems, strict=True
    ):  # whatever is wrong was found before anything is written
        write_whole(out / "images" / names[path], files[path]())
        write_whole(out / "masks" / f"{stem}.png", masks[path])
    write_whole(out / "classes.txt", ("\n".join(classes) + "\n").encode())
    return out


def to_folder(tiles: TileSet, out: str | Path) -> Path:
    """Write `tiles` as the folder that `from_folder` reads, masks as class indices, and return it.

    The same tiles give the same files; "a/b" among the names becomes "a_b".
    """
    out, stems = Path(out), [name.replace("/", "_") for name in tiles.names]
    for stem, image, mask in zip(stems, tiles.images, tiles.masks, strict=True):
        pixels = image.permute(1, 2, 0).squeeze(2).cpu().numpy()
        write_whole(out / "images" / f"{stem}.png", _png(Image.fromarray(pixels)))
        write_whole(out / "masks" / f"{stem}.png", _png(_paletted(mask.cpu().numpy())))
    parts = [f"{stem},{part}\n" for stem, part in zip(stems, tiles.tile.tolist(), strict=True)]
    write_whole(out / "tiles.csv", "".join(["image,tile\n", *parts]).encode())
    write_whole(out / "classes.txt", ("\n".join(tiles.classes) + "\n").encode())
    return out


def _paletted(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(COLOURS)
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _drawn(
    files: Files,
    path: str,
    shapes: Sequence[Shape],
    classes: Sequence[str],
    size: tuple[int | None, int | None] | None,
) -> bytes:
    """The PNG of class indices, of the size of the image at `path`; size: that it had when it was annotated."""
    height, width = read_image(files, path).shape[:2]
    if size and None not in size and size != (height, width):  # the points would lie elsewhere
        raise DataError(f"{path}: is {width}×{height} pixels, annotated as {size[1]}×{size[0]}")
    mask = _paletted(np.zeros((height, width), np.uint8))
    draw = ImageDraw.Draw(mask)
    for shape in shapes:
        points = _draw(draw, shape, 1 + classes.index(shape.label), path)
        if points.max(axis=0).min() < 0 or (points.min(axis=0) >= (width, height)).any():
            raise DataError(
                f"{path}: a {shape.kind} of {shape.label} lies outside its {width}×{height} pixels"
            )
    return _png(mask)


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, value: int, path: str) -> np.ndarray:
    """Fill the shape with the value; its points, (N, 2)."""
    with _expected("an annotation program", path):
        points = np.array(shape.points, float)
    if (
        points.ndim != 2
        or points.shape[1] != 2
        or len(points) < LEAST[shape.kind]
        or not np.isfinite(points).all()
    ):
        raise DataError(f"{path}: a {shape.kind} of {shape.label} has the points {shape.points}")
    if shape.kind == "polygon":
        draw.polygon([tuple(p) for p in points], fill=value)
    elif shape.kind == "rectangle":
        draw.rectangle([*points.min(axis=0), *points.max(axis=0)], fill=value)
    else:
        radius = np.hypot(*(points[1] - points[0]))
        draw.ellipse([*(points[0] - radius), *(points[0] + radius)], fill=value)
    return points


def _labelme(files: Files, root: str | Path) -> Annotations:
    images = {
        str(PurePosixPath(p).with_suffix("")): p
        for p in sorted(files)
        if p.lower().endswith(IMAGE_SUFFIXES)
    }
    shapes: dict[str, list[Shape]] = {path: [] for path in images.values()}
    sizes = {}
    for path in sorted(p for p in files if p.endswith(".json")):
        if (stem := path.removesuffix(".json")) not in images:
            raise DataError(f"{root}/{path}: there is no image of that name beside it")
        with _expected("LabelMe", f"{root}/{path}"):
            listed = json.loads(read_text(files, root, path))
            sizes[images[stem]] = listed.get("imageHeight"), listed.get("imageWidth")
            for item in listed["shapes"]:
                shape = Shape(_name(item["label"]), item["shape_type"], item["points"])
                if shape.kind not in LEAST:
                    raise DataError(
                        f"{root}/{path}: holds a {shape.kind}: draw it as {', '.join(LEAST)}"
                    )
                shapes[images[stem]].append(shape)
    return sorted({shape.label for found in shapes.values() for shape in found}), shapes, sizes


def _coco(files: Files, root: str | Path) -> Annotations:
    lists = sorted(path for path in files if path.endswith(".json"))
    if len(lists) != 1:
        raise DataError(f"{root}: needs one JSON file of annotations, has {lists}")
    place = f"{root}/{lists[0]}"
    with _expected("COCO", place):
        listed = json.loads(read_text(files, root, lists[0]))
        classes = {
            c["id"]: _name(c["name"]) for c in sorted(listed["categories"], key=lambda c: c["id"])
        }
        paths = {
            image["id"]: _listed(files, image["file_name"], place) for image in listed["images"]
        }
        if (len(classes), len(set(paths.values()))) != (
            len(listed["categories"]),
            len(listed["images"]),
        ):
            raise DataError(
                f"{place}: an id of a category, or an id or a file of an image, is there twice"
            )
        sizes = {
            paths[image["id"]]: (image.get("height"), image.get("width"))
            for image in listed["images"]
        }
        shapes: dict[str, list[Shape]] = {path: [] for path in paths.values()}
        for item in listed["annotations"]:
            for points in _polygons(item, place):
                shapes[paths[item["image_id"]]].append(
                    Shape(classes[item["category_id"]], "polygon", points)
                )
    used = {shape.label for found in shapes.values() for shape in found}
    return [name for name in classes.values() if name in used], shapes, sizes


def _name(label: str | int) -> str:
    """The class's name; TypeError where it is none that stands on a line."""
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
    parts = item["segmentation"]
    listed = isinstance(parts, list) and all(
        isinstance(part, list) and len(part) % 2 == 0 for part in parts
    )
    if not listed or not parts:
        raise DataError(
            f"{place}: annotation {item.get('id')} is no list of polygons (nor boxes nor runs are read)"
        )
    return [list(zip(part[::2], part[1::2], strict=True)) for part in parts]


@contextmanager
def _expected(source: str, place: str) -> Iterator[None]:
    """A file of another form than its program's becomes a DataError."""
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


SOURCES = {"labelme": _labelme, "coco": _coco}
