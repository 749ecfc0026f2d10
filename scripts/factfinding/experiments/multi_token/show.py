"""P1.1: which attributes can be read at the final name token, and which answers move when one is replaced."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, all_of, at_layer, number, percent, share

SHOWN = 12
"""Attributes that are drawn: those of most subjects."""
BASELINES = {
    "main_answer": ("the <answer> alone", "D"),
    "name_tokens": ("the name's tokens alone", "^"),
    "name_string": ("the name's letters alone", "v"),
}
TOO_FEW = "no relation is known of enough <subjects>"


@style.styled
def draw_multi_token(*, attributes: pl.DataFrame, attribute_probes: pl.DataFrame) -> Figure:
    """Left, accuracy by layer, a line for each attribute; right, at the stated layer, beside the baselines."""
    names = shown(attributes)
    if attribute_probes.is_empty() or not names:
        return style.nothing_to_draw(TOO_FEW)
    looks, follows = style.marks(names), _following(attributes)
    figure = style.new_figure(3.6 + 0.16 * len(names))
    left, right = figure.subplots(1, 2)
    read = attribute_probes.filter(input="resid", labels="true")
    for name in names:
        colour, dash, marker = looks[name]
        style.band(
            left,
            read.filter(relation=name),
            "layer",
            "accuracy",
            color=colour,
            ls=dash,
            marker=marker,
            markersize=3.5,
        )
    style.layer_axis(left, read["layer"].unique().sort().to_list())
    style.percent_axis(left, "right answers (% of <subjects>)")
    stated = read.filter("stated")["layer"]
    left.set_title("probes by layer")
    _beside(right, attribute_probes, names, looks, follows)
    right.set_title(f"{at_layer(stated[0])}" if len(stated) else "no layer")
    handles = [
        Line2D(
            [],
            [],
            color=looks[name][0],
            ls=looks[name][1],
            marker=looks[name][2],
            label=_label(attributes, name),
        )
        for name in names
    ]
    handles += [_handle(words, marker) for words, marker in BASELINES.values()]
    handles += [
        _handle("shuffled answers", "x"),
        Line2D([], [], color=style.INK, marker="|", ls="", label="always the commonest"),
    ]
    style.legend_above(figure, handles, columns=3)
    return figure


def _handle(words: str, marker: str) -> Line2D:
    return Line2D([], [], color=style.GREY, marker=marker, ls="", markersize=4, label=words)


def _beside(axes: Axes, probes: pl.DataFrame, names: list[str], looks: dict, follows: set[str]) -> None:
    """A row for each attribute: its probe with an interval, and what is right without it."""
    for at, name in enumerate(names):
        rows = probes.filter(relation=name)
        for row in rows.filter("stated", labels="true").iter_rows(named=True):
            low, high = (row[f"accuracy_{end}"] for end in ("low", "high"))
            if low is not None:
                axes.hlines(at, 100 * low, 100 * high, color=looks[name][0], linewidth=1.6)
            axes.plot(100 * row["accuracy"], at, color=looks[name][0], marker=looks[name][2], ls="")
            axes.plot(100 * row["majority_rate"], at, color=style.INK, marker="|", ls="")
        others = [(rows.filter(input=kind, labels="true"), marker) for kind, (_, marker) in BASELINES.items()]
        others.append((rows.filter("stated", labels="shuffled"), "x"))
        for found, marker in others:
            for value in found["accuracy"].head(1):
                axes.plot(100 * value, at, color=style.GREY, marker=marker, ls="", markersize=4)
    axes.set_yticks(range(len(names)), [f"{name}{'*' if name in follows else ''}" for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    style.percent_axis(axes, "right answers (% of <subjects>)", which="x")


def _label(attributes: pl.DataFrame, name: str) -> str:
    row = attributes.filter(relation=name).row(0, named=True)
    return f"{name}{'*' if row['follows'] else ''}, {row['answers']} answers, n = {row['n']:,}"


def _following(attributes: pl.DataFrame) -> set[str]:
    return set(attributes.filter("probed", "follows")["relation"])


def shown(attributes: pl.DataFrame) -> list[str]:
    """The attributes that are drawn: the main one first, then those that do not follow from it."""
    rows = attributes.filter("probed").sort("n", descending=True, maintain_order=True).head(SHOWN)
    rows = rows.sort(
        pl.col("main").fill_null(False).not_(), pl.col("follows").fill_null(False), maintain_order=True
    )
    return rows["relation"].to_list()


@style.styled
def draw_attribute_swaps(*, attributes: pl.DataFrame, attribute_swaps: pl.DataFrame) -> Figure:
    """Heat maps, attribute by question: answers that become the donor's; left probe, right random directions."""
    names = [name for name in shown(attributes) if name in set(attribute_swaps["attribute"])]
    if not names:
        return style.nothing_to_draw("no pair of <subjects> could be swapped")
    figure = style.new_figure(1.9 + 0.24 * (len(names) + 1))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, subspace, words in zip(
        panels, ("probe", "random"), ("what its probe reads", "as many random dimensions"), strict=True
    ):
        rows = attribute_swaps.filter(subspace=subspace)
        mesh = _heat_map(axes, rows, names)
        axes.set_title(f"{words}\n{_counts(rows)}")
        axes.set(xlabel="asked")
    panels[0].set(ylabel="replaced")
    figure.colorbar(mesh, ax=panels, label="answers that follow (%)", shrink=0.8)
    return figure


def _counts(rows: pl.DataFrame) -> str:
    if rows.is_empty():
        return "n = 0 <subjects>"
    low, high = rows["n"].min(), rows["n"].max()
    return f"n = {low:,}{'' if low == high else f' to {high:,}'} <subjects>"


def _heat_map(axes: Axes, rows: pl.DataFrame, names: list[str]):
    values = np.full((len(names), len(names)), np.nan)
    for row in rows.iter_rows(named=True):
        if row["attribute"] in names and row["question"] in names:
            place = names.index(row["attribute"]), names.index(row["question"])
            values[place] = 100 * row["follows"]
            if row["tied"]:
                corner = (place[1] + 0.06, place[0] + 0.06)
                look = {"fill": False, "edgecolor": style.GREY, "linewidth": 0.8, "zorder": 3}
                axes.add_patch(Rectangle(corner, 0.88, 0.88, **look))
    mesh = axes.pcolormesh(values, cmap=style.sequential(), vmin=0, vmax=100)
    for (at, asked), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = style.PAPER if value > 55 else style.INK
            axes.text(
                asked + 0.5, at + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=colour
            )
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.set_ylim(len(names), 0)
    axes.grid(False)
    return mesh


def sentences(tables: Tables) -> list[str]:
    """What can be read, what follows from the <answer>, how subspaces lie, and what moves when one is replaced."""
    attributes, probes = tables["attributes"], tables["attribute_probes"]
    stated = probes.filter("stated", labels="true", input="resid")
    if stated.is_empty():
        asked = attributes["asked"].max() if attributes.height else 0
        return [
            f"Of {asked or 0:,} <subjects> who were asked, too few know any one relation: {TOO_FEW}, and nothing is probed."
        ]
    own = set(attributes.filter(pl.col("follows").not_() & pl.col("main").not_())["relation"])
    found = [_read(stated.filter(pl.col("relation").is_in(own))), *_follow(attributes)]
    found += _beyond(stated.filter(pl.col("relation").is_in(own)))
    return [*found, *_angles(tables["attribute_angles"], own), *_swaps(tables["attribute_specificity"])]


def _read(rows: pl.DataFrame) -> str:
    """The summary: how many attributes beside the main one are read beyond their best baseline."""
    if rows.is_empty():
        return "No relation that is known of enough <subjects> is an attribute of its own: all follow from the <answer>."
    above = rows.filter(pl.col("over_baseline_low") > 0)
    worst = rows.sort("over_baseline").row(0, named=True)
    return (
        f"Of {rows.height} attribute{'s' if rows.height > 1 else ''} beside the <answer>, probes at the final name token "
        f"{at_layer(worst['layer'])} read {above.height} beyond what the name or the <answer> alone gives; least of all "
        f"{worst['relation']}: {share(worst, 'accuracy')}, {number(worst, 'over_baseline', '+.1f', scale=100)} points over that "
        f"(n = {worst['n']:,}; the commonest answer: {percent(worst['majority_rate'])})."
    )


def _follow(attributes: pl.DataFrame) -> list[str]:
    names = attributes.filter("probed", "follows")["relation"].to_list()
    if not names:
        return []
    verb, what = (
        ("follows", "it is no attribute") if len(names) == 1 else ("follow", "they are no attributes")
    )
    return [
        f"{all_of(names)[0].upper()}{all_of(names)[1:]} {verb} from the <answer>: {what} of {'its' if len(names) == 1 else 'their'} own."
    ]


def _beyond(rows: pl.DataFrame) -> list[str]:
    """The attribute that is read best."""
    return [
        f"Read best is {row['relation']}: {share(row, 'accuracy')} of {row['n']:,} <subjects>, "
        f"{number(row, 'over_baseline', '+.1f', scale=100)} points over the best baseline (the commonest answer: "
        f"{percent(row['majority_rate'])})."
        for row in rows.sort("over_baseline", descending=True).head(1).iter_rows(named=True)
        if rows.height > 1
    ]


def _angles(angles: pl.DataFrame, own: set[str]) -> list[str]:
    """How many pairs of subspaces overlap as random ones do, and the pair that overlaps most."""
    pairs = angles.filter(pl.col("relation") != pl.col("other_relation"))
    pairs = pairs.filter(pl.col("relation").is_in(own), pl.col("other_relation").is_in(own))
    if pairs.is_empty():
        return []
    more = pairs.filter(pl.col("overlap") > pl.col("chance_high")).height
    row = pairs.sort(pl.col("overlap") - pl.col("chance"), descending=True, maintain_order=True).row(
        0, named=True
    )
    return [
        (
            f"Of {pairs.height} pairs of their subspaces, {more} overlap more than 95 % of random ones of the same sizes; most, "
            f"{row['relation']} and {row['other_relation']}: {row['overlap']:.2f} (0: at right angles, 1: one lies in the other; random: "
            f"{number(row, 'chance', '.2f')}; n = {row['n']:,})."
        )
    ]


def _swaps(specificity: pl.DataFrame) -> list[str]:
    rows: dict[str, Row] = {row["subspace"]: row for row in specificity.iter_rows(named=True)}
    if "probe" not in rows:
        return []
    probe = rows["probe"]
    text = (
        f"With one attribute's directions replaced by a donor's {at_layer(probe['layer'])}, {share(probe, 'own')} of the answers about "
        f"it become the donor's, and {share(probe, 'others')} of those about other attributes change (n = {probe['n']:,}, "
        f"{probe['attributes']} attributes)"
    )
    beside = (
        [
            f"with as many random dimensions {share(rows['random'], 'own')} and {share(rows['random'], 'others')}"
        ]
        if "random" in rows
        else []
    )
    beside += (
        [f"with everything replaced {share(rows['whole'], 'own')} become the donor's"]
        if "whole" in rows
        else []
    )
    return [f"{text}; {all_of(beside)}." if beside else f"{text}."]
