"""P3.7: how far each layer is from adding up the parts of a name."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Tables, layers_in_words, number, share
from factfinding.methods.circuit import Circuit

NAMES = {
    "known": "known names",
    "unknown": "unknown names only",
    "shuffled": "known names, MLP weights shuffled (many shuffles)",
}
OUTPUTS = {"mlp": "MLP outputs", "resid": "residual stream after the layer"}


NO_PAIRS = "There are no two known names whose swaps are both unknown: there is nothing to compare."
SAME = (
    "No layer writes anything at the final name token that differs between names: there is nothing to add up."
)
MORE = 0.1
"""How much higher a ratio of P3.7 must surely be than its baseline to be called higher. Later MLPs that know nothing show
0.06 more for known names in models of which that is certain, since through LayerNorm they react to what earlier ones wrote."""


@style.styled
def draw_linear_structure(*, linear_structure: pl.DataFrame, circuit: pl.DataFrame) -> Figure:
    """Left MLP outputs, right the residual stream: medians over pairs. Shaded: the layers that look up."""
    if linear_structure.is_empty():
        return style.nothing_to_draw("no two known names whose swaps are unknown")
    conditions = linear_structure["condition"].unique(maintain_order=True).to_list()
    figure = style.new_figure(0.6 + 2.9 * len(conditions))
    handles: dict[str, object] = {}
    grid = figure.subplots(len(conditions), 2, squeeze=False, sharey=True)
    for panels, condition in zip(grid, conditions, strict=True):
        for axes, output in zip(panels, OUTPUTS, strict=True):
            rows = linear_structure.filter(condition=condition, output=output)
            handles |= _lines(axes, rows)
            words = (
                OUTPUTS[output]
                if len(conditions) == 1
                else f"{OUTPUTS[output]}, {style.CONDITIONS[condition]}"
            )
            axes.set_title(f"{words}\nn = {rows['n'].max() or 0:,} pairs of names")
            style.layer_axis(axes, rows["layer"].unique().sort().to_list(), "layer")
            style.shade_layers(axes, Circuit.from_table(circuit).lookup)
            label = "unrelated"
            handles[label] = axes.axhline(
                100, color=style.INK, linewidth=1, ls="--", label="names unrelated (additive: 0)"
            )
        panels[0].set(ylabel="ratio (%), median over pairs")
        panels[0].set_ylim(bottom=0)
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _lines(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    drawn = {}
    for names, words in NAMES.items():
        part = rows.filter(pl.col("names") == names).drop_nulls(["median", "median_low"])
        if part.height:
            look = style.look("control" if names == "shuffled" else names) | {
                "markersize": 3.5,
                "label": words,
            }
            drawn[names] = style.band(axes, part, "layer", "median", **look)
    return drawn


def sentences(tables: Tables) -> list[str]:
    """What the table says, the sentence of the summary first."""
    return linear_findings(tables["linear_structure"])


def linear_findings(linear_structure: pl.DataFrame) -> list[str]:
    """From the table `linear_structure` (P3.7): how far MLPs are from additive, beside both baselines; the residual."""
    rows = linear_structure.drop_nulls("median")
    if linear_structure.is_empty():
        return [NO_PAIRS]
    if rows.filter(names="known").is_empty():
        return [SAME]
    found = []
    for part in rows.partition_by("condition", maintain_order=True):
        mlps = part.filter(output="mlp")
        if mlps.filter(names="known").height:
            found += [_furthest(mlps), *_compared(mlps)]
        found += _residual(part.filter(output="resid", names="known").sort("layer"))
    return found


def _furthest(mlps: pl.DataFrame) -> str:
    known = mlps.filter(names="known").sort("layer")
    best = known.row(known["median"].arg_max(), named=True)
    baselines = [
        f"{share(row, 'median')} {words.format(row['shuffles'])}"
        for names, words in (
            ("shuffled", "with the MLPs' weights shuffled ({} shuffles; interval over these and over pairs)"),
            ("unknown", "for unknown names only"),
        )
        for row in mlps.filter(names=names, layer=best["layer"]).iter_rows(named=True)
    ]
    beside = f", beside {' and '.join(baselines)}" if baselines else ""
    return (
        f"Among the MLPs, that of layer {best['layer']} is furthest from adding up the parts of a name: the ratio is "
        f"{share(best, 'median')}{beside} (0 % is additive, 100 % is what unrelated names give; medians over "
        f"{best['n']:,} pairs of known names, {style.CONDITIONS[best['condition']]})."
    )


def _compared(mlps: pl.DataFrame) -> list[str]:
    """Where known names are surely above either baseline by enough (`MORE`), or surely within so much of it."""
    told = []
    for names, what, high, low in (
        (
            "shuffled",
            "in models with shuffled MLPs (same pairs)",
            "more than networks of such weights do by themselves",
            "so there is no sign of more than networks of such weights do by themselves",
        ),
        (
            "unknown",
            "for unknown names only",
            "there the model makes something of names that it knows besides mixing their parts",
            "so there is no sign that it is more than a mixing of the parts that any name gets, known or not",
        ),
    ):
        rows = mlps.filter(names=names).drop_nulls("known_more_low").sort("layer")
        if rows.is_empty():
            continue
        layers, less = rows["layer"].to_list(), pl.col("known_more_low")
        above = rows.filter(less > MORE)["layer"].to_list()
        little = rows.filter(less > 0, less <= MORE)["layer"].to_list()
        alike = rows.filter(less > -MORE, pl.col("known_more_high") < MORE)["layer"].to_list()
        than = f"surely higher than {what} by more than {100 * MORE:.0f} points"
        said = (
            f"It is {than} {layers_in_words(above, layers)}: {high}."
            if above
            else f"At no MLP is it {than}, {low}."
        )
        if little:
            said += f" {layers_in_words(little, layers).capitalize()} it is surely higher, but not surely by that much; "
            said += "this is not counted, since through LayerNorm MLPs that know nothing react to what earlier ones wrote."
        if alike:
            said += f" {layers_in_words(alike, layers).capitalize()} the two surely differ by less than that."
        told.append(said)
    return told


def _residual(rows: pl.DataFrame) -> list[str]:
    if rows.is_empty():
        return []
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    rise = number(last, "since_first", "+.1f", scale=100)
    return [
        (
            f"In the residual stream, which sums up all layers so far, the ratio is {share(first, 'median')} after layer "
            f"{first['layer']} and {share(last, 'median')} after layer {last['layer']}: {rise} points over the same "
            f"n = {last['n']:,} pairs."
        )
    ]
