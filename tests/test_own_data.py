"""Notebook 8 on a folder that has nothing to do with the toy tiles: photographs of leather.

They are oblong and in colour.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from dlilib import IGNORE, DataError, Run, TileSet, fit, from_folder, models
from dlilib.data.convert import to_folder
from dlilib.study import own_data
from dlilib.training import trainer

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "08_your_own_data.ipynb"
SHAPE = (72, 104)
COUNTS = {"cut": 8, "stain": 10, None: 22}


def leather(rng):
    grain = cv2.GaussianBlur(rng.standard_normal(SHAPE), (0, 0), 1.5)
    return np.clip(
        np.array([150, 100, 60]) + 60 * grain[..., None] + rng.normal(0, 3, (*SHAPE, 3)), 0, 255
    )


def cut(rng, image, mask):
    ends = rng.integers(15, 57, (2, 2)) + np.array([[0, 0], [20, 5]])
    cv2.line(mask, *ends.tolist(), 255, 3)
    image[mask > 0] *= 0.3


def stain(rng, image, mask):
    cv2.ellipse(
        mask, rng.integers(20, 50, 2).tolist(), rng.integers(8, 16, 2).tolist(), 30, 0, 360, 255, -1
    )
    image[mask > 0] = 0.5 * image[mask > 0] + 0.5 * np.array([40, 60, 160])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """40 photographs, two of each part, with a folder of masks for each of two classes."""
    root, rng, lines = (
        tmp_path_factory.mktemp("own") / "My leather",
        np.random.default_rng(0),
        ["image,tile"],
    )
    draw = {"cut": cut, "stain": stain}
    (root / "images").mkdir(parents=True)
    for kind, count in COUNTS.items():
        for k in range(count):
            image, mask, stem = leather(rng), np.zeros(SHAPE, np.uint8), f"{kind or 'good'} {k:02}"
            if kind:
                (root / "masks" / kind).mkdir(parents=True, exist_ok=True)
                draw[kind](rng, image, mask)
                Image.fromarray(mask).save(root / "masks" / kind / f"{stem}.png")
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{stem}.jpg")
            lines.append(f"{stem},{kind}{k // 2}")
    (root / "tiles.csv").write_text("\n".join(lines))
    return root


def run(photographs, tmp_path, *words):
    """Notebook 8 by papermill, as a user would in notebooks/; its text outputs, joined."""
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    shutil.copy(NOTEBOOK, tmp_path / "notebooks")
    command = [
        sys.executable,
        "-m",
        "papermill",
        NOTEBOOK.name,
        "mine.ipynb",
        "-p",
        "root",
        photographs,
        *words,
    ]
    with FileLock(tmp_path.parents[1] / "papermill.lock"):  # two kernels may be given one port
        done = subprocess.run(command, cwd=tmp_path / "notebooks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = nbformat.read(tmp_path / "notebooks" / "mine.ipynb", 4).cells
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


@pytest.mark.slow
def test_a_folder_of_photographs_goes_through(photographs, tmp_path):
    text = run(
        photographs,
        tmp_path,
        "-p",
        "steps",
        "4",
        "-p",
        "resize",
        "pad",
        "-y",
        "encoders: [mobileone_s1]",
    )
    assert re.search(r"My_leather-\w{8}: 40 images of \(3, 72, 104\), 20 parts", text)
    assert (
        re.search(r"cut +8 ", text)
        and re.search(r"stain +10 ", text)
        and re.search(r"Free +22 ", text)
    )
    rows = re.findall(
        r"^(?:mobileone_s1)? +(DLI|none) +(\S+) +(\S+) +(\S+) +\d of 4 +\d+", text, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["DLI", "none"]
    assert all(0 <= float(value) <= 1 for row in rows for value in row[1:])
    own = tmp_path / "results" / "smoke" / "own"
    assert len(list((own / "onnx").glob("My_leather-????????-mobileone_s1-dli-*.onnx"))) == 1
    assert len(list((own / "figures").glob("*.png"))) == 3


@pytest.mark.slow
def test_a_first_look_needs_no_more_than_a_root(photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "notebooks" / "20240131")  # papermill reads a number
    text = run("20240131", tmp_path, "-p", "encoders", "resnet18", "-p", "size", "48")
    assert "Images of 104×72 pixels" in text and "resized to 48×48" in text
    assert re.search(r"20240131-\w{8}: 40 images of \(3, 48, 48\), 20 parts", text)
    assert re.search(r"^(?:resnet18)? +DLI +\S+ +\S+ +\S+ +\d of 4 ", text, re.MULTILINE)
    assert re.search(r"Measured here: \S+ images of 48×48 a second.*`-p preset lite -p steps", text)


def test_patches_are_cut_where_defects_would_vanish(tmp_path):
    for name in ("images", "masks/pit"):
        (tmp_path / "large" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(6):
        image = rng.integers(0, 256, (600, 800), np.uint8)
        Image.fromarray(image).save(tmp_path / f"large/images/{k}.png")
        mask = np.zeros((600, 800), np.uint8)
        mask[300:312, 400:412] = 255
        if k % 2:
            Image.fromarray(mask).save(tmp_path / f"large/masks/pit/{k}.png")
    options, told = own_data.look(tmp_path / "large", size=64)
    assert options == {"most": 240, "tile": (64, 24), "free_patches": 2}
    assert "a defect would be 1.0 pixels wide" in told
    tiles, remarks = own_data.read(tmp_path / "large", **options)
    assert tiles.images.shape[1:] == (1, 64, 64) and tiles.counts()["Free"] == 12 and not remarks
    options, told = own_data.look(tmp_path / "large", size=512)
    assert options["size"] == 512 and "resized to 512×512" in told


def test_a_class_without_a_pixel_is_left_out_and_one_below_another_is_kept(tmp_path):
    masks = np.zeros((3, 16, 16), np.uint8)
    masks[0, :4], masks[0, 8, :3], masks[1, :2] = 3, 2, 3
    tiles = TileSet.from_arrays(masks * 40, masks, ["pit", "hair", "burr"])
    tiles, remarks = own_data.read(to_folder(tiles, tmp_path / "parts"), size=None)
    assert tiles.classes == ("hair", "burr") and tiles.labels.tolist() == [2, 2, 0]
    assert tiles.masks[0, 8, :4].tolist() == [1] * 3 + [0] and int(tiles.masks[0].max()) == 2
    assert "No mask shows pit: left out." in remarks
    assert "No image is labelled with hair" in remarks[-1]


def test_a_class_below_another_trains_and_is_not_injected():
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32), np.uint8)
    masks = np.zeros((20, 32, 32), np.uint8)
    masks[:10, :8], masks[:10, 20, :9] = 1, 2
    tiles = TileSet.from_arrays(images, masks, ["blob", "hair"])
    assert trainer.injected(tiles) == {"blob": 1.0, "hair": 0.0}
    train, _, protocol, seed = own_data.divide(tiles, 0)
    run = Run.for_tiles(tiles, epochs=1, split=protocol, seed=seed, weights=None, batch=8)
    record = fit(run, tiles)
    assert len(record["last"]["classes"]) == 2
    assert trainer.injected(tiles.subset(train)) == trainer.injected(tiles)
    assert trainer.injected(tiles.subset(range(10, 20))) is None


def test_a_folder_without_a_defect_free_image_is_refused_with_the_way_on(tmp_path):
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[:, 2:6, 2:6] = 1
    images = np.random.default_rng(0).integers(0, 256, masks.shape, np.uint8)
    root = to_folder(TileSet.from_arrays(images, masks, ["pit"]), tmp_path / "parts")
    tiles, _ = own_data.read(root, size=None)
    with pytest.raises(DataError, match=r"each of the 3 images .*photographs.*patches.*tile=\["):
        own_data.require_both(tiles, root)
    tiles, _ = own_data.read(root, tile=(32, 0))
    own_data.require_both(tiles, root)
    assert tiles.counts() == {"pit": 3, "Free": 9}
    with pytest.raises(DataError, match="no mask of the 9 images that were read marks a defect"):
        own_data.require_both(tiles.subset((tiles.labels == 0).numpy()), root)


def with_free_part():
    """Thirty parts with a defect each, and one with ten defect-free images."""
    masks = np.zeros((40, 16, 16), np.uint8)
    masks[:30, 2:6, 2:6] = 1
    images = np.random.default_rng(0).integers(0, 256, masks.shape, np.uint8)
    groups = [*range(30), *[30] * 10]
    return TileSet.from_arrays(images, masks, ["pit"], groups=groups)


def with_single_parts():
    """Thirty parts of a class, one of each of four others, and one that is defect-free."""
    labels = [1] * 30 + [2, 3, 4, 5, 0]
    masks = np.zeros((35, 16, 16), np.uint8)
    masks[:, 2:6, 2:6] = np.reshape(labels, (-1, 1, 1))
    images = np.random.default_rng(0).integers(0, 256, masks.shape, np.uint8)
    return TileSet.from_arrays(images, masks, list("abcde"))


def test_a_look_is_split_so_that_a_defect_free_image_trains():
    tiles = with_free_part()  # which one of five folds has
    seeds = [own_data.divide(tiles, seed)[3] for seed in range(5)]
    (moved,) = (seed for seed, taken in enumerate(seeds) if taken != seed)
    with pytest.warns(UserWarning, match="none of the .* training images is defect-free, so dli"):
        run = Run.for_tiles(tiles, split="tile", seed=moved, free_in_val=True, weights=None)
        trainer.Trainer(run, tiles, torch.device("cpu"))
    with pytest.raises(ValueError, match="images of every class and a defect-free one to train"):
        own_data.divide(with_single_parts(), 9)  # some splits lack the one, some the other
    given = replace(tiles, given=("train",) * 30 + ("val",) * 10)
    with pytest.raises(ValueError, match="no split leaves a defect-free image to train with"):
        own_data.divide(given, 0)


GIVEN = {"masks": "any", "mask_suffix": "", "classes": None}


@pytest.mark.parametrize(
    ("options", "given", "words", "side"),
    [
        ({**GIVEN, "size": 64, "resize": "bilinear"}, {}, "3000`", 128),
        ({**GIVEN, "size": 96, "resize": "bilinear"}, {"size": 96}, "3000 -y 'size: 96'`", 96),
        ({**GIVEN, "size": None}, {}, "3000 -y 'resize: \"pad\"'`", 64),
        ({**GIVEN, "size": 64, "resize": "bilinear"}, {"look_seed": 2}, "3000 -y 'seed: 2'`", 128),
        ({**GIVEN, "tile": (64, 36), "free_patches": 2}, {}, "3000 -y 'tile: [64, 36]'`", 64),
        (
            {
                **{"masks": "nearest", "mask_suffix": "1", "classes": ["a b", "ü"]},
                **{"value_range": (9, 4000), "tile": (32, 8)},
            },
            {"encoders": "resnet18"},
            "3000 -y 'tile: [32, 8]' -y 'masks: \"nearest\"' -y 'mask_suffix: \"1\"' "
            "-y 'classes: [\"a b\", \"ü\"]' -y 'value_range: [9, 4000]' "
            "-y 'encoders: [\"resnet18\"]'`",
            32,
        ),
    ],
)
def test_the_real_try_that_is_told_keeps_what_the_look_chose(options, given, words, side):
    given = dict(given)
    look = {"epochs": 2, "size": 64, "seed": given.pop("look_seed", 0)}
    record = {"run": look, "data": {"train": [100, 140]}, "seconds": 48.0}
    more = {"size": 0, "encoders": [], "runs": 2, "steps": 3000, "preset": "lite", **given}
    told = own_data.real_try(record, Run(size=128, batch=8), options, **more)
    assert f"`-p preset lite -p steps {words}, trains 24,000 images of {side}×{side}" in told
    shown = {32: "10 min", 64: "40 min", 96: "90 min", 128: "2.7 hours"}[side]
    assert "Measured here: 10.0 images of 64×64 a second" in told and f"about {shown} e" in told


def test_a_look_is_split_so_that_each_class_trains(toy):
    train, val, protocol, seed = own_data.divide(toy, 3)
    assert (protocol, seed) == ("tile", 3) and not set(train) & set(val)
    alone = toy.subset([*np.flatnonzero(toy.labels == 0), *np.flatnonzero(toy.labels == 1)[:1]])
    with pytest.raises(ValueError, match="no split leaves an image of Break to train with"):
        own_data.divide(alone, 0)


def test_a_folder_written_from_tiles_reads_back(photographs, tmp_path):
    tiles = from_folder(photographs, size=None)
    again = from_folder(to_folder(tiles, tmp_path / "again"), size=None)
    assert (again.images == tiles.images).all() and (again.masks == tiles.masks).all()
    assert again.names == tiles.names and again.classes == tiles.classes
    assert len(np.unique(np.stack([again.groups, tiles.groups]), axis=1).T) == 20


def test_the_worst_misses_are_one_of_each_part_the_worst_first():
    masks = torch.zeros(5, 8, 8, dtype=torch.uint8)
    masks[:4, 0, :4] = 1  # four pixels each; the last image is defect-free
    masks[2, 1, :] = IGNORE
    tiles = TileSet.from_arrays(
        torch.zeros(5, 1, 8, 8, dtype=torch.uint8), masks, ["pit"], groups=[0, 0, 1, 2, 3]
    )
    maps = masks.clone()
    maps[0, 0, 0] = 0  # one of four missed
    maps[1, 0, :2] = 0  # two of four missed, in the same part
    maps[2] = torch.where(masks[2] == IGNORE, 1, masks[2])  # wrong only where nothing counts
    maps[4, 7, 7] = 1  # a false alarm: all that is marked
    found = own_data.worst_misses(maps, tiles, np.arange(5))
    assert found.index.tolist() == [4, 1]
    assert found["share"].tolist() == [1.0, 0.5] and found["pixels"].tolist() == [1, 2]
    val = np.array([3, 1])
    assert own_data.worst_misses(maps[val], tiles, val).index.tolist() == [1]
    assert len(own_data.worst_misses(maps, tiles, np.arange(5), most=1)) == 1
    assert len(own_data.worst_misses(masks, tiles, np.arange(5))) == 1  # nothing is wrong


def test_scores_tell_classes_and_false_alarms():
    last = {
        "iou": 0.5,
        "classes": [[5, 5, 0], [0, 0, 0]],
        "false_alarms": {"images": 1, "of": 8, "pixels": 3},
    }
    record = {"last": last, "data": {"classes": ["pit", "scratch"]}}
    run = Run(data="parts")
    found = own_data.scores({run: record, Run(data="parts", method="baseline"): record})
    assert found.index.tolist() == [("resnet18", "DLI"), ("resnet18", "none")]
    row = found.iloc[0]
    assert (row["all defects"], row["pit"], row["false alarms"]) == (0.5, 0.5, "1 of 8")
    assert np.isnan(row["scratch"]) and row["false pixels"] == 3


@pytest.mark.slow
def test_exported_models_are_compared_with_torch(tmp_path, monkeypatch):
    model = models.build("resnet18", 2, weights=None).eval()
    run, images = Run(data="parts", size=32), torch.rand(3, 1, 32, 32)
    found = own_data.export_models({run: model}, images, tmp_path)
    row = found.loc["resnet18"]
    assert (tmp_path / row["file"]).stat().st_size == round(1e6 * row["MB"])
    assert row["largest difference of a logit"] < 1e-3 and row["ms per image"] > 0
    monkeypatch.setattr(own_data, "SAME_LOGIT", -1.0)
    with pytest.raises(ValueError, match=r"\.onnx: its logits differ from the model's"):
        own_data.export_models({run: model}, images, tmp_path)
