"""The names of classes as annotation programs list them, and what 0 and 255 mean among them."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from dlilib.data.files import DataError, Files, read_text
from dlilib.tiles import IGNORE, check_classes, reserved

# what a folder's class list may be called, the first one found is read
CLASS_LISTS = ("classes.txt", "_classes.csv")
LABEL_MAP = "labelmap.txt"  # CVAT's list of classes and their colours
BORDER = (224, 224, 192)  # red, green and blue of what VOC's masks ignore
NUMBERED = re.compile(r"(\d+)\s*[:,;]\s*(.+)")  # "1: dent"
# "1 dent" or "1. dent", but not "1.5 mm", if the numbers are 0, 1, 2, …
COUNTED = re.compile(r"(\d+)(?:\s*[=)\-]\s*|\s*\.(?!\d)\s*|\s+)(.+)")
NAMED = re.compile(r"(.+?)\s*[:,;=]\s*(\d+)")  # "dent: 1"
HEADS = re.compile(
    r"(pixel value|index|id|value|number)\s*[,;\t]\s*(class|name|label).*|names:?", re.I
)
LABEL_MAP_LINE = re.compile(r"(.+?):(\d+),(\d+),(\d+)(:.*)?")  # "dent:250,50,83::"
INVISIBLE = "\u200b\ufeff\u2060"

Colour = tuple[int, int, int]
Names = TypeVar("Names", list[str], dict[int, str])


def class_list(text: str, place: str) -> list[str]:
    """Read a list of classes, a line each, and return the names of the classes 1..K.

    Lines may be numbered, as "1: dent", or be those of a labelmap.txt. "background" as the first
    name, or as number 0, is the background and no class; so is "__ignore__" before it, or as number
    255.

    Raises:
        DataError: A line cannot be meant so; the message names it.
    """
    lines = _lines(text)
    numbered = _numbers(lines)
    if numbered is None:
        return without_reserved([line for line in lines if not _numbers_reserved(line)], place)
    return _unreserved(_numbered(dict(numbered), len(lines), place), place)


def without_reserved(names: list[str], place: str) -> list[str]:
    """Return the names, but for those of 0 and 255 before the first class.

    Raises:
        DataError: Such a name stands among the classes.
    """
    return _unreserved(_leading(names), place)


def _unreserved(names: list[str], place: str) -> list[str]:
    """Return the names of the classes 1..K; DataError if one stands for 0 or 255."""
    for name in names:
        if reserved(name) is not None:
            raise DataError(
                f"{place}: names {name!r} as class {names.index(name) + 1}, but in masks the "
                f"background is 0 and what is ignored {IGNORE}: take the line out, or put it first"
            )
    return names


def _lines(text: str) -> list[str]:
    """The lines that name something, without what cannot be seen, comments and a table's head."""
    lines = [line.strip().strip(INVISIBLE).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    of_label_map = [LABEL_MAP_LINE.fullmatch(line) for line in lines]
    if all(found and found[5] for found in of_label_map):  # with the colons at their end
        lines = [found[1] for found in of_label_map]
    return lines[1:] if lines and HEADS.fullmatch(lines[0]) else lines


def _numbers_reserved(line: str) -> bool:
    """Whether a line says what 0 or 255 is, as "255: ignore"."""
    found = NUMBERED.fullmatch(line) or COUNTED.fullmatch(line)
    return bool(found) and reserved(found[2]) == int(found[1])


def _numbers(lines: list[str]) -> list[tuple[int, str]] | None:
    """Numbers and names where all lines are numbered, else None."""
    found = [NUMBERED.fullmatch(line) for line in lines]
    if lines and all(found):
        return [(int(match[1]), match[2].strip()) for match in found]
    for pattern, number, name in ((COUNTED, 1, 2), (NAMED, 2, 1)):
        found = [pattern.fullmatch(line) for line in lines]
        if lines and all(found):
            numbers = [int(match[number]) for match in found]
            kept = [n for n in numbers if n != IGNORE]
            counted = (list(range(len(kept))), list(range(1, len(kept) + 1)))
            if kept in counted and len(kept) >= len(numbers) - 1:
                return [(n, match[name].strip()) for n, match in zip(numbers, found, strict=True)]
    return None


def numbered_list(text: str, place: str) -> dict[int, str]:
    """Read a list of names by their numbers: as it numbers them, else 0, 1, 2 and so on.

    Raises:
        DataError: It names nothing, or one number twice.
    """
    lines = _lines(text)
    if not lines:
        raise DataError(f"{place}: names no class")
    numbered = _numbers(lines) or list(enumerate(lines))
    names = dict(numbered)
    if len(names) < len(numbered):
        raise DataError(f"{place}: names one number twice: {', '.join(lines)}")
    return names


def written(names: list[str]) -> list[str]:
    """The lines of a class list that `class_list` reads as these names."""
    with suppress(DataError):  # a name such as "0: dent" may read as a number
        if class_list("\n".join(names), "") == names:
            return names
    return [f"{number}: {name}" for number, name in enumerate(names, start=1)]


def _leading(lines: list[str]) -> list[str]:
    """The names without those of 0 and 255 before the first class."""
    start = 0
    while start < min(len(lines), 2) and reserved(lines[start]) is not None:
        start += 1
    return lines[start:]


def _numbered(names: dict[int, str], count: int, place: str) -> list[str]:
    """The names of 1..K by their numbers; count: how many lines there are."""
    for number, meaning in ((0, "the background"), (IGNORE, "what is ignored")):
        name = names.pop(number, None)
        if name is not None and reserved(name) != number:
            raise DataError(
                f"{place}: names {name!r} as {number}, which is {meaning} in masks: number the "
                "classes from 1 on, as the masks do"
            )
        count -= name is not None
    if sorted(names) != list(range(1, count + 1)):
        raise DataError(
            f"{place}: its numbers are {sorted(names)}; the classes are numbered 1, 2, 3 and so on"
        )
    return [names[number] for number in range(1, count + 1)]


def read_class_list(files: Files, root: object, name: str) -> list[str]:
    """The classes 1..K of a list among the files.

    Raises:
        DataError: It is missing, or no list of 1 to 254 distinct names; the message names it.
    """
    place = f"{root}/{name}"
    return checked(class_list(read_text(files, root, name), place), place)


def read_alike(
    files: Files, root: object, paths: Sequence[str], parse: Callable[[str, str], Names]
) -> Names:
    """Read several class lists by `class_list` or `numbered_list`, and return the longest.

    Raises:
        DataError: Another is not its beginning, as those of folders that were annotated apart.
    """
    found = [parse(read_text(files, root, path), f"{root}/{path}") for path in paths]
    longest = max(found, key=len)
    known = dict(longest if isinstance(longest, dict) else enumerate(longest))
    for other, names in zip(paths, found, strict=True):
        numbered = dict(names if isinstance(names, dict) else enumerate(names))
        if not numbered.items() <= known.items():
            raise DataError(
                f"{root}/{paths[found.index(longest)]}: and {other} name different classes: remove "
                "one, or convert the folders one by one"
            )
    return longest


def find_class_list(files: Files, root: object) -> str | None:
    """The path of the folder's class list, at its top or one for each of its folders.

    Raises:
        DataError: There are several that differ.
    """
    for name in CLASS_LISTS:
        paths = [path for path in sorted(files) if f"/{path}".lower().endswith(f"/{name}")]
        top = [path for path in paths if "/" not in path]
        paths = top or [path for path in paths if path.count("/") == 1]
        if len({read_text(files, root, path) for path in paths}) > 1:
            raise DataError(f"{root}/{paths[0]}: and {paths[1]} differ: which names the classes?")
        if paths:
            return paths[0]
    return None


def checked(names: list[str], place: str) -> list[str]:
    """Return the names; DataError unless a data set's classes can be called so."""
    try:
        check_classes(names)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None
    return names


def read_label_map(files: Files, root: object, name: str = LABEL_MAP) -> dict[str, Colour]:
    """Read CVAT's list of classes: name -> red, green and blue, in the list's order.

    Raises:
        DataError: A line is none of `name:r,g,b:parts:actions`, or two names share a colour.
    """
    place = f"{root}/{name}"
    colours: dict[str, Colour] = {}
    for line in read_text(files, root, name).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = LABEL_MAP_LINE.fullmatch(line)
        colour = tuple(int(part) for part in found.groups()[1:4]) if found else (256,)
        if max(colour) > 255:
            raise DataError(
                f"{place}: the line {line!r} is not as CVAT writes it, name:red,green,blue::"
            )
        if found[1] in colours or colour in colours.values():
            raise DataError(f"{place}: the line {line!r} repeats a name or a colour")
        colours[found[1]] = colour
    return colours


def classes_of(colours: dict[str, Colour]) -> list[str]:
    """The names in a label map that are classes."""
    return [name for name in colours if reserved(name) is None]
