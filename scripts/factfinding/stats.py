"""Intervals, folds and rank statistics, the same for every table.

Two kinds of interval, one for each kind of number, both at 95 % unless told otherwise:

- **Shares** (the mean of hits, a boolean array: accuracy, recall) have Wilson's interval. The percentile
  bootstrap of a share needs no resampling at all: the number of hits in a resample of n subjects is exactly
  Binomial(n, k/n), since each draw is a hit with probability k/n, independently. But that also shows what is
  wrong with it: at k = 0 and k = n the binomial has no spread and the interval is a single point, however few
  subjects there are, and probes on late layers are exactly there. Wilson's interval asks which shares could
  have given k of n; it never collapses (38 of 38 gives 0.908 to 1) and needs no seed. It is used for all
  shares, at the edges or not, so that they can be compared.
- **Means of anything else** (losses, probabilities, effects) have the percentile bootstrap over subjects, as
  has any statistic given to `bootstrap`.

Two numbers of the same subjects are compared in pairs, by `paired_difference`: intervals of their own that overlap say
nothing about a difference that nearly every subject shows.

All take subjects as independent draws, and all hold fitted models fixed: they say how far the number would
move with other subjects, not with other training data, folds or seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats as scipy_stats
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from factfinding.errors import InputError

CHUNK = 1_000_000
"""Resampled values held at once: bounds the bootstrap's memory to tens of megabytes."""
RESAMPLES = 2000
"""Of subjects, or whatever the unit is, wherever nothing else is said."""
RESAMPLES_OF_PAIRS = 1000
"""Where a resample weighs a matrix of pairs, or thousands of neurons."""
RESAMPLES_OF_QUANTILES = 500
"""Where each resample looks for quantiles among all tokens of its strings."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval; `low` and `high` are NaN where the data give none (see `mean_interval`)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """Many numbers over the same subjects, each with its interval."""

    value: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    n: int


def mean_interval(values, *, seed: int, level: float = 0.95, n_resamples: int = RESAMPLES) -> Estimate:
    """Mean over subjects with its interval: percentile bootstrap, or Wilson's for booleans.

    values: `Float["subjects ..."]`, or `Bool["subjects"]` for a share (see `share_interval`). With more axes
    than one, whole subjects are resampled, never single draws of one subject. Integers 0 and 1 are numbers,
    not hits: an effect that is exactly zero for all is no share.

    The percentile bootstrap has limits that no code removes. One subject says nothing about spread: the
    interval is NaN. Values that are all equal give an interval of zero width, which is what was observed and
    no proof of certainty. Below about ten subjects it is too narrow.

    Raises ValueError for no values, and for values that are not finite.
    """
    values = _rows(values)
    if values.dtype == bool and values.ndim == 1:
        return share_interval(values, level=level)
    rows = values.astype(np.float64).reshape(len(values), -1).mean(axis=1)
    if len(rows) == 1:
        return Estimate(value=float(rows[0]), low=np.nan, high=np.nan, n=1)
    if np.all(rows == rows[0]):  # the mean of n equal floats is not always that float
        return Estimate(value=float(rows[0]), low=float(rows[0]), high=float(rows[0]), n=len(rows))
    low, high = _percentiles(_resampled_means(rows, seed, n_resamples), level)
    return Estimate(value=float(rows.mean()), low=low, high=high, n=len(rows))


def mean_intervals(
    values: Float[np.ndarray, "subjects k"], *, seed: int, level: float = 0.95, n_resamples: int = RESAMPLES
) -> Estimates:
    """The mean of each column with its percentile bootstrap interval, as `mean_interval` has it for one.

    All columns see the same resamples, drawn as counts of each subject, so a thousand cost little more than one.
    Raises ValueError for no values, and for values that are not finite.
    """
    values = _rows(values).astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"many means are taken of the columns of a matrix, not of shape {values.shape}")
    n, rng = len(values), np.random.default_rng(seed)
    mean = values.mean(axis=0)
    if n == 1:
        nothing = np.full_like(mean, np.nan)
        return Estimates(value=mean, low=nothing, high=nothing, n=1)
    resamples = resample_counts(n, rng, _positive(n_resamples), at_once=CHUNK // n)
    draws = np.concatenate([counts @ values / n for counts in resamples])
    _check_level(level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    for bound in (mean, low, high):  # a constant column has no spread, whatever rounding makes of it
        np.copyto(bound, values[0], where=np.all(values == values[0], axis=0))
    return Estimates(value=mean, low=low, high=high, n=n)


def share_interval(hits: Bool[np.ndarray, " subjects"], *, level: float = 0.95) -> Estimate:
    """Share of hits with Wilson's score interval; the module's docstring says why not the bootstrap.

    Raises ValueError for no hits at all to count, and for anything but booleans.
    """
    hits = _rows(hits)
    if hits.dtype != bool or hits.ndim != 1:
        raise ValueError(
            f"a share is taken of a flat boolean array, not of {hits.dtype} of shape {hits.shape}"
        )
    _check_level(level)
    found = scipy_stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(level, method="wilson")
    return Estimate(value=float(hits.mean()), low=float(found.low), high=float(found.high), n=len(hits))


def paired_difference(
    first,
    second,
    *,
    weight: float = 1.0,
    seed: int,
    level: float = 0.95,
    n_resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of `first` less `weight` times the mean of `second`, both of the same subjects in the same order.

    Numbers have the bootstrap over subjects of `first - weight * second` (`mean_interval`). Hits, two boolean arrays,
    have the interval that goes with Wilson's: the distances of both shares to the ends of their intervals are added as
    squares, less what their correlation takes away (Newcombe 1998, method 10; Zou and Donner 2008 for a weight). Like
    Wilson's it never collapses: 38 of 38 and 38 of 38 differ by 0 [-0.09, 0.09], where every resample differs by 0.

    Raises ValueError for arrays of different shapes, for no values, for values that are not finite, and for a weight
    below zero.
    """
    if weight < 0:
        raise ValueError(f"the weight of what is taken away is {weight}; allowed: 0 or more")
    first, second = _rows(first), _rows(second)
    if first.shape != second.shape:
        raise ValueError(f"paired values need one and the same shape, not {first.shape} and {second.shape}")
    if not (first.dtype == second.dtype == bool and first.ndim == 1):
        difference = first.astype(np.float64) - weight * second.astype(np.float64)
        return mean_interval(difference, seed=seed, level=level, n_resamples=n_resamples)
    one, two = share_interval(first, level=level), share_interval(second, level=level)
    return _apart(one, two, weight=weight, together=_correlation_of_hits(first, second))


def share_difference(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " others"]) -> Estimate | None:
    """The share of hits in one sample less that in another, with the interval of `paired_difference`, but of samples that
    are not correlated. None where either is empty."""
    if not len(first) or not len(second):
        return None
    return _apart(share_interval(first), share_interval(second))


def _apart(one: Estimate, two: Estimate, *, weight: float = 1.0, together: float = 0.0) -> Estimate:
    """One share less `weight` times another. together: how the two are correlated."""
    value = one.value - weight * two.value
    down = (one.value - one.low, weight * (two.high - two.value))
    up = (one.high - one.value, weight * (two.value - two.low))
    low, high = (np.sqrt(max(a**2 - 2 * together * a * b + b**2, 0.0)) for a, b in (down, up))
    return Estimate(value=value, low=float(value - low), high=float(value + high), n=one.n)


def resample_counts(
    n: int, rng: np.random.Generator, n_resamples: int = RESAMPLES, *, at_once: int | None = None
) -> Iterator[Int[np.ndarray, "resamples n"]]:
    """How often each of n rows is drawn in each resample: n_resamples of them, `at_once` (None: all) at a time.

    The size of the pieces bounds memory and does not change what is drawn. Two kinds of rows that are resampled side
    by side from one `rng` are drawn in turn, piece by piece.
    """
    step = n_resamples if at_once is None else max(1, at_once)
    for start in range(0, n_resamples, step):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(step, n_resamples - start))


def resample_rows(
    n: int, rng: np.random.Generator, n_resamples: int = RESAMPLES, *, at_once: int
) -> Iterator[Int[np.ndarray, "resamples n"]]:
    """Which of n rows are drawn in each resample, for statistics that need the rows themselves; `at_once` at a time."""
    for start in range(0, n_resamples, max(1, at_once)):
        size = min(max(1, at_once), n_resamples - start)
        yield rng.integers(0, n, (size, n), dtype=np.int32)


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence,
    *,
    seed: int,
    level: float = 0.95,
    n_resamples: int = RESAMPLES,
) -> Estimate:
    """Any statistic of paired arrays with its percentile bootstrap interval, rows resampled together.

    `statistic(*arrays)` is called once per resample, so it should be cheap. Resamples on which it is NaN (the
    AUC of one class, the correlation of a constant) are left out; if that is more than half of them, or if
    there is but one row, the interval is NaN.

    Raises ValueError for no rows, and for arrays of different lengths.
    """
    arrays = [np.asarray(array) for array in arrays]
    lengths = sorted({len(array) for array in arrays})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(f"paired arrays need one and the same length of at least 1, not {lengths}")
    n = lengths[0]
    value = float(statistic(*arrays))
    if n == 1:
        return Estimate(value=value, low=np.nan, high=np.nan, n=1)
    rng = np.random.default_rng(seed)
    resamples = resample_rows(n, rng, _positive(n_resamples), at_once=1)
    draws = np.array([statistic(*(array[rows] for array in arrays)) for [rows] in resamples])
    draws = draws[~np.isnan(draws)]
    low, high = _percentiles(draws, level) if 2 * len(draws) >= n_resamples else (np.nan, np.nan)
    return Estimate(value=value, low=low, high=high, n=n)


def majority_rate(labels: Sequence) -> float:
    """Share of the commonest label: what always answering it would score. Raises ValueError for no labels."""
    counts = np.unique(_rows(labels), return_counts=True)[1]
    return float(counts.max() / counts.sum())


def stratified_folds(labels: Sequence, *, n_folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Fold of each row, 0 to n_folds - 1, every label spread evenly over the folds.

    Raises InputError when a label has fewer rows than there are folds.
    """
    rows = _rows(labels)
    _check_folds(rows, n_folds)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    return _fold_index(splitter.split(rows, rows), len(rows))


def grouped_folds(groups: Sequence, labels: Sequence, *, n_folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Fold of each row, 0 to n_folds - 1, no group in two folds, labels spread as evenly as that allows.

    A fold may be empty of a label, or (with few, large groups) of rows. Raises InputError when there are
    fewer groups than folds, or when a label has fewer rows than there are folds.
    """
    group_rows, rows = _rows(groups), _rows(labels)
    if len(group_rows) != len(rows):
        raise ValueError(f"{len(group_rows)} groups but {len(rows)} labels")
    _check_folds(rows, n_folds)
    n_groups = len(np.unique(group_rows))
    if n_groups < n_folds:
        raise InputError(
            "folds", f"{n_groups} groups for {n_folds} folds", "at least as many groups as folds"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return _fold_index(splitter.split(rows, rows, group_rows), len(rows))


def aucs(scores: Float[np.ndarray, "n k"], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Area under the ROC curve of each column: P(a positive outranks a negative), ties counting half.

    All NaN when one of the classes is empty. Raises ValueError for rows that do not match.
    """
    scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive)
    if positive.dtype != bool or scores.ndim != 2 or positive.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {scores.shape} need one boolean per row, not {positive.dtype} {positive.shape}"
        )
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return np.full(scores.shape[1], np.nan)
    # no p-value is asked for, and the asymptotic one costs nothing
    wins = scipy_stats.mannwhitneyu(scores[positive], scores[~positive], method="asymptotic").statistic
    return wins / (n_positive * n_negative)


def some_of(
    rows: int | Int[np.ndarray, " n"], most: int, rng: np.random.Generator
) -> Int[np.ndarray, " some"]:
    """At most `most` of the rows (or of as many rows as there are), drawn without replacement, in ascending order."""
    return np.sort(rng.permutation(rows)[:most])


def in_turn(order: Int[np.ndarray, " n"], labels: np.ndarray, most: int) -> Int[np.ndarray, " some"]:
    """At most `most` of the rows in `order`, one of each label in turn, so that as many of each are taken as there are.
    labels: of all rows."""
    own = labels[order]
    turn = np.empty(len(order), dtype=np.int64)
    for label in set(own.tolist()):
        turn[own == label] = np.arange((own == label).sum())
    return order[np.argsort(turn, kind="stable")[:most]]


def evenly_spread(first: int, last: int, most: int) -> list[int]:
    """At most `most` of the whole numbers from `first` to `last`, evenly spread, both ends among them."""
    places = np.linspace(first, last, min(most, last - first + 1))
    return sorted({round(float(place)) for place in places})


def cosines(
    x: Float[np.ndarray, "*rows dimensions"], y: Float[np.ndarray, "*rows dimensions"]
) -> Float[np.ndarray, "*rows"]:
    """The cosine of each two vectors; 0 where one of them is nothing."""
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return (x * y).sum(-1) / np.where(norms > 0, norms, 1.0)


def auc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve of one score; see `aucs`. NaN when one of the classes is empty."""
    return float(aucs(np.asarray(scores)[:, None], positive)[0])


def pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson correlation; NaN if either is constant. Raises ValueError for unequal lengths or no values."""
    x, y = _pair(x, y)
    return float(np.nan if _constant(x) or _constant(y) else scipy_stats.pearsonr(x, y).statistic)


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Spearman rank correlation, ties at mean ranks; otherwise as `pearson`."""
    x, y = _pair(x, y)
    return pearson(scipy_stats.rankdata(x), scipy_stats.rankdata(y))


def _rows(values) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 0 or values.size == 0:
        raise ValueError(f"no values (shape {values.shape}): a mean, share or fold needs at least one row")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite")
    return values


def _pair(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = _rows(x).astype(np.float64), _rows(y).astype(np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"a correlation needs two flat arrays of one length, not {x.shape} and {y.shape}")
    return x, y


def _correlation_of_hits(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> float:
    """Phi of two columns of hits, a positive one corrected for continuity; 0 where one of them is constant."""
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    one, other = int((first & ~second).sum()), int((~first & second).sum())
    sizes = (both + one) * (other + neither) * (both + other) * (one + neither)
    product = both * neither - one * other
    return (
        max(product - len(first) / 2, 0.0) / sizes**0.5
        if product > 0 and sizes
        else product / max(sizes, 1) ** 0.5
    )


def _constant(x: np.ndarray) -> bool:
    return bool(np.all(x == x[0]))


def _positive(n_resamples: int) -> int:
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; at least 1 is needed")
    return n_resamples


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed: between 0 and 1, such as 0.95")


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    _check_level(level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(rows: Float[np.ndarray, " subjects"], seed: int, n_resamples: int) -> np.ndarray:
    rng, n = np.random.default_rng(seed), len(rows)
    resamples = resample_rows(n, rng, _positive(n_resamples), at_once=CHUNK // n)
    return np.concatenate([rows[drawn].mean(axis=1) for drawn in resamples])


def _check_folds(labels: np.ndarray, n_folds: int) -> None:
    if n_folds < 2:
        raise InputError("folds", f"{n_folds} folds", "at least 2")
    values, counts = np.unique(labels, return_counts=True)
    rare = counts.argmin()
    if counts[rare] < n_folds:
        found = f"{counts[rare]} rows of label {str(values[rare])!r} for {n_folds} folds"
        raise InputError("folds", found, "at least as many rows of each label as folds")


def _fold_index(splits, n: int) -> Int[np.ndarray, " n"]:
    folds = np.full(n, -1)
    for fold, (_, held_out) in enumerate(splits):
        folds[held_out] = fold
    return folds
