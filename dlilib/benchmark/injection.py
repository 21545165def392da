"""How long balancing a batch takes, beside others' code, and what the time goes into."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.flop_counter import FlopCounterMode

from dlilib.benchmark import peers
from dlilib.benchmark.timing import TIMES, Step, compare
from dlilib.benchmark.training import Traffic
from dlilib.inject import DynamicLabelInjection, collate
from dlilib.metrics import one_hot
from dlilib.models import MEAN, STD
from dlilib.tiles import TileSet

TRANSFORMS = {  # row -> what makes the transform; the first does what the released code does
    "dlilib": DynamicLabelInjection.as_released,
    "dlilib, its defaults": DynamicLabelInjection,
}


def injection(
    tiles: TileSet,
    p_poisson: float = 0.5,
    batch: int = 64,
    *,
    free: int = 49,
    device: str = "cpu",
    repeats: int = 9,
    released_src: str = "",
    root: str | Path | None = None,
) -> pd.DataFrame:
    """Time the balancing of a batch, as the released code does it, and by our defaults.

    The authors' code takes three channels, so a row of ours does the same. It reads its donors from
    files and writes into the batch that it gets: reading and a copy of the batch are in its time.

    kornia's RandomTransplantation, where it is installed, neither balances nor blends: it tells how
    little time an injection could take.

    Args:
        tiles: The data set.
        p_poisson: Probability of Poisson blending rather than cut-paste, per injection.
        batch: Number of images.
        free: How many of them are defect-free.
        device: Where it computes.
        repeats: As in `compare`.
        released_src: The folder `src` of a checkout of the authors' code, to time it too
            (covisionlab/dynamic-label-injection; it needs albumentations 1.4.10 and pie-torch).
        root: The Magnetic Tiles, a folder or zip, from which the authors' code reads its donors;
            None: the environment's DLILIB_DATA.

    Returns:
        The rows of `compare`, with p_poisson.

    Raises:
        ValueError: The authors' code is asked for and cannot be used.
    """
    images, masks, labels = _mixed_batch(tiles, batch, free)
    images_on_device, masks_on_device = images.to(device), masks.to(device)

    def balancing(make: Callable, donors: TileSet, images: Tensor) -> Step:
        generator = Generator().manual_seed(0)
        transform = make(donors.to(device), p_poisson=p_poisson, generator=generator)
        return partial(transform, images, masks_on_device, labels)

    steps = {name: balancing(make, tiles, images_on_device) for name, make in TRANSFORMS.items()}
    rgb, rgb_images = (
        x.expand(-1, 3, -1, -1).contiguous() for x in (tiles.images, images_on_device)
    )
    steps["dlilib, three channels"] = balancing(
        TRANSFORMS["dlilib"], replace(tiles, images=rgb), rgb_images
    )
    if peers.installed("kornia"):
        from kornia.augmentation import RandomTransplantation

        transplant = RandomTransplantation(p=1.0)
        steps["kornia RandomTransplantation"] = lambda: transplant(
            images_on_device, masks_on_device.long()
        )
    if not released_src:
        return compare(steps, device, repeats).assign(p_poisson=p_poisson)
    with peers.released(released_src, root) as balance:
        normalised = ((images - MEAN) / STD).expand(-1, 3, -1, -1).contiguous().to(device)
        maps = one_hot(masks, tiles.num_classes).float().to(device)  # (B, K, H, W)
        steps["authors' code"] = lambda: balance(
            normalised.clone(), maps.clone(), labels - 1, p_poisson
        )
        return compare(steps, device, repeats).assign(p_poisson=p_poisson)


def classes(
    tiles: TileSet,
    numbers: Sequence[int] = (1, 5, 20, 60),
    batch: int = 64,
    *,
    free: int = 49,
    device: str = "cpu",
    repeats: int = 5,
) -> pd.DataFrame:
    """Time the balancing of a batch by the number of classes that the defects are told apart in.

    Args:
        tiles: The data set; its defects are numbered anew, in turn.
        numbers: Of classes.
        batch: Number of images.
        free: How many of them are defect-free.
        device: Where it computes.
        repeats: As in `compare`.

    Returns:
        The rows of `compare`, whose steps are named by their numbers of classes.
    """
    defective = tiles.labels > 0
    steps: dict[str, Step] = {}
    for number in numbers:
        labels = torch.where(defective, 1 + defective.cumsum(0) % number, 0)
        masks = torch.where(tiles.masks > 0, labels[:, None, None], 0).to(torch.uint8)
        names = [str(k) for k in range(1, number + 1)]
        numbered = TileSet.from_arrays(tiles.images, masks, names, labels=labels)
        transform = DynamicLabelInjection(numbered.to(device), generator=Generator().manual_seed(0))
        images, marks, kinds = _mixed_batch(numbered, batch, free)
        steps[str(number)] = partial(transform, images.to(device), marks.to(device), kinds)
    return compare(steps, device, repeats)


def remainder(tiles: TileSet, batch: int = 64, *, free: int = 49, repeats: int = 9) -> pd.DataFrame:
    """Tell what an injection's time goes into, on a CPU.

    Args:
        tiles: The data set.
        batch: Number of images.
        free: How many of them are defect-free.
        repeats: As in `compare`.

    Returns:
        A row for each share of Poisson blending: ms, of all; copy, of as many bytes as the batch
        has; arithmetic, its matrix products at the rate that a large one reaches; calls, its
        operations at the time of one on a single number; rest, what these do not account for;
        copy_gb_s, product_gflop_s and call_us, the rates, measured in turn with the rest.
    """
    images, masks, labels = _mixed_batch(tiles, batch, free)
    square, one = torch.randn(1024, 1024), torch.zeros(1)
    found = []
    for share in (0.0, 0.5, 1.0):
        transform = DynamicLabelInjection.as_released(
            tiles, p_poisson=share, generator=Generator().manual_seed(0)
        )
        apply = partial(transform.apply_plan, transform.plan(labels), images, masks, labels)
        apply()  # what is found out once about the donors is not counted
        with FlopCounterMode(display=False) as counter, Traffic() as traffic:
            apply()
        steps: dict[str, Step] = {
            "all": apply,
            "copy": lambda: (images.clone(), masks.clone()),
            "product": lambda: square @ square,
            "call": lambda: [torch.add(one, one, out=one) for _ in range(1000)],
        }
        ms = compare(steps, repeats=repeats).set_index("what")["ms"]
        arithmetic = counter.get_total_flops() / (2 * len(square) ** 3) * ms["product"]
        calls = traffic.ops * ms["call"] / 1000
        found.append(
            {
                "p_poisson": share,
                "ms": ms["all"],
                "copy": ms["copy"],
                "arithmetic": arithmetic,
                "calls": calls,
                "rest": ms["all"] - ms["copy"] - arithmetic - calls,
                "copy_gb_s": 2 * (images.nbytes + masks.nbytes) / ms["copy"] / 1e6,
                "product_gflop_s": 2 * len(square) ** 3 / ms["product"] / 1e6,
                "call_us": ms["call"],
            }
        )
    return pd.DataFrame(found)


def loading(tiles: TileSet, batch: int = 64, *, workers: int = 2, repeats: int = 3) -> pd.DataFrame:
    """Time a DataLoader whose workers balance the batches, beside one that only collates them.

    Args:
        tiles: The data set.
        batch: Number of images.
        workers: Processes that load.
        repeats: Epochs that are timed, after one that is not.

    Returns:
        The rows of `compare`, with times for one batch and images_per_s.

    Raises:
        ValueError: The data set has fewer images than a batch.
    """
    if batch > len(tiles):
        raise ValueError(f"a batch of {batch} is more than the {len(tiles)} tiles")
    transform = DynamicLabelInjection(tiles, generator=Generator().manual_seed(0))
    steps: dict[str, Step] = {}
    for name, together in {"collated": default_collate, "balanced": collate(transform)}.items():
        loader = DataLoader(
            tiles,
            batch,
            shuffle=True,
            collate_fn=together,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
            generator=Generator().manual_seed(0),
        )
        steps[name] = partial(deque, loader, maxlen=0)
    frame = compare(steps, repeats=repeats)
    frame[TIMES] /= len(tiles) // batch
    return frame.assign(images_per_s=1000 * batch / frame["ms"])


def _mixed_batch(tiles: TileSet, batch: int, free: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images float (B, C, H, W), masks and labels: the first `free` defect-free ones, shuffled."""
    defect_free = (tiles.labels == 0).nonzero()[:free, 0]
    defective = (tiles.labels > 0).nonzero()[:, 0]
    evenly = torch.linspace(0, len(defective) - 1, batch - free).long()
    rows = torch.cat([defect_free, defective[evenly]])
    rows = rows[torch.randperm(len(rows), generator=Generator().manual_seed(0))]
    return tiles.images[rows].float() / 255, tiles.masks[rows], tiles.labels[rows]
