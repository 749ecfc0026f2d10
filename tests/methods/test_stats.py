from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from factfinding import stats
from factfinding.errors import InputError
from factfinding.stats import (
    auc,
    aucs,
    bootstrap,
    grouped_folds,
    majority_rate,
    mean_interval,
    paired_difference,
    pearson,
    share_interval,
    spearman,
    stratified_folds,
)


@given(n=st.integers(1, 400), data=st.data())
def test_share_is_wilsons_interval(n, data):
    k = data.draw(st.integers(0, n))
    estimate = share_interval(np.arange(n) < k)
    assert (estimate.value, estimate.n) == (k / n, n)
    for bound, edge in (
        (estimate.low, 0),
        (estimate.high, 1),
    ):  # the shares that lie z standard errors from k / n
        z = np.inf if bound == edge else abs(k / n - bound) / np.sqrt(bound * (1 - bound) / n)
        assert z == pytest.approx(np.inf if k / n == edge else scipy_stats.norm.ppf(0.975))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


def test_share_never_collapses_and_is_symmetric():
    all_hit, none_hit = share_interval(np.ones(38, bool)), share_interval(np.zeros(38, bool))
    assert all_hit.high == 1 and all_hit.low == pytest.approx(0.9082, abs=1e-4)
    assert none_hit.low == 0 and none_hit.high == pytest.approx(1 - all_hit.low)


def test_paired_hits_have_newcombes_interval():
    """The example of Newcombe (1998): of 50, 36 hit in both, 12 in the first only, 2 in the second only."""
    first = np.r_[np.ones(48, bool), np.zeros(2, bool)]
    second = np.r_[np.ones(36, bool), np.zeros(12, bool), np.ones(2, bool)]
    found = paired_difference(first, second, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)
    back = paired_difference(second, first, seed=0)
    assert (back.value, back.low, back.high) == pytest.approx((-0.2, -0.3404, -0.0569), abs=1e-4)
    both = paired_difference(np.ones(38, bool), np.ones(38, bool), seed=0)
    assert both.value == 0 and both.low == pytest.approx(-0.0918, abs=1e-4) == -both.high


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("cells", [(0.8, 0.15, 0.02), (0.35, 0.6, 0.01), (0.3, 0.3, 0.1)])
def test_paired_intervals_of_hits_hold_the_truth_19_times_of_20(weight, cells):
    rng, (both, one, other) = np.random.default_rng(0), cells
    truth, held = both + one - weight * (both + other), 0
    for _ in range(400):
        kind = rng.choice(4, 100, p=[both, one, other, 1 - both - one - other])
        found = paired_difference(kind <= 1, (kind == 0) | (kind == 2), weight=weight, seed=0)
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.99


def test_a_small_difference_that_everybody_shows_is_seen_though_the_intervals_overlap():
    rng = np.random.default_rng(0)
    first = rng.normal(size=100)
    second = first - rng.uniform(0.05, 0.15, size=100)
    assert mean_interval(first, seed=0).low < mean_interval(second, seed=0).high
    found = paired_difference(first, second, seed=0)
    assert 0.05 < found.low < found.value < found.high < 0.15
    assert paired_difference(first, second, weight=0.0, seed=0) == mean_interval(first, seed=0)


@pytest.mark.parametrize(
    ("second", "weight"), [(np.zeros(3), 1.0), (np.zeros(4), -1.0), (np.full(4, np.nan), 1.0)]
)
def test_pairs_that_are_none_are_refused(second, weight):
    with pytest.raises(ValueError, match=r"paired|taken away|finite"):
        paired_difference(np.zeros(4), second, weight=weight, seed=0)


def test_booleans_are_shares_and_zeros_are_numbers():
    hits = np.array([True, False, True, True])
    assert mean_interval(hits, seed=0) == share_interval(hits)
    exact_zero = mean_interval(np.zeros(50, int), seed=0)
    assert (exact_zero.value, exact_zero.low, exact_zero.high) == (0, 0, 0)


def test_bootstrap_of_a_share_is_binomial():
    """The identity in the module's docstring: quantiles of resampled 0/1 means are Binomial(n, k/n)/n."""
    n, k = 200, 60
    resampled = mean_interval((np.arange(n) < k).astype(float), seed=3, n_resamples=20_000)
    exact = scipy_stats.binom.ppf([0.025, 0.975], n, k / n) / n
    np.testing.assert_allclose([resampled.low, resampled.high], exact, atol=1.01 / n)


def test_share_coverage():
    rng = np.random.default_rng(0)
    for p in (0.02, 0.5, 0.97):
        covered = [s.low <= p <= s.high for s in (share_interval(rng.random(60) < p) for _ in range(800))]
        assert 0.91 <= np.mean(covered) <= 0.995


def test_mean_coverage():
    rng = np.random.default_rng(1)
    draws = rng.exponential(size=(400, 80))
    intervals = [mean_interval(x, seed=i, n_resamples=400) for i, x in enumerate(draws)]
    covered = np.mean([e.low <= 1.0 <= e.high for e in intervals])
    assert 0.88 <= covered <= 0.98


def test_mean_interval_agrees_with_scipy():
    x = np.random.default_rng(2).normal(3, 2, size=300)
    estimate = mean_interval(x, seed=0, n_resamples=8000)
    reference = scipy_stats.bootstrap((x,), np.mean, n_resamples=8000, method="percentile", rng=1)
    assert estimate.value == pytest.approx(x.mean())
    np.testing.assert_allclose([estimate.low, estimate.high], reference.confidence_interval, atol=0.03)


def test_mean_interval_does_not_depend_on_chunks(monkeypatch):
    x = np.random.default_rng(3).normal(size=101)
    whole = mean_interval(x, seed=5, n_resamples=333)
    monkeypatch.setattr(stats, "CHUNK", 1000)
    chunked = mean_interval(x, seed=5, n_resamples=333)
    np.testing.assert_allclose([whole.low, whole.high], [chunked.low, chunked.high], rtol=1e-12)


def test_subjects_are_resampled_whole():
    """A hundred equal draws of each subject add nothing: the interval is that of the subjects alone."""
    x = np.random.default_rng(4).normal(size=40)
    assert mean_interval(x, seed=0).low == pytest.approx(
        mean_interval(np.repeat(x[:, None], 100, axis=1), seed=0).low
    )


def test_one_subject_has_no_interval_and_constants_have_no_width():
    one = mean_interval([0.3], seed=0)
    assert one.value == 0.3 and one.n == 1 and np.isnan(one.low) and np.isnan(one.high)
    constant = mean_interval([0.1] * 7, seed=0)
    assert (constant.value, constant.low, constant.high) == (0.1, 0.1, 0.1)
    assert share_interval(np.array([True])).low == pytest.approx(0.2065, abs=1e-3)


def test_level_widens():
    x = np.random.default_rng(5).normal(size=50)
    narrow, wide = mean_interval(x, seed=0, level=0.5), mean_interval(x, seed=0, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_same_seed_same_interval():
    x = np.random.default_rng(6).normal(size=50)
    assert mean_interval(x, seed=1) == mean_interval(x, seed=1) != mean_interval(x, seed=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([], seed=0), "at least one row"),
        (lambda: mean_interval(3.0, seed=0), "at least one row"),
        (lambda: mean_interval([1.0, np.nan], seed=0), "1 of 2 values are not finite"),
        (lambda: mean_interval([1.0, 2.0], seed=0, level=95), "level is 95"),
        (lambda: mean_interval([1.0, 2.0], seed=0, n_resamples=0), "n_resamples is 0"),
        (lambda: share_interval(np.array([])), "at least one row"),
        (lambda: share_interval(np.array([0, 1])), "boolean"),
        (lambda: bootstrap(pearson, ([], []), seed=0), "at least 1"),
        (lambda: bootstrap(pearson, ([1.0], [1.0, 2.0]), seed=0), "one and the same length"),
        (lambda: majority_rate([]), "at least one row"),
        (lambda: pearson([1.0, 2.0], [1.0]), "one length"),
        (lambda: aucs(np.zeros((3, 2)), np.zeros(3)), "one boolean per row"),
        (lambda: stratified_folds(list("aab"), n_folds=2, seed=0), "1 rows of label 'b' for 2 folds"),
        (lambda: stratified_folds(list("aab"), n_folds=1, seed=0), "at least 2"),
        (lambda: grouped_folds([1, 1, 1, 1], list("abab"), n_folds=2, seed=0), "1 groups for 2 folds"),
        (lambda: grouped_folds([1, 2], list("abab"), n_folds=2, seed=0), "2 groups but 4 labels"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bootstrap_is_paired():
    """Rows stay together: the correlation of x with itself is 1 in every resample."""
    x = np.random.default_rng(7).normal(size=30)
    estimate = bootstrap(pearson, (x, x), seed=0, n_resamples=200)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], 1)


def test_bootstrap_of_a_mean_agrees_with_mean_interval():
    x = np.random.default_rng(8).normal(size=100)
    by_loop, by_array = (
        bootstrap(np.mean, (x,), seed=0, n_resamples=4000),
        mean_interval(x, seed=1, n_resamples=4000),
    )
    np.testing.assert_allclose([by_loop.low, by_loop.high], [by_array.low, by_array.high], atol=0.02)


def test_bootstrap_leaves_undefined_resamples_out():
    scores, positive = np.arange(12.0), np.arange(12) >= 11  # a third of the resamples have no positive
    estimate = bootstrap(auc, (scores, positive), seed=0, n_resamples=300)
    assert np.isfinite([estimate.low, estimate.high]).all()
    nothing = bootstrap(auc, (scores, np.zeros(12, bool)), seed=0, n_resamples=20)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


scores_and_classes = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


@given(scores_and_classes)
def test_auc_is_the_chance_to_outrank(pairs):
    scores, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs])
    value = auc(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan(value)
        return
    differences = scores[positive][:, None] - scores[~positive]
    assert value == pytest.approx(np.mean((differences > 0) + 0.5 * (differences == 0)))
    assert auc(-scores, positive) == pytest.approx(1 - value)
    np.testing.assert_allclose(aucs(np.stack([scores, -scores], axis=1), positive), [value, 1 - value])


def test_correlations():
    x = np.random.default_rng(9).normal(size=60)
    y = x + np.random.default_rng(10).normal(size=60)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, y) == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert np.isnan(pearson(x, np.ones(60))) and np.isnan(spearman(np.ones(60), y))


def test_majority_rate():
    assert majority_rate(["a", "b", "a"]) == pytest.approx(2 / 3)
    assert majority_rate(np.array([3])) == 1


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 15), min_size=20, max_size=80),
    n_folds=st.integers(2, 5),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_no_group_in_two_folds(groups, n_folds, seed, data):
    labels = data.draw(st.lists(st.sampled_from("ab"), min_size=len(groups), max_size=len(groups)))
    try:
        folds = grouped_folds(groups, labels, n_folds=n_folds, seed=seed)
    except InputError:
        counts = [labels.count(label) for label in set(labels)]
        assert len(set(groups)) < n_folds or min(counts) < n_folds
        return
    assert folds.shape == (len(groups),) and folds.min() >= 0 and folds.max() < n_folds
    for group in set(groups):
        assert len({fold for fold, g in zip(folds, groups, strict=True) if g == group}) == 1


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(5, 30), min_size=2, max_size=4), seed=st.integers(0, 2**31))
def test_stratified_folds_spread_every_label(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    folds = stratified_folds(labels, n_folds=5, seed=seed)
    for label, count in enumerate(counts):
        per_fold = np.bincount(folds[labels == label], minlength=5)
        assert per_fold.min() >= count // 5 and per_fold.max() <= -(-count // 5)
    np.testing.assert_array_equal(folds, stratified_folds(labels, n_folds=5, seed=seed))


def test_many_means_are_the_means_one_by_one_and_share_their_resamples():
    values = np.random.default_rng(0).normal(size=(80, 3)) * (1, 10, 0) + (0, 5, 2)
    many = stats.mean_intervals(values, seed=1)
    for column in range(2):
        one = stats.mean_interval(values[:, column], seed=1)
        assert many.value[column] == pytest.approx(one.value) and many.n == one.n == 80
        width = one.high - one.low
        assert many.low[column] == pytest.approx(one.low, abs=0.1 * width)
        assert many.high[column] == pytest.approx(one.high, abs=0.1 * width)
    assert many.value[2] == many.low[2] == many.high[2] == 2, "a constant has no spread"
    shifted = stats.mean_intervals(values[:, [0, 0]] + (0, 7), seed=1)
    assert shifted.low[1] - shifted.low[0] == pytest.approx(7)
    assert np.isnan(stats.mean_intervals(values[:1], seed=1).low).all()
    with pytest.raises(ValueError, match="columns of a matrix"):
        stats.mean_intervals(values[:, 0], seed=1)
