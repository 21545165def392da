"""Files in a folder or a zip, read with checks: every refusal is a DataError that names the file."""

import hashlib
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)
UNDECODABLE = (OSError, ValueError, TypeError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError)
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
Files = dict[str, Callable[[], bytes]]
LARGEST = 256 * 2**20  # bytes of a file in a zip, unpacked
GREYS = {"L;2": 85, "L;4": 17}  # PNGs of 2 and 4 bits a pixel: what PIL multiplies their values by
SMALLEST = 8  # pixels, side of an image
HIDDEN = re.compile(r"(^|/)\.")  # as macOS adds "._a.png"


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what is wrong with it."""


def open_files(root: Path) -> Files:
    """Every file below a folder or in a zip, but hidden ones: relative path -> what reads it. Nothing is unpacked."""
    if root.is_dir():
        top = root.resolve()
        paths = [p for p in sorted(root.rglob("*")) if p.is_file() or p.is_symlink()]
        for p in paths:
            if not Path(os.path.realpath(p)).is_relative_to(top):  # Path.resolve raises on a loop
                raise DataError(f"{p}: a link that leaves {root}")
        readers = {p.relative_to(root).as_posix(): p.read_bytes for p in paths}
        return {name: _checked(read, name) for name, read in readers.items() if not HIDDEN.search(name)}
    if not root.exists():
        raise DataError(f"{root}: no such folder or zip")
    try:
        archive = zipfile.ZipFile(root)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{root}: not a readable zip (truncated?): {error}") from None
    seen = set()
    for name in archive.namelist():
        if name in seen:
            raise DataError(f"{root}: entry {name!r} is there twice")
        seen.add(name)
        if PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
            raise DataError(f"{root}: entry {name!r} leaves the folder")
    for entry in archive.infolist():
        if entry.file_size > LARGEST:
            raise DataError(f"{root}: entry {entry.filename!r} unpacks to {entry.file_size} bytes, over {LARGEST}")
    names = [name for name in archive.namelist() if not name.endswith("/") and not HIDDEN.search(name)]
    return {name: _checked(partial(archive.read, name), name) for name in names}


def _checked(read: Callable[[], bytes], name: str) -> Callable[[], bytes]:
    def checked() -> bytes:
        try:
            return read()
        except UNREADABLE as error:
            raise DataError(f"{name}: cannot be read: {error}") from None

    return checked


def read_text(files: Files, root: str | Path, name: str) -> str:
    """The UTF-8 text of one file, without a byte order mark."""
    if name not in files:
        raise DataError(f"{root}/{name}: missing")
    try:
        return files[name]().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{root}/{name}: not UTF-8 text: {error}") from None


def read_image(files: Files, path: str) -> np.ndarray:
    """uint8 (H, W) when grey, else (H, W, 3)."""
    image = _decode(files, path, "image")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataError(f"{path}: pixel format {image.mode} is not 8-bit grey or RGB")
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    same = pixels.ndim == 3 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0] if same else pixels


def read_mask(files: Files, path: str, like: np.ndarray) -> np.ndarray:
    """uint8 (H, W): the PNG's values, or its palette indices, as stored; of the size of the image `like`."""
    mask = _decode(files, path, "mask")
    if mask.mode not in ("1", "L", "P"):
        raise DataError(f"{path}: a mask holds one 8-bit value a pixel, this has pixel format {mask.mode}")
    pixels = np.asarray(mask).astype(np.uint8)
    if pixels.shape != like.shape[:2]:
        height, width = pixels.shape
        raise DataError(f"{path}: mask is {width}×{height}, its image {like.shape[1]}×{like.shape[0]} pixels")
    return pixels


def _decode(files: Files, path: str, what: str) -> Image.Image:
    content = files[path]()
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        stored = str(image.tile[0][3]) if image.tile else ""
        image.load()
        frames = getattr(image, "n_frames", 1)
        ImageOps.exif_transpose(image, in_place=True)
    except UNDECODABLE as error:
        why = str(error).partition(" <")[0]
        raise DataError(f"{path}: unreadable {what} (PNG, JPEG, BMP and TIFF are read): {why}") from None
    if frames > 1:
        raise DataError(f"{path}: holds {frames} frames, not one {what}")
    if min(image.size) < SMALLEST:
        raise DataError(f"{path}: {what} is {image.width}×{image.height} pixels, {SMALLEST} a side are the least")
    if ";16" in stored and not image.mode.startswith("I"):  # those are refused for their mode
        raise DataError(f"{path}: {what} has 16 bits a value, not 8")
    if what == "mask" and stored in GREYS:  # PIL spreads them over 0..255
        image = image.point(lambda value: value // GREYS[stored])
    return image


def digest_files(files: Files, paths: Iterable[str]) -> str:
    """sha256 over the sorted "folder/name sha256" lines of the files; where they lie above that does not matter."""
    lines = sorted(f"{'/'.join(PurePosixPath(p).parts[-3:])} {hashlib.sha256(files[p]()).hexdigest()}" for p in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
