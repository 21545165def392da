"""Each kind of annotation file that was once read wrongly, as small as it can be."""

import base64
import csv
import io
import json
import unicodedata
import warnings
import zipfile

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as runs

from dlilib import IGNORE, DataError, TileSet, from_folder, split
from dlilib.data.class_names import class_list
from dlilib.data.convert import SOURCES, convert, to_folder
from dlilib.wording import counted

HEIGHT, WIDTH = 24, 40
SQUARE = [[4, 4], [12, 4], [12, 12], [4, 12]]


def photograph(path, seed=0, size=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
    image.save(path)
    return path


def labelme(path, shapes, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{"shape_type": "polygon", "group_id": None, "flags": {}, **shape} for shape in shapes]
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    path.write_text(json.dumps({"version": "5.5.0", "shapes": found, **size, **more}))


def dent(**more):
    return {"label": "dent", "points": SQUARE, **more}


def coco(path, annotations, images=("a.png", "b.png"), categories=((1, "dent"), (2, "pit"))):
    """annotations: (position of the image, category, segmentation)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = {
        "images": [
            {"id": k, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for k, name in enumerate(images)
        ],
        "categories": [{"id": k, "name": name} for k, name in categories],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, "segmentation": segmentation}
            for k, (image, category, segmentation) in enumerate(annotations)
        ],
    }
    path.write_text(json.dumps(listed))


FLAT = [[x for point in SQUARE for x in point]]


def read(source, root, tmp_path, **options):
    """The data set that a conversion gives, and what it told."""
    lines = []
    out = convert(source, root, tmp_path / "out", tell=lines.append, **options)
    return from_folder(out, size=None), "\n".join(lines)


# LabelMe


@pytest.mark.parametrize("label", ["_background_", "background", "__ignore__"])
def test_background_and_ignored_regions_are_no_classes(tmp_path, label):
    photograph(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", [dent(), dent(label=label, points=[[6, 6], [9, 6], [9, 9]])])
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.classes == ("dent",)
    hole = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(hole).polygon([(6, 6), (9, 6), (9, 9)], fill=1)
    value = IGNORE if label == "__ignore__" else 0
    assert (tiles.masks[0, :HEIGHT, :WIDTH][torch.from_numpy(np.array(hole)) > 0] == value).all()


def test_a_copy_of_an_annotated_photograph_is_not_defect_free(tmp_path):
    content = photograph(tmp_path / "in/a.png").read_bytes()
    (tmp_path / "in/a - Copy.png").write_bytes(content)
    photograph(tmp_path / "in/b.png", 1)
    labelme(tmp_path / "in/a.json", [dent()])
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 1, "Free": 1}
    assert "1 picture, a copy of an annotated photograph" in told


def test_pictures_of_masks_beside_photographs_are_left_out(tmp_path):
    names = ("a.jpg", "a_mask.png", "a_json/img.png", "a_json/label.png", "b.jpg", "b.png")
    for k, name in enumerate(names):
        photograph(tmp_path / "in" / name, k)
    labelme(tmp_path / "in/a.json", [dent()], imagePath="a.jpg")
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "b") and tiles.counts() == {"dent": 1, "Free": 1}
    assert "2 pictures, in a folder of masks or of an export" in told


def test_a_broken_json_leaves_its_photograph_out(tmp_path):
    for name in ("a", "b"):
        photograph(tmp_path / f"in/{name}.png", ord(name))
        labelme(tmp_path / f"in/{name}.json", [dent()])
    (tmp_path / "in/b.json").write_text('{"shapes": [')
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert (
        tiles.counts() == {"dent": 1, "Free": 0}
        and "1 photograph, with annotations that cannot be read" in told
    )
    with pytest.raises(DataError, match=r"b\.json: not as LabelMe writes it"):
        read("labelme", tmp_path / "in", tmp_path / "strict", strict=True)


@pytest.mark.parametrize("kind", ["line", "linestrip", "point"])
def test_lines_and_points_have_the_width_that_is_told(tmp_path, kind):
    photograph(tmp_path / "in/a.png")
    points = [[20, 12]] if kind == "point" else [[5, 12], [30, 12]]
    labelme(tmp_path / "in/a.json", [dent(points=points, shape_type=kind)])
    tiles, told = read("labelme", tmp_path / "in", tmp_path, width=4)
    assert "4 pixels wide (--width)" in told
    high = int((tiles.masks[0] == 1).any(dim=1).sum())
    assert 4 <= high <= 5


def test_a_mask_shape_is_put_into_its_box(tmp_path):
    photograph(tmp_path / "in/a.png")
    stored = np.zeros((5, 7), bool)
    stored[1:4, 2:5] = True
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG")
    shape = dent(
        points=[[10, 6], [16, 10]],
        shape_type="mask",
        mask=base64.b64encode(buffer.getvalue()).decode(),
    )
    labelme(tmp_path / "in/a.json", [shape])
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    np.testing.assert_array_equal(
        tiles.masks[0, :HEIGHT, :WIDTH], np.pad(stored, ((6, 13), (10, 23)))
    )


def test_an_embedded_photograph_is_taken_where_there_is_no_other(tmp_path):
    content = photograph(tmp_path / "x.png").read_bytes()
    packed = base64.b64encode(content).decode()
    labelme(tmp_path / "in/a.json", [dent()], imagePath="C:\\x\\a.png", imageData=packed)
    convert("labelme", tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/images/a.png").read_bytes() == content


# COCO


def test_shares_of_width_and_height_are_scaled(tmp_path):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    coco(tmp_path / "in/c.json", [(0, 1, shares())])
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert int(tiles.masks.sum()) == 64 and "shares of width and height" in told


def shares(flat=FLAT[0]):
    """Coordinates in pixels as shares of width and height."""
    return [[x / (WIDTH, HEIGHT)[k % 2] for k, x in enumerate(flat)]]


def test_shares_may_overshoot_a_little(tmp_path):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    wide = shares([30, 4, 1.04 * WIDTH, 4, 1.04 * WIDTH, 12, 30, 12])
    coco(tmp_path / "in/c.json", [(0, 1, wide), (1, 1, wide)])
    assert int(read("coco", tmp_path / "in", tmp_path)[0].masks.sum()) == 2 * 10 * 8


@pytest.mark.parametrize("in_shares", [1, 2])
def test_an_annotation_in_shares_among_others_in_pixels_is_left_out(tmp_path, in_shares):
    names = ("a.png", "b.png", "c.png")
    for k, name in enumerate(names):
        photograph(tmp_path / "in" / name, k)
    outlines = [shares() if k < in_shares else FLAT for k in range(3)]
    listed = [(k, 1, outline) for k, outline in enumerate(outlines)]
    coco(tmp_path / "in/c.json", listed, names)
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 3 - in_shares, "Free": 0}
    assert int(tiles.masks.sum()) == 64 * (3 - in_shares)
    assert "coordinates between 0 and 1, in a file that has others in pixels" in told
    with pytest.raises(DataError, match=r"c\.json, annotation 0: coordinates between 0 and 1"):
        read("coco", tmp_path / "in", tmp_path / "strict", strict=True)


def test_an_annotation_in_pixels_among_many_in_shares_is_left_out(tmp_path):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    coco(tmp_path / "in/c.json", [*[(0, 1, shares())] * 30, (1, 1, FLAT)])
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert tiles.names == ("a",) and int(tiles.masks.sum()) == 64
    assert "1 annotation, coordinates up to 12, in a file whose coordinates are shares" in told


@pytest.mark.parametrize("packed", [True, False])
def test_run_lengths_of_both_kinds(tmp_path, packed):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[3:15, 5:30] = 1
    wanted[6:9, 10:20] = 0
    coded = runs.encode(np.asfortranarray(wanted))
    lengths = np.diff([0, *np.flatnonzero(np.diff(wanted.ravel("F"))) + 1, wanted.size]).tolist()
    counts = coded["counts"].decode() if packed else lengths
    coco(tmp_path / "in/c.json", [(0, 1, {"size": [HEIGHT, WIDTH], "counts": counts})])
    tiles, _ = read("coco", tmp_path / "in", tmp_path)
    np.testing.assert_array_equal(tiles.masks[0, :HEIGHT, :WIDTH], wanted)


@pytest.mark.parametrize(
    ("coded", "why"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "zzzzzzzz"}, "do not add up"),
        ({"size": [WIDTH, HEIGHT], "counts": [960]}, "the photograph has 24 × 40"),
        ([], "a box without an outline"),
        ([[1, 1, 5, 5]], "fewer than 3 points"),
    ],
)
def test_what_cannot_be_drawn_is_counted_and_its_image_is_not_defect_free(tmp_path, coded, why):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    coco(tmp_path / "in/c.json", [(0, 1, FLAT), (1, 1, coded)])
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert (
        tiles.names == ("a",)
        and why in told
        and "1 photograph, with annotations that cannot be read" in told
    )
    with pytest.raises(DataError, match=why):
        read("coco", tmp_path / "in", tmp_path / "strict", strict=True)


def test_several_files_are_one_data_set_whose_split_is_kept(tmp_path):
    for k, subset in enumerate(("train", "valid")):
        name = f"part-{k}_jpg.rf.{'0' * 31}{k}.png"
        photograph(tmp_path / "in" / subset / name, k)
        # the second file numbers its categories anew
        names = ((0, "root"), (1, "dent"), (2, "pit")) if k == 0 else ((0, "pit"),)
        coco(tmp_path / "in" / subset / "c.json", [(0, 2 * (k == 0), FLAT)], [name], names)
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert tiles.classes == ("pit",) and tiles.labels.tolist() == [1, 1]
    assert tiles.given == ("train", "val") and "train 1, val 1" in told
    train, val = split(tiles, "given", free_in_val=True)
    assert (train.tolist(), val.tolist()) == ([0], [1])


def test_augmented_copies_are_one_group(tmp_path):
    names = [f"part_jpg.rf.{k}.png" for k in ("0a", "0b")] + ["other_jpg.rf.0c.png"]
    for k, name in enumerate(names):
        photograph(tmp_path / "in" / name, k)
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], names)
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    groups = dict(zip(tiles.names, tiles.groups.tolist(), strict=True))
    assert groups["part_jpg.rf.0a"] == groups["part_jpg.rf.0b"] != groups["other_jpg.rf.0c"]
    assert "3 photographs of 2 originals" in told


def test_given_classes_fix_the_order_and_keep_the_unused(tmp_path):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)])
    (tmp_path / "names.txt").write_text("_background_\npit\ndent\n")
    tiles, _ = read("coco", tmp_path / "in", tmp_path, classes=tmp_path / "names.txt")
    assert tiles.classes == ("pit", "dent") and tiles.labels.tolist() == [2, 0]
    with pytest.raises(DataError, match="holds the class dent; the given classes are pit"):
        read("coco", tmp_path / "in", tmp_path / "again", classes=["pit"])


def test_unlisted_photographs_are_left_out_or_defect_free(tmp_path):
    for k, name in enumerate(("a", "b", "c")):
        photograph(tmp_path / f"in/{name}.png", k)
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    assert len(read("coco", tmp_path / "in", tmp_path)[0]) == 1
    tiles, told = read("coco", tmp_path / "in", tmp_path / "free", unlisted="free")
    assert (
        tiles.counts() == {"dent": 1, "Free": 2}
        and "2 photographs listed in no JSON file taken as defect-free" in told
    )


# YOLO


@pytest.mark.parametrize("names", ["[dent, pit]", "{0: dent, 1: pit}"])
@pytest.mark.parametrize(
    "folders", [("images/train", "labels/train"), ("train/images", "train/labels")]
)
def test_yolo_polygons(tmp_path, names, folders):
    images, labels = folders
    for k, name in enumerate(("a", "b")):
        photograph(tmp_path / f"in/{images}/{name}.png", k)
    (tmp_path / f"in/{labels}").mkdir(parents=True)
    shares = " ".join(str(x / (WIDTH, HEIGHT)[k % 2]) for k, x in enumerate(FLAT[0]))
    (tmp_path / f"in/{labels}/a.txt").write_text(f"1 {shares}\n0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "in/data.yaml").write_text(f"names: {names}\nnc: 2\n")
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"pit": 1, "Free": 1} and int((tiles.masks == 1).sum()) == 64
    assert "1 annotation, a box without an outline" in told


def test_yolo_label_files_may_be_called_as_subsets_are(tmp_path):
    for k, name in enumerate(("test1", "test2", "part3")):
        photograph(tmp_path / f"in/images/{name}.png", k)
        label = tmp_path / f"in/labels/{name}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 .1 .1 .5 .1 .5 .6\n")
    (tmp_path / "in/data.yaml").write_text("names: [dent]\n")
    tiles, _ = read("yolo", tmp_path / "in", tmp_path, strict=True)
    assert tiles.counts() == {"dent": 3, "Free": 0}


@pytest.mark.parametrize("name", ["labels", "a.bmp", "a.tif.b", "classes", "a.png"])
def test_yolo_label_files_of_odd_names_are_found(tmp_path, name):
    photograph(tmp_path / f"in/images/{name}.jpg")
    photograph(tmp_path / "in/images/free.jpg", 1)
    (tmp_path / "in/labels").mkdir()
    (tmp_path / f"in/labels/{name}.txt").write_text("0 .1 .1 .5 .1 .5 .6\n")
    (tmp_path / "in/data.yaml").write_text("names: [dent]\n")
    assert read("yolo", tmp_path / "in", tmp_path)[0].counts() == {"dent": 1, "Free": 1}


@pytest.mark.parametrize("folder", ["labels", "obj_train_data"])
def test_yolo_labels_without_a_photograph_are_counted_wherever_they_lie(tmp_path, folder):
    where = "images" if folder == "labels" else folder
    photograph(tmp_path / f"in/{where}/a.png")
    (tmp_path / f"in/{folder}").mkdir(exist_ok=True)
    for name in ("a", "other"):
        (tmp_path / f"in/{folder}/{name}.txt").write_text("0 .1 .1 .5 .1 .5 .6\n")
    (tmp_path / "in/obj.names").write_text("dent\n")
    (tmp_path / "in/read me.txt").write_bytes("für jemand".encode("latin-1"))
    told = read("yolo", tmp_path / "in", tmp_path)[1]
    assert "left out: 1 label file, without a photograph of its name" in told


def test_yolo_pictures_elsewhere_take_neither_labels_nor_lists_of_names(tmp_path):
    for k, name in enumerate(
        ("images/a.jpg", "images/b.jpg", "masks/a.jpg.png", "runs/labels.jpg")
    ):
        photograph(tmp_path / f"in/{name}", k)
    (tmp_path / "in/labels").mkdir()
    (tmp_path / "in/labels/a.jpg.txt").write_text("0 .1 .1 .5 .1 .5 .6\n")
    (tmp_path / "in/Labels.txt").write_text("dent\n")
    tiles, _ = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "b") and tiles.counts() == {"dent": 1, "Free": 1}


# CVAT, VOC, Label Studio


def test_voc_masks_keep_255(tmp_path):
    photograph(tmp_path / "in/JPEGImages/a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:10, 2:10], mask[4:8, 4:8] = IGNORE, 1
    (tmp_path / "in/SegmentationClass").mkdir()
    Image.fromarray(mask).save(tmp_path / "in/SegmentationClass/a.png")
    (tmp_path / "in/class_names.txt").write_text("_background_\ndent\n")
    tiles, _ = read("voc", tmp_path / "in", tmp_path)
    np.testing.assert_array_equal(tiles.masks[0, :HEIGHT, :WIDTH], mask)


def test_cvat_colours_are_named_by_the_label_map_and_soft_ones_refused(tmp_path):
    photograph(tmp_path / "in/images/a.png")
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[2:6, 2:6], colours[10:14, 2:6] = (250, 50, 83), (51, 221, 255)
    (tmp_path / "in/masks").mkdir()
    Image.fromarray(colours).save(tmp_path / "in/masks/a.png")
    (tmp_path / "in/labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\npit:51,221,255::\ndent:250,50,83::\n"
    )
    tiles = from_folder(tmp_path / "in", size=None)
    assert tiles.classes == ("pit", "dent")
    assert tiles.masks[0, [3, 11], 3].tolist() == [2, 1]
    colours[20, 20] = (125, 25, 41)
    Image.fromarray(colours).save(tmp_path / "in/masks/a.png")
    with pytest.raises(DataError, match=r"masks/a\.png: 1 pixels have the colour 125,25,41"):
        from_folder(tmp_path / "in", size=None)


def cvat(root, names, listed, colour=(250, 50, 83)):
    """CVAT's "Segmentation mask 1.1"; names: of the photographs, and whether each has a mask."""
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[2:6, 2:6] = colour
    for k, (name, has_mask) in enumerate(names.items()):
        photograph(root / f"JPEGImages/{name}.jpg", k)
        if has_mask:
            path = root / f"SegmentationClass/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours).save(path)
    (root / "labelmap.txt").write_text("background:0,0,0::\ndent:250,50,83::\n")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for subset, lines in listed.items():
        (root / f"ImageSets/Segmentation/{subset}.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("suffix", ["", ".jpg"])
def test_a_listed_split_tells_photographs_of_one_name_apart_by_their_folders(tmp_path, suffix):
    names = {"line1/001": 1, "line 1/002": 1, "line2/001": 1, "line2/003": 1}
    listed = {"train": ["line1/001" + suffix, '"line 1/002"'], "val": ["line2/001", "003"]}
    cvat(tmp_path / "in", names, listed)
    tiles, _ = read("cvat", tmp_path / "in", tmp_path)
    split_of = dict(zip(tiles.names, tiles.given, strict=True))
    assert split_of == {
        "line1_001": "train",
        "line 1_002": "train",
        "line2_001": "val",
        "line2_003": "val",
    }


def test_a_bare_name_of_several_photographs_is_told_and_takes_no_side(tmp_path):
    cvat(tmp_path / "in", {"a/1": 1, "b/1": 1, "b/2": 0}, {"train": ["1"], "val": ["2"]})
    tiles, told = read("cvat", tmp_path / "in", tmp_path)
    assert "1 listed name, of several photographs, as JPEGImages/a/1.jpg and" in told
    assert tiles.names == ("a_1", "b_1", "b_2") and tiles.given is None


def test_a_listed_photograph_without_a_mask_is_defect_free_and_another_is_left_out(tmp_path):
    names = {"line1/1": 1, "line2/1": 0, "line2/2": 0}
    cvat(tmp_path / "in", names, {"default": ["line1/1", "line2/1"]})
    tiles, told = read("cvat", tmp_path / "in", tmp_path)
    assert tiles.names == ("line1_1", "line2_1") and tiles.labels.tolist() == [1, 0]
    assert "1 photograph listed in ImageSets/ without a mask taken as defect-free" in told
    assert "1 photograph, without a mask in SegmentationClass/ (--unlisted free" in told
    tiles, told = read("cvat", tmp_path / "in", tmp_path / "free", unlisted="free")
    assert tiles.counts() == {"dent": 1, "Free": 2}
    assert "1 photograph without a mask in SegmentationClass/ taken as defect-free" in told


def test_a_listed_photograph_with_a_mask_that_is_not_read_is_not_defect_free(tmp_path):
    cvat(tmp_path / "in", {"a": 1, "b": 0, "c": 0}, {"default": ["a", "b", "c"]})
    (tmp_path / "in/SegmentationClass/b.webp").write_bytes(b"")
    (tmp_path / "in/SegmentationObject").mkdir()
    (tmp_path / "in/SegmentationObject/c.png").write_bytes(b"")
    assert read("cvat", tmp_path / "in", tmp_path)[0].names == ("a",)
    photograph(tmp_path / "in/JPEGImages/d.jpg", 9)
    (tmp_path / "in/SegmentationClass/a.png").rename(tmp_path / "in/SegmentationClass/x.png")
    (tmp_path / "in/SegmentationClass/d.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be taken as defect-free"):
        read("cvat", tmp_path / "in", tmp_path / "free", unlisted="free")


@pytest.mark.parametrize("named", ["bicycle", "dent", ""])
def test_voc_classes_are_those_of_a_palette_only_where_the_export_names_them(tmp_path, named):
    photograph(tmp_path / "in/JPEGImages/a.png")
    mask = Image.fromarray(square(2))
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    (tmp_path / "in/SegmentationClass").mkdir()
    mask.save(tmp_path / "in/SegmentationClass/a.png")
    if named:
        (tmp_path / "in/Annotations").mkdir()
        text = f"<annotation><object>\n <name>{named}</name><part><name>hand</name>"
        (tmp_path / "in/Annotations/a.xml").write_text(text)
    if named == "bicycle":
        assert read("voc", tmp_path / "in", tmp_path)[0].classes == ("bicycle",)
        return
    with pytest.raises(DataError, match="names the classes; name them by --classes"):
        read("voc", tmp_path / "in", tmp_path)


def test_label_studio_strokes_go_to_the_photograph_of_their_task(tmp_path):
    for k, name in enumerate(("1a2b3c4d-a.png", "1a2b3c4d-b.png", "1a2b3c4d-c.png")):
        photograph(tmp_path / "in/images" / name, k)
    stroke = np.zeros((HEIGHT, WIDTH), np.uint8)
    stroke[4:8, 4:8] = 255
    Image.fromarray(stroke).save(tmp_path / "in/task-7-annotation-3-by-a-b@c.de-tag-deep-pit-0.png")
    tasks = [
        {"id": 7, "data": {"image": "/data/upload/1/1a2b3c4d-b.png"}, "annotations": [{"id": 3}]},
        {"id": 8, "data": {"image": "/data/upload/1/1a2b3c4d-a.png"}, "annotations": [{"id": 4}]},
        {"id": 9, "data": {"image": "/data/upload/1/1a2b3c4d-c.png"}, "annotations": []},
    ]
    (tmp_path / "in/project.json").write_text(json.dumps(tasks))
    tiles, told = read("label-studio", tmp_path / "in", tmp_path)
    assert tiles.classes == ("deep-pit",) and tiles.names == ("1a2b3c4d-a", "1a2b3c4d-b")
    assert tiles.labels.tolist() == [0, 1] and "1 photograph, not annotated yet" in told
    photograph(tmp_path / "in/images/d.png", 4)
    tiles, told = read("label-studio", tmp_path / "in", tmp_path / "free", unlisted="free")
    assert tiles.counts() == {"deep-pit": 1, "Free": 2}
    assert "1 photograph of no task in the JSON export taken as defect-free" in told


# Folders of masks


def folder(tmp_path, masks, classes=None):
    """masks: path below the folder -> mask; each gets an image of its stem in images/."""
    root = tmp_path / "parts"
    for k, (path, mask) in enumerate(masks.items()):
        where = root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(where)
        inside = "images" + (f"/{where.parent.name}" if where.parent.name in SPLITS else "")
        photograph(root / inside / f"{where.stem}.png", k, np.shape(mask)[:2])
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


SPLITS = ("train", "val", "test")
TWO = ["scratch", "dent"]


def square(value=1, top=2):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + 8, 2:10] = value
    return mask


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("_background_\nscratch\ndent\n", ["scratch", "dent"]),
        ("__ignore__\n_background_\nscratch\n", ["scratch"]),
        ("0: background\n1: scratch\n2: dent", ["scratch", "dent"]),
        ("1: scratch\n2: dent\n255: __ignore__", ["scratch", "dent"]),
        ("Pixel Value, Class\n0, background\n1, scratch\n", ["scratch"]),
        ("# label:color_rgb\nbackground:0,0,0::\nscratch:255,0,0::\ndent:0,9,0:a,b:c", TWO),
        ("scratch\ndent\n255: ignore", TWO),
        ("0: background\nscratch\ndent", TWO),
        ("1. scratch\n2. dent", TWO),
        ("1-scratch\n2-dent", TWO),
        ("1.5 mm crack\n2.5 mm crack", ["1.5 mm crack", "2.5 mm crack"]),
    ],
)
def test_class_lists_name_0_and_255_or_not(text, names):
    assert class_list(text, "classes.txt") == names


@pytest.mark.parametrize("label", ["0: dent", "0.5 mm", "255: x", "2: dent", "1.5 mm", "1-pin"])
def test_names_that_read_as_numbers_survive_a_conversion(tmp_path, label):
    photograph(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", [dent(label=label)])
    assert read("labelme", tmp_path / "in", tmp_path)[0].classes == (label,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0: scratch\n1: dent", "'scratch' as 0, which is the background"),
        ("scratch\nbackground\n", "'background' as class 2"),
        ("1: background\n2: dent", "'background' as class 1"),
        ("1: scratch\n3: dent", r"its numbers are \[1, 3\]"),
    ],
)
def test_class_lists_that_shift_the_classes_are_refused(text, why):
    with pytest.raises(DataError, match=f"classes.txt: .*{why}"):
        class_list(text, "classes.txt")


def test_trees_of_subsets_are_no_classes(tmp_path):
    masks = {f"masks/{name}/{k}.png": square(k % 2) for k, name in enumerate(SPLITS)}
    tiles = from_folder(folder(tmp_path, masks, "dent\n"), size=None)
    assert tiles.classes == ("dent",) and tiles.given == ("train", "val", "test")
    train, val, test = split(tiles, "given", test=0.1, free_in_val=True)
    assert (train.tolist(), val.tolist(), test.tolist()) == ([0], [1], [2])


@pytest.mark.parametrize("classes", ["dent\n", None])
def test_black_and_white_masks_of_one_class(tmp_path, classes):
    soft = square(255)
    soft[1, 2:10], soft[10, 2:10] = 100, 200  # soft edges
    root = folder(tmp_path, {"masks/a.png": square(255), "masks/b.png": soft}, "dent\n")
    tiles = from_folder(root, size=None)
    assert tiles.counts() == {"dent": 2, "Free": 0}
    assert [int((mask == 1).sum()) for mask in tiles.masks] == [64, 72]


def test_white_masks_without_a_class_list_show_a_defect(tmp_path):
    tiles = from_folder(folder(tmp_path, {"masks/a.png": square(255)}), size=None)
    assert tiles.counts() == {"defect": 1, "Free": 0}


WHITE = square(255)
IN_OTHER_FORMS = {
    "RGB": np.dstack([WHITE] * 3),
    "RGBA": np.dstack([WHITE] * 3 + [WHITE * 0 + 255]),
    "LA": np.dstack([WHITE, WHITE * 0 + 255]),
    "LA, black is transparent": np.dstack([WHITE, WHITE]),
    "16 bits": WHITE.astype(np.uint16) * 257,
    "bool": WHITE > 0,
}


@pytest.mark.parametrize("form", IN_OTHER_FORMS)
@pytest.mark.parametrize("path", ["masks/a.png", "masks/defect/a.png"])
def test_black_and_white_masks_in_other_forms(tmp_path, form, path):
    mask = Image.fromarray(IN_OTHER_FORMS[form])
    tiles = from_folder(folder(tmp_path, {path: mask}), size=None)
    assert tiles.counts() == {"defect": 1, "Free": 0} and int((tiles.masks == 1).sum()) == 64


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.dstack([WHITE * 0] * 3 + [WHITE]), "RGBA: save the mask without transparency"),
        (square().astype(np.uint16) * 300, "I;16: save it with 8 bits a value"),
        (np.dstack([WHITE, WHITE * 0, WHITE * 0]), "RGB: a mask in colours needs a labelmap.txt"),
    ],
)
def test_masks_of_other_forms_are_refused_with_what_to_do(tmp_path, mask, why):
    root = folder(tmp_path, {"masks/a.png": Image.fromarray(mask)})
    with pytest.raises(DataError, match=f"masks/a.png: .*{why}"):
        from_folder(root, size=None)


@pytest.mark.parametrize(
    ("mask", "what"),
    [(square(128), "the value 128"), (square(128) + square(90, 12), "2 values from 90 to 128")],
)
def test_other_greys_without_a_class_list_say_that_one_name_is_enough(tmp_path, mask, what):
    root = folder(tmp_path, {"masks/a.png": mask})
    with pytest.raises(DataError, match=f"a.png holds {what} .* its name alone is all"):
        from_folder(root, size=None)
    (root / "classes.txt").write_text("dent\n")
    assert from_folder(root, size=None).counts()["dent"] == 1


def test_indices_without_a_class_list_ask_for_all_names(tmp_path):
    root = folder(tmp_path, {"masks/a.png": square(1) + square(3, 12)})
    with pytest.raises(DataError, match=r"2 values from 1 to 3 beside 0: name the classes 1\.\.K"):
        from_folder(root, size=None)


def test_palettes_that_contradict_each_other_are_refused(tmp_path):
    masks = {}
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0))):
        image = Image.fromarray(square())
        image.putpalette([0, 0, 0, *colour])
        masks[f"masks/{name}.png"] = image
    root, why = (
        folder(tmp_path, masks, "dent\n"),
        r"masks/b\.png: its palette shows class 1 as .*map",
    )
    with pytest.raises(DataError, match=why):
        from_folder(root, size=None)
    with pytest.raises(DataError, match=why):
        convert("voc", root, tmp_path / "out")


def test_the_soft_edge_of_a_higher_class_is_no_class(tmp_path):
    small = Image.fromarray(square(2)).resize((WIDTH * 2, HEIGHT * 2), Image.Resampling.BILINEAR)
    root = folder(tmp_path, {"masks/a.png": np.asarray(small)}, "scratch\ndent\n")
    with pytest.raises(DataError, match=r"a\.png: shows scratch .* nothing but a seam"):
        from_folder(root, size=None)


def test_masks_of_any_pixel_keep_what_is_thin(tmp_path):
    mask = square(1)
    mask[:, 21] = 2  # a scratch one pixel wide beside a dent
    root = folder(tmp_path, {"masks/a.png": mask}, "dent\nscratch\n")
    with pytest.raises(DataError, match=r"its scratch vanishes at size 8.*masks=\"any\""):
        from_folder(root, size=8)
    kept = from_folder(root, size=8, masks="any").masks[0]
    cells = mask.reshape(8, 3, 8, 5).swapaxes(1, 2).reshape(8, 8, 15)
    np.testing.assert_array_equal(kept, cells.max(axis=2))


def test_identical_files_are_one_group(tmp_path):
    root = folder(tmp_path, {f"masks/{name}.png": square() for name in "abc"}, "dent\n")
    (root / "images/c.png").write_bytes((root / "images/a.png").read_bytes())
    groups = from_folder(root, size=None).groups.tolist()
    assert groups[0] == groups[2] != groups[1]


def test_pictures_that_are_not_read_are_told(tmp_path):
    root = folder(tmp_path, {"masks/a.png": square()}, "dent\n")
    (root / "images/b.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"images/b\.heic: 1 pictures are left out .*\.heic"):
        from_folder(root, size=None)


def test_masks_beside_the_images_are_told_apart_by_their_suffix(tmp_path):
    for k, subset in enumerate(("train", "test")):
        photograph(tmp_path / f"ksdd/{subset}/1000{k}.png", k)
        Image.fromarray(square(255 * k)).save(tmp_path / f"ksdd/{subset}/1000{k}_GT.png")
    tiles = from_folder(tmp_path / "ksdd", size=None, mask_suffix="_GT")
    assert tiles.names == ("10000", "10001") and tiles.counts() == {"defect": 1, "Free": 1}
    assert tiles.given == ("train", "test")


def test_values_of_16_bits_are_scaled_as_told(tmp_path):
    root = folder(tmp_path, {"masks/a.png": square(), "masks/b.png": square(0)}, "dent\n")
    deep = np.random.default_rng(3).integers(1000, 4000, (HEIGHT, WIDTH)).astype(np.uint16)
    Image.fromarray(deep).save(root / "images/b.png")
    tiles = from_folder(root, size=None, value_range=(1000, 4000))
    wanted = np.round((deep - 1000) / 3000 * 255)
    np.testing.assert_array_equal(tiles.images[1, 0, :HEIGHT, :WIDTH], wanted)
    with pytest.warns(UserWarning, match=r"1 images have 16 bits a value: .*value_range=\(10"):
        from_folder(root, size=None)


def test_patches_cover_an_image_and_are_one_group(tmp_path):
    large = np.zeros((40, 72), np.uint8)
    large[30:36, 60:66] = 1
    root = folder(tmp_path, {"masks/a.png": large, "masks/b.png": square(0)}, "dent\n")
    tiles = from_folder(root, tile=(32, 8))
    assert tiles.images.shape[2:] == (32, 32) and tiles.groups.tolist() == [0] * 6 + [1] * 2
    assert tiles.counts() == {"dent": 2, "Free": 6}
    image = np.asarray(Image.open(root / "images/a.png"))
    place = tiles.names.index("a_8_40")
    np.testing.assert_array_equal(tiles.images[place].permute(1, 2, 0), image[8:40, 40:72])
    few = from_folder(root, tile=(32, 8), free_patches=1)
    assert few.counts() == {"dent": 2, "Free": 2}


def test_a_conversion_cuts_patches(tmp_path):
    photograph(tmp_path / "in/a.png", size=(40, 72))
    flat = [[60, 30, 66, 30, 66, 36, 60, 36]]
    coco(tmp_path / "in/c.json", [(0, 1, flat)], ["a.png"])
    content = json.loads((tmp_path / "in/c.json").read_text())
    content["images"][0].update(height=40, width=72)
    (tmp_path / "in/c.json").write_text(json.dumps(content))
    tiles, told = read("coco", tmp_path / "in", tmp_path, tile=(32, 8))
    assert "cut into 6 patches" in told and len(set(tiles.groups.tolist())) == 1
    assert tiles.counts() == {"dent": 2, "Free": 4}


def test_a_first_choice_of_a_large_folder_has_each_class(tmp_path):
    masks = {f"masks/{k}.png": square(1 + k % 2 if k < 6 else 0) for k in range(30)}
    tiles = from_folder(folder(tmp_path, masks, "dent\npit\n"), size=None, most=8)
    assert tiles.counts() == {"dent": 2, "pit": 2, "Free": 4}


@pytest.mark.parametrize("suffix", ["_mask", ".jpg"])
def test_masks_of_longer_names_suggest_their_suffix(tmp_path, suffix):
    root = folder(tmp_path, {"masks/a.png": square(255)})
    (root / "masks/a.png").rename(root / f"masks/a{suffix}.png")
    told = rf'of images/a\.png\? Then say so by mask_suffix="{suffix}"'
    with pytest.raises(DataError, match=told):
        from_folder(root, size=None)
    assert from_folder(root, size=None, mask_suffix=suffix).counts()["defect"] == 1


def test_a_mask_that_is_not_turned_as_its_photograph_is_told(tmp_path):
    root = folder(tmp_path, {"masks/a.png": square(255)})
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 200, (HEIGHT, WIDTH), np.uint8)
    Image.fromarray(pixels).save(root / "images/a.png", exif=exif)
    with pytest.raises(DataError, match=r"mask is 40×24, its image 24×40 .*EXIF.*turn the mask"):
        from_folder(root, size=None)


def mirrored(tmp_path, classes):
    """Masks of 1 in folders as those of the images, with equal names."""
    for k, name in enumerate(("images/batchA", "images/batchB", "masks/batchA", "masks/batchB")):
        for stem in "01":
            path = photograph(tmp_path / f"parts/{name}/{stem}.png", 2 * k + int(stem))
            if name.startswith("masks"):
                Image.fromarray(square(1, 2 + 8 * (k % 2))).save(path)
    if classes:
        (tmp_path / "parts/classes.txt").write_text(classes)
    return tmp_path / "parts"


def test_masks_in_folders_as_those_of_the_images_are_theirs(tmp_path):
    tiles = from_folder(mirrored(tmp_path, "dent\n"), size=None)
    assert tiles.names == ("batchA/0", "batchA/1", "batchB/0", "batchB/1")
    assert tiles.masks[:, 3, 3].tolist() == [1, 1, 0, 0] and tiles.given is None
    assert tiles.masks[:, 12, 3].tolist() == [0, 0, 1, 1]


def test_masks_in_folders_that_may_be_classes_need_a_list_of_them(tmp_path):
    root = mirrored(tmp_path, "")
    with pytest.raises(DataError, match=r"masks/batchA: a class, or the masks of images/batchA\?"):
        from_folder(root, size=None)


def test_a_folder_beside_those_of_subsets_is_named_where_it_is(tmp_path):
    masks = {f"masks/{name}/{k}.png": square() for k, name in enumerate(SPLITS)}
    root = folder(tmp_path, masks, "dent\n")
    photograph(root / "images/predict/9.png")
    with pytest.raises(DataError, match=r"parts/images/predict: lies beside the folders"):
        from_folder(root, size=None)


# All of them


def test_many_classes_and_ignored_pixels_survive_writing(tmp_path):
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[0].flat[:199], masks[1, :4] = np.arange(1, 200), IGNORE
    names = [f"class {k}" for k in range(1, 200)]
    tiles = TileSet.from_arrays(np.zeros((2, 16, 16), np.uint8), masks, names, names=["a,1", 'b"2'])
    again = from_folder(to_folder(tiles, tmp_path / "out"), size=None)
    np.testing.assert_array_equal(again.masks, masks)
    assert again.names == ("a,1", 'b"2')
    with open(tmp_path / "out/tiles.csv") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_writing_loses_no_image_and_mixes_no_data_sets(tmp_path):
    pixels = np.zeros((2, 16, 16), np.uint8)
    for names in (["a/b", "a_b"], ["a", "a"]):
        tiles = TileSet.from_arrays(pixels, pixels, ["dent"], names=names)
        with pytest.raises(ValueError, match=f"would be called {names[1]}"):
            to_folder(tiles, tmp_path / "out")
    first = TileSet.from_arrays(pixels, pixels, ["dent"], names=["a", "b"], groups=["x", "x"])
    second = TileSet.from_arrays(pixels, pixels, ["dent"])
    for tiles in (first, first):
        to_folder(tiles, tmp_path / "out")
    with pytest.raises(ValueError, match=r"out: holds a\.png, which is not of this data set"):
        to_folder(second, tmp_path / "out")
    apart = TileSet.from_arrays(pixels, pixels, ["dent"], names=["a", "b"])
    assert from_folder(to_folder(apart, tmp_path / "out"), size=None).groups.tolist() == [0, 0]


@pytest.mark.parametrize("source", SOURCES)
def test_an_empty_folder_is_refused_in_words(tmp_path, source):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="/in: "):
        convert(source, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_is_read_from_a_zip_with_a_folder_at_its_top(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in (tmp_path / "in").iterdir():
            archive.write(path, f"export/{path.name}")
    assert len(read("coco", tmp_path / "export.zip", tmp_path)[0]) == 1


# What else owners of such files met


def test_a_photograph_whose_json_lies_elsewhere_and_is_broken_is_not_defect_free(tmp_path):
    for k, name in enumerate(("p1", "p2")):
        photograph(tmp_path / f"in/images/{name}.jpg", k)
        labelme(tmp_path / f"in/labels/{name}.json", [dent()], imagePath=f"..\\images\\{name}.bmp")
    (tmp_path / "in/labels/p2.json").write_text('{"shapes": [')
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.names == ("p1",) and "cut off, or no JSON" in told


def test_files_of_old_versions_name_no_kind_of_shape(tmp_path):
    photograph(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", [dent(shape_type=None)])
    content = json.loads((tmp_path / "in/a.json").read_text())
    del content["shapes"][0]["shape_type"]
    (tmp_path / "in/a.json").write_text(json.dumps(content))
    assert int(read("labelme", tmp_path / "in", tmp_path)[0].masks.sum()) == 81


@pytest.mark.parametrize(
    "name", ["a_mask_1.png", "mask_a.png", "masks/a.png", "a_overlay2.png", "b_mask.png"]
)
@pytest.mark.parametrize("source", ["labelme", "coco", "yolo"])
def test_pictures_of_masks_are_no_photographs(tmp_path, source, name):
    for k, path in enumerate(("a.png", "b.png", name)):
        photograph(tmp_path / "in" / path, k)
    annotate(source, tmp_path / "in")
    options = {"unlisted": "free"} if source == "coco" else {}
    tiles, told = read(source, tmp_path / "in", tmp_path, **options)
    assert tiles.counts() == {"dent": 1, "Free": 1} and "1 picture, " in told


def annotate(source, root):
    """Mark a dent on a.png, in the format of a program."""
    if source == "labelme":
        labelme(root / "a.json", [dent()])
    elif source == "coco":
        coco(root / "c.json", [(0, 1, FLAT)], ["a.png"], [(1, "dent")])
    else:
        shares = " ".join(str(x / (WIDTH, HEIGHT)[k % 2]) for k, x in enumerate(FLAT[0]))
        (root / "a.txt").write_text(f"0 {shares}\n")
        (root / "data.yaml").write_text("names: [dent]\n")


@pytest.mark.parametrize("source", ["labelme", "coco", "yolo"])
def test_pictures_of_other_formats_are_counted(tmp_path, source):
    photograph(tmp_path / "in/a.png")
    annotate(source, tmp_path / "in")
    (tmp_path / "in/b.heic").write_bytes(b"")
    told = read(source, tmp_path / "in", tmp_path)[1]
    assert "1 picture, of a format that is not read (.heic): save it as PNG or JPEG" in told


@pytest.mark.parametrize("source", ["labelme", "coco", "yolo"])
def test_folders_split_and_augmented_copies_group(tmp_path, source):
    for k, name in enumerate(("train/x.rf.0a.png", "val/x.rf.0b.png", "val/y.png")):
        photograph(tmp_path / "in" / name, k)
    photograph(tmp_path / "in/train/a.png", 7)
    annotate(source, tmp_path / "in/train")
    options = {"unlisted": "free"} if source == "coco" else {}
    tiles, _ = read(source, tmp_path / "in", tmp_path, **options)
    assert tiles.given == ("train", "train", "val", "val")
    assert len(set(tiles.groups.tolist())) == 3


@pytest.mark.parametrize(
    ("listed", "path"),
    [
        ("https://x.io/part%201.png", "part 1.png"),
        ("/data/local-files/?d=parts/part.png", "part.png"),
        ("0a1b2c3d-part.png", "part.png"),
        ("C:\\Users\\test\\part.png", "train/part.png"),
        ("part.png", "Part.PNG"),
    ],
)
def test_names_of_other_computers_are_found(tmp_path, listed, path):
    photograph(tmp_path / "in" / path)
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], [listed])
    assert read("coco", tmp_path / "in", tmp_path)[0].counts()["dent"] == 1


def test_ids_and_sizes_may_be_text_and_unknown(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    content = json.loads((tmp_path / "in/c.json").read_text())
    content["images"][0].update(id="0", height=0, width="")
    content["annotations"][0].update(category_id="1", image_id=0.0)
    (tmp_path / "in/c.json").write_text(json.dumps(content))
    assert read("coco", tmp_path / "in", tmp_path)[0].counts()["dent"] == 1


@pytest.mark.parametrize("segmentation", [FLAT[0], [SQUARE], [[str(x) for x in FLAT[0]]]])
def test_polygons_may_be_one_list_pairs_or_text(tmp_path, segmentation):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, segmentation)], ["a.png"])
    assert int(read("coco", tmp_path / "in", tmp_path)[0].masks.sum()) == 64


def test_a_sliver_beside_a_good_polygon_is_left_out_alone(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, [*FLAT, [1, 1, 2, 2]])], ["a.png"])
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert int(tiles.masks.sum()) == 64 and "1 part of an annotation" in told


def test_json_files_of_other_programs_are_counted(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    (tmp_path / "in/captions.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "in/log.json").write_text("{}\n{}")
    told = read("coco", tmp_path / "in", tmp_path)[1]
    assert "it lists no categories" in told and "cut off, or no JSON" in told


def test_a_json_of_coco_is_no_project_of_label_studio(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    with pytest.raises(DataError, match=r"c\.json: .*it is COCO's: dli convert coco"):
        read("label-studio", tmp_path / "in", tmp_path)


def test_classes_that_differ_in_capitals_alone_are_told(tmp_path):
    photograph(tmp_path / "in/a.png")
    labelme(
        tmp_path / "in/a.json", [dent(), dent(label="Dent", points=[[20, 4], [30, 4], [25, 9]])]
    )
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.classes == ("Dent", "dent")
    assert "the classes Dent and dent differ in capitals alone" in told


def test_photographs_are_not_taken_as_defect_free_where_one_was_not_found(tmp_path):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    coco(tmp_path / "in/c.json", [(0, 1, FLAT), (1, 1, FLAT)], ["a.png", "renamed.png"])
    with pytest.raises(DataError, match=r"b\.png: cannot be taken as defect-free"):
        read("coco", tmp_path / "in", tmp_path, unlisted="free")


@pytest.mark.parametrize("value", [1e300, 3e8])
@pytest.mark.parametrize("source", ["labelme", "coco"])
def test_a_point_far_away_is_no_crash(tmp_path, source, value):
    photograph(tmp_path / "in/a.png"), photograph(tmp_path / "in/b.png", 1)
    points = [[value, 1], [9, 1], [9, 9]]
    if source == "coco":
        coco(tmp_path / "in/c.json", [(0, 1, [points]), (1, 1, FLAT)])
    else:
        labelme(tmp_path / "in/a.json", [dent(points=points)])
        labelme(tmp_path / "in/b.json", [dent()])
    assert read(source, tmp_path / "in", tmp_path)[0].names == ("b",)


def test_a_region_below_another_is_told(tmp_path):
    photograph(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", [dent(label="pit", points=[[6, 6], [8, 6], [8, 8]]), dent()])
    told = read("labelme", tmp_path / "in", tmp_path)[1]
    assert "1 region of pit, wholly below regions that are drawn later" in told
    assert "1 class, without a region" in told


def test_a_ring_between_two_classes_is_no_soft_edge(tmp_path):
    photograph(tmp_path / "in/a.png")
    inner = [[5, 5], [11, 5], [11, 11], [5, 11]]
    labelme(tmp_path / "in/a.json", [dent(), dent(label="pit", points=inner)])
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert [int((tiles.masks == c).sum()) for c in (1, 2)] == [32, 49]


def test_photographs_in_cmyk_are_left_out_of_patches_too(tmp_path):
    photograph(tmp_path / "in/a.png")
    Image.new("CMYK", (WIDTH, HEIGHT)).save(tmp_path / "in/b.jpg")
    labelme(tmp_path / "in/a.json", [dent()])
    tiles, told = read("labelme", tmp_path / "in", tmp_path, tile=(16, 0))
    assert "1 photograph, pixel format CMYK" in told and len(set(tiles.groups.tolist())) == 1


def test_patches_of_16_bit_photographs_keep_their_values(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (32, 32, 3)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), deep)
    labelme(tmp_path / "in/a.json", [dent()], imageHeight=32, imageWidth=32)
    convert("labelme", tmp_path / "in", tmp_path / "out", tile=(16, 0))
    part = cv2.imread(str(tmp_path / "out/images/a_16_0.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(part, deep[16:, :16])


def test_names_with_numbers_and_accents_survive(tmp_path):
    photograph(tmp_path / "in/train/u\u0308.png"), photograph(tmp_path / "in/val/b.png", 1)
    categories = [(1, "2: pit"), (2, "1: dent")]
    images = ["train/\u00fc.png", "val/b.png"]
    coco(tmp_path / "in/c.json", [(0, 1, FLAT), (1, 2, FLAT)], images, categories)
    tiles, _ = read("coco", tmp_path / "in", tmp_path)
    assert tiles.classes == ("2: pit", "1: dent") and tiles.given == ("train", "val")


def test_yolo_labels_are_found_by_other_spellings(tmp_path):
    shares = " ".join(str(x / (WIDTH, HEIGHT)[k % 2]) for k, x in enumerate(FLAT[0]))
    names = (("u\u0308.png", "\u00fc.txt"), ("P2.JPG", "p2.txt"), ("c.png", "c.png.txt"))
    (tmp_path / "in/Labels").mkdir(parents=True)
    for k, (image, label) in enumerate(names):
        photograph(tmp_path / "in/Images/train" / image, k)
        (tmp_path / "in/Labels" / label).write_text(f"0.0 {shares}\n")
    (tmp_path / "in/data.yaml").write_text("names: {'0': dent, '3': pit}\n")
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 3, "Free": 0} and "1 class, without a region" in told


def test_yolo_classes_are_ordered_by_name_or_named_by_number(tmp_path):
    photograph(tmp_path / "in/a.png")
    annotate("yolo", tmp_path / "in")
    (tmp_path / "in/data.yaml").write_text("names: [dent, pit]\n")
    tiles, _ = read("yolo", tmp_path / "in", tmp_path, classes=["pit", "dent"])
    assert tiles.classes == ("pit", "dent") and tiles.labels.tolist() == [2]
    (tmp_path / "in/data.yaml").unlink()
    (tmp_path / "in/a.txt").write_text((tmp_path / "in/a.txt").read_text().replace("0 ", "1 ", 1))
    (tmp_path / "names").write_text("background\ndent\n")
    tiles, _ = read("yolo", tmp_path / "in", tmp_path / "b", classes=tmp_path / "names")
    assert tiles.classes == ("dent",) and tiles.labels.tolist() == [1]


@pytest.mark.parametrize("where", ["--classes", "classes.txt"])
@pytest.mark.parametrize(
    ("text", "used", "named"),
    [
        ("0: pit\n1: dent\n", (0, 1), ("pit", "dent")),
        ("pit\ndent\n", (0, 1), ("pit", "dent")),
        ("1: pit\n2: dent\n", (1, 2), ("pit", "dent")),
        ("0: background\n1: dent\n", (1,), ("dent",)),
        ("1: pit\n2: dent\n", (0, 1), "from 1 to 2, the label files from 0 to 1: number them as"),
        ("1: pit\n2: dent\n", (1,), "from 1 to 2, the label files from 1 to 1: number them as"),
        ("1: pit\n1: dent\n", (1,), "names one number twice"),
    ],
)
def test_numbers_in_a_list_of_yolo_classes_are_those_of_the_label_files(
    tmp_path, where, text, used, named
):
    for number in used:
        photograph(tmp_path / f"in/{number}.png", number)
        (tmp_path / f"in/{number}.txt").write_text(f"{number} .1 .1 .5 .1 .5 .6\n")
    path = tmp_path / ("names" if where == "--classes" else "in/classes.txt")
    path.write_text(text)
    options = {"classes": path} if where == "--classes" else {}
    if isinstance(named, str):
        with pytest.raises(DataError, match=named):
            read("yolo", tmp_path / "in", tmp_path, **options)
        return
    tiles, _ = read("yolo", tmp_path / "in", tmp_path, **options)
    assert tiles.classes == named and tiles.labels.tolist() == list(range(1, len(used) + 1))


def test_yolo_lists_of_photographs_are_a_split(tmp_path):
    for k, name in enumerate("ab"):
        photograph(tmp_path / f"in/{name}.png", k)
    annotate("yolo", tmp_path / "in")
    (tmp_path / "in/train.txt").write_text("./data/a.png\n")
    (tmp_path / "in/val.txt").write_text("./data/b.png\n")
    assert read("yolo", tmp_path / "in", tmp_path)[0].given == ("train", "val")


def test_a_coco_id_that_is_no_number_is_named(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/a.json", [("--1", 1, [FLAT]), (0, 1, [FLAT])], images=["a.png"])
    with pytest.raises(DataError, match=r"in/a\.json, annotation 0: of an image that a\.json does"):
        read("coco", tmp_path / "in", tmp_path, strict=True)


def test_a_list_of_classes_that_is_not_there_is_named(tmp_path):
    photograph(tmp_path / "in/a.png")
    with pytest.raises(DataError, match=r"names\.txt: a list of classes cannot be read"):
        convert("coco", tmp_path / "in", tmp_path / "out", classes=tmp_path / "names.txt")


@pytest.mark.parametrize("source", ["labelme", "yolo", "coco"])
def test_reasons_that_differ_in_values_alone_are_counted_together(tmp_path, source):
    for k in range(30):
        photograph(tmp_path / f"in/{k}.png", k)
        if source == "labelme":
            slip = dent(points=[[k, 1], [5, 5]])
            labelme(tmp_path / f"in/{k}.json", [slip, dent()])
        (tmp_path / f"in/{k}.txt").write_text(f"{k + 2} .1 .1 .5 .1 .5 .6\n0 .1 .1 .5 .1 .5 .6\n")
    (tmp_path / "in/data.yaml").write_text("names: [dent]\n")
    if source == "coco":
        slips = [(k, 1, [[900 + k, 1, 910, 1, 920, 9]]) for k in range(30)]
        good = [(k, 1, FLAT) for k in range(30)]
        coco(tmp_path / "in/c.json", [*slips, *good], [f"{k}.png" for k in range(30)])
    last = read(source, tmp_path / "in", tmp_path)[1].splitlines()[-1]
    assert "left out: 30 annotations, " in last and len(last) < 500 and "(first: " in last


def test_counts_are_plural_where_they_are():
    names = {
        "class": "2 classes",
        "image entry": "2 image entries",
        "part of an annotation": "2 parts of an annotation",
        "region of a class": "2 regions of a class",
    }
    assert {name: counted(2, name) for name in names} == names
    assert counted(1, "class") == "1 class" and counted(0, "photograph") == "0 photographs"


def test_annotations_in_folders_as_those_of_the_photographs_find_theirs(tmp_path):
    for k, line in enumerate(("l1", "l2")):
        photograph(tmp_path / f"in/img/{line}/0.png", k)
        labelme(tmp_path / f"in/ann/{line}/0.json", [dent(label=line)], imagePath="0.png")
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.names == ("l1_0", "l2_0") and tiles.classes == ("l1", "l2")
    assert tiles.labels.tolist() == [1, 2]


# What else owners of folders of masks met


def test_a_linked_folder_inside_is_read_and_a_circle_is_not_followed(tmp_path):
    root = folder(tmp_path, {"masks/dent/a.png": square(), "masks/pit/b.png": square()})
    (root / "masks/dent").rename(root / "a_store")
    (root / "masks/dent").symlink_to(root / "a_store")
    (root / "images/again").symlink_to(root / "images")
    assert from_folder(root, size=None).counts() == {"dent": 1, "pit": 1, "Free": 0}


def smoothed(mask, factor):
    """A mask shrunk smoothly, as resizing programs do."""
    sides = (mask.shape[1] // factor, mask.shape[0] // factor)
    return np.asarray(Image.fromarray(mask).resize(sides, Image.Resampling.BILINEAR))


def test_of_soft_edges_the_brighter_half_is_marked_also_of_thin_defects(tmp_path):
    large = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    cv2.line(large, (10, 6), (60, 40), 255, 3)
    soft = smoothed(large, 2)
    root = folder(tmp_path, {"masks/scratch/a.png": soft})
    found = int((from_folder(root, size=None).masks == 1).sum())
    assert found == int((soft > soft.max() // 2).sum()) < int((soft > 0).sum())


def test_instances_of_a_class_are_all_marked(tmp_path):
    mask = square(85)
    mask[12:20, 2:10], mask[2:10, 20:28] = 170, 255
    tiles = from_folder(folder(tmp_path, {"masks/dent/a.png": mask}), size=None)
    assert int((tiles.masks == 1).sum()) == 3 * 64


@pytest.mark.parametrize("first", [1, 100])
@pytest.mark.parametrize("side", [2, 3])
def test_many_numbers_are_instances_too(tmp_path, first, side):
    mask = np.zeros((72, 72), np.uint8)
    for k in range(140):
        row, column = divmod(k, 14)
        mask[5 * row : 5 * row + side, 5 * column : 5 * column + side] = first + k
    one = folder(tmp_path / "one", {"masks/pore/a.png": mask})
    listed = folder(tmp_path / "listed", {"masks/a.png": mask}, "pore\n")
    for root in (one, listed):
        assert int((from_folder(root, size=None).masks == 1).sum()) == 140 * side**2


def soft_line():
    mask = np.zeros((500, 500), np.uint8)
    cv2.line(mask, (20, 30), (480, 410), 255, 1)
    return cv2.resize(mask, (128, 128), interpolation=cv2.INTER_AREA)


def soft_blob():
    mask = np.zeros((128, 128), np.uint8)
    cv2.circle(mask, (60, 60), 20, 255, -1)
    return cv2.GaussianBlur(mask, (0, 0), 9)


@pytest.mark.parametrize("mask", [soft_line(), soft_blob(), soft_blob() // 3])
def test_soft_edges_are_no_instances_however_dim(tmp_path, mask):
    assert len(np.unique(mask)) > 50
    root = folder(tmp_path, {"masks/crack/a.png": mask})
    found = from_folder(root, size=None).masks
    assert int((found == 1).sum()) == int((mask > mask.max() // 2).sum()) < int((mask > 0).sum())


def test_one_and_white_side_by_side_are_refused(tmp_path):
    root = folder(tmp_path, {"masks/a.png": square(1), "masks/b.png": square(255)}, "dent\n")
    with pytest.raises(DataError, match=r"a\.png: marks its defect by 1, masks/b\.png by 255"):
        from_folder(root, size=None)


@pytest.mark.parametrize(
    "palettes",
    [[(255, 255, 255, 0, 0, 0)], [(0, 0, 0, 255, 0, 0), (255, 0, 0, 0, 0, 0)]],
)
def test_palettes_whose_background_is_no_background_are_refused(tmp_path, palettes):
    masks = {}
    for k, palette in enumerate(palettes):
        image = Image.fromarray(square())
        image.putpalette(palette)
        masks[f"masks/{k}.png"] = image
    with pytest.raises(DataError, match=r"its palette shows class \d as"):
        from_folder(folder(tmp_path, masks, "dent\n"), size=None)


@pytest.mark.parametrize(
    "text",
    [
        "0 background\n1 pit\n2 dent",
        "background: 0\npit: 1\ndent: 2",
        "id,name\n1,pit\n2,dent",
        "# ours\npit\ndent",
        '"background"\npit\ndent',
        "0. bg\n1. pit\n2. dent",
    ],
)
def test_class_lists_of_other_spellings(text):
    assert class_list(text, "classes.txt") == ["pit", "dent"]


@pytest.mark.parametrize("first", ["none", "Hintergrund"])
def test_a_list_of_more_names_than_indices_is_told_of(tmp_path, first):
    masks = {"masks/a.png": square(1), "masks/b.png": square(2), "masks/c.png": square(IGNORE)}
    root = folder(tmp_path, masks, f"{first}\nscratch\ndent\n")
    told = rf"classes\.txt: names 3 classes, the highest index in the masks is 2: .*{first}"
    with pytest.warns(UserWarning, match=told):
        from_folder(root, size=None)
    (root / "classes.txt").write_text("background\nscratch\ndent\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_folder(root, size=None)


def test_a_class_list_in_each_subset_names_the_classes(tmp_path):
    for k, subset in enumerate(("train", "valid")):
        photograph(tmp_path / f"in/{subset}/{k}.jpg", k)
        Image.fromarray(square(k + 1)).save(tmp_path / f"in/{subset}/{k}_mask.png")
        (tmp_path / f"in/{subset}/_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, pit\n2, dent\n"
        )
    tiles = from_folder(tmp_path / "in", size=None, mask_suffix="_mask")
    assert tiles.counts() == {"pit": 1, "dent": 1, "Free": 0} and tiles.given == ("train", "val")


def test_a_subset_without_masks_of_a_class_is_defect_free(tmp_path):
    root = folder(tmp_path, {"train/masks/dent/a.png": square()})
    (root / "images").rename(root / "train/images")
    photograph(root / "val/images/b.png", 1)
    tiles = from_folder(root, size=None)
    assert tiles.counts() == {"dent": 1, "Free": 1} and tiles.given == ("train", "val")


def test_a_part_on_both_sides_of_a_given_split_is_told(tmp_path):
    root = folder(tmp_path, {f"masks/{s}/{s}.png": square() for s in ("train", "val")}, "dent\n")
    (root / "images/val/val.png").write_bytes((root / "images/train/train.png").read_bytes())
    with pytest.warns(UserWarning, match="1 images that are given to validation or test"):
        split(from_folder(root, size=None), "given")


def test_augmented_copies_of_a_folder_are_one_group(tmp_path):
    names = ("x_jpg.rf.0a", "x_jpg.rf.0b", "y_jpg.rf.0c")
    root = folder(tmp_path, {f"masks/{name}.png": square() for name in names}, "dent\n")
    assert from_folder(root, size=None).groups.tolist() == [0, 0, 1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_photographs_held_upright_are_turned(tmp_path, suffix, depth):
    root = folder(tmp_path, {"masks/a.png": np.ascontiguousarray(square().T)}, "dent\n")
    pixels = np.random.default_rng(0).integers(0, 200, (HEIGHT, WIDTH)).astype(depth)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to show it
    (root / "images/a.png").unlink()
    Image.fromarray(pixels).save(root / f"images/a.{suffix}", exif=exif)
    tiles = from_folder(root, size=None, value_range=(0, 255))
    np.testing.assert_array_equal(tiles.images[0, 0, :WIDTH, :HEIGHT], np.rot90(pixels, -1))


def test_label_studio_marks_without_a_png_are_no_defect_free_photograph(tmp_path):
    for k, name in enumerate("abc"):
        photograph(tmp_path / f"in/{name}.png", k)
    Image.fromarray(square(255)).save(tmp_path / "in/task-1-annotation-3-by-me-brush-pit-0.png")
    Image.fromarray(square(255)).save(tmp_path / "in/task-3-annotation-9-by-me-brush-pit-0.png")
    mark = {"type": "brushlabels", "from_name": "brush", "value": {"brushlabels": ["pit"]}}
    done = {"id": 4, "result": []}
    tasks = [
        {"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 3, "result": [mark]}]},
        {"id": 2, "data": {"image": "b.png"}, "annotations": [{"id": 5, "result": [mark]}]},
        {
            "id": 3,
            "data": {"image": "c.png"},
            "annotations": [{"id": 9, "was_cancelled": True, "result": [mark]}, done],
        },
    ]
    (tmp_path / "in/p.json").write_text(json.dumps(tasks))
    tiles, told = read("label-studio", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "c") and tiles.labels.tolist() == [1, 0]
    assert "of pit, for which there is no PNG" in told


def test_grey_masks_of_no_known_names_are_not_called_aeroplanes(tmp_path):
    photograph(tmp_path / "in/JPEGImages/a.png")
    (tmp_path / "in/SegmentationClass").mkdir()
    Image.fromarray(square()).save(tmp_path / "in/SegmentationClass/a.png")
    with pytest.raises(DataError, match="names the classes; name them by --classes"):
        convert("voc", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "value"),
    [("free_patches", 1.5), ("most", 2.5), ("mask_suffix", None), ("value_range", (1.5, 300))],
)
def test_options_of_other_kinds_are_named(tmp_path, option, value):
    root = folder(tmp_path, {"masks/a.png": square()}, "dent\n")
    with pytest.raises(ValueError, match=f"{option} must be "):
        from_folder(root, **{option: value})


# Photographs that are missing, renamed or mistaken for another


def yolo(path, text="0 0.1 0.2 0.3 0.2 0.3 0.5\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


NAMES = "names: [dent, pit]\n"


def test_a_missing_photograph_is_not_that_of_another_entry(tmp_path):
    for name in ("lineB/001.png", "lineB/002.png"):
        photograph(tmp_path / "in" / name, len(name))
    images = ("lineA/001.png", "lineB/001.png", "lineB/002.png")
    coco(tmp_path / "in/all.json", [(0, 1, FLAT), (2, 2, FLAT)], images)
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"pit": 1, "Free": 1}  # lineB/001.png is listed by its whole path
    assert "1 photograph, listed in all.json, but not there" in told


@pytest.mark.parametrize("names", [("x/a.png", "y/a.png"), ("a.png", "0a1b2c3d-a.png")])
def test_a_photograph_that_two_entries_may_mean_is_not_defect_free(tmp_path, names):
    for name in ("in/images/a.png", "in/images/b.png"):
        photograph(tmp_path / name, len(name))
    coco(tmp_path / "in/all.json", [(0, 1, FLAT), (2, 1, FLAT)], (*names, "b.png"))
    tiles, _ = read("coco", tmp_path / "in", tmp_path)
    labels = dict(zip(tiles.names, tiles.labels.tolist(), strict=True))
    assert labels == {"b": 1} if "/" in names[0] else {"a": 1, "b": 1}


def test_a_missing_photograph_is_not_one_of_its_name_in_another_folder(tmp_path):
    for k, name in enumerate(("monday/001.png", "monday/002.png", "tuesday/002.png")):
        photograph(tmp_path / "labelme" / name, k)
        photograph(tmp_path / "yolo/images" / name, k)
        photograph(tmp_path / "voc/JPEGImages" / name, k)
    for name in ("monday/002", "tuesday/001"):
        labelme(tmp_path / f"labelme/{name}.json", [dent()], imagePath=f"{name[-3:]}.png")
        yolo(tmp_path / f"yolo/labels/{name}.txt")
        mask = tmp_path / f"voc/SegmentationClass/{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square(1)).save(mask)
    yolo(tmp_path / "yolo/data.yaml", NAMES)
    yolo(tmp_path / "voc/class_names.txt", "background\ndent\n")
    defective = {"labelme": "monday_002", "yolo": "monday_002", "voc": "002"}
    free = {"labelme": ["tuesday_002"], "yolo": ["tuesday_002"], "voc": []}
    losses = {"labelme": "annotation file", "yolo": "label file", "voc": "mask"}
    for source, lost in losses.items():
        tiles, told = read(source, tmp_path / source, tmp_path / f"of_{source}")
        labels = dict(zip(tiles.names, tiles.labels.tolist(), strict=True))
        # monday/001 may be what was annotated, and is not taken as defect-free
        assert labels == {defective[source]: 1, **dict.fromkeys(free[source], 0)}
        assert f"left out: 1 {lost}, " in told


@pytest.mark.parametrize("beside", ["overview", "contact"])
def test_photographs_that_lie_elsewhere_are_found(tmp_path, beside):
    """Though another one lies where they should, with an annotation file or without."""
    for k, name in enumerate(("a", "b", "c")):
        photograph(tmp_path / f"labelme/images/{name}.png", k)
        labelme(tmp_path / f"labelme/ann/{name}.json", [dent()], imagePath=f"{name}.png")
        photograph(tmp_path / f"yolo/images/day1/{name}.png", k)
        yolo(tmp_path / f"yolo/labels/{name}.txt")
    photograph(tmp_path / f"labelme/ann/{beside}.png", 9)
    photograph(tmp_path / f"yolo/images/{beside}.png", 9)
    if beside == "overview":
        labelme(tmp_path / "labelme/ann/overview.json", [], imagePath="overview.png")
        yolo(tmp_path / "yolo/labels/overview.txt", "")
    yolo(tmp_path / "yolo/data.yaml", NAMES)
    for source in ("labelme", "yolo"):
        tiles, _ = read(source, tmp_path / source, tmp_path / f"of_{source}")
        assert tiles.counts() == {"dent": 3, "Free": 1}


def test_a_date_is_no_uploads_prefix(tmp_path):
    photograph(tmp_path / "in/images/001.png")
    photograph(tmp_path / "in/images/002.png", 1)
    yolo(tmp_path / "in/labels/20240101-001.txt")
    yolo(tmp_path / "in/labels/0a1b2c3d-002.txt")
    yolo(tmp_path / "in/data.yaml", NAMES)
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.names == ("002",) and tiles.labels.tolist() == [1]
    assert "1 label file, without a photograph of its name" in told
    assert "1 photograph, of the name of a label file that is not its own" in told


def embedded(path):
    """What LabelMe embeds of a photograph."""
    return base64.b64encode(path.read_bytes()).decode()


def test_a_picture_of_the_mask_is_not_the_embedded_photograph(tmp_path):
    image = photograph(tmp_path / "p1.jpg")
    pixels = np.asarray(Image.open(image)).transpose(2, 0, 1)
    labelme(tmp_path / "in/a/p1.json", [dent()], imagePath="p1.jpg", imageData=embedded(image))
    labelme(tmp_path / "in/b/p2.json", [dent()], imagePath="p2.jpg", imageData=embedded(image))
    for name in ("masks/p1.png", "b/p2.png"):  # elsewhere, and beside
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(square(255)).save(tmp_path / "in" / name)
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 2, "Free": 0}
    assert (tiles.images[:, :, :HEIGHT, :WIDTH].numpy() == pixels).all()


def test_an_embedded_photograph_is_told_from_another_of_its_name(tmp_path):
    """It is that of the other folder only where it shows the same, also stored anew."""
    photograph(tmp_path / "in/photos/001.png")
    same = photograph(tmp_path / "in/photos/002.jpg", 1)
    own = photograph(tmp_path / "own.png", 2)
    Image.open(same).save(tmp_path / "again.jpg", quality=90)
    again = embedded(tmp_path / "again.jpg")
    labelme(tmp_path / "in/a/001.json", [dent()], imagePath="001.png", imageData=embedded(own))
    labelme(tmp_path / "in/a/002.json", [dent()], imagePath="002.jpg", imageData=again)
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    labels = dict(zip(tiles.names, tiles.labels.tolist(), strict=True))
    assert labels == {"a_001": 1, "photos_001": 0, "photos_002": 1}


@pytest.mark.parametrize("name", ["p1.bmp", "old.png"])
def test_a_photograph_that_was_stored_anew_elsewhere_is_the_embedded_one(tmp_path, name):
    """Its suffix is another now, or imagePath still has the name before it was renamed."""
    image = photograph(tmp_path / "in/images/p1.jpg")
    Image.open(image).save(tmp_path / "stored.png")
    stored = embedded(tmp_path / "stored.png")
    labelme(tmp_path / "in/json/p1.json", [dent()], imagePath=f"../images/{name}", imageData=stored)
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 1, "Free": 0}


def test_an_embedded_photograph_that_was_resized_elsewhere_is_refused(tmp_path):
    photograph(tmp_path / "whole.png", size=(8 * HEIGHT, 8 * WIDTH))
    image = Image.open(tmp_path / "whole.png").resize((WIDTH, HEIGHT))  # smooth enough to resize
    image.save(tmp_path / "stored.png")
    (tmp_path / "in/images").mkdir(parents=True)
    image.resize((WIDTH // 2, HEIGHT // 2)).save(tmp_path / "in/images/p1.png")
    stored = embedded(tmp_path / "stored.png")
    labelme(tmp_path / "in/json/p1.json", [dent()], imagePath="p1.png", imageData=stored)
    with pytest.raises(DataError, match="is 20×12 pixels, but was annotated when it had"):
        read("labelme", tmp_path / "in", tmp_path)


def test_a_photograph_and_its_json_renamed_together_are_told(tmp_path):
    for k, name in enumerate(("001.png", "b_001.png", "c.png")):
        photograph(tmp_path / "in" / name, k)
    labelme(tmp_path / "in/b_001.json", [dent()], imagePath="001.png")
    labelme(tmp_path / "in/c.json", [dent()], imagePath="c_rgb.jpg")  # beside a mask, c.png
    photograph(tmp_path / "in/c_rgb.jpg", 3)
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 1, "Free": 0}
    assert "its imagePath names 001.png, and b_001.png is called as the file is" in told
    assert "1 picture, whose JSON file is of another one" in told


def test_a_photograph_is_no_picture_of_its_name_elsewhere(tmp_path):
    for folders in (
        ("JPEGImages", "SegmentationClass", "results"),
        ("images", "masks", "overlays"),
    ):
        images, masks, others = (tmp_path / folders[0] / folder for folder in folders)
        photograph(images / "p1.jpg")
        photograph(others / "p1.png", 1)
        masks.mkdir()
        Image.fromarray(square(1)).save(masks / "p1.png")
        (images.parent / "classes.txt").write_text("background\ndent\n")
        out = convert("voc", images.parent, tmp_path / f"out_{folders[0]}", tell=str)
        assert [path.name for path in (out / "images").iterdir()] == ["p1.jpg"]


@pytest.mark.parametrize("other", ["pit\ndent\n", "dent\n"])
@pytest.mark.parametrize("source", ["yolo", "voc"])
def test_lists_of_classes_that_contradict_each_other_are_refused(tmp_path, source, other):
    for subset, names in (("train", "dent\npit\n"), ("val", other)):
        photograph(tmp_path / f"in/images/{subset}/{subset}1.png", len(subset))
        yolo(tmp_path / f"in/labels/{subset}/{subset}1.txt")
        mask = tmp_path / f"in/masks/{subset}/{subset}1.png"
        mask.parent.mkdir(parents=True)
        Image.fromarray(square(1)).save(mask)
        (tmp_path / f"in/labels/{subset}/classes.txt").write_text(names)
    if other.startswith("dent"):  # the beginning of the longer one
        assert read(source, tmp_path / "in", tmp_path)[0].counts() == {"dent": 2, "Free": 0}
        return
    with pytest.raises(DataError, match=r"labels/val/classes\.txt name different classes"):
        read(source, tmp_path / "in", tmp_path)


def test_photographs_of_two_files_of_coco_are_told(tmp_path):
    for name in ("a.png", "b.png"):
        photograph(tmp_path / "in" / name, ord(name[0]))
    coco(tmp_path / "in/new.json", [(0, 2, FLAT)])
    coco(tmp_path / "in/old.json", [(0, 1, FLAT), (1, 1, FLAT)])
    _, told = read("coco", tmp_path / "in", tmp_path)
    assert "2 photographs listed in new.json and in old.json: the annotations of both" in told


def test_a_photograph_that_another_program_annotated_is_not_defect_free(tmp_path):
    for k, name in enumerate(("p1", "p2", "p3", "p4")):
        photograph(tmp_path / f"in/images/{name}.png", k)
    yolo(tmp_path / "in/labels/p1.txt")
    yolo(tmp_path / "in/data.yaml", NAMES)
    labelme(tmp_path / "in/images/p2.json", [dent()])
    labelme(tmp_path / "in/images/p3.json", [])  # nothing is there
    yolo(tmp_path / "in/images/p4.xml", "<annotation><object><name>dent</name></object>")
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.names == ("p1", "p3") and tiles.labels.tolist() == [1, 0]
    assert "1 photograph, annotated in a file of its name that is not read here (.json)" in told
    assert "1 photograph, annotated in a file of its name that is not read here (.xml)" in told


def test_thumbnails_that_systems_add_are_no_photographs(tmp_path):
    for k, name in enumerate(("a.png", "@eaDir/a.png/THUMB_XL.jpg", "__MACOSX/a/b.png")):
        photograph(tmp_path / "in" / name, k)
    labelme(tmp_path / "in/a.json", [dent()])
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.counts() == {"dent": 1, "Free": 0}


@pytest.mark.parametrize(
    "table",
    [
        "train: [images/b1, images/b2]\nval: images/b3\n",
        "train: [/home/me/ds/images/b1, /home/me/ds/images/b2]\nval: /home/me/ds/images/b3\n",
        "train: ['images\\b1', 'images\\b2']\nval: 'C:\\ds\\images\\b3'\n",
        "train: autosplit_train.txt\nval: ours.txt\n",
        "train: b1/listed.txt\nval: b3/listed.txt\n",
        "train: ../b1/images\nval: ''\ntest: .\nkpt_shape: null\n",
    ],
)
def test_splits_of_yolo_in_other_spellings(tmp_path, table):
    for name in ("b1", "b2", "b3"):
        photograph(tmp_path / f"in/images/{name}/{name}.png", ord(name[1]))
        yolo(tmp_path / f"in/labels/{name}/{name}.txt")
    yolo(tmp_path / "in/data.yaml", NAMES + table)
    lists = {"autosplit_train": ("b1", "b2"), "ours": ("b3",)}
    lists |= {"b1/listed": ("b1", "b2"), "b3/listed": ("b3",)}
    lists = {name: parts for name, parts in lists.items() if f"{name}.txt" in table}
    for listed, names in lists.items():
        lines = [f"./images/{name}/{name}.png" for name in names]
        yolo(tmp_path / f"in/{listed}.txt", "\n".join(lines))
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    if "../b1" in table:
        assert tiles.given is None and "its train, ../b1/images, is no folder here" in told
        assert told.count("no folder here") == 1
    else:
        assert tiles.given == ("train", "train", "val")


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_palettes_of_black_and_white_are_read_by_their_colours(tmp_path, suffix):
    mask = Image.fromarray(square(1), "P")
    mask = mask.point(lambda index: 1 - index)
    mask.putpalette([255, 255, 255, 0, 0, 0])
    root = folder(tmp_path, {f"masks/dent/a.{suffix}": mask})
    assert int((from_folder(root, size=None).masks == 1).sum()) == 64


@pytest.mark.parametrize("quality", [75, 90, 95, 98])
@pytest.mark.parametrize("names", ["", "crack\n"])
def test_masks_that_were_once_jpegs_mark_what_they_did(tmp_path, quality, names):
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.line(truth, (3, 3), (30, 17), 255, 1)
    stored = io.BytesIO()
    Image.fromarray(truth).save(stored, "JPEG", quality=quality)
    noisy = np.asarray(Image.open(stored))
    path = "masks/a.png" if names else "masks/crack/a.png"
    tiles = from_folder(folder(tmp_path, {path: noisy}, names), size=None)
    assert ((tiles.masks[0] == 1).numpy()[:HEIGHT, :WIDTH] == (truth > 0)).mean() > 0.999


@pytest.mark.parametrize("values", [(1, 255), (1, 2, 255), (38, 75, 113, 15, 53, 90, 128)])
def test_numbers_of_instances_beside_bright_ones_are_no_noise(tmp_path, values):
    """A border of 255, and the greys of VOC's palette."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k, value in enumerate(values):
        mask[4:12, 2 + 5 * k : 7 + 5 * k] = value
    tiles = from_folder(folder(tmp_path, {"masks/dent/a.png": mask}), size=None)
    assert int((tiles.masks == 1).sum()) == 40 * len(values)


def test_palettes_without_a_colour_are_read_by_their_indices(tmp_path):
    mask = Image.fromarray(square(1), "P")
    mask.putpalette([0, 0, 0] * 2)
    root = folder(tmp_path, {"masks/dent/a.png": mask})
    assert int((from_folder(root, size=None).masks == 1).sum()) == 64


def test_many_instances_that_touch_are_all_marked(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(12):
        mask[4:12, 2 + 3 * k : 5 + 3 * k] = 20 * (k + 1)
    mask[12:16, 2:38] = 20
    tiles = from_folder(folder(tmp_path, {"masks/dent/a.png": mask}), size=None)
    assert int((tiles.masks == 1).sum()) == int((mask > 0).sum())


def test_names_whose_accents_are_stored_in_two_ways_are_one_class(tmp_path):
    two = [unicodedata.normalize(form, "Blöße") for form in ("NFC", "NFD")]
    for k, name in enumerate(two):
        photograph(tmp_path / f"in/{k}.png", k)
        labelme(tmp_path / f"in/{k}.json", [dent(label=name)])
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.counts() == {two[0]: 2, "Free": 0}
    root = folder(tmp_path / "folder", {f"masks/{two[1]}/a.png": square(255)}, f"{two[0]}\n")
    assert from_folder(root, size=None).classes == (two[0],)


def test_names_that_yaml_would_read_as_something_else_are_names(tmp_path):
    photograph(tmp_path / "in/images/a.png")
    lines = [f"{number} 0.1 {y} 0.3 {y} 0.3 0.9\n" for number, y in ((0, 0.6), (1, 0.2))]
    yolo(tmp_path / "in/labels/a.txt", "".join(lines[::-1]))
    yolo(tmp_path / "in/data.yaml", "names: {0: no, 1: 010}\nval: null\n")
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.classes == ("no", "010") and "no folder here" not in told


def test_poses_are_no_outlines(tmp_path):
    photograph(tmp_path / "in/images/a.png")
    yolo(tmp_path / "in/labels/a.txt", "0 .5 .5 .4 .4 .3 .3 2 .6 .6 2\n")
    yolo(tmp_path / "in/data.yaml", f"kpt_shape: [2, 3]\n{NAMES}")
    with pytest.raises(DataError, match=r"data\.yaml: of poses \(kpt_shape\)"):
        read("yolo", tmp_path / "in", tmp_path)


def test_photographs_whose_names_differ_in_capitals_are_told_apart(tmp_path):
    for k, name in enumerate(("IMG.png", "img.png")):
        photograph(tmp_path / "in" / name, k)
    coco(tmp_path / "in/a.json", [(0, 1, FLAT)], ("img.png",))
    out = convert("coco", tmp_path / "in", tmp_path / "out", tell=str)
    assert [path.name for path in (out / "images").iterdir()] == ["img.png"]


def test_zips_of_macos_keep_their_names(tmp_path):
    """Its Finder writes names in UTF-8 without the bit that says so."""
    folder(tmp_path, {"masks/Schweißnaht/ä.png": square(255)})
    packed = tmp_path / "parts.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in (tmp_path / "parts").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "parts").as_posix())
    content = packed.read_bytes()
    for head, at in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):  # where the bit is in each head
        start = content.find(head)
        while start >= 0:
            where = start + at
            content = content[:where] + bytes([content[where] & ~8]) + content[where + 1 :]
            start = content.find(head, start + 1)
    packed.write_bytes(content)
    with zipfile.ZipFile(packed) as archive:
        assert any("├" in name for name in archive.namelist())
    tiles = from_folder(packed, size=None)
    assert tiles.classes == ("Schweißnaht",) and tiles.names == ("ä",)


# What files of public data sets were read as


OUTLINE = "0 .1 .1 .5 .1 .5 .6\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 .62 .33 .47 .51 .64 .39 2 .58 .31 2", "the points of a pose, which have no outline"),
        ("0 .5 .5 .4 .4 .3 .3 0 .6 .6 2 .5 .5 1", "the points of a pose, which have no outline"),
        (f"0 .5 .5 .4 .4 {'.4 .5 1 ' * 4}", "the points of a pose, which have no outline"),
        ("0 .5 .5 .1 .1 .93", "a box without an outline"),
        ("0 .5 .5 .1 .1 7", "a box without an outline"),
    ],
)
def test_lines_of_poses_and_boxes_are_no_outlines_whatever_data_yaml_says(tmp_path, line, why):
    for k, (name, text) in enumerate({"a": OUTLINE, "b": line}.items()):
        photograph(tmp_path / f"in/images/{name}.png", k)
        yolo(tmp_path / f"in/labels/{name}.txt", text)
    yolo(tmp_path / "in/classes.txt", "dent\n")
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.names == ("a",) and f"1 annotation, {why}" in told


def test_an_outline_along_the_edges_is_no_pose(tmp_path):
    photograph(tmp_path / "in/images/a.png")
    yolo(tmp_path / "in/labels/a.txt", "0 .5 .5 .9 .9 .6 .6 1 .7 .3 1\n0 0 0 1 0 1 1 0 1 0 0\n")
    yolo(tmp_path / "in/classes.txt", "dent\n")
    read("yolo", tmp_path / "in", tmp_path, strict=True)


def test_a_flip_of_a_poses_points_tells_of_poses(tmp_path):
    photograph(tmp_path / "in/images/a.png")
    yolo(tmp_path / "in/labels/a.txt", OUTLINE)
    yolo(tmp_path / "in/data.yaml", f"flip_idx: [0, 2, 1]\n{NAMES}")
    with pytest.raises(DataError, match=r"data\.yaml: of poses \(flip_idx\)"):
        read("yolo", tmp_path / "in", tmp_path)


@pytest.mark.parametrize("more", ["", OUTLINE])
def test_oriented_boxes_are_told_where_there_is_nothing_else(tmp_path, more):
    photograph(tmp_path / "in/images/a.png")
    yolo(tmp_path / "in/labels/a.txt", f"0 .1 .1 .5 .2 .451 .4 .05 .3\n{more}")
    yolo(tmp_path / "in/classes.txt", "dent\n")
    _, told = read("yolo", tmp_path / "in", tmp_path)
    assert ("every outline is a parallelogram of 4 points" in told) == (not more)


def test_a_label_file_in_another_encoding_costs_its_photograph_alone(tmp_path):
    for k, name in enumerate("ab"):
        photograph(tmp_path / f"in/images/{name}.png", k)
        yolo(tmp_path / f"in/labels/{name}.txt", OUTLINE)
    (tmp_path / "in/labels/b.txt").write_text(OUTLINE, encoding="utf-16")
    yolo(tmp_path / "in/classes.txt", "dent\n")
    tiles, told = read("yolo", tmp_path / "in", tmp_path)
    assert tiles.names == ("a",) and "1 label file, not UTF-8 text" in told


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation", "quadrilateral"])
def test_rectangles_in_any_direction_are_filled_as_polygons(tmp_path, kind):
    for k, shape_type in enumerate(("polygon", kind)):
        photograph(tmp_path / f"in/{k}.png", k)
        corners = [[6, 4], [16, 8], [13, 16], [3, 12]]
        labelme(tmp_path / f"in/{k}.json", [dent(points=corners, shape_type=shape_type)])
    masks = read("labelme", tmp_path / "in", tmp_path, strict=True)[0].masks
    assert masks[0].any() and torch.equal(masks[0], masks[1])


def test_a_mask_between_pixels_lies_at_the_nearest_and_keeps_its_size(tmp_path):
    photograph(tmp_path / "in/a.png")
    buffer = io.BytesIO()
    Image.fromarray(np.ones((4, 6), bool)).save(buffer, "PNG")
    packed = base64.b64encode(buffer.getvalue()).decode()
    points = [[9.7, 5.6], [14.7, 8.5]]  # rounded one by one, three rows
    labelme(tmp_path / "in/a.json", [dent(points=points, shape_type="mask", mask=packed)])
    (mask,) = read("labelme", tmp_path / "in", tmp_path, strict=True)[0].masks
    assert mask.nonzero().amin(dim=0).tolist() == [6, 10] and int(mask.sum()) == 24


def test_flags_of_whole_photographs_are_told_and_those_of_a_class_are_no_free_ones(tmp_path):
    flags = {"dented": {"dent": True}, "good": {"ok": True}, "odd": {"blurry": True, "dent": False}}
    photograph(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", [dent()])
    for k, (name, found) in enumerate(flags.items(), start=1):
        photograph(tmp_path / f"in/{name}.png", k)
        labelme(tmp_path / f"in/{name}.json", [], flags=found)
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "good", "odd")
    assert "1 photograph said to be 'blurry', without a region, taken as defect-free" in told
    assert "1 photograph, said to be of dent, without a region" in told and "'ok'" not in told
    with pytest.raises(DataError, match=r"dented\.png: said to be of dent, without a region"):
        read("labelme", tmp_path / "in", tmp_path / "strict", strict=True)


@pytest.mark.parametrize("own", ["", "Annotations/"])
def test_photographs_that_vocs_boxes_annotate_are_not_defect_free(tmp_path, own):
    cvat(tmp_path / "in", {"a": 1, "b": 0, "c": 0, "d": 0}, {"default": ["a", "b", "c"]})
    for name, inside in {"b": "<object><name>dent</name></object>", "c": ""}.items():
        yolo(
            tmp_path / f"in/{own or 'JPEGImages/'}{name}.xml", f"<annotation>{inside}</annotation>"
        )
    tiles, told = read("voc", tmp_path / "in", tmp_path, unlisted="free")
    assert tiles.names == ("a", "c", "d") and tiles.counts() == {"dent": 1, "Free": 2}
    assert "1 photograph listed in ImageSets/ without a mask taken as defect-free" in told
    assert "1 photograph, annotated in a file of its name that is not read here (.xml)" in told


def test_label_files_of_other_programs_count_wherever_they_lie(tmp_path):
    for k, name in enumerate("abcd"):
        photograph(tmp_path / f"in/{name}.png", k)
    labelme(tmp_path / "in/a.json", [dent()])
    yolo(tmp_path / "in/labels/b.txt", OUTLINE)
    yolo(tmp_path / "in/c.txt", "0 .5 .5 .1 1e-05\r\n")
    yolo(tmp_path / "in/d.txt", "taken at 5 in the morning, in 4 parts\n")
    tiles, told = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "d")
    assert "2 photographs, annotated in a file of its name that is not read here (.txt)" in told


def test_a_file_of_another_folders_photograph_is_not_that_of_its_name_here(tmp_path):
    for k, name in enumerate(("line1/001", "line2/001", "line1/002")):
        photograph(tmp_path / f"in/{name}.png", k)
    labelme(tmp_path / "in/line1/002.json", [dent()])
    yolo(tmp_path / "in/line2/001.xml", "<annotation><object><name>x</name></object></annotation>")
    tiles, _ = read("labelme", tmp_path / "in", tmp_path)
    assert tiles.names == ("001", "002")


def test_two_categories_of_one_name_are_told(tmp_path):
    photograph(tmp_path / "in/a.png")
    other = [20, 4, 30, 4, 25, 9]
    categories = ((1, "left"), (2, "left"), (3, "left"))
    coco(tmp_path / "in/c.json", [(0, 1, FLAT), (0, 2, [other])], ["a.png"], categories)
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert tiles.classes == ("left",)
    assert "the categories 1 and 2 are all called left and become one class" in told


def test_an_annotation_or_a_category_of_nothing_costs_itself_alone(tmp_path):
    for k, name in enumerate("ab"):
        photograph(tmp_path / f"in/{name}.png", k)
    annotations = [(0, 1, FLAT), (1, None, FLAT), (0, 5, FLAT)]
    coco(tmp_path / "in/c.json", annotations, categories=((1, "dent"), (5, ""), (6, None)))
    tiles, told = read("coco", tmp_path / "in", tmp_path)
    assert tiles.names == ("a",) and tiles.classes == ("dent",)
    assert "the id None is neither a number nor a name" in told
    assert "of category 5, which the file's categories do not list" in told


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2009"])
def test_spaces_of_any_width_are_spaces(tmp_path, space):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"], ((1, f"hot{space}spot"),))
    assert read("coco", tmp_path / "in", tmp_path)[0].classes == ("hot spot",)


@pytest.mark.parametrize("label", ["a\tb", "a\nb", "a\u2028b", "a\x85b", "\u00a0"])
def test_what_breaks_a_line_is_in_no_name(tmp_path, label):
    photograph(tmp_path / "in/a.png")
    labelme(tmp_path / "in/a.json", [dent(label=label)])
    with pytest.raises(DataError, match="is no name"):
        read("labelme", tmp_path / "in", tmp_path)


@pytest.mark.parametrize(
    "entry",
    [{"file_name": "a"}, {"coco_url": "http://images.example.org/train/a.png"}],
)
def test_entries_without_a_suffix_or_with_an_address_alone_are_found(tmp_path, entry):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    content = json.loads((tmp_path / "in/c.json").read_text())
    content["images"] = [{"id": 0, **entry}]
    (tmp_path / "in/c.json").write_text(json.dumps(content))
    assert read("coco", tmp_path / "in", tmp_path)[0].counts() == {"dent": 1, "Free": 0}


def test_jsons_of_captions_and_predictions_are_named_as_such(tmp_path):
    photograph(tmp_path / "in/a.png")
    coco(tmp_path / "in/c.json", [(0, 1, FLAT)], ["a.png"])
    coco(tmp_path / "in/captions.json", [(0, None, None)], ["a.png"], categories=())
    coco(tmp_path / "in/info.json", [], ["a.png"])
    predicted = [{"image_id": 0, "category_id": 1, "segmentation": FLAT, "score": 0.9, "id": 1}]
    (tmp_path / "in/predictions.json").write_text(json.dumps(predicted))
    told = read("coco", tmp_path / "in", tmp_path)[1]
    assert "it lists no categories" in told and "older state" not in told
    assert "it is a list of COCO's predictions: export the annotations" in told


def stroke(tmp_path, name):
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[4:8, 4:8] = 255
    Image.fromarray(found).save(tmp_path / "in" / name)


def task(number, name, *results, **more):
    annotations = [{"id": 10 * number, "result": list(results)}]
    return {
        "id": number,
        "data": {"image": f"/data/upload/{name}"},
        "annotations": annotations,
    } | more


BRUSH = {"type": "brushlabels", "from_name": "tag", "value": {"brushlabels": ["dent"]}}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bitmasklabels", {"imageDataURL": "data:image/png;base64,AA", "bitmasklabels": ["dent"]}),
        ("vectorlabels", {"vertices": [], "vectorlabels": ["scratch"]}),
        ("vector", {"vertices": []}),
        ("of a later version", {}),
        ("", {"points": [], "polygonlabels": ["dent"]}),
        ("", {"x": 1, "y": 1, "width": 5, "height": 5}),
    ],
)
def test_regions_without_a_png_are_no_defect_free_photographs(tmp_path, kind, value):
    for k, name in enumerate("ab"):
        photograph(tmp_path / f"in/{name}.png", k)
    stroke(tmp_path, "task-1-annotation-10-by-1-tag-dent-0.png")
    tasks = [task(1, "a.png", BRUSH), task(2, "b.png", {"type": kind, "value": value})]
    (tmp_path / "in/p.json").write_text(json.dumps(tasks))
    tiles, told = read("label-studio", tmp_path / "in", tmp_path)
    assert tiles.names == ("a",) and "for which there is no PNG" in told


def test_choices_for_whole_photographs_are_told(tmp_path):
    for k, name in enumerate("abcd"):
        photograph(tmp_path / f"in/{name}.png", k)
    stroke(tmp_path, "task-1-annotation-10-by-1-tag-dent-0.png")
    tasks = [task(1, "a.png", BRUSH)]
    for number, (name, word) in enumerate({"b": "Dent", "c": "rework", "d": "good"}.items(), 2):
        chosen = {"type": "choices", "value": {"choices": [word]}}
        tasks.append(task(number, f"{name}.png", chosen, {"type": "relation"}))
    (tmp_path / "in/p.json").write_text(json.dumps(tasks))
    tiles, told = read("label-studio", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "c", "d")
    assert "1 photograph said to be 'rework', without a region, taken as defect-free" in told
    assert "1 photograph, said to be of Dent, without a region" in told and "'good'" not in told


def test_tasks_of_no_or_of_several_photographs_cost_themselves_alone(tmp_path):
    for k, name in enumerate("abc"):
        photograph(tmp_path / f"in/{name}.png", k)
    stroke(tmp_path, "task-1-annotation-10-by-1-tag-dent-0.png")
    several = {"image": "/data/upload/b.png", "other": "/data/upload/c.png"}
    preview = {"image": "/data/upload/a.png", "thumbnail": "/data/upload/a_small.png"}
    tasks = [
        task(1, "a.png", BRUSH, data=preview),
        task(2, "image2", BRUSH),
        task(3, "", BRUSH, data=several),
    ]
    (tmp_path / "in/p.json").write_text(json.dumps(tasks))
    tiles, told = read("label-studio", tmp_path / "in", tmp_path)
    assert tiles.names == ("a",) and "1 task, of no photograph of a format that is read" in told
    assert "1 task, of several photographs: ['b.png', 'c.png']" in told


def test_annotations_were_once_called_completions(tmp_path):
    for k, name in enumerate("abc"):
        photograph(tmp_path / f"in/{name}.png", k)
    stroke(tmp_path, "task-1-annotation-10-by-1-tag-dent-0.png")
    tasks = [task(1, "a.png", BRUSH), task(2, "b.png", BRUSH), task(3, "c.png")]
    for each in tasks:
        each["completions"] = each.pop("annotations")
    (tmp_path / "in/p.json").write_text(json.dumps(tasks))
    tiles, told = read("label-studio", tmp_path / "in", tmp_path)
    assert tiles.names == ("a", "c") and tiles.labels.tolist() == [1, 0]
    assert "1 annotation, of dent, for which there is no PNG" in told
