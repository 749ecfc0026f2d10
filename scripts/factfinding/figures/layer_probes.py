"""P2.6: at which layer a linear probe reads the sport at the final name token, beside what the name alone gives."""

from __future__ import annotations

from math import ceil

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    CONDITIONS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    band,
    layer_axis,
    legend_above,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)

FOLDS = {
    "random": "random folds",
    "first_name": "no first name in two folds",
    "last_name": "no last name in two folds",
}
"""Kinds of folds in plain words, the strictest last."""

BASELINES = {
    ("name_string", "held out"): ("the name's letters, held out", COLOURS[3], (0, (6, 2))),
    ("name_tokens", "held out"): ("sum over the name's tokens, held out", COLOURS[4], (0, (3, 1.5))),
    ("name_tokens", "none"): ("the same, fitted and scored on all", COLOURS[4], (0, (1, 1))),
}


@styled
def draw(*, layer_probes: pl.DataFrame) -> Figure:
    """One panel per condition. layer_probes: the table of that name (docs/tables.md).

    Of the baselines without a model, held out, the best over the kinds of folds is drawn: the hardest to beat.
    """
    probes = layer_probes.filter(pl.col("input") == "resid")
    if probes.is_empty():
        return nothing_to_draw("no layer was probed")
    conditions = probes["condition"].unique(maintain_order=True).to_list()
    columns = min(2, len(conditions))
    rows = ceil(len(conditions) / columns)
    figure = new_figure(1.5 + 2.7 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes in panels[len(conditions) :]:
        axes.remove()
    handles: dict[str, object] = {}
    for axes, condition in zip(panels, conditions, strict=False):
        part = probes.filter(pl.col("condition") == condition)
        handles |= _lines(axes, part) | _levels(axes, layer_probes, part["majority_rate"][0])
        panel_title(axes, CONDITIONS.get(condition, condition), part["n"].max())
        layer_axis(axes, part["layer"].unique().sort().to_list())
        percent_axis(axes, "accuracy (% of athletes)" if axes is panels[0] else "")
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _lines(axes: Axes, part: pl.DataFrame) -> dict[str, object]:
    """The probes by kind of folds and the control of the strictest kind that has one; handles by label."""
    handles: dict[str, object] = {}
    for index, (folds, label) in enumerate(FOLDS.items()):
        rows = part.filter((pl.col("folds") == folds) & (pl.col("labels") == "true"))
        if rows.height:
            label = f"probe, {label}"
            look = {"color": COLOURS[index], "ls": DASHES[index], "marker": MARKERS[index], "markersize": 3.5}
            handles[label] = band(axes, rows, "layer", "accuracy", label=label, **look)
    controlled = part.filter(pl.col("labels") == "shuffled")
    strictest = [folds for folds in FOLDS if folds in controlled["folds"]]
    if strictest:
        rows, label = (
            controlled.filter(pl.col("folds") == strictest[-1]),
            f"shuffled labels, {FOLDS[strictest[-1]]}",
        )
        handles[label] = band(
            axes, rows, "layer", "accuracy", label=label, color=GREY, marker="x", markersize=3.5, linewidth=1
        )
    return handles


def _levels(axes: Axes, table: pl.DataFrame, majority: float) -> dict[str, object]:
    """Horizontal lines: the majority rate and what the name gives away without a model; handles by label."""
    label = "always the commonest sport"
    handles = {label: axes.axhline(100 * majority, color=INK, linewidth=1, label=label)}
    for (source, kind), (label, colour, dash) in BASELINES.items():
        fitted = pl.col("folds") == "none"
        rows = table.filter(
            (pl.col("input") == source)
            & (pl.col("labels") == "true")
            & (fitted if kind == "none" else ~fitted)
        )
        if rows.height:
            handles[label] = axes.axhline(
                100 * rows["accuracy"].max(), color=colour, ls=dash, linewidth=1.6, label=label
            )
    return handles
