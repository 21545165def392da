"""Images, masks, labels and tile ids as one value, and the loaders that check what they read."""

import csv
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dlilib.files import DataError, Files, digest_files, open_files, read_image, read_mask, read_text

RESIZES = ("nearest", "bilinear")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class TileSet:
    """N images of one size with their masks, as uint8 tensors on one device; the rest stays on the CPU."""

    images: Tensor  # uint8 (N, C, H, W); C = 1 for grey data
    masks: Tensor  # uint8 (N, H, W); 0 background, 1..K the defect classes
    labels: Tensor  # int64 (N,); 0 free, else the image's defect class
    tile: Tensor  # int64 (N,); images of one physical tile share an id
    names: tuple[str, ...]  # (N,)
    classes: tuple[str, ...]  # (K,) names of the classes 1..K
    source: str = "unnamed"  # the data set's name
    digest: str = ""  # sha256 of the source files, so that a record says what it was trained on
    sizes: Tensor | None = None  # int64 (N, 2); height and width before resizing, pixels
    exposure: Tensor | None = None  # int64 (N,); number of the exposure, where known
    threshold: int = 0  # mask values above it are defect, where masks were thresholded
    resize: str = "nearest"  # how the images came to their size

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K, the number of defect classes."""
        return len(self.classes)

    def to(self, device: str | torch.device) -> "TileSet":
        """The same tiles with images and masks on `device`."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    def counts(self) -> dict[str, int]:
        """Images per class: the defect classes in order, then Free."""
        n = np.bincount(self.labels, minlength=self.num_classes + 1).tolist()
        return {**dict(zip(self.classes, n[1:], strict=True)), "Free": n[0]}


def from_folder(root: str | Path, size: int = 256, resize: str = "nearest") -> TileSet:
    """Your own data: `images/`, `masks/` (one PNG of class indices an image, same stem) and `classes.txt`.

    classes.txt names the classes 1..K, a line each; a mask's 0 is background. An image's label is the class with the
    most pixels in its mask, 0 when it has none. An optional `tiles.csv` with columns image,tile (image: the file's
    stem) says which images show the same part; without it each image is its own tile.
    size, resize: as in `magnetic_tiles`. Raises DataError naming the file, as there, and on a class index over K.
    """
    check_size(size, resize)
    files = open_files(Path(root))
    classes = tuple(line.strip() for line in read_text(files, root, "classes.txt").splitlines() if line.strip())
    if not classes or len(set(classes)) < len(classes):
        raise DataError(f"{root}/classes.txt: needs one distinct class name a line, got {list(classes)}")
    pairs = _folder_pairs(files, root)

    def read(pair: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        image, mask = read_pair(files, *pair)
        if mask.max() > len(classes):
            raise DataError(f"{pair[1]}: holds class index {mask.max()}, classes.txt names {len(classes)} classes")
        return image, mask

    images, masks, sizes = stack(read, pairs, size, resize)
    pixels = torch.stack([(masks == c).sum((1, 2)) for c in range(1, len(classes) + 1)], dim=1)
    names = tuple(PurePosixPath(image).stem for image, _ in pairs)
    return TileSet(
        images=images, masks=masks, labels=torch.where(pixels.sum(1) > 0, pixels.argmax(1) + 1, 0),
        tile=_listed_tiles(files, root, names), names=names, classes=classes, source=Path(root).stem,
        digest=digest_files(files, [path for pair in pairs for path in pair]), sizes=sizes, resize=resize,
    )


def check_size(size: int, resize: str) -> None:
    """ValueError unless images can be resized so and the encoders can take them."""
    if size < 8 or size % 8:
        raise ValueError(f"size must be a positive multiple of 8 (the encoders stop at stride 8), got {size}")
    if resize not in RESIZES:
        raise ValueError(f'resize must be "nearest" or "bilinear", got {resize!r}')


def _folder_pairs(files: Files, root: str | Path) -> list[tuple[str, str]]:
    images, masks = _by_stem(files, root, "images/", IMAGE_SUFFIXES), _by_stem(files, root, "masks/", (".png",))
    for stem in sorted(images.keys() ^ masks.keys()):
        missing = f"no mask masks/{stem}.png" if stem in images else "no image of that name in images/"
        raise DataError(f"{root}/{images.get(stem) or masks[stem]}: {missing}")
    if not images:
        raise DataError(f"{root}/images: holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _by_stem(files: Files, root: str | Path, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files:
        chosen = path.startswith(folder) and path.lower().endswith(suffixes)
        if chosen and (other := found.setdefault(PurePosixPath(path).stem, path)) != path:
            raise DataError(f"{root}/{path}: also present as {other}")
    return found


def _listed_tiles(files: Files, root: str | Path, names: tuple[str, ...]) -> Tensor:
    if "tiles.csv" not in files:
        return torch.arange(len(names))
    rows = list(csv.DictReader(io.StringIO(read_text(files, root, "tiles.csv"))))
    if not rows or not {"image", "tile"} <= rows[0].keys():
        raise DataError(f"{root}/tiles.csv: needs the columns image,tile")
    listed = {}
    for row in rows:
        if not row["tile"] or listed.setdefault(row["image"], row["tile"]) != row["tile"]:
            raise DataError(f"{root}/tiles.csv: image {row['image']!r} needs one tile, got {row['tile']!r}")
    if missing := [name for name in names if name not in listed]:
        raise DataError(f"{root}/tiles.csv: no row for image {missing[0]!r} (and {len(missing) - 1} more)")
    return torch.from_numpy(np.unique([listed[name] for name in names], return_inverse=True)[1])


def read_pair(files: Files, image_path: str, mask_path: str) -> tuple[np.ndarray, np.ndarray]:
    """An image, (H, W) or (H, W, 3), and its mask (H, W), both uint8."""
    image = read_image(files, image_path)
    return image, read_mask(files, mask_path, like=image)


def stack(read: Callable, pairs: list, size: int, resize: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images uint8 (N, C, size, size), masks (N, size, size) and the sizes (N, 2) they had; `read` gives one pair."""

    def load(pair: tuple) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        image, mask = read(pair)
        return _resize(image, size, resize), _resize(mask, size, "nearest"), image.shape[:2]

    with ThreadPoolExecutor() as pool:
        images, masks, sizes = zip(*pool.map(load, pairs), strict=True)
    channels = 3 if any(image.ndim == 3 for image in images) else 1
    images = [np.broadcast_to(image.reshape(size, size, -1), (size, size, channels)) for image in images]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked, torch.from_numpy(np.stack(masks)), torch.tensor(sizes)


def _resize(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    if resize == "bilinear":
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_NEAREST)  # as released
