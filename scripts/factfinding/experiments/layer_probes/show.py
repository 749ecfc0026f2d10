"""P2.6: at which layer a linear probe reads the answer at the final name token, beside what the name alone gives."""

from __future__ import annotations

from math import ceil

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import (
    READ_WELL,
    Tables,
    at_layer,
    best_layer,
    either,
    layers_in_words,
    percent,
    share,
)
from factfinding.least import FITS_ANYTHING

BASELINES = {
    ("name_string", "held out"): ("the name's letters, held out", style.COLOURS[3], (0, (6, 2))),
    ("name_tokens", "held out"): ("sum over the name's tokens, held out", style.COLOURS[4], (0, (3, 1.5))),
    ("name_tokens", "none"): ("the same, fitted and scored on all", style.COLOURS[4], (0, (1, 1))),
}

ADDITIVE_ENOUGH = 0.95


@style.styled
def draw_layer_probes(*, layer_probes: pl.DataFrame) -> Figure:
    """One panel per condition. layer_probes: the table of that name (docs/tables.md).

    Of the baselines without a model, held out, the best over the kinds of folds is drawn: the hardest to beat.
    """
    probes = layer_probes.filter(pl.col("input") == "resid")
    if probes.is_empty():
        return style.nothing_to_draw("no layer was probed")
    conditions = probes["condition"].unique(maintain_order=True).to_list()
    columns = min(2, len(conditions))
    rows = ceil(len(conditions) / columns)
    figure = style.new_figure(1.5 + 2.7 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes in panels[len(conditions) :]:
        axes.remove()
    handles: dict[str, object] = {}
    for axes, condition in zip(panels, conditions, strict=False):
        part = probes.filter(pl.col("condition") == condition)
        handles |= _lines(axes, part) | _levels(axes, layer_probes, part["majority_rate"][0])
        style.panel_title(axes, style.CONDITIONS.get(condition, condition), part["n"].max())
        style.layer_axis(axes, part["layer"].unique().sort().to_list())
        style.percent_axis(axes, "accuracy (% of <subjects>)" if axes is panels[0] else "")
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _lines(axes: Axes, part: pl.DataFrame) -> dict[str, object]:
    """The probes by kind of folds and the control of the strictest kind that has one; handles by label."""
    handles: dict[str, object] = {}
    for folds, label in style.FOLDS.items():
        rows = part.filter((pl.col("folds") == folds) & (pl.col("labels") == "true"))
        if rows.height:
            label = f"probe, {label}"
            look = style.look(folds) | {"markersize": 3.5, "label": label}
            handles[label] = style.band(axes, rows, "layer", "accuracy", **look)
    controlled = part.filter(pl.col("labels") == "shuffled")
    strictest = [folds for folds in style.FOLDS if folds in controlled["folds"]]
    if strictest:
        rows, label = (
            controlled.filter(pl.col("folds") == strictest[-1]),
            f"shuffled labels, {style.FOLDS[strictest[-1]]}",
        )
        look = style.look("control") | {"markersize": 3.5, "linewidth": 1, "label": label}
        handles[label] = style.band(axes, rows, "layer", "accuracy", **look)
    return handles


def _levels(axes: Axes, table: pl.DataFrame, majority: float) -> dict[str, object]:
    """Horizontal lines: the majority rate and what the name gives away without a model; handles by label."""
    label = "always the commonest <answer>"
    handles = {label: axes.axhline(100 * majority, label=label, **style.COMMONEST)}
    for (source, kind), (label, colour, dash) in BASELINES.items():
        fitted = pl.col("folds") == "none"
        rows = table.filter(
            (pl.col("input") == source)
            & (pl.col("labels") == "true")
            & (fitted if kind == "none" else ~fitted)
        )
        if rows.height:
            handles[label] = axes.axhline(
                100 * rows["accuracy"].max(), color=colour, ls=dash, linewidth=1.6, label=label
            )
    return handles


def sentences(tables: Tables) -> list[str]:
    """Where the answer can be read, then what the name alone gives away."""
    layer_probes = tables["layer_probes"]
    probes = layer_probes.filter(input="resid", labels="true")
    if probes.is_empty():
        return ["No layer was probed."]
    folds = [kind for kind in style.FOLDS if kind in probes["folds"]][-1]
    strict = probes.filter(folds=folds).partition_by("condition", maintain_order=True)
    readable = [_readable(layer_probes, rows) for rows in strict]
    return readable + additive_findings(layer_probes) + _above_additive(layer_probes, strict[0])


def additive_findings(layer_probes: pl.DataFrame) -> list[str]:
    """What a sum of one term per name token can do: from the rows with folds "none" of the table `layer_probes`."""
    fitted = layer_probes.filter(input="name_tokens", folds="none")
    if fitted.is_empty():
        return []
    true = fitted.filter(labels="true").row(0, named=True)
    shuffled = fitted.filter(labels="shuffled")
    if _fits_anything(fitted):
        return [
            (
                f"A sum of one term per name token can be fitted to any <answers> of these {true['n']:,} <subjects>: to their own "
                f"it gives {share(true, 'accuracy')}, to shuffled ones {share(shuffled.row(0, named=True), 'accuracy')}, since "
                "the names have about as many tokens as there are <subjects>. It could not have come out lower, so it says nothing "
                "here; the baselines that are held out do."
            )
        ]
    told = (
        f"A sum of one term per name token, with no model, fitted to all {true['n']:,} <subjects> and scored on the same "
        f"ones, gives the right <answer> for {share(true, 'accuracy')}"
    )
    if true["accuracy"] >= ADDITIVE_ENOUGH:
        told += (
            f", which is {100 * ADDITIVE_ENOUGH:.0f} % or more: on these names recall alone does not show that the "
            "tokens of a name are looked up together."
        )
    else:
        told += f": adding up its tokens is not enough for the other {percent(1 - true['accuracy'])}."
    if shuffled.height:
        row = shuffled.row(0, named=True)
        told += f" Fitted to shuffled <answers> the same sum reaches {share(row, 'accuracy')}: that much is mere capacity."
    return [told]


def _fits_anything(fitted: pl.DataFrame) -> bool:
    """Whether a sum over tokens reaches shuffled answers as well: it cannot then be below what the probes reach."""
    return any(fitted.filter(labels="shuffled")["accuracy"] >= FITS_ANYTHING)


def _above_additive(layer_probes: pl.DataFrame, probes: pl.DataFrame) -> list[str]:
    """The layers at which a probe that has not seen the subjects beats the sum over tokens that has."""
    fitted = layer_probes.filter(input="name_tokens", folds="none")
    if fitted.is_empty() or _fits_anything(fitted):
        return []
    rows = probes.sort("layer")
    above = rows.filter(pl.col("over_fitted_low") > 0)
    where = style.CONDITIONS.get(rows["condition"][0], rows["condition"][0])
    if above.is_empty():
        beside = f"{where}; at best {best_layer(rows)}"
        return [f"At no layer is the held-out probe above that fitted sum ({beside})."]
    first, layers = (
        above.row(0, named=True),
        layers_in_words(above["layer"].to_list(), rows["layer"].to_list()),
    )
    beside = f"{where}; {share(first, 'accuracy')} {at_layer(first['layer'])}"
    return [
        f"The held-out probe is above that fitted sum {layers} ({beside}): there the name's tokens are combined."
    ]


def _readable(table: pl.DataFrame, probes: pl.DataFrame) -> str:
    """One condition and one kind of folds: the layers at which the probe is above everything beside it."""
    condition, folds = probes["condition"][0], probes["folds"][0]
    rivals = table.filter(pl.col("input").is_in(["name_string", "name_tokens"]), labels="true", folds=folds)
    shuffled = table.filter(input="resid", labels="shuffled", condition=condition, folds=folds)
    majority = probes["majority_rate"][0]
    rows = list(probes.sort("layer").iter_rows(named=True))
    paired = ["over_name_low"] * bool(rivals.height) + ["selectivity_low"] * bool(shuffled.height)
    above = [
        row for row in rows if row["accuracy_low"] > majority and all((row[name] or 0) > 0 for name in paired)
    ]
    beside = ["by naming the commonest <answer>"]
    beside += ["from the name without a model"] * bool(rivals.height) + ["from shuffled labels"] * bool(
        shuffled.height
    )
    setting = f"{style.CONDITIONS.get(condition, condition)}; n = {rows[0]['n']:,}, {style.FOLDS[folds]}"
    baselines = f"commonest <answer> {percent(majority)}" + "".join(
        f", {'letters' if row['input'] == 'name_string' else 'tokens'} of the name {percent(row['accuracy'])}"
        for row in rivals.iter_rows(named=True)
    )
    if not above:
        return (
            f"At no layer can the <answer> be read at the final name token better than {either(beside)} ({setting}): "
            f"the best is {best_layer(probes)}; {baselines}. There is nothing to see."
        )
    probed = [row["layer"] for row in rows]
    better = f"{layers_in_words([row['layer'] for row in above], probed)} ({share(above[0], 'accuracy')} {at_layer(above[0]['layer'])})"
    surely = [row for row in above if row["accuracy_low"] >= READ_WELL]
    ends = f"better than {either(beside)} {better}; at best {best_layer(probes)}; {baselines}."
    if not surely:
        return (
            f"The <answer> can be read at the final name token in part: at no layer surely for {100 * READ_WELL:.0f} % of "
            f"the <subjects> or more ({setting}), yet {ends}"
        )
    return (
        f"The <answer> can be read at the final name token {layers_in_words([row['layer'] for row in surely], probed)}, surely "
        f"for {100 * READ_WELL:.0f} % of the <subjects> or more ({setting}): {share(surely[0], 'accuracy')} "
        f"{at_layer(surely[0]['layer'])}. It is read {ends}"
    )
