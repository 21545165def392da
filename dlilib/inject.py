"""A plan's pixels, and the transform that balances a batch with them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from dlilib.augment import Warp, flip_, mirrors, warp
from dlilib.balance import TIES, UNTIL, DonorBank, Plan, plan_batches
from dlilib.poisson import GUIDANCES, REGIONS, correction, cut_paste, surroundings, without_ring
from dlilib.tiles import TileSet

INDICES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LABELS = ("dilated", "tight")
DONORS_AT_ONCE = 8  # on a CPU, so that its caches hold them
FINE = 64  # steps within a grey level in which donors and targets are blended
DILATION = 5  # pixels, side of the square that widens a Poisson mask, as released


def inject(
    plan: Plan, images: Tensor, masks: Tensor, labels: Tensor, tiles: TileSet, region: str = "rectangle",
    guidance: str = "mixed", label: str = "dilated",
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a plan to a batch: new (images, masks, labels); rows that the plan does not name stay byte-identical.

    images: (B, C, H, W) float in [0, 1], or uint8; masks: (B, H, W) int, class indices; labels: (B,) int. The donors'
    images and masks come from `tiles`, of the same size and on the same device.
    region, guidance: as in `poisson_blend`. label: what a Poisson composite is labelled with: "dilated", the widened
    mask it was blended with (as released), or "tight", the donor's own mask.
    Float results are not clipped to [0, 1], as released; uint8 ones are to 0..255. Nothing here has gradients.
    Donors and, for the choice between gradients, targets are rounded to 1/64 of a grey level, so that every device
    chooses alike: where two gradients all but tie, the result can differ from that of unrounded pixels.
    """
    images, masks, labels = images.detach().clone(), masks.clone(), labels.clone()
    with torch.inference_mode():
        _inject(plan, images, masks, tiles, region, guidance, label)
    labels[plan.target.to(labels.device, non_blocking=True)] = plan.label.to(labels, non_blocking=True)
    return images, masks, labels


def _inject(
    plan: Plan, images: Tensor, masks: Tensor, tiles: TileSet, region: str, guidance: str, label: str
) -> None:
    on_cpu = images.device.type == "cpu"
    by_class = plan.at(plan.label.argsort(stable=True))  # a class's warps are alike: few parts need all the steps
    for poisson in (False, True):
        some = by_class.at(by_class.poisson == poisson)
        for part in some.split(DONORS_AT_ONCE if on_cpu else len(some)) if len(some) else ():
            target, classes = (x.to(images.device, non_blocking=True) for x in (part.target, part.label))
            donors, tight = _donors(part, tiles, images)
            solid = without_ring(dilate(tight)) if poisson else tight
            marked = solid if label == "dilated" else tight
            pieces = (x.split(1 if on_cpu else len(part)) for x in (target, donors, solid, marked, classes))
            for box, here, donor, inside, mark, c in zip(surroundings(solid), *pieces, strict=True):
                if poisson:
                    _blend(images, here, donor, inside, box, region, guidance)
                else:
                    _paste(images, here, donor, inside, box)
                marks = torch.where(mark[box], c.to(masks.dtype)[:, None, None], masks[box].index_select(0, here))
                masks[box].index_copy_(0, here, marks)


def _paste(images: Tensor, target: Tensor, donors: Tensor, inside: Tensor, box: tuple) -> None:
    pasted = donors[box].to(_exact(images)) / _unit(images)
    pasted = (pasted.round() if images.dtype == torch.uint8 else pasted).to(images.dtype)
    images[box].index_copy_(0, target, cut_paste(images[box].index_select(0, target), pasted, inside[box]))


def _blend(
    images: Tensor, target: Tensor, donors: Tensor, inside: Tensor, box: tuple, region: str, guidance: str
) -> None:
    # Counted in 64ths of a level, sums and differences are exact in float32 too.
    background = (images[box].index_select(0, target).to(_exact(images)) * _unit(images)).round_()
    fields = background, donors[box].to(background), inside[:, None][box].to(background)
    where, change = correction(*fields, guidance, region, box, images.shape[2:], background.dtype)
    composite = images[where].index_select(0, target) + change.div_(_unit(images))
    if images.dtype == torch.uint8:
        composite.round_().clamp_(0, 255)
    images[where].index_copy_(0, target, composite.to(images.dtype))


def _unit(images: Tensor) -> int:
    """64ths of a grey level in the images' unit."""
    return FINE if images.dtype == torch.uint8 else FINE * 255


def _exact(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def dilate(masks: Tensor, side: int = DILATION) -> Tensor:
    """Masks (B, H, W) bool, widened by a square of `side` pixels, which is odd."""
    for axis in (1, 2):
        wide, length = masks.clone(), masks.shape[axis]
        for shift in range(1, min(side // 2, length - 1) + 1):
            rest = length - shift
            wide.narrow(axis, shift, rest).logical_or_(masks.narrow(axis, 0, rest))
            wide.narrow(axis, 0, rest).logical_or_(masks.narrow(axis, shift, rest))
        masks = wide
    return masks


class DynamicLabelInjection(nn.Module):
    """Balance a batch by injecting donors' defects into its free images (Caruso et al., ECCV-W 2024, Algorithm 1).

    transform(images, masks, labels) takes images (B, C, H, W) float in [0, 1] or uint8, masks (B, H, W) int with class
    indices, labels (B,) int (0 free, else 1..K) on one device and returns new tensors of the same dtypes there; the
    inputs are not changed. NaN and floats in 0..255 are refused on a CPU; another device is not made to wait for that.
    Every random choice comes from `generator` (None: torch's default one).

    tiles: where the donors come from; size as the batches'. donors: indices into tiles, usually the training split;
        None: all. Only defective ones are used.
    p_poisson: probability of Poisson blending rather than cut-paste, per injection.
    until, replacement, ties: as in `balance.plan`. region, guidance, label: as in `inject`. warps: class name -> Warp.
    """

    def __init__(
        self, tiles: TileSet, donors: np.ndarray | Tensor | None = None, p_poisson: float = 0.5,
        until: str = "filled", region: str = "rectangle", guidance: str = "mixed", label: str = "dilated",
        replacement: bool = False, warps: dict[str, Warp] | None = None, generator: Generator | None = None,
        ties: str = "lowest",
    ) -> None:
        super().__init__()
        if not 0 <= p_poisson <= 1:
            raise ValueError(f"p_poisson must lie in [0, 1], got {p_poisson}")
        options = {"until": UNTIL, "ties": TIES, "region": REGIONS, "guidance": GUIDANCES, "label": LABELS}
        given = {"until": until, "ties": ties, "region": region, "guidance": guidance, "label": label}
        for name, value in given.items():
            if value not in options[name]:
                raise ValueError(f"{name} must be one of {options[name]}, got {value!r}")
        self.tiles, self.bank, self.generator = tiles, DonorBank.of(tiles, donors, warps), generator
        self.p_poisson, self.until, self.ties, self.replacement = p_poisson, until, ties, replacement
        self.region, self.guidance, self.label = region, guidance, label

    def plan(self, labels: Tensor) -> Plan:
        """The random choices for a batch with labels (B,): to be printed, kept and replayed with `apply_plan`."""
        return self.plan_batches(labels, [len(labels)])[0]

    def plan_batches(self, labels: Tensor, sizes: Sequence[int]) -> list[Plan]:
        """A plan for each of several batches, whose labels (N,) follow one another, drawn together; see `balance`."""
        return plan_batches(
            labels, sizes, self.bank, self.p_poisson, self.until, self.replacement, self.generator, self.ties
        )

    def apply_plan(self, plan: Plan, images: Tensor, masks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pixels of a plan, without randomness; arguments and results as `forward`. ValueError on other shapes."""
        _check_batch(images, masks, labels, self.tiles)
        if len(plan) and int(plan.target.max()) >= len(images):
            raise ValueError(f"the plan is for a batch of at least {int(plan.target.max()) + 1}, not {len(images)}")
        if len(plan) and int(plan.donor.max()) >= len(self.tiles):
            raise ValueError(f"the plan's donors reach {int(plan.donor.max())}, there are {len(self.tiles)} tiles")
        if self.tiles.images.device != images.device:
            self.tiles = self.tiles.to(images.device)
        return inject(plan, images, masks, labels, self.tiles, self.region, self.guidance, self.label)

    def forward(self, images: Tensor, masks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A balanced copy of the batch: images (B, C, H, W), masks (B, H, W), labels (B,)."""
        _check_range(images)
        return self.apply_plan(self.plan(labels), images, masks, labels)

    def extra_repr(self) -> str:
        names = ("p_poisson", "until", "ties", "region", "guidance")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _donors(plan: Plan, tiles: TileSet, like: Tensor) -> tuple[Tensor, Tensor]:
    """Warped donors int16 (M, C, H, W) in 64ths of a grey level, masks (M, H, W) bool of their class.

    Rounded so that the rounding of some device does not decide between equal gradients.
    """
    index, label = (x.to(like.device, non_blocking=True) for x in (plan.donor, plan.label))
    images, masks = (x.index_select(0, index) for x in (tiles.images, tiles.masks))
    inside = masks == label.to(masks.dtype)[:, None, None].repeat(1, *masks.shape[1:])  # on a CPU quicker than expanded
    flips, rest = mirrors(plan.maps)
    flip_(images, inside, flips)
    fine = images.to(torch.int16).mul_(FINE)
    if len(rest):
        rows = rest.to(like.device, non_blocking=True)
        moved = fine.index_select(0, rows).to(_exact(like))
        moved, marks = warp(moved, inside.index_select(0, rows), plan.maps[rest])
        fine.index_copy_(0, rows, moved.round_().to(torch.int16))
        inside.index_copy_(0, rows, marks)
    return fine.expand(-1, like.shape[1], -1, -1), inside


def _check_range(images: Tensor) -> None:
    asked = isinstance(images, Tensor) and images.device.type == "cpu" and images.is_floating_point() and images.numel()
    if not asked:
        return
    low, top = (float(x) for x in images.aminmax())
    if not -0.5 <= low <= top <= 2:  # composites may leave [0, 1] by a little
        raise ValueError(
            f"float images must lie in [0, 1] (bytes are uint8), the smallest is {low}, the largest pixel is {top}"
        )


def _check_batch(images: Tensor, masks: Tensor, labels: Tensor, tiles: TileSet) -> None:
    for name, value in {"images": images, "masks": masks, "labels": labels}.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if images.ndim != 4 or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise ValueError(f"images must be (B, C, H, W), float or uint8, got {images.dtype} {tuple(images.shape)}")
    if masks.shape != (len(images), *images.shape[2:]) or masks.dtype not in INDICES:
        raise ValueError(f"masks must be int (B, H, W) as the images, got {masks.dtype} {tuple(masks.shape)}")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must be (B,) = ({len(images)},), got {tuple(labels.shape)}")
    if masks.device != images.device:
        raise ValueError(f"images are on {images.device}, masks on {masks.device}: they must be on one device")
    if images.shape[2:] != tiles.images.shape[2:] or tiles.images.shape[1] not in (1, images.shape[1]):
        raise ValueError(f"the donors' images are {(*tiles.images.shape[1:],)}, the batch's {(*images.shape[1:],)}")
