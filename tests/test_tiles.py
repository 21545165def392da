"""A data set as one checked value, from whatever somebody holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import refused
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dlilib import IGNORE, TileSet

CLASSES = ("dent", "scratch")


def pixels(count=4, height=10, width=12, channels=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, height, width) if channels is None else (count, height, width, channels)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def marks(height=10, width=12):
    """Masks of a defect-free image, a dent, a scratch, and both with more of the dent."""
    masks = np.zeros((4, height, width), np.uint8)
    masks[1, 2:4, 2:5] = 1
    masks[2, 5:8, 1:3] = 2
    masks[3, 0:4, 0:4], masks[3, 6, 6] = 1, 2
    return masks


KINDS = {
    "arrays (N, H, W)": lambda x: x[..., 0],
    "arrays (N, H, W, C)": lambda x: x,
    "arrays (N, C, H, W)": lambda x: np.moveaxis(x, 3, 1),
    "tensor": lambda x: torch.from_numpy(np.moveaxis(x, 3, 1)),
    "tensor (N, H, W, C)": lambda x: torch.from_numpy(x),
    "list of arrays": lambda x: list(x),
    "list of tensors": lambda x: [torch.from_numpy(i).permute(2, 0, 1) for i in x],
    "nested lists": lambda x: x.tolist(),
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: x.astype(np.uint16),
    "floats": lambda x: x / 255,
    "float16": lambda x: (x / 255).astype(np.float16),
    "bfloat16": lambda x: torch.from_numpy(x).to(torch.bfloat16) / 255,
    "backwards": lambda x: x[::-1][::-1],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_give_the_same_bytes(kind, channels):
    given_images = pixels(channels=channels)
    given_images[..., 1:] = given_images[..., :1]  # grey, for the kind without channels
    tiles = TileSet.from_arrays(KINDS[kind](given_images), marks(), CLASSES)
    assert tiles.images.dtype == torch.uint8 and tiles.images.is_contiguous()
    expected = torch.from_numpy(given_images).permute(0, 3, 1, 2)[:, : tiles.images.shape[1]]
    coarse = 2 if kind == "bfloat16" else 0
    assert (tiles.images.int() - expected.int()).abs().max() <= coarse
    assert tiles.labels.tolist() == [0, 1, 2, 1] and tiles.masks.dtype == torch.uint8


@pytest.mark.parametrize(
    "change",
    [
        lambda m: torch.from_numpy(m),
        lambda m: torch.from_numpy(m)[:, None],
        lambda m: m[..., None],
        lambda m: m.astype(np.int64),
        lambda m: list(m),
        lambda m: m.tolist(),
    ],
)
def test_masks_of_every_kind_give_the_same(change):
    tiles = TileSet.from_arrays(pixels(), change(marks()), CLASSES)
    assert np.array_equal(tiles.masks, marks())


def test_names_labels_and_groups_are_the_given_ones_or_are_found():
    plain = TileSet.from_arrays(pixels(), marks(), CLASSES)
    assert plain.names == ("0", "1", "2", "3") and plain.groups.tolist() == [0, 1, 2, 3]
    named = TileSet.from_arrays(
        pixels(),
        marks(),
        CLASSES,
        labels=[0, 1, 2, 2],
        groups=["part 7", "part 3", "part 7", "part 3"],
        names=["a", "b", "c", "d"],
        source="mine",
    )
    assert named.labels.tolist() == [0, 1, 2, 2] and named.names == ("a", "b", "c", "d")
    assert named.groups.tolist() == [1, 0, 1, 0] and named.source == "mine"


def test_a_bool_mask_is_one_class():
    tiles = TileSet.from_arrays(pixels(), marks() > 0, ["defect"])
    assert tiles.masks.unique().tolist() == [0, 1] and tiles.labels.tolist() == [0, 1, 1, 1]
    refused(lambda: TileSet.from_arrays(pixels(), marks() > 0, CLASSES), "one class, not 2")


def test_it_keeps_what_it_was_made_of():
    images, masks = pixels(), marks()
    tiles = TileSet.from_arrays(images, masks, CLASSES)
    held = tiles.images.clone(), tiles.masks.clone()
    images[:], masks[:] = 0, 0
    assert torch.equal(tiles.images, held[0]) and torch.equal(tiles.masks, held[1])


@pytest.mark.parametrize("name", ["background", "BG", "__ignore__", "good"])
def test_what_0_and_255_are_called_is_no_class(name):
    refused(
        lambda: TileSet.from_arrays(pixels(), marks(), [name, "dent"]),
        f"classes: '{name}' as class 1 stands for",
    )


def test_what_is_ignored_is_no_class_and_no_label():
    masks = marks()
    masks[0, :3] = masks[1, 9] = IGNORE
    tiles = TileSet.from_arrays(pixels(), masks, CLASSES)
    assert tiles.labels.tolist() == [0, 1, 2, 1] and tiles.ignores
    assert tiles.marked.tolist() == [False, True, True, True]
    assert not TileSet.from_arrays(pixels(), marks(), CLASSES).ignores


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": pixels() / 100}, r"images must be floats in \[0, 1\].*2\.5"),
        (
            {"images": pixels().astype(np.uint16) * 256},
            r"images must be integers in 0\.\.255.*uint16",
        ),
        ({"images": pixels() - np.int64(300)}, r"integers in 0\.\.255, got int64 in -300"),
        ({"images": np.full((4, 10, 12), np.nan)}, r"floats in \[0, 1\].*nan"),
        ({"images": pixels() > 9}, "images must be floats or integers, got bool"),
        (
            {"images": pixels(3)},
            r"images must be \(N, C, H, W\).*\(3, 1, 10, 12\) and \(4, 10, 12\)",
        ),
        ({"images": pixels(height=9)}, r"images must be N of \(10, 12\).*\(4, 9, 12\)"),
        ({"images": pixels(channels=4)}, r"1 or 3 channels, got the shape \(4, 10, 12, 4\)"),
        (
            {"images": [*pixels(2), *pixels(2, height=9)]},
            r"images must be of one.*images\[2\] is \(9",
        ),
        ({"masks": marks() * 255}, "hold 0 and 255 alone|holds 254"),
        (
            {"masks": (marks() > 0).astype(np.uint8) * 255},
            "hold 0 and 255 alone, and 255 is ignored",
        ),
        ({"masks": marks() * 3}, r"masks: image '1' \(index 1\) holds 3, the classes are 1\.\.2"),
        ({"masks": marks().astype(int) - 1}, r"masks must hold 0.*got -1\.\.1"),
        ({"masks": marks().astype(float)}, "masks must be integers, got float64"),
        ({"masks": marks()[0]}, r"masks must be N of \(H, W\)"),
        ({"labels": [0, 1, 2]}, r"labels must be int64 \(4,\), got torch.int64 \(3,\)"),
        ({"labels": [0, 1, 2, 3]}, r"labels: image '3' \(index 3\) has 3, they must lie in 0\.\.2"),
        ({"labels": [0, 1, 2, -1]}, r"labels: image '3' \(index 3\) has -1"),
        ({"labels": [0, 0, 2, 1]}, r"image '1' \(index 1\) is defect-free by its label 0.*class 1"),
        ({"labels": [0, 2, 2, 1]}, r"image '1' \(index 1\) has 2, but its mask marks other"),
        ({"labels": [0, 1.0, 2, 1]}, "labels must be integers, got float64"),
        ({"groups": [0, 1]}, r"groups must be int64 \(4,\)"),
        ({"names": ["a"]}, "names must be as many as the 4 images, got 1"),
        ({"classes": "dent"}, "classes must be 1 to 254 distinct names"),
        ({"classes": ["dent", "dent"]}, "distinct names"),
        ({"classes": []}, "classes must be 1 to 254"),
        ({"classes": [str(c) for c in range(255)]}, "classes must be 1 to 254"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change, message):
    options = {"images": pixels(), "masks": marks(), "classes": CLASSES} | change
    refused(lambda: TileSet.from_arrays(**options), message)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: {"images": t.images.float() / 255},
            "images must be uint8 with 4 axes, got torch.f",
        ),
        (lambda t: {"images": t.images[:, 0]}, "images must be uint8 with 4 axes"),
        (lambda t: {"images": t.images.numpy()}, "images must be uint8 with 4 axes, got ndarray"),
        (
            lambda t: {"masks": t.masks.long()},
            "masks must be uint8 with 3 axes.*from_arrays converts",
        ),
        (lambda t: {"masks": (t.masks > 0).byte() * 255}, "hold 0 and 255 alone"),
        (lambda t: {"masks": t.masks[:3]}, "images must be"),
        (lambda t: {"masks": t.masks + 1}, "is defect-free by its label 0"),
        (lambda t: {"labels": t.labels.roll(1)}, r"labels: image '\d' \(index \d\)"),
        (lambda t: {"labels": t.labels.int()}, "labels must be int64"),
        (lambda t: {"labels": t.labels[:3]}, r"labels must be int64 \(4,\)"),
        (lambda t: {"groups": t.groups[:3]}, r"groups must be int64 \(4,\)"),
        (lambda t: {"sizes": t.labels}, r"sizes must be int64 \(4, 2\)"),
        (lambda t: {"names": t.names[:1]}, "names must be as many"),
        (lambda t: {"images": t.images.to("meta")}, "images are on meta, masks on cpu"),
    ],
)
def test_a_data_set_made_by_hand_is_checked_too(change, message):
    tiles = TileSet.from_arrays(pixels(), marks(), CLASSES)
    refused(lambda: replace(tiles, **change(tiles)), message)


def test_an_image_may_be_labelled_without_its_mask():
    masks = marks()
    masks[2] = 0
    tiles = TileSet.from_arrays(pixels(), masks, CLASSES, labels=[0, 1, 2, 1])
    assert tiles.marked.tolist() == [False, True, False, True]


def test_a_plain_data_loader_takes_it():
    tiles = TileSet.from_arrays(pixels(channels=3), marks(), CLASSES)
    image, mask, label = tiles[2]
    assert torch.equal(image, tiles.images[2]) and torch.equal(mask, tiles.masks[2]) and label == 2
    assert len(list(tiles)) == len(tiles) == 4
    images, masks, labels = next(iter(DataLoader(tiles, 4)))
    assert torch.equal(images, tiles.images) and torch.equal(masks, tiles.masks)
    assert torch.equal(labels, tiles.labels)


@given(rows=st.lists(st.integers(0, 71), max_size=20))
def test_subset_keeps_every_column(few_tiles, rows):
    part = few_tiles.subset(rows)
    assert len(part) == len(rows) and part.names == tuple(few_tiles.names[row] for row in rows)
    for name in ("images", "masks", "labels", "groups", "sizes", "exposure", "marked"):
        assert torch.equal(getattr(part, name), getattr(few_tiles, name)[rows]), name
    defective = few_tiles.subset(few_tiles.labels > 0)
    assert len(defective) == 40 and (defective.labels > 0).all()


@pytest.mark.parametrize("rows", [[72], [-73], [0.5], [True, False], ["a"], [[0]], True])
def test_rows_that_are_none_are_refused(few_tiles, rows):
    with pytest.raises(ValueError, match="rows must be"):
        few_tiles.subset(rows)


def test_the_repr_is_one_line(toy):
    assert repr(toy).startswith("TileSet(toy: 336 images 1×64×64; Blowhole 29, ")


def test_every_content_has_a_digest_of_its_own():
    """A finished run is told from one on other data by it."""
    tiles = TileSet.from_arrays(pixels(), marks(), CLASSES)
    same = TileSet.from_arrays(pixels(), marks(), CLASSES, names=list("abcd"))
    others = [
        TileSet.from_arrays(pixels(seed=1), marks(), CLASSES),
        TileSet.from_arrays(pixels(), marks(), CLASSES, labels=[0, 1, 2, 2]),
        TileSet.from_arrays(pixels(), marks(), CLASSES, groups=[0, 0, 1, 1]),
        tiles.subset([0, 1, 2]),
        tiles.subset([0, 1, 3]),
    ]
    assert tiles.digest == same.digest
    assert len({tiles.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_what_a_loader_gets_may_be_written_into():
    tiles = TileSet.from_arrays(pixels(), marks(), CLASSES)
    image, mask, _ = tiles[1]
    image.zero_(), mask.zero_()
    assert tiles.images[1].any() and tiles.masks[1].any()


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda t: t[0:3], r"a TileSet gives one image at a time, not \[slice"),
        (lambda t: t[[0, 1]], "one image at a time"),
        (lambda t: t.subset(3), r"rows must be indices of the 4 images or bool \(4,\), got 3"),
        (
            lambda t: TileSet.from_arrays(None, t.masks, CLASSES),
            "images must be a tensor",
        ),
        (
            lambda t: TileSet.from_arrays(t.images, None, CLASSES),
            "masks must be a tensor",
        ),
        (lambda t: TileSet.from_arrays(t.images, t.masks, None), "classes must be 1 to 254"),
        (lambda t: TileSet.from_arrays(t.images, t.masks, {"a", "b"}), "classes must be 1 to 254"),
        (
            lambda t: TileSet.from_arrays(t.images, t.masks, CLASSES, names="abcd"),
            "names must be a l",
        ),
        (
            lambda t: TileSet.from_arrays(t.images, t.masks, CLASSES, names=[1] * 4),
            "names must be str",
        ),
        (
            lambda t: TileSet.from_arrays([[[1], [1, 2]]] * 4, t.masks, CLASSES),
            "images must be n",
        ),
        (lambda t: replace(t, labels=t.labels.to("meta")), "labels must be on the CPU, got meta"),
    ],
)
def test_mistakes_are_told_in_words(use, message):
    refused(lambda: use(TileSet.from_arrays(pixels(), marks(), CLASSES)), message)
