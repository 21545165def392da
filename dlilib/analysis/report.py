"""results/README.md, written from the records by one command and from nothing else."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dlilib.analysis import claims, few_shot, referee, tables
from dlilib.analysis.records import records, select
from dlilib.losses import METHODS
from dlilib.metrics import shown
from dlilib.study import experiments
from dlilib.study.presets import PRESETS
from dlilib.training.store import Store
from dlilib.wording import listed

# The largest first; what toy tiles give says nothing about the paper.
PRESETS_SHOWN = [name for name in reversed(PRESETS) if PRESETS[name].base.data != "toy"]
EPOCHS = (claims.PAPERS, "last epoch")
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
    "What each part adds: the variants with it minus the same variants without it, seed by seed; "
    '"all three" and "DLI" minus plain training. Intervals for the micro IoU as under "What '
    "survives\", for the other two Student's t over seeds alone. Nothing is corrected for how many "
    "they are: of 20 intervals one excludes 0 by chance. Not measurable: IoUs below 0.05 on "
    "average with the part and without it.\n"
)
VERDICTS = (
    "Differences in micro IoU over n seeds; 95 % intervals: the wider of Student's t over seeds "
    "and a bootstrap over seeds and parts (not over images). Three claims are other differences: "
    '"every class" in the IoU of the images, as in Figure 3, of that class whose gain fails or '
    'else reaches lowest, "drops less" in the share of the IoU kept at half the data, and "small '
    'defects" in the mean IoU gained by small classes, or that minus the gain of large ones, '
    "whichever fails or else reaches lower; all with Student's t alone.\n"
)
SEEDS = (
    "How many seeds would decide each claim: those with which 80 % of all studies would exclude 0 "
    "by Student's t alone, so the least, if the true difference were the paper's, or the measured "
    "one where it prints none. Once with the paper's standard deviation over seeds, the root sum "
    "of squares of the two that it prints, times √(5/4), since the authors' code divides by the "
    "number of seeds, and once with ours and with the ends of its 95 % "
    "interval. Hours: of the runs that a seed needs, on the device that was fastest so far.\n"
)
SCORES = (
    "Mean class IoU: each class counts alike. Precision and recall: of the pixels of all "
    "classes together. Images found: of those whose mask shows a defect, over all seeds; at least "
    "one pixel of it is marked as its class.\n"
)
UNLIKE = "Rows of different n do not compare."
BY_IMAGES = "IoU of the images of each class"
FIGURE_3 = (
    "As the authors' code measures it: of all classes' pixels in the images of one class, at the "
    "best epoch. The paper draws it and prints no numbers.\n"
)
PILOT = (
    "Runs of seed 0 that compare batch size, learning rate, length and decoder with those of the "
    "preset, which was chosen by them: by DLI's IoU on validation images of seed 0, with nothing "
    "tuned for its rivals (the run with another decoder came later). Notebook 3 draws their "
    "curves. Figures of the best epoch; `last`: the last one's micro IoU; `decoder`: convolutions "
    "in each of its blocks. The minutes were taken "
    "beside other work on the machine.\n"
)
INTRODUCTION = """# Results

<!-- Written by `dli report` from the records; do not edit. -->

Ours: mean micro IoU of the validation images
at the epoch that is best on them (the authors' rule), with a 95 % interval (Student's t) over n
seeds. Paper: mean ± standard deviation over 5 seeds at 1000 epochs. Average: over the encoders;
ours seed by seed with its interval over seeds, the paper's ± over the encoders. A verdict is about
the preset that it stands under, and never stronger than its interval.
"""

NO_NUMBERS = "No run on real tiles is finished yet."
TOYS = "**Toy tiles show that everything runs; these numbers say nothing about the paper.**"
COLUMNS = 100  # of a line of text
BEGIN, END = "<!-- dli report: begin -->", "<!-- dli report: end -->"


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


def summary(preset: str, results: str | Path) -> str:
    """Write a preset's result in short, as Markdown.

    What its runs are, Table 1 on both splits beside the paper's, the verdict in words, also of
    second encoders, and what a referee would ask.

    Args:
        preset: A key of `PRESETS`.
        results: Folder of all results.
    """
    folder = experiments.results_folder(preset, results)
    planned = experiments.all_runs(preset)
    frame = select(records(folder / "records"), planned)
    encoders = tables.finished_encoders(preset, frame) or [PRESETS[preset].base.encoder]
    toys = TOYS if PRESETS[preset].base.data == "toy" else ""
    finished = f"Finished: {len(frame)} of {len(planned)} planned runs{_precisions(frame)}."
    about = f"Preset `{preset}`: {PRESETS[preset].about}. {finished} {toys}"
    found = claims.claims(preset, folder, encoders)
    blocks = [_wrapped(about)]
    for encoder in [name for name in encoders if name in PRESETS[preset].encoders]:
        blocks.append(tables.markdown(tables.result_table(preset, frame, encoder)))
    unlike = any(_unlike(preset, frame, name) for name in encoders)
    words = [UNLIKE] if unlike else []
    words += verdict_in_words(claims.verdicts(found))
    words += [*_lead_in_numbers(found), *_pilot_in_words(preset, folder)]
    if len(encoders) > 1:
        words.append(f"What a referee would ask, of {PRESETS[preset].base.encoder}:")
    blocks.append(_wrapped(" ".join(words)))
    blocks.append("\n".join(_items(referee.in_words(preset, folder))))
    return "\n\n".join(blocks) + "\n"


def _unlike(preset: str, frame: pd.DataFrame, encoder: str) -> str:
    """The means over common seeds, where the rows of Table 1 are over different ones; else ""."""
    told = []
    for split, title in tables.SPLITS.items():
        runs = experiments.experiment("comparison", preset, [encoder], split=split)
        found = select(frame, runs).pivot(index="seed", columns="method", values="iou_best")
        common = found.dropna()
        if len(common) < len(found):
            means = [f"{name} {common[name].mean():.3f}" for name in METHODS if name in common]
            what = listed(means) if len(common) else "pending"
            told.append(f"{title} (n = {len(common)}): {what}")
    if not told:
        return ""
    return f"{UNLIKE} Over the seeds that all have ({encoder}), {'; '.join(told)}."


def _precisions(frame: pd.DataFrame) -> str:
    """How many runs were trained in each precision, in brackets; "" where all were in one."""
    counts = frame["precision_used"].value_counts().sort_index()
    if len(counts) < 2:
        return ""
    return f" ({listed(f'{n} in {name}' for name, n in counts.items())})"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        COLUMNS,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _items(sentences: list[str]) -> list[str]:
    """Items of a list."""
    return [_wrapped(f"- {sentence}", indent="  ") for sentence in sentences]


def verdict_in_words(found: pd.DataFrame) -> list[str]:
    """Say how DLI's lead fares, in two sentences for each encoder.

    Args:
        found: Rows of `claims.verdicts`.
    """
    lines = []
    for encoder, rows in found.groupby("encoder", sort=False):
        leads = rows[rows["claim"].str.startswith(claims.LEAD)]
        measured = leads[leads["survives?"] != "pending"]
        audits = " or ".join((leads if measured.empty else measured)["audit"].unique())
        new = "; no number in the paper, so its sign alone" if leads["paper"].isna().all() else ""
        lines.append(
            f"Under the paper's protocol, DLI's lead ({encoder}{new}) is "
            f"{_grouped(leads, 'reproduced?')}."
        )
        lines.append(f"Under the audit ({audits}), it is {_grouped(leads, 'survives?')}.")
    return lines


def _lead_in_numbers(found: pd.DataFrame) -> list[str]:
    """How large DLI's lead is beside the paper's: a sentence for each encoder.

    found: rows of `claims.claims`.
    """
    leads = found[found["claim"].str.startswith(claims.LEAD) & (found["n"] > 0)]
    lines = []
    for encoder, rows in leads[leads["protocol"] == claims.PAPERS].groupby("encoder", sort=False):
        unlike = rows["n"].nunique() > 1
        each = []
        for row in rows.to_dict("records"):
            excluded = ", excluded" if row["high"] < row["paper"] else ""
            told = [] if pd.isna(row["paper"]) else [f"{row['paper']:.3f}{excluded}"]
            told += [f"n = {row['n']}"] if unlike else []
            beside = f" ({'; '.join(told)})" if told else ""
            each.append(f"{row['claim'].removeprefix(claims.LEAD)} {row['mean']:.3f}{beside}")
        brackets = "" if rows["paper"].isna().all() else "; in brackets the paper's"
        lines.append(
            f"DLI's mean IoU less the rival's, by the paper's protocol ({encoder}{brackets}): "
            f"{listed(each)}."
        )
    return lines


def lead_in_words(found: pd.DataFrame) -> str:
    """Say how DLI's lead fares under one protocol, in a sentence for each encoder.

    Args:
        found: Rows of `claims.claims`, of one protocol.
    """
    leads = found[found["claim"].str.startswith(claims.LEAD)]
    by_encoder = leads.groupby("encoder", sort=False)
    return "\n".join(
        f"DLI's lead ({encoder}) is {_grouped(rows, 'verdict')}." for encoder, rows in by_encoder
    )


def _grouped(rows: pd.DataFrame, column: str) -> str:
    """The methods by verdict: "reproduced against wce; pending against baseline and focal"."""
    parts = []
    short = rows[column].str.replace(r"; .*\)$", ")", regex=True)  # without what leaves it open
    for verdict, same in rows.groupby(short, sort=False):
        word = "not measured yet" if verdict == "pending" else verdict
        rivals = listed(same["claim"].str.removeprefix(claims.LEAD))
        parts.append(f"{word} against {rivals if len(same) < len(rows) else 'all'}")
    return "; ".join(parts)


def claim_in_words(found: pd.DataFrame, claim: str) -> str:
    """Say what became of one claim, in a sentence for each encoder.

    Args:
        found: Rows of `claims.claims`, of one protocol.
        claim: One of its claims.
    """
    lines = []
    for row in found[found["claim"] == claim].itertuples():
        measured = f", {row.text}" if row.n else ""
        printed = "" if pd.isna(row.paper) else f" (the paper: {row.paper:+.3f})"
        lines.append(f"{claim} ({row.encoder}): {row.state}{measured}{printed}.")
    return "\n".join(lines)


def _pilot_in_words(preset: str, folder: Path) -> list[str]:
    """A sentence for each pair of runs of the pilot that differ in DLI alone.

    Only for the splits on which the preset's own runs are not finished.
    """
    store = Store(folder)
    lines = []
    for run in [run for run in experiments.pilot(preset) if run.method == "baseline"]:
        own = replace(PRESETS[preset].base, split=run.split)
        if all(store.record(replace(own, method=method)) for method in experiments.AUDITED):
            continue
        plain, dli = store.record(run), store.record(replace(run, method="dli"))
        if plain is None or dli is None:
            continue
        images = tables.images_seen(plain) * run.epochs
        lines.append(
            f"In the pilot ({tables.SPLITS[run.split]}, one seed, {run.size} px, {images:,} images "
            f"seen) DLI reached {shown(dli['best']['iou'])} and the baseline "
            f"{shown(plain['best']['iou'])}."
        )
    return lines


def verdicts(preset: str, results: str | Path) -> str:
    """Write a preset's claims and their verdicts as Markdown."""
    folder = experiments.results_folder(preset, results)
    frame = select(records(folder / "records"), experiments.all_runs(preset))
    encoders = tables.finished_encoders(preset, frame)
    table = tables.verdict_table(preset, folder, encoders)
    if table["encoder"].nunique() == 1:
        table = table.drop(columns="encoder")
    return f"{VERDICTS}\n{tables.markdown(table)}\n"


def renewed(page: str, results: str | Path) -> str:
    """Return a page with the text between its marks `BEGIN` and `END` written anew.

    It becomes the summary of the largest preset that has records.

    Args:
        page: Markdown, such as the README's; without the marks it is returned as it is.
        results: Folder of all results.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    preset = next((p for p in PRESETS_SHOWN if any(_finished(p, results))), None)
    if not end or preset is None:
        return page
    return f"{before}{begin}\n\n{summary(preset, results)}\n{end}{after}"


def _preset(preset: str, results: str | Path) -> list[str]:
    """Blocks of Markdown that make a preset's section; none if none of its runs is finished."""
    folder = experiments.results_folder(preset, results)
    trained, piloted = _finished(preset, results)
    if not trained and not piloted:
        return []
    frame = select(records(folder / "records"), experiments.all_runs(preset))
    blocks = [f"## `{preset}`\n"]
    if trained:
        blocks.append(_about(preset, frame))
        blocks += _paper_tables(preset, frame)
        blocks += _claims(preset, frame, folder)
        blocks += _few_shot(preset, folder)
    else:
        blocks.append(f"{PRESETS[preset].about}. No run of its grid is finished.\n")
    if piloted:
        pilot = tables.markdown(tables.pilot_table(preset, folder))
        blocks += ["### Pilot\n", PILOT, pilot, ""]
    return blocks


def _finished(preset: str, results: str | Path) -> tuple[bool, bool]:
    """Whether a run of the preset's grid is finished, and whether one of its pilot is."""
    folder = experiments.results_folder(preset, results)
    finished = set(records(folder / "records")["id"])
    grid, pilot = experiments.all_runs(preset), experiments.pilot(preset)
    return tuple(any(run.id in finished for run in runs) for runs in (grid, pilot))


def _about(preset: str, frame: pd.DataFrame) -> str:
    """What the preset is, how its runs start, and how much of it is finished."""
    counts = frame.groupby(["device", "precision_used"]).size()
    machines = "; ".join(f"{n} on {device}, {used}" for (device, used), n in counts.items())
    starts = frame["weights"].map(lambda weights: "random" if pd.isna(weights) else weights)
    planned = len(experiments.all_runs(preset))
    mixed = (
        " Tables pool the precisions, and no run was made in both: part of a difference between "
        "two runs may be theirs."
    )
    return (
        f"{PRESETS[preset].about}. Start: {', '.join(sorted(set(starts)))}. {len(frame)} of "
        f"{planned} planned runs ({machines}), {frame['seconds'].sum() / 60:.0f} minutes in all."
        f"{mixed if frame['precision_used'].nunique() > 1 else ''}\n"
    )


def _paper_tables(preset: str, frame: pd.DataFrame) -> list[str]:
    """Tables 1 and 2 and the IoU per class, on both splits."""
    blocks, encoders = [], tables.finished_encoders(preset, frame)
    for number, title in PAPER_TABLES.items():
        for split, name in tables.SPLITS.items():
            table = tables.paper_table(number, preset, frame, split=split).reset_index()
            note = [] if split == "image" else ["The paper's numbers are of its own split.\n"]
            blocks += [f"### {title}, {name}\n", *note, tables.markdown(table), ""]
        if number == 1:
            blocks += [f"{words}\n" for e in encoders if (words := _unlike(preset, frame, e))]
    for encoder in [name for name in encoders if name in PRESETS[preset].second_encoders]:
        table = tables.result_table(preset, frame, encoder).drop(columns="paper")
        blocks += ["### A second encoder, which the paper does not have\n"]
        blocks += [tables.markdown(table), ""]
    for split, name in tables.SPLITS.items():
        table = tables.class_table(preset, frame, encoders, split=split, by="images")
        blocks += [f"### Figure 3: {BY_IMAGES}, {name}\n", FIGURE_3, tables.markdown(table), ""]
        table = tables.class_table(preset, frame, encoders, split=split)
        blocks += [f"### IoU per class at the best epoch, {name}\n", tables.markdown(table), ""]
        table = tables.scores_table(preset, frame, encoders, split=split)
        title = f"### More than the micro IoU, at the best epoch, {name}\n"
        blocks += [title, SCORES, tables.markdown(table), ""]
    return blocks


def _claims(preset: str, frame: pd.DataFrame, folder: Path) -> list[str]:
    """The verdicts, and what DLI's open choices change, at both epochs."""
    encoders = tables.finished_encoders(preset, frame)
    verdicts = tables.verdict_table(preset, folder, encoders)
    planned = [name for name in encoders if name in PRESETS[preset].encoders]
    found = claims.claims(preset, folder, planned, protocols=EPOCHS, which=claims.OPEN)
    choices = found.pivot(index=["encoder", "claim"], columns="protocol", values="text")
    choices = choices[list(EPOCHS)].reset_index()
    survives = ["### What survives\n", VERDICTS, tables.markdown(verdicts), ""]
    needed = tables.markdown(referee.decided(preset, folder))
    first = f"All of it is about {PRESETS[preset].base.encoder}.\n"
    asked = ["### Read as a referee\n", first, *_items(referee.in_words(preset, folder)), ""]
    title = "### What DLI leaves open, the paper's split\n"
    return [*survives, *asked, SEEDS, needed, "", title, tables.markdown(choices), ""]


def _few_shot(preset: str, folder: Path) -> list[str]:
    """The few-shot tables; no blocks if no such run is finished."""
    runs = few_shot.runs(preset, folder)
    if not runs["record"].notna().any():
        return []
    title = "### Few-shot: the paper's parts in our interpretation\n"
    table, gains = few_shot.table(runs), few_shot.gains(runs)
    return [title, FEW_SHOT, tables.markdown(table), "", GAINS, tables.markdown(gains), ""]
