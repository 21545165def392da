"""Which free image of a batch gets which class, donor, warp and blend: drawn on the CPU, before any pixel moves."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Generator, Tensor

from dlilib.augment import RELEASED_WARPS, Warp, draw_warps
from dlilib.tiles import TileSet

UNTIL = ("filled", "uniform")
TIES = ("lowest", "random")


def plan_classes(
    labels: np.ndarray | Tensor, num_classes: int, until: str = "filled", ties: str = "lowest",
    generator: Generator | None = None,
) -> np.ndarray | Tensor:
    """Algorithm 1: the class to inject into each image of a batch, (B,) int64, 0 = leave alone.

    labels: (B,) int, 0 free, else the defect class 1..num_classes. Free images are taken in order; each gets the class
    with the fewest images in the batch so far.
    until: "filled", as released, fills every free image; "uniform", as the paper's text, stops as soon as all classes
    are equally frequent.
    ties: which of several rarest classes is taken: "lowest", as released, which gives the high classes too few
    injections in small batches; "random", each alike, drawn from `generator` (None: torch's default one).
    Returns an array for an array, a tensor on the same device for a tensor.
    """
    checked = _check_labels(labels, num_classes, until, ties)
    planned = _fill(checked, [len(checked)], num_classes, until, ties, generator)
    return torch.from_numpy(planned).to(labels.device) if isinstance(labels, Tensor) else planned


def _fill(
    labels: np.ndarray, sizes: Sequence[int], num_classes: int, until: str, ties: str, generator: Generator | None
) -> np.ndarray:
    """`plan_classes` of several batches, one after the other in labels (N,), of `sizes` images each."""
    planned = np.zeros(len(labels), np.int64)
    start = 0
    for size in sizes:
        batch = labels[start : start + size]
        count = np.bincount(batch, minlength=num_classes + 1)[1:]  # (K,), images of each class so far
        free = np.flatnonzero(batch == 0)
        order = _tie_order(len(free), num_classes, ties, generator)
        if until == "uniform":
            free = free[: num_classes * count.max() - count.sum()]
        for row, image in enumerate(free):
            chosen = (count + order[row]).argmin()
            planned[start + image] = chosen + 1
            count[chosen] += 1
        start += size
    return planned


def _tie_order(rows: int, num_classes: int, ties: str, generator: Generator | None) -> np.ndarray:
    """What decides among equally rare classes, for each of `rows` images: (rows, K) in [0, 1), the smallest wins."""
    if ties == "random":
        return torch.rand(rows, num_classes, generator=generator).double().numpy()
    return np.broadcast_to(np.arange(num_classes) / num_classes, (rows, num_classes))


def _check_labels(labels: np.ndarray | Tensor, num_classes: int, until: str, ties: str) -> np.ndarray:
    if until not in UNTIL:
        raise ValueError(f"until must be one of {UNTIL}, got {until!r}")
    if ties not in TIES:
        raise ValueError(f"ties must be one of {TIES}, got {ties!r}")
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.ndim != 1 or (len(labels) and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"labels must be integers of shape (B,), got {labels.dtype} {labels.shape}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if len(labels) and not 0 <= labels.min() <= labels.max() <= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes}, got {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


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

    def at(self, rows: Tensor) -> "Plan":
        """Its injections `rows`: indices, or bool (M,)."""
        return Plan(*(getattr(self, f.name)[rows] for f in fields(self)))

    def split(self, sizes: int | list[int]) -> list["Plan"]:
        """Its injections in consecutive parts of so many."""
        parts = zip(*(getattr(self, f.name).split(sizes) for f in fields(self)), strict=True)
        return [Plan(*part) for part in parts]


@dataclass(frozen=True)
class DonorBank:
    """The donors of each class and the warps they go through."""

    members: tuple[Tensor, ...]  # K int64 tensors, indices into the TileSet
    warps: tuple[Warp, ...]  # (K,)
    aspect: float = 1.0  # of the tiles, as `augment.draw_warps` takes it

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
        height, width = tiles.images.shape[2:]
        return cls(members, tuple(warps.get(name, Warp()) for name in tiles.classes), (height - 1) / (width - 1))


def plan(
    labels: np.ndarray | Tensor, bank: DonorBank, p_poisson: float = 0.5, until: str = "filled",
    replacement: bool = False, generator: Generator | None = None, ties: str = "lowest",
) -> Plan:
    """Draw every random choice of balancing a batch with `labels` (B,); until, ties: as in `plan_classes`.

    Donors of a class are drawn without replacement within the batch (replacement=True: with, as released for data
    fractions), but (differs: the released code stops with an error) with it where a class has too few.
    """
    return plan_batches(labels, [len(labels)], bank, p_poisson, until, replacement, generator, ties)[0]


def plan_batches(
    labels: np.ndarray | Tensor, sizes: Sequence[int], bank: DonorBank, p_poisson: float = 0.5, until: str = "filled",
    replacement: bool = False, generator: Generator | None = None, ties: str = "lowest",
) -> list[Plan]:
    """A `plan` for each of several batches, drawn together, as for a whole epoch.

    labels: (N,), the batches' one after the other; sizes: how many images each batch has, N in all.
    """
    if not len(sizes):
        return []
    if sum(sizes) != len(labels):
        raise ValueError(f"the batches have {sum(sizes)} images, the labels {len(labels)}")
    num_classes = len(bank.members)
    checked = _check_labels(labels, num_classes, until, ties)
    classes = torch.from_numpy(_fill(checked, sizes, num_classes, until, ties, generator))
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.as_tensor(sizes))
    target = classes.nonzero()[:, 0]
    label, batch = classes[target], batch[target]
    drawn = Plan(
        target=target - (torch.as_tensor(sizes).cumsum(0) - torch.as_tensor(sizes))[batch], label=label,
        donor=_draw_donors(label, batch, len(sizes), bank, replacement, generator),
        maps=draw_warps(bank.warps, label - 1, generator, bank.aspect),
        poisson=torch.rand(len(target), generator=generator) < p_poisson,
    )
    return drawn.split(torch.bincount(batch, minlength=len(sizes)).tolist())


def _draw_donors(
    label: Tensor, batch: Tensor, batches: int, bank: DonorBank, replacement: bool, generator: Generator | None
) -> Tensor:
    donor = torch.zeros_like(label)
    for c, members in enumerate(bank.members, start=1):
        mine = batch[label == c]  # sorted
        wanted = torch.bincount(mine, minlength=batches)
        turn = torch.arange(len(mine)) - (wanted.cumsum(0) - wanted)[mine]  # 0, 1, ... within each batch
        shuffled = torch.rand(batches, len(members), generator=generator).argsort(dim=1)
        anew = torch.randint(len(members), (len(mine),), generator=generator)
        again = (wanted > len(members))[mine] | replacement
        donor[label == c] = members[torch.where(again, anew, shuffled[mine, turn.clamp(max=len(members) - 1)])]
    return donor
