"""Others' code for the same jobs, to be timed beside ours; all of it is optional but OpenCV."""

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


def installed(module: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(module) is not None


def opencv(target: Tensor, donor: Tensor, mask: Tensor) -> None:
    """OpenCV's mixed clone of each grey pair (B, 1, H, W) of 0..255; mask (H, W) bool."""
    marks = mask.byte().mul(255).numpy()
    y, x = (k.nonzero()[:, 0] for k in (mask.any(dim=1), mask.any(dim=0)))
    centre = (int(x[0] + x[-1] + 1) // 2, int(y[0] + y[-1] + 1) // 2)
    for a, b in zip(target, donor, strict=True):
        images = [np.repeat(k[0].byte().numpy()[:, :, None], 3, axis=2) for k in (b, a)]
        cv2.seamlessClone(*images, marks.copy(), centre, cv2.MIXED_CLONE)


def pie_torch(target: Tensor, donor: Tensor, mask: Tensor) -> None:
    """pie-torch's mixed blend of each pair (B, C, H, W); mask (H, W) bool."""
    from pietorch import blend

    for a, b in zip(target, donor, strict=True):
        blend(a, b, mask.float(), torch.tensor((0, 0)), True, channels_dim=0)


def check_released(src: str, root: str | Path | None) -> Path:
    """The data's root, by default DLILIB_DATA; ValueError where `released` could not work."""
    if not Path(src, "core", "label_fusion.py").is_file():
        raise ValueError(
            f"{src}: not the folder src of the authors' code (no core/label_fusion.py)"
        )
    if not (root := root or os.environ.get("DLILIB_DATA")):
        raise ValueError(
            "the authors' code reads its donors from files: name the root of the Magnetic Tiles"
        )
    return Path(root)


@contextmanager
def released(src: str, root: str | Path | None) -> Iterator[Callable]:
    """The released balancing as a function of images, masks, labels (free: -1) and p, with its pool of donors."""
    root = check_released(src, root)
    sys.path.insert(0, str(src))
    try:
        from core.label_fusion import balanced_label_fusion
        from dsets.MT_dset import MT_DSET_MAP, DefectPool
    finally:
        sys.path.remove(str(src))
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, read in open_files(root).items():
            kind, path = Path(name).parent.parent.name, Path(folder, Path(name).name)
            if kind in MT_DSET_MAP:
                path.write_bytes(read())
            if kind in MT_DSET_MAP and path.suffix == ".jpg":
                rows.append((str(path), str(path.with_suffix(".png")), MT_DSET_MAP[kind]))
        frame = pd.DataFrame(rows, columns=["img_fpath", "mask_fpath", "defect_id"])
        pool = DefectPool(frame[frame["defect_id"] >= 0], None, 1.0)
        yield lambda x, m, d, p: balanced_label_fusion(x, m, d, pool, list(MT_DSET_MAP.values()), p)
