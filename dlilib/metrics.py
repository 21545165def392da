"""Counts of right and wrong pixels, on the device, the ratios formed of them, and what tells features apart."""

from typing import Any

import torch
from torch import Tensor


def one_hot(masks: Tensor, num_classes: int) -> Tensor:
    """bool (B, K, H, W) from class indices (B, H, W); background is no class."""
    return masks[:, None] == torch.arange(1, num_classes + 1, device=masks.device)[:, None, None]


def count(logits: Tensor, masks: Tensor) -> Tensor:
    """int64 (B, K, 3): true positive, false positive and false negative pixels of each image and class.

    logits: (B, K, H, W), positive where the class is predicted (sigmoid above 0.5); masks: (B, H, W), class indices.
    """
    predicted, true = logits > 0, one_hot(masks, logits.shape[1])
    cells = [predicted & true, predicted & ~true, ~predicted & true]
    return torch.stack([c.sum(dim=(2, 3)) for c in cells], dim=-1)


def class_map(logits: Tensor) -> Tensor:
    """uint8 (B, H, W): the likeliest class where one is predicted, else 0, from logits (B, K, H, W)."""
    strength, best = logits.max(dim=1)
    return torch.where(strength > 0, best + 1, 0).byte()


def iou(tp: float, fp: float, fn: float) -> float:
    """TP / (TP + FP + FN), paper eq. 8; micro for counts summed over classes. NaN if all are 0."""
    total = tp + fp + fn
    return float(tp / total) if total else float("nan")


def false_alarms(counts: Tensor, labels: Tensor) -> tuple[int, int, int]:
    """On the free images (label 0) among counts (B, K, 3): falsely marked pixels, images with any, images in all."""
    wrong = counts[labels == 0, :, 1].sum(dim=1)
    return int(wrong.sum()), int((wrong > 0).sum()), len(wrong)


def summary(epoch: int, counts: Tensor, labels: Tensor) -> dict[str, Any]:
    """What a record keeps of validation counts (V, K, 3) of images with labels (V,) after an epoch."""
    pixels, images, free = false_alarms(counts, labels)
    return {
        "epoch": epoch,
        "iou": iou(*counts.sum(dim=(0, 1)).tolist()),
        "classes": counts.sum(dim=0).tolist(),  # K rows of TP, FP, FN
        "images": counts.sum(dim=1).tolist(),  # a row of TP, FP, FN for each validation image
        "false_alarms": {"pixels": pixels, "images": images, "of": free},
    }
