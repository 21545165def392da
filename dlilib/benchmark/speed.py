"""How long injection, blending and training take, beside their baselines.

All steps of a comparison run in turn in one process. Times are medians with quartiles, and ratios
to the first step.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dlilib.benchmark import peers
from dlilib.blend import poisson_blend
from dlilib.inject import DynamicLabelInjection
from dlilib.metrics import one_hot
from dlilib.models import LIGHT_ENCODERS, MEAN, STD
from dlilib.tiles import TileSet
from dlilib.training.run import Run
from dlilib.training.trainer import Trainer

Step = Callable[[], object]
TIMES = ["ms", "low", "high"]  # columns of `compare`
COMPILE_MODES = {"compiled": "default", "graphs": "reduce-overhead"}  # row -> torch.compile's mode


def compare(
    steps: dict[str, Step], device: str | torch.device = "cpu", repeats: int = 9
) -> pd.DataFrame:
    """Time steps in turn, each `repeats` times after one time that is not counted.

    Args:
        steps: Name -> a function without arguments.
        device: Where they compute; a GPU is waited for before and after each step.
        repeats: How often each step is timed.

    Returns:
        A row for each step: what (its name), ms (the median, in milliseconds), low and high (the
        quartiles), n (the repeats) and ratio (of the median to that of the first step).

    Example:
        >>> frame = compare({"one": lambda: sum(range(100)), "ten": lambda: sum(range(1000))})
        >>> list(frame.columns)
        ['what', 'ms', 'low', 'high', 'n', 'ratio']
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            elapsed = _seconds(step, torch.device(device))
            if repeat > 0:
                found[name].append(1000 * elapsed)
    rows = []
    for name, ms in found.items():
        low, median, high = np.quantile(ms, [0.25, 0.5, 0.75])
        rows.append((name, median, low, high, len(ms)))
    frame = pd.DataFrame(rows, columns=["what", "ms", "low", "high", "n"])
    return frame.assign(ratio=frame["ms"] / frame["ms"].iloc[0])


def _seconds(step: Step, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    tiles: TileSet, device: str = "cpu", released_src: str = "", *, root: str | Path | None = None
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Measure everything in this module at the paper's size.

    Args:
        tiles: The data set.
        device: "cpu", "cuda" or one of several GPUs.
        released_src: As in `injection`.
        root: As in `injection`.

    Yields:
        Name and table of each function below, as soon as it is done.

    Raises:
        ValueError: The authors' code is asked for and cannot be used.
    """
    if released_src:
        peers.check_released(released_src, root)
    on_gpu = torch.device(device).type == "cuda"
    run = Run(precision="auto", batch=64 if on_gpu else 8)
    yield "blending", blending(device=device)
    yield "scaling", scaling(device=device)
    injected = [
        injection(tiles, p_poisson, device=device, released_src=released_src, root=root)
        for p_poisson in (0.0, 0.5, 1.0)
    ]
    yield "injection", pd.concat(injected)
    trained = []
    for encoder in LIGHT_ENCODERS:
        compiled = encoder == run.encoder
        trained.append(training(replace(run, encoder=encoder), tiles, device, compiled=compiled))
    yield "training", pd.concat(trained)
    yield "roofline", roofline(run, tiles, device)


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
        device: Where ours and pie-torch compute; OpenCV is on the CPU.
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
        "dlilib, three channels": partial(poisson_blend, *rgb, masks),
        "OpenCV seamlessClone": partial(peers.opencv, target, donor, mask),
    }
    if peers.installed("pietorch"):
        steps["pie-torch"] = lambda: peers.pie_torch(
            target.to(device), donor.to(device), mask.to(device)
        )
    return steps


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
        frame = compare(steps, device, repeats).drop(columns="ratio")
        frame = frame.rename(columns={"what": "batch"})
        frame[TIMES] = frame[TIMES].div(frame["batch"], axis=0)
        frames.append(frame.assign(size=size))
    return pd.concat(frames, ignore_index=True)


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
    """Time the balancing of a batch.

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
    rows = _mixed_batch(tiles, batch, free)
    images = tiles.images[rows].float() / 255  # (B, C, H, W)
    masks, labels = tiles.masks[rows], tiles.labels[rows]
    transform = DynamicLabelInjection(
        tiles.to(device), p_poisson=p_poisson, generator=Generator().manual_seed(0)
    )
    images_on_device, masks_on_device = images.to(device), masks.to(device)
    steps: dict[str, Step] = {
        "dlilib": partial(transform, images_on_device, masks_on_device, labels)
    }
    if peers.installed("kornia"):
        from kornia.augmentation import RandomTransplantation

        transplant = RandomTransplantation(p=1.0)
        steps["kornia RandomTransplantation"] = lambda: transplant(
            images_on_device, masks_on_device.long()
        )
    if not released_src:
        return compare(steps, device, repeats).assign(p_poisson=p_poisson)
    with peers.released(released_src, root) as balance:
        rgb = ((images - MEAN) / STD).expand(-1, 3, -1, -1).contiguous().to(device)
        maps = one_hot(masks, tiles.num_classes).float().to(device)  # (B, K, H, W)
        steps["authors' code"] = lambda: balance(rgb.clone(), maps.clone(), labels - 1, p_poisson)
        return compare(steps, device, repeats).assign(p_poisson=p_poisson)


def _mixed_batch(tiles: TileSet, batch: int, free: int) -> Tensor:
    """Shuffled indices (batch,): the first `free` defect-free images, the rest defective ones."""
    defect_free = (tiles.labels == 0).nonzero()[:free, 0]
    defective = (tiles.labels > 0).nonzero()[:, 0]
    evenly = torch.linspace(0, len(defective) - 1, batch - free).long()
    rows = torch.cat([defect_free, defective[evenly]])
    return rows[torch.randperm(len(rows), generator=Generator().manual_seed(0))]


def training(
    run: Run,
    tiles: TileSet,
    device: str = "cpu",
    *,
    steps: int = 3,
    repeats: int = 5,
    compiled: bool = False,
) -> pd.DataFrame:
    """Time the steps of a run's training, and of parts of it.

    Rows: "resident batch", forward, backward and optimiser on one batch that is already on the
    device, which is as fast as the loop could be; "without injection", the loop with its batches,
    gathered and flipped; "with injection", the loop of DLI; and if asked for "compiled" and
    "graphs", the loop of DLI by torch.compile, plain and with CUDA graphs.

    Args:
        run: What is trained.
        tiles: The data set.
        device: Where it computes.
        steps: Over how many training steps each timing goes.
        repeats: As in `compare`.
        compiled: Time the compiled loops too. One that fails is reported and left out.

    Returns:
        The rows of `compare`, with times for one training step; images_per_s; encoder; and peak_mb,
        the GPU memory that all rows together need (NaN on a CPU).

    Raises:
        ValueError: An epoch of the run has fewer whole batches than `steps`.
    """
    device = torch.device(device)
    plain = _trainer(run, "baseline", tiles, device)
    dli = _trainer(run, "dli", tiles, device)
    plain_batches = _whole_batches(plain, steps)
    dli_batches = _whole_batches(dli, steps)
    if len(dli_batches) < steps:
        raise ValueError(
            f"an epoch has only {len(dli_batches)} batches of {run.batch}, not {steps}"
        )
    images, masks = plain.prepare(*plain_batches[0])
    timed: dict[str, Step] = {
        "resident batch": lambda: [plain.update(images, masks) for _ in range(steps)],
        "without injection": partial(_loop, plain, plain_batches),
        "with injection": partial(_loop, dli, dli_batches),
    }
    if compiled:
        timed |= _compiled_loops(run, tiles, device, dli_batches)
    peak = float("nan")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    frame = compare(timed, device, repeats)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    frame[TIMES] /= steps
    images_per_s = 1000 * run.batch / frame["ms"]
    return frame.assign(images_per_s=images_per_s, encoder=run.encoder, peak_mb=peak)


def _trainer(run: Run, method: str, tiles: TileSet, device: torch.device) -> Trainer:
    """A trainer of the run by another method, from random weights, in training mode."""
    trainer = Trainer(replace(run, method=method, weights=None), tiles, device)
    trainer.model.train()
    return trainer


def _whole_batches(trainer: Trainer, most: int) -> list[tuple]:
    """The first batches of an epoch that have all of their images, as `plan_epoch` gives them."""
    batches = [batch for batch in trainer.plan_epoch() if len(batch[0]) == trainer.run.batch]
    return batches[:most]


def _compiled_loops(
    run: Run, tiles: TileSet, device: torch.device, batches: Sequence[tuple]
) -> dict[str, Step]:
    """The loop of DLI by each of `COMPILE_MODES` that works; it has run once, to be compiled."""
    loops: dict[str, Step] = {}
    for name, mode in COMPILE_MODES.items():
        trainer = _trainer(run, "dli", tiles, device)
        trainer.loss = torch.compile(trainer.loss, mode=mode, dynamic=False)
        try:
            _loop(trainer, batches)
        except Exception as error:  # whatever a compiler raises, the plain loop is there
            print(f"{name} fails: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            continue
        loops[name] = partial(_loop, trainer, batches)
    return loops


def _loop(trainer: Trainer, batches: Iterable[tuple]) -> None:
    for batch in batches:
        trainer.update(*trainer.prepare(*batch))


def roofline(run: Run, tiles: TileSet, device: str = "cpu", *, repeats: int = 5) -> pd.DataFrame:
    """Compare a training step on a resident batch with the device's ceilings, measured here.

    The ceilings are those of a square matrix product in the run's precision, for arithmetic, and of
    a copy, for memory. Operations are those of convolutions and matrix products, as torch counts
    them; bytes are those that `Traffic` sees.

    Args:
        run: What is trained.
        tiles: The data set.
        device: Where it computes.
        repeats: As in `compare`.

    Returns:
        A row for arithmetic and one for memory: what, achieved, ceiling, unit and share.
    """
    device = torch.device(device)
    trainer = _trainer(run, "baseline", tiles, device)
    images, masks = trainer.prepare(*next(iter(trainer.plan_epoch())))
    with FlopCounterMode(display=False) as counter, Traffic() as traffic:
        trainer.update(images, masks)
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
    square = torch.randn(side, side, device=device).to(dtype)
    block = torch.randn(2**26, device=device)
    steps: dict[str, Step] = {
        "step": partial(trainer.update, images, masks),
        "product": lambda: square @ square,
        "copy": block.clone,
    }
    ms = compare(steps, device, repeats).set_index("what")["ms"]
    operations_per_ms = counter.get_total_flops() / ms["step"]
    most_operations_per_ms = 2 * side**3 / ms["product"]
    bytes_per_ms = traffic.bytes / ms["step"]
    most_bytes_per_ms = 2 * block.nbytes / ms["copy"]  # read and written
    rows = [
        ("arithmetic", operations_per_ms / 1e9, most_operations_per_ms / 1e9, "TFLOP/s"),
        ("memory", bytes_per_ms / 1e6, most_bytes_per_ms / 1e6, "GB/s"),
    ]
    frame = pd.DataFrame(rows, columns=["what", "achieved", "ceiling", "unit"])
    return frame.assign(share=frame["achieved"] / frame["ceiling"])


class Traffic(TorchDispatchMode):
    """Count the operations that run in its context and the bytes that they read and write.

    Views are not counted: they neither make nor change a tensor's values.

    Args:
        device_type: Count only operations on a tensor of this type of device; None: all.

    Attributes:
        ops: Number of operations.
        bytes: Bytes of all tensors that they take and return.

    Example:
        >>> with Traffic() as traffic:
        ...     doubled = torch.ones(2) * 2
        >>> traffic.ops, traffic.bytes
        (2, 24)
    """

    def __init__(self, device_type: str | None = None) -> None:
        super().__init__()
        self.device_type = device_type
        self.ops = 0
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation, and count it."""
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        here = not self.device_type or any(t.device.type == self.device_type for t in tensors)
        if here and not func.is_view:
            self.ops += 1
            self.bytes += sum(t.nbytes for t in tensors)
        return out
