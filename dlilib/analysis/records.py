"""The records of finished runs as one table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlilib.extras import require
from dlilib.metrics import iou, iou_score
from dlilib.study import sweep
from dlilib.training.run import Run
from dlilib.training.store import read_record

if TYPE_CHECKING:
    import pandas as pd

# The classes of the images of the study's data sets, in the images' order; 0: defect-free.
ORDERS = {"magnetic_tiles": (1, 2, 3, 4, 0, 5), "toy": (0, 1, 2, 3, 4, 5)}
RESULTS = (
    "id",
    "iou_best",
    "iou_last",
    "epoch_best",
    "digest",
    "seconds",
    "device",
    "precision_used",
    "path",
)


def records(folder: str | Path) -> pd.DataFrame:
    """Read the records of a folder.

    Args:
        folder: That of the records, or the one above it.

    Returns:
        One row for each finished run: the fields of its Run; `iou_best`, at the epoch with the best
        validation IoU, as released, and at that epoch `iou_<class>`, of the class's own pixels in
        all images, and `image_iou_<class>`, of all pixels in the class's own images, which is how
        the authors measure their Figure 3 (NaN for other data than theirs and the toy tiles, since
        records do not name the classes of single images); `iou_last`, `epoch_best`,
        `digest` (of the data), `seconds`, `device`, `precision_used` and `path`. An IoU is NaN
        where the validation images have no pixel to find, of the class or at all.

    Raises:
        MissingExtraError: pandas is not installed.
        ValueError: A file is not a record, or two records of data sets of one name are of
            different data; the message names the file.

    Example:
        >>> frame = records("results/lite")
        >>> frame[["method", "split", "seed", "epochs", "iou_best"]]
    """
    pd = require("pandas", "study")
    folder = Path(folder, "records") if Path(folder, "records").is_dir() else Path(folder)
    rows = [_row(path) for path in sorted(folder.glob("*.json"))]
    if not rows:
        return pd.DataFrame(columns=[*asdict(Run()), *RESULTS])
    first_of: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        first = first_of.setdefault(tuple(row[name] for name in sweep.SAME_DATA), row)
        if row["digest"] != first["digest"]:
            raise ValueError(
                f"{row['path']}: of other data than {first['path']}, though of one name; keep them "
                "apart"
            )
    return pd.DataFrame(rows)


def class_history(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of each class at the epochs of which a record keeps them.

    Returns:
        Epochs (E,), from 1, ending with the last one, which is alone in records of versions that
        kept no others; and TP, FP and FN (E, K, 3) of all validation images.
    """
    epochs, last = record["run"]["epochs"], np.array(record["last"]["classes"])
    kept = record["history"].get("classes", [])
    every = math.ceil(epochs / max(1, len(kept)))
    counts = np.array([*kept, last[:, :2]])
    missed = (last[:, 0] + last[:, 2]) - counts[..., 0]
    numbers = [*range(1, epochs + 1, every)[: len(kept)], epochs]
    return np.array(numbers), np.concatenate([counts, missed[..., None]], axis=-1)


def load_or_train(
    runs: Sequence[Run], folder: str | Path, root: str | Path | None = None, *, compute: bool = True
) -> pd.DataFrame:
    """Train the runs that have no record yet, and read the records of all of them.

    Args:
        runs: In the order of the rows.
        folder: Of a preset's results.
        root: Folder or zip of the data; None or empty: DLILIB_DATA, else a download.
        compute: False trains nothing: runs without a record have no row.

    Returns:
        As `records`, of these runs.

    Example:
        >>> runs = experiments.experiment("comparison", "smoke")
        >>> frame = load_or_train(runs, "results/smoke")
    """
    if compute:
        sweep.execute(list(runs), Path(folder), root or None)
    return select(records(Path(folder, "records")), runs)


def _row(path: Path) -> dict[str, Any]:
    record = read_record(path)
    try:
        _check_unchanged(record)
        machine = record["machine"]
        device = machine["device"]
        used = machine.get("precision", record["run"].get("precision", "fp32"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: a record that was changed ({error}); delete it to run it again"
        ) from None
    best = record["best"]
    by_class = zip(record["data"]["classes"], best["classes"], strict=True)
    return {
        **asdict(Run(**record["run"])),
        "id": record["id"],
        "iou_best": iou_score(*_summed(best)),
        "iou_last": iou_score(*_summed(record["last"])),
        "epoch_best": best["epoch"],
        **{f"iou_{name}": iou_score(*counts) for name, counts in by_class},
        **_of_images(record),
        "digest": record["data"].get("digest"),
        "seconds": record["seconds"],
        "device": device,
        "precision_used": used,
        "path": path.as_posix(),
    }


def _of_images(record: dict[str, Any]) -> dict[str, float]:
    """The columns of `iou_of_images` at the best epoch."""
    names = record["data"]["classes"]
    found = iou_of_images(record, "best")
    return dict(zip((f"image_iou_{name}" for name in names), found, strict=True))


def iou_of_images(record: dict[str, Any], epoch: str) -> np.ndarray:
    """IoU over all pixels of the images of each class, (K,), as the authors measure it.

    NaN where a class has no pixel to find; all NaN if the record does not tell which class an image
    is of.
    """
    count, labels = len(record["data"]["classes"]), _labels_of_images(record)
    if labels is None:
        return np.full(count, math.nan)
    images = np.array(record[epoch]["images"])
    by_class = [images[labels == k].sum(axis=0).tolist() for k in range(1, count + 1)]
    return np.array([iou_score(*counts) for counts in by_class])


def _labels_of_images(record: dict[str, Any]) -> np.ndarray | None:
    """The class of each validation image (V,); None where the record does not tell.

    It holds how many images of each class validate, in the order of the data set.
    """
    order, counts = ORDERS.get(record["run"]["data"], ()), record["data"].get("val", ())
    if not order or len(order) != len(counts) or sum(counts) != len(record["val_images"]):
        return None
    return np.repeat(order, [counts[k] for k in order])


def _summed(moment: dict[str, Any]) -> list[int]:
    """TP, FP and FN of an epoch, over all classes."""
    return [sum(column) for column in zip(*moment["classes"], strict=True)]


def _check_unchanged(record: dict[str, Any]) -> None:
    """Raise ValueError unless the record's figures fit each other."""
    for moment in (record["best"], record["last"]):
        tp, fp, fn = _summed(moment)
        # where there is nothing to find, earlier versions kept the 0 of the formula
        counted = {f"{form(tp, fp, fn):.6f}" for form in (iou, iou_score)}
        if f"{moment['iou']:.6f}" not in counted:
            raise ValueError(f"its IoU {moment['iou']} is not that of its counts")
    epoch, seconds = record["best"]["epoch"], record["seconds"]
    if not (1 <= epoch <= Run(**record["run"]).epochs and seconds >= 0):
        raise ValueError(f"epoch {epoch}, {seconds} seconds")


def select(frame: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """Return the rows of `runs`, in their order."""
    order = {run.id: k for k, run in enumerate(runs)}
    found = frame[frame["id"].isin(list(order))]
    return found.sort_values("id", key=lambda ids: ids.map(order)).reset_index(drop=True)
