"""A plan's pixels: warped donors, pasted or blended into a batch, and their labels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import tee

import numpy as np
import torch
from torch import Tensor

from dlilib.augment import mirrors, reach, warp
from dlilib.balance import Plan
from dlilib.blend import Box, Part, corrections, cut_paste, one_by_one, surroundings
from dlilib.donors import Donors
from dlilib.tiles import IGNORE

LABELS = ("dilated", "tight")
FINE = 64  # steps within a grey level in which donors and targets are blended
DILATION = 5  # pixels, side of the square that widens a Poisson mask, as released
READ = DILATION // 2 + 2  # pixels around a defect that its blend reads
AROUND = READ + 1  # and one for rounding


def inject(
    plan: Plan,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    donors: Donors,
    *,
    region: str = "rectangle",
    guidance: str = "mixed",
    label: str = "dilated",
    clip: bool = False,
    empty_composites: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a plan to a batch; images that the plan does not name stay byte-identical.

    Donors and, for the choice between gradients, targets are rounded to 1/64 of a grey level, so
    that every device chooses alike: where two gradients all but tie, the result can differ from
    that of unrounded pixels. Nothing here has gradients, and nothing is checked.

    Args:
        plan: What to inject.
        images: (B, C, H, W) float in [0, 1], or uint8.
        masks: (B, H, W) or (B, 1, H, W), class indices or bool.
        labels: (B,) int.
        donors: Those that the plan names, on the batch's device.
        region: As in `poisson_blend`, and so is guidance.
        guidance: See region.
        label: As in `DynamicLabelInjection`, and so are clip and empty_composites; the defaults are
            as released.
        clip: See label.
        empty_composites: See label. If False, an image of which the plan shows nothing, because all
            of it is ignored, stays as it is.

    Returns:
        New images, masks and labels.
    """
    images, masks, labels = images.detach().clone(), masks.clone(), labels.clone()
    blending = _Blending(
        images, masks, labels, donors, region, guidance, label, clip, not empty_composites
    )
    with torch.inference_mode():
        for poisson in (False, True):
            blending.apply(plan.at(plan.poisson == poisson), poisson)
    return images, masks, labels


@dataclass(frozen=True, eq=False)
class _Spot:
    """Where images get their defects: on a CPU a box of one image, else all images in whole."""

    row: Tensor  # int64 (m,), positions in the batch, on the CPU
    target: Tensor  # the same on the images' device
    value: Tensor  # (m,), what marks their classes in the masks
    box: Box
    donors: Tensor  # (m, C, h, w), 64ths of a grey level
    solid: Tensor  # bool (m, h, w), pixels to be pasted or blended
    marked: Tensor  # bool (m, h, w), pixels to be labelled
    shown: Tensor | None = None  # bool (m,), which images may change; None: all


class _Blending:
    """What a plan does to a batch, in place."""

    def __init__(
        self,
        images: Tensor,
        masks: Tensor,
        labels: Tensor,
        donors: Donors,
        region: str,
        guidance: str,
        label: str,
        clip: bool,
        only_shown: bool,
    ) -> None:
        # views of the same memory, without the ways of subclasses
        self.images, self.labels = images.as_subclass(Tensor), labels.as_subclass(Tensor)
        self.before = self.labels.clone()
        marks = masks.as_subclass(Tensor)
        marks = marks.squeeze(1) if marks.ndim == 4 else marks
        self.binary = marks.dtype == torch.bool
        self.ignores = _may_ignore(marks)
        self.masks = marks.view(torch.uint8) if self.binary else marks
        self.donors, self.region, self.guidance = donors, region, guidance
        self.label, self.clip = label, clip
        self.only_shown = only_shown  # leave images as they are that would show nothing
        self.sides, self.device = tuple(images.shape[2:]), images.device
        self.unit = FINE if images.dtype == torch.uint8 else FINE * 255  # 64ths of a grey level
        self.exact = torch.float64 if images.dtype == torch.float64 else torch.float32

    def apply(self, plan: Plan, poisson: bool) -> None:
        """Inject all of a plan, by Poisson or by cut-paste."""
        if not len(plan):
            return
        rows = plan.target.to(self.labels.device, non_blocking=True)
        self.labels[rows] = plan.label.to(self.labels, non_blocking=True)
        spots = self._spots(plan, poisson)
        if poisson:
            self._blend(spots)
        else:
            self._paste(spots)

    def _spots(self, plan: Plan, poisson: bool) -> Iterator[_Spot]:
        """Warp the donors and find the pixels that they change."""
        positions = self.donors.positions(plan.donor)
        target = plan.target.to(self.device, non_blocking=True)
        value = plan.label.to(self.masks, non_blocking=True)
        if self.binary:
            value = torch.ones_like(value)
        warped = self._one_by_one if one_by_one(self.device) else self._together
        for rows, box, donors, tight in warped(plan, positions):
            ignored = self._ignored(target[rows], box)
            if ignored is not None:
                tight = tight & ~ignored
            solid = self._widened(tight, box) if poisson else tight
            if ignored is not None and poisson:
                solid &= ~ignored
            spot = _Spot(
                plan.target[rows],
                target[rows],
                value[rows],
                box,
                donors.expand(-1, self.images.shape[1], -1, -1),
                solid,
                solid if self.label == "dilated" else tight,
            )
            yield from self._those_shown(spot)

    def _one_by_one(
        self, plan: Plan, positions: Tensor
    ) -> Iterator[tuple[slice, Box, Tensor, Tensor]]:
        """Warp donors in the box that shows their defect, and what a blend of it reads.

        Yields:
            The row of the plan; the box; the donor (1, C, h, w) in 64ths of a grey level, rounded
            so that the rounding of some device does not decide between equal gradients; and its
            mask, bool (1, h, w).
        """
        flips, rest = _flips(plan)
        boxes = dict(zip(rest.tolist(), self._reached(plan.at(rest), positions[rest]), strict=True))
        for k, (position, flip) in enumerate(zip(positions.tolist(), flips.tolist(), strict=True)):
            if k in boxes:
                box = boxes[k]
                found = self._warped(position, plan.maps[k : k + 1], box, _beyond(plan))
            else:
                box, *found = self._mirrored(position, *flip)
            yield slice(k, k + 1), box, *found

    def _mirrored(
        self, position: int, vertically: bool, horizontally: bool
    ) -> tuple[Box, Tensor, Tensor]:
        (pixels, marks), box = self.donors.crop(position), Box(*self.donors.box(position))
        axes = [axis for axis, mirror in ((-2, vertically), (-1, horizontally)) if mirror]
        if axes:
            pixels, marks = pixels.flip(axes), marks.flip(axes)
            box = box.mirrored(self.sides, vertically, horizontally)
        return box, pixels.to(self.exact).mul_(FINE)[None], marks[None]

    def _warped(self, position: int, maps: Tensor, box: Box, beyond: str) -> tuple[Tensor, Tensor]:
        pixels, marks = self.donors.image(position)
        moved, shown = warp(
            pixels[None].to(self.exact).mul_(FINE),
            marks[None],
            maps,
            sides=self.sides,
            beyond=beyond,
            rows=slice(box.top, box.bottom),
            columns=slice(box.left, box.right),
        )
        return moved.round_(), shown

    def _reached(self, plan: Plan, positions: Tensor) -> list[Box]:
        """The box of each image that shows the warped defect, and what its blend needs."""
        _, middle, half = (spot[positions] for spot in self.donors.spots)
        boxes = reach(
            plan.maps,
            middle,
            half,
            source=self.donors.sides,
            target=self.sides,
            beyond=_beyond(plan),
        )
        height, width = self.sides
        low = np.maximum(np.floor(boxes[:, :2] - AROUND), 0)
        high = np.minimum(np.ceil(boxes[:, 2:] + AROUND + 1), (width, height))
        return [
            Box(top, bottom, left, right)
            for (left, top), (right, bottom) in zip(
                low.astype(int).tolist(), high.astype(int).tolist(), strict=True
            )
        ]

    def _together(
        self, plan: Plan, positions: Tensor
    ) -> Iterator[tuple[slice, Box, Tensor, Tensor]]:
        """As `_one_by_one`, all rows at once, in whole images."""
        flips, rest = _flips(plan)
        pixels, inside = self.donors.images(positions, flips)
        fine = pixels.to(self.exact).mul_(FINE)
        rows = rest.to(self.device, non_blocking=True)
        moved, shown = warp(
            fine.index_select(0, rows),
            inside.index_select(0, rows),
            plan.maps[rest],
            sides=self.sides,
            beyond=_beyond(plan),
        )
        moved.round_()
        if plan.place == "as is":
            moved, shown = fine.index_copy_(0, rows, moved), inside.index_copy_(0, rows, shown)
        yield slice(0, len(plan)), Box(0, self.sides[0], 0, self.sides[1]), moved, shown

    def _ignored(self, target: Tensor, box: Box) -> Tensor | None:
        """Which pixels in a box of the images are ignored, bool; None if surely none is."""
        return box.of(self.masks).index_select(0, target) == IGNORE if self.ignores else None

    def _widened(self, tight: Tensor, box: Box) -> Tensor:
        """Widen masks in a box; the outermost ring of the image stays clear."""
        wide = dilate(tight)
        if box.top == 0:
            wide[:, :1] = False
        if box.left == 0:
            wide[:, :, :1] = False
        if box.bottom == self.sides[0]:
            wide[:, -1:] = False
        if box.right == self.sides[1]:
            wide[:, :, -1:] = False
        return wide

    def _those_shown(self, spot: _Spot) -> Iterator[_Spot]:
        """The spot, or what of it is to be seen, where nothing else may change."""
        shown = _any(spot.solid) if self.only_shown else None
        if shown is not None and spot.marked is not spot.solid:
            shown = shown & _any(spot.marked)
        if shown is None or (one_by_one(self.device) and shown):
            yield spot
            return
        device = self.labels.device
        rows = spot.row.to(device, non_blocking=True)
        seen = shown.to(device, non_blocking=device.type != "cpu")  # a CPU would not wait for it
        self.labels[rows] = torch.where(seen, self.labels[rows], self.before[rows])
        if not one_by_one(self.device):
            yield replace(spot, marked=spot.marked & shown[:, None, None], shown=shown)

    def _read(self, values: Tensor, spot: _Spot, box: Box) -> Tensor:
        """What a box of the spot's images holds (m, ..., h, w), not to be changed."""
        part = box.of(values)
        if one_by_one(self.device):
            return part.narrow(0, int(spot.row), 1)
        return part.index_select(0, spot.target)

    def _write(self, values: Tensor, spot: _Spot, box: Box, new: Tensor) -> None:
        part = box.of(values)
        if one_by_one(self.device):
            part.narrow(0, int(spot.row), 1).copy_(new)
        else:
            part.index_copy_(0, spot.target, new)

    def _paste(self, spots: Iterator[_Spot]) -> None:
        for spot in spots:
            pasted = spot.donors / self.unit
            if self.images.dtype == torch.uint8:
                pasted = pasted.round_()
            before = self._read(self.images, spot, spot.box)
            after = cut_paste(before, pasted.to(before), spot.solid)
            self._write(self.images, spot, spot.box, after)
            self._mark(spot)

    def _blend(self, spots: Iterator[_Spot]) -> None:
        ahead, behind = tee(self._with_boxes(spots))
        parts = (self._part(spot, near) for spot, near in ahead)
        changes = corrections(parts, self.sides, self.exact, self.guidance, self.region)
        for (spot, _), (where, change) in zip(behind, changes, strict=True):
            self._add(spot, where, change)
            self._mark(spot)

    def _with_boxes(self, spots: Iterator[_Spot]) -> Iterator[tuple[_Spot, Box]]:
        """Spots with something to blend, and the box in them that matters."""
        for spot in spots:
            (near,) = surroundings(spot.solid)  # of one image, or of all at once
            if near is None:
                self._mark(spot)
            else:
                yield spot, near

    def _part(self, spot: _Spot, near: Box) -> Part:
        box = near.within(spot.box)
        before = self._read(self.images, spot, box).to(self.exact)
        # Counted in 64ths of a level, sums and differences are exact in float32 too.
        background = (before * self.unit).round_()
        inside = near.of(spot.solid[:, None]).to(background)
        return Part(background, near.of(spot.donors), inside, box)

    def _add(self, spot: _Spot, where: Box, change: Tensor) -> None:
        before = self._read(self.images, spot, where)
        composite = before + change.div_(self.unit)
        if self.images.dtype == torch.uint8:
            composite.round_().clamp_(0, 255)
        elif self.clip:  # what the blend leaves as it was may lie a little outside
            composite = torch.where(change == 0, before, composite.clamp_(0, 1))
        composite = composite.to(before)
        kept = self._ignored(spot.target, where)
        if spot.shown is not None:
            hidden = ~spot.shown[:, None, None]
            kept = hidden if kept is None else kept | hidden
        if kept is not None:
            composite = torch.where(kept[:, None], before, composite)
        self._write(self.images, spot, where, composite)

    def _mark(self, spot: _Spot) -> None:
        before = self._read(self.masks, spot, spot.box)
        value = spot.value[:, None, None]
        self._write(self.masks, spot, spot.box, torch.where(spot.marked, value, before))


def _flips(plan: Plan) -> tuple[Tensor, Tensor]:
    """Flips (M, 2) of the donors that are only mirrored, and the rows of those to be warped."""
    flips, rest = mirrors(plan.maps)
    if plan.place == "as is":
        return flips, rest
    return torch.zeros_like(flips), torch.arange(len(plan), device="cpu")


def _beyond(plan: Plan) -> str:
    """What lies beyond a donor's border, as `warp` takes it."""
    return "mirrored" if plan.place == "as is" else "nearest"


def _may_ignore(masks: Tensor) -> bool:
    """Whether any pixel of a batch's masks is ignored; to know it, a GPU would be waited for."""
    if masks.dtype in (torch.bool, torch.int8) or not masks.numel():
        return False
    return masks.device.type != "cpu" or int(masks.amax()) >= IGNORE


def _any(masks: Tensor) -> Tensor:
    """Which masks (M, H, W) bool have any pixel."""
    # the maximum of bytes is found faster than "any" of bool
    return masks.flatten(1).view(torch.uint8).amax(dim=1) > 0


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
