"""Logistic probes: how they are fitted and scored (P2.6, P3.5).

Choices that are ours, as the posts do not give theirs. Columns are centred and scaled by the training fold
(methods/logistic.py says how, and why not by the standard deviation alone), so that a row is of about unit
length at any width and one penalty serves every layer, model and baseline. The loss is the *mean* cross-entropy plus
`regularisation`/2 times the squared weights, one fixed value, set on simulated data and never tuned on a study's scores. Where
there are more dimensions than rows, and not many rows, the training fold is rotated into its own span (QR): an isometry, under
which the penalised optimum is the same. Subjects are taken in order of their names, so no number depends on the order of a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer

from factfinding.errors import InputError
from factfinding.methods.logistic import Scale, fit_logistic, in_own_span

FOLDS = ("random", "first_name", "last_name")

UNPENALISED = 1e-7
"""`regularisation` when the question is what an additive model can fit at all: weak enough not to bind."""

UNSEEN = -30.0
"""Log probability of a label that is in no training row: its one group was held out."""


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
class Scores:
    """Held-out hits and losses (nats) of every subject."""

    hits: Bool[np.ndarray, " subjects"]
    losses: Float[np.ndarray, " subjects"]


def cross_validated(
    features, labellings: list[np.ndarray], folds: Int[np.ndarray, " subjects"], settings: ProbeSettings
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


def scored_on_all(features, labellings: list[np.ndarray], settings: ProbeSettings) -> list[Scores]:
    """Scores of each labelling, fitted almost without penalty and scored on the same rows: what an additive model can
    express, not what it predicts."""
    train, _ = _prepared(features, np.arange(len(labellings[0])), np.arange(0))
    scores = []
    for labels in labellings:
        model = _fitted(train, labels, settings, regularisation=UNPENALISED, max_iter=10 * settings.max_iter)
        scores.append(_scored(model, train, labels))
    return scores


def _prepared(features, inside: Int[np.ndarray, " train"], outside: Int[np.ndarray, " test"]) -> tuple:
    """Training and held-out rows, scaled by the training rows alone. A list of names becomes n-grams."""
    if isinstance(features, list):
        ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        train = ngrams.fit_transform([features[i] for i in inside])
        return train, ngrams.transform([features[i] for i in outside]) if len(outside) else None
    train, held_out = features[inside], features[outside]
    if not sp.issparse(features):
        return _scaled(train, held_out)
    # Counts are not centred, which would make them dense: the intercept does the work.
    length = np.sqrt(train.multiply(train).sum() / train.shape[0]) or 1.0
    return train / length, held_out / length


def _scaled(train: Float[np.ndarray, "train d"], held_out: Float[np.ndarray, "test d"]) -> tuple:
    """Rows on the training rows' scale, then in at most as many dimensions as those."""
    scale = Scale.of(train)
    train, basis = in_own_span(scale(train))
    held_out = scale(held_out)
    return train, held_out if basis is None else held_out @ basis


def _fitted(train, labels: np.ndarray, settings: ProbeSettings, regularisation: float, max_iter: int):
    """`fit_logistic`; InputError for a training fold of one answer."""
    if len(np.unique(labels)) < 2:
        found = "all subjects of all answers but one in a single group"
        raise InputError("folds", found, "groups such that each training fold holds two answers")
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
