"""Where the circuit's borders lie: right answers left as attention or MLPs at the final name token are averaged away."""

from __future__ import annotations

from functools import partial

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import NO_PROBE, Row, Tables, percent, share
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

PLACES = {
    "final_name": "The fact is looked up at the final name token",
    "end": "The fact is not looked up at the name: it cannot be read there, and an MLP at END carries it",
    "unclear": "Where the fact is looked up is not clear from these tables",
}
WORK = ("concatenate", "lookup", "extract")


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
                "color": (style.ORANGE, style.PURPLE, style.GREEN)[number],
                "ls": style.DASHES[1 + number],
                "marker": style.MARKERS[1 + number],
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
            markersize=3.5,
            linewidth=1,
            **style.look("logistic"),
        )
        style.shade_layers(axes, shaded[what])
        label = "always the commonest <answer>"
        handles[label] = axes.axhline(100 * rows["majority_rate"][0], label=label, **style.COMMONEST)
        style.panel_title(axes, f"{what} at the final name token", rows["n"][0])
        style.layer_axis(axes, circuit_scan["layer"].unique().sort().to_list(), "layer")
        _name_the_end(axes, circuit_scan["layer"].max())
        style.percent_axis(axes, "right answers (% of <subjects>)" if axes is panels[0] else "")
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _name_the_end(axes: Axes, last: int) -> None:
    """Behind the last layer there is none left to average: that place is no layer's."""
    ticks = [int(tick) for tick in axes.get_xticks()]
    apart = (ticks[1] - ticks[0]) / 2 if len(ticks) > 1 else 0
    kept = [tick for tick in ticks if tick < last - apart]
    axes.set_xticks([*kept, last], [*map(str, kept), "none"])


def sentences(tables: Tables) -> list[str]:
    """Which parts do what, how far their borders move with the <subjects>, and single layers that are surely missed."""
    circuit = Circuit.from_table(tables["circuit"])
    return [
        _circuit(circuit),
        *_borders(circuit.found, tables["circuit_borders"]),
        *_scan(tables["circuit_scan"]),
    ]


def _borders(found: Circuit, circuit_borders: pl.DataFrame) -> list[str]:
    """Of the parts that were found: where each border lies on resamples."""
    drawn = circuit_borders.filter(
        pl.col("part").is_in([part for part in ("concatenate", "lookup") if getattr(found, part) is not None])
    )
    if drawn.is_empty():
        return []
    rows = {(row["part"], row["end"]): row for row in drawn.iter_rows(named=True)}
    parts = [
        f"{words} from layer {_border(rows[part, 'first'])} to {_border(rows[part, 'last'])}"
        for part, words in (("concatenate", "attention gathers"), ("lookup", "MLPs look up"))
        if (part, "first") in rows
    ]
    return [
        (
            f"Drawn again on resamples of the <subjects> (n = {drawn['n'][0]:,}; in brackets, where 95 % of them have it), "
            f"{' and '.join(parts)}; the border that moves most stays in {percent(drawn['same'].min())} of the resamples."
        )
    ]


def _border(row: Row) -> str:
    """A border, and where it lies on resamples."""
    return f"{row['layer']} [{row['earliest']}, {row['latest']}]"


def _circuit(circuit: Circuit) -> str:
    """What the tables speak for; then what the configuration sets, and whether that is what was found."""
    found = circuit.found
    told = f"{'; '.join([PLACES[found.lookup_at], *filter(None, map(partial(_part, found), WORK))])}."
    fixed = [_set(circuit, found, part) for part in WORK if part in circuit.fixed]
    if not fixed:
        return told
    elsewhere = "lookup" in circuit.fixed and found.lookup_at != circuit.lookup_at
    at_name = " (at the final name token, which is not what the tables say)" if elsewhere else ""
    return f"{told} The configuration sets, and the experiments use{at_name}: {'; '.join(fixed)}."


def _set(circuit: Circuit, found: Circuit, part: str) -> str:
    """A part that is set, and what was found for it."""
    same = getattr(circuit, part) == getattr(found, part)
    beside = "as found" if same else f"found: {_part(found, part) or 'nothing'}"
    return f"{_part(circuit, part) or 'no head extracts'} ({beside})"


def _part(circuit: Circuit, part: str) -> str:
    """What a part of the circuit is; nothing where there is none."""
    if part == "concatenate":
        return _layers(circuit.concatenate, "attention {} gathers the name", "attention {} gather the name")
    if part == "lookup":
        return _layers(circuit.lookup, "MLP {} looks it up", "MLPs {} look it up")
    heads = circuit.extract
    return f"{', '.join(heads)} extract{'s' if len(heads) == 1 else ''}" if heads else ""


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
        of_one = scan == "mlp_alone" and circuit_scan.filter(scan="mlps_below")["layer"].min() == 1
        alone = {0: " (which reads one token, so that this is no test of a lookup)"} if of_one else {}
        lost = ", ".join(
            f"{share(row, 'accuracy')} of layer {row['layer']}{alone.get(row['layer'], '')}"
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
