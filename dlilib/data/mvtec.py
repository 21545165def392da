"""MVTec AD, one category at a time, from a copy that you have."""

from pathlib import Path, PurePosixPath

import numpy as np
import torch

from dlilib.data.files import DataError, Files, digest_files, open_files
from dlilib.data.images import IMAGE_SUFFIXES, check_kept, check_size, read_image, read_mask, stack
from dlilib.tiles import TileSet


def mvtec_ad(root: str | Path, category: str, size: int = 256, resize: str = "nearest") -> TileSet:
    """One category of MVTec AD (Bergmann, Fauser, Sattlegger, Steger, CVPR 2019) in its own layout.

    root: folder or zip that holds, at any depth, `<category>/train/good/`, `<category>/test/<type>/` and, for each
        image there but the good ones, `<category>/ground_truth/<type>/<name>_mask.png`, whose defect is above 0. The
        classes are the types of defect in alphabetical order, the free images those of train/good and of test/good,
        which is not kept apart; each image is its own tile.
    size, resize: as in `magnetic_tiles`. Raises DataError naming the folder or the file, also of a defect that is not
    marked or too thin for the size.
    Nothing is downloaded: the owner hands the data out after registration (mvtec.com), under CC BY-NC-SA 4.0, for
    non-commercial use.
    """
    check_size(size, resize)
    files = open_files(Path(root))
    top = _top(files, Path(root), category)
    images = _images(files, root, top)
    masks = {
        p: f"{top}ground_truth/{kind}/{PurePosixPath(p).stem}_mask.png"
        for kind, p in images
        if kind != "good"
    }
    drawn = {
        path
        for path in files
        if path.startswith(f"{top}ground_truth/") and path.endswith("_mask.png")
    }
    if missing := [path for path, mask in masks.items() if mask not in drawn]:
        raise DataError(f"{root}/{missing[0]}: its mask {masks[missing[0]]} is missing")
    if lost := drawn - set(masks.values()):
        raise DataError(f"{root}/{min(lost)}: there is no image to this mask in {top}test")
    classes = tuple(sorted({kind for kind, _ in images} - {"good"}))
    if not classes:
        raise DataError(f"{root}/{top}test: holds no type of defect beside good")

    def read(found: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        kind, path = found
        image = read_image(files, path)
        if kind == "good":
            return image, np.zeros(image.shape[:2], np.uint8)
        mask = read_mask(files, masks[path], like=image)
        if not mask.any():
            raise DataError(f"{root}/{masks[path]}: marks no defect")
        return image, (mask > 0) * np.uint8(1 + classes.index(kind))

    pixels, marks, sizes, marked = stack(read, images, size, resize)
    check_kept([f"{root}/{path}" for _, path in images], marked, marks)
    labels = torch.tensor([0 if kind == "good" else 1 + classes.index(kind) for kind, _ in images])
    return TileSet(
        images=pixels,
        masks=marks,
        labels=labels,
        tile=torch.arange(len(images)),
        names=tuple(str(PurePosixPath(path).with_suffix("")) for _, path in images),
        classes=classes,
        source=f"mvtec_ad-{category}",
        digest=digest_files(files, [path for _, path in images] + [*masks.values()]),
        sizes=sizes,
        resize=resize,
    )


def _top(files: Files, root: Path, category: str) -> str:
    """The path of the category's folder, ending in / unless it is the root itself."""
    tops = sorted(
        {f"/{path}".partition("/train/good/")[0] for path in files if "/train/good/" in f"/{path}"}
    )
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
        part, *rest = PurePosixPath(path.removeprefix(top)).parts
        if (
            path.startswith(top)
            and part in ("train", "test")
            and path.lower().endswith(IMAGE_SUFFIXES)
        ):
            if len(rest) != 2 or (part == "train" and rest[0] != "good"):
                raise DataError(
                    f"{root}/{path}: images lie in train/good/ and test/<type>/ and nowhere else"
                )
            found.append((rest[0], path))
    return found
