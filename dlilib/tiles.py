"""A data set as one value: images, masks, labels and parts."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TileSet:
    """N images of one size with their masks, labels and parts.

    Images and masks are on one device; the rest stays on the CPU.

    Example:
        >>> tiles = TileSet(
        ...     images=torch.zeros(3, 1, 64, 64, dtype=torch.uint8),
        ...     masks=torch.zeros(3, 64, 64, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 0, 1]),
        ...     tile=torch.tensor([0, 0, 1]),
        ...     names=("a", "b", "c"),
        ...     classes=("dent",),
        ... )
        >>> tiles.counts()
        {'dent': 1, 'Free': 2}
    """

    images: Tensor  # uint8 (N, C, H, W); C = 1 for grey data
    masks: Tensor  # uint8 (N, H, W); 0 background, 1..K the defect classes
    labels: Tensor  # int64 (N,); 0 defect-free, else the image's defect class
    tile: Tensor  # int64 (N,); images of one physical part share an id
    names: tuple[str, ...]  # (N,)
    classes: tuple[str, ...]  # (K,) names of the classes 1..K
    source: str = "unnamed"  # the data set's name
    digest: str = ""  # sha256 of the source files, so that a record says what it was trained on
    sizes: Tensor | None = None  # int64 (N, 2); height and width before resizing, pixels
    exposure: Tensor | None = None  # int64 (N,); number of the exposure, where known
    threshold: int = 0  # mask values above it are defect, where masks were thresholded
    resize: str = "nearest"  # how the images came to their size; "pad": they kept it

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """K, the number of defect classes."""
        return len(self.classes)

    def to(self, device: str | torch.device) -> "TileSet":
        """Return the same data set with images and masks on `device`."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    def counts(self) -> dict[str, int]:
        """Count the images of each class in order, then the defect-free ones as "Free"."""
        images = np.bincount(self.labels, minlength=self.num_classes + 1).tolist()
        return {**dict(zip(self.classes, images[1:], strict=True)), "Free": images[0]}
