"""P1.3: whether the answer is an affine map of the name's representation."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import NOBODY, Row, Tables, at_layer, most, not_surely_better, percent, share

MAPS = {
    "faithful": "affine map: likeliest token",
    "faithful_answers": "affine map: among the <answers>",
    "probe": "probe fitted on the same <subjects>",
}
MOVES = {"follows": "moved by the map's inverse", "random": "moved as far at random"}


@style.styled
def draw_linear_relation(
    *, linear_relation: pl.DataFrame, layer_probes: pl.DataFrame, effective_model: pl.DataFrame
) -> Figure:
    """Left, answers under the map by layer, beside probes; right, answers that follow when the representation is moved."""
    if linear_relation.is_empty():
        return style.nothing_to_draw(
            "too few <subjects> are known to make a map of some and score it on others"
        )
    figure = style.new_figure(4.1)
    left, right = figure.subplots(1, 2, sharey=True)
    handles = _curves(left, linear_relation, MAPS)
    probed = _probes(layer_probes, linear_relation)
    if probed.height:
        label = f"probe fitted on {probed['n'].max():,} <subjects>"
        handles.append(
            style.band(
                left, probed, "layer", "accuracy", label=label, color=style.COLOURS[3], ls=style.DASHES[3]
            )
        )
    handles += _levels(left, linear_relation, effective_model)
    handles += _curves(right, linear_relation, MOVES)
    n = linear_relation["n"].max()
    style.panel_title(left, "answers that are the model's", n)
    style.panel_title(right, "answers that become the other's", n)
    style.percent_axis(left, "answers (% of <subjects>)")
    right.yaxis.set_tick_params(labelleft=True)
    for axes in (left, right):
        style.layer_axis(axes, linear_relation["layer"].to_list(), "layer (name read after it)")
    style.legend_above(figure, handles, columns=2)
    return figure


def _curves(axes: Axes, table: pl.DataFrame, names: dict[str, str]) -> list[Line2D]:
    found = []
    for number, (name, words) in enumerate(names.items()):
        rows = table.drop_nulls(name)
        if rows.height:
            colour = style.GREY if name == "random" else style.COLOURS[number if names is MAPS else 4]
            look = {"color": colour, "ls": style.DASHES[number], "marker": style.MARKERS[number]}
            found.append(style.band(axes, rows, "layer", name, label=words, **look))
    return found


def _levels(axes: Axes, table: pl.DataFrame, effective_model: pl.DataFrame) -> list[Line2D]:
    """Lines across: always the commonest answer, and the effective model where there is one."""
    look = {"linewidth": 1, "color": style.INK}
    majority = 100 * table["majority_rate"].max()
    found = [axes.axhline(majority, ls=":", label="always the commonest <answer>", **look)]
    for row in _effective(effective_model):
        label = "effective model (P2.9)"
        found.append(axes.axhline(100 * row["accuracy"], ls=style.DASHES[5], label=label, **look))
    return found


def _effective(effective_model: pl.DataFrame) -> list[Row]:
    """The effective model's row of most subjects; none where there is no such model."""
    rows = effective_model.filter(model="effective").sort("n", descending=True, maintain_order=True)
    return list(rows.head(1).iter_rows(named=True))


def _probes(layer_probes: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Probes (P2.6) of the residual stream, by layer, on random folds, or on the first kind of folds that there is."""
    rows = layer_probes.filter(input="resid", labels="true", condition="full")
    kinds = rows["folds"].unique(maintain_order=True).to_list()
    if not kinds:
        return rows
    kind = "random" if "random" in kinds else kinds[0]
    return rows.filter(pl.col("layer").is_between(table["layer"].min(), table["layer"].max()), folds=kind)


def sentences(tables: Tables) -> list[str]:
    """After which layer the map is the model most often, beside what it is compared with; then what its inverse moves."""
    table = tables["linear_relation"]
    if table.is_empty():
        return [NOBODY]
    best, *_ = leaders = most(table, "faithful_answers")
    beside = "" if best["probe"] is None else f"; {_probe(best)}"
    found = [
        (
            f"An affine map of the name's representation, made of {best['examples']} <subjects>, gives the model's <answer> "
            f"for {share(best, 'faithful_answers')} of {best['n']:,} others {at_layer(best['layer'])}"
            f"{not_surely_better(leaders)} (always the commonest: {percent(best['majority_rate'])}{beside}); of the "
            f"whole vocabulary, its likeliest token is the model's for {share(best, 'faithful')}."
        ),
        _by_layer(table),
    ]
    row, *_ = leaders = most(table, "follows")
    moved = "no sign that the model reads what the map reads" if row["over_random_low"] <= 0 else (
        "the model reads what the map reads"
    )  # fmt: skip
    found.append(
        f"Moved by the map's inverse ({row['rank']} {'direction' if row['rank'] == 1 else 'directions'}, "
        f"{percent(row['length'])} of the way to another <subject>'s representation) {at_layer(row['layer'])}"
        f"{not_surely_better(leaders)}, {share(row, 'follows')} of {row['n']:,} answers become the other's; moved as far at "
        f"random {share(row, 'random')}: {moved}."
    )
    return found + _beside(tables, best)


def _probe(row: Row) -> str:
    more, less = row["over_probe_low"] > 0, row["over_probe_high"] < 0
    verdict = "surely fewer" if more else "surely more" if less else "not surely fewer or more"
    return f"a probe fitted on the same {row['examples']}: {share(row, 'probe')}, {verdict}"


def _by_layer(table: pl.DataFrame) -> str:
    rows, probed = table.sort("layer"), table.sort("layer").drop_nulls("probe")
    layers = ", ".join(f"{layer}" for layer in rows["layer"])
    told = ", ".join(percent(value) for value in rows["faithful_answers"])
    beside = ""
    if probed.height == rows.height:
        beside = (
            f"; of the probe on the same <subjects>, {', '.join(percent(value) for value in probed['probe'])}"
        )
    return f"By layer ({layers}), {told} of the map's <answers> are the model's{beside}."


def _beside(tables: Tables, best: Row) -> list[str]:
    """What the effective model reaches, on its own subjects."""
    return [
        f"The effective model (P2.9), which begins with the tokens, is right for {share(row, 'accuracy')} of {row['n']:,} "
        f"names; the map begins with what the model has made of them {at_layer(best['layer'])}."
        for row in _effective(tables["effective_model"])
    ]
