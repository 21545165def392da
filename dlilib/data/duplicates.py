"""Near-duplicates: images that look like the same photograph, which a random split can leak.

Each image gets a hash: the signs of the 255 lowest frequencies of a grey thumbnail. Brightness and
contrast do not change them, and a flip or a quarter turn changes them in a known way. Two images
are near-duplicates if their hashes differ in few bits, in any of the 8 orientations. Parts in front
of a fixed camera share most of these bits, so what the images of a set have in common is subtracted
before the signs are taken.

Measured on the 1344 Magnetic Tiles, with `SAME_BITS` = 6, for images of three sizes: of 3241 pairs
of exposures of one part (by their file numbers) the share that is found, and of 875,091 pairs of
different groups (`TileSet.groups`) the number that is found.

    ALIKE_BITS      256 px          128 px           64 px
            48    43 %    0       24 %    0        4 %    0
            56    57 %    2       42 %    0       10 %    0
            64    68 %    2       58 %    1       25 %    0
            72    78 %    3       70 %    3       43 %    0
            80    85 %   16       80 %   15       61 %   10
            88    90 %  232       88 %  182       76 %  133

At 72 and 256 pixels, 230 of the 234 parts with several exposures have a pair that is found. The
groups are no ground truth. They join what looks alike, so the hardest pairs are not among those of
different groups. By file numbers alone, 293 of 899,255 pairs of different parts are found; 24 of
them, drawn at random, were looked at and each showed one part. The 3 pairs of different groups do
too: exposures of one tile, 276355 to 276451, are in the folders of two classes.

Copies of 200 of these images, put among all of them (256 pixels): all are found after JPEG of
quality 20, 40 grey levels more, contrast halved or raised by half, noise of 15 grey levels, a turn
by 2° or any flip. 84 % are found after a shift of 2 %, 26 % after a turn by 5° and none after a
shift of 5 %.

Two images can be one photograph and not correlate as they lie. Of the 4470 photographs of NEU-Seg
at 128 pixels, 8753 pairs are found: of turned and mirrored copies, and of pictures that were put
together from the same others. In the orientation that fits, the frequencies of half of the pairs
correlate at 0.995 or more, of nine in ten at 0.7 or more; of the pairs of Magnetic Tiles at 256
pixels all do at 0.65 or more, so that a least correlation would tell nothing apart.
"""

import warnings
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

from dlilib.tiles import TileSet

THUMBNAIL = 32  # pixels, side of the grey copies that are compared, at most
WAVES = 16  # frequencies in each direction; all but the constant one are hashed: 255 bits
SMALLEST = WAVES  # pixels: an image with a shorter side does not hold that many frequencies
FLAT = 0.25  # grey levels: a thumbnail whose standard deviation is not above it shows nothing
ZERO = 1e-6  # of the norm of all frequencies: less is rounding
SAME_BITS = 6  # of 255: the most in which the hashes of a photograph and its copy differ
# of 255: the same without what the images of the set share. Independent images differ in 127 ± 8.
ALIKE_BITS = 72  # finds 78 % of exposures of one part, 3 of 875,091 other pairs: see above
SHARED = 8  # directions, beside the mean, in which the images of a set may vary alike
IMAGES_A_DIRECTION = 50  # a set of N images has at most N / 50 such directions
# How an image of a pair lies in each of `_orientations`, for messages.
LIES = (
    *("", " (mirrored)", " (mirrored)", " (turned by 180°)"),
    *(" (mirrored and turned)", " (turned by 90°)", " (turned by 90°)", " (mirrored and turned)"),
)
AT_ONCE = 64  # images that are compared with all later ones at once


def near_duplicates(tiles: TileSet) -> np.ndarray:
    """Find the pairs of images that look like the same photograph.

    It finds copies that were re-encoded, brightened, changed in contrast, blurred, flipped or
    turned by 90°, or got some noise, and most exposures of one part in one position. It misses most
    copies that were shifted by 5 % of the side, cropped by 10 % or turned by 5°. The module's
    docstring has the measurements.

    On one core, 1000 images of 256² pixels take 0.2 to 0.5 s; to compare 20,000 takes 15 to 25 s.
    The memory grows with the number of images and of pairs that are found, not with its square.

    Limits:

    - Images that show nothing (`FLAT`) and those with a side below 16 pixels are in no pair.
    - What all images share is not compared, so a pair depends on the set that it is in. In a set of
      two images, or one of hundreds of copies of a few photographs, most copies that are not
      almost equal can be missed.
    - In fewer than 50 images of several kinds of part, or of several views, two of one kind can
      look alike.

    Args:
        tiles: N images.

    Returns:
        int64 (M, 2): indices i < j into `tiles`, sorted.

    Example:
        >>> tiles = toy_tiles()
        >>> pairs = near_duplicates(tiles)
        >>> pairs.shape, count_across(tiles, pairs)
        ((471, 2), 0)
    """
    return np.concatenate([np.zeros((0, 2), np.int64), *_pairs(tiles)])


def count_across(tiles: TileSet, pairs: np.ndarray) -> int:
    """Count the pairs whose two images are in different groups.

    Args:
        tiles: N images.
        pairs: int (M, 2), indices into `tiles`.

    Returns:
        Their number, 0..M.

    Raises:
        ValueError: pairs has another shape.

    Example:
        >>> tiles = toy_tiles()  # its first four images show part 0
        >>> count_across(tiles, np.array([[0, 1], [0, 4]]))
        1
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must have the shape (M, 2), got {pairs.shape}")
    return int(_across(tiles, pairs).sum())


def warn_of_near_duplicates(tiles: TileSet) -> None:
    """Warn if images that look like the same photograph are in different groups.

    It takes as long as `near_duplicates`, and less memory where there are very many pairs.

    Args:
        tiles: N images.

    Warns:
        UserWarning: There are such pairs; says how many, names one and how it lies, and says what
            to do. It points at the line that called the function that called this one.

    Example:
        >>> warn_of_near_duplicates(toy_tiles())  # nothing: the exposures of a part are one group
    """
    count, example = 0, None
    for pairs in _pairs(tiles):
        across = pairs[_across(tiles, pairs)]
        if example is None and len(across):
            example = across[0]
        count += len(across)
    if example is None:
        return
    first, second = (repr(tiles.names[image]) for image in example)
    second += _lies(tiles, *example)
    found = "1 pair of images looks" if count == 1 else f"{count} pairs of images look"
    warnings.warn(
        f"{found} like one photograph and are in different groups, as {first} and {second}: a "
        "split can train on one image and validate on the other. A tiles.csv with the columns "
        "image,tile says which images belong together",
        stacklevel=3,
    )


def _lies(tiles: TileSet, first: int, second: int) -> str:
    """How the second image has to be turned to look like the first one, in words."""
    waves = [_waves(image) for image in _images(tiles.subset([first, second]))]
    alike = [float((turned * waves[0].ravel()).sum()) for turned in _orientations(waves[1][None])]
    return LIES[int(np.argmax(alike))]


def _across(tiles: TileSet, pairs: np.ndarray) -> np.ndarray:
    """Which pairs (M, 2) have their images in different groups: bool (M,)."""
    groups = np.asarray(tiles.groups)[pairs]
    return groups[:, 0] != groups[:, 1]


def _pairs(tiles: TileSet) -> Iterator[np.ndarray]:
    """The near-duplicates, int64 (M, 2) for each chunk of first images."""
    waves = np.array([_waves(image) for image in _images(tiles)]).reshape(-1, WAVES, WAVES)
    shows = np.flatnonzero(waves.any(axis=(1, 2)))
    if len(shows) < 2:
        return
    waves = waves[shows]
    mean, directions = _shared(waves.reshape(len(waves), -1))
    same, alike = [], []  # hashes (4, N) for each orientation; the first is the images' own
    for values in _orientations(waves):
        same.append(_hashes(values - ZERO))  # what is 0 but for rounding sets no bit
        own = values - mean
        alike.append(_hashes(own - own @ directions @ directions.T))
    for start in range(0, len(shows), AT_ONCE):
        match = _match(same, start, SAME_BITS) | _match(alike, start, ALIKE_BITS)
        first, second = np.nonzero(np.triu(match, 1))
        yield np.stack([shows[start + first], shows[start + second]], axis=1)


def _images(tiles: TileSet) -> Iterator[np.ndarray]:
    """Each image without its padding, uint8 (C, H, W)."""
    for index, image in enumerate(tiles.images):
        if tiles.resize == "pad" and tiles.sizes is not None:
            height, width = tiles.sizes[index].tolist()
            image = image[:, :height, :width]
        yield image.cpu().numpy()


def _waves(image: np.ndarray) -> np.ndarray:
    """The lowest frequencies (16, 16) of an image (C, H, W), with norm 1; 0 if it shows nothing.

    The constant one is 0. So neither brightness nor contrast counts.
    """
    height, width = (min(side, THUMBNAIL) for side in image.shape[1:])
    if min(height, width) < SMALLEST:
        return np.zeros((WAVES, WAVES), np.float32)
    grey = image.mean(axis=0, dtype=np.float32)
    thumbnail = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    waves = _cosines(height) @ thumbnail @ _cosines(width).T
    waves[0, 0] = 0
    norm = np.linalg.norm(waves)
    return waves / norm if norm > FLAT * np.sqrt(height * width) else np.zeros_like(waves)


@lru_cache
def _cosines(side: int) -> np.ndarray:
    """The first 16 rows of the orthonormal discrete cosine transform, float32 (16, side)."""
    angles = np.arange(WAVES)[:, None] * (np.arange(side) + 0.5) * np.pi / side
    rows = np.cos(angles) * np.sqrt(2 / side)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


def _orientations(waves: np.ndarray) -> Iterator[np.ndarray]:
    """Frequencies (N, 16, 16) of images, then of their flips and quarter turns: (N, 256) 8 times.

    A flip changes the sign of the odd frequencies; a transposition swaps the axes.
    """
    flipped = np.where(np.arange(WAVES) % 2, -1, 1).astype(np.float32)
    kept = np.ones_like(flipped)
    for values in (waves, waves.transpose(0, 2, 1)):
        for down in (kept, flipped):
            for across in (kept, flipped):
                yield (values * down[:, None] * across).reshape(len(waves), -1)


def _shared(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What images have in common: mean (256,) and directions (256, D) of frequencies (N, 256).

    The mean is how all look. The directions in which they vary most tell apart several kinds of
    part, views or lightings.
    """
    mean = values.mean(axis=0)
    deviations = values - mean
    count = min(SHARED, len(values) // IMAGES_A_DIRECTION)
    _, directions = np.linalg.eigh(deviations.T @ deviations)  # by increasing variance
    return mean, directions[:, directions.shape[1] - count :]


def _hashes(values: np.ndarray) -> np.ndarray:
    """The signs of N rows of 256 values, 1 bit each: uint64 (4, N)."""
    return np.ascontiguousarray(np.packbits(values > 0, axis=1).view(np.uint64).T)


def _match(hashes: list[np.ndarray], start: int, most: int) -> np.ndarray:
    """Which of the images from `start` on match those of a chunk in any orientation.

    Args:
        hashes: uint64 (4, N) for each orientation; the first is the images' own.
        start: The first image of the chunk.
        most: Bits in which two hashes may differ.

    Returns:
        bool (images of the chunk, N - start).
    """
    chunk = slice(start, start + AT_ONCE)
    match = np.zeros((len(hashes[0][0][chunk]), len(hashes[0][0]) - start), bool)
    for hashed in hashes:
        # one of the 256 bits is always 0: uint8 holds the sum
        match |= most >= sum(
            np.bitwise_count(left[chunk, None] ^ right[start:])
            for left, right in zip(hashed, hashes[0], strict=True)
        )
    return match
