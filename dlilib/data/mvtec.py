"""MVTec AD and data sets in layouts like its own, one category at a time, from a copy you have."""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from dlilib.data.files import DataError, Files, digest_files, open_files
from dlilib.data.images import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    check_kept,
    check_size,
    read_image,
    read_mask,
    stack,
)
from dlilib.tiles import TileSet, check_classes

OWN_SUFFIXES = ("_mask", "")  # what a mask's name adds to its image's, where nobody says it
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # that Windows leaves in folders of pictures
FEW = 6  # files or folders that a message lists


@dataclass(frozen=True)
class _Layout:
    """Where the files of a category lie, by folders below its own."""

    name: str
    signs: tuple[str, ...]  # folders of defect-free images, by which a category is found
    good: tuple[str, ...]  # names of the folders of defect-free images
    free: tuple[str, ...]  # hold only such folders
    tested: str  # holds a folder for each type of defect, and perhaps such folders
    masks: str  # holds a folder of masks for each folder in `tested`
    without_masks: tuple[str, ...] = ()  # hold images that have no ground truth
    is_relit: bool = False  # whether 000_regular and 000_overexposed show the same part

    def __str__(self) -> str:
        types = f"{self.tested}<type>/, {self.masks}<type>/"
        return f"{self.name} (<category>/{self.signs[0]}, {types})"


TRAINED = ("train/good/", "train/ok/")
MVTEC_AD = _Layout(
    "MVTec AD", TRAINED, ("good", "ok"), ("train/", "validation/"), "test/", "ground_truth/"
)
MVTEC_AD_2 = _Layout(
    "MVTec AD 2",
    TRAINED,
    ("good", "ok"),
    ("train/", "validation/"),
    "test_public/",
    "test_public/ground_truth/",
    ("test_private/", "test_private_mixed/"),
    is_relit=True,
)
VISA = _Layout("VisA", ("Data/Images/Normal/",), ("normal",), (), "Data/Images/", "Data/Masks/")
LAYOUTS = (MVTEC_AD, MVTEC_AD_2, VISA)
SIGNS = (*TRAINED, *VISA.signs)


@dataclass(frozen=True)
class _Photo:
    """An image of the category."""

    path: str
    folder: str  # such as "train/"
    kind: str  # the folder in that one: a type of defect, or of the defect-free images
    is_free: bool

    @property
    def key(self) -> tuple[str, str]:
        """What its mask is found by, beside the suffix."""
        return self.kind, _stem(self.path)


@dataclass
class _Category:
    """The files of a category by what they are."""

    root: str | Path
    top: str  # its folder, ending in / unless it is the root itself
    layout: _Layout
    photos: list[_Photo] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)  # what lies below the folder of masks
    unread: list[str] = field(default_factory=list)  # other files below the folders of images
    without_masks: list[str] = field(default_factory=list)  # images without ground truth
    elsewhere: list[str] = field(default_factory=list)  # images that the layout has no place for
    unused: list[str] = field(default_factory=list)  # files below the folder of masks that are none

    def left_out(self) -> list[str]:
        """A line for each kind of files that are left out."""
        kinds = Counter(_suffix(path) for path in self.unread)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        read = ", ".join(IMAGE_SUFFIXES)
        folders = " and ".join(self.layout.without_masks)
        reasons = (
            (self.unread, "file", f"images are {read}, these are {counts}: convert them to PNG"),
            (self.without_masks, "image", f"{folders} have no ground truth"),
            (self.elsewhere, "image", f"the layout of {self.layout.name} has no images there"),
            (self.unused, "file", f"below {self.layout.masks}, but masks of no image that is read"),
        )
        lines = []
        for paths, what, why in reasons:
            if paths:
                many = "s" if len(paths) > 1 else ""
                first = f"first: {min(paths)}"
                lines.append(f"{self.root}: left out {len(paths)} {what}{many}: {why} ({first})")
        return lines


def mvtec_ad(
    root: str | Path,
    category: str,
    size: int = 256,
    *,
    resize: str = "nearest",
    masks: str = "nearest",
    mask_suffix: str | None = None,
) -> TileSet:
    """Read one category of MVTec AD, or of a data set in a layout like its own.

    Bergmann, Fauser, Sattlegger, Steger, CVPR 2019. Nothing is downloaded: the owner hands the data
    out after registration (mvtec.com), under CC BY-NC-SA 4.0, for non-commercial use.

    The layouts, each below the folder of the category; the classes are the types of defect in
    alphabetical order:

    - MVTec AD, BTAD and VisA's one-class layout: defect-free images in `train/good/`, `test/good/`
      and, if there is one, `validation/good/`; images of defects in `test/<type>/`, their masks in
      `ground_truth/<type>/`. The folders `good` may be called `ok`.
    - MVTec AD 2: the same with `test_public/` for `test/` and `test_public/ground_truth/` for
      `ground_truth/`. `test_private/` and `test_private_mixed/` are left out. Images of a folder
      that start with the same number, as `000_regular` and `000_overexposed`, show the same part.
    - VisA as released: `Data/Images/Normal/`, `Data/Images/Anomaly/` and `Data/Masks/Anomaly/`.

    Mask values above 0 are defect. Defect-free images need no mask, one of zeros is fine. But for
    MVTec AD 2, each image shows its own part. A UserWarning counts the files that are left out.

    Args:
        root: Folder or zip that holds the category's folder at any depth, or is that folder.
        category: Such as "bottle".
        size: Side of the square images and masks, pixels, a multiple of 8.
        resize: "nearest" or "bilinear" (smoothed first where it shrinks).
        masks: How masks are resized, "nearest" or "any", as in `from_folder`.
        mask_suffix: What a mask's name adds to its image's, without the format: "_mask" for
            000_mask.png of 000.png, "" where both are called 000. None: "_mask" where there is
            such a mask, else "". Masks are PNG, BMP or TIFF.

    Returns:
        The data set, whose source is "mvtec_ad-<category>".

    Raises:
        DataError: A file cannot be used; a mask is missing, could be either of two, marks nothing
            in an image of a defect, something in a defect-free one, or too little for this size; or
            there is no such category or layout. The message names the file or folder.
        ValueError: size, resize or mask_suffix is none of the above.

    Example:
        >>> tiles = mvtec_ad("mvtec_anomaly_detection", "bottle", size=256)
        >>> tiles.classes
        ('broken_large', 'broken_small', 'contamination')
    """
    check_size(size, resize, masks)
    _check_suffix(mask_suffix)
    files = open_files(Path(root))
    top, layout = _find(files, Path(root), category)
    found = _contents(files, root, top, layout)
    mask_of = _masks(found, mask_suffix)
    for line in found.left_out():
        warnings.warn(line, stacklevel=2)
    classes = _classes(found)
    label_of = {kind: c for c, kind in enumerate(classes, start=1)}
    labels = [0 if photo.is_free else label_of[photo.kind] for photo in found.photos]

    def read(photo: _Photo) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(files, photo.path)
        path = mask_of.get(photo.path)
        if path is None:
            return image, np.zeros(image.shape[:2], np.uint8)
        mask = read_mask(files, path, like=image, one_class=True) > 0
        if photo.is_free and mask.any():
            raise DataError(
                f"{root}/{path}: marks a defect, but {photo.path} lies among the defect-free "
                "images: move that image and its mask to the folders of a type of defect"
            )
        if not photo.is_free and not mask.any():
            raise DataError(f"{root}/{path}: marks no defect")
        return image, mask * np.uint8(label_of.get(photo.kind, 0))

    pixels, marks, sizes, marked = stack(read, found.photos, size, resize, masks=masks)
    paths = [photo.path for photo in found.photos]
    check_kept([f"{root}/{path}" for path in paths], marked, marks)
    return TileSet(
        images=pixels,
        masks=marks,
        labels=torch.tensor(labels, device="cpu"),
        groups=_parts(found),
        names=tuple(str(PurePosixPath(path).with_suffix("")) for path in paths),
        classes=classes,
        source=f"mvtec_ad-{category}",
        digest=digest_files(
            files,
            [*paths, *mask_of.values()],
            masks=None if masks == "nearest" else masks,
        ),
        sizes=sizes,
        resize=resize,
    )


def _check_suffix(mask_suffix: str | None) -> None:
    """Raise ValueError unless a mask's name can add this to its image's."""
    if mask_suffix is None:
        return
    if (
        not isinstance(mask_suffix, str)
        or "/" in mask_suffix
        or mask_suffix.lower().endswith(IMAGE_SUFFIXES)
    ):
        raise ValueError(
            "mask_suffix must be what a mask's name adds to its image's, without the format, such "
            f'as "_mask" or "", got {mask_suffix!r}'
        )


def _find(files: Files, root: Path, category: str) -> tuple[str, _Layout]:
    """The path of the category's folder, ending in / unless it is the root itself; its layout."""
    tops: dict[str, str] = {}  # path, starting with / -> the sign by which it is a category's
    for sign in SIGNS:
        for path in sorted(files):
            top, is_signed, _ = f"/{path}".partition(f"/{sign}")
            if is_signed:
                tops.setdefault(top, sign)
    fitting = [top for top in tops if _name(top, root) == category]
    if len(fitting) != 1:
        raise DataError(_not_found(files, root, category, tops))
    top = f"{fitting[0]}/".removeprefix("/")
    if tops[fitting[0]] in VISA.signs:
        return top, VISA
    is_second = any(path.startswith(top + MVTEC_AD_2.tested) for path in files)
    return top, MVTEC_AD_2 if is_second else MVTEC_AD


def _name(top: str, root: Path) -> str:
    return PurePosixPath(top).name or root.resolve().stem


def _not_found(files: Files, root: Path, category: str, tops: dict[str, str]) -> str:
    """Why no folder is the category's: what there is, and what is read."""
    named = {sign: [_name(top, root) for top in tops if tops[top] == sign] for sign in SIGNS}
    there = [f"{sign[:-1]} there are {names}" for sign, names in named.items() if names]
    found = f"with a folder {', with '.join(there or [f'{SIGNS[0][:-1]} there are []'])}"
    fitting = [f"{root}{top}" for top in tops if _name(top, root) == category]
    if fitting:
        return (
            f"{root}: more than one category {category!r}; {found}: give the folder that is meant "
            f"as root: {' or '.join(fitting)}"
        )
    said = f"{root}: no category {category!r}; {found}"
    pictures = [path for path in files if path.lower().endswith(IMAGE_SUFFIXES)]
    below = [path for path in pictures if f"/{category}/" in f"/{path}"]
    if tops and not below:
        return said
    folders = Counter(str(PurePosixPath(path).parent) for path in below or pictures)
    held = [f"{folder} ({count})" for folder, count in folders.items()]
    return (
        f"{said}. Images are in: {_few(held) or 'no folder'}. The layouts that are read: "
        f"{'; '.join(map(str, LAYOUTS))}; good may be called ok. For others see from_folder"
    )


def _contents(files: Files, root: str | Path, top: str, layout: _Layout) -> _Category:
    """Tell the files of a category apart, sorted by path."""
    found = _Category(root, top, layout)
    for path in sorted(files):
        if not path.startswith(top) or PurePosixPath(path).name.lower() in SYSTEM_FILES:
            continue
        place, is_image = path.removeprefix(top), path.lower().endswith(IMAGE_SUFFIXES)
        if place.startswith(layout.masks):
            found.drawn.append(path)
        elif place.startswith((*layout.free, layout.tested)):
            if is_image:
                found.photos.append(_photo(path, found))
            else:
                found.unread.append(path)
        elif is_image:
            known = place.startswith(layout.without_masks)
            (found.without_masks if known else found.elsewhere).append(path)
    _check_once(found)
    return found


def _photo(path: str, found: _Category) -> _Photo:
    """An image, with what its folders say."""
    layout = found.layout
    folder, kind, is_free = _folders(path, found)
    if "/" in kind or not kind or (folder != layout.tested and not is_free):
        free = [f"{folder}{layout.good[0]}/" for folder in layout.free]
        places = ", ".join([*free, f"{layout.tested}<type>/"])
        raise DataError(
            f"{found.root}/{path}: images lie in {places} and nowhere else in the layout of "
            f"{layout.name}: move it there, or out of {found.top or found.root}"
        )
    return _Photo(path, folder, kind, is_free)


def _folders(path: str, found: _Category) -> tuple[str, str, bool]:
    """Of a file below the folders of images: that folder, the folders in it, whether those of good.

    Systems differ in how they store an ü.
    """
    place = path.removeprefix(found.top)
    starts = (*found.layout.free, found.layout.tested)
    folder = next(start for start in starts if place.startswith(start))
    kind = unicodedata.normalize("NFC", place.removeprefix(folder).rpartition("/")[0])
    return folder, kind, kind.casefold() in found.layout.good


def _check_once(found: _Category) -> None:
    """Raise DataError where two images of a folder have one name, so that a mask is of both."""
    seen: dict[tuple[str, str, str], str] = {}
    for photo in found.photos:
        first = seen.setdefault((photo.folder, *photo.key), photo.path)
        if first != photo.path:
            raise DataError(
                f"{found.root}/{photo.path}: also present as {first}: keep one, or rename it"
            )


def _classes(found: _Category) -> tuple[str, ...]:
    """The types of defect."""
    place = f"{found.root}/{found.top}{found.layout.tested[:-1]}"
    classes = sorted({photo.kind for photo in found.photos if not photo.is_free})
    if not classes:
        good = " and ".join(found.layout.good)
        raise DataError(
            f"{place}: holds no type of defect beside {good}; a folder of images for each type is "
            "expected there"
        )
    try:
        return check_classes(classes)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None


def _parts(found: _Category) -> Tensor:
    """The part that each image shows, int64 (N,)."""
    numbers: dict[str, int] = {}
    groups = []
    for photo in found.photos:
        part = photo.path
        scene = re.match(r"\d+(?=_)", photo.key[1])
        if found.layout.is_relit and scene:
            part = f"{photo.folder}{photo.kind}/{scene[0]}"
        groups.append(numbers.setdefault(part, len(numbers)))
    return torch.tensor(groups, device="cpu")


def _masks(found: _Category, mask_suffix: str | None) -> dict[str, str]:
    """The mask's path of each image that has one, by the image's path."""
    drawn = _drawn(found)
    suffixes = OWN_SUFFIXES if mask_suffix is None else (mask_suffix,)
    masks: dict[str, str] = {}
    owners: dict[str, str] = {}  # the image's path by its mask's
    tested = found.layout.tested
    for photo in sorted(found.photos, key=lambda photo: photo.folder != tested):
        kind, stem = photo.key
        names = [stem + suffix for suffix in suffixes if (kind, stem + suffix) in drawn]
        if len(names) > 1:
            either = " or ".join(f"mask_suffix={suffix!r}" for suffix in suffixes)
            raise DataError(
                f"{found.root}/{photo.path}: {drawn[kind, names[0]]} and {drawn[kind, names[1]]} "
                f"could both be its mask: say which by {either}"
            )
        if names:
            path = drawn[kind, names[0]]
            if photo.folder != tested and path in owners:
                continue  # train/good/000.png, where the mask is that of test/good/000.png
            if path in owners:
                raise DataError(
                    f"{found.root}/{path}: is it the mask of {owners[path]} or of {photo.path}? "
                    "Say by mask_suffix what masks' names add to their images'"
                )
            owners[path], masks[photo.path] = photo.path, path
        elif not photo.is_free:
            raise DataError(_missing(found, photo, suffixes))
    _check_used(found, drawn, owners, mask_suffix)
    return masks


def _drawn(found: _Category) -> dict[tuple[str, str], str]:
    """The masks by their folders and their stem; what else lies there is marked as unused."""
    drawn: dict[tuple[str, str], str] = {}
    for path in found.drawn:
        if not path.lower().endswith(MASK_SUFFIXES):
            found.unused.append(path)
            continue
        folder = path.removeprefix(found.top + found.layout.masks).rpartition("/")[0]
        first = drawn.setdefault((unicodedata.normalize("NFC", folder), _stem(path)), path)
        if first != path:
            raise DataError(f"{found.root}/{path}: also present as {first}: keep one of the two")
    return drawn


def _missing(found: _Category, photo: _Photo, suffixes: Sequence[str]) -> str:
    """What to say of an image without a mask: what was expected, what is there, the way on."""
    kind, stem = photo.key
    folder = f"{found.top}{found.layout.masks}{kind}/"
    wanted = [stem + suffix for suffix in suffixes]
    names = " or ".join(f"{name}.png" for name in wanted)
    said = f"{found.root}/{photo.path}: its mask {folder}{names} is missing"
    masks = [unicodedata.normalize("NFC", path) for path in found.drawn]
    there = [path.removeprefix(folder) for path in masks if path.startswith(folder)]
    if not there:
        folders = sorted({str(PurePosixPath(path).parent) for path in masks})
        return f"{said}; {folder} holds no file (files are in: {_few(folders) or 'no folder'})"
    for name in there:
        if name.startswith(f"{stem}/"):
            return f"{said}; {name} is there, but an image has one mask: merge those of its folder"
    for name in there:
        added = _stem(name).removeprefix(stem)
        if _stem(name) in wanted and "/" not in name:
            kinds = ", ".join(MASK_SUFFIXES)
            return f"{said}; {name} is there, but masks are {kinds}: save it as PNG"
        if _stem(name).startswith(stem) and not added[:1].isalnum():
            return f"{said}; if {name} is it, pass mask_suffix={added!r}"
    return f"{said}; {folder} holds {_few(there)}"


def _check_used(
    found: _Category,
    drawn: dict[tuple[str, str], str],
    owners: dict[str, str],
    mask_suffix: str | None,
) -> None:
    """Raise DataError for a mask without an image, unless another file is meant by mask_suffix.

    The masks of images that are left out, and what is no mask by its name, are marked as unused.
    """
    left_out = {(_folders(path, found)[1], _stem(path)) for path in found.unread}
    shown = {photo.key for photo in found.photos}
    for (kind, name), path in drawn.items():
        if path in owners:
            continue
        suffixes = OWN_SUFFIXES if mask_suffix is None else (mask_suffix,)
        stems = [name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)]
        is_named = any((kind, stem) in left_out for stem in stems)
        is_other = mask_suffix is not None and (
            not stems or (kind, name.removesuffix(OWN_SUFFIXES[0])) in shown
        )
        if not is_named and not is_other:
            tested = found.top + found.layout.tested
            raise DataError(
                f"{found.root}/{path}: there is no image to this mask in {tested}{kind}/: add the "
                "image, take the mask out, or say by mask_suffix what masks' names add to their "
                "images'"
            )
        found.unused.append(path)


def _stem(path: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(path).stem)


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower() or "without a suffix"


def _few(names: Iterable[str]) -> str:
    """Some of the names, and how many there are beside."""
    names = list(names)
    more = [f"{len(names) - FEW} more"] if len(names) > FEW else []
    return ", ".join([*names[:FEW], *more])
