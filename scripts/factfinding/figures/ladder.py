"""P2.8: what is left of the sport at the final name token as the circuit is simplified step by step."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures.style import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    layer_axis,
    legend_above,
    marked,
    marks,
    new_figure,
    nothing_to_draw,
    panel_title,
    percent_axis,
    styled,
)

STEPS = {
    "full": "nothing changed",
    "late_attention": "later attention averaged",
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
    "resample_same": "another athlete's, same sport",
    "resample_other": "another athlete's, other sport",
}


@styled
def draw(*, ladder: pl.DataFrame) -> Figure:
    """Above, a panel for each reader with every step under mean ablation; below, the last steps under every kind."""
    if ladder.is_empty():
        return nothing_to_draw("too few known athletes to fit a probe")
    readers = ladder["reader"].unique(maintain_order=True).to_list()
    last = _last(ladder)
    figure = new_figure(3.8 if last is None else 7.0)
    rows = figure.subplots(1 if last is None else 2, len(readers), sharey=True, squeeze=False)
    handles: dict[str, object] = {}
    for axes, reader in zip(rows[0], readers, strict=True):
        handles |= _steps(axes, ladder.filter(reader=reader))
        panel_title(axes, f"{READERS.get(reader, reader)}, mean ablation", ladder.filter(step="full")["n"][0])
    if last is not None:
        for axes, reader in zip(rows[1], readers, strict=True):
            part = ladder.filter(reader=reader, step=last)
            handles |= _kinds(axes, part)
            panel_title(axes, f"down to “{STEPS[last]}”, by kind", part["n"][0])
    for line in rows:
        percent_axis(line[0], "accuracy (% of athletes)")
    for axes in rows.flatten():
        layer_axis(axes, ladder["layer"].unique().to_list())
    legend_above(figure, list(handles.values()), columns=2)
    return figure


def _last(ladder: pl.DataFrame) -> str | None:
    """The last step of the ladder that ablates anything."""
    found = [
        step for step in STEPS if ladder.filter(step=step, kind="mean").height and step != "frozen_longer"
    ]
    return found[-1] if found else None


def _steps(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    handles: dict[str, object] = {}
    shown = rows.filter(pl.col("kind").is_in(["none", "mean"]))
    everybody = rows.filter(step="full")["n"][0]
    for number, (step, words) in enumerate(STEPS.items()):
        part = shown.filter(step=step)
        if part.height:
            look = {"color": (*COLOURS, GREY)[number], "ls": (*DASHES, "-")[number], "linewidth": 1.4}
            words += "" if part["n"][0] == everybody else f" (n = {part['n'][0]:,})"
            handles[words] = _stairs(axes, part, words, look)
    alone = shown.filter(pl.col("step").str.starts_with("attention_"))
    for number, step in enumerate(alone["step"].unique(maintain_order=True)):
        words = f"contrast: attention {step.removeprefix('attention_')} alone averaged"
        part = alone.filter(step=step)
        look = {"color": INK, "linewidth": 0.9, "marker": MARKERS[number % len(MARKERS)], "markersize": 3}
        handles[words] = _stairs(axes, part, words, look)
    return handles | _commonest(axes, rows)


def _kinds(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    found = {}
    for kind, (colour, _, marker) in marks(list(KINDS)).items():
        part = rows.filter(kind=kind)
        if part.height:
            words = f"by kind: {KINDS[kind]}"
            look = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1, "ls": ":"}
            found[words] = _stairs(axes, part, words, look)
    return found | _commonest(axes, rows)


def _stairs(axes: Axes, part: pl.DataFrame, words: str, look: dict):
    part = part.sort("layer")
    at, value, low, high = (
        part[name].to_numpy() for name in ("layer", "accuracy", "accuracy_low", "accuracy_high")
    )
    (drawn,) = axes.plot(
        at, 100 * value, drawstyle="steps-mid", label=words, markevery=marked(len(at)), **look
    )
    axes.fill_between(at, 100 * low, 100 * high, step="mid", color=drawn.get_color(), alpha=0.12, linewidth=0)
    return drawn


def _commonest(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    label = "always the commonest sport"
    return {label: axes.axhline(100 * rows["majority_rate"][0], color=INK, linewidth=1, ls="--", label=label)}
