"""Where the circuit's borders lie: right answers left as attention or MLPs at the final name token are averaged away."""

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

SCANS = {
    "attention": {
        "attention_from": "this layer's and all above averaged",
        "attention_alone": "this layer's alone averaged",
    },
    "MLPs": {
        "mlps_from": "this layer's and all above averaged",
        "mlp_alone": "this layer's alone averaged",
        "mlps_below": "all below this layer averaged",
    },
}

PARTS = {"attention": "concatenate", "MLPs": "lookup"}


@styled
def draw(*, circuit_scan: pl.DataFrame, circuit: pl.DataFrame) -> Figure:
    """Left attention, right MLPs: the model's right answers by layer; with them the probe of the unchanged model.

    Shaded: the layers that `circuit` has concatenate, or look up.
    """
    if circuit_scan.is_empty():
        return nothing_to_draw("too few known athletes to fit a probe")
    figure = new_figure(3.6)
    panels = figure.subplots(1, 2, sharey=True)
    looks = ["attention_from", "attention_alone", "mlps_below"]
    handles: dict[str, object] = {}
    for axes, (what, scans) in zip(panels, SCANS.items(), strict=True):
        for scan, words in scans.items():
            number = next(
                i for i, like in enumerate(looks) if SCANS["attention"].get(like) == words or like == scan
            )
            look = {
                "color": COLOURS[number],
                "ls": DASHES[number],
                "marker": MARKERS[number],
                "markersize": 3.5,
            }
            rows = circuit_scan.filter(pl.col("scan") == scan)
            handles[words] = band(axes, rows, "layer", "accuracy", label=words, **look)
        probe = circuit_scan.filter(scan="probe")
        label = f"probe of the unchanged model, n = {probe['n'][0]:,}"
        handles[label] = band(
            axes, probe, "layer", "accuracy", label=label, color=GREY, marker="x", markersize=3.5, linewidth=1
        )
        shade_layers(axes, circuit, PARTS[what])
        label = "always the commonest sport"
        handles[label] = axes.axhline(
            100 * rows["majority_rate"][0], color=INK, linewidth=1, ls="--", label=label
        )
        panel_title(axes, f"{what} at the final name token", rows["n"][0])
        layer_axis(axes, circuit_scan["layer"].unique().sort().to_list(), "layer")
        percent_axis(axes, "right answers (% of athletes)" if axes is panels[0] else "")
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def shade_layers(axes: Axes, circuit: pl.DataFrame, part: str) -> None:
    """Grey behind the layers of a part of the circuit, if it has some."""
    if (span := layers_of(circuit, part)) is not None:
        axes.axvspan(span[0] - 0.5, span[1] + 0.5, color=GREY, alpha=0.15, linewidth=0)


def layers_of(circuit: pl.DataFrame, part: str) -> tuple[int, int] | None:
    """First and last layer of a part in the table `circuit`; None where it has none."""
    used = circuit.filter(pl.col("part") == part)["used"][0]
    if used is None:
        return None
    layers = [int(layer) for layer in str(used).split("-")]  # one layer alone is read from CSV as a number
    return layers[0], layers[-1]
