"""MVTec AD, one category at a time, from a copy that you have."""

from pathlib import Path, PurePosixPath

import numpy as np
import torch

from dlilib.files import DataError, Files, digest_files, open_files, read_image
from dlilib.tiles import IMAGE_SUFFIXES, TileSet, check_size, read_pair, stack


def mvtec_ad(root: str | Path, category: str, size: int = 256, resize: str = "nearest") -> TileSet:
    """One category of MVTec AD (Bergmann, Fauser, Sattlegger, Steger, CVPR 2019) in its own layout.

    root: folder or zip that holds, at any depth, `<category>/train/good/`, `<category>/test/<type>/` and, for each
        image there but the good ones, `<category>/ground_truth/<type>/<name>_mask.png`, whose defect is above 0. The
        classes are the types of defect in alphabetical order, the free images those of train/good and test/good; each
        image is its own tile.
    size, resize: as in `magnetic_tiles`. Raises DataError naming the folder or the file.
    Nothing is downloaded: the owner hands the data out after registration (mvtec.com), under CC BY-NC-SA 4.0, for
    non-commercial use.
    """
    check_size(size, resize)
    files = open_files(Path(root))
    top = _top(files, Path(root), category)
    images = _images(files, root, top)
    masks = {path for path in files if path.startswith(f"{top}ground_truth/") and path.endswith("_mask.png")}
    pairs = [(kind, path, _mask(path, kind, top, masks)) for kind, path in images]
    if lost := masks - {mask for _, _, mask in pairs}:
        raise DataError(f"{root}/{min(lost)}: there is no image to this mask in {top}test")
    classes = tuple(sorted({kind for kind, _ in images} - {"good"}))
    if not classes:
        raise DataError(f"{root}/{top}test: holds no type of defect beside good")

    def read(pair: tuple[str, str, str | None]) -> tuple[np.ndarray, np.ndarray]:
        kind, image_path, mask_path = pair
        if mask_path is None:
            image = read_image(files, image_path)
            return image, np.zeros(image.shape[:2], np.uint8)
        image, mask = read_pair(files, image_path, mask_path)
        return image, (mask > 0) * np.uint8(1 + classes.index(kind))

    pixels, marked, sizes = stack(read, pairs, size, resize)
    labels = torch.tensor([0 if kind == "good" else 1 + classes.index(kind) for kind, _ in images])
    return TileSet(
        images=pixels, masks=marked, labels=labels, tile=torch.arange(len(images)),
        names=tuple(str(PurePosixPath(path).with_suffix("")) for _, path in images), classes=classes,
        source=f"mvtec_ad-{category}", digest=digest_files(files, [path for _, *two in pairs for path in two if path]),
        sizes=sizes, resize=resize,
    )


def _top(files: Files, root: Path, category: str) -> str:
    """The path of the category's folder, ending in / unless it is the root itself."""
    tops = {path.split("train/good/")[0] for path in files if "train/good/" in f"/{path}"}
    named = {PurePosixPath(top).name or root.stem: top for top in sorted(tops)}
    if category not in named:
        raise DataError(f"{root}: no category {category!r}; with a folder train/good there are {sorted(named)}")
    return named[category]


def _images(files: Files, root: str | Path, top: str) -> list[tuple[str, str]]:
    """(type, path) of every image of the category, sorted by path."""
    found = []
    for path in sorted(files):
        part, *rest = PurePosixPath(path.removeprefix(top)).parts
        if path.startswith(top) and part in ("train", "test") and path.lower().endswith(IMAGE_SUFFIXES):
            if len(rest) != 2 or (part == "train" and rest[0] != "good"):
                raise DataError(f"{root}/{path}: images lie in train/good/ and test/<type>/ and nowhere else")
            found.append((rest[0], path))
    return found


def _mask(path: str, kind: str, top: str, masks: set[str]) -> str | None:
    if kind == "good":
        return None
    mask = f"{top}ground_truth/{kind}/{PurePosixPath(path).stem}_mask.png"
    if mask not in masks:
        raise DataError(f"{path}: its mask {mask} is missing")
    return mask
