"""The defects that are injected: images that show them, their masks and their classes."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlilib.checks import described
from dlilib.tiles import Arrays, TileSet, as_images, check_classes

MARGIN = 16  # pixels kept around a crop's defect: more than any blend of it reads
POINTS = 64  # of a defect's pixels, to tell whether a warp leaves any of it in sight


@dataclass(frozen=True, eq=False)
class Donors:
    """D images or crops of images, each with one defect.

    `Donors.of` takes them from a data set, `Donors.from_crops` from pictures of any size.
    """

    images: Tensor  # uint8 (D, C, H, W); crops are padded by their last row and column
    masks: Tensor  # bool (D, H, W), the defect's pixels
    labels: Tensor  # int64 (D,), 1..K
    ids: Tensor  # int64 (D,), how a plan names them: indices into their TileSet or of the crops
    classes: tuple[str, ...]  # (K,)
    given: str  # what they were chosen from, for messages and repr
    whole: bool = True  # whether a defect has its place in the image; crops have none
    digest: str = ""  # sha256 of all this

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self))

    @classmethod
    def of(cls, tiles: TileSet, donors: Arrays | None = None, *, empty: bool = False) -> "Donors":
        """Take the defective images of a data set.

        Args:
            tiles: The data set.
            donors: Indices into it, usually the training split; None: all of its images, those that
                validate too. Only defective ones are used, each once.
            empty: Whether images whose masks show nothing of their class are donors too, as
                released.

        Raises:
            ValueError: An index is none.

        Example:
            >>> len(Donors.of(dlilib.toy_tiles(), donors=range(240, 260)))
            20
        """
        rows = _check_rows(donors, tiles)
        usable = tiles.labels[rows] > 0 if empty else tiles.marked[rows]
        given = f"the {len(rows)} images given"
        if donors is None:
            given = f"all {len(rows)} images, those that validate too"
        rows = rows[usable]
        on_device = rows.to(tiles.images.device)
        labels = tiles.labels[rows]
        return cls(
            images=tiles.images[on_device],
            masks=tiles.masks[on_device] == labels.to(tiles.masks)[:, None, None],
            labels=labels,
            ids=rows,
            classes=tiles.classes,
            given=given,
        )

    @classmethod
    def from_crops(
        cls,
        images: Sequence[Tensor | np.ndarray],
        masks: Sequence[Tensor | np.ndarray],
        labels: Arrays,
        *,
        classes: Sequence[str] | None = None,
    ) -> "Donors":
        """Take pictures of defects, of any size and each of its own.

        They have no place in an image: the transform needs place="anywhere".

        Args:
            images: D of (h, w), (C, h, w) or (h, w, C), C 1 or 3: integers in 0..255 or floats in
                [0, 1].
            masks: D of (h, w), of the same sizes: bool, or class indices.
            labels: D classes, 1..K.
            classes: Names of the classes 1..K; None: "1", "2", … up to the highest label.

        Raises:
            ValueError: A value is none of the above; the message names the crop.

        Example:
            >>> image, mask = np.zeros((20, 30), np.uint8), np.zeros((20, 30), bool)
            >>> mask[5:9, 5:20] = True
            >>> len(Donors.from_crops([image], [mask], [1], classes=["scratch"]))
            1
        """
        numbers = _crop_labels(labels)
        for name, value in {"images": images, "masks": masks}.items():
            if not isinstance(value, Sequence | Tensor | np.ndarray) or len(value) != len(numbers):
                found = len(value) if hasattr(value, "__len__") else described(value)
                raise ValueError(
                    f"{name} must be as many as the {len(numbers)} labels, one or more, got {found}"
                )
        top = int(numbers.max())
        names = check_classes([str(c) for c in range(1, top + 1)] if classes is None else classes)
        if top > len(names):
            raise ValueError(f"labels reach {top}, classes names {len(names)}")
        pairs = [
            _crop(k, image, mask, label)
            for k, (image, mask, label) in enumerate(
                zip(images, masks, numbers.tolist(), strict=True)
            )
        ]
        channels = max(len(image) for image, _ in pairs)
        height, width = np.max([mask.shape for _, mask in pairs], axis=0)
        padded = [_padded(image.expand(channels, -1, -1), height, width) for image, _ in pairs]
        marks = torch.zeros(len(pairs), height, width, dtype=torch.bool, device="cpu")
        for mark, (_, mask) in zip(marks, pairs, strict=True):
            mark[: mask.shape[0], : mask.shape[1]] = mask
        return cls(
            images=torch.stack(padded),
            masks=marks,
            labels=numbers.long(),
            ids=torch.arange(len(pairs), device="cpu"),
            classes=names,
            given=f"the {len(pairs)} crops",
            whole=False,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = np.bincount(self.labels, minlength=len(self.classes) + 1)[1:]
        shown = ", ".join(f"{n} {c}" for n, c in zip(self.classes, counts.tolist(), strict=True))
        return f"Donors({len(self)} of {self.given}: {shown})"

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images."""
        return tuple(self.masks.shape[1:])

    @cached_property
    def members(self) -> tuple[Tensor, ...]:
        """K int64 tensors: the positions of each class's donors, in order."""
        return tuple((self.labels == c).nonzero()[:, 0] for c in range(1, len(self.classes) + 1))

    def require(self, classes: Sequence[str]) -> None:
        """Raise ValueError unless each of these classes has a donor."""
        for name, members in zip(self.classes, self.members, strict=True):
            if name in classes and not len(members):
                raise ValueError(f"class {name} has no donor among {self.given}")

    @cached_property
    def _sorted(self) -> Tensor:
        """The positions by id."""
        return self.ids.argsort()

    def positions(self, ids: Tensor) -> Tensor:
        """Where the donors that a plan names by `ids` (M,) stand among these."""
        found = torch.searchsorted(self.ids[self._sorted], ids).clamp(max=max(0, len(self) - 1))
        return self._sorted[found]

    def to(self, device: str | torch.device) -> "Donors":
        """Return the same donors with images and masks on `device`."""
        moved = copy.copy(self)  # keeps what was found out about them
        object.__setattr__(moved, "images", self.images.to(device))
        object.__setattr__(moved, "masks", self.masks.to(device))
        return moved

    def fitting(self, sides: tuple[int, int]) -> tuple[Tensor, ...]:
        """As `members`, of the donors whose defect fits into images of this height and width.

        Raises:
            ValueError: A class has donors, but none that fits.
        """
        last = torch.tensor(sides[::-1], dtype=torch.float64, device="cpu") - 1  # x and y
        fits = (2 * self.spots[2] <= last).all(dim=1)
        found = tuple(members[fits[members]] for members in self.members)
        for name, members, left in zip(self.classes, self.members, found, strict=True):
            if len(members) and not len(left):
                width, height = (2 * self.spots[2][members] + 1).amin(dim=0).long().tolist()
                raise ValueError(
                    f"no defect of class {name} fits into images of {sides[0]}×{sides[1]} pixels: "
                    f"the donors' are {height} high and {width} wide, or more"
                )
        return found

    @cached_property
    def spots(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the defects lie, in pixels.

        Returns:
            Points of each defect (D, POINTS, 2), spread over all of it; the middle (D, 2) of its
            bounding box, and half of the box's sides (D, 2), from centre to centre of the outermost
            pixels. x comes before y.
        """
        points, middle, half = [], [], []
        for mask in self.masks.cpu():
            places = mask.nonzero().flip(1).double()  # (pixels, 2)
            if not len(places):  # nothing to be seen, anywhere
                places = torch.tensor([[0.0, 0.0]], dtype=torch.float64, device="cpu")
            low, high = places.amin(dim=0), places.amax(dim=0)
            spread = torch.linspace(0, len(places) - 1, POINTS, dtype=torch.float64, device="cpu")
            points.append(places[spread.round().long()].short())
            middle.append((low + high) / 2)
            half.append((high - low) / 2)
        return torch.stack(points), torch.stack(middle), torch.stack(half)


def _check_rows(donors: Arrays | None, tiles: TileSet) -> Tensor:
    if donors is None:
        return torch.arange(len(tiles), device="cpu")
    try:
        rows = torch.as_tensor(list(donors) if isinstance(donors, range) else donors, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"donors must be a row of indices, got {described(donors)}") from None
    integer = not rows.is_floating_point() and rows.dtype != torch.bool
    if rows.ndim != 1 or (len(rows) and not integer):
        raise ValueError(f"donors must be a row of indices, got {rows.dtype} {tuple(rows.shape)}")
    rows = rows.long()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(tiles):
        raise ValueError(
            f"donors must index the {len(tiles)} tiles, got {int(rows.min())}..{int(rows.max())}"
        )
    return torch.tensor(list(dict.fromkeys(rows.tolist())), dtype=torch.int64, device="cpu")


def _crop_labels(labels: Arrays) -> Tensor:
    try:
        numbers = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    except ValueError:  # lists of unequal lengths
        numbers = np.asarray(None)
    whole = numbers.ndim == 1 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or not len(numbers) or numbers.min() < 1:
        raise ValueError(f"labels must be classes 1..K, one a crop, got {labels!r}")
    return torch.from_numpy(numbers.astype(np.int64))


def _crop(
    index: int, image: Tensor | np.ndarray, mask: Tensor | np.ndarray, label: int
) -> tuple[Tensor, Tensor]:
    """The part of a crop around its defect: image uint8 (C, h, w) and mask bool (h, w)."""
    try:
        marks = torch.as_tensor(mask, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"masks[{index}] must be (h, w), got {described(mask)}") from None
    if marks.ndim != 2 or marks.is_floating_point():
        raise ValueError(
            f"masks[{index}] must be (h, w), bool or class indices, got {marks.dtype} "
            f"{tuple(marks.shape)}"
        )
    if marks.dtype != torch.bool:
        marks = marks == label
    if not marks.any():
        raise ValueError(f"masks[{index}] shows no pixel of its label {label}: give it as bool?")
    try:
        pixels = as_images([image], tuple(marks.shape))[0]
    except ValueError as error:
        raise ValueError(f"images[{index}]: {error}") from None
    rows, columns = (
        slice(max(0, int(places.min()) - MARGIN), int(places.max()) + MARGIN + 1)
        for places in marks.nonzero().unbind(dim=1)
    )
    return pixels[:, rows, columns], marks[rows, columns]


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    """An image (C, h, w), continued at the bottom and the right by its last pixels."""
    below, right = int(height) - image.shape[1], int(width) - image.shape[2]
    return F.pad(image[None].float(), (0, right, 0, below), mode="replicate")[0].to(torch.uint8)


def _digest(donors: Donors) -> str:
    found = hashlib.sha256(repr((donors.classes, donors.whole, donors.images.shape)).encode())
    for part in (donors.labels, donors.ids, donors.masks, donors.images):
        found.update(part.cpu().contiguous().numpy())
    return found.hexdigest()
