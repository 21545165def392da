"""Polygons of LabelMe and COCO end up where they were drawn.

What is wrong with a file is said.
"""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dlilib import DataError, from_folder
from dlilib.cli import app
from dlilib.data.convert import convert

TRIANGLE, SQUARE = [[4, 4], [20, 4], [4, 20]], [[24, 6], [32, 6], [32, 14], [24, 14]]


def shape(label, points, kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


def photograph(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 40, 3), np.uint8)).save(path)


@pytest.fixture
def labelme(tmp_path):
    root = tmp_path / "labelme"
    for k, name in enumerate(("line 1/a.png", "line 1/b.png", "c.jpg")):
        photograph(root / name, k)
    (root / "line 1" / "a.json").write_text(
        json.dumps({"shapes": [shape("dent", TRIANGLE), shape("burr", SQUARE)]})
    )
    round_one = shape("dent", [[10, 10], [10, 15]], "circle")
    (root / "c.json").write_text(
        json.dumps({"shapes": [shape("burr", [[30, 20], [22, 8]], "rectangle"), round_one]})
    )
    return root


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    for k, name in enumerate(("a.png", "b.png")):
        photograph(root / "images" / name, k)
    flat = [[x for point in points for x in point] for points in (TRIANGLE, SQUARE)]
    listed = {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "categories": [
            {"id": 9, "name": "burr"},
            {"id": 0, "name": "defects"},
            {"id": 2, "name": "dent"},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 2, "segmentation": [flat[0]]},
            {"id": 2, "image_id": 3, "category_id": 9, "segmentation": [flat[1]]},
        ],
    }
    (root / "instances.json").write_text(json.dumps(listed))
    return root


def filled(points, value):
    return cv2.fillPoly(np.zeros((24, 40), np.uint8), [np.array(points)], value)


def test_labelme_shapes_are_drawn(labelme, tmp_path):
    tiles = from_folder(convert("labelme", labelme, tmp_path / "out"), size=None)
    assert tiles.names == ("c", "line 1_a", "line 1_b") and tiles.classes == ("burr", "dent")
    np.testing.assert_array_equal(tiles.masks[1], filled(TRIANGLE, 2) + filled(SQUARE, 1))
    assert not tiles.masks[2].any()
    y, x = np.mgrid[:24, :40]
    distance, box = np.hypot(y - 10, x - 10), (y >= 8) & (y <= 20) & (x >= 22) & (x <= 30)
    wrong = tiles.masks[0].numpy() != 2 * (distance <= 5) + box
    assert not wrong[abs(distance - 5) >= 1].any()  # nothing but the circle's edge
    copied = (tmp_path / "out" / "images" / "line 1_a.png").read_bytes()
    assert copied == (labelme / "line 1" / "a.png").read_bytes()


def test_coco_polygons_are_drawn_with_the_classes_in_use_by_id(coco, tmp_path):
    tiles = from_folder(convert("coco", coco, tmp_path / "out"), size=None)
    assert (tiles.names, tiles.classes, tiles.labels.tolist()) == (
        ("a", "b"),
        ("dent", "burr"),
        [1, 0],
    )
    mask = tiles.masks[0].numpy()
    # 8 × 8 pixels, no more than the square covers
    assert (mask[6:14, 24:32] == 2).all() and (mask == 2).sum() == 64
    y, x = np.mgrid[:24, :40] + 0.5  # the pixels' centres
    inside = np.minimum.reduce([x - 4, y - 4, (24 - x - y) / np.sqrt(2)])  # the triangle's edges
    assert (mask[inside > 0.5] == 1).all() and not (mask[inside < -0.5] == 1).any()


def test_command_converts_and_counts(coco, tmp_path):
    result = CliRunner().invoke(app, ["convert", "coco", str(coco), str(tmp_path / "out")])
    assert result.exit_code == 0 and "{'dent': 1, 'burr': 0, 'Free': 1}" in result.output
    assert (
        "drew 2 regions on 1 of 2 photographs, 1 without a defect; left out: 1 class"
        in result.output
    )


def broken(change):
    def apply(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


LABELME = {
    "no shapes": (
        broken(lambda c: c.pop("shapes")),
        r"a\.json: not as LabelMe writes it: it lists no shapes",
    ),
    "no JSON": (lambda path: path.write_text("{"), r"a\.json: not as LabelMe writes it"),
    "a list": (lambda path: path.write_text("[1]"), r"a\.json: not as LabelMe writes it"),
    "a cuboid": (
        broken(lambda c: c["shapes"].append(shape("dent", [[1, 1]], "cuboid"))),
        r"a\.json: a shape of dent is of the kind cuboid; draw it as polygon, rectangle",
    ),
    "two corners": (
        broken(lambda c: c["shapes"].append(shape("x", [[1, 1], [2, 2]]))),
        r"a\.json: a polygon of x has the points .*; it needs 3 or more",
    ),
    "no numbers": (
        broken(lambda c: c["shapes"].append(shape("x", [["a", 1]] * 3))),
        r"a\.json: not as LabelMe writes it: a value is of another kind",
    ),
    "no image": (
        lambda path: path.rename(path.with_name("z.json")),
        r"z\.json: its photograph is neither there nor in the file",
    ),
    "outside": (
        broken(lambda c: c["shapes"].append(shape("x", [[50, 1], [60, 1], [60, 9]]))),
        r"a\.json: covers no pixel: .* outside the photograph's 40×24",
    ),
    "Free": (
        broken(lambda c: c["shapes"].append(shape("Free", SQUARE))),
        "a class is called Free, as defect-free images are",
    ),
    "a label of no line": (
        broken(lambda c: c["shapes"].append(shape("a\nb", SQUARE))),
        r"a\.json: not as .*'a\\nb'",
    ),
    "a null": (
        broken(lambda c: c["shapes"].append(shape(None, SQUARE))),
        r"a\.json: not as LabelMe .*None",
    ),
    "resized since": (
        broken(lambda c: c.update(imageHeight=48, imageWidth=80)),
        r"a\.png: is 40×24 pixels, but .* had 80×48",
    ),
    "far away": (
        broken(lambda c: c["shapes"].append(shape("x", [[10**400, 1]] * 3))),
        r"a\.json: not as LabelMe",
    ),
    "a nest": (
        lambda path: path.write_text("[" * 100_000),
        r"a\.json: not as LabelMe writes it: too deeply nested",
    ),
    "no picture": (
        lambda path: path.with_suffix(".png").write_bytes(b"no"),
        r"a\.png: unreadable image",
    ),
}
COCO = {
    "run lengths": (
        broken(lambda c: c["annotations"][0].update(segmentation={})),
        "annotation 1: not as COCO writes it: 'size' is missing",
    ),
    "box alone": (
        broken(lambda c: c["annotations"][0].update(segmentation=[])),
        "annotation 1: a box without an outline: export polygons or masks",
    ),
    "unknown class": (
        broken(lambda c: c["annotations"][0].update(category_id=1)),
        "annotation 1: is of category 1, which the file's categories do not list",
    ),
    "unknown image": (
        broken(lambda c: c["annotations"][0].update(image_id=1)),
        r"annotation 1: of an image that instances\.json does not list",
    ),
    "image is gone": (
        broken(lambda c: c["images"][0].update(file_name="q.png")),
        r"q\.png: listed in instances\.json, but not there",
    ),
    "no class": (
        broken(lambda c: c.update(categories=[], annotations=[])),
        "nothing is left to convert: no photograph has an annotation",
    ),
    "a class twice": (
        broken(lambda c: c["categories"].append({"id": 2, "name": "x"})),
        "the category id 2 is there twice, as dent and as x",
    ),
    "an image twice": (
        broken(lambda c: c["images"].append({"id": 3, "file_name": "b.png"})),
        "is there twice",
    ),
    "resized since": (
        broken(lambda c: c["images"][1].update(height=9, width=9)),
        r"a\.png: is 40×24 .* had 9×9",
    ),
    "words": (
        broken(lambda c: c["annotations"][0].update(segmentation=[["a"] * 6])),
        "annotation 1: a polygon whose points are no pairs of numbers",
    ),
    "another list": (
        lambda path: path.with_name("x.json").write_text("{}"),
        r"x\.json: not as COCO writes it: it lists no images",
    ),
    "half a list": (
        lambda path: path.with_name("x.json").write_text('{"images": []}'),
        r"x\.json: not as COCO writes it: it lists no categories; export instances",
    ),
}


@pytest.mark.parametrize("case", LABELME)
def test_broken_labelme_is_named_and_nothing_is_written(labelme, tmp_path, case):
    spoil, message = LABELME[case]
    spoil(labelme / "line 1" / "a.json")
    with pytest.raises(DataError, match=message):
        convert("labelme", labelme, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", COCO)
def test_broken_coco_is_named_and_nothing_is_written(coco, tmp_path, case):
    spoil, message = COCO[case]
    spoil(coco / "instances.json")
    with pytest.raises(DataError, match=message):
        convert("coco", coco, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_numbers_as_labels_are_names(labelme, tmp_path):
    broken(lambda c: c["shapes"][0].update(label=3))(labelme / "line 1" / "a.json")
    assert from_folder(convert("labelme", labelme, tmp_path / "out"), size=None).classes == (
        "3",
        "burr",
        "dent",
    )


def test_names_that_fall_together_and_folders_in_use_are_refused(labelme, tmp_path):
    photograph(labelme / "line 1_a.png", 5)
    with pytest.raises(DataError, match="more than one image would be called line 1_a"):
        convert("labelme", labelme, tmp_path / "out")
    with pytest.raises(ValueError, match="holds something already"):
        convert("labelme", labelme, labelme)
    with pytest.raises(
        ValueError, match=r"out: lies in .*labelme, where the next conversion would find it"
    ):
        convert("labelme", labelme, labelme / "out")
    with pytest.raises(ValueError, match=r"c\.json: is a file or holds something already"):
        convert("labelme", labelme, labelme / "c.json")
    with pytest.raises(ValueError, match=r"source must be one of \('labelme', 'coco', 'yolo'"):
        convert("paint", labelme, tmp_path / "out")
