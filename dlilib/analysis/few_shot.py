"""What each part of the few-shot method does, read from the records of the few-shot runs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dlilib.analysis.claims import FLOOR, class_iou, mean_class_iou, pair
from dlilib.analysis.stats import IOU_RANGE, Estimate, Pair, clustered_difference, estimate
from dlilib.study.experiments import experiment, preset_named
from dlilib.training.run import Run
from dlilib.training.store import Store

EPOCH = "last"  # nothing is chosen on the validation images, which are all that is left
# Of the few-shot paper's abstract; stands in every table.
INTERPRETATION = "all but plain, DLI: our interpretation"
MEASURES = {"iou": "micro IoU", "class_iou": "mean class IoU", "auroc": "AUROC of features"}
WHOLE = "crop-and-paste, weighted BCE, NBR"  # the few-shot paper's method as we read it


@dataclass(frozen=True)
class Part:
    """A part of the method: variants with it, and the same variants without it."""

    on: tuple[str, ...]
    off: tuple[str, ...]

    def told_by(self, variants: set[str]) -> "Part":
        """What is left of it where only `variants` were run."""
        pairs = [both for both in zip(self.on, self.off, strict=True) if variants.issuperset(both)]
        return Part(tuple(on for on, _ in pairs), tuple(off for _, off in pairs))


PARTS = {
    "crop-and-paste": Part(("crop-and-paste",), ("plain",)),
    "weighted BCE": Part(
        ("crop-and-paste, weighted BCE", WHOLE), ("crop-and-paste", "crop-and-paste, NBR")
    ),
    "NBR": Part(
        ("NBR", "crop-and-paste, NBR", WHOLE, "DLI, NBR"),
        ("plain", "crop-and-paste", "crop-and-paste, weighted BCE", "DLI"),
    ),
    "all three": Part((WHOLE,), ("plain",)),
    "DLI": Part(("DLI",), ("plain",)),
    "DLI instead of crop-and-paste": Part(
        ("DLI", "DLI, NBR"), ("crop-and-paste", "crop-and-paste, NBR")
    ),
    "DLI instead of all three": Part(("DLI",), (WHOLE,)),
}


def runs(
    preset: str,
    folder: str | Path,
    encoders: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (),
    shots: Sequence[int] = (),
    data: str = "",
) -> pd.DataFrame:
    """List the planned few-shot runs with what is known of them.

    Args:
        preset: A key of `PRESETS`.
        folder: Of the results.
        encoders: Instead of the preset's.
        seeds: Instead of the preset's.
        shots: Instead of the preset's.
        data: Instead of the preset's data set.

    Returns:
        A row each: encoder, shots, variant (of the preset's), seed, run and record (None where not
        finished); at the last epoch iou (micro), class_iou (mean over the classes that have a
        pixel to find) and auroc (of telling defects from normal ground by the encoder's features).
    """
    store, rows = Store(folder), []
    for variant in preset_named(preset).few_shot_variants:
        planned = experiment(
            "few_shot", preset, encoders, seeds=seeds, shots=shots, variants=[variant], data=data
        )
        rows += [_row(variant, run, store) for run in planned]
    frame = pd.DataFrame(rows)
    return frame.sort_values(["encoder", "shots"], kind="stable", ignore_index=True)


def _row(variant: str, run: Run, store: Store) -> dict:
    record = store.record(run)
    measured = dict.fromkeys(MEASURES, float("nan"))
    if record:
        measured = {
            "iou": record[EPOCH]["iou"],
            "class_iou": mean_class_iou(class_iou(record, EPOCH)),
            "auroc": record["features"]["auroc"],
        }
    return {
        "encoder": run.encoder,
        "shots": run.shots,
        "variant": variant,
        "seed": run.seed,
        "run": run,
        **measured,
        "record": record,
    }


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the measures over the seeds, for each encoder, number of shots and variant."""
    rows = []
    for key, group in frame.groupby(["encoder", "shots", "variant"], sort=False):
        finished = group.dropna(subset="record")
        measures = [str(estimate(finished[name], within=IOU_RANGE)) for name in MEASURES]
        rows.append((*key, *measures))
    columns = ["encoder", "shots", f"variant ({INTERPRETATION})", *MEASURES.values()]
    return pd.DataFrame(rows, columns=columns)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what each of `PARTS` adds, as far as the variants of `runs` can tell.

    Seeds are paired, and a part's variants taken together: their counts of pixels are summed for
    the micro IoU, whose interval is that of `stats.clustered_difference`; the other two gains are
    means over the variants, with Student's t over the seeds alone. Each says "helps", "hurts" or
    "undecided", as its interval excludes 0 or not, or "not measurable" where the IoUs are on
    average below `claims.FLOOR` with the part and without it.

    Returns:
        A row for each encoder, number of shots and part.
    """
    rows = []
    for (encoder, shots), group in frame.groupby(["encoder", "shots"], sort=False):
        finished = group.dropna(subset="record").groupby("seed")
        by_seed = [found.set_index("variant") for _, found in finished]
        for name, part in PARTS.items():
            told = part.told_by(set(group["variant"]))
            if told.on:
                rows.append((encoder, shots, name, *_gains(told, by_seed)))
    measures = [f"gain in {name}" for name in MEASURES.values()]
    return pd.DataFrame(rows, columns=["encoder", "shots", f"part ({INTERPRETATION})", *measures])


def finding(added: pd.DataFrame) -> str:
    """Say which parts help the micro IoU, in a line for each encoder and number of shots.

    Args:
        added: What the parts add, as `gains` returns it.
    """
    lines = []
    part, gain = added.columns[2], f"gain in {MEASURES['iou']}"
    words = added[gain].str.rpartition(": ")[2]
    for (encoder, shots), rows in added.groupby(["encoder", "shots"], sort=False):
        by_word = rows[part].groupby(words.loc[rows.index], sort=False)
        found = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_word)
        if set(words.loc[rows.index]) == {"pending"}:
            found = "not measured yet"
        number = "1 annotated image" if shots == 1 else f"{shots} annotated images"
        lines.append(f"{encoder}, {number} a class: {found}.")
    return "\n".join(lines)


def records_shown(frame: pd.DataFrame, variants: Sequence[str]) -> dict[str, dict]:
    """Choose the finished runs that a figure of features shows.

    Args:
        frame: Rows of `runs`.
        variants: What to show, in order.

    Returns:
        Variant -> record, of the first encoder and seed and the most annotated images.
    """
    first = frame.iloc[0]
    same = (frame["encoder"] == first["encoder"]) & (frame["seed"] == first["seed"])
    shown = frame[same & (frame["shots"] == frame["shots"].max())].dropna(subset="record")
    records = shown.set_index("variant")["record"]
    return {variant: records[variant] for variant in variants if variant in records}


def _gains(part: Part, by_seed: list[pd.DataFrame]) -> list[str]:
    """The gain in each of `MEASURES`; by_seed: the rows of each seed, by variant."""
    needed = set(itertools.chain(part.on, part.off))
    seeds = [found for found in by_seed if needed <= set(found.index)]
    words = []
    for name in MEASURES:
        means = [
            (found.loc[list(part.on), name].mean(), found.loc[list(part.off), name].mean())
            for found in seeds
        ]
        if name == "iou":
            gain = clustered_difference([_pair(found["record"], part) for found in seeds])
        else:
            gain = estimate([on - off for on, off in means])
        words.append(_words(gain, means))
    return words


def _pair(records: pd.Series, part: Part) -> Pair:
    """All variants with the part against all without it, on one seed's images."""
    pairs = [
        pair(records[on], records[off], EPOCH) for on, off in zip(part.on, part.off, strict=True)
    ]
    return Pair(
        ours=np.concatenate([p.ours for p in pairs]),
        theirs=np.concatenate([p.theirs for p in pairs]),
        tiles=np.concatenate([p.tiles for p in pairs]),
    )


def _words(gain: Estimate, means: list[tuple[float, float]]) -> str:
    """The gain and what it says; means: of each seed, with the part and without it."""
    if np.isnan(gain.mean):
        return str(gain)
    if np.nanmean(means, axis=0).max() < FLOOR:
        return f"{gain}: not measurable"
    if gain.low > 0:
        return f"{gain}: helps"
    return f"{gain}: hurts" if gain.high < 0 else f"{gain}: undecided"
