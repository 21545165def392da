"""Train/validation splits: which images train and which validate."""

import warnings
from fractions import Fraction
from numbers import Real

import numpy as np

from dlilib.checks import check_number, check_option, check_type, is_count
from dlilib.extras import require
from dlilib.tiles import TileSet

PROTOCOLS = ("image", "tile", "given")
TEST_FOLDS = 20  # at most, of which some test
FOLDS = 5  # one fold in five validates: the paper's 80 % / 20 %


def split(
    tiles: TileSet,
    protocol: str = "image",
    seed: int = 0,
    *,
    fraction: float = 1.0,
    free_in_val: bool = False,
    shots: int = 0,
    test: float = 0.0,
) -> tuple[np.ndarray, ...]:
    """Split the images into training and validation, and testing if wanted.

    Args:
        tiles: The data set.
        protocol: "image", the paper's: of each defect class a random 80 % of the images trains,
            whatever part they show. "tile": no part on both sides. Seeds 5k..5k+4 are the five
            folds of one shuffled, class-stratified grouping, so that over five seeds every part
            validates once. "given": as the data came, see `TileSet.given`: "train" trains, "val"
            validates (where there is none, "test"), an image without a word is in neither.
        seed: Of the split, a non-negative integer below 2**32.
        fraction: Share of each class's training images, defect-free ones included, that is kept,
            in (0, 1].
        free_in_val: Defect-free images validate too, split like the defect classes. Without it (as
            released) all of them train, but for those of validation parts under "tile", and those
            that are not given to training under "given", which are left out.
        shots: 0, or few-shot: this number of images of each class, none with an empty mask, trains,
            each of another part, with the defect-free images of all parts that do not validate; the
            defects of all other parts validate, and with free_in_val their defect-free images.
            Needs "tile" and all of the data. Seeds take disjoint parts for as long as a class has
            them.
        test: Share of each class's images, defect-free ones included, that is set apart first, in
            [0, 0.5]; under "tile" by whole parts, so that it is met as far as they allow. What is
            left is split as without it. Not with shots. Under "given" any share above 0 stands for
            the images given to test.

    Returns:
        Indices (train, val) into `tiles`, or (train, val, test) if test is above 0: int64, sorted,
        disjoint.

    Raises:
        ValueError: An argument is none of the above, there are too few parts, or no part of a class
            is left to validate; the message names the class.
        MissingExtraError: "tile" needs scikit-learn.

    Warns:
        UserWarning: Under "tile", one part holds more than half of a class's images.

    Example:
        >>> train, val = split(toy_tiles(), protocol="image", seed=0)
        >>> len(np.intersect1d(train, val))
        0
    """
    _check(tiles, protocol, seed, fraction, shots)
    check_option("free_in_val", free_in_val, (False, True))
    check_number("test", test, 0, 0.5)
    if test and shots:
        raise ValueError(f"test must be 0 with shots, got {test}")
    if protocol == "given":
        return _as_given(tiles, seed, fraction, free_in_val, wants_test=test > 0)
    if protocol == "tile":
        _warn_of_large_parts(tiles)
    if shots:
        return _few_shot(tiles, shots, seed, free_in_val)
    if not test:
        return _train_and_val(tiles, protocol, seed, fraction, free_in_val)
    tested = _set_apart(tiles, protocol, seed, test)
    rest = np.flatnonzero(~tested)
    train, val = _train_and_val(tiles.subset(rest), protocol, seed, fraction, free_in_val)
    return rest[train], rest[val], np.flatnonzero(tested)


def _train_and_val(
    tiles: TileSet, protocol: str, seed: int, fraction: float, free_in_val: bool
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(tiles.labels)
    rng = np.random.default_rng(seed)
    if protocol == "image":
        aside = _image_level(labels, rng)
    else:
        aside = _tile_level(labels, np.asarray(tiles.groups), seed)
    in_val = aside if free_in_val else aside & (labels > 0)
    # by images, the defect-free ones that do not validate train; by parts, their part is aside
    train = np.flatnonzero(~in_val if protocol == "image" else ~aside)
    if fraction < 1:
        train = _keep(train, labels[train], fraction, rng)
    return train, np.flatnonzero(in_val)


def _as_given(
    tiles: TileSet, seed: int, fraction: float, free_in_val: bool, *, wants_test: bool
) -> tuple[np.ndarray, ...]:
    labels, given = np.asarray(tiles.labels), np.asarray(tiles.given)
    train, val, test = (np.flatnonzero(given == name) for name in ("train", "val", "test"))
    if not len(val) and not wants_test:
        val = test
    sides = {"train": train, "validate": val, **({"test": test} if wants_test else {})}
    for use, images in sides.items():
        if not len(images):
            raise ValueError(f"no image is given to {use}; there are {sorted(set(tiles.given))}")
    groups = np.asarray(tiles.groups)
    both = np.isin(groups[np.concatenate([val, test])], groups[train]).sum()
    if both:
        warnings.warn(
            f"{both} images that are given to validation or test show a part that also trains",
            stacklevel=3,
        )
    if not free_in_val:
        val = val[labels[val] > 0]
    if fraction < 1:
        train = _keep(train, labels[train], fraction, np.random.default_rng(seed))
    return (train, val, test) if wants_test else (train, val)


def _set_apart(tiles: TileSet, protocol: str, seed: int, share: float) -> np.ndarray:
    """The images that test, bool (N,)."""
    labels = np.asarray(tiles.labels)
    rng = np.random.default_rng([seed, 1])  # not the stream that splits the rest
    tested = np.zeros(len(labels), bool)
    if protocol == "tile":
        groups = np.asarray(tiles.groups)
        finest = min(TEST_FOLDS, _most_parts(labels, groups))
        part = Fraction(share).limit_denominator(finest)  # so many folds of so many
        for fold in rng.permutation(part.denominator)[: part.numerator]:
            tested |= _fold(labels, groups, part.denominator, seed, fold)
    else:
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            tested[members[: round(len(members) * share)]] = True
    if not tested.any():
        raise ValueError(f"test = {share} leaves no image to test among the {len(labels)}")
    return tested


def _warn_of_large_parts(tiles: TileSet) -> None:
    """Warn if a class cannot be spread well over the folds."""
    labels, groups = np.asarray(tiles.labels), np.asarray(tiles.groups)
    for label, name in enumerate(tiles.classes, start=1):
        parts, images = np.unique(groups[labels == label], return_counts=True)
        if images.sum() > 1 and images.max() > images.sum() / 2:
            warnings.warn(
                f"one part ({parts[images.argmax()]}) holds {images.max()} of the {images.sum()} "
                f"images of class {name}: all of them are on one side of a tile-disjoint split",
                stacklevel=3,
            )


def leak(tiles: TileSet, train: np.ndarray, val: np.ndarray) -> float:
    """Share of the validation images whose part also has an image in training."""
    tile = np.asarray(tiles.groups)
    return float(np.isin(tile[val], tile[train]).mean())


def _check(tiles: TileSet, protocol: str, seed: int, fraction: float, shots: int) -> None:
    check_type("tiles", tiles, TileSet)
    check_option("protocol", protocol, PROTOCOLS)
    if protocol == "given" and tiles.given is None:
        raise ValueError('protocol "given" needs data that came split, see TileSet.given')
    if not is_count(seed, 0) or seed >= 2**32:
        raise ValueError(f"seed must be a non-negative integer below 2**32, got {seed!r}")
    if not len(tiles):
        raise ValueError("there are no images to split")
    if not isinstance(fraction, Real) or isinstance(fraction, bool) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction!r}")
    if not is_count(shots, 0) or (shots and (protocol, fraction) != ("tile", 1)):
        raise ValueError(
            f'shots must be 0, or more with "tile" and fraction 1: {shots!r}, {protocol!r}, '
            f"{fraction}"
        )


def _image_level(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random fifth of each class, bool (N,)."""
    aside = np.zeros(len(labels), bool)
    # defect-free images last: free_in_val leaves the split of the others as it is
    for label in range(labels.max(), -1, -1):
        members = rng.permutation(np.flatnonzero(labels == label))
        aside[members[int(len(members) * (1 - 1 / FOLDS)) :]] = True
    return aside


def _tile_level(labels: np.ndarray, tile: np.ndarray, seed: int) -> np.ndarray:
    """The images of one fold of the parts, bool (N,)."""
    most = _most_parts(labels, tile)
    if most < FOLDS:
        raise ValueError(
            f'protocol "tile" needs a class of {FOLDS} or more parts, not {most}: add parts, or '
            'say which images train (in a folder: column split of tiles.csv) and use "given"'
        )
    return _fold(labels, tile, FOLDS, seed // FOLDS, seed % FOLDS)


def _most_parts(labels: np.ndarray, tile: np.ndarray) -> int:
    """The number of parts of the class that has most of them."""
    return max(len(np.unique(tile[labels == label])) for label in np.unique(labels))


def _fold(
    labels: np.ndarray, tile: np.ndarray, folds: int, shuffling: int, which: int
) -> np.ndarray:
    """The images of one of several folds of the parts, bool (N,); shuffling: its seed."""
    model_selection = require("sklearn.model_selection", "study")
    splitter = model_selection.StratifiedGroupKFold(folds, shuffle=True, random_state=shuffling)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it is in some folds alone
        _, val = list(splitter.split(labels, labels, tile))[which]
    return np.isin(np.arange(len(labels)), val)


def _few_shot(
    tiles: TileSet, shots: int, seed: int, free_in_val: bool
) -> tuple[np.ndarray, np.ndarray]:
    labels, tile = np.asarray(tiles.labels), np.asarray(tiles.groups)
    support = _support(tiles, shots, seed)
    in_val = (labels > 0) & ~np.isin(tile, tile[support])
    for label, name in enumerate(tiles.classes, start=1):
        if label not in labels[in_val]:
            raise ValueError(f"{shots} shots, seed {seed}: no part is left to validate {name}")
    free_aside = (labels == 0) & np.isin(tile, tile[in_val])
    free_train = np.flatnonzero((labels == 0) & ~free_aside)
    train = np.sort(np.concatenate([support, free_train]))
    return train, np.flatnonzero(in_val | free_aside if free_in_val else in_val)


def _support(tiles: TileSet, shots: int, seed: int) -> np.ndarray:
    """The annotated images that train: `shots` a class, each of another part."""
    labels, tile = np.asarray(tiles.labels), np.asarray(tiles.groups)
    annotated = tiles.marked.numpy()
    support = []
    for label, name in enumerate(tiles.classes, start=1):
        shown = annotated & (labels == label)
        parts = np.unique(tile[shown])
        if len(parts) <= shots:
            raise ValueError(
                f"{shots} shots need more than {shots} parts of class {name}, it has {len(parts)}"
            )
        # all seeds go through the parts in one order, each where the seed before it ended
        order = np.random.default_rng(label).permutation(parts)
        for part in order[(seed * shots + np.arange(shots)) % len(order)]:
            images = np.flatnonzero((tile == part) & shown)
            support.append(np.random.default_rng(seed).choice(images))
    return np.array(support)


def _keep(
    indices: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """The fraction of each class, rounded down as released, but (differs) never less than one."""
    kept = []
    for label in np.unique(labels):
        members = rng.permutation(indices[labels == label])
        kept.append(members[: max(1, int(len(members) * fraction))])
    return np.sort(np.concatenate(kept))
