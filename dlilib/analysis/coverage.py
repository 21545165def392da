"""How often the study's intervals hold the truth, in simulated studies."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from dlilib.analysis.stats import LEVEL, Pair, bootstrap, by_part, estimate
from dlilib.metrics import iou_score

STUDIES = 400  # simulated of each kind
RESAMPLES = 500  # of a simulated study's bootstrap
STUDENTS, WIDER = "Student's t", "the wider of both"
INTERVALS = (STUDENTS, "bootstrap", WIDER)
PARTS = {  # which parts the seeds of a simulated study validate on
    "other parts each seed": False,
    "the same parts each seed": True,
}


def coverage(
    pair: Pair, deviation: float, *, seeds: Sequence[int] = (3, 5), studies: int = STUDIES
) -> pd.DataFrame:
    """Simulate studies whose true difference is known, and count the intervals that hold it.

    The pair's parts are the population. A study draws as many of them with replacement, and for
    each seed a normal shift of the difference, which stands for all that another training run
    changes: pixels found by the rival move between true positives and false negatives, on all
    parts alike. The truth is the pair's own difference.

    The shifts are such that the differences of a study's seeds have the deviation asked for. Where
    each seed has other parts, these bring a part of it; if they bring more than all of it, there
    is no shift.

    Args:
        pair: Pixel counts of two runs on the same validation images.
        deviation: Standard deviation of the difference between seeds, in IoU.
        seeds: Numbers of seeds of a study, 2 or more.
        studies: How many of each kind.

    Returns:
        A row for each number of seeds and way to validate (`PARTS`): the simulated deviation
        between seeds ("spread"), and the shares of studies whose 95 % interval holds the truth, by
        Student's t over the seeds, by the bootstrap over parts and seeds, and by the wider of both,
        which this study uses. No rows if the images have no pixel to find.
    """
    rows = []
    if math.isnan(_difference(pair.ours, pair.theirs)):
        return pd.DataFrame(rows)
    for n in seeds:
        for name, shared in PARTS.items():
            rng = np.random.default_rng(0)
            of_parts = 0.0 if shared else _deviation_of_parts(pair, rng)
            of_runs = max(0.0, deviation**2 - of_parts**2) ** 0.5
            held = list(_studies(pair, of_runs, n, shared, studies, rng))
            shares = zip(INTERVALS, np.mean(held, axis=0), strict=True)
            kind = {"seeds": n, "validation": name, "spread": math.hypot(of_runs, of_parts)}
            rows.append(kind | dict(shares))
    return pd.DataFrame(rows)


def _studies(
    pair: Pair, of_runs: float, n: int, shared: bool, studies: int, rng: np.random.Generator
) -> Iterator[tuple[bool, bool, bool]]:
    """For each simulated study, which of its three intervals hold the truth."""
    ids, ours, theirs = _by_part(pair)
    truth = _difference(ours, theirs)
    for _ in range(studies):
        drawn = rng.integers(len(ids), size=(1 if shared else n, len(ids)))
        shifts = rng.normal(0, of_runs, n)
        pairs = []
        for k, shift in enumerate(shifts):
            row = 0 if shared else k
            parts = np.arange(len(ids)) + row * len(ids)  # drawn twice, it counts as two parts
            rival = _shifted(theirs[drawn[row]], shift)
            pairs.append(Pair(ours[drawn[row]], rival, parts))
        by_seed = estimate([_difference(p.ours, p.theirs) for p in pairs])
        low, high = bootstrap(pairs, LEVEL, resamples=RESAMPLES)
        yield (
            by_seed.low <= truth <= by_seed.high,
            low <= truth <= high,
            min(low, by_seed.low) <= truth <= max(high, by_seed.high),
        )


def _by_part(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts (P,), and the counts (P, 3) of either run on each."""
    ids = np.unique(pair.tiles)
    return ids, *(by_part(counts, pair.tiles, ids) for counts in (pair.ours, pair.theirs))


def _deviation_of_parts(pair: Pair, rng: np.random.Generator) -> float:
    """How much the difference changes if other parts are drawn."""
    _, ours, theirs = _by_part(pair)
    drawn = rng.integers(len(ours), size=(RESAMPLES, len(ours)))
    return float(np.nanstd([_difference(ours[rows], theirs[rows]) for rows in drawn]))


def _shifted(counts: np.ndarray, shift: float) -> np.ndarray:
    """Counts (P, 3) whose IoU is lower by `shift` on every part."""
    pixels = shift * counts.sum(axis=1)
    return counts + np.stack([-pixels, 0 * pixels, pixels], axis=1)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return iou_score(*ours.sum(axis=0)) - iou_score(*theirs.sum(axis=0))
