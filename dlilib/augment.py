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
# as released; classes that are not named here take Warp()
RELEASED_WARPS = {
    "Blowhole": Warp(), "Crack": Warp(flip=0.0, rotate=5.0), **dict.fromkeys(("Break", "Fray", "Uneven"), FLIP_ONLY),
}


def draw_warps(
    warps: Sequence[Warp], which: Tensor, generator: Generator | None = None, aspect: float = 1.0
) -> Tensor:
    """A random affine map by each of warps[which]: float32 (M, 2, 3), from output to input in [-1, 1] coordinates.

    which: int64 (M,), indices into `warps`. aspect: of the images, (height - 1) / (width - 1), so that rotations turn
    their pixels and do not shear them.
    """
    u = torch.rand(len(which), 7, generator=generator)
    ranges = torch.tensor([(w.flip, w.affine, w.shift, w.scale, math.radians(w.rotate)) for w in warps])
    flip, affine, shift, scale, rotate = ranges[which].T
    way = (u[:, 1] * 3).int()  # 0 horizontal, 1 vertical, 2 both
    flipped = u[:, 0] < flip
    mirror_x = torch.where(flipped & (way != 1), -1.0, 1.0)
    mirror_y = torch.where(flipped & (way != 0), -1.0, 1.0)
    moved = (u[:, 2] < affine).float()
    x, y, zoom, angle = (2 * u[:, 3:] - 1).T * moved * torch.stack([2 * shift, 2 * shift, scale, rotate])
    # The donor is flipped, then scaled, rotated and shifted; sampling needs the inverse, last step first.
    cos, sin = torch.cos(angle) / (1 + zoom), torch.sin(angle) / (1 + zoom)
    up, down = sin * aspect, sin / aspect
    row_x = torch.stack([cos, up, -(cos * x + up * y)], dim=1) * mirror_x[:, None]
    row_y = torch.stack([-down, cos, down * x - cos * y], dim=1) * mirror_y[:, None]
    return torch.stack([row_x, row_y], dim=1)


def mirrors(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Those of maps (M, 2, 3) that only mirror, as the flips (M, 2) that `flip` takes, and the rows of the others."""
    signs = maps.diagonal(dim1=1, dim2=2).sign()  # (M, 2)
    only = (maps == F.pad(torch.diag_embed(signs), (0, 1))).all(dim=(1, 2))
    return (signs < 0).flip(1) & only[:, None], (~only).nonzero()[:, 0]


def warp(images: Tensor, masks: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) float bilinearly and masks (B, H, W) bool by nearest neighbour, through maps (B, 2, 3).

    Beyond the border both are mirrored about the outermost pixel, as released.
    differs: the released code warps before it resizes, this one the resized tile.
    """
    if len(images) == 0:
        return images.clone(), masks.clone()
    grid = _grid(maps.to(images, non_blocking=True), *images.shape[2:])
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    marks = F.grid_sample(masks[:, None].to(images), grid, "nearest", "reflection", align_corners=True)
    return moved, marks[:, 0] > 0.5


def _grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from, (B, H, W, 2): as torch's affine_grid, in fewer steps."""
    y, x = (torch.linspace(-1, 1, side, dtype=maps.dtype, device=maps.device) for side in (height, width))
    grid = maps.new_empty(len(maps), height, width, 2)
    for k in (0, 1):
        along_x, along_y = maps[:, k, :1] * x, maps[:, k, 1:2] * y + maps[:, k, 2:]
        torch.add(along_y[:, :, None], along_x[:, None], out=grid[..., k])
    return grid


def draw_flips(batch: int, generator: Generator | None = None) -> Tensor:
    """bool (batch, 2): flip vertically, flip horizontally, each with probability 0.5 as released."""
    return torch.rand(batch, 2, generator=generator) < 0.5


def flip(images: Tensor, masks: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of images (B, C, H, W) and masks (B, H, W) of any dtype, mirrored where flips (B, 2) says so."""
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
