"""Dynamic Label Injection for imbalanced defect segmentation.

The drop-in transform, and the study around it.

Each public name is loaded when it is first used (PEP 562), so that the transform does not wait
for the study.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dlilib.version import __version__

if TYPE_CHECKING:  # for editors, which do not follow `__getattr__`
    from dlilib import augment as augment
    from dlilib import export as export
    from dlilib import losses as losses
    from dlilib import metrics as metrics
    from dlilib import models as models
    from dlilib.analysis.records import records as records
    from dlilib.augment import Warp as Warp
    from dlilib.balance import Plan as Plan
    from dlilib.balance import plan_classes as plan_classes
    from dlilib.blend import cut_paste as cut_paste
    from dlilib.blend import poisson_blend as poisson_blend
    from dlilib.data.files import DataError as DataError
    from dlilib.data.folder import from_folder as from_folder
    from dlilib.data.magnetic import magnetic_tiles as magnetic_tiles
    from dlilib.data.mvtec import mvtec_ad as mvtec_ad
    from dlilib.data.splits import split as split
    from dlilib.data.toy import toy_tiles as toy_tiles
    from dlilib.donors import Donors as Donors
    from dlilib.inject import DynamicLabelInjection as DynamicLabelInjection
    from dlilib.inject import collate as collate
    from dlilib.tiles import IGNORE as IGNORE
    from dlilib.tiles import TileSet as TileSet
    from dlilib.training.run import Run as Run
    from dlilib.training.trainer import fit as fit

_HOME = {  # public name -> the module that defines it; None: the name is a module itself
    "DataError": "data.files",
    "Donors": "donors",
    "DynamicLabelInjection": "inject",
    "IGNORE": "tiles",
    "Plan": "balance",
    "Run": "training.run",
    "TileSet": "tiles",
    "Warp": "augment",
    "augment": None,
    "collate": "inject",
    "cut_paste": "blend",
    "export": None,
    "fit": "training.trainer",
    "from_folder": "data.folder",
    "losses": None,
    "magnetic_tiles": "data.magnetic",
    "metrics": None,
    "models": None,
    "mvtec_ad": "data.mvtec",
    "plan_classes": "balance",
    "poisson_blend": "blend",
    "records": "analysis.records",
    "split": "data.splits",
    "toy_tiles": "data.toy",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    if home is None:
        value = import_module(f"{__name__}.{name}")
    else:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
