"""A neuron as a detector of a class, by its AUC: of many neurons at once, and of one with a bootstrap (P3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from factfinding.stats import RESAMPLES, Estimate, resample_counts

HALVES = ("first", "second")
"""Of the subjects: neurons are chosen on one, and scored on the other."""


def sign_of(auc: float) -> int:
    """-1 for a neuron that is lower on the answer."""
    return -1 if auc < 0.5 else 1


def centred_ranks(values: Float[np.ndarray, "subjects neurons"]) -> Float[np.ndarray, "subjects neurons"]:
    """Ranks of each column, ties at their mean, less the mean rank: multiples of one half."""
    return rankdata(values, axis=0) - (len(values) + 1) / 2


def rank_aucs(
    ranks: Float[np.ndarray, "subjects neurons"], positive: Bool[np.ndarray, "subjects k"]
) -> Float[np.ndarray, "k neurons"]:
    """AUC of every column for every choice of positives, from `centred_ranks`; 0.5 where one class is empty.

    The sums are exact in float64, and in float32 for up to some thousand subjects.
    """
    n_positive = positive.sum(axis=0)[:, None]
    pairs = np.maximum(n_positive * (len(ranks) - n_positive), 1)
    return 0.5 + (positive.T.astype(ranks.dtype) @ ranks).astype(np.float64) / pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class AUC:
    """An AUC and its bootstrap draws; those of equal subjects and seed are paired."""

    value: float
    draws: Float[np.ndarray, " resamples"]
    n: int

    @property
    def estimate(self) -> Estimate:
        return interval(self.value, self.draws, self.n)

    def change_from(self, other: AUC) -> Estimate:
        """This AUC minus another one of the same subjects, paired."""
        return interval(self.value - other.value, self.draws - other.draws, self.n)

    def share(self, other: AUC) -> Estimate | None:
        """What lies above chance here, as a share of what lies above it in another AUC of the same subjects, paired.

        None where the other's interval does not lie above chance: of nothing there is no share.
        """
        above = other.draws - 0.5
        if not other.estimate.low > 0.5:
            return None
        draws = np.divide(self.draws - 0.5, above, out=np.full(len(above), np.nan), where=above > 0)
        return interval((self.value - 0.5) / (other.value - 0.5), draws, self.n)


def interval(value: float, draws: Float[np.ndarray, " resamples"], n: int) -> Estimate:
    """Percentiles of the draws, without those in which a class was missing; NaN if that is more than half of them."""
    kept = draws[~np.isnan(draws)]
    low, high = np.quantile(kept, [0.025, 0.975]) if 2 * len(kept) >= len(draws) else (np.nan, np.nan)
    return Estimate(value=float(value), low=float(low), high=float(high), n=n)


def auc_draws(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
) -> AUC:
    """AUC with the percentile bootstrap over subjects, both classes resampled together.

    An AUC of exactly 1 stays 1 in every resample: its interval has no width, which is what was seen and no certainty.
    """
    high, low = scores[positive], scores[~positive]
    if not len(high) or not len(low):
        return AUC(value=np.nan, draws=np.full(n_resamples, np.nan), n=len(scores))
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    counts = _resamples(len(scores), seed, n_resamples)
    of_high, of_low = counts[:, positive], counts[:, ~positive]
    pairs = of_high.sum(axis=1) * of_low.sum(axis=1)
    won = ((of_high @ wins) * of_low).sum(axis=1)
    draws = np.divide(won, pairs, out=np.full(n_resamples, np.nan), where=pairs > 0)
    return AUC(value=float(wins.mean()), draws=draws, n=len(scores))


@lru_cache(maxsize=2)
def _resamples(n: int, seed: int, n_resamples: int) -> Float[np.ndarray, "resamples n"]:
    """How often each subject is drawn in each resample."""
    return next(resample_counts(n, np.random.default_rng(seed), n_resamples)).astype(np.float64)
