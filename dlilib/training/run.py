"""A run is a value: everything that changes its result, and nothing else."""

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import Any

from dlilib.balance import TIES, UNTIL
from dlilib.blend import GUIDANCES, REGIONS
from dlilib.checks import check_type
from dlilib.composite import LABELS
from dlilib.data.splits import PROTOCOLS
from dlilib.losses import METHODS, VARIANTS
from dlilib.models import DECODER_CONVS, ENCODERS
from dlilib.tiles import RESIZES, TileSet
from dlilib.training.precision import PRECISIONS

# Field -> the values that it can have.
CHOICES = {
    "resize": (*RESIZES, "pad"),
    "split": PROTOCOLS,
    "method": tuple(METHODS),
    "losses": VARIANTS,
    "until": UNTIL,
    "ties": TIES,
    "region": tuple(REGIONS),
    "guidance": tuple(GUIDANCES),
    "label": LABELS,
    "encoder": tuple(ENCODERS),
    "weights": (None, "imagenet"),
    "precision": PRECISIONS,
    "decoder_convs": DECODER_CONVS,
}


def facts_of(tiles: TileSet) -> dict[str, str | int]:
    """Return the fields of a run that its tiles fix."""
    return {
        "data": tiles.source,
        "size": tiles.images.shape[-1],  # the width, where tiles keep their own size
        "threshold": tiles.threshold,
        "resize": tiles.resize,
    }


@dataclass(frozen=True)
class Run:
    """One training run; the defaults are the paper's protocol as released, but for the decoder.

    Two runs with the same values are the same run and have the same id.

    Raises:
        ValueError: A value is of the wrong type or out of range, or does not fit another one; the
            message names the field.

    Example:
        >>> run = Run(method="wce", encoder="mobileone_s1", epochs=100, seed=3)
        >>> run.changed
        {'method': 'wce', 'encoder': 'mobileone_s1', 'epochs': 100, 'seed': 3}
    """

    data: str = "magnetic_tiles"  #: the TileSet's source
    size: int = 256  #: side of the square images, pixels
    resize: str = "nearest"  #: how the images came to their size
    threshold: int = 0  #: mask values above it are defect, 0..254
    split: str = "image"  #: "image", "tile" or "given"
    fraction: float = 1.0  #: of the training data that is kept
    free_in_val: bool = False  #: defect-free images validate too
    free_share: float = 1.0  #: of the defect-free training images that an epoch draws anew
    method: str = "dli"  #: "baseline", "focal", "balanced", "wce" or "dli"
    losses: str = "released"  #: the competitors' losses as "released" or as "published"
    p_poisson: float = 0.5  #: of DLI, probability of Poisson blending, else cut-paste
    until: str = "filled"  #: of DLI, fill every defect-free image, or stop once "uniform"
    region: str = "rectangle"  #: of DLI, where Poisson blending solves, "rectangle" or "mask"
    guidance: str = "mixed"  #: of DLI, Poisson blending's gradients, "mixed" or "donor"
    label: str = "dilated"  #: of DLI, a Poisson composite's label, "dilated" or "tight"
    encoder: str = "resnet18"  #: a key of `models.ENCODERS`
    weights: str | None = "imagenet"  #: the encoder's initial weights, random where None
    epochs: int = 1000  #: passes over the training images
    batch: int = 64  #: images
    lr: float = 5e-4  #: of AdamW without weight decay; cosine to 0 over the epochs
    seed: int = 0  #: of the split, the model and every draw
    precision: str = "fp32"  #: or "bf16" (autocast), or "auto", bf16 where the hardware has units
    shots: int = 0  #: annotated images a class that train; with 0 as the split says
    nbr: float = 0.0  #: weight of the normal background regularisation (our interpretation)
    #: of DLI, weigh composites by their likeness to real defects (our interpretation)
    similarity: bool = False
    ties: str = "lowest"  #: of DLI, which of several rarest classes, "lowest" or "random"
    decoder_convs: int = 2  #: convolutions in each block of the decoder; the authors' has 4

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, type(field.default))
        if not re.fullmatch(r"[\w-]+", self.data):
            raise ValueError(
                f"Run.data must be a name of letters, digits, _ and -, got {self.data!r}"
            )
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"Run.{name} must be one of {choices}, got {value!r}")
        self._check_ranges()
        if self.shots and (self.split, self.fraction) != ("tile", 1):
            raise ValueError(f'Run.shots = {self.shots} needs split "tile" and fraction 1')
        if self.similarity and not METHODS[self.method].injects:
            raise ValueError(
                f'Run.similarity weighs composites: it needs method "dli", not {self.method!r}'
            )

    def _check_type(self, name: str, kind: type) -> None:
        value = getattr(self, name)
        if kind is float and type(value) is int:
            object.__setattr__(self, name, float(value))  # 1 and 1.0 are one run
        elif type(value) is not kind and name != "weights":
            raise ValueError(f"Run.{name} must be of type {kind.__name__}, got {value!r}")

    def _check_ranges(self) -> None:
        stride = ENCODERS[self.encoder].stride
        good = {
            "fraction": 0 < self.fraction <= 1,
            "free_share": 0 <= self.free_share <= 1,
            "p_poisson": 0 <= self.p_poisson <= 1,
            "threshold": 0 <= self.threshold <= 254,
            "epochs": self.epochs >= 1,
            "batch": self.batch >= 2,  # batch norm needs two
            "size": self.size >= 8 and self.size % stride == 0,
            "lr": 0 < self.lr < 1,
            "seed": 0 <= self.seed < 2**32,
            "shots": self.shots >= 0,
            "nbr": 0 <= self.nbr < float("inf"),
        }
        for name, in_range in good.items():
            if not in_range:
                need = f", it must be divisible by {stride}" if name == "size" else ""
                raise ValueError(f"Run.{name} is out of range: {getattr(self, name)}{need}")

    @classmethod
    def for_tiles(cls, tiles: TileSet, **changes: Any) -> "Run":
        """Make a run that fits a data set.

        It takes data, size, threshold and resize of the tiles.

        Args:
            tiles: The data set.
            **changes: Other fields.

        Raises:
            ValueError: As for Run.

        Example:
            >>> Run.for_tiles(toy_tiles(size=64), epochs=3).changed
            {'data': 'toy', 'size': 64, 'epochs': 3}
        """
        check_type("tiles", tiles, TileSet)
        return cls(**{**facts_of(tiles), **changes})

    @property
    def changed(self) -> dict[str, str | int | float | bool | None]:
        """The fields that differ from the defaults."""
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                changed[field.name] = value
        return changed

    @property
    def id(self) -> str:
        """The name of the run's files, a readable prefix and a hash over `changed`."""
        # A field that is added later leaves the ids as they are, and a default must never change.
        text = json.dumps(self.changed, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.data}-{self.encoder}-{self.method}-{self.split}-seed{self.seed}-{digest}"
