"""The ledger of claims: each claim of the study, the number that it is judged on, and the verdict.

Everything about a claim is declared in experiment.yaml of its experiment: the sentence, what the study
reports (`reference`, never used in a computation), the tables and the query that give our value, and the rule that
decides, when that was first committed, and what planted truth holds it (`held_by`). A rule that was changed after values
had been seen says so (`changed`). The same rules judge every model.

A query is SQL over the named tables (polars runs it) and gives one row:

    value       what is judged                    low, high   its 95 % interval
    n           what it was measured on           threshold   where the rule's own is not a fixed number, with
                                                  threshold_low and threshold_high if it was measured itself

What is missing (NULL or NaN) is never the largest: every `ORDER BY ... DESC` is run with NULLS LAST, which is not what SQL
does by itself. `:least_share` stands for the claim's least share: something is ranked or counted only if its effect is
that much of the whole one, because the smallest effect of rounding has an interval below zero, too. A value that was
measured on fewer than `least_n` is shown and not judged.

`supported_if: above` means: supported if the whole interval lies above the threshold and its interval, contradicted if it
lies below both, else undecided; `below` the other way round. A count over all heads, say, has no interval: there low and high
are given as the value itself. No row, or no value: not applicable, because nothing was measured. A claim also is not
applicable where what it `needs` is not met: what a model does not know it cannot look up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import polars as pl
import polars.selectors as cs

from factfinding.declarations import Claim, Declarations, Experiment, Need
from factfinding.errors import InputError
from factfinding.tables import schema_of

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_APPLICABLE = (
    "supported",
    "contradicted",
    "undecided",
    "not applicable",
)
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_APPLICABLE)
REQUIRED = ("value", "low", "high", "n")


def judge(
    declared: Declarations, tables: Mapping[str, pl.DataFrame], *, regardless: bool = False
) -> pl.DataFrame:
    """The table `ledger`: one row per claim, in the study's order.

    `regardless` judges whether or not what a claim needs is met: so the rules themselves can be tried on a model that
    knows nothing. Raises InputError, naming the claim, for a query that does not run or gives something else than asked.
    """
    unmet = (
        {}
        if regardless
        else {name: need.sentence for name, need in declared.needs.items() if not is_met(name, need, tables)}
    )
    rows = [
        _row(experiment, claim, tables, [unmet[name] for name in claim.needs if name in unmet])
        for experiment, claim in declared.claims
    ]
    return pl.DataFrame(rows, schema=schema_of("ledger"))


def decide(supported_if: str, low: float, high: float, line: tuple[float, float]) -> str:
    """The verdict on an interval; `line` is the threshold's own interval, both ends the same where it is a fixed number."""
    line_low, line_high = line
    if supported_if == "below":
        low, high, line_low, line_high = -high, -low, -line_high, -line_low
    return SUPPORTED if low > line_high else CONTRADICTED if high < line_low else UNDECIDED


def _row(
    experiment: Experiment, claim: Claim, tables: Mapping[str, pl.DataFrame], unmet: Sequence[str]
) -> dict[str, object]:
    columns = (
        "about",
        "sentence",
        "reference",
        "measured",
        "supported_if",
        "changed",
        "least_n",
        "least_share",
    )
    fixed = {"claim": claim.id, "post": experiment.post, "experiment": experiment.number}
    fixed |= {name: getattr(claim, name) for name in (*columns, "held_by")}
    fixed |= {"first_committed": claim.first_committed.words if claim.first_committed else None}
    if unmet:
        return fixed | {"verdict": NOT_APPLICABLE, "reason": f"Not so: {'; '.join(unmet)}."}
    found = _value(claim, tables)
    if found is None:
        return fixed | {
            "verdict": NOT_APPLICABLE,
            "reason": f"Not measured: no such rows in {', '.join(claim.tables)}.",
        }
    threshold, line = _line(claim, found)
    numbers = {name: float(found[name]) for name in ("value", "low", "high")} | {"n": int(found["n"])}
    numbers |= {"threshold": threshold, "threshold_low": line[0], "threshold_high": line[1]}
    if numbers["n"] < claim.least_n:
        few = f"Measured on n = {numbers['n']:,}; the rule asks for {claim.least_n:,}."
        return fixed | numbers | {"verdict": NOT_APPLICABLE, "reason": few}
    verdict = decide(claim.supported_if, found["low"], found["high"], line)
    side = {
        SUPPORTED: claim.supported_if,
        CONTRADICTED: {"above": "below", "below": "above"}[claim.supported_if],
    }
    where = f"lies {side[verdict]}" if verdict in side else "holds"
    measured = "" if line == (threshold, threshold) else f" [{line[0]:.3g}, {line[1]:.3g}]"
    reason = f"The interval {where} {threshold:.3g}{measured}."
    return fixed | numbers | {"verdict": verdict, "reason": reason}


def _line(claim: Claim, found: Mapping[str, float]) -> tuple[float, tuple[float, float]]:
    """The threshold and its interval: the rule's own number, else what the query gives."""
    if claim.threshold is not None:
        return claim.threshold, (claim.threshold, claim.threshold)
    threshold = float(found["threshold"])
    low, high = (found.get(f"threshold_{end}", threshold) for end in ("low", "high"))
    return threshold, (float(low), float(high))


def _value(claim: Claim, tables: Mapping[str, pl.DataFrame]) -> dict[str, float] | None:
    where = f"claim {claim.id}"
    if any(name in tables and tables[name].is_empty() for name in claim.tables):
        return None
    frame = run_query(claim.sql, claim.tables, tables, where)
    needed = REQUIRED if claim.threshold is not None else (*REQUIRED, "threshold")
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise InputError(where, f"a query without {', '.join(missing)}", f"the columns {', '.join(needed)}")
    if frame.height > 1:
        raise InputError(where, f"a query with {frame.height} rows", "one row")
    row = frame.row(0, named=True) if frame.height else {}
    numbers = [
        row.get(name)
        for name in (*needed, *(name for name in frame.columns if name.startswith("threshold_")))
    ]
    return row if row and all(number is not None and not math.isnan(number) for number in numbers) else None


def is_met(name: str, need: Need, tables: Mapping[str, pl.DataFrame]) -> bool:
    """Whether what a claim needs holds in these tables. Raises InputError, naming the need, for a query that cannot be used."""
    if any(table in tables and tables[table].is_empty() for table in need.tables):
        return False
    frame = run_query(need.query, need.tables, tables, f"needs.{name}")
    if frame.columns != ["met"] or frame.height != 1:
        raise InputError(
            f"needs.{name}", f"columns {frame.columns}, {frame.height} rows", "one row, the column met"
        )
    return bool(frame.item())


DESCENDING = re.compile(r"\bDESC\b(?!\s+NULLS\b)", re.IGNORECASE)
"""A descending order that does not say where NULL stands."""


def run_query(
    query: str, names: Sequence[str], tables: Mapping[str, pl.DataFrame], where: str
) -> pl.DataFrame:
    """What SQL over the named tables gives. What is missing comes last in every order.

    Raises InputError, naming `where`, for a table that is not there and a query that does not run.
    """
    missing = [name for name in names if name not in tables]
    if missing:
        raise InputError(where, f"the table {missing[0]}", f"one of {', '.join(sorted(tables))}")
    frames = {name: tables[name].with_columns(cs.float().fill_nan(None)) for name in names}
    try:
        return pl.SQLContext(frames).execute(DESCENDING.sub("DESC NULLS LAST", query), eager=True)
    except (pl.exceptions.PolarsError, pl.exceptions.SQLInterfaceError) as error:
        raise InputError(
            where, f"a query that does not run ({error})", f"SQL over {', '.join(names)}"
        ) from None
