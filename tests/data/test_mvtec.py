import io
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dlilib import DataError, mvtec_ad
from dlilib.study import sweep
from dlilib.training.run import Run

RNG = np.random.default_rng(0)
DOT = np.zeros((24, 16), np.uint8)
DOT[2, 1] = 255  # which is not among the pixels that 16 of 24 rows keep


@pytest.fixture
def root(tmp_path):
    tmp_path = tmp_path / "mvtec"

    def write(path, pixels):
        path = tmp_path / "bottle" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for name in ("train/good/000", "train/good/001", "test/good/000"):
        write(f"{name}.png", RNG.integers(256, size=(24, 16, 3), dtype=np.uint8))
    for kind, n in (("contamination", 2), ("broken_large", 1)):
        for k in range(n):
            write(f"test/{kind}/{k:03}.png", RNG.integers(256, size=(24, 16, 3), dtype=np.uint8))
            mask = np.zeros((24, 16), np.uint8)
            mask[3:12, 4:8] = 255
            write(f"ground_truth/{kind}/{k:03}_mask.png", mask)
    (tmp_path / "license.txt").write_text("CC BY-NC-SA 4.0")
    return tmp_path


def test_types_are_classes_and_good_ones_free(root):
    tiles = mvtec_ad(root, "bottle", size=24)
    assert tiles.counts() == {"broken_large": 1, "contamination": 2, "Free": 3}
    assert tiles.source == "mvtec_ad-bottle" and tiles.images.shape == (6, 3, 24, 24)
    first = tiles.names.index("bottle/test/broken_large/000")
    assert tiles.labels[first] == 1 and set(tiles.masks[first].unique().tolist()) == {0, 1}
    assert int((tiles.masks[first] > 0).sum()) == 9 * 24 * 24 * 4 // (24 * 16)
    original = np.asarray(Image.open(root / "bottle/test/broken_large/000.png"))
    assert (tiles.images[first].permute(1, 2, 0).numpy()[:, ::3] == original[:, ::2]).all()
    for i in (tiles.labels == 0).nonzero()[:, 0]:
        assert "/good/" in tiles.names[i] and not tiles.masks[i].any()
    assert tiles.sizes.unique(dim=0).tolist() == [[24, 16]] and len(tiles.groups.unique()) == 6


def test_a_zip_gives_the_same(root):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in root.rglob("*.*"):
            archive.write(path, path.relative_to(root))
    (root / "all.zip").write_bytes(buffer.getvalue())
    folder, packed = mvtec_ad(root, "bottle", 16), mvtec_ad(root / "all.zip", "bottle", 16)
    assert (folder.digest, folder.names) == (packed.digest, packed.names)
    assert (folder.images == packed.images).all()


def remove(path):
    return lambda root: (root / path).unlink()


def write(path, pixels):
    def change(root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            remove("bottle/ground_truth/contamination/001_mask.png"),
            r"test/contamination/001.png: its mask .*001_mask",
        ),
        (
            remove("bottle/test/contamination/001.png"),
            r"ground_truth/contamination/001_mask.png: there is no image",
        ),
        (
            write("bottle/ground_truth/contamination/000_mask.png", np.zeros((5, 5), np.uint8)),
            "000_mask.png: mask is",
        ),
        (
            write("bottle/train/cracked/000.png", np.zeros((24, 16), np.uint8)),
            "cracked/000.png: images lie in",
        ),
        (
            write("bottle/test/contamination/more/000.png", np.zeros((24, 16), np.uint8)),
            "more/000.png: images lie in",
        ),
        (
            lambda root: (root / "bottle/test/good/000.png").write_bytes(b"no"),
            "good/000.png: unreadable image",
        ),
        (
            write("bottle/ground_truth/contamination/001_mask.png", 0 * DOT),
            "001_mask.png: marks no defect",
        ),
        (
            write("bottle/ground_truth/contamination/001_mask.png", DOT),
            "contamination/001.png: its defect vanishes at",
        ),
        (
            lambda root: shutil.copytree(root / "bottle", root / "more" / "bottle"),
            "more than one category 'bottle'",
        ),
    ],
)
def test_what_is_wrong_is_named(root, change, message):
    change(root)
    with pytest.raises(DataError, match=message):
        mvtec_ad(root, "bottle", 16)


def test_absent_category_lists_those_present(root):
    with pytest.raises(
        DataError, match=r"no category 'botle'; with a folder train/good there are \['bottle'\]"
    ):
        mvtec_ad(root, "botle")
    (root / "bottle").rename(root / "bottle2")
    (root / "bottle2" / "train").rename(root / "bottle2" / "mytrain")
    with pytest.raises(DataError, match=r"there are \[\]"):
        mvtec_ad(root, "bottle2")
    with pytest.raises(DataError, match="no such folder"):
        mvtec_ad(root / "nothing", "bottle")


def test_category_lies_at_any_depth_and_other_files_do_not_matter(root, monkeypatch):
    (root / "bottle/ground_truth/contamination/.DS_Store").write_text("")
    direct = mvtec_ad(root, "bottle", 16)
    monkeypatch.chdir(root / "bottle")
    for place in (root.parent, root / "bottle", "."):
        assert (mvtec_ad(place, "bottle", 16).images == direct.images).all()


def test_a_category_without_defects_is_refused(root):
    for path in [*root.glob("bottle/test/[bc]*/*"), *root.glob("bottle/ground_truth/*/*")]:
        path.unlink()
    with pytest.raises(DataError, match="bottle/test: holds no type of defect"):
        mvtec_ad(root, "bottle")


def test_the_study_trains_on_it(root):
    run = Run(data="mvtec_ad-bottle", size=16)
    assert sweep.load_tiles(run, root).source == run.data
    with pytest.raises(DataError, match="mvtec_ad-bottle needs a root"):
        sweep.load_tiles(replace(run))
