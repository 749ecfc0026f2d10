"""P3.3: how much of what the probe's output has beyond a sum of the name's parts is made by activation functions."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from factfinding.figures.style import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    layer_axis,
    legend_above,
    new_figure,
    nothing_to_draw,
    panel_title,
    styled,
)

RULES = {
    "ratio": ("made, above zero only", COLOURS[0]),
    "ratio_both": ("made, both signs", COLOURS[1]),
}
NAMES = {"known": ("known names", DASHES[0]), "unknown": ("unknown names", DASHES[1])}
SHOWN = (-50, 150)
"""Per cent of the excess: ratios to a small excess may lie anywhere."""
LISTED = 10
"""Neurons by name."""


@styled
def draw(
    *,
    nonlinear_excess: pl.DataFrame,
    nonlinear_excess_athletes: pl.DataFrame,
    nonlinear_excess_neurons: pl.DataFrame,
) -> Figure:
    """Ratios over names; shares by layer; the neurons that make most; how many make how much."""
    if nonlinear_excess.is_empty():
        return nothing_to_draw("no effective model, or too few names to pair")
    figure = new_figure(6.9)
    panels = figure.subplots(2, 2).flatten()
    handles = _ratios(panels[0], nonlinear_excess_athletes.filter(layers="all"))
    handles |= _layers(panels[1], nonlinear_excess.filter(names="known"))
    neurons = nonlinear_excess_neurons.filter(sport="all").sort("rank")
    _neurons(panels[2], neurons)
    _cumulative(panels[3], neurons)
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _ratios(axes: Axes, names: pl.DataFrame) -> dict[str, object]:
    """Share of names at or below each ratio."""
    handles: dict[str, object] = {}
    for group, (words, dash) in NAMES.items():
        rows = names.filter(names=group)
        for column, (rule, colour) in RULES.items():
            values = 100 * rows[column].drop_nulls().sort().to_numpy()
            if len(values):
                share = 100 * np.arange(1, len(values) + 1) / len(values)
                label = f"{rule}: {words}"
                (handles[label],) = axes.step(values, share, where="post", color=colour, ls=dash, label=label)
    axes.axvline(100, color=INK, linewidth=0.8)
    axes.set(xlim=SHOWN, ylim=(-3, 103), xlabel="made by activations (% of the output's excess)")
    axes.set_ylabel("names (%), cumulative")
    panel_title(axes, "each name", names.filter(names="known").height)
    return handles


def _layers(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    """By layer: what passes through its neurons, and what they make, as shares of the mean excess of the output."""
    handles: dict[str, object] = {}
    whole = rows.filter(layers="all").row(0, named=True)
    rows = rows.filter(pl.col("layers") != "all").with_columns(pl.col("layers").cast(pl.Int64)).sort("layers")
    layers = rows["layers"].to_numpy()
    shown = (
        ("passed", "all that passes through neurons", GREY, "D"),
        ("made", RULES["ratio"][0], RULES["ratio"][1], "o"),
        ("made_both", RULES["ratio_both"][0], RULES["ratio_both"][1], "s"),
    )
    unit = 100 / whole["excess"] if whole["excess"] else 0.0
    for i, (column, words, colour, marker) in enumerate(shown):
        value, low, high = (unit * rows[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high"))
        at = layers + (i - 1) * 0.15
        look = {"color": colour, "marker": marker, "ls": "", "capsize": 2, "markersize": 4}
        bar = axes.errorbar(at, value, yerr=np.abs((value - low, high - value)), label=words, **look)
        if column == "passed":
            handles[words] = bar
    axes.axhline(0, color=INK, linewidth=0.8)
    layer_axis(axes, layers.tolist(), "lookup MLP (layer)")
    axes.set_xlim(layers.min() - 0.7, layers.max() + 0.7)
    if len(layers) <= 10:
        axes.set_xticks(layers, [str(layer) for layer in layers])
    axes.set_ylabel("mean (% of the output's excess)")
    panel_title(axes, "by layer, known names", whole["n"])
    return handles


def _neurons(axes: Axes, neurons: pl.DataFrame) -> None:
    """The neurons that make most, on average over the known athletes."""
    rows = neurons.head(LISTED)
    value, low, high = (rows[f"made{end}"].to_numpy() for end in ("", "_low", "_high"))
    at = np.arange(rows.height)
    axes.barh(at, value, color=RULES["ratio"][1], height=0.7)
    if rows["made_low"].null_count() == 0:
        ends = np.abs((value - low, high - value))
        axes.errorbar(value, at, xerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.axvline(0, color=INK, linewidth=0.8)
    labels = [f"L{layer}N{neuron}" for layer, neuron in rows.select("layer", "neuron").iter_rows()]
    axes.set_yticks(at, labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel="made (logits of the probe)", ylabel="neuron (layer, number)")
    panel_title(axes, "the largest neurons", rows["n"][0])


def _cumulative(axes: Axes, neurons: pl.DataFrame) -> None:
    """Share of what all neurons make, signs apart, in the mean over athletes, that the largest k have."""
    share = 100 * np.cumsum(neurons["share"].fill_null(0).to_numpy())
    counts = np.arange(1, len(share) + 1)
    axes.plot(counts, share, color=RULES["ratio"][1])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(ylim=(-3, 103), xlabel="largest neurons (number)", ylabel="of what all make, signs apart (%)")
    panel_title(axes, f"how many neurons make it, of {len(share):,}", neurons["n"][0])
