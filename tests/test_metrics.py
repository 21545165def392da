import math

import numpy as np
import pytest
import torch
from builders import refused
from sklearn.metrics import jaccard_score, multilabel_confusion_matrix

from dlilib import IGNORE
from dlilib.metrics import class_map, count, false_alarms, iou, iou_score, one_hot, shown, summary


def random_maps(batch=4, num_classes=5, height=9, width=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, height, width, generator=g) - 1
    return logits, torch.randint(
        num_classes + 1, (batch, height, width), generator=g, dtype=torch.uint8
    )


def test_counts_by_hand():
    logits = torch.tensor(
        [[[[1.0, -1.0], [1.0, -1.0]], [[-1.0, -1.0], [2.0, 0.0]]]]
    )  # 0 is not above 0.5
    masks = torch.tensor([[[1, 1], [2, 2]]])
    assert count(logits, masks).tolist() == [[[1, 1, 1], [1, 0, 1]]]
    assert count(logits, masks).dtype == torch.int64


def test_counts_agree_with_scikit_learn_image_by_image():
    logits, masks = random_maps()
    counts = count(logits, masks)
    assert counts.shape == (4, 5, 3)
    for i in range(4):
        predicted = (logits[i] > 0).flatten(1).T.numpy()  # (pixels, K)
        true = (masks[i].flatten()[:, None] == torch.arange(1, 6)).numpy()
        (_, fp), (fn, tp) = multilabel_confusion_matrix(true, predicted).transpose(1, 2, 0)
        assert counts[i].tolist() == np.stack([tp, fp, fn], axis=1).tolist()


def test_micro_iou_agrees_with_scikit_learn():
    logits, masks = random_maps(seed=1)
    counts = count(logits, masks).sum((0, 1)).tolist()
    true = (masks[:, None] == torch.arange(1, 6)[:, None, None]).flatten().numpy()
    assert iou(*counts) == pytest.approx(jaccard_score(true, (logits > 0).flatten().numpy()))
    per_class = count(logits, masks).sum(0).tolist()
    for c in range(5):
        true = (masks == c + 1).flatten().numpy()
        assert iou(*per_class[c]) == pytest.approx(
            jaccard_score(true, (logits[:, c] > 0).flatten().numpy())
        )


def test_threshold_is_a_sigmoid_above_half():
    logits, masks = random_maps(seed=2)
    assert torch.equal(
        count(logits, masks), count(torch.where(logits.sigmoid() > 0.5, 1.0, -1.0), masks)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32])
def test_dtype_of_the_masks_does_not_matter(dtype):
    logits, masks = random_maps()
    assert torch.equal(count(logits, masks.to(dtype)), count(logits, masks))
    assert torch.equal(count(logits.double(), masks), count(logits, masks))


def test_counts_of_no_images():
    logits, masks = random_maps()
    assert count(logits[:0], masks[:0]).shape == (0, 5, 3)


@pytest.mark.parametrize(
    "counts, expected", [((3, 1, 2), 0.5), ((4, 0, 0), 1.0), ((0, 5, 0), 0.0), ((0, 0, 1), 0.0)]
)
def test_iou_by_hand(counts, expected):
    assert iou(*counts) == expected
    assert isinstance(iou(*torch.tensor(counts)), float) and iou(*torch.tensor(counts)) == expected


def test_iou_of_nothing_is_not_a_number():
    assert math.isnan(iou(0, 0, 0))


@pytest.mark.parametrize(
    "counts, expected, text",
    [
        ((3, 1, 2), 0.5, "0.500"),
        ((0, 5, 1), 0.0, "0.000"),
        ((0, 0, 1), 0.0, "0.000"),
        ((0, 5, 0), math.nan, "–"),
        ((0, 0, 0), math.nan, "–"),
    ],
)
def test_where_nothing_is_to_be_found_there_is_no_score(counts, expected, text):
    for given in (counts, torch.tensor(counts), np.array(counts)):
        found = iou_score(*given)
        assert found == pytest.approx(expected, nan_ok=True) and isinstance(found, float)
        assert shown(found) == text


@pytest.mark.parametrize("falsely", [0, 7])
def test_a_validation_without_a_defect_has_no_score(falsely):
    counts = torch.zeros(2, 3, 3, dtype=torch.int64)
    counts[1, 0, 1] = falsely
    found = summary(4, counts, torch.tensor([1, 0]))
    assert math.isnan(found["iou"]) and found["false_alarms"]["pixels"] == falsely
    counts[0, 2, 2] = 1  # now there is a pixel to find, and it is missed
    assert summary(4, counts, torch.tensor([1, 0]))["iou"] == 0


def test_false_alarms_by_hand():
    counts = torch.zeros(5, 2, 3, dtype=torch.int64)
    counts[0, :, 1] = torch.tensor([3, 4])  # a free image with alarms in both classes
    counts[1, :, 1] = torch.tensor([9, 9])  # a defective one: not counted
    counts[2, :, 2] = 7  # misses are no alarms
    counts[4, 1, 1] = 1
    labels = torch.tensor([0, 1, 0, 0, 0])
    assert false_alarms(counts, labels) == (8, 2, 4)
    assert false_alarms(counts, torch.ones(5, dtype=torch.int64)) == (0, 0, 0)
    assert all(type(n) is int for n in false_alarms(counts, labels))


def test_false_alarms_of_a_perfect_prediction_are_none():
    _, masks = random_maps()
    masks[:2] = 0
    perfect = (masks[:, None] == torch.arange(1, 6)[:, None, None]).float() - 0.5
    counts = count(perfect, masks)
    assert iou(*counts.sum((0, 1)).tolist()) == 1
    assert false_alarms(counts, torch.tensor([0, 0, 1, 1])) == (0, 0, 2)


def test_map_has_the_likeliest_class_where_one_is_predicted():
    logits = torch.tensor([[1.0, -1.0, 0.5, 0.0], [2.0, -2.0, 0.2, -1.0]])[None, :, None]
    assert class_map(logits).tolist() == [[[2, 0, 1, 0]]]


def test_ignored_pixels_are_in_no_count():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 9, 9, generator=g)
    masks = torch.randint(0, 5, (3, 9, 9), generator=g)
    ignored = torch.rand(3, 9, 9, generator=g) < 0.3
    found = count(logits, torch.where(ignored, IGNORE, masks))
    nothing = torch.where(ignored[:, None], -1.0, logits)  # as if it were neither there nor found
    assert torch.equal(found, count(nothing, torch.where(ignored, 0, masks)))
    assert found.sum() < count(logits, masks).sum()
    assert not one_hot(torch.full((1, 2, 2), IGNORE), 254).any()
    with pytest.raises(ValueError, match=r"num_classes must be an integer above 0, got 1.5"):
        one_hot(masks, 1.5)
    for odd in (masks > 0, masks[:, None], masks.float()):
        with pytest.raises(ValueError, match=r"masks must be class indices, int \(B, H, W\), got"):
            one_hot(odd, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda l, m: (l, one_hot(m, 3)), r"masks must be class indices.*bool \(2, 3, 5, 6\)"),
        (lambda l, m: (l, one_hot(m, 3).long()), r"masks must be class indices.*\(2, 3, 5, 6\)"),
        (lambda l, m: (l, m[:, None]), r"masks must be class indices.*\(2, 1, 5, 6\)"),
        (lambda l, m: (l, m.float()), "masks must be class indices.*float32"),
        (lambda l, m: (l, m > 0), "masks must be class indices.*bool"),
        (lambda l, m: (l[0], m), r"logits must be float \(B, K, H, W\), got.*\(3, 5, 6\)"),
        (lambda l, m: (l.argmax(1, keepdim=True), m), "logits must be float.*int64"),
        (lambda l, m: (l, m + 2), r"masks must hold 0\.\.3 and 255 \(ignored\), got"),
        (lambda l, m: (l, m - 1), "masks must hold.*got -1"),
        (lambda l, m: (l, m.to(torch.int8) - 1), "masks must hold.*got -1"),
    ],
)
def test_what_cannot_be_counted_is_refused(change, message):
    g = torch.Generator().manual_seed(0)
    given = torch.randn(2, 3, 5, 6, generator=g), torch.randint(0, 4, (2, 5, 6), generator=g)
    refused(lambda: count(*change(*given)), message)


def test_a_head_with_a_background_channel_is_refused_where_the_classes_are_known():
    logits, masks = torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    refused(lambda: count(logits, masks, num_classes=3), "4 channels, not one for each of the 3")
    assert count(logits, masks, num_classes=4).shape == (1, 4, 3)
