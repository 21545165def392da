"""Paired warps and flips of image and mask batches: drawn on the CPU, applied on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dlilib.checks import check_number, check_option

EVERYWHERE = slice(None)
BEYOND = ("mirrored", "nearest")  # what lies beyond an image's border
NEAR = 0.49  # pixels: nearer than that to a pixel's centre, every device samples this pixel


@dataclass(frozen=True)
class Warp:
    """Ranges of a random donor warp; the defaults, for any class, are those released for Blowhole.

    Raises:
        ValueError: A probability is not in [0, 1], shift or scale not in [0, 1), or rotate not in
            [0, 180]; the message names it.
    """

    flip: float = 0.5  #: probability of a flip, horizontal, vertical or both alike
    affine: float = 0.5  #: probability of the shift, scale and rotation below
    shift: float = 0.0625  #: ± share of the side
    scale: float = 0.1  #: ± relative
    rotate: float = 10.0  #: ± degrees

    def __post_init__(self) -> None:
        check_number("Warp.flip", self.flip, 0, 1)
        check_number("Warp.affine", self.affine, 0, 1)
        check_number("Warp.shift", self.shift, 0, 1, open_end=True)
        check_number("Warp.scale", self.scale, 0, 1, open_end=True)
        check_number("Warp.rotate", self.rotate, 0, 180)


FLIP_ONLY = Warp(affine=0.0)
RELEASED_WARPS = {  # of the Magnetic Tiles' classes, as released
    "Blowhole": Warp(),
    "Break": FLIP_ONLY,
    "Crack": Warp(flip=0.0, rotate=5.0),
    "Fray": FLIP_ONLY,
    "Uneven": FLIP_ONLY,
}


def draw_warps(
    warps: Sequence[Warp],
    which: Tensor,
    generator: Generator | None = None,
    *,
    aspect: float = 1.0,
) -> Tensor:
    """Draw a random affine map by each of warps[which].

    Args:
        warps: The ranges to draw from.
        which: int64 (M,), indices into `warps`.
        generator: None: torch's default one.
        aspect: Of the images, (height - 1) / (width - 1), so that rotations turn their pixels and
            do not shear them.

    Returns:
        float32 (M, 2, 3), from output to input in [-1, 1] coordinates, as `warp` takes them.
    """
    draws = torch.rand(len(which), 7, generator=generator, dtype=torch.float32, device="cpu")
    if_flip, axis, if_affine, x, y, zoom, angle = draws.T  # each (M,), in [0, 1)
    ranges = torch.tensor(
        [(w.flip, w.affine, w.shift, w.scale, math.radians(w.rotate)) for w in warps],
        dtype=torch.float32,
        device="cpu",
    )
    flip, affine, shift, scale, rotate = ranges[which].T
    axis = (axis * 3).int()  # 0 horizontal, 1 vertical, 2 both
    mirror_x = 1 - 2 * ((if_flip < flip) & (axis != 1)).float()
    mirror_y = 1 - 2 * ((if_flip < flip) & (axis != 0)).float()
    moved = (if_affine < affine).float()
    x = (2 * x - 1) * moved * (2 * shift)
    y = (2 * y - 1) * moved * (2 * shift)
    zoom = (2 * zoom - 1) * moved * scale
    angle = (2 * angle - 1) * moved * rotate
    # The donor is flipped, then scaled, rotated and shifted. Sampling needs the inverse, the last
    # step first.
    cos, sin = torch.cos(angle) / (1 + zoom), torch.sin(angle) / (1 + zoom)
    up, down = sin * aspect, sin / aspect
    row_x = torch.stack([cos, up, -(cos * x + up * y)], dim=1) * mirror_x[:, None]
    row_y = torch.stack([-down, cos, down * x - cos * y], dim=1) * mirror_y[:, None]
    return torch.stack([row_x, row_y], dim=1)  # (M, 2, 3)


def mirrors(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Tell maps (M, 2, 3) that only mirror from the others.

    Returns:
        The flips (M, 2) that `flip` takes, False for the others, and the rows of the others.
    """
    signs = maps.diagonal(dim1=1, dim2=2).sign()  # (M, 2)
    only = (maps == F.pad(torch.diag_embed(signs), (0, 1))).all(dim=(1, 2))
    return (signs < 0).flip(1) & only[:, None], (~only).nonzero()[:, 0]


def warp(
    images: Tensor,
    masks: Tensor,
    maps: Tensor,
    *,
    sides: tuple[int, int] | None = None,
    beyond: str = "mirrored",
    rows: slice = EVERYWHERE,
    columns: slice = EVERYWHERE,
) -> tuple[Tensor, Tensor]:
    """Warp images bilinearly and masks by nearest neighbour.

    differs: the released code warps before it resizes, this one the resized tile.

    Args:
        images: (B, C, H, W) float.
        masks: (B, H, W) bool or class indices.
        maps: (B, 2, 3), from output to input in [-1, 1] coordinates.
        sides: Height and width of the output; None: those of the input.
        beyond: What lies beyond the border: both, "mirrored" about the outermost pixel, as
            released; or the "nearest" pixel of the image and nothing in the mask.
        rows: Rows of the output that are wanted, and columns its columns.
        columns: See rows.

    Returns:
        Images (B, C, h, w) and masks (B, h, w), of the same dtypes: the wanted part of them.

    Raises:
        ValueError: beyond is none of the above.
    """
    check_option("beyond", beyond, BEYOND)
    height, width = sides or images.shape[2:]
    grid = _grid(maps.to(images, non_blocking=True), height, width, rows, columns)
    if len(images) == 0:
        empty = images.new_zeros(0, images.shape[1], *grid.shape[1:3])
        return empty, masks.new_zeros(0, *grid.shape[1:3])
    around = ("reflection", "reflection") if beyond == "mirrored" else ("border", "zeros")
    moved = F.grid_sample(images, grid, padding_mode=around[0], align_corners=True)
    marks = F.grid_sample(
        masks[:, None].to(images), grid, "nearest", padding_mode=around[1], align_corners=True
    )[:, 0]
    return moved, marks > 0.5 if masks.dtype == torch.bool else marks.to(masks.dtype)


def sees(maps: Tensor, points: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Tell which warps leave at least one of some pixels in sight.

    Args:
        maps: (B, 2, 3), from output to input in [-1, 1] coordinates.
        points: (B, P, 2), x and y of pixels of the input.
        source: Height and width of the input.
        target: Height and width of the output.

    Returns:
        bool (B,): some output pixel of `warp` is sampled from one of the points.
    """
    maps, points = maps.double(), points.double()
    linear, offset = maps[:, :, :2], maps[:, None, :, 2]  # (B, 2, 2), (B, 1, 2)
    where = (points - _middle(source)) / _half(source)
    there = torch.linalg.solve(linear, (where - offset).mT).mT  # (B, P, 2)
    pixel = (there * _half(target) + _middle(target)).round()
    last = 2 * _middle(target)
    inside = ((pixel >= 0) & (pixel <= last)).all(dim=2)
    back = ((pixel - _middle(target)) / _half(target)) @ linear.mT + offset
    error = (back * _half(source) + _middle(source) - points).abs().amax(dim=2)
    return (inside & (error < NEAR)).any(dim=1)


def reach(
    maps: Tensor,
    middle: Tensor,
    half: Tensor,
    *,
    source: tuple[int, int],
    target: tuple[int, int],
    beyond: str = "mirrored",
) -> np.ndarray:
    """Find a box of the output outside of which `warp` shows nothing of a box of the input.

    Args:
        maps: (B, 2, 3), from output to input in [-1, 1] coordinates.
        middle: (B, 2), x and y of the middle of the box.
        half: (B, 2), half of its sides, from centre to centre of its outermost pixels.
        source: Height and width of the input.
        target: Height and width of the output.
        beyond: As in `warp`: where the input is mirrored, so is the box.

    Returns:
        float64 array (B, 4): least x and y, greatest x and y, in pixels; all 0 if nothing is shown.
    """
    whole = np.array([0.0, 0.0, target[1] - 1.0, target[0] - 1.0])
    if min(source) == 1:  # that one pixel is seen wherever it is looked for
        return np.tile(whole, (len(maps), 1))
    # numpy: a hundred steps on a handful of numbers, which torch takes five times as long for
    linear, offset = np.split(maps.double().numpy(), [2], axis=2)
    inverse = np.linalg.inv(linear)  # (B, 2, 2), from input to output
    from_middle, from_half = _middle(source).numpy(), _half(source).numpy()
    to_middle, to_half = _middle(target).numpy(), _half(target).numpy()
    copies = middle.numpy()[:, None]  # (B, copies, 2)
    if beyond == "mirrored":  # about no border, the first or the last one, along each axis
        signs, ends = np.array([1, -1, -1]), np.outer([0, 0, 4], from_middle)  # (3,), (3, 2)
        x, y = (signs * copies[..., k] + ends[:, k] for k in (0, 1))  # (B, 3) each
        copies = np.stack([x[:, :, None] + 0 * y[:, None], y[:, None] + 0 * x[:, :, None]], axis=-1)
        copies = copies.reshape(len(x), 9, 2)
    where = (copies - from_middle) / from_half - offset.transpose(0, 2, 1)
    centre = where @ inverse.transpose(0, 2, 1) * to_half + to_middle
    half = half.numpy() + 0.5  # to the outer edges of its pixels
    size = (half / from_half)[:, None] @ np.abs(inverse).transpose(0, 2, 1) * to_half
    low, high = centre - size, centre + size
    seen = ((high >= -1) & (low <= 2 * to_middle + 1)).all(axis=2, keepdims=True)
    least = np.where(seen, low, np.inf).min(axis=1)
    most = np.where(seen, high, -np.inf).max(axis=1)
    found = np.where(seen.any(axis=1), np.concatenate([least, most], axis=1), 0.0)
    if beyond == "mirrored":  # further than the first mirrors there are more
        furthest = (np.abs(linear).sum(axis=2) + np.abs(offset[:, :, 0])).max(axis=1)
        found[furthest > 2.5] = whole
    return found


def placed(
    linear: Tensor,
    centre: Tensor,
    place: Tensor,
    *,
    source: tuple[int, int],
    target: tuple[int, int],
) -> Tensor:
    """The maps that put a pixel of the input at a place of the output.

    Args:
        linear: (B, 2, 2), from output to input, in pixels.
        centre: (B, 2), x and y in the input.
        place: (B, 2), x and y in the output.
        source: Height and width of the input.
        target: Height and width of the output.

    Returns:
        float32 (B, 2, 3), as `warp` takes them.
    """
    linear, centre, place = linear.double(), centre.double(), place.double()
    scaled = linear * _half(target) / _half(source)[:, None]
    moved = (linear @ (_middle(target) - place)[:, :, None])[:, :, 0]
    offset = (moved + centre - _middle(source)) / _half(source)
    return torch.cat([scaled, offset[:, :, None]], dim=2).float()


def _middle(sides: tuple[int, int]) -> Tensor:
    """x and y of the middle of an image (height, width), pixels."""
    height, width = sides
    return torch.tensor([width - 1, height - 1], dtype=torch.float64, device="cpu") / 2


def _half(sides: tuple[int, int]) -> Tensor:
    """Pixels to one of [-1, 1] coordinates along x and y; an image of one pixel has no scale."""
    return _middle(sides).clamp(min=0.5)


def _grid(
    maps: Tensor, height: int, width: int, rows: slice = EVERYWHERE, columns: slice = EVERYWHERE
) -> Tensor:
    """Where each output pixel comes from, (B, H, W, 2): torch's affine_grid in fewer steps."""
    y, x = (_along(side, maps) for side in (height, width))
    y, x = y[rows], x[columns]
    grid = maps.new_empty(len(maps), len(y), len(x), 2)
    for k in (0, 1):
        along_x = maps[:, k, :1] * x  # (B, W)
        along_y = maps[:, k, 1:2] * y + maps[:, k, 2:]  # (B, H)
        torch.add(along_y[:, :, None], along_x[:, None], out=grid[..., k])
    return grid


def _along(side: int, like: Tensor) -> Tensor:
    """The places of `side` pixels in [-1, 1]; a single one is in the middle."""
    if side == 1:
        return like.new_zeros(1)
    return torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device)


def draw_flips(batch: int, generator: Generator | None = None) -> Tensor:
    """Draw vertical and horizontal flips, bool (batch, 2), with probability 0.5 as released."""
    return torch.rand(batch, 2, generator=generator, dtype=torch.float32, device="cpu") < 0.5


def flip(images: Tensor, masks: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Copy images (B, C, H, W) and masks (B, H, W), mirrored where flips (B, 2) says so.

    flips: vertically, horizontally. Images and masks have any dtype.
    """
    images, masks = images.clone(), masks.clone()
    flip_(images, masks, flips)
    return images, masks


def flip_(images: Tensor, masks: Tensor, flips: Tensor) -> None:
    """As `flip`, in place."""
    for k in (0, 1):
        # Found on the CPU, where flips are drawn, so that a GPU need not be waited for.
        rows = flips[:, k].nonzero()[:, 0].to(images.device, non_blocking=True)
        for values, axis in ((images, k + 2), (masks, k + 1)):
            values.index_copy_(0, rows, values.index_select(0, rows).flip(axis))
