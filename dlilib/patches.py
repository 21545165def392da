"""Cut large images into square patches, and weight the patches to stitch predictions again."""

from numbers import Integral

import numpy as np

from dlilib.checks import is_count

MULTIPLE = 8  # of the light encoders' stride, so that their patches need no padding
LARGEST = 8192  # side of a patch, in pixels


def check_patch(tile: tuple[int, int]) -> tuple[int, int]:
    """Check how a user wants images to be cut.

    Args:
        tile: Side of the square patches, a multiple of 8 up to 8192, and by how many pixels
            neighbours overlap at least, from 0 to below the side.

    Returns:
        The same, as plain integers.

    Raises:
        ValueError: `tile` is no such pair; the message says what is wrong.

    Example:
        >>> check_patch((512, 64))
        (512, 64)
    """
    if not isinstance(tile, tuple | list) or len(tile) != 2 or not all(map(_is_integer, tile)):
        raise ValueError(f"tile must be (size, overlap), two integers in pixels, got {tile!r}")
    size, overlap = int(tile[0]), int(tile[1])
    if size % MULTIPLE or not 0 < size <= LARGEST:
        raise ValueError(
            f"the size in tile must be a multiple of {MULTIPLE} from {MULTIPLE} to {LARGEST}, "
            f"got {size}"
        )
    _check_overlap(size, overlap)
    return size, overlap


def corners(height: int, width: int, size: int, overlap: int) -> np.ndarray:
    """Place square patches that cover an image.

    They are as few as the overlap allows and evenly spread: along each direction the first patch
    starts and the last one ends at the image's edge, so that neighbours may overlap by more than
    asked for. A direction that is shorter than a patch has one patch there, which leaves the image
    below or to the right: the caller pads.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        size: Side of a patch, in pixels.
        overlap: By how many pixels neighbours overlap at least, from 0 to below `size`.

    Returns:
        int64 (P, 2), row and column of each patch's upper left pixel, row by row.

    Raises:
        ValueError: An argument is none of the above.

    Example:
        >>> corners(8, 20, size=8, overlap=1).tolist()
        [[0, 0], [0, 6], [0, 12]]
    """
    _check_sides(height, width, size, overlap)
    rows, columns = _starts(height, size, overlap), _starts(width, size, overlap)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def stitch_weights(height: int, width: int, size: int, overlap: int) -> np.ndarray:
    """Weight each patch of `corners` for the mean of predictions that overlap.

    The weight of a patch's pixel is that of its row times that of its column. Where two patches
    overlap it falls linearly towards the patch's edge, where a model sees the least around a pixel.
    At each pixel of the image the weights of all patches are positive and sum to 1.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        size: Side of a patch, in pixels.
        overlap: By how many pixels neighbours overlap at least, from 0 to below `size`.

    Returns:
        float32 (P, 2, size), the weights of each patch's rows and of its columns, in the order of
        `corners`.

    Raises:
        ValueError: An argument is none of the above.

    Example:
        >>> stitch_weights(4, 7, size=4, overlap=1)[:, 1].tolist()
        [[1.0, 1.0, 1.0, 0.5], [0.5, 1.0, 1.0, 1.0]]
    """
    _check_sides(height, width, size, overlap)
    rows, columns = _shares(height, size, overlap), _shares(width, size, overlap)
    of_rows = np.repeat(rows, len(columns), axis=0)  # (P, size)
    of_columns = np.tile(columns, (len(rows), 1))  # (P, size)
    return np.stack([of_rows, of_columns], axis=1)


def _starts(side: int, size: int, overlap: int) -> np.ndarray:
    """int64 (n,): where the patches along one direction start."""
    room = max(int(side) - int(size), 0)  # how far the last patch is from the first
    farthest = int(size) - int(overlap)  # how far neighbours may be from each other
    steps = -(-room // farthest)
    return np.arange(steps + 1, dtype=np.int64) * room // max(steps, 1)


def _shares(side: int, size: int, overlap: int) -> np.ndarray:
    """float32 (n, size): the weights of the patches along one direction."""
    covered = _starts(side, size, overlap)[:, None] + np.arange(size)  # (n, size)
    from_edge = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1))
    tents = np.broadcast_to(from_edge, covered.shape)
    total = np.bincount(covered.ravel(), weights=tents.ravel())
    return (tents / total[covered]).astype(np.float32)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_overlap(size: int, overlap: int) -> None:
    if not _is_integer(overlap) or not 0 <= overlap < size:
        raise ValueError(
            f"overlap must be an integer from 0 to below the size {size}, got {overlap!r}"
        )


def _check_sides(height: int, width: int, size: int, overlap: int) -> None:
    for name, value in (("height", height), ("width", width), ("size", size)):
        if not is_count(value):
            raise ValueError(f"{name} must be a number of pixels above 0, got {value!r}")
    _check_overlap(size, overlap)
