"""P3.6: known names told from unknown pairings of the same tokens by the norm of what each layer writes."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    CONDITIONS,
    GREY,
    INK,
    band,
    layer_axis,
    legend_above,
    new_figure,
    nothing_to_draw,
    panel_title,
    shade_layers,
    styled,
)
from factfinding.methods.circuit import Circuit

LINES = {  # column, output -> label and look
    ("auc", "mlp"): ("MLP", {"color": COLOURS[0], "marker": "o"}),
    ("auc", "attn"): ("attention", {"color": COLOURS[1], "marker": "s", "ls": "--"}),
    ("auc_control", "mlp"): (
        "MLP, one half of the unknown names against the other",
        {"color": GREY, "marker": "x", "linewidth": 1},
    ),
}


@styled
def draw(*, mlp_norms: pl.DataFrame, circuit: pl.DataFrame) -> Figure:
    """Left, AUC by layer; right, the mean norms of the MLPs' outputs. Shaded: the layers that look up."""
    if mlp_norms.is_empty():
        return nothing_to_draw("no known names, or no unknown pairing of their tokens")
    conditions = mlp_norms["condition"].unique(maintain_order=True).to_list()
    figure = new_figure(0.6 + 2.9 * len(conditions))
    handles: dict[str, object] = {}
    for (left, right), condition in zip(
        figure.subplots(len(conditions), 2, squeeze=False), conditions, strict=True
    ):
        rows = mlp_norms.filter(condition=condition)
        handles |= _aucs(left, rows) | _norms(right, rows.filter(output="mlp"))
        panel_title(left, f"larger for the known name, {CONDITIONS[condition]}", rows["n_known"][0])
        right.set_title(f"MLPs\nn = {rows['n_unknown'][0]:,} unknown names")
        for axes in (left, right):
            layer_axis(axes, rows["layer"].unique().sort().to_list(), "layer")
            shade_layers(axes, Circuit.from_table(circuit).lookup)
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _aucs(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    drawn = {}
    for (column, output), (label, look) in LINES.items():
        part = rows.filter(output=output).drop_nulls([column, f"{column}_low"])
        if part.height:
            drawn[label] = band(axes, part, "layer", column, label=label, markersize=3.5, **look)
    axes.axhline(50, color=INK, linewidth=1, ls="--")
    axes.set(ylabel="AUC (%)")
    return drawn


def _norms(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    """Mean norms in the model's own units, with their intervals."""
    drawn, rows = {}, rows.sort("layer")
    for name, colour, marker in (("known", COLOURS[2], "^"), ("unknown", COLOURS[3], "D")):
        label = f"mean norm, {name} names"
        (drawn[label],) = axes.plot(
            rows["layer"], rows[name], color=colour, marker=marker, markersize=3.5, label=label
        )
        whole = rows.drop_nulls(f"{name}_low")
        axes.fill_between(
            whole["layer"], whole[f"{name}_low"], whole[f"{name}_high"], color=colour, alpha=0.18, linewidth=0
        )
    axes.set(ylabel="norm (model's own units)", ylim=(0, None))
    return drawn
