"""How far two measurements of the same units (heads, layers, neurons) on the same subjects agree (P2.12).

A unit's score is a mean over subjects, so a resample of subjects gives every unit a new score, in both measurements at once:

    rank_correlation   Spearman's, over all units: are they in the same order
    jaccard            of the first units, those in both over those in either: do the same ones lead

Beside each stands what chance gives, where the units of one measurement are put in any order: 0 for the correlation, the
mean over the hypergeometric overlap for the Jaccard, and the 95 % point of orders that are drawn. And a yardstick: the same
number between two random halves of the subjects *within* one and the same measurement, the mean of both. Two measurements that
agree more than that differ less than other subjects would make them; on the same subjects they may well, since what is peculiar
to these subjects is in both.

A resample adds noise to both scores, so the agreement of resamples lies below that of the subjects themselves on average.
The interval is that of resamples, and reaches at least to the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.stats import hypergeom, rankdata

from factfinding.stats import RESAMPLES_OF_PAIRS, Estimate, resample_counts

HALVED = 20
"""Times that the subjects are halved."""
PERMUTED = 500
"""Orders of the units that are drawn for what chance gives."""
CHUNK = 1 << 22
"""Scores held at once."""
LEVELS = (0.025, 0.975)

Drawn = Float[np.ndarray, "draws groups units"]
First = Bool[np.ndarray, "draws groups units"]
Counts = Shaped[np.ndarray, "draws subjects"]
"""How often a resample has each subject; or which subjects a half has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a measurement gives each unit on each subject.

    groups: None, where a unit's score is its mean over subjects, and the largest scores come first. Else a column for each
    group, and a unit has a score in each: by how much its mean over the group is above that over all others; the largest in
    size come first. whole: what all units do at once. A unit that does less than `least` of it, or of `smallest` where the whole is
    less than that, does nothing: it is none of the first, and all such share one rank, for the order of rounding errors is the
    same in any two measurements.
    """

    values: Float[np.ndarray, "subjects units"]
    groups: Bool[np.ndarray, "subjects groups"] | None = None
    whole: Float[np.ndarray, " subjects"] | None = None
    least: float = 0.0
    smallest: float = 0.0

    @property
    def units(self) -> int:
        return self.values.shape[1]

    def drawn(self, counts: Counts) -> Drawn:
        """The scores in each resample; NaN where a group has nobody."""
        weights = counts.astype(np.float64)[:, None]
        if self.groups is None:
            return _shares(weights) @ self.values
        inside = self.groups.T[None]
        return (_shares(weights * inside) - _shares(weights * ~inside)) @ self.values

    def ranks(self, counts: Counts) -> Drawn:
        """The units' ranks in each resample, ties at their mean."""
        drawn = self.drawn(counts)
        return rankdata(np.where(np.abs(drawn) < self._floor(counts), 0.0, drawn), axis=-1)

    def first(self, counts: Counts, *, top: int) -> First:
        """The first `top` units in each resample, or as many as do enough."""
        size = self.drawn(counts) if self.groups is None else np.abs(self.drawn(counts))
        chosen = np.argsort(-size, axis=-1, kind="stable")[..., :top]
        found = np.zeros(size.shape, dtype=bool)
        np.put_along_axis(found, chosen, True, axis=-1)
        return found & (size > 0) & (size >= self._floor(counts))

    def _floor(self, counts: Counts) -> Float[np.ndarray, "draws 1 1"]:
        """What a unit has to do in each resample to do anything."""
        if self.whole is None:
            return np.zeros((len(counts), 1, 1))
        whole = np.abs(_shares(counts.astype(np.float64)) @ self.whole)
        return self.least * np.maximum(whole, self.smallest)[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two measurements agree, and what it is to be held against (the module's docstring)."""

    estimate: Estimate
    chance: float
    chance_95: float
    within: float | None
    units: int


def rank_correlation(first: Scores, other: Scores, *, seed: int) -> Agreement | None:
    """Spearman's correlation over all units, the mean over groups. None where the units of one are all alike."""
    return _agreement(Scores.ranks, _correlations, first, other, chance=0.0, seed=seed)


def jaccard(first: Scores, other: Scores, *, top: int, seed: int) -> Agreement | None:
    """The Jaccard index of the first `top` units, the mean over groups. None where neither has any that does enough."""
    everybody = np.ones((1, len(first.values)))
    sizes = [scores.first(everybody, top=top)[0].sum(axis=-1) for scores in (first, other)]
    expected = [expected_jaccard(first.units, int(a), int(b)) for a, b in zip(*sizes, strict=True)]
    chance = float(np.mean(expected))
    return _agreement(partial(Scores.first, top=top), _jaccards, first, other, chance=chance, seed=seed)


def expected_jaccard(units: int, one: int, other: int) -> float:
    """The mean Jaccard index of a set of `one` of the units and one of `other`, drawn at random. 0 for two empty sets."""
    overlaps = np.arange(max(0, one + other - units), min(one, other) + 1)
    either = np.maximum(one + other - overlaps, 1)
    return float((hypergeom(units, one, other).pmf(overlaps) * overlaps / either).sum())


def _agreement(
    score: Callable[[Scores, Counts], np.ndarray],
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first: Scores,
    other: Scores,
    *,
    chance: float,
    seed: int,
) -> Agreement | None:
    n, rng, both = len(first.values), np.random.default_rng(seed), (first, other)
    everybody = np.ones((1, n))
    here, there = (score(scores, everybody) for scores in both)
    value = float(compare(here, there)[0])
    if np.isnan(value):
        return None
    groups = here.shape[1]
    at_once = max(1, CHUNK // (first.units * groups))
    resamples = resample_counts(n, rng, RESAMPLES_OF_PAIRS, at_once=at_once)
    draws = [compare(*(score(scores, counts) for scores in both)) for counts in resamples]
    orders = (rng.permutation(first.units) for _ in range(PERMUTED))
    by_chance = [compare(here, there[..., order])[0] for order in orders]
    return Agreement(
        estimate=_estimate(value, np.concatenate(draws), n),
        chance=chance,
        chance_95=float(np.nanquantile(by_chance, 0.95)),
        within=_within(score, compare, both, rng) if n > 1 else None,
        units=first.units,
    )


def _within(score: Callable, compare: Callable, both: tuple[Scores, Scores], rng: np.random.Generator):
    """The mean agreement of two random halves of the subjects in one and the same measurement; None where there is none."""
    n = len(both[0].values)
    halves = np.stack([rng.permutation(n) < n // 2 for _ in range(HALVED)])
    found = np.concatenate([compare(score(one, halves), score(one, ~halves)) for one in both])
    kept = found[~np.isnan(found)]
    return float(kept.mean()) if len(kept) else None


def _estimate(value: float, draws: Float[np.ndarray, " draws"], n: int) -> Estimate:
    kept = draws[~np.isnan(draws)]
    if n == 1 or 2 * len(kept) < len(draws):
        return Estimate(value=value, low=np.nan, high=np.nan, n=n)
    low, high = np.quantile(kept, LEVELS)
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)), n=n)


def _correlations(first: Drawn, other: Drawn) -> Float[np.ndarray, " draws"]:
    """Pearson's correlation over the units, the mean over groups; NaN where one of the two is constant."""
    one, two = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (first, other))
    norms = np.sqrt((one**2).sum(axis=-1) * (two**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return ((one * two).sum(axis=-1) / np.where(norms > 0, norms, np.nan)).mean(axis=-1)


def _jaccards(first: First, other: First) -> Float[np.ndarray, " draws"]:
    """Units in both over units in either, the mean over groups; NaN where there is none in either."""
    both, either = (first & other).sum(axis=-1), (first | other).sum(axis=-1)
    return (both / np.where(either > 0, either, np.nan)).mean(axis=-1)


def _shares(weights: Float[np.ndarray, "*draws subjects"]) -> Float[np.ndarray, "*draws subjects"]:
    """Weights that sum to one; NaN where they are all zero."""
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, np.nan)
