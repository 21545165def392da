import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlilib import split
from dlilib.analysis.tables import PAPER_IMAGES
from dlilib.data.splits import leak
from dlilib.tiles import TileSet

PROTOCOLS = ("image", "tile")


def tiles_of(labels, tile=None):
    n = len(labels)
    masks = torch.tensor(labels, dtype=torch.uint8)[:, None, None].expand(n, 8, 8).contiguous()
    return TileSet(
        images=torch.zeros_like(masks)[:, None],
        masks=masks,
        labels=torch.tensor(labels),
        groups=torch.arange(n) if tile is None else torch.tensor(tile),
        names=tuple(map(str, range(n))),
        classes=("a", "b"),
    )


def per_class(tiles, indices):
    return np.bincount(tiles.labels[indices], minlength=tiles.num_classes + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("free_in_val", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_sides_are_sorted_disjoint_int64(toy, protocol, free_in_val, fraction):
    train, val = split(toy, protocol, seed=2, fraction=fraction, free_in_val=free_in_val)
    for side in (train, val):
        assert isinstance(side, np.ndarray) and side.dtype == np.int64
        assert (np.diff(side) > 0).all() and side[0] >= 0 and side[-1] < len(toy)
    assert not np.intersect1d(train, val).size


@pytest.mark.parametrize("seed", range(5))
def test_image_split_trains_on_80_percent_of_each_class(toy, seed):
    total = per_class(toy, np.arange(len(toy)))
    train, val = split(toy, seed=seed)
    assert per_class(toy, train).tolist() == [238, *(total[1:] * 8 // 10)]
    assert per_class(toy, val).tolist() == [0, *(total[1:] - total[1:] * 8 // 10)]


def test_image_split_with_free_images_splits_them_too(toy):
    total = per_class(toy, np.arange(len(toy)))
    train, val = split(toy, seed=1, free_in_val=True)
    assert per_class(toy, train).tolist() == (total * 8 // 10).tolist()
    assert np.array_equal(np.union1d(train, val), np.arange(len(toy)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", [0, 3])
def test_free_images_in_validation_leave_the_defective_split_as_it_is(toy, protocol, seed):
    sides = zip(
        split(toy, protocol, seed), split(toy, protocol, seed, free_in_val=True), strict=True
    )
    for without, with_free in sides:
        np.testing.assert_array_equal(
            without[toy.labels[without] > 0], with_free[toy.labels[with_free] > 0]
        )


@pytest.mark.parametrize("free_in_val", [False, True])
@pytest.mark.parametrize("seed", [0, 4, 5, 23])
def test_tile_split_has_no_tile_on_both_sides(toy, seed, free_in_val):
    train, val = split(toy, "tile", seed, free_in_val=free_in_val)
    assert not np.intersect1d(toy.groups[train], toy.groups[val]).size
    assert leak(toy, train, val) == 0


@pytest.mark.parametrize("first", [0, 5])
def test_five_tile_splits_validate_every_defective_image_once(toy, first):
    folds = [split(toy, "tile", seed) for seed in range(first, first + 5)]
    validated = np.concatenate([val for _, val in folds])
    np.testing.assert_array_equal(np.sort(validated), np.flatnonzero(toy.labels > 0))
    tiles = np.concatenate([np.unique(toy.groups[val]) for _, val in folds])
    np.testing.assert_array_equal(np.sort(tiles), np.unique(toy.groups[toy.labels > 0]))


def test_five_tile_splits_with_free_images_validate_every_image_once(toy):
    validated = np.concatenate([split(toy, "tile", seed, free_in_val=True)[1] for seed in range(5)])
    np.testing.assert_array_equal(np.sort(validated), np.arange(len(toy)))


@pytest.mark.parametrize("seed", range(5))
def test_tile_split_trains_every_class_and_validates_those_of_five_tiles(toy, seed):
    train, val = split(toy, "tile", seed)
    assert (per_class(toy, train) > 0).all()
    distinct = [len(toy.groups[toy.labels == label].unique()) for label in range(6)]
    for label in range(1, 6):
        if distinct[label] >= 5:
            assert (toy.labels[val] == label).any()


def test_free_images_of_validation_tiles_are_left_out_of_the_tile_split():
    tiles = tiles_of([1, 0] * 10 + [2, 0] * 10, np.repeat(np.arange(20), 2).tolist())
    train, val = split(tiles, "tile", seed=1)
    assert len(val) == 4 and (tiles.labels[val] > 0).all()
    np.testing.assert_array_equal(
        train, np.setdiff1d(np.arange(40), np.concatenate([val, val + 1]))
    )
    image_train, _ = split(tiles, "image", seed=1)
    assert (tiles.labels[image_train] == 0).sum() == 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.75])
def test_fraction_keeps_the_floor_of_each_class_but_at_least_one(toy, protocol, fraction):
    full, full_val = split(toy, protocol, seed=1)
    train, val = split(toy, protocol, seed=1, fraction=fraction)
    assert np.isin(train, full).all()
    np.testing.assert_array_equal(val, full_val)
    expected = [max(1, int(count * fraction)) for count in per_class(toy, full)]
    assert per_class(toy, train).tolist() == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_same_seed_same_split_and_other_seed_another(toy, protocol):
    first, again = (split(toy, protocol, seed=3, fraction=0.5) for _ in range(2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for other in (4, 8):
        assert not np.array_equal(first[1], split(toy, protocol, seed=other)[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_global_generator_neither_changes_nor_is_changed(toy, protocol):
    np.random.seed(0)
    expected = split(toy, protocol, fraction=0.5)
    after = np.random.random()
    np.random.seed(0)
    assert np.random.random() == after
    np.random.seed(1)
    for ours, theirs in zip(expected, split(toy, protocol, fraction=0.5), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=min(40, settings.default.max_examples))
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_image_split_of_any_labels_is_a_partition(labels, seed):
    tiles = tiles_of(labels)
    train, val = split(tiles, "image", seed, free_in_val=True)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    for label in set(labels):
        assert (tiles.labels[train] == label).sum() == labels.count(label) * 8 // 10


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        ([0, 2], [1, 3], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([0], [1, 2, 3, 4], 0.25),
        ([0, 3], [1, 2, 4], 2 / 3),
    ],
)
def test_leak_is_the_share_of_validation_images_whose_tile_trains(train, val, expected):
    tiles = tiles_of([1, 1, 1, 1, 1], [7, 7, 8, 8, 9])
    assert leak(tiles, np.array(train), np.array(val)) == pytest.approx(expected)


def test_leak_counts_images_not_tiles():
    tiles = tiles_of([1] * 6, [0, 0, 0, 0, 1, 2])
    assert leak(tiles, np.array([0]), np.array([1, 2, 3, 4])) == 0.75


def test_image_split_of_toy_tiles_leaks(toy):
    train, val = split(toy, "image")
    several = val[
        (toy.labels[val] != toy.classes.index("Fray") + 1).numpy()
    ]  # Fray's tiles have one exposure each
    assert leak(toy, train, several) > 0.8


def test_labels_on_a_permuted_data_set_stay_with_their_images(toy):
    order = np.random.default_rng(0).permutation(len(toy))
    mixed = toy.subset(order)
    train, val = split(mixed, "tile", seed=2)
    assert leak(mixed, train, val) == 0
    assert (mixed.labels[val] > 0).all() and (per_class(mixed, train) > 0).all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("protocol", "group"),
        ("fraction", 0),
        ("fraction", -0.5),
        ("fraction", 1.01),
        ("fraction", float("nan")),
        ("fraction", "half"),
        ("fraction", True),
        ("seed", -1),
        ("seed", True),
        ("tiles", "my_parts"),
        ("free_in_val", "no"),
    ],
)
def test_argument_out_of_range_is_refused(toy, argument, value):
    told = "got str" if argument == "tiles" else value
    with pytest.raises(ValueError, match=f"{argument} must .*{told}"):
        split(**{"tiles": toy, argument: value})


def test_too_few_tiles_for_five_folds_are_refused_in_words():
    tiles = tiles_of([1, 1, 0, 0, 2, 2], [0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match="parts"):
        split(tiles, "tile")


# --- the real data


@pytest.mark.parametrize("seed", range(5))
def test_real_image_split_leaks_and_tile_split_does_not(real_tiles, real_groups, seed):
    assert leak(real_tiles, *split(real_tiles, "image", seed)) > 0.9
    train, val = split(real_tiles, "tile", seed)
    assert leak(real_tiles, train, val) == 0
    assert not np.intersect1d(real_groups[train], real_groups[val]).size


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_real_defect_classes_are_on_both_sides(real_tiles, protocol, seed):
    train, val = split(real_tiles, protocol, seed)
    assert (per_class(real_tiles, train) > 0).all()
    assert (per_class(real_tiles, val)[1:] > 0).all()


def test_real_image_split_has_the_released_sizes(real_tiles):
    train, val = split(real_tiles, "image", seed=42)
    assert per_class(real_tiles, train).tolist() == [952, 92, 68, 45, 25, 82]
    assert per_class(real_tiles, val).tolist() == [0, 23, 17, 12, 7, 21]
    assert 1000 * len(train) == PAPER_IMAGES  # the paper's epochs


def few_shot(tiles, shots, seed=0, **options):
    return split(tiles, "tile", seed, shots=shots, **options)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("seed", range(5))
def test_few_shot_trains_on_so_many_images_of_as_many_tiles(toy, shots, seed):
    train, val = few_shot(toy, shots, seed)
    assert per_class(toy, train)[1:].tolist() == [shots] * 5
    defective = train[toy.labels[train] > 0]
    assert len(toy.groups[defective].unique()) == 5 * shots
    assert not np.isin(toy.groups[train], toy.groups[val]).any()
    assert (toy.labels[val] > 0).all() and (per_class(toy, val)[1:] > 0).all()
    rest = np.setdiff1d(np.flatnonzero(toy.labels > 0), np.r_[train, val])
    assert np.isin(
        toy.groups[rest], toy.groups[defective]
    ).all()  # only other photographs of what trains are left out


def test_few_shot_supports_are_disjoint_over_the_seeds(toy):
    trains = [few_shot(toy, 1, seed)[0] for seed in range(5)]
    supports = [set(toy.groups[train[toy.labels[train] > 0]].tolist()) for train in trains]
    assert len(set().union(*supports)) == sum(map(len, supports)) == 25


def test_few_shot_repeats_itself_and_free_images_of_validation_tiles_stay_apart():
    labels, tile = [1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 6, 7]
    tiles = tiles_of(labels, tile)
    (train, val), again = few_shot(tiles, 1), few_shot(tiles, 1)
    assert np.array_equal(train, again[0]) and np.array_equal(val, again[1])
    support = set(tile[i] for i in train if labels[i])
    free = {i for i in range(11) if labels[i] == 0}
    assert {i for i in train if labels[i] == 0} == {i for i in free if tile[i] in support | {6, 7}}
    _, scored = few_shot(tiles, 1, free_in_val=True)
    assert set(scored) - set(val) == free - set(train)


def test_few_shot_takes_no_image_of_an_empty_mask():
    tiles = tiles_of([1, 1, 1, 1, 2, 2, 2, 2, 0], [0, 0, 1, 2, 3, 4, 5, 6, 7])
    tiles.masks[[0, 2, 4]] = 0  # of tile 0 one image, of tiles 1 and 3 all
    tiles = replace(tiles)  # looks at the masks anew
    for seed in range(6):
        train = few_shot(tiles, 1, seed)[0]
        assert per_class(tiles, train).tolist() == [1, 1, 1] and not {0, 2, 4} & set(train)
    with pytest.raises(ValueError, match="2 shots need more than 2 parts of class a, it has 2"):
        few_shot(tiles, 2)


@pytest.mark.parametrize("shots", [1.5, "1", None])
def test_shots_that_are_no_number_are_refused(toy, shots):
    with pytest.raises(ValueError, match="shots must be 0, or more"):
        few_shot(toy, shots)


@pytest.mark.parametrize("options", [{"protocol": "image"}, {"fraction": 0.5}, {"shots": -1}])
def test_few_shot_elsewhere_is_refused(toy, options):
    with pytest.raises(ValueError, match="shots must be 0"):
        split(toy, **{"protocol": "tile", "shots": 1, **options})


def test_too_many_shots_name_the_class(toy):
    with pytest.raises(
        ValueError, match="8 shots need more than 8 parts of class Blowhole, it has 8"
    ):
        few_shot(toy, 8)


def test_few_shot_whose_tiles_hold_all_of_another_class_is_refused():
    tiles = tiles_of([1, 1, 2, 2, 2], [0, 1, 0, 1, 2])
    with pytest.raises(ValueError, match="no part is left to validate a"):
        for seed in range(6):  # in some of them the two classes take tiles 0 and 1
            few_shot(tiles, 1, seed)


@pytest.mark.parametrize("shots", [1, 5])
def test_few_shot_of_the_real_tiles(real_tiles, shots):
    for seed in range(5):
        train, val = few_shot(real_tiles, shots, seed)
        assert per_class(real_tiles, train)[1:].tolist() == [shots] * 5
        assert (per_class(real_tiles, val)[1:] > 0).all() and leak(real_tiles, train, val) == 0


@pytest.mark.parametrize("protocol", ["image", "tile"])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_test_images_are_set_apart_first(toy, protocol, share):
    for seed in (0, 1):
        train, val, test = split(toy, protocol, seed, test=share)
        both = np.concatenate([train, val, test])
        assert len(np.unique(both)) == len(both) and (np.diff(test) > 0).all()
        counts = per_class(toy, test) / np.array([238, 29, 21, 14, 8, 26])
        assert (np.abs(counts - share) < 0.25).all()
        if protocol == "tile":
            assert leak(toy, np.concatenate([train, val]), test) == 0 == leak(toy, train, val)
        assert not np.array_equal(test, split(toy, protocol, seed + 2, test=share)[2])


def test_a_test_set_stays_what_earlier_versions_drew(toy):
    tested = split(toy, seed=3, test=0.2)[2]
    assert tested[:10].tolist() == [5, 7, 11, 14, 16, 24, 27, 35, 36, 42] and len(tested) == 68


def test_without_a_test_share_the_split_is_as_ever(toy):
    assert len(split(toy)) == 2 and len(split(toy, test=0.0)) == 2
    for wrong in (-0.1, 0.6, "some"):
        with pytest.raises(ValueError, match=r"test must lie in \[0, 0.5\]"):
            split(toy, test=wrong)
    with pytest.raises(ValueError, match="test must be 0 with shots"):
        split(toy, "tile", shots=1, test=0.2)


def test_given_split_validates_defects_alone_unless_asked_and_keeps_a_share():
    labels = [1] * 4 + [2] * 6 + [0] * 4 + [1, 2, 0, 0]
    tiles = replace(tiles_of(labels), given=("train",) * 14 + ("val",) * 4)
    train, val = split(tiles, "given")
    assert train.tolist() == list(range(14)) and val.tolist() == [14, 15]
    _, everything = split(tiles, "given", free_in_val=True)
    assert everything.tolist() == [14, 15, 16, 17]
    half, same = split(tiles, "given", fraction=0.5)
    assert np.isin(half, train).all() and np.bincount(tiles.labels[half]).tolist() == [2, 2, 3]
    assert same.tolist() == val.tolist()


def test_few_shot_draws_one_of_the_images_of_a_part():
    labels, parts = [1] * 15 + [2] * 3 + [0], [0] * 5 + [1] * 5 + [2] * 5 + [3, 4, 5, 6]
    tiles = tiles_of(labels, parts)
    drawn = [few_shot(tiles, 1, seed)[0][0] for seed in range(0, 60, 3)]  # the part comes again
    assert len({image // 5 for image in drawn}) == 1 and len(set(drawn)) == 5


def test_one_part_with_half_of_a_class_is_no_matter():
    tiles = tiles_of([1] * 4 + [2] * 6 + [0], [0, 0, *range(1, 10)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(tiles, "tile")


def test_one_part_with_most_of_a_class_is_told(toy):
    labels, parts = [1] * 9 + [2] * 6 + [0] * 5, [0] * 5 + list(range(1, 16))
    with pytest.warns(UserWarning, match=r"one part \(0\) holds 5 of the 9 images of class a"):
        split(tiles_of(labels, parts), "tile")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(tiles_of(labels, parts), "image")
        split(toy, "tile")


def test_a_test_share_that_no_image_meets_is_refused_by_name(toy):
    for protocol in ("image", "tile"):
        with pytest.raises(ValueError, match=r"test = 0\.001 leaves no image to test among"):
            split(toy, protocol, test=0.001)
    for share in (0.3, 0.4):
        test = split(toy, "tile", test=share)[2]
        assert abs(len(test) / len(toy) - share) < 0.05
