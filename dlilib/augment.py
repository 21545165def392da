"""Paired warps and flips of image and mask batches: drawn on the CPU, applied on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Warp:
    """Ranges of one class's random donor warp; defaults as released for Blowhole."""

    flip: float = 0.5  # probability of a flip: horizontal, vertical or both, alike
    affine: float = 0.5  # probability of the shift, scale and rotation below
    shift: float = 0.0625  # ± share of the side
    scale: float = 0.1  # ± relative
    rotate: float = 10.0  # ± degrees


FLIP_ONLY = Warp(affine=0.0)
RELEASED_WARPS = {  # classes that are not named here take Warp()
    "Blowhole": Warp(),
    "Break": FLIP_ONLY,
    "Crack": Warp(flip=0.0, rotate=5.0),
    "Fray": FLIP_ONLY,
    "Uneven": FLIP_ONLY,
}


def draw_warps(
    warps: Sequence[Warp], which: Tensor, generator: Generator | None = None, aspect: float = 1.0
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
    draws = torch.rand(len(which), 7, generator=generator)
    if_flip, axis, if_affine, x, y, zoom, angle = draws.T  # each (M,), in [0, 1)
    ranges = torch.tensor(
        [(w.flip, w.affine, w.shift, w.scale, math.radians(w.rotate)) for w in warps]
    )
    flip, affine, shift, scale, rotate = ranges[which].T
    axis = (axis * 3).int()  # 0 horizontal, 1 vertical, 2 both
    mirror_x = torch.where((if_flip < flip) & (axis != 1), -1.0, 1.0)
    mirror_y = torch.where((if_flip < flip) & (axis != 0), -1.0, 1.0)
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


def warp(images: Tensor, masks: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Warp images bilinearly and masks by nearest neighbour.

    Beyond the border both are mirrored about the outermost pixel, as released.
    differs: the released code warps before it resizes, this one the resized tile.

    Args:
        images: (B, C, H, W) float.
        masks: (B, H, W) bool.
        maps: (B, 2, 3), from output to input in [-1, 1] coordinates.
    """
    if len(images) == 0:
        return images.clone(), masks.clone()
    grid = _grid(maps.to(images, non_blocking=True), *images.shape[2:])
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    marks = F.grid_sample(
        masks[:, None].to(images), grid, "nearest", "reflection", align_corners=True
    )
    return moved, marks[:, 0] > 0.5


def _grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from, (B, H, W, 2): torch's affine_grid in fewer steps."""
    y = torch.linspace(-1, 1, height, dtype=maps.dtype, device=maps.device)
    x = torch.linspace(-1, 1, width, dtype=maps.dtype, device=maps.device)
    grid = maps.new_empty(len(maps), height, width, 2)
    for k in (0, 1):
        along_x = maps[:, k, :1] * x  # (B, W)
        along_y = maps[:, k, 1:2] * y + maps[:, k, 2:]  # (B, H)
        torch.add(along_y[:, :, None], along_x[:, None], out=grid[..., k])
    return grid


def draw_flips(batch: int, generator: Generator | None = None) -> Tensor:
    """Draw vertical and horizontal flips, bool (batch, 2), with probability 0.5 as released."""
    return torch.rand(batch, 2, generator=generator) < 0.5


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
