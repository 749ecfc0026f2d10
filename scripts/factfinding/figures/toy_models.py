"""Post 4: what toy networks store per parameter, which neurons they need, and what can be read inside them."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from factfinding.figures.style import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    legend_above,
    new_figure,
    nothing_to_draw,
    percent_axis,
    styled,
)

TASKS = {"memorising": "random labels", "exceptions": "a rule with exceptions", "generalising": "a rule"}
CAPACITY = 2.0
"""Bits per parameter that language models were found to store at most (Allen-Zhu and Li, 2024)."""


@styled
def draw(
    *,
    toy_models: pl.DataFrame,
    toy_summary: pl.DataFrame,
    toy_neurons: pl.DataFrame,
    toy_verdict: pl.DataFrame,
) -> Figure:
    """Above: bits per parameter by size; pruning curves. Below: scores of all shapes; classes read from each layer."""
    if toy_models.is_empty():
        return nothing_to_draw("no toy network was trained")
    figure = new_figure(6.4)
    (size, pruning), below = figure.subplots(2, 2)
    handles = _bits(size, toy_models, toy_summary)
    for kind, task in enumerate(TASKS):
        look = {"color": COLOURS[kind], "ls": DASHES[kind], "marker": MARKERS[kind], "label": TASKS[task]}
        curve = _pruning(pruning, toy_models, toy_neurons, task, look)
        if curve is not None:
            handles[task] = curve
    _pruning_axes(pruning, toy_models, toy_neurons)
    handles |= _scores(below[0], toy_verdict)
    handles |= _readings(below[1], toy_summary)
    legend_above(figure, list(handles.values()), columns=3)
    return figure


def _bits(axes: Axes, models: pl.DataFrame, summary: pl.DataFrame) -> dict[str, object]:
    """One point per shape of the memorising networks, by how many bits there are to learn for each parameter."""
    shapes = (
        models.filter(task="memorising").group_by("m", "width", "depth").agg(pl.col("parameters").first())
    )
    rows = summary.filter(task="memorising", measure="bits_per_parameter").join(
        shapes, on=["m", "width", "depth"]
    )
    handles: dict[str, object] = {}
    for number, m in enumerate(sorted(rows["m"].unique())):
        part = rows.filter(m=m).sort("parameters")
        at, value = part["parameters"].to_numpy(), part["value"].to_numpy()
        marker = MARKERS[(3 + number) % len(MARKERS)]
        (line,) = axes.plot(
            at, value, color=COLOURS[0], marker=marker, ls="", label=f"memorising, {m} × {m} labels"
        )
        axes.vlines(at, *(part[f"value_{end}"].to_numpy() for end in ("low", "high")), color=COLOURS[0])
        span = np.geomspace(m * m / CAPACITY, max(models["parameters"]), 50)
        axes.plot(span, m * m / span, color=GREY, lw=0.8)
        handles[f"m {m}"] = line
    label = f"{CAPACITY:g} bits per parameter, for scale"
    handles["capacity"] = axes.axhline(CAPACITY, color=INK, lw=1, ls=":", label=label)
    axes.set(xscale="log", xlabel="parameters", ylabel="stored (bits per parameter)", ylim=(0, 2.2))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    n = rows["n"].sum()
    axes.set_title(f"random labels; grey: all of them stored\nn = {n:,} networks")
    return handles


def _chosen(models: pl.DataFrame) -> dict[str, int]:
    """The shape whose pruning is drawn: of the largest table, the fewest layers and then the least width at which most
    networks of every task learnt all. With more room many neurons are idle, and pruning tells little."""
    shape = ["m", "depth", "width"]
    by_task = models.group_by(*shape, "task").agg(pl.col("reached").mean())
    learnt = by_task.group_by(shape).agg(pl.col("reached").min()).filter(pl.col("reached") > 0.5)
    rows = learnt if learnt.height else models.select(shape)
    m = rows["m"].max()
    depth = rows.filter(m=m)["depth"].min()
    return {"m": m, "depth": depth, "width": rows.filter(m=m, depth=depth)["width"].min()}


def _pruning(axes: Axes, models: pl.DataFrame, neurons: pl.DataFrame, task: str, look: dict):
    """Mean accuracy over seeds as more neurons stay, of the chosen shape, under mean ablation."""
    shape = _chosen(models)
    rows = neurons.filter(task=task, kind="mean", **shape)
    if rows.is_empty():
        return None
    none = models.filter(task=task, **shape)["accuracy_without_mean"].to_numpy()
    kept = rows.sort("order").group_by("seed", maintain_order=True).agg("kept_accuracy")["kept_accuracy"]
    curves = np.concatenate([none[:, None], np.stack(kept.to_list())], axis=1)
    share = 100 * np.arange(curves.shape[1]) / (curves.shape[1] - 1)
    (line,) = axes.plot(share, 100 * curves.mean(0), markevery=max(1, len(share) // 8), **look)
    axes.fill_between(
        share, *(100 * end for end in (curves.min(0), curves.max(0))), color=look["color"], alpha=0.15, lw=0
    )
    return line


def _pruning_axes(axes: Axes, models: pl.DataFrame, neurons: pl.DataFrame) -> None:
    shape = _chosen(models)
    n = models.filter(**shape).height
    axes.set(xlim=(0, 100), xlabel="neurons kept, largest effect first (%)")
    percent_axis(axes, "trained pairs right (%)")
    axes.set_title(f"{_words(shape)}, mean ablation\nn = {n:,} networks")


def _scores(axes: Axes, verdict: pl.DataFrame) -> dict[str, object]:
    """Each shape's score, by width; shapes that the verdict does not count are pale."""
    rows = verdict.filter(pl.col("score").is_not_null())
    widths = sorted(verdict["width"].drop_nulls().unique())
    for kind, task in enumerate(TASKS):
        for counted in (False, True):
            part = rows.filter(pl.col("task") == task, pl.col("found").is_not_null() == counted)
            aside = (kind - 1) * 0.2 + (part["depth"].rank("dense").to_numpy() - 1.5) * 0.06
            at = np.array([widths.index(width) for width in part["width"]]) + aside
            look = {"color": COLOURS[kind], "alpha": 1.0 if counted else 0.35}
            axes.plot(at, 100 * part["score"].to_numpy(), ls="", marker=MARKERS[kind], ms=4, **look)
            axes.vlines(at, *(100 * part[f"score_{end}"].to_numpy() for end in ("low", "high")), **look)
    label = "the verdict's line"
    handles = {label: axes.axhline(50, color=INK, lw=1, ls=":", label=label)}
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.set(xlim=(-0.5, len(widths) - 0.5), ylim=(-25, 103), yticks=range(-20, 101, 20))
    axes.set(xlabel="width (pale: not counted)", ylabel="classes of new tokens (score, %)")
    axes.set_title(f"before the last layer; 0: chance\nn = {rows['n'].sum():,} networks")
    return handles


def _readings(axes: Axes, summary: pl.DataFrame) -> dict[str, object]:
    """Classes of held-out tokens by layer, of the deepest and widest networks on the largest table."""
    shape = {name: summary[name].max() for name in ("m", "width", "depth")}
    rows = summary.filter(**shape, measure="classes").sort("layer")
    for number, task in enumerate(TASKS):
        part = rows.filter(task=task)
        at, value, low, high = (
            part[name].to_numpy() for name in ("layer", "value", "value_low", "value_high")
        )
        axes.plot(at, 100 * value, color=COLOURS[number], ls=DASHES[number], marker=MARKERS[number])
        axes.fill_between(at, 100 * low, 100 * high, color=COLOURS[number], alpha=0.15, lw=0)
    handles = {"chance": axes.axhline(100 * rows["baseline"][0], color=INK, lw=1, ls="--", label="chance")}
    percent_axis(axes, "classes of new tokens (%)")
    axes.set(xlim=(-0.3, shape["depth"] + 0.3), xlabel="MLP layers passed (0: embeddings)")
    axes.set_xticks(range(shape["depth"] + 1))
    axes.set_title(f"{_words(shape)}\nn = {rows.filter(layer=0)['n'].sum():,} networks")
    return handles


def _words(shape: dict[str, int]) -> str:
    layers = f"{shape['depth']} layer{'s' * (shape['depth'] > 1)}"
    return f"m = {shape['m']}, width {shape['width']}, {layers}"
