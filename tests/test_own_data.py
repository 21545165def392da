"""Notebook 8 on a folder that has nothing to do with the toy tiles: photographs of leather.

They are oblong and in colour.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from PIL import Image

from dlilib import IGNORE, TileSet, from_folder
from dlilib.data.convert import to_folder
from dlilib.study import own_data

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


def test_a_class_that_labels_no_image_is_left_out_of_a_look(tmp_path):
    masks = np.zeros((3, 16, 16), np.uint8)
    masks[0, :4], masks[0, 8, :3], masks[1, :2] = 3, 2, 3
    tiles = TileSet.from_arrays(masks * 40, masks, ["pit", "dent", "burr"])
    tiles, remarks = own_data.read(to_folder(tiles, tmp_path / "parts"), size=None)
    assert tiles.classes == ("burr",) and tiles.labels.tolist() == [1, 1, 0]
    assert tiles.masks[0, 8, :4].tolist() == [IGNORE] * 3 + [0]
    assert "No image is labelled with pit, dent: left out" in remarks[-1]


def test_a_look_is_split_so_that_each_class_trains(toy):
    train, val, protocol, seed = own_data.divide(toy, 3)
    assert (protocol, seed) == ("tile", 3) and not set(train) & set(val)
    alone = toy.subset([*np.flatnonzero(toy.labels == 0), *np.flatnonzero(toy.labels == 1)[:1]])
    with pytest.raises(ValueError, match="no split leaves an image of Blowhole to train with"):
        own_data.divide(alone, 0)


def test_a_folder_written_from_tiles_reads_back(photographs, tmp_path):
    tiles = from_folder(photographs, size=None)
    again = from_folder(to_folder(tiles, tmp_path / "again"), size=None)
    assert (again.images == tiles.images).all() and (again.masks == tiles.masks).all()
    assert again.names == tiles.names and again.classes == tiles.classes
    assert len(np.unique(np.stack([again.groups, tiles.groups]), axis=1).T) == 20
