"""What the pages share: their templates, the scripts that may run in them, and how numbers and verdicts are written.

All texts are of unknown origin (names of subjects, of models, of folders) and are escaped by the templates; a page's own
style and scripts, from resources/report, are part of it. Its Content-Security-Policy lets nothing be fetched from
anywhere and nothing run but these scripts, each known by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from factfinding.errors import InputError
from factfinding.ledger import VERDICTS
from factfinding.tables import schema_of
from factfinding.units import digits

SORTABLE = ("vendor/datatables.min.js", "tables.js")
"""The scripts of a page whose tables sort and filter."""
REPORT = (*SORTABLE, "places.js")
"""Those of a study's page, whose list of sections says where one is."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def fill(template: str, words: Path, *, scripts: Sequence[str] = (), **content: Any) -> str:
    """A page as HTML. words: the folder resources/report, where the template and the scripts are."""
    environment = Environment(
        loader=FileSystemLoader(words),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=cell, number=number, measured=measured, digits=digits)
    texts = [(words / name).read_text(encoding="utf-8") for name in scripts]
    digests = "".join(f" '{_digest(text)}'" for text in texts)
    return environment.get_template(template).render(
        policy=Markup(POLICY + (f"; script-src{digests}" if digests else "")),
        style=Markup((words / "style.css").read_text(encoding="utf-8").strip()),
        scripts=[Markup(text) for text in texts],
        **content,
    )


def cell(value: Any) -> str:
    """A value as it stands in a table of the page."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.3f}"
    return str(value)


def number(value: float) -> str:
    """A value of the ledger: a count has no decimals."""
    return f"{value:,.0f}" if float(value).is_integer() else cell(value)


def measured(row: Mapping[str, Any]) -> str:
    """Value and interval of a row of the ledger; nothing where nothing was measured."""
    if row["value"] is None:
        return ""
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def checked_ledger(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """A ledger, as it is typed. Raises InputError naming `where` for a missing column or a verdict that is none."""
    schema = schema_of("ledger")
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise InputError(where, f"no column {', '.join(missing)}", f"the columns {', '.join(schema)}")
    unknown = sorted({str(verdict) for verdict in frame["verdict"]} - set(VERDICTS))
    if unknown:
        raise InputError(where, f"the verdict {unknown[0]!r}", f"one of {', '.join(VERDICTS)}")
    try:
        return frame.select(list(schema)).cast(pl.Schema(schema))
    except pl.exceptions.InvalidOperationError as error:
        raise InputError(
            where, f"values of another type ({error})", "a table written by rule ledger"
        ) from None


def verdict_counts(ledger: pl.DataFrame) -> list[tuple[str, int]]:
    """How many claims have each verdict, in the order of VERDICTS."""
    return [(verdict, ledger.filter(verdict=verdict).height) for verdict in VERDICTS]


def model_name(source: Mapping[str, Any]) -> str:
    """What the model is called on the page."""
    kinds = {
        "organism": "the embedded model, trained by this workflow",
        "tiny": "a tiny model with random weights",
    }
    if source["id"]:
        return (
            source["id"] if source["revision"] is None else f"{source['id']} at revision {source['revision']}"
        )
    return kinds.get(source["kind"], f"the model in {source['folder']}")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
