"""Bootstrap intervals of AUCs and medians, many at once (P3.6-P3.8).

Percentile intervals as in `stats.bootstrap`, at 95 % and with as many resamples, but without a call per resample: for an AUC the values are ranked
once, and a resample is a count of how often each name is drawn.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from factfinding.stats import Estimates, aucs

LEVELS = (0.025, 0.975)
RESAMPLES = 2000
CHUNK = 1 << 18
"""Resampled values held at once: few enough to stay in the processor's cache."""


def auc_intervals(
    above: Float[np.ndarray, "n k"],
    below: Float[np.ndarray, "m k"],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
) -> Estimates:
    """P(a row of `above` has a higher value than one of `below`), ties counting half, for each of k values.

    Rows of both are resampled, each among its own (so no resample lacks a class), the same ones for all values. `n` is
    n + m; with fewer than two rows on a side the interval is NaN. Raises ValueError for a side without rows.
    """
    n, m = len(above), len(below)
    if not n or not m:
        raise ValueError(f"an AUC needs rows on both sides, not {n} and {m}")
    value = aucs(np.concatenate([above, below]), np.arange(n + m) < n)
    draws = np.empty((n_resamples, len(value)))
    rng, step = np.random.default_rng(seed), max(1, CHUNK // max(n, m))
    order = np.argsort(below, axis=0, kind="stable")
    for start in range(0, n_resamples, step):
        rows = slice(start, min(start + step, n_resamples))
        size = rows.stop - rows.start
        drawn_above = rng.multinomial(n, np.full(n, 1 / n), size=size)
        drawn_below = rng.multinomial(m, np.full(m, 1 / m), size=size)
        for k in range(len(value)):
            ranked = below[order[:, k], k]
            counted = np.zeros((size, m + 1))
            np.cumsum(drawn_below[:, order[:, k]], axis=1, out=counted[:, 1:])
            lower, upper = (np.searchsorted(ranked, above[:, k], side=side) for side in ("left", "right"))
            beaten = counted[:, lower] + counted[:, upper]  # twice: those below, and half of the ties
            draws[rows, k] = (drawn_above * beaten).sum(axis=1) / (2 * n * m)
    return _estimates(value, draws, n + m, spread=min(n, m) > 1)


def median_intervals(
    values: Float[np.ndarray, "rows k"], *, seed: int, n_resamples: int = RESAMPLES
) -> Estimates:
    """The median of each column with its interval; all columns see the same resamples."""
    n, columns = values.shape
    if not n:
        raise ValueError("a median needs at least one row")
    draws = np.empty((n_resamples, columns))
    rng, step = np.random.default_rng(seed), max(1, CHUNK // n)
    for start in range(0, n_resamples, step):
        rows = rng.integers(0, n, (min(step, n_resamples - start), n))
        for k in range(columns):
            draws[start : start + len(rows), k] = np.median(values[rows, k], axis=1)
    return _estimates(np.median(values, axis=0), draws, n, spread=n > 1)


def _estimates(value: np.ndarray, draws: np.ndarray, n: int, *, spread: bool) -> Estimates:
    low, high = np.quantile(draws, LEVELS, axis=0) if spread else np.full((2, len(value)), np.nan)
    return Estimates(value=value, low=low, high=high, n=n)
