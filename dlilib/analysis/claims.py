"""What the paper claims, and what is left of each claim as its protocol is corrected."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlilib.analysis.paper import printed
from dlilib.analysis.records import class_history, iou_of_images
from dlilib.analysis.stats import (
    MOST_SEEDS,
    Estimate,
    Pair,
    clustered_difference,
    deviation_interval,
    estimate,
    half_width,
    seeds_to_decide,
)
from dlilib.losses import METHODS
from dlilib.metrics import NOTHING, iou_score
from dlilib.study.experiments import all_runs, preset_named
from dlilib.training.run import Run
from dlilib.training.store import Store
from dlilib.wording import listed

PAPERS = "paper's protocol"
LEAD = "DLI beats "  # how the claims about a competitor begin
SMALL = ("Blowhole", "Crack")  # the defects below 1 % of an image
OTHERS = "others"  # the epoch that runs choose which validate on other parts
SPREAD_SEEDS = 3  # from which on a measured deviation counts: over two it can be 0.03 of the true
PAPER_SEEDS = 5  # of each of its means
FLOOR = 0.05  # below this IoU of the small defects, in every run, gains in it say nothing

Record = dict[str, Any]
SeedRecords = list[Record]  # one seed's: DLI's at each fraction of the data, then the rival's


@dataclass(frozen=True)
class Protocol:
    """A training and evaluation protocol, described by what differs from the paper's."""

    changes: dict[str, Any] = field(default_factory=dict)  # fields of every run
    losses: str = "released"  # of the rivals whose loss as published differs
    epoch: str = "best"  # whose figures count, "best", "last" or `OTHERS`


FREE_IN_VAL = {"free_in_val": True}
TILE = {"split": "tile"}
PROTOCOLS = {
    PAPERS: Protocol(),
    "last epoch": Protocol(epoch="last"),
    "published losses": Protocol(losses="published"),
    "defect-free images validate": Protocol(FREE_IN_VAL),
    "defect-free images validate, published losses": Protocol(FREE_IN_VAL, losses="published"),
    "solid masks": Protocol({"threshold": 127}),
    "tile-disjoint": Protocol(TILE),
    "tile-disjoint, other folds' epoch": Protocol(TILE, epoch=OTHERS),
    "tile-disjoint, last epoch": Protocol(TILE, epoch="last"),
    "all corrected": Protocol(TILE | FREE_IN_VAL, losses="published", epoch="last"),
}
NOT_PLANNED = "not planned"  # no run of the preset feeds it
# The harder one first; the one with more seeds gives the verdict.
AUDIT = ("all corrected", "tile-disjoint, last epoch")


@dataclass(frozen=True)
class Verdict:
    """What an estimate says of a claim."""

    state: str  # "reproduced", "weaker", "not reproduced", "undecided", "pending", …
    why: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.why})" if self.why else self.state


def pair(ours: Record, theirs: Record, epoch: str) -> Pair:
    """Return two records' pixel counts at an epoch, "best" or "last".

    Raises:
        ValueError: They do not validate on the same images.
    """
    if ours["val_images"] != theirs["val_images"]:
        raise ValueError(
            f"{ours['id']} and {theirs['id']} validate on different images: not to be compared"
        )
    counts = [np.array(record[epoch]["images"]) for record in (ours, theirs)]
    return Pair(*counts, np.array(ours["val_tiles"]))


def class_iou(record: Record, epoch: str) -> np.ndarray:
    """IoU of each class at an epoch of the record: (K,), NaN where it has no pixel to find."""
    return np.array([iou_score(*counts) for counts in record[epoch]["classes"]])


def mean_class_iou(values: np.ndarray) -> float:
    """Mean of `class_iou`, or of differences in it, over the classes that have a pixel to find."""
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else float("nan")


def chosen_elsewhere(groups: list[SeedRecords]) -> list[SeedRecords]:
    """Give records the figures of an epoch that their own validation images did not choose.

    It is the one, of those of which records keep each class's counts, at which the same method's
    runs that validate on other parts are best on average. A record has its figures under `OTHERS`,
    without those of single images.

    Returns:
        The seeds for which there is such a run, in their order.
    """
    groups = [group for group in groups if all("classes" in made["history"] for made in group)]
    made = []
    for group in groups:
        own = set(group[0]["val_tiles"])
        others = [other for other in groups if own.isdisjoint(other[0]["val_tiles"])]
        others = [other for other in others if other[0]["positives"]]  # else nothing to choose by
        if others:
            by_method = zip(group, zip(*others, strict=True), strict=True)
            made.append([_at_epoch_of(record, theirs) for record, theirs in by_method])
    return made


def _at_epoch_of(record: Record, others: Iterable[Record]) -> Record:
    """A record with the figures of the epoch at which the others are best on average."""
    own, *theirs = (
        dict(zip(*class_history(made), strict=True))  # epoch -> counts
        for made in (record, *others)
    )

    def mean(epoch: int) -> float:
        return float(np.mean([iou_score(*counts[epoch].sum(axis=0)) for counts in theirs]))

    found = own[max(sorted(set(own).intersection(*theirs)), key=mean)]
    return record | {OTHERS: {"iou": iou_score(*found.sum(axis=0)), "classes": found.tolist()}}


def gain(groups: list[SeedRecords], epoch: str) -> Estimate:
    """Micro IoU of DLI less the rival's."""
    if epoch == OTHERS:  # without counts of single images
        return estimate([ours[epoch]["iou"] - theirs[epoch]["iou"] for ours, theirs in groups])
    return clustered_difference([pair(ours, theirs, epoch) for ours, theirs in groups])


def smaller_drop(groups: list[SeedRecords], epoch: str) -> Estimate:
    """How much more of its IoU DLI keeps than the rival from all of the data to half of it."""
    differences = []
    for ours_whole, ours_half, theirs_whole, theirs_half in groups:
        ours, theirs = (
            half[epoch]["iou"] / (whole[epoch]["iou"] or math.nan)
            for whole, half in ((ours_whole, ours_half), (theirs_whole, theirs_half))
        )
        differences.append(ours - theirs)
    return estimate(differences)


def small_less_large(groups: list[SeedRecords], epoch: str) -> Estimate:
    """Mean gain in IoU over the small classes, or that less the gain over the others.

    A method that only spares the small ones does not help them: they are helped more than the
    others if both lie above 0. So it is the one that lies below 0, else the one whose interval
    reaches lower.
    """
    found = np.empty((len(groups), 2))
    for seed, (ours, theirs) in enumerate(groups):
        gains = class_iou(ours, epoch) - class_iou(theirs, epoch)
        small = np.isin(ours["data"]["classes"], SMALL)
        gained, others = mean_class_iou(gains[small]), mean_class_iou(gains[~small])
        found[seed] = gained, gained - others
    found[np.isnan(found).any(axis=1)] = np.nan
    return _weakest([estimate(values) for values in found.T])


def least_class(groups: list[SeedRecords], epoch: str) -> Estimate:
    """Gain in IoU of the class that gains least, by the measure of the paper's Figure 3.

    It is the one whose interval lies below 0, else the one whose interval reaches lower: every
    class gains if it does.
    """
    gains = np.array([_figure_3(o, epoch) - _figure_3(t, epoch) for o, t in groups])
    found = [estimate(values) for values in gains.T]
    some = [gained for gained in found if not math.isnan(gained.mean)]
    return _weakest(some) if some else estimate([math.nan] * len(groups))


def _figure_3(record: Record, epoch: str) -> np.ndarray:
    """IoU of each class's images; of its own pixels, where the record does not tell these."""
    if epoch != OTHERS and not np.isnan(found := iou_of_images(record, epoch)).all():
        return found
    return class_iou(record, epoch)


def class_not_found(groups: list[SeedRecords], epoch: str) -> str:
    """Why not every class can gain: none of the runs finds one; "" if another one loses."""
    if least_class(groups, epoch).high < 0:
        return ""
    found = np.array([_figure_3(record, epoch) for record in itertools.chain(*groups)])
    never = (found < FLOOR).all(axis=0)
    names = np.array(groups[0][0]["data"]["classes"])[never]
    return f"{listed(names)} below IoU {FLOOR}" if len(names) else ""


def _weakest(parts: list[Estimate]) -> Estimate:
    """Of what a claim needs all of, what decides it (an intersection–union test)."""
    below = [part for part in parts if part.high < 0]
    open_ended = [part for part in parts if math.isnan(part.low)]  # a single seed decides nothing
    return min(below or open_ended or parts, key=lambda e: e.mean if math.isnan(e.low) else e.low)


def no_obstacle(groups: list[SeedRecords], epoch: str) -> str:
    """Nothing stands against measuring."""
    return ""


def small_not_found(groups: list[SeedRecords], epoch: str) -> str:
    """Why the small defects cannot be compared: none of the runs finds them."""
    for record in itertools.chain(*groups):
        small = np.isin(record["data"]["classes"], SMALL)
        if (class_iou(record, epoch)[small] >= FLOOR).any():
            return ""
    return f"small defects below IoU {FLOOR}"


@dataclass(frozen=True)
class Claim:
    """A comparison of DLI's runs with a rival's."""

    rival: dict[str, Any]  # the fields of Run in which the rival differs from DLI
    table: int | None = None  # of the paper, which prints both means; None: it prints no number
    # of the seeds' records, at an epoch
    measure: Callable[[list[SeedRecords], str], Estimate] = gain
    fractions: tuple[float, ...] = (1.0,)  # of the data: a run of each for DLI and for the rival
    # why it is not measurable, or ""
    obstacle: Callable[[list[SeedRecords], str], str] = no_obstacle

    def paper(self, encoder: str) -> tuple[float, float]:
        """The difference that the paper prints, and its standard deviation over seeds.

        NaN if it prints none. It prints each method's deviation; that of the difference is their
        root sum of squares, as if the runs of a seed shared nothing, times √(5/4), since the
        authors' code divides by the number of seeds.
        """
        nothing = float("nan"), float("nan")
        if self.table is None:
            return nothing
        blend = 0.5 if self.table == 2 else None
        ours = printed(self.table, encoder, "dli", p_poisson=blend)
        method, share = self.rival.get("method", "dli"), self.rival.get("p_poisson", blend)
        theirs = printed(self.table, encoder, method, p_poisson=share)
        if ours is None or theirs is None:
            return nothing
        sample = math.sqrt(PAPER_SEEDS / (PAPER_SEEDS - 1))
        return ours[0] - theirs[0], sample * math.hypot(ours[1], theirs[1])


CLAIMS = {
    **{f"{LEAD}{name}": Claim({"method": name}, table=1) for name in METHODS if name != "dli"},
    "every class gains over the baseline": Claim(
        {"method": "baseline"}, measure=least_class, obstacle=class_not_found
    ),
    "both blends beat cut-paste": Claim({"p_poisson": 0.0}, table=2),
    "both blends beat Poisson": Claim({"p_poisson": 1.0}, table=2),
    "DLI drops less than WCE at half the data": Claim(
        {"method": "wce"}, measure=smaller_drop, fractions=(1.0, 0.5)
    ),
    "DLI helps small defects more than large ones": Claim(
        {"method": "baseline"}, measure=small_less_large, obstacle=small_not_found
    ),
}
OPEN = {  # what DLI leaves open: its released choice, minus the other one
    "every defect-free image filled, minus until uniform": Claim({"until": "uniform"}),
    "Poisson on the rectangle, minus on the mask": Claim({"region": "mask"}),
    "mixed gradients, minus the donor's": Claim({"guidance": "donor"}),
    "widened label, minus the donor's own": Claim({"label": "tight"}),
}
COLUMNS = (
    "encoder",
    "claim",
    "protocol",
    "paper",
    "paper_deviation",
    "mean",
    "low",
    "high",
    "n",
    "deviation",
    "text",
    "state",
    "verdict",
)


def claims(
    preset: str,
    folder: str | Path,
    encoders: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (),
    protocols: Iterable[str] = tuple(PROTOCOLS),
    which: dict[str, Claim] = CLAIMS,
) -> pd.DataFrame:
    """Measure every claim under every protocol, as a difference.

    Args:
        preset: A key of `PRESETS`.
        folder: Of the preset's results.
        encoders: Instead of the preset's.
        seeds: Instead of the preset's.
        protocols: Keys of `PROTOCOLS`.
        which: `CLAIMS` or `OPEN`.

    Returns:
        A row for each encoder, claim and protocol: the paper's difference and its deviation (NaN
        where it prints none), mean, low and high (95 % interval of `stats.clustered_difference`,
        or of `stats.estimate` where a claim is not about one pair, or other folds choose the
        epoch), n (seeds), deviation (over them), text, state and verdict (the state and why).
    """
    p, planned = preset_named(preset), set(all_runs(preset))
    read = functools.cache(Store(folder).record)
    rows = []
    for encoder in encoders or p.encoders:
        bases = [replace(p.base, encoder=encoder, seed=seed) for seed in seeds or p.seeds]
        for name, claim in which.items():
            for protocol in protocols:
                needed = [_runs(base, claim, PROTOCOLS[protocol]) for base in bases]
                if all(needed):
                    measured = _measure(claim, encoder, needed, PROTOCOLS[protocol], planned, read)
                    rows.append((encoder, name, protocol, *measured))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _measure(
    claim: Claim,
    encoder: str,
    needed: list[list[Run]],
    protocol: Protocol,
    planned: set[Run],
    read: Callable[[Run], Record | None],
) -> tuple:
    """The columns of `claims` from "paper" on; needed: the runs of each seed."""
    records = [[read(run) for run in runs] for runs in needed]
    finished = groups = [group for group in records if all(group)]
    least = 1  # seeds that are to be planned
    if protocol.epoch == OTHERS:
        groups, least = chosen_elsewhere(finished), 2
    found, (theirs, spread) = claim.measure(groups, protocol.epoch), claim.paper(encoder)
    if not groups and sum(planned.issuperset(runs) for runs in needed) < least:
        text, word = NOT_PLANNED, Verdict(NOT_PLANNED)
    elif len(finished) >= least and not groups:
        text, word = NOTHING, Verdict("not measurable", "no other fold chooses an epoch")
    elif not math.isnan(found.mean) and (why := claim.obstacle(groups, protocol.epoch)):
        text, word = str(found), Verdict("not measurable", why)
    else:
        text, word = str(found), verdict(found, theirs)
    return theirs, spread, *astuple(found), text, word.state, str(word)


def _runs(base: Run, claim: Claim, protocol: Protocol) -> list[Run]:
    """One seed's runs that a claim needs; none where the protocol is the paper's for this claim."""
    method = claim.rival.get("method", "dli")
    rival = dict(claim.rival)
    if METHODS[method].varies:
        rival["losses"] = protocol.losses
    elif protocol.losses != "released" and not protocol.changes:
        return []
    ours = replace(base, **protocol.changes)
    theirs = replace(ours, **rival)
    return [replace(run, fraction=f) for run in (ours, theirs) for f in claim.fractions]


def verdict(ours: Estimate, paper: float) -> Verdict:
    """Say what an estimate means, never stronger than its interval."""
    if ours.n == 0:
        return Verdict("pending")
    if math.isnan(ours.mean):
        return Verdict("not measurable", "nothing to find")
    if ours.high < 0:
        return Verdict("not reproduced")
    if not ours.low > 0:
        return Verdict("undecided", _undecided(ours, paper))
    return Verdict("weaker" if ours.high < paper else "reproduced")


def _undecided(ours: Estimate, paper: float) -> str:
    """How many seeds there are, and how many would decide.

    They are counted for the paper's difference, where it prints one, with both ends of the measured
    deviation's interval. Where the interval excludes the paper's difference, it says that instead.
    """
    seeds = f"n = {ours.n}"
    if ours.high < paper:
        return f"{seeds}; the paper's difference is excluded"
    if math.isnan(ours.deviation):
        return seeds
    if abs(ours.mean) > half_width(ours.deviation, ours.n):  # only the bootstrap's end is beyond 0
        return f"{seeds}; its parts leave it open"
    if ours.n < SPREAD_SEEDS:
        return seeds
    difference, whose = (ours.mean, "this") if math.isnan(paper) else (paper, "the paper's")
    ends = deviation_interval(ours.deviation, ours.n)
    numbers = list(dict.fromkeys(_seeds(difference, end) for end in ends))
    more = "" if numbers[-1].startswith("over") else " or more"
    return f"{seeds}; {' to '.join(numbers)}{more} would decide {whose} difference"


def seeds_needed(found: pd.DataFrame, hours: float) -> pd.DataFrame:
    """Say how many seeds would decide each claim, by the paper's deviation and by ours.

    They are `stats.seeds_to_decide`, by Student's t alone and so the least: those with which 80 %
    of all studies would exclude 0, if the true difference were the paper's, or the measured one
    where it prints none.

    Args:
        found: Rows of `claims`, of one protocol.
        hours: Of a run with all of the data, NaN if none was measured.

    Returns:
        A row for each encoder and claim: the paper's difference and deviation, and its seeds; our
        deviation, from `SPREAD_SEEDS` seeds on, with its 95 % interval, and the seeds with each of
        these; "hours a seed", of all runs that the claim needs. "–" where there is none.
    """
    rows = []
    for row in found.itertuples():
        difference = row.mean if math.isnan(row.paper) else row.paper
        ours = _ours(row)
        runs = 2 * sum((CLAIMS | OPEN)[row.claim].fractions)
        rows.append(
            {
                "encoder": row.encoder,
                "claim": row.claim,
                "paper": _signed(row.paper, row.paper_deviation),
                "seeds by it": _seeds(difference, row.paper_deviation),
                "our deviation": _with_range([f"{value:.3f}" for value in ours]),
                "seeds by ours": _with_range([_seeds(difference, value) for value in ours]),
                "hours a seed": NOTHING if math.isnan(hours) else f"{runs * hours:.1f}",
            }
        )
    return pd.DataFrame(rows)


def _ours(row: Any) -> list[float]:
    """The measured deviation and the ends of its interval; none over too few seeds."""
    if row.n < SPREAD_SEEDS or math.isnan(row.deviation) or row.state == "not measurable":
        return []
    return [row.deviation, *deviation_interval(row.deviation, row.n)]


def _signed(mean: float, deviation: float) -> str:
    return NOTHING if math.isnan(mean) else f"{mean:+.3f} ± {deviation:.3f}"


def _seeds(difference: float, deviation: float) -> str:
    if math.isnan(difference) or math.isnan(deviation):
        return NOTHING
    number = seeds_to_decide(difference, deviation)
    return f"over {MOST_SEEDS:,}" if number is None else str(number)


def _with_range(values: list[str]) -> str:
    """A value and its range, as "9 (4 to 260)"."""
    if len(set(values)) == 1:
        return values[0]
    return "{} ({} to {})".format(*values) if values else NOTHING


def audited(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `claims` that audit: of each encoder's claim that protocol of `AUDIT`.

    It is the one with more seeds; of as many, one that is planned; of these, the harder one.
    """
    rows = frame[frame["protocol"].isin(AUDIT)]
    order = pd.DataFrame(
        {
            "n": -rows["n"],
            "unplanned": rows["state"] == NOT_PLANNED,
            "harder": rows["protocol"].map(AUDIT.index),
        }
    )
    order = order.sort_values(["n", "unplanned", "harder"], kind="stable")
    return rows.loc[order.index].drop_duplicates(["encoder", "claim"])


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `claims` that decide: the paper's own protocol, and the audit.

    A claim of which neither is planned has no row.
    """
    rows = []
    for (encoder, claim), found in frame.groupby(["encoder", "claim"], sort=False):
        (ours,) = found[found["protocol"] == PAPERS].itertuples()
        (audit,) = audited(found).itertuples()
        if ours.state == audit.state == NOT_PLANNED:
            continue
        rows.append(
            {
                "encoder": encoder,
                "claim": claim,
                "paper": ours.paper,
                "paper's protocol": ours.text,
                "reproduced?": ours.verdict,
                "audit": audit.protocol,
                "under it": audit.text,
                "survives?": audit.verdict,
            }
        )
    return pd.DataFrame(rows)
