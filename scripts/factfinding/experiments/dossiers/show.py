"""P3.4: the weights of the neurons that tell an answer, beside one another and beside the answer's direction."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.experiments.answer_neurons.show import NO_NEURON, auc_in_words, shown
from factfinding.experiments.dossiers.removed import WITH_HEAD, WITH_PROBE
from factfinding.figures import style
from factfinding.findings.words import Row, Tables, number, share

HALF, CHANCE = 0.5, 0.5
"""Of what a neuron tells, what it must keep to be more than the directions; an AUC that tells nothing."""
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
    first = pl.col("head_rank").is_null() | (pl.col("head_rank") == 1)
    cosines = answer_neuron_cosines.filter(first).with_columns(
        pl.format("{} and\n{}", "first", _through("second")).str.replace_all(" weights", "").alias("what")
    )
    projections = answer_neuron_projections.filter(first | (pl.col("removed") == WITH_HEAD)).with_columns(
        _through("removed").alias("what")
    )
    lines = 0.11 * neurons.height + 0.12
    heights = [0.8 + max(lines, 0.36) * table["what"].n_unique() for table in (cosines, projections)]
    figure = style.new_figure(0.7 + sum(heights))
    above, below = figure.subplots(2, 1, height_ratios=heights)
    handles = _cosines(above, cosines, neurons)
    _aucs(below, projections, neurons)
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _through(name: str) -> pl.Expr:
    """What is named in a column, with the head through which it goes, where it does."""
    return pl.when(pl.col("head").is_null()).then(name).otherwise(pl.format("{} ({})", name, "head"))


def _looks(neurons: pl.DataFrame) -> dict:
    return style.marks(list(neurons.iter_rows()))


def _places(axes: Axes, table: pl.DataFrame, neurons: pl.DataFrame) -> list[tuple[dict, float, tuple]]:
    """Each row of the table with its height and look; labels the rows."""
    what = table["what"].unique(maintain_order=True).to_list()
    looks = _looks(neurons)
    step = SPREAD / neurons.height
    places = []
    for place, who in enumerate(neurons.iter_rows()):
        mine = table.filter(neuron=who[0], answer=who[1], chosen_by=who[2])
        shift = (place - (neurons.height - 1) / 2) * step
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
    axes.set(xlabel="AUC for its <answer> (0.5: chance)")
    axes.set_ylabel("projected out of the input (directions)")
    axes.set_title(f"<subjects> it was not chosen on, n = {table['n'].max():,} <subjects>")


def sentences(tables: Tables) -> list[str]:
    """What the tables say, the sentence of the summary first."""
    return [
        *projection_findings(tables["answer_neuron_projections"]),
        *cosine_findings(tables["answer_neuron_cosines"]),
    ]


def projection_findings(projections: pl.DataFrame) -> list[str]:
    """From the table `answer_neuron_projections`: what is left without the study's directions, and without others."""
    found = []
    for who in projections.select("neuron", "answer", "chosen_by").unique(maintain_order=True).head(4).rows():
        mine = projections.filter(neuron=who[0], answer=who[1], chosen_by=who[2])
        found.append(_left_of(list(mine.iter_rows(named=True))))
    return found or [NO_NEURON]


def _left_of(rows: list[Row]) -> str:
    """One neuron without the study's three directions, without a probe's as well, and with another head that reads."""
    whole = next(row for row in rows if row["removed"] == "nothing")
    random = next(row for row in rows if row["removed"] == "random directions")
    with_head = [row for row in rows if row["removed"] == WITH_HEAD]
    told = (
        f"{whole['neuron']} tells {whole['answer']} with an AUC of {auc_in_words(whole)}, before its activation function "
        f"with one of {number(whole, 'auc_pre', '.2f')} (n = {whole['n']:,} <subjects> that it was not chosen on; chance 0.5)"
    )
    if not with_head:
        return f"{told}; no head extracts, so the study's three directions cannot be projected out."
    first, *others = with_head
    said = (
        f"{told}. With the study's three directions projected out of its input weights (its output weights, and what "
        f"{first['head']} reads for the <answer>'s logit and for that logit's difference to the other <answers>') the AUC is "
        f"{auc_in_words(first)} (with as many random ones {auc_in_words(random)}): {_meaning(first)}."
    )
    said += "".join(
        f" With {row['head']} in place of {first['head']} it is {auc_in_words(row)}, which {_depends(row)}."
        for row in others
    )
    probed = next((row for row in rows if row["removed"] == WITH_PROBE), None)
    if probed is not None:
        said += (
            f" With the direction of a fitted probe projected out as well, which the study does not do, it is "
            f"{auc_in_words(probed)}."
        )
    return said


def _meaning(row: Row) -> str:
    """What the part of the AUC above chance that is kept says."""
    if row["kept"] is None:
        return "it does not surely tell the <answer> to begin with, so nothing follows"
    kept = f"it keeps {share(row, 'kept')} of what lies above chance"
    if row["kept_low"] is None:
        return kept
    if row["kept_low"] > HALF:
        return f"{kept}, so it is more than these directions"
    if row["kept_high"] < HALF:
        return (
            f"{kept}, so it is little but these directions"
            if row["auc_low"] <= CHANCE
            else f"{kept}, less than half"
        )
    return f"{kept}, which does not decide whether it is more than these directions"


def _depends(row: Row) -> str:
    """Whether the AUC is another one where another head reads."""
    change = number(row, "from_first_head", "+.3f")
    low, high = row["from_first_head_low"], row["from_first_head_high"]
    if low is None or low <= 0 <= high:
        return f"shows no difference ({change}, paired)"
    return f"is {'more' if low > 0 else 'less'} ({change}, paired): how much is left depends on the head that reads"


def _named(row: Row) -> str:
    return row["second"] if row["head"] is None else f"{row['second']} of {row['head']}"


def cosine_findings(cosines: pl.DataFrame) -> list[str]:
    """From the table `answer_neuron_cosines`: which cosines lie outside those of most neurons of the layer."""
    if cosines.is_empty():
        return []
    outside = cosines.filter(
        (pl.col("cosine") < pl.col("layer_low")) | (pl.col("cosine") > pl.col("layer_high"))
    )
    named = "; ".join(
        f"{row['neuron']} for {row['answer']}, {row['first']} with {_named(row)}: {row['cosine']:+.2f} "
        f"[{row['layer_low']:+.2f}, {row['layer_high']:+.2f}]"
        for row in outside.head(4).iter_rows(named=True)
    )
    told = (
        f"{outside.height} of the {cosines.height} cosines of these neurons lie outside the range of 95 % of the "
        f"{cosines['neurons'].max():,} neurons of their layer"
    )
    return [f"{told}{f', among them (range in brackets) {named}' if named else ''}."]
