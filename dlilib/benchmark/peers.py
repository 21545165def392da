"""Baselines: others' code for the same jobs, to be timed beside ours.

All of it but OpenCV is optional.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dlilib.data.files import open_files
from dlilib.data.magnetic import magnetic_root


def installed(module: str) -> bool:
    """Tell whether the baseline that this module holds can be imported."""
    return importlib.util.find_spec(module) is not None


def opencv(target: Tensor, donor: Tensor, mask: Tensor) -> None:
    """Blend each pair by OpenCV's mixed clone.

    Args:
        target: (B, 1, H, W), grey levels 0..255, on the CPU.
        donor: As the target.
        mask: (H, W) bool, for all pairs.
    """
    marks = mask.byte().mul(255).numpy()
    rows = mask.any(dim=1).nonzero()[:, 0]
    columns = mask.any(dim=0).nonzero()[:, 0]
    # OpenCV puts the middle of the mask's bounding box here.
    centre = (int(columns[0] + columns[-1] + 1) // 2, int(rows[0] + rows[-1] + 1) // 2)
    for background, pasted in zip(target, donor, strict=True):
        cv2.seamlessClone(
            _three_channels(pasted),
            _three_channels(background),
            marks.copy(),
            centre,
            cv2.MIXED_CLONE,
        )


def _three_channels(image: Tensor) -> np.ndarray:
    """A grey image (1, H, W) as OpenCV takes it: uint8 (H, W, 3)."""
    return np.repeat(image[0].byte().numpy()[:, :, None], 3, axis=2)


def pie_torch(target: Tensor, donor: Tensor, mask: Tensor) -> None:
    """Blend each pair by pie-torch's `blend`, with mixed gradients.

    It prepares its solver anew for each pair, on the CPU.

    Args:
        target: (B, C, H, W).
        donor: As the target.
        mask: (H, W) bool, for all pairs.
    """
    from pietorch import blend

    for background, pasted in zip(target, donor, strict=True):
        blend(background, pasted, mask.float(), torch.tensor((0, 0)), True, channels_dim=0)


def check_released(src: str, root: str | Path | None) -> Path:
    """Check that `released` can work.

    Args:
        src: As in `released`.
        root: As in `released`.

    Returns:
        The root of the Magnetic Tiles.

    Raises:
        ValueError: `src` is not the authors' folder, or no root is named.
    """
    if not Path(src, "core", "label_fusion.py").is_file():
        raise ValueError(
            f"{src}: not the folder src of the authors' code (no core/label_fusion.py)"
        )
    if not root and not os.environ.get("DLILIB_DATA"):
        raise ValueError(
            "the authors' code reads its donors from files: name the root of the Magnetic Tiles"
        )
    return magnetic_root(root or None)


@contextmanager
def released(src: str, root: str | Path | None) -> Iterator[Callable]:
    """Import the authors' balancing, with all defective images of the data set as donors.

    Args:
        src: The folder `src` of a checkout of covisionlab/dynamic-label-injection.
        root: The Magnetic Tiles, a folder or zip; None: the environment's DLILIB_DATA.

    Yields:
        A function of images, masks, labels (-1 for a defect-free image) and the probability of
        Poisson blending.

    Raises:
        ValueError: As in `check_released`.
    """
    root = check_released(src, root)
    sys.path.insert(0, str(src))
    try:
        from core.label_fusion import balanced_label_fusion
        from dsets.MT_dset import MT_DSET_MAP, DefectPool
    finally:
        sys.path.remove(str(src))
    classes = list(MT_DSET_MAP.values())
    with tempfile.TemporaryDirectory() as folder:
        frame = _unpacked(root, Path(folder), MT_DSET_MAP)
        pool = DefectPool(frame[frame["defect_id"] >= 0], None, 1.0)

        def balance(images: Tensor, masks: Tensor, labels: Tensor, p_poisson: float) -> object:
            return balanced_label_fusion(images, masks, labels, pool, classes, p_poisson)

        yield balance


def _unpacked(root: Path, folder: Path, label_of: dict[str, int]) -> pd.DataFrame:
    """Copy images and masks into `folder`; a row for each image, as the authors' code takes them.

    label_of: name of a class's folder -> label.
    """
    rows = []
    for name, read in open_files(root).items():
        kind = Path(name).parent.parent.name
        if kind not in label_of:
            continue
        path = folder / Path(name).name
        path.write_bytes(read())
        if path.suffix == ".jpg":
            rows.append((str(path), str(path.with_suffix(".png")), label_of[kind]))
    return pd.DataFrame(rows, columns=["img_fpath", "mask_fpath", "defect_id"])
