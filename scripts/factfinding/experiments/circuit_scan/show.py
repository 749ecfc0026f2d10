"""Where the circuit's borders lie: right answers left as attention or MLPs at the final name token are averaged away."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import NO_PROBE, Tables, percent, share
from factfinding.methods.circuit import Circuit

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


@style.styled
def draw_circuit_scan(*, circuit_scan: pl.DataFrame, circuit: pl.DataFrame) -> Figure:
    """Left attention, right MLPs: the model's right answers by layer; with them the probe of the unchanged model.

    Shaded: the layers that `circuit` has concatenate, or look up.
    """
    if circuit_scan.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    parts = Circuit.from_table(circuit)
    shaded = {"attention": parts.concatenate, "MLPs": parts.lookup}
    figure = style.new_figure(3.6)
    panels = figure.subplots(1, 2, sharey=True)
    looks = ["attention_from", "attention_alone", "mlps_below"]
    handles: dict[str, object] = {}
    for axes, (what, scans) in zip(panels, SCANS.items(), strict=True):
        for scan, words in scans.items():
            number = next(
                i for i, like in enumerate(looks) if SCANS["attention"].get(like) == words or like == scan
            )
            look = {
                "color": style.COLOURS[number],
                "ls": style.DASHES[number],
                "marker": style.MARKERS[number],
                "markersize": 3.5,
            }
            rows = circuit_scan.filter(pl.col("scan") == scan)
            handles[words] = style.band(axes, rows, "layer", "accuracy", label=words, **look)
        probe = circuit_scan.filter(scan="probe")
        label = f"probe of the unchanged model, n = {probe['n'][0]:,}"
        handles[label] = style.band(
            axes,
            probe,
            "layer",
            "accuracy",
            label=label,
            color=style.GREY,
            marker="x",
            markersize=3.5,
            linewidth=1,
        )
        style.shade_layers(axes, shaded[what])
        label = "always the commonest <answer>"
        handles[label] = axes.axhline(
            100 * rows["majority_rate"][0], color=style.INK, linewidth=1, ls="--", label=label
        )
        style.panel_title(axes, f"{what} at the final name token", rows["n"][0])
        style.layer_axis(axes, circuit_scan["layer"].unique().sort().to_list(), "layer")
        style.percent_axis(axes, "right answers (% of <subjects>)" if axes is panels[0] else "")
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def sentences(tables: Tables) -> list[str]:
    """Which parts do what, and single layers that are surely missed."""
    return [_circuit(Circuit.from_table(tables["circuit"])), *_scan(tables["circuit_scan"])]


def _circuit(circuit: Circuit) -> str:
    place = {
        "final_name": "The fact is looked up at the final name token",
        "end": "The fact is not looked up at the name: it cannot be read there, and an MLP at END carries it",
        "unclear": "Where the fact is looked up is not clear from these tables",
    }[circuit.lookup_at]
    told = [
        _layers(circuit.concatenate, "attention {} gathers the name", "attention {} gather the name"),
        _layers(circuit.lookup, "MLP {} looks it up", "MLPs {} look it up"),
        f"{', '.join(circuit.extract)} extract{'s' if len(circuit.extract) == 1 else ''}"
        if circuit.extract
        else "",
    ]
    by = f" (set by the configuration: {', '.join(circuit.fixed)})" if circuit.fixed else ""
    return f"{'; '.join([place, *filter(None, told)])}{by}."


def _layers(layers: tuple[int, int] | None, one: str, several: str) -> str:
    """What one layer, or several, do; nothing where there are none."""
    if layers is None:
        return ""
    first, last = layers
    return one.format(first) if first == last else several.format(f"{first} to {last}")


def _scan(circuit_scan: pl.DataFrame) -> list[str]:
    if circuit_scan.is_empty():
        return [NO_PROBE]
    clean = circuit_scan.filter(scan="attention_from").sort("layer").row(-1, named=True)
    if clean["accuracy_low"] <= clean["majority_rate"]:
        return [
            (
                f"With nothing ablated {share(clean, 'accuracy')} of {clean['n']:,} answers are right, not above always "
                f"naming the commonest <answer> ({percent(clean['majority_rate'])}): there is nothing to lose."
            )
        ]
    found = []
    for scan, words in (("attention_alone", "attention"), ("mlp_alone", "the MLP")):
        rows = circuit_scan.filter(pl.col("scan") == scan, pl.col("change_high") < 0)
        lost = ", ".join(
            f"{share(row, 'accuracy')} of layer {row['layer']}"
            for row in rows.sort("layer").iter_rows(named=True)
        )
        said = (
            f"surely fewer answers stay right without that {lost}"
            if lost
            else "no single layer is surely needed"
        )
        found.append(
            f"With {words} of one layer averaged at the final name token, {said} (unchanged: "
            f"{percent(clean['accuracy'])}; commonest <answer> {percent(clean['majority_rate'])}; n = {clean['n']:,})."
        )
    return found
