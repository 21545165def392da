"""Which files of a folder are images and which are their masks."""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dlilib.data.class_names import (
    CLASS_LISTS,
    LABEL_MAP,
    find_class_list,
    read_class_list,
    reserved,
)
from dlilib.data.files import DataError, Files, open_files
from dlilib.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES, OTHER_PICTURES
from dlilib.data.subsets import folder_subset, subset_named

TABLE = "tiles.csv"
MASKS = ("masks", "annotations", "labels", "ground_truth")  # folders of masks, the first one there
CONTENTS = {"images", *MASKS, TABLE, LABEL_MAP, *CLASS_LISTS}  # at the top of a folder


@dataclass(frozen=True)
class _Place:
    """Two folders: of images, and of their masks. They are one where a suffix tells them apart."""

    images: str  # ends in "/", or "" for the top
    masks: str
    subset: str = ""  # "train", "val" or "test", where the folders say it


@dataclass
class Layout:
    """The files of a folder by what they are."""

    images: dict[str, str] = field(default_factory=dict)  # name -> path
    masks: dict[str, str] = field(default_factory=dict)  # name -> path of a mask
    # class folder -> name -> path; then `masks` is empty
    class_masks: dict[str, dict[str, str]] = field(default_factory=dict)
    subsets: dict[str, str] = field(default_factory=dict)  # name -> "train", "val", "test" or ""


def open_folder(root: str | Path) -> Files:
    """The folder's files by their path below it; a zip may hold the folder or what is in it."""
    files = open_files(Path(root))
    tops = {path.partition("/")[0] for path in files}
    inside = {path.partition("/")[2].partition("/")[0] for path in files}
    if len(tops) == 1 and not tops & CONTENTS and inside & CONTENTS:
        files = {path.partition("/")[2]: read for path, read in files.items()}
    return files


def as_spelt(files: Files, root: str | Path, name: str) -> str:
    """The path of a file at the top in any case, such as Tiles.csv; `name` if there is none.

    Raises:
        DataError: There are several.
    """
    found = sorted(path for path in files if path.lower() == name)
    if len(found) > 1:
        raise DataError(f"{root}/{found[0]}: there is {found[1]} too: keep one of them")
    return found[0] if found else name


def find_layout(files: Files, root: str | Path, mask_suffix: str) -> Layout:
    """Find the images and masks of a folder.

    Raises:
        DataError: They do not lie as `from_folder` says; the message names the file.
    """
    places = _places(files, root, mask_suffix)
    found = Layout()
    by_stem = [_by_stem(files, root, place, mask_suffix) for place in places]
    _check_kinds([masks for _, masks in by_stem], root)
    counts = Counter(stem for images, _ in by_stem for stem in images)
    for place, (images, masks) in zip(places, by_stem, strict=True):
        subset = place.images.replace("images/", "")
        for stem, path in images.items():
            name = subset + stem if counts[stem] > 1 else stem  # one stem in several subsets
            found.images[name] = path
            found.subsets[name] = place.subset or folder_subset(path.removeprefix(place.images))
        for (folder, stem), path in masks.items():
            if stem not in images:
                hint = _suffix_hint(stem, images, mask_suffix)
                where = place.images or root
                raise DataError(f"{root}/{path}: no image of that name in {where}{hint}")
            into = found.class_masks.setdefault(folder, {}) if folder else found.masks
            into[subset + stem if counts[stem] > 1 else stem] = path
    if not found.images:
        raise DataError(f"{root}/images: holds no image that is read ({', '.join(IMAGE_SUFFIXES)})")
    _warn_of_other_pictures(files, root, places)
    return found


def _suffix_hint(stem: str, images: dict[str, str], given: str) -> str:
    """Which suffix would make a mask that of an image, in words; "" if none would.

    given: the suffix that was taken off already.
    """
    starts = [name for name in images if stem.startswith(name)]
    if not starts:
        return ""
    name = max(starts, key=len)
    return (
        f'; is it of {images[name]}? Then say so by mask_suffix="{stem[len(name) :]}{given}" '
        "(--mask-suffix, in notebook 8 -p mask_suffix)"
    )


def _check_kinds(masks: Sequence[dict[tuple[str, str], str]], root: str | Path) -> None:
    """Raise DataError where some masks lie in folders of classes and some do not."""
    loose = sorted(path for found in masks for (folder, _), path in found.items() if not folder)
    if loose and any(folder for found in masks for folder, _ in found):
        raise DataError(
            f"{root}/{loose[0]}: not read where it lies; the masks of this folder are "
            "masks/<class>/<name>.png, a folder for each class"
        )


def _places(files: Files, root: str | Path, mask_suffix: str) -> list[_Place]:
    """The folders of images and masks: one of each, or one of each for every subset."""
    pictures = [path for path in files if path.lower().endswith(IMAGE_SUFFIXES)]
    folders = {str(PurePosixPath(path).parent) + "/" for path in pictures}
    top = next((name for name in MASKS if _has(folders, f"{name}/")), None)
    if _has(folders, "images/") and top:
        return _within(files, root, top)
    split = sorted({folder.partition("/")[0] for folder in folders})
    split = [name for name in split if subset_named(name)]
    apart = []
    for name in split:
        found = [masks for masks in MASKS if _has(folders, f"{name}/images/", f"{name}/{masks}/")]
        if found or _has(folders, f"{name}/images/"):  # where no image has a defect, no mask is
            masks = found[0] if found else "masks"
            apart.append(_Place(f"{name}/images/", f"{name}/{masks}/", subset_named(name)))
    if any(_has(folders, place.masks) for place in apart):
        others = {folder.partition("/")[0] for folder in folders} - set(split)
        if others:
            raise DataError(
                f"{root}/{min(others)}: lies beside {', '.join(split)}, which split the images: "
                "move it elsewhere, or call it train, val or test"
            )
        return apart
    if mask_suffix and split:
        return [_Place(f"{name}/", f"{name}/", subset_named(name)) for name in split]
    if mask_suffix and not top and not _has(folders, "images/"):
        return [_Place("", "")]
    missing = "masks" if _has(folders, "images/") else "images"
    there = ", ".join(sorted({path.partition("/")[0] for path in files})[:5])
    raise DataError(
        f"{root}/{missing}: holds no image or is not there, but: {there}. A folder has images/ and "
        "masks/; where masks lie beside the images, say what their names add by mask_suffix; other "
        "layouts go through `dli convert`, those of MVTec AD and VisA through mvtec_ad"
    )


def _has(folders: set[str], *wanted: str) -> bool:
    return all(any(folder.startswith(start) for folder in folders) for start in wanted)


def _within(files: Files, root: str | Path, masks: str) -> list[_Place]:
    """images/ and masks/, or their folders train, val and test; masks: what that is called."""
    names = [_folders_below(files, "images"), _folders_below(files, masks)]
    subsets = sorted(name for name in set().union(*names) if subset_named(name))
    inside = {name for name in names[1] if subset_named(name)}
    if inside and inside <= names[0]:
        loose = [p for p in files if p.count("/") == 1 and p.startswith(("images/", f"{masks}/"))]
        strange = [
            f"{top}/{name}"
            for top, found in zip(("images", masks), names, strict=True)
            for name in sorted(found - set(subsets))
        ]
        strange = strange or sorted(loose)
        if strange:
            raise DataError(
                f"{root}/{strange[0]}: lies beside the folders {', '.join(subsets)}, which split "
                "the images: move it into one of them"
            )
        return [_Place(f"images/{s}/", f"{masks}/{s}/", subset_named(s)) for s in subsets]
    if subsets and names[1] & set(subsets):
        which = min(names[1] & set(subsets))
        raise DataError(
            f"{root}/{masks}/{which}: a class, or the masks of a subset? Then images/{which} has "
            "its images"
        )
    if names[0] & names[1]:
        return _mirrored(files, root, masks, *names)
    return [_Place("images/", f"{masks}/")]


def _mirrored(
    files: Files, root: str | Path, masks: str, of_images: set[str], of_masks: set[str]
) -> list[_Place]:
    """Folders of masks called as those of images: classes, or each the masks of such a folder.

    Raises:
        DataError: No list of classes tells which of the two.
    """
    listed = find_class_list(files, root)
    classes = set(read_class_list(files, root, listed)) if listed else set()
    if of_images & of_masks <= classes:
        return [_Place("images/", f"{masks}/")]
    loose = [p for p in files if p.count("/") == 1 and p.startswith(("images/", f"{masks}/"))]
    if classes and not of_masks & classes and of_masks <= of_images and not loose:
        return [_Place(f"images/{name}/", f"{masks}/{name}/") for name in sorted(of_images)]
    which = min(of_images & of_masks)
    raise DataError(
        f"{root}/{masks}/{which}: a class, or the masks of images/{which}? Name the classes in "
        f"classes.txt, {which} among them if it is one; else all images lie in folders, and all "
        "masks in folders of the same names"
    )


def _folders_below(files: Files, top: str) -> set[str]:
    """The names of the folders in a folder that hold a picture."""
    parts = [PurePosixPath(path).parts for path in files if path.lower().endswith(IMAGE_SUFFIXES)]
    return {part[1] for part in parts if len(part) > 2 and part[0] == top}


def _by_stem(
    files: Files, root: str | Path, place: _Place, mask_suffix: str
) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Stem -> image, and (class folder or "", stem) -> mask."""
    images: dict[str, str] = {}
    masks: dict[tuple[str, str], str] = {}
    together = place.images == place.masks
    for path in sorted(files):
        # systems differ in how they store an ü
        stem = unicodedata.normalize("NFC", PurePosixPath(path).stem)
        is_mask = path.startswith(place.masks) and (not together or _ends(stem, mask_suffix))
        if not path.lower().endswith((*IMAGE_SUFFIXES, *(OTHER_PICTURES if is_mask else ()))):
            continue
        if is_mask:
            _add_mask(masks, path, stem, place, mask_suffix, root)
        elif path.startswith(place.images):
            _add(images, stem, path, root)
    return images, masks


def _ends(stem: str, suffix: str) -> bool:
    return bool(suffix) and stem.casefold().endswith(suffix.casefold())


def _add_mask(
    masks: dict[tuple[str, str], str],
    path: str,
    stem: str,
    place: _Place,
    mask_suffix: str,
    root: str | Path,
) -> None:
    folders = PurePosixPath(path.removeprefix(place.masks)).parts[:-1]
    if not path.lower().endswith(MASK_SUFFIXES):
        raise DataError(
            f"{root}/{path}: masks are PNG, BMP or TIFF: other formats change values along edges"
        )
    if len(folders) > 1:
        raise DataError(
            f"{root}/{path}: not read where it lies; masks are {place.masks}<name>.png or "
            f"{place.masks}<class>/<name>.png"
        )
    if mask_suffix and not _ends(stem, mask_suffix):
        raise DataError(
            f"{root}/{path}: its name does not end in {mask_suffix}, as masks' names do"
        )
    stem = stem[: len(stem) - len(mask_suffix)]
    _add(masks, ("".join(folders) if place.images != place.masks else "", stem), path, root)


def _add(found: dict, key: object, path: str, root: str | Path) -> None:
    if key in found:
        raise DataError(f"{root}/{path}: also present as {found[key]}")
    found[key] = path


def _warn_of_other_pictures(files: Files, root: str | Path, places: Sequence[_Place]) -> None:
    lost = []
    for path in sorted(files):
        inside = any(path.startswith(place.images) for place in places)
        if inside and path.lower().endswith(OTHER_PICTURES):
            lost.append(path)
    if lost:
        kinds = ", ".join(sorted({PurePosixPath(path).suffix.lower() for path in lost}))
        warnings.warn(
            f"{root}/{lost[0]}: {len(lost)} pictures are left out for their format ({kinds}); save "
            "them as PNG or JPEG",
            stacklevel=4,
        )


def class_folders(layout: Layout) -> list[str]:
    """The folders of masks that are classes, in alphabetical order."""
    return sorted(name for name in layout.class_masks if reserved(name) is None)
