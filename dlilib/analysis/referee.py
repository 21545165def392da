"""The study's numbers read as a referee would: where a lead comes from, and what would decide it.

A table for each question, and the answers in sentences. All are about the preset's first encoder
and all its seeds, and about DLI beside the baseline where two methods are compared.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlilib.analysis import claims, tables
from dlilib.analysis.coverage import WIDER, coverage
from dlilib.analysis.records import class_history, records, select
from dlilib.analysis.stats import IOU_RANGE, POWER, Estimate, estimate
from dlilib.losses import METHODS
from dlilib.metrics import NOTHING, iou_score, shown
from dlilib.study import experiments
from dlilib.training.run import Run
from dlilib.training.store import Store
from dlilib.wording import listed

RIVAL = "baseline"
LESS = f"dli less {RIVAL}"
EPOCH, SPLIT = "best less last epoch", "paper's split less tile-disjoint, last epoch"
ALONE = "gain in micro IoU from it alone"
DECIDED = "†"  # beside a difference whose interval excludes 0
DIFFERENCES = (-1.0, 1.0)  # the range of a difference between two IoUs
VALIDATED = {"image": claims.PAPERS, "tile": "tile-disjoint, last epoch"}  # split -> its protocol
QUARTERS = 4  # of the schedule

Record = dict[str, Any]


def doubled(preset: str, folder: str | Path) -> pd.DataFrame:
    """Put the pilot's runs beside those that are alike but twice as long.

    Returns:
        A row for each two that are finished: method, split, size, "images seen", and "all classes"
        and each class, their IoU at the best epoch, as "0.794 → 0.782".
    """
    rows = []
    for run, *both in _doubled(preset, folder):
        seen = [tables.images_seen(record) * record["run"]["epochs"] for record in both]
        by_class = [claims.class_iou(record, "best") for record in both]
        rows.append(
            {
                "method": run.method,
                "split": run.split,
                "size": run.size,
                "images seen": f"{seen[0]:,} → {seen[1]:,}",
                tables.ALL: _change(*[record["best"]["iou"] for record in both]),
                **dict(zip(both[0]["data"]["classes"], map(_change, *by_class), strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _doubled(preset: str, folder: str | Path) -> list[tuple[Run, Record, Record]]:
    """The pilot's runs of which one twice as long is finished, too: both records."""
    store, planned = Store(folder), experiments.pilot(preset)
    found = []
    for run in planned:
        longer = replace(run, epochs=2 * run.epochs)
        short, long = store.record(run), store.record(longer)
        if longer in planned and short and long:
            found.append((run, short, long))
    return found


def _change(before: float, after: float) -> str:
    return f"{shown(before)} → {shown(after)}"


def by_quarter(preset: str, folder: str | Path) -> pd.DataFrame:
    """Measure DLI's lead over the baseline in each quarter of the schedule.

    Returns:
        A row for each split that has a pair of runs: split, and for each quarter's epochs, as
        "1 to 40", the mean difference in micro IoU over them, with Student's t over seeds alone.
    """
    rows = []
    for split, leads in lead_curves(preset, folder).items():
        texts = {epochs: str(lead) for epochs, lead in quarters(leads).items()}
        rows.append({"split": split, **texts})
    return pd.DataFrame(rows)


def quarters(leads: list[tuple[int, np.ndarray]]) -> dict[str, Estimate]:
    """Return the mean lead over the epochs of each quarter, by the epochs' numbers.

    leads: the curves of one split, as `lead_curves` gives them.
    """
    epochs = np.array_split(np.arange(1, leads[0][1].size + 1), QUARTERS)
    parts = [np.array_split(lead, QUARTERS) for _, lead in leads]
    return {
        f"{some[0]} to {some[-1]}": estimate([p[k].mean() for p in parts], within=DIFFERENCES)
        for k, some in enumerate(epochs)
        if some.size
    }


def lead_curves(preset: str, folder: str | Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Return DLI's micro IoU less the baseline's at every epoch.

    Returns:
        Title of a split -> of each seed that has both runs, the seed and the differences (epochs,).
    """
    found = {}
    for split, title in tables.SPLITS.items():
        leads = [
            (ours["run"]["seed"], _all_classes(ours) - _all_classes(theirs))
            for ours, theirs in _pairs(preset, folder, split)
        ]
        if leads:
            found[title] = leads
    return found


def _all_classes(record: Record) -> np.ndarray:
    """Micro IoU at every epoch (epochs,)."""
    curve = tables.learning_curve(record)
    return curve.loc[curve["what"] == tables.ALL, "IoU"].to_numpy()


def flattery(preset: str, folder: str | Path) -> pd.DataFrame:
    """Measure how the choice of the epoch, and the split, change each method's IoU.

    The paper's split shows the model other exposures of its validation parts, but it also has
    other images to find and more to train on than a tile-disjoint one.

    Returns:
        A row for each method: micro IoU under the paper's protocol; there, the best epoch's less
        the last one's; and the paper's split less tile-disjoint, both at the last epoch, so that
        the choice of the epoch is not counted twice. A last row has the same of DLI less the
        baseline, paired by seed: what each adds to the lead. Intervals are Student's t over seeds
        alone, but for the lead itself, which is a claim.
    """
    frame = records(Path(folder, "records"))
    image, tile = (_comparison(preset, frame, split) for split in tables.SPLITS)
    columns = {
        claims.PAPERS: image["iou_best"],
        EPOCH: image["iou_best"] - image["iou_last"],
        SPLIT: (image["iou_last"] - tile["iou_last"]).dropna(),
    }
    rows = {method: {} for method in (*METHODS, LESS)}
    for name, values in columns.items():
        by_method = values.unstack("method").reindex(columns=list(METHODS))
        by_method[LESS] = by_method["dli"] - by_method[RIVAL]
        within = IOU_RANGE if name == claims.PAPERS else (-np.inf, np.inf)
        for method, row in rows.items():
            row[name] = str(estimate(by_method[method].dropna(), within=within))
    rows[LESS][claims.PAPERS] = str(_lead(_pairs(preset, folder)))  # over parts, too
    table = pd.DataFrame(rows.values())
    table.insert(0, "method", list(rows))
    if not any(run.split == "tile" and not run.shots for run in experiments.all_runs(preset)):
        table[SPLIT] = claims.NOT_PLANNED
    return table


def chosen(preset: str, folder: str | Path) -> pd.DataFrame:
    """Show what choosing the epoch by the micro IoU does to single classes.

    Returns:
        A row for each split and method that has a finished run: n (seeds), the best epoch (its
        mean), and of each class the mean IoU at the best epoch and at the last one, as
        "0.190 → 0.330".
    """
    p, store = experiments.preset_named(preset), Store(folder)
    rows = []
    for split, method in itertools.product(tables.SPLITS, METHODS):
        runs = [replace(p.base, split=split, method=method, seed=seed) for seed in p.seeds]
        found = [record for run in runs if (record := store.record(run))]
        if not found:
            continue
        mean = np.mean([record["best"]["epoch"] for record in found])
        by_class = {
            epoch: [claims.class_iou(record, epoch) for record in found]
            for epoch in ("best", "last")
        }
        best, last = (
            pd.DataFrame(values).mean().to_numpy()  # of the seeds that have it to find
            for values in by_class.values()
        )
        changes = dict(zip(found[0]["data"]["classes"], map(_change, best, last), strict=True))
        rows.append(
            {
                "split": tables.SPLITS[split],
                "method": method,
                "n": len(found),
                "best epoch": f"{round(mean, 1):g} of {p.base.epochs}",
                **changes,
            }
        )
    return pd.DataFrame(rows)


def _comparison(preset: str, frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """The comparison's rows of all records, by method and seed."""
    encoder = experiments.preset_named(preset).base.encoder
    runs = experiments.experiment("comparison", preset, [encoder], split=split)
    return select(frame, runs).set_index(["method", "seed"])


def carried(preset: str, folder: str | Path) -> pd.DataFrame:
    """Say which classes carry DLI's lead over the baseline, under the paper's protocol.

    Returns:
        A row for each class: DLI's IoU less the baseline's, and what the baseline's micro IoU would
        gain if it found this class as DLI does and the others as before; paired by seed, with
        Student's t alone. The latter need not add up to the lead, which the last row has.
    """
    groups = _pairs(preset, folder)
    rows = []
    for c, (name, alone) in enumerate(_alone(groups).items()):
        gains = [_gain(ours, theirs, c) for ours, theirs in groups]
        gained = estimate(gains, within=DIFFERENCES)
        rows.append({"class": name, "gain in its IoU": str(gained), ALONE: str(alone)})
    if rows:
        rows.append({"class": tables.ALL, "gain in its IoU": "", ALONE: str(_lead(groups))})
    return pd.DataFrame(rows)


def _lead(groups: list[tuple[Record, Record]], epoch: str = "best") -> Estimate:
    """DLI's micro IoU less the baseline's, over the seeds."""
    return claims.gain([list(group) for group in groups], epoch)


def _pairs(preset: str, folder: str | Path, split: str = "image") -> list[tuple[Record, Record]]:
    """Of each seed that has both, DLI's record and the baseline's."""
    p, store = experiments.preset_named(preset), Store(folder)
    pairs = []
    for seed in p.seeds:
        run = replace(p.base, split=split, seed=seed)
        ours = store.record(replace(run, method="dli"))
        theirs = store.record(replace(run, method=RIVAL))
        if ours and theirs:
            pairs.append((ours, theirs))
    return pairs


def _gain(ours: Record, theirs: Record, c: int) -> float:
    return float(claims.class_iou(ours, "best")[c] - claims.class_iou(theirs, "best")[c])


def _alone(groups: list[tuple[Record, Record]]) -> dict[str, Estimate]:
    """What each class alone, found as DLI does, would add to the rival's micro IoU."""
    classes = groups[0][0]["data"]["classes"] if groups else []
    return {
        name: estimate(
            [_gain_alone(ours, theirs, c) for ours, theirs in groups], within=DIFFERENCES
        )
        for c, name in enumerate(classes)
    }


def _gain_alone(ours: Record, theirs: Record, c: int) -> float:
    counts = np.array(theirs["best"]["classes"])
    swapped = counts.copy()
    swapped[c] = ours["best"]["classes"][c]
    return iou_score(*swapped.sum(axis=0)) - iou_score(*counts.sum(axis=0))


def held(preset: str, folder: str | Path, seeds: Sequence[int] = ()) -> pd.DataFrame:
    """Simulate how often the intervals of DLI's lead over the baseline hold the truth.

    Under the paper's protocol, and tile-disjoint at the last epoch. The parts are those of each
    split's first pair of records. The deviation between seeds is the measured one, or the paper's
    while there are fewer than `claims.SPREAD_SEEDS`; where seeds validate on other parts, and these
    alone bring more, it is what they bring.

    Args:
        preset: A key of `PRESETS`.
        folder: Of its results.
        seeds: Numbers of seeds of a study, instead of the preset's, if it has several, and the
            paper's 5.

    Returns:
        As `coverage`, with the protocol, its number of parts, and whose the spread is; no rows for
        a split of which no seed has both runs.
    """
    p = experiments.preset_named(preset)
    (_, papers) = claims.CLAIMS[claims.LEAD + RIVAL].paper(p.base.encoder)
    found = []
    for split, protocol in VALIDATED.items():
        groups, epoch = _pairs(preset, folder, split), claims.PROTOCOLS[protocol].epoch
        if not groups:
            continue
        lead = _lead(groups, epoch)
        enough = lead.n >= claims.SPREAD_SEEDS
        deviation, whose = (lead.deviation, "measured") if enough else (papers, "paper")
        pair = claims.pair(*groups[0], epoch)
        rows = coverage(pair, deviation, seeds=seeds or _numbers_of_seeds(preset))
        rows.insert(0, "protocol", protocol)
        rows.insert(1, "parts", len(np.unique(pair.tiles)))
        rows["spread"] = [
            f"{spread:.3f} ({whose if math.isclose(spread, deviation) else 'its parts'})"
            for spread in rows["spread"]
        ]
        found.append(rows)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _numbers_of_seeds(preset: str) -> list[int]:
    return sorted({len(experiments.preset_named(preset).seeds), claims.PAPER_SEEDS} - {1})


def decided(preset: str, folder: str | Path) -> pd.DataFrame:
    """Return `claims.seeds_needed` of the claims under the paper's protocol."""
    encoder = experiments.preset_named(preset).base.encoder
    found = claims.claims(preset, folder, [encoder], protocols=[claims.PAPERS])
    return claims.seeds_needed(found, _hours(preset, folder)[0])


def _hours(preset: str, folder: str | Path) -> tuple[float, str]:
    """How long a run of the comparison took on the fastest device so far, and which one it is.

    A mean over devices would be the time of none, and the median leaves out that of pauses.
    """
    frame = records(Path(folder, "records"))
    found = pd.concat([_comparison(preset, frame, split) for split in tables.SPLITS])
    if found.empty:
        return math.nan, ""
    seconds = found.groupby("device")["seconds"].median()
    return float(seconds.min()) / 3600, str(seconds.idxmin())


def in_words(preset: str, folder: str | Path) -> list[str]:
    """Answer the questions in a sentence or two each, as far as there are records.

    All about the preset's first encoder.
    """
    answers = (_length, _faster, _epoch_and_split, _classes, _held, _decided)
    return [words for answer in answers if (words := answer(preset, folder))]


def _length(preset: str, folder: str | Path) -> str:
    """Whether the runs are long enough."""
    found = _doubled(preset, folder)
    if not found:
        return ""
    run, *both = found[-1]
    table = doubled(preset, folder).iloc[-1]
    before, after = (claims.class_iou(record, "best") >= claims.FLOOR for record in both)
    classes = np.array(both[0]["data"]["classes"])
    changed = {"only the longer finds": after & ~before, "only the shorter finds": before & ~after}
    told = [
        f"{what} {listed(f'{name} ({table[name]})' for name in classes[which])}"
        f"{_within(both['longer' in what], which)}"
        for what, which in changed.items()
        if which.any()
    ]
    but = f"; {'; '.join(told)}" if told else ""
    return (
        f"**Long enough?** Two {run.method} runs, one twice as long "
        f"({table['images seen']} images; the authors' code: {tables.PAPER_IMAGES:,}): micro IoU "
        f"{table[tables.ALL]}{but}.{_with_authors_decoder(preset, folder)}"
    )


def _with_authors_decoder(preset: str, folder: str | Path) -> str:
    """What a pilot's run gains with the authors' decoder, with a space before; "" if there is none.

    It stands beside the same run with half of it.
    """
    store = Store(folder)
    for run in experiments.pilot(preset):
        ours, theirs = store.record(replace(run, decoder_convs=2)), store.record(run)
        if run.decoder_convs == 4 and ours and theirs:
            change = _change(ours["best"]["iou"], theirs["best"]["iou"])
            first, second = (record["machine"].get("precision") for record in (ours, theirs))
            also = f" ({first} → {second})" if first != second else ""
            return f" With the authors' decoder, one run of {run.epochs} epochs: {change}{also}."
    return ""


def _faster(preset: str, folder: str | Path) -> str:
    """Whether DLI only learns faster."""
    told = []
    for split, leads in lead_curves(preset, folder).items():
        found = quarters(leads).values()
        means = [f"{e.mean:z.3f}{DECIDED if e.low > 0 or e.high < 0 else ''}" for e in found]
        told.append(f"{', '.join(means)} ({split}, n = {len(leads)})")
    if not told:
        return ""
    means = "; ".join(told)
    note = f" ({DECIDED}: decided)" if DECIDED in means else ""
    return f"**Faster or better?** DLI less the {RIVAL}, by quarter of the epochs{note}: {means}."


def _within(record: Record, which: np.ndarray) -> str:
    """Within how many images a run first finds the last of some of its classes (K,)."""
    epochs, counts = class_history(record)
    iou = np.array([[iou_score(*of_class) for of_class in of_epoch] for of_epoch in counts])
    first = epochs[(iou[:, which] >= claims.FLOOR).argmax(axis=0).max()]
    return f", within its first {first * tables.images_seen(record):,} images"


def _epoch_and_split(preset: str, folder: str | Path) -> str:
    """Whether the choice of the epoch or the split explains the lead."""
    lead = flattery(preset, folder).set_index("method").loc[LESS]
    if lead[claims.PAPERS] in ("pending", NOTHING):
        return ""
    split = f"the paper's split, at the last epochs, {lead[SPLIT]}"
    if lead[SPLIT] in ("pending", claims.NOT_PLANNED):
        split = f"the split {lead[SPLIT]}"
    return (
        f"**The best epoch or the leak?** To DLI's lead over the {RIVAL}, "
        f"{lead[claims.PAPERS]}, the choice of the epoch adds {lead[EPOCH]} and {split}."
        f"{_best_epochs(preset, folder)}"
    )


def _best_epochs(preset: str, folder: str | Path) -> str:
    """When the best epochs come on each split, a sentence with a space before; "" for one split."""
    frame = records(Path(folder, "records"))
    means = [_comparison(preset, frame, split)["epoch_best"].mean() for split in tables.SPLITS]
    if np.isnan(means).any():
        return ""
    first, second = (f"{mean:.0f}" for mean in means)
    return f" Mean best epoch of all methods: {first} (tile-disjoint {second})."


def _classes(preset: str, folder: str | Path) -> str:
    """Which classes carry the lead."""
    groups = _pairs(preset, folder)
    if not groups:
        return ""
    alone = _alone(groups)
    means = [f"{name} {gained.mean:z.3f}" for name, gained in alone.items()]
    clear = [name for name, gained in alone.items() if gained.low > 0 or gained.high < 0]
    decided = f"{listed(clear)} decided" if clear else "all undecided"
    return (
        f"**Which classes carry it?** The {RIVAL}'s gain in micro IoU with DLI's pixels of one "
        f"class: {listed(means)} (n = {len(groups)}; {decided})."
    )


def _held(preset: str, folder: str | Path) -> str:
    """Whether the intervals are honest."""
    fewest = _numbers_of_seeds(preset)[0]
    found = held(preset, folder, [fewest])
    if found.empty:
        return ""
    held_by = found.groupby("protocol", sort=False)[WIDER]
    shares = [f"{protocol} {_percents(share)}" for protocol, share in held_by]
    return (
        f"**Honest intervals?** Of 95 % intervals of DLI's lead over the {RIVAL}, simulated over "
        f"{fewest} independent seeds, so many hold the truth: {'; '.join(shares)}."
    )


def _percents(shares: pd.Series) -> str:
    low, high = (f"{100 * share:.0f}" for share in (shares.min(), shares.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _decided(preset: str, folder: str | Path) -> str:
    """What it would take to decide the claims."""
    found = decided(preset, folder)
    found = found[found["paper"] != NOTHING]
    papers, ours = (_seeds(found, column) for column in ("seeds by it", "seeds by ours"))
    hours, device = _hours(preset, folder)
    words = (
        f"**What would decide?** In {100 * POWER:.0f} % of studies, by the paper's protocol, "
        f"differences and spread, so many seeds or more (it has {claims.PAPER_SEEDS}, `{preset}` "
        f"{len(experiments.preset_named(preset).seeds)}): {listed(papers)}."
    )
    if ours:
        words += f" With our spread (95 % interval): {listed(ours)}."
    if device:
        words += f" A seed takes {2 * hours:.1f} hours on {device}."
    return words


def _seeds(found: pd.DataFrame, column: str) -> list[str]:
    """The seeds that each claim needs, by a column of `decided`."""
    names = found["claim"].str.replace("(DLI|both blends) beats? ", "", regex=True)
    known = zip(names, found[column], strict=True)
    return [f"{name} {seeds}" for name, seeds in known if seeds != NOTHING]
