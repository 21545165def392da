"""The study's losses: Dice with BCE, its class-balancing competitors, and the few-shot paper's, as we read it.

Of the few-shot paper (Lin et al., ICME 2021, arXiv 2007.09438) only the abstract is to be had, so the forms of
`normal_background` and `realism_weights`, their layer (the encoder's stride 8), distance and constants are our choice.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlilib.tiles import TileSet

METHODS = ("baseline", "focal", "balanced", "wce", "dli")
VARIANTS = ("released", "published")
VARIED = ("focal", "balanced")  # the methods that the variant matters to
BETA = 0.9999  # of the class-balanced loss, as released
GAMMA = 2.0  # of the focal loss, as released
MARGIN = 0.5  # cosine: features of defects stay 60° or more from the normal prototype
TEMPERATURE = 0.1  # of the composites' weights, in cosine

Loss = Callable[[Tensor, Tensor], Tensor]


def criterion(method: str, tiles: TileSet, train: np.ndarray, variant: str = "released") -> Loss:
    """The training loss of a method: 0.5 · (BCE or its replacement) + 0.5 · Dice, on logits and targets (B, K, H, W).

    method: "baseline" and "dli" train with BCE. variant "released" or "published" matters to "focal" and "balanced";
    the weighted BCE is the same in both. Class frequencies are measured on the images `train`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
    first = F.binary_cross_entropy_with_logits
    if method == "wce":
        first = weighted_by(wce_weights(pixel_shares(tiles, train)))
    elif method == "focal":
        first = focal_released if variant == "released" else focal_published
    elif method == "balanced":
        # as released: the WCE weights stand where the numbers of samples belong, which inverts the balancing
        images = torch.from_numpy(np.bincount(tiles.labels[train], minlength=tiles.num_classes + 1)[1:]).double()
        samples = wce_weights(pixel_shares(tiles, train)) if variant == "released" else images
        if samples.min() == 0:
            raise ValueError(f"class {tiles.classes[samples.argmin()]} has no sample: no class-balanced weights")
        first = weighted_by(balanced_weights(samples))
    return with_dice(first)


def with_dice(first: Loss) -> Loss:
    """0.5 · first + 0.5 · Dice."""
    return lambda logits, target: 0.5 * first(logits, target) + 0.5 * dice(logits, target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss over the flattened batch: all classes and pixels at once, as released. 0 without defects."""
    from segmentation_models_pytorch.losses import DiceLoss

    return DiceLoss("binary", from_logits=True)(logits.reshape(1, 1, -1), target.reshape(1, 1, -1))


def class_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean BCE of each class map: (K,) from (B, K, H, W)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(0, 2, 3))


def weighted_by(weights: Tensor) -> Loss:
    """Sum over classes of weight × mean BCE; weights (K,) that sum to 1 keep the baseline's scale."""
    return lambda logits, target: (weights.to(logits) * class_bce(logits, target)).sum()


def focal_released(logits: Tensor, target: Tensor) -> Tensor:
    """Focal term on the mean BCE of a whole class map, summed over classes: all but vanishes (as released)."""
    bce = class_bce(logits, target)
    return (bce * (1 - torch.exp(-bce)) ** GAMMA).sum()


def focal_published(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017, eq. 4): every pixel modulated, then the mean; without alpha."""
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(logits, target, alpha=-1, gamma=GAMMA, reduction="mean")


def pixel_shares(tiles: TileSet, train: np.ndarray) -> Tensor:
    """Share of the defect pixels of the images `train` that each class holds: float64 (K,), sums to 1."""
    pixels = torch.bincount(tiles.masks[train].flatten().long(), minlength=tiles.num_classes + 1)[1:].double().cpu()
    if pixels.sum() == 0:
        raise ValueError(f"none of the {len(train)} training images has a defect pixel: no class weights")
    return pixels / pixels.sum()


def wce_weights(shares: Tensor) -> Tensor:
    """Weights of the weighted cross-entropy, (1 - share) / (K - 1) as released: (K,), sum to 1."""
    return (1 - shares) / (len(shares) - 1) if len(shares) > 1 else torch.ones_like(shares)


def balanced_weights(samples: Tensor) -> Tensor:
    """Class-balanced weights (Cui et al., CVPR 2019), (1 - β) / (1 - β^n) scaled to sum to 1: (K,) from counts (K,)."""
    weights = (1 - BETA) / (1 - BETA**samples)
    return weights / weights.sum()


def normal_background(features: Tensor, masks: Tensor) -> Tensor:
    """Normal background regularisation, our reading: normal features together, defects' apart from them; >= 0.

    features: (B, D, h, w) of the encoder; masks: (B, H, W), 0 background; a cell of the features is a defect's if any
    of its pixels is. The contrastive loss with a margin (Hadsell, Chopra, LeCun, CVPR 2006) in cosine distance, not
    between pairs but to the prototype (Snell, Swersky, Zemel, NeurIPS 2017), the mean direction of the batch's normal
    cells, which takes no gradient: mean of 1 - cos over normal cells + mean of max(0, cos - MARGIN) over defect cells.
    """
    if len(features) != len(masks):
        raise ValueError(f"features and masks must be as many, got {len(features)} and {len(masks)}")
    directions = F.normalize(features.float(), dim=1, eps=1e-6)
    defect = cells(masks, features)
    normal = ~defect
    prototype = F.normalize((directions * normal[:, None]).sum(dim=(0, 2, 3)).detach(), dim=0)
    cosine = (directions * prototype[:, None, None]).sum(dim=1)  # (B, h, w)
    together = ((1 - cosine) * normal).sum() / normal.sum().clamp(min=1)
    apart = ((cosine - MARGIN).clamp(min=0) * defect).sum() / defect.sum().clamp(min=1)
    return together + apart


def realism_weights(features: Tensor, masks: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Weights of M composites by their likeness to real defects, our reading: (M,), positive, no gradient.

    features: (M, D, h, w) of the encoder; masks: (M, H, W), the pasted defect above 0; labels: (M,), its class 1..K;
    prototypes: (K, D), `region_features` of real images. The likeness is the cosine of the pasted cells' mean feature
    and its class's prototype; within each class of the batch the weights are the softmax of likeness / TEMPERATURE,
    times the number of its composites: they average 1 in every class, since likenesses to different prototypes cannot
    be compared and the batch's balance is to stay.
    """
    if not len(features) == len(masks) == len(labels):
        lengths = len(features), len(masks), len(labels)
        raise ValueError(f"features, masks and labels must be as many, got {lengths}")
    pasted = region_features(features.detach(), masks > 0)
    likeness = F.cosine_similarity(pasted, prototypes[labels - 1], dim=1)
    strength = torch.exp((likeness - 1) / TEMPERATURE)
    same = labels[:, None] == labels
    return strength * same.sum(dim=1) / (same * strength).sum(dim=1)


def region_features(features: Tensor, inside: Tensor) -> Tensor:
    """Sum of the features (B, D, h, w) over the cells that a mask (B, H, W) touches, (B, D): a direction."""
    return (features.float() * cells(inside, features)[:, None]).sum(dim=(2, 3))


def cells(masks: Tensor, features: Tensor) -> Tensor:
    """Cells of features (B, D, h, w) with any pixel of masks (B, H, W) above 0: bool (B, h, w)."""
    return F.adaptive_max_pool2d((masks > 0)[:, None].float(), features.shape[2:])[:, 0] > 0


def image_weighted(weights: Tensor) -> Loss:
    """Mean over images of weight × mean BCE; weights (B,)."""
    return lambda logits, target: (
        weights * F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2, 3))
    ).mean()
