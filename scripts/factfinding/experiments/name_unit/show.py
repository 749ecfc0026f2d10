"""P1.6: which tokens make the unit that is looked up."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from factfinding.figures import style
from factfinding.findings.words import FEW, NO_PROBE, READ_WELL, Row, Tables, after_layers, percent, share

PLACES = {
    ("whole", 0): "the name as it is",
    ("preceded", 0): "a token before the name",
    ("appended", 0): "at a token put after the name",
    ("prefix", 1): "name cut off by 1 token",
    ("prefix", 2): "name cut off by 2 tokens",
    ("prefix", 3): "name cut off by 3 tokens",
}


@style.styled
def draw_name_unit(*, name_unit: pl.DataFrame) -> Figure:
    """Left, the own answer read by layer; right, the likeness to the whole name's representation."""
    if name_unit.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    figure = style.new_figure(3.9)
    left, right = figure.subplots(1, 2)
    handles = _curves(left, name_unit, "own")
    label = "always the commonest <answer>"
    rate = 100 * name_unit["majority_rate"][0]
    handles.append(left.axhline(rate, color=style.INK, linewidth=1, ls=":", label=label))
    _curves(right, name_unit, "cosine")
    n = name_unit["n"].max()
    style.panel_title(left, "own <answer> read by the names' probe", n)
    style.panel_title(right, "what stands at the whole name", n)
    style.percent_axis(left, "<subjects> (%)")
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 100:.1f}"))
    right.set(ylabel="likeness (cosine)", ylim=(None, 103))
    for axes in (left, right):
        style.layer_axis(axes, name_unit["layer"].unique().to_list())
    style.legend_above(figure, handles, columns=2)
    return figure


def _curves(axes: Axes, table: pl.DataFrame, measure: str) -> list[Line2D]:
    found = []
    looks = style.marks(list(PLACES))
    for (place, left), words in PLACES.items():
        rows = table.filter(pl.col("n") >= min(FEW, table["n"].max()), place=place, tokens_left=left)
        if rows.height:
            colour, dash, marker = looks[place, left]
            found.append(
                style.band(axes, rows, "layer", measure, label=words, color=colour, ls=dash, marker=marker)
            )
    return found


def sentences(tables: Tables) -> list[str]:
    """At the layer where the whole name is read best: what its neighbours carry; then what the model answers."""
    table = tables["name_unit"]
    if table.is_empty():
        return [NO_PROBE]
    whole = table.filter(place="whole").sort("own", "layer", descending=[True, False], maintain_order=True)
    well = whole.filter(pl.col("own") >= READ_WELL).sort("layer")
    best = (well if well.height else whole).row(0, named=True)
    found = [_beside(table, best), *_cut_off(table, best)]
    said = {row["place"]: row for row in tables["name_unit_answers"].iter_rows(named=True)}
    if {"whole", "preceded", "appended"} <= said.keys():
        found.append(
            f"Asked with a token before the name, the model answers the <subject>'s own <answer> for "
            f"{share(said['preceded'], 'right')}, with one after it for {share(said['appended'], 'right')}, and for "
            f"{share(said['whole'], 'right')} of {said['whole']['n']:,} names as they are."
        )
    return found


def _beside(table: pl.DataFrame, best: Row) -> str:
    rows = {
        row["place"]: row for row in table.filter(layer=best["layer"], tokens_left=0).iter_rows(named=True)
    }
    begins, ends = (_verdict(rows.get(place)) for place in ("preceded", "appended"))
    return (
        f"The probe of whole names reads the <subject>'s own <answer> {after_layers([best['layer']])} for "
        f"{share(best, 'own')} of {best['n']:,} names (always the commonest: {percent(best['majority_rate'])}); with a token of "
        f"another's name before the name {begins}, at one put after it {ends}."
    )


def _verdict(row: Row | None) -> str:
    if row is None:
        return "nothing was read"
    changed = "surely less" if row["from_whole_high"] < 0 else "not surely less"
    return f"for {share(row, 'own')}, {changed}"


def _cut_off(table: pl.DataFrame, best: Row) -> list[str]:
    """What a name carries before it has ended, by the tokens that are left."""
    enough = min(FEW, table["n"].max())
    rows = table.filter(pl.col("n") >= enough, place="prefix", layer=best["layer"]).sort("tokens_left")
    told = [
        f"{row['tokens_left']} {'token' if row['tokens_left'] == 1 else 'tokens'} before its end {share(row, 'own')} "
        f"(n = {row['n']:,}, always the commonest: {percent(row['majority_rate'])})"
        for row in rows.iter_rows(named=True)
    ]
    return (
        [f"Of a name that has not ended, the same probe reads the own <answer>: {'; '.join(told)}."]
        if told
        else []
    )
