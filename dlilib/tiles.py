"""Images, masks, labels and tile ids as one value, and the loaders that check what they read."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TileSet:
    """N images of one size with their masks, as uint8 tensors on one device; the rest stays on the CPU."""

    images: Tensor  # uint8 (N, C, H, W); C = 1 for grey data
    masks: Tensor  # uint8 (N, H, W); 0 background, 1..K the defect classes
    labels: Tensor  # int64 (N,); 0 free, else the image's defect class
    tile: Tensor  # int64 (N,); images of one physical tile share an id
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
        """The same tiles with images and masks on `device`."""
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    def counts(self) -> dict[str, int]:
        """Images per class: the defect classes in order, then Free."""
        n = np.bincount(self.labels, minlength=self.num_classes + 1).tolist()
        return {**dict(zip(self.classes, n[1:], strict=True)), "Free": n[0]}
