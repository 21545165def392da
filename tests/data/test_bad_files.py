"""Files that cannot be used are refused in our own words, which name the file."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
from builders import encoded, refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dlilib
from dlilib.data.files import DataError
from dlilib.data.images import read_image

GREY = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
MASK = np.pad(np.ones((4, 4), np.uint8), ((0, 12), (0, 12)))


def huge_png(side):
    """A PNG of a few bytes that says it is side × side pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rgb(mode="RGB"):
    return Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    ).convert(mode)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "teile ü"  # a space and a letter beyond ASCII are fine
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("scratch\ndent\n")
    for k, stem in enumerate(("größe 1", "b")):
        (root / "images" / f"{stem}.png").write_bytes(encoded(GREY))
        (root / "masks" / f"{stem}.png").write_bytes(encoded(MASK * np.uint8(k + 1)))
    return root


def test_a_good_folder_with_spaces_and_umlauts_reads(folder):
    assert len(dlilib.from_folder(folder, 16)) == 2


FILES = {
    "empty image": ("images/b.png", b"", "images/b.png: unreadable image"),
    "text as image": ("images/b.png", b"not an image", "images/b.png: unreadable image"),
    "truncated png": ("images/b.png", encoded(GREY)[:-40], "images/b.png: unreadable image"),
    "truncated jpeg": (
        "images/c.jpg",
        encoded(GREY, "JPEG")[:200],
        "images/c.jpg: unreadable image",
    ),
    "float image": (
        "images/c.tif",
        encoded(GREY.astype(np.float32), "TIFF"),
        "pixel format F is not 8-bit",
    ),
    "CMYK image": ("images/c.jpg", encoded(rgb("CMYK"), "JPEG"), "pixel format CMYK is not 8-bit"),
    "animated image": (
        "images/b.png",
        encoded(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY.T)]),
        "images/b.png: holds 2 frames",
    ),
    "image of many pages": (
        "images/c.tif",
        encoded(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[rgb("L")]),
        "2 frames",
    ),
    "1x1 image": ("images/b.png", encoded(GREY[:1, :1]), "image is 1×1 pixels"),
    "image that says it is huge": (
        "images/b.png",
        huge_png(60_000),
        "images/b.png: unreadable image.*exceeds limit",
    ),
    "image that says it is large": (
        "images/b.png",
        huge_png(9_000),
        "images/b.png: unreadable image",
    ),
    "mask of another size": (
        "masks/b.png",
        encoded(MASK[:, :12]),
        "masks/b.png: mask is 12×16, its image 16×16",
    ),
    "mask with an unknown class": (
        "masks/b.png",
        encoded(MASK * np.uint8(3)),
        "class index 3, classes.txt names 2",
    ),
    "anti-aliased mask": (
        "masks/b.png",
        encoded(MASK * np.uint8(133)),
        "class index 133, classes.txt names 2",
    ),
    "RGB mask": (
        "masks/b.png",
        encoded(rgb()),
        "a mask holds one 8-bit value a pixel, this has pixel format RGB",
    ),
    "RGBA mask": ("masks/b.png", encoded(rgb("RGBA")), "pixel format RGBA"),
    "16-bit mask": ("masks/b.png", encoded(MASK.astype(np.uint16)), "pixel format I;16"),
    "truncated mask": ("masks/b.png", encoded(GREY)[:-40], "masks/b.png: unreadable mask"),
    "image without a mask": ("images/c.png", encoded(GREY), "images/c.png: no mask masks/c.png"),
    "mask without an image": ("masks/c.png", encoded(MASK), "masks/c.png: no image of that name"),
    "two images of one name": (
        "images/b.jpg",
        encoded(GREY, "JPEG"),
        "images/b.png: also present as images/b.jpg",
    ),
    "no class": ("classes.txt", b"\n", "classes.txt: classes must be 1 to 254 distinct names"),
    "a class twice": (
        "classes.txt",
        b"dent\ndent\n",
        "classes.txt: classes must be 1 to 254 distinct names",
    ),
    "classes not in UTF-8": ("classes.txt", b"kratzer\n\xff\xfe", "classes.txt: not UTF-8"),
    "tiles without columns": (
        "tiles.csv",
        b"a,b\n1,2\n",
        "tiles.csv: needs the columns image,tile",
    ),
    "tiles without an image": (
        "tiles.csv",
        b"image,tile\nb,1\n",
        "tiles.csv: no row for image 'größe 1' .its stem; 0 more",
    ),
    "two tiles for an image": (
        "tiles.csv",
        b"image,tile\nb,1\nb,2\n",
        "image 'b' needs one tile, got '2'",
    ),
    "empty tiles": ("tiles.csv", b"", "tiles.csv: needs the columns image,tile"),
    "tiles with a short row": ("tiles.csv", "image,tile\ngröße 1,1\nb\n".encode(), "'b'"),
    "tiles with an empty cell": ("tiles.csv", "image,tile\ngröße 1,1\nb,\n".encode(), "'b'"),
}


@pytest.mark.parametrize("case", FILES)
def test_unusable_file_is_refused(folder, case):
    name, content, message = FILES[case]
    (folder / name).write_bytes(content)
    if name.endswith((".jpg", ".tif")) and case != "two images of one name":
        (folder / "masks/c.png").write_bytes(encoded(MASK))
    assert name in refused(lambda: dlilib.from_folder(folder, 16), message)


def links_out(root):
    (root / "images/c.png").symlink_to(root.parent.parent / "elsewhere.png")


def links_to_itself(root):
    (root / "images/c.png").symlink_to(root / "images/c.png")
    (root / "masks/c.png").write_bytes(encoded(MASK))


def loses_classes(root):
    (root / "classes.txt").unlink()


def loses_everything(root):
    for path in [*root.glob("images/*"), *root.glob("masks/*")]:
        path.unlink()


def misspells_a_folder(root):
    (root / "masks").rename(root / "Masks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (links_out, "a link that leaves"),
        (links_to_itself, "images/c.png: cannot be read"),
        (loses_classes, "classes.txt: missing"),
        (loses_everything, "images: holds no image"),
        (
            misspells_a_folder,
            "masks: holds no image or is not there, but: Masks, classes.txt, images",
        ),
    ],
)
def test_unusable_folder_is_refused(folder, change, message):
    change(folder)
    refused(lambda: dlilib.from_folder(folder, 16), message)


def test_a_folder_that_links_to_itself_is_not_followed(folder):
    (folder / "images" / "again").symlink_to(folder / "images")
    assert len(dlilib.from_folder(folder, 16)) == 2


def zipped(folder, *extra):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
        for name, content in extra:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("/etc/passwd", b"x", "entry '/etc/passwd' leaves the folder"),
        ("../x.png", b"x", r"entry '../x.png' leaves"),
        ("C:/x.png", b"x", "leaves the folder"),
        pytest.param(
            "images/bomb.png",
            b"\0" * (2**28 + 1),
            "bomb.png' unpacks to 268435457",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_unusable_zip_entry_is_refused(folder, name, content, message):
    path = zipped(folder, (name, content))
    refused(lambda: dlilib.from_folder(path, 16), message)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-30], "not a readable zip"),
        (lambda b: b"", "not a readable zip"),
        (lambda b: b.replace(encoded(GREY)[60:90], bytes(30)), "cannot be read"),
    ],
)
def test_damaged_zip_is_refused(folder, damage, message):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: dlilib.from_folder(path, 16), message)


def test_zip_entry_that_is_there_twice_is_refused(folder):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(folder, ("classes.txt", b"dent\nscratch\n"))
    refused(lambda: dlilib.from_folder(path, 16), "entry 'classes.txt' is there twice")


@pytest.mark.parametrize("bits", [2, 4])
def test_masks_of_few_bits_keep_their_values(folder, bits):
    (folder / "classes.txt").write_text("scratch\ndent\nnick\n")
    header = struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)
    row = {2: b"\0\x1b\0\0\0", 4: b"\0\x01\x23" + bytes(6)}[bits][
        : 1 + 2 * bits
    ]  # the values 0, 1, 2, 3
    parts = (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(row + bytes(15 * (1 + 2 * bits)))),
        (b"IEND", b""),
    )
    png = b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )
    (folder / "masks/b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    mask = dlilib.from_folder(folder, 16).masks[0]
    assert mask[0, :4].tolist() == [0, 1, 2, 3] and int(mask.sum()) == 6


@pytest.mark.parametrize("root", ["/no/such/place", "", "magnetic.zip"])
def test_root_that_does_not_exist_is_refused(root):
    refused(lambda: dlilib.from_folder(root or "/no", 16), "no such folder or zip")
    refused(lambda: dlilib.magnetic_tiles(root or "/no", 16), "no such folder or zip")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of corrupt metadata
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=9))
def test_damaged_images_are_read_or_refused_by_name(kind, changes):
    content = bytearray(encoded(GREY, kind))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        assert read_image({"a.img": lambda: bytes(content)}, "a.img").dtype == np.uint8
    except DataError as error:
        assert str(error).startswith("a.img: ")
