"""Your own data: a folder of images and masks."""

import csv
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from dlilib.data.files import DataError, Files, digest_files, open_files, read_text
from dlilib.data.images import (
    IMAGE_SUFFIXES,
    check_kept,
    check_size,
    image_sides,
    read_image,
    read_mask,
    stack,
)
from dlilib.tiles import IGNORE, TileSet, check_classes, defective, labels_of

CONTENTS = {"images", "masks", "classes.txt"}  # what a folder of this kind holds, at its top


def from_folder(root: str | Path, size: int | None = 256, resize: str = "nearest") -> TileSet:
    """Read your own images and masks.

    `images/` holds the images, `masks/` one of two kinds of masks:

    - Class indices: masks/<stem>.png for each image, 0 background, 255 ignored. classes.txt names
      the classes 1..K, a line each.
    - A folder for each class: masks/<class>/<stem>.png where the image has that defect, which is
      anything above 0. Where two overlap, the later class stands. The order of the classes is that
      of classes.txt if there is one, else alphabetical.

    An image's label is the class with the most pixels in its mask, 0 when it has none. An optional
    tiles.csv with the columns image,tile (image: the file's stem) says which images show the same
    part; without it each is its own part.

    Args:
        root: The folder, or a zip of it.
        size: Side of the square images, pixels, a multiple of 8. None keeps the pixels and pads
            every image at the right and the bottom, by its last column and row, to the largest
            height and width, rounded up to multiples of 8 (resize is then "pad").
        resize: "nearest" or "bilinear" (area-weighted when it shrinks); masks are always nearest.

    Raises:
        DataError: A file cannot be used; the message names it.
        ValueError: size or resize is none of the above.

    Example:
        >>> tiles = from_folder("my_parts", size=128)
        >>> tiles.counts()
    """
    if size is not None:
        check_size(size, resize)
    files = _open(root)
    classes = _class_names(files, root)
    images = _by_stem(files, root, "images/", IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"{root}/images: holds no image ({', '.join(IMAGE_SUFFIXES)})")
    reader = _ClassFolders if _class_folders(files) else _ClassIndices
    masks = reader(files, root, classes, images)
    names = tuple(sorted(images))

    def read(stem: str) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(files, images[stem])
        return image, masks.read(stem, image)

    largest = _largest(files, [images[stem] for stem in names]) if size is None else (0, 0)
    pixels, marks, sizes, marked = stack(read, names, size, resize, largest=largest)
    _check_ignored(marks, [masks.paths(stem) for stem in names], root)
    check_kept([f"{root}/{images[stem]}" for stem in names], marked, marks)
    used = [path for stem in names for path in (images[stem], *masks.paths(stem))]
    used += {"classes.txt", "tiles.csv"} & files.keys()
    return TileSet(
        images=pixels,
        masks=marks,
        labels=labels_of(marks, len(classes)),
        groups=_listed_tiles(files, root, names),
        names=names,
        classes=classes,
        source=re.sub(r"[^\w-]+", "_", Path(root).resolve().stem),
        digest=digest_files(files, used),
        sizes=sizes,
        resize=resize if size else "pad",
    )


def _open(root: str | Path) -> Files:
    """The folder's files by their path below `images`, `masks` and so on."""
    files = open_files(Path(root))
    tops = {path.partition("/")[0] for path in files}
    if len(tops) == 1 and not tops & CONTENTS:  # a zip of the folder itself
        files = {path.partition("/")[2]: read for path, read in files.items()}
    missing = {"images", "masks"} - {path.partition("/")[0] for path in files}
    if missing:
        there = ", ".join(sorted(tops)[:5])
        raise DataError(f"{root}/{min(missing)}: holds no image or is not there, but: {there}")
    return files


def _largest(files: Files, paths: Sequence[str]) -> tuple[int, int]:
    """The greatest height and the greatest width of images."""
    sides = [image_sides(files, path) for path in paths]
    return max(height for height, _ in sides), max(width for _, width in sides)


def _check_ignored(masks: Tensor, paths: Sequence[Sequence[str]], root: str | Path) -> None:
    """Raise DataError where 255 seems to mean a defect: no mask (N, H, W) shows a class."""
    first = None
    for mask, sources in zip(masks, paths, strict=True):
        if defective(mask).any():
            return
        if first is None and mask.any():
            first = sources[0]
    if first is not None:
        raise DataError(
            f"{root}/{first}: holds {IGNORE}, which is ignored, and no mask shows a class: where "
            f"{IGNORE} marks a defect, put the masks into a folder of its class, masks/<class>/"
        )


def _class_names(files: Files, root: str | Path) -> tuple[str, ...]:
    folders = _class_folders(files)
    if folders and "classes.txt" not in files:
        place, classes = "masks", folders
    else:
        place = "classes.txt"
        lines = [line.strip() for line in read_text(files, root, place).splitlines()]
        classes = [line for line in lines if line]
    try:
        check_classes(classes)
    except ValueError as error:
        raise DataError(f"{root}/{place}: {error}") from None
    strange = set(folders) - set(classes)
    if strange:
        raise DataError(
            f"{root}/masks/{min(strange)}: classes.txt does not name this class, but {classes}"
        )
    return tuple(classes)


def _class_folders(files: Files) -> list[str]:
    matches = (re.fullmatch(r"masks/([^/]+)/[^/]+\.(?i:png)", path) for path in files)
    return sorted({match[1] for match in matches if match})


class _ClassIndices:
    """Masks of class indices, one file for each image."""

    def __init__(
        self, files: Files, root: str | Path, classes: Sequence[str], images: dict[str, str]
    ) -> None:
        self.files, self.classes = files, classes
        _check_places(files, root, "masks/<name>.png")
        self.found = _masks_of(files, root, "masks/", images)
        for stem in sorted(images):
            if stem not in self.found:
                raise DataError(
                    f"{root}/{images[stem]}: no mask masks/{stem}.png (a free image has one of "
                    "zeros)"
                )

    def paths(self, stem: str) -> list[str]:
        """The files of an image's mask."""
        return [self.found[stem]]

    def read(self, stem: str, image: np.ndarray) -> np.ndarray:
        """The mask of an image, class indices (H, W)."""
        path = self.found[stem]
        mask = read_mask(self.files, path, like=image)
        top = np.where(mask == IGNORE, 0, mask).max()
        if top > len(self.classes):
            raise DataError(
                f"{path}: holds class index {top}, classes.txt names {len(self.classes)} classes"
            )
        return mask


class _ClassFolders:
    """A folder of masks for each class, with a file for each image that has its defect."""

    def __init__(
        self, files: Files, root: str | Path, classes: Sequence[str], images: dict[str, str]
    ) -> None:
        self.files = files
        _check_places(files, root, "masks/<class>/<name>.png")
        self.found = [
            _masks_of(files, root, f"masks/{name}/", images) for name in classes
        ]  # K dictionaries: stem -> path

    def paths(self, stem: str) -> list[str]:
        """The files of an image's mask."""
        return [found[stem] for found in self.found if stem in found]

    def read(self, stem: str, image: np.ndarray) -> np.ndarray:
        """The mask of an image, class indices (H, W)."""
        mask = np.zeros(image.shape[:2], np.uint8)
        for c, found in enumerate(self.found, start=1):
            if stem in found:
                mask[read_mask(self.files, found[stem], like=image) > 0] = c
        return mask


def _check_places(files: Files, root: str | Path, place: str) -> None:
    """Raise DataError for a picture below masks/ that does not lie as `place` says."""
    for path in sorted(files):
        drawn = path.startswith("masks/") and path.lower().endswith(IMAGE_SUFFIXES)
        fits = path.count("/") == place.count("/") and path.lower().endswith(".png")
        if drawn and not fits:
            raise DataError(
                f"{root}/{path}: not read where it lies; the masks of this folder are {place}"
            )


def _masks_of(files: Files, root: str | Path, top: str, images: dict[str, str]) -> dict[str, str]:
    """Stem -> path of the masks below `top`, each of an image."""
    found = _by_stem(files, root, top, (".png",))
    for stem, path in found.items():
        if stem not in images:
            raise DataError(f"{root}/{path}: no image of that name in images/")
    return found


def _by_stem(
    files: Files, root: str | Path, folder: str, suffixes: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files:
        if path.startswith(folder) and path.lower().endswith(suffixes):
            # systems differ in how they store an ü
            stem = unicodedata.normalize("NFC", PurePosixPath(path).stem)
            if stem in found:
                raise DataError(f"{root}/{path}: also present as {found[stem]}")
            found[stem] = path
    return found


def _listed_tiles(files: Files, root: str | Path, names: tuple[str, ...]) -> Tensor:
    """The part that each image shows, int64 (N,)."""
    if "tiles.csv" not in files:
        return torch.arange(len(names), device="cpu")
    place = f"{root}/tiles.csv"
    try:
        rows = list(csv.DictReader(read_text(files, root, "tiles.csv").splitlines()))
    except csv.Error as error:
        raise DataError(f"{place}: not a table ({error})") from None
    if not rows or not {"image", "tile"} <= rows[0].keys():
        raise DataError(f"{place}: needs the columns image,tile")
    listed: dict[str, str] = {}
    for row in rows:
        image, tile = row["image"], row["tile"]
        if not tile or listed.setdefault(image, tile) != tile:
            raise DataError(f"{place}: image {image!r} needs one tile, got {tile!r}")
    missing = [name for name in names if name not in listed]
    if missing:
        raise DataError(
            f"{place}: no row for image {missing[0]!r} (its stem; {len(missing) - 1} more)"
        )
    tiles = np.unique([listed[name] for name in names], return_inverse=True)[1]
    return torch.from_numpy(tiles)
