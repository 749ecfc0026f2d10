"""Dossiers as tables: a row per entry of a part, after the columns of WHO (P3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from factfinding.data.dossier import Dossier
from factfinding.methods.estimates import estimate_schema

WHO = {
    "neuron": pl.String,
    "layer": pl.Int64,
    "index": pl.Int64,
    "answer": pl.String,
    "chosen_by": pl.String,
    "best": pl.Boolean,
    "sign": pl.Int64,
}
NUMBERS = {"n": pl.Int64, "base_rate": pl.Float64}
HISTOGRAMS = WHO | {
    "subjects_answer": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
    "subjects": pl.Int64,
    "n": pl.Int64,
}
ABLATIONS = WHO | {"kind": pl.String} | estimate_schema("loss", "accuracy", "change")
ABLATIONS |= estimate_schema("accuracy_change", "from_mean", "over_random", "random_change")
ABLATIONS |= {"random_largest": pl.Float64, "random_as_large": pl.Float64, "random_neurons": pl.Int64}
ABLATIONS |= NUMBERS
COSINES = WHO | {"first": pl.String, "second": pl.String, "head": pl.String, "head_rank": pl.Int64}
COSINES |= {
    "cosine": pl.Float64,
    "layer_low": pl.Float64,
    "layer_median": pl.Float64,
    "layer_high": pl.Float64,
    "share_below": pl.Float64,
    "share_above": pl.Float64,
}
COSINES |= {"neurons": pl.Int64}
PROJECTIONS = WHO | {"removed": pl.String, "head": pl.String, "head_rank": pl.Int64, "dimensions": pl.Int64}
PROJECTIONS |= estimate_schema("auc", "auc_pre", "change", "kept", "from_first_head") | NUMBERS
"""Columns of the tables answer_neuron_histograms, _ablations, _cosines and _projections."""


def tables(made: Sequence[Dossier]) -> dict[str, pl.DataFrame]:
    """The tables histograms, ablations, cosines and projections of some dossiers."""
    rows: dict[str, list[dict]] = {
        "histograms": [row for one in made for row in _bars(one)],
    }
    for part in ("ablations", "cosines", "projections"):
        rows[part] = [_who(one) | entry.model_dump() for one in made for entry in getattr(one, part)]
    schemas = {
        "histograms": HISTOGRAMS,
        "ablations": ABLATIONS,
        "cosines": COSINES,
        "projections": PROJECTIONS,
    }
    return {name: pl.DataFrame(rows[name], schema=schema) for name, schema in schemas.items()}


def _who(dossier: Dossier) -> dict[str, object]:
    return {name: getattr(dossier, name) for name in WHO}


def _bars(dossier: Dossier) -> list[dict]:
    edges, n = dossier.histogram.edges, sum(map(sum, dossier.histogram.counts.values()))
    return [
        _who(dossier) | {"subjects_answer": answer, "low": low, "high": high, "subjects": count, "n": n}
        for answer, counts in dossier.histogram.counts.items()
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
