"""Linear probes of the unchanged residual stream, by which simplified runs are read (methods/readers.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from factfinding.engine.cached import activations_of, rows_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.groups import known_prompts
from factfinding.methods.logistic import Scale, fit_logistic, in_own_span
from factfinding.methods.readers import Readers
from factfinding.stats import stratified_folds


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, Readers]:
    """The readers of every layer, fitted on the subjects that are intervened on."""
    section, prompts = settings.probes, known_prompts(inputs, settings.interventions.subjects)
    subjects = prompts["subject"].to_list()
    with activations_of(inputs) as file:
        rows = rows_of(file, subjects)
        layers = [layer for layer in file.layers("resid@final_name") if layer >= 0]
        readers = fit_readers(
            (file.layer("resid@final_name", layer)[rows] for layer in layers),
            subjects,
            prompts["answer"].to_list(),
            n_folds=section.n_folds,
            regularisation=section.regularisation,
            max_iter=section.max_iter,
            tolerance=section.tolerance,
            seed=section.seed,
        )
    say(f"readers of {readers.n_layers} layers, fitted on {len(readers.subjects)} subjects")
    return {"readers": readers}


def fit_readers(
    layers: Iterable[Float[np.ndarray, "subjects d_model"]],
    subjects: Sequence[str],
    answers: Sequence[str],
    *,
    n_folds: int,
    regularisation: float,
    max_iter: int,
    tolerance: float,
    seed: int,
) -> Readers:
    """Logistic regressions, fold by fold and on all subjects, from resid_post of layer 0, 1, ... (taken one at a time).

    Columns are scaled by the training rows as in probes (methods/logistic.py), so that the same `regularisation` means
    the same, and a simplified run may move what the training rows leave where it is. With fewer than `n_folds` subjects of an
    answer, or one answer, the readers are empty: there is nothing to fit.
    """
    names, labels = tuple(sorted(set(answers))), np.asarray(answers)
    counts = [int((labels == name).sum()) for name in names]
    if len(names) < 2 or min(counts) < n_folds:
        return _no_readers(names)
    label = np.searchsorted(names, labels)
    by_name = np.argsort(subjects)
    fold = np.empty(len(label), dtype=np.int64)
    fold[by_name] = stratified_folds(label[by_name], n_folds=n_folds, seed=seed)
    options = {"regularisation": regularisation, "max_iter": max_iter, "tolerance": tolerance}
    weights, biases = [], []
    for resid in layers:
        fits = [_fitted(resid[fold != k], label[fold != k], **options) for k in range(n_folds)]
        fits.append(_fitted(resid, label, **options))
        weights.append(np.stack([weight for weight, _ in fits]))
        biases.append(np.stack([bias for _, bias in fits]))
    return Readers(
        name="logistic",
        weight=np.stack(weights, axis=1),
        bias=np.stack(biases, axis=1),
        subjects=tuple(subjects),
        fold=fold,
        answers=names,
    )


def _no_readers(answers: Sequence[str]) -> Readers:
    empty = {"weight": np.zeros((1, 0, 1, len(answers))), "bias": np.zeros((1, 0, len(answers)))}
    return Readers(
        name="logistic", subjects=(), fold=np.zeros(0, dtype=np.int64), answers=tuple(answers), **empty
    )


def _fitted(
    rows: Float[np.ndarray, "train d_model"],
    labels: Int[np.ndarray, " train"],
    *,
    regularisation: float,
    max_iter: int,
    tolerance: float,
) -> tuple[Float[np.ndarray, "d_model answers"], Float[np.ndarray, " answers"]]:
    """One regression, its scaling folded into weight and bias; two answers get a column each."""
    rows = np.asarray(rows, dtype=np.float64)
    scale = Scale.of(rows)
    scaled, basis = in_own_span(scale(rows))
    model = fit_logistic(
        scaled, labels, regularisation=regularisation, max_iter=max_iter, tolerance=tolerance
    )
    weight, bias = model.coef_.T, model.intercept_
    if weight.shape[1] == 1:
        weight, bias = np.concatenate([0 * weight, weight], axis=1), np.concatenate([0 * bias, bias])
    weight = (weight if basis is None else basis @ weight) / scale.scale[:, None]
    return weight, bias - scale.mean @ weight
