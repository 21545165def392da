"""How long it takes: ours and its peers side by side in one process, as medians with quartiles and ratios."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
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
from dlilib.models import LIGHT_ENCODERS, normalised
from dlilib.tiles import TileSet
from dlilib.training.run import Run
from dlilib.training.trainer import Trainer

Step = Callable[[], object]


def compare(
    steps: dict[str, Step], device: str | torch.device = "cpu", repeats: int = 9
) -> pd.DataFrame:
    """Time the steps in turn, `repeats` times each after one that is not counted.

    A row a step: what, ms (the median, of milliseconds), low and high (the quartiles), n, and ratio, the median in
    those of the first step.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            elapsed = _seconds(step, torch.device(device))
            if repeat:
                found[name].append(1000 * elapsed)
    rows = [(name, *np.quantile(ms, [0.5, 0.25, 0.75]), len(ms)) for name, ms in found.items()]
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
    tiles: TileSet, device: str = "cpu", released_src: str = "", root: str | Path | None = None
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table below at the paper's size: name and frame, as each is done."""
    if released_src:
        peers.check_released(released_src, root)
    shares = (0.0, 0.5, 1.0)
    run = Run(precision="auto", batch=64 if torch.device(device).type == "cuda" else 8)
    yield "blending", blending(device=device)
    yield "scaling", scaling(device=device)
    source = {"released_src": released_src, "root": root}
    yield "injection", pd.concat(injection(tiles, p, device=device, **source) for p in shares)
    trained = (
        training(replace(run, encoder=n), tiles, device, compiled=n == run.encoder)
        for n in LIGHT_ENCODERS
    )
    yield "training", pd.concat(trained)
    yield "roofline", roofline(run, tiles, device)


def blending(
    size: int = 256, batch: int = 16, device: str = "cpu", repeats: int = 9
) -> pd.DataFrame:
    """Poisson blending of `batch` grey pairs of random pixels: `compare`, with ms for each image.

    Ours in one call; OpenCV and, where it is installed, pie-torch in a loop over the images. "all": the mask covers
    everything but the ring, so that every solver has the same rectangle of unknowns; "box": a tenth of it.
    OpenCV takes no grey image, so it gets three equal channels, as its users have to give it.
    """
    g = Generator().manual_seed(0)
    target, donor = (
        torch.randint(256, (batch, 1, size, size), generator=g).float() for _ in range(2)
    )
    frames = []
    for name, side in {"all": size - 2, "box": round(0.3 * size)}.items():
        mask = torch.zeros(size, size, dtype=torch.bool)
        low = (size - side) // 2
        mask[low : low + side, low : low + side] = True
        on_device = [x.to(device) for x in (target, donor, mask.expand(batch, -1, -1))]
        grey = {"dlilib": lambda pair=on_device: poisson_blend(*pair)}
        rgb = [x.expand(-1, 3, -1, -1).contiguous() if x.ndim == 4 else x for x in on_device]
        others = {"dlilib, three channels": lambda pair=rgb: poisson_blend(*pair)}
        others |= {"OpenCV seamlessClone": lambda m=mask: peers.opencv(target, donor, m)}
        if peers.installed("pietorch"):
            others["pie-torch"] = lambda m=mask: peers.pie_torch(
                target.to(device), donor.to(device), m.to(device)
            )
        frames.append(compare(grey | others, device, repeats).assign(mask=name))
    frame = pd.concat(frames, ignore_index=True)
    frame[["ms", "low", "high"]] /= batch
    return frame


def scaling(
    sizes: Sequence[int] = (64, 128, 256, 512),
    batches: Sequence[int] = (1, 8, 64),
    device: str = "cpu",
    repeats: int = 5,
) -> pd.DataFrame:
    """ms for each image that `poisson_blend` takes: a row for each size and batch, grey, a mask over everything."""
    frames = []
    for size in sizes:
        shape, g = (max(batches), 1, size, size), Generator().manual_seed(0)
        target, donor = (torch.rand(shape, generator=g).to(device) for _ in range(2))
        mask = torch.ones(max(batches), size, size, dtype=torch.bool, device=device)
        steps = {n: lambda n=n: poisson_blend(target[:n], donor[:n], mask[:n]) for n in batches}  # noqa: B023
        frame = (
            compare(steps, device, repeats).rename(columns={"what": "batch"}).drop(columns="ratio")
        )
        frame[["ms", "low", "high"]] = frame[["ms", "low", "high"]].div(frame["batch"], axis=0)
        frames.append(frame.assign(size=size))
    return pd.concat(frames, ignore_index=True)


def injection(
    tiles: TileSet,
    p_poisson: float = 0.5,
    batch: int = 64,
    free: int = 49,
    device: str = "cpu",
    repeats: int = 9,
    released_src: str = "",
    root: str | Path | None = None,
) -> pd.DataFrame:
    """Balancing a batch of which `free` images are free: `compare`.

    released_src: the folder `src` of a checkout of the authors' code (covisionlab/dynamic-label-injection; it needs
    albumentations 1.4.10 and pie-torch), timed on the images in root, a folder or zip of the Magnetic Tiles. kornia's
    RandomTransplantation, where it is installed, neither balances nor blends: a floor.
    """
    defective = (tiles.labels > 0).nonzero()[:, 0]
    spread = torch.linspace(0, len(defective) - 1, batch - free).long()
    rows = torch.cat([(tiles.labels == 0).nonzero()[:free, 0], defective[spread]])
    rows = rows[torch.randperm(len(rows), generator=Generator().manual_seed(0))]
    images, masks, labels = tiles.images[rows].float() / 255, tiles.masks[rows], tiles.labels[rows]
    transform = DynamicLabelInjection(
        tiles.to(device), p_poisson=p_poisson, generator=Generator().manual_seed(0)
    )
    on_device = images.to(device), masks.to(device), labels
    steps: dict[str, Step] = {"dlilib": lambda: transform(*on_device)}
    if peers.installed("kornia"):
        from kornia.augmentation import RandomTransplantation

        transplant = RandomTransplantation(p=1.0)
        steps["kornia RandomTransplantation"] = lambda: transplant(
            on_device[0], on_device[1].long()
        )
    if not released_src:
        return compare(steps, device, repeats).assign(p_poisson=p_poisson)
    with peers.released(released_src, root) as balance:
        rgb = normalised(images).contiguous().to(device)
        hot = torch.stack(
            [(masks == c).float() for c in range(1, tiles.num_classes + 1)], dim=1
        ).to(device)
        steps["authors' code"] = lambda: balance(rgb.clone(), hot.clone(), labels - 1, p_poisson)
        return compare(steps, device, repeats).assign(p_poisson=p_poisson)


def training(
    run: Run,
    tiles: TileSet,
    device: str = "cpu",
    steps: int = 3,
    repeats: int = 5,
    compiled: bool = False,
) -> pd.DataFrame:
    """Steps of a run's training: `compare`, with ms for one step, images_per_s, and on a GPU peak_mb, that of all rows.

    "resident batch": forward, backward and optimiser on one batch that is already on the device, the ceiling;
    "without injection": the loop's batches, gathered and flipped; "with injection": the loop of DLI; if asked
    for, "compiled" and "graphs": that loop by torch.compile, plain and with CUDA graphs, where they work; what fails is
    told and left out. Each timing is over `steps` steps.
    """
    device, run = torch.device(device), replace(run, weights=None)
    trainers = {
        method: Trainer(replace(run, method=method), tiles, device)
        for method in ("baseline", "dli")
    }
    for trainer in trainers.values():
        trainer.model.train()
    batches = {
        method: [b for b in t.plan_epoch() if len(b[0]) == run.batch][:steps]
        for method, t in trainers.items()
    }
    if len(batches["dli"]) < steps:
        raise ValueError(
            f"an epoch has only {len(batches['dli'])} batches of {run.batch}, not {steps}"
        )
    x, masks = trainers["baseline"].prepare(*batches["baseline"][0])
    timed: dict[str, Step] = {
        "resident batch": lambda: [trainers["baseline"].update(x, masks) for _ in range(steps)],
        "without injection": lambda: _loop(trainers["baseline"], batches["baseline"]),
        "with injection": lambda: _loop(trainers["dli"], batches["dli"]),
    }
    for name, mode in (
        {"compiled": "default", "graphs": "reduce-overhead"}.items() if compiled else ()
    ):
        trainer = Trainer(replace(run, method="dli"), tiles, device)
        trainer.model.train()
        trainer.loss = torch.compile(trainer.loss, mode=mode, dynamic=False)
        try:
            _loop(trainer, batches["dli"])
        except Exception as error:  # whatever a compiler raises, the plain loop is there
            print(f"{name} fails: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            continue
        timed[name] = lambda trainer=trainer: _loop(trainer, batches["dli"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    frame = compare(timed, device, repeats)
    frame[["ms", "low", "high"]] /= steps
    peak = (
        torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else float("nan")
    )
    return frame.assign(
        images_per_s=1000 * run.batch / frame["ms"], encoder=run.encoder, peak_mb=peak
    )


def _loop(trainer: Trainer, batches: Iterable) -> None:
    for batch in batches:
        trainer.update(*trainer.prepare(*batch))


def roofline(run: Run, tiles: TileSet, device: str = "cpu", repeats: int = 5) -> pd.DataFrame:
    """What a training step on a resident batch does to the device's ceilings, measured here: a row each.

    what, achieved and ceiling, unit, share. The ceilings are a square matrix product in the run's precision and a copy.
    Operations are those of convolutions and matrix products, as torch counts them; bytes those that `Traffic` sees.
    """
    device = torch.device(device)
    trainer = Trainer(replace(run, method="baseline", weights=None), tiles, device)
    trainer.model.train()
    x, masks = trainer.prepare(*next(iter(trainer.plan_epoch())))
    with FlopCounterMode(display=False) as counter, Traffic() as traffic:
        trainer.update(x, masks)
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
    square, block = (
        torch.randn(side, side, device=device).to(dtype),
        torch.randn(2**26, device=device),
    )
    times = compare(
        {
            "step": lambda: trainer.update(x, masks),
            "product": lambda: square @ square,
            "copy": lambda: block.clone(),
        },
        device,
        repeats,
    ).set_index("what")["ms"]
    rows = [
        (
            "arithmetic",
            counter.get_total_flops() / times["step"],
            2 * side**3 / times["product"],
            1e9,
            "TFLOP/s",
        ),
        ("memory", traffic.bytes / times["step"], 2 * block.nbytes / times["copy"], 1e6, "GB/s"),
    ]
    rows = [
        (what, achieved / scale, ceiling / scale, unit)
        for what, achieved, ceiling, scale, unit in rows
    ]
    frame = pd.DataFrame(rows, columns=["what", "achieved", "ceiling", "unit"])
    return frame.assign(share=frame["achieved"] / frame["ceiling"])


class Traffic(TorchDispatchMode):
    """Counts what runs in its context: `ops`, those that make or change a tensor, and the `bytes` they read and write.

    device_type: count only operations that touch a tensor there; None: all.
    """

    def __init__(self, device_type: str | None = None) -> None:
        super().__init__()
        self.device_type, self.ops, self.bytes = device_type, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if not func.is_view and (
            not self.device_type or any(t.device.type == self.device_type for t in tensors)
        ):
            self.ops += 1
            self.bytes += sum(t.nbytes for t in tensors)
        return out
