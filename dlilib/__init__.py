"""Dynamic Label Injection for imbalanced defect segmentation: the drop-in transform and the study around it."""

from dlilib import models
from dlilib.balance import plan_classes
from dlilib.files import DataError
from dlilib.inject import DynamicLabelInjection
from dlilib.magnetic import magnetic_tiles
from dlilib.mvtec import mvtec_ad
from dlilib.poisson import cut_paste, poisson_blend
from dlilib.run import Run
from dlilib.splits import split
from dlilib.study import records
from dlilib.tiles import TileSet, from_folder
from dlilib.toy import toy_tiles
from dlilib.train import fit
from dlilib.version import __version__

__all__ = [
    "DataError",
    "DynamicLabelInjection",
    "Run",
    "TileSet",
    "__version__",
    "cut_paste",
    "fit",
    "from_folder",
    "magnetic_tiles",
    "models",
    "mvtec_ad",
    "plan_classes",
    "poisson_blend",
    "records",
    "split",
    "toy_tiles",
]
