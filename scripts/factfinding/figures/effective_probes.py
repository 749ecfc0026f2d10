"""P3.5: where in the effective model a probe reads the sport."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    DASHES,
    FOLDS,
    GREY,
    INK,
    MARKERS,
    legend_above,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)

PARTS = {
    "random": FOLDS["random"],
    "first_name": "no first part of a name in two folds",
    "last_name": "no last token in two folds",
}


@styled
def draw(*, effective_probes: pl.DataFrame) -> Figure:
    """Accuracy and loss, in the sum of the name's parts and after each lookup MLP."""
    if effective_probes.is_empty():
        return nothing_to_draw("no effective model, or too few names for a probe")
    layers = effective_probes["layer"].drop_nulls().unique().sort().to_list()
    figure = new_figure(3.7)
    left, right = figure.subplots(1, 2)
    handles = _lines(left, effective_probes, layers, "accuracy", 100)
    _lines(right, effective_probes, layers, "loss", 1)
    label = "always the commonest sport"
    rate = 100 * effective_probes["majority_rate"][0]
    handles[label] = left.axhline(rate, color=INK, linewidth=1, label=label)
    percent_axis(left, "accuracy, held out (% of athletes)")
    right.set_ylabel("loss, held out (nats)")
    right.set_ylim(bottom=0)
    n, length = effective_probes["n"].max(), effective_probes["n_name_tokens"][0]
    for axes in (left, right):
        _stages(axes, layers)
        panel_title(axes, f"names of {length} tokens", n)
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _lines(axes: Axes, table: pl.DataFrame, layers: list[int], column: str, unit: float) -> dict[str, object]:
    handles: dict[str, object] = {}
    for i, (folds, words) in enumerate(PARTS.items()):
        for labels in ("true", "shuffled"):
            rows = table.filter(folds=folds, labels=labels).sort("layer", nulls_last=False)
            if rows.is_empty():
                continue
            at = np.arange(rows.height)
            value, low, high = (unit * rows[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high"))
            true = labels == "true"
            label = f"probe, {words}" if true else f"shuffled labels, {words}"
            look = {
                "color": COLOURS[i] if true else GREY,
                "ls": DASHES[i],
                "marker": MARKERS[i] if true else "x",
            }
            (handles[label],) = axes.plot(at, value, markersize=4, label=label, **look)
            axes.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)
    return handles


def _stages(axes: Axes, layers: list[int]) -> None:
    """The sum of the parts, then the lookup MLPs by layer; not all of many are labelled."""
    step = 1 + len(layers) // 9
    shown = list(range(0, len(layers) + 1, step))
    axes.set_xticks(shown, ["sum" if i == 0 else str(layers[i - 1]) for i in shown])
    axes.set(xlabel="sum of the name's parts, then after MLP", xlim=(-0.4, len(layers) + 0.4))
