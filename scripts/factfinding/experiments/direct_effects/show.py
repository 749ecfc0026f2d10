"""P2.2: which heads and MLPs write the answer at END, by layer, and the largest of them by answer."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import (
    NAMED,
    NOBODY,
    Row,
    Tables,
    logits,
    most,
    not_surely_more,
    percent,
    worth_a_word,
)
from factfinding.least import LEAST_SHARE

LARGEST, MARKS = 8, 72
"""Nodes drawn by answer, and intervals in all: of many answers, fewer nodes."""
ROW, INTERVAL = 0.3, 0.05
"""Inches of a node, and of each answer's interval where there are more of them than fit."""

CHANGE = "change of the logit difference (logits)"
WHOLE = {"attn_out": "all heads", "mlp_out": "MLP"}


@style.styled
def draw_direct_effects(*, direct_effects: pl.DataFrame) -> Figure:
    """Above, heads (layer by head) and below them whole layers; at the bottom the largest nodes by answer.

    direct_effects: the table of that name. Colours show the exact mean change over all subjects.
    """
    if direct_effects.is_empty():
        return style.nothing_to_draw("no two <answers> have known <subjects>")
    everybody = direct_effects.filter(answer="all")
    heads = everybody.filter(kind="head")
    more = 0.06 * max(0, heads["index"].max() - 11)  # inches, for rows that can still be told apart
    names, answers = _largest(direct_effects), _answers(direct_effects)
    taller = len(names) * max(0.0, INTERVAL * len(answers) / _spread(answers) - ROW)
    figure = style.new_figure(6.2 + more + taller)
    grid = figure.add_gridspec(3, 1, height_ratios=(1.1 + 0.6 * more, 0.34, 1.5 + 0.5 * taller))
    above = figure.add_subplot(grid[0])
    beside = figure.add_subplot(grid[1], sharex=above)
    below = figure.add_subplot(grid[2])
    shown = everybody.filter(pl.col("kind").is_in(["head", *WHOLE]))
    colours = style.changes(shown["exact"].to_numpy(), lost="below") | {"shading": "nearest"}
    mesh = _heads(above, heads, colours)
    _layers(beside, everybody, colours)
    style.layer_axis(beside, heads["layer"].unique().to_list(), "layer")
    beside.set_xlim(-0.5, heads["layer"].max() + 0.5)
    figure.colorbar(
        mesh, ax=[above, beside], label="change of the logit\ndifference (logits)", pad=0.02, aspect=14
    )
    _by_answer(below, direct_effects, names)
    style.panel_title(above, "each head's output at END replaced by another <answer>'s", everybody["n"][0])
    style.legend_below(figure, _legend(direct_effects), columns=4)  # beside the panel that it belongs to
    return figure


def _heads(axes: Axes, heads: pl.DataFrame, colours: dict) -> QuadMesh:
    n_layers, n_heads = heads["layer"].max() + 1, heads["index"].max() + 1
    values = heads.sort("index", "layer")["exact"].to_numpy().reshape(n_heads, n_layers)
    mesh = axes.pcolormesh(np.arange(n_layers), np.arange(n_heads), values, **colours)
    step = max(1, n_heads // 8)
    axes.set(ylabel="head (index)", yticks=range(0, n_heads, step))
    axes.grid(False)
    axes.tick_params(labelbottom=False)
    return mesh


def _layers(axes: Axes, everybody: pl.DataFrame, colours: dict) -> None:
    rows = [everybody.filter(kind=kind).sort("layer")["exact"].to_numpy() for kind in WHOLE]
    axes.pcolormesh(np.arange(len(rows[0])), np.arange(len(rows)), np.stack(rows), **colours)
    axes.set_yticks(range(len(WHOLE)), list(WHOLE.values()))
    axes.grid(False)
    axes.invert_yaxis()


def _answers(table: pl.DataFrame) -> list[str]:
    return table.filter(pl.col("answer") != "all")["answer"].unique().sort().to_list()


def _spread(answers: list[str]) -> float:
    """The part of a node's row over which the intervals of its answers lie."""
    return 0.5 if len(answers) < 5 else 0.8


def _largest(table: pl.DataFrame) -> list[str]:
    """All nodes at once, and the heads and MLPs of the largest mean change."""
    nodes = table.filter((pl.col("answer") == "all") & pl.col("kind").is_in(["head", "mlp_out"]))
    does = nodes.filter(pl.col("share").abs() >= LEAST_SHARE)
    nodes = nodes if does.is_empty() else does
    shown = min(LARGEST, MARKS // len(_answers(table)))
    largest = nodes.sort(pl.col("exact").abs(), descending=True, maintain_order=True).head(shown)
    return [*table.filter(answer="all", kind="all")["node"], *largest["node"]]


def _by_answer(axes: Axes, table: pl.DataFrame, names: list[str]) -> None:
    """These nodes, each with an interval for each answer."""
    everybody = dict(table.filter(answer="all").select("node", "frozen").iter_rows())
    answers = _answers(table)
    apart = _spread(answers) / len(answers)
    for number, (answer, (colour, _, marker)) in enumerate(style.marks(answers).items()):
        rows = table.filter(pl.col("node").is_in(names) & (pl.col("answer") == answer))
        at = [names.index(node) + apart * (number - (len(answers) - 1) / 2) for node in rows["node"]]
        value, low, high = (rows[name].to_numpy() for name in ("exact", "exact_low", "exact_high"))
        axes.errorbar(value, at, xerr=(value - low, high - value), fmt=marker, color=colour, elinewidth=1.4)
    axes.vlines(
        [everybody[name] for name in names],
        np.arange(len(names)) - 0.38,
        np.arange(len(names)) + 0.38,
        color=style.GREY,
    )
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.hlines(
        np.arange(len(names) - 1) + 0.5,
        0,
        1,
        transform=axes.get_yaxis_transform(),
        color=style.LINE,
        linewidth=0.6,
    )
    words = ["all together" if name == "all" else name.replace("mlp_out:", "MLP ") for name in names]
    axes.set_yticks(range(len(names)), words)
    axes.grid(False, axis="y")
    axes.invert_yaxis()
    axes.set(xlabel=CHANGE)
    axes.set_title(
        "all nodes, and the largest heads and MLPs, by <answer> of the <subject>, with 95 % intervals"
    )


def _legend(table: pl.DataFrame) -> list[Line2D]:
    counts = dict(table.filter(pl.col("answer") != "all").select("answer", "n").unique().iter_rows())
    handles = [
        Line2D([], [], color=colour, marker=marker, ls="", label=f"{answer} (n = {counts[answer]:,})")
        for answer, (colour, _, marker) in style.marks(sorted(counts)).items()
    ]
    return [
        *handles,
        Line2D([], [], color=style.GREY, marker="|", markersize=10, ls="", label="all, scale frozen"),
    ]


def sentences(tables: Tables) -> list[str]:
    """Which heads and MLPs carry the answer, and how much of it: a node does whose whole interval lies below zero, and that
    does `LEAST_SHARE` or more of what all nodes do at once."""
    direct_effects = tables["direct_effects"]
    if direct_effects.is_empty():
        return [NOBODY]
    everybody = direct_effects.filter(answer="all")
    heads, whole = everybody.filter(kind="head"), everybody.filter(kind="all").row(0, named=True)
    carrying = heads.filter(_carries())
    scale = (
        f"n = {whole['n']:,}; with nothing changed the difference is {logits(whole, 'logit_difference')}, and replacing "
        f"all nodes at once changes it by {logits(whole, 'exact')}"
    )
    least = f"{percent(LEAST_SHARE)} or more of what replacing all nodes at once does"
    found = []
    if carrying.is_empty():
        found.append(
            f"Replaced at END by the output for <a subject> of another <answer>, none of {heads.height:,} heads lowers the logit "
            f"difference by {least} ({scale})."
        )
    else:
        leaders = most(carrying, "exact", lowest=True)
        after = carrying.sort("exact").tail(carrying.height - len(leaders)).head(NAMED - 1)
        then = ", ".join(_changes(row) for row in after.iter_rows(named=True))
        some = "heads lowers" if carrying.height == 1 else "heads lower"
        found.append(
            f"Replaced at END by the output for <a subject> of another <answer>, {carrying.height:,} of {heads.height:,} {some} "
            f"the logit difference by {least} ({scale}): most of all {_changes(leaders[0])}"
            f"{not_surely_more(leaders, _changes)}{f'; then {then}' if then else ''}."
        )
    return [*found, _mlps(everybody), *(_apart_by_answer(direct_effects, row) for row in _first(carrying))]


def _carries() -> pl.Expr:
    return (pl.col("exact_high") < 0) & worth_a_word()


def _changes(row: Row) -> str:
    node = row["node"].replace("mlp_out:", "MLP ")
    return f"{node} by {logits(row, 'exact')} ({percent(row['share'])})"


def _mlps(everybody: pl.DataFrame) -> str:
    mlps = everybody.filter(_carries(), kind="mlp_out")
    if mlps.is_empty():
        return "No MLP at END lowers it by as much."
    leaders = most(mlps, "exact", lowest=True)
    return f"Of the MLPs at END, most of all does {_changes(leaders[0])}{not_surely_more(leaders, _changes)}."


def _first(carrying: pl.DataFrame) -> list[str]:
    """The head that leads, where one does."""
    return [] if carrying.is_empty() else [most(carrying, "exact", lowest=True)[0]["node"]]


def _apart_by_answer(table: pl.DataFrame, node: str) -> str:
    rows = table.filter((pl.col("node") == node) & (pl.col("answer") != "all")).sort("exact")
    most, least = rows.row(0, named=True), rows.row(-1, named=True)
    clear = "" if most["exact_high"] < least["exact_low"] else "; the intervals overlap"
    return (
        f"By <answer> of the <subject>, {node} changes it by {logits(most, 'exact')} ({most['answer']}, n = {most['n']:,}) to "
        f"{logits(least, 'exact')} ({least['answer']}, n = {least['n']:,}){clear}."
    )
