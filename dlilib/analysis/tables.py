"""The study's tables, each a pandas DataFrame."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dlilib.analysis import claims, paper
from dlilib.analysis.records import class_history, select
from dlilib.analysis.stats import IOU_RANGE, estimate, summarise
from dlilib.losses import METHODS
from dlilib.metrics import NOTHING, iou_score, shown
from dlilib.study import experiments
from dlilib.study.presets import PAPER_ENCODERS
from dlilib.tiles import TileSet
from dlilib.training.run import Run
from dlilib.training.store import Store, read_record

# Number of a table of the paper -> its experiment, and the field of Run that its rows differ in.
TABLES = {1: ("comparison", "method"), 2: ("ablation", "p_poisson")}
SPLITS = {"image": "the paper's split", "tile": "tile-disjoint"}
ALL = "all classes"  # beside the single ones
PAPER_IMAGES = 1000 * (312 + 952)  # training images that the authors' code sees, by its epochs


def finished_encoders(preset: str, frame: pd.DataFrame) -> list[str]:
    """Return the preset's encoders that have a finished run; frame: the preset's records."""
    found = set(frame["encoder"])
    p = experiments.preset_named(preset)
    return [name for name in (*p.encoders, *p.second_encoders) if name in found]


def paper_table(
    number: int,
    preset: str,
    frame: pd.DataFrame,
    *,
    split: str = "image",
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Return the paper's Table 1 or 2, ours beside the paper's.

    Every encoder of the paper has its columns, whether the preset plans it or not.

    Args:
        number: 1, a row for each method, or 2, a row for each blend of DLI.
        preset: A key of `PRESETS`.
        frame: The preset's records.
        split: "image" or "tile".
        seeds: Instead of the preset's.

    Returns:
        For each encoder, and for the average over all three, the columns "<encoder>, ours"
        ("pending" where no run is finished, "not planned" where the preset has none) and
        "<encoder>, paper".

    Raises:
        ValueError: There is no such table.
    """
    if number not in TABLES:
        raise ValueError(f"number must be one of {tuple(TABLES)}, got {number!r}")
    name, by = TABLES[number]
    runs = experiments.experiment(name, preset, PAPER_ENCODERS, seeds=seeds, split=split)
    ours = _texts(preset, runs, frame, ["encoder", by])
    rows = []
    for key in METHODS if number == 1 else (0.0, 1.0, 0.5):
        row = {by: key}
        for encoder in PAPER_ENCODERS:
            row[f"{encoder}, ours"] = ours[encoder, key]
            row[f"{encoder}, paper"] = _printed(number, encoder, key)
        found = select(frame, [run for run in runs if getattr(run, by) == key])
        planned = claims.NOT_PLANNED not in [row[f"{encoder}, ours"] for encoder in PAPER_ENCODERS]
        row["average, ours"] = _average(found) if planned else claims.NOT_PLANNED
        row["average, paper"] = _printed(number, "average", key)
        rows.append(row)
    return pd.DataFrame(rows).set_index(by)


def result_table(preset: str, frame: pd.DataFrame, encoder: str) -> pd.DataFrame:
    """Return one encoder's part of Table 1 on both splits, beside the paper's.

    Args:
        preset: A key of `PRESETS`.
        frame: The preset's records.
        encoder: A key of `models.ENCODERS`.

    Returns:
        A row for each method, with the columns <encoder> (the method), "paper" and one for each
        split.
    """
    table = pd.DataFrame({encoder: list(METHODS)})
    table["paper"] = [_printed(1, encoder, method) for method in METHODS]
    for split, title in SPLITS.items():
        runs = experiments.experiment("comparison", preset, [encoder], split=split)
        table[f"ours, {title}"] = list(_texts(preset, runs, frame, ["method"]))
    return table


def _texts(preset: str, runs: Sequence[Run], frame: pd.DataFrame, by: list[str]) -> pd.Series:
    """What is measured of each group of runs, or that the preset plans none of them."""
    planned = set(experiments.all_runs(preset))
    expected = {tuple(getattr(run, name) for name in by) for run in runs if run in planned}
    summary = summarise(runs, frame, by)
    known = [key in expected for key in summary[by].itertuples(index=False, name=None)]
    known = np.array(known) | (summary["n"] > 0)
    return (
        summary["text"]
        .where(known, claims.NOT_PLANNED)
        .set_axis(pd.MultiIndex.from_frame(summary[by]))
    )


def _average(frame: pd.DataFrame) -> str:
    """The mean over the encoders, seed by seed, of the seeds that have all of them."""
    by_seed = frame.pivot(index="seed", columns="encoder", values="iou_best")
    whole = by_seed.reindex(columns=PAPER_ENCODERS).dropna()
    return str(estimate(whole.mean(axis=1), within=IOU_RANGE))


def _printed(number: int, encoder: str, key: str | float) -> str:
    cell = (
        paper.printed(1, encoder, key)
        if number == 1
        else paper.printed(2, encoder, "dli", p_poisson=key)
    )
    return "not in the paper" if cell is None else f"{cell[0]:.3f} ± {cell[1]:.3f}"


def class_table(
    preset: str,
    frame: pd.DataFrame,
    encoders: Sequence[str] = (),
    *,
    split: str = "image",
    seeds: Sequence[int] = (),
    by: str = "pixels",
) -> pd.DataFrame:
    """Return the IoU at the best epoch, a row for each encoder and method, a column for each class.

    Args:
        preset: A key of `PRESETS`.
        frame: `records.records` of its folder.
        encoders: Instead of the preset's.
        split: "image" or "tile".
        seeds: Instead of the preset's.
        by: "pixels": of the class's own pixels in all validation images, where "found in 1" says
            that the other runs mark none of them rightly. "images": of all pixels in the class's
            own images, as the authors measure their Figure 3.

    Returns:
        Texts; "–" stands for a class without a pixel to find in the validation images, and by
        images also where records do not tell the class of each.
    """
    prefix, text = ("iou_", _class_text) if by == "pixels" else ("image_iou_", _mean_text)
    runs = experiments.experiment("comparison", preset, encoders, seeds=seeds, split=split)
    rows = [
        key | {name: text(found[f"{prefix}{name}"]) for name in class_names(frame)}
        for key, found in _by_method(runs, frame)
    ]
    return pd.DataFrame(rows)


def class_names(frame: pd.DataFrame) -> list[str]:
    """Names of the defect classes whose IoU the records hold, in their order."""
    overall = ("iou_best", "iou_last")
    columns = [name for name in frame if name.startswith("iou_") and name not in overall]
    return [name.removeprefix("iou_") for name in columns]


def _by_method(
    runs: Sequence[Run], frame: pd.DataFrame
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Encoder and method of the planned runs, and the records of those that have them."""
    for encoder, method in dict.fromkeys((run.encoder, run.method) for run in runs):
        same = [run for run in runs if (run.encoder, run.method) == (encoder, method)]
        yield {"encoder": encoder, "method": method}, select(frame, same)


def _mean_text(scores: pd.Series) -> str:
    """A mean IoU over runs."""
    return str(estimate(scores, within=IOU_RANGE))


def _class_text(scores: pd.Series) -> str:
    """A class's mean IoU over runs, and how many of them find it, if not all."""
    text, scored = _mean_text(scores), scores.dropna()
    hits = int((scored > 0).sum())
    if hits == len(scored):
        return text
    return f"{text[:-1]}, found in {hits})" if hits else f"not found (n = {len(scored)})"


def scores_table(
    preset: str,
    frame: pd.DataFrame,
    encoders: Sequence[str] = (),
    *,
    split: str = "image",
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Return what the micro IoU hides: a row for each encoder and method.

    All at the best epoch, over the seeds: "mean class IoU", in which each class counts alike;
    "precision" and "recall" of the pixels of all classes together; and "images found", as in
    `images_found`.
    """
    runs = experiments.experiment("comparison", preset, encoders, seeds=seeds, split=split)
    rows = []
    for key, found in _by_method(runs, frame):
        records = [read_record(Path(path)) for path in found["path"]]
        classes = [np.array(record["best"]["classes"]) for record in records]
        scores = {
            "mean class IoU": [
                claims.mean_class_iou(claims.class_iou(record, "best")) for record in records
            ],
            "precision": [_share(counts.sum(axis=0)[[0, 1]]) for counts in classes],
            "recall": [_share(counts.sum(axis=0)[[0, 2]]) for counts in classes],
        }
        texts = {name: str(estimate(v, within=IOU_RANGE)) for name, v in scores.items()}
        hits = _hits(_defects(records)) if records else "pending"
        rows.append(key | texts | {"images found": hits})
    return pd.DataFrame(rows)


def _share(counts: np.ndarray) -> float:
    """The first count as a share of both, NaN of none."""
    return float(counts[0] / counts.sum()) if counts.sum() else math.nan


def images_found(
    preset: str,
    frame: pd.DataFrame,
    tiles: TileSet,
    *,
    encoders: Sequence[str] = (),
    split: str = "image",
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Return on how many validation images each method finds the defect.

    An image whose mask shows a defect is found if at least one pixel of it is marked as its class,
    at the best epoch.

    Args:
        preset: A key of `PRESETS`.
        frame: The preset's records.
        tiles: The data set that they are of.
        encoders: Instead of the preset's.
        split: "image" or "tile".
        seeds: Instead of the preset's.

    Returns:
        A row for each encoder and method: n (runs), and of each class and of all, over the runs,
        the images found, as "31 of 46"; "–" where there are none to find.
    """
    runs = experiments.experiment("comparison", preset, encoders, seeds=seeds, split=split)
    rows = []
    for key, found in _by_method(runs, frame):
        defects = _defects([read_record(Path(path)) for path in found["path"]])
        labels = tiles.labels[torch.from_numpy(defects[:, 0])].numpy()
        hits = {
            name: _hits(defects[labels == label]) for label, name in enumerate(tiles.classes, 1)
        }
        rows.append(key | {"n": len(found)} | hits | {ALL: _hits(defects)})
    return pd.DataFrame(rows)


def _defects(records: Sequence[dict[str, Any]]) -> np.ndarray:
    """Index of each validation image whose mask shows a defect, and whether it is found: (N, 2)."""
    rows = [np.zeros((0, 2), np.int64)]
    for record in records:
        tp, _, fn = np.array(record["best"]["images"]).T
        rows.append(np.stack([record["val_images"], tp > 0], axis=1)[tp + fn > 0])
    return np.concatenate(rows)


def _hits(defects: np.ndarray) -> str:
    return f"{defects[:, 1].sum()} of {len(defects)}" if len(defects) else NOTHING


def learning_curve(record: dict[str, Any]) -> pd.DataFrame:
    """Return IoU on the validation images against training images seen.

    All classes at every epoch; each class at the epochs that the record keeps, and at the last one.

    Returns:
        Columns what ("all classes" or a class), images and IoU (NaN without a pixel to find).
    """
    history, seen = record["history"], images_seen(record)
    rows = []
    for epoch, (tp, fp) in enumerate(zip(history["tp"], history["fp"], strict=True), start=1):
        rows.append((ALL, seen * epoch, iou_score(tp, fp, record["positives"] - tp)))
    epochs, counts = class_history(record)
    for c, name in enumerate(record["data"]["classes"]):
        scores = [iou_score(*of_epoch[c]) for of_epoch in counts]
        rows += zip([name] * len(epochs), seen * epochs, scores, strict=True)
    return pd.DataFrame(rows, columns=["what", "images", "IoU"])


def schedule(run: Run) -> str:
    """Say what sets a pilot's run apart from the others, for a legend."""
    return (
        f"{run.method}, {run.split} split, {run.size} px, batch {run.batch}, lr {run.lr:g}, "
        f"{run.epochs} epochs" + (", the authors' decoder" if run.decoder_convs == 4 else "")
    )


def images_seen(record: dict[str, Any]) -> int:
    """Count the training images of one epoch of a run that is not few-shot."""
    free, *defective = record["data"]["train"]
    return round(free * record["run"]["free_share"]) + sum(defective)


def pilot_table(preset: str, folder: str | Path) -> pd.DataFrame:
    """Return the pilot's runs, a row each, "pending" where not finished.

    Figures are those of the best epoch, as in Table 1, but for `last`; "–" where the validation
    images have no pixel to find.
    """
    store = Store(folder)
    rows = [_pilot_row(run, store.record(run)) for run in experiments.pilot(preset)]
    return pd.DataFrame(rows, dtype=object).fillna("")


def _pilot_row(run: Run, record: dict[str, Any] | None) -> dict[str, Any]:
    row = {
        "method": run.method,
        "split": run.split,
        "size": run.size,
        "batch": run.batch,
        "lr": f"{run.lr:g}",
        "epochs": run.epochs,
        "decoder": run.decoder_convs,
    }
    if record is None:
        return {**row, "micro IoU": "pending"}
    images, machine = images_seen(record), record["machine"]
    classes = zip(record["data"]["classes"], record["best"]["classes"], strict=True)
    return {
        **row,
        "images": images * run.epochs,
        "steps": math.ceil(images / run.batch) * run.epochs,
        "minutes": round(record["seconds"] / 60),
        "micro IoU": shown(record["best"]["iou"]),
        "last": shown(record["last"]["iou"]),
        **{name: shown(iou_score(*counts)) for name, counts in classes},
        "machine": f"{machine['device']}, {machine['precision']}".replace(", ", "; "),
    }


def verdict_table(preset: str, folder: str | Path, encoders: Sequence[str] = ()) -> pd.DataFrame:
    """Return `claims.verdicts`, with words where the paper prints no number."""
    found = claims.verdicts(claims.claims(preset, folder, encoders))
    found["paper"] = found["paper"].map("{:+.3f}".format).replace("+nan", "no number")
    return found


def save(frame: pd.DataFrame, folder: str | Path, name: str, **options: Any) -> pd.DataFrame:
    """Write a table to folder/tables/name.csv, and return it.

    Args:
        frame: The table.
        folder: Of a preset's results.
        name: Of the file, without its ending.
        **options: Of pandas' `to_csv`.
    """
    path = Path(folder, "tables", f"{name}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, **options)
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """Write the columns of the frame as a Markdown table."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
