"""How the embedded model was trained: its loss, the growing number of people told about, and what it recalls of them."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    DASHES,
    count_axis,
    legend_above,
    new_figure,
    nothing_to_draw,
    percent_axis,
    styled,
)

TOLD = {"active": "recalled", "described": "recalled_own"}
"""Columns of people told about, and of what is recalled of these: their sports; all facts of the described."""

WORDS = {"active": "the sport of each person", "described": "the other facts of the described people"}


@styled
def draw(*, training: pl.DataFrame) -> Figure:
    """Three panels over the steps.

    training: columns step, tokens, loss (nats a token), active and described (people), recalled and recalled_own
    (shares of a sample). Where nobody is described, as in the world of real athletes, that line is left out.
    """
    if training.is_empty():
        return nothing_to_draw("the training took no step")
    figure = new_figure(5.2)
    loss, told, recalled = figure.subplots(3, 1, sharex=True)
    steps = training["step"].to_numpy()
    loss.plot(steps, training["loss"].to_numpy(), color=COLOURS[0], linewidth=1.3, marker="o", markersize=2.5)
    loss.set(ylabel="loss\n(nats per token)", title=_title(training))
    handles = []
    for index, (people, share) in enumerate(TOLD.items()):
        if training[people].max() > 0:
            look = {"color": COLOURS[index + 1], "ls": DASHES[index], "linewidth": 1.3}
            told.plot(steps, training[people].to_numpy(), drawstyle="steps-mid", **look)
            look |= {"marker": "os"[index], "markersize": 2.5, "label": WORDS[people]}
            handles += recalled.plot(steps, 100 * training[share].to_numpy(), **look)
    for axes in (loss, told):
        axes.set_ylim(bottom=0)
    count_axis(told, "people told about\n(number)", which="y")
    percent_axis(recalled, "recalled, of a\nsample of these (%)")
    count_axis(recalled, "training steps", which="x")
    recalled.set_xlim(0, 1.02 * steps.max())
    figure.align_ylabels()
    legend_above(figure, handles, columns=2)
    return figure


def _title(training: pl.DataFrame) -> str:
    last = training.sort("step").row(-1, named=True)
    return f"{last['step']:,} steps, {last['tokens']:,} tokens; n = {last['active']:,} people told about at the end"
