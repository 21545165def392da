"""The numbers that the paper prints in its Tables 1 and 2."""

import functools
from importlib.resources import files

import pandas as pd

Key = tuple[int, str, str, float | None]


@functools.cache
def numbers() -> pd.DataFrame:
    """Return the paper's table cells, a row each.

    Columns: table (1 or 2), method, p_poisson (NaN in Table 1), encoder, mean and std (of the
    micro IoU over 5 seeds; for the encoder "average" over the encoders).
    """
    with files("dlilib.analysis").joinpath("paper.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


@functools.cache
def _cells() -> dict[Key, tuple[float, float]]:
    cells = {}
    for row in numbers().itertuples(index=False):
        p_poisson = None if pd.isna(row.p_poisson) else row.p_poisson
        cells[row.table, row.encoder, row.method, p_poisson] = row.mean, row.std
    return cells


def printed(
    table: int, encoder: str, method: str = "dli", *, p_poisson: float | None = None
) -> tuple[float, float] | None:
    """Return mean and standard deviation of one cell, or None where the paper has none."""
    return _cells().get((table, encoder, method, p_poisson))
