"""Means with intervals over seeds, and paired differences with intervals over seeds and parts."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

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
    """Mean of values (num_seeds,) with its Student's t interval, which holds its level from two seeds on.

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
    half = float(t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
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
    seeds and, within each drawn seed, parts: few seeds make the first the wider one, few parts the second. With one
    seed it is NaN, as in `estimate`: parts alone do not tell what another training run would give. n: seeds.
    """
    by_seed = estimate([_gap(p.ours.sum(0), p.theirs.sum(0)) for p in pairs], level)
    n = len(pairs)
    if n < 2:
        return by_seed
    rng = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    chosen = rng.integers(n, size=(RESAMPLES, n))
    for k, pair in enumerate(pairs):
        _, part = np.unique(pair.tiles, return_inverse=True)
        sums = [np.stack([np.bincount(part, c) for c in counts.T], axis=1) for counts in (pair.ours, pair.theirs)]
        for slot in range(n):
            rows = chosen[:, slot] == k
            weights = rng.multinomial(len(sums[0]), np.full(len(sums[0]), 1 / len(sums[0])), size=rows.sum())
            total[rows] += _gap(weights @ sums[0], weights @ sums[1])
    low, high = np.nanquantile(total / n, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(by_seed.mean, min(by_seed.low, float(low)), max(by_seed.high, float(high)), n)


def _gap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Difference in IoU of counts (..., 3)."""
    with np.errstate(invalid="ignore"):
        return ours[..., 0] / ours.sum(axis=-1) - theirs[..., 0] / theirs.sum(axis=-1)


def summarise(runs: Iterable, frame: pd.DataFrame, by: Sequence[str], value: str = "iou_best") -> pd.DataFrame:
    """One row for each combination of the Run fields `by` among the planned `runs`, in their order.

    frame: the records; value: its column, of shares in [0, 1]. Columns of the result: `by`, mean, low, high, n, text
    ("pending" where no run is finished).
    """
    values = frame.set_index("id")[value]
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        found = groups.setdefault(tuple(getattr(run, name) for name in by), [])
        found.extend(values[values.index == run.id])
    rows = [(*key, *astuple(e := estimate(found, within=SHARE)), str(e)) for key, found in groups.items()]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "text"])
