"""One run's training: a model, its optimiser and history, an epoch at a time."""

import base64
import io
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from dlilib import augment, losses, metrics, models, precision
from dlilib.balance import Plan
from dlilib.inject import DynamicLabelInjection
from dlilib.run import Run
from dlilib.splits import split
from dlilib.store import machine
from dlilib.tiles import TileSet

CURVE_POINTS = 15  # of a record's curve of each class
PROGRESS = ("epoch", "seconds", "history", "best", "last", "precisions")  # what a Trainer has gathered so far


class Trainer:
    """A run's model, optimiser and history, one epoch at a time."""

    def __init__(self, run: Run, tiles: TileSet, device: torch.device) -> None:
        self.run, self.device, self.tiles = run, device, tiles.to(device)
        self.precision = precision.resolve(run.precision, device)
        self.precisions = [self.precision]  # more than one, where a run goes on on another kind of machine
        self.train, self.val = split(tiles, run.split, run.seed, run.fraction, run.free_in_val, run.shots)
        self.layout = models.memory_format(run.encoder, device)
        model = models.build(run.encoder, tiles.num_classes, run.weights, run.seed)
        self.model = model.to(device, memory_format=self.layout)
        fused = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=run.lr, weight_decay=0, fused=fused)
        self.criterion = losses.criterion(run.method, tiles, self.train, run.losses)
        self.prototypes: Tensor | None = None  # (K, D) of real defects, where composites are weighted
        names = ("p_poisson", "until", "ties", "region", "guidance", "label")
        options = {name: getattr(run, name) for name in names}
        self.injection = None
        if run.method == "dli":
            self.injection = DynamicLabelInjection(self.tiles, self.train, **options, replacement=run.fraction < 1)
        self.epoch, self.seconds = 0, 0.0
        self.history: dict[str, list] = {"loss": [], "tp": [], "fp": [], "classes": []}
        self.best, self.last = {}, {}

    def step(self) -> None:
        """Train one epoch and validate."""
        start = time.monotonic()
        loss = self._train_epoch()
        counts, examples = self._validate()
        tp, fp, _ = counts.sum(dim=(0, 1)).tolist()
        classes = counts.sum(dim=0)[:, :2].tolist()  # K rows of TP, FP
        for name, value in {"loss": float(f"{loss:.4g}"), "tp": tp, "fp": fp, "classes": classes}.items():
            self.history[name].append(value)
        self.epoch += 1
        self.last = metrics.summary(self.epoch, counts, self.tiles.labels[self.val])
        if not self.best or self.last["iou"] > self.best["iou"]:
            self.best = {**self.last, "examples": examples}
        self.seconds += time.monotonic() - start

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain values."""
        progress = {name: getattr(self, name) for name in PROGRESS}
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"run": asdict(self.run), "digest": self.tiles.digest, **parts, **progress}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; ValueError where it was of something else."""
        try:
            if (state["run"], state.get("digest")) != (asdict(self.run), self.tiles.digest):
                raise ValueError
            if state["history"].keys() != self.history.keys():  # another version's
                raise ValueError
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in PROGRESS:
                setattr(self, name, type(getattr(self, name))(state[name]))
            self.precisions = list(dict.fromkeys([*self.precisions, self.precision]))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise ValueError(f"the checkpoint of {self.run.id} is of another run or other data: delete it") from None

    def record(self) -> dict[str, Any]:
        """What is kept of the finished run."""
        tiles = self.tiles
        train, val = (np.bincount(tiles.labels[k], minlength=tiles.num_classes + 1) for k in (self.train, self.val))
        thinned = {name: thin(self.history[name], n) for name, n in {"loss": 100, "classes": CURVE_POINTS}.items()}
        return {
            "id": self.run.id, "run": asdict(self.run),
            "machine": {**machine(self.device), "precision": ", ".join(self.precisions)},
            "seconds": round(self.seconds, 1), "encoder_parameters": models.parameters(self.model.encoder),
            "data": {"digest": tiles.digest, "classes": tiles.classes, "train": train.tolist(), "val": val.tolist()},
            "positives": sum(tp + fn for tp, _, fn in self.last["classes"]),
            "history": {**self.history, **thinned},
            "val_images": self.val.tolist(), "val_tiles": tiles.tile[self.val].tolist(),
            "best": self.best, "last": self.last, **({"features": self._features()} if self.run.shots else {}),
        }

    def _train_epoch(self) -> float:
        """One pass over the epoch's images; returns the mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.lr * 0.5 * (1 + math.cos(math.pi * self.epoch / self.run.epochs))
        if self.run.similarity:
            self.prototypes = self._prototypes()
        self.model.train()
        total, images = torch.zeros((), device=self.device), 0
        for rows, flips, plan in self.plan_epoch():
            total += self.update(*self.prepare(rows, flips, plan), plan) * len(rows)
            images += len(rows)
        return float(total) / max(1, images)

    def prepare(self, rows: Tensor, flips: Tensor, plan: Plan | None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] and masks (B, H, W) of a batch that `plan_epoch` gave, on the device."""
        images, masks, labels = self._gather(rows, flips)
        if plan is not None:
            images, masks, _ = self.injection.apply_plan(plan, images, masks, labels)
        return images, masks

    def update(self, images: Tensor, masks: Tensor, plan: Plan | None = None) -> Tensor:
        """One step of the optimiser on images (B, C, H, W) in [0, 1] and masks (B, H, W); the loss, on the device.

        plan: what was injected into them; only the weighting of composites asks.
        """
        loss = self.loss(images, masks, plan)
        self.optimizer.zero_grad(set_to_none=True)  # here, not before: on a CPU that takes 6 % off the step
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, images: Tensor, masks: Tensor, plan: Plan | None = None) -> Tensor:
        """The loss of the batch that `update` takes."""
        features, logits = self._forward(images)
        criterion, target = self.criterion, metrics.one_hot(masks, self.tiles.num_classes).float()
        if self.prototypes is not None and plan is not None and len(plan):
            rows, labels = (x.to(self.device, non_blocking=True) for x in (plan.target, plan.label))
            weights = torch.ones(len(images), device=self.device)
            weights[rows] = losses.realism_weights(features[rows], masks[rows], labels, self.prototypes)
            criterion = losses.with_dice(losses.image_weighted(weights))
        loss = criterion(logits, target)
        if self.run.nbr:
            loss = loss + self.run.nbr * losses.normal_background(features, masks)
        return loss

    def plan_epoch(self) -> Iterator[tuple[Tensor, Tensor, Plan | None]]:
        """For each batch of the epoch its images, indices into the tiles, their flips and what is injected."""
        # Two streams, so that a seed's runs of different methods see the same images in the same order.
        order, injections = (_generator(self.run.seed, self.epoch, stream) for stream in (0, 1))
        batches = self._batches(order)
        sizes = [len(rows) for rows in batches]
        flips = augment.draw_flips(sum(sizes), order).split(sizes)
        plans = [None] * len(sizes)
        if self.injection:
            self.injection.generator = injections
            plans = self.injection.plan_batches(self.tiles.labels[torch.cat(batches)], sizes)
        return zip(batches, flips, plans, strict=True)

    def _batches(self, generator: Generator) -> list[Tensor]:
        """The epoch's images in random order, indices into the tiles; batch norm cannot train on a batch of one."""
        train = torch.from_numpy(self.train)
        labels = self.tiles.labels[train]
        free = train[labels == 0]
        share = free[torch.randperm(len(free), generator=generator)[: round(len(free) * self.run.free_share)]]
        defective = train[labels > 0]
        if self.run.shots:  # one defective image to three free ones, as in the whole data set
            defective = defective.repeat(max(1, round(len(share) / 3 / len(defective))))
        epoch = torch.cat([defective, share])
        epoch = epoch[torch.randperm(len(epoch), generator=generator)]
        return [rows for rows in epoch.split(self.run.batch) if len(rows) > 1]

    def _gather(self, rows: Tensor, flips: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1], masks and labels of `rows`, mirrored by flips (B, 2) while still bytes."""
        index = rows.to(self.device, non_blocking=True)
        images, masks = (x.index_select(0, index) for x in (self.tiles.images, self.tiles.masks))
        if flips is not None:
            augment.flip_(images, masks, flips)
        return images.float().div_(255), masks, self.tiles.labels[rows]

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's features and float32 logits (B, K, H, W) of images (B, C, H, W) in [0, 1], grey or RGB."""
        x = models.normalised(images).contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features, logits = models.features(self.model, x)
        return features, logits.float()

    def _outputs(self, indices: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Masks, features and logits of images in batches, by the model in evaluation mode."""
        self.model.eval()
        for rows in torch.from_numpy(indices).split(self.run.batch):
            images, masks, _ = self._gather(rows)
            yield masks, *self._forward(images)

    @torch.no_grad()
    def _prototypes(self) -> Tensor:
        """The mean feature of each class's real training defects, as a direction: (K, D)."""
        total = 0
        for masks, features, _ in self._outputs(self.train[self.tiles.labels[self.train] > 0]):
            defects = metrics.one_hot(masks, self.tiles.num_classes)
            total += torch.stack([losses.region_features(features, d).sum(dim=0) for d in defects.unbind(dim=1)])
        return total

    @torch.inference_mode()
    def _features(self) -> dict[str, Any]:
        """How far the validation images' defects lie from their normal regions in the encoder's features."""
        found, defect = [], []
        for masks, features, _ in self._outputs(self.val):
            found.append(features.float().movedim(1, -1).flatten(0, 2).cpu())
            defect.append(losses.cells(masks, features).flatten().cpu())
        return metrics.separation(torch.cat(found).numpy(), torch.cat(defect).numpy())

    @torch.inference_mode()
    def _validate(self) -> tuple[Tensor, dict[str, str]]:
        """Counts (V, K, 3) over the validation images, and the predicted class map of one image a class."""
        counts, maps = [], []
        for masks, _, logits in self._outputs(self.val):
            counts.append(metrics.count(logits, masks))
            maps.append(metrics.class_map(logits))
        maps = torch.cat(maps)
        labels = self.tiles.labels[self.val]
        first = [int((labels == c).nonzero()[0]) for c in labels.unique().tolist() if c > 0]
        return torch.cat(counts).cpu(), {self.tiles.names[self.val[i]]: _png(maps[i]) for i in first}


def thin(values: list, points: int) -> list:
    """Every nth of the values, of each epoch one, so that there are at most `points` and a record stays small."""
    return values[:: max(1, math.ceil(len(values) / points))]


def _generator(*seed: int) -> Generator:
    return Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))


def _png(class_map: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(class_map.cpu().numpy()).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
