"""MVTec AD, one category at a time, from a copy that you have."""

from pathlib import Path, PurePosixPath

import numpy as np
import torch

from dlilib.data.files import DataError, Files, digest_files, open_files
from dlilib.data.images import IMAGE_SUFFIXES, check_kept, check_size, read_image, read_mask, stack
from dlilib.tiles import TileSet


def mvtec_ad(
    root: str | Path, category: str, size: int = 256, *, resize: str = "nearest"
) -> TileSet:
    """Read one category of MVTec AD in its own layout.

    Bergmann, Fauser, Sattlegger, Steger, CVPR 2019. Nothing is downloaded: the owner hands the data
    out after registration (mvtec.com), under CC BY-NC-SA 4.0, for non-commercial use.

    The classes are the types of defect in alphabetical order. The defect-free images are those of
    train/good and of test/good together. Each image shows its own part.

    Args:
        root: Folder or zip that holds, at any depth, `<category>/train/good/`,
            `<category>/test/<type>/` and, for each image of a defect there,
            `<category>/ground_truth/<type>/<name>_mask.png`. Mask values above 0 are defect.
        category: Such as "bottle".
        size: Side of the square images and masks, pixels, a multiple of 8.
        resize: "nearest" or "bilinear" (area-weighted when it shrinks); masks are always nearest.

    Returns:
        The data set, whose source is "mvtec_ad-<category>".

    Raises:
        DataError: A file cannot be used, a mask is missing, marks nothing or too little for this
            size, or there is no such category; the message names the file or folder.
        ValueError: size or resize is none of the above.

    Example:
        >>> tiles = mvtec_ad("mvtec_anomaly_detection", "bottle", size=256)
        >>> tiles.classes
        ('broken_large', 'broken_small', 'contamination')
    """
    check_size(size, resize)
    files = open_files(Path(root))
    top = _top(files, Path(root), category)
    images = _images(files, root, top)
    masks = _masks(files, root, top, images)
    classes = tuple(sorted({kind for kind, _ in images} - {"good"}))
    if not classes:
        raise DataError(f"{root}/{top}test: holds no type of defect beside good")
    label_of = {"good": 0, **{kind: c for c, kind in enumerate(classes, start=1)}}

    def read(found: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        kind, path = found
        image = read_image(files, path)
        if kind == "good":
            return image, np.zeros(image.shape[:2], np.uint8)
        mask = read_mask(files, masks[path], like=image)
        if not mask.any():
            raise DataError(f"{root}/{masks[path]}: marks no defect")
        return image, (mask > 0) * np.uint8(label_of[kind])

    pixels, marks, sizes, marked = stack(read, images, size, resize)
    paths = [path for _, path in images]
    check_kept([f"{root}/{path}" for path in paths], marked, marks)
    return TileSet(
        images=pixels,
        masks=marks,
        labels=torch.tensor([label_of[kind] for kind, _ in images], device="cpu"),
        groups=torch.arange(len(images), device="cpu"),
        names=tuple(str(PurePosixPath(path).with_suffix("")) for path in paths),
        classes=classes,
        source=f"mvtec_ad-{category}",
        digest=digest_files(files, [*paths, *masks.values()]),
        sizes=sizes,
        resize=resize,
    )


def _top(files: Files, root: Path, category: str) -> str:
    """The path of the category's folder, ending in / unless it is the root itself."""
    rooted = [f"/{path}" for path in files]
    good = [path for path in rooted if "/train/good/" in path]
    tops = sorted({path.partition("/train/good/")[0] for path in good})
    names = [PurePosixPath(top).name or root.resolve().stem for top in tops]
    if names.count(category) != 1:
        which = "more than one" if category in names else "no"
        raise DataError(
            f"{root}: {which} category {category!r}; with a folder train/good there are {names}"
        )
    return f"{tops[names.index(category)]}/".removeprefix("/")


def _images(files: Files, root: str | Path, top: str) -> list[tuple[str, str]]:
    """(type, path) of every image of the category, sorted by path."""
    found = []
    for path in sorted(files):
        if not path.startswith(top) or not path.lower().endswith(IMAGE_SUFFIXES):
            continue
        subset, *rest = PurePosixPath(path.removeprefix(top)).parts
        if subset not in ("train", "test"):
            continue
        if len(rest) != 2 or (subset == "train" and rest[0] != "good"):
            raise DataError(
                f"{root}/{path}: images lie in train/good/ and test/<type>/ and nowhere else"
            )
        found.append((rest[0], path))
    return found


def _masks(
    files: Files, root: str | Path, top: str, images: list[tuple[str, str]]
) -> dict[str, str]:
    """The mask's path of each image of a defect, by the image's path."""
    drawn = set()
    for path in files:
        if path.startswith(f"{top}ground_truth/") and path.endswith("_mask.png"):
            drawn.add(path)
    masks = {}
    for kind, path in images:
        if kind != "good":
            masks[path] = f"{top}ground_truth/{kind}/{PurePosixPath(path).stem}_mask.png"
            if masks[path] not in drawn:
                raise DataError(f"{root}/{path}: its mask {masks[path]} is missing")
    unused = drawn - set(masks.values())
    if unused:
        raise DataError(f"{root}/{min(unused)}: there is no image to this mask in {top}test")
    return masks
