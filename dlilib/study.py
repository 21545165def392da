"""The study's grid: presets, the runs of each experiment, and a sweep that fits into whatever time there is."""

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from dlilib.files import DataError
from dlilib.losses import METHODS
from dlilib.magnetic import MT_CLASSES, magnetic_tiles
from dlilib.metrics import iou
from dlilib.run import Run
from dlilib.store import Store, read_record
from dlilib.tiles import TileSet
from dlilib.toy import toy_tiles
from dlilib.train import fit

LIGHT_ENCODERS = ("resnet18", "mobileone_s1", "resnest50d")  # the order in which they run


@dataclass(frozen=True)
class Preset:
    """A size at which the whole study runs."""

    name: str
    about: str  # what it is for and what it costs
    base: Run  # every run is this one with some fields changed
    encoders: tuple[str, ...]
    seeds: tuple[int, ...]
    fractions: tuple[float, ...]  # of the weakly supervised experiment
    fraction_encoder: str  # its encoder; the paper's is mobileone_s1
    folder: str  # under the results folder


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="smoke",
            about="procedural toy tiles, 64 px, random start: shows that everything runs, about 15 s a run on 2 cores",
            base=Run(data="toy", size=64, weights=None, epochs=10, batch=16, lr=2e-3, free_share=0.2),
            encoders=("resnet18",),
            seeds=(0,),
            fractions=(0.25, 0.5, 1.0),
            fraction_encoder="resnet18",
            folder="smoke",
        ),
        Preset(
            name="lite",
            about="Magnetic Tiles, 128 px, ImageNet start, 20 epochs that each see a fifth of the free images: "
            "about 10 min a run on 2 cores",
            base=Run(size=128, epochs=20, batch=16, lr=1e-3, free_share=0.2),
            encoders=("resnet18",),
            seeds=(0, 1),
            fractions=(0.1, 0.25, 0.5, 0.75, 1.0),
            fraction_encoder="resnet18",
            folder="lite",
        ),
        Preset(
            name="short",
            about="the paper's protocol at 100 epochs instead of 1000: one GPU",
            base=Run(epochs=100),
            encoders=LIGHT_ENCODERS,
            seeds=(0, 1, 2, 3, 4),
            fractions=(0.1, 0.25, 0.5, 0.75, 1.0),
            fraction_encoder="mobileone_s1",
            folder=".",
        ),
        Preset(
            name="paper",
            about="the paper's protocol: Magnetic Tiles, 256 px, 1000 epochs",
            base=Run(),
            encoders=LIGHT_ENCODERS,
            seeds=(0, 1, 2, 3, 4),
            fractions=(0.1, 0.25, 0.5, 0.75, 1.0),
            fraction_encoder="mobileone_s1",
            folder=".",
        ),
    )
}


def preset_named(name: str) -> Preset:
    """The preset, or a ValueError that lists them."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {name!r}")
    return PRESETS[name]


def results_folder(preset: str, results: str = "") -> Path:
    """Where a preset's records, tables and figures live: under `results`, else `DLILIB_RESULTS`, else ./results."""
    return Path(results or os.environ.get("DLILIB_RESULTS") or "results") / preset_named(preset).folder


def comparison(preset: str, encoders: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Table 1 and Figure 3: every method on every encoder. No encoders or seeds: the preset's."""
    p = preset_named(preset)
    grid = itertools.product(seeds or p.seeds, encoders or p.encoders, METHODS)
    return [replace(p.base, seed=seed, encoder=encoder, method=method) for seed, encoder, method in grid]


def weakly_supervised(preset: str, seeds: Sequence[int] = (), fractions: Sequence[float] = ()) -> list[Run]:
    """Figure 5: DLI and WCE on fractions of the training data, on one encoder."""
    p = preset_named(preset)
    base = replace(p.base, encoder=p.fraction_encoder)
    grid = itertools.product(seeds or p.seeds, sorted(fractions or p.fractions, reverse=True), ("dli", "wce"))
    return [replace(base, seed=seed, fraction=fraction, method=method) for seed, fraction, method in grid]


def ablation(preset: str, encoders: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Table 2: DLI with cut-paste only, Poisson only, and both."""
    p = preset_named(preset)
    grid = itertools.product(seeds or p.seeds, encoders or p.encoders, (0.0, 1.0, 0.5))
    return [replace(p.base, seed=seed, encoder=encoder, method="dli", p_poisson=share) for seed, encoder, share in grid]


def all_runs(preset: str) -> list[Run]:
    """Every run of the study, once: a whole seed before the next one, the main comparison first."""
    runs = [*comparison(preset), *ablation(preset), *weakly_supervised(preset)]
    return sorted(dict.fromkeys(runs), key=lambda run: run.seed)  # stable


def matching(runs: Iterable[Run], text: str) -> list[Run]:
    """The runs whose id contains every word of `text`."""
    return [run for run in runs if all(word in run.id for word in text.split())]


def load_tiles(run: Run, root: str | Path | None = None) -> TileSet:
    """The data a run asks for; root: of the real data, as in `magnetic_tiles`."""
    if run.data == "toy":
        return toy_tiles(size=run.size)
    if run.data == "magnetic_tiles":
        return magnetic_tiles(root, run.size, run.threshold, run.resize)
    raise DataError(f"the study knows the data toy and magnetic_tiles, not {run.data!r}")


def pending(runs: Iterable[Run], folder: str | Path) -> list[Run]:
    """The runs without a record in `folder`."""
    store = Store(folder)
    return [run for run in runs if not store.record_path(run).exists()]


def execute(
    runs: Sequence[Run],
    folder: str | Path,
    root: str | Path | None = None,
    device: str | None = None,
    budget: float | None = None,
    progress: bool = True,
) -> int:
    """Finish what is pending of `runs`, in order, and return how many are still pending.

    budget: seconds; the sweep stops cleanly before an epoch that would pass it and goes on there the next time.
    device: default the first GPU, else the CPU. progress: a bar over runs with the epochs of the current one.
    """
    deadline = None if budget is None else time.monotonic() + budget
    todo = pending(runs, folder)
    data: dict[tuple, TileSet] = {}
    bar = tqdm(total=len(todo), desc="runs", unit="run", disable=not progress or not todo)
    with bar:
        for run in todo:
            key = (run.data, run.size, run.threshold, run.resize)
            if key not in data:
                data[key] = load_tiles(run, root)

            def show(epoch: int, last: float, run: Run = run) -> None:
                bar.set_postfix_str(
                    f"{run.method} {run.encoder} seed {run.seed}: epoch {epoch}/{run.epochs}, IoU {last:.3f}"
                )

            if fit(run, data[key], device or default_device(), folder, deadline, show) is None:
                break
            bar.update()
    return len(pending(runs, folder))


def default_device() -> str:
    """The first GPU, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def records(folder: str | Path) -> pd.DataFrame:
    """One row a finished run: the fields of its Run, `iou_best`, `iou_last`, `epoch_best`, `seconds`, `device`, `path`.

    folder: that of the records. `iou_best` is the paper's figure, at the epoch with the best validation IoU;
    `iou_<class>` is per class at that epoch. Raises ValueError naming a file that is not a record.
    """
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        record = read_record(path)
        best = record["best"]
        rows.append(
            {
                **asdict(Run(**record["run"])),
                "id": record["id"],
                "iou_best": best["iou"],
                "iou_last": record["last"]["iou"],
                "epoch_best": best["epoch"],
                **{f"iou_{name}": iou(*c) for name, c in zip(record["data"]["classes"], best["classes"], strict=True)},
                "seconds": record["seconds"],
                "device": record["machine"]["device"],
                "path": path.as_posix(),
            }
        )
    columns = [*asdict(Run()), "id", "iou_best", "iou_last", "epoch_best", "seconds", "device", "path"]
    return pd.DataFrame(rows, columns=None if rows else [*columns, *(f"iou_{name}" for name in MT_CLASSES)])


def select(frame: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """The rows of `runs`, in their order."""
    wanted = {run.id: k for k, run in enumerate(runs)}
    found = frame[frame["id"].isin(list(wanted))]
    return found.sort_values("id", key=lambda ids: ids.map(wanted)).reset_index(drop=True)
