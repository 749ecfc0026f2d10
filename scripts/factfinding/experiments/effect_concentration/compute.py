"""How few neurons carry the effects on a fact (P3.2); from the table `neuron_effects` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.effect_vectors import ALL, Vectors, vectors
from factfinding.methods.estimates import each, estimate_columns, estimate_schema
from factfinding.stats import mean_intervals

TOPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
GAUSSIANS = 100
"""Random vectors of which the Gaussian baseline is the mean."""

CONCENTRATION = (
    dict.fromkeys(("fact", "kind", "measure"), pl.String)
    | {"top": pl.Int64, "layer": pl.Int64}
    | estimate_schema("value")
    | {"gaussian": pl.Float64, "n": pl.Int64, "n_neurons": pl.Int64}
)


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `effect_concentration`."""
    effects = inputs.table("neuron_effects")
    table = effect_concentration(effects, seed=settings.neurons.seed)
    say(f"{table.height} rows from {effects.height:,} effects")
    return {"effect_concentration": table}


def effect_concentration(effects: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Columns fact (or `all`: each subject's mean over facts), kind, measure, top, layer, value with its interval
    over subjects, gaussian, n (subjects), n_neurons.

    measure `top`: share of the summed absolute effect that the `top` largest neurons carry. `participation_ratio`:
    (sum |e|)^2 / sum e^2, the number of neurons if all carried alike. `layer`: share of the neurons of `layer`. gaussian: the
    same for effects that are drawn from one normal distribution, neuron by neuron. Vectors of zeros do not count. Empty when
    the effects are.
    """
    rows = []
    for kind in effects["kind"].unique(maintain_order=True):
        found = vectors(effects, kind)
        n_neurons = found.effects.shape[1]
        tops = [top for top in TOPS if top < n_neurons] + [n_neurons]
        layers = np.unique(found.layers)
        measures = [{"measure": "participation_ratio"}, *({"measure": "top", "top": top} for top in tops)]
        measures += [{"measure": "layer", "layer": int(layer)} for layer in layers]
        normal = np.random.default_rng(seed).standard_normal((GAUSSIANS, n_neurons))
        of_layer = found.layers == layers[:, None]
        measured, expected = (
            np.column_stack([_concentration(effects, tops), _layer_shares(effects, of_layer)])
            for effects in (found.effects, normal)
        )
        for fact, values in _by_fact(found, measured):
            estimates = each(mean_intervals(values, seed=seed))
            for measure, estimate, gaussian in zip(
                measures, estimates, expected.mean(axis=0).tolist(), strict=True
            ):
                about = {"fact": fact, "kind": kind, "gaussian": gaussian, "n_neurons": n_neurons}
                rows.append(about | measure | {"n": estimate.n} | estimate_columns("value", estimate))
    return pl.DataFrame(rows, schema=CONCENTRATION)


def _layer_shares(
    effects: Float[np.ndarray, "vectors neurons"], layers: Bool[np.ndarray, "layers neurons"]
) -> Float[np.ndarray, "vectors layers"]:
    """The share of the summed absolute effect that each layer's neurons have; NaN for vectors of zeros."""
    size = np.abs(effects)
    with np.errstate(invalid="ignore", divide="ignore"):
        return size @ layers.T / size.sum(axis=1, keepdims=True)


def _concentration(
    effects: Float[np.ndarray, "vectors neurons"], tops: Sequence[int]
) -> Float[np.ndarray, "vectors measures"]:
    """The participation ratio, then the share of each number of largest neurons; NaN for vectors of zeros."""
    size = -np.sort(-np.abs(effects), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = size.sum(axis=1) ** 2 / (size**2).sum(axis=1)
        shares = size.cumsum(axis=1)[:, np.array(tops) - 1] / size.sum(axis=1, keepdims=True)
    return np.column_stack([ratio, shares])


def _by_fact(found: Vectors, measured: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The measures of each fact's subjects, and of all facts with each subject's mean."""
    there = ~np.isnan(measured).any(axis=1)
    people = np.array(found.subjects)
    means = [
        measured[rows].mean(axis=0)
        for name in dict.fromkeys(people)
        if (rows := there & (people == name)).any()
    ]
    if means:
        yield ALL, np.stack(means)
    for fact in dict.fromkeys(found.facts):
        rows = there & (np.array(found.facts) == fact)
        if rows.any():
            yield fact, measured[rows]
