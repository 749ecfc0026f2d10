"""P3.8: the component of each athlete that no others span, through the sport neuron."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    GREY,
    INK,
    legend_above,
    new_figure,
    nothing_to_draw,
    percent_axis,
    styled,
)


@styled
def draw(*, orthogonal_remainder: pl.DataFrame) -> Figure:
    """A row per neuron and kind of others: the AUC of the remainder, and beside it that of the whole residual."""
    if orthogonal_remainder.is_empty():
        return nothing_to_draw("no sport neuron, or no known athletes")
    rows = list(orthogonal_remainder.iter_rows(named=True))
    figure = new_figure(1.3 + 0.32 * len(rows))
    axes, handles = figure.subplots(), {}
    for at, row in enumerate(rows):
        for name, label, colour, marker in (
            ("auc", "the remainder alone", COLOURS[0], "o"),
            ("auc_whole", "the whole residual stream", GREY, "x"),
        ):
            if row[name] is None:
                continue
            low, high = (
                row[name] if row[f"{name}_{end}"] is None else row[f"{name}_{end}"] for end in ("low", "high")
            )
            axes.plot([100 * low, 100 * high], [at, at], color=colour, linewidth=1.4)
            (handles[label],) = axes.plot(
                100 * row[name], at, ls="", marker=marker, color=colour, label=label
            )
        if row["auc"] is None:
            axes.text(51.5, at, row["status"], va="center", color=INK, fontsize=8)
    handles["chance"] = axes.axvline(50, color=INK, linewidth=1, ls="--", label="chance")
    percent_axis(axes, "AUC of the sport neuron (%)", which="x")
    axes.set(yticks=range(len(rows)), yticklabels=[_words(row) for row in rows], ylim=(len(rows) - 0.5, -0.5))
    axes.set(ylabel="neuron (others removed)")
    n = orthogonal_remainder["n"].max()
    axes.set_title(f"each athlete's remainder beside that of others\nn = {n:,} athletes where it is defined")
    legend_above(figure, list(handles.values()), columns=3)
    return figure


def _words(row: dict) -> str:
    sign = "" if row["sign"] > 0 else "-"
    return f"{row['sport']} {sign}{row['neuron']} ({row['spanned']:,} others)"
