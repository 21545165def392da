"""What is wrong is told by us, in words a person can act on: never a traceback from a library's inside."""

import io
import json
import os
import pickle
import struct
import traceback
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import dlilib
from dlilib.data.files import DataError, WriteError
from dlilib.data.images import read_image
from dlilib.study.cluster import execute_on_workers as over_workers
from dlilib.study.experiments import experiment
from dlilib.study.sweep import execute, load_tiles
from dlilib.training.store import Store

PACKAGE = Path(dlilib.__file__).parent
GREY = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
MASK = np.pad(np.ones((4, 4), np.uint8), ((0, 12), (0, 12)))
TINY = dlilib.Run(
    data="toy", size=32, weights=None, epochs=1, batch=16, free_share=0.05, method="baseline"
)


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


def refused(call, message, errors=(ValueError, dlilib.models.WeightsError, WriteError)):
    """The call fails with our own error, which says `message`, raised in our own code."""
    with pytest.raises(errors, match=message) as found:
        call()
    assert Path(traceback.extract_tb(found.value.__traceback__)[-1].filename).parent == PACKAGE


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
    "16-bit image": (
        "images/b.png",
        encoded(GREY.astype(np.uint16) * 256),
        "pixel format I;16 is not 8-bit",
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
    "no class": ("classes.txt", b"\n", "classes.txt: needs 1 to 255 distinct class names"),
    "a class twice": (
        "classes.txt",
        b"dent\ndent\n",
        "classes.txt: needs 1 to 255 distinct class names",
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
        "tiles.csv: no row for image 'größe 1'",
    ),
    "two tiles for an image": (
        "tiles.csv",
        b"image,tile\nb,1\nb,2\n",
        "image 'b' needs one tile, got '2'",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_file(folder, case):
    name, content, message = FILES[case]
    (folder / name).write_bytes(content)
    if name.endswith((".jpg", ".tif")) and case != "two images of one name":
        (folder / "masks/c.png").write_bytes(encoded(MASK))
    refused(lambda: dlilib.from_folder(folder, 16), message)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (links_out, "a link that leaves"),
        (links_to_itself, "images/c.png: cannot be read"),
        (loses_classes, "classes.txt: missing"),
        (loses_everything, "images: holds no image"),
    ],
)
def test_folder(folder, change, message):
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
        ("images/bomb.png", b"\0" * (2**28 + 1), "bomb.png' unpacks to 268435457"),
    ],
)
def test_zip_entry(folder, name, content, message):
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
def test_zip(folder, damage, message):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: dlilib.from_folder(path, 16), message)


def test_zip_entry_that_is_there_twice(folder):
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


@pytest.mark.parametrize("state", [[1], {}, {"model": {}}], ids=str)
def test_checkpoint_of_something_else(tiles, tmp_path, state):
    Store(tmp_path).save(TINY, state)
    refused(
        lambda: dlilib.fit(TINY, tiles, folder=tmp_path),
        "is of another run or other data: delete it",
    )


def test_checkpoint_with_a_flipped_bit(tiles, tmp_path):
    store = Store(tmp_path)
    store.save(TINY, dlilib.trainer.Trainer(TINY, tiles, torch.device("cpu")).state())
    content = bytearray(store.checkpoint_path(TINY).read_bytes())
    content[len(content) // 2] ^= 1
    store.checkpoint_path(TINY).write_bytes(content)
    refused(lambda: dlilib.fit(TINY, tiles, folder=tmp_path), "unreadable checkpoint; delete it")


@pytest.mark.parametrize("root", ["/no/such/place", "", "magnetic.zip"])
def test_no_data(root):
    refused(lambda: dlilib.from_folder(root or "/no", 16), "no such folder or zip")
    refused(lambda: dlilib.magnetic_tiles(root or "/no", 16), "no such folder or zip")


@pytest.mark.parametrize("size", [0, -8, 100, 4])
def test_size(folder, size):
    refused(
        lambda: dlilib.from_folder(folder, size), f"size must be a positive multiple of 8.*{size}"
    )


FIELDS = {
    "method": "cutmix",
    "encoder": "vgg",
    "split": "random",
    "precision": "int8",
    "weights": "coco",
    "label": "wide",
    "region": "circle",
    "guidance": "none",
    "until": "never",
    "losses": "mine",
    "resize": "area",
    "data": "../x",
    "epochs": 0,
    "batch": 1,
    "size": 20,
    "lr": float("nan"),
    "fraction": -0.5,
    "p_poisson": 1.01,
    "seed": -1,
    "threshold": 255,
    "free_share": float("inf"),
    "shots": -1,
    "nbr": -1.0,
    "similarity": 1,
}


@pytest.mark.parametrize("name", FIELDS)
def test_run(name):
    refused(
        lambda: dlilib.Run(**{name: FIELDS[name]}),
        rf"Run\.{name}.*{FIELDS[name]}".replace("../x", ""),
    )


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@pytest.mark.filterwarnings("ignore")  # Pillow's, of corrupt metadata
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=9))
@settings(deadline=None)
def test_damaged_images_are_read_or_refused_by_name(kind, changes):
    content = bytearray(encoded(GREY, kind))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        assert read_image({"a.img": lambda: bytes(content)}, "a.img").dtype == np.uint8
    except DataError as error:
        assert str(error).startswith("a.img: ")


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES))
@settings(max_examples=300, deadline=None)
def test_whatever_a_run_is_given_it_is_a_run_or_our_error(fields):
    try:
        run = dlilib.Run(**fields)
    except ValueError as error:
        assert "Run." in str(error)
    else:
        assert dlilib.Run(**run.changed) == run


@pytest.fixture(scope="module")
def tiles():
    return dlilib.toy_tiles(size=32)


@pytest.fixture(scope="module")
def batch(tiles):
    rows = torch.arange(0, 336, 14)
    return tiles.images[rows].float() / 255, tiles.masks[rows], tiles.labels[rows]


BATCHES = {
    "label over K": (lambda x, m, y: (x, m, y + 5), r"labels must lie in 0..5, got 5..10"),
    "negative label": (lambda x, m, y: (x, m, y - 1), r"labels must lie in 0..5, got -1..4"),
    "float labels": (lambda x, m, y: (x, m, y.float()), "labels must be integers"),
    "labels of another batch": (
        lambda x, m, y: (x, m, y[:3]),
        r"labels must be \(B,\) = \(24,\), got \(3,\)",
    ),
    "masks of another batch": (lambda x, m, y: (x, m[:3], y), "masks must be int"),
    "float masks": (lambda x, m, y: (x, m.float(), y), "masks must be int"),
    "one image": (lambda x, m, y: (x[0], m, y), r"images must be \(B, C, H, W\)"),
    "integer images": (
        lambda x, m, y: (x.long(), m, y),
        "images must be .* float or uint8, got torch.int64",
    ),
    "arrays": (lambda x, m, y: (x.numpy(), m, y), "images must be a torch tensor, got ndarray"),
    "another size": (
        lambda x, m, y: (x[..., :16], m[..., :16], y),
        r"the donors' images are \(1, 32, 32\)",
    ),
    "mixed devices": (lambda x, m, y: (x, m.to("meta"), y), "masks on meta"),
    "NaN pixel": (
        lambda x, m, y: (x.index_fill(0, torch.tensor([3]), np.nan), m, y),
        "largest pixel is nan",
    ),
    "floats in 0..255": (lambda x, m, y: (x * 255, m, y), r"float images must lie in \[0, 1\]"),
    "infinite pixel": (lambda x, m, y: (x + np.inf, m, y), "largest pixel is inf"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_batch(tiles, batch, case):
    change, message = BATCHES[case]
    transform = dlilib.DynamicLabelInjection(tiles, generator=torch.Generator().manual_seed(0))
    refused(lambda: transform(*change(*batch)), message)
    transform(*batch)  # and is none the worse for it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_full(tiles, batch, dtype):
    images, masks, labels = batch
    transform = dlilib.DynamicLabelInjection(tiles)
    plan = transform.plan(labels)
    full = transform.apply_plan(plan, images, masks, labels)[0]
    half = transform.apply_plan(plan, images.to(dtype), masks, labels)[0]
    assert half.dtype == dtype and (half.float() - full).abs().mean() < 0.01


OPTIONS = {
    "p_poisson": (1.5, "p_poisson must lie in"),
    "until": ("done", "until must be one of"),
    "region": ("all", "region must be one of"),
    "guidance": ("target", "guidance must be one of"),
    "label": ("none", "label must be one of"),
    "donors": ([9999], "donors must index the 336 tiles"),
    "warps": ({"Dent": None}, "warps names"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_transform(tiles, name):
    value, message = OPTIONS[name]
    refused(lambda: dlilib.DynamicLabelInjection(tiles, **{name: value}), message)


def test_plan_of_other_tiles(tiles, batch):
    transform = dlilib.DynamicLabelInjection(tiles)
    plan = transform.plan(batch[2])
    foreign = replace(plan, donor=plan.donor + 336)
    refused(lambda: transform.apply_plan(foreign, *batch), "the plan's donors reach")
    refused(
        lambda: transform.apply_plan(plan, *(x[:4] for x in batch)),
        "the plan is for a batch of at least",
    )


BLENDS = {
    "NaN": (lambda t, d, m: (t + np.nan, d, m), "target and donor must be finite"),
    "infinity": (lambda t, d, m: (t, d + np.inf, m), "target and donor must be finite"),
    "shapes": (lambda t, d, m: (t, d[:2], m), "must share a shape"),
    "dtypes": (lambda t, d, m: (t, d.double(), m), "must share a dtype"),
    "bytes": (lambda t, d, m: (t.byte(), d.byte(), m), "needs float images"),
    "mask": (lambda t, d, m: (t, d, m.byte()), "mask must be bool"),
    "devices": (
        lambda t, d, m: (t, d.to("meta"), m),
        "must be on one device: target cpu, donor meta",
    ),
}


@pytest.mark.parametrize("case", BLENDS)
def test_blend(batch, case):
    change, message = BLENDS[case]
    images, masks, _ = batch
    refused(lambda: dlilib.poisson_blend(*change(images, images.flip(0), masks > 0)), message)


SPLITS = {
    "protocol": ("random", "protocol must be"),
    "fraction": (float("nan"), "fraction must lie in"),
    "seed": (-1, "seed must be a non-negative integer"),
    "shots": (9, "shots must be 0, or more"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_split(tiles, name):
    value, message = SPLITS[name]
    refused(lambda: dlilib.split(tiles, **{name: value}), message)


def test_training_data(tiles):
    refused(
        lambda: dlilib.fit(replace(TINY, size=64), tiles),
        "the run wants size 64, the tiles have 32",
    )
    free = replace(tiles, labels=tiles.labels * 0, masks=tiles.masks * 0)
    refused(lambda: dlilib.fit(replace(TINY, method="dli"), free), "class Blowhole has no donor")
    refused(lambda: load_tiles(replace(TINY, data="cifar")), "the study knows the data")
    refused(lambda: experiment("comparison", "large"), "preset must be one of")
    refused(lambda: experiment("everything", "lite"), "experiment must be one of")


def test_a_batch_larger_than_the_data_is_all_of_it(tiles):
    assert dlilib.fit(replace(TINY, batch=10_000), tiles)["last"]["epoch"] == 1


class Evil:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_weights_and_checkpoints_are_never_unpickled(tiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLILIB_WEIGHTS", str(tmp_path))
    evil = pickle.dumps(Evil())
    (tmp_path / "resnet18.safetensors").write_bytes(evil)
    refused(
        lambda: dlilib.models.build("resnet18", weights="imagenet"),
        "not a readable safetensors file",
    )
    store = Store(tmp_path)
    store.save(TINY, {})
    store.checkpoint_path(TINY).write_bytes(evil)
    refused(lambda: dlilib.fit(TINY, tiles, folder=tmp_path), "unreadable checkpoint; delete it")
    store.record_path(TINY).parent.mkdir()
    store.record_path(TINY).write_bytes(evil)
    refused(lambda: store.record(TINY), "not a record")
    assert not (tmp_path / "harmed").exists()


def test_weights_of_wrong_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("DLILIB_WEIGHTS", str(tmp_path))
    state = dlilib.models.build("resnet18").encoder.state_dict()
    save_file({**state, "conv1.weight": torch.zeros(1)}, tmp_path / "resnet18.safetensors")
    refused(
        lambda: dlilib.models.build("resnet18", weights="imagenet"),
        r"conv1.weight of resnet18 is \(1,\), not",
    )


@pytest.mark.parametrize(
    "spoil", [lambda t: t * torch.nan, lambda t: t.long()], ids=["NaN", "integers"]
)
def test_weights_that_are_none(tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("DLILIB_WEIGHTS", str(tmp_path))
    state = dlilib.models.build("resnet18").encoder.state_dict()
    save_file(
        {**state, "conv1.weight": spoil(state["conv1.weight"])}, tmp_path / "resnet18.safetensors"
    )
    refused(
        lambda: dlilib.models.build("resnet18", weights="imagenet"),
        "conv1.weight of resnet18 holds",
    )


CHANGES = {
    "a better IoU": lambda r: r["best"].update(iou=0.99),
    "NaN": lambda r: r["last"].update(iou=float("nan")),
    "no IoU": lambda r: r["best"].pop("iou"),
    "an epoch to come": lambda r: r["best"].update(epoch=9),
    "words for seconds": lambda r: r.update(seconds="x"),
    "no device": lambda r: r.update(machine=3),
    "counts of one": lambda r: r["best"].update(classes=[[1]] * 5),
}


def test_records_that_were_changed(tiles, tmp_path):
    dlilib.fit(TINY, tiles, folder=tmp_path)
    path = Store(tmp_path).record_path(TINY)
    whole = path.read_text()
    for change in CHANGES.values():
        record = json.loads(whole)
        change(record)
        path.write_text(json.dumps(record))
        refused(
            lambda: dlilib.records(tmp_path),
            rf"{TINY.id}.json: a record that was changed .*delete it",
        )


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    parts = [
        Store(tmp_path).checkpoint_path(run).with_name(f".{run.id}.pt.7")
        for run in (TINY, replace(TINY, seed=1))
    ]
    parts[0].parent.mkdir()
    for part in parts:
        part.touch()
    with Store(tmp_path).claim(TINY):
        assert [part.exists() for part in parts] == [False, True]


def test_record_cut_in_half(tiles, tmp_path):
    dlilib.fit(TINY, tiles, folder=tmp_path)
    path = Store(tmp_path).record_path(TINY)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    for read in (
        dlilib.records,
        lambda f: execute([TINY], f),
        lambda f: over_workers([TINY], f, workers=1),
    ):
        refused(lambda read=read: read(tmp_path), "not a record .*delete it to run it again")


def test_checkpoint_of_another_configuration(tiles, tmp_path):
    other, store = replace(TINY, lr=1e-3), Store(tmp_path)
    trainer = dlilib.trainer.Trainer(other, tiles, torch.device("cpu"))
    store.save(TINY, trainer.state())
    refused(
        lambda: dlilib.fit(TINY, tiles, folder=tmp_path),
        "is of another run or other data: delete it",
    )


def test_a_clock_that_jumps_back_changes_nothing(tiles, tmp_path, monkeypatch):
    ticks = iter(range(10**9, 0, -1000))
    monkeypatch.setattr("time.time", lambda: next(ticks))
    assert execute([TINY], tmp_path, budget=60, progress=False) == 0
    assert 0 < dlilib.records(tmp_path)["seconds"][0] < 60


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs '{place}' 2> /dev/null"):
        pytest.skip("FULL DISK NOT TESTED: mounting a tmpfs needs root")
    yield place
    os.system(f"umount '{place}'")


def test_a_full_disk_keeps_what_is_finished(tiles, small_disk):
    record = dlilib.fit(TINY, tiles)
    store = Store(small_disk)
    store.finish(TINY, record)
    before = dlilib.records(small_disk)
    other = [replace(TINY, seed=1)]
    refused(lambda: execute(other, small_disk, progress=False), "cannot be written .No space left")
    refused(
        lambda: over_workers(other, small_disk, workers=1, progress=False),
        "cannot be written .No space left",
    )
    assert dlilib.records(small_disk).equals(before)
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == [
        store.record_path(TINY).name
    ]


def test_a_read_only_disk_is_said(small_disk):
    os.system(f"mount -o remount,ro '{small_disk}'")
    refused(
        lambda: execute([TINY], small_disk, progress=False),
        "cannot be written .Read-only file system",
    )
    refused(
        lambda: over_workers([TINY], small_disk, workers=1, progress=False),
        "cannot be written .Read-only",
    )
