"""Post 5: how much of the residual stream the last k tokens make, by layer and by kind of token."""

from __future__ import annotations

from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import FEW, Row, Tables, number

CATEGORIES = {
    "newline": "newline",
    "full_stop": "full stop",
    "comma": "comma",
    "common": "common words",
    "alphabetic": "other words",
    "other": "all else",
}
KIND_COLOURS = (style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.INK, style.BROWN)
"""Of kinds of tokens: none is a shade of blue, which stands for k."""
SHOWN = (1, 2, 3, 5, 10, 50)
"""The k drawn as curves, or those nearest that there are."""
DOTTED = 5
"""The k of the panels below, or the largest one under it."""


NO_TEXT = "No running text was long enough: there is nothing to see."
HIGH = 0.9
"""The study's word for early layers: above 0.9."""
WINDOW = 10
"""Tokens that the study leaves, the token itself counted."""
LEAST = 0.001
"""Differences of medians that count, as in the ledger: rounding makes some of 1e-5."""


@style.styled
def draw_locality(
    *, locality: pl.DataFrame, locality_tokens: pl.DataFrame, locality_values: pl.DataFrame
) -> Figure:
    """Above: medians by layer for several k with quartile bands, and of squares. Below: the distribution by layer, and by kind
    of token. A k has one shade in all panels, a kind of token a colour that no k has."""
    rows = locality.filter(pl.col("k").is_not_null())
    if rows.is_empty():
        return style.nothing_to_draw("no running text was long enough")
    k = rows.filter(pl.col("k") <= DOTTED)["k"].max() or rows["k"].min()
    looks = _looks(rows)
    figure = style.new_figure(6.2)
    (left, wide), (below, right) = figure.subplots(2, 2)
    handles = _curves(left, rows, looks)
    _squares(wide, rows, looks)
    _spread(below, locality_values.filter(k=k), looks.get(k, (style.BLUE,))[0])
    kinds = _kinds(right, locality_tokens.filter(k=k))
    left.set_title(f"by k, bands: quartiles\nn = {rows['n'][0]:,} tokens")
    right.set_title(f"k = {k}, by kind of token\nn below, for each kind")
    below.set_title(f"k = {k}, all tokens\nn = {rows['n'][0]:,} tokens")
    wide.set_title(f"squared, medians\nn = {rows['n'][0]:,} tokens")
    for axes in (left, right, below, wide):
        style.layer_axis(axes, rows["layer"].unique().to_list())
        axes.set(ylabel="squared cosine (0 to 1)" if axes is wide else "cosine (−1 to 1)")
    style.legend_above(figure, list(handles.values()), columns=7)
    style.legend_below(figure, list(kinds.values()), columns=3)
    return figure


def _looks(rows: pl.DataFrame) -> dict[int, tuple[str, Any, str]]:
    """The k that are drawn as curves, each with its shade."""
    there = rows["k"].unique().sort().to_list()
    return style.shades(sorted({min(there, key=lambda one: abs(one - k)) for k in SHOWN}))


def _curves(axes: Axes, rows: pl.DataFrame, looks: dict[int, tuple[str, Any, str]]) -> dict[str, object]:
    handles: dict[str, object] = {}
    for k, (colour, dash, marker) in looks.items():
        part = rows.filter(k=k).sort("layer")
        at = part["layer"].to_numpy()
        look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5}
        (handles[f"k {k}"],) = axes.plot(at, part["median"].to_numpy(), label=f"k = {k}", **look)
        ends = (part[f"{end}_quartile"].to_numpy() for end in ("lower", "upper"))
        axes.fill_between(at, *ends, color=colour, alpha=0.12, lw=0)
    part = rows.filter(k=max(looks)).sort("layer")
    label = "another token’s"
    (handles[label],) = axes.plot(
        part["layer"].to_numpy(), part["baseline"].to_numpy(), color=style.GREY, lw=1, label=label
    )
    return handles


def _kinds(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    handles: dict[str, object] = {}
    for place, kind in enumerate(CATEGORIES):
        colour, marker = KIND_COLOURS[place], style.MARKERS[place]
        part = rows.filter(category=kind).sort("layer")
        if part.height:
            at = part["layer"].to_numpy()
            look = {"color": colour, "ls": ":", "marker": marker, "markersize": 3.5, "mfc": "none"}
            (handles[kind],) = axes.plot(
                at, part["median"].to_numpy(), label=f"{CATEGORIES[kind]} (n = {part['n'][0]:,})", **look
            )
            known = part.drop_nulls("median_low")
            ends = (known[f"median_{end}"].to_numpy() for end in ("low", "high"))
            axes.fill_between(known["layer"].to_numpy(), *ends, color=colour, alpha=0.1, lw=0)
    return handles


def _spread(axes: Axes, values: pl.DataFrame, colour: str) -> None:
    """The whole distribution as boxes: median, quartiles, and whiskers at 5 and 95 %."""
    layers = values["layer"].unique().sort().to_list()
    groups = [values.filter(layer=layer)["cosine"].to_numpy() for layer in layers]
    axes.boxplot(
        groups, positions=layers, widths=0.6, whis=(5, 95), showfliers=False, manage_ticks=False,
        medianprops={"color": colour, "linewidth": 1.6},
        **{f"{part}props": {"color": style.INK} for part in ("box", "whisker", "cap")},
    )  # fmt: skip


def _squares(axes: Axes, rows: pl.DataFrame, looks: dict[int, tuple[str, Any, str]]) -> None:
    for k, (colour, dash, marker) in looks.items():
        part = rows.filter(k=k).sort("layer")
        at = part["layer"].to_numpy()
        look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5}
        axes.plot(at, part["square_median"].to_numpy(), **look)
        ends = (part[f"square_median_{end}"].to_numpy() for end in ("low", "high"))
        axes.fill_between(at, *ends, color=colour, alpha=0.15, lw=0)


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return locality_findings(
        tables["locality"],
        tables["locality_tokens"],
        tables["locality_differences"],
        tables["locality_values"],
    )


def locality_findings(
    locality: pl.DataFrame, tokens: pl.DataFrame, differences: pl.DataFrame, values: pl.DataFrame
) -> list[str]:
    """From the tables `locality`, `locality_tokens`, `locality_differences` and `locality_values`: where ten tokens
    suffice, how it falls, and for which tokens."""
    rows = locality.filter(pl.col("k").is_not_null())
    if rows.is_empty():
        return [NO_TEXT]
    k = rows.filter(pl.col("k") <= WINDOW)["k"].max() or rows["k"].min()
    apart = differences.filter(k=k)
    return [
        _layers(rows, k),
        *_changes(apart),
        _long(rows),
        *_kinds_in_words(tokens.filter(k=k, layer=0), apart.filter(layer=0)),
        *_control(values),
    ]


def _layers(rows: pl.DataFrame, k: int) -> str:
    part = rows.filter(k=k).sort("layer")
    first, last = part.row(0, named=True), part.row(-1, named=True)
    lowest = part.sort("median", maintain_order=True).row(0, named=True)
    surely = part.filter(pl.col("median_low") > HIGH)["layer"].to_list()
    where = "in no layer" if not surely else f"in {len(surely)} of {part.height} layers ({_named(surely)})"
    return (
        f"With only the last {k} tokens the median cosine to the residual stream of the whole context is surely above "
        f"{HIGH} {where}: {_value(first)} after layer {first['layer']}, {_value(last)} after layer {last['layer']}, lowest "
        f"{_value(lowest)} after layer {lowest['layer']} (n = {first['n']:,} tokens of {first['n_strings']:,} strings; "
        f"another token's: {first['baseline']:.2f} and {last['baseline']:.2f})."
    )


def _changes(apart: pl.DataFrame) -> list[str]:
    """How it falls to the middle layer, and what the last layer does; each layer with another on the same tokens."""
    last = apart["layer"].max()
    if last is None:
        return []
    middle = apart.filter(pl.col("layer") <= last / 2, compared_with="first_layer").sort("layer").tail(1)
    turn = apart.filter(layer=last, compared_with="layer_before")
    return [
        f"On the same tokens it changes by {number(row, 'difference', '+.4f')} from layer {start} to layer {row['layer']}: "
        f"it {_which_way(row)} (a change below {LEAST} does not count; n = {row['n']:,})."
        for rows, start in ((middle, 0), (turn, last - 1))
        for row in rows.iter_rows(named=True)
    ]


def _which_way(row: Row) -> str:
    low, high = row["difference_low"], row["difference_high"]
    if low is None:
        return "cannot be said to change, from one string alone"
    return "surely rises" if low > LEAST else "surely falls" if high < -LEAST else "does not surely change"


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


def _kinds_in_words(tokens: pl.DataFrame, apart: pl.DataFrame) -> list[str]:
    """Kinds of tokens after layer 0, as the study has them, and which are surely below alphabetic ones."""
    part = tokens.filter(pl.col("n") >= FEW).sort("median", maintain_order=True)
    if part.height < 2:
        return []
    named = ", ".join(
        f"{CATEGORIES[row['category']]} {number(row, 'median', '.4f')} (n = {row['n']:,})"
        for row in part.iter_rows(named=True)
    )
    compared = apart.filter(pl.col("n") >= FEW, compared_with="alphabetic").drop_nulls("difference_high")
    below = compared.filter(pl.col("difference_high") < -LEAST)["category"].to_list()
    which = ", ".join(CATEGORIES[kind] for kind in below) or "none"
    against = (
        f" Surely below other words of the same strings, by more than {LEAST}: {which}."
        if compared.height
        else ""
    )
    return [f"After layer 0 with k = {part['k'][0]}, by kind of token: {named}.{against}"]


def _control(values: pl.DataFrame) -> list[str]:
    rows = values.filter(pl.col("k").is_null())
    if rows.is_empty():
        return []
    worst = max(1 - rows["cosine"].min(), 1e-7)  # single precision says no more
    n = rows.select("string", "position").n_unique()
    return [
        (
            "Run again with their whole context as a window of its own, no token's cosine differs from 1 by more than "
            f"{worst:.0e} in any layer (n = {n}): that is rounding."
        )
    ]


def _value(row: Row) -> str:
    return number(row, "median", ".3f")
