"""A sweep over runs that fits into whatever time there is."""

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from dlilib.data import datasets
from dlilib.metrics import shown
from dlilib.tiles import TileSet
from dlilib.training.run import Run
from dlilib.training.store import Store, read_record
from dlilib.training.trainer import fit
from dlilib.wording import counted

SAME_DATA = ("data", "size", "threshold", "resize")  # runs alike in these are of one data set


def load_tiles(run: Run, root: str | Path | None = None) -> TileSet:
    """Load the data that a run asks for; root: as in `datasets.load`."""
    return datasets.load(run.data, root, run.size, threshold=run.threshold, resize=run.resize)


def pending(runs: Iterable[Run], folder: str | Path) -> list[Run]:
    """Return the runs without a record in `folder`.

    Raises:
        ValueError: A file there is not a record; the message names it.
    """
    store = Store(folder)
    return [run for run in runs if store.record(run) is None]


def execute(
    runs: Sequence[Run],
    folder: str | Path,
    root: str | Path | None = None,
    *,
    device: str | None = None,
    budget: float | None = None,
    progress: bool = True,
) -> int:
    """Finish what is pending of `runs`, in order.

    Several processes may work on one folder at once: each leaves alone what another is training.

    Args:
        runs: What to train.
        folder: Where records and checkpoints are kept.
        root: Of the real data, as in `datasets.load`.
        device: None: the first GPU, else the CPU.
        budget: Seconds; the sweep stops cleanly before an epoch that would pass it, if it takes as
            long as the run's last one did here, and continues there the next time. None: no limit.
        progress: Show a bar over runs with the epochs of the current one.

    Returns:
        How many runs are still pending.

    Raises:
        ValueError: The device is not there, or a file in the folder is not a record, or one of
            other data.
    """
    deadline = None if budget is None else time.monotonic() + budget
    device = device_named(device)
    todo, store = pending(runs, folder), Store(folder)
    data: dict[tuple, TileSet] = {}
    with tqdm(total=len(todo), desc="runs", unit="run", disable=not progress or not todo) as bar:
        for run in todo:
            with store.claim(run) as mine:
                if mine:
                    key = tuple(getattr(run, name) for name in SAME_DATA)
                    if key not in data:
                        data[key] = load_tiles(run, root)
                        check_data(run, data[key].digest, folder)
                    show = _shows(bar, run)
                    if (
                        fit(run, data[key], device, folder=folder, deadline=deadline, on_epoch=show)
                        is None
                    ):
                        break
            bar.update()
    return len(pending(runs, folder))


def check_data(run: Run, digest: str | None, folder: str | Path) -> None:
    """Raise ValueError if a record in `folder` is of other data than a run's of the same name.

    digest: of the run's tiles.
    """
    for path in sorted(Path(folder, "records").glob("*.json")):
        record = read_record(path)
        alike = all(record["run"][name] == getattr(run, name) for name in SAME_DATA)
        if alike and record["data"].get("digest") != digest:
            raise ValueError(
                f"{path}: of other data than {run.data} here, though of one name: keep them apart, "
                "by another folder of results"
            )


def _shows(bar: tqdm, run: Run):
    """What tells `bar` how far `run` is, for `fit`."""

    def show(epoch: int, last: float) -> None:
        name = f"{run.method} {run.encoder} seed {run.seed}"
        bar.set_postfix_str(f"{name}: epoch {epoch}/{run.epochs}, IoU {shown(last)}")

    return show


def device_named(device: str | None) -> str:
    """Return the device, or for None the first GPU, else the CPU.

    Raises:
        ValueError: It is not there, or not a device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|(cuda|mps|xpu)(:\d+)?", device):
        raise ValueError(f"device must be as cpu, cuda or cuda:1, got {device!r}")
    kind, _, index = device.partition(":")
    if kind != "cpu" and int(index or 0) >= (there := getattr(torch, kind).device_count()):
        raise ValueError(f"device {device}: torch sees {counted(there, f'{kind} device')}")
    return device
