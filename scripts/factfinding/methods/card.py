"""Pieces of the model card that are read off tables made elsewhere."""

from __future__ import annotations

from typing import Any

import polars as pl


def recall_rows(summary: pl.DataFrame) -> list[dict[str, Any]]:
    """Recall over all subjects, by condition, from the table `recall_summary`."""
    return summary.filter(group="all").drop("group", "level").to_dicts()


def probe_summary(probes: pl.DataFrame) -> list[dict[str, Any]]:
    """By condition, the layer whose resid_post at the final name token gives the answer away best (held out, no last
    name in two folds), from the table `layer_probes`. The choice of the layer is made on the same subjects, so its
    accuracy flatters by a little; with accuracies near one that is nothing."""
    rows = probes.filter(
        (pl.col("input") == "resid") & (pl.col("labels") == "true") & (pl.col("layer") >= 0)
    ).filter(pl.col("folds") == pl.col("folds").unique(maintain_order=True).last())
    best = (
        rows.sort("accuracy", descending=True, maintain_order=True)
        .group_by("condition", maintain_order=True)
        .first()
    )
    return (
        best.select(
            "condition", "layer", "folds", "accuracy", "accuracy_low", "accuracy_high", "n", "majority_rate"
        )
        .sort("condition")
        .to_dicts()
    )
