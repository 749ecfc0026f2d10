"""P3.7: how far each layer is from adding up the parts of a name."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    CONDITIONS,
    INK,
    band,
    layer_axis,
    legend_above,
    marks,
    new_figure,
    nothing_to_draw,
    shade_layers,
    styled,
)
from factfinding.methods.circuit import Circuit

NAMES = {
    "known": "known names",
    "unknown": "unknown names only",
    "shuffled": "known names, MLP weights shuffled",
}
OUTPUTS = {"mlp": "MLP outputs", "resid": "residual stream after the layer"}


@styled
def draw(*, linear_structure: pl.DataFrame, circuit: pl.DataFrame) -> Figure:
    """Left MLP outputs, right the residual stream: medians over pairs. Shaded: the layers that look up."""
    if linear_structure.is_empty():
        return nothing_to_draw("no two known names whose swaps are unknown")
    conditions = linear_structure["condition"].unique(maintain_order=True).to_list()
    figure = new_figure(0.6 + 2.9 * len(conditions))
    handles: dict[str, object] = {}
    grid = figure.subplots(len(conditions), 2, squeeze=False, sharey=True)
    for panels, condition in zip(grid, conditions, strict=True):
        for axes, output in zip(panels, OUTPUTS, strict=True):
            rows = linear_structure.filter(condition=condition, output=output)
            handles |= _lines(axes, rows)
            words = OUTPUTS[output] if len(conditions) == 1 else f"{OUTPUTS[output]}, {CONDITIONS[condition]}"
            axes.set_title(f"{words}\nn = {rows['n'].max() or 0:,} pairs of names")
            layer_axis(axes, rows["layer"].unique().sort().to_list(), "layer")
            shade_layers(axes, Circuit.from_table(circuit).lookup)
            label = "unrelated"
            handles[label] = axes.axhline(
                100, color=INK, linewidth=1, ls="--", label="names unrelated (additive: 0)"
            )
        panels[0].set(ylabel="ratio (%), median over pairs")
        panels[0].set_ylim(bottom=0)
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _lines(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    drawn = {}
    for names, (colour, dash, marker) in marks(list(NAMES)).items():
        part = rows.filter(pl.col("names") == names).drop_nulls(["median", "median_low"])
        if part.height:
            look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5, "label": NAMES[names]}
            drawn[names] = band(axes, part, "layer", "median", **look)
    return drawn
