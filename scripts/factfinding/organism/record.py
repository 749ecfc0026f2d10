"""A training record as JSON, and a look at the training as one line for the terminal."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import polars as pl

from factfinding.organism.train import TrainingRecord


def as_json(record: TrainingRecord) -> dict[str, Any]:
    """The record without its history (which is a table of its own) and what was kept (which has an index), measures as plain
    values, tables as rows."""
    left_out = {"history", "kept"}
    values = {
        field.name: getattr(record, field.name) for field in fields(record) if field.name not in left_out
    }
    measures = values.pop("measures")
    return values | {
        "measures": {field.name: _plain(getattr(measures, field.name)) for field in fields(measures)}
    }


def _plain(value: Any) -> Any:
    return value.to_dicts() if isinstance(value, pl.DataFrame) else value


def progress_line(row: dict[str, Any]) -> str:
    """One look: step 840, 95 s, 1500 people, 0.93 recalled, ..."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
    )
