"""The transform as practitioners meet it: any batch, any option, any loader."""

import copy
import json
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from builders import refused
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors

import dlilib
from dlilib import IGNORE, DynamicLabelInjection, TileSet, collate
from dlilib.augment import RELEASED_WARPS, Warp
from dlilib.balance import PLACES, TIES, Plan
from dlilib.blend import REGIONS

SIDE = 12
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiles_with(num_classes, seed=0, free=4, side=SIDE):
    """Random images, two of each class with small rectangular defects, and some without."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes + 1), [free, *[2] * num_classes])
    masks = np.zeros((len(labels), side, side), np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        y, x = rng.integers(0, side - 1, 2)
        height, width = rng.integers(1, 5, 2)
        mask[y : y + height, x : x + width] = label
    images = rng.integers(0, 256, masks.shape, dtype=np.uint8)
    return TileSet.from_arrays(images, masks, [f"class {c}" for c in range(1, num_classes + 1)])


def batch_of(tiles, size, seed=0, image=torch.float32, mask=torch.uint8, label=torch.int64):
    rows = torch.randint(len(tiles), (size,), generator=seeded(seed))
    images = tiles.images[rows] if image == torch.uint8 else (tiles.images[rows] / 255).to(image)
    return images, tiles.masks[rows].to(mask), tiles.labels[rows].to(label)


def equal(a, b):
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(
    size=st.integers(1, 64),
    num_classes=st.integers(1, 40),
    seed=st.integers(0, 999),
    image=st.sampled_from([torch.uint8, *FLOATS]),
    mask=st.sampled_from(INTEGERS),
    ties=st.sampled_from(TIES),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    place=st.sampled_from(PLACES),
    region=st.sampled_from(sorted(REGIONS)),
    p_poisson=st.sampled_from([0.0, 0.5, 1.0]),
    label=st.sampled_from(["dilated", "tight"]),
)
def test_whatever_the_batch_labels_agree_with_masks_and_the_rest_stays(
    size, num_classes, seed, image, mask, ties, share, place, region, p_poisson, label
):
    tiles = tiles_with(num_classes, seed)
    transform = DynamicLabelInjection(
        tiles,
        ties=ties,
        share=share,
        place=place,
        region=region,
        p_poisson=p_poisson,
        label=label,
        generator=seeded(seed),
    )
    given_batch = batch_of(tiles, size, seed, image, mask)
    before = [x.clone() for x in given_batch]
    images, masks, labels = transform(*given_batch)
    assert equal(given_batch, before) and [x.dtype for x in (images, masks)] == [image, mask]
    shown = masks.flatten(1).amax(dim=1).long()
    assert torch.equal(shown, labels)  # each class that is named is shown, and no other
    assert ((masks == 0) | (masks == labels.to(mask)[:, None, None])).all()
    untouched = labels == before[2]
    assert untouched[before[2] > 0].all()
    assert equal(
        (images[untouched], masks[untouched]), (before[0][untouched], before[1][untouched])
    )
    free = int((before[2] == 0).sum())
    filled = int((~untouched).sum())
    assert int(share * free) <= filled <= int(np.ceil(share * free))
    if share == 1:  # no class lies below another that was injected
        counts = torch.bincount(labels, minlength=num_classes + 1)[1:]
        injected = labels[~untouched].unique()
        assert (counts[injected - 1] <= counts.min() + 1).all()
    if image != torch.uint8:
        assert images.float().min() >= 0 and images.float().max() <= 1  # clipped


def test_the_released_transform_labels_what_its_warp_moved_out_of_sight():
    """What the default never does: one pixel at the edge, and shifts as released."""
    masks = torch.zeros(8, SIDE, SIDE, dtype=torch.uint8)
    masks[4:, 0, 0] = 1
    tiles = TileSet.from_arrays(torch.full((8, SIDE, SIDE), 90).byte(), masks, ["pit"])
    free = torch.zeros(200, dtype=torch.int64)
    background = torch.zeros(200, 1, SIDE, SIDE), torch.zeros(200, SIDE, SIDE).byte(), free
    shifting = {"warps": Warp(flip=0, affine=1, shift=0.4), "p_poisson": 0, "generator": seeded()}
    _, marks, labels = DynamicLabelInjection.as_released(tiles, **shifting)(*background)
    assert labels.all() and not marks.flatten(1).any(dim=1).all()
    _, marks, labels = DynamicLabelInjection(tiles, **shifting)(*background)
    assert labels.all() and marks.flatten(1).any(dim=1).all()
    moved = (marks[:, 0, 0] == 0).float().mean()
    assert moved > 0.9  # it is drawn again, not given up


def test_warps_are_neutral_and_a_dict_changes_what_it_names(toy):
    def warps(**options):
        return DynamicLabelInjection(toy, **options)._planner().warps

    still = Warp(flip=0, affine=0)
    assert warps() == (Warp(),) * 5
    assert warps(warps=still) == (still,) * 5
    assert warps(warps={"Break": still}) == (Warp(), still, Warp(), Warp(), Warp())
    assert warps(warps=RELEASED_WARPS | {"Break": still})[2] == RELEASED_WARPS["Crack"]
    assert DynamicLabelInjection.as_released(toy)._planner().warps == tuple(RELEASED_WARPS.values())
    mine = tiles_with(2)
    assert DynamicLabelInjection.as_released(mine)._planner().warps == (Warp(), Warp())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"flip": 2}, r"Warp.flip must lie in \[0, 1\], got 2"),
        ({"affine": -0.1}, "Warp.affine must lie in.*-0.1"),
        ({"scale": 1}, r"Warp.scale must lie in \[0, 1\), got 1"),
        ({"shift": float("nan")}, "Warp.shift must lie in.*nan"),
        ({"rotate": 400}, r"Warp.rotate must lie in \[0, 180\], got 400"),
        ({"flip": "often"}, "Warp.flip must lie in.*'often'"),
    ],
)
def test_warps_that_make_no_sense_are_refused(values, message):
    refused(lambda: Warp(**values), message)


@given(seed=st.integers(0, 99), region=st.sampled_from(sorted(REGIONS)), p=st.sampled_from([0, 1]))
def test_ignored_pixels_are_neither_pasted_over_nor_changed(seed, region, p):
    tiles = tiles_with(3, seed)
    ignored = torch.rand(32, SIDE, SIDE, generator=seeded(seed)) < 0.4
    ignored[:3] = True  # nothing can be injected into these
    images, masks, labels = batch_of(tiles, 32, seed)
    masks = torch.where(ignored & (masks == 0), IGNORE, masks)
    labels[:3], masks[:3] = 0, IGNORE
    transform = DynamicLabelInjection(tiles, region=region, p_poisson=p, generator=seeded(seed))
    after, marks, found = transform(images, masks, labels)
    kept = masks == IGNORE
    assert torch.equal(marks == IGNORE, kept)
    assert torch.equal(after[kept[:, None]], images[kept[:, None]])
    assert found[:3].tolist() == [0, 0, 0] and torch.equal(after[:3], images[:3])
    shown = torch.where(kept, 0, marks).flatten(1).amax(dim=1).long()
    assert torch.equal(shown, found)


def test_donors_ignored_pixels_are_not_part_of_the_defect():
    tiles = tiles_with(1)
    masks = tiles.masks.clone()
    ring = torch.nn.functional.max_pool2d(masks[:, None].float(), 3, 1, 1)[:, 0] > 0
    masks[ring & (masks == 0)] = IGNORE
    fringed = TileSet.from_arrays(tiles.images, masks, tiles.classes, labels=tiles.labels)
    assert torch.equal(dlilib.Donors.of(fringed).marks, dlilib.Donors.of(tiles).marks)


def test_a_bool_mask_is_marked_and_a_mask_may_have_a_channel(toy):
    images, masks, labels = (
        toy.images[230:250].float() / 255,
        toy.masks[230:250],
        toy.labels[230:250],
    )

    def run(mask):
        return DynamicLabelInjection(toy, generator=seeded())(images, mask, labels)[1]

    expected = run(masks)
    assert torch.equal(run(masks > 0), expected > 0)
    assert torch.equal(run(masks[:, None]), expected[:, None])
    assert torch.equal(run(masks[:, None] > 0), expected[:, None] > 0)


def test_narrow_integers_cannot_hold_many_classes():
    tiles = tiles_with(130, side=8)
    batch = batch_of(tiles, 8, mask=torch.int8)
    batch[1].zero_(), batch[2].zero_()
    refused(lambda: DynamicLabelInjection(tiles)(*batch), "masks of torch.int8 cannot hold .* 130")


def test_a_batch_may_be_a_tuple_a_list_or_a_dict(toy):
    batch = toy.images[:9].float() / 255, toy.masks[:9], toy.labels[:9]
    expected = DynamicLabelInjection(toy, generator=seeded())(*batch)

    def run(given_batch, **options):
        return DynamicLabelInjection(toy, generator=seeded(), **options)(given_batch)

    assert isinstance(run(batch), tuple) and equal(run(batch), expected)
    assert isinstance(run(list(batch)), list) and equal(run(list(batch)), expected)
    mine = {"image": batch[0], "mask": batch[1], "label": batch[2], "path": ["a"] * 9}
    found = run(mine)
    assert equal([found[key] for key in ("image", "mask", "label")], expected)
    assert found["path"] is mine["path"] and torch.equal(mine["label"], batch[2])
    renamed = dict(zip(("x", "y", "c"), batch, strict=True))
    assert equal(run(renamed, keys=("x", "y", "c")).values(), expected)
    refused(lambda: run(renamed), r"the batch has the keys \['x', 'y', 'c'\], not 'image'")
    refused(lambda: run(batch[:1]), "a batch is images, masks and, if need be.*got a tuple of 1")
    refused(lambda: run(namedtuple("Four", "a b c d")(*batch, 4)), "got a Four of 4")


def test_labels_are_found_where_they_are_not_given(toy):
    rows = toy.marked.nonzero()[::9, 0].tolist() + (toy.labels == 0).nonzero()[:9, 0].tolist()
    images, masks, labels = toy.images[rows], toy.masks[rows], toy.labels[rows]
    masks = masks.clone()
    masks[0, 0, :3] = toy.num_classes  # few pixels of another class
    masks[1, 0, 0] = masks[-1, 0, 0] = IGNORE
    assert labels[0] != toy.num_classes

    def balanced(*batch, tiles=toy):
        return DynamicLabelInjection(tiles, generator=seeded())(*batch)

    expected = balanced(images, masks, labels)
    for marks in (masks, masks[:, None], masks.long()):
        found = balanced(images, marks)
        same = (expected[0], expected[1].view_as(marks).to(marks.dtype), expected[2])
        assert equal(found, same)
    inject = DynamicLabelInjection(toy)
    free = images[-2:], masks[-2:] | IGNORE * (torch.arange(toy.masks.shape[1]) < 2).byte()
    with pytest.warns(UserWarning, match="hold 0 and 255 alone"):
        assert inject(*free)[2].all()
    inject(images, masks)
    inject(*free)  # without a warning: it was seen that 255 marks no defect
    pair = balanced([images, masks])
    assert isinstance(pair, list) and equal(pair, expected[:2])
    samples = list(zip(images, masks, strict=True))
    after = collate(DynamicLabelInjection(toy, generator=seeded()), lambda i, m: (m, i))
    assert equal(after(samples), expected[1::-1])
    one = tiles_with(1)
    given = balanced(one.images, one.masks > 0, one.labels, tiles=one)
    assert equal(balanced(one.images, one.masks > 0, tiles=one), given)


def test_values_are_checked_in_every_batch_on_a_cpu(toy):
    images, masks, labels = toy.images[:9].float() / 255, toy.masks[:9].long(), toy.labels[:9]
    inject = DynamicLabelInjection(toy, generator=seeded())
    inject(images, masks, labels)
    refused(lambda: inject(images, torch.where(masks == 0, -1, masks), labels), "masks .* got -1")
    strange = torch.where(masks == 0, 77, masks)
    refused(lambda: inject(images, strange, labels), "masks .* got 77")
    plan = inject.plan(labels)
    refused(lambda: inject.apply_plan(plan, images, strange, labels), "masks .* got 77")
    refused(lambda: inject(images, masks, labels + 9), "labels must lie in 0")
    inject.donors = toy
    refused(lambda: inject(images, masks, labels), "donors must be a Donors, got TileSet")
    refused(lambda: inject.plan(labels), "donors must be a Donors, got TileSet")


def test_batches_of_another_size_are_told_the_way_out(toy):
    inject = DynamicLabelInjection(toy)
    batch = toy.images[:9, :, :32].float() / 255, toy.masks[:9, :32], toy.labels[:9]
    refused(lambda: inject(*batch), 'place="anywhere" takes batches of another height')


def test_torchvisions_tensors_stay_what_they_are(toy):
    batch = toy.images[:9].float() / 255, toy.masks[:9], toy.labels[:9]
    expected = DynamicLabelInjection(toy, generator=seeded())(*batch)
    wrapped = tv_tensors.Image(batch[0]), tv_tensors.Mask(batch[1]), batch[2]
    images, masks, labels = DynamicLabelInjection(toy, generator=seeded())(*wrapped)
    assert isinstance(images, tv_tensors.Image) and isinstance(masks, tv_tensors.Mask)
    assert torch.equal(images, expected[0]) and torch.equal(masks, expected[1])
    assert torch.equal(labels, expected[2])


def test_composites_are_clipped_unless_as_released(toy):
    batch = torch.zeros(40, 1, 64, 64), torch.zeros(40, 64, 64).byte(), torch.zeros(40).long()
    options = {"p_poisson": 1, "guidance": "donor"}
    clipped = DynamicLabelInjection(toy, generator=seeded(), **options)(*batch)[0]
    released = DynamicLabelInjection(toy, clip=False, generator=seeded(), **options)(*batch)[0]
    assert released.min() < -0.1 and torch.equal(clipped, released.clamp(0, 1))


def test_half_precision_is_as_exact_as_it_can_be(toy):
    images, masks, labels = toy.images[:30] / 255, toy.masks[:30], toy.labels[:30]
    for dtype in (torch.float16, torch.bfloat16):
        short = images.to(dtype)
        found = DynamicLabelInjection(toy, p_poisson=1, generator=seeded())(short, masks, labels)[0]
        exact = DynamicLabelInjection(toy, p_poisson=1, generator=seeded())(
            short.float(), masks, labels
        )[0]
        assert (found.float() - exact).abs().max() <= torch.finfo(dtype).eps


def test_a_plan_fits_its_batch_and_donors_alone(toy):
    transform = DynamicLabelInjection(toy, generator=seeded())
    batch = toy.images[235:245].float() / 255, toy.masks[235:245], toy.labels[235:245]
    plan = transform.plan(batch[2])
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert equal(transform.apply_plan(again, *batch), transform.apply_plan(plan, *batch))
    other = DynamicLabelInjection(toy, range(336))
    assert equal(other.apply_plan(plan, *batch), transform.apply_plan(plan, *batch))
    refused(
        lambda: transform.apply_plan(plan, *(x.flip(0) for x in batch)),
        "drawn for a batch with other labels, or in another order",
    )
    refused(lambda: transform.apply_plan(plan, *(x[:5] for x in batch)), "with other labels")
    fewer = DynamicLabelInjection(toy, range(335))
    refused(lambda: fewer.apply_plan(plan, *batch), "the plan was drawn for other donors")
    anywhere = DynamicLabelInjection(toy, place="anywhere", generator=seeded())
    plan = anywhere.plan(batch[2], (64, 64))
    large = torch.zeros(10, 1, 80, 80), torch.zeros(10, 80, 80).byte(), batch[2]
    refused(lambda: anywhere.apply_plan(plan, *large), r"images of \(64, 64\), the batch's.*80")
    _, masks, labels = anywhere(*large)  # donors from images of another size
    filled = batch[2] == 0
    assert filled.any() and torch.equal(masks.flatten(1).amax(1).long()[filled], labels[filled])


def test_anywhere_is_everywhere(toy):
    transform = DynamicLabelInjection(
        toy, place="anywhere", p_poisson=0, warps=Warp(affine=0), generator=seeded()
    )
    masks = torch.cat(
        [
            transform(
                torch.zeros(64, 1, 64, 64), torch.zeros(64, 64, 64).byte(), torch.zeros(64).long()
            )[1]
            for _ in range(20)
        ]
    )
    often = (masks == 1).float().mean(dim=0)  # where Blowholes lie
    assert (torch.nn.functional.avg_pool2d(often[None], 8) > 0).all()  # in each of 64 squares
    quarters = torch.stack([often[:32, :32], often[:32, 32:], often[32:, :32], often[32:, 32:]])
    assert quarters.sum((1, 2)).max() < 1.5 * quarters.sum((1, 2)).min()
    assert not (masks == 1)[:, 0].any() and not (masks == 1)[:, :, -1].any()


# --- copies, processes, compilers


def test_copies_and_pickles_go_on_where_the_transform_stands(toy):
    transform = DynamicLabelInjection(toy, generator=seeded(), state="running")
    batch = toy.images[:20].float() / 255, toy.masks[:20], toy.labels[:20]
    transform(*batch)
    clones = copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))
    expected = transform(*batch)
    for clone in clones:
        assert equal(clone(*batch), expected)
    assert not equal(clones[0](*batch)[:1], expected[:1])  # its own generator, which moved on


def test_the_donors_are_copied_to_the_modules_device(toy, monkeypatch):
    there = []
    monkeypatch.setattr("dlilib.inject.inject", lambda *args, **more: there.append(args[4]))
    model = torch.nn.Sequential(DynamicLabelInjection(toy)).to("meta")
    plan = model[0].plan(np.zeros(2, int))
    batch = torch.zeros(2, 1, 64, 64), torch.zeros(2, 64, 64).byte(), torch.zeros(2).long()
    for device in ("meta", "meta", "cpu"):
        model[0]._compose(plan, *(x.to(device) for x in batch))
    assert there[0].pixels.is_meta and there[0].marks.is_meta
    assert there[1] is there[0]  # copied once
    assert there[2] is model[0].donors
    assert model.half()[0].donors.pixels.dtype == torch.uint8


def test_a_transform_that_was_on_a_device_serves_workers_and_other_machines(toy):
    transform = DynamicLabelInjection(toy, generator=seeded()).to("meta")
    batch = toy.images[:9], toy.masks[:9], toy.labels[:9]
    for found in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform)), transform):
        assert found(*batch)[0].device.type == "cpu"  # of donors that never left it
    assert b"meta" not in pickle.dumps(transform)
    assert transform.cpu()._moved is None  # its memory is free again


def test_a_transform_that_is_given_other_donors_moves_these(toy, few_tiles):
    transform = DynamicLabelInjection(toy).to("meta")
    first = transform._donors_on(torch.device("meta"))
    transform.donors = dlilib.Donors.of(few_tiles)
    second = transform._donors_on(torch.device("meta"))
    assert second.digest == transform.donors.digest != first.digest


def test_clipping_leaves_what_the_blend_does_not_change(toy):
    """Pixels a little above 1, as after a resize, lie outside the blended masks."""
    images = torch.full((20, 1, 64, 64), 1.08)
    batch = images, torch.zeros(20, 64, 64).byte(), torch.zeros(20).long()
    options = {"p_poisson": 1, "region": "mask"}
    for seed in (0, 1):
        found, marks, _ = DynamicLabelInjection(toy, generator=seeded(seed), **options)(*batch)
        assert (found[:, 0][marks == 0] == images[0, 0, 0, 0]).all()
        assert (found <= 1).any() and not ((found > 1) & (found < 1.07)).any()


def after(images, masks, labels):
    return images.float(), masks, labels


def loader_of(tiles, workers, method, seed=0):
    """Sixteen times the same defect-free image, four a batch, balanced in the workers."""
    same = tiles.subset((tiles.labels == 0).nonzero()[:1, 0].repeat(16))
    return DataLoader(
        TensorDataset(same.images, same.masks, same.labels),
        4,
        collate_fn=collate(DynamicLabelInjection(tiles, generator=seeded()), after),
        num_workers=workers,
        multiprocessing_context=method,
        generator=seeded(seed),
    )


def batches_of(loader):
    return [(labels, images) for images, _, labels in loader]


def all_differ(batches):
    images = [images for _, images in batches]
    return not any(torch.equal(a, b) for k, a in enumerate(images) for b in images[:k])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_every_worker_and_epoch_draws_its_own_and_the_loader_repeats_it(few_tiles):
    def epochs(seed):
        loader = loader_of(few_tiles, 4, "fork", seed)
        return [*batches_of(loader), *batches_of(loader)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert len(first) == 8 and all_differ(first) and first[0][1].dtype == torch.float32
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_need_not_be_forked(few_tiles, method):
    started = batches_of(loader_of(few_tiles, 2, method))
    forked = batches_of(loader_of(few_tiles, 2, "fork"))
    assert len(started) == 4 and all_differ(started)
    assert all(equal(a, b) for a, b in zip(started, forked, strict=True))


def test_collate_takes_dicts_and_what_comes_after(few_tiles):
    samples = [
        {"image": image, "mask": mask, "label": label, "name": "x"}
        for image, mask, label in few_tiles
    ][:9]
    balanced = collate(DynamicLabelInjection(few_tiles), lambda batch: {**batch, "seen": True})
    found = balanced(samples)
    assert found["seen"] and found["name"] == ["x"] * 9 and (found["label"] > 0).all()


@pytest.mark.slow
def test_a_compiled_step_breaks_its_graph_at_the_transform(toy):
    layer = torch.nn.Conv2d(1, 5, 3, padding=1)

    def step(transform, *batch):
        images, masks, labels = transform(*batch)
        return layer(images * 2 - 1).square().mean(), masks, labels

    batch = toy.images[:16].float() / 255, toy.masks[:16], toy.labels[:16]
    compiled = torch.compile(step, backend="eager")
    plain, traced = (DynamicLabelInjection(toy, generator=seeded()) for _ in range(2))
    for _ in range(2):
        expected, found = step(plain, *batch), compiled(traced, *batch)
        found[0].backward()
        assert torch.allclose(found[0], expected[0]) and equal(found[1:], expected[1:])


# --- what somebody may do by mistake


def test_options_may_be_set_later_and_are_checked_then(toy):
    transform = DynamicLabelInjection(toy, generator=seeded())
    free = torch.zeros(40, dtype=torch.int64)
    transform.share, transform.p_poisson = 0.25, 1.0
    plan = transform.plan(free)
    assert len(plan) == 10 and plan.poisson.all()
    transform.target = dict.fromkeys(toy.classes, 0) | {"Crack": 1}
    assert set(transform.plan(free).label.tolist()) == {3}
    transform.warps, transform.share = Warp(flip=0, affine=0), 1.0
    assert (transform.plan(free).maps == torch.eye(2, 3)).all()
    assert "share=1.0" in repr(transform) and "affine=0" in repr(transform)
    transform.until = "full"
    refused(lambda: transform.plan(free), "until must be one of.*'full'")


def test_numbers_of_numpy_are_numbers_and_bools_are_no_choice_of_words(toy):
    counts = dict(zip(toy.classes, np.bincount(toy.labels)[1:], strict=True))
    DynamicLabelInjection(toy, p_poisson=np.float32(0.5), share=np.int64(1), target=counts)
    for wrong in (1, np.True_, "yes"):
        refused(
            lambda wrong=wrong: DynamicLabelInjection(toy, replacement=wrong), "replacement must"
        )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": 9}, "the plan's labels must be those of its donors"),
        ({"label": 0}, "the plan's labels must be those of its donors"),
        ({"target": 8}, "the plan's targets must be defect-free images"),
        ({"target": -1}, "the plan's targets must be defect-free images"),
        ({"target": 1}, "the plan's targets must be different images"),
        ({"target": 99}, "the plan is for a batch of at least 100, not 9"),
        ({"donor": 0}, "the plan names donor 0, which is none of the"),
        ({"target": 0.5}, "a plan's target must be a list of torch.int64"),
        ({"target": "abc"}, "a plan's target must be a list of torch.int64"),
        ({"maps": [[float("nan")] * 3] * 2}, "the plan's maps must be finite"),
        ({"maps": [[1.0, 2.0]]}, r"a plan's maps must be"),
        ({"place": "foo"}, "place must be one of.*'foo'"),
        ({"sides": 5}, "sides must be a height and a width"),
    ],
)
def test_a_plan_that_somebody_changed_is_refused(toy, change, message):
    transform = DynamicLabelInjection(toy, generator=seeded())
    batch = toy.images[230:239].float() / 255, toy.masks[230:239], toy.labels[230:239]
    plan = transform.plan(batch[2]).to_dict()
    ((name, value),) = change.items()
    plan[name] = value if name in ("place", "sides") else [value, *plan[name][1:]]
    if name == "maps" and len(value) == 1:
        plan[name] = [value] * len(plan[name])
    refused(lambda: transform.apply_plan(Plan.from_dict(plan), *batch), message)


def test_what_is_no_plan_is_refused(toy):
    batch = toy.images[:3].float() / 255, toy.masks[:3], toy.labels[:3]
    transform = DynamicLabelInjection(toy, generator=seeded())
    for wrong in (None, {}):
        refused(lambda wrong=wrong: transform.apply_plan(wrong, *batch), "plan must be a Plan")
    refused(lambda: Plan.from_dict(5), "a plan has the values.*got 5")
    refused(
        lambda: Plan.from_dict({**transform.plan(batch[2]).to_dict(), "target": None}), "target"
    )
    refused(
        lambda: transform.apply_plan(transform.plan(batch[2]), batch[0] * 255, *batch[1:]),
        "float images must lie in",
    )


def test_labels_that_are_not_the_masks_are_refused(toy):
    images, masks, labels = toy.images / 255, toy.masks, toy.labels
    for wrong in (labels.roll(1), labels * 0, labels.flip(0)):
        refused(
            lambda wrong=wrong: DynamicLabelInjection(toy)(images, masks, wrong),
            r"labels\[\d+\] is \d, but masks\[\d+\] marks class \d and not that",
        )
    refused(
        lambda: DynamicLabelInjection(toy)(images, masks > 0, labels * 0),
        r"labels\[238\] is 0, but",
    )
    DynamicLabelInjection(toy)(images, masks * 0, labels)  # labelled without a mask


def test_narrow_labels_cannot_hold_many_classes_either():
    tiles = tiles_with(130, side=8)
    batch = batch_of(tiles, 8, label=torch.int8)
    refused(lambda: DynamicLabelInjection(tiles)(*batch), "labels of torch.int8 cannot hold .* 130")


def test_a_tight_label_beside_ignored_pixels_is_marked():
    masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    masks[1, 0, 5] = 1
    tiles = TileSet.from_arrays(torch.rand(2, 16, 16), masks, ["pit"])
    ignored = torch.full((1, 16, 16), IGNORE, dtype=torch.uint8)
    ignored[0, 0, 5] = ignored[0, 2, 6] = 0  # of the widened mask only a pixel apart is left
    transform = DynamicLabelInjection(
        tiles, p_poisson=1, label="tight", warps=Warp(flip=0, affine=0), generator=seeded()
    )
    _, marks, labels = transform(torch.rand(1, 1, 16, 16), ignored, torch.zeros(1).long())
    assert labels.tolist() == [1] and marks[0, 0, 5] == 1


@pytest.mark.parametrize("sides", [(1, 9), (9, 1), (1, 1), (2, 2), (3, 3), (2, 7)])
@pytest.mark.parametrize("place", PLACES)
def test_images_of_a_pixel_or_two(sides, place):
    masks = torch.zeros(4, *sides, dtype=torch.uint8)
    masks[2:, 0, 0] = 1
    tiles = TileSet.from_arrays(torch.rand(4, *sides), masks, ["pit"])
    given_masks = torch.zeros(9, *sides, dtype=torch.uint8)
    given_masks[::2, -1, -1] = IGNORE
    batch = torch.rand(9, 1, *sides), given_masks, torch.zeros(9, dtype=torch.int64)
    for p in (0, 1):
        for region in REGIONS:
            transform = DynamicLabelInjection(
                tiles, p_poisson=p, region=region, place=place, generator=seeded()
            )
            _, marks, labels = transform(*batch)
            assert torch.equal((marks == 1).flatten(1).any(dim=1), labels == 1)


def test_namedtuples_come_back_as_such(toy):
    Batch = namedtuple("Batch", "image mask label")
    batch = Batch(toy.images[:9].float() / 255, toy.masks[:9], toy.labels[:9])
    found = DynamicLabelInjection(toy)(batch)
    assert isinstance(found, Batch) and (found.label > 0).all()


def test_collate_takes_a_transform_and_a_function(toy):
    refused(lambda: collate(5), "inject must be a DynamicLabelInjection, got int")
    refused(lambda: collate(DynamicLabelInjection(toy), 5), "after must be a function, got 5")
