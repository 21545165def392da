"""The Magnetic Tiles: download, checks for completeness, and which images show the same part."""

import os
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from dlilib.data.files import DataError, Files, digest_files, open_files
from dlilib.data.images import check_size, read_image, read_mask, stack
from dlilib.extras import require
from dlilib.tiles import TileSet

MT_CLASSES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
MT_COUNTS = {"Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103, "Free": 952}
MT_COMMIT = "cc4eb530b57b9cb7225bf76023873043ffd50655"
MT_URL = f"https://github.com/abin24/Magnetic-tile-defect-datasets./archive/{MT_COMMIT}.zip"
# over the 2688 files of that commit, as digest_files forms it
MT_DIGEST = "a2bec5e19e0357f63ed366d7bf37ebedc8b3842e5bfa8f1727c1fca19d9fd207"
MT_GAP = 400  # between file numbers of one part; anything from 360 to 500 gives the same parts
MT_NAME = re.compile(r"exp(\d+)_num_(\d+)$")
THUMBNAIL = 32  # pixels, side of the copies in which look-alikes are found
BLUR = 2  # pixels: a blur of this width is taken off them, so that lighting does not count
ALIKE = 0.8  # correlation above which two images show one part


@dataclass(frozen=True)
class _Pair:
    """An image and its mask."""

    folder: str  # its class, or Free
    image: str  # path
    mask: str  # path

    @property
    def stem(self) -> str:
        return PurePosixPath(self.image).stem


def magnetic_tiles(
    root: str | Path | None = None, size: int = 256, threshold: int = 0, *, resize: str = "nearest"
) -> TileSet:
    """Read the Magnetic Tiles data set: 392 defective and 952 defect-free images.

    Huang, Qiu, Yuan, The Visual Computer 2020. Files that are complete but not the released ones
    give a warning.

    Args:
        root: Folder or zip with the MT_* folders at any depth. None: `DLILIB_DATA` (such a folder
            or zip, or a folder that holds magnetic_tiles.zip) if it is set, else a copy that is
            downloaded once to the user's cache and verified.
        size: Side of the square images and masks, pixels, a multiple of 8.
        threshold: Mask values above it are defect, 0..254: 0 as released, 127 halfway.
        resize: "nearest", as released, or "bilinear" (smoothed first where it shrinks); masks are
            always nearest.

    Returns:
        The data set. Its parts (`groups`) are inferred from file numbers and look-alikes.

    Raises:
        DataError: A file is missing or unreadable, an image and its mask differ in size, a class is
            unknown or has the wrong number of images, or the download failed; the message names the
            file or the class.
        ValueError: size, threshold or resize is none of the above.
        MissingExtraError: scipy is not installed, or pooch for the download.

    Example:
        >>> tiles = magnetic_tiles(size=128)
        >>> tiles.counts()
        {'Blowhole': 115, 'Break': 85, 'Crack': 57, 'Fray': 32, 'Uneven': 103, 'Free': 952}
    """
    check_size(size, resize)
    if not 0 <= threshold <= 254:
        raise ValueError(f"threshold must lie in 0..254, got {threshold}")
    root = magnetic_root(root)
    files = open_files(root)
    pairs = _magnetic_pairs(files)
    digest = _digest(files, pairs)
    if digest != MT_DIGEST:
        warnings.warn(
            f"{root}: every class is complete, but the files differ from the released ones",
            stacklevel=2,
        )
    labels = np.array([_label(pair) for pair in pairs])
    exposure, number = _exposures_and_numbers(pairs)
    thumbnails: dict[str, np.ndarray] = {}  # image path -> (32, 32); filled while images are read

    def read(pair: _Pair) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(files, pair.image)
        mask = read_mask(files, pair.mask, like=image, one_channel=True)
        if pair.folder == "Free" and mask.max() > threshold:
            raise DataError(f"{pair.mask}: marks a defect, but lies in MT_Free")
        thumbnails[pair.image] = _thumbnail(image)
        return image, mask > threshold

    images, marked, sizes, _ = stack(read, pairs, size, resize)
    small = np.stack([thumbnails[pair.image] for pair in pairs])
    return TileSet(
        images=images,
        masks=marked.mul_(torch.from_numpy(labels).to(torch.uint8)[:, None, None]),
        labels=torch.from_numpy(labels),
        groups=torch.from_numpy(_tile_ids(labels, exposure, number, small)),
        names=tuple(f"MT_{pair.folder}/{pair.stem}" for pair in pairs),
        classes=MT_CLASSES,
        source="magnetic_tiles",
        digest=digest,
        sizes=sizes,
        exposure=torch.from_numpy(exposure),
        threshold=threshold,
        resize=resize,
    )


def magnetic_root(root: str | Path | None) -> Path:
    """Where the data set is: as given, by the environment's DLILIB_DATA, or downloaded."""
    if root is not None:
        return Path(root)
    if not os.environ.get("DLILIB_DATA"):
        return _download(MT_URL, MT_DIGEST)
    folder = Path(os.environ["DLILIB_DATA"])
    inside = folder / "magnetic_tiles.zip"
    return inside if inside.exists() else folder


def _download(url: str, digest: str) -> Path:
    """The zip at `url`, fetched once into the user's cache; kept only if its files have the digest.

    The digest is over the files inside: GitHub does not promise the same zip bytes for ever.
    """
    pooch = require("pooch", "study")
    name = f"magnetic_tiles-{digest[:12]}.zip"
    path = Path(pooch.os_cache("dlilib")) / name
    if path.exists():
        return path
    part = path.with_name(f"{name}.{os.getpid()}.part")  # two processes may fetch it at once
    try:
        pooch.retrieve(url, known_hash=None, fname=part.name, path=path.parent, progressbar=True)
        files = open_files(part)
        found = _digest(files, _magnetic_pairs(files))
        if found != digest:
            raise DataError(f"{url}: contents have digest {found}, expected {digest}")
    except (DataError, OSError) as error:  # requests' errors are OSErrors
        part.unlink(missing_ok=True)
        raise DataError(
            f"{url}: could not be had: {error}. Download it yourself and pass it as root, or set "
            "DLILIB_DATA to it."
        ) from None
    part.replace(path)
    return path


def _magnetic_pairs(files: Files) -> list[_Pair]:
    """Every image with its mask, sorted by class folder and name; complete or refused."""
    found: dict[tuple[str, str], dict[str, str]] = {}  # (folder, stem) -> suffix -> path
    for path in files:
        folder = _class_folder(path)
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix.lower()
        if folder is None or suffix not in (".jpg", ".png"):
            continue
        if folder not in MT_COUNTS:
            raise DataError(
                f"{path}: unknown class folder MT_{folder}, expected MT_{{{','.join(MT_COUNTS)}}}"
            )
        if not MT_NAME.match(stem):
            raise DataError(f"{path}: name is not exp<exposure>_num_<number>")
        pair = found.setdefault((folder, stem), {})
        if suffix in pair:
            raise DataError(f"{path}: also present as {pair[suffix]}")
        pair[suffix] = path
    _check_complete(found)
    return [_Pair(key[0], pair[".jpg"], pair[".png"]) for key, pair in sorted(found.items())]


def _class_folder(path: str) -> str | None:
    """The class in the name of the outermost folder MT_<class> that holds the file, if any."""
    for folder in PurePosixPath(path).parts[:-1]:
        if folder.startswith("MT_"):
            return folder.removeprefix("MT_")
    return None


def _check_complete(found: dict[tuple[str, str], dict[str, str]]) -> None:
    for pair in found.values():
        if ".png" not in pair:
            raise DataError(f"{pair['.jpg']}: has no mask (.png) beside it")
        if ".jpg" not in pair:
            raise DataError(f"{pair['.png']}: has no image (.jpg) beside it")
    counts = Counter(folder for folder, _ in found)
    for folder, expected in MT_COUNTS.items():
        if counts[folder] != expected:
            raise DataError(f"MT_{folder}: holds {counts[folder]} images, expected {expected}")


def _digest(files: Files, pairs: list[_Pair]) -> str:
    paths = [path for pair in pairs for path in (pair.image, pair.mask)]
    return digest_files(files, paths)


def _label(pair: _Pair) -> int:
    return 0 if pair.folder == "Free" else 1 + MT_CLASSES.index(pair.folder)


def _exposures_and_numbers(pairs: list[_Pair]) -> tuple[np.ndarray, np.ndarray]:
    """The exposure and the file number in each image's name, int64 (N,) each."""
    exposures, numbers = [], []
    for pair in pairs:
        exposure, number = MT_NAME.match(pair.stem).groups()
        exposures.append(int(exposure))
        numbers.append(int(number))
    return np.array(exposures), np.array(numbers)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """A grey copy, uint8 (32, 32), of an image (H, W) or (H, W, 3)."""
    small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    return np.asarray(small.convert("L"))


def _tile_ids(
    labels: np.ndarray, exposure: np.ndarray, number: np.ndarray, thumbnails: np.ndarray
) -> np.ndarray:
    """The part that each image shows, int64 (N,); ids are the same across classes.

    Two images show one part if their file numbers tell so, or if their thumbnails (N, 32, 32) are
    look-alikes. Look-alikes chain, so that more is joined than need be, which part-disjoint splits
    can bear.
    """
    csgraph = require("scipy.sparse.csgraph", "study")
    group = _numbered_groups(labels, exposure, number)
    same = _look_alikes(thumbnails) | (group[:, None] == group)
    return csgraph.connected_components(same)[1].astype(np.int64)


def _numbered_groups(labels: np.ndarray, exposure: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Group images by their file numbers: int (N,), the index of each group's first image.

    Within a class, successive file numbers are of one group if they differ by at most `MT_GAP` and
    the group does not have the exposure yet.
    """
    group = np.zeros(len(labels), int)
    before = None  # the previous image
    exposures: set[int] = set()  # of its group
    for image in np.lexsort((exposure, number, labels)):
        begins = (
            before is None
            or labels[before] != labels[image]
            or number[image] - number[before] > MT_GAP
            or exposure[image] in exposures
        )
        if begins:
            group[image] = image
            exposures = set()
        else:
            group[image] = group[before]
        exposures.add(exposure[image])
        before = image
    return group


def _look_alikes(thumbnails: np.ndarray) -> np.ndarray:
    """Which pairs of images correlate above `ALIKE` in their details: bool (N, N)."""
    ndimage = require("scipy.ndimage", "study")
    levels = thumbnails.astype(np.float32)
    details = levels - ndimage.gaussian_filter(levels, (0, BLUR, BLUR))
    with np.errstate(invalid="ignore", divide="ignore"):  # a flat image correlates with nothing
        return np.corrcoef(details.reshape(len(details), -1)) > ALIKE
