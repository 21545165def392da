"""The data sets that the study knows by name."""

from collections.abc import Callable
from pathlib import Path

from dlilib.data.files import DataError
from dlilib.data.magnetic import magnetic_tiles
from dlilib.data.mvtec import mvtec_ad
from dlilib.data.toy import toy_tiles
from dlilib.tiles import TileSet

Loader = Callable[[str, str | Path | None, int, int, str], TileSet]


def _toy(category: str, root: str | Path | None, size: int, threshold: int, resize: str) -> TileSet:
    return toy_tiles(size=size)


def _magnetic(
    category: str, root: str | Path | None, size: int, threshold: int, resize: str
) -> TileSet:
    return magnetic_tiles(root, size, threshold, resize=resize)


def _mvtec(
    category: str, root: str | Path | None, size: int, threshold: int, resize: str
) -> TileSet:
    if root is None:
        raise DataError(f"mvtec_ad-{category} needs a root: the folder or zip of your copy")
    return mvtec_ad(root, category, size, resize=resize)


# Name -> its loader, of (category, root, size, threshold, resize). A name that ends in "-" is
# followed by a category.
DATASETS: dict[str, Loader] = {
    "toy": _toy,
    "magnetic_tiles": _magnetic,
    "mvtec_ad-": _mvtec,
}
NAMES = tuple(f"{name}<category>" if name.endswith("-") else name for name in DATASETS)


def load(
    name: str,
    root: str | Path | None = None,
    size: int = 256,
    *,
    threshold: int = 0,
    resize: str = "nearest",
) -> TileSet:
    """Load a data set by its name.

    Args:
        name: One of `NAMES`, such as "magnetic_tiles" or "mvtec_ad-bottle".
        root: Folder or zip of the real data, as its reader takes it.
        size: Side of the square images, pixels.
        threshold: Mask values above it are defect, where masks are thresholded.
        resize: "nearest" or "bilinear".

    Raises:
        DataError: The name is unknown, or the data cannot be used.
    """
    for known, loader in DATASETS.items():
        if name == known or (known.endswith("-") and name.startswith(known) and name != known):
            return loader(name.removeprefix(known), root, size, threshold, resize)
    raise DataError(
        f"data must be one of {', '.join(NAMES)}, got {name!r}; your own are read by from_folder "
        "(dli data folder)"
    )
