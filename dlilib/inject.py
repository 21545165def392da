"""The transform that balances a batch, and its way into a DataLoader."""

import copy
import functools
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import default_collate, get_worker_info

from dlilib.augment import RELEASED_WARPS, Warp
from dlilib.balance import (
    PLACES,
    REPLACEMENT,
    TIES,
    UNTIL,
    Filling,
    Plan,
    Planner,
    check_labels,
    check_sides,
    stream,
)
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.checks import check_generator, check_number, check_option, check_type
from dlilib.composite import LABELS, READ, inject
from dlilib.donors import MARGIN, Donors
from dlilib.tiles import IGNORE, INTEGERS, TileSet, check_values, defective, labels_of

STATES = ("batch", "running")
CHOICES = {  # option -> the values that it can have
    "until": UNTIL,
    "ties": TIES,
    "state": STATES,
    "replacement": REPLACEMENT,
    "place": PLACES,
    "region": tuple(REGIONS),
    "guidance": tuple(GUIDANCES),
    "label": LABELS,
    "clip": (False, True),
    "empty_composites": (False, True),
}
SLACK = 0.1  # how far float images may lie outside [0, 1], as noise or sharpening leaves them


def _outside_graphs(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have torch.compile break its graph here: plans are drawn in numpy, by data.

    As torch.compiler.disable, which takes a second to import and which nobody else needs.
    """

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        dynamo = sys.modules.get("torch._dynamo")
        return (dynamo.disable(method) if dynamo else method)(*args, **options)

    call._torchdynamo_disable = True
    return call


class DynamicLabelInjection(nn.Module):
    """Balance a batch by injecting donors' defects into its defect-free images.

    Caruso et al., ECCV-W 2024, Algorithm 1. transform(images, masks, labels) returns new tensors of
    the same types on the same device; its inputs are not changed. Every label that it sets is shown
    by the image's mask. Pixels whose mask is 255 (`IGNORE`) stay as they are. The defaults are
    what we recommend; where they differ from the released code, the option says so.

    Every option is an attribute that may be set later, as for a schedule. The transform has no
    gradient and injects in evaluation mode too: call it in training alone. In a worker process of a
    DataLoader the generator goes on in a stream of the worker's own.

    Args:
        tiles: Where the donors come from: a data set of the batches' size, or `Donors`.
        donors: Indices into the data set, usually the training split. None: all of its images,
            those that validate too. Images whose masks show nothing of their class are no donors.
            On assignment and as an attribute: `Donors`.
        p_poisson: Probability of Poisson blending rather than cut-paste, per injection.
        until: As in `balance.plan_classes`.
        ties: Which of several rarest classes is injected: "random", each alike (in proportion to
            `target`), or "lowest", as released, which starves the high classes in small batches.
        share: Part of the batch's defect-free images that may be filled, on average, in [0, 1];
            which of them is drawn.
        target: Class name -> what its number of images shall be proportional to, 0 for a class that
            is never injected; None: all alike.
        state: What a class's count begins with: "batch", as released, at zero in every batch;
            "running", at what the batches so far had by their plans, which balances batches that
            are too small for all classes over time. `reset` forgets it. Every worker process counts
            by itself; copies and pickles keep the counts, a state dict does not.
        replacement: False: donors of a class are drawn without replacement within the batch; where
            it has too few, all of them come before any is repeated. True: with, as released for
            data fractions. "if short": with it for a class that has too few donors for the batch,
            else without (the released code then raises an error).
        warps: Ranges of the donors' warps: one for all classes, or class name -> Warp, where the
            others have `Warp()`, which also shifts, scales and turns the classes that the released
            code only flips. `augment.RELEASED_WARPS` are those of the Magnetic Tiles. Donors
            keep as much around their defects as these may show: warps that are set later and shrink
            further are refused.
        place: "as is", as released: the defect keeps its place in the image. "anywhere": it goes to
            a random place where it is whole and, if small enough, off the outermost ring of
            pixels; its warp's shift has no effect. Donors too large for the batch are left out.
        region: As in `blend.poisson_blend`.
        guidance: As in `blend.poisson_blend`.
        label: What a Poisson composite is labelled with: "dilated", the widened mask it was blended
            with (as released), or "tight", the donor's own mask, also where that reaches the
            image's outermost pixels, which no blend changes.
        clip: Clip what a Poisson blend changes to [0, 1]; as released, it is not. uint8 always is.
        empty_composites: As released: images whose masks show nothing are donors too, and a warp
            may move a defect out of sight, so that an image is labelled with a class that it does
            not show. Otherwise such a warp is drawn anew.
        keys: Names of image, mask and label in batches that are dicts.
        generator: Of every random choice, on the CPU, of this transform alone: in the workers of a
            DataLoader, two that share one would draw alike. None: torch's default one.

    Raises:
        ValueError: An option is none of these, or a class has no donor.

    Example:
        >>> tiles = dlilib.toy_tiles()
        >>> train, val = dlilib.split(tiles)
        >>> transform = DynamicLabelInjection(tiles, donors=train)
        >>> batch = train[:64]
        >>> images, masks, labels = tiles.images[batch], tiles.masks[batch], tiles.labels[batch]
        >>> images, masks, labels = transform(images, masks, labels)
        >>> int((labels == 0).sum())
        0
    """

    def __init__(
        self,
        tiles: TileSet | Donors,
        donors: np.ndarray | Tensor | Sequence[int] | None = None,
        *,
        p_poisson: float = 0.5,
        until: str = "filled",
        ties: str = "random",
        share: float = 1.0,
        target: Mapping[str, float] | None = None,
        state: str = "batch",
        replacement: bool | str = False,
        warps: Warp | Mapping[str, Warp] | None = None,
        place: str = "as is",
        region: str = "rectangle",
        guidance: str = "mixed",
        label: str = "dilated",
        clip: bool = True,
        empty_composites: bool = False,
        keys: Sequence[str] = ("image", "mask", "label"),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.p_poisson, self.until, self.ties, self.share = p_poisson, until, ties, share
        self.target, self.state, self.replacement, self.warps = target, state, replacement, warps
        self.place, self.region, self.guidance, self.label = place, region, guidance, label
        self.clip, self.empty_composites = clip, empty_composites
        self.keys, self.generator = keys, generator
        self.donors = _as_donors(tiles, donors, empty_composites, warps)
        self.reset()
        self._planner()  # checks the options
        self._moved: tuple[Donors, Donors] | None = None  # the donors, and another device's copy
        self._worker: int | None = None  # seed of the worker process that the generator is for
        self._checked = False  # whether a batch that shows a defect was looked at

    def _check_options(self) -> None:
        check_type("donors", self.donors, Donors)
        check_number("p_poisson", self.p_poisson, 0, 1)
        check_number("share", self.share, 0, 1)
        check_generator(self.generator)
        for name, options in CHOICES.items():
            check_option(name, getattr(self, name), options)
        keys = self.keys
        if not isinstance(keys, list | tuple) or not len(keys) == len(set(keys)) == 3:
            raise ValueError(f"keys must be three names, of image, mask and label, got {keys!r}")

    def _planner(self) -> Planner:
        """What draws the plans, by the options as they are now."""
        self._check_options()
        if self.place == "as is" and not self.donors.whole:
            raise ValueError('place must be "anywhere" where the donors are crops, got "as is"')
        warps = _as_warps(self.warps, self.donors.classes)
        needed = _margin(warps)
        if self.donors.whole and needed > self.donors.margin:
            raise ValueError(
                f"warps that shrink so far show {needed} pixels around a defect, and the donors "
                f"keep {self.donors.margin}: make the transform anew with these warps, or give it "
                f"Donors.of(..., margin={needed})"
            )
        return Planner(
            donors=self.donors,
            filling=Filling(
                self.until, self.ties, self.share, _as_target(self.target, self.donors)
            ),
            warps=warps,
            p_poisson=self.p_poisson,
            replacement=self.replacement,
            place=self.place,
            empty=self.empty_composites,
        )

    @classmethod
    def as_released(
        cls,
        tiles: TileSet | Donors,
        donors: np.ndarray | Tensor | Sequence[int] | None = None,
        **options: Any,
    ) -> "DynamicLabelInjection":
        """Make the transform that the authors' code is, as far as `options` say nothing else.

        The lowest class wins ties, composites are not clipped and may be empty, and the Magnetic
        Tiles' classes have the released warps. This is what a `Run` trains with.
        """
        check_type("tiles", tiles, (TileSet, Donors))
        known = tuple(RELEASED_WARPS) == tiles.classes
        released = {
            "ties": "lowest",
            "warps": RELEASED_WARPS if known else None,
            "replacement": "if short",
            "clip": False,
            "empty_composites": True,
        }
        return cls(tiles, donors, **{**released, **options})

    def reset(self) -> None:
        """Forget the counts that state="running" carries from batch to batch."""
        self.carried = np.zeros(len(self.donors.classes), np.int64)  # images of each class
        self._carried_of = self.donors.classes

    def plan(self, labels: np.ndarray | Tensor, sides: tuple[int, int] | None = None) -> Plan:
        """Draw the random choices for a batch with labels (B,).

        The plan can be printed, kept and replayed with `apply_plan`.

        Args:
            labels: (B,) int, 0 defect-free, else 1..K.
            sides: Height and width of the batch's images; None: the donors'.
        """
        if not np.ndim(labels):
            raise ValueError(f"labels must be integers of shape (B,), got {labels!r}")
        return self.plan_batches(labels, [len(labels)], sides)[0]

    @_outside_graphs
    def plan_batches(
        self,
        labels: np.ndarray | Tensor,
        sizes: Sequence[int],
        sides: tuple[int, int] | None = None,
    ) -> list[Plan]:
        """Draw a plan for each of several batches together, as for a whole epoch.

        Args:
            labels: (N,), those of the first batch, then those of the second, …
            sizes: How many images each batch has, N in all.
            sides: As in `plan`.
        """
        planner = self._planner()
        if sides is None and not self.donors.whole:
            raise ValueError("sides must be given where the donors are crops")
        self._own_stream()
        if self.donors.classes != self._carried_of:  # the donors were changed
            self.reset()
        return planner.plans(
            labels,
            sizes,
            check_sides(self.donors.sides if sides is None else sides),
            self.carried,
            self.generator,
            running=self.state == "running",
        )

    def _own_stream(self) -> None:
        """In a worker process, let the generator go on by the worker's seed, once a worker."""
        worker = get_worker_info()
        if worker is None or worker.seed == self._worker:
            return
        self._worker = worker.seed
        if self.generator is not None:  # torch's own is seeded by torch
            self.generator = stream(self.generator.initial_seed(), worker.seed)

    @_outside_graphs
    def apply_plan(
        self, plan: Plan, images: Tensor, masks: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the pixels of a plan, without randomness.

        Args:
            plan: As `plan` gives it.
            images: As in `forward`, and so are masks and labels.

        Raises:
            ValueError: A shape or dtype is not as in `forward`, or the plan is for other labels,
                donors or sizes.
        """
        check_type("labels", labels, Tensor)
        self._check_batch(images, masks, labels)
        if images.device.type == "cpu":  # another one would have to be waited for
            _check_range(images)
            check_values(masks, len(self.donors.classes))
        _check_plan(plan, images, labels, self.donors)
        return self._compose(plan, images, masks, labels)

    def _compose(
        self, plan: Plan, images: Tensor, masks: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return inject(
            plan,
            images,
            masks,
            labels,
            self._donors_on(images.device),
            region=self.region,
            guidance=self.guidance,
            label=self.label,
            clip=self.clip,
            empty_composites=self.empty_composites,
        )

    @_outside_graphs
    def forward(
        self, images: Any, masks: Tensor | None = None, labels: Tensor | None = None
    ) -> Any:
        """Balance a copy of the batch.

        Args:
            images: (B, C, H, W), float in [0, 1] or uint8; or the whole batch: a tuple or list of
                images, masks and labels, or of images and masks, or a dict that holds the three
                under `keys`.
            masks: (B, H, W) or (B, 1, H, W) int, class indices; or bool, whether there is a defect.
            labels: (B,) int, 0 defect-free, else 1..K. None: of each image the class with the most
                pixels, 0 if its mask shows none; they are found, and returned, on the CPU.

        Returns:
            Images, masks and labels, or a tuple, list or dict as it was given: the dict's other
            values are handed on. Subclasses of Tensor, such as torchvision's, are kept.

        Raises:
            ValueError: A shape, dtype or value is none of these, or, up to the first batch that
                shows a defect, a mask shows another class than the label says. On another device
                than a CPU, which would have to be waited for, the values of images and masks are
                looked at up to that batch alone. Labels (without them, masks) are read in each:
                keep them on the CPU.

        Warns:
            UserWarning: Labels are to be found, no mask so far shows a class, and some hold 255.
        """
        if masks is None and labels is None:
            return self._balance_structure(images)
        return self._balance(images, masks, labels)

    def _balance(
        self, images: Tensor, masks: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._check_batch(images, masks, labels)
        classes = len(self.donors.classes)
        if not self._checked or images.device.type == "cpu":
            _check_range(images)
            check_values(masks, classes)
        if labels is None:
            labels = self._labels_shown(masks)
        elif not self._checked:
            check_labels(labels, classes)
            self._checked = _check_agreement(masks, labels)
        return self._compose(self.plan(labels, images.shape[2:]), images, masks, labels)

    def _labels_shown(self, masks: Tensor) -> Tensor:
        """The class with the most pixels in each mask, 0 for none: int64 (B,), on the CPU."""
        classes = len(self.donors.classes)
        if masks.dtype == torch.bool and classes > 1:
            raise ValueError(f"masks are bool, so labels must say which of the {classes} classes")
        marks = masks.detach().as_subclass(Tensor).byte().cpu()
        labels = labels_of(marks, classes, strict=False)
        if not self._checked and not labels.any() and (marks == IGNORE).any():
            warnings.warn(
                f"the masks of a batch hold 0 and {IGNORE} alone, and {IGNORE} is ignored, so all "
                "of its images count as defect-free: where it marks a defect, give masks // "
                f"{IGNORE}",
                stacklevel=7,  # the caller of the module
            )
        self._checked |= bool(labels.any())
        return labels

    def _balance_structure(self, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            missing = [key for key in self.keys if key not in batch]
            if missing:
                raise ValueError(
                    f"the batch has the keys {list(batch)}, not {missing[0]!r}: see keys"
                )
            balanced = self._balance(*(batch[key] for key in self.keys))
            found = copy.copy(batch) if isinstance(batch, MutableMapping) else dict(batch)
            found.update(zip(self.keys, balanced, strict=True))
            return found
        if isinstance(batch, tuple | list) and len(batch) in (2, 3):
            balanced = self._balance(*batch)[: len(batch)]
            if hasattr(batch, "_fields"):  # a namedtuple
                return type(batch)(*balanced)
            return list(balanced) if isinstance(batch, list) else balanced
        raise ValueError(
            "a batch is images, masks and, if need be, labels (of each image the class, 0 if "
            f"defect-free), or a tuple, list or dict of them, got {_numbered(batch)}"
        )

    def _check_batch(self, images: Tensor, masks: Tensor, labels: Tensor | None) -> None:
        check_type("donors", self.donors, Donors)
        _check_pixels(images, masks)
        _check_against(self.donors, images, masks, self.place)
        if labels is not None:
            _check_label_row(labels, len(images), len(self.donors.classes))

    def _donors_on(self, device: torch.device) -> Donors:
        """The donors, or their copy on another device; they stay for the workers of a loader."""
        if self.donors.pixels.device == device:
            return self.donors
        source, there = self._moved or (None, None)
        if source is not self.donors or there.pixels.device != device:
            there = self.donors.to(device)
            self._moved = (self.donors, there)
        return there

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "nn.Module":
        """What `.to` and the like call: the donors are copied there now, not in the first batch."""
        device = fn(torch.empty(0, device=self.donors.pixels.device)).device
        if device.type == "cpu":  # what workers and pickles are to have
            self.donors, self._moved = self.donors.to(device), None
        else:
            self._donors_on(device)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a device holds, and keep the generator's state as bytes.

        A torch.Generator cannot be pickled.
        """
        state = {**self.__dict__, "carried": self.carried.copy(), "_moved": None}
        if self.generator is not None:
            state["generator"] = self.generator.get_state().numpy().tobytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.generator, bytes):
            found = torch.from_numpy(np.frombuffer(self.generator, np.uint8).copy())
            self.generator = Generator().set_state(found)

    def extra_repr(self) -> str:
        """Name the donors and the options, for repr."""
        names = inspect.signature(type(self)).parameters.keys() - {"tiles", "donors", "generator"}
        shown = [f"{name}={value!r}" for name, value in vars(self).items() if name in names]
        seed = self.generator and f"Generator(seed {self.generator.initial_seed()})"
        return ", ".join([repr(self.donors), *shown, f"generator={seed}"])


def collate(
    inject: DynamicLabelInjection, after: Callable[..., Any] | None = None
) -> Callable[[Sequence[Any]], Any]:
    """Make a DataLoader's collate function that balances the batch.

    It can be pickled, so that the loader's workers may be forked or spawned. Each worker draws by a
    seed of its own, which the loader draws anew for each epoch from its `generator`.

    Args:
        inject: The transform.
        after: What is done with the balanced batch, in the worker: after(images, masks, labels),
            after(images, masks) of pairs, or after(batch) of a dict. It must be picklable where
            workers are spawned.

    Returns:
        A function of a list of samples, each (image, mask, label), (image, mask) or a dict of the
        three, as `default_collate` takes them.

    Example:
        >>> tiles = dlilib.toy_tiles()
        >>> train, val = dlilib.split(tiles)
        >>> balanced = collate(DynamicLabelInjection(tiles, donors=train))
        >>> loader = torch.utils.data.DataLoader(tiles.subset(train), 64, collate_fn=balanced)
        >>> int((next(iter(loader))[2] == 0).sum())
        0
    """
    check_type("inject", inject, DynamicLabelInjection)
    if after is not None and not callable(after):
        raise ValueError(f"after must be a function, got {after!r}")
    return _Collate(inject, after)


class _Collate:
    def __init__(self, inject: DynamicLabelInjection, after: Callable[..., Any] | None) -> None:
        self.inject, self.after = inject, after

    def __call__(self, samples: Sequence[Any]) -> Any:
        batch = self.inject(default_collate(samples))
        if self.after is None:
            return batch
        return self.after(batch) if isinstance(batch, Mapping) else self.after(*batch)


def _as_donors(
    tiles: TileSet | Donors,
    donors: np.ndarray | Tensor | Sequence[int] | None,
    empty: bool,
    warps: Warp | Mapping[str, Warp] | None,
) -> Donors:
    check_type("tiles", tiles, (TileSet, Donors))
    if isinstance(tiles, TileSet):
        margin = max(MARGIN, _margin(_as_warps(warps, tiles.classes)))
        return Donors.of(tiles, donors, empty=empty, margin=margin)
    if donors is not None:
        raise ValueError("donors are indices into a TileSet: leave them out where Donors are given")
    return tiles


def _as_warps(
    warps: Warp | Mapping[str, Warp] | None, classes: tuple[str, ...]
) -> tuple[Warp, ...]:
    """The warp of each class."""
    if warps is None or isinstance(warps, Warp):
        return (warps or Warp(),) * len(classes)
    if not isinstance(warps, Mapping):
        raise ValueError(f"warps must be a Warp or a dict of them by class, got {warps!r}")
    if unknown := sorted(warps.keys() - set(classes)):
        raise ValueError(f"warps names {unknown}, the classes are {classes}")
    for name, value in warps.items():
        if not isinstance(value, Warp):
            raise ValueError(f"warps[{name!r}] must be a Warp, got {value!r}")
    return tuple(warps.get(name, Warp()) for name in classes)


def _margin(warps: Sequence[Warp]) -> int:
    """Pixels around a donor's defect that a blend of it reads, turned and shrunk by any warp."""
    least = min(1 - warp.scale * (warp.affine > 0) for warp in warps)
    return math.ceil(math.sqrt(2) * READ / least) + 1


def _as_target(target: Mapping[str, float] | None, donors: Donors) -> tuple[float, ...]:
    """What each class's count shall be proportional to; checks that those injected have donors."""
    if target is None:
        wanted = dict.fromkeys(donors.classes, 1.0)
    elif not isinstance(target, Mapping) or set(target) != set(donors.classes):
        raise ValueError(f"target must name each of the classes {donors.classes}, got {target!r}")
    else:
        wanted = {name: target[name] for name in donors.classes}
    for name, value in wanted.items():
        check_number(f"target[{name!r}]", value, 0, math.inf, open_end=True)
    if not any(wanted.values()):
        raise ValueError(f"target must be above 0 for some class, got {target!r}")
    donors.require([name for name, value in wanted.items() if value > 0])
    return tuple(float(value) for value in wanted.values())


def _check_range(images: Tensor) -> None:
    if not images.is_floating_point() or not images.numel():
        return
    low, top = (float(x) for x in images.detach().aminmax())
    if not -SLACK <= low <= top <= 1 + SLACK:
        raise ValueError(
            "float images must lie in [0, 1] as the donors do (bytes are uint8): normalise them "
            f"after the injection, not before; the smallest is {low}, the largest pixel is {top}"
        )


def _numbered(batch: Any) -> str:
    """What a batch is, and of how many things."""
    kind = type(batch).__name__
    return f"a {kind} of {len(batch)}" if isinstance(batch, tuple | list) else kind


def _check_agreement(masks: Tensor, labels: Tensor) -> bool:
    """Check that a batch's masks hold those classes that the labels say.

    Returns whether a mask shows any, without which the batch says too little.
    """
    if not masks.numel():
        return False
    labels = labels.to(masks.device).long()[:, None]
    marks = masks.detach().as_subclass(Tensor).flatten(1)
    if marks.dtype == torch.bool:
        marks = marks * labels.clamp(min=1)  # of whatever class the label says
    ignored = marks == IGNORE
    shown = defective(marks)
    shows, own = shown.any(dim=1), (shown & (marks == labels)).any(dim=1)
    labelled = labels[:, 0] > 0
    if (labelled & ignored.any(dim=1)).any() and not (labelled & shows).any():
        raise ValueError(
            f"masks: the defective images' hold 0 and {IGNORE} alone, and {IGNORE} is ignored: "
            "where it marks a defect, give its class"
        )
    strange = (shows & ~own).nonzero()[:, 0]
    if len(strange):
        row = int(strange[0])
        raise ValueError(
            f"labels[{row}] is {int(labels[row])}, but masks[{row}] marks class "
            f"{int(torch.where(shown[row], marks[row], 0).max())} and not that: are labels and "
            "masks in one order?"
        )
    return bool((labelled & shows).any())


def _check_pixels(images: Tensor, masks: Tensor) -> None:
    for name, value in {"images": images, "masks": masks}.items():
        check_type(name, value, Tensor)
    if images.ndim != 4 or not (images.is_floating_point() or images.dtype == torch.uint8):
        alone = ": give one image alone as images[None]" if images.ndim == 3 else ""
        raise ValueError(
            f"images must be (B, C, H, W), float or uint8, got {images.dtype} "
            f"{tuple(images.shape)}{alone}"
        )
    shapes = ((len(images), *images.shape[2:]), (len(images), 1, *images.shape[2:]))
    if tuple(masks.shape) not in shapes or masks.dtype not in (*INTEGERS, torch.bool):
        raise ValueError(
            "masks must be int or bool, (B, H, W) as the images, got "
            f"{masks.dtype} {tuple(masks.shape)}"
        )
    if masks.device != images.device:
        raise ValueError(
            f"images are on {images.device}, masks on {masks.device}: they must be on one device"
        )


def _check_label_row(labels: Tensor, count: int, most: int) -> None:
    """count: of the images; most: the highest class."""
    check_type("labels", labels, Tensor)
    if labels.shape != (count,):
        raise ValueError(f"labels must be (B,) = ({count},), got {tuple(labels.shape)}")
    if labels.dtype not in INTEGERS:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in INTEGERS)
        raise ValueError(f"labels must be integers ({kinds}), got {labels.dtype}")
    _check_capacity("labels", labels.dtype, most)


def _check_capacity(name: str, dtype: torch.dtype, most: int) -> None:
    if dtype != torch.bool and most > torch.iinfo(dtype).max:
        raise ValueError(f"{name} of {dtype} cannot hold the class {most}")


def _check_against(donors: Donors, images: Tensor, masks: Tensor, place: str) -> None:
    channels, sides = donors.channels, donors.sides
    fits = place == "anywhere" or images.shape[2:] == sides
    if not fits or channels not in (1, images.shape[1]):
        hint = "" if fits else ': place="anywhere" takes batches of another height and width'
        raise ValueError(
            f"the donors' images are {(channels, *sides)}, the batch's {(*images.shape[1:],)}{hint}"
        )
    _check_capacity("masks", masks.dtype, len(donors.classes))


def _check_plan(plan: Plan, images: Tensor, labels: Tensor, donors: Donors) -> None:
    check_type("plan", plan, Plan)
    if plan.donors not in (None, donors.digest):
        raise ValueError("the plan was drawn for other donors than these")
    labels = labels.cpu().long()
    if plan.batch is not None and not torch.equal(plan.batch, labels):
        raise ValueError("the plan was drawn for a batch with other labels, or in another order")
    if plan.sides not in (None, tuple(images.shape[2:])):
        raise ValueError(
            f"the plan was drawn for images of {plan.sides}, the batch's are "
            f"{tuple(images.shape[2:])}"
        )
    if len(plan):
        _check_injections(plan, images, labels, donors)


def _check_injections(plan: Plan, images: Tensor, labels: Tensor, donors: Donors) -> None:
    """Check a plan's columns, which somebody may have made by hand."""
    if int(plan.target.max()) >= len(images):
        raise ValueError(
            f"the plan is for a batch of at least {int(plan.target.max()) + 1}, not {len(images)}"
        )
    position = donors.positions(plan.donor)
    unknown = plan.donor[donors.ids[position] != plan.donor]
    if len(unknown):
        raise ValueError(f"the plan names donor {int(unknown[0])}, which is none of the {donors!r}")
    if int(plan.target.min()) < 0 or (labels[plan.target] != 0).any():
        raise ValueError("the plan's targets must be defect-free images of the batch")
    if len(plan.target.unique()) < len(plan):
        raise ValueError("the plan's targets must be different images")
    if not torch.equal(donors.labels[position], plan.label):
        raise ValueError("the plan's labels must be those of its donors")
    if not plan.maps.isfinite().all():
        raise ValueError("the plan's maps must be finite")
