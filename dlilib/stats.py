"""Means with bootstrap intervals over seeds, and paired differences."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs with its percentile-bootstrap interval; the interval is NaN for a single run."""

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


def estimate(values: Sequence[float], level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean of values (num_seeds,) with its `level` bootstrap interval; seed fixes the resampling."""
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise ValueError(f"values must be (num_seeds,), got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    n = len(values)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    if n == 1:
        return Estimate(float(values[0]), np.nan, np.nan, 1)
    means = np.random.default_rng(seed).choice(values, (RESAMPLES, n)).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high), n)


def paired_difference(a: dict[int, float], b: dict[int, float], level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean of a - b over the seeds that both have, with its bootstrap interval; a, b: seed -> value."""
    return estimate([a[s] - b[s] for s in sorted(a.keys() & b.keys())], level, seed)


@dataclass(frozen=True)
class Pair:
    """Two runs' pixel counts on the same validation images: the runs differ, the seed and its split do not."""

    ours: np.ndarray  # (V, 3): TP, FP, FN of each image, summed over the classes asked for
    theirs: np.ndarray  # (V, 3)
    tiles: np.ndarray  # (V,): which part each image shows


def clustered_difference(pairs: Sequence[Pair], level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean over seeds of the micro IoU of ours less theirs, with an interval over seeds and parts, not over images.

    Each resample draws seeds with replacement, and within each drawn seed parts with replacement. n: seeds. With one
    seed the interval is NaN, as in `estimate`: parts alone do not tell what another training run would give.
    """
    def gap(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return _iou(ours) - _iou(theirs)

    n = len(pairs)
    if n == 0:
        return estimate([])
    mean = float(np.mean([gap(p.ours.sum(0), p.theirs.sum(0)) for p in pairs]))
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    rng = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES // 5)
    chosen = rng.integers(n, size=(len(total), n))
    for k, pair in enumerate(pairs):
        _, part = np.unique(pair.tiles, return_inverse=True)
        sums = [np.stack([np.bincount(part, c) for c in counts.T], axis=1) for counts in (pair.ours, pair.theirs)]
        for slot in range(n):
            rows = chosen[:, slot] == k
            weights = rng.multinomial(len(sums[0]), np.full(len(sums[0]), 1 / len(sums[0])), size=rows.sum())
            total[rows] += gap(weights @ sums[0], weights @ sums[1])
    low, high = np.nanquantile(total / n, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high), n)


def _iou(counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return counts[..., 0] / counts.sum(axis=-1)


def summarise(runs: Iterable, frame: pd.DataFrame, by: Sequence[str], value: str = "iou_best") -> pd.DataFrame:
    """One row for each combination of the Run fields `by` among the planned `runs`, in their order.

    frame: the records; columns of the result: `by`, mean, low, high, n, text ("pending" where no run is finished).
    """
    values = frame.set_index("id")[value]
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        found = groups.setdefault(tuple(getattr(run, name) for name in by), [])
        found.extend(values[values.index == run.id])
    rows = [(*key, *astuple(e := estimate(found)), str(e)) for key, found in groups.items()]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n", "text"])


def differences(frame: pd.DataFrame, reference: str = "dli", value: str = "iou_best") -> pd.DataFrame:
    """`reference` less each other method, paired by seed: a row for each method and encoder, columns as `summarise`."""
    if frame.duplicated(["method", "encoder", "seed"]).any():
        raise ValueError("frame holds several runs of one method, encoder and seed: select those of one experiment")
    seeds = {key: dict(zip(g["seed"], g[value], strict=True)) for key, g in frame.groupby(["method", "encoder"])}
    rows = []
    for (method, encoder), found in seeds.items():
        if method != reference and (reference, encoder) in seeds:
            e = paired_difference(seeds[reference, encoder], found)
            rows.append((method, encoder, *astuple(e), str(e)))
    return pd.DataFrame(rows, columns=["method", "encoder", "mean", "low", "high", "n", "text"])
