"""P1.4: what the features of a sparse dictionary of the final name token stand for."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, all_of, at_layer, number, percent, share

OWN = {
    "last_token": "their last token",
    "first_token": "their first token",
    "answer": "their <answer>",
    "relation": "their answer to another relation",
    "entity": "themselves alone",
}
"""What a feature may stand for that is a subject's."""
KINDS = {
    "last_token": ("last token", style.BLUE),
    "first_token": ("first token", style.VERMILION),
    "answer": ("<answer>", style.GREEN),
    "relation": ("another relation", style.SKY),
    "entity": ("one <subject>", style.PURPLE),
    "token_or_entity": ("one <subject> or its token", style.ORANGE),
    "group": ("several <subjects>, unexplained", "#a9afb8"),
    "none": ("nothing that repeats", style.LINE),
}
"""What a feature stands for, and the colour of it."""
DATA = ("true", "sum", "shuffled")
NOTHING = "Too few <subjects> are known to train a dictionary on half of them: there is nothing to see."
PANELS = 2
"""In a row."""


@style.styled
def draw_dictionaries(*, dictionary_kinds: pl.DataFrame) -> Figure:
    """A panel for each place: the share of subjects for whom a feature of theirs fires, by width."""
    table = dictionary_kinds.filter(pl.col("kind").is_in(list(OWN)), pl.col("n_subjects") > 0)
    if table.is_empty():
        return style.nothing_to_draw("too few <subjects> are known")
    figure, panels = _panels(table, 1.2, 2.3)
    handles: dict[str, Line2D] = {}
    for axes, (site, layer) in panels:
        rows = table.filter(site=site, layer=layer)
        handles |= _curves(axes, rows)
        axes.set_title(_place(site, layer))
        style.percent_axis(axes, "<subjects> (%)")
        _width_axis(axes, rows)
    beside = (
        ("in a sum of the name's parts", style.INK, ":", ""),
        ("in shuffled rows", style.GREY, "-", "x"),
    )
    for words, colour, dash, marker in beside:
        look = {"color": colour, "ls": dash, "marker": marker, "linewidth": 1}
        handles[words] = Line2D([], [], label=words, **look)
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _curves(axes: Axes, rows: pl.DataFrame) -> dict[str, Line2D]:
    """The true rows in colour, the sum dotted, shuffled rows grey."""
    found: dict[str, Line2D] = {}
    for i, (kind, words) in enumerate(OWN.items()):
        colour = KINDS[kind][1]
        thin: dict[str, dict[str, Any]] = {
            "shuffled": {"color": style.GREY, "linewidth": 1, "marker": "x", "markersize": 3},
            "sum": {"color": colour, "linewidth": 1, "ls": ":"},
        }
        for data, look in thin.items():
            part = rows.filter(kind=kind, data=data).sort("features")
            axes.plot(part["features"].to_numpy(), 100 * part["covered"].to_numpy(), **look)
        part = rows.filter(kind=kind, data="true")
        look = {"color": colour, "ls": style.DASHES[i], "marker": style.MARKERS[i], "markersize": 4}
        if part.height:
            found[words] = style.band(axes, part, "features", "covered", label=words, **look)
    return found


@style.styled
def draw_dictionary_kinds(*, dictionary_kinds: pl.DataFrame) -> Figure:
    """A panel for each place: a bar for each dictionary, true, of the sum and shuffled, cut up by kind."""
    if dictionary_kinds.is_empty():
        return style.nothing_to_draw("too few <subjects> are known")
    bars = dictionary_kinds.select("features", "data").n_unique()
    figure, panels = _panels(dictionary_kinds, 1.2, 0.8 + 0.2 * bars)
    for axes, (site, layer) in panels:
        _bars(axes, dictionary_kinds.filter(site=site, layer=layer))
        axes.set_title(_place(site, layer))
    there = dictionary_kinds.filter(pl.col("found") > 0)["kind"].unique().to_list()
    handles = [Patch(color=colour, label=words) for kind, (words, colour) in KINDS.items() if kind in there]
    style.legend_above(figure, handles, columns=4)
    return figure


def _bars(axes: Axes, rows: pl.DataFrame) -> None:
    """Bars lie one under the other, narrow dictionaries first; the number at the end of each: its features in use."""
    bars = [
        (width, data)
        for width in rows["features"].unique().sort().to_list()
        for data in DATA
        if rows.filter(features=width, data=data).height
    ]
    for at, (width, data) in enumerate(bars):
        bar, left = rows.filter(features=width, data=data), 0.0
        counts = {kind: max(0.0, bar.filter(kind=kind)["found"].sum()) for kind in KINDS}
        total = sum(counts.values())
        for kind, (_, colour) in KINDS.items():
            length = 100 * counts[kind] / (total or 1)
            axes.barh(at, length, left=left, height=0.75, color=colour, linewidth=0)
            left += length
        axes.text(102, at, f"{total:,.0f}", va="center", fontsize=7.5)
    axes.set_yticks(range(len(bars)), [f"{width:,} {data}" for width, data in bars])
    axes.tick_params(axis="y", labelsize=7.5, length=0)
    axes.grid(False)
    axes.set(xlim=(0, 118), ylim=(len(bars) - 0.4, -0.6), xlabel="features in use (%)", xticks=(0, 50, 100))


def _panels(
    table: pl.DataFrame, above: float, height: float
) -> tuple[Figure, Iterator[tuple[Axes, tuple[str, int]]]]:
    """A figure with a panel for each place, at most so many in a row."""
    places = [
        (str(site), int(layer))
        for site, layer in table.select("site", "layer").unique(maintain_order=True).rows()
    ]
    columns = min(PANELS, len(places))
    lines = ceil(len(places) / columns)
    figure = style.new_figure(above + height * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in panels[len(places) :]:
        axes.remove()
    return figure, zip(panels, places, strict=False)


def _place(site: str, layer: int) -> str:
    if site == "mlp_out":
        return f"output of MLP {layer}"
    return "embeddings" if layer < 0 else f"residual stream after layer {layer}"


def _width_axis(axes: Axes, rows: pl.DataFrame) -> None:
    widths = rows["features"].unique().sort().to_list()
    axes.set_xscale("log")
    axes.set_xticks(widths, [f"{width:,}" for width in widths])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="features of the dictionary", xlim=(widths[0] / 1.4, widths[-1] * 1.4))


def sentences(tables: Tables) -> list[str]:
    """What dictionaries find of names and answers; of single subjects; of groups; and how much they explain."""
    table = tables["dictionary_kinds"]
    if table.is_empty():
        return [NOTHING]
    resid = table.filter(site="resid")
    kinds = resid if resid.height else table
    found = [_covered(kinds, kind) for kind in ("last_token", "first_token", "answer", "relation")]
    told = [one for one in found if one]
    names = (
        f"<Subjects>, held out, for whom a feature fires that stands for {'; for '.join(told)}."
        if told
        else ""
    )
    said = (names, _entities(kinds), _groups(kinds), _explained(tables["dictionaries"]))
    return [one for one in said if one]


def _best(rows: pl.DataFrame, by: str) -> Row | None:
    ordered = rows.filter(pl.col(by).is_not_null()).sort(by, descending=True, maintain_order=True)
    return ordered.row(0, named=True) if ordered.height else None


def _beside(kinds: pl.DataFrame, row: Row, data: str, name: str) -> float | None:
    """The same number in other data: of the same place, width and kind."""
    same = {key: row[key] for key in ("site", "layer", "features", "kind")}
    found = kinds.filter(data=data, **same)[name].drop_nulls()
    return float(found[0]) if len(found) else None


def _compared(kinds: pl.DataFrame, row: Row, name: str) -> list[str]:
    words = {"shuffled": "in shuffled rows", "sum": "in a mere sum of the name's parts"}
    values = {data: _beside(kinds, row, data, name) for data in words}
    return [f"{percent(value)} {words[data]}" for data, value in values.items() if value is not None]


def _covered(kinds: pl.DataFrame, kind: str) -> str:
    """At the place and width that find most beyond shuffled rows."""
    row = _best(kinds.filter(data="true", kind=kind), "over_shuffled")
    if row is None:
        return ""
    surely = "" if row["over_shuffled_low"] > 0 else ", not surely more than in shuffled rows"
    inside = [f"{_where(row)}, {row['features']:,} features", *_compared(kinds, row, "covered")]
    return f"{OWN[kind]} {share(row, 'covered')} of {row['n_subjects']:,}{surely} ({', '.join(inside)})"


def _where(row: Row) -> str:
    return at_layer(row["layer"]) if row["site"] == "resid" else f"of MLP {row['layer']}"


def _entities(kinds: pl.DataFrame) -> str:
    """Single subjects in the widest and the narrowest dictionary, at the place where most have one."""
    widest, narrowest = kinds["features"].max(), kinds["features"].min()
    row = _best(kinds.filter(data="true", kind="entity", features=widest), "over_sum")
    if row is None:
        return (
            "Nothing can be said of single <subjects>: everybody's first or last token is nobody else's, and a feature for one "
            "of them may be the token's."
        )
    narrow = _beside(kinds, row | {"features": narrowest}, "true", "covered")
    less = (
        f", in one of {narrowest:,} {percent(narrow)}" if narrow is not None and widest != narrowest else ""
    )
    beside = _compared(kinds, row, "covered")
    return (
        f"In a dictionary of {row['features']:,} features {_where(row)} {share(row, 'covered')} of {row['n_subjects']:,} <subjects> have "
        f"one for themselves alone{less}; where there is nothing of any <subject>, {all_of(beside) if beside else 'nothing was trained'}."
    )


def _groups(kinds: pl.DataFrame) -> str:
    row = _best(kinds.filter(data="true", kind="group"), "share_over_sum")
    if row is None:
        return ""
    beside = _compared(kinds, row, "share")
    return (
        f"Of the features in use in dictionaries of {row['features']:,} {_where(row)}, {percent(row['share'])} fire for several "
        f"<subjects>, the same in both prompts, and are explained by no token, <answer> or relation{'; ' + all_of(beside) if beside else ''} (beyond the sum "
        f"{number(row, 'share_over_sum', '+.1f', scale=100)} points, n = {row['n_features']:,})."
    )


def _explained(dictionaries: pl.DataFrame) -> str:
    """How much of the variance of others the best dictionary explains."""
    row = _best(dictionaries.filter(data="true"), "explained")
    if row is None:
        return ""
    return (
        f"With {row['active']} of {row['features']:,} features a dictionary explains at best {share(row, 'explained')} of the variance "
        f"of {row['held_out']:,} <subjects> that it was not trained on ({_place(row['site'], row['layer'])}), as many principal "
        f"components {percent(row['principal'])}."
    )
