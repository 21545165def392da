"""Annotation files as programs write them: a folder of cases beside the data, if there is one.

Each case has what is right for it: images by class, and the pixels of each class.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dlilib import DataError, from_folder
from dlilib.data.convert import convert
from dlilib.data.mvtec import mvtec_ad

HERE = (
    os.environ.get("DLILIB_CASES") or Path(os.environ.get("DLILIB_DATA") or "absent") / "../cases"
)
CASES = Path(HERE)
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="NO ANNOTATION CASES: set DLILIB_CASES to their folder"
)

# case, program ("" where from_folder reads it), images by class, pixels by class, words of a line
RIGHT = [
    ("01/in", "labelme", {"dent": 1, "Free": 2}, {"dent": 756}, ""),
    (
        "02/a",
        "labelme",
        {"dent": 1, "Free": 1},
        {"dent": 899},
        "3 pictures, in a folder of masks or of an export",
    ),
    ("02/b", "labelme", {"dent": 2, "Free": 1}, {"dent": 1798}, "a mask or another version"),
    ("03/mask", "labelme", {"pit": 1, "Free": 1}, {"pit": 126}, ""),
    ("03/linestrip", "labelme", {"scratch": 1, "Free": 1}, {}, "10 pixels wide (--width)"),
    ("04/split", "labelme", {"dent": 1, "Free": 1}, {"dent": 463}, ""),
    ("04/embedded", "labelme", {"dent": 1, "Free": 0}, {"dent": 463}, ""),
    ("04/json_upper", "labelme", {"dent": 2, "Free": 1}, {"dent": 926}, ""),
    ("05/in", "", {"scratch": 3, "dent": 1, "Free": 2}, {"scratch": 1200, "dent": 400}, ""),
    ("05/plain", "", {"scratch": 3, "dent": 1, "Free": 2}, {"scratch": 1200, "dent": 400}, ""),
    (
        "06/whole",
        "coco",
        {"dent": 2, "pit": 2, "scratch": 2, "Free": 2},
        {"dent": 280, "pit": 280, "scratch": 280},
        "train 4, val 3, test 1",
    ),
    (
        "06/whole/valid",
        "coco",
        {"dent": 1, "scratch": 1, "Free": 1},
        {},
        "1 class, without a region",
    ),
    ("06/twice", "coco", {"dent": 1, "scratch": 1, "Free": 1}, {"dent": 140, "scratch": 140}, ""),
    ("06/boxes", "coco", {"dent": 1, "Free": 1}, {"dent": 140}, "1 annotation, a box without"),
    ("06/short", "coco", {"dent": 1, "pit": 1, "Free": 1}, {"dent": 140, "pit": 140}, "1 annot"),
    ("07/cvat_brush", "coco", {"dent": 1, "Free": 1}, {"dent": 520}, ""),
    ("07/sam", "coco", {"dent": 1, "Free": 1}, {"dent": 520}, ""),
    ("08/in", "coco", {"dent": 1, "pit": 1, "Free": 2}, {"dent": 840, "pit": 91}, "are shares"),
    ("09/text", "coco", {"dent": 1, "Free": 1}, {"dent": 274}, ""),
    ("09/filtered", "coco", {"dent": 1, "Free": 0}, {"dent": 28}, "1 annotation, of an image"),
    ("09/nfd", "coco", {"dent": 1, "Free": 1}, {"dent": 274}, ""),
    ("09/unlisted", "coco", {"dent": 1, "Free": 0}, {"dent": 274}, "2 photographs, listed in no"),
    (
        "11/in",
        "coco",
        {"pinhole": 4, "pit": 4, "dent": 4, "scratch": 4, "Free": 0},
        {"pinhole": 401, "pit": 1609, "dent": 18006, "scratch": 4800},
        "",
    ),
    ("12/cvat", "", {"scratch": 1, "dent": 1, "Free": 1}, {"scratch": 400, "dent": 400}, ""),
    ("12/cvat", "cvat", {"scratch": 1, "dent": 1, "Free": 1}, {"scratch": 400, "dent": 400}, ""),
    (
        "12/ls",
        "label-studio",
        {"dent": 1, "scratch": 1, "Free": 1},
        {"scratch": 800, "dent": 400},
        "",
    ),
    ("13/white", "", {"dent": 1, "Free": 2}, {"dent": 400}, ""),
    ("13/bmp", "", {"dent": 1, "Free": 2}, {"dent": 400}, ""),
    ("15/silent", "", {"dent": 1, "Free": 6}, {}, ""),
]


@pytest.mark.parametrize(("case", "source", "counts", "pixels", "line"), RIGHT)
def test_case_gives_what_is_right(case, source, counts, pixels, line, tmp_path):
    lines = []
    folder = CASES / case
    if source:
        folder = convert(source, CASES / case, tmp_path / "out", tell=lines.append)
        assert line in "\n".join(lines)
        assert lines[-1].startswith("read ") and "left out: " in lines[-1]
        assert lines[0].endswith(str(counts))
    tiles = from_folder(folder, size=None)
    assert tiles.counts() == counts
    for name, wanted in pixels.items():
        found = int((tiles.masks == 1 + tiles.classes.index(name)).sum())
        assert found == pytest.approx(wanted, rel=0.02 if source == "coco" else 0), name


def test_label_studio_strokes_lie_on_their_own_photographs(tmp_path):
    tiles = from_folder(convert("label-studio", CASES / "12/ls", tmp_path / "out"), size=None)
    shown = {
        name[-2:]: tiles.classes[label - 1]
        for name, label in zip(tiles.names, tiles.labels, strict=True)
    }
    assert (shown["p0"], shown["p1"]) == ("dent", "scratch")


def test_one_class_list_for_all_subsets_also_from_a_zip(tmp_path):
    packed = shutil.make_archive(tmp_path / "export", "zip", CASES / "06/whole")
    tiles = from_folder(convert("coco", packed, tmp_path / "out"), size=None)
    assert tiles.classes == ("dent", "pit", "scratch")
    assert sorted(tiles.given) == ["test", *["train"] * 4, *["val"] * 3]


def test_the_jpg_is_the_photograph_and_not_the_mask_beside_it(tmp_path):
    out = convert("labelme", CASES / "02/b", tmp_path / "out")
    assert {path.suffix for path in (out / "images").iterdir()} == {".jpg"}


def test_a_mask_shape_lies_in_its_box(tmp_path):
    tiles = from_folder(convert("labelme", CASES / "03/mask", tmp_path / "out"), size=None)
    rows, columns = np.nonzero(tiles.masks[0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 20, 14, 27)


def test_jpeg_masks_are_refused():
    with pytest.raises(DataError, match=r"masks/dent/p0\.png: holds JPEG"):
        from_folder(CASES / "13/jpgpng")


@pytest.mark.parametrize(
    ("case", "counts"),
    [
        ("16/mPNG", {"crack": 2, "dent": 2, "Free": 4}),
        ("16/goodmask", {"crack": 1, "Free": 4}),
        ("16/nosuffix", {"crack": 2, "dent": 2, "Free": 4}),
    ],
)
def test_mvtec_layouts(case, counts):
    assert mvtec_ad(CASES / case, "bottle", 64).counts() == counts
