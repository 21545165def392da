"""Means with intervals over seeds, and paired differences with intervals over seeds and parts."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import chdtri, nctdtr, stdtrit  # scipy.stats takes a second to import

from dlilib.metrics import NOTHING, iou_score

LEVEL = 0.95
IOU_RANGE = (0.0, 1.0)  # the range of an IoU
RESAMPLES = 2000  # of the bootstrap
POWER = 0.8  # the share of studies that are to decide
MOST_SEEDS = 1000  # that are counted up to


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its interval, which is NaN for a single seed.

    The mean is NaN too where none of n seeds has anything to find. The deviation is the standard
    deviation over the seeds, NaN for a single one.
    """

    mean: float
    low: float
    high: float
    n: int
    deviation: float = field(default=np.nan, compare=False)

    def __str__(self) -> str:
        if self.n == 0:
            return "pending"
        if np.isnan(self.mean):
            return NOTHING
        mean, low, high = (f"{value:z.3f}" for value in (self.mean, self.low, self.high))
        interval = "" if self.n == 1 else f" [{low}, {high}]"
        return f"{mean}{interval} (n = {self.n})"


def estimate(
    values: Sequence[float], level: float = LEVEL, within: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Estimate the mean over seeds, with its Student's t interval.

    From two seeds on the interval holds its level, if the seeds' values are independent and
    roughly normal. A bootstrap over the seeds does not: over two to five seeds its 95 % interval
    covers the truth in 50 to 84 % of all cases.

    Args:
        values: (num_seeds,), one value for each seed, NaN where it has nothing to find.
        level: Of the interval, in (0, 1).
        within: The range in which the mean must lie, such as (0, 1) for an IoU; the interval is
            cut there.

    Returns:
        Mean, interval and number of seeds, of those with a value; with one the interval is NaN. If
        no seed has a value, all but n are NaN, and n counts all seeds.

    Raises:
        ValueError: `values` is not one-dimensional, or `level` does not lie in (0, 1).

    Example:
        >>> print(estimate([0.71, 0.74, 0.72], within=(0, 1)))
        0.723 [0.685, 0.761] (n = 3)
    """
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise ValueError(f"values must be (num_seeds,), got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    seeds, values = len(values), values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, seeds)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    deviation = float(values.std(ddof=1))
    half = half_width(deviation, n, level)
    return Estimate(mean, max(within[0], mean - half), min(within[1], mean + half), n, deviation)


def half_width(deviation: float, n: int, level: float = LEVEL) -> float:
    """Return half the width of Student's t interval of a mean over n seeds, 2 or more."""
    return float(stdtrit(n - 1, (1 + level) / 2)) * deviation / n**0.5


def power(mean: float, deviation: float, n: int, *, level: float = LEVEL) -> float:
    """Compute how often the interval of `estimate` excludes 0 on the side of the true mean.

    A wider interval, such as that of `clustered_difference`, has less power.

    Args:
        mean: The true mean of the seeds' values.
        deviation: Their true standard deviation, above 0.
        n: Number of seeds, 2 or more.
        level: Of the interval, in (0, 1).

    Returns:
        A share of studies, by the noncentral t distribution, for normal values.

    Example:
        >>> round(power(0.034, 0.024, 5), 2)
        0.66
    """
    quantile = stdtrit(n - 1, (1 + level) / 2)
    return float(1 - nctdtr(n - 1, abs(mean) / deviation * n**0.5, quantile))


def seeds_to_decide(mean: float, deviation: float, share: float = POWER) -> int | None:
    """Count the seeds with which `share` of all studies would decide; see `power`.

    It is the least number for an interval that is wider than Student's t.

    Returns:
        The smallest number; None if it is above `MOST_SEEDS`, or mean or deviation are NaN.

    Example:
        >>> seeds_to_decide(0.034, 0.024)
        7
    """
    if deviation == 0 and mean != 0:
        return 2
    for n in range(2, MOST_SEEDS + 1):
        if deviation > 0 and power(mean, deviation, n) >= share:
            return n
    return None


def deviation_interval(deviation: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a standard deviation over n seeds, 2 or more, of normal values.

    Example:
        >>> [round(end, 3) for end in deviation_interval(0.03, 3)]
        [0.016, 0.189]
    """
    ends = (chdtri(n - 1, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
    return tuple(deviation * float((n - 1) / end) ** 0.5 for end in ends)


@dataclass(frozen=True)
class Pair:
    """Pixel counts of two different runs of one seed on the same validation images."""

    ours: np.ndarray  # (V, 3): TP, FP, FN of each image, summed over the classes asked for
    theirs: np.ndarray  # (V, 3)
    tiles: np.ndarray  # (V,): id of the part that each image shows


def clustered_difference(pairs: Sequence[Pair], level: float = LEVEL, seed: int = 0) -> Estimate:
    """Estimate the difference in micro IoU, ours less theirs, over seeds and parts.

    Images of one part are not independent, so the interval is over parts and not over images. Each
    end is the wider one of two intervals: Student's t over the seeds' differences, which is wider
    for few seeds, and a bootstrap, which is wider for few parts. The bootstrap draws parts and then
    seeds. All seeds share the drawn parts, since they may validate on the same ones.

    Args:
        pairs: One for each seed. Those without a pixel to find are left out.
        level: Of the interval, in (0, 1).
        seed: Of the bootstrap.

    Returns:
        Mean over the seeds, interval and number of seeds. With one seed the interval is NaN, as in
        `estimate`: parts alone do not tell what another training run would give.

    Raises:
        ValueError: `level` does not lie in (0, 1).
    """
    differences = [iou_score(*p.ours.sum(axis=0)) - iou_score(*p.theirs.sum(axis=0)) for p in pairs]
    by_seed = estimate(differences, level)
    pairs = [p for p, gap in zip(pairs, differences, strict=True) if not np.isnan(gap)]
    if len(pairs) < 2:
        return by_seed
    low, high = bootstrap(pairs, level, seed)
    return replace(by_seed, low=min(by_seed.low, low), high=max(by_seed.high, high))


def bootstrap(
    pairs: Sequence[Pair], level: float = LEVEL, seed: int = 0, *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the bootstrap's interval over parts and seeds alone; see `clustered_difference`."""
    n = len(pairs)
    parts = np.unique(np.concatenate([p.tiles for p in pairs]))
    weights, drawn_seeds = _resamples(len(parts), n, seed, resamples)
    gaps = np.empty((resamples, n))
    for k, pair in enumerate(pairs):
        ours = weights @ by_part(pair.ours, pair.tiles, parts)  # (resamples, 3)
        theirs = weights @ by_part(pair.theirs, pair.tiles, parts)
        gaps[:, k] = _gap(ours, theirs)
    means = np.take_along_axis(gaps, drawn_seeds, axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@functools.lru_cache(maxsize=8)
def _resamples(parts: int, n: int, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample draws each part, (resamples, parts), and its seeds, (resamples, n).

    The same for all differences of one shape, of which there are many: they are drawn once.
    """
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(parts, np.full(parts, 1 / parts), size=resamples)
    return weights, rng.integers(n, size=(resamples, n))


def by_part(counts: np.ndarray, tiles: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Counts (V, 3) summed over the images of each of the sorted `parts`: (P, 3)."""
    where = np.searchsorted(parts, tiles)
    return np.stack([np.bincount(where, c, len(parts)) for c in counts.T], axis=1)


def _gap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Difference in IoU of counts (..., 3): (...), 0 for a resample with no pixel to find."""
    return _iou(ours) - _iou(theirs)


def _iou(counts: np.ndarray) -> np.ndarray:
    """IoU of counts (..., 3): (...), 0 where there is no pixel to count."""
    return counts[..., 0] / np.maximum(counts.sum(axis=-1), 1)


def summarise(
    runs: Iterable, frame: pd.DataFrame, by: Sequence[str], *, value: str = "iou_best"
) -> pd.DataFrame:
    """Estimate a figure for each combination of the fields `by` among the planned runs.

    Args:
        runs: The planned runs.
        frame: The records, as `records.records` gives them.
        by: Names of fields of Run.
        value: A column of the records, of shares in [0, 1].

    Returns:
        A row for each combination, in the order of the runs: `by`, mean, low, high, n and text
        ("pending" where no run is finished, "–" where no finished one has a pixel to find).
    """
    # Without records there is no column for a class.
    values = frame.set_index("id")[value] if len(frame) else pd.Series(dtype=float)
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        key = tuple(getattr(run, name) for name in by)
        found = groups.setdefault(key, [])
        found.extend(values[values.index == run.id])
    rows = []
    for key, found in groups.items():
        measured = estimate(found, within=IOU_RANGE)
        interval = (measured.mean, measured.low, measured.high, measured.n)
        rows.append((*key, *interval, str(measured)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "text"])


def drop(frame: pd.DataFrame) -> pd.DataFrame:
    """Compute the change of `iou_best` from all of the training data to fractions of it, in %.

    Each seed is compared with itself. The mean is over the seeds that have both runs of each method
    that has any, so that methods can be compared, and NaN where there is none.

    Args:
        frame: The records: method, seed, fraction and `iou_best`.

    Returns:
        A row for each fraction, a column for each method.
    """
    seeds = frame.pivot(index=["method", "seed"], columns="fraction", values="iou_best")
    whole = seeds.reindex(columns=[1.0])[1.0]
    changes = 100 * (seeds.div(whole, axis=0) - 1)
    means = {}
    for fraction, change in changes.items():
        by_method = change.unstack("method")
        shared = by_method.dropna(axis="columns", how="all").dropna()
        means[fraction] = shared.mean().reindex(by_method.columns)
    return pd.DataFrame(means).T.rename_axis("fraction")
