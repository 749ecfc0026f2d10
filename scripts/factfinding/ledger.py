"""The ledger of claims: each claim of the study, the number that it is judged on, and the verdict.

Everything about a claim is declared in resources/claims.yaml, before its value is known: the sentence, what the study
reports (`reference`, never used in a computation), the tables and the query that give our value, and the rule that
decides. A rule that was changed after values had been seen says so (`changed`). The same rules judge every model.

A query is SQL over the named tables (polars runs it) and gives one row:

    value       what is judged                    low, high   its 95 % interval
    n           what it was measured on           threshold   where the rule's own is not a fixed number, with
                                                  threshold_low and threshold_high if it was measured itself

`supported_if: above` means: supported if the whole interval lies above the threshold and its interval, contradicted if it
lies below both, else undecided; `below` the other way round. A count over all heads, say, has no interval: there low and high
are given as the value itself. No row, or no value: not applicable, because nothing was measured. A claim also is not
applicable where what it `needs` is not met: what a model does not know it cannot look up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from factfinding.config import read_yaml
from factfinding.errors import InputError

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_APPLICABLE = (
    "supported",
    "contradicted",
    "undecided",
    "not applicable",
)
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_APPLICABLE)
REQUIRED = ("value", "low", "high", "n")
SCHEMA = {
    "claim": pl.String,
    "post": pl.Int64,
    "experiment": pl.String,
    "about": pl.String,
    "sentence": pl.String,
    "reference": pl.String,
    "verdict": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "supported_if": pl.String,
    "threshold": pl.Float64,
    "threshold_low": pl.Float64,
    "threshold_high": pl.Float64,
    "measured": pl.String,
    "reason": pl.String,
    "changed": pl.String,
}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Need(_Entry):
    """What must hold for a claim to be judged. `query` gives one row with a truth value `met`."""

    sentence: str
    tables: tuple[str, ...] = Field(min_length=1)
    query: str


class Claim(_Entry):
    """One claim. `about`: the model, or toy networks, which are the same whatever model is studied."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    post: int = Field(ge=1, le=5)
    experiment: str
    about: Literal["model", "toys"] = "model"
    sentence: str
    reference: str
    measured: str = Field(
        description="our value in words, such as: held-out accuracy of the best layer's probe"
    )
    tables: tuple[str, ...] = Field(min_length=1)
    query: str
    supported_if: Literal["above", "below"]
    threshold: float | None = Field(None, description="a number; null: the query's column `threshold`")
    needs: tuple[str, ...] = ()
    changed: str | None = Field(
        None, description="how and why the rule was changed after values had been seen"
    )


class Claims(_Entry):
    """The file resources/claims.yaml."""

    needs: Mapping[str, Need]
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _agree(self) -> Claims:
        ids = [claim.id for claim in self.claims]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"claims {twice} stand twice; allowed: each id once")
        for claim in self.claims:
            unknown = sorted(set(claim.needs) - set(self.needs))
            if unknown:
                raise ValueError(f"claim {claim.id} needs {unknown}; allowed: {sorted(self.needs)}")
        return self

    @property
    def tables(self) -> set[str]:
        """The names of all tables that are read."""
        entries: tuple[Claim | Need, ...] = (*self.claims, *self.needs.values())
        return {table for entry in entries for table in entry.tables}


def read_claims(path: str | Path) -> Claims:
    """Read and check claims.yaml. Raises InputError naming the entry, the key, and what is allowed."""
    try:
        return TypeAdapter(Claims).validate_python(read_yaml(path, "a YAML file of claims"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where or 'claims'}", repr(first["input"])[:80], first["msg"]) from None


def judge(claims: Claims, tables: Mapping[str, pl.DataFrame], *, regardless: bool = False) -> pl.DataFrame:
    """The table `ledger`: one row per claim, in the file's order.

    `regardless` judges whether or not what a claim needs is met: so the rules themselves can be tried on a model that
    knows nothing. Raises InputError, naming the claim, for a query that does not run or gives something else than asked.
    """
    unmet = (
        {}
        if regardless
        else {name: need.sentence for name, need in claims.needs.items() if not _met(name, need, tables)}
    )
    rows = [
        _row(claim, tables, [unmet[name] for name in claim.needs if name in unmet]) for claim in claims.claims
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def decide(supported_if: str, low: float, high: float, line: tuple[float, float]) -> str:
    """The verdict on an interval; `line` is the threshold's own interval, both ends the same where it is a fixed number."""
    line_low, line_high = line
    if supported_if == "below":
        low, high, line_low, line_high = -high, -low, -line_high, -line_low
    return SUPPORTED if low > line_high else CONTRADICTED if high < line_low else UNDECIDED


def _row(claim: Claim, tables: Mapping[str, pl.DataFrame], unmet: Sequence[str]) -> dict[str, object]:
    columns = ("post", "experiment", "about", "sentence", "reference", "measured", "supported_if", "changed")
    fixed = {"claim": claim.id} | {name: getattr(claim, name) for name in columns}
    if unmet:
        return fixed | {"verdict": NOT_APPLICABLE, "reason": f"Not so: {'; '.join(unmet)}."}
    found = _value(claim, tables)
    if found is None:
        return fixed | {
            "verdict": NOT_APPLICABLE,
            "reason": f"Not measured: no such rows in {', '.join(claim.tables)}.",
        }
    threshold, line = _line(claim, found)
    verdict = decide(claim.supported_if, found["low"], found["high"], line)
    side = {
        SUPPORTED: claim.supported_if,
        CONTRADICTED: {"above": "below", "below": "above"}[claim.supported_if],
    }
    where = f"lies {side[verdict]}" if verdict in side else "holds"
    numbers = {name: float(found[name]) for name in ("value", "low", "high")} | {"n": int(found["n"])}
    measured = "" if line == (threshold, threshold) else f" [{line[0]:.3g}, {line[1]:.3g}]"
    reason = f"The interval {where} {threshold:.3g}{measured}."
    lines = {"threshold": threshold, "threshold_low": line[0], "threshold_high": line[1]}
    return fixed | numbers | lines | {"verdict": verdict, "reason": reason}


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
        return None  # an empty CSV has lost its types, so no query is run on it
    frame = _run(claim.query, claim.tables, tables, where)
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


def _met(name: str, need: Need, tables: Mapping[str, pl.DataFrame]) -> bool:
    if any(table in tables and tables[table].is_empty() for table in need.tables):
        return False
    frame = _run(need.query, need.tables, tables, f"needs.{name}")
    if frame.columns != ["met"] or frame.height != 1:
        raise InputError(
            f"needs.{name}", f"columns {frame.columns}, {frame.height} rows", "one row, the column met"
        )
    return bool(frame.item())


def _run(query: str, names: Sequence[str], tables: Mapping[str, pl.DataFrame], where: str) -> pl.DataFrame:
    missing = [name for name in names if name not in tables]
    if missing:
        raise InputError(where, f"the table {missing[0]}", f"one of {', '.join(sorted(tables))}")
    try:
        return pl.SQLContext({name: tables[name] for name in names}).execute(query, eager=True)
    except (pl.exceptions.PolarsError, pl.exceptions.SQLInterfaceError) as error:
        raise InputError(
            where, f"a query that does not run ({error})", f"SQL over {', '.join(names)}"
        ) from None
