from dataclasses import fields

import pytest
import torch

from dlilib import toy_tiles
from dlilib.data.magnetic import MT_CLASSES, MT_COUNTS


def test_same_seed_and_size_give_the_same_bytes(toy):
    again = toy_tiles(seed=0, size=64)
    for field in fields(toy):
        ours, theirs = getattr(toy, field.name), getattr(again, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, (
            field.name
        )


def test_seeds_differ_in_pixels_and_digest_but_not_in_labels(toy):
    other = toy_tiles(seed=1)
    assert not (toy.images == other.images).flatten(1).all(1).any()
    assert not torch.equal(toy.masks, other.masks)
    assert toy.digest != other.digest
    assert torch.equal(toy.labels, other.labels) and torch.equal(toy.groups, other.groups)


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    toy_tiles(size=8)
    assert torch.equal(torch.rand(4), expected)


def test_counts_are_a_quarter_of_the_real_ones(toy):
    assert toy.classes == MT_CLASSES
    assert toy.counts() == {name: round(count / 4) for name, count in MT_COUNTS.items()}
    assert len(toy) == 336


def test_shapes_types_and_names(toy):
    assert toy.images.shape == (336, 1, 64, 64) and toy.images.dtype == torch.uint8
    assert toy.masks.shape == (336, 64, 64) and toy.masks.dtype == torch.uint8
    assert toy.labels.dtype == toy.groups.dtype == torch.int64
    assert len(set(toy.names)) == 336
    assert (toy.sizes == 64).all()


@pytest.mark.parametrize(("seed", "size"), [(0, 8), (0, 32), (0, 64), (1, 64), (2, 128), (3, 24)])
def test_defective_images_have_a_mask_of_only_their_class_and_free_ones_none(seed, size):
    tiles = toy_tiles(seed, size)
    assert tiles.images.shape[2:] == tiles.masks.shape[1:] == (size, size)
    for mask, label in zip(tiles.masks, tiles.labels.tolist(), strict=True):
        assert set(mask.unique().tolist()) == ({0, label} if label else {0})


def test_exposures_of_a_tile_share_its_mask_but_not_its_pixels(toy):
    for tile in toy.groups.unique():
        members = toy.groups == tile
        assert 1 <= members.sum() <= 4
        assert len(toy.labels[members].unique()) == 1
        assert len(toy.masks[members].unique(dim=0)) == 1
        assert len(toy.images[members].unique(dim=0)) == members.sum()
        assert sorted(toy.exposure[members].tolist()) == list(range(1, int(members.sum()) + 1))


def test_tiles_of_defects_do_not_share_a_mask(toy):
    defective = toy.labels > 0
    assert len(toy.masks[defective].unique(dim=0)) == len(toy.groups[defective].unique())


def test_exposures_of_a_tile_look_alike_and_other_tiles_do_not(toy):
    free = toy.labels == 0
    flat = toy.images[free].flatten(1).float()
    likeness = torch.corrcoef(
        flat - torch.nn.functional.avg_pool2d(flat.view(-1, 1, 64, 64), 9, 1, 4).flatten(1)
    )
    same = toy.groups[free][:, None] == toy.groups[free]
    assert likeness[same].min() > 0.8 > likeness[~same].max()


def test_defects_show_in_the_image(toy):
    for label in (1, 3, 5):  # blowholes, cracks and uneven bands are darker than their tile
        members = (toy.labels == label).nonzero().flatten().tolist()
        darker = [
            toy.images[i, 0][toy.masks[i] > 0].float().mean() < toy.images[i, 0].float().mean()
            for i in members
        ]
        assert sum(darker) > 0.9 * len(members)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be a non-negative integer, got {seed}"):
        toy_tiles(seed)


@pytest.mark.parametrize("size", [0, -64, 7, 60])
def test_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=f"size must be a positive multiple of 8 .*{size}"):
        toy_tiles(size=size)
