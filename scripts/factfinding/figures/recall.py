"""P2.1: how sure the model is of each athlete's sport, and whether long names are recalled less."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures.style import (
    CONDITIONS,
    GREY,
    INK,
    MARKERS,
    legend_above,
    marks,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)
from factfinding.known import KNOWN_ABOVE

SHOWN = ("full", "zero_shot")


@styled
def draw(*, recall: pl.DataFrame, recall_summary: pl.DataFrame) -> Figure:
    """Above, the share of athletes whose P(own sport) exceeds each value; below, recall by number of name tokens.

    The upper curves cross the vertical line at the share that is recalled. Frames: the tables `recall` and
    `recall_summary`.
    """
    if recall.is_empty():
        return nothing_to_draw("no athlete was asked about")
    figure = new_figure(5.4)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.2, 1))
    sports = recall["sport"].unique().sort().to_list()
    first = figure.add_subplot(grid[0, 0])
    panels = (first, figure.add_subplot(grid[0, 1], sharey=first))
    for axes, condition in zip(panels, SHOWN, strict=True):
        _survival(axes, recall, condition, sports)
    panels[1].tick_params(labelleft=False)
    panels[1].set_ylabel("")
    _by_length(figure.add_subplot(grid[1, :]), recall_summary)
    legend_above(figure, _legend(sports), columns=3)
    return figure


def _survival(axes: Axes, recall: pl.DataFrame, condition: str, sports: list[str]) -> None:
    for sport, (colour, dash, _) in marks(sports).items():
        p = np.sort(recall.filter(pl.col("sport") == sport)[f"{condition}_p"].to_numpy())
        above = 100 * np.arange(len(p), -1, -1) / len(p)  # above the first 0, 1, 2, ... of the sorted values
        axes.step([0, *p, 1], [*above, 0], where="post", color=colour, ls=dash)
    axes.axvline(KNOWN_ABOVE, color=GREY, linewidth=1.2, linestyle=":")
    axes.set(xlim=(-0.02, 1.02), xlabel="x, a probability")
    panel_title(axes, CONDITIONS[condition], recall.height)
    percent_axis(axes, "P(own sport) > x\n(% of athletes)")


def _by_length(axes: Axes, summary: pl.DataFrame) -> None:
    rows = summary.filter(pl.col("group") == "n_name_tokens").with_columns(pl.col("level").cast(pl.Int64))
    lengths = rows["level"].unique().sort().to_list()
    apart = 0.012 * (len(lengths) + 1)  # the same on the page, however many lengths there are
    for shift, condition, colour, marker in zip((-apart, apart), SHOWN, (INK, GREY), MARKERS, strict=False):
        part = rows.filter(pl.col("condition") == condition).sort("level")
        at = [lengths.index(level) + shift for level in part["level"]]
        value, low, high = (
            100 * part[name].to_numpy() for name in ("recalled", "recalled_low", "recalled_high")
        )
        axes.errorbar(
            at, value, yerr=(value - low, high - value), color=colour, fmt=marker, elinewidth=1.4, capsize=2.5
        )
    counts = dict(rows.filter(pl.col("condition") == SHOWN[0]).select("level", "n").iter_rows())
    axes.set_xticks(range(len(lengths)), [f"{length}\n{counts[length]:,}" for length in lengths])
    axes.set(
        xlim=(-0.6, len(lengths) - 0.4),
        xlabel="tokens of the name (number); below it n, the athletes with so many",
    )
    axes.set_title(f"recalled: P(own sport) > {KNOWN_ABOVE}, with 95 % intervals")
    percent_axis(axes, "recalled\n(% of athletes)")


def _legend(sports: list[str]) -> list[Line2D]:
    curves = [
        Line2D([], [], color=colour, ls=dash, label=sport)
        for sport, (colour, dash, _) in marks(sports).items()
    ]
    threshold = Line2D([], [], color=GREY, ls=":", linewidth=1.2, label="P = 0.5, from here on: recalled")
    points = [
        Line2D([], [], color=colour, marker=marker, ls="", label=f"below: {CONDITIONS[condition]}")
        for condition, colour, marker in zip(SHOWN, (INK, GREY), MARKERS, strict=False)
    ]
    return [*curves, threshold, *points]
