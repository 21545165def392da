"""What the few-shot paper adds to training: a regulariser and weights of composites.

Of the paper (Lin et al., ICME 2021, arXiv 2007.09438) only the abstract is available. The forms of
`normal_background` and `realism_weights`, their layer (the encoder's stride 8), distance and
constants are our interpretation.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlilib import losses, metrics
from dlilib.balance import Plan
from dlilib.extras import require
from dlilib.tiles import IGNORE, defective
from dlilib.training.run import Run

MARGIN = 0.5  # cosine: features of defects stay 60° or more from the normal prototype
TEMPERATURE = 0.1  # of the composites' weights, in cosine


Outputs = Iterable[tuple[Tensor, Tensor, Tensor]]  # masks, features and logits of batches
Predict = Callable[[np.ndarray], Outputs]  # of images, by the model in evaluation mode


class FewShotLoss:
    """The batch's loss with the few-shot paper's terms, as far as a run asks for them.

    loss(logits, features, masks, plan) replaces the plain criterion where composites are weighted,
    and adds the normal background regularisation.
    """

    def __init__(
        self, run: Run, criterion: losses.Loss, num_classes: int, *, ignores: bool = False
    ) -> None:
        self.run, self.criterion, self.num_classes = run, criterion, num_classes
        self.ignores = ignores  # whether masks may hold pixels that do not count
        self.prototypes: Tensor | None = None  # (K, D); None: composites count like other images
        if run.shots:
            require("sklearn.metrics", "study")  # what the record needs, before all is trained

    def start_epoch(self, predict: Predict, defective: np.ndarray) -> None:
        """Renew what the weights of composites compare with; defective: training images."""
        if self.run.similarity:
            self.prototypes = prototypes(predict(defective), self.num_classes)

    def record(self, predict: Predict, val: np.ndarray) -> dict[str, Any]:
        """What a few-shot run's record keeps beside the others'; val: validation images."""
        return {"features": feature_separation(predict(val))} if self.run.shots else {}

    def __call__(
        self, logits: Tensor, features: Tensor, masks: Tensor, plan: Plan | None
    ) -> Tensor:
        """The loss of a batch.

        logits: (B, K, H, W); features: (B, D, h, w) of the encoder; masks: (B, H, W); plan: what
        was injected into the batch, None for nothing.
        """
        criterion = self.criterion
        if self.prototypes is not None and plan is not None and len(plan):
            criterion = self._weighted(features, masks, plan)
        counted = masks != IGNORE if self.ignores else None
        loss = criterion(logits, metrics.one_hot(masks, self.num_classes).float(), counted)
        if self.run.nbr:
            loss = loss + self.run.nbr * normal_background(features, masks)
        return loss

    def _weighted(self, features: Tensor, masks: Tensor, plan: Plan) -> losses.Loss:
        rows = plan.target.to(masks.device, non_blocking=True)
        labels = plan.label.to(masks.device, non_blocking=True)
        weights = torch.ones(len(masks), device=masks.device)
        weights[rows] = realism_weights(features[rows], masks[rows], labels, self.prototypes)
        return losses.WithDice(image_weighted(weights))


@torch.no_grad()
def prototypes(outputs: Outputs, num_classes: int) -> Tensor:
    """The mean feature of each class's real defects, as a direction: (K, D)."""
    total = 0
    for masks, features, _ in outputs:
        defects = metrics.one_hot(masks, num_classes).unbind(dim=1)
        sums = [region_features(features, defect).sum(dim=0) for defect in defects]
        total += torch.stack(sums)
    return total


@torch.inference_mode()
def feature_separation(outputs: Outputs) -> dict[str, Any]:
    """How far the defects lie from the normal regions of their images in the features."""
    found, defect = [], []
    for masks, features, _ in outputs:
        marked, normal = cells(defective(masks), features), ~cells(masks > 0, features)
        kept = marked | normal  # not what is ignored
        found.append(features.float().movedim(1, -1)[kept].cpu())  # (cells, D)
        defect.append(marked[kept].cpu())
    return separation(torch.cat(found).numpy(), torch.cat(defect).numpy())


def normal_background(features: Tensor, masks: Tensor) -> Tensor:
    """Normal background regularisation, our interpretation.

    It pulls normal features together and pushes those of defects away: the contrastive loss with a
    margin (Hadsell, Chopra, LeCun, CVPR 2006) in cosine distance, not between pairs but to the
    prototype (Snell, Swersky, Zemel, NeurIPS 2017). The prototype is the mean direction of the
    batch's normal cells and takes no gradient. The loss is the mean of 1 - cos over normal cells
    plus the mean of max(0, cos - MARGIN) over defect cells.

    Args:
        features: (B, D, h, w) of the encoder.
        masks: (B, H, W), 0 background; a cell of the features is a defect's if any of its pixels
            is, and neither normal nor a defect's if some of its pixels are ignored.

    Returns:
        A scalar, 0 or more.

    Raises:
        ValueError: The two have different lengths.
    """
    if len(features) != len(masks):
        raise ValueError(
            f"features and masks must be as many, got {len(features)} and {len(masks)}"
        )
    directions = F.normalize(features.float(), dim=1, eps=1e-6)
    defect = cells(defective(masks), features)
    normal = ~cells(masks > 0, features)  # 255, ignored, is no normal ground either
    prototype = (directions * normal[:, None]).sum(dim=(0, 2, 3)).detach()
    cosine = (directions * F.normalize(prototype, dim=0)[:, None, None]).sum(dim=1)  # (B, h, w)
    together = ((1 - cosine) * normal).sum() / normal.sum().clamp(min=1)
    apart = ((cosine - MARGIN).clamp(min=0) * defect).sum() / defect.sum().clamp(min=1)
    return together + apart


def realism_weights(features: Tensor, masks: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Weights of M composites by their likeness to real defects, our interpretation.

    The likeness is the cosine between the mean feature of the pasted cells and the prototype of
    its class. Within each class of the batch the weights are the softmax of likeness / TEMPERATURE,
    times the number of its composites: they average 1 in every class, since likenesses to different
    prototypes cannot be compared and the batch must stay balanced.

    Args:
        features: (M, D, h, w) of the encoder.
        masks: (M, H, W), the pasted defect above 0.
        labels: (M,), the defect's class 1..K.
        prototypes: (K, D), `region_features` of real images.

    Returns:
        (M,), positive, without gradient.

    Raises:
        ValueError: The first three have different lengths.
    """
    if not len(features) == len(masks) == len(labels):
        lengths = len(features), len(masks), len(labels)
        raise ValueError(f"features, masks and labels must be as many, got {lengths}")
    pasted = region_features(features.detach(), defective(masks))
    likeness = F.cosine_similarity(pasted, prototypes[labels - 1], dim=1)
    strength = torch.exp((likeness - 1) / TEMPERATURE)
    same = labels[:, None] == labels
    return strength * same.sum(dim=1) / (same * strength).sum(dim=1)


def region_features(features: Tensor, inside: Tensor) -> Tensor:
    """Sum of features (B, D, h, w) over the cells that a mask (B, H, W) touches: (B, D)."""
    return (features.float() * cells(inside, features)[:, None]).sum(dim=(2, 3))


def cells(marked: Tensor, features: Tensor) -> Tensor:
    """Cells of features (B, D, h, w) with any pixel that is marked (B, H, W): bool (B, h, w)."""
    return F.adaptive_max_pool2d(marked[:, None].float(), features.shape[2:])[:, 0] > 0


def image_weighted(weights: Tensor) -> losses.Loss:
    """Mean over images of weight × mean BCE; weights (B,)."""

    def loss(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if counted is None:
            return (weights * bce.mean(dim=(1, 2, 3))).mean()
        return losses.pixel_mean(weights[:, None, None, None] * bce, counted)

    return loss


def separation(features: np.ndarray, defect: np.ndarray, shown: int = 100) -> dict[str, Any]:
    """Measure how well features tell defects from normal ground, and project them to a plane.

    Args:
        features: (N, D).
        defect: (N,) bool.
        shown: Most points of each kind that are kept, evenly spaced rows.

    Returns:
        "auroc", of the angle to the mean direction of the normal features; "normal" and "defect",
        the first two principal components of the points that are shown, fitted to these. NaN and no
        points where there are features of one kind alone.
    """
    if defect.all() or not defect.any():
        return {"auroc": math.nan, "normal": [], "defect": []}
    roc_auc_score = require("sklearn.metrics", "study").roc_auc_score
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosine = directions @ directions[~defect].mean(axis=0)
    groups = []
    for rows in (~defect, defect):
        found = directions[rows]
        kept = np.linspace(0, len(found) - 1, min(shown, len(found))).astype(int)
        groups.append(found[kept])
    both = np.concatenate(groups)
    centre = both.mean(axis=0)
    axes = np.linalg.svd(both - centre, full_matrices=False)[2][:2]
    normal, marked = (
        ((group - centre) @ axes.T).astype(float).round(3).tolist() for group in groups
    )
    auroc = float(roc_auc_score(defect, -cosine))
    return {"auroc": round(auroc, 4), "normal": normal, "defect": marked}
