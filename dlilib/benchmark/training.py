"""How long a training step takes, beside what its device could do."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dlilib.benchmark.timing import TIMES, Step, compare
from dlilib.tiles import TileSet
from dlilib.training.run import Run
from dlilib.training.trainer import Trainer

COMPILE_MODES = {"compiled": "default", "graphs": "reduce-overhead"}  # row -> torch.compile's mode


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
        The rows of `compare`, with times for one training step; images_per_s; encoder; precision,
        "fp32" or "bf16"; and peak_mb, the GPU memory that all rows together need (NaN on a CPU).

    Raises:
        ValueError: An epoch of the run has fewer whole batches than `steps`.
    """
    device = torch.device(device)
    plain = _trainer(run, "baseline", tiles, device)
    dli = _trainer(run, "dli", tiles, device)
    plain_batches = _whole_batches(plain, steps)
    dli_batches = _whole_batches(dli, steps)
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
    more = {"encoder": run.encoder, "precision": plain.precision, "peak_mb": peak}
    return frame.assign(images_per_s=images_per_s, **more)


def precisions(
    run: Run, tiles: TileSet, device: str = "cpu", *, steps: int = 3, repeats: int = 5
) -> pd.DataFrame:
    """Time the training steps of DLI in float32 and in bfloat16, in turn.

    Args:
        run: What is trained.
        tiles: The data set.
        device: Where it computes; without units for bfloat16 it takes ten times as long.
        steps: As in `training`.
        repeats: As in `compare`.

    Returns:
        The rows of `compare`, "fp32" and "bf16", with times for one training step; encoder, size
        and batch.

    Raises:
        ValueError: As in `training`.
    """
    timed: dict[str, Step] = {}
    for precision in ("fp32", "bf16"):
        trainer = _trainer(replace(run, precision=precision), "dli", tiles, torch.device(device))
        timed[precision] = partial(_loop, trainer, _whole_batches(trainer, steps))
    frame = compare(timed, torch.device(device), repeats)
    frame[TIMES] /= steps
    return frame.assign(encoder=run.encoder, size=tiles.images.shape[-1], batch=run.batch)


def _trainer(run: Run, method: str, tiles: TileSet, device: torch.device) -> Trainer:
    """A trainer of the run by another method, from random weights, in training mode."""
    trainer = Trainer(replace(run, method=method, weights=None), tiles, device)
    trainer.model.train()
    return trainer


def _whole_batches(trainer: Trainer, number: int) -> list[tuple]:
    """The first batches of an epoch that have all of their images, as `plan_epoch` gives them."""
    batch = trainer.run.batch
    whole = [planned for planned in trainer.plan_epoch() if len(planned[0]) == batch]
    if len(whole) < number:
        raise ValueError(f"an epoch has only {len(whole)} batches of {batch}, not {number}")
    return whole[:number]


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
