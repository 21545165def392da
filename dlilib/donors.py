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

from dlilib.checks import check_option, check_rows, check_type, described, is_count
from dlilib.tiles import Arrays, TileSet, as_images, check_classes

MARGIN = 16  # pixels kept around a defect: more than any blend of it reads, if not shrunk very far
POINTS = 64  # of a defect's pixels, to tell whether a warp leaves any of it in sight


@dataclass(frozen=True, eq=False)
class Donors:
    """D crops, each of an image around its one defect.

    `Donors.of` takes them from a data set, `Donors.from_crops` from pictures of any size. The crops
    lie one behind the other, so that a small defect takes little memory beside a large one.
    """

    pixels: Tensor  #: uint8 (N,), of all crops (C, h, w)
    marks: Tensor  #: bool (N / C,), the defects' pixels, of all crops (h, w)
    boxes: Tensor  #: int64 (D, 4), each crop's top, left, height and width in its image
    labels: Tensor  #: int64 (D,), 1..K
    ids: Tensor  #: int64 (D,), how a plan names them, indices into their TileSet or of the crops
    sides: tuple[int, int]  #: height and width of the images
    channels: int  #: C
    classes: tuple[str, ...]  #: (K,)
    given: str  #: what they were chosen from, for messages and repr
    whole: bool = True  #: whether a defect has its place in the image; crops have none
    margin: int = MARGIN  #: pixels around a defect that are known
    digest: str = ""  #: sha256 of all this

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self))

    @classmethod
    def of(
        cls,
        tiles: TileSet,
        donors: Arrays | None = None,
        *,
        empty: bool = False,
        margin: int = MARGIN,
    ) -> "Donors":
        """Take the defective images of a data set.

        Args:
            tiles: The data set.
            donors: Indices into it, usually the training split; None: all of its images, those that
                validate too. Only defective ones are used, each once.
            empty: Whether images whose masks show nothing of their class are donors too, as
                released.
            margin: Pixels of the image that are kept around a defect.

        Raises:
            ValueError: An index is none, or another argument is none of the above.

        Example:
            >>> len(Donors.of(dlilib.toy_tiles(), donors=range(240, 260)))
            20
        """
        check_type("tiles", tiles, TileSet)
        check_option("empty", empty, (False, True))
        if not is_count(margin, 0):
            raise ValueError(f"margin must be a non-negative integer, got {margin!r}")
        rows = torch.arange(len(tiles), device="cpu")
        if donors is not None:
            rows = check_rows("donors", donors, len(tiles))
        usable = tiles.labels[rows] > 0 if empty else tiles.marked[rows]
        given = f"the {len(rows)} images given"
        if donors is None:
            given = f"all {len(rows)} images, those that validate too"
        rows = rows[usable]
        labels = tiles.labels[rows]
        crops, corners = [], []
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            image, marks = tiles.images[row], tiles.masks[row] == label
            cut = _around(marks, margin)
            crops.append((image[:, *cut], marks[cut]))
            corners.append((cut[0].start, cut[1].start))
        return cls(
            **_joined(crops, corners, tiles.images.device),
            labels=labels,
            ids=rows,
            sides=tuple(tiles.masks.shape[1:]),
            channels=tiles.images.shape[1],
            classes=tiles.classes,
            given=given,
            margin=margin,
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
        pairs = [(image.expand(channels, -1, -1), marks) for image, marks in pairs]
        return cls(
            **_joined(pairs, [(0, 0)] * len(pairs), torch.device("cpu")),
            labels=numbers.long(),
            ids=torch.arange(len(pairs), device="cpu"),
            # two pixels at least: a warp takes a single one for a plane without an end
            sides=tuple(np.max([(2, 2), *(marks.shape for _, marks in pairs)], axis=0).tolist()),
            channels=channels,
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

    @cached_property
    def members(self) -> tuple[Tensor, ...]:
        """The positions of each class's donors, in order, K int64 tensors."""
        return tuple((self.labels == c).nonzero()[:, 0] for c in range(1, len(self.classes) + 1))

    def require(self, classes: Sequence[str]) -> None:
        """Raise ValueError unless each of these classes has a donor."""
        for name, members in zip(self.classes, self.members, strict=True):
            if name in classes and not len(members):
                raise ValueError(
                    f"class {name} has no donor among {self.given}: add an image that shows it, or "
                    "let target name it with 0"
                )

    @cached_property
    def _sorted(self) -> Tensor:
        """The positions by id."""
        return self.ids.argsort()

    def positions(self, ids: Tensor) -> Tensor:
        """Where the donors that a plan names by `ids` (M,) stand among these."""
        found = torch.searchsorted(self.ids[self._sorted], ids).clamp(max=max(0, len(self) - 1))
        return self._sorted[found]

    def to(self, device: str | torch.device) -> "Donors":
        """Return the same donors with their pixels on `device`."""
        moved = copy.copy(self)  # keeps what was found out about them
        object.__setattr__(moved, "pixels", self.pixels.to(device))
        object.__setattr__(moved, "marks", self.marks.to(device))
        return moved

    @cached_property
    def _places(self) -> Tensor:
        """Where each crop begins among the marks, and its box: int64 (D, 5)."""
        sizes = self.boxes[:, 2] * self.boxes[:, 3]
        return torch.cat([(sizes.cumsum(dim=0) - sizes)[:, None], self.boxes], dim=1)

    @cached_property
    def _listed(self) -> list[list[int]]:
        return self._places.tolist()

    def crop(self, position: int) -> tuple[Tensor, Tensor]:
        """Views of one donor's image, uint8 (C, h, w), and mask, bool (h, w)."""
        first, _, _, height, width = self._listed[position]
        marks = self.marks[first : first + height * width].view(height, width)
        first, count = self.channels * first, self.channels * height * width
        return self.pixels[first : first + count].view(-1, height, width), marks

    def box(self, position: int) -> tuple[int, int, int, int]:
        """First row and the one after the last, first column and the one after the last."""
        _, top, left, height, width = self._listed[position]
        return top, top + height, left, left + width

    def image(self, position: int) -> tuple[Tensor, Tensor]:
        """One donor in its whole image: float32 (C, H, W), and bool (H, W).

        What is not known of the image is black; beyond a crop without a place, its outermost pixels
        go on.
        """
        _, top, left, height, width = self._listed[position]
        pixels, marks = self.crop(position)
        there = ..., slice(top, top + height), slice(left, left + width)
        mask = torch.zeros(self.sides, dtype=torch.bool, device="cpu")
        mask[there] = marks
        if not self.whole:
            beyond = (0, self.sides[1] - width, 0, self.sides[0] - height)
            return F.pad(pixels[None].float(), beyond, mode="replicate")[0], mask
        image = torch.zeros(self.channels, *self.sides, device="cpu")
        image[there] = pixels
        return image, mask

    def images(self, positions: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Several donors in their whole images, on the donors' device, which is not waited for.

        Args:
            positions: int64 (M,), on the CPU.
            flips: bool (M, 2), on the CPU: which are mirrored vertically, horizontally.

        Returns:
            uint8 (M, C, H, W), where a crop's outermost pixels go on to the border, and bool
            (M, H, W).
        """
        places = self._places[positions].unbind(dim=1)
        first, top, left, height, width = (x[:, None] for x in places)  # (M, 1)
        y, x = (torch.arange(side, device="cpu") for side in self.sides)
        y = torch.where(flips[:, :1], y.flip(0), y) - top  # (M, H)
        x = torch.where(flips[:, 1:], x.flip(0), x) - left  # (M, W)
        shown = (y >= 0) & (y < height), (x >= 0) & (x < width)
        y, x = y.clamp(min=0).minimum(height - 1), x.clamp(min=0).minimum(width - 1)
        # of the mask's plane, then of each channel's
        planes = torch.arange(self.channels, device="cpu") * (height * width)
        starts = torch.cat([first, self.channels * first + planes], dim=1)  # (M, 1 + C)
        rows = starts[:, :, None] + (y * width)[:, None]  # (M, 1 + C, H)
        device = self.pixels.device
        rows, x, *shown = (part.to(device, non_blocking=True) for part in (rows, x, *shown))
        at = rows[:, :, :, None] + x[:, None, None]  # (M, 1 + C, H, W)
        inside = shown[0][:, :, None] & shown[1][:, None]
        return self.pixels[at[:, 1:]], self.marks[at[:, 0]].logical_and_(inside)

    def fitting(self, sides: tuple[int, int], target: Sequence[float]) -> tuple[Tensor, ...]:
        """As `members`, of the donors whose defect fits into images of this height and width.

        Args:
            sides: The height and the width.
            target: (K,), 0 for a class that is not injected.

        Raises:
            ValueError: A class that is injected has donors, but none that fits.
        """
        last = torch.tensor(sides[::-1], dtype=torch.float64, device="cpu") - 1  # x and y
        fits = (2 * self.spots[2] <= last).all(dim=1)
        found = tuple(members[fits[members]] for members in self.members)
        rows = zip(self.classes, target, self.members, found, strict=True)
        for name, wanted, members, left in rows:
            if wanted and len(members) and not len(left):
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
        donors = self.to("cpu")
        for position, (top, left, *_) in enumerate(self.boxes.tolist()):
            rows, columns = donors.crop(position)[1].nonzero().double().unbind(dim=1)
            places = torch.stack([columns + left, rows + top], dim=1)
            if not len(places):  # nothing to be seen, anywhere
                places = torch.tensor([[0.0, 0.0]], dtype=torch.float64, device="cpu")
            low, high = places.amin(dim=0), places.amax(dim=0)
            spread = torch.linspace(0, len(places) - 1, POINTS, dtype=torch.float64, device="cpu")
            points.append(places[spread.round().long()].int())
            middle.append((low + high) / 2)
            half.append((high - low) / 2)
        return torch.stack(points), torch.stack(middle), torch.stack(half)


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
    cut = _around(marks, MARGIN)
    return pixels[:, *cut], marks[cut]


def _around(marks: Tensor, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a defect in its image, and so many pixels more on every side."""
    places = marks.nonzero()
    if not len(places):  # nothing to be seen, anywhere
        return slice(0, 1), slice(0, 1)
    low, high = (places.amin(dim=0) - margin).clamp(min=0), places.amax(dim=0) + margin + 1
    ends = high.minimum(torch.tensor(marks.shape, device=marks.device))
    return tuple(slice(*pair) for pair in zip(low.tolist(), ends.tolist(), strict=True))


def _joined(
    crops: Sequence[tuple[Tensor, Tensor]], corners: Sequence[tuple[int, int]], device: torch.device
) -> dict[str, Tensor]:
    """Crops (C, h, w) and (h, w) with these corners, as the fields of `Donors` hold them."""
    boxes = [(*corner, *marks.shape) for corner, (_, marks) in zip(corners, crops, strict=True)]
    pixels = [torch.zeros(0, dtype=torch.uint8, device=device)]
    marks = [torch.zeros(0, dtype=torch.bool, device=device)]
    return {
        "pixels": torch.cat(pixels + [image.reshape(-1) for image, _ in crops]),
        "marks": torch.cat(marks + [mask.reshape(-1) for _, mask in crops]),
        "boxes": torch.tensor(boxes, dtype=torch.int64, device="cpu").reshape(-1, 4),
    }


def _digest(donors: Donors) -> str:
    known = (donors.classes, donors.whole, donors.sides, donors.channels)
    found = hashlib.sha256(repr(known).encode())
    for part in (donors.labels, donors.ids, donors.boxes, donors.marks, donors.pixels):
        found.update(part.cpu().contiguous().numpy())
    return found.hexdigest()
