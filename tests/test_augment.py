import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from dlilib.augment import (
    FLIP_ONLY,
    RELEASED_WARPS,
    Warp,
    draw_flips,
    draw_warps,
    flip,
    placed,
    reach,
    sees,
    warp,
)

IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
FREE = Warp(flip=0.5, affine=1.0, shift=0.2, scale=0.3, rotate=40.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images_and_masks(batch=3, channels=2, height=24, width=24, seed=0):
    g = generator(seed)
    return torch.rand(batch, channels, height, width, generator=g), torch.rand(
        batch, height, width, generator=g
    ) < 0.4


def recover(maps):
    """Shift (share of the side), zoom, angle (degrees) and mirrors (x, y) that the maps undo.

    For angles below 90°.
    """
    linear, offset = maps[:, :, :2].double(), maps[:, :, 2:].double()
    zoom = linear.det().abs() ** -0.5 - 1
    mirrors = torch.stack([linear[:, 0, 0], linear[:, 1, 1]], dim=1).sign()
    turned = mirrors[:, :, None] * linear
    angle = torch.rad2deg(torch.atan2(turned[:, 0, 1], turned[:, 0, 0]))
    shift = -torch.linalg.solve(linear, offset)[..., 0] / 2
    return shift, zoom, angle, mirrors


def coordinates(affine, height, width):
    """Input row and column, in pixels, of each output pixel."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    a = affine.double().numpy()
    columns, rows = (a[k, 0] * x + a[k, 1] * y + a[k, 2] for k in (0, 1))
    return (rows + 1) / 2 * (height - 1), (columns + 1) / 2 * (width - 1)


@pytest.mark.parametrize("height, width", [(24, 24), (20, 50), (50, 20)])
def test_rotations_turn_pixels_without_shear_whatever_the_shape(height, width):
    turn = Warp(flip=0.0, affine=1.0, shift=0.0, scale=0.0, rotate=40.0)
    aspect = (height - 1) / (width - 1)
    for affine in draw_warps([turn], torch.zeros(5, dtype=int), generator(), aspect=aspect):
        rows, columns = coordinates(affine, height, width)
        steps = np.array([[x[1, 0] - x[0, 0], x[0, 1] - x[0, 0]] for x in (rows, columns)])
        assert np.abs(steps @ steps.T - np.eye(2)).max() < 1e-5 and abs(steps[0, 1]) > 0.01


def test_border_of_another_name_is_refused():
    images, masks = images_and_masks()
    with pytest.raises(ValueError, match=r"beyond must be one of .*, got 'zeros'"):
        warp(images, masks, IDENTITY.expand(3, -1, -1), beyond="zeros")


def test_identity_maps_give_the_input():
    images, masks = images_and_masks()
    moved, marks = warp(images, masks, IDENTITY.expand(3, -1, -1))
    assert (moved - images).abs().max() < 1e-5
    assert torch.equal(marks, masks)


@pytest.mark.parametrize("mirror, dims", [((-1, 1), (-1,)), ((1, -1), (-2,)), ((-1, -1), (-2, -1))])
def test_mirroring_maps_equal_torch_flip(mirror, dims):
    images, masks = images_and_masks(height=20, width=31)
    maps = (IDENTITY * torch.tensor(mirror)[:, None]).expand(3, -1, -1)
    moved, marks = warp(images, masks, maps)
    assert (moved - images.flip(dims)).abs().max() < 1e-5
    assert torch.equal(marks, masks.flip(dims))


@pytest.mark.parametrize("pixels", [1, 5])
def test_shift_by_whole_pixels_mirrors_about_the_outermost_pixel(pixels):
    images, masks = images_and_masks(width=17, height=17)
    maps = IDENTITY.repeat(3, 1, 1)
    maps[:, 0, 2] = 2 * pixels / 16  # output column c comes from c + pixels
    moved, marks = warp(images, masks, maps)
    source = [c if c <= 16 else 32 - c for c in range(pixels, 17 + pixels)]
    assert (moved - images[..., source]).abs().max() < 1e-5
    assert torch.equal(marks, masks[..., source])


@pytest.mark.parametrize("height, width", [(24, 24), (19, 32)])
def test_agrees_with_scipy_everywhere(height, width):
    images, masks = images_and_masks(6, 2, height, width)
    maps = draw_warps([FREE], torch.zeros(6, dtype=int), generator())
    moved, marks = warp(images.double(), masks, maps)
    for i in range(6):
        where = coordinates(maps[i], height, width)
        for c in range(2):
            expected = map_coordinates(images[i, c].double().numpy(), where, order=1, mode="mirror")
            assert np.abs(moved[i, c].numpy() - expected).max() < 1e-9
        clear = np.all(
            [np.abs(x % 1 - 0.5) > 1e-6 for x in where], axis=0
        )  # no tie between two nearest pixels
        expected = (
            map_coordinates(masks[i].numpy().astype(float), where, order=0, mode="mirror") > 0.5
        )
        assert clear.mean() > 0.99
        assert (marks[i].numpy() == expected)[clear].all()


def test_agrees_with_opencv_warp_affine_on_a_smooth_image():
    side = 48
    y, x = np.mgrid[:side, :side] / side
    image = (0.5 + 0.3 * np.sin(7 * x) * np.cos(5 * y)).astype(np.float32)
    for affine in draw_warps([FREE], torch.zeros(8, dtype=int), generator(1)):
        half = (side - 1) / 2
        pixel = np.array([[half, 0, half], [0, half, half], [0, 0, 1]])  # from [-1, 1] to pixels
        matrix = (pixel @ np.vstack([affine.double().numpy(), [0, 0, 1]]) @ np.linalg.inv(pixel))[
            :2
        ]
        options = {
            "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            "borderMode": cv2.BORDER_REFLECT_101,
        }
        expected = cv2.warpAffine(image, matrix, (side, side), **options)
        moved, _ = warp(
            torch.from_numpy(image)[None, None],
            torch.zeros(1, side, side, dtype=torch.bool),
            affine[None],
        )
        assert (
            np.abs(moved[0, 0].numpy() - expected).max() < 3e-3
        )  # OpenCV may round positions to 1/32 pixel


def test_mask_and_image_stay_registered():
    masks = torch.zeros(40, 64, 64, dtype=torch.bool)
    masks[:, 18:30, 26:42] = True
    maps = draw_warps([Warp(affine=1.0)], torch.zeros(40, dtype=int), generator())
    moved, marks = warp(masks[:, None].float(), masks, maps)
    bright = moved[:, 0] > 0.5
    overlap = (bright & marks).sum((1, 2)) / (bright | marks).sum((1, 2))
    assert overlap.min() > 0.95
    assert not torch.equal(marks, masks)


def test_a_point_is_flipped_then_scaled_rotated_and_shifted():
    angle, zoom, shift = math.radians(8), 0.1, np.array([0.1, -0.05])  # shift in [-1, 1] units
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = (1 + zoom) * turn @ np.diag([-1, 1])
    affine = np.hstack([np.linalg.inv(forward), -(np.linalg.inv(forward) @ shift)[:, None]])
    found = recover(torch.from_numpy(affine)[None])
    assert found[0][0].tolist() == pytest.approx((shift / 2).tolist())
    assert [found[1].item(), found[2].item()] == pytest.approx([zoom, 8])
    assert found[3].tolist() == [[-1, 1]]
    drawn = draw_warps([FREE], torch.zeros(200, dtype=int), generator())
    for affine, shift, zoom, angle, mirrors in zip(drawn, *recover(drawn), strict=True):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        forward = (1 + zoom) * torch.tensor([[c, -s], [s, c]]) @ mirrors.float().diag()
        point = torch.tensor([0.3, -0.2])
        there = forward.float() @ point + 2 * shift.float()
        back = affine[:, :2] @ there + affine[:, 2]  # the map leads from output to input
        assert (back - point).abs().max() < 1e-5


@pytest.mark.parametrize(
    "name, flip_rate, affine_rate, degrees",
    [
        ("Blowhole", 0.5, 0.5, 10),
        ("Break", 0.5, 0, 0),
        ("Crack", 0, 0.5, 5),
        ("Fray", 0.5, 0, 0),
        ("Uneven", 0.5, 0, 0),
    ],
)
def test_released_ranges_and_rates(name, flip_rate, affine_rate, degrees):
    n = 4000
    maps = draw_warps([RELEASED_WARPS[name]], torch.zeros(n, dtype=int), generator())
    assert maps.dtype == torch.float32 and maps.shape == (n, 2, 3)
    shift, zoom, angle, mirrors = recover(maps)
    flipped = (mirrors < 0).any(1)
    assert flipped.double().mean().item() == pytest.approx(flip_rate, abs=0.03 if flip_rate else 0)
    if flip_rate:
        kinds = torch.bincount(
            ((1 - mirrors[flipped]) / 2 @ torch.tensor([1.0, 2.0]).double()).long(), minlength=4
        )
        assert (
            kinds[0] == 0 and kinds[1:].min() > 0.3 * flipped.sum()
        )  # horizontal, vertical and both, alike
    moved = (shift.abs().sum(1) + zoom.abs() + angle.abs()) > 1e-4
    assert moved.double().mean().item() == pytest.approx(
        affine_rate, abs=0.03 if affine_rate else 0
    )
    if not affine_rate:
        return
    for values, limit in [
        (shift[:, 0], 0.0625),
        (shift[:, 1], 0.0625),
        (zoom, 0.1),
        (angle, degrees),
    ]:
        values = values[moved] / limit
        assert values.abs().max() <= 1 + 1e-4
        assert values.min() < -0.98 and values.max() > 0.98
        assert abs(values.mean()) < 0.06 and values.std().item() == pytest.approx(
            3**-0.5, abs=0.03
        )  # uniform
    together = torch.corrcoef(torch.stack([shift[:, 0], shift[:, 1], zoom, angle])[:, moved])
    assert (together - torch.eye(4)).abs().max() < 0.1  # drawn independently


def test_warps_of_a_mixed_list_keep_their_class():
    warps, which = (
        [RELEASED_WARPS[n] for n in ("Break", "Crack", "Blowhole")],
        torch.arange(3).repeat(300),
    )
    shift, zoom, angle, mirrors = recover(draw_warps(warps, which, generator()))
    moved = (shift.abs().sum(1) + zoom.abs() + angle.abs()) > 1e-4
    flipped = (mirrors < 0).any(1)
    assert not moved[0::3].any() and flipped[0::3].any()
    assert moved[1::3].any() and not flipped[1::3].any() and angle[1::3].abs().max() <= 5.01
    assert moved[2::3].any() and flipped[2::3].any() and angle[2::3].abs().max() > 5.01


def test_seed_fixes_the_warps_and_no_global_generator_is_used():
    before = torch.random.get_rng_state()
    first, again, other = (
        draw_warps([Warp()], torch.zeros(9, dtype=int), generator(s)) for s in (1, 1, 2)
    )
    draw_flips(9, generator())
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_warp_of_nothing_is_nothing():
    maps = draw_warps([Warp()], torch.zeros(0, dtype=int), generator())
    assert maps.shape == (0, 2, 3)
    moved, marks = warp(torch.rand(0, 3, 8, 8), torch.zeros(0, 8, 8, dtype=torch.bool), maps)
    assert moved.shape == (0, 3, 8, 8) and marks.shape == (0, 8, 8) and marks.dtype == torch.bool


def test_warp_leaves_its_inputs_and_keeps_dtypes():
    images, masks = images_and_masks()
    before = images.clone(), masks.clone()
    moved, marks = warp(
        images.double(), masks, draw_warps([FREE], torch.zeros(3, dtype=int), generator())
    )
    warp(images, masks, draw_warps([FLIP_ONLY], torch.zeros(3, dtype=int), generator()))
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])
    assert moved.dtype == torch.float64 and marks.dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_matches_torch_flip_row_by_row(dtype):
    images = torch.randint(256, (4, 3, 6, 7), generator=generator()).to(dtype)
    masks = torch.randint(6, (4, 6, 7), generator=generator(1), dtype=torch.uint8)
    before = images.clone(), masks.clone()
    flips = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    flipped, marks = flip(images, masks, flips)
    assert flipped.dtype == dtype and marks.dtype == torch.uint8
    for i, dims in enumerate([(), (-2,), (-1,), (-2, -1)]):
        assert torch.equal(flipped[i], images[i].flip(dims))
        assert torch.equal(marks[i], masks[i].flip(dims))
    back = flip(flipped, marks, flips)
    assert torch.equal(back[0], images) and torch.equal(back[1], masks)
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])


def test_flips_are_drawn_at_half_and_independently():
    flips = draw_flips(4000, generator())
    assert flips.dtype == torch.bool and flips.shape == (4000, 2)
    four = torch.bincount(flips.long() @ torch.tensor([1, 2]), minlength=4)
    assert (four - 1000).abs().max() < 100


SIDES = st.tuples(st.integers(1, 30), st.integers(1, 30))
WIDE = Warp(flip=0.5, affine=0.8, shift=0.5, scale=0.5, rotate=180)


def marked_boxes(count, height, width, seed):
    """Masks (count, H, W) of one box each, and its middle and half of its sides."""
    masks, middle, half = torch.zeros(count, height, width, dtype=torch.bool), [], []
    rng = np.random.default_rng(seed)
    for mask in masks:
        (top, bottom), (left, right) = (sorted(rng.integers(0, n, 2)) for n in (height, width))
        mask[top : bottom + 1, left : right + 1] = True
        middle.append([(left + right) / 2, (top + bottom) / 2])
        half.append([(right - left) / 2, (bottom - top) / 2])
    return masks, torch.tensor(middle).double(), torch.tensor(half).double()


@given(sides=SIDES, seed=st.integers(0, 999), beyond=st.sampled_from(["mirrored", "nearest"]))
def test_nothing_is_shown_beyond_the_reach(sides, seed, beyond):
    masks, middle, half = marked_boxes(6, *sides, seed)
    maps = draw_warps([WIDE], torch.zeros(6, dtype=int), generator(seed))
    _, shown = warp(torch.zeros(6, 1, *sides), masks, maps, beyond=beyond)
    boxes = reach(maps, middle, half, source=sides, target=sides, beyond=beyond)
    for mask, (left, top, right, bottom) in zip(shown, boxes, strict=True):
        rows, columns = mask.nonzero().T
        if len(rows):
            assert left <= columns.min() + 1e-3 and columns.max() <= right + 1e-3
            assert top <= rows.min() + 1e-3 and rows.max() <= bottom + 1e-3


@given(sides=SIDES, seed=st.integers(0, 999))
def test_what_sees_promises_is_seen(sides, seed):
    masks, _, _ = marked_boxes(6, *sides, seed)
    maps = draw_warps([WIDE], torch.zeros(6, dtype=int), generator(seed))
    _, shown = warp(torch.zeros(6, 1, *sides), masks, maps)
    for k in range(6):
        points = masks[k].nonzero().flip(1)[None]
        if sees(maps[k : k + 1], points, sides, sides):
            assert shown[k].any()


def test_sees_is_no_more_careful_than_it_must_be():
    """Of pixels near the edge under the released shifts, all but some of those that go."""
    masks = torch.zeros(400, 64, 64, dtype=torch.bool)
    masks[:, 1, 1] = True
    maps = draw_warps([Warp(flip=0, affine=1)], torch.zeros(400, dtype=int), generator())
    seen = sees(maps, torch.ones(400, 1, 2), (64, 64), (64, 64))
    _, shown = warp(torch.zeros(400, 1, 64, 64), masks, maps, beyond="nearest")
    assert not (seen & ~shown.flatten(1).any(dim=1)).any()
    assert seen.sum() > 0.8 * shown.flatten(1).any(dim=1).sum()


def test_a_part_of_a_warp_is_that_part_to_the_bit():
    images, masks = images_and_masks(6, 2, 24, 31)
    maps = draw_warps([WIDE], torch.zeros(6, dtype=int), generator())
    moved, marks = warp(images, masks, maps)
    rows, columns = slice(3, 17), slice(10, 31)
    part = warp(images, masks, maps, rows=rows, columns=columns)
    assert torch.equal(part[0], moved[:, :, rows, columns])
    assert torch.equal(part[1], marks[:, rows, columns])


def test_masks_of_classes_keep_them_and_what_is_ignored():
    masks = torch.randint(0, 6, (4, 16, 16), generator=generator(), dtype=torch.uint8)
    masks[:, :5] = 255
    maps = draw_warps([WIDE], torch.zeros(4, dtype=int), generator())
    images = torch.zeros(4, 1, 16, 16)
    _, moved = warp(images, masks, maps)
    assert moved.dtype == torch.uint8
    for value in (*range(6), 255):
        assert torch.equal(moved == value, warp(images, masks == value, maps)[1])


def test_a_pixel_is_placed_where_it_is_told():
    linear = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])  # a quarter turn
    maps = placed(
        linear,
        torch.tensor([[4.0, 2.0]]),
        torch.tensor([[10.0, 7.0]]),
        source=(6, 9),
        target=(20, 15),
    )
    image = torch.zeros(1, 1, 6, 9)
    image[0, 0, 2, 4], image[0, 0, 2, 5] = 1.0, 0.5
    moved, marks = warp(image, image[:, 0] > 0, maps, sides=(20, 15), beyond="nearest")
    assert moved.shape == (1, 1, 20, 15) and moved[0, 0, 7, 10].item() == pytest.approx(1)
    assert sorted((marks[0].nonzero() - torch.tensor([7, 10])).abs().sum(1).tolist()) == [0, 1]
