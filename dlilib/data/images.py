"""Images and masks: decoded with checks, brought to one size, stacked into tensors."""

import io
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from dlilib.data.files import DataError, Files
from dlilib.tiles import defective

RESIZES = ("nearest", "bilinear")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
UNDECODABLE = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    zlib.error,
    Image.DecompressionBombError,
)
GREYS = {"L;2": 85, "L;4": 17}  # PNGs of 2 and 4 bits a pixel: what PIL multiplies their values by
AT_ONCE = 32  # images that are read before they are stacked
SMALLEST = 8  # pixels, side of an image

Source = TypeVar("Source")


def read_image(files: Files, path: str) -> np.ndarray:
    """Decode an image: uint8 (H, W) when grey, else (H, W, 3)."""
    image = _decode(files, path, "image")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataError(f"{path}: pixel format {image.mode} is not 8-bit grey or RGB")
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    grey = pixels.ndim == 3 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0] if grey else pixels


def read_mask(files: Files, path: str, like: np.ndarray) -> np.ndarray:
    """Decode a mask of the size of the image `like`: uint8 (H, W), the values as stored.

    Those of a palette image are its indices.
    """
    mask = _decode(files, path, "mask")
    if mask.mode not in ("1", "L", "P"):
        raise DataError(
            f"{path}: a mask holds one 8-bit value a pixel, this has pixel format {mask.mode}"
        )
    pixels = np.asarray(mask).astype(np.uint8)
    height, width = like.shape[:2]
    if pixels.shape != (height, width):
        raise DataError(
            f"{path}: mask is {pixels.shape[1]}×{pixels.shape[0]}, its image {width}×{height} "
            "pixels"
        )
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
        raise DataError(
            f"{path}: unreadable {what} (PNG, JPEG, BMP and TIFF are read): {why}"
        ) from None
    if frames > 1:
        raise DataError(f"{path}: holds {frames} frames, not one {what}")
    if min(image.size) < SMALLEST:
        raise DataError(
            f"{path}: {what} is {image.width}×{image.height} pixels, {SMALLEST} a side are the "
            "least"
        )
    if ";16" in stored and not image.mode.startswith("I"):  # those are refused for their mode
        raise DataError(f"{path}: {what} has 16 bits a value, not 8")
    if what == "mask" and stored in GREYS:  # PIL spreads them over 0..255
        image = image.point(lambda value: value // GREYS[stored])
    return image


def check_size(size: int, resize: str) -> None:
    """Raise ValueError unless images can be resized so and the encoders can take them."""
    if not isinstance(size, int) or not 8 <= size <= 8192 or size % 8:
        raise ValueError(
            "size must be a positive multiple of 8 (the encoders' stride), at most 8192, got "
            f"{size!r}"
        )
    if resize not in RESIZES:
        raise ValueError(f'resize must be "nearest" or "bilinear", got {resize!r}')


def check_kept(paths: Sequence[str], marked: Sequence[bool], masks: Tensor) -> None:
    """Raise DataError naming an image whose defect its mask (N, H, W) no longer shows."""
    kept = [bool(defective(mask).any()) for mask in masks]
    lost = [path for path, was, is_ in zip(paths, marked, kept, strict=True) if was and not is_]
    if lost:
        raise DataError(
            f"{lost[0]}: its defect vanishes at size {masks.shape[-1]} ({len(lost)} do): enlarge it"
        )


def image_sides(files: Files, path: str) -> tuple[int, int]:
    """Height and width of an image, as `read_image` gives it, by its header alone."""
    try:
        image = Image.open(io.BytesIO(files[path]()), formats=FORMATS)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except UNDECODABLE as error:
        raise DataError(f"{path}: unreadable image: {str(error).partition(' <')[0]}") from None
    return image.size if turned else image.size[::-1]


def stack(
    read: Callable[[Source], tuple[np.ndarray, np.ndarray]],
    sources: Sequence[Source],
    size: int | None,
    resize: str,
    *,
    largest: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor, tuple[bool, ...]]:
    """Read images and masks, bring them to one size and stack them.

    Needs little memory beside the result: images are written into it as they are read.

    Args:
        read: Gives image and mask of one of the sources.
        sources: N of them.
        size: H = W; None: nothing is resized but padded, see `from_folder`.
        resize: As in `from_folder`.
        largest: The greatest height and width of the images, where size is None.

    Returns:
        Images uint8 (N, C, H, W), masks uint8 (N, H, W), sizes before int64 (N, 2), and whether
        each mask marked anything before (N,).
    """
    height, width = (-(-side // 8) * 8 for side in largest) if size is None else (size, size)

    def load(source: Source) -> tuple[np.ndarray, np.ndarray, tuple[int, int], bool]:
        image, mask = read(source)
        before, marked = image.shape[:2], bool(defective(mask).any())
        if size is None:
            return (
                _pad(image, height, width, "edge"),
                _pad(mask, height, width, "constant"),
                before,
                marked,
            )
        return _resize(image, size, resize), _resize(mask, size, "nearest"), before, marked

    images = np.zeros((len(sources), 1, height, width), np.uint8)
    masks = np.zeros((len(sources), height, width), np.uint8)
    sizes, marked = [], []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(sources), AT_ONCE):
            found = pool.map(load, sources[start : start + AT_ONCE])
            for row, (image, mask, before, shows) in enumerate(found, start=start):
                if image.ndim == 3 and images.shape[1] == 1:  # the first one in colour
                    images = np.repeat(images, 3, axis=1)
                images[row] = image.transpose(2, 0, 1) if image.ndim == 3 else image
                masks[row] = mask
                sizes.append(before)
                marked.append(shows)
    return (
        torch.from_numpy(images),
        torch.from_numpy(masks),
        torch.tensor(sizes, device="cpu"),
        tuple(marked),
    )


def _pad(pixels: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    more = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
    return np.pad(pixels, more[: pixels.ndim], mode)


def _resize(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    if resize == "bilinear":
        shrunk = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(shrunk)
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_NEAREST)  # as released
