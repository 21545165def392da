"""The mask-bounded solver against the same equations, solved by scipy."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import splu

from dlilib import multigrid

SIZES = [(3, 3), (4, 9), (33, 33), (64, 65), (40, 121), (96, 80), (160, 161)]


def square(height, width):
    """Row and column of every pixel, from -1 to 1."""
    return torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )


MASKS = {
    "everything": lambda y, x: x < 2,
    "disc": lambda y, x: y**2 + x**2 < 0.6,
    "ring": lambda y, x: (y**2 + x**2 - 0.5).abs() < 0.1,
    "half": lambda y, x: x > y,
    "one pixel": lambda y, x: torch.arange(x.numel()).view(x.shape) == x.shape[1] + 1,
    "nothing": lambda y, x: x > 2,
    "corners": lambda y, x: y.abs() + x.abs() > 1.3,
    "random": lambda y, x: torch.rand(x.shape, generator=seeded()) < 0.6,
    "pins": lambda y, x: torch.rand(x.shape, generator=seeded()) > 0.02,
    "stripes": lambda y, x: torch.arange(x.shape[1]).expand(x.shape) % 8 < 7,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def system(kind, height, width):
    """A right-hand side and a mask (H, W), float64, clear on the ring."""
    inside = torch.zeros(height, width, dtype=torch.float64)
    inside[1:-1, 1:-1] = MASKS[kind](*square(height, width))[1:-1, 1:-1].double()
    right = torch.randn(height, width, generator=seeded(1), dtype=torch.float64)
    return right * inside, inside


def expected(right, inside):
    there = inside.numpy() > 0
    index = np.full(there.shape, -1)
    index[there] = np.arange(there.sum())
    rows, columns = there.nonzero()
    matrix = 4 * sparse.eye(len(rows), format="csr")
    for down, across in [(0, 1), (0, -1), (1, 0), (-1, 0)]:
        other = index[rows + down, columns + across]
        pairs = np.arange(len(rows))[other >= 0], other[other >= 0]
        matrix -= sparse.coo_matrix((np.ones(len(pairs[0])), pairs), shape=matrix.shape)
    found = np.zeros(there.shape)
    if len(rows):
        found[there] = splu(matrix.tocsc()).solve(right.numpy()[there])
    return torch.from_numpy(found)


@pytest.fixture
def rounds(monkeypatch):
    """A list with one entry for each round of any solve."""
    done, steps = [], multigrid._conjugate_gradients
    monkeypatch.setattr(
        multigrid, "_conjugate_gradients", lambda *args: done.append(1) or steps(*args)
    )
    return done


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("height, width", SIZES)
def test_agrees_with_scipy(height, width, kind):
    right, inside = system(kind, height, width)
    found = multigrid.solve(right[None], inside[None])[0]
    wanted = expected(right, inside)
    assert found.dtype == torch.float64 and not found[inside == 0].any()
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_planes_of_a_batch_are_solved_each_for_itself():
    systems = [system(kind, 40, 33) for kind in MASKS]
    scales = torch.logspace(-300, 300, len(systems), dtype=torch.float64)[:, None, None]
    right, inside = (torch.stack(part) for part in zip(*systems, strict=True))
    found = multigrid.solve(right * scales, inside) / scales
    for one, (own, mask) in zip(found, systems, strict=True):
        wanted = expected(own, mask)
        assert (one - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["everything", "disc", "ring", "half", "corners"])
def test_large_masks_take_as_many_rounds_as_small_ones(rounds, kind):
    for side in (32, 64, 128, 256):
        right, inside = system(kind, side, side)
        rounds.clear()
        multigrid.solve(right[None], inside[None])
        assert len(rounds) == multigrid.ROUNDS


@pytest.mark.parametrize("kind", ["pins", "stripes"])
def test_masks_with_narrow_gaps_take_a_few_rounds_more(rounds, kind):
    right, inside = system(kind, 256, 256)
    multigrid.solve(right[None], inside[None])
    assert multigrid.ROUNDS < len(rounds) <= multigrid.ROUNDS + 4


def test_the_gradient_solves_the_same_system():
    right, inside = system("disc", 20, 23)
    weight = torch.randn(20, 23, generator=seeded(2), dtype=torch.float64)
    right.requires_grad_()
    (multigrid.solve(right[None], inside[None])[0] * weight).sum().backward()
    wanted = expected(weight * inside, inside)
    assert (right.grad - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_no_planes_have_no_solution():
    empty = torch.zeros(0, 9, 8, dtype=torch.float64)
    assert multigrid.solve(empty, empty).shape == (0, 9, 8)


def test_a_residual_that_stays_is_told(monkeypatch):
    monkeypatch.setattr(multigrid, "TOLERANCE", 0.0)
    monkeypatch.setattr(multigrid, "MOST_ROUNDS", 3)
    right, inside = system("disc", 20, 23)
    with pytest.raises(RuntimeError, match=r"did not reach 0\.0 in 15 steps"):
        multigrid.solve(right[None], inside[None])


def test_a_device_is_asked_one_thing(monkeypatch):
    right, inside = (x[None].to("meta") for x in system("disc", 64, 65))
    asked = []
    none = torch.zeros(0, dtype=torch.int64)
    monkeypatch.setattr(multigrid, "_unfinished", lambda *_: asked.append(1) or none)
    assert multigrid.solve(right, inside).shape == (1, 64, 65)
    assert len(asked) == 1
