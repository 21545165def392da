"""What names of folders and files say: training, validation or test images, and originals."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

# Word -> the subset it names.
WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Roboflow calls an augmented copy of "part.jpg" "part_jpg.rf.<letters and digits>.jpg".
ROBOFLOW = re.compile(r"(?:.*/)?(.+)\.rf\.\w+\.\w+")
SUBSETS = ("train", "val", "test")


def subset_named(word: str) -> str:
    """The subset that a folder's name means, as "train2017" does, or ""."""
    return WORDS.get(word.rstrip("0123456789").casefold(), "")


def subset_of(path: str) -> str:
    """The subset that a path's folders or its file's name say, the last one said; else ""."""
    said = ""
    *folders, name = PurePosixPath(path).parts or ("",)
    for folder in folders:
        said = subset_named(folder) or said
    words = re.split(r"[_.\- ]", name)
    named = {subset_named(word) for word in words} - {""}
    return named.pop() if len(named) == 1 else said


def is_split(subsets: Iterable[str]) -> bool:
    """Whether the subsets of images, "" for none, are at least two."""
    return len(set(subsets) - {""}) > 1


def folder_subset(path: str) -> str:
    """The subset that the folders of a file say, else ""."""
    return subset_of(str(PurePosixPath(path).parent))


def original_name(path: str) -> str:
    """The photograph that a file is an augmented copy of, as Roboflow calls it; else ""."""
    match = ROBOFLOW.fullmatch(path)
    return match[1] if match else ""
