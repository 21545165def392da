"""Which defect-free image of a batch gets which class, donor, warp and blend.

All of it is drawn on the CPU, before any pixel moves.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from dlilib.augment import Warp, draw_warps, mirrors, placed, sees
from dlilib.checks import check_generator, check_option, is_count
from dlilib.donors import Donors

UNTIL = ("filled", "uniform")
TIES = ("lowest", "random")
REPLACEMENT = (False, True, "if short")
PLACES = ("as is", "anywhere")
REDRAWS = 8  # of a warp that moves the whole defect out of sight, before the donor goes unwarped


def plan_classes(
    labels: np.ndarray | Tensor,
    num_classes: int,
    until: str = "filled",
    *,
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
    check_option("until", until, UNTIL)
    check_option("ties", ties, TIES)
    check_generator(generator)
    if not is_count(num_classes):
        raise ValueError(f"num_classes must be at least 1, got {num_classes!r}")
    checked = check_labels(labels, num_classes)
    filling = Filling(until, ties, share=1.0, target=(1.0,) * num_classes)
    planned = filling.fill(checked, np.zeros(num_classes, np.int64), generator)
    return torch.from_numpy(planned).to(labels.device) if isinstance(labels, Tensor) else planned


@dataclass(frozen=True)
class Filling:
    """How many defect-free images get a defect, and of which class."""

    until: str  # as in `plan_classes`
    ties: str  # as in `plan_classes`
    share: float  # of the defect-free images that may be filled
    target: tuple[float, ...]  # (K,), what the classes' counts shall be proportional to

    def fill(
        self, labels: np.ndarray, before: np.ndarray, generator: Generator | None
    ) -> np.ndarray:
        """The class to inject into each image, 0 for none: int64 (B,).

        labels: (B,), checked; before: (K,), images of each class that already count.
        """
        planned = np.zeros(len(labels), np.int64)
        count = before + np.bincount(labels, minlength=len(self.target) + 1)[1:]
        free = self._fillable(np.flatnonzero(labels == 0), generator)
        if len(set(self.target)) > 1:
            classes = self._in_proportion(count, len(free), generator)
            planned[free[: len(classes)]] = classes
            return planned
        preference = self._tie_order(len(free), generator)
        if self.until == "uniform":
            free = free[: len(count) * count.max() - count.sum()]
        for row, image in enumerate(free):
            chosen = (count + preference[row]).argmin()
            planned[image] = chosen + 1
            count[chosen] += 1
        return planned

    def _in_proportion(
        self, count: np.ndarray, number: int, generator: Generator | None
    ) -> np.ndarray:
        """Classes for up to `number` images, so that the counts (K,) come near the target.

        What Algorithm 1 does for equal targets, on average exactly: counts in proportion to their
        target rise together, like water; what is no whole number is rounded at random, or for the
        lowest classes, and in random order.
        """
        target = np.asarray(self.target) / sum(self.target)
        wanted = np.flatnonzero(target)
        if self.until == "uniform":
            highest = (count[wanted] / target[wanted]).max()
            missing = (highest * target - count)[wanted].sum()
            number = min(number, math.ceil(missing - 1e-6))
        order = wanted[np.argsort(count[wanted] / target[wanted], kind="stable")]
        for last in range(len(order), 0, -1):  # the classes that receive any
            filled = order[:last]
            level = (number + count[filled].sum()) / target[filled].sum()
            share = level * target[filled] - count[filled]
            if share[-1] >= 0:
                break
        drawn = torch.rand(number + 1, generator=generator, dtype=torch.float64, device="cpu")
        start = float(drawn[-1]) if self.ties == "random" else 1 - 1e-9
        ends = np.floor(np.cumsum(share) + start).astype(int).clip(max=number)
        ends[-1] = number  # systematic sampling: each share is rounded up or down, fairly
        classes = np.repeat(filled + 1, np.diff(ends, prepend=0))
        return classes[drawn[:-1].argsort().numpy()]

    def _fillable(self, free: np.ndarray, generator: Generator | None) -> np.ndarray:
        """A random share of the defect-free images; which number, on average, is the share."""
        if self.share == 1:
            return free
        order = torch.rand(len(free) + 1, generator=generator, dtype=torch.float64, device="cpu")
        number = int(self.share * len(free) + float(order[-1]))
        return free[np.sort(order[:-1].argsort()[:number].numpy())]

    def _tie_order(self, rows: int, generator: Generator | None) -> np.ndarray:
        """What decides among equally rare classes: (rows, K) in [0, 1), the smallest wins."""
        shape = (rows, len(self.target))
        if self.ties == "random":
            return _uniform(shape, generator).double().numpy()
        return np.broadcast_to(np.arange(shape[1]) / shape[1], shape)


def check_labels(labels: np.ndarray | Tensor, num_classes: int) -> np.ndarray:
    """Return labels (B,) as an int64 array.

    Raises:
        ValueError: They are no integers in 0..num_classes.
    """
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.ndim != 1 or (len(labels) and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"labels must be integers of shape (B,), got {labels.dtype} {labels.shape}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() <= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes}, got {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Plan:
    """M injections into one batch, on the CPU.

    The same plan gives the same pixels wherever it is applied. Two plans are equal if all their
    values are.
    """

    target: Tensor  #: int64 (M,), position in the batch of the defect-free image
    label: Tensor  #: int64 (M,), class to inject
    donor: Tensor  #: int64 (M,), the donor's index in its TileSet, or of the crop
    maps: Tensor  #: float32 (M, 2, 3), the donor's warp as `augment.warp` takes it
    poisson: Tensor  #: bool (M,), blend by Poisson; else cut-paste
    # What it was drawn for, which `apply_plan` checks; None in a plan made by hand:
    batch: Tensor | None = None  #: int64 (B,), the batch's labels
    donors: str | None = None  #: digest of the donors, and of what is kept around them
    sides: tuple[int, int] | None = None  #: height and width of the batch's images
    place: str = "as is"  #: where the defects go, one of PLACES

    def __len__(self) -> int:
        return len(self.target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_dict() == other.to_dict()

    def at(self, rows: Tensor) -> "Plan":
        """Select injections by indices or a bool mask (M,)."""
        return replace(self, **{name: column[rows] for name, column in self._columns().items()})

    def split(self, sizes: int | list[int]) -> list["Plan"]:
        """Split the plan into chunks of the given sizes, as `torch.split`."""
        columns = self._columns()
        chunks = zip(*[column.split(sizes) for column in columns.values()], strict=True)
        return [replace(self, **dict(zip(columns, chunk, strict=True))) for chunk in chunks]

    def _columns(self) -> dict[str, Tensor]:
        """What there is one of for each injection."""
        return {name: getattr(self, name) for name in COLUMNS}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as lists and plain values, as JSON takes them."""
        found = {column.name: getattr(self, column.name) for column in fields(self)}
        found["sides"] = list(self.sides) if self.sides else None
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in found.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """Make the plan again of what `to_dict` gave.

        Raises:
            ValueError: The names, or the lengths of the lists, are not those of a plan.

        Example:
            >>> transform = dlilib.DynamicLabelInjection(dlilib.toy_tiles())
            >>> plan = transform.plan(torch.zeros(8, dtype=torch.int64))
            >>> Plan.from_dict(plan.to_dict()) == plan
            True
        """
        names = {column.name for column in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError(f"a plan has the values {sorted(names)}, got {values!r:.200}")
        found = dict(values)
        for name, dtype in {**COLUMNS, "batch": torch.int64}.items():
            if name in COLUMNS or values[name] is not None:
                found[name] = _column(name, values[name], dtype)
        if len({len(found[name]) for name in COLUMNS}) > 1:
            raise ValueError(f"a plan's {', '.join(COLUMNS)} must be of one length")
        if values["sides"] is not None:
            found["sides"] = check_sides(values["sides"])
        check_option("place", values["place"], PLACES)
        return cls(**found)


def _column(name: str, values: Any, dtype: torch.dtype) -> Tensor:
    """What there is one of for each injection, from lists."""
    try:
        found = torch.tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros((), device="cpu")
    shape = (-1, 2, 3) if name == "maps" else (-1,)
    alike = found.is_floating_point() == dtype.is_floating_point or not found.numel()
    if not alike or (found.ndim != len(shape) and found.numel()):
        raise ValueError(f"a plan's {name} must be a list of {dtype}, got {values!r:.200}")
    if found.ndim == 3 and found.shape[1:] != (2, 3):
        raise ValueError(f"a plan's {name} must be of (2, 3) each, got {tuple(found.shape[1:])}")
    return found.to(dtype).reshape(shape)


def check_sides(sides: Any) -> tuple[int, int]:
    """Return a height and a width.

    Raises:
        ValueError: They are no two numbers of pixels.
    """
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(map(is_count, sides)):
        raise ValueError(f"sides must be a height and a width in pixels, got {sides!r}")
    return int(sides[0]), int(sides[1])


COLUMNS = {  # of a plan: their dtypes
    "target": torch.int64,
    "label": torch.int64,
    "donor": torch.int64,
    "maps": torch.float32,
    "poisson": torch.bool,
}


@dataclass(frozen=True)
class Planner:
    """How plans are drawn; every option as in `inject.DynamicLabelInjection`."""

    donors: Donors
    filling: Filling
    warps: tuple[Warp, ...]  # (K,)
    p_poisson: float
    replacement: bool | str
    place: str
    empty: bool

    def plans(
        self,
        labels: np.ndarray | Tensor,
        sizes: Sequence[int],
        sides: tuple[int, int],
        before: np.ndarray,
        generator: Generator | None,
        *,
        running: bool = False,
    ) -> list[Plan]:
        """Draw a plan for each of several batches together, as for a whole epoch.

        Args:
            labels: (N,), those of the first batch, then those of the second, …
            sizes: How many images each batch has, N in all.
            sides: Height and width of the batches' images.
            before: (K,) int64, images of each class that count before the first batch. Where
                running, the batches' are added to it.
            generator: None: torch's default one.
            running: Whether the images of a batch count for the next one too.

        Raises:
            ValueError: labels or sizes is none of the above.
        """
        num_classes = len(self.warps)
        checked = check_labels(labels, num_classes)
        sizes = _as_sizes(sizes)
        if sum(sizes) != len(checked):
            raise ValueError(f"sizes add up to {sum(sizes)}, but there are {len(checked)} labels")
        if not sizes:
            return []
        members = self.donors.members
        if self.place == "anywhere":
            members = self.donors.fitting(sides, self.filling.target)
        ends = np.cumsum(sizes)
        batches = np.split(checked, ends[:-1])
        planned = []
        for batch in batches:
            planned.append(self.filling.fill(batch, before, generator))
            if running:
                before += np.bincount(batch + planned[-1], minlength=num_classes + 1)[1:]
        classes = torch.from_numpy(np.concatenate(planned))  # (N,)
        chosen = classes.nonzero()[:, 0]  # (M,), images that get a defect, in order
        label = classes[chosen]
        counts = torch.tensor([np.count_nonzero(p) for p in planned], device="cpu")
        number = torch.repeat_interleave(counts)  # (M,), of the batch
        starts = torch.from_numpy(ends - np.asarray(sizes))
        position = self._draw_donors(members, label, number, len(sizes), generator)
        drawn = Plan(
            target=chosen - starts[number],
            label=label,
            donor=self.donors.ids[position],
            maps=self._draw_maps(label, position, sides, generator),
            poisson=_uniform((len(chosen),), generator) < self.p_poisson,
            donors=self.donors.digest,
            sides=sides,
            place=self.place,
        )
        return [
            replace(plan, batch=torch.from_numpy(batch))
            for plan, batch in zip(drawn.split(counts.tolist()), batches, strict=True)
        ]

    def _draw_donors(
        self,
        donors: tuple[Tensor, ...],
        label: Tensor,
        number: Tensor,
        batches: int,
        generator: Generator | None,
    ) -> Tensor:
        """The donor's position for each injection, (M,).

        donors: the positions of each class's; number: (M,), of the batch it is in.
        """
        position = torch.zeros_like(label)
        for c, members in enumerate(donors, start=1):
            rows = (label == c).nonzero()[:, 0]
            without = _uniform((batches, len(members)), generator).argsort(dim=1)
            if not len(members):  # no class that is injected
                continue
            again = torch.randint(len(members), (len(rows),), generator=generator, device="cpu")
            start = 0  # of the batch's part of `rows`, which are in the batches' order
            for batch, count in enumerate(torch.bincount(number[rows], minlength=batches).tolist()):
                end = start + count
                short = count > len(members)
                if self.replacement is True or (short and self.replacement == "if short"):
                    chosen = again[start:end]
                elif short:
                    chosen = _cycle(without[batch], count, generator)
                else:
                    chosen = without[batch, :count]
                position[rows[start:end]] = members[chosen]
                start = end
        return position

    def _draw_maps(
        self,
        label: Tensor,
        position: Tensor,
        sides: tuple[int, int],
        generator: Generator | None,
    ) -> Tensor:
        """The warps (M, 2, 3); none loses the whole defect, unless empty composites may be."""
        maps = self._draw_once(label, position, sides, generator)
        if self.empty:
            return maps
        source, points = self.donors.sides, self.donors.spots[0]
        lost = mirrors(maps)[1]  # those to look at: a mirrored defect is still there
        for redraw in range(REDRAWS + 1):
            lost = lost[~sees(maps[lost], points[position[lost]], source, sides)]
            if not len(lost):
                break
            if redraw < REDRAWS:
                maps[lost] = self._draw_once(label[lost], position[lost], sides, generator)
            else:
                unwarped = replace(self, warps=(Warp(flip=0, affine=0),) * len(self.warps))
                maps[lost] = unwarped._draw_once(label[lost], position[lost], sides, generator)
        return maps

    def _draw_once(
        self,
        label: Tensor,
        position: Tensor,
        sides: tuple[int, int],
        generator: Generator | None,
    ) -> Tensor:
        if self.place == "as is":
            height, width = sides
            aspect = (height - 1) / max(1, width - 1)
            return draw_warps(self.warps, label - 1, generator, aspect=aspect or 1.0)
        linear = draw_warps(self.warps, label - 1, generator)[:, :, :2]
        return self._anywhere(linear, position, sides, _uniform((len(label), 2), generator))

    def _anywhere(
        self, linear: Tensor, position: Tensor, sides: tuple[int, int], drawn: Tensor
    ) -> Tensor:
        """Maps that put each defect, warped by linear (M, 2, 2), at a random place.

        All of it stays inside, off the outermost ring of pixels where it is small enough. drawn:
        (M, 2) in [0, 1).
        """
        _, middle, half = (spot[position] for spot in self.donors.spots)  # (M, 2) each
        last = torch.tensor(sides[::-1], dtype=torch.float64, device="cpu") - 1  # x and y
        reach = (torch.linalg.inv(linear.double()).abs() @ half[:, :, None])[:, :, 0]
        upright = (reach > last / 2).any(dim=1)  # too large as it is turned and scaled
        linear = torch.where(upright[:, None, None], _mirrors_of(linear), linear)
        reach = torch.where(upright[:, None], half, reach)
        # whole pixels between the middle of the donor's defect and its place
        least, most = (reach - middle).ceil(), (last - reach - middle).floor()
        roomy = (most - least >= 2).double()
        least, most = least + roomy, most - roomy
        steps = least + (drawn * (most - least + 1)).floor()
        return placed(linear, middle, middle + steps, source=self.donors.sides, target=sides)


def stream(*seeds: int) -> Generator:
    """Make a generator of several seeds, whose stream is that of no other combination."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(state >> 1))


def _as_sizes(values: Any) -> list[int]:
    """How many images each batch has; ValueError if that is no row of counts."""
    try:
        sizes = [operator.index(value) for value in values]
    except TypeError:
        sizes = [-1]
    if min(sizes, default=0) < 0:
        raise ValueError(f"sizes must be a row of non-negative integers, got {values!r}")
    return sizes


def _uniform(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")


def _cycle(first: Tensor, count: int, generator: Generator | None) -> Tensor:
    """`count` donors: all of them in the order of `first`, then all in another one, …"""
    rounds = [first]
    while len(rounds) * len(first) < count:
        rounds.append(torch.randperm(len(first), generator=generator, device="cpu"))
    return torch.cat(rounds)[:count]


def _mirrors_of(linear: Tensor) -> Tensor:
    """What of maps (M, 2, 2) mirrors, without their scales and rotations."""
    return torch.diag_embed(linear.diagonal(dim1=1, dim2=2).sign())
