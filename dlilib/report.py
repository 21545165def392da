"""results/README.md, written from the records by one command and from nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlilib import claims, few_shot, study
from dlilib.losses import METHODS
from dlilib.metrics import iou
from dlilib.run import Run
from dlilib.stats import SHARE, estimate, summarise
from dlilib.store import Store

SPLITS = {"image": "the paper's split", "tile": "tile-disjoint"}
EPOCHS = ("paper's protocol", "last epoch")
PAPER_IMAGES = 1000 * (313 + 952)  # training images seen: epochs × those of an epoch
FEW_SHOT = (
    "Annotated images a class (shots); the last epoch's figures on the defects of all other tiles. The few-shot paper "
    "gives no formulas: see notebook 6 for what was chosen in their place. AUROC of features: how well the encoder's "
    "features tell defect cells from normal ones, by their angle to the mean direction of these.\n"
)
GAINS = (
    "What each part adds: the ways with it less the same ways without it, seed by seed; \"all three\" and \"DLI\" less "
    "plain training. Intervals for the micro IoU as under \"What survives\", for the other two Student's t over seeds "
    "alone. Nothing is corrected for how many they are: of 20 intervals one leaves out 0 by chance. Not measurable: "
    "IoUs below 0.05 on average with the part and without it.\n"
)
VERDICTS = (
    "Differences in micro IoU over n seeds; 95 % intervals: the wider of Student's t over seeds and a bootstrap "
    "over seeds and parts (not over images). The last two claims are other differences, with Student's t alone: in "
    "the share of the IoU kept at half the data, and in the mean IoU gained by small classes less large ones.\n"
)
PILOT = (
    "Runs of seed 0 that compared batch size, learning rate and length before the preset's schedule was set; notebook "
    "3 draws their curves. Figures of the best epoch; `last`: the last one's micro IoU. The minutes were taken beside "
    "other work on the machine.\n"
)
INTRODUCTION = """# Results

Written by `dli report` from the records; do not edit. Ours: mean micro IoU of the validation images at the epoch that
is best on them, the paper's figure, with a 95 % interval (Student's t) over n seeds. Paper: mean ± standard deviation
over 5 seeds at 1000 epochs. Average: over the encoders; ours seed by seed with its interval over seeds, the paper's ±
over the encoders. A verdict is about the preset that it stands under, and never stronger than its interval.
"""


def report(results: str | Path, paper: pd.DataFrame) -> str:
    """Markdown: for each preset with records what they are, Tables 1 and 2 beside the paper's, and the claims.

    Raises ValueError where `results` holds no records.
    """
    parts = [INTRODUCTION]
    for preset in ("paper", "short", "lite"):
        folder = study.results_folder(preset, results)
        frame = study.records(folder / "records")
        frame = study.select(frame, study.all_runs(preset))
        pilot = pilot_table(preset, folder)
        piloted = len(pilot) > 0 and (pilot["micro IoU"] != "pending").any()
        if len(frame):
            parts += _preset(preset, frame, folder, paper)
        elif piloted:
            parts += [f"## `{preset}`\n", f"{study.PRESETS[preset].about}. No run of its grid is finished.\n"]
        if piloted:
            parts += ["### Pilot\n", PILOT, markdown(pilot), ""]
    if len(parts) == 1:
        raise ValueError(f"no records of paper, short or lite in {results}")
    return "\n".join(parts)


def paper_table(
    number: int, preset: str, frame: pd.DataFrame, paper: pd.DataFrame, split: str = "image", seeds: Sequence[int] = ()
) -> pd.DataFrame:
    """Table 1 or 2: a row for each method or blend; for each encoder, and for all three, ours and the paper's.

    Every encoder of the paper has its columns, whether the preset plans it or not: what is not there is "pending".
    """
    name, by = (("comparison", "method"), ("ablation", "p_poisson"))[number - 1]
    runs = study.experiment(name, preset, study.LIGHT_ENCODERS, seeds, split=split)
    ours = summarise(runs, frame, ["encoder", by]).set_index(["encoder", by])["text"]
    printed = paper[paper["table"] == number].set_index(["encoder", by])
    rows = []
    for key in METHODS if number == 1 else (0.0, 1.0, 0.5):
        found = study.select(frame, [run for run in runs if getattr(run, by) == key])
        by_seed = found.pivot(index="seed", columns="encoder", values="iou_best").reindex(columns=study.LIGHT_ENCODERS)
        texts = {encoder: ours[encoder, key] for encoder in study.LIGHT_ENCODERS}
        texts["average"] = str(estimate(by_seed.dropna().mean(axis=1), within=SHARE))  # of seeds with all encoders
        row = {by: key}
        for encoder, text in texts.items():
            theirs = printed.loc[encoder, key]
            row |= {f"{encoder}, ours": text, f"{encoder}, paper": f"{theirs['mean']:.3f} ± {theirs['std']:.3f}"}
        rows.append(row)
    return pd.DataFrame(rows).set_index(by)


def class_table(
    preset: str, frame: pd.DataFrame, encoders: Sequence[str] = (), split: str = "image", seeds: Sequence[int] = ()
) -> pd.DataFrame:
    """Figure 3 in numbers: a row for each encoder and method, ours for each class (column)."""
    runs, by = study.experiment("comparison", preset, encoders, seeds, split=split), ["encoder", "method"]
    columns = [name for name in frame if name.startswith("iou_") and name not in ("iou_best", "iou_last")]
    table = summarise(runs, frame, by)[by]
    for name in columns:
        found = summarise(runs, frame, by, name)
        never = "never found (n = " + found["n"].astype(str) + ")"
        table[name.removeprefix("iou_")] = found["text"].where(found["mean"] != 0, never)
    return table


def learning_curve(record: dict[str, Any]) -> pd.DataFrame:
    """IoU on the validation images against training images seen: columns what ("all classes" or a class), images, IoU.

    All classes at every epoch, each class at the epochs that the record keeps, the last one among them; records from
    before these were kept have the last one alone.
    """
    run, history, last = Run(**record["run"]), record["history"], record["last"]["classes"]
    by_class = history.get("classes", [])
    every = math.ceil(run.epochs / max(1, len(by_class)))  # epochs between two points of a class
    epochs, seen = np.arange(1, run.epochs + 1), images_seen(record)
    rows = [
        ("all classes", seen * epoch, iou(tp, fp, record["positives"] - tp))
        for epoch, tp, fp in zip(epochs, history["tp"], history["fp"], strict=True)
    ]
    for c, name in enumerate(record["data"]["classes"]):
        positives = last[c][0] + last[c][2]
        points = [*zip(epochs[::every], (counts[c] for counts in by_class), strict=False), (run.epochs, last[c][:2])]
        rows += [(name, seen * epoch, iou(tp, fp, positives - tp)) for epoch, (tp, fp) in points]
    return pd.DataFrame(rows, columns=["what", "images", "IoU"])


def schedule(run: Run) -> str:
    """What sets a pilot's run apart from the others, for a legend."""
    return f"{run.method}, {run.split} split, {run.size} px, batch {run.batch}, lr {run.lr:g}, {run.epochs} epochs"


def images_seen(record: dict[str, Any]) -> int:
    """Training images of one epoch of a run that is not few-shot: its defective ones and its share of the free ones."""
    free, *defective = record["data"]["train"]
    return round(free * record["run"]["free_share"]) + sum(defective)


def pilot_table(preset: str, folder: str | Path) -> pd.DataFrame:
    """The pilot's runs, by which the preset's schedule was chosen: a row each, "pending" where not finished.

    Figures are those of the best epoch, as in Table 1, but for `last`; minutes on the machine that is named.
    """
    rows = []
    for run in study.experiment("pilot", preset):
        row = {"method": run.method, "split": run.split, "size": run.size, "batch": run.batch, "lr": f"{run.lr:g}"}
        row["epochs"] = run.epochs
        record = Store(folder).record(run)
        if record is None:
            rows.append({**row, "micro IoU": "pending"})
            continue
        images = images_seen(record)
        row |= {"images": images * run.epochs, "steps": math.ceil(images / run.batch) * run.epochs}
        row |= {"minutes": round(record["seconds"] / 60), "micro IoU": f"{record['best']['iou']:.3f}"}
        row["last"] = f"{record['last']['iou']:.3f}"
        classes = zip(record["data"]["classes"], record["best"]["classes"], strict=True)
        row |= {name: f"{iou(*counts):.3f}" for name, counts in classes}
        machine = record["machine"]
        row["machine"] = f"{machine['device']}, {machine['precision']}".replace(", ", "; ")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object).fillna("")


def verdict_table(preset: str, folder: Path, paper: pd.DataFrame, encoders: Sequence[str] = ()) -> pd.DataFrame:
    """What survives: `claims.verdicts`, with words where the paper prints no number."""
    found = claims.verdicts(claims.claims(preset, folder, paper, encoders))
    found["paper"] = found["paper"].map("{:+.3f}".format).replace("+nan", "drawn only")
    return found


def markdown(frame: pd.DataFrame) -> str:
    """The columns of the frame as a Markdown table."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _preset(preset: str, frame: pd.DataFrame, folder: Path, paper: pd.DataFrame) -> list[str]:
    about = study.PRESETS[preset]
    devices = "; ".join(f"{n} on {device}" for device, n in frame["device"].value_counts().items())
    weights = ", ".join(sorted({w or "random" for w in frame["weights"].replace({float("nan"): None})}))
    parts = [
        f"## `{preset}`\n",
        f"{about.about}. Start: {weights}; precision: {', '.join(frame['precision_used'].unique())}. {len(frame)} of "
        f"{len(study.all_runs(preset))} planned runs ({devices}), {frame['seconds'].sum() / 60:.0f} minutes in all.\n",
    ]
    for number, title in ((1, "Table 1: methods"), (2, "Table 2: DLI by cut-paste (0), Poisson (1) and both (0.5)")):
        for split, name in SPLITS.items():
            table = paper_table(number, preset, frame, paper, split)
            parts += [f"### {title}, {name}\n", markdown(table.reset_index()), ""]
    encoders = [encoder for encoder in about.encoders if encoder in set(frame["encoder"])]
    for split, name in SPLITS.items():
        parts += [f"### IoU per class, {name}\n", markdown(class_table(preset, frame, encoders, split)), ""]
    choices = claims.claims(preset, folder, paper, encoders, protocols=EPOCHS, which=claims.OPEN)
    choices = choices.pivot(index=["encoder", "claim"], columns="protocol", values="text")[list(EPOCHS)].reset_index()
    parts += ["### What survives\n", VERDICTS, markdown(verdict_table(preset, folder, paper, encoders)), ""]
    parts += ["### What DLI leaves open, the paper's split\n", markdown(choices), ""]
    few = few_shot.runs(preset, folder)
    if few["record"].notna().any():
        parts += ["### Few-shot: NBR and weighted BCE in our reading\n", FEW_SHOT, markdown(few_shot.table(few)), ""]
        parts += [GAINS, markdown(few_shot.gains(few)), ""]
    return parts

