"""P3.2: how alike the neurons behind different facts of one athlete are."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from factfinding.figures.style import diverging, new_figure, nothing_to_draw, styled

KINDS = {"mean": "at the mean", "resample_other": "resampled"}
STATISTICS = {"pearson": "effects", "absolute": "sizes of effects"}
SHOWN = 24
"""Facts that are drawn: those that most athletes have."""


@styled
def draw(*, fact_correlations: pl.DataFrame) -> Figure:
    """Facts by facts: correlation over all neurons of their effects (above) and of their sizes (below), for both readings;
    on the diagonal, one fact of two athletes. Titles: means over pairs of facts, the neurons of single layers alone.

    fact_correlations: the table of that name.
    """
    pairs = fact_correlations.filter(pl.col("fact") != "all")
    if pairs.filter(athletes="same").is_empty():
        return nothing_to_draw("no lookup was found, or nobody of whom two facts are known")
    facts, kinds = shown(pairs), [k for k in KINDS if k in fact_correlations["kind"]]
    figure = new_figure(3.0 + 3.6)
    panels = figure.subplots(len(STATISTICS), len(kinds), sharex=True, sharey=True, squeeze=False)
    for line, (statistic, words) in zip(panels, STATISTICS.items(), strict=True):
        for axes, kind in zip(line, kinds, strict=True):
            layers = by_layer(fact_correlations.filter(kind=kind, statistic=statistic))
            rows = pairs.filter(kind=kind, statistic=statistic)
            mesh = axes.pcolormesh(matrix(rows, facts), cmap=diverging(), vmin=-1, vmax=1)
            axes.set_title(f"{words}, {KINDS[kind]}\nn = {rows['n'].max():,} athletes{layers}")
            axes.set_aspect("equal")
            axes.grid(False)
    at = np.arange(len(facts)) + 0.5
    size = 8 if len(facts) <= 12 else 5.5
    for axes in panels[:, 0]:
        axes.set_yticks(at, facts, fontsize=size)
        axes.set(ylabel="fact (by name)")
    for axes in panels[-1]:
        axes.set_xticks(at, facts, rotation=90, fontsize=size)
        axes.set(xlabel="fact")
    panels[0, 0].invert_yaxis()
    figure.colorbar(mesh, ax=panels, label="correlation over neurons (1: the same)", shrink=0.6, pad=0.02)
    return figure


def by_layer(rows: pl.DataFrame) -> str:
    """The mean over pairs of facts in each layer alone, as the line of a title; of more than two, highest and lowest."""
    layers = rows.filter(pl.col("layers") != "all", athletes="same").sort("value", descending=True)
    if layers.height < 2:
        return ""
    few = layers.height == 2
    named = (
        layers.sort(pl.col("layers").cast(pl.Int64)) if few else pl.concat([layers.head(1), layers.tail(1)])
    )
    each = (f"MLP {layer} {value:.2f}" for layer, value in named.select("layers", "value").iter_rows())
    return "\n" + (", " if few else " to ").join(each)


def shown(table: pl.DataFrame) -> list[str]:
    """The facts that are drawn, in the table's order."""
    counts = table.filter(athletes="same").unpivot(["fact", "other_fact"], index="n", value_name="name")
    most = counts.group_by("name", maintain_order=True).agg(pl.col("n").max())
    most = most.sort("n", descending=True, maintain_order=True).head(SHOWN)["name"].to_list()
    order = list(dict.fromkeys([*table["fact"], *table["other_fact"]]))
    return [fact for fact in order if fact in most]


def matrix(rows: pl.DataFrame, facts: list[str]) -> np.ndarray:
    """Values by fact and fact, symmetric; the diagonal is between athletes. NaN where there is none."""
    values = np.full((len(facts), len(facts)), np.nan)
    for fact, other, value in rows.select("fact", "other_fact", "value").iter_rows():
        if fact in facts and other in facts:
            i, j = facts.index(fact), facts.index(other)
            values[i, j] = values[j, i] = np.nan if value is None else value
    return values
