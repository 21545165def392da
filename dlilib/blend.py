"""Batched cut-paste and gradient-domain blending.

After Pérez, Gangnet and Blake, Poisson image editing, 2003. Both solvers look for the correction
d = result - target. Its right-hand side vanishes away from the mask and its boundary values are
zero, which keeps float32 accurate and leaves what is not to change exactly as it was.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dlilib.checks import check_option

TOLERANCE = 1e-6  # of the mask-bounded solver: the residual's norm relative to the right-hand side
MAX_ITERATIONS = 10_000


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
            target's), as released; "donor" takes the donor's, as the paper's equations.
        region: "rectangle", as released: every pixel but the image's outermost ring is solved for,
            from forward differences, with the target's ring as Dirichlet data, so that pixels
            outside the mask change a little too. "mask": only the mask's pixels change (Pérez's
            4-neighbour equations, solved by conjugate gradients to a relative residual of 1e-6 in
            float64).

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
    on_cpu = target.device.type == "cpu"
    if on_cpu and not all(
        torch.isfinite(x.detach().sum(dtype=torch.float64)) for x in (target, donor)
    ):
        raise ValueError(
            "target and donor must be finite: one such pixel spreads over the whole image"
        )
    check_option("guidance", guidance, tuple(GUIDANCES))
    check_option("region", region, tuple(REGIONS))
    blended = target.clone()
    if not len(target):
        return blended
    inside = without_ring(mask)[:, None]  # (B, 1, H, W)
    boxes = surroundings(inside)
    at_once = len(target) // len(boxes)
    solved = torch.float64 if target.dtype == torch.float64 else torch.float32
    for k, box in enumerate(boxes):
        chunk = slice(k * at_once, (k + 1) * at_once)
        # In float64 the gradients of float32 images are exact, so that rounding never decides
        # between two of them.
        exact = [box.of(x[chunk]).double() for x in (target, donor, inside)]
        where, change = correction(
            *exact, box, target.shape[2:], solved, guidance=guidance, region=region
        )
        where.of(blended[chunk]).add_(change)
    return blended


def correction(
    target: Tensor,
    donor: Tensor,
    inside: Tensor,
    box: Box,
    sides: torch.Size,
    dtype: torch.dtype,
    guidance: str,
    region: str,
) -> tuple[Box, Tensor]:
    """Compute what blending changes.

    Args:
        target: (B, C, h, w), cut out by `box`, in a dtype that holds sums and differences of pixels
            exactly.
        donor: As the target.
        inside: (B, 1, h, w), 0 or 1 in the same dtype, without the image's ring.
        box: As `surroundings` gives it.
        sides: H and W of the whole image.
        dtype: Of the solution.
        guidance: As in `poisson_blend`.
        region: As in `poisson_blend`.

    Returns:
        The box that may change, and the change of its pixels.
    """
    if min(sides) < 3:  # all ring
        return Box(0, 0, 0, 0), target.new_zeros(*target.shape[:2], 0, 0, dtype=dtype)
    with torch.autocast(target.device.type, enabled=False):
        solve = REGIONS[region]
        return solve(donor - target, donor + target, inside, box, sides, dtype, guidance)


def surroundings(masks: Tensor) -> list[Box]:
    """Find the pixels that matter for each chunk of a batch of masks (B, ..., H, W) bool.

    On a CPU, whose caches hold one image, the chunks are single images, and what matters is the box
    around the mask, with the pixel before and the two after it: beyond, every right-hand side is 0.
    A GPU would have to be waited for to know that, so there the batch is one chunk and all of it
    matters.
    """
    height, width = masks.shape[-2:]
    whole = Box(0, height, 0, width)
    if masks.device.type != "cpu":
        return [whole]
    # the maximum of bytes is found ten times as fast as "any" of bool
    planes = masks.reshape(-1, height, width).view(torch.uint8)
    rows = _spans(planes.amax(dim=2).numpy() > 0)
    columns = _spans(planes.amax(dim=1).numpy() > 0)
    return [
        Box(*row, *column) if row[1] else whole for row, column in zip(rows, columns, strict=True)
    ]


def _spans(occupied: np.ndarray) -> list[tuple[int, int]]:
    """For each row of (B, N): from the place before to two after the true ones; (0, 0) for none."""
    n = occupied.shape[1]
    first, end = occupied.argmax(axis=1), n - occupied[:, ::-1].argmax(axis=1)
    spans = np.stack([np.maximum(first - 1, 0), np.minimum(end + 2, n)], axis=1)
    return (spans * occupied.any(axis=1)[:, None]).tolist()


def without_ring(mask: Tensor) -> Tensor:
    """Copy the mask (B, H, W) with the outermost ring of pixels cleared."""
    inner = torch.zeros_like(mask)
    inner[..., 1:-1, 1:-1] = mask[..., 1:-1, 1:-1]
    return inner


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
    difference: Tensor,
    total: Tensor,
    inside: Tensor,
    box: Box,
    sides: torch.Size,
    dtype: torch.dtype,
    guidance: str,
) -> tuple[Box, Tensor]:
    """Solve for every pixel but the image's outermost ring."""
    divergence = _divergence(difference, total, inside, guidance).to(dtype)
    whole = Box(0, sides[0], 0, sides[1]).without_ring()
    return whole, _solve_dirichlet(divergence, box, sides[0] - 2, sides[1] - 2)


def _mask(
    difference: Tensor,
    total: Tensor,
    inside: Tensor,
    box: Box,
    sides: torch.Size,
    dtype: torch.dtype,
    guidance: str,
) -> tuple[Box, Tensor]:
    """Solve for the mask's pixels alone."""
    change = _correct_mask(difference, total, inside, guidance)
    return box.without_ring(), change.to(dtype)


def _divergence(difference: Tensor, total: Tensor, inside: Tensor, guidance: str) -> Tensor:
    """Divergence of the excess away from the box's outermost ring: (B, C, h - 2, w - 2)."""
    # Forward differences belong to the pixel that they start from, and so does the mask.
    down = _excess(
        difference[..., 1:-1], total[..., 1:-1], inside[..., :-1, 1:-1], -2, guidance
    )  # (B, C, h - 1, w - 2)
    right = _excess(
        difference[..., 1:-1, :], total[..., 1:-1, :], inside[..., 1:-1, :-1], -1, guidance
    )  # (B, C, h - 2, w - 1)
    return down.diff(dim=-2) + right.diff(dim=-1)


def _solve_dirichlet(divergence: Tensor, box: Box, height: int, width: int) -> Tensor:
    """Solve for u (B, C, height, width), 0 all round, by two sine transforms (DST-I).

    Its five-point Laplacian is `divergence` (B, C, h, w) in the part that begins where `box` does,
    and 0 elsewhere.
    """
    h, w = divergence.shape[2:]
    rows, columns, inverse = _sine_basis(height, width, divergence.dtype, divergence.device)
    across = divergence.reshape(-1, w) @ columns[box.left : box.left + w]
    across = across.view(-1, h, width)  # (B · C, h, width)
    spectrum = _each(rows[:, box.top : box.top + h], across).mul_(inverse)
    solution = _each(rows, spectrum).view(-1, width) @ columns
    return solution.view(*divergence.shape[:2], height, width)


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


def _correct_mask(difference: Tensor, total: Tensor, inside: Tensor, guidance: str) -> Tensor:
    """Solve, for p inside: sum over the 4 neighbours q of d_p - d_q = excess_pq."""
    right = torch.zeros_like(difference, dtype=torch.float64)
    anywhere = inside.new_ones(())
    for axis in (2, 3):
        # Each pair of neighbours (p, p + 1) pulls both of its ends, in opposite directions.
        pull = _excess(difference, total, anywhere, axis, guidance)
        last = right.shape[axis] - 1
        right.narrow(axis, 0, last).sub_(pull)
        right.narrow(axis, 1, last).add_(pull)  # a view of its own, for autograd
    inside = inside.double()
    return _MaskSolve.apply(right.mul_(inside), inside)[..., 1:-1, 1:-1]


class _MaskSolve(torch.autograd.Function):
    """x of `_conjugate_gradients`; the system is symmetric, so its gradient solves it again."""

    @staticmethod
    def forward(ctx, right: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return _conjugate_gradients(right, inside)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return _MaskSolve.apply(gradient * inside, inside), None


def _conjugate_gradients(right: Tensor, inside: Tensor) -> Tensor:
    """x, zero outside, with (4 x_p - sum of neighbours) = right_p inside.

    Every (image, channel) has its own steps.
    """
    x, residual = torch.zeros_like(right), right.clone()
    direction, energy = residual.clone(), _dot(right, right)
    goal = TOLERANCE**2 * energy
    for _ in range(MAX_ITERATIONS):
        unfinished = energy > goal
        if not unfinished.any():
            return x
        image = _laplacian(direction) * inside
        step = torch.where(unfinished, energy / _dot(direction, image), 0)
        x += step * direction
        residual -= step * image
        before, energy = energy, torch.where(unfinished, _dot(residual, residual), energy)
        direction = residual + torch.where(unfinished, energy / before, 0) * direction
    raise RuntimeError(
        f"the mask-bounded solver did not reach {TOLERANCE} in {MAX_ITERATIONS} iterations"
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)


def _laplacian(x: Tensor) -> Tensor:
    """4 x_p less its neighbours; what lies outside the image counts as 0."""
    out = 4 * x
    for axis in (2, 3):
        out_before, out_after = _neighbours(out, axis)
        x_before, x_after = _neighbours(x, axis)
        out_before.sub_(x_after)
        out_after.sub_(x_before)
    return out


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Views of the pixels that have a next one along an axis, and of these next ones."""
    last = x.shape[axis] - 1
    return x.narrow(axis, 0, last), x.narrow(axis, 1, last)


# Name -> what it does to the donor's gradients less the target's, along an axis.
GUIDANCES = {"mixed": _keep_larger, "donor": _keep_all}
# Name -> its solver.
REGIONS = {"rectangle": _rectangle, "mask": _mask}
