"""Discrete Poisson equations on masks of any shape, many at once.

Conjugate gradients with a multigrid cycle as their preconditioner: Tatebe, The multigrid
preconditioned conjugate gradient method, 1993; McAdams, Sifakis and Teran, A parallel multigrid
Poisson solver for fluids simulation on large grids, 2010. How many steps that takes hardly depends
on a mask's size and shape, so that all masks of a batch have one schedule, in which no step waits
for another one's numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 2e-7  # of the residual's norm, relative to that of the right-hand side
STEPS = 5  # of conjugate gradients in a round, in float32
ROUNDS = 2  # that nearly every mask needs
MOST_ROUNDS = 100
# Of the smoother's Jacobi iterations before a grid's correction by the coarser one, and after it:
# the Chebyshev polynomial that damps best what the coarser grid does not see.
DAMPING = (0.562, 1.389)
DIRECT = 49  # pixels of a grid, at most, that is solved directly


def solve(right: Tensor, inside: Tensor) -> Tensor:
    """Solve 4 x_p less the sum of x_q over the 4 neighbours q = right_p, for the pixels p inside.

    Args:
        right: float64 (P, H, W), zero outside.
        inside: float64 (P, H, W), 0 or 1; 0 on the outermost ring of pixels.

    Returns:
        float64 (P, H, W), zero outside, to a residual of `TOLERANCE`. Gradients flow to `right`.

    Raises:
        RuntimeError: The residual of a plane stays larger.
    """
    return _Solve.apply(right, inside)


class _Solve(torch.autograd.Function):
    """The system is symmetric, so its gradient solves it again."""

    @staticmethod
    def forward(ctx, right: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        ctx.save_for_forward(inside)
        return _solve_all(right, inside)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            return _Solve.apply(gradient * inside, inside), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _: None) -> Tensor:
        (inside,) = ctx.saved_tensors
        return _Solve.apply(tangent * inside, inside)


def _solve_all(right: Tensor, inside: Tensor) -> Tensor:
    """Solve for all planes together, and again for those that are not done."""
    inside, wanted = _odd(inside), _odd(right)
    unit = wanted.abs().amax(dim=(1, 2), keepdim=True)  # squares of what is far from 1 get lost
    wanted = wanted / torch.where(unit > 0, unit, 1)
    goal = TOLERANCE * _norm(wanted.flatten(1))
    found, residual = _rounds(wanted, inside, ROUNDS)
    rows = _unfinished(residual, goal)
    for _ in range(MOST_ROUNDS - ROUNDS):
        if not len(rows):
            return (found * unit)[:, : right.shape[1], : right.shape[2]]
        more, residual[rows] = _rounds(residual[rows], inside[rows], 1, gaps=True)
        found[rows] += more
        rows = rows[_unfinished(residual[rows], goal[rows])]
    raise RuntimeError(
        f"the mask-bounded solver did not reach {TOLERANCE} in {MOST_ROUNDS * STEPS} steps"
    )


def _rounds(
    wanted: Tensor, inside: Tensor, count: int, gaps: bool = False
) -> tuple[Tensor, Tensor]:
    """Solve in float32 for what is left, which is found in float64, so many times.

    Returns:
        The solution and the residual (P, H, W).
    """
    exact, quick = _Grid(inside), _Multigrid(inside.float(), gaps)
    target = residual = wanted.flatten(1)  # (P, N)
    solution = exact.field()
    for _ in range(count):
        scale = _norm(residual).clamp(min=torch.finfo(torch.float64).tiny)
        step = _conjugate_gradients((residual / scale).float(), quick)
        solution.values.addcmul_(step, scale)
        residual = target - exact.operator(solution)
    return exact.images(solution.values), exact.images(residual)


def _unfinished(residual: Tensor, goal: Tensor) -> Tensor:
    """The rows whose residuals (P, H, W) are too large: all that a device is waited for."""
    return (_norm(residual.flatten(1)) > goal)[:, 0].nonzero()[:, 0]


def _conjugate_gradients(residual: Tensor, grid: "_Multigrid") -> Tensor:
    """Go `STEPS` steps from 0 towards the solution (P, N); each plane's are of its own lengths."""
    solution = torch.zeros_like(residual)
    direction, energy = grid.field(), None
    for _ in range(STEPS):
        ahead = grid.cycle(residual)
        before, energy = energy, _dot(residual, ahead)
        if before is not None:
            direction.values.mul_(_ratio(energy, before))
        direction.values.add_(ahead)
        image = grid.operator(direction)
        length = _ratio(energy, _dot(direction.values, image))
        solution.addcmul_(direction.values, length)
        residual = torch.addcmul(residual, image, length, value=-1)
    return solution


class _Field:
    """Values (P, N) on a grid, and views of each one's four neighbours.

    Planes lie one behind the other in memory, between a row of zeros and another one. As the
    outermost ring of a plane is zero too, a neighbour is what stands one place or one row away.
    """

    def __init__(self, like: Tensor, width: int) -> None:
        memory = like.new_zeros(like.numel() + 2 * width)
        at = [width + shift for shift in (0, -width, width, -1, 1)]
        self.values, *self.neighbours = (memory[k : k + like.numel()].view_as(like) for k in at)


class _Grid:
    """P masks of pixels (P, height, width), both odd."""

    def __init__(self, inside: Tensor) -> None:
        self.shape = inside.shape
        self.inside = inside.flatten(1)  # (P, N)
        self.work = torch.empty_like(self.inside)

    def field(self) -> _Field:
        """Zeros."""
        return _Field(self.inside, self.shape[2])

    def images(self, values: Tensor) -> Tensor:
        """Values (P, N) as (P, height, width)."""
        return values.view(self.shape)

    def operator(self, field: _Field) -> Tensor:
        """4 x_p less the neighbours, inside; in `work`."""
        return self._sums(field).sub_(field.values, alpha=4).mul_(self.inside).neg_()

    def _sums(self, field: _Field) -> Tensor:
        """The sum of each value's neighbours, in `work`."""
        above, below, left, right = field.neighbours
        return torch.add(above, below, out=self.work).add_(left).add_(right)


class _Multigrid(_Grid):
    """A grid and the coarser one that has every other row and column of it.

    Gaps in a mask that are narrower than a coarser grid's step may be lost on it, which slows down
    what converges else in a few steps. With `gaps` they are widened instead, so that any mask
    converges, but most of them less quickly.
    """

    def __init__(self, inside: Tensor, gaps: bool = False) -> None:
        super().__init__(inside)
        self.x = self.field()
        self.weights = [self.inside * (damping / 4) for damping in DAMPING]
        coarse = _odd(_halved(inside, gaps))
        small = coarse.shape[1] * coarse.shape[2] <= DIRECT
        self.coarser = _Direct(coarse) if small else _Multigrid(coarse, gaps)

    def cycle(self, right: Tensor) -> Tensor:
        """Solve roughly for right (P, N); symmetric in it, as conjugate gradients need it."""
        torch.mul(right, self.weights[0], out=self.x.values)
        for weight in self.weights[1:]:
            self._smooth(right, weight)
        self._correct(right)
        for weight in self.weights[::-1]:
            self._smooth(right, weight)
        return self.x.values

    def _residual(self, right: Tensor) -> Tensor:
        """Right less 4 x_p and plus its neighbours, outside too; in `work`."""
        return self._sums(self.x).add_(right).sub_(self.x.values, alpha=4)

    def _smooth(self, right: Tensor, weight: Tensor) -> None:
        self.x.values.addcmul_(self._residual(right), weight)

    def _correct(self, right: Tensor) -> None:
        """Add what the coarser grid finds for the residual, interpolated linearly."""
        residual = self._residual(right).mul_(self.inside)
        coarser = self.coarser
        coarse = torch.zeros_like(coarser.inside)
        _restrict(self.images(residual), coarser.images(coarse))
        found = coarser.images(coarser.cycle(coarse.mul_(coarser.inside)))
        _interpolate(found, self.images(self.work))
        self.x.values.addcmul_(self.work, self.inside)


class _Direct(_Grid):
    """A grid so small that its equations have an inverse of their own."""

    def __init__(self, inside: Tensor) -> None:
        super().__init__(inside)
        count, width = self.inside.shape[1], self.shape[2]
        matrix = 4 * torch.eye(count, dtype=inside.dtype, device=inside.device)
        for step in (1, width):
            matrix.diagonal(step).sub_(1)
            matrix.diagonal(-step).sub_(1)
        both = self.inside[:, :, None] * self.inside[:, None]
        outside = torch.diag_embed(1 - self.inside)
        self.inverse = torch.linalg.inv_ex(matrix * both + outside)[0] * both

    def cycle(self, right: Tensor) -> Tensor:
        """Solve for right (P, N)."""
        return torch.bmm(self.inverse, right[:, :, None])[:, :, 0]


def _restrict(fine: Tensor, coarse: Tensor) -> None:
    """Sum up fine (P, 2 H - 1, 2 W - 1) with weights 1 and 1/2 an axis: `_interpolate` transposed.

    The ring of `coarse`, at least (P, H, W), is left as it is.
    """
    between = fine[:, 1::2]
    rows = torch.add(between[:, :-1], between[:, 1:]).mul_(0.5).add_(fine[:, 2:-1:2])
    between = rows[:, :, 1::2].contiguous()  # whatever has a stride of 2 is slow
    inner = coarse[:, 1 : 1 + rows.shape[1], 1 : between.shape[2]]
    torch.add(between[:, :, :-1], between[:, :, 1:], out=inner)
    inner.mul_(0.5).add_(rows[:, :, 2:-1:2])


def _interpolate(coarse: Tensor, fine: Tensor) -> None:
    """Fill fine (P, 2 H - 1, 2 W - 1) linearly from coarse, at least (P, H, W)."""
    height, width = (fine.shape[1] + 1) // 2, (fine.shape[2] + 1) // 2
    coarse = coarse[:, :height, :width]
    even = fine[:, ::2]
    even[:, :, ::2] = coarse
    even[:, :, 1::2] = torch.add(coarse[:, :, :-1], coarse[:, :, 1:]).mul_(0.5)
    torch.add(even[:, :-1], even[:, 1:], out=fine[:, 1::2]).mul_(0.5)


def _halved(inside: Tensor, gaps: bool) -> Tensor:
    """Every other pixel of masks (P, H, W); with `gaps`, unless one of the next ones is outside."""
    if not gaps:
        return inside[:, ::2, ::2]
    return -F.max_pool2d(-F.pad(inside, (0, 1, 0, 1))[:, None], 2)[:, 0]


def _odd(planes: Tensor) -> Tensor:
    """Planes (P, H, W) with a row and a column of zeros more where their number is even."""
    return F.pad(planes, (0, 1 - planes.shape[2] % 2, 0, 1 - planes.shape[1] % 2))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of each plane (P, N) with the other's: (P, 1)."""
    return (a * b).sum(dim=1, keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where a plane has nothing left to solve."""
    return torch.where(b > 0, a / b, 0)
