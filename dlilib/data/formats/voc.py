"""Pascal VOC and CVAT's masks: in colours or of class indices, beside the photographs."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from dlilib.data.class_names import (
    BORDER,
    LABEL_MAP,
    Colour,
    class_list,
    classes_of,
    read_alike,
    read_label_map,
)
from dlilib.data.files import DataError, Files, read_text
from dlilib.data.formats.annotations import (
    KNOWN_SUFFIXES,
    Annotations,
    Notes,
    Options,
    Photograph,
    Pictures,
    Region,
    add_unlisted,
    annotated_elsewhere,
    parent,
    plain,
)
from dlilib.data.images import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    check_same_size,
    mask_values,
    palette_colours,
)
from dlilib.data.mask_files import Palettes, by_colour, check_edges, colour_values
from dlilib.data.subsets import folder_subset, subset_named
from dlilib.tiles import IGNORE
from dlilib.wording import counted

FOLDERS = ("SegmentationClass", "SegmentationClassPNG", "masks")  # of masks; the first one there
OBJECT = re.compile(r"<object>\s*<name>\s*([^<]+?)\s*</name>")  # in Annotations/*.xml
NO_PHOTOGRAPHS = re.compile(r"(^|/)Segmentation[^/]*/")
LISTS = ("class_names.txt", "labels.txt", "classes.txt")
# Pascal VOC's own classes 1..20
VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LIFTED = "__ignore__"  # what the ignored pixels' region is called
OF_MASKS = ("SegmentationClass", "SegmentationObject")  # begin the names of folders of masks

Ends = dict[tuple[str, ...], list[str]]


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read JPEGImages/ (or images/) and SegmentationClass/ (or masks/)."""
    folder = next((name for name in FOLDERS if _masks(files, name)), None)
    if folder is None:
        raise DataError(
            f"{root}: has no masks in SegmentationClass/ or masks/; export from CVAT as "
            '"Segmentation mask 1.1", with the images'
        )
    masks = _masks(files, folder)
    classes, colours = _classes(files, root, options, masks)
    images = {path: files[path] for path in sorted(files) if _is_photograph(path, folder)}
    boxes = {path: files[path] for path in files if path.lower().endswith((".xml", ".json"))}
    places = {path: _place(images, path, folder) for path in masks}
    pictures = Pictures(images, places.values())
    found: dict[str, Photograph] = {}
    missing = False  # whether a mask may be that of a photograph of another name
    palettes = Palettes()
    for path in masks:
        image = _image_of(pictures, images, places[path])
        if image is None:
            notes.slip("mask", "without a photograph of its name", f"{root}/{path}")
            missing = True
            continue
        if image in found:
            raise DataError(f"{root}/{path}: is of {image}, as another mask is")
        found[image] = Photograph(image, files[image])
        read_values = partial(_values, files, path, classes, colours)
        _add_regions(found[image], read_values, classes, f"{root}/{path}", notes)
        if not colours and not found[image].unread:
            palettes.check(f"{root}/{path}", palette_colours(files, path))
    ends = _by_end(images)
    splits, listed = _listed(files, root, ends, notes)
    if not missing:
        free = sorted(listed - _drawn(files, folder, ends) - found.keys())
        elsewhere = annotated_elsewhere(images | boxes, free)  # which are told below
        _add_listed(files, [path for path in free if path not in elsewhere], found, notes)
    where = f"without a mask in {folder}/"
    add_unlisted(images | boxes, found, root, options, notes, where=where, missing=missing)
    for path, photograph in found.items():
        photograph.split = splits.get(path, "") or folder_subset(path)
    return Annotations(list(found.values()), classes, len(masks))


def _image_of(pictures: Pictures, images: Files, place: str) -> str | None:
    """The photograph that lies at a place, whatever its suffix, or else of its name elsewhere."""
    there = [f"{place}{suffix}" for suffix in IMAGE_SUFFIXES if f"{place}{suffix}" in images]
    name = f"{PurePosixPath(place).name}.txt"
    return there[0] if there else pictures.find_stem(name, place, home=parent(place))


def _place(images: Iterable[str], path: str, folder: str) -> str:
    """Where a mask's photograph should lie, without a suffix.

    Folders below those of masks are the same below the others.
    """
    parts = PurePosixPath(path).with_suffix("").parts
    places = [
        "/".join(of_images if part == folder else part for part in parts)
        for of_images in ("JPEGImages", "images")
    ]
    there = {parent(image) for image in images}
    return next((place for place in places if parent(place) in there), places[0])


def _drawn(files: Files, folder: str, ends: Ends) -> set[str]:
    """The photographs that have a mask of any kind, also one that is not read."""
    found: set[str] = set()
    for path in files:
        parts = PurePosixPath(path).with_suffix("").parts
        below = [k for k, part in enumerate(parts) if part == folder or part.startswith(OF_MASKS)]
        if below:
            found.update(ends.get(tuple(map(plain, parts[below[-1] + 1 :])), []))
    return found


def _add_listed(
    files: Files, free: Sequence[str], found: dict[str, Photograph], notes: Notes
) -> None:
    """Add the photographs that are listed and have no mask: so CVAT writes defect-free ones."""
    found.update({path: Photograph(path, files[path]) for path in free})
    if free:
        notes.remark(
            f"{counted(len(free), 'photograph')} listed in ImageSets/ without a mask taken as "
            "defect-free"
        )


def _masks(files: Files, folder: str) -> list[str]:
    """The pictures in the folders of that name."""
    return [
        path
        for path in sorted(files)
        if folder in PurePosixPath(path).parts[:-1] and path.lower().endswith(MASK_SUFFIXES)
    ]


def _is_photograph(path: str, folder: str) -> bool:
    in_folder = folder in PurePosixPath(path).parts[:-1] or NO_PHOTOGRAPHS.search(path)
    return path.lower().endswith(IMAGE_SUFFIXES) and not in_folder


def _classes(
    files: Files, root: object, options: Options, masks: list[str]
) -> tuple[list[str], dict[str, Colour]]:
    """The names of the classes 1..K, and the colours of those that a label map names."""
    maps = [path for path in sorted(files) if PurePosixPath(path).name == LABEL_MAP]
    if maps:
        colours = read_label_map(files, root, maps[0])
        for other in maps[1:]:
            if read_label_map(files, root, other) != colours:
                raise DataError(
                    f"{root}/{other}: names other colours than {maps[0]}: convert the exports one "
                    "by one"
                )
        return classes_of(colours), colours
    lists = [path for path in sorted(files) if PurePosixPath(path).name.lower() in LISTS]
    if lists:
        return read_alike(files, root, lists, class_list), {}
    if options.classes:
        return list(options.classes), {}
    if _is_of_voc(files, root, masks):
        return list(VOC), {}
    raise DataError(
        f"{root}: no {LABEL_MAP} (nor {', '.join(LISTS)}) names the classes; name them by "
        "--classes FILE, a line each, the class of value 1 first"
    )


def _is_of_voc(files: Files, root: object, masks: list[str]) -> bool:
    """Whether masks are of Pascal VOC's classes: they have its palette, and Annotations/ says so.

    The palette alone does not: other programs write it too.
    """
    named: set[str] = set()
    for path in sorted(files):
        if "Annotations" in PurePosixPath(path).parts and path.lower().endswith(".xml"):
            named.update(OBJECT.findall(read_text(files, root, path)))
    if not named or not named <= set(VOC):
        return False
    own = _palette_of_voc(len(VOC))
    for path in masks:
        colours = palette_colours(files, path)
        shown = {VOC[index - 1] for index in colours if 0 < index <= len(VOC)}
        if not colours or colours.items() - own.items() or not shown <= named:
            return False
    return True


def _by_end(images: Iterable[str]) -> Ends:
    """The photographs by each end of their paths without suffixes, as ("line1", "001")."""
    ends: Ends = {}
    for image in images:
        parts = PurePosixPath(plain(image)).with_suffix("").parts
        for start in range(len(parts)):
            ends.setdefault(parts[start:], []).append(image)
    return ends


def _listed(
    files: Files, root: object, ends: Ends, notes: Notes
) -> tuple[dict[str, str], set[str]]:
    """What ImageSets/…/train.txt and the like list.

    Returns:
        Photograph -> its subset, and the photographs in the lists of segmented ones.
    """
    splits: dict[str, str] = {}
    segmented: set[str] = set()
    for path in sorted(files):
        name = PurePosixPath(path)
        subset, of_masks = subset_named(name.stem), name.parent.name == "Segmentation"
        if "ImageSets" not in name.parts or name.suffix != ".txt" or not (subset or of_masks):
            continue
        for line in filter(None, map(str.strip, read_text(files, root, path).splitlines())):
            there = _meant(line, ends, subset)
            if len(there) > 1:
                why = f"of several photographs, as {there[0]} and {there[1]}"
                notes.leave_out("listed name", why, f"{root}/{path}, {line}")
            elif there:
                splits[there[0]] = subset or splits.get(there[0], "")
                segmented |= set(there) if of_masks else set()
    return splits, segmented


def _meant(line: str, ends: Ends, subset: str) -> list[str]:
    """The photographs that a line of a list may mean, those with the fewest folders."""
    quoted = re.match('"([^"]+)"', line)  # as names with spaces are written
    for text in [quoted[1]] if quoted else [line, line.split()[0]]:
        name = PurePosixPath(plain(text.lstrip("/")))
        known = name.suffix in KNOWN_SUFFIXES
        there = ends.get((name.with_suffix("") if known else name).parts, [])
        if there:
            break
    least = min((path.count("/") for path in there), default=0)
    there = [path for path in there if path.count("/") == least]
    of_subset = [path for path in there if subset and folder_subset(path) == subset]
    return of_subset or there


def _palette_of_voc(count: int) -> dict[int, Colour]:
    """VOC's colours of 0..count: the bits of an index, spread over the three channels."""
    colours = {}
    for index in range(count + 1):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << 7 - bit // 3
        colours[index] = tuple(channels)
    return {**colours, IGNORE: BORDER}


def _values(files: Files, path: str, classes: list[str], colours: dict[str, Colour]) -> np.ndarray:
    """The values of a mask file: 0, 1..K and 255."""
    if colours:
        return by_colour(files, path, colour_values(classes, colours))
    mask = mask_values(files, path)
    top = int(np.where(mask == IGNORE, 0, mask).max())
    if top > len(classes):
        raise DataError(
            f"{path}: holds class index {top}, {len(classes)} classes are named: "
            f"{', '.join(classes)}"
        )
    check_edges(mask, path, classes)
    return mask


def _add_regions(
    photograph: Photograph,
    read_values: partial,
    classes: list[str],
    place: str,
    notes: Notes,
) -> None:
    """Add a region for each class of the mask; it is decoded again when that is drawn."""
    try:
        there = np.unique(read_values())
    except DataError as error:
        notes.slip("mask", str(error).partition(": ")[2], place)
        photograph.unread += 1
        return
    for value in there[there > 0].tolist():
        name = LIFTED if value == IGNORE else classes[value - 1]
        draw = partial(_of_value, read_values, value, place)
        photograph.regions.append(Region(name, draw, place))


def _of_value(read_values: partial, value: int, place: str, height: int, width: int) -> np.ndarray:
    mask = read_values()
    check_same_size(mask, place, (height, width))
    return mask == value
