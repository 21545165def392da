import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from dlilib import IGNORE, TileSet, losses, metrics, models
from dlilib.losses import (
    METHODS,
    VARIANTS,
    WeightedBCE,
    WithDice,
    balanced_weights,
    class_bce,
    criterion,
    dice,
    focal_published,
    focal_released,
    pixel_shares,
    wce_weights,
)
from dlilib.training.few_shot import (
    TEMPERATURE,
    cells,
    image_weighted,
    normal_background,
    realism_weights,
    region_features,
)

RELEASED_CONSTANT = [0.2490, 0.2294, 0.2483, 0.2005, 0.0729]  # Blowhole, Break, Crack, Fray, Uneven
EVERY_LOSS = pytest.mark.parametrize("method, variant", [(m, v) for m in METHODS for v in VARIANTS])
LN2, LN3 = math.log(2), math.log(3)


def tiny(pixels, images=None, side=8):
    """A TileSet with pixels[c] mask pixels of class c + 1 in the first image of that class.

    It has images[c] images of that class.
    """
    images = [1] * len(pixels) if images is None else images
    labels = torch.cat(
        [torch.tensor([0]), *(torch.full((n,), c + 1) for c, n in enumerate(images))]
    )
    masks = torch.zeros(len(labels), side * side, dtype=torch.uint8)
    for c, n in enumerate(pixels, start=1):
        masks[(labels == c).nonzero()[:1, 0], :n] = c
    return TileSet(
        images=torch.zeros(len(labels), 1, side, side, dtype=torch.uint8),
        masks=masks.reshape(-1, side, side),
        labels=labels,
        groups=torch.arange(len(labels)),
        names=tuple(map(str, range(len(labels)))),
        classes=("Blowhole", "Break", "Crack", "Fray", "Uneven")[: len(pixels)],
    )


@pytest.mark.parametrize("train", [(1, 2), [1, 2], np.array([1, 2]), torch.tensor([1, 2])])
def test_training_images_are_rows_in_any_form(train):
    found = criterion("wce", tiny([4, 12]), train).first.weights
    assert found.tolist() == [0.75, 0.25]  # 4 and 12 pixels


@pytest.mark.parametrize(
    "train",
    [True, 1, None, "ab", [1, [2]], np.array([True, False]), [[0, 1]], [0.0, 1.0], [-1], [9]],
)
def test_what_is_no_row_of_training_images_is_refused(train):
    with pytest.raises(ValueError, match=r"train must (be a row of indices|index the 3 tiles)"):
        criterion("wce", tiny([4, 12]), train)


def everything(tiles):
    return np.arange(len(tiles))


def maps(logits, target):
    """Two 2x2 class maps of one image as (1, 2, 2, 2)."""
    return torch.tensor(logits, dtype=torch.float64)[None], torch.tensor(
        target, dtype=torch.float64
    )[None]


# Probabilities 3/4 and 1/4; class 1 has one pixel, class 2 has three.
LOGITS = [[[LN3, -LN3], [-LN3, -LN3]], [[LN3, LN3], [-LN3, LN3]]]
TARGET = [[[1, 0], [0, 0]], [[1, 1], [1, 0]]]
GOOD, BAD = (
    -math.log(3 / 4),
    -math.log(1 / 4),
)  # cross-entropy of a pixel that is right and of one that is wrong


def test_class_bce_by_hand():
    assert class_bce(*maps(LOGITS, TARGET)).tolist() == pytest.approx(
        [GOOD, (2 * GOOD + 2 * BAD) / 4]
    )
    assert class_bce(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)).tolist() == pytest.approx(
        [LN2] * 3
    )


def test_dice_by_hand():
    # sum of p·t: 3/4 + (3/4 + 3/4 + 1/4); sum of p: (3/4 + 3/4) + (9/4 + 1/4); sum of t: 4
    assert dice(*maps(LOGITS, TARGET)).item() == pytest.approx(1 - 2 * 2.5 / (4 + 4))


def test_dice_is_one_number_over_the_flattened_batch():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=g, dtype=torch.float64)
    target = (torch.rand(3, 4, 5, 6, generator=g) < 0.2).double()
    p, t = 1 / (1 + np.exp(-logits.numpy())), target.numpy()
    assert dice(logits, target).item() == pytest.approx(
        1 - 2 * (p * t).sum() / (p.sum() + t.sum()), abs=1e-6
    )
    apart = np.mean([1 - 2 * (p * t)[i].sum() / (p[i].sum() + t[i].sum()) for i in range(3)])
    assert abs(dice(logits, target).item() - apart) > 1e-4


def test_dice_without_defects_is_zero():
    assert dice(torch.randn(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)).item() == 0


def test_weighted_by_hand():
    bce = [GOOD, (2 * GOOD + 2 * BAD) / 4]
    value = WeightedBCE(torch.tensor([0.9, 0.1]))(*maps(LOGITS, TARGET)).item()
    assert value == pytest.approx(0.9 * bce[0] + 0.1 * bce[1], rel=1e-6)


def test_focal_losses_by_hand():
    bce = np.array([GOOD, (2 * GOOD + 2 * BAD) / 4])
    released = focal_released(*maps(LOGITS, TARGET)).item()
    assert released == pytest.approx((bce * (1 - np.exp(-bce)) ** 2).sum())
    published = focal_published(*maps(LOGITS, TARGET)).item()
    assert published == pytest.approx((6 * GOOD * (1 / 4) ** 2 + 2 * BAD * (3 / 4) ** 2) / 8)
    zeros, ones = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    assert focal_released(zeros, ones).item() == pytest.approx(2 * LN2 / 4)
    assert focal_published(zeros, ones).item() == pytest.approx(LN2 / 4)


def test_focal_losses_without_modulation_are_cross_entropy(monkeypatch):
    monkeypatch.setattr(losses, "GAMMA", 0.0)
    bce = class_bce(*maps(LOGITS, TARGET))
    assert focal_published(*maps(LOGITS, TARGET)).item() == pytest.approx(bce.mean().item())
    assert focal_released(*maps(LOGITS, TARGET)).item() == pytest.approx(bce.sum().item())


def test_released_focal_term_all_but_vanishes_on_rare_defects():
    target = torch.zeros(1, 1, 50, 50)
    target[..., :5, :5] = 1  # 1 % of the pixels, all missed
    logits = torch.full_like(target, -4.0)
    bce = class_bce(logits, target).item()
    assert focal_released(logits, target).item() < 0.01 * bce
    assert focal_published(logits, target).item() > 0.5 * bce


def test_baseline_and_dli_are_half_bce_half_dice():
    tiles = tiny([5, 10])
    logits, target = maps(LOGITS, TARGET)
    expected = 0.5 * (6 * GOOD + 2 * BAD) / 8 + 0.5 * (1 - 5 / 8)
    for method in ("baseline", "dli"):
        assert criterion(method, tiles, everything(tiles))(logits, target).item() == pytest.approx(
            expected
        )


@pytest.mark.parametrize(
    "variant, term", [("released", focal_released), ("published", focal_published)]
)
def test_focal_is_half_the_variants_term_half_dice(variant, term):
    tiles = tiny([5, 10])
    logits, target = maps(LOGITS, TARGET)
    expected = 0.5 * term(logits, target).item() + 0.5 * (1 - 5 / 8)
    assert criterion("focal", tiles, everything(tiles), variant=variant)(
        logits, target
    ).item() == pytest.approx(expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_wce_weighs_with_the_measured_shares(variant):
    tiles = tiny([5, 15, 20])
    assert pixel_shares(tiles, everything(tiles)).tolist() == pytest.approx([1 / 8, 3 / 8, 4 / 8])
    weights = wce_weights(pixel_shares(tiles, everything(tiles)))
    assert weights.tolist() == pytest.approx([7 / 16, 5 / 16, 4 / 16])
    logits, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    logits[:, 0] = -LN3  # class 1 is right everywhere, the others undecided; no defects, so no Dice
    value = criterion("wce", tiles, everything(tiles), variant=variant)(logits, target).item()
    assert value == pytest.approx(0.5 * (7 / 16 * GOOD + 9 / 16 * LN2))


def test_shares_are_those_of_the_training_images_only():
    tiles = tiny([5, 15, 20])
    assert pixel_shares(tiles, np.array([0, 1, 3])).tolist() == pytest.approx([1 / 5, 0, 4 / 5])


@pytest.mark.parametrize("method", ["wce", "balanced"])
def test_weights_are_those_of_the_training_images_only(method):
    tiles, train = tiny([5, 15, 20], images=[2, 2, 2]), np.array([0, 1, 4, 5])
    found = criterion(method, tiles, train).first.weights
    alone = tiles.subset(train)
    assert found.tolist() == criterion(method, alone, everything(alone)).first.weights.tolist()
    assert found.tolist() != criterion(method, tiles, everything(tiles)).first.weights.tolist()


def test_wce_weights_sum_to_one():
    g = torch.Generator().manual_seed(0)
    for k in (1, 2, 3, 5, 9):
        shares = torch.rand(k, generator=g, dtype=torch.float64)
        assert wce_weights(shares / shares.sum()).sum().item() == pytest.approx(1)


def test_wce_weights_of_the_real_tiles_are_the_released_constant(real_tiles):
    weights = wce_weights(pixel_shares(real_tiles, everything(real_tiles)))
    assert weights.tolist() == pytest.approx(RELEASED_CONSTANT, abs=0.01)


def test_released_balanced_weights_favour_the_largest_class():
    constant = torch.tensor(RELEASED_CONSTANT, dtype=torch.float64)
    weights = balanced_weights(constant)
    inverse = (1 / constant) / (1 / constant).sum()
    assert weights.tolist() == pytest.approx(inverse.tolist(), rel=1e-3)
    assert weights.argmax() == 4
    ratios = weights[4] / weights[:4]
    assert ratios.min() > 2.7 and ratios.max() < 3.5
    assert weights.sum().item() == pytest.approx(1)


def test_published_balanced_weights_favour_the_rarest_class():
    counts = [92, 68, 45, 25, 82]
    effective = np.array([sum(0.9999**k for k in range(n)) for n in counts])  # 1 + β + … + β^(n-1)
    expected = (1 / effective) / (1 / effective).sum()
    weights = balanced_weights(torch.tensor(counts).double())
    assert weights.tolist() == pytest.approx(expected.tolist())
    assert weights.argmax() == 3 and weights.argmin() == 0


def test_balanced_criterion_released_and_published_weigh_oppositely():
    tiles = tiny([2, 60], images=[2, 30])
    rare, frequent = (torch.zeros(1, 2, 2, 2) for _ in range(2))
    rare[:, 0], frequent[:, 1] = 3, 3  # false alarms in one class
    target = torch.zeros(1, 2, 2, 2)
    loss = {v: criterion("balanced", tiles, everything(tiles), variant=v) for v in VARIANTS}
    assert loss["released"](rare, target) < loss["released"](frequent, target)
    assert loss["published"](rare, target) > loss["published"](frequent, target)
    weights = balanced_weights(torch.tensor([2.0, 30.0]).double())
    expected = 0.5 * (weights[0] * math.log(1 + math.exp(3)) + weights[1] * LN2).item()
    assert loss["published"](rare, target).item() == pytest.approx(expected, rel=1e-5)


@EVERY_LOSS
def test_good_predictions_cost_less_than_bad_ones_and_gradients_flow(method, variant):
    tiles = tiny([5, 20, 30], images=[3, 9, 5])
    loss = criterion(method, tiles, everything(tiles), variant=variant)
    g = torch.Generator().manual_seed(0)
    target = (torch.rand(2, 3, 16, 16, generator=g) < 0.2).float()
    noise = torch.randn(target.shape, generator=g)
    right = 2 * target - 1
    bad, medium, good = ((c * right + noise).requires_grad_() for c in (-3, 1, 6))
    values = [loss(x, target) for x in (good, medium, bad)]
    assert all(v.ndim == 0 and v.isfinite() for v in values)
    assert values[0] < values[1] < values[2]
    for logits in (bad, medium, good):
        loss(logits, target).backward()
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().sum(dim=(0, 2, 3)).min() > 0  # in each class
    assert (medium.grad * right).mean() < 0  # downhill is towards the target


@EVERY_LOSS
def test_extreme_logits_stay_finite(method, variant):
    tiles = tiny([5, 20])
    logits = torch.tensor([[-1e4, 1e4], [0.0, 1e4]]).expand(1, 2, 2, 2).clone().requires_grad_()
    value = criterion(method, tiles, everything(tiles), variant=variant)(
        logits, maps(LOGITS, TARGET)[1].float()
    )
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@EVERY_LOSS
def test_single_class_is_a_data_set_too(method, variant):
    tiles = tiny([20], images=[3])
    loss = criterion(method, tiles, everything(tiles), variant=variant)
    target = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    logits = torch.tensor([[[[LN3, -LN3], [-LN3, -LN3]]]])
    value = loss(logits, target).item()
    assert math.isfinite(value)
    if method in ("wce", "balanced"):  # nothing to weigh: the baseline
        assert value == pytest.approx(
            criterion("baseline", tiles, everything(tiles))(logits, target).item()
        )


def test_criterion_takes_one_hot_masks_and_refuses_other_shapes(toy):
    masks = torch.randint(0, 6, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits, target = torch.randn(2, 5, 8, 8), metrics.one_hot(masks, 5)
    loss = losses.criterion(np.str_("dli"), toy, np.arange(len(toy)))
    counted = torch.ones(2, 8, 8, dtype=torch.bool)
    expected = loss(logits, target.float())
    torch.testing.assert_close(loss(logits, target, counted), expected)
    for wrong in (counted[:, None], counted[:, None].expand_as(target), counted[:1]):
        with pytest.raises(ValueError, match=r"counted must be \(2, 8, 8\) as the logits"):
            loss(logits, target, wrong)
    with pytest.raises(ValueError, match="target must be"):
        loss(logits, masks)


def test_no_defect_pixels_raises():
    tiles = tiny([0, 0])
    for method in ("wce", "balanced"):
        with pytest.raises(ValueError, match="none of the 3 training images has a defect pixel"):
            criterion(method, tiles, everything(tiles))
    criterion("baseline", tiles, everything(tiles))


def test_class_without_a_training_image_raises_naming_it():
    tiles = tiny([5, 10, 20])
    with pytest.raises(ValueError, match="Break"):
        criterion("balanced", tiles, np.array([0, 1, 3]), variant="published")


def test_class_that_holds_every_defect_pixel_never_gives_a_loss_that_is_not_a_number():
    tiles = tiny([5, 0])
    with pytest.raises(ValueError, match="Blowhole"):
        criterion("balanced", tiles, everything(tiles), variant="released")


def test_unknown_names_raise():
    tiles = tiny([5, 10])
    with pytest.raises(ValueError, match=r"method must be one of.*'dice'"):
        criterion("dice", tiles, everything(tiles))
    with pytest.raises(ValueError, match=r"variant must be one of.*'paper'"):
        criterion("focal", tiles, everything(tiles), variant="paper")


def plane(*degrees):
    """Features (1, 2, 1, n): n cells in a row that point at these angles, of different lengths."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return (torch.stack([angles.cos(), angles.sin()]) * torch.arange(1, len(degrees) + 1))[
        None, :, None
    ]


def cells_of(*defect, side=8):
    """Masks (1, side, side * n) of class 2 in one corner pixel of the cells that are a defect's."""
    masks = torch.zeros(1, side, side * len(defect), dtype=torch.uint8)
    for k, wrong in enumerate(defect):
        masks[0, side - 1, side * k] = 2 * wrong
    return masks


def test_a_cell_is_a_defects_if_any_of_its_pixels_is():
    assert cells(cells_of(0, 1, 1, 0), plane(0, 0, 0, 0)).tolist() == [[[False, True, True, False]]]


def test_normal_background_by_hand():
    # Normal cells at +30 and -30 degrees: the prototype is at 0, each is 1 - cos 30 away. The
    # defect at 20 is nearer to it than the margin, by cos 20 - 0.5, and the one at 80 is not.
    found = normal_background(plane(30, -30, 20, 80), cells_of(0, 0, 1, 1))
    expected = 1 - math.cos(math.pi / 6) + (math.cos(math.pi / 9) - 0.5) / 2
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_normal_background_is_least_where_normal_agree_and_defects_differ():
    assert normal_background(plane(10, 10, 80, 90), cells_of(0, 0, 1, 1)).item() == pytest.approx(
        0, abs=1e-6
    )
    assert normal_background(plane(10, 10, 10), cells_of(0, 0, 1)).item() == pytest.approx(
        0.5, abs=1e-6
    )


@pytest.mark.parametrize("defects", [(0, 0), (1, 1)])
def test_normal_background_of_one_kind_alone_is_finite(defects):
    features = plane(0, 60).requires_grad_()
    loss = normal_background(features, cells_of(*defects))
    loss.backward()
    assert loss.item() == pytest.approx(
        1 - math.cos(math.pi / 6) if defects == (0, 0) else 0, abs=1e-6
    )
    assert features.grad.isfinite().all()


def test_gradients_of_normal_background_reach_the_encoder_alone():
    model = models.build("resnet18", weights=None)
    images, masks = torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, :9, :9] = 3
    features, _ = models.features(model, images)
    normal_background(features, masks).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    rest = [*model.decoder.parameters(), *model.segmentation_head.parameters()]
    assert all(p.grad is None for p in rest)


def test_realism_weights_by_hand():
    # composites whose pasted cells point 0 and 60 degrees away from the first class's prototype
    features = torch.cat([plane(0, 45), plane(60, 45)])
    masks = torch.cat([cells_of(1, 0), cells_of(1, 0)])
    prototypes = torch.tensor([[7.0, 0.0], [0.0, 1.0]])
    weights = realism_weights(features, masks, torch.tensor([1, 1]), prototypes)
    ratio = math.exp((1 - 0.5) / TEMPERATURE)
    assert weights.tolist() == pytest.approx([2 * ratio / (1 + ratio), 2 / (1 + ratio)], rel=1e-5)
    # alone in its class a composite weighs 1, however unlike: classes are not compared
    assert realism_weights(
        features, masks, torch.tensor([1, 2]), prototypes
    ).tolist() == pytest.approx([1, 1])


def test_realism_weights_average_one_take_no_gradient_and_bear_an_empty_composite():
    g = torch.Generator().manual_seed(0)
    features = torch.rand(6, 4, 5, 5, generator=g, requires_grad=True)
    masks = (torch.rand(6, 40, 40, generator=g) > 0.99).byte()
    masks[2] = 0
    weights = realism_weights(
        features, masks, torch.tensor([1, 2, 3, 1, 2, 3]), torch.rand(3, 4, generator=g)
    )
    assert (weights[:3] + weights[3:]).tolist() == pytest.approx([2, 2, 2])
    assert (weights > 0).all() and not weights.requires_grad
    assert weights.argmin() == 2  # nothing pasted: like nothing


def test_few_shot_losses_of_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many, got 2 and 1"):
        normal_background(torch.ones(2, 3, 4, 4), torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match=r"as many, got \(2, 2, 1\)"):
        realism_weights(
            torch.ones(2, 3, 4, 4), torch.zeros(2, 8, 8), torch.tensor([1]), torch.ones(1, 3)
        )


def test_region_features_sum_over_the_region_only():
    features = torch.arange(8.0).reshape(1, 2, 1, 4)
    assert region_features(features, cells_of(0, 1, 1, 0) > 0).tolist() == [[1.0 + 2.0, 5.0 + 6.0]]


def test_image_weights_of_one_are_the_plain_loss_and_others_by_hand():
    g = torch.Generator().manual_seed(0)
    logits, target = (
        torch.randn(3, 2, 8, 8, generator=g),
        (torch.rand(3, 2, 8, 8, generator=g) > 0.8).float(),
    )
    plain = criterion("baseline", tiny([3, 2]), everything(tiny([3, 2])))
    even = WithDice(image_weighted(torch.ones(3)))
    assert even(logits, target).item() == pytest.approx(plain(logits, target).item())
    each = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits[i], target[i]).item()
        for i in range(3)
    ]
    found = image_weighted(torch.tensor([1.0, 0.0, 2.0]))(logits, target).item()
    assert found == pytest.approx((each[0] + 2 * each[2]) / 3)


@EVERY_LOSS
def test_ignored_pixels_have_no_weight_in_any_loss(few_tiles, method, variant):
    """What is predicted there changes neither the loss nor, through it, the model."""
    loss = criterion(method, few_tiles, everything(few_tiles), variant=variant)
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 6, 6, generator=g).requires_grad_()
    masks = torch.randint(0, 6, (3, 6, 6), generator=g)
    counted = torch.rand(3, 6, 6, generator=g) < 0.7
    target = metrics.one_hot(masks, 5).float()
    value = loss(logits, target, counted)
    value.backward()
    assert logits.grad.abs().amax(dim=1)[~counted].max() == 0
    assert (logits.grad.abs().amax(dim=1)[counted] > 0).all()
    other = torch.where(counted[:, None], logits.detach(), 7.0)
    assert loss(other, 1 - target * 0, counted) != value  # the rest of the target does count
    assert loss(other, torch.where(counted[:, None], target, 1), counted) == pytest.approx(
        value.item(), rel=1e-6
    )
    everywhere = torch.ones_like(counted)
    assert loss(logits, target, everywhere).item() == pytest.approx(
        loss(logits, target).item(), rel=1e-5
    )


def test_a_loss_over_some_pixels_is_the_loss_of_these_alone():
    """Whole columns are ignored, so that what is left is an image of its own."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=g)
    target = (torch.rand(2, 3, 8, 8, generator=g) < 0.3).float()
    counted = torch.zeros(2, 8, 8, dtype=torch.bool)
    counted[..., :5] = True
    for loss in (losses.bce, focal_released, focal_published, dice, WithDice(losses.bce)):
        alone = loss(logits[..., :5], target[..., :5])
        assert loss(logits, target, counted).item() == pytest.approx(alone.item(), rel=1e-5)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_of_half_logits_is_that_of_float32(few_tiles, method, variant, dtype):
    """65,504 is the largest number of float16; there are 163,840 values to add."""
    loss = criterion(method, few_tiles, everything(few_tiles), variant=variant)
    logits = torch.randn(
        8, few_tiles.num_classes, 64, 64, generator=torch.Generator().manual_seed(0)
    )
    logits = logits.to(dtype).requires_grad_()
    target = torch.zeros(logits.shape)
    target[:, 0, :8] = 1
    counted = torch.ones(8, 64, 64, dtype=torch.bool)
    value = loss(logits, target, counted)
    assert value.item() == pytest.approx(loss(logits.float(), target, counted).item())
    value.backward()
    assert logits.grad.isfinite().all() and logits.grad.any()


@EVERY_LOSS
def test_losses_can_be_pickled(few_tiles, method, variant):
    loss = criterion(method, few_tiles, everything(few_tiles), variant=variant)
    logits, target = (
        torch.zeros(1, few_tiles.num_classes, 4, 4),
        torch.ones(1, few_tiles.num_classes, 4, 4),
    )
    assert pickle.loads(pickle.dumps(loss))(logits, target) == loss(logits, target)


def test_ignored_pixels_are_in_no_class_weight(few_tiles):
    masks = few_tiles.masks.clone()
    masks[masks == 0] = IGNORE
    fringed = replace(few_tiles, masks=masks)
    assert torch.equal(
        pixel_shares(fringed, everything(fringed)), pixel_shares(few_tiles, everything(few_tiles))
    )


def test_ignored_cells_are_neither_normal_nor_a_defect():
    features = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    masks[0, 0, 0], masks[0, 3, 3] = 1, IGNORE
    changed = features.clone()
    changed[0, :, 1, 1] = 9.0  # the cell with an ignored pixel
    assert normal_background(changed, masks) == normal_background(features, masks)
    masks[0, 3, 3] = 0
    assert normal_background(changed, masks) != normal_background(features, masks)
