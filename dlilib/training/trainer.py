"""One run's training: a model, its optimiser and history, an epoch at a time."""

import base64
import io
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from dlilib import augment, losses, metrics, models
from dlilib.balance import Plan, stream
from dlilib.checks import check_type
from dlilib.data.splits import split
from dlilib.inject import DynamicLabelInjection
from dlilib.tiles import TileSet
from dlilib.training import few_shot, precision
from dlilib.training.run import Run, facts_of
from dlilib.training.store import Store, machine

CURVE_POINTS = 15  # of a record's curve of each class
# Data sets whose images are normalised by the Magnetic Tiles' mean and deviation, as released; for
# others they are measured on the training images.
AS_RELEASED = ("magnetic_tiles", "toy")
PROGRESS = ("epoch", "seconds", "history", "best", "last", "precisions")  # what an epoch changes

OnEpoch = Callable[[int, float], None]


def fit(
    run: Run,
    tiles: TileSet,
    device: str | torch.device = "cpu",
    *,
    folder: str | Path | None = None,
    deadline: float | None = None,
    on_epoch: OnEpoch | None = None,
    keep_model: bool = False,
) -> dict[str, Any] | None:
    """Train a run, validate after every epoch, and return its record.

    Args:
        run: What to train.
        tiles: The run's data.
        device: Where to train.
        folder: Where records and checkpoints are kept (see `Store`). A finished run is read from
            there; an unfinished one continues at its last epoch. None: nothing is kept.
        deadline: On `time.monotonic`'s clock, seconds. The run is saved and stops before an epoch
            that would pass it, if it takes as long as the one before; the first epoch of a call is
            begun whenever there is time left.
        on_epoch: Called with the number of epochs done and the last micro IoU, which is NaN if no
            validation image has a pixel to find.
        keep_model: Also keep the last epoch's weights in the folder's
            models/<run.id>.safetensors, for `models.load`. A run that was finished without them is
            trained again.

    Returns:
        The record, or None if the deadline stopped the run.

    Raises:
        ValueError: The tiles are not the run's, or there is no folder to keep the model in.
        WriteError: The folder cannot be written to.

    Example:
        >>> run = Run(data="toy", size=64, weights=None, epochs=2, batch=16)
        >>> record = fit(run, toy_tiles())
        >>> record["best"]["iou"]
    """
    _check_tiles(run, tiles)
    if keep_model and folder is None:
        raise ValueError("keep_model needs a folder")
    store = Store(folder) if folder is not None else None
    if store:
        record = _finished(store, run, tiles, keep_model)
        if record is not None:
            return record
    trainer = Trainer(run, tiles, torch.device(device))
    if store and (state := store.load(run)) is not None:
        trainer.restore(state)
    if not _train(trainer, store, deadline, on_epoch):
        return None
    record = trainer.record()
    if keep_model:
        models.save(trainer.model, store.model_path(run))
    elif store and (earlier := _finished(store, run, tiles, keep_model)) is not None:
        record = earlier  # it came in the meantime, from another machine
    if store:
        store.finish(run, record)
    return record


def _train(
    trainer: "Trainer", store: Store | None, deadline: float | None, on_epoch: OnEpoch | None
) -> bool:
    """Train to the last epoch; False if the deadline came first."""
    seconds = 0.0  # of an epoch of this call: earlier ones may be another machine's
    while trainer.epoch < trainer.run.epochs:
        start = time.monotonic()
        if deadline is not None and start + seconds > deadline:
            return False
        trainer.step()
        if store:
            store.save(trainer.run, trainer.state())
        seconds = time.monotonic() - start
        if on_epoch:
            on_epoch(trainer.epoch, trainer.last["iou"])
    return True


def _check_tiles(run: Run, tiles: TileSet) -> None:
    check_type("run", run, Run)
    check_type("tiles", tiles, TileSet)
    for name, value in facts_of(tiles).items():
        wanted = getattr(run, name)
        if wanted != value:
            raise ValueError(
                f"the run wants {name} {wanted!r}, the tiles have {value!r}: Run.for_tiles(tiles) "
                "takes theirs"
            )
    height, width = tiles.images.shape[2:]
    stride = models.ENCODERS[run.encoder].stride
    if height % stride or width % stride:
        raise ValueError(
            f"the tiles are {height}×{width}: {run.encoder} needs sides divisible by {stride}"
        )


def injected(tiles: TileSet) -> dict[str, float] | None:
    """Which classes are injected, as the transform's `target`; None: all of them.

    A class of which each image shows less than of another one labels no image and has no donor. It
    is trained and measured, but not injected.
    """
    labelled = set(tiles.labels.tolist()) - {0}
    others = set(range(1, tiles.num_classes + 1)) - labelled
    if not labelled or not others or not others <= set(tiles.masks.unique().tolist()):
        return None
    return {name: float(k in labelled) for k, name in enumerate(tiles.classes, start=1)}


def _finished(store: Store, run: Run, tiles: TileSet, keep_model: bool) -> dict[str, Any] | None:
    """The record of a run that needs no training."""
    record = store.record(run)
    if record is None:
        return None
    if record["data"].get("digest") != tiles.digest:
        raise ValueError(
            f"{store.record_path(run)}: other data than these tiles: delete it or use another "
            "folder"
        )
    return None if keep_model and not store.model_path(run).exists() else record


class Trainer:
    """A run's model, optimiser and history, one epoch at a time."""

    def __init__(self, run: Run, tiles: TileSet, device: torch.device) -> None:
        self.run, self.device, self.tiles = run, device, tiles.to(device)
        self.fused = device.type == "cuda"  # the optimiser
        self.precision = precision.resolve(run.precision, device)
        self.precisions = [self.precision]  # several, if the run went on on another kind of machine
        self.train, self.val = split(
            tiles,
            run.split,
            run.seed,
            fraction=run.fraction,
            free_in_val=run.free_in_val,
            shots=run.shots,
        )
        self.layout = models.memory_format(run.encoder, device)
        model = models.build(
            run.encoder,
            tiles.num_classes,
            run.weights,
            seed=run.seed,
            decoder_convs=run.decoder_convs,
        )
        model.trained_on = models.TrainedOn.of(tiles)
        if tiles.source not in AS_RELEASED:
            model.mean, model.std = models.measured(tiles.images, self.train)
        self.model = model.to(device, memory_format=self.layout)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=run.lr, weight_decay=0, fused=self.fused
        )
        criterion = losses.criterion(run.method, tiles, self.train, variant=run.losses)
        self.criterion = few_shot.FewShotLoss(
            run, criterion, tiles.num_classes, ignores=tiles.ignores
        )
        self.injection = self._injection(tiles) if losses.METHODS[run.method].injects else None
        if self.injection and (tiles.labels[self.train] > 0).all():
            warnings.warn(
                f"{tiles.source}: none of the {len(self.train)} training images is defect-free, so "
                f"{run.method} injects nothing",
                stacklevel=3,
            )
        if not len(self.val):
            raise ValueError(
                f'split "{run.split}", seed {run.seed}: no image is left to validate among the '
                f"{len(tiles)} of {tiles.source}"
            )
        if not self._batches(stream(run.seed, 0, 0)):
            raise ValueError(
                f"{tiles.source}: {len(self.train)} of {len(tiles)} images train, and no batch of "
                "an epoch has two of them, which batch normalisation needs"
            )
        self.epoch, self.seconds = 0, 0.0
        self.history: dict[str, list] = {"loss": [], "tp": [], "fp": [], "classes": []}
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    def _injection(self, tiles: TileSet) -> DynamicLabelInjection:
        run = self.run
        return DynamicLabelInjection.as_released(
            tiles,
            self.train,
            p_poisson=run.p_poisson,
            until=run.until,
            ties=run.ties,
            target=injected(tiles),
            region=run.region,
            guidance=run.guidance,
            label=run.label,
            replacement=True if run.fraction < 1 else "if short",  # as released
        ).to(self.device)

    def step(self) -> None:
        """Train one epoch and validate."""
        start = time.monotonic()
        loss = self._train_epoch()
        counts, examples = self._validate()
        tp, fp, _ = counts.sum(dim=(0, 1)).tolist()
        self.history["loss"].append(float(f"{loss:.4g}"))
        self.history["tp"].append(tp)
        self.history["fp"].append(fp)
        self.history["classes"].append(counts.sum(dim=0)[:, :2].tolist())  # K rows of TP, FP
        self.epoch += 1
        self.last = metrics.summary(self.epoch, counts, self.tiles.labels[self.val])
        # without a pixel to find every IoU is NaN, and the first epoch stays the best
        if not self.best or self.last["iou"] > self.best["iou"]:
            self.best = {**self.last, "examples": examples}
        self.seconds += time.monotonic() - start

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain values."""
        return {
            "run": asdict(self.run),
            "digest": self.tiles.digest,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: The state is of another run, other data or another version.
        """
        try:
            if (Run(**state["run"]), state.get("digest")) != (self.run, self.tiles.digest):
                raise ValueError
            if state["history"].keys() != self.history.keys():  # another version's
                raise ValueError
            # a run of an earlier version goes on as it began
            self.model.load_state_dict(models.with_normalisation(state["model"]))
            optimizer = state["optimizer"]
            groups = [{**group, "fused": self.fused} for group in optimizer["param_groups"]]
            self.optimizer.load_state_dict({**optimizer, "param_groups": groups})
            for name in PROGRESS:
                setattr(self, name, type(getattr(self, name))(state[name]))
            self.precisions = list(dict.fromkeys([*self.precisions, self.precision]))
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # RuntimeErrors of the device
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise ValueError(
                f"the checkpoint of {self.run.id} is of another run or other data: delete it"
            ) from None

    def record(self) -> dict[str, Any]:
        """What is kept of the finished run."""
        tiles = self.tiles
        return {
            "id": self.run.id,
            "run": asdict(self.run),
            "machine": {**machine(self.device), "precision": ", ".join(self.precisions)},
            "seconds": round(self.seconds, 1),
            "encoder_parameters": models.parameters(self.model.encoder),
            "data": {
                "digest": tiles.digest,
                "classes": tiles.classes,
                "train": self._images_per_class(self.train),
                "val": self._images_per_class(self.val),
            },
            **self._normalisation(),
            "positives": sum(tp + fn for tp, _, fn in self.last["classes"]),
            "history": {
                **self.history,
                "loss": thin(self.history["loss"], 100),
                "classes": thin(self.history["classes"], CURVE_POINTS),
            },
            "val_images": self.val.tolist(),
            "val_tiles": tiles.groups[self.val].tolist(),
            "best": self.best,
            "last": self.last,
            **self.criterion.record(self._outputs, self.val),
        }

    def _normalisation(self) -> dict[str, Any]:
        """What the record tells of the normalisation, where it is not the released one."""
        if self.tiles.source in AS_RELEASED:
            return {}
        found = {"mean": self.model.mean, "std": self.model.std}
        return {"normalisation": {name: value.flatten().tolist() for name, value in found.items()}}

    def _images_per_class(self, indices: np.ndarray) -> list[int]:
        return np.bincount(
            self.tiles.labels[indices], minlength=self.tiles.num_classes + 1
        ).tolist()

    def _train_epoch(self) -> float:
        """Train on the epoch's images once and return the mean loss."""
        for group in self.optimizer.param_groups:
            progress = self.epoch / self.run.epochs
            group["lr"] = self.run.lr * 0.5 * (1 + math.cos(math.pi * progress))
        defective = self.train[self.tiles.labels[self.train] > 0]
        self.criterion.start_epoch(self._outputs, defective)
        self.model.train()
        total, images = torch.zeros((), device=self.device), 0
        for rows, flips, plan in self.plan_epoch():
            total += self.update(*self.prepare(rows, flips, plan), plan) * len(rows)
            images += len(rows)
        return float(total) / max(1, images)

    def prepare(self, rows: Tensor, flips: Tensor, plan: Plan | None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] and masks (B, H, W) of a batch that `plan_epoch` gave."""
        images, masks, labels = self._gather(rows, flips)
        if plan is not None:
            images, masks, _ = self.injection.apply_plan(plan, images, masks, labels)
        return images, masks

    def update(self, images: Tensor, masks: Tensor, plan: Plan | None = None) -> Tensor:
        """One step of the optimiser; returns the loss, on the device.

        images: (B, C, H, W) in [0, 1]; masks: (B, H, W); plan: what was injected into them, which
        only the weighting of composites needs.
        """
        loss = self.loss(images, masks, plan)
        # here, not before: on a CPU that takes 6 % off the step
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, images: Tensor, masks: Tensor, plan: Plan | None = None) -> Tensor:
        """The loss of the batch that `update` takes."""
        features, logits = self._forward(images)
        return self.criterion(logits, features, masks, plan)

    def plan_epoch(self) -> Iterator[tuple[Tensor, Tensor, Plan | None]]:
        """For each batch of the epoch: indices of its images, their flips and what is injected."""
        # Two streams, so that a seed's runs of different methods see the same images in the same
        # order.
        order = stream(self.run.seed, self.epoch, 0)
        batches = self._batches(order)
        sizes = [len(rows) for rows in batches]
        flips = augment.draw_flips(sum(sizes), order).split(sizes)
        plans: list[Plan | None] = [None] * len(sizes)
        if self.injection:
            self.injection.generator = stream(self.run.seed, self.epoch, 1)
            plans = self.injection.plan_batches(self.tiles.labels[torch.cat(batches)], sizes)
        return zip(batches, flips, plans, strict=True)

    def _batches(self, generator: Generator) -> list[Tensor]:
        """The epoch's images in random order, as indices into the tiles."""
        train = torch.from_numpy(self.train)
        labels = self.tiles.labels[train]
        free, defective = train[labels == 0], train[labels > 0]
        drawn = torch.randperm(len(free), generator=generator, device="cpu")
        share = free[drawn[: round(len(free) * self.run.free_share)]]
        if self.run.shots:  # one defective image to three free ones, as in the whole data set
            defective = defective.repeat(max(1, round(len(share) / 3 / len(defective))))
        epoch = torch.cat([defective, share])
        epoch = epoch[torch.randperm(len(epoch), generator=generator, device="cpu")]
        batches = epoch.split(self.run.batch)
        return [rows for rows in batches if len(rows) > 1]  # batch norm needs two

    def _gather(self, rows: Tensor, flips: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1], masks and labels; flips: (B, 2), as `augment.flip_`."""
        index = rows.to(self.device, non_blocking=True)
        images = self.tiles.images.index_select(0, index)
        masks = self.tiles.masks.index_select(0, index)
        if flips is not None:
            augment.flip_(images, masks, flips)  # while they are still bytes
        return images.float().div_(255), masks, self.tiles.labels[rows]

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's features and float32 logits (B, K, H, W) of images in [0, 1]."""
        x = self.model.normalised(images).contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features, logits = models.features(self.model, x)
        return features, logits.float()

    def _outputs(self, indices: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Masks, features and logits of images in batches, by the model in evaluation mode."""
        self.model.eval()
        for rows in torch.from_numpy(indices).split(self.run.batch):
            images, masks, _ = self._gather(rows)
            yield masks, *self._forward(images)

    @torch.inference_mode()
    def _validate(self) -> tuple[Tensor, dict[str, str]]:
        """Counts (V, K, 3) of the validation images, and an example's predicted map a class."""
        counts, maps = [], []
        for masks, _, logits in self._outputs(self.val):
            counts.append(metrics.count(logits, masks, num_classes=self.tiles.num_classes))
            maps.append(metrics.class_map(logits))
        class_maps = torch.cat(maps)
        labels = self.tiles.labels[self.val]
        examples = {}
        for label in labels.unique().tolist():
            if label > 0:
                first = int((labels == label).nonzero()[0])
                examples[self.tiles.names[self.val[first]]] = _png(class_maps[first])
        return torch.cat(counts).cpu(), examples


def thin(values: list, points: int) -> list:
    """Every nth of an epoch's values, so that at most `points` remain and a record stays small."""
    return values[:: max(1, math.ceil(len(values) / points))]


def _png(class_map: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(class_map.cpu().numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
