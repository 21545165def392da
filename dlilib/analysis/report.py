"""results/README.md, written from the records by one command and from nothing else."""

from pathlib import Path

import pandas as pd

from dlilib.analysis import claims, few_shot, tables
from dlilib.analysis.records import records, select
from dlilib.study import experiments
from dlilib.study.presets import PRESETS

# The largest first; what toy tiles give says nothing about the paper.
PRESETS_SHOWN = [name for name in reversed(PRESETS) if PRESETS[name].base.data != "toy"]
EPOCHS = ("paper's protocol", "last epoch")
PAPER_TABLES = {
    1: "Table 1: methods",
    2: "Table 2: DLI by cut-paste (0), Poisson (1) and both (0.5)",
}
FEW_SHOT = (
    "Annotated images a class (shots); the last epoch's figures on the defects of all other parts. "
    "The few-shot paper gives no formulas: see notebook 6 for what was chosen in their place. "
    "AUROC of features: how well the encoder's features tell defect cells from normal ones, by "
    "their angle to the mean direction of these.\n"
)
GAINS = (
    "What each part adds: the variants with it less the same variants without it, seed by seed; "
    '"all three" and "DLI" less plain training. Intervals for the micro IoU as under "What '
    "survives\", for the other two Student's t over seeds alone. Nothing is corrected for how many "
    "they are: of 20 intervals one excludes 0 by chance. Not measurable: IoUs below 0.05 on "
    "average with the part and without it.\n"
)
VERDICTS = (
    "Differences in micro IoU over n seeds; 95 % intervals: the wider of Student's t over seeds "
    "and a bootstrap over seeds and parts (not over images). The last two claims are other "
    "differences, with Student's t alone: in the share of the IoU kept at half the data, and in "
    "the mean IoU gained by small classes less large ones.\n"
)
PILOT = (
    "Runs of seed 0 that compared batch size, learning rate and length before the preset's "
    "schedule was set; notebook 3 draws their curves. Figures of the best epoch; `last`: the last "
    "one's micro IoU. The minutes were taken beside other work on the machine.\n"
)
INTRODUCTION = """# Results

Written by `dli report` from the records; do not edit. Ours: mean micro IoU of the validation images
at the epoch that is best on them, the paper's figure, with a 95 % interval (Student's t) over n
seeds. Paper: mean ± standard deviation over 5 seeds at 1000 epochs. Average: over the encoders;
ours seed by seed with its interval over seeds, the paper's ± over the encoders. A verdict is about
the preset that it stands under, and never stronger than its interval.
"""


def report(results: str | Path) -> str:
    """Write the results as Markdown.

    Each preset with records gets a section: what its runs are, Tables 1 and 2 beside the paper's,
    IoU per class, the claims, the few-shot runs and the pilot.

    Args:
        results: Folder of all results.

    Raises:
        ValueError: It holds no records.
    """
    lines = []
    for preset in PRESETS_SHOWN:
        lines += _preset(preset, results)
    if not lines:
        raise ValueError(f"no records of {', '.join(PRESETS_SHOWN)} in {results}")
    return "\n".join([INTRODUCTION, *lines])


def _preset(preset: str, results: str | Path) -> list[str]:
    """Blocks of Markdown that make a preset's section; none if none of its runs is finished."""
    folder = experiments.results_folder(preset, results)
    frame = select(records(folder / "records"), experiments.all_runs(preset))
    pilot = tables.pilot_table(preset, folder)
    piloted = len(pilot) > 0 and (pilot["micro IoU"] != "pending").any()
    if not len(frame) and not piloted:
        return []
    blocks = [f"## `{preset}`\n"]
    if len(frame):
        blocks.append(_about(preset, frame))
        blocks += _paper_tables(preset, frame)
        blocks += _claims(preset, frame, folder)
        blocks += _few_shot(preset, folder)
    else:
        blocks.append(f"{PRESETS[preset].about}. No run of its grid is finished.\n")
    if piloted:
        blocks += ["### Pilot\n", PILOT, tables.markdown(pilot), ""]
    return blocks


def _about(preset: str, frame: pd.DataFrame) -> str:
    """What the preset is, how its runs start, and how much of it is finished."""
    counts = frame["device"].value_counts()
    devices = "; ".join(f"{n} on {device}" for device, n in counts.items())
    starts = frame["weights"].map(lambda weights: "random" if pd.isna(weights) else weights)
    precisions = ", ".join(frame["precision_used"].unique())
    planned = len(experiments.all_runs(preset))
    return (
        f"{PRESETS[preset].about}. Start: {', '.join(sorted(set(starts)))}; precision: "
        f"{precisions}. {len(frame)} of {planned} planned runs ({devices}), "
        f"{frame['seconds'].sum() / 60:.0f} minutes in all.\n"
    )


def _paper_tables(preset: str, frame: pd.DataFrame) -> list[str]:
    """Tables 1 and 2 and the IoU per class, on both splits."""
    blocks = []
    for number, title in PAPER_TABLES.items():
        for split, name in tables.SPLITS.items():
            table = tables.paper_table(number, preset, frame, split=split).reset_index()
            blocks += [f"### {title}, {name}\n", tables.markdown(table), ""]
    encoders = tables.finished_encoders(preset, frame)
    for split, name in tables.SPLITS.items():
        table = tables.class_table(preset, frame, encoders, split=split)
        blocks += [f"### IoU per class, {name}\n", tables.markdown(table), ""]
    return blocks


def _claims(preset: str, frame: pd.DataFrame, folder: Path) -> list[str]:
    """The verdicts, and what DLI's open choices change, at both epochs."""
    encoders = tables.finished_encoders(preset, frame)
    verdicts = tables.verdict_table(preset, folder, encoders)
    found = claims.claims(preset, folder, encoders, protocols=EPOCHS, which=claims.OPEN)
    choices = found.pivot(index=["encoder", "claim"], columns="protocol", values="text")
    choices = choices[list(EPOCHS)].reset_index()
    survives = ["### What survives\n", VERDICTS, tables.markdown(verdicts), ""]
    title = "### What DLI leaves open, the paper's split\n"
    return [*survives, title, tables.markdown(choices), ""]


def _few_shot(preset: str, folder: Path) -> list[str]:
    """The few-shot tables; no blocks if no such run is finished."""
    runs = few_shot.runs(preset, folder)
    if not runs["record"].notna().any():
        return []
    title = "### Few-shot: NBR and weighted BCE in our interpretation\n"
    table, gains = few_shot.table(runs), few_shot.gains(runs)
    return [title, FEW_SHOT, tables.markdown(table), "", GAINS, tables.markdown(gains), ""]
