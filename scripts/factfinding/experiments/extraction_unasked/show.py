"""P1.2: what the extracting heads do where something else is asked, who lowers it, and what adds up."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, all_of, logits, number, percent, share

OWN, OTHERS, APART = "own", "others", "apart"
WORDS = {OWN: "the study's prompt", OTHERS: "mean of the others", APART: "mean of those apart"}
HEADS = {"extracting": "the extracting heads", "other": "all other heads"}
PARTS = {
    "subject_head": "<subject> heads",
    "relation_head": "question heads",
    "mixed_head": "mixed heads",
    "mlps": "MLPs",
    "embedding": "embedding",
    "sum": "their sum",
    "joint": "all at once",
}
SHOWN = 14
"""Questions that are drawn."""
NOTHING = "too few <subjects> know the answers to several questions"


@style.styled
def draw_extraction_unasked(
    *, unasked_extraction: pl.DataFrame, unasked_suppression: pl.DataFrame, additivity: pl.DataFrame
) -> Figure:
    """Above, attention and effect by question; below, who lowers the <answer>, and what adds up."""
    if unasked_extraction.is_empty():
        return style.nothing_to_draw(NOTHING)
    questions = _questions(unasked_extraction)
    figure = style.new_figure(4.2 + 0.17 * len(questions))
    above, below = figure.add_gridspec(2, 1, height_ratios=[len(questions), 8])
    above, below = (part.subgridspec(1, 2).subplots() for part in (above, below))
    for axes, name, words in zip(
        above,
        ("attention", "effect"),
        ("attention to the name", "direct effect on the own <answer>"),
        strict=True,
    ):
        _by_question(axes, unasked_extraction, name, questions)
        style.panel_title(axes, words, unasked_extraction["n"][0])
    above[0].set(xlabel="attention (mean over heads)", xlim=(-0.03, 1.03))
    above[1].set(xlabel="logits (summed over heads)")
    above[1].set_yticklabels([])
    _suppressors(below[0], unasked_suppression)
    _parts(below[1], additivity)
    looks = style.marks(list(HEADS))
    handles = [
        Line2D([], [], color=looks[kind][0], marker=looks[kind][2], ls="", label=words)
        for kind, words in HEADS.items()
        if kind in set(unasked_extraction["heads"])
    ]
    handles.append(Line2D([], [], color=style.GREY, marker="|", ls="", label="attention to all tokens alike"))
    style.legend_above(figure, handles, columns=3)
    return figure


def _questions(table: pl.DataFrame) -> list[str]:
    """The own prompt first, the means last."""
    found = list(dict.fromkeys(table["question"]))
    between = [name for name in found if name not in WORDS][:SHOWN]
    return [OWN, *between, *(name for name in (OTHERS, APART) if name in found)]


def _by_question(axes: Axes, table: pl.DataFrame, name: str, questions: list[str]) -> None:
    for kind, (colour, _, marker) in style.marks(list(HEADS)).items():
        rows = {row["question"]: row for row in table.filter(heads=kind).iter_rows(named=True)}
        for at, question in enumerate(questions):
            if question in rows:
                _point(axes, rows[question], name, at, colour, marker)
                if name == "attention":
                    axes.plot(rows[question]["name_share"], at, color=style.GREY, marker="|", ls="")
    axes.axvline(0, color=style.INK, linewidth=0.8)
    _rows_of(axes, [WORDS.get(question, question) for question in questions])


def _point(axes: Axes, row: Row, name: str, at: float, colour: str, marker: str) -> None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is not None and np.isfinite(low):
        axes.hlines(at, low, high, color=colour, linewidth=1.4)
    axes.plot(row[name], at, color=colour, marker=marker, ls="", markersize=4)


def _rows_of(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)))
    axes.yaxis.set_major_formatter(FixedFormatter(names))  # whose marks the style puts into words
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")


def _suppressors(axes: Axes, table: pl.DataFrame) -> None:
    """The change of each listed node, on the half on which it was not chosen; a cross, on the other."""
    rows = list(table.iter_rows(named=True))
    style.panel_title(axes, "falls most when not asked", rows[0]["n"] if rows else 0)
    if not rows:
        axes.set(xticks=[], yticks=[])
        return
    for at, row in enumerate(rows):
        _point(axes, row, "change", at, style.COLOURS[0], "o")
        axes.plot(row["change_choosing"], at, color=style.GREY, marker="x", ls="", markersize=4)
    axes.axvline(0, color=style.INK, linewidth=0.8)
    _rows_of(axes, [f"{row['node']}{' (extracts)' if row['extracting'] else ''}" for row in rows])
    axes.set(xlabel="change of the effect (logits)")


def _parts(axes: Axes, table: pl.DataFrame) -> None:
    rows = list(table.iter_rows(named=True))
    style.panel_title(axes, "effect on the right answer", rows[0]["n"] if rows else 0)
    for at, row in enumerate(rows):
        colour = style.INK if row["part"] in ("sum", "joint") else style.COLOURS[2]
        _point(axes, row, "exact", at, colour, "o")
    axes.axvline(0, color=style.INK, linewidth=0.8)
    _rows_of(axes, [_part(row) for row in rows])
    axes.set(xlabel="logits over the other answers")


def _part(row: Row) -> str:
    words = PARTS[row["part"]]
    return words if row["heads"] is None else f"{row['heads']} {words}"


def sentences(tables: Tables) -> list[str]:
    """What the extracting heads do unasked, who lowers it, and what parts add up to the right answer."""
    extraction = tables["unasked_extraction"]
    rows = {row["question"]: row for row in extraction.filter(heads="extracting").iter_rows(named=True)}
    if extraction.is_empty():
        return [f"{NOTHING[0].upper()}{NOTHING[1:]}: nothing else can be asked of them."]
    found = (
        [_extracts(rows, extraction)]
        if OTHERS in rows
        else ["No extracting head is known: nothing is compared."]
    )
    found += _least(rows)
    return [
        *found,
        *_lowered(tables["unasked_suppression"]),
        *_adds_up(tables["additivity"], tables["additivity_heads"]),
    ]


def _extracts(rows: dict[str, Row], extraction: pl.DataFrame) -> str:
    own, others = rows[OWN], rows[OTHERS]
    still = others["effect_over_half_low"] > 0 and others["attention_over_half_low"] > 0
    verdict = "they still attend and write" if still else "they do not clearly still attend and write"
    text = (
        f"Where something else is asked, the {own['number']} extracting head{'s' if own['number'] > 1 else ''} attend to the name "
        f"with {share(others, 'attention')} of their attention (own prompt: {share(own, 'attention')}; all tokens alike: "
        f"{percent(others['name_share'])}) and write the <answer> by {logits(others, 'effect')} logits (own prompt: "
        f"{logits(own, 'effect')}; n = {own['n']:,}): {verdict} more than half of it."
    )
    other = {row["question"]: row for row in extraction.filter(heads="other").iter_rows(named=True)}
    if OTHERS in other:
        text += f" All other heads together write {logits(other[OTHERS], 'effect')}."
    return text


def _least(rows: dict[str, Row]) -> list[str]:
    """The question under which least is written."""
    asked = [row for name, row in rows.items() if name not in WORDS]
    if len(asked) < 2:
        return []
    least = min(asked, key=lambda row: row["effect"])
    return [
        (
            f"Least is written where {least['question']} is asked: {logits(least, 'effect')} logits, "
            f"{number(least, 'effect_from_own', '+.2f')} beside the own prompt, in pairs (n = {least['n']:,})."
        )
    ]


def _lowered(table: pl.DataFrame) -> list[str]:
    if table.is_empty():
        return []
    against = table.filter(pl.col("change_high") < 0, pl.col("effect_others_high") < 0)
    less = table.filter(pl.col("change_high") < 0, pl.col("effect_others_low") > 0)
    row = table.row(0, named=True)
    text = (
        f"Chosen on one half of the <subjects> and measured on the other, the effect of {row['node']} falls most: by "
        f"{logits(row, 'change')} logits to {logits(row, 'effect_others')} (n = {row['n']:,}; of {row['nodes_tried']:,} nodes)."
    )
    names = [f"{one['node']} ({logits(one, 'effect_others')})" for one in against.iter_rows(named=True)]
    text += (
        f" Of the first {table.height}, {all_of(names)} write{'s' if len(names) == 1 else ''} against the unasked <answer>"
        if names
        else f" Of the first {table.height}, none clearly writes against the unasked <answer>"
    )
    return [
        f"{text}; {less.height} only write{'s' if less.height == 1 else ''} it less."
        if less.height
        else f"{text}."
    ]


def _adds_up(table: pl.DataFrame, heads: pl.DataFrame) -> list[str]:
    if table.is_empty():
        return []
    rows = {row["part"]: row for row in table.iter_rows(named=True)}
    parts = [
        f"{_part(row)} {logits(row, 'exact')}"
        for name, row in rows.items()
        if name not in ("sum", "joint", "embedding")
    ]
    total, joint = rows["sum"], rows["joint"]
    best = max(
        (row for name, row in rows.items() if name not in ("sum", "joint")), key=lambda row: row["right"]
    )
    found = [
        (
            f"For the right answer to each question ({total['questions']} asked): {'; '.join(parts)} logits. Their sum is "
            f"{logits(total, 'exact')}, all at once {logits(joint, 'exact')} (n = {total['n']:,}): they differ by "
            f"{number(total, 'over_joint', '+.2f')}."
        ),
        (
            f"Alone, {PARTS[best['part']]} put the right answer first most often, {share(best, 'right')}; all together {share(joint, 'right')} "
            f"(always the commonest: {percent(joint['majority_rate'])})."
        ),
    ]
    largest = heads.sort("size", descending=True, maintain_order=True).head(3)
    named = [
        f"{row['node']} ({PARTS[row['kind']].removesuffix('s')}: {percent(row['subject_share'])} by the <subject>, "
        f"{percent(row['relation_share'])} by the question)"
        for row in largest.iter_rows(named=True)
    ]
    return [*found, f"The heads that move most are {all_of(named)}."] if named else found
