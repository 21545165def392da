"""What every annotation program's reader gives: photographs, regions, and what was left out."""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from dlilib.data.files import DataError, Files
from dlilib.data.images import IMAGE_SUFFIXES
from dlilib.data.subsets import folder_subset, subset_of

UNLISTED = ("leave out", "free")
WIDTH = 10  # pixels, of lines and points: what labelme draws itself


@dataclass(frozen=True)
class Region:
    """One annotated region."""

    label: str  # the name of its class, or one that stands for background or ignored pixels
    # (height, width) of the photograph -> its pixels, bool (H, W); DataError: it cannot be drawn
    pixels: Callable[[int, int], np.ndarray]
    place: str  # the annotation, for messages


@dataclass
class Photograph:
    """One photograph and what is annotated on it, in the order of drawing."""

    path: str  # where it lies
    read: Callable[[], bytes]  # the file
    regions: list[Region] = field(default_factory=list)
    # height and width when it was annotated, None where the program does not say
    size: tuple[int, int] | None = None
    group: str = ""  # what it shows, where the export says it
    split: str = ""  # "train", "val" or "test", where the export says it
    unread: int = 0  # annotations of it that cannot be read

    @property
    def is_annotated(self) -> bool:
        """Whether anything is said to be on it, readable or not."""
        return bool(self.regions or self.unread)


@dataclass
class Annotations:
    """What an annotation program knows of a set of photographs."""

    photographs: list[Photograph]
    classes: list[str]  # names, in their order; some may have no region
    files: int  # annotation files that were read


@dataclass(frozen=True)
class Options:
    """What the user of a conversion chooses."""

    strict: bool = False  # an annotation that cannot be read is an error
    width: int = WIDTH  # pixels, of lines and points
    unlisted: str = "leave out"  # or "free": photographs that no annotation file lists
    classes: tuple[str, ...] | None = None  # names of the classes 1..K; None: as the export says


class Notes:
    """What a conversion leaves out, and what else its user must know."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.remarks: list[str] = []
        self._left_out: dict[tuple[str, str], list[str]] = {}  # (what, why) -> where

    def slip(self, what: str, why: str, place: str) -> None:
        """An "annotation", "photograph" or "file" that cannot be read; strict: DataError."""
        if self.strict:
            raise DataError(f"{place}: {why}")
        self.leave_out(what, why, place)

    def leave_out(self, what: str, why: str, place: str) -> None:
        """Count what is left out on purpose."""
        self._left_out.setdefault((what, why), []).append(place)

    def remark(self, text: str) -> None:
        """Tell something once."""
        if text not in self.remarks:
            self.remarks.append(text)

    @property
    def left_out(self) -> list[str]:
        """One text for each kind of thing that was left out, with its number."""
        texts = []
        for (what, why), places in self._left_out.items():
            many = "s" if len(places) > 1 else ""
            first = "first: " if many else ""
            texts.append(f"{len(places)} {what}{many}, {why} ({first}{places[0]})")
        return texts


class Pictures:
    """The pictures among the files, found by the names that annotation files have for them."""

    def __init__(self, files: Files) -> None:
        self._by_name: dict[str, list[str]] = {}
        for path in sorted(files):
            if path.lower().endswith(IMAGE_SUFFIXES):
                self._by_name.setdefault(_plain(PurePosixPath(path).name), []).append(path)

    def find(self, name: str, beside: str) -> str | None:
        """The picture that an annotation file means.

        Args:
            name: What it calls the picture: a path or URL of any computer.
            beside: The annotation file.

        Returns:
            The picture's path, None where there is none.

        Raises:
            DataError: There are several and none fits better.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        candidates = self._by_name.get(_plain(wanted.name), [])
        if len(candidates) > 1:
            exact = [path for path in candidates if _normal(path).endswith(_normal(wanted.name))]
            candidates = exact or candidates
        said = subset_of(str(wanted.parent))
        fitting = [path for path in candidates if not said or folder_subset(path) in ("", said)]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        scores = [_likeness(path, wanted, beside) for path in fitting]
        best = [path for path, score in zip(fitting, scores, strict=True) if score == max(scores)]
        if len(best) > 1:
            raise DataError(
                f"{beside}: calls a photograph {name!r}; {best[0]} and {best[1]} could be meant: "
                "rename one, or convert the folders one by one"
            )
        return best[0]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)  # systems differ in how they store an ü


def _plain(name: str) -> str:
    return _normal(name).casefold()


def _likeness(path: str, wanted: PurePosixPath, beside: str) -> tuple[int, int, int]:
    """How well a path fits: parts that it ends with, its subset, parts shared with the file."""
    ends = _shared(PurePosixPath(path).parts[::-1], wanted.parts[::-1])
    subset = subset_of(beside)
    fits = bool(subset) and folder_subset(path) == subset
    return ends, fits, _shared(PurePosixPath(path).parts, PurePosixPath(beside).parts)


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many parts are alike from the start on."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if _plain(one) != _plain(other):
            break
        count += 1
    return count


def class_name(label: object) -> str:
    """The name of a class; TypeError unless it fits on a line of classes.txt."""
    if not isinstance(label, str | int) or not str(label).isprintable() or not str(label).strip():
        raise TypeError(f"the label {label!r} is no name")
    return str(label).strip()


@contextmanager
def expected(source: str, place: str) -> Iterator[None]:
    """Convert parsing errors into DataError."""
    try:
        yield
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{place}: not as {source} writes it: {error} is missing") from None
    except RecursionError:
        raise DataError(f"{place}: not as {source} writes it: too deeply nested") from None
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{place}: not as {source} writes it: {error}") from None
