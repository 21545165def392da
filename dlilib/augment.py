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
    "Blowhole": Warp(),
    "Break": FLIP_ONLY,
    "Crack": Warp(flip=0.0, rotate=5.0),
    "Fray": FLIP_ONLY,
    "Uneven": FLIP_ONLY,
}


def draw_warps(warps: Sequence[Warp], which: Tensor, generator: Generator | None = None) -> Tensor:
    """A random affine map by each of warps[which]: float32 (M, 2, 3), from output to input in [-1, 1] coordinates.

    which: int64 (M,), indices into `warps`.
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
    row_x = torch.stack([cos, sin, -(cos * x + sin * y)], dim=1) * mirror_x[:, None]
    row_y = torch.stack([-sin, cos, sin * x - cos * y], dim=1) * mirror_y[:, None]
    return torch.stack([row_x, row_y], dim=1)


def warp(images: Tensor, masks: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) float bilinearly and masks (B, H, W) bool by nearest neighbour, through maps (B, 2, 3).

    Beyond the border both are mirrored about the outermost pixel, as released. Maps that only mirror move whole
    pixels, exactly.
    differs: the released code warps before it resizes, this one the resized tile.
    """
    mirrors = torch.diag_embed(maps.diagonal(dim1=1, dim2=2).sign())  # (B, 2, 2)
    exact = (maps == F.pad(mirrors, (0, 1))).all(dim=(1, 2))
    flips = (maps.diagonal(dim1=1, dim2=2) < 0).flip(1) & exact[:, None]
    images, masks = flip(images, masks, flips)
    if not exact.all():
        rest = _rows(~exact, images.device)
        moved = images[rest]
        grid = F.affine_grid(maps[~exact].to(moved, non_blocking=True), list(moved.shape), align_corners=True)
        marks = masks[rest][:, None].to(moved)
        images[rest] = F.grid_sample(moved, grid, padding_mode="reflection", align_corners=True)
        masks[rest] = F.grid_sample(marks, grid, "nearest", "reflection", align_corners=True)[:, 0] > 0.5
    return images, masks


def draw_flips(batch: int, generator: Generator | None = None) -> Tensor:
    """bool (batch, 2): flip vertically, flip horizontally, each with probability 0.5 as released."""
    return torch.rand(batch, 2, generator=generator) < 0.5


def flip(images: Tensor, masks: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of images (B, C, H, W) and masks (B, H, W) of any dtype, mirrored where flips (B, 2) says so."""
    images, masks = images.clone(), masks.clone()
    for k in (0, 1):
        rows = _rows(flips[:, k], images.device)
        images.index_copy_(0, rows, images.index_select(0, rows).flip(k + 2))
        masks.index_copy_(0, rows, masks.index_select(0, rows).flip(k + 1))
    return images, masks


def _rows(chosen: Tensor, device: torch.device) -> Tensor:
    """Indices of the chosen (B,), found on the CPU, so that a GPU need not be waited for."""
    return chosen.nonzero()[:, 0].to(device, non_blocking=True)
