"""A data set as one value: images, masks, labels and groups."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlilib.checks import described

#: Value of a mask's pixels that are neither background nor a class. They are never injected into,
#: and no loss and no metric counts them.
IGNORE = 255
MOST_CLASSES = IGNORE - 1
RESIZES = ("nearest", "bilinear")  # how images are brought to another size
# Names that annotation programs have for 0 and for 255.
BACKGROUND = {
    *("background", "_background_", "__background__", "bg", "unlabeled", "unlabelled"),
    *("good", "ok"),  # no defect either
}
IGNORED = {"ignore", "_ignore_", "__ignore__", "ignored"}
FREE = "Free"  # what the defect-free images are counted as; the name of no class
CHUNK = 64  # images that are checked at once: checks need little memory beside the data

# What masks and labels of a batch may be.
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Arrays = Tensor | np.ndarray | Sequence[Any]


@dataclass(frozen=True, eq=False)
class TileSet(Dataset):
    """N images of one size with their masks, labels and groups; a map-style Dataset.

    `tiles[i]` is (image, mask, label): uint8 (C, H, W), uint8 (H, W) and an int. Images and masks
    are on one device; the rest stays on the CPU. `from_arrays` takes other types and layouts.

    Raises:
        ValueError: A field is of another type or shape than said here, a mask holds a value that is
            no class, or an image's label is not what its mask shows; the message names the field
            and the image.

    Example:
        >>> tiles = TileSet(
        ...     images=torch.zeros(3, 1, 64, 64, dtype=torch.uint8),
        ...     masks=torch.zeros(3, 64, 64, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 0, 1]),
        ...     groups=torch.tensor([0, 0, 1]),
        ...     names=("a", "b", "c"),
        ...     classes=("dent",),
        ... )
        >>> tiles.counts()
        {'dent': 1, 'Free': 2}
    """

    images: Tensor  #: uint8 (N, C, H, W); C = 1 for grey data, else 3
    masks: Tensor  #: uint8 (N, H, W); 0 background, 1..K the defect classes, IGNORE
    labels: Tensor  #: int64 (N,); 0 defect-free, else the image's defect class
    groups: Tensor  #: int64 (N,); images of one physical part share an id
    names: tuple[str, ...]  #: (N,)
    classes: tuple[str, ...]  #: (K,) names of the classes 1..K, at most 254
    source: str = "unnamed"  #: the data set's name
    #: sha256 of the source files, and of options that change their pixels, so that a record says
    #: what it was trained on; else of all this. `dataclasses.replace` keeps it: with
    #: new pixels, give digest=""
    digest: str = ""
    sizes: Tensor | None = None  #: int64 (N, 2); height and width before resizing, pixels
    exposure: Tensor | None = None  #: int64 (N,); number of the exposure, where known
    threshold: int = 0  #: mask values above it are defect, where masks were thresholded
    resize: str = "nearest"  #: how the images came to their size; they kept it with "pad"
    #: (N,); "train", "val", "test" or "" for each image, where the data came split
    given: tuple[str, ...] | None = None
    # What the masks show, found when they are checked:
    marked: Tensor = field(init=False, repr=False)  #: bool (N,); whether the label's class is shown
    ignores: bool = field(init=False, repr=False)  #: whether any pixel is ignored

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "classes", check_classes(self.classes))
        _check_pixels(self.images, self.masks)
        self._check_rows()
        self._check_masks()
        if not self.digest:
            object.__setattr__(self, "digest", self._content())

    @classmethod
    def from_arrays(
        cls,
        images: Arrays,
        masks: Arrays,
        classes: Sequence[str],
        *,
        labels: Arrays | None = None,
        groups: Arrays | None = None,
        names: Sequence[str] | None = None,
        source: str = "arrays",
    ) -> "TileSet":
        """Make a data set of tensors, arrays or lists of them.

        Args:
            images: N of (H, W), (C, H, W) or (H, W, C), C 1 or 3: integers in 0..255 or floats in
                [0, 1], which are rounded to bytes.
            masks: N of (H, W), (1, H, W) or (H, W, 1): integers 0 background, 1..K, 255 ignored
                (`IGNORE`); or bool where there is one class.
            classes: Names of the classes 1..K.
            labels: N integers, 0 defect-free; None: the class with the most pixels in each mask.
            groups: N ids, of any kind, of the physical parts that the images show; None: each its
                own.
            names: N names; None: "0", "1", …
            source: The data set's name.

        Returns:
            The data set, on the CPU.

        Raises:
            ValueError: A value is none of the above; the message names the argument and the image.

        Example:
            >>> images, masks = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8)
            >>> masks[1, 2:4, 2:4] = 1
            >>> TileSet.from_arrays(images, masks, ["dent"]).labels.tolist()
            [0, 1]
        """
        classes = check_classes(classes)
        if names is not None and not isinstance(names, list | tuple):
            raise ValueError(f"names must be a list of strings, got {names!r}")
        marks = as_masks(masks, len(classes))
        pixels = as_images(images, marks.shape[1:])
        if labels is None:
            found = labels_of(marks, len(classes))
        else:
            found = torch.from_numpy(_integers("labels", labels).astype(np.int64))
        if groups is None:
            parts = torch.arange(len(pixels), device="cpu")
        else:
            parts = torch.from_numpy(np.unique(_stacked("groups", groups), return_inverse=True)[1])
        return cls(
            images=pixels,
            masks=marks,
            labels=found,
            groups=parts,
            names=tuple(names) if names is not None else tuple(map(str, range(len(pixels)))),
            classes=classes,
            source=source,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        if isinstance(index, slice | list | tuple) or np.ndim(index):
            raise ValueError(f"a TileSet gives one image at a time, not [{index!r}]: see subset")
        # copies, which a transform may write into
        return self.images[index].clone(), self.masks[index].clone(), int(self.labels[index])

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        counts = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return f"TileSet({self.source}: {len(self)} images {channels}×{height}×{width}; {counts})"

    @property
    def num_classes(self) -> int:
        """K, the number of defect classes."""
        return len(self.classes)

    def to(self, device: str | torch.device) -> "TileSet":
        """Return the same data set with images and masks on `device`."""
        return self._with(images=self.images.to(device), masks=self.masks.to(device))

    def subset(self, rows: Arrays) -> "TileSet":
        """Return a data set of some of the images; rows: their indices, or bool (N,)."""
        wanted = _array("rows", list(rows) if isinstance(rows, range) else rows)
        count, number = len(self), np.issubdtype(wanted.dtype, np.integer)
        inside = number and bool(((-count <= wanted) & (wanted < count)).all())
        told = wanted.dtype == bool and wanted.shape == (count,)
        if wanted.ndim != 1 or (wanted.size and not inside and not told):
            raise ValueError(
                f"rows must be indices of the {count} images or bool ({count},), got {rows!r}"
            )
        chosen = torch.from_numpy(np.arange(count)[wanted if wanted.size else []])
        found = {}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, Tensor):
                found[column.name] = value[chosen.to(value.device)]
        for name in ("names", "given"):
            value = getattr(self, name)
            found[name] = value and tuple(value[row] for row in chosen.tolist())
        part = hashlib.sha256(f"{self.digest} {chosen.tolist()}".encode())  # other data than all
        return self._with(digest=part.hexdigest(), **found)

    def _content(self) -> str:
        """sha256 of what the data set holds."""
        found = hashlib.sha256(repr((self.classes, tuple(self.images.shape))).encode())
        for column in (self.labels, self.groups, self.masks, self.images):
            found.update(column.cpu().contiguous().numpy())
        return found.hexdigest()

    def _with(self, **changes: Any) -> "TileSet":
        """A copy with other values, which need no check."""
        changed = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(changed, name, value)
        return changed

    def counts(self) -> dict[str, int]:
        """Count the images of each class in order, then the defect-free ones as "Free"."""
        images = np.bincount(self.labels, minlength=self.num_classes + 1).tolist()
        return {**dict(zip(self.classes, images[1:], strict=True)), FREE: images[0]}

    def _check_rows(self) -> None:
        """Check what there is one of for each image."""
        count = len(self.images)
        for name, shape in {
            "labels": (count,),
            "groups": (count,),
            "sizes": (count, 2),
            "exposure": (count,),
        }.items():
            value = getattr(self, name)
            if value is None and name in ("sizes", "exposure"):
                continue
            if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != shape:
                raise ValueError(f"{name} must be int64 {shape}, got {described(value)}")
            if value.device.type != "cpu":
                raise ValueError(f"{name} must be on the CPU, got {value.device}")
        if len(self.names) != count:
            raise ValueError(f"names must be as many as the {count} images, got {len(self.names)}")
        if self.given is not None and (
            len(self.given) != count or not set(self.given) <= {"train", "val", "test", ""}
        ):
            raise ValueError(
                f'given must be "train", "val", "test" or "" for each of the {count} images, got '
                f"{self.given[:3]}"
            )
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"names must be strings, got {self.names[:3]}")

    def _check_masks(self) -> None:
        """Check that masks and labels agree; finds `marked` and `ignores`."""
        marked, ignores, shows = (
            torch.zeros(len(self), dtype=torch.bool, device="cpu"),
            False,
            False,
        )
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            found = _Shown.of(self.masks[rows], self.labels[rows])
            for k in range(len(found.top)):
                self._check_image(start + k, int(found.top[k]), bool(found.own[k]))
            marked[rows] = found.own
            ignores |= bool(found.ignored.any())
            shows |= bool((found.top > 0).any())
        if ignores and not shows and bool((self.labels > 0).any()):
            raise ValueError(_ALL_IGNORED)
        object.__setattr__(self, "marked", marked)
        object.__setattr__(self, "ignores", ignores)

    def _check_image(self, index: int, top: int, own: bool) -> None:
        """top: the highest class in the mask; own: whether it shows the label's class."""
        label, image = int(self.labels[index]), f"image {self.names[index]!r} (index {index})"
        if not 0 <= label <= self.num_classes:
            raise ValueError(f"labels: {image} has {label}, they must lie in 0..{self.num_classes}")
        if top > self.num_classes:
            raise ValueError(
                f"masks: {image} holds {top}, the classes are 1..{self.num_classes} and {IGNORE} "
                "is ignored"
            )
        if label == 0 and top > 0:
            raise ValueError(
                f"labels: {image} is defect-free by its label 0, but its mask marks class {top}"
            )
        if top > 0 and not own:
            raise ValueError(
                f"labels: {image} has {label}, but its mask marks other classes alone, as {top}"
            )


_ALL_IGNORED = (
    f"masks hold 0 and {IGNORE} alone, and {IGNORE} is ignored, so that no image shows a defect: "
    f"where it marks one, give masks // {IGNORE}"
)


@dataclass(frozen=True)
class _Shown:
    """What each of B masks shows."""

    top: Tensor  # (B,), the highest class, 0 for none
    own: Tensor  # bool (B,), whether the label's class is shown
    ignored: Tensor  # bool (B,), whether a pixel is ignored

    @classmethod
    def of(cls, masks: Tensor, labels: Tensor) -> "_Shown":
        """masks: uint8 (B, H, W), labels: (B,)."""
        # one more, so that IGNORE wraps round to 0, below the background's 1
        raised = (masks + 1).flatten(1)
        low, high = raised.amin(dim=1).cpu(), raised.amax(dim=1).cpu()
        wanted = labels.to(masks)[:, None]
        # the maximum of bytes is found ten times as fast as "any" of bool
        own = (masks.flatten(1) == wanted).view(torch.uint8).amax(dim=1).cpu() > 0
        return cls((high.long() - 1).clamp(min=0), own & (labels > 0), low == 0)


def defective(masks: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Tell which pixels of masks are a defect's: neither background nor ignored; bool."""
    return (masks > 0) & (masks != IGNORE)


def check_values(masks: Tensor, num_classes: int) -> None:
    """Raise ValueError unless masks are bool or hold 0..num_classes and what is ignored alone."""
    if masks.dtype == torch.bool or not masks.numel():
        return
    low, top = masks.detach().as_subclass(Tensor).aminmax()
    if 0 <= int(low) <= int(top) <= num_classes:
        return
    wrong = (masks < 0) | ((masks > num_classes) & (masks != IGNORE))  # in int8, -1 equals 255
    if wrong.any():
        raise ValueError(
            f"masks must hold 0..{num_classes} and {IGNORE} (ignored), got {int(masks[wrong][0])}"
        )


def reserved(name: str) -> int | None:
    """The mask value that a name stands for: 0 background, 255 ignored, None for a class."""
    word = name.strip().strip("\"'").casefold()
    if word in BACKGROUND:
        return 0
    return IGNORE if word in IGNORED else None


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes as a tuple.

    Raises:
        ValueError: They are not 1 to 254 distinct names, or one of them is Free or stands for the
            background or for what is ignored.
    """
    names = tuple(classes) if isinstance(classes, list | tuple) else ()
    strings = all(isinstance(name, str) and name for name in names)
    if not strings or not 1 <= len(names) <= MOST_CLASSES or len({*names, FREE}) <= len(names):
        raise ValueError(
            f"classes must be 1 to {MOST_CLASSES} distinct names, not {FREE}; got {classes!r}"
        )
    for number, name in enumerate(names, start=1):
        if (value := reserved(name)) is not None:
            raise ValueError(
                f"classes: {name!r} as class {number} stands for {value} in masks: leave it out, "
                "the classes are those of 1, 2 and so on"
            )
    return names


def labels_of(masks: Tensor, num_classes: int, *, strict: bool = True) -> Tensor:
    """Find the class with the most pixels in each mask (N, H, W), 0 for none: int64 (N,).

    Raises:
        ValueError: strict, and all that the masks hold beside the background is IGNORE.
    """
    labels, ignored = [], False
    for mask in masks:
        pixels = torch.bincount(mask.flatten(), minlength=IGNORE + 1)
        most = int(pixels[1 : num_classes + 1].argmax()) + 1
        labels.append(most if pixels[most] else 0)
        ignored |= bool(pixels[IGNORE])
    if strict and ignored and not any(labels):
        raise ValueError(_ALL_IGNORED)
    return torch.tensor(labels, dtype=torch.int64, device="cpu")


def as_masks(masks: Arrays, num_classes: int) -> Tensor:
    """Masks as `TileSet.from_arrays` takes them: uint8 (N, H, W)."""
    stacked = _stacked("masks", masks)
    if stacked.dtype == bool:
        if num_classes > 1:
            raise ValueError(f"masks may be bool where there is one class, not {num_classes}")
        stacked = stacked.astype(np.uint8)
    found = _integers("masks", stacked)
    if found.ndim == 4 and 1 in (found.shape[1], found.shape[3]):
        found = found[:, 0] if found.shape[1] == 1 else found[..., 0]
    if found.ndim != 3:
        raise ValueError(f"masks must be N of (H, W), got the shape {found.shape}")
    low, top = (int(found.min()), int(found.max())) if found.size else (0, 0)
    if low < 0 or top > IGNORE:
        raise ValueError(
            f"masks must hold 0, the classes 1..{num_classes} and {IGNORE} (ignored), got "
            f"{low}..{top}"
        )
    return torch.from_numpy(np.array(found, np.uint8, order="C"))  # a copy: it stays as it is


def as_images(images: Arrays, sides: tuple[int, ...]) -> Tensor:
    """Images as `TileSet.from_arrays` takes them, of masks with these sides: uint8 (N, C, H, W)."""
    found = _stacked("images", images)
    given, (height, width) = found.shape, sides
    if found.ndim == 3:
        found = found[:, None]
    elif found.ndim == 4 and found.shape[2:] != (height, width):
        found = np.moveaxis(found, 3, 1)
    if found.ndim != 4 or found.shape[1] not in (1, 3) or found.shape[2:] != (height, width):
        raise ValueError(
            f"images must be N of ({height}, {width}) as the masks, with 1 or 3 channels, got the "
            f"shape {given}"
        )
    floats = np.issubdtype(found.dtype, np.floating)
    top = 1 if floats else 255
    if not floats and not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"images must be floats or integers, got {found.dtype}")
    low, high = (found.min(), found.max()) if found.size else (0, 0)
    if not 0 <= low <= high <= top:
        kind = "floats in [0, 1]" if floats else "integers in 0..255"
        raise ValueError(f"images must be {kind}, got {found.dtype} in {low}..{high}")
    if floats:
        found = (found * 255).round()
    return torch.from_numpy(np.array(found, np.uint8, order="C"))


def _stacked(name: str, values: Arrays) -> np.ndarray:
    """Tensors, arrays or lists of them as one array."""
    if isinstance(values, Tensor | np.ndarray):
        return _array(name, values)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(
            f"{name} must be a tensor, an array or a list of them, got {described(values)}"
        )
    rows = [_array(name, value) for value in values]
    for k, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise ValueError(
                f"{name} must be of one shape: the first is {rows[0].shape}, {name}[{k}] is "
                f"{row.shape}"
            )
    return np.stack(rows) if rows else np.zeros((0, 0, 0), np.uint8)


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, Tensor):
        try:
            found = np.asarray(value)
        except ValueError:  # lists of unequal lengths
            found = np.asarray(None)
        if found.dtype == object:
            raise ValueError(f"{name} must be numbers, got {described(value)}")
        return found
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _integers(name: str, values: Arrays) -> np.ndarray:
    found = _stacked(name, values)
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {found.dtype}")
    return found


def _check_pixels(images: Tensor, masks: Tensor) -> None:
    for name, value, axes in (("images", images, 4), ("masks", masks, 3)):
        right = isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == axes
        if not right:
            raise ValueError(
                f"{name} must be uint8 with {axes} axes, got {described(value)}: "
                "TileSet.from_arrays converts"
            )
    if images.shape[1] not in (1, 3) or masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            "images must be (N, C, H, W) with C 1 or 3 and masks (N, H, W), got "
            f"{tuple(images.shape)} and {tuple(masks.shape)}"
        )
    if images.device != masks.device:
        raise ValueError(f"images are on {images.device}, masks on {masks.device}")
    if len(images) and not images[0].numel():
        raise ValueError(f"images must have pixels, got the shape {tuple(images.shape)}")
