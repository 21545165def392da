"""A plan's pixels, and the transform that balances a batch with them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from dlilib.augment import Warp, flip_, mirrors, warp
from dlilib.balance import TIES, UNTIL, DonorBank, Plan, plan_batches
from dlilib.blend import (
    GUIDANCES,
    REGIONS,
    Box,
    correction,
    cut_paste,
    surroundings,
    without_ring,
)
from dlilib.tiles import TileSet

INDICES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LABELS = ("dilated", "tight")
DONORS_AT_ONCE = 8  # on a CPU, so that its caches hold them
FINE = 64  # steps within a grey level in which donors and targets are blended
DILATION = 5  # pixels, side of the square that widens a Poisson mask, as released


class DynamicLabelInjection(nn.Module):
    """Balance a batch by injecting donors' defects into its defect-free images.

    Caruso et al., ECCV-W 2024, Algorithm 1. transform(images, masks, labels) returns new tensors of
    the same dtypes on the same device; its inputs are not changed. NaN and floats in 0..255 are
    refused on a CPU; another device is not made to wait for that.

    Args:
        tiles: Where the donors come from; of the batches' size.
        donors: Indices into tiles, usually the training split; None: all. Only defective ones are
            used.
        p_poisson: Probability of Poisson blending rather than cut-paste, per injection.
        until: As in `balance.plan_classes`.
        region: As in `blend.poisson_blend`.
        guidance: As in `blend.poisson_blend`.
        label: As in `inject`.
        replacement: As in `balance.plan`.
        warps: Class name -> Warp; None: as released.
        generator: Of every random choice; None: torch's default one.
        ties: As in `balance.plan_classes`.

    Raises:
        ValueError: An option is none of these, or a class has no donor.

    Example:
        >>> tiles = dlilib.toy_tiles()
        >>> transform = DynamicLabelInjection(tiles)
        >>> images, masks, labels = tiles.images[:64], tiles.masks[:64], tiles.labels[:64]
        >>> images, masks, labels = transform(images, masks, labels)
        >>> int((labels == 0).sum())
        0
    """

    def __init__(
        self,
        tiles: TileSet,
        donors: np.ndarray | Tensor | None = None,
        p_poisson: float = 0.5,
        until: str = "filled",
        region: str = "rectangle",
        guidance: str = "mixed",
        label: str = "dilated",
        replacement: bool = False,
        warps: dict[str, Warp] | None = None,
        generator: Generator | None = None,
        ties: str = "lowest",
    ) -> None:
        super().__init__()
        if not 0 <= p_poisson <= 1:
            raise ValueError(f"p_poisson must lie in [0, 1], got {p_poisson}")
        _check_option("until", until, UNTIL)
        _check_option("ties", ties, TIES)
        _check_option("region", region, tuple(REGIONS))
        _check_option("guidance", guidance, tuple(GUIDANCES))
        _check_option("label", label, LABELS)
        self.tiles, self.bank, self.generator = tiles, DonorBank.of(tiles, donors, warps), generator
        self.p_poisson, self.until, self.ties = p_poisson, until, ties
        self.region, self.guidance, self.label = region, guidance, label
        self.replacement = replacement

    def plan(self, labels: Tensor) -> Plan:
        """Draw the random choices for a batch with labels (B,).

        The plan can be printed, kept and replayed with `apply_plan`.
        """
        return self.plan_batches(labels, [len(labels)])[0]

    def plan_batches(self, labels: Tensor, sizes: Sequence[int]) -> list[Plan]:
        """Draw a plan for each of several batches together, as `balance.plan_batches`."""
        return plan_batches(
            labels,
            sizes,
            self.bank,
            p_poisson=self.p_poisson,
            until=self.until,
            replacement=self.replacement,
            generator=self.generator,
            ties=self.ties,
        )

    def apply_plan(
        self, plan: Plan, images: Tensor, masks: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the pixels of a plan, without randomness.

        Args:
            plan: As `plan` gives it.
            images: As in `forward`, and so are masks and labels.

        Raises:
            ValueError: A shape or dtype is not as in `forward`, or the plan is for another batch.
        """
        _check_batch(images, masks, labels, self.tiles)
        if len(plan) and int(plan.target.max()) >= len(images):
            raise ValueError(
                f"the plan is for a batch of at least {int(plan.target.max()) + 1}, not "
                f"{len(images)}"
            )
        if len(plan) and int(plan.donor.max()) >= len(self.tiles):
            raise ValueError(
                f"the plan's donors reach {int(plan.donor.max())}, there are {len(self.tiles)} "
                "tiles"
            )
        if self.tiles.images.device != images.device:
            self.tiles = self.tiles.to(images.device)
        return inject(
            plan, images, masks, labels, self.tiles, self.region, self.guidance, self.label
        )

    def forward(
        self, images: Tensor, masks: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Balance a copy of the batch.

        Args:
            images: (B, C, H, W), float in [0, 1] or uint8.
            masks: (B, H, W) int, class indices.
            labels: (B,) int, 0 defect-free, else 1..K.
        """
        _check_range(images)
        return self.apply_plan(self.plan(labels), images, masks, labels)

    def extra_repr(self) -> str:
        """Name the options, for repr."""
        names = ("p_poisson", "until", "ties", "region", "guidance")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def inject(
    plan: Plan,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    tiles: TileSet,
    region: str = "rectangle",
    guidance: str = "mixed",
    label: str = "dilated",
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a plan to a batch; images that the plan does not name stay byte-identical.

    Donors and, for the choice between gradients, targets are rounded to 1/64 of a grey level, so
    that every device chooses alike: where two gradients all but tie, the result can differ from
    that of unrounded pixels. Nothing here has gradients.

    Args:
        plan: What to inject.
        images: (B, C, H, W) float in [0, 1], or uint8.
        masks: (B, H, W) int, class indices.
        labels: (B,) int.
        tiles: Where the donors' images and masks come from, of the batch's size and device.
        region: As in `poisson_blend`.
        guidance: As in `poisson_blend`.
        label: What a Poisson composite is labelled with: "dilated", the widened mask it was blended
            with (as released), or "tight", the donor's own mask.

    Returns:
        New images, masks and labels. Float images are not clipped to [0, 1], as released; uint8
        ones are to 0..255.
    """
    images, masks, labels = images.detach().clone(), masks.clone(), labels.clone()
    with torch.inference_mode():
        # A class's warps are alike: sorted by class, few chunks need all the steps.
        by_class = plan.at(plan.label.argsort(stable=True))
        for poisson in (False, True):
            chosen = by_class.at(by_class.poisson == poisson)
            for chunk in _chunks(chosen, images.device):
                _inject_chunk(chunk, poisson, images, masks, tiles, region, guidance, label)
    rows = plan.target.to(labels.device, non_blocking=True)
    labels[rows] = plan.label.to(labels, non_blocking=True)
    return images, masks, labels


def _chunks(plan: Plan, device: torch.device) -> list[Plan]:
    """Split the plan into chunks that suit the device."""
    if not len(plan):
        return []
    return plan.split(DONORS_AT_ONCE) if device.type == "cpu" else [plan]


def _inject_chunk(
    plan: Plan,
    poisson: bool,
    images: Tensor,
    masks: Tensor,
    tiles: TileSet,
    region: str,
    guidance: str,
    label: str,
) -> None:
    """Inject a chunk into `images` and `masks`, in place."""
    target = plan.target.to(images.device, non_blocking=True)
    classes = plan.label.to(images.device, non_blocking=True).to(masks.dtype)
    donors, tight = _donors(plan, tiles, images)
    solid = without_ring(dilate(tight)) if poisson else tight
    marked = solid if label == "dilated" else tight
    boxes = surroundings(solid)  # one an image, or one for all
    at_once = len(plan) // len(boxes)
    for k, box in enumerate(boxes):
        rows = slice(k * at_once, (k + 1) * at_once)
        if poisson:
            _blend(images, target[rows], donors[rows], solid[rows], box, region, guidance)
        else:
            _paste(images, target[rows], donors[rows], solid[rows], box)
        _mark(masks, target[rows], marked[rows], classes[rows], box)


def _paste(images: Tensor, target: Tensor, donors: Tensor, inside: Tensor, box: Box) -> None:
    pasted = box.of(donors).to(_exact(images)) / _unit(images)
    if images.dtype == torch.uint8:
        pasted = pasted.round()
    part = box.of(images)
    before = part.index_select(0, target)
    part.index_copy_(0, target, cut_paste(before, pasted.to(images.dtype), box.of(inside)))


def _blend(
    images: Tensor,
    target: Tensor,
    donors: Tensor,
    inside: Tensor,
    box: Box,
    region: str,
    guidance: str,
) -> None:
    # Counted in 64ths of a level, sums and differences are exact in float32 too.
    before = box.of(images).index_select(0, target).to(_exact(images))
    background = (before * _unit(images)).round_()
    where, change = correction(
        background,
        box.of(donors).to(background),
        box.of(inside[:, None]).to(background),
        box,
        images.shape[2:],
        background.dtype,
        guidance=guidance,
        region=region,
    )
    part = where.of(images)
    composite = part.index_select(0, target) + change.div_(_unit(images))
    if images.dtype == torch.uint8:
        composite.round_().clamp_(0, 255)
    part.index_copy_(0, target, composite.to(images.dtype))


def _mark(masks: Tensor, target: Tensor, inside: Tensor, classes: Tensor, box: Box) -> None:
    part = box.of(masks)
    before = part.index_select(0, target)
    part.index_copy_(0, target, torch.where(box.of(inside), classes[:, None, None], before))


def _unit(images: Tensor) -> int:
    """64ths of a grey level in the images' unit."""
    return FINE if images.dtype == torch.uint8 else FINE * 255


def _exact(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def dilate(masks: Tensor, side: int = DILATION) -> Tensor:
    """Widen masks (B, H, W) bool by a square of `side` pixels, which is odd."""
    for axis in (1, 2):
        wide, length = masks.clone(), masks.shape[axis]
        for shift in range(1, min(side // 2, length - 1) + 1):
            rest = length - shift
            wide.narrow(axis, shift, rest).logical_or_(masks.narrow(axis, 0, rest))
            wide.narrow(axis, 0, rest).logical_or_(masks.narrow(axis, shift, rest))
        masks = wide
    return masks


def _donors(plan: Plan, tiles: TileSet, like: Tensor) -> tuple[Tensor, Tensor]:
    """Warped donors int16 (M, C, H, W) in 64ths of a grey level, masks (M, H, W) bool.

    Rounded so that the rounding of some device does not decide between equal gradients.
    """
    index = plan.donor.to(like.device, non_blocking=True)
    label = plan.label.to(like.device, non_blocking=True)
    images, masks = tiles.images.index_select(0, index), tiles.masks.index_select(0, index)
    # on a CPU faster repeated than expanded
    wanted = label.to(masks.dtype)[:, None, None].repeat(1, *masks.shape[1:])
    inside = masks == wanted
    flips, rest = mirrors(plan.maps)
    flip_(images, inside, flips)
    fine = images.to(torch.int16).mul_(FINE)
    if len(rest):
        rows = rest.to(like.device, non_blocking=True)
        moved, marks = warp(
            fine.index_select(0, rows).to(_exact(like)),
            inside.index_select(0, rows),
            plan.maps[rest],
        )
        fine.index_copy_(0, rows, moved.round_().to(torch.int16))
        inside.index_copy_(0, rows, marks)
    return fine.expand(-1, like.shape[1], -1, -1), inside


def _check_option(name: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be one of {options}, got {value!r}")


def _check_range(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point() or not images.numel():
        return
    if images.device.type != "cpu":  # it would have to be waited for
        return
    low, top = (float(x) for x in images.detach().aminmax())
    if not -0.5 <= low <= top <= 2:  # composites may leave [0, 1] by a little
        raise ValueError(
            f"float images must lie in [0, 1] (bytes are uint8), the smallest is {low}, the "
            f"largest pixel is {top}"
        )


def _check_batch(images: Tensor, masks: Tensor, labels: Tensor, tiles: TileSet) -> None:
    for name, value in {"images": images, "masks": masks, "labels": labels}.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if images.ndim != 4 or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise ValueError(
            f"images must be (B, C, H, W), float or uint8, got {images.dtype} {tuple(images.shape)}"
        )
    if masks.shape != (len(images), *images.shape[2:]) or masks.dtype not in INDICES:
        raise ValueError(
            f"masks must be int (B, H, W) as the images, got {masks.dtype} {tuple(masks.shape)}"
        )
    if labels.shape != (len(images),):
        raise ValueError(f"labels must be (B,) = ({len(images)},), got {tuple(labels.shape)}")
    if masks.device != images.device:
        raise ValueError(
            f"images are on {images.device}, masks on {masks.device}: they must be on one device"
        )
    channels, *sides = tiles.images.shape[1:]
    if images.shape[2:] != torch.Size(sides) or channels not in (1, images.shape[1]):
        raise ValueError(
            f"the donors' images are {(channels, *sides)}, the batch's {(*images.shape[1:],)}"
        )
