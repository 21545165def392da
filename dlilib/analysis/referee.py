"""The study's numbers read as a referee would: where a lead comes from, and what would decide it.

A table for each question, and the answers in sentences. All are about the preset's first encoder,
and about DLI beside the baseline where two methods are compared.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlilib.analysis import claims, tables
from dlilib.analysis.coverage import PARTS, STUDENTS, WIDER, coverage
from dlilib.analysis.records import records, select
from dlilib.analysis.stats import POWER, estimate
from dlilib.losses import METHODS
from dlilib.metrics import NOTHING, iou_score
from dlilib.study import experiments
from dlilib.training.store import Store
from dlilib.wording import listed

CLAIM = "DLI beats baseline"
PAPERS = "paper's protocol"
ALL = "all classes"
FLATTERY = ("best less last epoch", "paper's split less tile-disjoint")

Record = dict[str, Any]


def doubled(preset: str, folder: str | Path) -> pd.DataFrame:
    """Put the pilot's runs beside those that are alike but twice as long.

    Returns:
        A row for each two that are finished: method, split, size, "images seen", and "all classes"
        and each class, their IoU at the best epoch, as "0.794 → 0.782".
    """
    store, planned = Store(folder), experiments.pilot(preset)
    rows = []
    for run in planned:
        longer = replace(run, epochs=2 * run.epochs)
        both = [store.record(run), store.record(longer)]
        if longer not in planned or None in both:
            continue
        seen = [tables.images_seen(record) * record["run"]["epochs"] for record in both]
        by_class = [claims.class_iou(record, "best") for record in both]
        rows.append(
            {
                "method": run.method,
                "split": run.split,
                "size": run.size,
                "images seen": f"{seen[0]:,} → {seen[1]:,}",
                ALL: _change(*[record["best"]["iou"] for record in both]),
                **dict(zip(both[0]["data"]["classes"], map(_change, *by_class), strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _change(before: float, after: float) -> str:
    return f"{before:.3f} → {after:.3f}"


def flattery(preset: str, folder: str | Path) -> pd.DataFrame:
    """Measure what the choice of the epoch, and parts on both sides, add to each method's IoU.

    Returns:
        A row for each method: micro IoU under the paper's protocol; there, the best epoch's less
        the last one's; and the paper's split less tile-disjoint, both at the last epoch, so that
        the choice of the epoch is not counted twice.
    """
    image, tile = (_comparison(preset, folder, split) for split in tables.SPLITS)
    columns = {
        PAPERS: image["iou_best"],
        FLATTERY[0]: image["iou_best"] - image["iou_last"],
        FLATTERY[1]: (image["iou_last"] - tile["iou_last"]).dropna(),
    }
    rows = []
    for method in METHODS:
        texts = {name: _estimated(values, method) for name, values in columns.items()}
        rows.append({"method": method, **texts})
    return pd.DataFrame(rows)


def chosen(preset: str, folder: str | Path) -> pd.DataFrame:
    """Show what choosing the epoch by the micro IoU does to single classes.

    Returns:
        A row for each method that has a finished run under the paper's protocol: n (seeds), and of
        each class the mean IoU at the best epoch and at the last one, as "0.190 → 0.330".
    """
    p, store = experiments.preset_named(preset), Store(folder)
    rows = []
    for method in METHODS:
        runs = [replace(p.base, method=method, seed=seed) for seed in p.seeds]
        found = [record for run in runs if (record := store.record(run))]
        if not found:
            continue
        best, last = (
            np.mean([claims.class_iou(record, epoch) for record in found], axis=0)
            for epoch in ("best", "last")
        )
        changes = dict(zip(found[0]["data"]["classes"], map(_change, best, last), strict=True))
        rows.append({"method": method, "n": len(found), **changes})
    return pd.DataFrame(rows)


def _comparison(preset: str, folder: str | Path, split: str) -> pd.DataFrame:
    """The comparison's records, by method and seed."""
    encoder = experiments.preset_named(preset).base.encoder
    runs = experiments.experiment("comparison", preset, [encoder], split=split)
    frame = select(records(Path(folder, "records")), runs)
    return frame.set_index(["method", "seed"])


def _estimated(values: pd.Series, method: str) -> str:
    """The mean over the method's seeds; values: by method and seed."""
    return str(estimate(values[values.index.get_level_values("method") == method]))


def carried(preset: str, folder: str | Path) -> pd.DataFrame:
    """Say which classes carry DLI's lead over the baseline, under the paper's protocol.

    Returns:
        A row for each class: DLI's IoU less the baseline's, and what the baseline's micro IoU would
        gain if it found this class as DLI does and the others as before; paired by seed.
    """
    groups = _pairs(preset, folder)
    rows = []
    for c, name in enumerate(groups[0][0]["data"]["classes"] if groups else []):
        gains = [_gain(ours, theirs, c) for ours, theirs in groups]
        alone = [_gain_alone(ours, theirs, c) for ours, theirs in groups]
        rows.append(
            {
                "class": name,
                "gain in its IoU": str(estimate(gains)),
                "gain in micro IoU from it alone": str(estimate(alone)),
            }
        )
    return pd.DataFrame(rows)


def _pairs(preset: str, folder: str | Path) -> list[tuple[Record, Record]]:
    """Of each seed that has both, DLI's record and the baseline's."""
    p, store = experiments.preset_named(preset), Store(folder)
    pairs = []
    for seed in p.seeds:
        ours = store.record(replace(p.base, method="dli", seed=seed))
        theirs = store.record(replace(p.base, method="baseline", seed=seed))
        if ours and theirs:
            pairs.append((ours, theirs))
    return pairs


def _gain(ours: Record, theirs: Record, c: int) -> float:
    return float(claims.class_iou(ours, "best")[c] - claims.class_iou(theirs, "best")[c])


def _gain_alone(ours: Record, theirs: Record, c: int) -> float:
    counts = np.array(theirs["best"]["classes"])
    swapped = counts.copy()
    swapped[c] = ours["best"]["classes"][c]
    return iou_score(*swapped.sum(axis=0)) - iou_score(*counts.sum(axis=0))


def held(preset: str, folder: str | Path) -> pd.DataFrame:
    """Simulate how often the intervals of DLI's lead over the baseline hold the truth.

    The parts are those of the first seed's pair of records. The deviation between seeds is the
    measured one, or the paper's while there is a single seed.

    Returns:
        As `coverage`, with the deviation; no rows while no seed has both runs.
    """
    groups = _pairs(preset, folder)
    if not groups:
        return pd.DataFrame()
    measured = claims.gain([list(group) for group in groups], "best").deviation
    (_, papers) = claims.CLAIMS[CLAIM].paper(experiments.preset_named(preset).base.encoder)
    deviation = papers if math.isnan(measured) else measured
    found = coverage(claims.pair(*groups[0], "best"), deviation)
    found["deviation"] = f"{deviation:.3f}, {'paper' if math.isnan(measured) else 'measured'}"
    return found


def decided(preset: str, folder: str | Path) -> pd.DataFrame:
    """Return `claims.seeds_needed` of the preset's claims under the paper's protocol."""
    found = claims.claims(preset, folder, protocols=[PAPERS])
    frame = select(records(Path(folder, "records")), experiments.all_runs(preset))
    return claims.seeds_needed(found, frame["seconds"].mean() / 3600)


def in_words(preset: str, folder: str | Path) -> list[str]:
    """Answer the questions in a sentence or two each, as far as there are records."""
    answers = (_length, _flattered, _classes, _held, _decided)
    return [words for answer in answers if (words := answer(preset, folder))]


def _length(preset: str, folder: str | Path) -> str:
    """Whether the runs are long enough."""
    found = doubled(preset, folder)
    if found.empty:
        return ""
    row = found.iloc[-1]
    changes = [f"{name} {row[name]}" for name in list(found)[list(found).index(ALL) :]]
    return (
        f"**Long enough?** IoU of {row['method']} with twice the images ({row['images seen']}; the "
        f"paper: {tables.PAPER_IMAGES:,}): {listed(changes)}."
    )


def _flattered(preset: str, folder: str | Path) -> str:
    """Whether the choice of the epoch or the leak explains the lead."""
    found = flattery(preset, folder).set_index("method")
    epoch, leak = ([found.loc[m, column] for m in ("baseline", "dli")] for column in FLATTERY)
    if "pending" in epoch:
        return ""
    tiles = (
        "what parts on both sides add is not measured yet"
        if "pending" in leak
        else f"parts on both sides {leak[0]} and {leak[1]}"
    )
    return (
        f"**The best epoch or the leak?** Choosing the epoch on the validation images adds "
        f"{epoch[0]} to the baseline's IoU and {epoch[1]} to DLI's; {tiles}."
    )


def _classes(preset: str, folder: str | Path) -> str:
    """Which classes carry the lead."""
    found = carried(preset, folder)
    if found.empty:
        return ""
    alone = [f"{row[0]} {row[2]}" for row in found.itertuples(index=False)]
    return (
        "**Which classes?** What the baseline's micro IoU would gain if it found one class as DLI "
        f"does: {listed(alone)}."
    )


def _held(preset: str, folder: str | Path) -> str:
    """Whether the intervals are honest."""
    found = held(preset, folder)
    if found.empty:
        return ""
    most = found[found["seeds"] == found["seeds"].max()].set_index("validation")
    shares = [f"{_percent(most.loc[name, WIDER])} ({name})" for name in PARTS]
    students = [_percent(most.loc[name, STUDENTS]) for name in PARTS]
    return (
        f"**Honest intervals?** Of simulated 95 % intervals over {most['seeds'].iloc[0]} seeds, "
        f"{listed(shares)} hold the truth; of Student's t alone, {listed(students)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _decided(preset: str, folder: str | Path) -> str:
    """What it would take to decide the claims."""
    found = decided(preset, folder)
    papers, ours = (_seeds(found, f"seeds by {whom}") for whom in ("the paper", "ours"))
    measured = f" By what is measured here: {listed(ours)}." if ours else ""
    return (
        "**What would decide?** If the paper's differences and spreads were the truth, "
        f"{_percent(POWER)} of studies would decide with this many seeds (the paper has 5): "
        f"{listed(papers)}.{measured}"
    )


def _seeds(found: pd.DataFrame, column: str) -> list[str]:
    """The seeds that would decide each claim, by a column of `claims.seeds_needed`."""
    known = found[found[column] != NOTHING]
    names = known["claim"].str.removeprefix("DLI beats ")
    return [f"{seeds} ({name})" for seeds, name in zip(known[column], names, strict=True)]
