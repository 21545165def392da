"""Patches cover the image and nothing else, and the weights of all of them sum to 1."""

import numpy as np
import pytest
from builders import refused
from hypothesis import given
from hypothesis import strategies as st

from dlilib.patches import LARGEST, check_patch, corners, stitch_weights


@st.composite
def cuts(draw):
    """Height, width, size and overlap."""
    size = draw(st.integers(1, 24))
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    return height, width, size, draw(st.integers(0, size - 1))


@given(cut=cuts())
def test_patches_cover_each_pixel_and_none_leaves_an_image_that_is_large_enough(cut):
    height, width, size, _ = cut
    places = corners(*cut)
    assert places.dtype == np.int64 and places.shape == (len(places), 2)
    covered = np.zeros((max(height, size), max(width, size)), dtype=bool)
    for row, column in places:
        assert row >= 0 and column >= 0
        window = covered[row : row + size, column : column + size]
        assert window.shape == (size, size)
        window[:] = True
    assert covered.all()


@given(cut=cuts())
def test_patches_are_a_grid_row_by_row(cut):
    places = corners(*cut)
    rows, columns = np.unique(places[:, 0]), np.unique(places[:, 1])
    assert places.tolist() == [[row, column] for row in rows for column in columns]
    assert np.array_equal(corners(*cut), places)


@given(cut=cuts())
def test_neighbours_overlap_enough_and_are_evenly_spread_and_few(cut):
    height, width, size, overlap = cut
    places = corners(*cut)
    for axis, side in enumerate((height, width)):
        starts = np.unique(places[:, axis])
        gaps = np.diff(starts)
        assert (size - gaps >= overlap).all()
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
        # one patch fewer could not reach the far edge
        assert len(starts) == 1 or size + (len(starts) - 2) * (size - overlap) < side


@given(size=st.integers(1, 24), overlap=st.integers(0, 23), sides=st.tuples(*[st.integers(1)] * 2))
def test_small_image_has_one_patch(size, overlap, sides):
    height, width = (1 + side % size for side in sides)
    assert corners(height, width, size, overlap % size).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "cut, rows, columns",
    [
        ((8, 20, 8, 0), [0], [0, 6, 12]),  # 3 where 2.5 would do
        ((8, 24, 8, 0), [0], [0, 8, 16]),
        ((9, 14, 8, 2), [0, 1], [0, 6]),
        ((5, 15, 8, 2), [0], [0, 3, 7]),
        ((10, 8, 8, 7), [0, 1, 2], [0]),
    ],
)
def test_corners_by_hand(cut, rows, columns):
    assert corners(*cut).tolist() == [[row, column] for row in rows for column in columns]


@pytest.mark.parametrize(
    "overlap, rows, columns",
    [(0, [0, 497, 995, 1492, 1990, 2488], 8), (64, [0, 414, 829, 1244, 1658, 2073, 2488], 9)],
)
def test_photograph_of_twelve_megapixels(overlap, rows, columns):
    places = corners(3000, 4000, 512, overlap)
    assert len(places) == len(rows) * columns
    assert np.unique(places[:, 0]).tolist() == rows
    assert places[-1].tolist() == [2488, 3488]


@given(cut=cuts())
def test_weights_are_positive_and_sum_to_one_at_each_pixel(cut):
    height, width, size, _ = cut
    found = stitch_weights(*cut)
    places = corners(*cut)
    assert found.dtype == np.float32 and found.shape == (len(places), 2, size)
    assert (found > 0).all()
    total = np.zeros((max(height, size), max(width, size)))
    for (row, column), (of_rows, of_columns) in zip(places, found, strict=True):
        total[row : row + size, column : column + size] += np.outer(of_rows, of_columns)
    assert np.abs(total - 1).max() < 1e-6


@given(cut=cuts())
def test_pixels_of_a_single_patch_have_weight_one_exactly(cut):
    height, width, size, _ = cut
    places, found = corners(*cut), stitch_weights(*cut)
    for axis, side in enumerate((height, width)):
        starts = np.unique(places[:, axis])
        patches = np.bincount((starts[:, None] + np.arange(size)).ravel(), minlength=side)
        for start, shares in zip(places[:, axis], found[:, axis], strict=True):
            alone = patches[start : start + size] == 1
            assert (shares[alone] == 1).all() and (shares[~alone] < 1).all()


def test_weights_by_hand_are_a_linear_ramp_over_the_overlap():
    of_rows, of_columns = stitch_weights(8, 12, 8, 4).swapaxes(0, 1)
    assert (of_rows == 1).all()
    assert of_columns[0] == pytest.approx([1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert of_columns[1] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


@pytest.mark.parametrize("tile", [(8, 0), [512, 64], (np.int64(LARGEST), np.uint8(7)), (16, 15)])
def test_patch_is_given_back_as_plain_integers(tile):
    found = check_patch(tile)
    assert found == tuple(tile) and [type(value) for value in found] == [int, int]


@pytest.mark.parametrize(
    "tile, message",
    [
        (512, r"tile must be \(size, overlap\), two integers in pixels, got 512"),
        ((512,), r"tile must be .*\(512,\)"),
        ((512, 64, 1), r"tile must be .*\(512, 64, 1\)"),
        ((512.0, 64), r"tile must be .*512\.0"),
        ((512, "64"), r"tile must be .*'64'"),
        ((True, 0), r"tile must be .*True"),
        ("ab", r"tile must be .*'ab'"),
        ((100, 10), "the size in tile must be a multiple of 8 from 8 to 8192, got 100"),
        ((0, 0), "the size in tile must be .*got 0"),
        ((-8, 0), "the size in tile must be .*got -8"),
        ((8200, 0), "the size in tile must be .*got 8200"),
        ((64, 64), "overlap must be an integer from 0 to below the size 64, got 64"),
        ((64, -1), "overlap must be .*got -1"),
    ],
)
def test_what_is_no_patch_is_refused(tile, message):
    refused(lambda: check_patch(tile), message)


@pytest.mark.parametrize("function", [corners, stitch_weights])
@pytest.mark.parametrize(
    "cut, message",
    [
        ((0, 9, 8, 0), "height must be a number of pixels above 0, got 0"),
        ((9, 9.5, 8, 0), r"width must be .*got 9\.5"),
        ((9, 9, -8, 0), "size must be .*got -8"),
        ((9, 9, 8, 8), "overlap must be an integer from 0 to below the size 8, got 8"),
        ((9, 9, 8, 0.5), r"overlap must be .*got 0\.5"),
    ],
)
def test_what_cannot_be_cut_is_refused(function, cut, message):
    refused(lambda: function(*cut), message)
