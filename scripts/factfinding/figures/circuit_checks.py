"""Whether the lookup happens at the name and needs the MLPs there: accuracy under interventions, and donors' answers."""

from __future__ import annotations

from textwrap import fill

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures.style import (
    COLOURS,
    INK,
    LINE,
    band,
    layer_axis,
    legend_above,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)

CHECKS = {
    "clean": "nothing changed",
    "mlps_at_name": "MLPs at the final name token averaged",
    "mlps_after_name": "MLPs at all later positions averaged",
    "late_attention_at_name": "attention after layer 1 at the final name token averaged",
    "name_pattern_frozen": "attention patterns of the final name token averaged",
    "mlps_at_name_frozen": "patterns and MLPs at the final name token averaged",
    "earlier_name_hidden": "earlier name tokens hidden from later positions",
}
"""The interventions of methods/checks.py in plain words; averaged: replaced by the mean over athletes."""


@styled
def draw(*, circuit_checks: pl.DataFrame) -> Figure:
    """Left, accuracy by intervention; right, how often the answer follows a donor's name residual, by layer.

    circuit_checks: the table of that name.
    """
    if circuit_checks.is_empty():
        return nothing_to_draw("too few known athletes to intervene on")
    donors = donor_curve(circuit_checks)
    checks = circuit_checks.filter(~pl.col("check").str.starts_with("donor_"))
    figure = new_figure(4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _intervals(left, checks)
    if donors.is_empty():
        right.axis("off")
        right.text(0, 0.5, "No pair of athletes of different\nsports has names of one length.", va="center")
    else:
        _donors(right, donors)
    majority = Line2D(
        [], [], color=INK, linewidth=1, ls="--", label="always the commonest sport (right: of the donors)"
    )
    interval = Line2D([], [], color=COLOURS[0], marker="o", label="accuracy with 95 % interval")
    legend_above(figure, [interval, majority], columns=2)
    return figure


def donor_curve(checks: pl.DataFrame) -> pl.DataFrame:
    """The rows donor_<layer> of the table, with a column layer."""
    return checks.filter(pl.col("check").str.starts_with("donor_")).with_columns(
        pl.col("check").str.strip_prefix("donor_").cast(pl.Int64).alias("layer")
    )


def _intervals(axes: Axes, checks: pl.DataFrame) -> None:
    value, low, high = (
        100 * checks[name].to_numpy() for name in ("accuracy", "accuracy_low", "accuracy_high")
    )
    at = range(checks.height)
    axes.hlines(at, -3, 103, color=LINE, linewidth=0.6)
    axes.errorbar(
        value, at, xerr=(value - low, high - value), fmt="o", color=COLOURS[0], elinewidth=1.8, capsize=3
    )
    axes.axvline(100 * checks["majority_rate"][0], color=INK, linewidth=1, ls="--")
    words = [fill(CHECKS.get(name, name.replace("_", " ")), 27) for name in checks["check"]]
    axes.set_yticks(at, words, linespacing=1.05)
    axes.grid(False, axis="y")
    axes.invert_yaxis()
    panel_title(axes, "right answers that are left", checks["n"].max())
    percent_axis(axes, "right answers (% of athletes)", which="x")


def _donors(axes: Axes, donors: pl.DataFrame) -> None:
    band(axes, donors, "layer", "accuracy", color=COLOURS[0], marker="o")
    axes.axhline(100 * donors["majority_rate"][0], color=INK, linewidth=1, ls="--")
    panel_title(axes, "final name token of a donor", donors["n"].max())
    layer_axis(axes, donors["layer"].to_list(), "layer whose output is the donor's")
    percent_axis(axes, "answers that follow the donor (%)")
