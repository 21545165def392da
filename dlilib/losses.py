"""The study's methods: each trains with 0.5 · (BCE or its replacement) + 0.5 · Dice."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlilib.checks import check_option, check_rows
from dlilib.tiles import IGNORE, TileSet

VARIANTS = ("released", "published")
BETA = 0.9999  # of the class-balanced loss, as released
GAMMA = 2.0  # of the focal loss, as released

# From logits and targets (B, K, H, W), and which pixels count (B, H, W), to a scalar. The last is
# optional: without it every pixel counts.
Loss = Callable[..., Tensor]


def pixel_mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of values (B, K, H, W) over the pixels that count (B, H, W); None: over all."""
    if counted is None:
        return values.mean()
    return (values * counted[:, None]).sum() / (counted.sum() * values.shape[1]).clamp(min=1)


def bce(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean BCE over classes and pixels."""
    if counted is None:
        return F.binary_cross_entropy_with_logits(logits, target)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return pixel_mean(each, counted)


def class_bce(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean BCE of each class map: (K,) from logits and targets (B, K, H, W)."""
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if counted is None:
        return each.mean(dim=(0, 2, 3))
    return (each * counted[:, None]).sum(dim=(0, 2, 3)) / counted.sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class WeightedBCE:
    """Sum over classes of weight × mean BCE."""

    weights: Tensor  #: (K,), of sum 1, which keeps the baseline's scale

    def __call__(self, logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
        weights = self.weights.to(logits, non_blocking=True)
        return (weights * class_bce(logits, target, counted)).sum()


def focal_released(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Focal term on the mean BCE of a whole class map, summed over classes (as released).

    It is close to zero whenever most of the map is right.
    """
    each = class_bce(logits, target, counted)
    return (each * (1 - torch.exp(-each)) ** GAMMA).sum()


def focal_published(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017, eq. 4): each pixel modulated, then the mean; no alpha."""
    from torchvision.ops import sigmoid_focal_loss

    reduction = "mean" if counted is None else "none"
    each = sigmoid_focal_loss(logits, target, alpha=-1, gamma=GAMMA, reduction=reduction)
    return each if counted is None else pixel_mean(each, counted)


def pixel_shares(tiles: TileSet, train: np.ndarray) -> Tensor:
    """Share of the defect pixels of the images `train` in each class: float64 (K,), sums to 1."""
    counts = torch.bincount(tiles.masks[train].flatten().long(), minlength=tiles.num_classes + 1)
    pixels = counts[1 : tiles.num_classes + 1].double().cpu()  # without what is ignored
    if pixels.sum() == 0:
        raise ValueError(
            f"none of the {len(train)} training images has a defect pixel: no class weights"
        )
    return pixels / pixels.sum()


def wce_weights(shares: Tensor) -> Tensor:
    """Weights of the weighted cross-entropy, (1 - share) / (K - 1) as released: (K,), sum to 1."""
    return (1 - shares) / (len(shares) - 1) if len(shares) > 1 else torch.ones_like(shares)


def balanced_weights(samples: Tensor) -> Tensor:
    """Class-balanced weights (Cui et al., CVPR 2019) from counts (K,): (K,), sum to 1.

    (1 - β) / (1 - β^n), scaled.
    """
    weights = (1 - BETA) / (1 - BETA**samples)
    return weights / weights.sum()


def dice(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Dice loss over the flattened batch: all classes and pixels at once, as released.

    0 without defects, where the released one is near 1 with next to no gradient.
    """
    from segmentation_models_pytorch.losses import DiceLoss

    if counted is not None:
        target = torch.where(counted[:, None], target, IGNORE)
    measure = DiceLoss("binary", from_logits=True, ignore_index=None if counted is None else IGNORE)
    return measure(logits.reshape(1, 1, -1), target.reshape(1, 1, -1))


@dataclass(frozen=True, eq=False)
class WithDice:
    """0.5 · first + 0.5 · Dice, in float32 where the logits have fewer bits."""

    first: Loss

    def __call__(self, logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
        _check_shapes(logits, target, counted)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # sums over all pixels would overflow
        target = target.to(logits.dtype)
        return 0.5 * self.first(logits, target, counted) + 0.5 * dice(logits, target, counted)


def _check_shapes(logits: Tensor, target: Tensor, counted: Tensor | None) -> None:
    wanted = {"target": logits.shape, "counted": (len(logits), *logits.shape[2:])}
    for name, value in {"target": target, "counted": counted}.items():
        if value is not None and value.shape != wanted[name]:
            raise ValueError(
                f"{name} must be {tuple(wanted[name])} as the logits {tuple(logits.shape)}, "
                f"got {tuple(value.shape)}"
            )


def _bce(tiles: TileSet, train: np.ndarray, variant: str) -> Loss:
    return bce


def _focal(tiles: TileSet, train: np.ndarray, variant: str) -> Loss:
    return focal_released if variant == "released" else focal_published


def _balanced(tiles: TileSet, train: np.ndarray, variant: str) -> Loss:
    if variant == "released":
        # as released: the WCE weights stand where the numbers of samples belong, which inverts
        # the balancing
        samples = wce_weights(pixel_shares(tiles, train))
    else:
        counts = np.bincount(tiles.labels[train], minlength=tiles.num_classes + 1)
        samples = torch.from_numpy(counts[1:]).double()
    if samples.min() == 0:
        name = tiles.classes[samples.argmin()]
        raise ValueError(f"class {name} has no sample: no class-balanced weights")
    return WeightedBCE(balanced_weights(samples))


def _wce(tiles: TileSet, train: np.ndarray, variant: str) -> Loss:
    return WeightedBCE(wce_weights(pixel_shares(tiles, train)))


@dataclass(frozen=True)
class Method:
    """All facts about one method; the paper's numbers for it, if any, are in analysis/paper.csv."""

    loss: Callable[[TileSet, np.ndarray, str], Loss]  #: of tiles, training images and variant
    varies: bool = False  #: whether the loss as published differs from the one as released
    injects: bool = False  #: whether defects are injected into the batches


METHODS = {  # in the order of the paper's tables, and of the figures' colours
    "baseline": Method(_bce),
    "focal": Method(_focal, varies=True),
    "balanced": Method(_balanced, varies=True),
    "wce": Method(_wce),
    "dli": Method(_bce, injects=True),
}


def criterion(method: str, tiles: TileSet, train: np.ndarray, *, variant: str = "released") -> Loss:
    """Return a method's training loss.

    loss(logits, target, counted=None) takes logits and targets (B, K, H, W), as `metrics.one_hot`
    gives these, and, where some pixels are ignored, which of them count: bool (B, H, W). It is
    computed in float32 at least, can be pickled, and raises ValueError for other shapes.

    Args:
        method: A key of `METHODS`.
        tiles: The data set.
        train: Indices of the training images, on which class frequencies are measured.
        variant: "released" or "published"; it matters where `Method.varies`.

    Raises:
        ValueError: The method or variant is unknown, `train` is no row of indices, or a class has
            no sample to weigh it by.
    """
    check_option("method", method, tuple(METHODS))
    check_option("variant", variant, VARIANTS)
    rows = check_rows("train", train, len(tiles)).numpy()
    return WithDice(METHODS[method].loss(tiles, rows, variant))
