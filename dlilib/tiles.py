"""Images, masks, labels and tile ids as one value, and the loaders that check what they read."""

import csv
import re
import unicodedata
from collections.abc import Callable, Sequence
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
    resize: str = "nearest"  # how the images came to their size; "pad": they kept it

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


def from_folder(root: str | Path, size: int | None = 256, resize: str = "nearest") -> TileSet:
    """Your own data: `images/` and `masks/`, as one PNG of class indices an image or as one folder of PNGs a class.

    Class indices: masks/<stem>.png for each image; classes.txt names the classes 1..K, a line each; 0 is background.
    A folder a class: masks/<class>/<stem>.png where the image has that defect, anything above 0; where two overlap, the
    later class stands; classes.txt may say their order, else it is alphabetical.
    An image's label is the class with the most pixels in its mask, 0 when it has none. An optional `tiles.csv` with
    columns image,tile (image: the file's stem) says which images show the same part; without it each is its own tile.
    size, resize: as in `magnetic_tiles`; size None keeps the pixels and pads every image at the right and the bottom,
    by its last column and row, to the largest height and width, rounded up to multiples of 8 (resize is then "pad").
    Raises DataError naming the file, as there, and on a class index over K or a defect too thin for the size.
    """
    if size is not None:
        check_size(size, resize)
    files = open_files(Path(root))
    if len(tops := {p.partition("/")[0] for p in files}) == 1 and not tops & {"images", "masks", "classes.txt"}:
        files = {path.partition("/")[2]: read for path, read in files.items()}  # a zip of the folder itself
    if missing := {"images", "masks"} - {path.partition("/")[0] for path in files}:
        raise DataError(f"{root}/{min(missing)}: holds no image or is not there, but: {', '.join(sorted(tops)[:5])}")
    classes = _class_names(files, root)
    pairs = _folder_pairs(files, root, classes)

    def read(pair: tuple[str, dict[str, int]]) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(files, pair[0])
        mask = np.zeros(image.shape[:2], np.uint8)
        for path, c in pair[1].items():
            found = read_mask(files, path, like=image)
            if not c and found.max() > len(classes):
                raise DataError(f"{path}: holds class index {found.max()}, classes.txt names {len(classes)} classes")
            mask = np.where(found > 0, c or found, mask)
        return image, mask

    images, masks, sizes, marked = stack(read, list(pairs.values()), size, resize)
    names = tuple(pairs)
    check_kept([f"{root}/{path}" for path, _ in pairs.values()], marked, masks)
    pixels = torch.stack([(masks == c).sum((1, 2)) for c in range(1, len(classes) + 1)], dim=1)
    pictures = [path for image, marks in pairs.values() for path in (image, *marks)]
    return TileSet(
        images=images, masks=masks, labels=torch.where(pixels.sum(1) > 0, pixels.argmax(1) + 1, 0),
        tile=_listed_tiles(files, root, names), names=names, classes=classes,
        source=re.sub(r"[^\w-]+", "_", Path(root).resolve().stem),
        digest=digest_files(files, [*pictures, *({"classes.txt", "tiles.csv"} & files.keys())]), sizes=sizes,
        resize=resize if size else "pad",
    )


def check_size(size: int, resize: str) -> None:
    """ValueError unless images can be resized so and the encoders can take them."""
    if not isinstance(size, int) or not 8 <= size <= 8192 or size % 8:
        raise ValueError(f"size must be a positive multiple of 8 (the encoders' stride), at most 8192, got {size!r}")
    if resize not in RESIZES:
        raise ValueError(f'resize must be "nearest" or "bilinear", got {resize!r}')


def check_kept(paths: Sequence[str], marked: Sequence[bool], masks: Tensor) -> None:
    """DataError naming an image with a defect that its mask (N, H, W) at the size asked for no longer shows."""
    if lost := [p for p, was, mask in zip(paths, marked, masks, strict=True) if was and not mask.any()]:
        raise DataError(f"{lost[0]}: its defect vanishes at size {masks.shape[-1]} ({len(lost)} do): enlarge it")


def _class_names(files: Files, root: str | Path) -> tuple[str, ...]:
    folders = classes = _class_folders(files)
    place = "masks" if folders and "classes.txt" not in files else "classes.txt"
    if place == "classes.txt":
        classes = [line.strip() for line in read_text(files, root, place).splitlines() if line.strip()]
    if not 1 <= len(classes) <= 255 or len({*classes, "Free"}) <= len(classes):
        raise DataError(f"{root}/{place}: needs 1 to 255 distinct class names, not Free; got {classes}")
    if strange := set(folders) - set(classes):
        raise DataError(f"{root}/masks/{min(strange)}: classes.txt does not name this class, but {classes}")
    return tuple(classes)


def _class_folders(files: Files) -> list[str]:
    return sorted({found[1] for path in files if (found := re.fullmatch(r"masks/([^/]+)/[^/]+\.(?i:png)", path))})


def _folder_pairs(files: Files, root: str | Path, classes: Sequence[str]) -> dict[str, tuple[str, dict[str, int]]]:
    """Each image's name -> its path and those of its masks with the class that each marks, 0 for class indices."""
    images = _by_stem(files, root, "images/", IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"{root}/images: holds no image ({', '.join(IMAGE_SUFFIXES)})")
    folders = _class_folders(files)
    place = "masks/<class>/<name>.png" if folders else "masks/<name>.png"
    drawn = [path for path in files if path.startswith("masks/") and path.lower().endswith(IMAGE_SUFFIXES)]
    if lost := [p for p in drawn if p.count("/") != place.count("/") or not p.lower().endswith(".png")]:
        raise DataError(f"{root}/{min(lost)}: not read where it lies; the masks of this folder are {place}")
    kinds = {f"masks/{name}/": 1 + classes.index(name) for name in folders} or {"masks/": 0}
    found: dict[str, dict[str, int]] = {stem: {} for stem in sorted(images)}
    for top, c in sorted(kinds.items(), key=lambda kind: kind[1]):
        for stem, path in _by_stem(files, root, top, (".png",)).items():
            if stem not in found:
                raise DataError(f"{root}/{path}: no image of that name in images/")
            found[stem][path] = c
    for stem, marks in found.items() if not folders else ():
        if not marks:
            raise DataError(f"{root}/{images[stem]}: no mask masks/{stem}.png (a free image has one of zeros)")
    return {stem: (images[stem], marks) for stem, marks in found.items()}


def _by_stem(files: Files, root: str | Path, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files:
        stem = unicodedata.normalize("NFC", PurePosixPath(path).stem)  # systems differ in how they store an ü
        chosen = path.startswith(folder) and path.lower().endswith(suffixes)
        if chosen and (other := found.setdefault(stem, path)) != path:
            raise DataError(f"{root}/{path}: also present as {other}")
    return found


def _listed_tiles(files: Files, root: str | Path, names: tuple[str, ...]) -> Tensor:
    if "tiles.csv" not in files:
        return torch.arange(len(names))
    try:
        rows = list(csv.DictReader(read_text(files, root, "tiles.csv").splitlines()))
    except csv.Error as error:
        raise DataError(f"{root}/tiles.csv: not a table ({error})") from None
    if not rows or not {"image", "tile"} <= rows[0].keys():
        raise DataError(f"{root}/tiles.csv: needs the columns image,tile")
    listed = {}
    for row in rows:
        if not row["tile"] or listed.setdefault(row["image"], row["tile"]) != row["tile"]:
            raise DataError(f"{root}/tiles.csv: image {row['image']!r} needs one tile, got {row['tile']!r}")
    if missing := [name for name in names if name not in listed]:
        raise DataError(f"{root}/tiles.csv: no row for image {missing[0]!r} (its stem; {len(missing) - 1} more)")
    return torch.from_numpy(np.unique([listed[name] for name in names], return_inverse=True)[1])


def stack(read: Callable, pairs: list, size: int | None, resize: str) -> tuple[Tensor, Tensor, Tensor, tuple[bool]]:
    """Images uint8 (N, C, H, W), masks (N, H, W), sizes (N, 2) and defects they had; `read` gives one pair.

    H = W = size; None: nothing is resized but padded, see `from_folder`.
    """

    def load(pair: tuple) -> tuple[np.ndarray, np.ndarray, tuple[int, int], bool]:
        image, mask = read(pair)
        had = image.shape[:2], bool(mask.any())
        if size is None:
            return image, mask, *had
        return _resize(image, size, resize), _resize(mask, size, "nearest"), *had

    with ThreadPoolExecutor() as pool:
        images, masks, sizes, marked = zip(*pool.map(load, pairs), strict=True)
    if size is None:
        height, width = (-(-side // 8) * 8 for side in np.max(sizes, axis=0))
        images = [_pad(image, height, width, "edge") for image in images]
        masks = [_pad(mask, height, width, "constant") for mask in masks]
    shape = images[0].shape[:2]
    channels = 3 if any(image.ndim == 3 for image in images) else 1
    images = [np.broadcast_to(image.reshape(*shape, -1), (*shape, channels)) for image in images]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked, torch.from_numpy(np.stack(masks)), torch.tensor(sizes), marked


def _pad(pixels: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    more = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
    return np.pad(pixels, more[: pixels.ndim], mode)


def _resize(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    if resize == "bilinear":
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_NEAREST)  # as released
