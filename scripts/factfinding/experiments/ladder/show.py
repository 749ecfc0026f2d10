"""P2.8: what is left of the answer at the final name token as the circuit is simplified step by step."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import NO_PROBE, Row, Tables, number, percent, share

STEPS = {
    "full": "nothing changed",
    "late_attention": "later attention ablated",
    "name_only": "the name alone",
    "both": "both",
    "early_mlps": "and MLPs below the lookup",
    "frozen": "and patterns frozen",
    "frozen_longer": "the same, longer names",
}
READERS = {"logistic": "logistic probe", "head": "head probe"}
KINDS = {
    "zero": "zero",
    "mean": "mean",
    "resample_same": "another <subject>'s, same <answer>",
    "resample_other": "another <subject>'s, other <answer>",
}


LEAST_SPAN = (-5, 5)
"""Points that the panels of costs span at least: a step that costs nothing is a line at zero, not noise as tall as a panel."""


@style.styled
def draw_ladder(*, ladder: pl.DataFrame) -> Figure:
    """A column for each reader: above, what it gets right in the unchanged model; below, what each step costs, from the one
    before it on the same subjects, a line for each kind of ablation; at the bottom, attention layers averaged alone."""
    if ladder.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    readers = ladder["reader"].unique(maintain_order=True).to_list()
    costs = ladder.drop_nulls("drop")
    steps = [step for step in STEPS if step in costs["step"]]
    alone = costs.filter(pl.col("step").str.starts_with("attention_"), kind="mean")
    rows = [*steps, *["alone"] * bool(alone.height)]
    figure = style.new_figure(2.6 + 0.92 * len(rows) + 0.35 * bool(alone.height))
    heights = [1.2, *[1] * len(steps), *[1.35] * bool(alone.height)]
    shape = {"sharex": True, "sharey": "row", "squeeze": False, "height_ratios": heights}
    panels = figure.subplots(1 + len(rows), len(readers), **shape)
    handles: dict[str, object] = {}
    for column, reader in zip(panels.T, readers, strict=True):
        handles |= _unchanged(column[0], ladder.filter(reader=reader, step="full"))
        for axes, step in zip(column[1:], steps, strict=False):
            handles |= _costs(axes, costs.filter(reader=reader, step=step))
            axes.set_ylim(*_span(costs.filter(pl.col("step").is_in(steps))))
        if alone.height:
            handles |= _alone(column[-1], alone.filter(reader=reader))
            column[-1].set_ylim(*_span(alone))
        style.layer_axis(column[-1], ladder["layer"].unique().sort().to_list())
    _titles(panels, readers, steps, ladder)
    figure.align_ylabels()
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _titles(panels, readers: list[str], steps: list[str], ladder: pl.DataFrame) -> None:
    """Over each panel the step; beside each row its unit."""
    n = ladder.filter(step="full")["n"][0]
    for axes, reader in zip(panels[0], readers, strict=True):
        style.panel_title(axes, f"{READERS.get(reader, reader)}, nothing changed", n)
    for line, step in zip(panels[1:], steps, strict=False):
        part = ladder.filter(step=step)
        fewer = "" if part["n"][0] == n else f" (n = {part['n'][0]:,})"
        for axes in line:
            axes.set_title(f"{STEPS[step]}{fewer}", fontsize=8.5)
        line[0].set_ylabel("cost\n(points)")
    if len(panels) > 1 + len(steps):
        for axes in panels[-1]:
            axes.set_title("contrast: one attention layer alone averaged", fontsize=8.5)
        panels[-1, 0].set_ylabel("cost\n(points)")
    style.percent_axis(panels[0, 0], "accuracy\n(%)")
    panels[0, 0].set_yticks(range(0, 101, 50))


def _span(costs: pl.DataFrame) -> tuple[float, float]:
    """The points that panels of costs span: all intervals, and `LEAST_SPAN`."""
    low, high = 100 * costs["drop_low"].fill_null(0).min(), 100 * costs["drop_high"].fill_null(0).max()
    low, high = min(LEAST_SPAN[0], low), max(LEAST_SPAN[1], high)
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _unchanged(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    words = "nothing ablated"
    look = {"color": style.INK, "linewidth": 1.2, "label": words}
    label = "always the commonest <answer>"
    rate = 100 * rows["majority_rate"][0]
    return {
        words: style.band(axes, rows, "layer", "accuracy", **look),
        label: axes.axhline(rate, label=label, **style.COMMONEST),
    }


def _costs(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    """What a step costs under each kind of ablation; the name alone ablates nothing."""
    axes.axhline(0, color=style.INK, linewidth=0.8)
    found = {}
    for kind, words in KINDS.items():
        part = rows.filter(kind=kind)
        if part.height:
            look = style.look(kind) | {"markersize": 3, "linewidth": 1.1, "label": words}
            found[words] = style.band(axes, part, "layer", "drop", **look)
    part = rows.filter(kind="none")
    if part.height:
        style.band(axes, part, "layer", "drop", color=style.INK, linewidth=1.2)
    return found


def _alone(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    axes.axhline(0, color=style.INK, linewidth=0.8)
    layers = sorted(int(step.removeprefix("attention_")) for step in rows["step"].unique())
    found = {}
    for layer, (colour, dash, marker) in style.shades(layers).items():
        words = f"attention {layer} alone"
        look = {
            "color": colour,
            "ls": dash,
            "marker": marker,
            "markersize": 3,
            "linewidth": 1.1,
            "label": words,
        }
        found[words] = style.band(axes, rows.filter(step=f"attention_{layer}"), "layer", "drop", **look)
    return found


def sentences(tables: Tables) -> list[str]:
    """Each step's cost where the unchanged model is read best, under mean ablation; then the contrasts, and where the kinds
    of ablation differ."""
    ladder = tables["ladder"]
    if ladder.is_empty():
        return [NO_PROBE]
    found = []
    for reader in ladder["reader"].unique(maintain_order=True):
        rows = ladder.filter(reader=reader)
        full = (
            rows.filter(step="full").sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
        )
        here = rows.filter((pl.col("layer") == full["layer"]) & pl.col("kind").is_in(["none", "mean"]))
        steps = [row for row in here.iter_rows(named=True) if row["step"] in STEPS and row["step"] != "full"]
        told = "; ".join(f"{STEPS[row['step']]} {share(row, 'accuracy')}" for row in steps)
        found.append(
            f"Read by the {READERS.get(reader, reader)} after layer {full['layer']}: unchanged {share(full, 'accuracy')}; "
            f"{told} (commonest <answer> {percent(full['majority_rate'])}, n = {full['n']:,})."
        )
    if ladder.filter(kind="mean").is_empty():
        return [*found, "No lookup at the name was found, so there is no ladder below these steps."]
    return found + _contrasts(ladder) + _disagreement(ladder)


def _contrasts(ladder: pl.DataFrame) -> list[str]:
    """What one concatenating attention layer alone costs, by the first reader where it costs most."""
    alone = ladder.filter(
        pl.col("step").str.starts_with("attention_"), kind="mean", reader=ladder["reader"][0]
    )
    worst = (
        alone.sort("drop", descending=True, maintain_order=True).group_by("step", maintain_order=True).first()
    )
    return [
        (
            f"Attention {row['step'].removeprefix('attention_')} alone averaged at the final name token costs at most "
            f"{_points(row)} (after layer {row['layer']}, {share(row, 'accuracy')} left)."
        )
        for row in worst.sort("step").iter_rows(named=True)
    ]


def _disagreement(ladder: pl.DataFrame) -> list[str]:
    """In how many places the kinds of ablation surely differ, above the contrast rows, by the first reader; one of them."""
    rows = ladder.filter(
        pl.col("step").is_in(list(STEPS)), pl.col("kind") != "none", reader=ladder["reader"][0]
    )
    spread = rows.group_by("step", "layer", maintain_order=True).agg(
        apart=pl.col("accuracy_low").max() - pl.col("accuracy_high").min()
    )
    surely = spread.filter(pl.col("apart") > 0).sort("apart", descending=True, maintain_order=True)
    count = f"at {surely.height or 'none'} of {spread.height} places (a step after a layer)"
    said = f"The kinds of ablation surely differ, the highest from the lowest (intervals apart), {count}"
    for step, layer in surely.head(1).select("step", "layer").iter_rows():
        here = rows.filter(step=step, layer=layer).sort("accuracy")
        low, high = here.row(0, named=True), here.row(-1, named=True)
        said += (
            f"; for example in “{STEPS[step]}” after layer {layer}: {low['kind']} {share(low, 'accuracy')}, "
            f"{high['kind']} {share(high, 'accuracy')}"
        )
    return [f"{said}."]


def _points(row: Row) -> str:
    return f"{number(row, 'drop', '.1f', scale=100)} points"
