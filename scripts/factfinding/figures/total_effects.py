"""P2.7: what each head, attention layer and MLP does at each position of the name and at END."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    INK,
    diverging,
    layer_axis,
    legend_above,
    marked,
    marks,
    new_figure,
    nothing_to_draw,
    styled,
)

POSITIONS = {"first_name": "first name token", "final_name": "final name token", "end": "END"}
KINDS = {
    "corrupt": "patched from another sport's athlete",
    "zero": "zero",
    "mean": "mean",
    "resample_same": "another athlete's, same sport",
    "resample_other": "another athlete's, other sport",
}


@styled
def draw(*, total_effects: pl.DataFrame) -> Figure:
    """Above, a heat map for each position: layer by head, with whole attention layers and MLPs beside; below, whole
    layers at the final name token under every kind of ablation."""
    if total_effects.is_empty():
        return nothing_to_draw("no two athletes of different sports have prompts of one layout")
    patched = total_effects.filter(kind="corrupt", number=0)
    roles = [role for role in POSITIONS if role in patched["role"]]
    n_layers = total_effects["layer"].max() + 1
    more = 0.06 * max(0, n_layers - 12)  # inches, for rows that can still be told apart
    figure = new_figure(6.5 + more)
    above, below = figure.subfigures(2, 1, height_ratios=(1 + 0.35 * more, 1.2))
    panels = above.subplots(1, len(roles), sharey=True, squeeze=False)[0]
    limit = 100 * float(patched["share"].abs().max() or 1.0)
    for axes, role in zip(panels, roles, strict=True):
        mesh = _map(axes, patched.filter(role=role), limit)
        axes.set_title(f"{POSITIONS[role]}, n = {patched.filter(role=role)['n'].max():,}")
    panels[0].set(ylabel="layer (index)", yticks=range(0, n_layers, max(1, n_layers // 8)))
    above.colorbar(mesh, ax=list(panels), label="share of the\nwhole swap (%)", pad=0.02)
    _by_kind(below, total_effects.filter(role="final_name"))
    return figure


def _map(axes: Axes, rows: pl.DataFrame, limit: float):
    n_layers, n_heads = rows["layer"].max() + 1, rows.filter(type="head")["head"].max() + 1
    values = np.full((n_layers, n_heads + 3), np.nan)
    column = {"attention": n_heads + 1, "mlp": n_heads + 2}
    for layer, kind, head, share in rows.select("layer", "type", "head", "share").iter_rows():
        values[layer, column.get(kind, head)] = np.nan if share is None else 100 * share
    wide = max(1.0, n_heads / 8)  # of whole layers, in heads
    edges = np.append(np.arange(n_heads + 1), n_heads + wide * np.array([0.5, 1.5, 2.5])) - 0.5
    mesh = axes.pcolormesh(
        edges, np.arange(n_layers + 1) - 0.5, values, cmap=diverging(), vmin=-limit, vmax=limit
    )
    heads = list(range(0, n_heads, max(1, n_heads // 4)))
    whole = n_heads - 0.5 + wide * np.array([1.0, 2.0])
    axes.set_xticks([*heads, *whole], [*map(str, heads), "attn", "MLP"], fontsize=7, rotation=90)
    axes.set(xlabel="head, layer's attention, MLP")
    axes.grid(False)
    return mesh


def _by_kind(figure, rows: pl.DataFrame) -> None:
    """Lines over layers, one for each kind; left attention, right MLPs."""
    kinds = [kind for kind in KINDS if kind in rows["kind"]]
    panels = figure.subplots(1, 2, sharey=True)
    handles: dict[str, object] = {}
    for axes, (node, words) in zip(panels, (("attention", "attention"), ("mlp", "MLP")), strict=True):
        for kind, (colour, dash, marker) in marks(kinds).items():
            part = rows.filter(type=node, kind=kind).sort("layer")
            at = part["layer"].to_numpy()
            (handles[kind],) = axes.plot(
                at,
                part["effect"].to_numpy(),
                color=colour,
                ls=dash,
                marker=marker,
                markersize=3.5,
                markevery=marked(len(at)),
                label=f"{KINDS[kind]} (n = {part['n'].max():,})",
            )
            low, high = (part[name].fill_null(np.nan).to_numpy() for name in ("effect_low", "effect_high"))
            axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        layer_axis(axes, part["layer"].to_list(), "layer")
        axes.set_title(f"{words} of a whole layer, final name token")
    panels[0].set(ylabel="change of the\nlogit difference (logits)")
    legend_above(figure, list(handles.values()), columns=2)
