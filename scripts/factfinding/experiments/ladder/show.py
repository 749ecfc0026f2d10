"""P2.8: what is left of the answer at the final name token as the circuit is simplified step by step."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import NO_PROBE, Row, Tables, number, percent, share

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
    "resample_same": "another <subject>'s, same <answer>",
    "resample_other": "another <subject>'s, other <answer>",
}


@style.styled
def draw_ladder(*, ladder: pl.DataFrame) -> Figure:
    """Above, a panel for each reader with every step under mean ablation; below, the last steps under every kind."""
    if ladder.is_empty():
        return style.nothing_to_draw("too few known <subjects> to fit a probe")
    readers = ladder["reader"].unique(maintain_order=True).to_list()
    last = _last(ladder)
    figure = style.new_figure(3.8 if last is None else 7.0)
    rows = figure.subplots(1 if last is None else 2, len(readers), sharey=True, squeeze=False)
    handles: dict[str, object] = {}
    for axes, reader in zip(rows[0], readers, strict=True):
        handles |= _steps(axes, ladder.filter(reader=reader))
        style.panel_title(
            axes, f"{READERS.get(reader, reader)}, mean ablation", ladder.filter(step="full")["n"][0]
        )
    if last is not None:
        for axes, reader in zip(rows[1], readers, strict=True):
            part = ladder.filter(reader=reader, step=last)
            handles |= _kinds(axes, part)
            style.panel_title(axes, f"down to “{STEPS[last]}”, by kind", part["n"][0])
    for line in rows:
        style.percent_axis(line[0], "accuracy (% of <subjects>)")
    for axes in rows.flatten():
        style.layer_axis(axes, ladder["layer"].unique().to_list())
    style.legend_above(figure, list(handles.values()), columns=2)
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
    for i, (step, words) in enumerate(STEPS.items()):
        part = shown.filter(step=step)
        if part.height:
            look = {
                "color": (*style.COLOURS, style.GREY)[i],
                "ls": (*style.DASHES, "-")[i],
                "linewidth": 1.4,
            }
            words += "" if part["n"][0] == everybody else f" (n = {part['n'][0]:,})"
            handles[words] = _stairs(axes, part, words, look)
    alone = shown.filter(pl.col("step").str.starts_with("attention_"))
    for i, step in enumerate(alone["step"].unique(maintain_order=True)):
        words = f"contrast: attention {step.removeprefix('attention_')} alone averaged"
        part = alone.filter(step=step)
        look = {
            "color": style.INK,
            "linewidth": 0.9,
            "marker": style.MARKERS[i % len(style.MARKERS)],
            "markersize": 3,
        }
        handles[words] = _stairs(axes, part, words, look)
    return handles | _commonest(axes, rows)


def _kinds(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    found = {}
    for kind, (colour, _, marker) in style.marks(list(KINDS)).items():
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
        at, 100 * value, drawstyle="steps-mid", label=words, markevery=style.marked(len(at)), **look
    )
    axes.fill_between(at, 100 * low, 100 * high, step="mid", color=drawn.get_color(), alpha=0.12, linewidth=0)
    return drawn


def _commonest(axes: Axes, rows: pl.DataFrame) -> dict[str, object]:
    label = "always the commonest <answer>"
    return {
        label: axes.axhline(
            100 * rows["majority_rate"][0], color=style.INK, linewidth=1, ls="--", label=label
        )
    }


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
