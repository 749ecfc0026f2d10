"""P3.9: whether one neuron holds a subject."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, all_of, logits, percent, share

CHOICES = {
    "specificity": ("most specific neurons", "random ones, as long"),
    "gradient": ("largest effects to first order", "random ones, as long as these"),
}
"""How neurons are chosen, and the random ones beside them."""
WORDS = {
    "erase": ("set to their mean", "<answers> lost (%)"),
    "inject": ("put into another's run", "<answers> brought up (%)"),
}
DONE = {
    "erase": (
        "One neuron of the lookup at its mean loses the <answer>",
        "{n:,} neurons of the lookup at their mean lose the <answer>",
    ),
    "inject": (
        "In another's run, one neuron of the lookup at the <subject>'s value brings up the <subject>'s <answer>",
        "In another's run, {n:,} neurons of the lookup at the <subject>'s values bring up the <subject>'s <answer>",
    ),
}
"""What is said of one neuron, and of several."""
NOWHERE = "No lookup at the final name token was found, or too few <subjects> are known: there are no neurons to look at."


@style.styled
def draw_entity_cells(*, entity_cells: pl.DataFrame) -> Figure:
    """Left, answers lost; right, answers brought into another's run; by how many neurons are replaced together."""
    if entity_cells.is_empty():
        return style.nothing_to_draw("no lookup at the final name token, or too few known <subjects>")
    figure = style.new_figure(3.7)
    handles: dict[str, Line2D] = {}
    for axes, (change, (words, label)) in zip(figure.subplots(1, 2), WORDS.items(), strict=True):
        rows = entity_cells.filter(change=change)
        handles |= _curves(axes, rows)
        style.panel_title(axes, words, rows["n"].max())
        style.percent_axis(axes, label)
    style.legend_above(figure, list(handles.values()), columns=2)
    return figure


def _curves(axes: Axes, rows: pl.DataFrame) -> dict[str, Line2D]:
    found: dict[str, Line2D] = {}
    for number, (how, (words, others)) in enumerate(CHOICES.items()):
        part = rows.filter(chosen_by=how)
        look = {"ls": style.DASHES[number], "marker": style.MARKERS[number]}
        found[words] = style.band(
            axes, part, "neurons", "does", label=words, color=style.COLOURS[number], **look
        )
        found[others] = style.band(axes, part, "neurons", "random", label=others, color=style.GREY, **look)
    for possible in rows.filter(chosen_by="all")["does"]:
        label = "all neurons of the lookup"
        found[label] = axes.axhline(100 * possible, color=style.INK, linewidth=1, ls=":", label=label)
    sizes = rows.filter(pl.col("chosen_by") != "all")["neurons"].unique().sort().to_list()
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="neurons replaced together", xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
    return found


def sentences(tables: Tables) -> list[str]:
    """Whether one neuron does it, beside random ones and all; then several together, and whose neuron it is."""
    table = tables["entity_cells"]
    if table.is_empty():
        return [NOWHERE]
    found = [_one(table, change) for change in WORDS]
    several = [_several(table, change) for change in WORDS]
    return [*found, *(one for one in several if one), *_shared(tables["entity_cell_subjects"])]


def _one(table: pl.DataFrame, change: str) -> str:
    """What the fewest neurons that were tried do, by the better choice."""
    rows = table.filter(pl.col("chosen_by") != "all", change=change)
    fewest = rows.filter(neurons=rows["neurons"].min()).sort("does", descending=True, maintain_order=True)
    row, every = fewest.row(0, named=True), table.filter(change=change, chosen_by="all").row(0, named=True)
    done = DONE[change][row["neurons"] > 1].format(n=row["neurons"])
    surely = "" if row["over_random_low"] > 0 else ", not surely more"
    return (
        f"{done} for {share(row, 'does')} of {row['n']:,} <subjects>, chosen by {row['chosen_by']}; others whose change of "
        f"output is as long do for {share(row, 'random')}{surely}, all {every['neurons']:,} together for "
        f"{share(every, 'does')}. The logit difference changes by {logits(row, 'effect')}{_of_swap(row)}."
    )


def _of_swap(row: Row) -> str:
    if row["share"] is None:
        return ""
    return f" ({percent(row['share'])} of what swapping the whole name does)"


def _several(table: pl.DataFrame, change: str) -> str:
    """The most specific neurons together."""
    rows = table.filter(change=change, chosen_by="specificity").sort("neurons")
    if rows.height < 2:
        return ""
    told = all_of([f"{row['neurons']:,}: {share(row, 'does')}" for row in rows.iter_rows(named=True)])
    verb = {"erase": "lost", "inject": "brought up"}[change]
    return f"<Answers> {verb} by the most specific neurons together, {told} (n = {rows['n'].max():,})."


def _shared(subjects: pl.DataFrame) -> list[str]:
    if subjects.is_empty():
        return []
    alone, n = subjects.filter(shared_by=1).height, subjects.height
    return [
        (
            f"Of {n:,} {'<subject>' if n == 1 else '<subjects>'}, {alone:,} {'has' if alone == 1 else 'have'} a most specific neuron "
            f"that is nobody else's; in all these are {subjects['neuron'].n_unique():,} neurons, which stand out by "
            f"{subjects['specificity'].median():.1f} deviations (median)."
        )
    ]
