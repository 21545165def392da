"""Write the folder that `from_folder` reads, from an annotation program's export or a TileSet."""

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image

from dlilib.checks import check_option
from dlilib.data.class_names import (
    BORDER,
    checked,
    class_list,
    numbered_list,
    reserved,
    without_reserved,
    written,
)
from dlilib.data.files import DataError, Files, composed, open_files, write_whole
from dlilib.data.formats import coco, label_studio, labelme, voc, yolo
from dlilib.data.formats.annotations import (
    UNLISTED,
    WIDTH,
    Annotations,
    Notes,
    Options,
    Photograph,
    plain,
    tell_unread,
)
from dlilib.data.images import deep_values, image_size, read_image
from dlilib.data.subsets import SUBSETS, folder_subset, is_split, original_name
from dlilib.patches import check_patch, corners
from dlilib.tiles import FREE, IGNORE, MOST_CLASSES, TileSet
from dlilib.wording import counted

# The masks' palette, red, green and blue of each class index: with it a viewer shows them coloured.
# It has all 256 colours, or Pillow would store too few bits for the higher values.
COLOURS = (
    (0, 0, 0),  # background
    (222, 143, 5),
    (1, 115, 178),
    (2, 158, 115),
    (213, 94, 0),
    (204, 120, 188),
    *((index, 255 - index, 128) for index in range(6, IGNORE)),
    BORDER,
)


def convert(
    source: str,
    root: str | Path,
    out: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    strict: bool = False,
    width: int = WIDTH,
    unlisted: str = "leave out",
    tile: tuple[int, int] | None = None,
    tell: Callable[[str], object] = print,
) -> Path:
    """Convert an annotation program's export to the folder that `from_folder` reads.

    Writes images/, masks/ (class indices), classes.txt and, where the export says which photographs
    show the same part or how they are split, tiles.csv. Images are copied as they are; an image
    "a/b.png" becomes "a_b.png" where the images lie in several folders. Where regions overlap, the
    later one stands. Regions that are called background or __ignore__ become 0 and 255.

    What cannot be read is left out and counted: an annotation, and its photograph too unless
    another annotation of it is good, for a photograph with a defect never becomes a defect-free
    one. Annotations of no photograph here are counted alone: whose they are is not known.

    Args:
        source: The annotation program's format.

            - "labelme": photographs and a JSON file for each one with defects; shapes are filled as
              labelme fills them. A photograph without a JSON file is defect-free.
            - "coco": one or more JSON files, polygons and run lengths, as CVAT, Roboflow and many
              others write them; filled by pycocotools.
            - "yolo": YOLO segmentation, a text file for each photograph with defects and data.yaml.
            - "voc" or "cvat": masks in SegmentationClass/ or masks/, in colours that a labelmap.txt
              names, as CVAT's "Segmentation mask 1.1", or of class indices. A photograph without a
              mask that ImageSets/Segmentation lists is defect-free.
            - "label-studio": the brush labels as PNG, and the project's JSON export.
        root: Folder or zip of the images and annotations.
        out: The folder to write, new or empty, outside root.
        classes: Names of the classes 1..K in their order, or a file of them, a line each; None: the
            classes in use, in the order of the export's ids, else alphabetical. A class that it
            does not name is an error. Exports without names ("yolo", "voc") take theirs from it;
            for "yolo" its numbers are those of the label files, 0 for the first line if it has
            none.
        strict: What cannot be read is an error instead.
        width: Of LabelMe's lines and points, in pixels.
        unlisted: What photographs are that COCO's files, Label Studio's tasks or, where they have
            no mask, ImageSets/Segmentation do not list: "leave out" or "free" (defect-free). For
            LabelMe and YOLO a photograph without a file of its own is defect-free anyway.
        tile: Cut the photographs into patches: their side, a multiple of 8, and by how many pixels
            neighbours overlap. Patches of one photograph are one group.
        tell: Called with each line of the report; the last one counts what was read, drawn and left
            out.

    Returns:
        `out`.

    Raises:
        ValueError: An argument is none of the above, or `out` is not a new or empty folder outside
            root.
        DataError: A file cannot be used, or nothing is left; the message names it, and nothing is
            written.
        MissingExtraError: COCO needs pycocotools, and YOLO pyyaml: the extra "formats".
        WriteError: `out` cannot be written.

    Example:
        >>> folder = convert("labelme", "annotated", out="my_parts")
        >>> tiles = from_folder(folder)
    """
    check_option("source", source, tuple(SOURCES))
    check_option("unlisted", unlisted, UNLISTED)
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"width must be a number of pixels, got {width!r}")
    patch = check_patch(tile) if tile else None
    out = Path(out)
    _check_out(out, root)
    options = Options(strict, width, unlisted, *_given_classes(classes, source))
    files, notes = open_files(Path(root)), Notes(strict)
    found = SOURCES[source](files, root, options, notes)
    tell_unread(files, root, notes)
    for photograph in found.photographs:
        photograph.split = photograph.split or folder_subset(photograph.path)
        photograph.group = photograph.group or original_name(photograph.path)
    # every mask is drawn before anything is written, so that an error leaves nothing behind
    drawn = _draw_all(found, options, notes, root)
    stems = _flat_names([image.photograph.path for image in drawn.images], root)
    rows, labels = [], Counter()
    for image, stem in zip(drawn.images, stems, strict=True):
        for name, label in _write(out, stem, image, drawn, patch):
            rows.append([name, image.photograph.group or stem, image.photograph.split])
            labels[label] += 1
    write_whole(out / "classes.txt", _text(written(drawn.classes)), sync=False)
    split = is_split(row[2] for row in rows)
    if split or any(image != group for image, group, _ in rows):
        _write_table(out, rows, split)
    tell(f"{out} { {name: labels[name] for name in (*drawn.classes, FREE)} }")
    for line in _report(found, drawn, notes, len(rows) if patch else 0):
        tell(line)
    return out


def to_folder(tiles: TileSet, out: str | Path) -> Path:
    """Write a data set as the folder that `from_folder` reads.

    Writes images/, masks/ (class indices), classes.txt and tiles.csv. The same tiles give the same
    files. An image "a/b" is written as "a_b".

    Args:
        tiles: The data set.
        out: The folder to write, new, empty or one that this data set was written to.

    Returns:
        `out`.

    Raises:
        ValueError: Two images would be called alike, or `out` holds other images or masks.
        WriteError: The folder cannot be written.

    Example:
        >>> folder = to_folder(toy_tiles(size=64), "toy_parts")
        >>> tiles = from_folder(folder, size=64)
    """
    out = Path(out)
    stems = [name.replace("/", "_") for name in tiles.names]
    if repeated := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise ValueError(f"names: more than one image would be called {repeated[0]}")
    there = {path.name for folder in ("images", "masks") for path in out.glob(f"{folder}/[!.]*")}
    if others := there - {f"{stem}.png" for stem in stems}:
        raise ValueError(f"{out}: holds {min(others)}, which is not of this data set")
    for stem, image, mask in zip(stems, tiles.images, tiles.masks, strict=True):
        pixels = image.permute(1, 2, 0).squeeze(2).cpu().numpy()  # (H, W), or (H, W, 3)
        write_whole(out / "images" / f"{stem}.png", _png(Image.fromarray(pixels)), sync=False)
        drawn = _paletted(mask.cpu().numpy())
        write_whole(out / "masks" / f"{stem}.png", _png(drawn), sync=False)
    given = tiles.given or [""] * len(tiles)
    rows = zip(stems, map(str, tiles.groups.tolist()), given, strict=True)
    _write_table(out, rows, bool(tiles.given))
    write_whole(out / "classes.txt", _text(written(list(tiles.classes))), sync=False)
    return out


@dataclass
class _Image:
    """A photograph and its mask, drawn."""

    photograph: Photograph
    mask: bytes  # PNG; classes by their place in `_class_order`
    shows: set[int]  # the values of the mask that are classes
    regions: int  # that were drawn


@dataclass
class _Drawn:
    """All that is written."""

    images: list[_Image]
    classes: list[str]
    lookup: np.ndarray  # uint8 (256,), class in `_class_order` -> class index


def _given_classes(
    classes: str | Path | Sequence[str] | None, source: str
) -> tuple[tuple[str, ...] | None, tuple[tuple[int, str], ...]]:
    """The classes 1..K that the user names, and all names with the numbers of YOLO's label files.

    classes: a file, or the names. Numbers in a file are those of the masks, but for YOLO.
    """
    if classes is None:
        return None, ()
    if not isinstance(classes, str | Path):
        named = without_reserved(list(classes), "classes")
        return tuple(checked(named, "classes")), tuple(enumerate(classes))
    place, text = str(classes), _text_of(Path(classes))
    if source != "yolo":
        return tuple(checked(class_list(text, place), place)), ()
    numbered = sorted(numbered_list(text, place).items())
    named = [name for _, name in numbered if reserved(name) is None]
    return tuple(checked(named, place)), tuple(numbered)


def _text_of(path: Path) -> str:
    try:
        return composed(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{path}: a list of classes cannot be read ({error.strerror})") from None


def _class_order(found: Annotations, options: Options, notes: Notes, root: object) -> list[str]:
    """The names of the provisional class indices 1, 2, …"""
    labels = {region.label for each in found.photographs for region in each.regions}
    order = [name for name in found.classes if reserved(name) is None]
    if options.classes is not None:
        strange = [name for name in order if name in labels and name not in options.classes]
        if strange:
            raise DataError(
                f"{root}: holds the class {strange[0]}; the given classes are "
                f"{', '.join(options.classes)}"
            )
        order = list(options.classes)
    for first, second in combinations(order, 2):
        if first.casefold() == second.casefold():
            notes.remark(
                f"the classes {first} and {second} differ in capitals alone and stay two: rename "
                "one where they are meant to be one"
            )
    if len(order) > MOST_CLASSES:
        raise DataError(
            f"{root}: its regions are of {len(order)} classes; a mask can hold {MOST_CLASSES}"
        )
    if FREE in order:
        raise DataError(f"{root}: a class is called {FREE}, as defect-free images are: rename it")
    return order


def _draw_all(found: Annotations, options: Options, notes: Notes, root: object) -> _Drawn:
    order = _class_order(found, options, notes, root)
    images = []
    for photograph in found.photographs:
        image = _draw(photograph, order, notes, root)
        if image is not None:
            images.append(image)
    _tell_said(images, notes, root)
    in_use = sorted(set().union(*(image.shows for image in images)))
    if not in_use:
        reasons = "; ".join(notes.left_out) or "no photograph has an annotation"
        raise DataError(f"{root}: nothing is left to convert: {reasons}")
    if options.classes is not None:
        in_use = list(range(1, len(order) + 1))
    for value, name in enumerate(order, start=1):
        if value not in in_use:
            why = "without a region (--classes FILE keeps it in its place)"
            notes.leave_out("class", why, name)
    lookup = np.arange(IGNORE + 1).astype(np.uint8)
    lookup[in_use] = np.arange(1, len(in_use) + 1)
    return _Drawn(images, [order[value - 1] for value in in_use], lookup)


def _draw(photograph: Photograph, order: list[str], notes: Notes, root: object) -> _Image | None:
    """Draw a photograph's mask; None: it is left out."""
    place = f"{root}/{photograph.path}"
    content = photograph.read()
    try:
        height, width = image_size(content, place)
        if photograph.size not in (None, (height, width)):
            # the regions would lie elsewhere
            raise DataError(
                f"{place}: is {width}×{height} pixels, but was annotated when it had "
                f"{photograph.size[1]}×{photograph.size[0]}: {_why_other_size(photograph, width)}"
            )
    except DataError as error:
        notes.slip("photograph", str(error).removeprefix(f"{place}: "), place)
        return None
    mask, drawn = np.zeros((height, width), np.uint8), []
    for region in photograph.regions:
        value = reserved(region.label)
        try:
            pixels = region.pixels(height, width)
            if not pixels.any():
                raise DataError(
                    f"{region.place}: covers no pixel: it is too small, or lies outside the "
                    f"photograph's {width}×{height}"
                )
        except DataError as error:
            why = str(error).removeprefix(region.place).removeprefix(": ")
            notes.slip("annotation", why, region.place)
            photograph.unread += 1
            continue
        value = 1 + order.index(region.label) if value is None else value
        mask[pixels] = value
        drawn.append(value)
    shows = set(np.unique(mask).tolist()) - {0, IGNORE}
    regions = [value for value in drawn if value in range(1, IGNORE)]
    for value in sorted(set(regions) - shows):
        why = "wholly below regions that are drawn later"
        notes.leave_out(f"region of {order[value - 1]}", why, place)
    if photograph.unread and not regions:
        why = "with annotations that cannot be read, and so not taken as defect-free"
        notes.leave_out("photograph", why, place)
        return None
    said = [] if regions else photograph.said
    of_class = [word for word in said if plain(word) in map(plain, order)]
    if of_class:
        notes.slip("photograph", f"said to be of {of_class[0]}, without a region", place)
        return None
    return _Image(photograph, _png(Image.fromarray(mask)), shows, len(regions))


def _tell_said(images: Iterable[_Image], notes: Notes, root: object) -> None:
    """Name what is said of whole photographs that are taken as defect-free."""
    said: dict[str, list[str]] = {}  # word -> the photographs
    for image in images:
        for word in image.photograph.said if not image.shows else ():
            if reserved(word) is None:
                said.setdefault(word, []).append(image.photograph.path)
    for word, paths in said.items():
        notes.remark(
            f"{counted(len(paths), 'photograph')} said to be {word!r}, without a region, taken as "
            f"defect-free (first: {root}/{paths[0]})"
        )


def _why_other_size(photograph: Photograph, width: int) -> str:
    if photograph.size[0] == width:  # turned by a quarter
        return (
            "where the file carries the camera's turn, which the annotation program did not take, "
            "save it turned and annotate that; else correct height and width"
        )
    return "convert the photographs that were annotated"


def _flat_names(paths: Sequence[str], root: str | Path) -> list[str]:
    """Stems in one folder: "a/b.png" becomes "a_b", and "b_png" where there is a "b.jpg" too."""
    folders = [PurePosixPath(path).parent for path in paths]
    top = os.path.commonpath(folders or [""])
    flat = [
        unicodedata.normalize("NFC", "_".join(PurePosixPath(path).relative_to(top).parts))
        for path in paths
    ]
    bare = [PurePosixPath(name).stem for name in flat]
    counts = Counter(stem.casefold() for stem in bare)  # some disks tell no A from an a
    stems = []
    for stem, name in zip(bare, flat, strict=True):
        suffix = PurePosixPath(name).suffix[1:]
        stems.append(f"{stem}_{suffix}" if counts[stem.casefold()] > 1 else stem)
    counts = Counter(stem.casefold() for stem in stems)
    repeated = [p for p, stem in zip(bare, stems, strict=True) if counts[stem.casefold()] > 1]
    if repeated:
        raise DataError(f"{root}: more than one image would be called {min(repeated)}: rename one")
    return stems


def _write(
    out: Path, stem: str, image: _Image, drawn: _Drawn, patch: tuple[int, int] | None
) -> list[tuple[str, str]]:
    """Write a photograph and its mask, or their patches; return each one's stem and label."""
    mask = drawn.lookup[np.asarray(Image.open(io.BytesIO(image.mask)))]
    content = image.photograph.read()
    if patch is None:
        suffix = PurePosixPath(image.photograph.path).suffix
        write_whole(out / "images" / f"{stem}{suffix}", content, sync=False)
        write_whole(out / "masks" / f"{stem}.png", _png(_paletted(mask)), sync=False)
        return [(stem, _label(mask, drawn.classes))]
    written = []
    whole = _pixels_of(content, image.photograph.path)
    size, overlap = patch
    for top, left in corners(*mask.shape, size, overlap).tolist():
        name = f"{stem}_{top}_{left}"
        part = mask[top : top + size, left : left + size]
        pixels = whole[top : top + part.shape[0], left : left + part.shape[1]]
        encoded = cv2.imencode(".png", pixels)[1].tobytes()
        write_whole(out / "images" / f"{name}.png", encoded, sync=False)
        write_whole(out / "masks" / f"{name}.png", _png(_paletted(part)), sync=False)
        written.append((name, _label(part, drawn.classes)))
    return written


def _pixels_of(content: bytes, path: str) -> np.ndarray:
    """A photograph's pixels in OpenCV's order of colours, of 8 or 16 bits as it has them."""
    files = {path: lambda: content}
    deep = deep_values(files, path)
    pixels = read_image(files, path) if deep is None else deep
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


def _label(mask: np.ndarray, classes: Sequence[str]) -> str:
    """The class with the most pixels, as `from_folder` labels an image."""
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[1:IGNORE]
    return classes[int(counts.argmax())] if counts.any() else FREE


def _write_table(out: Path, rows: Iterable[Sequence[str]], split: bool) -> None:
    """Write tiles.csv from rows of image, tile and split, with or without the last."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ["image", "tile", "split"]
    table.writerows(row if split else row[:2] for row in [head, *rows])
    write_whole(out / "tiles.csv", text.getvalue().encode(), sync=False)


def _report(found: Annotations, drawn: _Drawn, notes: Notes, patches: int) -> list[str]:
    """What the user of a conversion must know; the last line counts."""
    lines = list(notes.remarks)
    named = [image.photograph.group for image in drawn.images if image.photograph.group]
    if len(set(named)) < len(named):
        originals = counted(len(set(named)), "original")
        lines.append(f"{counted(len(named), 'photograph')} of {originals}, told by tiles.csv")
    splits = Counter(image.photograph.split for image in drawn.images)
    if is_split(splits):
        parts = (f"{name or 'none'} {splits[name]}" for name in (*SUBSETS, "") if splits[name])
        lines.append(f'the split as given: {", ".join(parts)} (tiles.csv; split="given" takes it)')
    if patches:
        lines.append(f"cut into {patches} patches; those of one photograph are one group")
    photographs = len(drawn.images)
    free = sum(not image.shows for image in drawn.images)
    regions = sum(image.regions for image in drawn.images)
    left_out = "; ".join(notes.left_out) or "nothing"
    lines.append(
        f"read {counted(found.files, 'annotation file')}; drew {counted(regions, 'region')} on "
        f"{photographs - free} of {counted(photographs, 'photograph')}, {free} without a defect; "
        f"left out: {left_out}"
    )
    return lines


def _check_out(out: Path, root: str | Path) -> None:
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise ValueError(f"{out}: is a file or holds something already; name a new folder")
    if out.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(
            f"{out}: lies in {root}, where the next conversion would find it; name a folder "
            "elsewhere"
        )


def _text(lines: Iterable[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _paletted(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette([channel for colour in COLOURS for channel in colour])
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# Annotation program -> its reader, of (files, root, options, notes).
SOURCES: dict[str, Callable[[Files, str | Path, Options, Notes], Annotations]] = {
    "labelme": labelme.read,
    "coco": coco.read,
    "yolo": yolo.read,
    "voc": voc.read,
    "cvat": voc.read,
    "label-studio": label_studio.read,
}
