"""Who may be seen: which images train and which validate."""

import numpy as np

from dlilib.tiles import TileSet

PROTOCOLS = ("image", "tile")
FOLDS = 5  # one fold in five validates: the paper's 80 % / 20 %


def split(
    tiles: TileSet, protocol: str = "image", seed: int = 0, fraction: float = 1.0, free_in_val: bool = False,
    shots: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, val) into `tiles`, int64, sorted, disjoint.

    protocol: "image", the paper's: of each defect class a random 80 % of the images trains, whatever tile they show.
        "tile": no tile on both sides. Seeds 5k..5k+4 are the five folds of one shuffled, class-stratified grouping,
        so that over five seeds every tile validates once.
    fraction: share of each class's training images, free ones included, that is kept (0 < fraction <= 1).
    free_in_val: free images validate too, split as the defect classes. Without it (as released) all free images
        train, but for those of validation tiles under "tile", which are left out.
    shots: 0, or few-shot: so many images of each class, not of an empty mask, train, of as many tiles, with the free
        images of all tiles that do not validate; the defects of all other tiles validate, and with free_in_val their
        free images. Needs "tile" and all of the data. Seeds take disjoint tiles for as long as a class has them.
        ValueError naming a class with no tile left to validate.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol must be "image" or "tile", got {protocol!r}')
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a non-negative integer below 2**32, got {seed!r}")
    if not len(tiles):
        raise ValueError("there are no images to split")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    whole = isinstance(shots, int | np.integer) and shots >= 0
    if not whole or (shots and (protocol, fraction) != ("tile", 1)):
        raise ValueError(f'shots must be 0, or more with "tile" and fraction 1: {shots!r}, {protocol!r}, {fraction}')
    if shots:
        return _few_shot(tiles, shots, seed, free_in_val)
    labels = np.asarray(tiles.labels)
    rng = np.random.default_rng(seed)
    in_val = _image_level(labels, rng) if protocol == "image" else _tile_level(labels, np.asarray(tiles.tile), seed)
    if free_in_val:
        in_train = ~in_val
    else:
        in_train = ~in_val | (labels == 0) if protocol == "image" else ~in_val
        in_val = in_val & (labels > 0)
    train = np.flatnonzero(in_train)
    if fraction < 1:
        train = _keep(train, labels[train], fraction, rng)
    return train, np.flatnonzero(in_val)


def leak(tiles: TileSet, train: np.ndarray, val: np.ndarray) -> float:
    """Share of the validation images whose tile also has an image in training."""
    tile = np.asarray(tiles.tile)
    return float(np.isin(tile[val], tile[train]).mean())


def _image_level(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    in_val = np.zeros(len(labels), bool)
    for label in range(labels.max(), -1, -1):  # free images last: free_in_val leaves the defective split as it is
        members = np.flatnonzero(labels == label)
        in_val[rng.permutation(members)[int(len(members) * (1 - 1 / FOLDS)) :]] = True
    return in_val


def _tile_level(labels: np.ndarray, tile: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    distinct = [len(np.unique(tile[labels == label])) for label in np.unique(labels)]
    if max(distinct) < FOLDS:
        raise ValueError(f'protocol "tile" needs a class of {FOLDS} or more tiles (parts), not {max(distinct)}')
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed // FOLDS)
    _, val = list(folds.split(labels, labels, tile))[seed % FOLDS]
    return np.isin(np.arange(len(labels)), val)


def _few_shot(tiles: TileSet, shots: int, seed: int, free_in_val: bool) -> tuple[np.ndarray, np.ndarray]:
    labels, tile = np.asarray(tiles.labels), np.asarray(tiles.tile)
    annotated = tiles.masks.flatten(1).amax(1).cpu().numpy() > 0
    support = []
    for label, name in enumerate(tiles.classes, start=1):
        shown = annotated & (labels == label)
        order = np.unique(tile[shown])
        if len(order) <= shots:
            raise ValueError(f"{shots} shots need more than {shots} tiles of class {name}, it has {len(order)}")
        order = np.random.default_rng(label).permutation(order)  # the seeds' common one, which they go through
        for chosen in order[(seed * shots + np.arange(shots)) % len(order)]:
            support.append(np.random.default_rng(seed).choice(np.flatnonzero((tile == chosen) & shown)))
    in_val = (labels > 0) & ~np.isin(tile, tile[support])
    if missing := set(range(1, tiles.num_classes + 1)) - set(labels[in_val]):
        raise ValueError(f"{shots} shots, seed {seed}: no tile is left to validate {tiles.classes[min(missing) - 1]}")
    aside = (labels == 0) & np.isin(tile, tile[in_val])
    train = np.sort(np.r_[support, np.flatnonzero((labels == 0) & ~aside)])
    return train, np.flatnonzero(in_val | aside if free_in_val else in_val)


def _keep(indices: np.ndarray, labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """The fraction of each class, rounded down as released, but (differs) never less than one image."""
    kept = []
    for label in np.unique(labels):
        members = indices[labels == label]
        kept.append(rng.permutation(members)[: max(1, int(len(members) * fraction))])
    return np.sort(np.concatenate(kept))
