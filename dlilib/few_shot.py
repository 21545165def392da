"""What each part of the few-shot method does, read from the records of the study's few-shot runs."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dlilib.claims import FLOOR, class_iou, pair
from dlilib.stats import SHARE, Estimate, Pair, clustered_difference, estimate
from dlilib.store import Store
from dlilib.study import experiment, preset_named

EPOCH = "last"  # nothing is chosen on the validation images, which are all that is left
READING = "NBR, weighted BCE: our reading"  # of the few-shot paper's abstract; stands in every table
MEASURES = {"iou": "micro IoU", "class_iou": "mean class IoU", "auroc": "AUROC of features"}
CLAIMED = ["crop-and-paste, weighted BCE, NBR"]  # the few-shot paper's method as a whole
# what a gain is about -> ways with it, and the same ways without it
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "crop-and-paste": (["crop-and-paste"], ["plain"]),
    "weighted BCE": (["crop-and-paste, weighted BCE", *CLAIMED], ["crop-and-paste", "crop-and-paste, NBR"]),
    "NBR": (
        ["NBR", "crop-and-paste, NBR", *CLAIMED, "DLI, NBR"],
        ["plain", "crop-and-paste", "crop-and-paste, weighted BCE", "DLI"],
    ),
    "all three": (CLAIMED, ["plain"]),
    "DLI": (["DLI"], ["plain"]),
    "DLI instead of crop-and-paste": (["DLI", "DLI, NBR"], ["crop-and-paste", "crop-and-paste, NBR"]),
    "DLI instead of all three": (["DLI"], CLAIMED),
}


def runs(
    preset: str, folder: str | Path, encoders: Sequence[str] = (), seeds: Sequence[int] = (),
    shots: Sequence[int] = (), data: str = "",
) -> pd.DataFrame:
    """A row for each planned few-shot run: encoder, shots, way (of the preset's), seed, run and record.

    record is None where the run is not finished; else there are its figures at the last epoch: iou, micro; class_iou,
    the mean over the classes; auroc, of telling defects from normal ground by the encoder's features. data: instead of
    the preset's.
    """
    store = Store(folder)
    columns = ["encoder", "shots", "way", "seed", "run", "iou", "class_iou", "auroc", "record"]
    rows = []
    for way in preset_named(preset).few_shot_ways:
        for run in experiment("few_shot", preset, encoders, seeds, shots=shots, ways=[way], data=data):
            row = {"encoder": run.encoder, "shots": run.shots, "way": way, "seed": run.seed, "run": run}
            if record := store.record(run):
                means = float(np.mean(class_iou(record, EPOCH)))
                row |= {"iou": record[EPOCH]["iou"], "class_iou": means, "auroc": record["features"]["auroc"]}
            rows.append(row | {"record": record})
    return pd.DataFrame(rows, columns=columns).sort_values(["encoder", "shots"], kind="stable", ignore_index=True)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The figures of each encoder, number of shots and way of `runs`, a row each, over the seeds."""
    rows = [
        (*key, *(str(estimate(group[name].dropna(), within=SHARE)) for name in MEASURES))
        for key, group in frame.groupby(["encoder", "shots", "way"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["encoder", "shots", f"way ({READING})", *MEASURES.values()])


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """What each of `PARTS` adds: a row for each encoder, number of shots and part that the ways of `runs` can tell.

    Seeds are paired, and a part's ways taken together: their counts of pixels are summed for the micro IoU, whose
    interval is that of `stats.clustered_difference`; the other two gains are means over the ways, with Student's t over
    the seeds alone. Each says "helps", "hurts" or "undecided", as its interval leaves 0 out or not, or "not measurable"
    of IoUs that are on average below `claims.FLOOR` with the part and without it.
    """
    rows = []
    for (encoder, shots), group in frame.groupby(["encoder", "shots"], sort=False):
        by_seed = [found.set_index("way") for _, found in group.dropna(subset="record").groupby("seed")]
        for part, sides in _told_apart(set(group["way"])).items():
            whole = [found for found in by_seed if set(itertools.chain(*sides)) <= set(found.index)]
            row = [encoder, shots, part]
            for name in MEASURES:
                means = np.array([[found.loc[ways, name].mean() for ways in sides] for found in whole]).reshape(-1, 2)
                if name == "iou":
                    gain = clustered_difference([_pair(found["record"], *sides) for found in whole])
                else:
                    gain = estimate(means[:, 0] - means[:, 1])
                row.append(_words(gain, means))
            rows.append(row)
    columns = ["encoder", "shots", f"part ({READING})", *(f"gain in {name}" for name in MEASURES.values())]
    return pd.DataFrame(rows, columns=columns)


def _told_apart(ways: set[str]) -> dict[str, tuple[list[str], ...]]:
    """Of `PARTS` the pairs whose both ways are among `ways`; parts without one are left out."""
    found = {}
    for name, sides in PARTS.items():
        if pairs := [pair for pair in zip(*sides, strict=True) if ways.issuperset(pair)]:
            found[name] = tuple(list(side) for side in zip(*pairs, strict=True))
    return found


def _pair(records: pd.Series, ours: Sequence[str], theirs: Sequence[str]) -> Pair:
    """All of ours against all of theirs, which differ in one part, on one seed's images."""
    pairs = [pair(records[a], records[b], EPOCH) for a, b in zip(ours, theirs, strict=True)]
    return Pair(*(np.concatenate([getattr(p, name) for p in pairs]) for name in ("ours", "theirs", "tiles")))


def _words(gain: Estimate, means: np.ndarray) -> str:
    """The gain and what it says; means (num_seeds, 2): with the part, and without it."""
    if gain.n == 0:
        return str(gain)
    if means.mean(axis=0).max() < FLOOR:
        return f"{gain}: not measurable"
    return f"{gain}: " + ("helps" if gain.low > 0 else "hurts" if gain.high < 0 else "undecided")
