"""Bootstrap intervals of AUCs and medians, many at once (P3.6-P3.8).

Percentile intervals as in `stats.bootstrap`, at 95 % and with as many resamples, but without a call per resample: for an AUC
the values are ranked once, and a resample is a count of how often each name is drawn.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from factfinding.stats import RESAMPLES, Estimates, aucs, resample_counts, resample_rows

LEVELS = (0.025, 0.975)
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
    draws, rng = [], np.random.default_rng(seed)
    order = np.argsort(below, axis=0, kind="stable")
    sides = (resample_counts(size, rng, n_resamples, at_once=CHUNK // max(n, m)) for size in (n, m))
    for drawn_above, drawn_below in zip(*sides, strict=True):
        draws.append(np.empty((len(drawn_above), len(value))))
        for k in range(len(value)):
            ranked = below[order[:, k], k]
            counted = np.zeros((len(drawn_below), m + 1))
            np.cumsum(drawn_below[:, order[:, k]], axis=1, out=counted[:, 1:])
            lower, upper = (np.searchsorted(ranked, above[:, k], side=side) for side in ("left", "right"))
            beaten = counted[:, lower] + counted[:, upper]  # twice: those below, and half of the ties
            draws[-1][:, k] = (drawn_above * beaten).sum(axis=1) / (2 * n * m)
    return _estimates(value, np.concatenate(draws), n + m, spread=min(n, m) > 1)


def median_intervals(
    values: Float[np.ndarray, "rows k"], *, seed: int, n_resamples: int = RESAMPLES
) -> Estimates:
    """The median of each column with its interval; all columns see the same resamples."""
    n, columns = values.shape
    if not n:
        raise ValueError("a median needs at least one row")
    resamples = resample_rows(n, np.random.default_rng(seed), n_resamples, at_once=CHUNK // n)
    draws = [
        np.stack([np.median(values[rows, k], axis=1) for k in range(columns)], axis=1) for rows in resamples
    ]
    return _estimates(np.median(values, axis=0), np.concatenate(draws), n, spread=n > 1)


def resampled_medians(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """The median of each resample, given as how often it has each row; so that several columns can see the same ones.

    Rows that are NaN are left out; NaN for a resample without any other.
    """
    order = np.argsort(values, kind="stable")[: np.count_nonzero(~np.isnan(values))]  # NaN sorts last
    if not len(order):
        return np.full(len(counts), np.nan)
    ranked, twice = values[order], 2 * np.cumsum(counts[:, order], axis=1)
    half = twice[:, -1:] // 2
    lower, upper = (twice >= half).argmax(axis=1), (twice > half).argmax(axis=1)
    return np.where(half[:, 0] > 0, (ranked[lower] + ranked[upper]) / 2, np.nan)


def _estimates(value: np.ndarray, draws: np.ndarray, n: int, *, spread: bool) -> Estimates:
    low, high = np.quantile(draws, LEVELS, axis=0) if spread else np.full((2, len(value)), np.nan)
    return Estimates(value=value, low=low, high=high, n=n)
