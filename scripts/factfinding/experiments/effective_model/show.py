"""P2.9: what the effective model answers, by answer and by length of the name."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import Row, Tables, percent, share

STUDIED = 2
"""Tokens of the names that the study looked at."""
NUMBERED = 10
"""Answers up to which each cell has its number, and there is room for a line for each."""
LEVEL = 5
"""Lengths of names, and answers, up to which their labels stand level; of more they are turned."""

MODELS = {"effective": "effective model", "full": "probe of the unchanged model"}


@style.styled
def draw_effective_model(*, effective_model: pl.DataFrame, effective_confusion: pl.DataFrame) -> Figure:
    """Left, the confusion matrix of the shortest names of two tokens or more; right, accuracy by length of the name."""
    if effective_model.is_empty():
        return style.nothing_to_draw("no lookup at the name was found, or too few <subjects> are known")
    effective_model = effective_model.filter(pl.col("n_name_tokens").is_not_null())
    lengths = effective_model["n_name_tokens"].unique().sort().to_list()
    shown = next((length for length in lengths if length >= 2), lengths[0])
    n_answers = effective_confusion["answer"].n_unique()
    figure = style.new_figure(3.6 + 0.16 * max(0, n_answers - NUMBERED))
    left, right = figure.subplots(1, 2, width_ratios=(1.2, min(1, 0.3 + 0.12 * len(lengths))))
    mesh = _confusion(left, effective_confusion.filter(n_name_tokens=shown), shown)
    figure.colorbar(mesh, ax=left, label="share of the <answer>'s <subjects> (%)", pad=0.02)
    style.legend_above(figure, _lengths(right, effective_model, lengths), columns=2)
    return figure


def _confusion(axes: Axes, rows: pl.DataFrame, length: int):
    answers = rows["answer"].unique().sort().to_list()
    values = rows.sort("answer", "given")["share"].fill_null(np.nan).to_numpy().reshape(len(answers), -1)
    counts = rows.sort("answer", "given")["subjects"].to_numpy().reshape(len(answers), -1)
    mesh = axes.pcolormesh(
        range(len(answers)),
        range(len(answers)),
        100 * values,
        cmap=style.sequential(),
        vmin=0,
        vmax=100,
        shading="nearest",
    )
    size = 9 if len(answers) <= LEVEL else 7
    for (row, column), count in np.ndenumerate(counts if len(answers) <= NUMBERED else np.empty((0, 0))):
        colour = style.ON_DARK if values[row, column] > 0.55 else style.ON_PALE
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks(range(len(answers)), answers, rotation=20 if len(answers) < LEVEL else 90)
    axes.set_yticks(range(len(answers)), answers)
    axes.invert_yaxis()
    axes.set(xlabel="<answer> given", ylabel="<answer> (the right one)")
    axes.set_title(f"names of {length} token{'' if length == 1 else 's'}\nn = {counts.sum():,} <subjects>")
    axes.grid(False)
    return mesh


def _lengths(axes: Axes, table: pl.DataFrame, lengths: list[int]) -> list:
    handles = []
    for number, (model, words) in enumerate(MODELS.items()):
        rows = table.filter(model=model).sort("n_name_tokens")
        at = np.arange(len(lengths)) + (number - 0.5) * 0.16
        value, low, high = (
            100 * rows[name].to_numpy() for name in ("accuracy", "accuracy_low", "accuracy_high")
        )
        look = {
            "color": (style.INK, style.look("logistic")["color"])[number],
            "marker": "so"[number],
            "ls": "",
            "capsize": 3,
            "label": words,
        }
        handles.append(axes.errorbar(at, value, yerr=(value - low, high - value), **look))
    rate = 100 * table.filter(model="effective").sort("n_name_tokens")["majority_rate"].to_numpy()
    label = "always the commonest <answer>"
    handles.append(
        axes.hlines(
            rate,
            np.arange(len(lengths)) - 0.3,
            np.arange(len(lengths)) + 0.3,
            label=label,
            **style.COMMONEST,
        )
    )
    ns = table.filter(model="effective").sort("n_name_tokens")["n"].to_list()
    turned = len(lengths) > LEVEL
    words = [f"{k}{' ' if turned else chr(10)}({n:,})" for k, n in zip(lengths, ns, strict=True)]
    axes.set_xticks(range(len(lengths)), words, rotation=90 if turned else 0)
    axes.set(xlabel="name tokens\n(<subjects>)", xlim=(-0.6, len(lengths) - 0.4))
    axes.grid(False, axis="x")
    style.percent_axis(axes, "right (% of <subjects>)")
    return handles


def sentences(tables: Tables) -> list[str]:
    """How often the effective model is right, on the study's names of two tokens first and on longer ones beside them,
    and how well it equals the ablated one."""
    effective_model = tables["effective_model"]
    if effective_model.is_empty():
        return [
            "No lookup at the name was found, or too few <subjects> are known: there is no effective model."
        ]
    single = effective_model.filter(pl.col("n_name_tokens").is_not_null())
    lengths = single["n_name_tokens"].unique().sort().to_list()
    together = _rows(effective_model.filter(pl.col("n_name_tokens").is_null()))
    error = effective_model["largest_error"].max()
    return [
        _studied(_rows(single.filter(n_name_tokens=STUDIED)), together, lengths),
        *(
            _of_length(length, _rows(single.filter(n_name_tokens=length)))
            for length in lengths
            if length != STUDIED
        ),
        f"It differs from the ablated model by {error:.0e} of the largest value at most, which is rounding.",
    ]


def _rows(table: pl.DataFrame) -> dict[str, Row]:
    """The rows of names of one kind, by model."""
    return {row["model"]: row for row in table.iter_rows(named=True)}


def _studied(two: dict[str, Row], longer: dict[str, Row], lengths: list[int]) -> str:
    """The study's sentence, on names of two tokens, and how the model does on all longer ones."""
    several = [length for length in lengths if length > STUDIED]
    said = (
        _of_length(STUDIED, two) if two else "Nobody who is known has a name of two tokens, as in the study."
    )
    if not several:
        return said
    span = f"{several[0]}" if len(several) == 1 else f"{several[0]} to {several[-1]}"
    return (
        f"{said} On longer ones, of {span} tokens, it is right for {share(longer['effective'], 'accuracy')} of "
        f"{longer['effective']['n']:,} (the unchanged model: {share(longer['full'], 'accuracy')}; the commonest <answer>: "
        f"{percent(longer['effective']['majority_rate'])})."
    )


def _of_length(length: int, rows: dict[str, Row]) -> str:
    row, full = rows["effective"], rows["full"]
    return (
        f"On names of {length} token{'s' * (length > 1)} the effective model is right for {share(row, 'accuracy')} of "
        f"{row['n']:,}; the same probe of the unchanged model for {share(full, 'accuracy')}, the commonest <answer> for "
        f"{percent(row['majority_rate'])}."
    )
