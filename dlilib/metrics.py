"""Counts of right and wrong pixels, on the device, the ratios formed of them, and what tells features apart."""

from typing import Any

import numpy as np
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


def separation(features: np.ndarray, defect: np.ndarray, shown: int = 100) -> dict[str, Any]:
    """How well features (N, D) tell defects (N,) bool from normal ground, and a plane in which to look at them.

    "auroc": of the angle to the mean direction of the normal features; "normal", "defect": the first two principal
    components of up to `shown` evenly spaced rows of each, whose directions they are fitted to.
    """
    from sklearn.metrics import roc_auc_score

    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosine = directions @ directions[~defect].mean(axis=0)
    groups = [directions[rows] for rows in (~defect, defect)]
    groups = [g[np.linspace(0, len(g) - 1, min(shown, len(g))).astype(int)] for g in groups]
    centre = np.concatenate(groups).mean(axis=0)
    axes = np.linalg.svd(np.concatenate(groups) - centre, full_matrices=False)[2][:2]
    normal, marked = (((g - centre) @ axes.T).astype(float).round(3).tolist() for g in groups)
    return {"auroc": round(float(roc_auc_score(defect, -cosine)), 4), "normal": normal, "defect": marked}
