"""What may be injected: the defects of a data set, or pictures of any size."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import refused

from dlilib import IGNORE, Donors, DynamicLabelInjection, TileSet
from dlilib.augment import Warp

STILL = Warp(flip=0, affine=0)


def seeded():
    return torch.Generator().manual_seed(0)


def by_class(donors):
    return [donors.ids[members].tolist() for members in donors.members]


def test_donors_are_the_given_images_with_a_defect_by_class(toy):
    rows = torch.cat([(toy.labels == c).nonzero()[:3, 0] for c in (1, 2, 3, 4, 5, 0)])
    assert by_class(Donors.of(toy, rows)) == rows[:15].reshape(5, 3).tolist()
    assert [len(members) for members in Donors.of(toy).members] == [29, 21, 14, 8, 26]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_rows_may_be_any_kind_of_integers(toy, kind, dtype):
    rows = np.arange(238, 260, dtype=dtype)
    assert Donors.of(toy, kind(rows)).digest == Donors.of(toy, range(238, 260)).digest


@pytest.mark.parametrize(
    "rows, message",
    [
        ([-1], r"donors must index the 336 tiles, got -1\.\.-1"),
        ([5, 336], r"336 tiles, got 5\.\.336"),
        (torch.zeros(336, dtype=torch.bool), "donors must be a row of indices, got torch.bool"),
        ([0.5, 1.5], "donors must be a row of indices, got torch.float32"),
        ([[250, 251]], r"donors must be a row.*\(1, 2\)"),
        (250, "donors must be a row"),
    ],
)
def test_rows_that_are_no_indices_are_refused(toy, rows, message):
    refused(lambda: Donors.of(toy, rows), message)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tiles": "my_parts"}, "tiles must be a TileSet, got str"),
        ({"empty": "no"}, r"empty must be one of \(False, True\), got 'no'"),
        ({"margin": 1.5}, "margin must be a non-negative integer, got 1.5"),
        ({"margin": -1}, "margin must be a non-negative integer, got -1"),
        ({"margin": True}, "margin must be a non-negative integer, got True"),
    ],
)
def test_options_that_are_none_are_refused(toy, options, message):
    refused(lambda: Donors.of(**{"tiles": toy, **options}), message)


def test_digest_is_of_pixels_and_names_too(toy):
    donors = Donors.of(toy, range(238, 260))
    pixels = donors.pixels.clone()
    pixels[7] ^= 1
    for change in ({"pixels": pixels}, {"ids": donors.ids + 1}):
        assert replace(donors, digest="", **change).digest != donors.digest


def test_warp_of_any_class_says_how_much_is_kept_around_a_defect(toy):
    transform = DynamicLabelInjection(toy, warps={"Crack": Warp(scale=0.8)})
    assert transform.donors.margin == 30  # sqrt(2) * 4 pixels that a blend reads / 0.2, and one


def test_images_that_show_nothing_of_their_class_are_no_donors(toy):
    masks = toy.masks.clone()
    hidden = (toy.labels == 5).nonzero()[:4, 0]
    masks[hidden[:3]], masks[hidden[3]] = 0, IGNORE
    tiles = replace(toy, masks=masks)
    assert not torch.isin(hidden, Donors.of(tiles).ids).any()
    assert torch.isin(hidden, Donors.of(tiles, empty=True).ids).all()  # as released


def test_the_transform_carries_its_donors_and_not_the_data_set():
    count = 2048
    images, masks = torch.zeros(count, 64, 64, dtype=torch.uint8), torch.zeros(count, 64, 64)
    masks[:10, 20:30, 20:30] = 1
    tiles = TileSet.from_arrays(images, masks.byte(), ["dent"])
    transform = DynamicLabelInjection(tiles, range(10), generator=torch.Generator().manual_seed(0))
    transform(*(x[:16] for x in (tiles.images, tiles.masks, tiles.labels)))
    assert len(pickle.dumps(transform)) < 120_000  # ten donors are 80 KiB, the tiles 16 MiB
    buffer = io.BytesIO()
    torch.save(transform.state_dict(), buffer)
    assert len(buffer.getvalue()) < 2_000


def crops(channels=1, seed=0):
    """Three pictures of two classes, of different sizes."""
    g = torch.Generator().manual_seed(seed)
    images, masks = [], []
    for height, width in ((6, 9), (12, 5), (8, 8)):
        images.append(torch.rand(channels, height, width, generator=g))
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[1:-1, 2:-1] = True
        masks.append(mask)
    return images, masks, [1, 2, 2]


def pasted(donor, sides, count, **warp):
    """Masks (B, H, W) of a crop that is all defect, pasted into so many black images."""
    donors = Donors.from_crops([torch.ones(donor)], [torch.ones(donor).bool()], [1])
    transform = DynamicLabelInjection(
        donors, place="anywhere", p_poisson=0.0, warps=Warp(flip=0, **warp), generator=seeded()
    )
    empty = torch.zeros(count, 1, *sides), torch.zeros(count, *sides).byte()
    return transform(*empty, torch.zeros(count, dtype=torch.int64))[1]


def test_crops_reach_every_pixel_within_the_ring():
    masks = pasted((2, 2), (8, 9), 400, affine=0)
    assert (masks.sum(dim=(1, 2)) == 4).all()
    assert masks.any(dim=0)[1:-1, 1:-1].all() and masks.any(dim=0).sum() == 6 * 7


def test_crops_too_large_as_they_are_turned_stay_upright():
    masks = pasted((3, 20), (14, 26), 200, affine=1, shift=0, scale=0, rotate=90)
    pixels = masks.sum(dim=(1, 2))
    assert pixels.min() >= 50 and len(pixels.unique()) > 1  # of 60, resampled where they are turned


def test_crops_of_any_size_are_injected_whole_anywhere():
    images, masks, labels = crops()
    donors = Donors.from_crops(images, masks, labels, classes=["dent", "scratch"])
    assert repr(donors) == "Donors(3 of the 3 crops: dent 1, scratch 2)"
    for height, width in ((20, 32), (40, 17)):
        transform = DynamicLabelInjection(
            donors,
            place="anywhere",
            p_poisson=0,
            warps=dict.fromkeys(donors.classes, STILL),
            generator=torch.Generator().manual_seed(0),
        )
        batch = torch.zeros(30, 1, height, width), torch.zeros(30, height, width).byte()
        after, marked, found = transform(*batch, torch.zeros(30, dtype=torch.int64))
        plan_places = set()
        for image, mask, label in zip(after, marked, found, strict=True):
            rows, columns = mask.nonzero().T
            box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            candidates = [k for k, wanted in enumerate(labels) if wanted == label]
            pasted = image[0][mask > 0]
            same = [
                k
                for k in candidates
                if box.shape == (masks[k].shape[0] - 2, masks[k].shape[1] - 3)
                and (pasted - images[k][0][masks[k]]).abs().max() < 1 / 255
            ]
            assert len(same) == 1 and (box == label).all()
            plan_places.add((int(rows.min()), int(columns.min())))
            assert rows.min() > 0 and rows.max() < height - 1  # off the outermost ring
        assert len(plan_places) > 15


def test_colour_and_grey_crops_and_class_indices():
    images, masks, labels = crops()
    colour = Donors.from_crops([images[0].expand(3, -1, -1), *images[1:]], masks, labels)
    assert colour.channels == 3 and colour.classes == ("1", "2")
    indices = [mask.byte() * label for mask, label in zip(masks, labels, strict=True)]
    assert torch.equal(Donors.from_crops(images, indices, labels).marks, colour.marks)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    again = Donors.from_crops(arrays, [mask.numpy() for mask in masks], np.array(labels))
    assert again.digest == Donors.from_crops(images, masks, labels).digest


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda i, m, l: (i[:2], m, l),
            "images must be as many as the 3 labels.*got 2",
        ),
        (lambda i, m, l: ([], [], []), r"labels must be classes 1\.\.K, one a crop, got \[\]"),
        (lambda i, m, l: (i, m, [0, 1, 2]), r"labels must be classes 1\.\.K"),
        (lambda i, m, l: (i, m, [1.0, 1.0, 2.0]), r"labels must be classes 1\.\.K"),
        (lambda i, m, l: (i, [m[0], ~m[0], m[2]], l), r"images\[1\]: images must be N of \(6, 9\)"),
        (lambda i, m, l: (i, [m[0], m[1] & False, m[2]], l), r"masks\[1\] shows no pixel of its"),
        (lambda i, m, l: (i, [m[0], m[1].byte(), m[2]], l), r"masks\[1\] shows no pixel.*as bool"),
        (lambda i, m, l: (i, [m[0], m[1].float(), m[2]], l), r"masks\[1\] must be \(h, w\)"),
        (lambda i, m, l: ([i[0] * 300, *i[1:]], m, l), r"images\[0\]: images must be floats in"),
    ],
)
def test_crops_that_cannot_be_used_are_refused_by_name(change, message):
    refused(lambda: Donors.from_crops(*change(*crops())), message)


def test_crops_need_a_place_and_room(toy):
    donors = Donors.from_crops(*crops())
    refused(lambda: DynamicLabelInjection(donors), 'place must be "anywhere"')
    refused(lambda: DynamicLabelInjection(donors, [0], place="anywhere"), "donors are indices")
    refused(lambda: DynamicLabelInjection("toy"), "tiles must be a TileSet or Donors, got str")
    transform = DynamicLabelInjection(donors, place="anywhere")
    refused(lambda: transform.plan([0, 0]), "sides must be given")
    labels = torch.zeros(9, dtype=torch.int64)
    message = r"no defect of class 2 fits into images of 5×30 pixels: the donors' are 6 high"
    refused(
        lambda: transform(torch.zeros(9, 1, 5, 30), torch.zeros(9, 5, 30).byte(), labels), message
    )
    low = torch.zeros(9, 1, 9, 30), torch.zeros(9, 9, 30).byte(), labels
    for _ in range(5):  # the crop that is too high is left out
        assert not (transform.plan(labels, (9, 30)).donor == 1).any()
    assert transform(*low)[2].all()


def test_a_class_that_is_not_injected_needs_no_room():
    large, small = torch.ones(40, 40, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    pictures = [mask.byte() for mask in (large, small)]
    donors = Donors.from_crops(pictures, [large, small], [1, 2], classes=["big", "small"])
    batch = torch.zeros(4, 1, 20, 20), torch.zeros(4, 20, 20).byte(), torch.zeros(4).long()
    transform = DynamicLabelInjection(donors, place="anywhere", target={"big": 0, "small": 1})
    assert transform(*batch)[2].tolist() == [2] * 4
    refused(
        lambda: DynamicLabelInjection(donors, place="anywhere")(*batch), "no defect of class big"
    )


def test_crops_of_a_pixels_width_stay_so():
    mask = np.arange(12)[:, None] % 4 == 0  # 3 pixels
    donors = Donors.from_crops([np.full((12, 1), 200, np.uint8)], [mask], [1])
    still = Warp(flip=0, affine=0)
    transform = DynamicLabelInjection(donors, place="anywhere", p_poisson=0, warps=still)
    batch = torch.zeros(1, 1, 32, 40).byte(), torch.zeros(1, 32, 40).byte(), torch.zeros(1).long()
    images, masks, _ = transform(*batch)
    assert int((masks > 0).sum()) == int((images > 0).sum()) == 3


def test_defects_far_down_a_line_scan_are_warped():
    masks = torch.zeros(2, 40000, 8, dtype=torch.uint8)
    masks[1, 39000:39009, 2:6] = 1
    tiles = TileSet.from_arrays(torch.zeros(2, 40000, 8, dtype=torch.uint8), masks, ["pit"])
    points, middle, _ = Donors.of(tiles).spots
    assert points[..., 1].min() == 39000 and points[..., 1].max() == 39008
    assert middle.tolist() == [[3.5, 39004.0]]


def test_donors_of_another_number_of_classes_may_be_set(toy):
    transform = DynamicLabelInjection(toy, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 3, dtype=torch.bool)
    transform.place = "anywhere"
    transform.donors = Donors.from_crops([mask.byte()] * 2, [mask] * 2, [1, 2])
    assert sorted(transform.plan([0, 0], (16, 16)).label.tolist()) == [1, 2]
    transform.state = "running"
    transform.plan([1] * 8, (16, 16))
    others = Donors.from_crops([mask.byte()] * 2, [mask] * 2, [1, 2], classes=["a", "b"])
    transform.donors = others  # of which none was seen yet
    assert sorted(transform.plan([0, 0], (16, 16)).label.tolist()) == [1, 2]


def test_a_small_defect_in_a_large_crop_takes_little_memory():
    small = [torch.zeros(8, 8, dtype=torch.uint8)] * 50
    large = torch.zeros(1500, 1500, dtype=torch.uint8)
    marks = [torch.ones(8, 8, dtype=torch.bool)] * 50
    mark = torch.zeros(1500, 1500, dtype=torch.bool)
    mark[700:709, 30:41] = True
    donors = Donors.from_crops([*small, large], [*marks, mark], [1] * 51)
    assert donors.pixels.nbytes < 8_000 and donors.crop(50)[1].sum() == 9 * 11


def test_donors_keep_what_shrinking_warps_show(toy):
    """Whole images as donors, which keep everything, give the same pixels."""
    labels = torch.zeros(60, dtype=torch.int64)
    batch = toy.images[:60].float() / 255, toy.masks[:60], labels
    warps = Warp(affine=1.0, scale=0.8, rotate=45.0)
    options = {"warps": warps, "p_poisson": 1.0, "clip": False}
    near = DynamicLabelInjection(toy, **options, generator=seeded())
    whole = DynamicLabelInjection(Donors.of(toy, margin=64), **options, generator=seeded())
    assert 16 < near.donors.margin < 64
    plan = near.plan(labels)
    found = near.apply_plan(plan, *batch), whole.apply_plan(replace(plan, donors=None), *batch)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert (plan.maps[:, 0, :2].norm(dim=1) > 2).any()  # shrunk to less than half
    small = DynamicLabelInjection(toy)
    small.warps = warps
    refused(lambda: small(*batch), r"show 30 pixels around a defect, and the donors keep 16: make")
    small.warps = Warp(scale=0.9, affine=0)  # which is never drawn
    small(*batch)


def test_donors_take_the_room_of_their_defects(toy):
    donors = Donors.of(toy)
    assert donors.pixels.numel() < 0.7 * 98 * 64 * 64  # toy defects are large in 64 pixels
    for position in (0, 50, 97):
        image, mask = donors.image(position)
        whole = int(donors.ids[position])
        assert torch.equal(mask, toy.masks[whole] == donors.labels[position])
        assert torch.equal(image[:, mask], toy.images[whole][:, mask].float())
    flips = torch.tensor([[False, False], [True, False], [True, True]])
    images, masks = donors.images(torch.tensor([3, 3, 3]), flips)
    assert torch.equal(masks[0], donors.image(3)[1])
    for k, axes in ((1, [-2]), (2, [-2, -1])):
        assert torch.equal(images[k], images[0].flip(axes))
        assert torch.equal(masks[k], masks[0].flip(axes))


def test_each_donor_counts_once(toy):
    assert Donors.of(toy, [250, 250, 240, 250]).ids.tolist() == [250, 240]


@pytest.mark.parametrize("wrong", ["abc", {1, 2}, ["a"], {"a": 1}.keys(), object()])
def test_donors_that_are_no_row_are_refused_in_words(toy, wrong):
    refused(lambda: Donors.of(toy, wrong), "donors must be a row of indices, got")
