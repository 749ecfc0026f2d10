"""Which neurons are replaced in earnest, where replacing all of them costs too much (P3.2).

A neuron's effect is a curve of its value, and one backward pass gives the tangents of all curves: an estimate of every effect,
of the first order. It is good where a neuron moves the model little, and not where it moves it much. So it is used to choose,
in each layer and for each fact:

- the `largest` neurons, by the larger size of their estimates under both kinds, are run;
- of the others `sample` are drawn at random, and run too. They say how far the estimates of those that are not run are off,
  and how many of them are larger than the smallest of the chosen. This does not rest on any belief in gradients.

A layer's neurons are chosen in that layer alone, so that the table does not depend on how many jobs share the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from factfinding.files import text_digest
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.screen import ERROR_QUANTILE
from factfinding.stats import Estimate, pearson, share_interval, some_of
from factfinding.tables import empty, schema_of

WHERE = ["subject", "fact", "layer"]
"""What the neurons that are run are chosen in."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """largest: neurons of a layer that are run for each fact. sample: drawn from the others and run too. seed: draws them."""

    largest: int
    sample: int
    seed: int


def chosen(estimates: pl.DataFrame, screen: Screen) -> pl.DataFrame:
    """Which neurons are run: columns subject, fact, layer, neuron and drawn (at random, and not because it is large).

    estimates: columns subject, fact, layer, neuron, kind, effect.
    """
    sizes = estimates.group_by(*WHERE, "neuron", maintain_order=True).agg(size=pl.col("effect").abs().max())
    found = [estimates.select(*WHERE, "neuron", drawn=pl.lit(False)).clear()]
    for key, part in sizes.group_by(WHERE, maintain_order=True):
        order = np.argsort(-part["size"].to_numpy(), kind="stable")
        large, rest = order[: screen.largest], order[screen.largest :]
        drawn = some_of(rest, screen.sample, np.random.default_rng(_number(screen.seed, *key)))
        for rows, by_chance in ((np.sort(large), False), (drawn, True)):
            found.append(part[rows].select(*WHERE, "neuron", drawn=pl.lit(by_chance)))
    return pl.concat(found)


def _number(seed: int, *key: object) -> int:
    """A seed for each fact and layer, the same whatever stands beside it in the table."""
    return int(text_digest(str(seed), *map(str, key))[:16], 16)


def certificate(run: pl.DataFrame, total: int) -> pl.DataFrame:
    """The table `neuron_effects_screen`: each kind, all layers together and each layer.

    run: the neurons that were run, columns subject, fact, layer, neuron, kind, drawn, estimate and effect (nats). total:
    effects of each kind in the table `neuron_effects`. Empty where nothing was screened.
    """
    if run.is_empty():
        return empty("neuron_effects_screen")
    large = pl.col("effect").abs().filter(~pl.col("drawn"))
    measured = run.with_columns(
        scale=large.max().over(*WHERE, "kind"),
        least=large.min().over(*WHERE, "kind"),
    )
    layers, rows = measured["layer"].unique().sort().to_list(), []
    for kind in measured["kind"].unique(maintain_order=True):
        of_kind = measured.filter(kind=kind)
        rows.append({"kind": kind, "layer": None, "effects": total} | _counted(of_kind))
        for layer in layers:
            part = of_kind.filter(layer=layer)
            rows.append({"kind": kind, "layer": layer, "effects": total // len(layers)} | _counted(part))
    return pl.DataFrame(rows, schema=schema_of("neuron_effects_screen"))


def _counted(run: pl.DataFrame) -> dict:
    large, drawn = run.filter(~pl.col("drawn")), run.filter("drawn")
    error = (drawn["estimate"] - drawn["effect"]).abs()
    return {
        "largest": large.height,
        "n": drawn.height,
        **estimate_columns("missed", _missed(drawn)),
        "error": _quantile(error),
        "error_share": _quantile(error / drawn["scale"]),
        "correlation": _correlation(drawn),
        "correlation_large": _correlation(large),
    }


def _missed(drawn: pl.DataFrame) -> Estimate | None:
    """Share of the drawn whose effect is larger than the smallest of those that were chosen for their fact and layer."""
    larger = drawn["effect"].abs() > drawn["least"]
    return share_interval(larger.to_numpy()) if drawn.height else None


def _quantile(errors: pl.Series) -> float | None:
    finite = errors.filter(errors.is_finite())
    return float(np.quantile(finite.to_numpy(), ERROR_QUANTILE)) if len(finite) else None


def _correlation(run: pl.DataFrame) -> float | None:
    """Pearson's, of estimates and effects; None where there is nothing to correlate."""
    if run.height < 3:
        return None
    value = pearson(run["estimate"].to_numpy(), run["effect"].to_numpy())
    return None if np.isnan(value) else value
