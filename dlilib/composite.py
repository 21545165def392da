"""A plan's pixels: warped donors, pasted or blended into a batch, and their labels."""

import numpy as np
import torch
from torch import Tensor

from dlilib.augment import flip_, mirrors, reach, warp
from dlilib.balance import Plan
from dlilib.blend import Box, correction, cut_paste, surroundings, without_ring
from dlilib.donors import Donors
from dlilib.tiles import IGNORE

LABELS = ("dilated", "tight")
DONORS_AT_ONCE = 8  # on a CPU, so that its caches hold them
FINE = 64  # steps within a grey level in which donors and targets are blended
DILATION = 5  # pixels, side of the square that widens a Poisson mask, as released
MARGIN = DILATION // 2 + 3  # pixels around a defect that its blend reads, and one for rounding


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
    before, labels = labels, labels.clone()
    images, masks = images.detach().clone(), masks.clone()
    blending = _Blending(images, masks, donors, region, guidance, label, clip, not empty_composites)
    rows = plan.target.to(labels.device, non_blocking=True)
    labels[rows] = plan.label.to(labels, non_blocking=True)
    with torch.inference_mode():
        # A class's warps are alike: sorted by class, few chunks need all the steps.
        by_class = plan.at(plan.label.argsort(stable=True))
        for poisson in (False, True):
            chosen = by_class.at(by_class.poisson == poisson)
            for chunk in _chunks(chosen, images.device):
                shown = blending.apply(chunk, poisson)
                if shown is not None:
                    rows = chunk.target.to(labels.device)
                    labels[rows] = torch.where(shown.to(labels.device), labels[rows], before[rows])
    return images, masks, labels


def _chunks(plan: Plan, device: torch.device) -> list[Plan]:
    """Split the plan into chunks that suit the device."""
    if not len(plan):
        return []
    return plan.split(DONORS_AT_ONCE) if device.type == "cpu" else [plan]


class _Blending:
    """What a plan does to the pixels of a batch, in place."""

    def __init__(
        self,
        images: Tensor,
        masks: Tensor,
        donors: Donors,
        region: str,
        guidance: str,
        label: str,
        clip: bool,
        shown: bool,
    ) -> None:
        # views of the same memory, without the ways of subclasses
        self.images = images.as_subclass(Tensor)
        marks = masks.as_subclass(Tensor)
        marks = marks.squeeze(1) if marks.ndim == 4 else marks
        self.binary = marks.dtype == torch.bool
        self.ignores = _may_ignore(marks)
        self.masks = marks.view(torch.uint8) if self.binary else marks
        self.donors, self.region, self.guidance = donors, region, guidance
        self.label, self.clip = label, clip
        self.only_shown = shown  # leave images as they are that would show nothing
        self.unit = FINE if images.dtype == torch.uint8 else FINE * 255  # 64ths of a grey level
        self.exact = torch.float64 if images.dtype == torch.float64 else torch.float32

    def apply(self, plan: Plan, poisson: bool) -> Tensor | None:
        """Inject a chunk; returns which of its images show their defect (M,), None for all."""
        device = self.images.device
        target = plan.target.to(device, non_blocking=True)
        classes = plan.label.to(device, non_blocking=True).to(self.masks.dtype)
        donors, tight = self._warped(plan)
        ignored = self._ignored(target)
        if ignored is not None:
            tight &= ~ignored
        solid = without_ring(dilate(tight)) if poisson else tight
        if ignored is not None and poisson:
            solid &= ~ignored
        marked = solid if self.label == "dilated" else tight
        shown = self._shown(solid, marked)
        if shown is not None:
            marked = marked & shown[:, None, None]
        # one an image, or one for all
        boxes = surroundings(solid if marked is solid else solid | marked)
        at_once = len(plan) // len(boxes)
        for k, box in enumerate(boxes):
            rows = slice(k * at_once, (k + 1) * at_once)
            if poisson:
                kept = self._kept(ignored, shown, rows, solid.shape[1:])
                self._blend(target[rows], donors[rows], solid[rows], box, kept)
            else:
                self._paste(target[rows], donors[rows], solid[rows], box)
            self._mark(target[rows], marked[rows], classes[rows], box)
        return shown

    def _warped(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Warped donors int16 (M, C, H, W) in 64ths of a grey level, masks (M, H, W) bool.

        Rounded so that the rounding of some device does not decide between equal gradients.
        """
        device = self.images.device
        position = self.donors.positions(plan.donor)
        index = position.to(device, non_blocking=True)
        images = self.donors.images.index_select(0, index)
        inside = self.donors.masks.index_select(0, index)
        flips, rest = mirrors(plan.maps)
        if plan.place == "as is":
            flip_(images, inside, flips)
        else:
            rest = torch.arange(len(plan), device="cpu")
        fine, inside = self._moved(plan, position, images.to(torch.int16).mul_(FINE), inside, rest)
        return fine.expand(-1, self.images.shape[1], -1, -1), inside

    def _moved(
        self, plan: Plan, position: Tensor, fine: Tensor, inside: Tensor, rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Warp donors int16 (M, C, h, w) and their masks onto the batch's size.

        rest: those that are to be warped, all of them where the sizes differ. The others stay; a
        CPU leaves alone what no blend reads.
        """
        sides = tuple(self.images.shape[2:])
        beyond = "mirrored" if plan.place == "as is" else "nearest"
        same = fine.shape[2:] == sides
        out = fine if same else fine.new_zeros(*fine.shape[:2], *sides)
        marks = inside if same else inside.new_zeros(len(inside), *sides)
        if out.device.type != "cpu":
            rows = rest.to(out.device, non_blocking=True)
            source = fine.index_select(0, rows).to(self.exact), inside.index_select(0, rows)
            moved, shown = warp(*source, plan.maps[rest], sides=sides, beyond=beyond)
            out.index_copy_(0, rows, moved.round_().to(torch.int16))
            marks.index_copy_(0, rows, shown)
            return out, marks
        matters = self._matters(plan.at(rest), position[rest], beyond)
        for k, (rows, columns) in zip(rest.tolist(), matters, strict=True):
            moved, shown = warp(
                fine[k : k + 1].to(self.exact),
                inside[k : k + 1],
                plan.maps[k : k + 1],
                sides=sides,
                beyond=beyond,
                rows=rows,
                columns=columns,
            )
            out[k, :, rows, columns] = moved[0].round_()
            marks[k] = False
            marks[k, rows, columns] = shown[0]
        return out, marks

    def _matters(self, plan: Plan, position: Tensor, beyond: str) -> list[tuple[slice, slice]]:
        """Rows and columns of each image that show the warped defect, and what its blend needs."""
        _, middle, half = (spot[position] for spot in self.donors.spots)
        height, width = self.images.shape[2:]
        boxes = reach(
            plan.maps,
            middle,
            half,
            source=self.donors.sides,
            target=(height, width),
            beyond=beyond,
        )
        low = np.maximum(np.floor(boxes[:, :2] - MARGIN), 0).astype(int).tolist()
        high = np.ceil(boxes[:, 2:] + MARGIN + 1).astype(int).tolist()
        return [
            (slice(top, bottom), slice(left, right))
            for (left, top), (right, bottom) in zip(low, high, strict=True)
        ]

    def _ignored(self, target: Tensor) -> Tensor | None:
        """Which pixels of the images are ignored, bool (M, H, W); None if surely none is."""
        return self.masks.index_select(0, target) == IGNORE if self.ignores else None

    def _shown(self, solid: Tensor, marked: Tensor) -> Tensor | None:
        """Which images are to show a defect (M,); None for all."""
        if not self.only_shown:
            return None
        shown = _any(solid) if marked is solid else _any(solid) & _any(marked)
        on_cpu = shown.device.type == "cpu"  # another device would have to be waited for
        return None if on_cpu and shown.all() else shown

    @staticmethod
    def _kept(
        ignored: Tensor | None, shown: Tensor | None, rows: slice, sides: torch.Size
    ) -> Tensor | None:
        """Pixels that no blend may change, bool (m, H, W); None: all may be."""
        if shown is None:
            return None if ignored is None else ignored[rows]
        hidden = (~shown[rows, None, None]).expand(-1, *sides)
        return hidden if ignored is None else ignored[rows] | hidden

    def _paste(self, target: Tensor, donors: Tensor, inside: Tensor, box: Box) -> None:
        pasted = box.of(donors).to(self.exact) / self.unit
        if self.images.dtype == torch.uint8:
            pasted = pasted.round()
        part = box.of(self.images)
        before = part.index_select(0, target)
        pasted = pasted.to(self.images.dtype)
        part.index_copy_(0, target, cut_paste(before, pasted, box.of(inside)))

    def _blend(
        self, target: Tensor, donors: Tensor, inside: Tensor, box: Box, kept: Tensor | None
    ) -> None:
        # Counted in 64ths of a level, sums and differences are exact in float32 too.
        before = box.of(self.images).index_select(0, target).to(self.exact)
        background = (before * self.unit).round_()
        where, change = correction(
            background,
            box.of(donors).to(background),
            box.of(inside[:, None]).to(background),
            box,
            self.images.shape[2:],
            background.dtype,
            guidance=self.guidance,
            region=self.region,
        )
        part = where.of(self.images)
        old = part.index_select(0, target)
        composite = old + change.div_(self.unit)
        if self.images.dtype == torch.uint8:
            composite.round_().clamp_(0, 255)
        elif self.clip:
            composite.clamp_(0, 1)
        composite = composite.to(self.images.dtype)
        if kept is not None:
            composite = torch.where(where.of(kept)[:, None], old, composite)
        part.index_copy_(0, target, composite)

    def _mark(self, target: Tensor, inside: Tensor, classes: Tensor, box: Box) -> None:
        part = box.of(self.masks)
        before = part.index_select(0, target)
        value = torch.ones_like(classes) if self.binary else classes
        part.index_copy_(0, target, torch.where(box.of(inside), value[:, None, None], before))


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
