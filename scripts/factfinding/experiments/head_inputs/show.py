"""P2.4: what the extracting heads read at the final name token."""

from __future__ import annotations

from math import ceil

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from factfinding.figures import style
from factfinding.findings.words import (
    NAMED,
    Row,
    Tables,
    logits,
    most,
    not_surely_more,
    percent,
    worth_a_word,
)
from factfinding.least import LEAST_SHARE

SHOWN = 7
"""Nodes per head."""

WORDS = {"mlp_out:": "MLP ", "attn_out:": "attention ", "resid_pre:0": "embedding", "all": "all of them"}


@style.styled
def draw_head_inputs(*, head_inputs: pl.DataFrame) -> Figure:
    """One panel for each head: the largest nodes that it reads, and all at once. head_inputs: the table of that name."""
    if head_inputs.is_empty():
        return style.nothing_to_draw("no head brings the answer to END")
    readers = head_inputs["reader"].unique(maintain_order=True).to_list()
    columns = min(2, len(readers))
    rows = ceil(len(readers) / columns)
    figure = style.new_figure(0.7 + 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(readers) :]:
        axes.remove()
    ends = head_inputs.select("exact_low", "exact_high", "exact", "frozen").to_numpy()
    low, high = min(0.0, float(np.nanmin(ends))), max(0.0, float(np.nanmax(ends)))
    for axes, reader in zip(panels, readers, strict=False):
        part = head_inputs.filter(reader=reader)
        left_out = _bars(axes, part)
        style.panel_title(axes, f"through the value of {reader}", part["n"][0])
        axes.set_xlim(
            low - 0.04 * (high - low), high + 0.04 * (high - low)
        )  # one scale, so that panels compare
        small = f"\n{left_out} nodes below {percent(LEAST_SHARE)} left out" if left_out else ""
        axes.set_xlabel(f"change of the logit difference (logits){small}")
        axes.set_ylabel("replaced (at the final name token)" if axes in panels[::columns] else "")
    bar = Line2D([], [], color=style.LOST, linewidth=6, label="norms recomputed, with 95 % interval")
    frozen = Line2D(
        [], [], color=style.INK, mfc=style.PAPER, marker="D", ls="", markersize=4, label="scales frozen"
    )
    style.legend_above(figure, [bar, frozen], columns=2)
    return figure


def _bars(axes: Axes, part: pl.DataFrame) -> int:
    """The bars of one head; how many of its nodes are too small to be drawn."""
    nodes = part.filter(pl.col("kind") != "all").sort(
        pl.col("exact").abs(), descending=True, maintain_order=True
    )
    whole = abs(part.filter(kind="all")["exact"][0])
    small = pl.col("exact").abs() < LEAST_SHARE * whole
    left_out, nodes = nodes.filter(small).height, nodes.filter(~small)
    shown = pl.concat([part.filter(kind="all"), nodes.head(SHOWN)])
    value, low, high = (shown[name].to_numpy() for name in ("exact", "exact_low", "exact_high"))
    at = np.arange(shown.height)
    signs = [style.GAINED if change > 0 else style.LOST for change in value]
    colours = [style.GREY if kind == "all" else sign for kind, sign in zip(shown["kind"], signs, strict=True)]
    axes.barh(at, value, color=colours, height=0.7)
    axes.errorbar(
        value, at, xerr=(value - low, high - value), fmt="none", ecolor=style.INK, elinewidth=1.1, capsize=2
    )
    axes.plot(
        shown["frozen"].to_numpy(), at, color=style.INK, mfc=style.PAPER, marker="D", ls="", markersize=4
    )
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_yticks(at, [_words(node) for node in shown["node"]])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(False, axis="y")
    axes.invert_yaxis()
    return left_out


def _words(node: str) -> str:
    for start, words in WORDS.items():
        if node == start or (start.endswith(":") and node.startswith(start)):
            return words + node.removeprefix(start)
    return node


def sentences(tables: Tables) -> list[str]:
    """The largest MLPs and the largest head that each head reads."""
    head_inputs = tables["head_inputs"]
    if head_inputs.is_empty():
        return ["No heads bring the answer to END, so there are no inputs to look at."]
    return [
        _reading(head, head_inputs.filter(reader=head))
        for head in head_inputs["reader"].unique(maintain_order=True).head(NAMED)
    ]


def _reading(head: str, rows: pl.DataFrame) -> str:
    whole = rows.filter(kind="all").row(0, named=True)
    counted = rows.filter(pl.col("exact_high") < 0, worth_a_word())
    mlps = counted.filter(kind="mlp_out").sort("exact").head(NAMED - 1)
    heads = most(counted.filter(kind="head"), "exact", lowest=True)
    told = (
        f"Replacing all that {head} reads at the final name token changes the logit difference by "
        f"{logits(whole, 'exact')} through its value (n = {whole['n']:,})"
    )
    if rows.filter(pl.col("kind") != "all").is_empty():
        return f"{told}; no layer lies below it."
    parts = [_changes(row) for row in mlps.iter_rows(named=True)]
    if heads:
        parts.append(
            f"of the heads it reads, most is done by {_change(heads[0])}{not_surely_more(heads, _change)}"
        )
    if not parts:
        return f"{told}; no MLP or head alone surely does {percent(LEAST_SHARE)} of that or more."
    return f"{told}. Of that, {'; '.join(parts)}."


def _change(row: Row) -> str:
    return f"{_words(row['node'])}, {logits(row, 'exact')} ({percent(row['share'])})"


def _changes(row: Row) -> str:
    return f"{_words(row['node'])} alone does {logits(row, 'exact')} ({percent(row['share'])})"
