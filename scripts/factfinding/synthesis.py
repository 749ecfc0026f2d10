"""Single step or hash? The numbers on which the hypotheses differ, this study's beside those of planted models.

experiments/predictions.yaml has the numbers, as queries. The planted models (tests/helpers/hypotheses.py) know the same
people by different mechanisms, one for each hypothesis; `make planted` runs the methods on them and stores what they give
in resources/planted.json. One rule reads all numbers:

    the line stands halfway between the smallest and the largest of the planted values; the study's number is *like* the
    planted models on its side of the line if its whole 95 % interval is on that side, and undecided otherwise

Real models need not be pure, and a number that is like a hypothesis does not prove it: it is a count of what agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from factfinding.declarations import Declarations, Prediction
from factfinding.errors import InputError
from factfinding.findings.words import all_of, either
from factfinding.ledger import run_query
from factfinding.units import measured

Planted = Mapping[str, Mapping[str, float]]
"""By prediction and planted model: the number that the methods give."""
HASH = "hash and lookup"
"""The planted model of two steps; all others are single steps."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One prediction with what was found. like: the planted models on the same side of the line, none where it is undecided or
    was not measured."""

    prediction: Prediction
    found: Mapping[str, Any] | None
    planted: Mapping[str, float]
    line: float
    like: tuple[str, ...] = ()

    @property
    def here(self) -> str:
        """This study's number with unit, interval and n; or why there is none."""
        return measured(self.found, self.prediction.unit, self.prediction.counts) if self.found else ""

    @property
    def says(self) -> str:
        """What follows, in words."""
        if self.found is None:
            return f"Not measured: {self.prediction.unless}."
        if not self.like:
            return "Undecided: the line lies within the interval."
        return f"Like {all_of(self.like)}."


def synthesis(declared: Declarations, tables: Mapping[str, pl.DataFrame], planted: Planted) -> list[Row]:
    """A row for each prediction, in their order. Raises InputError, naming it, for one without planted numbers."""
    return [
        _row(name, prediction, tables, planted.get(name)) for name, prediction in declared.predictions.items()
    ]


def number_of(
    name: str, prediction: Prediction, tables: Mapping[str, pl.DataFrame]
) -> dict[str, float] | None:
    """value, low, high and n of a prediction in these tables; None where it was not measured.

    Raises InputError, naming the prediction, for a query that does not run or gives several rows.
    """
    if any(table not in tables or tables[table].is_empty() for table in prediction.tables):
        return None
    frame = run_query(prediction.query, prediction.tables, tables, f"predictions.{name}")
    if frame.columns != ["value", "low", "high", "n"] or frame.height > 1:
        raise InputError(
            f"predictions.{name}", f"{frame.columns}, {frame.height} rows", "one row: value, low, high, n"
        )
    row = frame.row(0, named=True) if frame.height else {"value": None}
    return row if row["value"] is not None else None


def together(rows: Sequence[Row]) -> list[str]:
    """What the rows say together: with how many of the decided numbers each planted model agrees."""
    decided = [row for row in rows if row.like]
    measured_ = [row for row in rows if row.found is not None]
    if not decided:
        why = "none was measured" if not measured_ else "no interval lies on one side of its line"
        return [
            f"Single step or hash? Nothing can be said: of {len(rows)} numbers on which the planted models differ, {why}."
        ]
    models = list(rows[0].planted)
    counts = {model: sum(model in row.like for row in decided) for model in models}
    ranked = sorted(models, key=lambda model: -counts[model])
    most = [model for model in ranked if counts[model] == counts[ranked[0]]]
    said = ", ".join(
        f"{counts[model]} {'like' if i == 0 else ''} {model}".replace("  ", " ")
        for i, model in enumerate(ranked)
    )
    pure = counts[ranked[0]] == len(decided)
    end = f"all that decide are like {either(most)}" if pure else "the model is none of them in its pure form"
    first = (
        f"Single step or hash? Of {len(decided)} numbers that decide (of {len(rows)} on which the planted models differ, "
        f"{len(measured_)} were measured), {said}: {end}."
    )
    steps = [model for model in models if model != HASH]
    single = sum(any(model in row.like for model in steps) and HASH not in row.like for row in decided)
    hashed = sum(row.like == (HASH,) for row in decided)
    second = (
        f"{single} {'is' if single == 1 else 'are'} like a single step and not like a hash, {hashed} like a hash and no single "
        f"step, {len(decided) - single - hashed} like a hash and one kind of single step."
    )
    return [first, second]


def _row(
    name: str,
    prediction: Prediction,
    tables: Mapping[str, pl.DataFrame],
    planted: Mapping[str, float] | None,
) -> Row:
    if not planted:
        raise InputError(f"predictions.{name}", "no planted numbers", "what `make planted` stores")
    line, found = line_of(planted), number_of(name, prediction, tables)
    like: tuple[str, ...] = ()
    if found is not None and None not in (found["low"], found["high"]):
        if found["low"] > line:
            like = tuple(model for model, value in planted.items() if value > line)
        elif found["high"] < line:
            like = tuple(model for model, value in planted.items() if value < line)
    return Row(prediction=prediction, found=found, planted=planted, line=line, like=like)


def line_of(planted: Mapping[str, float]) -> float:
    """Halfway between the smallest and the largest planted value."""
    return (min(planted.values()) + max(planted.values())) / 2
