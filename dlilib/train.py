"""Fit one run: train, validate after every epoch, keep a record; an interrupted run goes on at its last epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dlilib.run import Run
from dlilib.store import Store
from dlilib.tiles import TileSet
from dlilib.trainer import Trainer

OnEpoch = Callable[[int, float], None]


def fit(
    run: Run, tiles: TileSet, device: str | torch.device = "cpu", folder: str | Path | None = None,
    deadline: float | None = None, on_epoch: OnEpoch | None = None, keep_model: bool = False,
) -> dict[str, Any] | None:
    """Train `run` on `tiles` and return its record, or None if the deadline stopped it.

    folder: where records and checkpoints live (see `Store`); a finished run is read from there, an unfinished one goes
        on at its last epoch. None: nothing is kept.
    deadline: on `time.monotonic`'s clock, seconds; the run stops, saved, before an epoch that would pass it, as far as
        its earlier epochs tell: a new run's first one is begun whenever there is time left.
    on_epoch: called with the number of epochs done and the last micro IoU.
    keep_model: also keep the last epoch's weights, in the folder's models/<run.id>.safetensors, for `models.load`; a
        run that was finished without them is trained again.
    Raises ValueError if the tiles are not the run's, or there is no folder to keep the model in.
    """
    _check_tiles(run, tiles)
    if keep_model and folder is None:
        raise ValueError("keep_model needs a folder")
    store = Store(folder) if folder is not None else None
    if store and (record := store.record(run)) and (not keep_model or store.model_path(run).exists()):
        if record["data"].get("digest") != tiles.digest:
            raise ValueError(f"{store.record_path(run)}: other data than these tiles: delete it or use another folder")
        return record
    trainer = Trainer(run, tiles, torch.device(device))
    if store and (state := store.load(run)) is not None:
        trainer.restore(state)
    seconds = trainer.seconds / max(1, trainer.epoch)
    while trainer.epoch < run.epochs:
        start = time.monotonic()
        if deadline is not None and start + seconds > deadline:
            return None
        trainer.step()
        if store:
            store.save(run, trainer.state())
        seconds = time.monotonic() - start
        if on_epoch:
            on_epoch(trainer.epoch, trainer.last["iou"])
    record = trainer.record()
    if keep_model:
        store.save_model(run, trainer.model)
    if store:
        store.finish(run, record)
    return record


def _check_tiles(run: Run, tiles: TileSet) -> None:
    found = {"data": tiles.source, "size": tiles.images.shape[-1], "threshold": tiles.threshold, "resize": tiles.resize}
    for name, value in found.items():
        if getattr(run, name) != value:
            raise ValueError(f"the run wants {name} {getattr(run, name)!r}, the tiles have {value!r}")
