"""P1.5: the stages of recall while a model is being trained."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, all_of, number, percent, share

NOTHING = (
    "There is nothing to see: no checkpoints of the training are at hand (organism.checkpoints, emergence.revisions, "
    "emergence.folders), or too few <subjects> are known."
)
COHORTS = {
    "first": "told about from the beginning",
    "later": "told about later",
    "all": "known to the finished model",
}
ABLE = {name: name for name in ("concatenation", "extraction", "lookup")}
USED = {f"{name}_used": name for name in ABLE}
"""Measures of the upper and of the lower panels, with the stage that each is of."""
STAGES = {
    "attends": "attention from END to the name",
    "concatenation": "concatenation",
    "extraction": "extraction",
    "lookup": "the lookup",
    "recall": "recall",
}
LOOK = dict(
    zip(("concatenation", "extraction", "lookup"), (style.PURPLE, style.BLUE, style.GREEN), strict=True)
)
MOST, LEAST = 130.0, -40.0
"""Per cent between which the axis of shares may reach."""


@style.styled
def draw_emergence(*, emergence: pl.DataFrame, emergence_halves: pl.DataFrame) -> Figure:
    """A column for each group of subjects; above what stages are able to do, below what the answer loses without them."""
    if emergence.is_empty():
        return style.nothing_to_draw("no checkpoints, or too few known <subjects>")
    groups = [name for name in COHORTS if name in emergence["cohort"]]
    figure = style.new_figure(5.6)
    panels = figure.subplots(2, len(groups), sharex=True, sharey=True, squeeze=False)
    steps = sorted(emergence["step"].unique().to_list())
    handles: dict[str, Line2D] = {}
    for column, group in zip(panels.T, groups, strict=True):
        rows, half = (table.filter(cohort=group) for table in (emergence, emergence_halves))
        for axes, names in zip(column, (ABLE, USED), strict=True):
            found = _curves(axes, rows, names, steps)
            handles |= {line.get_label(): line for line in found}
            _marks(axes, half, names, steps)
        style.panel_title(column[0], COHORTS[group], rows["n"].max())
        _step_axis(column[1], steps)
    shown = emergence.filter(pl.col("measure").is_in(["recall", *ABLE, *USED]))
    low, high = (100 * shown[f"of_final_{end}"].fill_nan(None) for end in ("low", "high"))
    panels[0, 0].set_ylim(max(LEAST, min(-3, low.min() or 0)), min(MOST, max(103, high.max() or 0)))
    for axes, words in zip(panels[:, 0], ("what it is able to do", "what the answer loses"), strict=True):
        axes.set_ylabel(f"{words}\n(% of the finished model's)")
    style.legend_above(figure, list(handles.values()), columns=3)
    return figure


def _curves(axes: Axes, rows: pl.DataFrame, names: dict[str, str], steps: list[int]) -> list[Line2D]:
    """The measures along the checkpoints; recall in ink, and in grey how many had been told about by then."""
    found, place = [], {step: i for i, step in enumerate(steps)}
    for i, (name, words) in enumerate({"recall": "right answers", **names}.items()):
        part = (
            rows.filter(measure=name)
            .drop_nulls("of_final")
            .with_columns(
                pl.col("step").replace_strict(place, return_dtype=pl.Int64).alias("place"),
            )
        )
        if part.height:
            colour = style.INK if name == "recall" else LOOK[name.removesuffix("_used")]
            look = {"color": colour, "ls": style.DASHES[i], "marker": style.MARKERS[i]}
            found.append(style.band(axes, part, "place", "of_final", label=words, **look))
    told = rows.filter(measure="recall").drop_nulls("told").sort("step")
    if told.height and told["told"].min() < 1:
        at = [place[step] for step in told["step"]]
        look = {"color": style.GREY, "linewidth": 1, "ls": ":", "label": "<subjects> told about by then"}
        found += axes.plot(at, 100 * told["told"].to_numpy(), drawstyle="steps-mid", **look)
    axes.axhline(50, color=style.LINE, linewidth=1, zorder=0)
    return found


def _marks(axes: Axes, half: pl.DataFrame, names: dict[str, str], steps: list[int]) -> None:
    """Where each measure has half, with its interval, on the line at 50 %."""
    for name in names:
        for row in half.filter(measure=name).drop_nulls("half").iter_rows(named=True):
            colour = LOOK[name.removesuffix("_used")]
            low, high = (
                row["half"] if row[name] is None else row[name] for name in ("half_low", "half_high")
            )
            at, *ends = np.interp([row["half"], low, high], steps, range(len(steps)))
            axes.plot(ends, [50, 50], color=colour, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.plot([at], [50], marker="|", color=colour, markersize=11, markeredgewidth=2)


def _step_axis(axes: Axes, steps: list[int]) -> None:
    """Checkpoints evenly spaced, whatever lies between them, with about six of them named."""
    shown = _named_steps(steps)
    axes.set_xticks(shown, [f"{steps[place]:,}" for place in shown])
    axes.set(xlabel="step of the training (a checkpoint each)", xlim=(-0.4, len(steps) - 0.6))


@style.styled
def draw_emergence_layers(*, emergence_layers: pl.DataFrame) -> Figure:
    """A heat map for each group: layers by checkpoints; below them what the tokens' own embeddings tell."""
    if emergence_layers.is_empty():
        return style.nothing_to_draw("no checkpoints, or too few known <subjects> to fit a probe")
    groups = [name for name in COHORTS if name in emergence_layers["cohort"]]
    layers = sorted(emergence_layers["layer"].unique().to_list())
    steps = sorted(emergence_layers["step"].unique().to_list())
    figure = style.new_figure(2.8 + 0.05 * len(layers))
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        rows = emergence_layers.filter(cohort=group)
        values = np.full((len(layers) + 1, len(steps)), np.nan)
        for step, layer, accuracy, tokens in rows.select("step", "layer", "accuracy", "baseline").iter_rows():
            values[layers.index(layer) + 1, steps.index(step)] = 100 * accuracy
            values[0, steps.index(step)] = 100 * tokens
        mesh = axes.pcolormesh(values, cmap=style.sequential(), vmin=0, vmax=100)
        axes.axhline(1, color=style.PAPER, linewidth=3)
        every = max(1, len(layers) // 8)
        names = ["emb" if layer < 0 else str(layer) for layer in layers[::every]]
        axes.set_yticks([0.5, *(1.5 + every * i for i in range(len(names)))], ["tokens", *names])
        shown = _named_steps(steps)
        axes.set_xticks([place + 0.5 for place in shown], [f"{steps[place]:,}" for place in shown])
        axes.set(xlabel="step of the training (a checkpoint each)")
        axes.grid(False)
        style.panel_title(axes, COHORTS[group], rows["n"].max())
    panels[0].set_ylabel("layer (residual stream after it)")
    figure.colorbar(mesh, ax=list(panels), label="right, held out (%)", pad=0.02)
    return figure


def _named_steps(steps: list[int]) -> list[int]:
    """About six of the checkpoints, by place, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(6, len(steps)))})


def sentences(tables: Tables) -> list[str]:
    """For each group: when recall and its stages have half, who is surely later than whom, and what is used by then."""
    table = tables["emergence"]
    if table.is_empty():
        return [NOTHING]
    found = []
    for group in (name for name in COHORTS if name in table["cohort"]):
        rows, half, order = (
            tables[name].filter(cohort=group) for name in ("emergence", "emergence_halves", "emergence_order")
        )
        found += [_when(group, half), *_who_first(half, order), *_tokens(rows), *_used(half)]
    return found


def _when(group: str, half: pl.DataFrame) -> str:
    rows, known = {row["measure"]: row for row in half.iter_rows(named=True)}, _by_half(half)
    without = [STAGES[name] for name in (*ABLE, "recall") if name not in known]
    about = f"Of {half['n'].max():,} <subjects> {COHORTS[group]},"
    if not known:
        return f"{about} nothing is surely above its baseline in the finished model."
    said = "; ".join(f"{STAGES[name]} {_at(rows[name])}" for name in known)
    missing = f" The finished model is not surely above the baseline in {all_of(without)}." if without else ""
    return f"{about} half of what the finished model has is there, in this order: {said}.{missing}"


def _at(row: Row) -> str:
    if row["from_start"]:
        return "at every checkpoint"
    early = row["first_step"] < row["by_step"]
    lost = f"; first at checkpoint {row['first_step']:,}, and lost again" if early else ""
    between = f"between the checkpoints {row['after_step']:,} and {row['by_step']:,}"
    return f"from step {number(row, 'half', ',.0f')} on ({between}{lost})"


def _by_half(half: pl.DataFrame) -> list[str]:
    """The measures that have a half, by its step."""
    rows = half.filter(pl.col("measure").is_in(list(STAGES))).drop_nulls("half").sort("half", "measure")
    return rows["measure"].to_list()


def _who_first(half: pl.DataFrame, order: pl.DataFrame) -> list[str]:
    """Each measure against the next one in the order of the halves: surely before it, or not to be told apart."""
    pairs = {frozenset((row["measure"], row["other"])): row for row in order.iter_rows(named=True)}
    sure, open_pairs = [], []
    for one, other in pairwise(_by_half(half)):
        row = pairs.get(frozenset((one, other)))
        if row is None:
            continue
        if row["same_gap"] or row["later_low"] <= 0 <= row["later_high"]:
            open_pairs.append(f"{STAGES[one]} and {STAGES[other]}")
            continue
        forth = row if row["measure"] == one else _turned(row)
        sure.append(f"{STAGES[one]} before {STAGES[other]} (by {number(forth, 'later', ',.0f')} steps)")
    found = [f"Surely, each against the next: {'; '.join(sure)}."] if sure else []
    if open_pairs:
        found.append(
            "Not to be told apart, by their intervals or because both have half from between the same two checkpoints: "
            f"{'; '.join(open_pairs)}."
        )
    return found


def _turned(row: Row) -> Row:
    """The pair the other way round."""
    return {"later": -row["later"], "later_low": -row["later_high"], "later_high": -row["later_low"]}


def _tokens(rows: pl.DataFrame) -> list[str]:
    """What single tokens tell: at the checkpoint where it is most, and in the end."""
    tokens, recall = (rows.filter(measure=name).sort("step") for name in ("lookup", "recall"))
    if tokens.is_empty():
        return []
    commonest = recall["baseline"][0]
    best = tokens.sort("baseline", "step", descending=[True, False], maintain_order=True).row(0, named=True)
    last = tokens.row(-1, named=True)
    if best["baseline_low"] <= commonest:
        return []
    return [
        (
            f"The embeddings of the name's tokens alone tell the <answer> at most at step {best['step']:,}, for "
            f"{share(best, 'baseline')}, and in the finished model for {share(last, 'baseline')} (held out; always the commonest: "
            f"{percent(commonest)}): as far as single tokens carry a fact, nothing need be looked up."
        )
    ]


def _used(half: pl.DataFrame) -> list[str]:
    """What the finished model loses without each stage, against its whole logit difference, and when half of that is lost."""
    rows = {row["measure"]: row for row in half.iter_rows(named=True)}
    whole = rows.get("logit_difference")
    used = {name: rows[name] for name in USED if name in rows and rows[name]["half"] is not None}
    if whole is None or whole["final_low"] <= 0 or not used:
        return []
    said = [
        f"{STAGES[name.removesuffix('_used')]} {percent(row['final'] / whole['final'])}, half of that {_at(row)}"
        for name, row in used.items()
    ]
    return [
        f"Of the finished model's logit difference ({number(whole, 'final', '.2f')}) is lost without {'; without '.join(said)}."
    ]
