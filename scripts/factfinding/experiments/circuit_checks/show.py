"""Whether the lookup happens at the name and needs the MLPs there: accuracy under interventions, and donors' answers."""

from __future__ import annotations

from textwrap import fill

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import (
    Row,
    Tables,
    at_layer,
    layers_in_words,
    most,
    not_surely_better,
    percent,
    share,
)

CHECKS = {
    "clean": "nothing changed",
    "mlps_at_name": "MLPs at the final name token averaged",
    "mlp_0_at_name": "MLP 0 there alone averaged (it reads one token)",
    "mlps_after_name": "MLPs at all later positions averaged",
    "late_attention_at_name": "attention after layer 1 at the final name token averaged",
    "name_pattern_frozen": "attention patterns of the final name token averaged",
    "mlps_at_name_frozen": "patterns and MLPs at the final name token averaged",
    "earlier_name_hidden": "earlier name tokens hidden from later positions",
}
"""The interventions of compute.py in plain words; averaged: replaced by the mean over subjects."""

_INTERVENTIONS = {
    "mlps_at_name": (
        "all MLPs at the final name token averaged{but_0}",
        "the lookup needs these MLPs",
        "there is no sign that the lookup needs these MLPs",
    ),
    "mlp_0_at_name": (
        "MLP 0 at the final name token averaged, which reads this token alone",
        "the answer needs what MLP 0 makes of the token; that is no lookup of a whole name",
        "there is no sign that the answer needs what MLP 0 makes of the token",
    ),
    "mlps_after_name": (
        "all MLPs at the later positions averaged",
        "part of the work is done after the name",
        "there is no sign of work done after the name",
    ),
    "late_attention_at_name": (
        "attention from layer 2 on averaged at the final name token",
        "the name is still being gathered in later layers",
        "there is no sign that layers after 1 still gather the name",
    ),
    "name_pattern_frozen": (
        "the final name token's attention patterns averaged",
        "where the attention looks carries part of the answer, which probes and patching do not see",
        "there is no sign that where the attention looks carries the answer",
    ),
    "earlier_name_hidden": (
        "the earlier name tokens hidden from the later positions",
        "later positions read more of the name than its final token",
        "there is no sign that more of the name is read than its final token",
    ),
}
"""What was done, what follows if fewer answers stay right, and what may be said if no fall is measured."""


@style.styled
def draw_circuit_checks(*, circuit_checks: pl.DataFrame) -> Figure:
    """Left, accuracy by intervention; right, how often the answer follows a donor's name residual, by layer.

    circuit_checks: the table of that name.
    """
    if circuit_checks.is_empty():
        return style.nothing_to_draw("too few known <subjects> to intervene on")
    donors = donor_curve(circuit_checks)
    checks = circuit_checks.filter(~pl.col("check").str.starts_with("donor_"))
    figure = style.new_figure(4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _intervals(left, checks)
    if donors.is_empty():
        right.axis("off")
        right.text(
            0, 0.5, "No pair of <subjects> of different\n<answers> has names of one length.", va="center"
        )
    else:
        _donors(right, donors)
    majority = Line2D(
        [],
        [],
        color=style.INK,
        linewidth=1,
        ls="--",
        label="always the commonest <answer> (right: of the donors)",
    )
    interval = Line2D([], [], color=style.COLOURS[0], marker="o", label="accuracy with 95 % interval")
    style.legend_above(figure, [interval, majority], columns=2)
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
    axes.hlines(at, -3, 103, color=style.LINE, linewidth=0.6)
    axes.errorbar(
        value,
        at,
        xerr=(value - low, high - value),
        fmt="o",
        color=style.COLOURS[0],
        elinewidth=1.8,
        capsize=3,
    )
    axes.axvline(100 * checks["majority_rate"][0], **style.COMMONEST)
    words = [fill(CHECKS.get(name, name.replace("_", " ")), 27) for name in checks["check"]]
    axes.set_yticks(at, words, linespacing=1.05)
    axes.grid(False, axis="y")
    axes.invert_yaxis()
    style.panel_title(axes, "right answers that are left", checks["n"].max())
    style.percent_axis(axes, "right answers (% of <subjects>)", which="x")


def _donors(axes: Axes, donors: pl.DataFrame) -> None:
    style.band(axes, donors, "layer", "accuracy", color=style.COLOURS[0], marker="o")
    axes.axhline(100 * donors["majority_rate"][0], **style.COMMONEST)
    style.panel_title(axes, "final name token of a donor", donors["n"].max())
    style.layer_axis(axes, donors["layer"].to_list(), "layer whose output is the donor's")
    style.percent_axis(axes, "answers that follow the donor (%)")


def sentences(tables: Tables) -> list[str]:
    """What the interventions leave, and which layers carry the donor's answer."""
    circuit_checks = tables["circuit_checks"]
    if circuit_checks.is_empty():
        return ["Too few <subjects> are known for any intervention: there is nothing to see."]
    rows = {row["check"]: row for row in circuit_checks.iter_rows(named=True)}
    clean = rows["clean"]
    if clean["accuracy_low"] <= clean["majority_rate"]:
        return [
            (
                f"With nothing changed the answers are right for {share(clean, 'accuracy')} of {clean['n']:,} <subjects>, not "
                f"above always naming the commonest <answer> ({percent(clean['majority_rate'])}): there is no recall to "
                "intervene on, and the figure shows noise."
            )
        ]
    but_0 = " (but not MLP 0, which reads this token alone)" if "mlp_0_at_name" in rows else ""
    found = [
        _intervention(rows[name], clean, what.format(but_0=but_0), *then)
        for name, (what, *then) in _INTERVENTIONS.items()
        if name in rows
    ]
    return found + _following(donor_curve(circuit_checks))


def _intervention(row: Row, clean: Row, what: str, if_it_falls: str, if_not: str) -> str:
    beside = f"{percent(clean['accuracy'])} with nothing changed, {percent(row['majority_rate'])} for the commonest <answer>"
    start = f"With {what}, {share(row, 'accuracy')} of {row['n']:,} answers stay right ({beside})"
    if row["change_high"] >= 0:
        return f"{start}: no fall is measured, so {if_not}."
    if row["accuracy_low"] <= row["majority_rate"]:
        return f"{start}: no more than by always naming the commonest <answer>, so {if_it_falls}."
    lost = (clean["accuracy"] - row["accuracy"]) / (clean["accuracy"] - row["majority_rate"])
    return f"{start}: {percent(lost)} of what the model knows beyond the commonest <answer> is lost, so {if_it_falls}."


def _following(donors: pl.DataFrame) -> list[str]:
    if donors.is_empty():
        return []
    best, *_ = leaders = most(donors, "accuracy")
    tied = not_surely_better(leaders)
    following = donors.filter(pl.col("accuracy_low") > 0.5)["layer"].to_list()
    where = layers_in_words(following, donors["layer"].to_list()) if following else "at no layer"
    return [
        (
            "When the residual stream at the final name token is taken from <a subject> of another <answer>, more than half of "
            f"the answers are the donor's {where}; most {at_layer(best['layer'])}{tied}: {share(best, 'accuracy')} of "
            f"{best['n']:,} (the donors' commonest <answer>: {percent(best['majority_rate'])})."
        )
    ]
