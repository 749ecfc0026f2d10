"""How the embedded model was trained: its loss, the growing number of people told about, and what it recalls of them."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Tables, share

TOLD = {"active": "recalled", "described": "recalled_own"}
"""Columns of people told about, and of what is recalled of these: their answers; all facts of the described."""

WORDS = {"active": "the <answer> of each person", "described": "the other facts of the described people"}


@style.styled
def draw_training(*, training: pl.DataFrame) -> Figure:
    """Three panels over the steps.

    training: columns step, tokens, loss (nats a token), active and described (people), recalled and recalled_own
    (shares of a sample, with intervals) and how many were asked. If no one is described, as in the world of real subjects,
    that line is left out.
    """
    if training.is_empty():
        return style.nothing_to_draw("the training took no step")
    figure = style.new_figure(5.2)
    loss, told, recalled = figure.subplots(3, 1, sharex=True)
    steps = training["step"].to_numpy()
    loss.plot(steps, training["loss"].to_numpy(), color=style.INK, linewidth=1.3, marker="o", markersize=2.5)
    loss.set(ylabel="loss\n(nats per token)", title=_title(training))
    handles = []
    for index, (people, known) in enumerate(TOLD.items()):
        if training[people].max() > 0:
            look = {"color": style.COLOURS[index], "ls": style.DASHES[index], "linewidth": 1.3}
            told.plot(steps, training[people].to_numpy(), drawstyle="steps-mid", **look)
            look |= {"marker": "os"[index], "markersize": 2.5, "label": WORDS[people]}
            handles.append(style.band(recalled, training, "step", known, **look))
    for axes in (loss, told):
        axes.set_ylim(bottom=0)
    style.count_axis(told, "people told about\n(number)", which="y")
    style.percent_axis(recalled, "recalled, of a\nsample of these (%)")
    recalled.set_title(_asked(training))
    style.count_axis(recalled, "training steps", which="x")
    recalled.set_xlim(0, 1.02 * steps.max())
    figure.align_ylabels()
    style.legend_above(figure, handles, columns=2)
    return figure


def _title(training: pl.DataFrame) -> str:
    last = training.sort("step").row(-1, named=True)
    return f"{last['step']:,} steps, {last['tokens']:,} tokens; n = {last['active']:,} people told about at the end"


def _asked(training: pl.DataFrame) -> str:
    """How many are asked at the last look, of what the lines below are."""
    last = training.sort("step").row(-1, named=True)
    facts = f" and {last['asked_own']:,} facts" if last["asked_own"] else ""
    return f"n = {last['asked']:,} people{facts} asked at the last look; bands: 95 %"


def sentences(tables: Tables, *, fictional: bool) -> list[str]:
    """What the training took and what is recalled at its end. fictional: whether the people are those of a generated world."""
    training = tables["training"]
    if training.is_empty():
        return ["The training took no step."]
    last = training.sort("step").row(-1, named=True)
    found = [
        (
            f"After {last['step']:,} steps and {last['tokens']:,} tokens ({last['seconds'] / 60:.1f} minutes) the model had "
            f"been told about {last['active']:,} people; of {last['asked']:,} asked about at the last look it recalled "
            f"{share(last, 'recalled')}, at a loss of {last['loss']:.2f} nats per token."
        )
    ]
    if fictional:
        found.append("The people are fictional: their names and facts were drawn at random.")
    return found
