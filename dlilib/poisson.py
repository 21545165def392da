"""Batched cut-paste and gradient-domain blending (Pérez, Gangnet and Blake, Poisson image editing, 2003).

Both solvers look for the correction d = result - target. Its right-hand side vanishes away from the mask and its
boundary values are zero, which keeps float32 accurate and leaves what is not to change exactly as it was.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

GUIDANCES = ("mixed", "donor")
REGIONS = ("rectangle", "mask")
TOLERANCE = 1e-6  # of the mask-bounded solver: the residual's norm relative to the right-hand side's
MAX_ITERATIONS = 10_000


def cut_paste(target: Tensor, donor: Tensor, mask: Tensor) -> Tensor:
    """`donor` where `mask`, `target` elsewhere, bit for bit.

    target, donor: (B, C, H, W) of one dtype; mask: (B, H, W) bool. Returns a new (B, C, H, W) tensor.
    """
    _check(target, donor, mask)
    return torch.where(mask[:, None], donor, target)


def poisson_blend(
    target: Tensor, donor: Tensor, mask: Tensor, guidance: str = "mixed", region: str = "rectangle"
) -> Tensor:
    """Blend `donor` into `target` so that the gradients inside `mask` follow the guidance.

    target, donor: (B, C, H, W) float, any range; mask: (B, H, W) bool. Returns a new (B, C, H, W) tensor, not clipped.
    guidance: "mixed" takes, per axis, the larger in magnitude of both gradients (ties: target), as released;
        "donor" takes the donor's, as the paper's equations.
    region: "rectangle", as released: every pixel but the image's outermost ring is solved for, from forward
        differences, with the target's ring as Dirichlet data, so pixels outside the mask change a little too.
        "mask": only the mask's pixels change (Pérez's 4-neighbour equations, solved by conjugate gradients to a
        relative residual of 1e-6 in float64).
    The mask's pixels on the outermost ring of the image are ignored. An empty mask returns the target; one that covers
    everything imports the donor's gradients between all pixels but the ring's.
    Raises ValueError on shapes, dtypes or options other than these and, on a CPU, on NaN and infinity.
    """
    _check(target, donor, mask)
    if not target.is_floating_point():
        raise ValueError(f"poisson_blend needs float images, got {target.dtype}")
    if target.device.type == "cpu" and not torch.isfinite(target.detach().sum() + donor.detach().sum()):
        raise ValueError("target and donor must be finite: one such pixel spreads over the whole image")
    if guidance not in GUIDANCES:
        raise ValueError(f"guidance must be one of {GUIDANCES}, got {guidance!r}")
    if region not in REGIONS:
        raise ValueError(f"region must be one of {REGIONS}, got {region!r}")
    blended = target.clone()
    if not len(target):
        return blended
    inside = without_ring(mask)[:, None]
    boxes = surroundings(inside)
    at_once = len(target) // len(boxes)
    for k, box in enumerate(boxes):
        part = slice(k * at_once, (k + 1) * at_once)
        # In float64 the gradients of float32 images are exact, so that rounding never decides between two of them.
        exact = (x[part][box].double() for x in (target, donor, inside))
        where, change = correction(*exact, guidance, region, box, target.shape[2:], target.dtype)
        blended[part][where] += change
    return blended


def correction(
    target: Tensor, donor: Tensor, inside: Tensor, guidance: str, region: str, box: tuple, sides: torch.Size,
    dtype: torch.dtype,
) -> tuple[tuple, Tensor]:
    """What blending changes in images with `sides` (H, W): the index of the pixels it may change, and the change.

    target, donor (B, C, h, w), inside (B, 1, h, w): floats cut out by box = `surroundings`(inside), inside 0 or 1 and
    without the image's ring, in a dtype that holds sums and differences of pixels exactly. dtype: the solution's.
    """
    within = (..., *(slice(cut.start + 1, cut.stop - 1) for cut in box[1:]))
    if min(sides) < 3:  # all ring
        return (..., slice(0), slice(0)), target.new_zeros(*target.shape[:2], 0, 0, dtype=dtype)
    with torch.autocast(target.device.type, enabled=False):
        fields = donor - target, donor + target, inside
        if region == "mask":
            return within, _correct_mask(*fields, guidance).to(dtype)
        divergence = _divergence(*fields, guidance).to(dtype)
        return (..., slice(1, -1), slice(1, -1)), _solve_dirichlet(divergence, box, sides[0] - 2, sides[1] - 2)


def surroundings(masks: Tensor) -> list[tuple]:
    """How to work on a batch of masks (B, ..., H, W) bool: an index of the pixels that matter for each of its parts.

    On a CPU, whose caches hold one image, the parts are single images, and what matters is the box around the mask, the
    pixel before and the two after it: beyond, nothing pulls, every right-hand side is 0. A GPU would have to be waited
    for to know that, so there the batch is one part and all of it matters.
    """
    sides = masks.shape[-2:]
    whole = (..., *(slice(0, side) for side in sides))
    if masks.device.type != "cpu":
        return [whole]
    planes = masks.reshape(-1, *sides).view(torch.uint8)  # whose maximum is found ten times as fast as "any" of bool
    spans = [_span(planes.amax(dim=axis).numpy() > 0) for axis in (2, 1)]
    return [(..., slice(*y), slice(*x)) if y[1] else whole for y, x in zip(*spans, strict=True)]


def _span(occupied: np.ndarray) -> list[tuple[int, int]]:
    """From the place before to the two after the true ones in each row of (B, N); (0, 0) where there are none."""
    n = occupied.shape[1]
    first, end = occupied.argmax(axis=1), n - occupied[:, ::-1].argmax(axis=1)
    spans = np.stack([np.maximum(first - 1, 0), np.minimum(end + 2, n)], axis=1)
    return (spans * occupied.any(axis=1)[:, None]).tolist()


def without_ring(mask: Tensor) -> Tensor:
    """A copy of the mask (B, H, W) with the outermost ring of pixels cleared."""
    inner = torch.zeros_like(mask)
    inner[..., 1:-1, 1:-1] = mask[..., 1:-1, 1:-1]
    return inner


def _check(target: Tensor, donor: Tensor, mask: Tensor) -> None:
    if not all(isinstance(x, Tensor) for x in (target, donor, mask)):
        kinds = ", ".join(type(x).__name__ for x in (target, donor, mask))
        raise ValueError(f"target, donor and mask must be torch tensors, got {kinds}")
    if target.ndim != 4 or target.shape != donor.shape:
        raise ValueError(
            f"target and donor must share a shape (B, C, H, W), got {tuple(target.shape)}, {tuple(donor.shape)}"
        )
    if target.dtype != donor.dtype:
        raise ValueError(f"target and donor must share a dtype, got {target.dtype} and {donor.dtype}")
    if mask.dtype != torch.bool or mask.shape != (len(target), *target.shape[2:]):
        raise ValueError(f"mask must be bool (B, H, W) as the images, got {mask.dtype} {tuple(mask.shape)}")
    if len({x.device for x in (target, donor, mask)}) > 1:
        raise ValueError(f"must be on one device: target {target.device}, donor {donor.device}, mask {mask.device}")


def _excess(difference: Tensor, total: Tensor, inside: Tensor, axis: int, guidance: str) -> Tensor:
    """Guidance field less the target's gradient along an axis, from donor - target and donor + target; 0 outside.

    All of it in floats and in place: that is what a CPU does fast.
    """
    excess = difference.diff(dim=axis)
    if guidance == "mixed":
        # |donor's| > |target's|, exactly where the product of their difference and sum is positive
        excess.mul_(total.detach().diff(dim=axis).mul_(excess.detach()).gt_(0))
    return excess.mul_(inside)


def _divergence(difference: Tensor, total: Tensor, inside: Tensor, guidance: str) -> Tensor:
    """Divergence (B, C, h - 2, w - 2) of the excess, away from the box's outermost ring."""
    divergence = 0
    for axis in (2, 3):
        # Forward differences belong to the pixel that they start from, and so does the mask.
        inner = [x.narrow(5 - axis, 1, x.shape[5 - axis] - 2) for x in (difference, total, inside)]
        starts = inner[2].narrow(axis, 0, inside.shape[axis] - 1)
        divergence = divergence + _excess(*inner[:2], starts, axis, guidance).diff(dim=axis)
    return divergence


def _solve_dirichlet(divergence: Tensor, box: tuple, height: int, width: int) -> Tensor:
    """u (B, C, height, width) with u = 0 all round, by two sine transforms (DST-I).

    Its five-point Laplacian is `divergence` (B, C, h, w) in the part that begins where `box` does, and 0 elsewhere.
    """
    (top, left), (h, w) = (cut.start for cut in box[1:]), divergence.shape[2:]
    rows, columns, inverse = _sine_basis(height, width, divergence.dtype, divergence.device)
    across = divergence.reshape(-1, w) @ columns[left : left + w]
    spectrum = _each(rows[:, top : top + h], across.view(-1, h, width)).mul_(inverse)
    return (_each(rows, spectrum).view(-1, width) @ columns).view(*divergence.shape[:2], height, width)


def _each(matrix: Tensor, planes: Tensor) -> Tensor:
    """matrix @ planes (P, N, M); a single plane goes the way that is a fifth quicker on a CPU."""
    return (matrix @ planes[0])[None] if len(planes) == 1 else matrix @ planes


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve autograd too
def _sine_basis(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal, symmetric DST-I matrices (H, H) and (W, W), their own inverses; 1 / eigenvalues (H, W)."""
    matrices, eigenvalues = [], []
    for n in (height, width):
        k = torch.arange(1, n + 1, dtype=torch.float64)
        angle = math.pi / (n + 1) * k
        matrices.append(torch.sin(angle[:, None] * k) * math.sqrt(2 / (n + 1)))
        eigenvalues.append(2 * torch.cos(angle) - 2)
    inverse = 1 / (eigenvalues[0][:, None] + eigenvalues[1])
    return tuple(x.to(device, dtype) for x in (*matrices, inverse))


def _correct_mask(difference: Tensor, total: Tensor, inside: Tensor, guidance: str) -> Tensor:
    """Conjugate gradients on every image at once: sum over the 4 neighbours q of d_p - d_q = excess_pq, p inside."""
    right, anywhere = torch.zeros_like(difference, dtype=torch.float64), inside.new_ones(())
    for axis in (2, 3):
        # Each pair of neighbours (p, p + 1) pulls both of its ends, in opposite directions.
        pull = _excess(difference, total, anywhere, axis, guidance)
        last = difference.shape[axis] - 1
        right.narrow(axis, 0, last).sub_(pull)
        right.narrow(axis, 1, last).add_(pull)
    inside = inside.double()
    return _conjugate_gradients(right.mul_(inside), inside)[..., 1:-1, 1:-1]


def _conjugate_gradients(right: Tensor, inside: Tensor) -> Tensor:
    """x, zero outside, with (4 x_p - sum of neighbours) = right_p inside; every (image, channel) has its own steps."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, energy = residual.clone(), _dot(right, right)
    goal = TOLERANCE**2 * energy
    for _ in range(MAX_ITERATIONS):
        open_ = energy > goal
        if not open_.any():
            return x
        image = _laplacian(direction) * inside
        step = torch.where(open_, energy / _dot(direction, image), 0)
        x += step * direction
        residual -= step * image
        before, energy = energy, torch.where(open_, _dot(residual, residual), energy)
        direction = residual + torch.where(open_, energy / before, 0) * direction
    raise RuntimeError(f"the mask-bounded solver did not reach {TOLERANCE} in {MAX_ITERATIONS} iterations")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(2, 3), keepdim=True)


def _laplacian(x: Tensor) -> Tensor:
    """4 x_p less its neighbours; what lies outside the image counts as 0 and is never inside the mask."""
    out = 4 * x
    for axis in (2, 3):
        last = x.shape[axis] - 1
        out.narrow(axis, 0, last).sub_(x.narrow(axis, 1, last))
        out.narrow(axis, 1, last).sub_(x.narrow(axis, 0, last))
    return out
