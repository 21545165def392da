"""How long a blend takes, by region, size and batch, and beside other solvers."""

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Generator, Tensor

from dlilib.benchmark import peers
from dlilib.benchmark.timing import RATIOS, TIMES, Step, compare
from dlilib.blend import REGIONS, poisson_blend
from dlilib.composite import dilate
from dlilib.tiles import TileSet


def blending(
    size: int = 256, batch: int = 16, device: str = "cpu", *, repeats: int = 9
) -> pd.DataFrame:
    """Time Poisson blending of grey pairs of random pixels.

    Ours blends a batch in one call. OpenCV and, where it is installed, pie-torch go through the
    images one by one. OpenCV takes no grey image, so it gets three equal channels, as its users
    have to give it; a row of ours does the same.

    Args:
        size: Side of the images, pixels.
        batch: Number of pairs.
        device: Where ours computes; OpenCV is on the CPU, and so is pie-torch, which elsewhere is
            left out.
        repeats: As in `compare`.

    Returns:
        The rows of `compare`, with times for one image, for each mask: "all", everything but the
        ring, so that every solver has the same rectangle of unknowns, and "box", about a tenth of
        the image.
    """
    generator = Generator().manual_seed(0)
    shape = (batch, 1, size, size)
    target = torch.randint(256, shape, generator=generator).float()
    donor = torch.randint(256, shape, generator=generator).float()
    frames = []
    for name, side in {"all": size - 2, "box": round(0.3 * size)}.items():
        mask = _central_square(size, side)
        steps = _blending_steps(target, donor, mask, device)
        frames.append(compare(steps, device, repeats).assign(mask=name))
    frame = pd.concat(frames, ignore_index=True)
    frame[TIMES] /= batch
    return frame


def _central_square(size: int, side: int) -> Tensor:
    """A mask (size, size), True in a square in the middle."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    low = (size - side) // 2
    mask[low : low + side, low : low + side] = True
    return mask


def _blending_steps(target: Tensor, donor: Tensor, mask: Tensor, device: str) -> dict[str, Step]:
    """Ours and its baselines; target, donor: (B, 1, H, W) on the CPU, mask: (H, W)."""
    masks = mask.expand(len(target), -1, -1).to(device)  # (B, H, W)
    grey = [x.to(device) for x in (target, donor)]
    rgb = [x.expand(-1, 3, -1, -1).contiguous() for x in grey]
    steps: dict[str, Step] = {
        "dlilib": partial(poisson_blend, *grey, masks),
        "dlilib, region mask": partial(poisson_blend, *grey, masks, region="mask"),
        "dlilib, three channels": partial(poisson_blend, *rgb, masks),
        "OpenCV seamlessClone": partial(peers.opencv, target, donor, mask),
    }
    if peers.installed("pietorch") and torch.device(device).type == "cpu":
        steps["pie-torch"] = partial(peers.pie_torch, target, donor, mask)
    return steps


def regions(
    tiles: TileSet, size: int = 512, device: str = "cpu", *, repeats: int = 5
) -> pd.DataFrame:
    """Time the solver of the masks' pixels alone beside that of whole rectangles.

    Args:
        tiles: A data set: 64 of its defects, widened as in an injection, on as many of its
            defect-free images.
        size: Side of one more image, pixels, half of which a disc covers.
        device: Where it computes.
        repeats: As in `compare`.

    Returns:
        The rows of `compare`, with times for one call, and images: which.

    Raises:
        ValueError: The data set has no defective or no defect-free images.
    """
    defective = (tiles.labels > 0).nonzero()[:, 0]
    if not 0 < len(defective) < len(tiles):
        raise ValueError(f"needs defective and defect-free images, got {tiles!r}")
    rows = defective[torch.randperm(len(defective), generator=Generator().manual_seed(0))[:64]]
    free = (tiles.labels == 0).nonzero()[:, 0]
    free = free[torch.arange(len(rows)) % len(free)]
    images = tiles.images.float() / 255
    radius = size * math.sqrt(0.5 / math.pi)
    y, x = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    noise = torch.rand(2, 1, 1, size, size, generator=Generator().manual_seed(0))
    side = "×".join(str(n) for n in tiles.masks.shape[1:])
    cases = {
        f"{len(rows)} of {side}": (images[free], images[rows], dilate(tiles.masks[rows] > 0)),
        f"1 of {size}×{size}": (noise[0], noise[1], (torch.hypot(x, y) < radius)[None]),
    }
    frames = []
    for name, case in cases.items():
        given = [part.to(device) for part in case]
        steps = {region: partial(poisson_blend, *given, region=region) for region in REGIONS}
        frames.append(compare(steps, device, repeats).assign(images=name))
    return pd.concat(frames, ignore_index=True)


def scaling(
    sizes: Sequence[int] = (64, 128, 256, 512),
    batches: Sequence[int] = (1, 8, 64),
    device: str = "cpu",
    *,
    repeats: int = 5,
) -> pd.DataFrame:
    """Time `poisson_blend` by size of image and batch: grey, with a mask over everything.

    Args:
        sizes: Sides of the images, pixels.
        batches: Numbers of pairs in one call.
        device: Where it computes.
        repeats: As in `compare`.

    Returns:
        A row for each size and batch: batch, ms, low and high (for one image), n and size.
    """
    frames = []
    for size in sizes:
        shape = (max(batches), 1, size, size)
        generator = Generator().manual_seed(0)
        target = torch.rand(shape, generator=generator).to(device)
        donor = torch.rand(shape, generator=generator).to(device)
        mask = torch.ones(max(batches), size, size, dtype=torch.bool, device=device)
        steps = {n: partial(poisson_blend, target[:n], donor[:n], mask[:n]) for n in batches}
        frame = compare(steps, device, repeats).drop(columns=RATIOS)
        frame = frame.rename(columns={"what": "batch"})
        frame[TIMES] = frame[TIMES].div(frame["batch"], axis=0)
        frames.append(frame.assign(size=size))
    return pd.concat(frames, ignore_index=True)
