"""P3.4: the weights of the neurons that tell an answer, beside one another and beside the answer's direction."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.experiments.answer_neurons.show import NO_NEURON, auc_in_words, shown
from factfinding.figures import style
from factfinding.findings.words import Tables

SPREAD = 0.7
"""Of the distance between two rows, what the neurons of one row take."""


@style.styled
def draw_dossier(*, answer_neuron_cosines: pl.DataFrame, answer_neuron_projections: pl.DataFrame) -> Figure:
    """Above, cosines of the neurons' weights over the range of their layer; below, AUC with directions projected out.

    Frames: the tables of these names.
    """
    neurons = shown(answer_neuron_projections)
    if neurons.is_empty():
        return style.nothing_to_draw(
            "no lookup was found, or too few <subjects> are known to choose a neuron"
        )
    cosines = answer_neuron_cosines.with_columns(
        pl.format("{} and\n{}", "first", "second").str.replace_all(" weights", "").alias("what")
    )
    projections = answer_neuron_projections.with_columns(pl.col("removed").alias("what"))
    lines = 0.11 * neurons.height + 0.12
    heights = [0.8 + max(lines, 0.36) * table["what"].n_unique() for table in (cosines, projections)]
    figure = style.new_figure(0.7 + sum(heights))
    above, below = figure.subplots(2, 1, height_ratios=heights)
    handles = _cosines(above, cosines, neurons)
    _aucs(below, projections, neurons)
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _looks(neurons: pl.DataFrame) -> dict:
    return style.marks(list(neurons.iter_rows()))


def _places(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> list[tuple[dict, float, tuple]]:
    """Each row of the table with its height and look; labels the rows."""
    what = table["what"].unique(maintain_order=True).to_list()
    looks = _looks(neurons)
    step = SPREAD / neurons.height
    places = []
    for number, who in enumerate(neurons.iter_rows()):
        mine = table.filter(neuron=who[0], answer=who[1], chosen_by=who[2])
        shift = (number - (neurons.height - 1) / 2) * step
        places += [(row, what.index(row["what"]) + shift, looks[who]) for row in mine.iter_rows(named=True)]
    axes.set_yticks(range(len(what)), what)
    axes.set_ylim(len(what) - 0.5, -0.5)
    return places


def _cosines(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> dict[str, object]:
    handles: dict[str, object] = {}
    for row, y, (colour, _, marker) in _places(axes, table, neurons):
        label = f"{row['neuron']}, for {row['answer']}"
        span = [row["layer_low"], row["layer_high"]]
        (handles["layer"],) = axes.plot(
            span, [y, y], color=style.LINE, linewidth=4, label="95 % of its layer", zorder=1
        )
        look = {"ls": "", "marker": marker, "color": colour, "label": label, "zorder": 3}
        (handles[label],) = axes.plot([row["cosine"]], [y], **look)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    axes.set(xlabel="cosine", ylabel="directions (of a neuron)")
    axes.set_title(f"weights, against n = {table['neurons'].max():,} neurons of a layer")
    return handles


def _aucs(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> None:
    for row, y, (colour, _, marker) in _places(axes, table, neurons):
        low, high = (row["auc"] if row[end] is None else row[end] for end in ("auc_low", "auc_high"))
        axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
        axes.plot([row["auc"]], [y], ls="", marker=marker, color=colour)
    axes.axvline(0.5, color=style.INK, linewidth=1)
    axes.set(xlabel="AUC for its <answer>, before the activation function (0.5: chance)")
    axes.set_ylabel("projected out of the input (directions)")
    axes.set_title(f"<subjects> it was not chosen on, n = {table['n'].max():,} <subjects>")


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return [
        *projection_findings(tables["answer_neuron_projections"]),
        *cosine_findings(tables["answer_neuron_cosines"]),
    ]


def projection_findings(projections: pl.DataFrame) -> list[str]:
    """From the table `answer_neuron_projections`: what is left without the directions of the answer."""
    found = []
    for who in projections.select("neuron", "answer", "chosen_by").unique(maintain_order=True).head(4).rows():
        mine = projections.filter(neuron=who[0], answer=who[1], chosen_by=who[2])
        rows = {row["removed"]: row for row in mine.iter_rows(named=True)}
        last = next(row for name, row in reversed(rows.items()) if name != "random directions")
        whole, random = rows["nothing"], rows["random directions"]
        left = last["auc_low"] is not None and last["auc_low"] > 0.5
        meaning = "what is left it reads elsewhere" if left else "nothing is left for sure"
        found.append(
            f"With {last['removed']} projected out of its input weights ({last['dimensions']} dimensions), the AUC of "
            f"{whole['neuron']} for {whole['answer']} before its activation function goes from {auc_in_words(whole)} to {auc_in_words(last)} "
            f"(n = {whole['n']:,}; chance 0.5; as many random directions: {auc_in_words(random)}): {meaning}."
        )
    return found or [NO_NEURON]


def cosine_findings(cosines: pl.DataFrame) -> list[str]:
    """From the table `answer_neuron_cosines`: which cosines lie outside those of most neurons of the layer."""
    if cosines.is_empty():
        return []
    outside = cosines.filter(
        (pl.col("cosine") < pl.col("layer_low")) | (pl.col("cosine") > pl.col("layer_high"))
    )
    named = "; ".join(
        f"{row['neuron']} for {row['answer']}, {row['first']} with {row['second']}: {row['cosine']:+.2f} "
        f"[{row['layer_low']:+.2f}, {row['layer_high']:+.2f}]"
        for row in outside.head(4).iter_rows(named=True)
    )
    told = f"{outside.height} of {cosines.height} cosines lie outside the range of 95 % of the neurons of the layer"
    return [f"{told}{f', among them (range in brackets) {named}' if named else ''}."]
