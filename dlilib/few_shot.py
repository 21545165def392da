"""What each part of the few-shot method does, read from the records of the study's few-shot runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dlilib.claims import class_iou, pair
from dlilib.stats import SHARE, Estimate, Pair, clustered_difference, estimate
from dlilib.store import Store
from dlilib.study import FEW_SHOT, experiment

EPOCH = "last"  # nothing is chosen on the validation images, which are all that is left
CLAIMED = ["crop-and-paste, weighted BCE, NBR"]  # the few-shot paper's method as a whole
# ways that have a part, and the same ways without it
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "crop-and-paste": (["crop-and-paste"], ["plain"]),
    "weighted BCE": (["crop-and-paste, weighted BCE", *CLAIMED], ["crop-and-paste", "crop-and-paste, NBR"]),
    "NBR": (
        ["crop-and-paste, NBR", *CLAIMED, "DLI, NBR"], ["crop-and-paste", "crop-and-paste, weighted BCE", "DLI"]
    ),
    "all three": (CLAIMED, ["plain"]),
    "DLI, less crop-and-paste": (["DLI", "DLI, NBR"], ["crop-and-paste", "crop-and-paste, NBR"]),
    "DLI, less all three": (["DLI"], CLAIMED),
}


def runs(
    preset: str, folder: str | Path, encoders: Sequence[str] = (), seeds: Sequence[int] = (),
    shots: Sequence[int] = (), data: str = "",
) -> pd.DataFrame:
    """A row for each planned few-shot run: encoder, shots, way (of `study.FEW_SHOT`), seed, run and record.

    record is None where the run is not finished; else there are its figures at the last epoch: iou, micro; class_iou,
    the mean over the classes; auroc, of telling defects from normal ground by the encoder's features. data: instead of
    the preset's.
    """
    store = Store(folder)
    columns = ["encoder", "shots", "way", "seed", "run", "iou", "class_iou", "auroc", "record"]
    rows = []
    for way in FEW_SHOT:
        for run in experiment("few_shot", preset, encoders, seeds, shots=shots, ways=[way], data=data):
            row = {"encoder": run.encoder, "shots": run.shots, "way": way, "seed": run.seed, "run": run}
            if record := store.record(run):
                means = float(np.mean(class_iou(record, EPOCH)))
                row |= {"iou": record[EPOCH]["iou"], "class_iou": means, "auroc": record["features"]["auroc"]}
            rows.append(row | {"record": record})
    return pd.DataFrame(rows, columns=columns).sort_values(["encoder", "shots"], kind="stable", ignore_index=True)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The figures of each encoder, number of shots and way of `runs`, a row each, over the seeds."""
    figures = {"micro IoU": "iou", "mean class IoU": "class_iou", "AUROC of features": "auroc"}
    by = ["encoder", "shots", "way"]
    rows = [
        (*key, *(str(estimate(group[name].dropna(), within=SHARE)) for name in figures.values()))
        for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, *figures])


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """What each of `PARTS` adds: a row for each encoder, number of shots and part of `runs`.

    Seeds are paired, and a part's ways taken together: their counts of pixels are summed for the micro IoU, whose
    interval is that of `stats.clustered_difference`; the other two gains are means over the ways, with Student's t over
    the seeds alone. Each says "helps", "hurts" or "undecided", as its interval leaves 0 out or not.
    """
    rows = []
    for (encoder, shots), group in frame.groupby(["encoder", "shots"], sort=False):
        by_seed = [found.set_index("way") for _, found in group.dropna(subset="record").groupby("seed")]
        for part, (ours, theirs) in PARTS.items():
            whole = [found for found in by_seed if {*ours, *theirs} <= set(found.index)]
            gain = clustered_difference([_pair(found["record"], ours, theirs) for found in whole])
            means = [estimate([_mean_gain(f[name], ours, theirs) for f in whole]) for name in ("class_iou", "auroc")]
            rows.append((encoder, shots, part, *map(_words, (gain, *means))))
    columns = ["encoder", "shots", "part", "gain in micro IoU", "gain in mean class IoU", "gain in AUROC"]
    return pd.DataFrame(rows, columns=columns)


def _pair(records: pd.Series, ours: Sequence[str], theirs: Sequence[str]) -> Pair:
    """All of ours against all of theirs, which differ in one part, on one seed's images."""
    pairs = [pair(records[a], records[b], EPOCH) for a, b in zip(ours, theirs, strict=True)]
    return Pair(*(np.concatenate([getattr(p, name) for p in pairs]) for name in ("ours", "theirs", "tiles")))


def _mean_gain(values: pd.Series, ours: Sequence[str], theirs: Sequence[str]) -> float:
    return values[ours].mean() - values[theirs].mean()


def _words(gain: Estimate) -> str:
    if gain.n == 0:
        return str(gain)
    return f"{gain}: " + ("helps" if gain.low > 0 else "hurts" if gain.high < 0 else "undecided")
