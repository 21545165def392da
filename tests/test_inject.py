import inspect
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from builders import refused
from scipy.fft import dstn

from dlilib import Donors, DynamicLabelInjection, plan_classes
from dlilib.augment import Warp, warp
from dlilib.balance import Plan
from dlilib.blend import GUIDANCES, REGIONS, without_ring
from dlilib.composite import inject

IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
CLASSES = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
FREE, DEFECTIVE = [0, 50, 100, 150, 200, 220, 230, 237, 3, 4, 5, 6], [240, 270, 271, 290, 320]


@pytest.fixture
def batch(toy):
    """Images, masks and labels of twelve defect-free toy images and five defective ones.

    One Blowhole, two Breaks, one Crack and one Uneven.
    """
    index = torch.tensor(DEFECTIVE[:2] + FREE[:7] + DEFECTIVE[2:4] + FREE[7:] + DEFECTIVE[4:])
    return toy.images[index].float() / 255, toy.masks[index], toy.labels[index]


def transform(tiles, seed=0, **options):
    """The transform as released, as far as the options say nothing else."""
    generator = torch.Generator().manual_seed(seed)
    return DynamicLabelInjection.as_released(tiles, generator=generator, **options)


def default(tiles, seed=0, **options):
    return DynamicLabelInjection(tiles, generator=torch.Generator().manual_seed(seed), **options)


def equal(a, b):
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def warped_masks(plan, toy):
    """The donors' masks (M, H, W) as they lie on their targets."""
    own = toy.masks[plan.donor] == plan.label[:, None, None]
    return warp(torch.zeros(len(plan), 1, *own.shape[1:]), own, plan.maps)[1]


@pytest.mark.parametrize("p_poisson", [0.0, 0.5])
def test_batch_without_free_images_is_returned_as_it_is(toy, p_poisson):
    index = (toy.labels > 0).nonzero()[::9, 0]
    given = toy.images[index].float() / 255, toy.masks[index], toy.labels[index]
    result = transform(toy, p_poisson=p_poisson)(*given)
    assert equal(result, given)
    assert all(x.data_ptr() != y.data_ptr() for x, y in zip(result, given, strict=True))


def test_empty_batch_is_returned(toy, batch):
    empty = tuple(x[:0] for x in batch)
    assert equal(transform(toy)(*empty), empty)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_every_option_balances_and_marks_and_leaves_the_rest(toy, batch, region, guidance):
    before = [x.clone() for x in batch]
    t = transform(toy, region=region, guidance=guidance)
    images, masks, labels = t(*batch)
    assert equal(batch, before)  # inputs
    assert (
        images.dtype == torch.float32 and masks.dtype == torch.uint8 and labels.dtype == torch.int64
    )
    planned = plan_classes(batch[2], 5)
    assert torch.equal(labels, batch[2] + planned)
    counts = torch.bincount(labels, minlength=6)
    assert counts[0] == 0 and counts[1:].max() - counts[1:].min() <= 1
    kept = planned == 0
    assert equal((images[kept], masks[kept]), (batch[0][kept], batch[1][kept]))
    for i in (~kept).nonzero()[:, 0]:  # every toy donor has a mask
        assert masks[i].unique().tolist() == [0, labels[i]]
        assert not torch.equal(images[i], batch[0][i])


def test_mask_of_an_empty_donor_is_empty_and_its_image_stays(toy, batch):
    unmarked = replace(toy, masks=torch.zeros_like(toy.masks))
    for p_poisson in (0.0, 1.0):
        images, masks, labels = transform(unmarked, p_poisson=p_poisson)(
            batch[0], torch.zeros_like(batch[1]), batch[2]
        )
        assert not masks.any() and labels.all()
        assert torch.equal(images, batch[0])


def test_cut_paste_is_the_warped_donor_inside_its_mask_and_the_target_outside(toy, batch):
    t = transform(toy, p_poisson=0)
    plan = t.plan(batch[2])
    images, masks, _ = t.apply_plan(plan, *batch)
    own = toy.masks[plan.donor] == plan.label[:, None, None]
    donors, inside = warp(toy.images[plan.donor].float() / 255, own, plan.maps)
    target, wide = plan.target, inside[:, None]
    assert torch.equal(images[target][~wide], batch[0][target][~wide])
    assert (
        images[target][wide] - donors[wide]
    ).abs().max() < 1 / 100 / 255  # a hundredth of a grey level
    assert torch.equal(masks[target], inside * plan.label[:, None, None].byte())
    assert inside.any(dim=2).any(dim=1).all()


def test_a_scale_that_is_not_exact_does_not_decide_between_equal_gradients(toy, batch):
    """Some devices multiply by the reciprocal instead of dividing by 255: the last bit differs."""
    t = transform(toy, p_poisson=1)
    plan = t.plan(batch[2])
    rows = plan.target
    levels = (batch[0] * 255).round()
    divided, multiplied = (
        t.apply_plan(plan, x, *batch[1:])[0] for x in (levels / 255, levels * (1 / 255))
    )
    assert not torch.equal(levels / 255, levels * (1 / 255))
    assert (divided[rows] - multiplied[rows]).abs().max() < 1e-5


def test_labels_are_still_looked_at_after_an_empty_batch(toy, batch):
    transform = DynamicLabelInjection(toy)
    transform(*(part[:0] for part in batch))
    images, masks, labels = batch
    with pytest.raises(ValueError, match="label"):
        transform(images, masks, labels.roll(1))


def test_plan_for_a_larger_batch_and_foreign_types_are_refused(toy, batch):
    t = transform(toy)
    plan = t.plan(batch[2])
    by_hand = replace(plan, batch=None, donors=None, sides=None)
    with pytest.raises(ValueError, match="batch of at least"):
        t.apply_plan(by_hand, *(x[:2] for x in batch))
    with pytest.raises(ValueError, match="names donor"):
        t.apply_plan(replace(by_hand, donor=plan.donor + 336), *batch)
    with pytest.raises(ValueError, match="images must be a Tensor, got ndarray"):
        t(batch[0].numpy(), *batch[1:])
    with pytest.raises(ValueError, match="Blowhol"):
        transform(toy, warps={"Blowhol": Warp()})


def test_mask_bounded_poisson_leaves_what_is_outside_the_dilated_mask(toy, batch):
    t = transform(toy, p_poisson=1, region="mask")
    images, masks, _ = t(*batch)
    outside = (masks == 0)[:, None] & (batch[2] == 0)[:, None, None, None]
    assert torch.equal(images[outside], batch[0][outside])


def test_plan_replays(toy, batch):
    t = transform(toy)
    plan = t.plan(batch[2])
    assert plan.poisson.any() and not plan.poisson.all()
    first, again = (t.apply_plan(plan, *batch) for _ in range(2))
    assert equal(first, again)
    assert equal(first, transform(toy)(*batch))  # the same seed draws the same plan
    assert equal(first, transform(toy, seed=99).apply_plan(plan, *batch))  # applying draws nothing
    assert not torch.equal(first[0], transform(toy, seed=1)(*batch)[0])
    assert not torch.equal(first[0], t(*batch)[0])  # the generator has moved on


def test_neither_planning_nor_applying_touches_the_global_generator(toy, batch):
    before = torch.random.get_rng_state()
    transform(toy)(*batch)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_of_a_plan_do_not_depend_on_the_rest_of_the_plan(toy, batch):
    t = transform(toy)
    plan = t.plan(batch[2])
    images, masks, _ = t.apply_plan(plan, *batch)
    for m in (0, 5, 11):
        alone = plan.at(torch.tensor([m]))
        image, mask, label = t.apply_plan(alone, *batch)
        row = int(plan.target[m])
        assert (image[row] - images[row]).abs().max() < 1e-6
        assert torch.equal(mask[row], masks[row])
        assert (label != batch[2]).nonzero().tolist() == [[row]]


def test_poisson_label_dilated_or_tight(toy, batch):
    dilated, tight = (transform(toy, p_poisson=1, label=label) for label in ("dilated", "tight"))
    plan = dilated.plan(batch[2])
    images, wide, _ = dilated.apply_plan(plan, *batch)
    same_images, narrow, _ = tight.apply_plan(plan, *batch)
    assert torch.equal(images, same_images)
    own = warped_masks(plan, toy)
    assert torch.equal(narrow[plan.target] > 0, own)
    for row, mask in zip(plan.target, own, strict=True):
        square = cv2.dilate(mask.numpy().astype(np.uint8), np.ones((5, 5), np.uint8))
        assert torch.equal(wide[row] > 0, without_ring(torch.from_numpy(square > 0)))
        assert not (without_ring(mask) & (wide[row] == 0)).any()
    assert (wide > 0).sum() > (narrow > 0).sum()


def test_cut_paste_label_is_tight_whatever_poisson_gets(toy, batch):
    dilated, tight = (transform(toy, p_poisson=0, label=label) for label in ("dilated", "tight"))
    assert equal(dilated(*batch), tight(*batch))


def test_uint8_batch_is_the_float_one_rounded(toy, batch):
    as_bytes = (batch[0] * 255).round().to(torch.uint8)
    images, masks, labels = transform(toy)(as_bytes, *batch[1:])
    expected = transform(toy)(as_bytes.float() / 255, *batch[1:])
    assert images.dtype == torch.uint8
    assert (images.float() - (expected[0] * 255).clamp(0, 255)).abs().max() <= 0.501
    assert equal((masks, labels), expected[1:])
    cut = transform(toy, p_poisson=0)
    plan = cut.plan(batch[2])
    pasted = cut.apply_plan(plan, as_bytes, *batch[1:])[0]
    outside = ~warped_masks(plan, toy)[:, None]
    assert torch.equal(pasted[plan.target][outside], as_bytes[plan.target][outside])


def test_uint8_composites_are_clipped_not_wrapped_around(toy, batch):
    t = transform(toy, p_poisson=1, guidance="donor")
    plan = t.plan(batch[2])
    for level in (0, 255):
        flat = torch.full_like(batch[0], level / 255)
        expected = t.apply_plan(plan, flat, *batch[1:])[0] * 255
        images = t.apply_plan(plan, torch.full_like(batch[0], level).to(torch.uint8), *batch[1:])[0]
        assert (expected - level).abs().max() > 20 and (expected < 0).any() | (expected > 255).any()
        assert (images.float() - expected.clamp(0, 255)).abs().max() <= 0.501


# float32 and float64 may settle on neighbouring 64ths of a grey level
TOLERANCES = [(torch.float64, 1.01 / 64 / 255), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


@pytest.mark.parametrize("dtype, tolerance", TOLERANCES)
def test_float_batches_keep_their_dtype(toy, batch, dtype, tolerance):
    t = transform(toy, guidance="donor")
    plan = t.plan(batch[2])
    images, _, _ = t.apply_plan(plan, batch[0].to(dtype), *batch[1:])
    assert images.dtype == dtype
    assert (images.double() - t.apply_plan(plan, *batch)[0].double()).abs().max() < tolerance
    kept = batch[2] > 0
    assert torch.equal(images[kept], batch[0].to(dtype)[kept])


def test_grey_tiles_go_into_every_channel(toy, batch):
    t = transform(toy)
    plan = t.plan(batch[2])
    grey = t.apply_plan(plan, *batch)
    rgb = t.apply_plan(plan, batch[0].repeat(1, 3, 1, 1), *batch[1:])
    assert rgb[0].shape == (len(batch[0]), 3, 64, 64)
    assert (rgb[0] - grey[0]).abs().max() < 1e-6
    assert equal(rgb[1:], grey[1:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_masks_and_labels_keep_their_dtype(toy, batch, dtype):
    expected = transform(toy)(*batch)
    images, masks, labels = transform(toy)(batch[0], batch[1].to(dtype), batch[2].to(dtype))
    assert masks.dtype == labels.dtype == dtype
    assert torch.equal(images, expected[0])
    assert torch.equal(masks.long(), expected[1].long()) and torch.equal(labels.long(), expected[2])


def test_non_contiguous_batch_gives_the_same(toy, batch):
    strided = tuple(x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in batch[:2])
    assert not strided[0].is_contiguous()
    assert equal(transform(toy)(*strided, batch[2]), transform(toy)(*batch))


def test_uniform_stops_when_all_classes_are_equally_frequent(toy, batch):
    _, masks, labels = transform(toy, until="uniform")(*batch)
    # counts 1, 2, 1, 0, 1: five injections make them 2 each, seven free images are left
    assert torch.bincount(labels, minlength=6).tolist() == [7, 2, 2, 2, 2, 2]
    assert not masks[labels == 0].any()


def test_donors_come_from_the_given_indices(toy, batch):
    donors = torch.cat([(toy.labels == c).nonzero()[1:5, 0] for c in range(1, 6)])
    t = transform(toy, donors=donors)
    for _ in range(10):
        assert torch.isin(t.plan(batch[2]).donor, donors).all()
    others = torch.ones(len(toy), dtype=torch.bool)
    others[donors] = False
    blanked = replace(toy, images=torch.where(others[:, None, None, None], 0, toy.images))
    assert equal(transform(blanked, donors=donors)(*batch), transform(toy, donors=donors)(*batch))


def test_only_the_pixels_of_the_donors_own_class_are_injected(toy, batch):
    soiled = toy.masks.clone()
    soiled[toy.labels == 2, :8, :8] = 3  # Break images that show a bit of a Crack too
    assert not (toy.masks[toy.labels == 2, :8, :8] > 0).all()
    for p_poisson in (0.0, 1.0):
        expected = transform(toy, p_poisson=p_poisson)
        plan = expected.plan(batch[2])
        breaks = (plan.label == 2) & ~(toy.masks[plan.donor, :8, :8] > 0).any(dim=2).any(dim=1)
        assert breaks.any()
        plan = replace(plan.at(breaks), donors=None)
        result = transform(replace(toy, masks=soiled), p_poisson=p_poisson).apply_plan(plan, *batch)
        assert equal(result, expected.apply_plan(plan, *batch))


def test_warps_are_the_given_ones(toy, batch):
    still = dict.fromkeys(toy.classes, Warp(flip=0, affine=0))
    assert torch.equal(transform(toy, warps=still).plan(batch[2]).maps, IDENTITY.expand(12, -1, -1))
    mirrored = dict.fromkeys(toy.classes, Warp(flip=1, affine=0))
    assert (
        transform(toy, warps=mirrored).plan(batch[2]).maps.diagonal(dim1=1, dim2=2).amin(1) == -1
    ).all()


def as_released(target, donor, mask):
    """Mixed gradients on the whole rectangle of one float64 image (H, W), by scipy's DST-I.

    Not via a correction.
    """
    gradients = []
    for axis in (0, 1):
        pad = [(0, 1) if k == axis else (0, 0) for k in (0, 1)]
        of_target, of_donor = (np.pad(np.diff(image, axis=axis), pad) for image in (target, donor))
        gradients.append(
            np.where(mask & (np.abs(of_donor) > np.abs(of_target)), of_donor, of_target)
        )
    down, right = gradients
    divergence = (down[1:-1, 1:-1] - down[:-2, 1:-1]) + (right[1:-1, 1:-1] - right[1:-1, :-2])
    border = target.copy()
    border[1:-1, 1:-1] = 0
    divergence -= border[:-2, 1:-1] + border[2:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    rows, columns = (
        2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - 2 for n in divergence.shape
    )
    solution = dstn(dstn(divergence, 1, norm="ortho") / (rows[:, None] + columns), 1, norm="ortho")
    result = target.copy()
    result[1:-1, 1:-1] = solution
    return result


@pytest.mark.parametrize("label", [1, 2, 3, 4, 5])
def test_poisson_composite_agrees_with_an_as_released_reference(toy, label):
    donor = int((toy.labels == label).nonzero()[2, 0])
    target = (
        torch.rand(
            1, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(label)
        )
        / 5
        + 0.4
    )
    one = Plan(
        torch.tensor([0]),
        torch.tensor([label]),
        torch.tensor([donor]),
        IDENTITY[None],
        torch.tensor([True]),
    )
    images, masks, labels = inject(
        one, target, torch.zeros(1, 64, 64).byte(), torch.tensor([0]), Donors.of(toy)
    )
    wide = cv2.dilate(toy.masks[donor].numpy(), np.ones((5, 5), np.uint8)) > 0
    wide[[0, -1]] = wide[:, [0, -1]] = False
    expected = as_released(target[0, 0].numpy(), toy.images[donor, 0].double().numpy() / 255, wide)
    assert np.abs(images[0, 0].numpy() - expected).max() < 1e-4
    assert np.abs(images[0, 0].numpy() - target[0, 0].numpy()).max() > 0.05
    assert np.array_equal(masks[0].numpy(), label * wide) and labels.tolist() == [label]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i, m, l: (i[0], m, l), r"images must be \(B, C, H, W\).*\(1, 64, 64\)"),
        (lambda i, m, l: (i.long(), m, l), "images must be.*float or uint8, got torch.int64"),
        (lambda i, m, l: (i[0], m[0], l[0]), r"give one image alone as images\[None\]"),
        (lambda i, m, l: (i, m.float(), l), "masks must be int or bool.*float32"),
        (lambda i, m, l: (i, m[:, None, None], l), r"masks must be.*\(17, 1, 1, 64, 64\)"),
        (lambda i, m, l: (i, m.expand(2, *m.shape), l), r"masks must be.*\(2, 17, 64, 64\)"),
        (lambda i, m, l: (i, m.to(torch.uint16), l), "masks must be.*uint16"),
        (lambda i, m, l: (i, m, l.to(torch.uint16)), "labels must be integers.*uint16"),
        (lambda i, m, l: (i, m, l.tolist()), "labels must be a Tensor, got list"),
        (lambda i, m, l: (i, m * 51), r"masks must hold 0\.\.5 and 255 \(ignored\), got"),
        (lambda i, m, l: (i, m > 0), "masks are bool, so labels must say which of the 5 classes"),
        (lambda i, m, l: (i - 0.5, m, l), r"float images must lie in \[0, 1\]"),
        (lambda i, m, l: ((i - 0.43) / 0.12, m, l), "normalise them after the injection"),
        (lambda i, m, l: (i, m * 51, l), r"masks must hold 0\.\.5 and 255 \(ignored\), got"),
        (lambda i, m, l: (i, m.long() - 1, l), "masks must hold.*got -1"),
        (lambda i, m, l: (i, m.to(torch.int8) - 1, l), "masks must hold.*got -1"),
        (lambda i, m, l: (i, (m > 0) * 255, l), "hold 0 and 255 alone, and 255 is ignored"),
        (lambda i, m, l: (i, m[:-1], l), r"masks must be.*\(16, 64, 64\)"),
        (lambda i, m, l: (i, m[..., :-1], l), r"masks must be.*\(17, 64, 63\)"),
        (lambda i, m, l: (i, m, l[:-1]), r"labels must be \(B,\) = \(17,\), got \(16,\)"),
        (lambda i, m, l: (i, m, l[:, None]), r"labels must be.*\(17, 1\)"),
        (lambda i, m, l: (i, m, l.float()), "labels must be integers.*float"),
        (lambda i, m, l: (i, m, l + 3), r"labels must lie in 0\.\.5, got 3\.\.8"),
        (lambda i, m, l: (i, m, l - 1), r"labels must lie in 0\.\.5, got -1"),
        (
            lambda i, m, l: (i[..., ::2, ::2], m[..., ::2, ::2], l),
            r"\(1, 64, 64\), the batch's \(1, 32, 32\)",
        ),
        (lambda i, m, l: (i, m.to("meta"), l), "masks on meta"),
        (lambda i, m, l: (i.index_fill(0, torch.tensor([3]), np.nan), m, l), "pixel is nan"),
        (lambda i, m, l: (i * 255, m, l), r"float images must lie in \[0, 1\]"),
        (lambda i, m, l: (i + np.inf, m, l), "largest pixel is inf"),
    ],
)
def test_wrong_batches_raise(toy, batch, change, message):
    unharmed = transform(toy)
    refused(lambda: unharmed(*change(*batch)), message)
    unharmed(*batch)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i, m, l: (i, (m > 0) * 255, l), "hold 0 and 255 alone, and 255 is ignored"),
        (lambda i, m, l: (i, m.flip(0), l), "are labels and masks in one order"),
    ],
)
def test_values_are_looked_at_until_a_batch_with_a_defect(toy, batch, change, message):
    inject = transform(toy)
    images, masks, labels = batch
    inject(*(part[labels == 0] for part in batch))
    inject(images, masks * 0, labels)  # labels alone say too little
    refused(lambda: inject(*change(*batch)), message)


def test_colour_donors_do_not_go_into_a_grey_batch(toy, batch):
    colour = replace(toy, images=toy.images.repeat(1, 3, 1, 1))
    with pytest.raises(ValueError, match=r"\(3, 64, 64\), the batch's \(1, 64, 64\)"):
        transform(colour)(*batch)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"p_poisson": -0.1}, r"p_poisson must lie in \[0, 1\], got -0.1"),
        ({"p_poisson": 1.1}, "p_poisson.*1.1"),
        ({"p_poisson": float("nan")}, "p_poisson.*nan"),
        ({"until": "full"}, "until must be one of.*'full'"),
        ({"region": "disk"}, "region must be one of.*'disk'"),
        ({"guidance": "both"}, "guidance must be one of.*'both'"),
        ({"label": "wide"}, "label must be one of.*'wide'"),
        ({"donors": np.arange(288)}, "class Crack has no donor"),
        ({"donors": [336]}, "donors must index the 336 tiles"),
        ({"p_poisson": "half"}, r"p_poisson must lie in \[0, 1\], got 'half'"),
        ({"generator": 42}, "generator must be a torch.Generator or None, got 42"),
        ({"ties": ["random"]}, r"ties must be one of.*\['random'\]"),
        ({"region": {"mask": 1}}, "region must be one of.*'mask': 1"),
        ({"share": 1.5}, r"share must lie in \[0, 1\], got 1.5"),
        ({"state": "epoch"}, "state must be one of.*'epoch'"),
        ({"place": "here"}, "place must be one of.*'here'"),
        ({"replacement": "never"}, "replacement must be one of.*'never'"),
        ({"clip": "yes"}, "clip must be one of.*'yes'"),
        ({"warps": {"Blowhol": Warp()}}, r"warps names \['Blowhol'\]"),
        ({"warps": {"Crack": 3}}, r"warps\['Crack'\] must be a Warp, got 3"),
        ({"warps": [Warp()]}, "warps must be a Warp or a dict"),
        ({"target": {"Crack": 1.0}}, "target must name each of the classes"),
        ({"target": dict.fromkeys(CLASSES, 0)}, "target must be above 0 for some class"),
        ({"target": {**dict.fromkeys(CLASSES, 1), "Crack": -1}}, r"target\['Crack'\] must lie in"),
        ({"keys": "image"}, "keys must be three names"),
    ],
)
def test_wrong_options_raise(toy, options, message):
    with pytest.raises(ValueError, match=message):
        DynamicLabelInjection(toy, **options)


def test_repr_tells_the_donors_and_every_option(toy):
    shown = repr(DynamicLabelInjection(toy, p_poisson=0.25, region="mask"))
    signature = inspect.signature(DynamicLabelInjection)
    for name in signature.parameters.keys() - {"tiles", "donors", "generator"}:
        assert f"{name}=" in shown, name
    assert "p_poisson=0.25" in shown and "region='mask'" in shown
    assert "98 of all 336 images" in shown
    assert "2 of the 3 images given" in repr(
        DynamicLabelInjection(
            toy, [0, 240, 241], target={**dict.fromkeys(CLASSES, 0), "Blowhole": 1}
        )
    )
