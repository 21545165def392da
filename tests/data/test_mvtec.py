import io
import shutil
import warnings
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


MARK = np.zeros((24, 16), np.uint8)
MARK[3:12, 4:8] = 1
ZEROS = np.zeros((24, 16), np.uint8)


def photo():
    return RNG.integers(256, size=(24, 16, 3), dtype=np.uint8)


def fill(top, images=(), masks=(), mask=255 * MARK):
    """Write photographs and masks below a folder."""
    for path in images:
        write(path, photo())(top)
    for path in masks:
        write(path, mask)(top)
    return top


def plain(top, masks):
    """A category in MVTec AD's layout: 2 cracks, 2 dents, 4 good images, with these masks."""
    good = [f"train/good/{k:03}.png" for k in range(3)]
    defects = [f"test/{kind}/{k:03}.png" for kind in ("crack", "dent") for k in range(2)]
    return fill(top, [*good, "test/good/000.png", *defects], masks)


def masks_called(name):
    return [
        f"ground_truth/{kind}/{name.format(k)}"
        for kind in ("crack", "dent")
        for k in ("000", "001")
    ]


def read_without_warning(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mvtec_ad(*arguments, size=24, **options)


@pytest.mark.parametrize(
    "name",
    ["{}_mask.PNG", "{}.png", "{}_mask.bmp", "{}.tif", "{}_mask.TIFF", "{}.BMP"],
)
@pytest.mark.parametrize("explicit", [False, True])
def test_masks_are_found_by_the_suffix_that_they_have(tmp_path, name, explicit):
    plain(tmp_path / "bottle", masks_called(name))
    suffix = name.partition(".")[0].removeprefix("{}") if explicit else None
    tiles = read_without_warning(tmp_path, "bottle", mask_suffix=suffix)
    assert tiles.counts() == {"crack": 2, "dent": 2, "Free": 4}
    for label, mask in zip(tiles.labels, tiles.masks, strict=True):
        assert (mask.numpy()[:, ::3] == label.item() * MARK[:, ::2]).all()


def test_another_suffix_is_proposed_then_taken(tmp_path):
    plain(tmp_path / "bottle", masks_called("{}_GT.png"))
    with pytest.raises(DataError, match=r"crack/000.png: its mask .* pass mask_suffix='_GT'"):
        mvtec_ad(tmp_path, "bottle", 16)
    tiles = read_without_warning(tmp_path, "bottle", mask_suffix="_GT")
    assert tiles.counts() == {"crack": 2, "dent": 2, "Free": 4}


def test_formats_and_the_way_that_accents_are_stored_may_differ(tmp_path):
    fill(
        tmp_path / "bottle",
        ["train/good/1.jpg", "test/good/1.BMP", "test/ri\u00df \u00fc/gr\u00fcn.JPG"],
        ["ground_truth/ri\u00df u\u0308/gru\u0308n_mask.bmp"],
    )
    tiles = read_without_warning(tmp_path, "bottle")
    assert tiles.counts() == {"riß ü": 1, "Free": 2} and int((tiles.masks > 0).sum()) > 0


def both_kinds(top):
    fill(top, masks=["ground_truth/crack/000.png"], mask=np.flipud(MARK))


def test_two_masks_of_one_image_are_refused_until_the_suffix_says_which(tmp_path):
    both_kinds(plain(tmp_path / "bottle", masks_called("{}_mask.png")))
    with pytest.raises(DataError, match=r"crack/000.png: .*000_mask.png and .*000.png could both"):
        mvtec_ad(tmp_path, "bottle", 16)
    with pytest.warns(UserWarning, match=r"left out 1 file: below ground_truth/.*crack/000.png"):
        tiles = mvtec_ad(tmp_path, "bottle", 24, mask_suffix="_mask")
    first = tiles.masks[tiles.names.index("bottle/test/crack/000")]
    assert (first.numpy()[:, ::3] == MARK[:, ::2]).all()
    with pytest.raises(DataError, match=r"crack/001.png: its mask .* pass mask_suffix='_mask'"):
        mvtec_ad(tmp_path, "bottle", 16, mask_suffix="")
    fill(tmp_path / "bottle", masks=masks_called("{}.png"), mask=np.flipud(MARK))
    with pytest.warns(UserWarning, match="left out 4 files: below ground_truth/"):
        tiles = mvtec_ad(tmp_path, "bottle", 24, mask_suffix="")
    first = tiles.masks[tiles.names.index("bottle/test/crack/000")]
    assert (first.numpy()[:, ::3] == MARK[::-1, ::2]).all()


def test_images_that_are_called_like_masks(tmp_path):
    images = ["train/good/0.png", "test/crack/a.png", "test/crack/a_mask.png"]
    top = fill(tmp_path / "bottle", images, ["ground_truth/crack/a_mask.png"])
    with pytest.raises(DataError, match=r"is it the mask of .*/a.png or of .*/a_mask.png"):
        mvtec_ad(tmp_path, "bottle", 16)
    fill(top, masks=["ground_truth/crack/a.png"])
    with pytest.raises(DataError, match=r"a_mask.png and .*a.png could both"):
        mvtec_ad(tmp_path, "bottle", 16)
    assert read_without_warning(tmp_path, "bottle", mask_suffix="").counts()["crack"] == 2


def test_masks_of_zeros_are_taken_for_good_images(tmp_path):
    top = plain(tmp_path / "bottle", masks_called("{}_mask.png"))
    before = mvtec_ad(tmp_path, "bottle", 16)
    # 002 there is of train/good alone
    fill(top, masks=[f"ground_truth/good/{k}_mask.png" for k in ("000", "002")], mask=ZEROS)
    tiles = read_without_warning(tmp_path, "bottle")
    assert tiles.counts() == {"crack": 2, "dent": 2, "Free": 4} and tiles.names == before.names
    assert tiles.digest != before.digest
    for name in ("000", "002"):
        path = f"ground_truth/good/{name}_mask.png"
        fill(top, masks=[path])
        with pytest.raises(
            DataError, match=rf"{path}: marks a defect, but bottle/t\w+/good/{name}"
        ):
            mvtec_ad(tmp_path, "bottle", 16)
        fill(top, masks=[path], mask=ZEROS)


@pytest.mark.parametrize("format_", ["png", "bmp"])
def test_btad(tmp_path, format_):
    fill(
        tmp_path / "BTech" / "01",
        [f"{folder}/0000.{format_}" for folder in ("train/ok", "test/ok", "test/ko")],
        [f"ground_truth/ko/0000.{format_}"],
    )
    for place in (tmp_path, tmp_path / "BTech" / "01"):
        tiles = read_without_warning(place, "01")
        assert tiles.counts() == {"ko": 1, "Free": 2} and tiles.source == "mvtec_ad-01"
    with pytest.raises(
        DataError, match=r"no category '02'; with a folder train/ok there are \['01'"
    ):
        mvtec_ad(tmp_path, "02", 16)


def second(top):
    """A category in MVTec AD 2's layout: 3 parts of one image, 1 good and 2 bad ones of two."""
    lights = ("regular", "overexposed")
    bad = [f"{k:03}_{light}" for k in range(2) for light in lights]
    return fill(
        top,
        [
            "train/good/000_regular.png",
            "train/good/001_regular.png",
            "validation/good/000_regular.png",
            *(f"test_public/good/000_{light}.png" for light in lights),
            *(f"test_public/bad/{name}.png" for name in bad),
        ],
        [f"test_public/ground_truth/bad/{name}_mask.png" for name in bad],
    )


def test_mvtec_ad_2(tmp_path):
    top = second(tmp_path / "can")
    tiles = read_without_warning(tmp_path, "can")
    assert tiles.counts() == {"bad": 4, "Free": 5} and tiles.classes == ("bad",)
    parts = {}
    for name, group in zip(tiles.names, tiles.groups.tolist(), strict=True):
        parts.setdefault(group, set()).add(name.rpartition("_")[0])
    assert sorted(parts) == list(range(6)) and all(len(names) == 1 for names in parts.values())
    private = ["test_private/000_regular.png", *(f"test_private_mixed/{k}.png" for k in range(2))]
    fill(top, private)
    with pytest.warns(UserWarning, match=r"left out 3 images: test_private/ and .*no ground truth"):
        again = mvtec_ad(tmp_path, "can", 24)
    assert again.names == tiles.names and again.digest == tiles.digest


def test_visa_as_released_and_in_its_one_class_layout(tmp_path):
    released = fill(
        tmp_path / "released" / "candle",
        [f"Data/Images/{kind}/{k:03}.JPG" for kind in ("Normal", "Anomaly") for k in range(3)],
        [f"Data/Masks/Anomaly/{k:03}.png" for k in range(3)],
        mask=MARK * 3,
    )
    (released / "image_anno.csv").write_text("image,label,mask\n")
    tiles = read_without_warning(tmp_path, "candle")
    assert tiles.counts() == {"Anomaly": 3, "Free": 3} and tiles.classes == ("Anomaly",)
    assert tiles.masks.unique().tolist() == [0, 1]
    fill(
        tmp_path / "1cls" / "candle",
        ["train/good/0.JPG", "test/good/1.JPG", "test/bad/000.JPG"],
        ["ground_truth/bad/000.png"],
    )
    tiles = read_without_warning(tmp_path / "1cls", "candle")
    assert tiles.counts() == {"bad": 1, "Free": 2}
    with pytest.raises(DataError, match=r"more than one category 'candle'.*1cls/candle or .*relea"):
        mvtec_ad(tmp_path, "candle")
    (released / "Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(DataError, match=r"Anomaly/001.JPG: its mask .*Masks/Anomaly/001_mask.png"):
        mvtec_ad(released, "candle", 16)


def test_pictures_that_are_not_read_are_counted_with_their_masks(root):
    tiles = mvtec_ad(root, "bottle", 16)
    for name in ("train/good/9.heic", "test/good/8.HEIC", "test/contamination/7.gif", "train/x"):
        (root / "bottle" / name).write_bytes(b"?")
    for name in ("test/good/Thumbs.db", "license.txt"):
        (root / "bottle" / name).write_bytes(b"?")
    fill(root / "bottle", ["preview.png", "val/good/0.png"])
    fill(root / "bottle", masks=["ground_truth/contamination/7_mask.png"])
    with pytest.warns(UserWarning) as record:
        again = mvtec_ad(root, "bottle", 16)
    unread, elsewhere, unused = [str(warning.message) for warning in record]
    assert "left out 4 files" in unread and "1 .gif, 2 .heic, 1 without a suffix" in unread
    assert "left out 2 images" in elsewhere and "bottle/preview.png" in elsewhere
    assert "left out 1 file" in unused and "contamination/7_mask.png" in unused
    assert all(warning.filename == __file__ for warning in record)
    assert again.names == tiles.names and again.digest == tiles.digest


def called(old, new):
    """Rename the mask of broken_large."""
    top = "bottle/ground_truth/broken_large"

    def change(root):
        (root / top / new).parent.mkdir(parents=True, exist_ok=True)
        (root / top / old).rename(root / top / new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (called("000_mask.png", "000_mask.jpg"), r"000_mask.jpg is there, but masks are \.png"),
        (called("000_mask.png", "000/000.png"), r"000/000.png is there, but an image has one mask"),
        (called("000_mask.png", "mask_0.png"), r"000.png is missing; .* holds mask_0.png"),
        (called("000_mask.png", "0001_mask.png"), r"is missing; .* holds 0001_mask.png"),
        (
            called("000_mask.png", "../Broken_Large/000_mask.png"),
            r"broken_large/ holds no file \(files are in: .*/Broken_Large",
        ),
        (
            write("bottle/ground_truth/broken_large/000_mask.bmp", MARK),
            r"000_mask.png: also present as .*000_mask.bmp: keep one",
        ),
        (
            write("bottle/test/broken_large/000.bmp", MARK),
            r"test/broken_large/000.png: also present as .*000.bmp: keep one",
        ),
        (
            write("bottle/validation/bad/000.png", MARK),
            r"bad/000.png: images lie in train/good/, validation/good/, test/<type>/",
        ),
        (write("bottle/train/good/rgb/000.png", MARK), r"rgb/000.png: images lie in train/good/"),
    ],
)
def test_what_to_do_is_said(root, change, message):
    change(root)
    with pytest.raises(DataError, match=message):
        mvtec_ad(root, "bottle", 16)


def test_a_type_that_cannot_be_a_class_is_named(root):
    for folder in ("test", "ground_truth"):
        (root / "bottle" / folder / "contamination").rename(root / "bottle" / folder / "Free")
    with pytest.raises(DataError, match=r"bottle/test: .*Free"):
        mvtec_ad(root, "bottle", 16)


@pytest.mark.parametrize("suffix", ["_mask.png", "../x", 3])
def test_a_suffix_that_no_name_can_have_is_refused(root, suffix):
    with pytest.raises(ValueError, match="mask_suffix must be"):
        mvtec_ad(root, "bottle", 16, mask_suffix=suffix)


def test_an_unknown_layout_is_answered_by_the_known_ones(tmp_path):
    names = [
        f"{part}/{k}{end}.png" for part in ("train", "test") for k in (1, 2) for end in ("", "_GT")
    ]
    fill(tmp_path / "KolektorSDD2", names)
    with pytest.raises(DataError) as caught:
        mvtec_ad(tmp_path, "KolektorSDD2")
    said = str(caught.value)
    assert "Images are in: KolektorSDD2/test (4), KolektorSDD2/train (4)" in said
    for known in ("MVTec AD (<category>/train/good/, test/<type>/", "test_public/", "Data/Masks/"):
        assert known in said
    assert "from_folder" in said and "\n" not in said
    # beside a category that is read
    plain(tmp_path / "bottle", masks_called("{}_mask.png"))
    with pytest.raises(DataError, match=r"are \['bottle'\]. Images are in: KolektorSDD2/test"):
        mvtec_ad(tmp_path, "KolektorSDD2")
