"""P2.5, P2.6: every head as a probe of the answer, and the best of them by layer beside logistic regression."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import READ_WELL, Tables, at_layer, best_layer, percent, share

CURVES = 3
"""Heads whose curves are drawn: those chosen by the probe, and the first of those chosen otherwise."""


HEADS = (style.VERMILION, style.PURPLE, style.ORANGE)
"""Colours of the heads' curves: the first is the head probe of every figure, none is that of the logistic probe."""


@style.styled
def draw_head_probes(
    *, head_probes: pl.DataFrame, head_probe_layers: pl.DataFrame, layer_probes: pl.DataFrame
) -> Figure:
    """Above, the scan of all heads on the residual each of them reads; below, curves by layer, a panel per condition.

    Frames: the tables of these names. Logistic regression is that of the strictest folds.
    """
    if head_probes.is_empty():
        return style.nothing_to_draw(
            "too few <subjects> are known to choose a head on one half and score it on the other"
        )
    conditions = head_probe_layers["condition"].unique(maintain_order=True).to_list()
    more = 0.06 * max(0, head_probes["index"].max() - 11)  # inches, for rows that can still be told apart
    figure = style.new_figure(5.6 + more)
    grid = figure.add_gridspec(2, max(1, len(conditions)), height_ratios=(1 + 0.7 * more, 1.5))
    scan = figure.add_subplot(grid[0, :])
    figure.colorbar(_scan(scan, head_probes), ax=scan, label="accuracy (%)", pad=0.02)
    handles: dict[str, object] = {}
    first = None
    for column, condition in enumerate(conditions):
        axes = first = figure.add_subplot(grid[1, column], sharey=first)
        part = head_probe_layers.filter(condition=condition)
        handles |= _curves(axes, part) | _logistic(axes, layer_probes.filter(condition=condition))
        label = "always the commonest <answer>"
        handles[label] = axes.axhline(100 * part["majority_rate"][0], label=label, **style.COMMONEST)
        style.panel_title(axes, style.CONDITIONS.get(condition, condition), part["n"].max())
        style.layer_axis(axes, part["layer"].unique().sort().to_list())
        style.percent_axis(axes, "accuracy (% of <subjects>)" if column == 0 else "")
    style.legend_above(figure, list(handles.values()), columns=2)
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
        cmap=style.sequential(),
        vmin=0,
        vmax=100,
        shading="nearest",
    )
    best = table.filter(rank=1).row(0, named=True)
    frame = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    axes.plot(*(frame + (best["layer"], best["index"])).T, color=style.look("head")["color"], linewidth=2)
    above = table.filter(pl.col("p_corrected") < 0.05)
    axes.plot(above["layer"], above["index"], ls="", marker=".", color=style.COLOURS[4], markersize=4)
    axes.set(ylabel="head (index)", yticks=range(0, n_heads, max(1, n_heads // 8)))
    axes.grid(False)
    style.layer_axis(axes, range(n_layers), "layer of the head (reads the residual stream before it)")
    axes.set_xlim(-0.5, n_layers - 0.5)
    axes.set_title(
        f"each head as a probe, n = {best['n']:,} <subjects>; framed: {best['head']}, best on the other half\n"
        f"dots: better than the best of {best['heads_tried']:,} heads on shuffled <answers> (95 %: {chance:.0f} %)"
    )
    return mesh


def _curves(axes: Axes, part: pl.DataFrame) -> dict[str, object]:
    handles: dict[str, object] = {}
    chosen = part.select("head", "chosen_by").unique(maintain_order=True)
    chosen = chosen.sort(~pl.col("chosen_by").str.contains("probe"), maintain_order=True)
    for number, (head, how) in enumerate(chosen.head(CURVES).iter_rows()):
        label = f"head {head} (by {how})"
        look = {
            "color": HEADS[number],
            "ls": style.DASHES[1 + number],
            "marker": style.MARKERS[1 + number],
            "markersize": 3.5,
        }
        handles[label] = style.band(axes, part.filter(head=head), "layer", "accuracy", label=label, **look)
    return handles


def _logistic(axes: Axes, part: pl.DataFrame) -> dict[str, object]:
    """Logistic regression of the strictest kind of folds that the table has."""
    rows = part.filter((pl.col("input") == "resid") & (pl.col("labels") == "true"))
    strictest = [folds for folds in ("random", "first_name", "last_name") if folds in rows["folds"]]
    if not strictest:
        return {}
    label = f"logistic regression, n = {rows['n'].max():,}"
    look = style.look("logistic") | {"markersize": 3.5}
    return {
        label: style.band(axes, rows.filter(folds=strictest[-1]), "layer", "accuracy", label=label, **look)
    }


def sentences(tables: Tables) -> list[str]:
    """How well the best head reads the name, whether chance could do as well, and from which layer on, beside logistic
    regression."""
    head_probes = tables["head_probes"]
    head_probe_layers = tables["head_probe_layers"]
    layer_probes = tables["layer_probes"]
    if head_probes.is_empty():
        return ["Too few <subjects> are known to choose a head on one half and score it on the other."]
    best = head_probes.filter(rank=1).row(0, named=True)
    better = head_probes.filter(pl.col("p_corrected") < 0.05).height
    where = (
        "the embeddings"
        if best["read_after"] < 0
        else f"the residual stream after layer {best['read_after']}"
    )
    found = [
        (
            f"Of {best['heads_tried']:,} heads as probes, the best on one half of the <subjects>, {best['head']}, is right for "
            f"{share(best, 'accuracy')} of the other half (n = {best['n']:,}) on {where}, which is what it reads; the commonest "
            f"<answer> gives {percent(best['majority_rate'])}, the best of all heads under shuffled <answers> up to "
            f"{percent(best['chance_best'])} (95 % point)."
        ),
        f"{better:,} of all heads do better than that best by chance (p < 0.05, corrected for the number of heads).",
        (
            f"How the norms are treated: with neither norm folded in, {best['head']} gives the same answer for "
            f"{share(best, 'same_unfolded')}, and divided by each <subject>'s own scale for {share(best, 'same_scaled')} "
            f"(right for {share(best, 'accuracy_unfolded')} and {share(best, 'accuracy_scaled')}); of all heads, the one that "
            f"changes most still gives the same answer for {percent(head_probes['same_unfolded'].min())} and "
            f"{percent(head_probes['same_scaled'].min())}."
        ),
    ]
    layers = head_probe_layers.filter(head=best["head"])
    for condition in layers["condition"].unique(maintain_order=True):
        rows = layers.filter(condition=condition).sort("layer")
        found.append(_by_layer(best["head"], condition, rows, layer_probes.filter(condition=condition)))
    return found


def _by_layer(head: str, condition: str, rows: pl.DataFrame, logistic: pl.DataFrame) -> str:
    fits = logistic.filter(input="resid", labels="true")
    strictest = [folds for folds in style.FOLDS if folds in fits["folds"]]
    setting = f"{style.CONDITIONS.get(condition, condition)}; n = {rows['n'].max():,}"
    told = f"By layer ({setting}), the probe of {head} is {_reached(rows)}"
    if not strictest:
        return f"{told}."
    return f"{told}; logistic regression ({style.FOLDS[strictest[-1]]}) {_reached(fits.filter(folds=strictest[-1]))}."


def _reached(rows: pl.DataFrame) -> str:
    """The first layer at which a curve is surely `READ_WELL`, and its best."""
    rows = rows.sort("layer")
    well = rows.filter(pl.col("accuracy_low") >= READ_WELL)["layer"]
    surely = f"surely right for {100 * READ_WELL:.0f} %"
    first = f"{surely} first {at_layer(well[0])}" if len(well) else f"{surely} nowhere"
    return f"{first}, at best for {best_layer(rows)}"
