"""P3.1: what is lost when a path from one MLP of the lookup to a later one is removed."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import INK, legend_above, marks, new_figure, nothing_to_draw, styled

MEASURES = {
    "probe_accuracy": "sport read\nat the name",
    "accuracy": "right answers",
    "sport_accuracy": "right among\nthe sports",
    "loss": "loss",
    "kl": "divergence",
}
KINDS = {"mean": "its mean instead", "resample_other": "that of another sport's athlete instead"}
SHOWN = 12
"""Paths that are drawn: those whose removal costs most."""


@styled
def draw(*, mlp_paths: pl.DataFrame) -> Figure:
    """A panel per metric: change from the unchanged model, a row for each path, a mark for each replacement.

    mlp_paths: the table of that name; of the readers, the head's where it has one.
    """
    changed = shown(mlp_paths)
    if changed.is_empty():
        return nothing_to_draw("no lookup of several MLPs was found, or nobody is known")
    paths = changed.select("path").unique(maintain_order=True)["path"].to_list()
    figure = new_figure(2.1 + 0.3 * len(paths))
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    looks = marks([kind for kind in KINDS if kind in changed["kind"]])
    handles: dict[str, object] = {}
    for axes, (metric, words) in zip(panels, MEASURES.items(), strict=True):
        rows = changed.filter(metric=metric)
        handles |= _panel(axes, rows, paths, looks, 100 if metric.endswith("accuracy") else 1)
        axes.set_title(words)
        axes.set_xlabel("change (%)" if metric.endswith("accuracy") else "change (nats)")
    panels[0].set_yticks(range(len(paths)), paths)
    panels[0].set(ylabel=f"path removed\n(n = {changed['n'].max():,})", ylim=(len(paths) - 0.4, -0.6))
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def shown(mlp_paths: pl.DataFrame) -> pl.DataFrame:
    """The rows that are drawn, worst path first, with a column path."""
    changed = mlp_paths.drop_nulls("source").with_columns(
        path=pl.format("MLP {} \N{RIGHTWARDS ARROW} {}", "source", "target")
    )
    if "head" in changed["reader"]:
        changed = changed.filter(pl.col("reader").is_null() | (pl.col("reader") == "head"))
    worst = changed.filter(metric="loss").group_by("path", maintain_order=True).agg(pl.col("change").max())
    worst = worst.sort("change", descending=True, maintain_order=True).head(SHOWN).select("path")
    return worst.join(changed, on="path", how="inner", maintain_order="left")


def _panel(axes: Axes, rows: pl.DataFrame, paths: list[str], looks: dict, scale: int) -> dict[str, object]:
    handles = {}
    for number, (kind, (colour, _, marker)) in enumerate(looks.items()):
        part = rows.filter(kind=kind)
        at = [paths.index(path) + 0.24 * (number - (len(looks) - 1) / 2) for path in part["path"]]
        value, low, high = (scale * part[f"change{end}"].to_numpy() for end in ("", "_low", "_high"))
        handles[kind] = axes.errorbar(
            value, at, xerr=(value - low, high - value), fmt=marker, color=colour, capsize=2, label=KINDS[kind]
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.locator_params(axis="x", nbins=3)
    return handles
