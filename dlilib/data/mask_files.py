"""Masks as files: indices, black and white, a folder for each class, colours."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from dlilib.data.class_names import BORDER, Colour, reserved
from dlilib.data.files import DataError, Files
from dlilib.data.images import (
    WHITE,
    check_same_size,
    mask_colours,
    mask_values,
    palette_colours,
    read_mask,
)
from dlilib.tiles import IGNORE

MOST_INSTANCES = 12  # grey levels of one mask that may number instances, whatever their shapes
DARK = 31  # grey levels: what JPEG adds beside a bright defect is mostly darker
LEAST_STEP = 8  # grey levels between the numbers of instances, where they go up to white
SEAM = 5  # side of the neighbourhood, pixels, in which a soft edge meets both its neighbours
MOST = 0.9  # of an outline, that a soft edge covers at least


class Palettes:
    """The colours of indices in the palettes of masks, which must be those of all of them."""

    def __init__(self) -> None:
        self._colours: dict[int, tuple[Colour, str]] = {}  # index -> its colour, and where
        self._indices: dict[Colour, tuple[int, str]] = {}

    def check(self, path: str, colours: Mapping[int, Colour]) -> None:
        """Raise DataError where one index has two colours, or one colour two indices.

        colours: of the mask at `path`, none where it has no palette.
        """
        for index, colour in colours.items():
            if index == IGNORE:
                continue
            known, where = self._colours.setdefault(index, (colour, path))
            value, there = self._indices.setdefault(colour, (index, path))
            named, other = (path, index, colour), ""
            # Files are read side by side: of two, the later one by name is told of.
            if known != colour:
                before, named = sorted([(where, index, known), named])
                other = f"that of {before[0]} as {before[2]}"
            elif value != index and there != path and colours.get(0) != colour:
                before, named = sorted([(there, value, colour), named])
                other = f"that of {before[0]} class {before[1]}"
            if colour == (0, 0, 0) and index and any(colours.get(0, (1, 1, 1))):
                named = (path, index, colour)
                other = "black, which is no background there"
            if other:
                raise DataError(
                    f"{named[0]}: its palette shows class {named[1]} as {named[2]}, {other}: some "
                    "programs number the colours of each file anew. Save the masks in RGB, with a "
                    "labelmap.txt that names the colours, or as indices without a palette"
                )


class IndexMasks:
    """A mask of class indices for each image, 0 background and 255 ignored."""

    def __init__(self, files: Files, classes: Sequence[str], found: Mapping[str, str]) -> None:
        """found: image's name -> path of its mask."""
        self.files, self.classes, self.found = files, classes, found
        self.is_white = len(classes) == 1 and is_white(files, found.values())
        self._palettes = Palettes()

    def paths(self, name: str) -> list[str]:
        """The files of an image's mask."""
        return [self.found[name]]

    def read(self, name: str, like: np.ndarray) -> np.ndarray:
        """The mask of an image, class indices (H, W)."""
        path = self.found[name]
        mask = read_mask(self.files, path, like=like)
        if self.is_white:
            return marked(mask).astype(np.uint8)
        top = int(np.where(mask == IGNORE, 0, mask).max())
        if top > len(self.classes):
            raise DataError(
                f"{path}: holds class index {top}, classes.txt names {len(self.classes)}: "
                f"{', '.join(self.classes)}. Masks of grey levels for one class go into a folder "
                "masks/<class>/"
            )
        colours = palette_colours(self.files, path)
        self._palettes.check(path, colours)
        if not colours:  # a palette's indices are never blended
            check_edges(mask, path, self.classes)
        return mask


class ClassFolders:
    """A folder of masks for each class, with a file for each image that shows it."""

    def __init__(
        self, files: Files, classes: Sequence[str], found: Mapping[str, Mapping[str, str]]
    ) -> None:
        """found: folder's name -> image's name -> path of a mask."""
        self.files = files
        # later classes over earlier ones, and over all what is background or ignored
        order = [*classes, *(folder for folder in found if reserved(folder) is not None)]
        self.layers: list[tuple[int, Mapping[str, str]]] = []
        for folder in order:
            value = reserved(folder)
            value = 1 + list(classes).index(folder) if value is None else value
            self.layers.append((value, found.get(folder, {})))

    def paths(self, name: str) -> list[str]:
        """The files of an image's mask."""
        return [found[name] for _, found in self.layers if name in found]

    def read(self, name: str, like: np.ndarray) -> np.ndarray:
        """The mask of an image, class indices (H, W)."""
        mask = np.zeros(like.shape[:2], np.uint8)
        for value, found in self.layers:
            if name in found:
                mask[marked(read_mask(self.files, found[name], like, one_class=True))] = value
        return mask


class ColourMasks:
    """A mask in colours for each image, which a label map names."""

    def __init__(
        self,
        files: Files,
        classes: Sequence[str],
        colours: Mapping[str, Colour],
        found: Mapping[str, str],
    ) -> None:
        """found: image's name -> path of its mask."""
        self.files, self.found = files, found
        self.values = colour_values(classes, colours)

    def paths(self, name: str) -> list[str]:
        """The files of an image's mask."""
        return [self.found[name]]

    def read(self, name: str, like: np.ndarray) -> np.ndarray:
        """The mask of an image, class indices (H, W)."""
        path = self.found[name]
        mask = by_colour(self.files, path, self.values)
        check_same_size(mask, path, like.shape[:2])
        return mask


def is_white(files: Files, paths: Sequence[str]) -> bool:
    """Whether masks of one class mark it by white, with or without soft edges, and not by 1.

    Raises:
        DataError: Some masks mark it by 1 and others by 255.
    """
    counts = np.zeros(IGNORE + 1, np.int64)
    by_one, by_white = "", ""
    for path in paths:
        found = np.bincount(mask_values(files, path).ravel(), minlength=IGNORE + 1)
        counts += found
        values = set(np.flatnonzero(found[1:]) + 1)
        by_one = path if values == {1} else by_one
        by_white = path if values == {WHITE} else by_white
    levels = np.count_nonzero(counts[2:WHITE])
    soft = levels > MOST_INSTANCES or bool(levels and counts[WHITE // 2 :].any())
    if by_one and by_white and not soft:
        raise DataError(
            f"{by_one}: marks its defect by 1, {by_white} by 255, which is ignored beside 1: save "
            "them alike, or put them into a folder of their class, masks/<class>/"
        )
    return soft or (bool(counts[WHITE]) and not counts[1])


def marked(mask: np.ndarray) -> np.ndarray:
    """What a mask of one class marks, bool: all above 0, of soft edges the brighter half.

    Many grey levels are soft edges, unless they number instances; a few number instances, unless
    they are what JPEG left around a bright defect.
    """
    levels = np.flatnonzero(np.bincount(mask.ravel())[1:]) + 1
    many = len(levels) > MOST_INSTANCES and not _are_numbers(mask, levels)
    soft = many or _has_soft_edge(mask) or _has_noise(mask, levels)
    return mask > mask.max() // 2 if soft else mask > 0


def _are_numbers(mask: np.ndarray, levels: np.ndarray) -> bool:
    """Whether most of many levels fill a square somewhere, and do not fade towards the background.

    levels: those above 0 in the mask.
    """
    first = mask[:-1, :-1]
    square = (first > 0) & (first == mask[1:, :-1])
    square &= (first == mask[:-1, 1:]) & (first == mask[1:, 1:])
    outline = mask[(mask > 0) & (cv2.erode(mask, np.ones((3, 3), np.uint8)) == 0)]
    most = 2 * len(np.unique(first[square])) >= len(levels)
    return most and len(outline) > 0 and 2 * np.median(outline) >= np.median(levels)


def _has_noise(mask: np.ndarray, levels: np.ndarray) -> bool:
    """Whether very dark pixels touch bright ones, and are no instances with numbers.

    These go up in even steps, or fill a square somewhere. levels: those above 0 in the mask.
    """
    top = int(mask.max())
    if top <= WHITE // 2 or (levels[0] >= LEAST_STEP and not (levels % levels[0]).any()):
        return False
    near = np.ones((3, 3), np.uint8)
    dark = (mask > 0) & (mask <= DARK)
    if (dark & (cv2.dilate(mask, near) == cv2.erode(mask, near))).any():
        return False
    bright = cv2.dilate((mask > top // 2).astype(np.uint8), near) > 0
    return bool((dark & bright).any())


def _has_soft_edge(mask: np.ndarray) -> bool:
    """Whether each pixel between 0 and the top lies beside a brighter and a darker one."""
    top = int(mask.max())
    between = (mask > 0) & (mask < top)
    if top <= WHITE // 2 or not between.any():
        return False
    near = np.ones((3, 3), np.uint8)
    edge = (cv2.dilate(mask, near) > mask) & (cv2.erode(mask, near) < mask)
    return bool(edge[between].all())


def colour_values(classes: Sequence[str], colours: Mapping[str, Colour]) -> dict[Colour, int]:
    """Colour -> mask value."""
    values = {(0, 0, 0): 0, BORDER: IGNORE}
    for name, colour in colours.items():
        value = reserved(name)
        values[colour] = 1 + list(classes).index(name) if value is None else value
    return values


def by_colour(files: Files, path: str, values: Mapping[Colour, int]) -> np.ndarray:
    """The values of a mask in colours, uint8 (H, W).

    A mask of one channel whose greys are no such colours holds the values themselves.
    """
    colours = mask_colours(files, path).astype(np.int64)
    codes = (colours[..., 0] << 16) + (colours[..., 1] << 8) + colours[..., 2]
    table = {(r << 16) + (g << 8) + b: value for (r, g, b), value in values.items()}
    there, index = np.unique(codes, return_inverse=True)
    unknown = [code for code in there.tolist() if code not in table]
    if unknown and (colours == colours[..., :1]).all():
        plain = mask_values(files, path)
        if set(np.unique(plain).tolist()) <= set(values.values()):
            return plain
    if unknown:
        code = unknown[0]
        raise DataError(
            f"{path}: {int((codes == code).sum())} pixels have the colour {code >> 16},"
            f"{code >> 8 & 255},{code & 255}, which no class has ({len(unknown)} such colours). "
            "Soft edges? Export masks without smoothing, as PNG"
        )
    return np.array([table[code] for code in there.tolist()], np.uint8)[index].reshape(codes.shape)


def check_edges(mask: np.ndarray, path: str, classes: Sequence[str]) -> None:
    """Raise DataError where a class is nothing but the soft edge of a higher one.

    A mask of indices that was resized smoothly has a seam of lower indices around each region.
    """
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    shown = np.flatnonzero(counts[1:IGNORE]) + 1
    for value in shown[:-1].tolist():
        seam = mask == value
        higher = ((mask > value) & (mask < IGNORE)).astype(np.uint8)
        around = (cv2.dilate(higher, np.ones((3, 3), np.uint8)) > 0) & (higher == 0)
        near = np.ones((SEAM, SEAM), np.uint8)
        lower = (mask < value).astype(np.uint8)
        between = (cv2.dilate(higher, near) > 0) & (cv2.dilate(lower, near) > 0)
        if (between[seam]).all() and seam[around].mean() >= MOST:
            raise DataError(
                f"{path}: shows {classes[value - 1]} (index {value}) as nothing but a seam around "
                "classes of higher index: the soft edge of a mask that was resized or smoothed? "
                "Resize masks by the nearest pixel"
            )
