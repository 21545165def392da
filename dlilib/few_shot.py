"""What each part of the few-shot method does, read from the records of the study's few-shot runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dlilib.claims import class_iou, pair
from dlilib.stats import SHARE, Estimate, clustered_difference, estimate
from dlilib.store import Store
from dlilib.study import FEW_SHOT, experiment

EPOCH = "last"  # nothing is chosen on the validation images, which are all that is left
# what a way is compared with
OVER = {
    "crop-and-paste": "plain",
    "crop-and-paste, weighted BCE": "crop-and-paste",
    "crop-and-paste, NBR": "crop-and-paste",
    "crop-and-paste, weighted BCE, NBR": "crop-and-paste",
    "DLI": "crop-and-paste",
    "DLI, NBR": "DLI",
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
    """A row for each encoder, number of shots and way of `runs`: its figures, and its gain over another way.

    "gain in micro IoU" is paired by seed, with the interval of `stats.clustered_difference`; "helps", "hurts" or
    "undecided" is what that interval says.
    """
    rows = []
    for (encoder, shots), group in frame.groupby(["encoder", "shots"], sort=False):
        by = {way: g.dropna(subset="record").set_index("seed") for way, g in group.groupby("way", sort=False)}
        for way, found in by.items():
            texts = [str(estimate(found[name], within=SHARE)) for name in ("iou", "class_iou", "auroc")]
            over = OVER.get(way, "")
            gain = _gain(found["record"], by[over]["record"]) if over else None
            change = [over, str(gain), _word(gain)] if gain else ["", "", ""]
            rows.append((encoder, shots, way, *texts, *change))
    columns = ["encoder", "shots", "way", "micro IoU", "mean class IoU", "AUROC of features"]
    return pd.DataFrame(rows, columns=[*columns, "over", "gain in micro IoU", "so it"])


def _gain(ours: pd.Series, theirs: pd.Series) -> Estimate:
    return clustered_difference([pair(ours[s], theirs[s], EPOCH) for s in ours.index.intersection(theirs.index)])


def _word(gain: Estimate) -> str:
    if gain.n == 0:
        return "pending"
    return "helps" if gain.low > 0 else "hurts" if gain.high < 0 else "undecided"
