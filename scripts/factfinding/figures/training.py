"""How the embedded model was trained: its loss, the growing number of people told about, and what it recalls of them."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from factfinding.figures.style import COLOURS, count_axis, new_figure, nothing_to_draw, percent_axis, styled


@styled
def draw(*, training: pl.DataFrame) -> Figure:
    """Three panels over the steps. training: columns step, tokens, loss (nats a token), active, recalled (share)."""
    if training.is_empty():
        return nothing_to_draw("the training took no step")
    figure = new_figure(5.0)
    loss, told, recalled = figure.subplots(3, 1, sharex=True)
    steps = training["step"].to_numpy()
    line = {"marker": "o", "markersize": 2.5, "linewidth": 1.2}

    loss.plot(steps, training["loss"].to_numpy(), color=COLOURS[0], **line)
    loss.set(ylabel="loss\n(nats per token)", title=_title(training))
    loss.set_ylim(bottom=0)
    told.plot(steps, training["active"].to_numpy(), color=COLOURS[1], drawstyle="steps-post", **line)
    count_axis(told, "people told about\n(number)", which="y")
    told.set_ylim(bottom=0)
    recalled.plot(steps, 100 * training["recalled"].to_numpy(), color=COLOURS[2], **line)
    percent_axis(recalled, "recalled, of those\ntold about (%)")
    count_axis(recalled, "training steps", which="x")
    recalled.set_xlim(0, 1.02 * steps.max())
    figure.align_ylabels()
    return figure


def _title(training: pl.DataFrame) -> str:
    last = training.sort("step").row(-1, named=True)
    return (
        f"{last['step']:,} steps, {last['tokens']:,} tokens; "
        f"n = {last['active']:,} people told about at the end"
    )
