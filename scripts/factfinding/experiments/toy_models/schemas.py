"""Columns of the tables on toy networks; docs/tables.md says what they mean."""

from __future__ import annotations

import polars as pl

from factfinding.experiments.toy_models.measure import KINDS

NETWORK = {"task": pl.String, "m": pl.Int64, "width": pl.Int64, "depth": pl.Int64, "seed": pl.Int64}
GROUP = ["task", "m", "width", "depth"]
MODELS = (
    NETWORK
    | {name: pl.Int64 for name in ("parameters", "neurons", "pairs", "steps")}
    | {"reached": pl.Boolean}
    | {name: pl.Float64 for name in ("accuracy", "majority_rate", "loss", "held_out_accuracy")}
    | {name: pl.Float64 for name in ("bits", "bits_per_parameter", "interaction", "own_classes")}
    | {
        f"{name}_{kind}": pl.Float64
        for kind in KINDS
        for name in ("needed", "needed_random", "participation")
    }
    | {f"accuracy_without_{kind}": pl.Float64 for kind in KINDS}
)
READINGS = NETWORK | {
    "layer": pl.Int64,
    "feature": pl.String,
    "accuracy": pl.Float64,
    "n": pl.Int64,
    "chance": pl.Float64,
}
NEURONS = (
    NETWORK
    | {"layer": pl.Int64, "neuron": pl.Int64, "kind": pl.String, "effect": pl.Float64, "drop": pl.Float64}
    | {"order": pl.Int64, "kept_accuracy": pl.Float64, "active": pl.Float64, "interaction": pl.Float64}
    | {"class_share": pl.Float64, "class_share_chance": pl.Float64, "n": pl.Int64}
)
