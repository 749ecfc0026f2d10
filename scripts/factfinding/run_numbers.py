"""Numbers of a finished run in the docs: looked up in its tables, stored beside the docs, written by templates.

{{ row("recall_summary", condition="full", group="all") | share("recalled") }}      99.6 % [99.1, 99.8]
{{ count("ledger", about="model", verdict="supported") }}                            35
{{ card("training.steps") | thousands }}                                             2,080
{{ of("organism").count("ledger", verdict="supported") }}                            31, of another run, as its own templates asked
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from factfinding.declarations import declarations
from factfinding.errors import InputError
from factfinding.files import read_json
from factfinding.page import measured
from factfinding.relation import STUDY
from factfinding.tables import read_table

DIGITS = 6
"""What is stored of a number."""


class Lookups:
    """What templates look up in one run. What was found is kept, to be stored.

    Values are those of the columns of one row (`row`), a number of rows (`count`), or a value of the model's card.
    """

    def __init__(self, find: Callable[[str, Any], Any], where: str) -> None:
        self._find, self.where = find, where
        self.found: dict[str, Any] = {}

    @classmethod
    def live(cls, folder: Path) -> Lookups:
        """Lookups in the folder of a finished run, such as results/organism."""
        return cls(lambda kind, arguments: _live(folder, kind, arguments), str(folder))

    @classmethod
    def stored(cls, path: Path) -> Lookups:
        """Lookups in what an earlier run gave. Raises InputError where nothing is stored."""
        known = read_json(path)

        def find(kind: str, arguments: Any) -> Any:
            key = _key(kind, arguments)
            if key not in known:
                raise InputError(
                    f"{path}: {key}", "no such number", "what `make record` stored of a finished run"
                )
            return known[key]

        return cls(find, str(path))

    def row(self, table: str, first: str = "", **where: Any) -> dict[str, Any]:
        """The one row of a table with these values; with `first`, the one with the smallest (`-column`: largest)."""
        return self._looked_up("row", {"table": table, "first": first, **where})

    def rows(self, table: str, columns: str, **where: Any) -> list[dict[str, Any]]:
        """These columns of all rows of a table with these values, in its order."""
        return self._looked_up("rows", {"table": table, "columns": columns, **where})

    def count(self, table: str, **where: Any) -> int:
        """How many rows of a table have these values."""
        return self._looked_up("count", {"table": table, **where})

    def card(self, key: str) -> Any:
        """A value of model/card.json: `training.steps`."""
        return self._looked_up("card", {"key": key})

    def store(self, path: Path) -> None:
        """Write what was looked up."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def _looked_up(self, kind: str, arguments: dict[str, Any]) -> Any:
        found = _rounded(self._find(kind, arguments))
        self.found[_key(kind, arguments)] = found
        return found


def render(template: Path, lookups: Lookups) -> str:
    """A template's text with the numbers in it. Raises InputError, naming the template, for one that says nothing."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {
        "measured": measured,
        "share": share,
        "percent": percent,
        "number": number,
        "thousands": "{:,}".format,
    }
    environment.globals["claims"] = {
        claim.id: (experiment.number, claim) for experiment, claim in declarations().spoken(STUDY).claims
    }
    environment.globals |= {
        "row": lookups.row,
        "rows": lookups.rows,
        "count": lookups.count,
        "card": lookups.card,
        "of": lambda run: Lookups.stored(template.parent.with_name(run) / "numbers.json"),
    }
    try:
        return environment.from_string(template.read_text()).render()
    except jinja2.TemplateError as error:
        raise InputError(template, str(error), "a template with numbers of the run") from None


def percent(value: float, *, unit: bool = True) -> str:
    """A share as per cent, to a tenth; 0 and 100 as they are."""
    text = f"{100 * value:.1f}"
    text = text.removesuffix(".0") if text in ("0.0", "100.0") else text
    return f"{text} %" if unit else text


def share(row: Mapping[str, Any], name: str) -> str:
    """A share with its interval: 99.5 % [98.9, 99.7]."""
    low, high = (percent(row[f"{name}_{end}"], unit=False) for end in ("low", "high"))
    return f"{percent(row[name])} [{low}, {high}]"


def number(row: Mapping[str, Any], name: str, form: str = ".2f") -> str:
    """A number with its interval, where it has one: 0.66 [0.64, 0.68]."""
    ends = [row.get(f"{name}_{end}") for end in ("low", "high")]
    interval = "" if None in ends else f" [{ends[0]:{form}}, {ends[1]:{form}}]"
    return f"{row[name]:{form}}{interval}"


def _key(kind: str, arguments: Mapping[str, Any]) -> str:
    given = " ".join(
        f"{name}={json.dumps(value)}" for name, value in sorted(arguments.items()) if value != ""
    )
    return f"{kind} {given}"


def _live(folder: Path, kind: str, arguments: Mapping[str, Any]) -> Any:
    if kind == "card":
        value = read_json(folder / "model/card.json")
        for part in str(arguments["key"]).split("."):
            value = value[int(part) if part.isdecimal() else part]
        return value
    where = {name: value for name, value in arguments.items() if name not in ("table", "first", "columns")}
    rows = _rows(folder, str(arguments["table"]), where)
    if kind == "count":
        return rows.height
    if kind == "rows":
        return rows.select(str(arguments["columns"]).split()).rows(named=True)
    first = str(arguments["first"])
    if first:
        rows = rows.sort(first.removeprefix("-"), descending=first[0] == "-", maintain_order=True).head(1)
    if rows.height != 1:
        found = f"{rows.height} rows with {where}"
        raise InputError(folder / f"tables/{arguments['table']}", found, "one")
    return rows.row(0, named=True)


def _rows(folder: Path, table: str, where: Mapping[str, Any]) -> pl.DataFrame:
    found = [*folder.glob(f"tables/{table}.*"), folder / f"{table}.csv"]
    # the ledger of a comparison has the column `study` more than the declared one
    rows = pl.read_csv(found[0]) if found[0].parent == folder else read_table(found[0])
    for column, value in where.items():
        rows = rows.filter(pl.col(column).is_null() if value is None else pl.col(column) == value)
    return rows


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
