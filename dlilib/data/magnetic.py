"""The Magnetic Tiles: where they come from, what makes them complete, and which images show the same tile."""

import os
import re
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

from dlilib.data.files import DataError, Files, digest_files, open_files
from dlilib.data.images import check_size, read_image, read_mask, stack
from dlilib.tiles import TileSet

MT_CLASSES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
MT_COUNTS = {"Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103, "Free": 952}
MT_COMMIT = "cc4eb530b57b9cb7225bf76023873043ffd50655"
MT_URL = f"https://github.com/abin24/Magnetic-tile-defect-datasets./archive/{MT_COMMIT}.zip"
# over the 2688 files of that commit, as digest_files forms it
MT_DIGEST = "a2bec5e19e0357f63ed366d7bf37ebedc8b3842e5bfa8f1727c1fca19d9fd207"
MT_GAP = 400  # between file numbers of one tile; anything from 360 to 500 gives the same tiles
MT_NAME = re.compile(r"exp(\d+)_num_(\d+)$")


def magnetic_tiles(
    root: str | Path | None = None, size: int = 256, threshold: int = 0, resize: str = "nearest"
) -> TileSet:
    """The Magnetic Tiles data set: 392 defective and 952 free images (Huang, Qiu, Yuan, Vis. Comput. 2020).

    root: folder or zip with the MT_* folders at any depth. None: `DLILIB_DATA` (such a folder or zip, or a folder
        that holds magnetic_tiles.zip), else a copy downloaded once to the user's cache and verified.
    size: images and masks are resized once to size × size pixels.
    threshold: a mask pixel is defect where its PNG value exceeds it: 0 as released, 127 halfway.
    resize: "nearest" as released, or "bilinear" (area-weighted when it shrinks); masks are always nearest.
    Raises DataError naming the file: missing or unreadable image or mask, sizes that differ, unknown class folder,
    wrong number of images in a class, truncated zip, entry that leaves the folder.
    """
    check_size(size, resize)
    if not 0 <= threshold <= 254:
        raise ValueError(f"threshold must lie in 0..254, got {threshold}")
    root = _magnetic_root(root)
    files = open_files(root)
    pairs = _magnetic_pairs(files)
    digest = _digest(files, pairs)
    if digest != MT_DIGEST:
        warnings.warn(
            f"{root}: every class is complete, but the files differ from the released ones",
            stacklevel=2,
        )
    labels = np.array(
        [(MT_CLASSES.index(folder) + 1) if folder != "Free" else 0 for folder, _, _ in pairs]
    )
    thumbnails: dict[str, Image.Image] = {}

    def read(pair: tuple[str, str, str]) -> tuple[np.ndarray, np.ndarray]:
        folder, image_path, mask_path = pair
        image = read_image(files, image_path)
        mask = read_mask(files, mask_path, like=image)
        if folder == "Free" and mask.max() > threshold:
            raise DataError(f"{mask_path}: marks a defect, but lies in MT_Free")
        thumbnails[image_path] = (
            Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC).convert("L")
        )
        return image, mask > threshold

    images, marked, sizes, _ = stack(read, pairs, size, resize)
    stems = [PurePosixPath(image).stem for _, image, _ in pairs]
    exposure, number = np.array(
        [[int(n) for n in MT_NAME.match(stem).groups()] for stem in stems]
    ).T
    tile = _tile_ids(
        labels, exposure, number, np.stack([thumbnails[image] for _, image, _ in pairs])
    )
    return TileSet(
        images=images,
        masks=marked * torch.from_numpy(labels).to(torch.uint8)[:, None, None],
        labels=torch.from_numpy(labels),
        tile=torch.from_numpy(tile),
        names=tuple(
            f"MT_{folder}/{stem}" for (folder, _, _), stem in zip(pairs, stems, strict=True)
        ),
        classes=MT_CLASSES,
        source="magnetic_tiles",
        digest=digest,
        sizes=sizes,
        exposure=torch.from_numpy(exposure),
        threshold=threshold,
        resize=resize,
    )


def _magnetic_root(root: str | Path | None) -> Path:
    if root is not None:
        return Path(root)
    if os.environ.get("DLILIB_DATA"):
        folder = Path(os.environ["DLILIB_DATA"])
        return folder / "magnetic_tiles.zip" if (folder / "magnetic_tiles.zip").exists() else folder
    return _download(MT_URL, MT_DIGEST)


def _download(url: str, digest: str) -> Path:
    """The zip at `url`, fetched once into the user's cache; kept only if its files have the digest."""
    import pooch

    # The digest is over the files inside: GitHub does not promise the same zip bytes for ever.
    name = f"magnetic_tiles-{digest[:12]}.zip"
    path = Path(pooch.os_cache("dlilib")) / name
    if not path.exists():
        part = path.with_name(f"{name}.{os.getpid()}.part")  # two processes may fetch it at once
        try:
            pooch.retrieve(
                url, known_hash=None, fname=part.name, path=path.parent, progressbar=True
            )
            files = open_files(part)
            found = _digest(files, _magnetic_pairs(files))
            if found != digest:
                raise DataError(f"{url}: contents have digest {found}, expected {digest}")
        except (DataError, OSError) as error:  # requests' errors are OSErrors
            part.unlink(missing_ok=True)
            raise DataError(
                f"{url}: could not be had: {error}. Download it yourself and pass it as root, or set DLILIB_DATA to it."
            ) from None
        part.replace(path)
    return path


def _magnetic_pairs(files: Files) -> list[tuple[str, str, str]]:
    """(class folder's name, image path, mask path) of every image, sorted; complete or refused."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for path in files:
        parts = PurePosixPath(path).parts
        folder = next((p[3:] for p in parts[:-1] if p.startswith("MT_")), None)
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix.lower()
        if folder is None or suffix not in (".jpg", ".png"):
            continue
        if folder not in MT_COUNTS:
            raise DataError(
                f"{path}: unknown class folder MT_{folder}, expected MT_{{{','.join(MT_COUNTS)}}}"
            )
        if not MT_NAME.match(stem):
            raise DataError(f"{path}: name is not exp<exposure>_num_<number>")
        if other := found.setdefault((folder, stem), {}).get(suffix):
            raise DataError(f"{path}: also present as {other}")
        found[folder, stem][suffix] = path
    for pair in found.values():
        if len(pair) == 1:
            ((suffix, path),) = pair.items()
            raise DataError(
                f"{path}: has no {'mask (.png)' if suffix == '.jpg' else 'image (.jpg)'} beside it"
            )
    count = Counter(folder for folder, _ in found)
    for folder, expected in MT_COUNTS.items():
        if count[folder] != expected:
            raise DataError(f"MT_{folder}: holds {count[folder]} images, expected {expected}")
    return [(folder, pair[".jpg"], pair[".png"]) for (folder, _), pair in sorted(found.items())]


def _digest(files: Files, pairs: list[tuple[str, str, str]]) -> str:
    return digest_files(files, [path for _, *paths in pairs for path in paths])


def _tile_ids(
    labels: np.ndarray, exposure: np.ndarray, number: np.ndarray, thumbnails: np.ndarray
) -> np.ndarray:
    """(N,) physical tile of each image, global across classes.

    Two images show one tile if, within a class, their file numbers follow each other by at most `MT_GAP` with no
    exposure met twice, or if their thumbnails (N, 32, 32), less a Gaussian blur of 2 pixels, correlate above 0.8.
    Look-alikes chain, so more is joined than need be, which tile-disjoint splits can bear.
    """
    group, seen = np.zeros(len(labels), int), set()
    order = np.lexsort((exposure, number, labels))
    for before, i in zip(np.r_[-1, order[:-1]], order, strict=True):
        fresh = (
            before < 0
            or labels[before] != labels[i]
            or number[i] - number[before] > MT_GAP
            or exposure[i] in seen
        )
        seen = {exposure[i]} if fresh else seen | {exposure[i]}
        group[i] = i if fresh else group[before]
    high = thumbnails.astype(np.float32) - gaussian_filter(thumbnails.astype(np.float32), (0, 2, 2))
    with np.errstate(invalid="ignore", divide="ignore"):  # a flat image correlates with nothing
        alike = np.corrcoef(high.reshape(len(labels), -1)) > 0.8
    same = alike | (group[:, None] == group)
    return connected_components(same)[1].astype(np.int64)
