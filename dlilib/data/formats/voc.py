"""Pascal VOC and CVAT's masks: in colours or of class indices, beside the photographs."""

import re
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from dlilib.data.class_names import (
    BORDER,
    LABEL_MAP,
    Colour,
    class_list,
    classes_of,
    read_label_map,
)
from dlilib.data.files import DataError, Files, read_text
from dlilib.data.formats.annotations import (
    Annotations,
    Notes,
    Options,
    Photograph,
    Pictures,
    Region,
)
from dlilib.data.images import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    check_same_size,
    mask_values,
    palette_colours,
)
from dlilib.data.mask_files import by_colour, check_edges, colour_values
from dlilib.data.subsets import folder_subset, subset_named
from dlilib.tiles import IGNORE

FOLDERS = ("SegmentationClass", "SegmentationClassPNG", "masks")  # of masks; the first one there
NO_PHOTOGRAPHS = re.compile(r"(^|/)Segmentation[^/]*/")
LISTS = ("class_names.txt", "labels.txt", "classes.txt")
# Pascal VOC's own classes 1..20
VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LIFTED = "__ignore__"  # what the ignored pixels' region is called


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
    photographs: dict[str, Photograph] = {}
    listed = _listed_subsets(files, root)
    images = [path for path in sorted(files) if _is_photograph(path, folder)]
    pictures = Pictures({path: files[path] for path in images})
    for path in masks:
        names = [f"{PurePosixPath(path).stem}{suffix}" for suffix in IMAGE_SUFFIXES]
        # folders below those of masks are the same below those of photographs
        below = ["JPEGImages" if part == folder else part for part in PurePosixPath(path).parts]
        image = next((hit for name in names if (hit := pictures.find(name, "/".join(below)))), None)
        if image is None:
            notes.slip("mask", "without a photograph of its name", f"{root}/{path}")
            continue
        if image in photographs:
            raise DataError(f"{root}/{path}: is of {image}, as another mask is")
        split = listed.get(PurePosixPath(path).stem, "") or folder_subset(image)
        photographs[image] = Photograph(image, files[image], split=split)
        read_values = partial(_values, files, path, classes, colours)
        _add_regions(photographs[image], read_values, classes, f"{root}/{path}", notes)
    for path in images:
        if path not in photographs:
            why = f"without a mask in {folder}/ (one of zeros says that it is defect-free)"
            notes.leave_out("photograph", why, f"{root}/{path}")
    return Annotations(list(photographs.values()), classes, len(masks))


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
    lists = [path for path in sorted(files) if PurePosixPath(path).name in LISTS]
    if lists:
        place = f"{root}/{lists[0]}"
        return class_list(read_text(files, root, lists[0]), place), {}
    if options.classes:
        return list(options.classes), {}
    if all(_is_of_voc(files, path) for path in masks):
        return list(VOC), {}
    raise DataError(
        f"{root}: no {LABEL_MAP} (nor {', '.join(LISTS)}) names the classes; name them by "
        "--classes FILE, a line each, the class of value 1 first"
    )


def _is_of_voc(files: Files, path: str) -> bool:
    """Whether a mask has Pascal VOC's palette."""
    own = _palette_of_voc(len(VOC))
    colours = palette_colours(files, path)
    return bool(colours) and all(own.get(k) == colour for k, colour in colours.items())


def _listed_subsets(files: Files, root: object) -> dict[str, str]:
    """Stem -> subset, as ImageSets/…/train.txt and the like list them."""
    found = {}
    for path in sorted(files):
        name = PurePosixPath(path)
        if "ImageSets" in name.parts and name.suffix == ".txt" and subset_named(name.stem):
            for line in read_text(files, root, path).split():
                found[PurePosixPath(line).stem] = subset_named(name.stem)
    return found


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
