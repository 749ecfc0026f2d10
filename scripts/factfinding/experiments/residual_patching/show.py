"""P2.7: where the answer lies in the residual stream, by layer and position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.patched import no_swap, nothing_to_swap, role_in_words
from factfinding.findings.words import FEW, NOBODY, Row, Tables, most, percent, worth_a_word
from factfinding.least import LEAST_SHARE

ROLES = {
    "first_name": "first\nname",
    "middle_name": "middle\nname",
    "final_name": "final\nname",
    "relation": "relation",
    "end": "END",
}
WRITTEN = 12
"""Layers up to which each cell's number is written into it."""
LEVEL = 7
"""Positions up to which their names stand level; of more they are turned."""

MEASURES = {
    "share": "share of what swapping the whole name does (%)",
    "follows": "answers that follow the donor (%)",
}


@style.styled
def draw_residual_patching(*, residual_patching: pl.DataFrame) -> Figure:
    """Heat maps of layer by position: the change of the logit difference, and the answers that follow the donor."""
    if residual_patching.is_empty():
        return style.nothing_to_draw("no two <subjects> of different <answers> have prompts of one layout")
    shown = residual_patching.filter(pl.col("n") >= min(FEW, residual_patching["n"].max()))
    places = places_of(shown)
    n_layers = shown["layer"].max() + 1
    figure = style.new_figure(2.2 + 0.16 * min(max(n_layers, 8), 24) + 0.7 * (len(places) > LEVEL))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        values = grid(shown, places, measure)
        mesh = _map(axes, values, [words for *_, words in places])
        figure.colorbar(mesh, ax=axes, location="bottom", label=label, pad=0.03, aspect=30)
        axes.set_title("logit difference" if measure == "share" else "answers")
    fewest, most = shown["n"].min(), shown["n"].max()
    style.panel_title(panels[0], "logit difference", most)
    if fewest < most:  # not every name has every position
        panels[0].set_title(f"logit difference\nn = {fewest:,} to {most:,} <subjects>, by position")
    panels[0].set(
        ylabel="layer (residual stream before it)", yticks=range(0, n_layers, max(1, n_layers // 8))
    )
    return figure


def places_of(table: pl.DataFrame) -> list[tuple[str, int, str]]:
    """Roles, numbers and words of the positions of a table, in the order of the prompt."""
    order = {role: i for i, role in enumerate(ROLES)}
    rows = table.select("role", "number", "token").unique().rows()
    several = {role: len({row[1] for row in rows if row[0] == role}) > 1 for role in order}
    found = []
    for role, number, token in sorted(rows, key=lambda row: (order[row[0]], row[1])):
        words = ROLES[role] + (f" {number + 1}" if several[role] else "")
        if token is not None:
            words = f"“{token.strip()}”" + ("\nEND" if role == "end" else "")
        found.append((role, number, words))
    return found


def grid(table: pl.DataFrame, places: list[tuple[str, int, str]], measure: str) -> np.ndarray:
    """Values in per cent by layer (rows) and place (columns), NaN where the table has none."""
    values = np.full((table["layer"].max() + 1, len(places)), np.nan)
    column = {(role, number): i for i, (role, number, _) in enumerate(places)}
    for layer, role, number, value in table.select("layer", "role", "number", measure).iter_rows():
        values[layer, column[role, number]] = np.nan if value is None else 100 * value
    return values


def _map(axes: Axes, values: np.ndarray, words: list[str]):
    layers, positions = (np.arange(n) for n in values.shape)
    look = {"cmap": style.sequential(), "vmin": 0, "vmax": 100, "shading": "nearest"}
    mesh = axes.pcolormesh(positions, layers, values, **look)
    if len(values) <= WRITTEN:
        for (layer, place), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = style.ON_DARK if value > 55 else style.ON_PALE
                axes.text(
                    place, layer, f"{round(value):d}", ha="center", va="center", color=colour, fontsize=7
                )
    if len(words) > LEVEL:
        axes.set_xticks(
            range(len(words)), [word.replace("\n", " ") for word in words], fontsize=7, rotation=90
        )
    else:
        axes.set_xticks(range(len(words)), words, fontsize=7)
    axes.set(xlabel="position in the prompt")
    axes.grid(False)
    return mesh


def sentences(tables: Tables) -> list[str]:
    """At which place most of the answer lies, layer by layer."""
    residual_patching = tables["residual_patching"]
    if residual_patching.is_empty():
        return [NOBODY]
    if nothing_to_swap(residual_patching):
        return [no_swap(residual_patching)]
    enough = residual_patching.filter(pl.col("n") >= min(FEW, residual_patching["n"].max()))
    spans: list[list[list[Row]]] = []
    does = enough.filter(worth_a_word())
    for layer in does["layer"].unique().sort():
        leaders = most(does.filter(layer=layer), "effect", lowest=True)
        if spans and _places(spans[-1][-1]) == _places(leaders):
            spans[-1].append(leaders)
        else:
            spans.append([leaders])
    told = "; ".join(_span(span) for span in spans) or f"nowhere {percent(LEAST_SHARE)} or more"
    row = enough.sort("n", descending=True, maintain_order=True).row(0, named=True)
    return [
        (
            f"Put in place of the residual stream before a layer, another <subject>'s does most: {told}. These are shares of "
            f"what swapping the whole name does, {row['whole_swap']:.2f} logits on average (n = {row['n']:,})."
        )
    ]


def _places(leaders: Sequence[Row]) -> set[tuple[str, int]]:
    return {(row["role"], row["number"]) for row in leaders}


def _span(span: Sequence[Sequence[Row]]) -> str:
    """Neighbouring layers with the same leading places, and the shares of each."""
    first, last = span[0][0]["layer"], span[-1][0]["layer"]
    layers = f"layer {first}" if len(span) == 1 else f"layers {first} to {last}"
    places = [_place(span, row["role"], row["number"]) for row in span[0]]
    apart = "" if len(places) == 1 else ", which cannot be told apart"
    return f"before {layers} at {' and '.join(places)}{apart}"


def _place(span: Sequence[Sequence[Row]], role: str, number: int) -> str:
    rows = [row for leaders in span for row in leaders if (row["role"], row["number"]) == (role, number)]
    low, high = (percent(end(row["share"] for row in rows)) for end in (min, max))
    shares = low if low == high else f"{low} to {high}"
    return f"{role_in_words(role, number)} ({shares}, n = {rows[0]['n']:,})"
