"""P2.10: the final name token after different contexts, beside the question after one example."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from factfinding.figures.style import (
    GREY,
    INK,
    band,
    layer_axis,
    legend_above,
    marks,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)

CONTEXTS = {
    "none": "the name alone",
    "title": "“Mr”",
    "question": "“Fact:”",
    "shot": "the example line",
    "sentence": "a sentence",
}


@styled
def draw(*, context: pl.DataFrame) -> Figure:
    """Left, cosine to the residual after the example and “Fact:”; right, what probes of that one get right."""
    if context.is_empty():
        return nothing_to_draw("too few known athletes to fit a probe")
    figure = new_figure(3.5)
    left, right = figure.subplots(1, 2)
    handles: dict[str, object] = {}
    for name, (colour, dash, marker) in marks(list(CONTEXTS)).items():
        rows = context.filter(context=name)
        look = {"color": colour, "ls": dash, "marker": marker, "markersize": 3.5, "label": CONTEXTS[name]}
        handles[name] = band(left, rows, "layer", "cosine", **look)
        band(right, rows, "layer", "accuracy", **look)
    label = "cosine to another athlete"
    rows = context.filter(context="none")
    handles[label] = band(left, rows, "layer", "cosine_other", color=GREY, label=label, linewidth=1)
    label = "always the commonest sport"
    handles[label] = right.axhline(
        100 * rows["majority_rate"][0], color=INK, linewidth=1, ls="--", label=label
    )
    for axes, words in ((left, "cosine to “full”, centred"), (right, "accuracy of probes of “full”")):
        panel_title(axes, words, rows["n"][0])
        layer_axis(axes, rows["layer"].to_list())
    left.set(ylabel="cosine (1: the same direction)")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 100:g}"))
    percent_axis(right, "accuracy (% of athletes)")
    legend_above(figure, list(handles.values()), columns=3)
    return figure
