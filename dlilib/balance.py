"""Which defect-free image of a batch gets which class, donor, warp and blend.

All of it is drawn on the CPU, before any pixel moves.
"""

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
    labels: np.ndarray | Tensor,
    num_classes: int,
    until: str = "filled",
    ties: str = "lowest",
    generator: Generator | None = None,
) -> np.ndarray | Tensor:
    """Choose the class to inject into each image of a batch (Algorithm 1).

    Defect-free images are taken in order; each gets the class with the fewest images in the batch
    so far.

    Args:
        labels: (B,) int, 0 defect-free, else the defect class 1..num_classes.
        num_classes: K.
        until: "filled", as released, fills every defect-free image; "uniform", as the paper's text,
            stops as soon as all classes are equally frequent.
        ties: Which of several rarest classes is taken: "lowest", as released, which gives the high
            classes too few injections in small batches, or "random", each alike.
        generator: Of the random ties; None: torch's default one.

    Returns:
        (B,) int64, 0 = leave alone: an array for an array, a tensor on the same device for a
        tensor.

    Raises:
        ValueError: An argument is none of the above.

    Example:
        >>> plan_classes(np.array([0, 1, 0, 2]), num_classes=3)
        array([3, 0, 1, 0])
    """
    checked = _check_labels(labels, num_classes, until, ties)
    planned = _fill(checked, num_classes, until, ties, generator)
    return torch.from_numpy(planned).to(labels.device) if isinstance(labels, Tensor) else planned


def _fill(
    labels: np.ndarray, num_classes: int, until: str, ties: str, generator: Generator | None
) -> np.ndarray:
    """`plan_classes` of checked labels (B,)."""
    planned = np.zeros(len(labels), np.int64)
    count = np.bincount(labels, minlength=num_classes + 1)[1:]  # (K,), images of each class so far
    free = np.flatnonzero(labels == 0)
    preference = _tie_order(len(free), num_classes, ties, generator)
    if until == "uniform":
        free = free[: num_classes * count.max() - count.sum()]
    for row, image in enumerate(free):
        chosen = (count + preference[row]).argmin()
        planned[image] = chosen + 1
        count[chosen] += 1
    return planned


def _tie_order(rows: int, num_classes: int, ties: str, generator: Generator | None) -> np.ndarray:
    """What decides among equally rare classes: (rows, K) in [0, 1), the smallest wins."""
    if ties == "random":
        return torch.rand(rows, num_classes, generator=generator).double().numpy()
    return np.broadcast_to(np.arange(num_classes) / num_classes, (rows, num_classes))


def _check_labels(
    labels: np.ndarray | Tensor, num_classes: int, until: str, ties: str
) -> np.ndarray:
    if until not in UNTIL:
        raise ValueError(f"until must be one of {UNTIL}, got {until!r}")
    if ties not in TIES:
        raise ValueError(f"ties must be one of {TIES}, got {ties!r}")
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.ndim != 1 or (len(labels) and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"labels must be integers of shape (B,), got {labels.dtype} {labels.shape}"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if len(labels) and not 0 <= labels.min() <= labels.max() <= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes}, got {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


@dataclass(frozen=True)
class Plan:
    """M injections into one batch, on the CPU.

    The same plan gives the same pixels wherever it is applied.
    """

    target: Tensor  # int64 (M,), position in the batch of the defect-free image
    label: Tensor  # int64 (M,), class to inject
    donor: Tensor  # int64 (M,), index of the donor in its TileSet
    maps: Tensor  # float32 (M, 2, 3), the donor's warp as `augment.warp` takes it
    poisson: Tensor  # bool (M,), blend by Poisson; else cut-paste

    def __len__(self) -> int:
        return len(self.target)

    def at(self, rows: Tensor) -> "Plan":
        """Select injections by indices or a bool mask (M,)."""
        return Plan(*(getattr(self, field.name)[rows] for field in fields(self)))

    def split(self, sizes: int | list[int]) -> list["Plan"]:
        """Split the plan into chunks of the given sizes, as `torch.split`."""
        columns = [getattr(self, field.name).split(sizes) for field in fields(self)]
        return [Plan(*chunk) for chunk in zip(*columns, strict=True)]


@dataclass(frozen=True)
class DonorBank:
    """The donors of each class and the warps they go through."""

    members: tuple[Tensor, ...]  # K int64 tensors, indices into the TileSet
    warps: tuple[Warp, ...]  # (K,)
    aspect: float = 1.0  # of the tiles, as `augment.draw_warps` takes it

    @classmethod
    def of(
        cls,
        tiles: TileSet,
        donors: np.ndarray | Tensor | None = None,
        warps: dict[str, Warp] | None = None,
    ) -> "DonorBank":
        """Sort the defective images among `donors` by class.

        Args:
            tiles: Where the donors come from.
            donors: Indices into tiles; None: all.
            warps: Class name -> Warp; None: as released.

        Raises:
            ValueError: An index is none, a class has no donor, or a warp names no class.
        """
        donors = _check_donors(donors, tiles)
        labels = tiles.labels[donors]
        members = tuple(donors[labels == c] for c in range(1, tiles.num_classes + 1))
        for name, group in zip(tiles.classes, members, strict=True):
            if len(group) == 0:
                raise ValueError(f"class {name} has no donor among the {len(donors)} images given")
        if unknown := (warps or {}).keys() - set(tiles.classes):
            raise ValueError(f"warps names {sorted(unknown)}, the classes are {tiles.classes}")
        warps = RELEASED_WARPS if warps is None else warps
        height, width = tiles.images.shape[2:]
        chosen = tuple(warps.get(name, Warp()) for name in tiles.classes)
        return cls(members, chosen, (height - 1) / (width - 1))


def _check_donors(donors: np.ndarray | Tensor | None, tiles: TileSet) -> Tensor:
    donors = torch.arange(len(tiles)) if donors is None else torch.as_tensor(donors)
    integer = not donors.is_floating_point() and donors.dtype != torch.bool
    if donors.ndim != 1 or (len(donors) and not integer):
        raise ValueError(
            f"donors must be a row of indices, got {donors.dtype} {tuple(donors.shape)}"
        )
    donors = donors.long()
    if len(donors) and not 0 <= int(donors.min()) <= int(donors.max()) < len(tiles):
        raise ValueError(
            f"donors must index the {len(tiles)} tiles, got "
            f"{int(donors.min())}..{int(donors.max())}"
        )
    return donors


def plan(
    labels: np.ndarray | Tensor,
    bank: DonorBank,
    p_poisson: float = 0.5,
    until: str = "filled",
    replacement: bool = False,
    generator: Generator | None = None,
    ties: str = "lowest",
) -> Plan:
    """Draw every random choice of balancing a batch with `labels` (B,).

    Args:
        labels: As in `plan_classes`.
        bank: The donors.
        p_poisson: Probability of Poisson blending rather than cut-paste, per injection.
        until: As in `plan_classes`.
        replacement: Draw donors of a class with replacement within the batch, as released for data
            fractions. False: without, but (differs: the released code stops with an error) with it
            where a class has too few.
        generator: None: torch's default one.
        ties: As in `plan_classes`.
    """
    sizes = [len(labels)]
    return plan_batches(labels, sizes, bank, p_poisson, until, replacement, generator, ties)[0]


def plan_batches(
    labels: np.ndarray | Tensor,
    sizes: Sequence[int],
    bank: DonorBank,
    p_poisson: float = 0.5,
    until: str = "filled",
    replacement: bool = False,
    generator: Generator | None = None,
    ties: str = "lowest",
) -> list[Plan]:
    """Draw a `plan` for each of several batches together, as for a whole epoch.

    Args:
        labels: (N,), those of the first batch, then those of the second, …
        sizes: How many images each batch has, N in all.
        bank: As in `plan`, and so are the rest.
    """
    if not len(sizes):
        return []
    if sum(sizes) != len(labels):
        raise ValueError(f"the batches have {sum(sizes)} images, the labels {len(labels)}")
    num_classes = len(bank.members)
    checked = _check_labels(labels, num_classes, until, ties)
    ends = np.cumsum(sizes)
    planned = [
        _fill(chunk, num_classes, until, ties, generator) for chunk in np.split(checked, ends[:-1])
    ]
    classes = torch.from_numpy(np.concatenate(planned))  # (N,)
    chosen = classes.nonzero()[:, 0]  # (M,), images that get a defect, in order
    label = classes[chosen]
    starts = torch.as_tensor(ends - np.asarray(sizes))
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.as_tensor(sizes))[chosen]
    drawn = Plan(
        target=chosen - starts[batch],
        label=label,
        donor=_draw_donors(label, batch, len(sizes), bank, replacement, generator),
        maps=draw_warps(bank.warps, label - 1, generator, bank.aspect),
        poisson=torch.rand(len(chosen), generator=generator) < p_poisson,
    )
    return drawn.split(torch.bincount(batch, minlength=len(sizes)).tolist())


def _draw_donors(
    label: Tensor,
    batch: Tensor,
    num_batches: int,
    bank: DonorBank,
    replacement: bool,
    generator: Generator | None,
) -> Tensor:
    """The donor of each injection, (M,); label, batch: (M,), its class and the batch it is in."""
    donor = torch.zeros_like(label)
    for c, members in enumerate(bank.members, start=1):
        rows = (label == c).nonzero()[:, 0]
        without = torch.rand(num_batches, len(members), generator=generator).argsort(dim=1)
        again = torch.randint(len(members), (len(rows),), generator=generator)
        start = 0  # of the batch's part of `rows`, which are in the batches' order
        for number, count in enumerate(torch.bincount(batch[rows], minlength=num_batches).tolist()):
            end = start + count
            if replacement or count > len(members):
                chosen = again[start:end]
            else:
                chosen = without[number, :count]
            donor[rows[start:end]] = members[chosen]
            start = end
    return donor
