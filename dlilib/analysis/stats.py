"""Means with intervals over seeds, and paired differences with intervals over seeds and parts."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # scipy.stats takes a second to import

LEVEL = 0.95
SHARE = (0.0, 1.0)  # what an IoU lies in
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its interval, which is NaN for a single seed."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0:
            return "pending"
        if self.n == 1:
            return f"{self.mean:.3f} (n = 1)"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


def estimate(
    values: Sequence[float], level: float = LEVEL, within: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Mean of values (num_seeds,) with its Student's t interval.

    It holds its level from two seeds on if their values are independent and roughly normal.

    within: what the mean is known to lie in, as 0 and 1 for an IoU; the interval is cut there.
    A bootstrap of the seeds does not: of 95 % intervals over two to five seeds it covers the truth with 50 to 84 %.
    """
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise ValueError(f"values must be (num_seeds,), got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    n = len(values)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    half = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, max(within[0], mean - half), min(within[1], mean + half), n)


@dataclass(frozen=True)
class Pair:
    """Two runs' pixel counts on the same validation images: the runs differ, the seed and its split do not."""

    ours: np.ndarray  # (V, 3): TP, FP, FN of each image, summed over the classes asked for
    theirs: np.ndarray  # (V, 3)
    tiles: np.ndarray  # (V,): which part each image shows


def clustered_difference(pairs: Sequence[Pair], level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean over seeds of the micro IoU of ours less theirs, with an interval over seeds and parts, not over images.

    The interval is the wider, at each end, of Student's t over the seeds' differences and of a bootstrap that draws
    parts, the same ones for all seeds, since seeds may validate the same, and then seeds: few seeds make the first the
    wider one, few parts the second. With one seed it is NaN, as in `estimate`: parts alone do not tell what another
    training run would give. n: seeds.
    """
    by_seed = estimate([float(_gap(p.ours.sum(0), p.theirs.sum(0))) for p in pairs], level)
    n = len(pairs)
    if n < 2:
        return by_seed
    parts = np.unique(np.concatenate([p.tiles for p in pairs]))
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=RESAMPLES)
    gaps = np.stack(
        [_gap(*(weights @ _by_part(c, p.tiles, parts) for c in (p.ours, p.theirs))) for p in pairs],
        axis=1,
    )
    means = np.take_along_axis(gaps, rng.integers(n, size=gaps.shape), axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(by_seed.mean, min(by_seed.low, float(low)), max(by_seed.high, float(high)), n)


def _by_part(counts: np.ndarray, tiles: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Counts (V, 3) summed over the images of each of the sorted `parts`: (P, 3)."""
    where = np.searchsorted(parts, tiles)
    return np.stack([np.bincount(where, c, len(parts)) for c in counts.T], axis=1)


def _gap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Difference in IoU of counts (..., 3); an IoU of nothing is 0."""
    return np.subtract(*(c[..., 0] / np.maximum(c.sum(axis=-1), 1) for c in (ours, theirs)))


def summarise(
    runs: Iterable, frame: pd.DataFrame, by: Sequence[str], value: str = "iou_best"
) -> pd.DataFrame:
    """One row for each combination of the Run fields `by` among the planned `runs`, in their order.

    frame: the records; value: its column, of shares in [0, 1]. Columns of the result: `by`, mean, low, high, n, text
    ("pending" where no run is finished).
    """
    values = (
        frame.set_index("id")[value] if len(frame) else pd.Series(dtype=float)
    )  # without records no classes either
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        found = groups.setdefault(tuple(getattr(run, name) for name in by), [])
        found.extend(values[values.index == run.id])
    rows = [
        (*key, *astuple(e := estimate(found, within=SHARE)), str(e))
        for key, found in groups.items()
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "text"])


def drop(frame: pd.DataFrame) -> pd.DataFrame:
    """Change of `iou_best` from 100 % of the data, %: a row for each fraction, a column for each method.

    Each seed against itself, and the mean over the seeds that have both; NaN where none has. frame: the records.
    """
    seeds = frame.pivot(index=["method", "seed"], columns="fraction", values="iou_best")
    whole = seeds.reindex(columns=[1.0])[1.0]
    return 100 * (seeds.div(whole, axis=0) - 1).groupby("method").mean().T
