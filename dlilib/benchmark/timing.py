"""Time what does the same job, in turn in one process."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

Step = Callable[[], object]
TIMES = ["ms", "low", "high"]  # columns of `compare`: median and quartiles
RATIOS = ["ratio", "ratio_low", "ratio_high"]


def compare(
    steps: dict[str, Step], device: str | torch.device = "cpu", repeats: int = 9
) -> pd.DataFrame:
    """Time steps in turn, each `repeats` times after one time that is not counted.

    Args:
        steps: Name -> a function without arguments.
        device: Where they compute; a GPU is waited for before and after each step.
        repeats: How often each step is timed.

    Returns:
        A row for each step: what (its name), ms (the median, in milliseconds), low and high (the
        quartiles), n (the repeats), ratio (to the first step in the same repeat; the median), and
        ratio_low and ratio_high (its quartiles).

    Example:
        >>> frame = compare({"one": lambda: sum(range(100)), "ten": lambda: sum(range(1000))})
        >>> list(frame.columns)
        ['what', 'ms', 'low', 'high', 'n', 'ratio', 'ratio_low', 'ratio_high']
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            elapsed = _seconds(step, torch.device(device))
            if repeat > 0:
                found[name].append(1000 * elapsed)
    first = np.array(next(iter(found.values())))
    rows = [
        (name, *_quartiles(ms), len(ms), *_quartiles(np.array(ms) / first))
        for name, ms in found.items()
    ]
    return pd.DataFrame(rows, columns=["what", *TIMES, "n", *RATIOS])


def _quartiles(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return median, low, high


def _seconds(step: Step, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
