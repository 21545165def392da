"""What every annotation program's reader gives: photographs, regions, and what was left out."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from dlilib.data.files import DataError, Files, composed, digest, read_text
from dlilib.data.images import IMAGE_SUFFIXES, OTHER_PICTURES
from dlilib.data.subsets import folder_subset, subset_named, subset_of
from dlilib.wording import counted

UNLISTED = ("leave out", "free")
WIDTH = 10  # pixels, of lines and points: what labelme draws itself
FARTHEST = 10**6  # a coordinate beyond is no pixel's, and would take a drawing program for ever
# How Label Studio calls an uploaded photograph; eight digits that are a date are no such prefix.
UPLOADED = re.compile(r"(?!(?:19|20)\d\d[01]\d[0-3]\d-)[0-9a-f]{8}-(.+)")
PREFIXED = re.compile(r"^[0-9a-f]{8}-")  # such a prefix, or a date
SPACES = re.compile(r"[^\S\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]")  # of any width
# What differs between reasons of one kind: lists, what is quoted, numbers, paths.
VALUE = re.compile(r"\[.*\]|\{.*\}|'[^']*'|\S*[\d/]\S*")
# Words that programs put into the names of pictures, or of their folders, that show a mask.
OF_MASKS = {
    *("mask", "masks", "label", "labels", "seg", "segs", "segmentation", "gt", "groundtruth"),
    *("ground", "truth", "viz", "vis", "visualization", "overlay", "overlays", "color", "colour"),
    *("pred", "preds", "prediction", "predictions", "annotated", "annotation", "annotations"),
    *("instance", "instances", "segmentationclass", "segmentationobject", "segmentationclasspng"),
    *("segmentationclassvisualization", "segmentationobjectpng", "preview", "previews"),
    *("thumb", "thumbs", "thumbnail", "thumbnails", "runs"),
}


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
    said: list[str] = field(default_factory=list)  # of the whole of it, as flags or choices

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
    # the same list, background and all, by the numbers that a YOLO label file has for them
    numbered: tuple[tuple[int, str], ...] = ()


class Notes:
    """What a conversion leaves out, and what else its user must know."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.remarks: list[str] = []
        # (what, kind of reason) -> the reasons and where
        self._left_out: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def slip(self, what: str, why: str, place: str) -> None:
        """An "annotation", "photograph" or "file" that cannot be read; strict: DataError."""
        if self.strict:
            raise DataError(f"{place}: {why}")
        self.leave_out(what, why, place)

    def leave_out(self, what: str, why: str, place: str) -> None:
        """Count what is left out on purpose."""
        kind = VALUE.sub("…", why)
        self._left_out.setdefault((what, kind), []).append((why, place))

    def remark(self, text: str) -> None:
        """Tell something once."""
        if text not in self.remarks:
            self.remarks.append(text)

    @property
    def left_out(self) -> list[str]:
        """One text for each kind of thing and reason, with its number and the first of them."""
        texts = []
        for (what, _), found in self._left_out.items():
            why, place = found[0]
            first = "first: " if len(found) > 1 else ""
            alike = "; the others alike" if len(dict(found)) > 1 else ""
            texts.append(f"{counted(len(found), what)}, {why} ({first}{place}{alike})")
        return texts


class Pictures:
    """The pictures among the files, found by the names that annotation files have for them.

    Args:
        files: All files.
        places: For each annotation file of a single picture, where that should lie, without suffix.
            A picture that is missing in such a folder is not one of its name in another: see
            `_is_another`.
    """

    def __init__(self, files: Iterable[str], places: Iterable[str] = ()) -> None:
        self._by_stem: dict[str, list[str]] = {}
        self._by_folder: dict[str, dict[str, str]] = {}  # folder -> stem -> suffix
        for path in sorted(files):
            if path.lower().endswith(IMAGE_SUFFIXES):
                stem = plain(PurePosixPath(path).stem)
                self._by_stem.setdefault(stem, []).append(path)
                self._by_folder.setdefault(parent(path), {})[stem] = suffix_of(path)
        self._annotated: dict[str, set[str]] = {}  # folder -> the stems that should lie there
        for place in places:
            self._annotated.setdefault(parent(place), set()).add(plain(PurePosixPath(place).name))

    def find(self, name: str, beside: str, *, home: str | None = None) -> str | None:
        """The picture that an annotation file means.

        Args:
            name: What it calls the picture: a path or URL of any computer.
            beside: The annotation file.
            home: The folder in which the picture should lie, where that is known.

        Returns:
            The picture's path, None where there is none.

        Raises:
            DataError: There are several and none fits better.
        """
        for wanted in _readings(name):
            same = [p for p in self._named(wanted.stem) if suffix_of(p) == wanted.suffix.lower()]
            found = self._best(same, wanted, beside, home)
            if found is not None:
                return found
        return None

    def find_stem(self, name: str, beside: str, *, home: str | None = None) -> str | None:
        """The picture of that name whatever its suffix; else as `find`."""
        for wanted in _readings(name):
            stem = wanted.stem if wanted.suffix.lower() in KNOWN_SUFFIXES else wanted.name
            found = self._best(self._named(stem), wanted.with_name(stem), beside, home)
            if found is not None:
                return found
        return None

    def _named(self, stem: str) -> list[str]:
        return self._by_stem.get(plain(stem), [])

    def _best(
        self, paths: list[str], wanted: PurePosixPath, beside: str, home: str | None
    ) -> str | None:
        if home is not None and not any(parent(path) == home for path in paths):
            paths = [path for path in paths if not self._is_another(path, home)]
        said = "" if wanted.is_absolute() else subset_named(wanted.parent.name)
        fitting = [path for path in paths if not said or folder_subset(path) in ("", said)]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        scores = [_likeness(path, wanted, beside) for path in fitting]
        best = [path for path, score in zip(fitting, scores, strict=True) if score == max(scores)]
        if len(best) > 1:
            raise DataError(
                f"{beside}: calls a photograph {str(wanted)!r}; {best[0]} and {best[1]} could be "
                "meant: move what is no photograph elsewhere, or convert the folders one by one"
            )
        return best[0]

    def _is_another(self, path: str, home: str) -> bool:
        """Whether a picture elsewhere is another than the one that is missing in its home.

        It is where half of those that should lie there do, or where it lies among those of other
        annotation files, and pictures of its kind lie in both.
        """
        there, folder = self._by_folder.get(home, {}), parent(path)
        if suffix_of(path) not in there.values():
            return False
        mine = self._annotated.get(home, set())
        if mine and 2 * len(mine & there.keys()) >= len(mine):
            return True
        return bool(self._annotated.get(folder, set()) & self._by_folder[folder].keys())


def parent(path: str) -> str:
    """The folder of a file."""
    return PurePosixPath(path).parent.as_posix()


def suffix_of(path: str) -> str:
    """The suffix of a file, in small letters."""
    return PurePosixPath(path).suffix.lower()


KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, *OTHER_PICTURES, ".txt", ".json")


def plain(name: str) -> str:
    """A name as all systems and programs agree on it."""
    return composed(name).casefold()


def address_path(name: str) -> str:
    """The path in a URL, also one such as /data/local-files/?d=parts/a.jpg."""
    address = urlsplit(name)
    return parse_qs(address.query).get("d", [unquote(address.path)])[0]


def _readings(name: str) -> list[PurePosixPath]:
    """What a name of a picture may mean: as it is, as a URL, without an upload's prefix."""
    found = []
    for text in (name, address_path(name)):
        path = PurePosixPath(re.sub("^[A-Za-z]:", "", text.replace("\\", "/")))
        uploaded = UPLOADED.fullmatch(path.name)
        found += [path, path.with_name(uploaded[1])] if uploaded else [path]
    return [path for path in dict.fromkeys(found) if path.name]


def stems_of(name: str) -> set[str]:
    """What the stem of a picture may be that is called so, an upload's prefix or a date before."""
    return {plain(name), plain(PREFIXED.sub("", name))}


def _likeness(path: str, wanted: PurePosixPath, beside: str) -> tuple[int, ...]:
    """How well a path fits, compared number by number."""
    found, near = PurePosixPath(path), PurePosixPath(beside)
    exact = plain(str(found.with_suffix(""))) == plain(str((near.parent / wanted).with_suffix("")))
    ends = _shared(found.parent.parts[::-1], wanted.parent.parts[::-1])
    subset = subset_of(beside)
    fits = bool(subset) and folder_subset(path) == subset
    is_photograph = not shows_mask(found.parent.name)
    mirrored = _shared(found.parent.parts[::-1], near.parent.parts[::-1])
    spelt = wanted.name in (found.name, found.stem)  # capitals and all
    return exact, ends, is_photograph, fits, _shared(found.parts, near.parts), mirrored, spelt


def fitness(path: str, name: str) -> tuple[bool, int, bool]:
    """How well a name fits a picture that it leads to, compared one by one.

    Whether it is the whole path or the end of it from a folder on; how many folders are the same,
    from the last one on; whether it is spelt so, without an upload's prefix.
    """
    wanted, found = _readings(name)[0], PurePosixPath(path)
    same = _shared(found.parts[::-1], wanted.parts[::-1])
    whole = same == len(wanted.parts) and (same > 1 or same == len(found.parts))
    folders = _shared(found.parent.parts[::-1], wanted.parent.parts[::-1])
    return whole, folders, wanted.name == found.name


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """How many parts are alike from the start on."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if plain(one) != plain(other):
            break
        count += 1
    return count


def shows_mask(name: str) -> bool:
    """Whether a folder's name says that its pictures are of masks."""
    words = re.split(r"[ _.-]+", name.casefold())
    return any(word.rstrip("0123456789") in OF_MASKS for word in words)


def _without_mask_words(stem: str) -> str:
    """The photograph's stem in that of a picture of its mask, "p1" of "p1_mask_2"; else ""."""
    parts = re.split(r"([ _.-]+)", plain(stem))
    words = parts[::2]
    marks = [k for k, word in enumerate(words) if word.rstrip("0123456789") in OF_MASKS]
    if not marks or len(marks) == len(words):
        return ""
    start = 0
    while start in marks:
        start += 1
    end = next((k for k in marks if k > start), len(words))
    return "".join(parts[2 * start : 2 * end - 1])


def unannotated(
    files: Files, found: dict[str, Photograph], root: object, notes: Notes, *, own: str = ""
) -> list[str]:
    """The photographs without an annotation.

    Pictures of masks, copies, and photographs that another program has annotated are left out.

    Args:
        files: All files.
        found: The annotated photographs by their path.
        root: For messages.
        notes: Told what is left out.
        own: Suffix of the annotation files that were read, one for each photograph.

    Returns:
        Paths, sorted.

    Raises:
        DataError: It cannot be told which of two pictures of one name is the photograph.
    """
    paths = [p for p in sorted(files) if p.lower().endswith(IMAGE_SUFFIXES) and p not in found]
    homes = {parent(path) for path in found}
    stems = {plain(_stem(path)) for path in [*paths, *found]}
    annotated = {plain(_stem(path)) for path in found}
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        why = ""
        if _is_exported(files, path, homes):
            why = "in a folder of masks or of an export"
        elif plain(_stem(path)) in annotated or _is_mask_of_another(path, stems):
            why = "a mask or another version of a photograph"
        if why:
            notes.leave_out("picture", why, f"{root}/{path}")
        else:
            by_stem.setdefault(plain(_stem(path)), []).append(path)
    suffixes = {suffix_of(path) for path in found}
    kept = [_the_photograph(paths, suffixes, root, notes) for paths in by_stem.values()]
    kept = _without_copies(files, kept, found, root, notes)
    elsewhere = annotated_elsewhere(files, kept, own)
    for path, other in elsewhere.items():
        why = f"annotated in a file of its name that is not read here ({suffix_of(other)})"
        notes.leave_out("photograph", why, f"{root}/{path}")
    return [path for path in kept if path not in elsewhere]


def _stem(path: str) -> str:
    return PurePosixPath(path).with_suffix("").as_posix()


# Suffix of a file of a photograph's name -> what it holds if it annotates something there.
OTHERS = {
    ".json": re.compile(rb'"shapes"\s*:\s*\[\s*\{'),
    ".xml": re.compile(rb"<object>"),
    ".txt": re.compile(rb"^\d+(?:[ \t]+-?[\d.]+(?:e-?\d+)?){4,}[ \t]*\r?$", re.MULTILINE),
}
# What labelme_export_json and labelme2voc write beside their pictures.
EXPORTED = ("img.png", "label.png", "label_viz.png", "label_names.txt")
EXPORT_LISTS = ("class_names.txt", "annotations.json")


def _is_exported(files: Files, path: str, homes: set[str]) -> bool:
    """Whether a picture lies in a folder of masks or of an export, with no annotated one."""
    folder = PurePosixPath(path).parent
    if sum((folder / name).as_posix() in files for name in EXPORTED) > 1:
        return True
    if str(folder) in homes:
        return False
    if any(shows_mask(name) for name in folder.parts):
        return True
    return folder.name == "JPEGImages" and any(
        (folder.parent / name).as_posix() in files for name in EXPORT_LISTS
    )


def _is_mask_of_another(path: str, stems: set[str]) -> bool:
    """Whether a picture is called as another one with "mask" or the like before or after it."""
    folder, _, name = _stem(path).rpartition("/")
    base = _without_mask_words(name)
    return bool(base) and (f"{plain(folder)}/{base}" if folder else base) in stems


def _the_photograph(paths: list[str], suffixes: set[str], root: object, notes: Notes) -> str:
    """The photograph among pictures of one name."""
    if len(paths) == 1:
        return paths[0]
    likely = [path for path in paths if suffix_of(path) in suffixes]
    if len(likely) != 1:
        raise DataError(
            f"{root}/{paths[0]}: and {paths[1]} have one name and no annotation: which is the "
            "photograph? Move the other one elsewhere"
        )
    for path in paths:
        if path not in likely:
            why = "a mask or another version of a photograph"
            notes.leave_out("picture", why, f"{root}/{path}")
    return likely[0]


def _without_copies(
    files: Files, paths: list[str], found: dict[str, Photograph], root: object, notes: Notes
) -> list[str]:
    """The photographs that are no copy of one with annotations, which would be defect-free."""
    if not paths:
        return []
    annotated = [photograph for photograph in found.values() if photograph.is_annotated]
    contents = {digest(photograph.read()) for photograph in annotated}
    kept = []
    for path in paths:
        if digest(files[path]()) in contents:
            notes.leave_out("picture", "a copy of an annotated photograph", f"{root}/{path}")
        else:
            kept.append(path)
    return kept


def annotated_elsewhere(files: Files, paths: Iterable[str], own: str = "") -> dict[str, str]:
    """The photographs of which a file of LabelMe's, VOC's or YOLO's kind tells a defect.

    Such a file is called as the photograph is. It lies beside it, or in another folder where no
    picture has its name.

    Args:
        files: All files.
        paths: Of the photographs.
        own: Suffix of the files that were read, which do not count.

    Returns:
        Photograph -> such a file.
    """
    stems = {_stem(path) for path in files if path.lower().endswith(IMAGE_SUFFIXES)}
    beside: dict[str, list[str]] = {}  # a picture's path without suffix -> files of these kinds
    elsewhere: dict[str, list[str]] = {}  # stem -> those where no picture is called so
    for path in sorted(files):
        if suffix_of(path) not in OTHERS or suffix_of(path) == own:
            continue
        if _stem(path) in stems:
            beside.setdefault(_stem(path), []).append(path)
        else:
            elsewhere.setdefault(plain(PurePosixPath(path).stem), []).append(path)
    found = {}
    for path in paths:
        others = beside.get(_stem(path), [])
        others = others + elsewhere.get(plain(PurePosixPath(path).stem), [])
        telling = [other for other in others if OTHERS[suffix_of(other)].search(files[other]())]
        if telling:
            found[path] = telling[0]
    return found


def add_unlisted(
    files: Files,
    found: dict[str, Photograph],
    root: object,
    options: Options,
    notes: Notes,
    *,
    where: str,
    missing: bool,
) -> None:
    """Add the photographs that nothing is said of, if that is wanted, as defect-free.

    Args:
        files: All files.
        found: The photographs that something is said of, by their path; gets the others.
        root: For messages.
        options: `unlisted` says what is wanted.
        notes: Told what is left out.
        where: What is so of them, as "listed in no JSON file".
        missing: Some may have annotations that were not found.

    Raises:
        DataError: They are wanted, but some may have annotations.
    """
    paths = unannotated(files, found, root, notes)
    if options.unlisted != "free":
        for path in paths:
            why = f"{where} (--unlisted free takes such as defect-free)"
            notes.leave_out("photograph", why, f"{root}/{path}")
        return
    if paths and missing:
        raise DataError(
            f"{root}/{paths[0]}: cannot be taken as defect-free, since what was not found may be "
            f"its annotation: {'; '.join(notes.left_out)}"
        )
    for path in paths:
        found[path] = Photograph(path, files[path])
    if paths:
        notes.remark(f"{counted(len(paths), 'photograph')} {where} taken as defect-free")


def tell_unread(files: Files, root: object, notes: Notes) -> None:
    """Count the pictures of formats that are not read."""
    for path in sorted(files):
        suffix = suffix_of(path)
        if suffix in OTHER_PICTURES:
            why = f"of a format that is not read ({suffix}): save it as PNG or JPEG"
            notes.leave_out("picture", why, f"{root}/{path}")


class OddValueError(ValueError):
    """A value in an annotation file is not what its program writes; the message says what."""


def class_name(label: object) -> str:
    """The name of a class; OddValueError unless it fits on a line of classes.txt."""
    named = isinstance(label, str | int) and not isinstance(label, bool)
    name = SPACES.sub(" ", str(label)).strip()
    if not named or not name.isprintable() or not name:
        raise OddValueError(f"the label {label!r} is no name")
    return composed(name)


def side(value: object) -> int | None:
    """A height or width as programs write it, also as text; None where they do not know it."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if 0 < number < 10**6 else None


def read_json(files: Files, root: object, path: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: It is none.
    """
    text = read_text(files, root, path)
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{root}/{path}: too deeply nested for an annotation file") from None
    except ValueError:
        raise DataError(f"{root}/{path}: cut off, or no JSON") from None


def whose(content: object) -> str:
    """Which program's file a JSON's content is, and the way on; "" where that is not known."""
    if isinstance(content, dict):
        if isinstance(content.get("shapes"), list):
            return "it is LabelMe's: dli convert labelme"
        if "_via_img_metadata" in content or "_via_settings" in content:
            return "it is VIA's project: export its annotations as COCO"
        if {"images", "annotations"} <= content.keys():
            return "it is COCO's: dli convert coco"
        if {"items", "categories"} <= content.keys():
            return "it is datumaro's own: export as COCO"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and {"image_id", "category_id"} <= first.keys():
        return "it is a list of COCO's predictions: export the annotations"
    if isinstance(first, dict) and "id" in first:
        return "it looks like Label Studio's: dli convert label-studio"
    return ""


@contextmanager
def expected(source: str, place: str) -> Iterator[None]:
    """Convert parsing errors into DataError."""
    start = f"{place}: not as {source} writes it"
    try:
        yield
    except DataError:
        raise
    except OddValueError as error:
        raise DataError(f"{start}: {error}") from None
    except KeyError as error:
        raise DataError(f"{start}: {error} is missing") from None
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError, RecursionError):
        raise DataError(f"{start}: a value is of another kind than there should be") from None
