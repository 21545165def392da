"""YOLO segmentation: a text file a photograph, polygons in shares of its width and height."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dlilib.data.class_names import numbered_list, read_alike, reserved
from dlilib.data.files import DataError, Files, read_text
from dlilib.data.formats.annotations import (
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
    stems_of,
    unannotated,
)
from dlilib.data.formats.coco import BOX, fill
from dlilib.data.images import IMAGE_SUFFIXES
from dlilib.data.subsets import SUBSETS, WORDS, subset_named
from dlilib.extras import require
from dlilib.wording import counted

NOTHING = ("", "~", "null", "Null", "NULL", "None")  # what data.yaml has for what there is not
OF_POSES = ("kpt_shape", "flip_idx")  # what data.yaml has for them
VISIBILITIES = {0, 1, 2}  # of a pose's point: not labelled, hidden, seen
MANY = 4  # points of a pose, from which on no outline has 0 and 1 in all the same places
SLACK = 2e-3  # in shares, of a rectangle's corners as they are rounded
LISTS = ("classes.txt", "obj.names", "labels.txt")  # of names 0..K-1, where there is no data.yaml


def read(files: Files, root: object, options: Options, notes: Notes) -> Annotations:
    """Read images/…, labels/… and data.yaml, as Ultralytics, Roboflow and CVAT write them."""
    table = _table(files, root)
    lists = _split_lists(files, root, table)
    of_names = [path for path in sorted(files) if _is_list_of_names(files, path)]
    texts = sorted(path for path in files if path.lower().endswith(".txt"))
    texts = [path for path in texts if path not in of_names and path not in lists]
    names = _names(files, root, options, table, of_names, texts)
    pictures = Pictures(files, map(_mirrored, texts))
    found: dict[str, Photograph] = {}
    lost: set[str] = set()  # what the photographs of label files that found none may be called
    for path in texts:
        image = _image_of(pictures, path)
        if image is None:
            inside = "labels" in map(plain, PurePosixPath(path).parts[:-1])
            if inside or _classes_in(files, root, path):
                notes.slip("label file", "without a photograph of its name", f"{root}/{path}")
                lost |= stems_of(PurePosixPath(path).stem)
            continue
        if image in found:
            raise DataError(f"{root}/{path}: is of {image}, as another label file is")
        found[image] = Photograph(image, files[image])
        _read_lines(files, root, path, names, found[image], notes)
    if not found:
        raise DataError(
            f"{root}: has no label file labels/<name>.txt of a photograph images/<name>.jpg"
        )
    used = len(found)
    _tell_boxes(found.values(), root, notes)
    for path in unannotated(files, found, root, notes, own=".txt"):
        if plain(PurePosixPath(path).stem) in lost:
            why = "of the name of a label file that is not its own"
            notes.leave_out("photograph", why, f"{root}/{path}")
        else:
            found[path] = Photograph(path, files[path])
    _add_splits(lists, found, table, notes)
    classes = [name for name in names.values() if reserved(name) is None]
    return Annotations(list(found.values()), classes, used)


def _is_list_of_names(files: Files, path: str) -> bool:
    """Whether a file lists the names of classes, and is not the label file of labels.jpg."""
    if PurePosixPath(path).name.lower() not in LISTS:
        return False
    places = (path[: -len(".txt")], _mirrored(path))
    return not any(f"{place}{suffix}" in files for place in places for suffix in IMAGE_SUFFIXES)


def _split_lists(
    files: Files, root: object, table: dict[str, Any]
) -> dict[str, tuple[str, list[str]]]:
    """The files that list the photographs of a subset, with the subset and these.

    They are called as train.txt is, or named in data.yaml. The label file of a photograph test1.jpg
    is called as one of them would be.
    """
    in_table = {}
    for word in WORDS:
        for place in _places(table, word):
            ends = ("/".join(end) for end in _ends(place))
            path = next((end for end in ends if end in files and end.lower().endswith(".txt")), "")
            in_table[path] = subset_named(word)
    lists = {}
    for path in sorted(files):
        name = PurePosixPath(path)
        subset = subset_named(name.stem) if len(name.parts) < 3 else ""
        subset = in_table.get(path, subset)
        if name.suffix.lower() == ".txt" and subset:
            lines = map(str.strip, read_text(files, root, path).splitlines())
            listed = [line for line in lines if line.lower().endswith(IMAGE_SUFFIXES)]
            if listed:
                lists[path] = subset, listed
    return lists


def _places(table: dict[str, Any], word: str) -> list[str]:
    """The folders or lists that data.yaml has under a word, such as train."""
    found = table.get(word)
    places = found if isinstance(found, list) else [found]
    return [place for place in places if isinstance(place, str) and _ends(place)]


def _ends(place: str) -> list[list[str]]:
    """The folders and file of a path of any computer, and its ever shorter ends."""
    parts = PurePosixPath(place.replace("\\", "/")).parts
    wanted = [part for part in parts if part not in (".", "..", "/") and not part.endswith(":")]
    return [wanted[start:] for start in range(len(wanted))]


def _mirrored(path: str) -> str:
    """Where a label file's photograph should lie, without a suffix: in images/ for labels/."""
    *folders, name = PurePosixPath(path).parts
    parts = ["images" if plain(folder) == "labels" else folder for folder in folders]
    return "/".join([*parts, name[: -len(".txt")]])


def _image_of(pictures: Pictures, path: str) -> str | None:
    """The photograph of a label file: a.jpg.txt may be of a.jpg, of a.jpg.png or of a.png."""
    place = _mirrored(path)
    name, home = PurePosixPath(place).name, parent(place)
    called = pictures.find(name, place, home=home)
    called = called or pictures.find_stem(f"{name}.txt", place, home=home)
    return called or pictures.find_stem(name, place, home=home)


def _table(files: Files, root: object) -> dict[str, Any]:
    """What the data set's YAML file says, that nearest the top; nothing where there is none."""
    tables = [path for path in files if path.lower().endswith((".yaml", ".yml"))]
    contents = []
    for path in sorted(tables, key=lambda path: (path.count("/"), path)):
        if contents and path.count("/") > contents[0][0].count("/"):
            break
        yaml = require("yaml", "formats")
        try:
            # all values as they are written: else the name "no" is False, and "010" is 8
            content = yaml.load(read_text(files, root, path), Loader=yaml.BaseLoader)
            if isinstance(content, dict):
                content = {key: value for key, value in content.items() if value not in NOTHING}
        except yaml.YAMLError:
            raise DataError(f"{root}/{path}: not readable as YAML") from None
        if isinstance(content, dict) and content.get("names"):
            for key in OF_POSES:
                if content.get(key):
                    raise DataError(f"{root}/{path}: of poses ({key}), which have no outlines")
            contents.append((path, content))
    if len(contents) > 1 and any(c["names"] != contents[0][1]["names"] for _, c in contents):
        raise DataError(
            f"{root}/{contents[0][0]}: and {contents[1][0]} name different classes: remove one"
        )
    return {**contents[0][1], "place": f"{root}/{contents[0][0]}"} if contents else {}


def _names(
    files: Files,
    root: object,
    options: Options,
    table: dict[str, Any],
    lists: Sequence[str],
    texts: Sequence[str],
) -> dict[int, str]:
    """The names of the classes by their numbers; lists: the files of names, texts: of labels."""
    if table:
        with expected("YOLO", table["place"]):
            return _names_in(table["names"])
    if lists:
        names = read_alike(files, root, lists, numbered_list)
        return _as_used(names, files, root, texts, f"{root}/{lists[0]}")
    if options.numbered:
        return _as_used(dict(options.numbered), files, root, texts, "--classes")
    raise DataError(
        f"{root}: no data.yaml (nor {', '.join(LISTS)}) names the classes; name them by "
        "--classes FILE, a line each, numbered as in the label files: 0: dent"
    )


def _as_used(
    names: dict[int, str], files: Files, root: object, texts: Sequence[str], place: str
) -> dict[int, str]:
    """Return a list's names; DataError where it counts from 1, and the label files may not."""
    if min(names) != 1:
        return names
    used: set[int] = set()
    for path in texts:
        used |= _classes_in(files, root, path)
    if used and (0 in used or max(names) not in used):
        raise DataError(
            f"{place}: numbers its names from 1 to {max(names)}, the label files from {min(used)} "
            f"to {max(used)}: number them as the label files do, which mostly count from 0, or "
            f"name them without numbers, the one of 0 first"
        )
    return names


def _classes_in(files: Files, root: object, path: str) -> set[int]:
    """The numbers of the classes of a label file's regions; none in another text."""
    lines: list[list[str]] = []
    with suppress(DataError):  # somebody's notes may be in another encoding
        lines = [line.split() for line in read_text(files, root, path).splitlines()]
    return {int(words[0]) for words in lines if len(words) > 4 and words[0].isdigit()}


def _names_in(names: Any) -> dict[int, str]:
    if isinstance(names, list):
        return {number: class_name(name) for number, name in enumerate(names)}
    if not isinstance(names, dict):
        raise OddValueError(f"names are {names!r}, neither a list nor numbered")
    return {int(number): class_name(name) for number, name in names.items()}


def _add_splits(
    lists: dict[str, tuple[str, list[str]]],
    found: dict[str, Photograph],
    table: dict[str, Any],
    notes: Notes,
) -> None:
    """Take the split from train.txt and the like, or from the folders that data.yaml names."""
    named = Pictures(found)
    for path, (subset, listed) in lists.items():
        for line in listed:
            image = named.find(line, path)
            if image is not None:
                found[image].split = subset
    for word in WORDS:
        for place in _places(table, word):
            if place.lower().endswith(".txt"):
                continue
            inside = _inside(place, found)
            for path in inside:
                if found[path].split not in SUBSETS:
                    found[path].split = subset_named(word)
            if not inside:
                notes.remark(
                    f"{table['place']}: its {word}, {place}, is no folder here: no split is taken "
                    "from it"
                )


def _inside(place: str, paths: Iterable[str]) -> list[str]:
    """Those of the paths that lie in a folder of any computer: in that of its longest end here.

    An end "images" alone would be any subset's.
    """
    for start, end in enumerate(_ends(place)):
        if start and len(end) == 1 and plain(end[0]) == "images":
            break
        inside = [path for path in paths if _has(list(PurePosixPath(path).parts[:-1]), end)]
        if inside:
            return inside
    return []


def _has(folders: list[str], wanted: list[str]) -> bool:
    """Whether the folders of a path have these in a row."""
    return any(folders[k : k + len(wanted)] == wanted for k in range(len(folders)))


def _read_lines(
    files: Files,
    root: object,
    path: str,
    names: dict[int, str],
    photograph: Photograph,
    notes: Notes,
) -> None:
    try:
        lines = read_text(files, root, path).splitlines()
    except DataError as error:
        why = str(error).removeprefix(f"{root}/{path}: ")
        notes.slip("label file", why, f"{root}/{path}")
        photograph.unread += 1
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{root}/{path}, line {number}"
        try:
            photograph.regions.append(_region(line.split(), names, place))
        except DataError as error:
            notes.slip("annotation", str(error).removeprefix(f"{place}: "), place)
            photograph.unread += 1


def _region(words: list[str], names: dict[int, str], place: str) -> Region:
    with expected("YOLO", place):
        number, shares = float(words[0]), np.array(words[1:], float)
    if number not in names:
        raise DataError(
            f"{place}: is of class {number:g}; the names are of {counted(len(names), 'class')}, "
            f"{min(names)} to {max(names)}"
        )
    if len(shares) in (4, 5):  # a fifth number is a prediction's
        raise DataError(f"{place}: {BOX}")
    if _is_pose(shares):
        raise DataError(f"{place}: the points of a pose, which have no outline")
    if len(shares) < 6:
        raise DataError(f"{place}: a polygon of fewer than 3 points")
    if len(shares) % 2:
        raise DataError(
            f"{place}: an odd number of coordinates (a confidence at the end? Export labels, not "
            "predictions)"
        )
    far = shares[~(abs(shares) <= 2)]
    if len(far):
        raise DataError(
            f"{place}: has the coordinate {far[0]:g}; they are shares of width and height, 0 to 1"
        )
    return Region(names[int(number)], partial(_pixels, shares.reshape(-1, 2), place), place)


def _is_pose(shares: np.ndarray) -> bool:
    """Whether a line's numbers are a box and points with their visibilities, x, y, v, x, y, v, …"""
    seen = shares[6::3]
    if len(shares) % 3 != 1 or not set(seen.tolist()) <= VISIBILITIES:
        return False
    return 2 in seen or len(seen) >= MANY


def _tell_boxes(found: Iterable[Photograph], root: object, notes: Notes) -> None:
    """Say that all outlines are rectangles, as lines of oriented boxes read."""
    outlines = [region.pixels.args[0] for each in found for region in each.regions]
    if outlines and all(map(_is_parallelogram, outlines)):
        notes.remark(
            f"{root}: every outline is a parallelogram of 4 points: if these are oriented boxes, "
            "their whole area counts as defect"
        )


def _is_parallelogram(outline: np.ndarray) -> bool:
    if len(outline) != 4:
        return False
    first, second, third, fourth = outline
    return bool(np.allclose(first + third, second + fourth, rtol=0, atol=SLACK))


def _pixels(shares: np.ndarray, place: str, height: int, width: int) -> np.ndarray:
    return fill([shares * (width, height)], height, width, place)
