"""Estimates as columns of a table: `name`, `name_low`, `name_high`."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Float

from factfinding.stats import Estimate, Estimates, mean_interval, share_interval

ENDS = (("value", ""), ("low", "_low"), ("high", "_high"))


def estimate_schema(*names: str) -> dict[str, type[pl.DataType]]:
    """Columns of estimates."""
    return {f"{name}{end}": pl.Float64 for name in names for _, end in ENDS}


def estimate_columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """One estimate; None where there is nothing to estimate, and null for an interval that does not exist."""
    return {
        f"{name}{end}": None if estimate is None else _null(getattr(estimate, part)) for part, end in ENDS
    }


def each(estimates: Estimates) -> list[Estimate]:
    """Many estimates one by one."""
    columns = (estimates.value.tolist(), estimates.low.tolist(), estimates.high.tolist())
    return [
        Estimate(value=value, low=low, high=high, n=estimates.n)
        for value, low, high in zip(*columns, strict=True)
    ]


def accuracy_estimate(hits: Float[np.ndarray, " subjects"], *, seed: int) -> Estimate:
    """Wilson's interval for hits and misses; the bootstrap where several draws make a subject's hits a fraction."""
    hits = np.asarray(hits, dtype=np.float64)
    if np.isin(hits, (0.0, 1.0)).all():
        return share_interval(hits == 1.0)
    return mean_interval(hits, seed=seed)


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
