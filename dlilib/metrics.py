"""Counts of right and wrong pixels, on the device, and the ratios formed of them."""

from typing import Any

import torch
from torch import Tensor


def one_hot(masks: Tensor, num_classes: int) -> Tensor:
    """Mark the pixels of each class; the background is none.

    Args:
        masks: (B, H, W) int, class indices.
        num_classes: K.

    Returns:
        bool (B, K, H, W).
    """
    classes = torch.arange(1, num_classes + 1, device=masks.device)
    return masks[:, None] == classes[:, None, None]


def count(logits: Tensor, masks: Tensor) -> Tensor:
    """Count the true positive, false positive and false negative pixels.

    Args:
        logits: (B, K, H, W), positive where the class is predicted (sigmoid above 0.5).
        masks: (B, H, W) int, class indices.

    Returns:
        int64 (B, K, 3): TP, FP and FN of each image and class.
    """
    predicted = logits > 0
    true = one_hot(masks, logits.shape[1])
    outcomes = [predicted & true, predicted & ~true, ~predicted & true]
    return torch.stack([outcome.sum(dim=(2, 3)) for outcome in outcomes], dim=-1)


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

    It is the micro IoU for counts that are summed over the classes.

    Example:
        >>> iou(tp=6, fp=2, fn=4)
        0.5
    """
    total = tp + fp + fn
    return float(tp / total) if total else float("nan")


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
    """
    pixels, images, free = false_alarms(counts, labels)
    return {
        "epoch": epoch,
        "iou": iou(*counts.sum(dim=(0, 1)).tolist()),
        "classes": counts.sum(dim=0).tolist(),  # K rows of TP, FP, FN
        "images": counts.sum(dim=1).tolist(),  # a row of TP, FP, FN for each validation image
        "false_alarms": {"pixels": pixels, "images": images, "of": free},
    }
