"""P2.5, P2.6: every head as a probe of the sport, and the best of them by layer beside logistic regression."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
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
    sequential,
    styled,
)

CURVES = 3
"""Heads whose curves are drawn: those chosen by the probe, and the first of those chosen otherwise."""


@styled
def draw(*, head_probes: pl.DataFrame, head_probe_layers: pl.DataFrame, layer_probes: pl.DataFrame) -> Figure:
    """Above, the scan of all heads on the residual each of them reads; below, curves by layer, a panel per condition.

    Frames: the tables of these names. Logistic regression is that of the strictest folds.
    """
    if head_probes.is_empty():
        return nothing_to_draw(
            "too few athletes are known to choose a head on one half and score it on the other"
        )
    conditions = head_probe_layers["condition"].unique(maintain_order=True).to_list()
    more = 0.06 * max(0, head_probes["index"].max() - 11)  # inches, for rows that can still be told apart
    figure = new_figure(5.6 + more)
    grid = figure.add_gridspec(2, max(1, len(conditions)), height_ratios=(1 + 0.7 * more, 1.5))
    scan = figure.add_subplot(grid[0, :])
    figure.colorbar(_scan(scan, head_probes), ax=scan, label="accuracy (%)", pad=0.02)
    handles: dict[str, object] = {}
    first = None
    for column, condition in enumerate(conditions):
        axes = first = figure.add_subplot(grid[1, column], sharey=first)
        part = head_probe_layers.filter(condition=condition)
        handles |= _curves(axes, part) | _logistic(axes, layer_probes.filter(condition=condition))
        label = "always the commonest sport"
        handles[label] = axes.axhline(100 * part["majority_rate"][0], color=INK, linewidth=1, label=label)
        panel_title(axes, CONDITIONS.get(condition, condition), part["n"].max())
        layer_axis(axes, part["layer"].unique().sort().to_list())
        percent_axis(axes, "accuracy (% of athletes)" if column == 0 else "")
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _scan(axes: Axes, table: pl.DataFrame) -> QuadMesh:
    """Held-out accuracy of every head; the head that was chosen has a frame, and those no better than chance a dot."""
    n_layers, n_heads = table["layer"].max() + 1, table["index"].max() + 1
    values = 100 * table.sort("index", "layer")["accuracy"].to_numpy().reshape(n_heads, n_layers)
    chance = 100 * table["chance_best"][0]
    mesh = axes.pcolormesh(
        np.arange(n_layers),
        np.arange(n_heads),
        values,
        cmap=sequential(),
        vmin=0,
        vmax=100,
        shading="nearest",
    )
    best = table.filter(rank=1).row(0, named=True)
    frame = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    axes.plot(*(frame + (best["layer"], best["index"])).T, color=COLOURS[1], linewidth=2)
    above = table.filter(pl.col("p_corrected") < 0.05)
    axes.plot(above["layer"], above["index"], ls="", marker=".", color=COLOURS[4], markersize=4)
    axes.set(ylabel="head (index)", yticks=range(0, n_heads, max(1, n_heads // 8)))
    axes.grid(False)
    layer_axis(axes, range(n_layers), "layer of the head (reads the residual stream before it)")
    axes.set_xlim(-0.5, n_layers - 0.5)
    axes.set_title(
        f"each head as a probe, n = {best['n']:,} athletes; framed: {best['head']}, best on the other half\n"
        f"dots: better than the best of {best['heads_tried']:,} heads on shuffled sports (95 %: {chance:.0f} %)"
    )
    return mesh


def _curves(axes: Axes, part: pl.DataFrame) -> dict[str, object]:
    handles: dict[str, object] = {}
    chosen = part.select("head", "chosen_by").unique(maintain_order=True)
    chosen = chosen.sort(~pl.col("chosen_by").str.contains("probe"), maintain_order=True)
    for number, (head, how) in enumerate(chosen.head(CURVES).iter_rows()):
        label = f"head {head} (by {how})"
        look = {"color": COLOURS[number], "ls": DASHES[number], "marker": MARKERS[number], "markersize": 3.5}
        handles[label] = band(axes, part.filter(head=head), "layer", "accuracy", label=label, **look)
    return handles


def _logistic(axes: Axes, part: pl.DataFrame) -> dict[str, object]:
    """Logistic regression of the strictest kind of folds that the table has."""
    rows = part.filter((pl.col("input") == "resid") & (pl.col("labels") == "true"))
    strictest = [folds for folds in ("random", "first_name", "last_name") if folds in rows["folds"]]
    if not strictest:
        return {}
    label = f"logistic regression, n = {rows['n'].max():,}"
    look = {"color": GREY, "marker": "x", "markersize": 3.5, "linewidth": 1}
    return {label: band(axes, rows.filter(folds=strictest[-1]), "layer", "accuracy", label=label, **look)}
