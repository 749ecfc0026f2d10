"""Numbers with their units: a share as per cent, logits and nats by name, and what n counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PERCENT, POINTS = "%", "points"
"""A share of 1 shown as per cent; a difference of two shares, in percentage points."""


def measured(row: Mapping[str, Any], unit: str, counts: str = "", *, n: bool = True) -> str:
    """`44.4 % [41.9, 46.9], n = 1,495 athletes` from value, low, high and n of a row; empty where there is no value.

    An interval that is the value itself, as of a count over all heads, is left out.
    """
    if row["value"] is None:
        return ""
    ends = "" if row["low"] == row["value"] == row["high"] else _ends(row, unit)
    word = f"\N{NO-BREAK SPACE}{unit}" if unit else ""
    counted = f", n = {row['n']:,}{f' {counts}' if counts else ''}" if n and row["n"] is not None else ""
    return f"{digits(row['value'], unit)}{word}{ends}{counted}"


def digits(value: float, unit: str) -> str:
    """A number as it is written with its unit: a share of 1 times hundred, to a tenth."""
    if unit in (PERCENT, POINTS):
        return _rounded(100 * value, 1)
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 0.01 else _rounded(value, 3 if abs(value) < 1 else 2)


def _rounded(value: float, places: int) -> str:
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def _ends(row: Mapping[str, Any], unit: str) -> str:
    if row["low"] is None or row["high"] is None:
        return ""
    return f" [{digits(row['low'], unit)}, {digits(row['high'], unit)}]"
