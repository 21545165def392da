import linecache
import re
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlilib import TileSet
from dlilib.data import duplicates, magnetic
from dlilib.data.duplicates import count_across, near_duplicates, warn_of_near_duplicates

SIDE = 64  # pixels


def surfaces(count, seed=0, side=SIDE, coarseness=2.0, strength=30):
    """Independent textures, uint8 (N, side, side)."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        texture = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), coarseness)
        images.append(128 + strength * texture / texture.std())
    return np.clip(images, 0, 255).astype(np.uint8)


def data_set(images, **fields):
    masks = np.zeros((len(images), *np.shape(images[0])[-2:]), np.uint8)
    return TileSet.from_arrays(images, masks, ["dent"], **fields)


def found(images):
    return [tuple(pair) for pair in near_duplicates(data_set(images)).tolist()]


def linear(contrast, brightness):
    return lambda image: np.clip(image * float(contrast) + brightness, 0, 255).astype(np.uint8)


def jpeg(quality):
    return lambda image: cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE
    )


def noisy(image):
    drawn = np.random.default_rng(1).normal(0, 5, image.shape)
    return np.clip(image + drawn, 0, 255).astype(np.uint8)


COPIES = {
    "identical": np.copy,
    "brighter": linear(1, 40),
    "darker": linear(0.7, 0),
    "half the contrast": linear(0.5, 64),
    "more contrast": linear(1.5, -60),
    "JPEG 90": jpeg(90),
    "JPEG 50": jpeg(50),
    "noise": noisy,
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1),
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "quarter turn": np.rot90,
    "half turn": lambda image: np.rot90(image, 2),
    "three quarters": lambda image: np.rot90(image, 3),
    "transposed": np.transpose,
    "mirrored, turned, brighter, JPEG": lambda image: jpeg(70)(
        linear(0.9, 20)(np.ascontiguousarray(np.rot90(image[:, ::-1])))
    ),
}


# --- copies are found


@pytest.mark.parametrize("others", [2, 20, 120])
@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
def test_only_the_copy_is_found(copy, others):
    images = surfaces(others)
    assert found([*images, copy(images[1])]) == [(1, others)]


@pytest.mark.parametrize(
    "copy", ["identical", "darker", "half the contrast", "mirrored", "quarter turn", "transposed"]
)
def test_a_copy_is_found_in_a_set_of_two(copy):
    image = surfaces(1)[0]
    assert found([image, COPIES[copy](image)]) == [(0, 1)]


def test_copies_of_symmetric_drawings_are_found_and_other_drawings_are_not():
    gaps = np.abs(np.arange(SIDE) - (SIDE - 1) / 2)  # pixels from the centre line
    disc = np.where(np.hypot(gaps, gaps[:, None]) < 20, 200, 40).astype(np.uint8)
    square = np.where(np.maximum(gaps, gaps[:, None]) < 18, 200, 40).astype(np.uint8)
    assert (disc == disc[::-1]).all() and (disc == disc.T).all()
    darker = linear(0.5, 20)
    assert found([disc, darker(disc)]) == found([square, darker(square)]) == [(0, 1)]
    assert found([disc, square]) == []


def test_every_pair_of_several_copies_is_found():
    image, *others = surfaces(10)
    copies = [image, image[:, ::-1], linear(0.8, 10)(image), image.T]
    assert found([*copies, *others]) == [(i, j) for i in range(4) for j in range(i + 1, 4)]


def test_a_set_of_copies_of_one_image_is_all_pairs():
    assert len(found([surfaces(1)[0]] * 30)) == 30 * 29 / 2


def test_colour_images_are_compared():
    images = surfaces(12).reshape(4, 3, SIDE, SIDE)
    assert found([*images, images[2][:, ::-1]]) == [(2, 4)]


def test_padding_is_not_compared():
    turned = np.zeros((12, SIDE, SIDE), np.uint8)
    for place, image in zip(turned, surfaces(12), strict=True):
        place[:40, :56] = image[:40, :56]
    turned[11] = 0
    turned[11, :56, :40] = np.rot90(turned[3, :40, :56])
    tiles = data_set(turned)
    sizes = torch.tensor([[40, 56]] * 11 + [[56, 40]])
    padded = tiles._with(resize="pad", sizes=sizes)
    assert near_duplicates(padded).tolist() == [[3, 11]]
    some = padded.subset([11, 0, 3])
    assert near_duplicates(some).tolist() == [[0, 2]]


@pytest.mark.parametrize("shape", [(16, 16), (24, 40), (256, 64)])
def test_any_shape_from_16_pixels_is_compared(shape):
    images = np.random.default_rng(0).integers(0, 256, (10, *shape), np.uint8)
    assert found([*images, images[4][::-1]]) == [(4, 10)]


# --- other images are not


@pytest.mark.parametrize("count", [2, 3, 10, 49, 500])
def test_independent_textures_are_not_found(count):
    assert found(surfaces(count, seed=count)) == []


@pytest.mark.parametrize("count", [2, 60, 1000])
def test_independent_noise_is_not_found(count):
    assert found(np.random.default_rng(0).integers(0, 256, (count, 32, 32), np.uint8)) == []


def test_flat_images_are_not_found():
    grey = [np.full((SIDE, SIDE), level, np.uint8) for level in (0, 0, 128, 128, 255)]
    assert found(grey) == []
    rng = np.random.default_rng(0)
    drawn = [np.clip(rng.normal(128, 0.4, (SIDE, SIDE)), 0, 255).astype(np.uint8) for _ in grey]
    assert found([*grey, *drawn]) == []
    images = surfaces(5)
    assert found([*grey, *images, images[1]]) == [(6, 10)]


def test_images_under_16_pixels_are_not_found():
    assert found(np.random.default_rng(0).integers(0, 256, (1, 64, 8), np.uint8).repeat(3, 0)) == []


def before_a_camera(count, kinds=1):
    """Different parts of a few kinds, each kind in one position, at most a pixel off."""
    rng = np.random.default_rng(0)
    images = []
    for k, texture in enumerate(surfaces(count, side=128, coarseness=4, strength=5)):
        image = np.full((128, 128), 60, np.uint8)
        centre = np.array([[64, 64], [40, 70], [80, 50]][k % kinds])
        for radius, level in ((50, 170), (20, 90), (6, 30)):
            place = np.round((centre + rng.uniform(-1, 1, 2)) * 16).astype(int).tolist()
            cv2.circle(image, place, radius * 16, level, -1, cv2.LINE_AA, 4)
        images.append(np.clip(image + (texture - 128.0), 0, 255).astype(np.uint8))
    return images


@pytest.mark.parametrize(("kinds", "count"), [(1, 20), (1, 200), (3, 300)])
def test_parts_before_a_fixed_camera_are_told_apart_from_copies(kinds, count):
    images = before_a_camera(count, kinds)
    pairs = found([*images, jpeg(80)(np.ascontiguousarray(images[5][:, ::-1]))])
    assert (5, count) in pairs
    assert len(pairs) - 1 <= 0.002 * count * (count - 1) / 2  # of all pairs of different parts


# --- how it is computed


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_pairs(count):
    tiles = data_set(surfaces(2)).subset(range(count))
    assert near_duplicates(tiles).shape == (0, 2)


def test_pairs_are_sorted_int64_and_the_same_in_chunks_of_any_size(monkeypatch):
    images = surfaces(30)
    tiles = data_set([*images, *images[::-1], np.zeros((SIDE, SIDE), np.uint8)])
    before = tiles.images.clone()
    pairs = near_duplicates(tiles)
    assert pairs.dtype == np.int64 and pairs.tolist() == [[k, 59 - k] for k in range(30)]
    assert torch.equal(tiles.images, before)
    for size in (1, 7, 1000):
        monkeypatch.setattr(duplicates, "AT_ONCE", size)
        assert np.array_equal(near_duplicates(tiles), pairs)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(32, 32), (16, 40), (200, 64)]))
def test_frequencies_of_the_orientations_are_those_of_the_turned_image(seed, shape):
    image = np.random.default_rng(seed).integers(0, 256, (1, *shape), np.uint8)
    turned = [np.rot90(kept, k, (1, 2)) for kept in (image, image[:, ::-1]) for k in range(4)]
    expected = np.stack([duplicates._waves(each).ravel() for each in turned])
    computed = np.concatenate(list(duplicates._orientations(duplicates._waves(image)[None])))
    gaps = np.abs(computed[:, None] - expected).max(axis=2)  # (8, 8)
    assert sorted(gaps.argmin(axis=1)) == list(range(8)) and gaps.min(axis=1).max() < 1e-4


def test_frequencies_are_opencvs_cosine_transform():
    image = surfaces(1)[0]
    small = cv2.resize(image.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
    expected = cv2.dct(small)[:16, :16]
    expected[0, 0] = 0
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(duplicates._waves(image[None]), expected, atol=1e-5)


def test_hashes_that_match_differ_in_few_bits_of_any_orientation():
    values = np.random.default_rng(0).normal(size=(8, 20, 256)).astype(np.float32)
    values[:, :, 0] = 0
    values[:, :, 1:140] = 1  # so that about half of the pairs match
    hashes = [duplicates._hashes(each) for each in values]
    bits = values > 0
    differ = (bits[:, :, None] != bits[0]).sum(axis=3).min(axis=0)  # (20, 20)
    expected = differ <= 52
    assert 0.2 < expected.mean() < 0.8
    assert np.array_equal(duplicates._match(hashes, 0, 52), expected)
    assert np.array_equal(duplicates._match(hashes, 13, 52), expected[13:, 13:])


# --- pairs across groups


def test_pairs_across_groups_are_counted():
    tiles = data_set(surfaces(4), groups=[7, 7, 8, 9])
    pairs = np.array([[0, 1], [0, 2], [1, 2], [2, 3]])
    assert count_across(tiles, pairs) == 3
    assert count_across(tiles, pairs[:1]) == count_across(tiles, np.zeros((0, 2), int)) == 0
    with pytest.raises(ValueError, match=re.escape("(M, 2), got (2,)")):
        count_across(tiles, np.array([0, 1]))


def reader(tiles):
    """Stands for from_folder, which calls the check."""
    warn_of_near_duplicates(tiles)


def test_copies_in_different_groups_warn_with_a_pair_and_what_to_do():
    images = surfaces(6)
    images = [*images, images[2][::-1], images[4], images[4]]
    names = ["a", "b", "c", "d", "e", "f", "c_flipped", "e_copy", "e_copy2"]
    tiles = data_set(images, groups=[0, 1, 2, 3, 4, 5, 2, 4, 6], names=names)
    with pytest.warns(UserWarning) as caught:
        reader(tiles)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert linecache.getline(__file__, caught[0].lineno).strip() == "reader(tiles)"
    message = str(caught[0].message)
    assert message.startswith("2 pairs of images look like one photograph")
    assert "'e' and 'e_copy2'" in message and "tiles.csv" in message and "image,tile" in message


def test_a_single_pair_warns_in_the_singular():
    images = surfaces(3)
    with pytest.warns(UserWarning, match="^1 pair of images looks like one .* '1' and '3'"):
        reader(data_set([*images, images[1]]))


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (np.copy, "'3': a split"),
        (np.fliplr, r"'3' \(mirrored\): a split"),
        (np.flipud, r"'3' \(mirrored\): a split"),
        (lambda image: np.rot90(image, 2), r"'3' \(turned by 180°\): a split"),
        (np.rot90, r"'3' \(turned by 90°\): a split"),
        (lambda image: np.rot90(image, 3), r"'3' \(turned by 90°\): a split"),
        (np.transpose, r"'3' \(mirrored and turned\): a split"),
    ],
)
def test_the_warning_says_how_the_images_lie(turn, told):
    images = surfaces(3)
    with pytest.warns(UserWarning, match=f"'1' and {told}"):
        reader(data_set([*images, turn(images[1])]))


def test_copies_of_one_group_and_different_images_do_not_warn(small_toy):
    images = surfaces(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(data_set(images))
        reader(data_set([*images, images[0]], groups=[0, 1, 2, 3, 4, 5, 0]))
        reader(data_set(images).subset([]))


def test_exposures_of_toy_parts_are_found(toy):
    groups = toy.groups.numpy()
    pairs = near_duplicates(toy)
    assert count_across(toy, pairs) == 0
    assert len(pairs) == sum(size * (size - 1) // 2 for size in np.bincount(groups))


# --- the real Magnetic Tiles


def test_exposures_of_real_tiles_are_found_as_measured(real_tiles):
    names = [magnetic.MT_NAME.search(name) for name in real_tiles.names]
    part = magnetic._numbered_groups(
        real_tiles.labels.numpy(),
        real_tiles.exposure.numpy(),
        np.array([int(name[2]) for name in names]),
    )
    pairs = near_duplicates(real_tiles)
    same = part[pairs[:, 0]] == part[pairs[:, 1]]
    sizes = np.unique(part, return_counts=True)[1]
    exposures = (sizes * (sizes - 1) // 2).sum()
    assert exposures == 3241
    assert 0.65 < same.sum() / exposures < 0.75  # 70 % of them at 128 pixels
    assert len(np.unique(part[pairs[same, 0]])) >= 220  # 229 of 234 parts
    assert count_across(real_tiles, pairs) <= 6  # 3 of 875,091
    assert (~same).sum() < 350  # 259 by file numbers alone


def test_copies_of_real_tiles_are_found(real_tiles):
    images = real_tiles.images[::14, 0].numpy()
    copies = [jpeg(50)(linear(0.8, 20)(image))[:, ::-1] for image in images[:40]]
    pairs = set(found([*images, *copies]))
    assert pairs >= {(k, len(images) + k) for k in range(40)}


def test_real_tiles_without_their_groups_warn(real_tiles):
    every = torch.arange(len(real_tiles))
    with pytest.warns(UserWarning, match=r"\d{4} pairs of images look .*'MT_\w+/exp\d_num_\d+'"):
        reader(real_tiles._with(groups=every))
