"""Post 5: how much of the residual stream the last k tokens make, by layer and by kind of token."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    GREY,
    INK,
    layer_axis,
    legend_above,
    marks,
    new_figure,
    nothing_to_draw,
    styled,
)

CATEGORIES = {
    "newline": "newline",
    "full_stop": "full stop",
    "comma": "comma",
    "common": "common words",
    "alphabetic": "other words",
    "other": "all else",
}
SHOWN = (1, 2, 3, 5, 10, 50)
"""The k drawn as curves, or those nearest that there are."""
DOTTED = 5
"""The k of the panels below, or the largest one under it."""


@styled
def draw(*, locality: pl.DataFrame, locality_tokens: pl.DataFrame, locality_values: pl.DataFrame) -> Figure:
    """Above: medians by layer for several k with quartile bands; by kind of token. Below: the distribution, by layer."""
    rows = locality.filter(pl.col("k").is_not_null())
    if rows.is_empty():
        return nothing_to_draw("no running text was long enough")
    k = rows.filter(pl.col("k") <= DOTTED)["k"].max() or rows["k"].min()
    figure = new_figure(6.0)
    (left, right), (below, wide) = figure.subplots(2, 2)
    handles = _curves(left, rows)
    kinds = _kinds(right, locality_tokens.filter(k=k))
    _spread(below, locality_values.filter(k=k))
    _squares(wide, rows)
    left.set_title(f"by k, bands: quartiles\nn = {rows['n'][0]:,} tokens")
    right.set_title(f"k = {k}, by kind of token\nn = {rows['n'][0]:,} tokens")
    below.set_title(f"k = {k}, all tokens\nn = {rows['n'][0]:,} tokens")
    wide.set_title(f"squared, medians\nn = {rows['n'][0]:,} tokens")
    for axes in (left, right, below, wide):
        layer_axis(axes, rows["layer"].unique().to_list())
        axes.set(ylabel="squared cosine (0 to 1)" if axes is wide else "cosine (−1 to 1)")
    legend_above(figure, [*handles.values(), *kinds.values()], columns=4)
    return figure


def _curves(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    there = rows["k"].unique().sort().to_list()
    shown = sorted({min(there, key=lambda one: abs(one - k)) for k in SHOWN})
    handles: dict[str, object] = {}
    for k, (colour, dash, marker) in marks(shown).items():
        part = rows.filter(k=k).sort("layer")
        at = part["layer"].to_numpy()
        look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5}
        (handles[f"k {k}"],) = axes.plot(at, part["median"].to_numpy(), label=f"k = {k}", **look)
        ends = (part[f"{end}_quartile"].to_numpy() for end in ("lower", "upper"))
        axes.fill_between(at, *ends, color=colour, alpha=0.12, lw=0)
    part = rows.filter(k=shown[-1]).sort("layer")
    label = "another token’s"
    (handles[label],) = axes.plot(
        part["layer"].to_numpy(), part["baseline"].to_numpy(), color=GREY, lw=1, label=label
    )
    return handles


def _kinds(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    handles: dict[str, object] = {}
    for kind, (colour, _, marker) in marks(list(CATEGORIES)).items():
        part = rows.filter(category=kind).sort("layer")
        if part.height:
            at = part["layer"].to_numpy()
            look = {"color": colour, "ls": ":", "marker": marker, "markersize": 3.5, "mfc": "none"}
            (handles[kind],) = axes.plot(at, part["median"].to_numpy(), label=CATEGORIES[kind], **look)
            known = part.drop_nulls("median_low")
            ends = (known[f"median_{end}"].to_numpy() for end in ("low", "high"))
            axes.fill_between(known["layer"].to_numpy(), *ends, color=colour, alpha=0.1, lw=0)
    return handles


def _spread(axes: Axes, values: pl.DataFrame) -> None:
    """The whole distribution as boxes: median, quartiles, and whiskers at 5 and 95 %."""
    layers = values["layer"].unique().sort().to_list()
    groups = [values.filter(layer=layer)["cosine"].to_numpy() for layer in layers]
    axes.boxplot(
        groups, positions=layers, widths=0.6, whis=(5, 95), showfliers=False, manage_ticks=False,
        medianprops={"color": COLOURS[0], "linewidth": 1.6},
        **{f"{part}props": {"color": INK} for part in ("box", "whisker", "cap")},
    )  # fmt: skip


def _squares(axes: Axes, rows: pl.DataFrame) -> None:
    there = rows["k"].unique().sort().to_list()
    shown = sorted({min(there, key=lambda one: abs(one - k)) for k in SHOWN})
    for k, (colour, dash, marker) in marks(shown).items():
        part = rows.filter(k=k).sort("layer")
        at = part["layer"].to_numpy()
        look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5}
        axes.plot(at, part["square_median"].to_numpy(), **look)
        ends = (part[f"square_median_{end}"].to_numpy() for end in ("low", "high"))
        axes.fill_between(at, *ends, color=colour, alpha=0.15, lw=0)
