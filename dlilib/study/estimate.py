"""How long a pending run will take, by the finished ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dlilib.training.run import Run

if TYPE_CHECKING:
    import pandas as pd


def estimate_seconds(
    run: Run, frame: pd.DataFrame, device: str, precision: str
) -> tuple[float, str] | None:
    """Estimate what a run will take.

    Time is taken to grow with epochs, pixels and training images, so only runs on the same data
    tell. Runs of the same encoder are preferred to others, and this number of threads to another
    one. Where no run of this kind of device in this precision is finished, the time is that of
    another device, which is named: no promise about this one.

    Args:
        run: The pending run.
        frame: The finished runs, as `dlilib.records` gives them.
        device: As records name it, such as "CPU x86_64 AVX2, 2 threads".
        precision: What the run will be computed in there, as `precision.resolve` gives it.

    Returns:
        Seconds, and by which runs they are estimated; None where no run tells.
    """
    frame = frame[frame["data"] == run.data]
    kinds = frame["device"].map(_kind)
    same = (kinds == _kind(device)) & (frame["precision_used"] == precision)
    bases = (
        (same & (frame["device"] == device), ""),
        (same, ""),
        (kinds != _kind(device), "; none is finished on this kind of machine"),
    )
    for rows, warning in bases:
        alike = rows & (frame["encoder"] == run.encoder)
        found = frame[alike if alike.any() else rows]
        if len(found):
            name = found["device"].mode()[0]
            found = found[found["device"] == name]  # one device's runs, not a mixture
            what = "runs like it" if alike.any() else "other encoders' runs"
            basis = f"{what} on {name}, {found['precision_used'].mode()[0]}{warning}"
            rates = found["seconds"] / _work(found)
            # the median: a run that was paused counts its pause
            return float(rates.median() * _work(asdict(run))), basis
    return None


def _kind(device: str) -> str:
    """A device without its number of threads."""
    return device.partition(",")[0]


def _work(fields: Mapping[str, Any]) -> Any:
    """What the time of a run, or of each row of a frame, grows with."""
    images = fields["fraction"] * (1 + 3 * fields["free_share"])  # three of four are defect-free
    return fields["epochs"] * fields["size"] ** 2 * images
