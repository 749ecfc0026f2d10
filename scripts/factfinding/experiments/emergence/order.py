"""What comes first: the step from which on a measure has half of what the finished model has, and who is later than whom.

A measure's share at a checkpoint is its mean above the baseline, over that of the finished model. What is reached and lost
again does not count: by noise alone a measure of few subjects reaches half early. Between two checkpoints a straight line
is drawn; that the half was passed between them is seen, where between them is not. All measures of a group of subjects see
the same resamples, so that they are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from factfinding.stats import RESAMPLES, Estimate, resample_counts

HALF = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """A measure of a group of subjects at every checkpoint, and what it would be if there were nothing; NaN for a subject that
    has none."""

    values: Float[np.ndarray, "checkpoints subjects"]
    baselines: Float[np.ndarray, "checkpoints subjects"]

    @property
    def has(self) -> Bool[np.ndarray, " subjects"]:
        """The subjects that it is measured on."""
        return ~np.isnan(self.values - self.baselines).any(axis=0)

    def shares(
        self, weights: Float[np.ndarray, "resamples subjects"]
    ) -> Float[np.ndarray, "resamples checkpoints"]:
        """The share of what the finished model has, under weights of the subjects; NaN where that is nothing or less."""
        has = self.has
        above = (self.values - self.baselines)[:, has]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = weights[:, has] @ above.T / weights[:, has].sum(axis=1, keepdims=True)
            last = means[:, -1:]
            return np.where(last > 0, means / np.where(last > 0, last, 1.0), np.nan)


def whole(n: int) -> Float[np.ndarray, "1 subjects"]:
    """Weights of the subjects as they are."""
    return np.ones((1, n))


def resampled(n: int, *, seed: int) -> Float[np.ndarray, "resamples subjects"]:
    """Weights of the bootstrap."""
    return np.concatenate(list(resample_counts(n, np.random.default_rng(seed)))).astype(np.float64)


def estimate(value: float, draws: Float[np.ndarray, " resamples"], n: int) -> Estimate:
    """A value with the percentiles of its resamples; without an interval where more than half of them have none, or of one
    subject."""
    known = draws[~np.isnan(draws)]
    if n < 2 or 2 * len(known) < RESAMPLES:
        return Estimate(value=value, low=np.nan, high=np.nan, n=n)
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(value=value, low=float(low), high=float(high), n=n)


def half_steps(
    shares: Float[np.ndarray, "resamples checkpoints"], steps: Sequence[int]
) -> Float[np.ndarray, " resamples"]:
    """The step from which on each row has half, on a straight line between the checkpoints around it; the first step for a
    row that has half at all of them, NaN for one without shares."""
    below = shares < HALF
    n, row = shares.shape[1], np.arange(len(shares))
    before = np.where(below.any(axis=1), n - 1 - below[:, ::-1].argmax(axis=1), 0)
    after, at = np.minimum(before + 1, n - 1), np.asarray(steps, dtype=np.float64)
    low, high = shares[row, before], shares[row, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = at[before] + (HALF - low) / (high - low) * (at[after] - at[before])
    return np.where(np.isnan(shares).any(axis=1), np.nan, np.where(below.any(axis=1), found, at[0]))


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Between which checkpoints the half is passed for good. after: the last one below it (None: none is), by: the next one;
    first: the first one that has half."""

    after: int | None
    by: int
    first: int


def gap(shares: Float[np.ndarray, " checkpoints"], steps: Sequence[int]) -> Gap:
    """The gap of one row of shares."""
    below = np.flatnonzero(shares < HALF)
    last = int(below[-1]) if len(below) else -1
    first = steps[int(np.argmax(shares >= HALF))]
    return Gap(after=steps[last] if last >= 0 else None, by=steps[last + 1], first=first)


def labels_hit(labels: Int[np.ndarray, " subjects"]) -> Float[np.ndarray, " subjects"]:
    """Who is right if always the commonest of these answers is given."""
    answers, counts = np.unique(labels, return_counts=True)
    return (labels == answers[counts.argmax()]).astype(np.float64)
