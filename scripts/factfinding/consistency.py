"""Whether a study's tables agree with one another, by a few declared rules: the cheapest referee.

Tables that measure the same thing in different ways cannot say the opposite of each other. `experiments/consistency.yaml`
declares what must agree; the page prints above everything else what does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from factfinding.declarations import Check, Declarations
from factfinding.errors import InputError
from factfinding.ledger import run_query


def contradictions(declared: Declarations, tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """The sentences of the rules that fail, in their order. A rule whose tables are missing or empty has nothing to compare.

    Raises InputError, naming the rule, for a query that does not run or gives something else than asked.
    """
    return [check.sentence for name, check in declared.consistency.items() if not _holds(name, check, tables)]


def _holds(name: str, check: Check, tables: Mapping[str, pl.DataFrame]) -> bool:
    if any(table not in tables or tables[table].is_empty() for table in check.tables):
        return True
    frame = run_query(check.query, check.tables, tables, f"consistency.{name}")
    if frame.columns != ["holds"] or frame.height > 1:
        raise InputError(
            f"consistency.{name}",
            f"columns {frame.columns}, {frame.height} rows",
            "one row, or none, the column holds",
        )
    return not frame.height or frame.item() is not False
