"""What the tables on local processing say (post 5), in sentences; the rules for them stand in findings/__init__.py."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from factfinding.figures.locality import CATEGORIES
from factfinding.findings.words import Row, Tables, number

NO_TEXT = "No running text was long enough: there is nothing to see."
HIGH = 0.9
"""The study's word for early layers: above 0.9."""


def locality_findings(locality: pl.DataFrame, tokens: pl.DataFrame, values: pl.DataFrame) -> list[str]:
    """From the tables `locality`, `locality_tokens` and `locality_values`: where ten tokens suffice, how it falls, and for which tokens."""
    rows = locality.filter(pl.col("k").is_not_null())
    if rows.is_empty():
        return [NO_TEXT]
    return [*_layers(rows), _long(rows), *_kinds(rows, tokens), *_control(values)]


def _layers(rows: pl.DataFrame) -> list[str]:
    k = rows.filter(pl.col("k") <= 10)["k"].max() or rows["k"].min()
    part = rows.filter(k=k).sort("layer")
    first, last = part.row(0, named=True), part.row(-1, named=True)
    lowest = part.sort("median", maintain_order=True).row(0, named=True)
    surely = part.filter(pl.col("median_low") > HIGH)["layer"].to_list()
    where = "in no layer" if not surely else f"in {len(surely)} of {part.height} layers ({_named(surely)})"
    told = (
        f"With only the last {k} tokens the median cosine to the residual stream of the whole context is surely above "
        f"{HIGH} {where}: {_value(first)} after layer {first['layer']}, {_value(last)} after layer {last['layer']}, lowest "
        f"{_value(lowest)} after layer {lowest['layer']} (n = {first['n']:,} tokens of {first['n_strings']:,} strings; "
        f"another token's: {first['baseline']:.2f} and {last['baseline']:.2f})."
    )
    turn = last["median_low"] is not None and last["median_low"] > (lowest["median_high"] or 1.0)
    return [
        told,
        f"It turns up again towards the last layer for k = {k}."
        if turn
        else f"It does not surely turn up again in the last layer for k = {k}.",
    ]


def _named(layers: list[int]) -> str:
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if whole and len(layers) > 1 else ", ".join(map(str, layers))


def _long(rows: pl.DataFrame) -> str:
    """What more tokens add, in the layer where it is most."""
    ks = rows["k"].unique().sort().to_list()
    far = rows.filter(k=ks[-1]).sort("median", maintain_order=True).row(0, named=True)
    one = rows.filter(k=ks[0]).sort("median", maintain_order=True).row(0, named=True)
    return (
        f"The lowest median over layers rises from {_value(one)} with k = {ks[0]} (after layer {one['layer']}) to {_value(far)} "
        f"with k = {ks[-1]} (after layer {far['layer']}), the largest that strings of {far['tokens']} tokens have room for."
    )


def _kinds(rows: pl.DataFrame, tokens: pl.DataFrame) -> list[str]:
    k = rows.filter(pl.col("k") <= 5)["k"].max() or rows["k"].min()
    layer = rows.filter(k=k).sort("median", maintain_order=True)["layer"][0]
    part = tokens.filter(pl.col("n") >= 10, k=k, layer=layer).sort("median", maintain_order=True)
    if part.height < 2:
        return []
    named = ", ".join(
        f"{CATEGORIES[row['category']]} {_value(row)} (n = {row['n']:,})"
        for row in part.iter_rows(named=True)
    )
    return [f"After layer {layer}, where it is lowest for k = {k}, by kind of token: {named}."]


def _control(values: pl.DataFrame) -> list[str]:
    rows = values.filter(pl.col("k").is_null())
    if rows.is_empty():
        return []
    worst = max(1 - rows["cosine"].min(), 1e-7)  # single precision says no more
    n = rows.select("string", "position").n_unique()
    return [
        (
            "Run again with their whole context as a window of its own, no token's cosine differs from 1 by more than "
            f"{worst:.0e} in any layer (n = {n}): so much is rounding."
        )
    ]


def _value(row: Row) -> str:
    return number(row, "median", ".3f")


FINDINGS: dict[str, Callable[[Tables], list[str]]] = {
    "locality": lambda tables: locality_findings(
        tables["locality"], tables["locality_tokens"], tables["locality_values"]
    )
}
