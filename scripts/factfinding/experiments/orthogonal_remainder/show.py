"""P3.8: the component of each subject that no others span, through the answer neuron."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, percent, share

NO_NEURON = "No <answer> neuron was found, or too few <subjects> are known: there is nothing to see."
WITHDRAWN = (
    "They had taken an AUC above 50 % for a sign of what is learnt about each <subject> alone; but what is left of <a subject> "
    "depends on how many others there are, and these include those of the same <answer>."
)


@style.styled
def draw_orthogonal_remainder(*, orthogonal_remainder: pl.DataFrame) -> Figure:
    """A row per neuron and kind of others: the AUC of the remainder, and beside it that of the whole residual."""
    if orthogonal_remainder.is_empty():
        return style.nothing_to_draw("no <answer> neuron, or no known <subjects>")
    rows = list(orthogonal_remainder.iter_rows(named=True))
    figure = style.new_figure(1.3 + 0.32 * len(rows))
    axes, handles = figure.subplots(), {}
    for at, row in enumerate(rows):
        for name, label, colour, marker in (
            ("auc", "the remainder alone", style.COLOURS[0], "o"),
            ("auc_whole", "the whole residual stream", style.GREY, "x"),
        ):
            if row[name] is None:
                continue
            low, high = (
                row[name] if row[f"{name}_{end}"] is None else row[f"{name}_{end}"] for end in ("low", "high")
            )
            axes.plot([100 * low, 100 * high], [at, at], color=colour, linewidth=1.4)
            (handles[label],) = axes.plot(
                100 * row[name], at, ls="", marker=marker, color=colour, label=label
            )
        if row["auc"] is None:
            axes.text(51.5, at, row["status"], va="center", color=style.INK, fontsize=8)
    handles["chance"] = axes.axvline(50, color=style.INK, linewidth=1, ls="--", label="chance")
    style.percent_axis(axes, "AUC of the <answer> neuron (%)", which="x")
    axes.set(yticks=range(len(rows)), yticklabels=[_words(row) for row in rows], ylim=(len(rows) - 0.5, -0.5))
    axes.set(ylabel="neuron (others removed)")
    n = orthogonal_remainder["n"].max()
    axes.set_title(
        f"each <subject>'s remainder beside that of others\nn = {n:,} <subjects> where it is defined"
    )
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _words(row: dict) -> str:
    sign = "" if row["sign"] > 0 else "-"
    return f"{row['answer']} {sign}{row['neuron']} ({row['spanned']:,} others)"


def sentences(tables: Tables) -> list[str]:
    """What the table says, the sentence of the summary first."""
    return remainder_findings(tables["orthogonal_remainder"])


def remainder_findings(orthogonal_remainder: pl.DataFrame) -> list[str]:
    """From the table `orthogonal_remainder` (P3.8): what is left of whom, the AUCs, and that the reading is withdrawn."""
    if orthogonal_remainder.is_empty():
        return [NO_NEURON]
    found = []
    for rows in orthogonal_remainder.partition_by("condition", "others", maintain_order=True):
        defined = rows.filter(status="defined")
        if defined.height:
            found.append(_remainders(defined))
        for row in rows.filter(pl.col("status") != "defined").head(1).iter_rows(named=True):
            found.append(_undefined(row))
    found[0] += " The study's authors have withdrawn what they read from such numbers."
    return [*found, WITHDRAWN]


def _remainders(defined: pl.DataFrame) -> str:
    first = defined.row(0, named=True)
    each = "; ".join(
        f"{row['answer']} {share(row, 'auc')} ({row['neuron']}; whole residual {percent(row['auc_whole'])})"
        for row in defined.iter_rows(named=True)
    )
    others = "all other <subjects>" if first["others"] == "all" else f"{first['spanned']:,} random others"
    return (
        f"The part of <a subject>'s residual that is no combination of those of {others}, read by the <answer> neuron, tells "
        "the <answer> with "
        f"an AUC of: {each} (n = {first['n']:,}, chance {percent(first['baseline'])})."
    )


def _undefined(row: Row) -> str:
    others = "all other <subjects>" if row["others"] == "all" else f"{row['spanned']:,} random others"
    why = {
        "undefined: rank is full": (
            f"the residuals of {row['spanned'] + 1:,} <subjects> span all {row['d_model']:,} dimensions, so nothing is "
            "left of any <subject>"
        ),
        "undefined: one class": "the <subjects> that have a remainder are all of one kind",
    }.get(row["status"], f"they have rank {row['rank']:,}, and each <subject> lies in the span of the others")
    return f"Beside {others} the remainder gives no number: {why}."
