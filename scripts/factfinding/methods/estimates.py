"""Estimates as columns of a table: `name`, `name_low`, `name_high`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from factfinding.least import LEAST_SUBJECTS
from factfinding.stats import (
    Estimate,
    Estimates,
    mean_interval,
    mean_intervals,
    paired_difference,
    share_interval,
)

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
    hits = _hits(hits)
    return share_interval(hits) if hits.dtype == bool else mean_interval(hits, seed=seed)


def accuracy_difference(
    first: Float[np.ndarray, " subjects"],
    second: Float[np.ndarray, " subjects"],
    *,
    weight: float = 1.0,
    seed: int,
) -> Estimate:
    """The accuracy of `first` less `weight` times that of `second` on the same subjects, by `paired_difference`."""
    first, second = _hits(first), _hits(second)
    if first.dtype != second.dtype:
        first, second = first.astype(np.float64), second.astype(np.float64)
    return paired_difference(first, second, weight=weight, seed=seed)


def beside_unchanged(
    hits: Bool[np.ndarray, " subjects"], unchanged: Bool[np.ndarray, " subjects"] | None, majority: float
) -> dict[str, float | None]:
    """Columns `change`: the accuracy less that with nothing changed; and `over_half`: less the middle between that and
    the majority rate, below 0 where more than half of what guessing lacks is gone. Both of the same subjects, paired.

    None: there is nothing to compare with.
    """
    change = over_half = None
    if unchanged is not None:
        change = paired_difference(hits, unchanged, seed=0)
        half = paired_difference(hits, unchanged, weight=0.5, seed=0)
        ends = {end: getattr(half, end) - majority / 2 for end in ("value", "low", "high")}
        over_half = replace(half, **ends)
    return estimate_columns("change", change) | estimate_columns("over_half", over_half)


def _hits(values: Float[np.ndarray, " subjects"]) -> np.ndarray:
    """Booleans where all values are 0 or 1; else the numbers."""
    values = np.asarray(values, dtype=np.float64)
    return values == 1.0 if np.isin(values, (0.0, 1.0)).all() else values


def behind(
    values: Float[np.ndarray, "subjects k"], rivals: Sequence[Hashable], *, lowest: bool, seed: int
) -> list[Estimate | None]:
    """How far each column's mean lies from that of the leader of its rivals, on the same subjects: paired.

    values: NaN where a subject has none. rivals: columns with the same one are compared. lowest: whether the lowest mean
    leads, or the highest. A column whose interval holds zero cannot be told from the leader, which is itself exactly zero
    away. The leader is sought among columns of `LEAST_SUBJECTS`, or of as many as there are. None where a column has no
    subject in common with the leader.
    """
    groups: dict[Hashable, list[int]] = {}
    for column, rival in enumerate(rivals):
        groups.setdefault(rival, []).append(column)
    found: list[Estimate | None] = [None] * len(rivals)
    for columns in groups.values():
        here = values[:, columns]
        away = here - here[:, [_leader(here, lowest=lowest)]]
        given = ~np.isnan(away)
        for subjects in np.unique(given, axis=1).T:
            same = np.flatnonzero((given == subjects[:, None]).all(axis=0))
            if subjects.any():
                estimates = each(mean_intervals(away[np.ix_(subjects, same)], seed=seed))
                for column, estimate in zip(same, estimates, strict=True):
                    found[columns[column]] = estimate
    return found


def _leader(values: Float[np.ndarray, "subjects k"], *, lowest: bool) -> int:
    n = (~np.isnan(values)).sum(axis=0)
    able = np.flatnonzero(n >= min(LEAST_SUBJECTS, n.max()))
    means = np.nanmean(values[:, able], axis=0)
    return int(able[means.argmin() if lowest else means.argmax()])


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
