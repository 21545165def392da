import io
import re
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from builders import encoded
from PIL import Image

from dlilib import IGNORE, DataError, Run, fit, from_folder

STEMS = ("a", "b", "c")


def grey(seed, size=(16, 16)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def mask_of(*counts, size=(16, 16)):
    """A mask whose first counts[0] pixels are of class 1, the next counts[1] of class 2, …."""
    mask = np.zeros(size, np.uint8)
    mask.flat[: sum(counts)] = np.repeat(np.arange(1, len(counts) + 1), counts)
    return mask


@pytest.fixture
def folder(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "parts" / name).mkdir(parents=True)
    root = tmp_path / "parts"
    (root / "classes.txt").write_text("scratch\ndent\n")
    for seed, (stem, counts) in enumerate(zip(STEMS, [(5, 0), (0, 0), (3, 9)], strict=True)):
        (root / "images" / f"{stem}.png").write_bytes(encoded(grey(seed)))
        (root / "masks" / f"{stem}.png").write_bytes(encoded(mask_of(*counts)))
    return root


def test_images_masks_and_labels_are_those_of_the_files(folder):
    tiles = from_folder(folder, size=16)
    assert (tiles.names, tiles.classes, tiles.source) == (STEMS, ("scratch", "dent"), "parts")
    assert tiles.images.dtype == tiles.masks.dtype == torch.uint8
    assert tiles.labels.dtype == tiles.groups.dtype == torch.int64
    np.testing.assert_array_equal(tiles.images[:, 0], [grey(seed) for seed in range(3)])
    np.testing.assert_array_equal(tiles.masks, [mask_of(5, 0), mask_of(0, 0), mask_of(3, 9)])
    assert tiles.labels.tolist() == [1, 0, 2]
    assert tiles.groups.tolist() == [0, 1, 2]
    assert tiles.sizes.tolist() == [[16, 16]] * 3
    assert tiles.counts() == {"scratch": 1, "dent": 1, "Free": 1}


def test_photographs_are_smoothed_unless_asked_otherwise(folder):
    smoothed, picked = from_folder(folder, size=8), from_folder(folder, size=8, resize="nearest")
    assert (smoothed.resize, picked.resize) == ("bilinear", "nearest")
    assert not torch.equal(smoothed.images, picked.images)
    assert torch.equal(smoothed.masks, picked.masks)


def test_zip_gives_the_same_tiles(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    tiles, zipped = from_folder(folder, size=16), from_folder(tmp_path / "parts.zip", size=16)
    assert torch.equal(tiles.images, zipped.images) and torch.equal(tiles.masks, zipped.masks)
    assert (tiles.digest, tiles.names, tiles.source) == (zipped.digest, zipped.names, zipped.source)


def test_digest_follows_the_contents(folder):
    before = from_folder(folder, size=16).digest
    assert from_folder(str(folder), size=8).digest == before
    (folder / "masks" / "a.png").write_bytes(encoded(mask_of(6, 0)))
    assert from_folder(folder, size=16).digest != before


@pytest.mark.parametrize(
    ("name", "text"),
    [("classes.txt", "dent\nscratch\n"), ("tiles.csv", "image,tile\na,1\nb,1\nc,2\n")],
)
def test_digest_follows_what_names_classes_and_parts(folder, name, text):
    before = from_folder(folder, size=16).digest
    (folder / name).write_text(text)
    assert from_folder(folder, size=16).digest != before


def test_digest_follows_what_else_gives_other_pixels(folder):
    (folder / "classes.txt").rename(folder / "aside")
    names = ["scratch", "dent"]
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    (folder / "images" / "a.png").write_bytes(encoded(deep))
    with pytest.warns(UserWarning, match=r"value_range=\(") as warned:
        plain = from_folder(folder, size=16, classes=names)
    levels = tuple(
        map(int, re.search(r"value_range=\((\d+), (\d+)\)", str(warned[0].message)).groups())
    )
    changes = [
        {"value_range": (0, 9)},
        {"masks": "any"},
        {"tile": (8, 0)},
        {"tile": (8, 4)},
        {"tile": (8, 4), "free_patches": 1},
        {"classes": names[::-1]},
    ]
    options = {"size": 16, "classes": names, "value_range": levels}
    digests = [from_folder(folder, **{**options, **change}).digest for change in changes]
    assert len({plain.digest, *digests}) == len(changes) + 1
    assert from_folder(folder, **options).digest == plain.digest  # the same pixels
    padded = [
        from_folder(folder, **{**options, "size": None, "masks": how}) for how in ("any", "nearest")
    ]
    assert padded[0].digest == padded[1].digest
    (folder / "aside").rename(folder / "Classes.txt")
    listed = {name: value for name, value in options.items() if name != "classes"}
    assert from_folder(folder, **options).digest == from_folder(folder, **listed).digest


def test_a_folders_name_is_kept_to_its_end_and_a_zips_to_its_suffix(folder, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "parts.v2"), "zip", folder)
    assert from_folder(packed, size=16).source == "parts_v2"
    assert from_folder(folder.rename(tmp_path / "parts.v3"), size=16).source == "parts_v3"


def test_one_folder_that_is_called_as_a_subset_is_no_split(folder):
    for kind in ("images", "masks"):
        for place, name in (("bench_test", "a"), ("line", "b"), ("line", "c")):
            (folder / kind / place).mkdir(exist_ok=True)
            (folder / kind / f"{name}.png").rename(folder / kind / place / f"{name}.png")
    assert from_folder(folder, size=16).given is None
    (folder / "tiles.csv").write_text("image,tile,split\na,1,test\nb,2,\nc,3,\n")
    assert from_folder(folder, size=16).given == ("test", "", "")  # said, not by chance


def test_given_classes_may_begin_with_the_background_and_are_names(folder):
    (folder / "classes.txt").unlink()
    for wrong in ("dent", [1, 2]):
        with pytest.raises(ValueError, match="classes must be names"):
            from_folder(folder, size=16, classes=wrong)
    assert from_folder(folder, size=16, classes=np.array(["x", "y"])).classes == ("x", "y")
    tiles = from_folder(folder, size=16, classes=["background", "scratch", "dent"])
    assert tiles.classes == ("scratch", "dent")
    (folder / "classes.txt").write_text("background\nscratch\ndent\n")
    assert from_folder(folder, size=16, classes=["background", "scratch", "dent"]).classes == (
        "scratch",
        "dent",
    )


def test_a_photograph_is_read_as_it_is_shown(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to show it
    shown = grey(0, (16, 24))
    Image.fromarray(np.rot90(shown)).save(folder / "images" / f"{STEMS[0]}.png", exif=exif)
    (folder / "masks" / f"{STEMS[0]}.png").write_bytes(encoded(mask_of(5, size=(16, 24))))
    tiles = from_folder(folder, size=None)
    np.testing.assert_array_equal(tiles.images[0, 0], shown)
    assert tiles.sizes[0].tolist() == [16, 24]


def test_a_defect_too_thin_for_the_size_is_refused(folder):
    thin = np.zeros((16, 16), np.uint8)
    thin[:, 1] = 1
    (folder / "masks" / f"{STEMS[0]}.png").write_bytes(encoded(thin))
    with pytest.raises(
        DataError,
        match=rf"images/{STEMS[0]}\.png: its scratch vanishes at size 8 \(1 do\): enlarge it",
    ):
        from_folder(folder, size=8)
    assert from_folder(folder, size=16).labels[0] == 1


@pytest.mark.parametrize(
    ("counts", "label"),
    [((0, 0), 0), ((1, 0), 1), ((0, 1), 2), ((7, 6), 1), ((6, 7), 2), ((6, 6), 1)],
)
def test_label_is_the_class_with_most_pixels(folder, counts, label):
    (folder / "masks" / "b.png").write_bytes(encoded(mask_of(*counts)))
    assert from_folder(folder, size=16).labels[1] == label


@pytest.mark.parametrize("palette", [[0, 0, 0, 255, 0, 0, 0, 255, 0], [9, 9, 9, 9, 9, 9, 1, 1, 1]])
def test_palette_masks_give_their_indices_whatever_the_colours(folder, palette):
    mask = Image.fromarray(mask_of(3, 9)).convert("L")
    mask = Image.frombytes("P", mask.size, mask.tobytes())
    mask.putpalette(palette)
    (folder / "masks" / "c.png").write_bytes(encoded(mask))
    np.testing.assert_array_equal(from_folder(folder, size=16).masks[2], mask_of(3, 9))


def test_one_bit_masks_give_class_one(folder):
    (folder / "masks" / "a.png").write_bytes(encoded(mask_of(5, 0) > 0))
    np.testing.assert_array_equal(from_folder(folder, size=16).masks[0], mask_of(5, 0))


def test_rgb_images_give_three_channels_and_grey_ones_are_repeated(folder):
    colour = np.random.default_rng(9).integers(0, 256, (16, 16, 3), np.uint8)
    (folder / "images" / "b.png").write_bytes(encoded(colour))
    images = from_folder(folder, size=16).images
    assert images.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(images[1].permute(1, 2, 0), colour)
    for channel in images[0]:
        np.testing.assert_array_equal(channel, grey(0))


def test_rgb_files_that_are_grey_give_one_channel(folder):
    (folder / "images" / "b.png").write_bytes(encoded(np.repeat(grey(7)[..., None], 3, axis=2)))
    images = from_folder(folder, size=16).images
    assert images.shape == (3, 1, 16, 16)
    np.testing.assert_array_equal(images[1, 0], grey(7))


@pytest.mark.parametrize(
    ("kind", "suffix"), [("JPEG", "JPG"), ("BMP", "bmp"), ("TIFF", "tif"), ("JPEG", "jpeg")]
)
def test_image_formats(folder, kind, suffix):
    (folder / "images" / "a.png").unlink()
    content = encoded(grey(0), kind)
    (folder / "images" / f"a.{suffix}").write_bytes(content)
    decoded = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(from_folder(folder, size=16).images[0, 0], decoded)


def test_sizes_may_differ_and_are_kept(folder):
    for stem, size in zip(STEMS, [(16, 16), (24, 40), (100, 9)], strict=True):
        (folder / "images" / f"{stem}.png").write_bytes(encoded(grey(1, size)))
        (folder / "masks" / f"{stem}.png").write_bytes(encoded(np.full(size, 2, np.uint8)))
    tiles = from_folder(folder, size=32)
    assert tiles.images.shape == (3, 1, 32, 32)
    assert (tiles.masks == 2).all()
    assert tiles.sizes.tolist() == [[16, 16], [24, 40], [100, 9]]


def test_classes_are_numbered_by_line_and_blank_lines_do_not_count(folder):
    (folder / "classes.txt").write_bytes("\r\n dent \r\nRiß\r\n\r\nscratch".encode())
    tiles = from_folder(folder, size=16)
    assert tiles.classes == ("dent", "Riß", "scratch")
    assert tiles.counts() == {"dent": 1, "Riß": 1, "scratch": 0, "Free": 1}


def test_byte_order_mark_is_no_part_of_a_name(folder):
    (folder / "classes.txt").write_text("scratch\ndent", encoding="utf-8-sig")
    (folder / "tiles.csv").write_text("image,tile\na,1\nb,1\nc,2\n", encoding="utf-8-sig")
    tiles = from_folder(folder, size=16)
    assert tiles.classes == ("scratch", "dent")
    assert tiles.groups.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("image,tile\na,x\nb,y\nc,x\n", [0, 1, 0]),
        ("tile,image,note\r\n7,c,n\r\n7,b,n\r\n30,a,n\r\n5,unused,n\r\n", [0, 1, 1]),
        ("image,tile\na,x\n,\nb,y\nc,x\n , \n", [0, 1, 0]),  # as spreadsheets leave them
    ],
)
def test_tiles_csv_groups_images(folder, rows, expected):
    (folder / "tiles.csv").write_text(rows)
    tile = from_folder(folder, size=16).groups
    assert (tile[:, None] == tile).tolist() == [[i == j for j in expected] for i in expected]
    assert tile.dtype == torch.int64


def test_tables_are_found_however_they_are_spelt(folder):
    (folder / "Tiles.CSV").write_text("image,tile\na,x\nb,y\nc,x\n")
    groups = from_folder(folder, size=16).groups
    assert groups[0] == groups[2] != groups[1]
    (folder / "tiles.csv").write_text("image,tile\na,x\nb,y\nc,x\n")
    with pytest.raises(DataError, match=r"Tiles\.CSV: there is tiles\.csv too"):
        from_folder(folder, size=16)


def test_corrupted_zip_member_is_refused_naming_it(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
        entry = archive.getinfo("classes.txt")
    content = bytearray((tmp_path / "parts.zip").read_bytes())
    content[entry.header_offset + 30 + len("classes.txt")] ^= 1
    (tmp_path / "parts.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"classes\.txt"):
        from_folder(tmp_path / "parts.zip", size=16)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *[("size", value) for value in (12, 0, -8, 100, 4)],
        ("resize", "area"),
        ("size", True),
        ("masks", "mean"),
    ],
)
def test_argument_out_of_range_is_refused(folder, argument, value):
    for others in [{}] if argument == "size" else [{}, {"size": None}]:
        with pytest.raises(ValueError, match=f"{argument} must .*{value}") as caught:
            from_folder(folder, **{argument: value, **others})
        assert not isinstance(caught.value, DataError)


@pytest.fixture
def binary(folder):
    """The same parts with a folder of masks for each class; b is free."""
    shutil.rmtree(folder / "masks")
    (folder / "classes.txt").unlink()
    marks = {
        ("dent", "a"): mask_of(2),
        ("dent", "c"): mask_of(9),
        ("scratch", "c"): mask_of(3) * 255,
    }
    for (kind, stem), mask in marks.items():
        (folder / "masks" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "masks" / kind / f"{stem}.png").write_bytes(encoded(mask))
    return folder


def test_a_folder_of_masks_a_class_gives_the_same_as_indices(binary):
    tiles = from_folder(binary, size=16)
    assert (tiles.classes, tiles.names, tiles.labels.tolist()) == (
        ("dent", "scratch"),
        STEMS,
        [1, 0, 1],
    )
    assert tiles.masks[2].flatten()[:10].tolist() == [2] * 3 + [1] * 6 + [
        0
    ]  # the later class stands
    (binary / "classes.txt").write_text("scratch\ndent\nnick\n")
    tiles = from_folder(binary, size=16)
    assert (tiles.classes, tiles.labels.tolist()) == (("scratch", "dent", "nick"), [2, 0, 2])
    assert tiles.masks[2].flatten()[:10].tolist() == [2] * 9 + [0]


def test_masks_of_classes_that_fit_nothing_are_named(binary):
    (binary / "classes.txt").write_text("dent\n")
    with pytest.raises(
        DataError, match=r"masks/scratch: classes\.txt does not name this class, but \['dent'\]"
    ):
        from_folder(binary, size=16)
    (binary / "classes.txt").unlink()
    (binary / "masks" / "dent" / "z.png").write_bytes(encoded(mask_of(1)))
    with pytest.raises(DataError, match=r"masks/dent/z\.png: no image of that name"):
        from_folder(binary, size=16)
    (binary / "masks" / "a.png").write_bytes(encoded(mask_of(1)))
    with pytest.raises(
        DataError, match=r"masks/a\.png: not read where it lies; .* are masks/<class>/<name>\.png"
    ):
        from_folder(binary, size=16)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("masks/dent/b.jpg", "masks are PNG, BMP or TIFF"),
        ("masks/dent/b.webp", "masks are PNG, BMP or TIFF"),
        ("masks/dent/deep/b.png", r"not read where it lies; .* masks/<class>/<name>\.png"),
    ],
)
def test_masks_that_would_not_be_read_are_named(binary, path, why):
    (binary / path).parent.mkdir(exist_ok=True)
    (binary / path).write_bytes(encoded(mask_of(1)))
    with pytest.raises(DataError, match=rf"{path}: {why}"):
        from_folder(binary, size=16)


def test_indices_that_are_no_png_are_named(folder):
    (folder / "masks" / "b.png").rename(folder / "masks" / "b.jpg")
    with pytest.raises(DataError, match=r"masks/b\.jpg: masks are PNG, BMP or TIFF"):
        from_folder(folder, size=16)


def test_a_folder_of_masks_called_free_is_refused(binary):
    (binary / "masks" / "dent").rename(binary / "masks" / "Free")
    with pytest.raises(
        DataError, match=r"masks: classes must be 1 to 254 distinct names, not Free; got \['Free'"
    ):
        from_folder(binary, size=16)


def test_a_zip_of_the_folder_itself_reads_and_what_macos_adds_is_no_image(binary, tmp_path):
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as archive:
        for path in binary.rglob("*.*"):
            archive.write(path, f"my parts/{path.relative_to(binary)}")
            archive.writestr(
                f"__MACOSX/my parts/{path.relative_to(binary).parent}/._{path.name}", b"Mac"
            )
    (binary / "images" / "._a.png").write_bytes(b"Mac")
    zipped, tiles = from_folder(tmp_path / "parts.zip", size=16), from_folder(binary, size=16)
    assert (
        zipped.names == tiles.names == STEMS
        and zipped.classes == tiles.classes
        and zipped.digest == tiles.digest
    )


def test_own_size_is_kept_and_padded_to_the_largest(folder):
    wide = grey(5, (12, 30))
    (folder / "images" / "b.png").write_bytes(encoded(wide))
    (folder / "masks" / "b.png").write_bytes(encoded(mask_of(4, size=(12, 30))))
    tiles = from_folder(folder, size=None)
    assert tiles.images.shape == (3, 1, 16, 32) and tiles.resize == "pad"
    assert tiles.sizes.tolist() == [[16, 16], [12, 30], [16, 16]]
    np.testing.assert_array_equal(tiles.images[1, 0], np.pad(wide, [(0, 4), (0, 2)], "edge"))
    np.testing.assert_array_equal(tiles.masks[1, :12, :30], mask_of(4, size=(12, 30)))
    assert int(tiles.masks[1].sum()) == 4


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (1, 3), (12, 3)])
def test_own_shapes_and_numbers_of_classes_train(tmp_path, count, channels):
    for name in ("images", "masks"):
        (tmp_path / "my parts" / name).mkdir(parents=True)
    (tmp_path / "my parts" / "classes.txt").write_text("".join(f"kind {c}\n" for c in range(count)))
    for k in range(4 * count + 6):
        mask = np.zeros((21, 34), np.uint8)
        mask[3:9, 4:12] = k % 4 and 1 + k // 4 if k < 4 * count else 0
        (tmp_path / "my parts" / "masks" / f"{k}.png").write_bytes(encoded(mask))
        pixels = grey(k, (21, 34, 3) if channels == 3 else (21, 34))
        (tmp_path / "my parts" / "images" / f"{k}.png").write_bytes(encoded(pixels))
    tiles = from_folder(tmp_path / "my parts", size=None)
    run = Run(
        data="my_parts", size=40, resize="pad", weights=None, epochs=1, batch=8, free_in_val=True
    )
    record = fit(run, tiles)
    assert tiles.images.shape[1:] == (channels, 24, 40) and len(record["last"]["classes"]) == count


def test_255_is_ignored_in_masks_of_indices(tmp_path):
    folder = make(tmp_path, ["dent"])
    tiles = from_folder(folder, size=16)
    assert tiles.ignores and tiles.labels.tolist() == [0, 1]
    assert tiles.masks[0].unique().tolist() == [0, IGNORE]


def make(tmp_path, classes, marked=1):
    """Two images: one with an ignored corner, one with an ignored corner and a defect."""
    for name in ("images", "masks"):
        (tmp_path / "parts" / name).mkdir(parents=True)
    for stem, value in (("a", 0), ("b", marked)):
        mask = np.zeros((16, 16), np.uint8)
        mask[:4, :4], mask[8:12, 8:12] = IGNORE, value
        Image.fromarray(np.full((16, 16), 90, np.uint8)).save(tmp_path / f"parts/images/{stem}.png")
        Image.fromarray(mask).save(tmp_path / f"parts/masks/{stem}.png")
    (tmp_path / "parts" / "classes.txt").write_text("\n".join(classes))
    return tmp_path / "parts"


def test_masks_of_0_and_255_alone_are_refused_with_the_way_out(tmp_path):
    folder = make(tmp_path, ["dent", "pit"], marked=IGNORE)
    with pytest.raises(DataError, match=r"masks/a.png: holds 255.*ignored.*masks/<class>/"):
        from_folder(folder, size=16)


def test_reading_needs_little_memory_beside_the_result(tmp_path):
    """Peak of what numpy holds; torch's tensors here are numpy's arrays."""
    for name in ("images", "masks/dent"):
        (tmp_path / "parts" / name).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    for k in range(300):
        Image.fromarray(np.roll(noise, k)).save(tmp_path / f"parts/images/{k}.bmp")
    Image.fromarray(noise).save(tmp_path / "parts/masks/dent/0.png")
    for size in (128, None):
        tracemalloc.start()
        tiles = from_folder(tmp_path / "parts", size)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.5 * (tiles.images.nbytes + tiles.masks.nbytes)
