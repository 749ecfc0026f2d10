"""Post 4's pictures: what small networks say between the points in the plane that they learnt."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.experiments.toy_models.show import NOTHING
from factfinding.figures import style
from factfinding.findings.words import Tables, percent

PANELS = {
    ("random", 1): "random labels",
    ("clusters", 1): "clusters: a rule",
    ("exceptions", 1): "clusters with exceptions",
    ("two_facts", 1): "two facts at once: the first",
    ("two_facts", 2): "and the second",
}
FALSE, TRUE = style.COLOURS[0], style.COLOURS[4]


@style.styled
def draw_toy_illustrations(*, toy_illustrations: pl.DataFrame) -> Figure:
    """A panel per picture and fact: regions by the network's answer, points by their label; last, where two facts differ."""
    if toy_illustrations.is_empty():
        return style.nothing_to_draw("no toy network was trained")
    figure = style.new_figure(5.4)
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
    for axes, (picture, fact) in zip(panels, PANELS, strict=False):
        rows = toy_illustrations.filter(picture=picture, fact=fact)
        _regions(axes, rows.filter(kind="grid"), "p", (FALSE, TRUE))
        _points(axes, rows.filter(kind="point"))
        axes.set_title(f"{PANELS[picture, fact]}\nn = {rows['n'][0]:,} points")
    _differences(panels[-1], toy_illustrations.filter(picture="two_facts"))
    for axes in panels:
        axes.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.grid(False)
    for axes in panels[3:]:
        axes.set_xlabel("x (input)")
    for axes in panels[::3]:
        axes.set_ylabel("y (input)")
    looks = ((FALSE, "o", "label 0"), (TRUE, "s", "label 1"))
    handles = [_mark(colour, marker, words) for colour, marker, words in looks]
    style.legend_above(figure, handles, columns=2)
    return figure


def _mark(colour: str, marker: str, words: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, ls="", markeredgecolor=style.INK, label=words)


def _regions(axes: Axes, grid: pl.DataFrame, value: str, colours: tuple[str, str]) -> None:
    """The plane in two colours, split where `value` is one half."""
    wide = grid.sort("y", "x")
    x, y = (wide[name].unique().sort().to_numpy() for name in ("x", "y"))
    table = wide[value].to_numpy().reshape(len(y), len(x))
    axes.contourf(x, y, table, levels=[-0.001, 0.5, 1.001], colors=colours, alpha=0.3)
    if table.min() < 0.5 < table.max():
        axes.contour(x, y, table, levels=[0.5], colors=style.INK, linewidths=0.8)


def _points(axes: Axes, points: pl.DataFrame) -> None:
    for label, colour, marker in ((False, FALSE, "o"), (True, TRUE, "s")):
        part = points.filter(label=label)
        look = {"ls": "", "marker": marker, "markersize": 4, "color": colour}
        edge = {"markeredgecolor": style.INK, "markeredgewidth": 0.5}
        axes.plot(part["x"].to_numpy(), part["y"].to_numpy(), **look, **edge)


def _differences(axes: Axes, rows: pl.DataFrame) -> None:
    """Where the two facts of one network have different answers, and the points that have different labels."""
    grid = rows.filter(kind="grid").pivot("fact", index=["x", "y"], values="p")
    product = (pl.col("1") - 0.5) * (pl.col("2") - 0.5)
    _regions(axes, grid.with_columns((0.5 - 2 * product).alias("differ")), "differ", (style.PAPER, style.INK))
    points = rows.filter(kind="point").pivot("fact", index=["x", "y"], values="label")
    differ = points.filter(pl.col("1") != pl.col("2"))
    axes.plot(
        differ["x"].to_numpy(),
        differ["y"].to_numpy(),
        ls="",
        marker="D",
        color=style.PAPER,
        markersize=4,
        markeredgecolor=style.INK,
    )
    axes.set_title(f"where the two differ\nn = {differ.height:,} of {points.height:,} points")


def sentences(tables: Tables) -> list[str]:
    """What the table says, the sentence of the summary first."""
    return picture_findings(tables["toy_illustrations"])


def picture_findings(illustrations: pl.DataFrame) -> list[str]:
    """From the table `toy_illustrations`: which networks learnt their points, and how the two facts relate."""
    if illustrations.is_empty():
        return [NOTHING]
    points = illustrations.filter(kind="point")
    ones = points.group_by("picture", maintain_order=True).agg(
        pl.col("n", "accuracy", "steps").first(),
        (pl.col("label") == (pl.col("p") > 0.5)).mean().alias("right"),
    )
    told = "; ".join(
        f"{row['picture'].replace('_', ' ')}: {percent(row['right'])} of {row['n']} points after {row['steps']} steps"
        for row in ones.iter_rows(named=True)
    )
    grid = illustrations.filter(kind="grid", picture="two_facts").pivot("fact", index=["x", "y"], values="p")
    agree = ((grid["1"] > 0.5) == (grid["2"] > 0.5)).mean()
    wide = points.filter(picture="two_facts").pivot("fact", index=["x", "y"], values="label")
    return [
        (
            f"The networks of the pictures give the right label for: {told} (the commoner label: "
            f"{percent(_majority(points.filter(picture='random')))} of the random ones)."
        ),
        (
            f"The two facts have the same label on {percent((wide['1'] == wide['2']).mean())} of the {wide.height} points, and "
            f"the same answer on {percent(agree)} of the plane."
        ),
    ]


def _majority(points: pl.DataFrame) -> float:
    rate = points["label"].mean()
    return max(rate, 1 - rate)
