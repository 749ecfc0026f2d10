"""P2.11: are the directions that probes read the ones that the model reads?"""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    band,
    layer_axis,
    legend_above,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)

PATCHED = {
    "whole": "all of the residual stream",
    "logistic": "what the logistic probe reads",
    "head": "what the head probe reads",
    "logistic_complement": "all but what the logistic probe reads",
    "head_complement": "all but what the head probe reads",
    "random": "as many random dimensions",
}
ERASED = {"leace": "the sport erased (LEACE)", "random_erased": "as many random dimensions erased"}


@styled
def draw(*, probe_patching: pl.DataFrame) -> Figure:
    """Left, answers that follow the donor by what is replaced; right, recall that is left by what is erased."""
    if probe_patching.is_empty():
        return nothing_to_draw("too few known athletes to fit a probe")
    figure = new_figure(3.9)
    left, right = figure.subplots(1, 2, sharey=True)
    handles = _curves(left, probe_patching, PATCHED, "follows", 0)
    handles |= _curves(right, probe_patching, ERASED, "recalled", 1)
    label = "donors' commonest sport"
    rate = 100 * probe_patching["majority_rate"][0]
    handles[label] = left.axhline(rate, color=INK, linewidth=1, ls="--", label=label)
    panel_title(left, "replaced by a donor's", probe_patching["n"][0])
    panel_title(right, "erased", probe_patching["n"][0])
    percent_axis(left, "answers that follow the donor (%)")
    right.set(ylabel="athletes still recalled (%)")
    right.yaxis.set_tick_params(labelleft=True)
    for axes in (left, right):
        layer_axis(axes, probe_patching["layer"].unique().to_list())
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _curves(
    axes: Axes, table: pl.DataFrame, names: dict[str, str], measure: str, start: int
) -> dict[str, object]:
    handles: dict[str, object] = {}
    for number, (name, words) in enumerate(names.items(), start):
        rows = table.filter(change=name)
        if rows.height:
            colour = GREY if name.startswith("random") else COLOURS[number]
            look = {"color": colour, "ls": DASHES[number], "marker": MARKERS[number], "markersize": 3.5}
            handles[words] = band(axes, rows, "layer", measure, label=words, **look)
    return handles
