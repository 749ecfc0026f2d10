"""P3.4: who fires the neurons that tell a sport, and what the model loses without them."""

from __future__ import annotations

from math import ceil

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    GREY,
    INK,
    legend_above,
    marks,
    new_figure,
    nothing_to_draw,
    styled,
)

SHOWN, COLUMNS = 6, 3
"""Neurons that are drawn, those of the scan first, and panels in a row."""

KINDS = {"none": ("unchanged", INK, "o"), "mean": ("its mean instead", COLOURS[3], "s"), "zero": ("zero instead", COLOURS[4], "^")}  # fmt: skip


@styled
def draw(
    *,
    sport_neurons: pl.DataFrame,
    sport_neuron_histograms: pl.DataFrame,
    sport_neuron_ablations: pl.DataFrame,
) -> Figure:
    """Above, a panel per neuron: its activations by sport; below, losses on its sport under ablation.

    Frames: the tables of these names.
    """
    neurons = shown(sport_neuron_histograms)
    if neurons.is_empty():
        return nothing_to_draw("no lookup was found, or too few athletes are known to choose a neuron")
    rows, height = ceil(neurons.height / COLUMNS), 0.9 + 0.34 * neurons.height
    figure = new_figure(0.9 + 2.1 * rows + height)
    grid = figure.add_gridspec(rows + 1, min(COLUMNS, neurons.height), height_ratios=[2.1] * rows + [height])
    looks = marks(sport_neuron_histograms["athletes_sport"].unique().sort().to_list())
    handles: dict[str, object] = {}
    for number, row in enumerate(neurons.iter_rows(named=True)):
        axes = figure.add_subplot(grid[number // COLUMNS, number % COLUMNS])
        bars = sport_neuron_histograms.filter(
            neuron=row["neuron"], sport=row["sport"], chosen_by=row["chosen_by"]
        )
        handles |= _histogram(axes, bars, looks)
        axes.set_title(
            f"{row['neuron']}, for {row['sport']}{_auc(sport_neurons, row)}\nn = {bars['n'][0]:,} athletes"
        )
        axes.set(xlabel="activation", ylabel="" if number % COLUMNS else "athletes (% of their sport)")
    handles |= _losses(figure.add_subplot(grid[rows, :]), sport_neuron_ablations, neurons)
    legend_above(figure, list(handles.values()), columns=3)
    return figure


def shown(table: pl.DataFrame) -> pl.DataFrame:
    """The neurons that are drawn: columns neuron, sport, chosen_by; those that the scan chose first."""
    who = table.select("neuron", "sport", "chosen_by").unique(maintain_order=True)
    return who.sort(pl.col("chosen_by") != "scan", maintain_order=True).head(SHOWN)


def _auc(scan: pl.DataFrame, row: dict) -> str:
    """The held-out AUC of a neuron that the scan chose."""
    if scan.is_empty():  # neurons that the configuration names are drawn all the same
        return ""
    found = scan.filter(chosen_on="first", rank=1, neuron=row["neuron"], sport=row["sport"])
    return (
        f"\nAUC {found['auc'][0]:.2f}{' (low on it)' if found['sign'][0] < 0 else ''}" if found.height else ""
    )


def _histogram(axes: Axes, bars: pl.DataFrame, looks: dict) -> dict[str, object]:
    handles: dict[str, object] = {}
    for sport in bars["athletes_sport"].unique(maintain_order=True):
        part, (colour, dash, _) = bars.filter(athletes_sport=sport), looks[sport]
        edges = [*part["low"], part["high"][-1]]
        share = (100 * part["athletes"] / part["athletes"].sum()).to_list()
        style = {"color": colour, "ls": dash, "linewidth": 1.3, "label": f"athletes: {sport}"}
        (handles[sport],) = axes.step(edges, [*share, share[-1]], where="post", **style)
    axes.set_ylim(bottom=0)
    return handles


def _losses(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> dict[str, object]:
    """A row per neuron: losses with their intervals, and that of the random neuron that matters most."""
    handles: dict[str, object] = {}
    rows = neurons.iter_rows(named=True)
    for y, who in enumerate(rows):
        mine = table.filter(neuron=who["neuron"], sport=who["sport"], chosen_by=who["chosen_by"])
        unchanged = mine.filter(kind="none")["loss"][0]
        for shift, (kind, (label, colour, marker)) in zip((-0.22, 0, 0.22), KINDS.items(), strict=True):
            row = mine.filter(kind=kind).row(0, named=True)
            low, high = (row["loss"] if row[end] is None else row[end] for end in ("loss_low", "loss_high"))
            axes.plot([low, high], [y + shift] * 2, color=colour, linewidth=1.2)
            style = {"ls": "", "marker": marker, "color": colour, "label": label}
            (handles[kind],) = axes.plot([row["loss"]], [y + shift], **style)
            if row["random_largest"] is not None:
                label = f"the largest of {row['random_neurons']:,} random neurons"
                at = unchanged + row["random_largest"]
                style = {"ls": "", "marker": "x", "color": GREY, "markersize": 5, "label": label}
                (handles["random"],) = axes.plot([at], [y + shift], **style)
    names = [f"{row['neuron']} ({row['sport']})" for row in neurons.iter_rows(named=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="loss of the whole model on athletes of that sport (nats)")
    axes.set_ylabel("neuron (sport)")
    axes.set_title(f"ablated at the final name token, n = {_span(table['n'])} athletes each")
    return handles


def _span(n: pl.Series) -> str:
    return f"{n.min():,}" if n.min() == n.max() else f"{n.min():,} to {n.max():,}"
