"""Batched cut-paste and gradient-domain blending.

After Pérez, Gangnet and Blake, Poisson image editing, 2003. Both solvers look for the correction
d = result - target. Its right-hand side vanishes away from the mask and its boundary values are
zero, which keeps float32 accurate and leaves what is not to change exactly as it was.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlilib import multigrid
from dlilib.checks import check_option

FOLDED = 192  # pixels inside the outermost ring, from where on sine transforms are folded
FULL = 0.75  # of a side, from where on a part of it is folded too
SMALL = 31  # pixels, longer side of boxes that are all solved for together
GATHERED = 2**21  # pixels of masks that are in memory at a time
TOGETHER = 2**18  # pixels that are solved for together on a CPU, so that its caches hold them


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows top..bottom - 1, columns left..right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, pixels: Tensor) -> Tensor:
        """The part of (..., H, W) in the box, as a view."""
        return pixels[..., self.top : self.bottom, self.left : self.right]

    def within(self, other: "Box") -> "Box":
        """This part of the other box, in the coordinates that the other's are given in."""
        return Box(
            other.top + self.top,
            other.top + self.bottom,
            other.left + self.left,
            other.left + self.right,
        )

    def mirrored(self, sides: tuple[int, int], vertically: bool, horizontally: bool) -> "Box":
        """The box in the mirrored image (height, width)."""
        height, width = sides
        rows = (height - self.bottom, height - self.top) if vertically else (self.top, self.bottom)
        columns = (
            (width - self.right, width - self.left) if horizontally else (self.left, self.right)
        )
        return Box(*rows, *columns)

    def without_ring(self) -> "Box":
        """The box without its outermost ring of pixels."""
        return Box(self.top + 1, self.bottom - 1, self.left + 1, self.right - 1)


def cut_paste(target: Tensor, donor: Tensor, mask: Tensor) -> Tensor:
    """Paste `donor` where `mask`; `target` elsewhere, bit for bit.

    Args:
        target: (B, C, H, W).
        donor: (B, C, H, W), of the same dtype.
        mask: (B, H, W) bool.

    Returns:
        A new (B, C, H, W) tensor.

    Raises:
        ValueError: Shapes, dtypes or devices are other than these.

    Example:
        >>> mask = torch.tensor([[[True, False]]])
        >>> cut_paste(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2), mask)
        tensor([[[[1., 0.]]]])
    """
    _check(target, donor, mask)
    return torch.where(mask[:, None], donor, target)


def poisson_blend(
    target: Tensor,
    donor: Tensor,
    mask: Tensor,
    *,
    guidance: str = "mixed",
    region: str = "rectangle",
) -> Tensor:
    """Blend `donor` into `target` so that the gradients inside `mask` follow the guidance.

    The mask's pixels on the outermost ring of the image are ignored. An empty mask returns the
    target; one that covers everything imports the donor's gradients between all pixels but the
    ring's.

    Args:
        target: (B, C, H, W) float, any range. Half precision is solved for in float32 and rounded
            at the end.
        donor: (B, C, H, W), of the same dtype.
        mask: (B, H, W) bool.
        guidance: "mixed" takes, per axis, the larger in magnitude of both gradients (ties: the
            target's), as released; "donor" takes the donor's, as the paper's equation 2.
        region: "rectangle", as released: every pixel but the image's outermost ring is solved for,
            from forward differences, with the target's ring as Dirichlet data, so that pixels
            outside the mask change too, most of all beside it. "mask": only the mask's pixels
            change (Pérez's 4-neighbour equations, solved in float64 to a relative residual of
            2e-7).

    Returns:
        A new (B, C, H, W) tensor, not clipped. Gradients flow to target and donor.

    Raises:
        ValueError: Shapes, dtypes, devices or options are other than these; on a CPU also for NaN
            and infinity.

    Example:
        >>> target, donor = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)
        >>> mask = torch.zeros(2, 64, 64, dtype=torch.bool)
        >>> mask[:, 20:40, 20:40] = True
        >>> poisson_blend(target, donor, mask).shape
        torch.Size([2, 1, 64, 64])
    """
    _check(target, donor, mask)
    if not target.is_floating_point():
        raise ValueError(f"poisson_blend needs float images, got {target.dtype}")
    if one_by_one(target.device) and not all(_finite(x) for x in (target, donor)):
        raise ValueError(
            "target and donor must be finite: one such pixel spreads over the whole image"
        )
    check_option("guidance", guidance, tuple(GUIDANCES))
    check_option("region", region, tuple(REGIONS))
    blended = target.clone()
    if not len(target):
        return blended
    inside = without_ring(mask)[:, None]  # (B, 1, H, W)
    whole = Box(0, target.shape[2], 0, target.shape[3])
    boxes = [box or whole for box in surroundings(inside)]
    at_once = len(target) // len(boxes)
    solved = torch.float64 if target.dtype == torch.float64 else torch.float32
    chunks = [(slice(k * at_once, (k + 1) * at_once), box) for k, box in enumerate(boxes)]
    # In float64 the gradients of float32 images are exact, so that rounding never decides between
    # two of them.
    parts = (
        Part(*[box.of(x[rows]).double() for x in (target, donor, inside)], box)
        for rows, box in chunks
    )
    changes = corrections(parts, target.shape[2:], solved, guidance=guidance, region=region)
    for (rows, _), (where, change) in zip(chunks, changes, strict=True):
        where.of(blended[rows]).add_(change)
    return blended


@dataclass(frozen=True, eq=False)
class Part:
    """Some images, or the same box of each: what a blend of them reads.

    The dtype of all three holds sums and differences of their pixels exactly.
    """

    target: Tensor  # (B, C, h, w)
    donor: Tensor  # (B, C, h, w)
    inside: Tensor  # (B, 1, h, w), 0 or 1, without the image's ring
    box: Box  # as `surroundings` gives it


def corrections(
    parts: Iterable[Part],
    sides: tuple[int, int],
    dtype: torch.dtype,
    guidance: str,
    region: str,
) -> Iterator[tuple[Box, Tensor]]:
    """Compute what blending changes.

    Args:
        parts: Of images of one size.
        sides: Height and width of the whole images.
        dtype: Of the solution.
        guidance: As in `poisson_blend`.
        region: As in `poisson_blend`.

    Yields:
        For each part the box that may change, and the change (B, C, ...) of its pixels.
    """
    if min(sides) < 3:  # all ring
        for part in parts:
            yield Box(0, 0, 0, 0), (part.donor - part.target)[..., :0, :0].to(dtype)
        return
    yield from REGIONS[region](parts, sides, dtype, guidance)


def one_by_one(device: torch.device) -> bool:
    """Whether images are computed one at a time, in the boxes that matter: on a CPU.

    Its caches hold one image. A GPU computes all images at once, in whole, and is waited for by
    nothing.
    """
    return device.type == "cpu"


def surroundings(masks: Tensor) -> list[Box | None]:
    """Find the pixels that matter for masks (B, ..., H, W) bool, by image or for all at once.

    What matters is the box around the mask, with the pixel before and the two after it: beyond,
    every right-hand side is 0. None: nothing does.
    """
    height, width = masks.shape[-2:]
    if not one_by_one(masks.device):
        return [Box(0, height, 0, width)]
    # the maximum of bytes is found ten times as fast as "any" of bool
    planes = masks.reshape(-1, height, width).view(torch.uint8)
    occupied = planes.amax(dim=2).numpy(), planes.amax(dim=1).numpy()
    return [
        Box(*_span(rows), *_span(columns)) if rows.any() else None
        for rows, columns in zip(*occupied, strict=True)
    ]


def _span(occupied: np.ndarray) -> tuple[int, int]:
    """From the place before the first one that is not 0 to two after the last."""
    places = occupied.nonzero()[0]
    return max(int(places[0]) - 1, 0), min(int(places[-1]) + 3, len(occupied))


def without_ring(mask: Tensor) -> Tensor:
    """Copy the mask (B, H, W) with the outermost ring of pixels cleared."""
    inner = torch.zeros_like(mask)
    inner[..., 1:-1, 1:-1] = mask[..., 1:-1, 1:-1]
    return inner


def _finite(x: Tensor) -> bool:
    # NaN spreads to both ends
    return not x.numel() or all(end.isfinite() for end in x.detach().aminmax())


def _check(target: Tensor, donor: Tensor, mask: Tensor) -> None:
    given = (target, donor, mask)
    if not all(isinstance(x, Tensor) for x in given):
        kinds = ", ".join(type(x).__name__ for x in given)
        raise ValueError(f"target, donor and mask must be torch tensors, got {kinds}")
    if target.ndim != 4 or target.shape != donor.shape:
        raise ValueError(
            "target and donor must share a shape (B, C, H, W), got "
            f"{tuple(target.shape)}, {tuple(donor.shape)}"
        )
    if target.dtype != donor.dtype:
        raise ValueError(
            f"target and donor must share a dtype, got {target.dtype} and {donor.dtype}"
        )
    if mask.dtype != torch.bool or mask.shape != (len(target), *target.shape[2:]):
        raise ValueError(
            f"mask must be bool (B, H, W) as the images, got {mask.dtype} {tuple(mask.shape)}"
        )
    if len({x.device for x in given}) > 1:
        raise ValueError(
            f"must be on one device: target {target.device}, donor {donor.device}, mask "
            f"{mask.device}"
        )


def _keep_larger(excess: Tensor, total: Tensor, axis: int) -> None:
    """Set the excess to 0 where the donor's gradient is not the larger one in magnitude."""
    # |donor's| > |target's| exactly where the product of their difference and sum is positive
    excess.mul_(total.detach().diff(dim=axis).mul_(excess.detach()).gt_(0))


def _keep_all(excess: Tensor, total: Tensor, axis: int) -> None:
    """Leave the excess: the guidance field is the donor's gradient."""


def _excess(difference: Tensor, total: Tensor, inside: Tensor, axis: int, guidance: str) -> Tensor:
    """Guidance field less the target's gradient along an axis; 0 outside.

    difference, total: donor - target and donor + target; inside: of the pixels that the differences
    start from. All of it in floats and in place: that is what a CPU does fast.
    """
    excess = difference.diff(dim=axis)
    GUIDANCES[guidance](excess, total, axis)
    return excess.mul_(inside)


def _rectangle(
    parts: Iterable[Part], sides: tuple[int, int], dtype: torch.dtype, guidance: str
) -> Iterator[tuple[Box, Tensor]]:
    """Solve for every pixel but the image's outermost ring, part by part."""
    height, width = sides
    whole = Box(0, height, 0, width).without_ring()
    for part in parts:
        with _without_autocast(part.target):
            divergence = _divergence(part, guidance).to(dtype)
            planes = divergence.flatten(0, 1)
            change = _solve_dirichlet(planes, part.box, height - 2, width - 2)
        yield whole, change.view(*divergence.shape[:2], height - 2, width - 2)


def _mask(
    parts: Iterable[Part], sides: tuple[int, int], dtype: torch.dtype, guidance: str
) -> Iterator[tuple[Box, Tensor]]:
    """Solve for the masks' pixels alone, those of like boxes together."""
    parts = iter(parts)
    while some := list(_up_to(GATHERED, parts)):
        with _without_autocast(some[0].target):
            systems = [_mask_system(part, guidance) for part in some]
            changes: dict[int, Tensor] = {}
            for group in _alike([right.shape for right, _ in systems]):
                solved = _solve_together([systems[k] for k in group])
                changes |= zip(group, solved, strict=True)
        for k, part in enumerate(some):
            yield part.box.without_ring(), changes.pop(k)[..., 1:-1, 1:-1].to(dtype)


def _up_to(pixels: int, parts: Iterator[Part]) -> Iterator[Part]:
    """The next parts, until they have that many pixels."""
    for part in parts:
        yield part
        pixels -= part.target.numel()
        if pixels <= 0:
            return


def _without_autocast(like: Tensor) -> AbstractContextManager:
    return torch.autocast(like.device.type, enabled=False)


def _divergence(part: Part, guidance: str) -> Tensor:
    """Divergence of the excess away from the box's outermost ring: (B, C, h - 2, w - 2)."""
    difference, total, inside = part.donor - part.target, part.donor + part.target, part.inside
    # Forward differences belong to the pixel that they start from, and so does the mask.
    down = _excess(
        difference[..., 1:-1], total[..., 1:-1], inside[..., :-1, 1:-1], -2, guidance
    )  # (B, C, h - 1, w - 2)
    right = _excess(
        difference[..., 1:-1, :], total[..., 1:-1, :], inside[..., 1:-1, :-1], -1, guidance
    )  # (B, C, h - 2, w - 1)
    return down.diff(dim=-2) + right.diff(dim=-1)


def _solve_dirichlet(planes: Tensor, box: Box, height: int, width: int) -> Tensor:
    """Solve for u (P, height, width), 0 all round, by two sine transforms (DST-I).

    Its five-point Laplacian is `planes` (P, h, w) in the part that begins where `box` does, and 0
    elsewhere.
    """
    solve = _by_halves if min(height, width) >= FOLDED else _by_products
    change = solve(planes, box, height, width)
    if planes.dtype == torch.float32 and _shortens(planes.device):
        h, w = planes.shape[1:]
        whole = F.pad(planes, (box.left, width - w - box.left, box.top, height - h - box.top))
        missed = whole - _laplacian(change)  # solved for as well, it takes most of the error
        change = change + solve(missed, Box(0, height + 2, 0, width + 2), height, width)
    return change


def _shortens(device: torch.device) -> bool:
    """Whether a device multiplies float32 matrices with ten bits (TF32), as the user allowed it."""
    return device.type == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"


def _laplacian(planes: Tensor) -> Tensor:
    """The five-point Laplacian of planes (P, H, W) that are 0 all round."""
    around = F.pad(planes, (1, 1, 1, 1))
    vertical = around[:, 2:, 1:-1] + around[:, :-2, 1:-1]
    horizontal = around[:, 1:-1, 2:] + around[:, 1:-1, :-2]
    return vertical + horizontal - 4 * planes


def _by_products(planes: Tensor, box: Box, height: int, width: int) -> Tensor:
    """The transforms as products with their matrices; planes (P, h, w)."""
    h, w = planes.shape[1:]
    rows, columns, inverse = _sine_basis(height, width, planes.dtype, planes.device)
    across = planes.reshape(-1, w) @ columns[box.left : box.left + w]
    across = across.view(-1, h, width)
    spectrum = _each(rows[:, box.top : box.top + h], across).mul_(inverse)
    return (_each(rows, spectrum).view(-1, width) @ columns).view(-1, height, width)


def _by_halves(planes: Tensor, box: Box, height: int, width: int) -> Tensor:
    """The same with half the arithmetic, as every sine is even or odd about the middle.

    Each of the four steps transposes the planes, so that what is folded are always rows, which lie
    in one piece in memory.
    """
    rows, columns, inverse = _sine_halves(height, width, planes.dtype, planes.device)
    spectrum = _folded(_folded(planes, rows, box.top), columns, box.left)
    return _unfolded(_unfolded(spectrum.mul_(inverse), columns), rows)


def _folded(planes: Tensor, sines: "_Sines", first: int) -> Tensor:
    """The sine transform along the rows (P, h, w), which begin at `first`: (P, w, n)."""
    n, h = len(sines.both), planes.shape[1]
    if h < FULL * n:
        return planes.mT @ sines.both[first : first + h]
    planes = F.pad(planes, (0, 0, first, n - first - h))
    half = n // 2
    upper, lower = planes[:, :half], planes[:, n - half :].flip(1)
    odd = torch.cat([upper + lower, planes[:, half : n - half]], dim=1)
    return torch.cat([odd.mT @ sines.odd, (upper - lower).mT @ sines.even], dim=2)


def _unfolded(planes: Tensor, sines: "_Sines") -> Tensor:
    """The transform along the columns (P, w, n), the odd frequencies first: (P, n, w)."""
    n, half = len(sines.both), len(sines.even)
    odd = sines.odd @ planes[..., : n - half].mT
    even = sines.even @ planes[..., n - half :].mT
    upper = odd[:, :half]
    return torch.cat([upper + even, odd[:, half:], (upper - even).flip(1)], dim=1)


class _Sines(NamedTuple):
    """Orthonormal DST-I, from place to frequency; of the frequencies 1, 2, … the odd ones first."""

    both: Tensor  # (n, n)
    odd: Tensor  # (n - n // 2, n - n // 2), of the places up to the middle
    even: Tensor  # (n // 2, n // 2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _sine_halves(
    height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[_Sines, _Sines, Tensor]:
    """Of rows and of columns, and 1 / eigenvalues (H, W) in their order."""
    rows, columns, inverse = _sine_basis(height, width, dtype, device)
    found = []
    for matrix in (rows, columns):
        n = len(matrix)
        order = torch.cat([torch.arange(k, n, 2, device=device) for k in (0, 1)])
        inverse = inverse.mT[:, order]  # once for each axis
        odd, even = matrix[: n - n // 2, ::2], matrix[: n // 2, 1::2]
        found.append(_Sines(matrix[:, order], odd.contiguous(), even.contiguous()))
    return (*found, inverse.contiguous())


def _each(matrix: Tensor, planes: Tensor) -> Tensor:
    """matrix @ planes (P, N, M); a single plane takes the way that is a fifth faster on a CPU."""
    return (matrix @ planes[0])[None] if len(planes) == 1 else matrix @ planes


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _sine_basis(
    height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal DST-I matrices (H, H) and (W, W), their own inverses; 1 / eigenvalues (H, W)."""
    matrices, eigenvalues = [], []
    for n in (height, width):
        k = torch.arange(1, n + 1, dtype=torch.float64, device="cpu")
        angle = math.pi / (n + 1) * k
        matrices.append(torch.sin(angle[:, None] * k) * math.sqrt(2 / (n + 1)))
        eigenvalues.append(2 * torch.cos(angle) - 2)
    inverse = 1 / (eigenvalues[0][:, None] + eigenvalues[1])
    return tuple(x.to(device, dtype) for x in (*matrices, inverse))


def _mask_system(part: Part, guidance: str) -> tuple[Tensor, Tensor]:
    """For p inside: sum over the 4 neighbours q of d_p - d_q = excess_pq.

    Returns:
        The right-hand side and the mask, both float64 (B, C, h, w).
    """
    difference, total, inside = part.donor - part.target, part.donor + part.target, part.inside
    right = torch.zeros_like(difference, dtype=torch.float64)
    anywhere = inside.new_ones(())
    for axis in (2, 3):
        # Each pair of neighbours (p, p + 1) pulls both of its ends, in opposite directions.
        pull = _excess(difference, total, anywhere, axis, guidance)
        last = right.shape[axis] - 1
        right.narrow(axis, 0, last).sub_(pull)
        right.narrow(axis, 1, last).add_(pull)  # a view of its own, for autograd
    inside = inside.double().expand_as(right)
    return right.mul_(inside), inside


def _alike(shapes: Sequence[torch.Size]) -> list[list[int]]:
    """Group the positions of shapes (B, C, h, w) whose longer sides are alike, but not too many."""
    groups: list[list[int]] = []
    kind, pixels = 0, 0
    for k in sorted(range(len(shapes)), key=lambda k: max(shapes[k][2:])):
        planes, side = shapes[k][0] * shapes[k][1], max(shapes[k][2:])
        like = max(side, SMALL).bit_length()
        pixels += planes * side**2
        if like != kind or pixels > TOGETHER:
            groups.append([])
            kind, pixels = like, planes * side**2
        groups[-1].append(k)
    return groups


def _solve_together(systems: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Solve `_mask_system`s, each padded to the largest of them."""
    shapes = [right.shape for right, _ in systems]
    height, width = max(s[2] for s in shapes), max(s[3] for s in shapes)
    right, inside = (
        torch.cat(
            [F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])).flatten(0, 1) for x in part]
        )
        for part in zip(*systems, strict=True)
    )
    planes = multigrid.solve(right, inside).split([s[0] * s[1] for s in shapes])
    return [x[:, : s[2], : s[3]].view(s) for x, s in zip(planes, shapes, strict=True)]


# Name -> what it does to the donor's gradients less the target's, along an axis.
GUIDANCES = {"mixed": _keep_larger, "donor": _keep_all}
# Name -> its solver.
REGIONS = {"rectangle": _rectangle, "mask": _mask}
