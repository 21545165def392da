"""Which free image of a batch gets which class, donor, warp and blend: drawn on the CPU, before any pixel moves."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from dlilib.augment import RELEASED_WARPS, Warp, draw_warps
from dlilib.tiles import TileSet

UNTIL = ("filled", "uniform")


def plan_classes(labels: np.ndarray | Tensor, num_classes: int, until: str = "filled") -> np.ndarray | Tensor:
    """Algorithm 1: the class to inject into each image of a batch, (B,) int64, 0 = leave alone.

    labels: (B,) int, 0 free, else the defect class 1..num_classes. Free images are taken in order; each gets the class
    with the fewest images in the batch so far (ties: the lowest).
    until: "filled", as released, fills every free image; "uniform", as the paper's text, stops as soon as all classes
    are equally frequent. Returns an array for an array, a tensor on the same device for a tensor.
    """
    if until not in UNTIL:
        raise ValueError(f"until must be one of {UNTIL}, got {until!r}")
    if isinstance(labels, Tensor):
        return torch.from_numpy(plan_classes(labels.cpu().numpy(), num_classes, until)).to(labels.device)
    labels = np.asarray(labels)
    if labels.ndim != 1 or (len(labels) and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"labels must be integers of shape (B,), got {labels.dtype} {labels.shape}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if len(labels) and not 0 <= labels.min() <= labels.max() <= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes}, got {labels.min()}..{labels.max()}")
    count = np.bincount(labels.astype(np.int64), minlength=num_classes + 1)[1:]
    planned = np.zeros(len(labels), np.int64)
    for i in np.flatnonzero(labels == 0):
        if until == "uniform" and count.min() == count.max():
            break
        planned[i] = count.argmin() + 1
        count[planned[i] - 1] += 1
    return planned


@dataclass(frozen=True)
class Plan:
    """M injections into one batch, on the CPU; the same plan gives the same pixels wherever it is applied."""

    target: Tensor  # int64 (M,), position in the batch of the free image
    label: Tensor  # int64 (M,), class to inject
    donor: Tensor  # int64 (M,), index of the donor in its TileSet
    maps: Tensor  # float32 (M, 2, 3), the donor's warp as `augment.warp` takes it
    poisson: Tensor  # bool (M,), blend by Poisson; else cut-paste

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class DonorBank:
    """The donors of each class and the warps they go through."""

    members: tuple[Tensor, ...]  # K int64 tensors, indices into the TileSet
    warps: tuple[Warp, ...]  # (K,)

    @classmethod
    def of(cls, tiles: TileSet, donors: np.ndarray | Tensor | None = None, warps: dict[str, Warp] | None = None):
        """The defective images among `donors` (indices into tiles, default all), by class.

        warps: class name -> Warp, default as released. Raises ValueError naming a class without a donor.
        """
        donors = torch.arange(len(tiles)) if donors is None else torch.as_tensor(donors)
        if donors.ndim != 1 or (len(donors) and (donors.is_floating_point() or donors.dtype == torch.bool)):
            raise ValueError(f"donors must be a row of indices, got {donors.dtype} {tuple(donors.shape)}")
        donors = donors.long()
        if len(donors) and not 0 <= int(donors.min()) <= int(donors.max()) < len(tiles):
            raise ValueError(f"donors must index the {len(tiles)} tiles, got {int(donors.min())}..{int(donors.max())}")
        labels = tiles.labels[donors]
        members = tuple(donors[labels == c] for c in range(1, tiles.num_classes + 1))
        for name, group in zip(tiles.classes, members, strict=True):
            if len(group) == 0:
                raise ValueError(f"class {name} has no donor among the {len(donors)} images given")
        if unknown := (warps or {}).keys() - set(tiles.classes):
            raise ValueError(f"warps names {sorted(unknown)}, the classes are {tiles.classes}")
        warps = RELEASED_WARPS if warps is None else warps
        return cls(members, tuple(warps.get(name, Warp()) for name in tiles.classes))


def plan(
    labels: np.ndarray | Tensor, bank: DonorBank, p_poisson: float = 0.5, until: str = "filled",
    replacement: bool = False, generator: Generator | None = None,
) -> Plan:
    """Draw every random choice of balancing a batch with `labels` (B,).

    Donors of a class are drawn without replacement within the batch (replacement=True: with, as released for data
    fractions), but (differs: the released code stops with an error) with it where a class has too few.
    """
    classes = torch.as_tensor(plan_classes(labels, len(bank.members), until)).cpu()
    target = classes.nonzero()[:, 0]
    label = classes[target]
    donor = torch.zeros_like(target)
    for c, members in enumerate(bank.members, start=1):
        m = int((label == c).sum())
        if replacement or m > len(members):
            chosen = torch.randint(len(members), (m,), generator=generator)
        else:
            chosen = torch.randperm(len(members), generator=generator)[:m]
        donor[label == c] = members[chosen]
    return Plan(
        target=target, label=label, donor=donor,
        maps=draw_warps([bank.warps[c - 1] for c in label.tolist()], generator),
        poisson=torch.rand(len(target), generator=generator) < p_poisson,
    )
