"""Can a linear probe read the sport at the name, layer by layer, and would it mean anything (P2.6)?

A probe's accuracy means little alone: a name's letters or tokens may give the sport away, relatives share
last names and sports, and a wide residual fits anything. So each probe stands beside

- the majority rate;
- folds that keep all athletes of one last name (or first name) together, so that nothing learnt about a name
  is used on it;
- the same probe on shuffled labels. Every athlete occurs once, so held out this control is at chance if
  nothing leaks: selectivity (true minus shuffled) is accuracy over what the procedure itself yields, not over
  memorisation in general;
- the same regression on the name as a string and as a bag of tokens, with no model at all (`name_baselines`).

Choices that are ours, as the posts do not give theirs. Columns are centred and scaled by the training fold's
mean and standard deviation; then all are divided by one number, the root mean squared norm of a training row,
so that a row is of about unit length at any width and one penalty serves every layer, model and baseline. The
loss is the *mean* cross-entropy plus `regularisation`/2 times the squared weights, one fixed value, set on
simulated data and never tuned on a study's scores. Where there are more dimensions than rows, the training
fold is rotated into its own span (QR): an isometry, under which the penalised optimum is the same. Athletes
are taken in order of their names, so no number depends on the order of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer

from factfinding.errors import InputError
from factfinding.methods.logistic import column_scale, fit_logistic, in_own_span
from factfinding.stats import (
    Estimate,
    grouped_folds,
    majority_rate,
    mean_interval,
    share_interval,
    stratified_folds,
)

FOLDS = ("random", "first_name", "last_name")

UNPENALISED = 1e-7
"""`regularisation` when the question is what an additive model can fit at all: weak enough not to bind."""

CONSTANT = 1e-12
"""A column that varies by no more than this part of its mean is constant: zero once centred."""

UNSEEN = -30.0
"""Log probability of a label that is in no training row: its one group was held out."""

_SUFFIXES = {"jr", "jr.", "sr", "sr.", "ii", "iii", "iv"}


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How probes are fitted and scored.

    folds: kinds of folds. control_folds: those on which the shuffled-label control runs too (it doubles the
        cost).
    regularisation: weight of the penalty against the mean loss of a row; see the module's docstring.
    max_iter: of L-BFGS, from zero weights; it stops when no gradient of the mean loss exceeds `tolerance`.
    """

    n_folds: int = 5
    folds: tuple[str, ...] = FOLDS
    control_folds: tuple[str, ...] = FOLDS
    regularisation: float = 1e-3
    max_iter: int = 500
    tolerance: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is predicted and on which folds, the same for each layer. Rows are athletes by name."""

    order: Int[np.ndarray, " athletes"]
    names: list[str]
    labels: Int[np.ndarray, " athletes"]
    shuffled: Int[np.ndarray, " athletes"]
    folds: dict[str, Int[np.ndarray, " athletes"]]
    n_groups: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Held-out hits and losses (nats) of every athlete."""

    hits: Bool[np.ndarray, " athletes"]
    losses: Float[np.ndarray, " athletes"]


def with_name_groups(athletes: pl.DataFrame) -> pl.DataFrame:
    """`athletes` with the columns first_name_group and last_name_group: the name's outer words, case folded.

    A generational suffix (Jr., III) is no last name: father and son share a group. One word is both first and
    last.
    """
    words = [_group_words(name) for name in athletes["athlete"]]
    return athletes.with_columns(
        pl.Series("first_name_group", [first for first, _ in words], dtype=pl.String),
        pl.Series("last_name_group", [last for _, last in words], dtype=pl.String),
    )


def enough_for_folds(athletes: pl.DataFrame, settings: ProbeSettings) -> bool:
    """Whether every kind of fold can be made: two sports or more, each with an athlete for every fold, and as many
    first and last names. A model that knows too few athletes has an empty table, and that is its result."""
    counts = athletes["sport"].value_counts()["count"]
    groups = min(
        (athletes[f"{kind}_group"].n_unique() for kind in settings.folds if kind != "random"),
        default=counts.sum(),
    )
    return len(counts) > 1 and counts.min() >= settings.n_folds and groups >= settings.n_folds


def layer_probes(
    activations: Iterable[tuple[str, int, Float[np.ndarray, "athletes d"]]],
    athletes: pl.DataFrame,
    *,
    settings: ProbeSettings,
    seed: int,
    source: str = "resid",
) -> pl.DataFrame:
    """Logistic regression from each layer's activations at one position to the sport, held out (P2.6).

    activations: (condition, layer, array), taken one at a time; layer -1 is the embeddings. Rows as in
        `athletes`.
    athletes: columns athlete (no name twice), sport, first_name_group, last_name_group; see
        `with_name_groups`.
    source: what the column `input` says, "resid" or "token_sum".

    Returns the rows of the table `layer_probes`: condition, layer, input, probe, labels, folds, accuracy and
    loss (nats per athlete) with intervals over athletes, n, n_groups (for random folds each athlete is a
    group), majority_rate, selectivity with its paired interval (null for shuffled labels and where no control
    ran). An empty frame for no layers.

    Raises ValueError for activations that do not fit the athletes or are not finite; InputError for too few
    athletes or groups for the folds. scikit-learn warns (ConvergenceWarning) when `max_iter` was reached.
    """
    task = _task(athletes, settings, seed)
    rows: list[dict] = []
    for condition, layer, array in activations:
        values = np.asarray(array, dtype=np.float64)
        if values.ndim != 2 or len(values) != athletes.height or not np.isfinite(values).all():
            raise ValueError(
                f"{condition}, layer {layer}: {values.shape} must be finite, {athletes.height} rows"
            )
        head = {"condition": condition, "layer": layer, "input": source}
        rows += _probe_rows(head, values[task.order], task, settings, seed)
    return pl.DataFrame(rows, schema=table_schema())


def name_baselines(
    athletes: pl.DataFrame,
    token_ids: Sequence[Sequence[int]],
    *,
    settings: ProbeSettings,
    seed: int,
) -> pl.DataFrame:
    """What the name alone gives away, with no model: the baseline of every probe.

    `name_string`: character 1- to 4-grams within words (TF-IDF, known from the training fold alone).

    `name_tokens`: counts of the name's tokens, and one mark each for its first and its final token. It
    can express every sum of one term per token, first and final ones apart, and no combination of tokens.
    Also, under folds "none", fitted on all athletes almost without penalty and scored on the same: can *any*
    additive model give these labels? Only if it cannot does recall need the tokens to be combined. (That
    row's shuffled twin: could it give any labels?)

    token_ids: of each athlete's name, in the order of `athletes`. The folds and labels are those of
    `layer_probes` with the same settings and seed. Returns rows of the same table, condition and layer null.
    Raises as `layer_probes`.
    """
    if len(token_ids) != athletes.height or not all(len(tokens) for tokens in token_ids):
        raise ValueError(
            f"{len(token_ids)} token lists, none empty, are needed for {athletes.height} athletes"
        )
    task = _task(athletes, settings, seed)
    head = {"condition": None, "layer": None}
    tokens = _token_marks([token_ids[i] for i in task.order])
    rows: list[dict] = []
    rows += _probe_rows(head | {"input": "name_string"}, task.names, task, settings, seed)
    rows += _probe_rows(head | {"input": "name_tokens"}, tokens, task, settings, seed)
    rows += _fitted_rows(head | {"input": "name_tokens"}, tokens, task, settings, seed)
    return pl.DataFrame(rows, schema=table_schema())


def _group_words(name: str) -> tuple[str, str]:
    words = name.casefold().split()
    while len(words) > 2 and words[-1] in _SUFFIXES:
        words.pop()
    return words[0], words[-1].rstrip(",")


def _task(athletes: pl.DataFrame, settings: ProbeSettings, seed: int) -> _Task:
    if athletes["athlete"].is_duplicated().any():
        raise ValueError("an athlete stands twice: one held-out row could be known from its twin")
    unknown = {*settings.folds, *settings.control_folds} - set(FOLDS)
    if unknown:
        raise ValueError(f"folds {sorted(unknown)}; allowed: {FOLDS}")
    order = athletes["athlete"].arg_sort().to_numpy()
    athletes = athletes[order]
    labels = np.unique(athletes["sport"].to_numpy(), return_inverse=True)[1]
    folds, n_groups = {}, {}
    for kind in settings.folds:
        if kind == "random":
            folds[kind] = stratified_folds(labels, n_folds=settings.n_folds, seed=seed)
            n_groups[kind] = athletes.height
        else:
            groups = athletes[f"{kind}_group"].to_numpy()
            folds[kind] = grouped_folds(groups, labels, n_folds=settings.n_folds, seed=seed)
            n_groups[kind] = len(np.unique(groups))
    return _Task(
        order=order,
        names=athletes["athlete"].to_list(),
        labels=labels,
        shuffled=np.random.default_rng(seed).permutation(labels),
        folds=folds,
        n_groups=n_groups,
    )


def _probe_rows(head: dict, features, task: _Task, settings: ProbeSettings, seed: int) -> Iterator[dict]:
    """Rows of one input for every kind of folds, true labels and (where asked for) shuffled ones."""
    for kind, folds in task.folds.items():
        labellings = [task.labels, task.shuffled] if kind in settings.control_folds else [task.labels]
        scores = cross_validated(features, labellings, folds, settings)
        yield from _table_rows(head | {"folds": kind}, scores, task.labels, task.n_groups[kind], seed)


def _fitted_rows(head: dict, features, task: _Task, settings: ProbeSettings, seed: int) -> Iterator[dict]:
    """Rows of one input fitted and scored on all athletes: what it can express, not what it predicts."""
    train, _ = _prepared(features, np.arange(len(task.labels)), np.arange(0))
    scores = []
    for labels in (task.labels, task.shuffled):
        model = _fitted(train, labels, settings, regularisation=UNPENALISED, max_iter=10 * settings.max_iter)
        scores.append(_scored(model, train, labels))
    yield from _table_rows(head | {"folds": "none"}, scores, task.labels, len(task.labels), seed)


def cross_validated(
    features, labellings: list[np.ndarray], folds: Int[np.ndarray, " athletes"], settings: ProbeSettings
) -> list[Scores]:
    """Held-out scores for each labelling; the preparation of a fold does not look at labels and is shared."""
    n = len(folds)
    results = [Scores(hits=np.zeros(n, dtype=bool), losses=np.zeros(n)) for _ in labellings]
    for fold in np.unique(folds):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        train, held_out = _prepared(features, inside, outside)
        for labels, result in zip(labellings, results, strict=True):
            model = _fitted(train, labels[inside], settings, settings.regularisation, settings.max_iter)
            scores = _scored(model, held_out, labels[outside])
            result.hits[outside], result.losses[outside] = scores.hits, scores.losses
    return results


def _prepared(features, inside: Int[np.ndarray, " train"], outside: Int[np.ndarray, " test"]) -> tuple:
    """Training and held-out rows, scaled by the training rows alone. A list of names becomes n-grams."""
    if isinstance(features, list):
        ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        train = ngrams.fit_transform([features[i] for i in inside])
        return train, ngrams.transform([features[i] for i in outside]) if len(outside) else None
    train, held_out = features[inside], features[outside]
    if not sp.issparse(features):  # centring would make counts dense, and the intercept does its work
        train, held_out = _standardised(train, held_out)
    squares = train.multiply(train) if sp.issparse(train) else train**2
    length = np.sqrt(squares.sum() / train.shape[0]) or 1.0
    return train / length, held_out / length


def _standardised(train: Float[np.ndarray, "train d"], held_out: Float[np.ndarray, "test d"]) -> tuple:
    """Columns at mean 0 and deviation 1 of the training rows, then at most as many dimensions as those."""
    mean, spread = column_scale(train, of_mean=CONSTANT)
    train, basis = in_own_span((train - mean) / spread)
    held_out = (held_out - mean) / spread
    return train, held_out if basis is None else held_out @ basis


def _fitted(train, labels: np.ndarray, settings: ProbeSettings, regularisation: float, max_iter: int):
    """`fit_logistic`; InputError for a training fold of one sport."""
    if len(np.unique(labels)) < 2:
        found = "all athletes of all sports but one in a single group"
        raise InputError("folds", found, "groups such that each training fold holds two sports")
    options = {"max_iter": max_iter, "tolerance": settings.tolerance}
    return fit_logistic(train, labels, regularisation=regularisation, **options)


def _scored(model, rows, labels: Int[np.ndarray, " rows"]) -> Scores:
    """Hits and losses. A label that no training row had gets the log probability `UNSEEN`."""
    scores = model.decision_function(rows)
    if scores.ndim == 1:  # two labels: one score, the log odds of the second
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    logp = np.full((len(labels), max(labels.max(), model.classes_.max()) + 1), UNSEEN)
    logp[:, model.classes_] = log_softmax(scores, axis=1)
    return Scores(hits=logp.argmax(axis=1) == labels, losses=-logp[np.arange(len(labels)), labels])


def _table_rows(
    head: dict, scores: list[Scores], labels: np.ndarray, n_groups: int, seed: int
) -> Iterator[dict]:
    """Rows for true labels and, if there is a second entry in `scores`, for shuffled ones."""
    gain = None
    if len(scores) == 2:  # -1, 0 or 1 for each athlete: the same athletes under both labellings
        gain = mean_interval(scores[0].hits.astype(float) - scores[1].hits, seed=seed)
    for name, result in zip(("true", "shuffled"), scores, strict=False):
        row = head | {"probe": "logistic", "labels": name}
        row |= _columns("accuracy", share_interval(result.hits))
        row |= _columns("loss", mean_interval(result.losses, seed=seed))
        row |= {"n": len(labels), "n_groups": n_groups, "majority_rate": majority_rate(labels)}
        yield row | _columns("selectivity", gain if name == "true" else None)


def _columns(name: str, estimate: Estimate | None) -> dict:
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _token_marks(token_ids: Sequence[Sequence[int]]) -> sp.csr_matrix:
    """Counts of each token, then one-hot first tokens, then one-hot final tokens: [athletes, 3 * tokens]."""
    tokens_used = sorted({token for tokens in token_ids for token in tokens})
    vocabulary, size = {token: i for i, token in enumerate(tokens_used)}, len(tokens_used)
    marks = sp.lil_matrix((len(token_ids), 3 * size))
    for row, tokens in enumerate(token_ids):
        for token in tokens:
            marks[row, vocabulary[token]] += 1
        marks[row, size + vocabulary[tokens[0]]] = 1
        marks[row, 2 * size + vocabulary[tokens[-1]]] = 1
    return marks.tocsr()


def table_schema() -> dict[str, type[pl.DataType]]:
    head = {"condition": pl.String, "layer": pl.Int64}
    head |= dict.fromkeys(("input", "probe", "labels", "folds"), pl.String)
    numbers = dict.fromkeys([*_columns("accuracy", None), *_columns("loss", None)], pl.Float64)
    counts = {"n": pl.Int64, "n_groups": pl.Int64, "majority_rate": pl.Float64}
    return head | numbers | counts | dict.fromkeys(_columns("selectivity", None), pl.Float64)
