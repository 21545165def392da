"""Counts of right and wrong pixels, on the device, and the ratios formed of them."""

import math
from typing import Any

import torch
from torch import Tensor

from dlilib.checks import described, is_count
from dlilib.tiles import IGNORE, INTEGERS, check_values

NOTHING = "–"  # shown instead of a figure where there is no pixel to find


def one_hot(masks: Tensor, num_classes: int) -> Tensor:
    """Mark the pixels of each class; the background is none, and neither is what is ignored.

    Args:
        masks: (B, H, W) int, class indices.
        num_classes: K.

    Returns:
        bool (B, K, H, W).

    Raises:
        ValueError: The masks are not so, or num_classes is no integer above 0.
    """
    if not is_count(num_classes):
        raise ValueError(f"num_classes must be an integer above 0, got {num_classes!r}")
    if not _are_indices(masks) or masks.ndim != 3:
        raise ValueError(f"masks must be class indices, int (B, H, W), got {described(masks)}")
    classes = torch.arange(1, num_classes + 1, device=masks.device)
    return masks[:, None] == classes[:, None, None]


def count(logits: Tensor, masks: Tensor, *, num_classes: int | None = None) -> Tensor:
    """Count the true positive, false positive and false negative pixels.

    Pixels whose mask is 255 (`IGNORE`) are in no count.

    Args:
        logits: (B, K, H, W) float, positive where the class is predicted (sigmoid above 0.5). The
            background has no channel.
        masks: (B, H, W) int, class indices.
        num_classes: K, to refuse logits with another number of channels, such as K + 1; None: not
            known.

    Returns:
        int64 (B, K, 3): TP, FP and FN of each image and class.

    Raises:
        ValueError: Shapes or dtypes are other than these; on a CPU also if a mask holds a value
            that is no class.

    Example:
        >>> masks = torch.tensor([[[0, 1, 1, 255]]])
        >>> count(torch.tensor([[[[2.0, 2.0, -2.0, 2.0]]]]), masks).tolist()
        [[[1, 1, 1]]]
    """
    _check_count(logits, masks, num_classes)
    counted = (masks != IGNORE)[:, None]
    predicted = (logits > 0) & counted
    true = one_hot(masks, logits.shape[1])
    outcomes = [predicted & true, predicted & ~true, ~predicted & true]
    return torch.stack([outcome.sum(dim=(2, 3)) for outcome in outcomes], dim=-1)


def _are_indices(masks: object) -> bool:
    return isinstance(masks, Tensor) and masks.dtype in INTEGERS


def _check_count(logits: Tensor, masks: Tensor, num_classes: int | None) -> None:
    tensor = isinstance(logits, Tensor)
    if not tensor or logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(f"logits must be float (B, K, H, W), got {described(logits)}")
    if not _are_indices(masks) or masks.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            "masks must be class indices, int (B, H, W) as the logits "
            f"{tuple(logits.shape)}, got {described(masks)}"
        )
    channels = logits.shape[1]
    if num_classes not in (None, channels):
        raise ValueError(
            f"logits have {channels} channels, not one for each of the {num_classes} classes (the "
            "background has none)"
        )
    if masks.device.type == "cpu":  # another device would have to be waited for
        check_values(masks, channels)


def class_map(logits: Tensor) -> Tensor:
    """Choose the likeliest class of each pixel, 0 where none is predicted.

    Args:
        logits: (B, K, H, W).

    Returns:
        uint8 (B, H, W), class indices.
    """
    strength, best = logits.max(dim=1)
    return torch.where(strength > 0, best + 1, 0).byte()


def iou(tp: float, fp: float, fn: float) -> float:
    """Compute TP / (TP + FP + FN), paper eq. 8; NaN if all are 0.

    It is the micro IoU for counts that are summed over the classes. To score with it, see
    `iou_score`.

    Example:
        >>> iou(tp=6, fp=2, fn=4)
        0.5
    """
    total = tp + fp + fn
    return float(tp / total) if total else float("nan")


def iou_score(tp: float, fp: float, fn: float) -> float:
    """Score a class, or all classes together: `iou`, NaN where there is no pixel to find.

    Without a pixel to find (TP + FN = 0), `iou` is 0 however few pixels are falsely marked, which
    says nothing about how well a class is found; see `false_alarms` for these.

    Args:
        tp: True positive pixels, of one class or summed over the classes.
        fp: False positive pixels.
        fn: False negative pixels.

    Returns:
        In [0, 1], or NaN.

    Example:
        >>> iou_score(tp=0, fp=5, fn=1)
        0.0
        >>> iou_score(tp=0, fp=5, fn=0)
        nan
    """
    return iou(tp, fp, fn) if tp + fn else float("nan")


def shown(score: float) -> str:
    """Write an `iou_score` with three decimals, "–" for NaN.

    Example:
        >>> shown(iou_score(tp=6, fp=2, fn=4)), shown(iou_score(tp=0, fp=5, fn=0))
        ('0.500', '–')
    """
    return NOTHING if math.isnan(score) else f"{score:.3f}"


def false_alarms(counts: Tensor, labels: Tensor) -> tuple[int, int, int]:
    """Count the false alarms on defect-free images.

    Args:
        counts: (B, K, 3), as `count` gives them.
        labels: (B,) int, 0 for defect-free images.

    Returns:
        Falsely marked pixels, defect-free images with any, and defect-free images in all.
    """
    wrong = counts[labels == 0, :, 1].sum(dim=1)  # pixels of each defect-free image
    return int(wrong.sum()), int((wrong > 0).sum()), len(wrong)


def summary(epoch: int, counts: Tensor, labels: Tensor) -> dict[str, Any]:
    """Summarise a validation for the record.

    Args:
        epoch: The number of epochs done.
        counts: (V, K, 3) of the V validation images, as `count` gives them.
        labels: (V,) int, 0 for defect-free images.

    Returns:
        The record's figures of the epoch. The micro IoU, `iou`, is an `iou_score`.
    """
    pixels, images, free = false_alarms(counts, labels)
    return {
        "epoch": epoch,
        "iou": iou_score(*counts.sum(dim=(0, 1)).tolist()),
        "classes": counts.sum(dim=0).tolist(),  # K rows of TP, FP, FN
        "images": counts.sum(dim=1).tolist(),  # a row of TP, FP, FN for each validation image
        "false_alarms": {"pixels": pixels, "images": images, "of": free},
    }
