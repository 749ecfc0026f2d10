"""P2.3: where the extracting heads look from END, on average and subject by subject."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from factfinding.figures import style
from factfinding.findings.words import NAMED, Tables, percent, share
from factfinding.least import LEAST_SHARE

HEADS = 4
"""Panels at most."""

LEVEL = 6
"""Answers up to which their names stand level; of more they are turned."""
COLUMNS = 48
"""Cells of a panel at most; where there are more subjects, each cell is the mean over a few neighbours."""


@style.styled
def draw_attention_roles(*, attention_roles: pl.DataFrame, attention_subjects: pl.DataFrame) -> Figure:
    """One panel for each head: roles of positions (rows) by subjects (columns), sorted by answer and then by attention
    to the final name token; the mean of each role stands at the right. Frames: the tables of these names."""
    if attention_roles.is_empty():
        return style.nothing_to_draw("no head brings the answer to END")
    heads = attention_roles["head"].unique(maintain_order=True).to_list()[:HEADS]
    every = role_words(attention_roles)
    words = {role: word for role, word in every.items() if role in looked_at(attention_roles, heads)}
    figure = style.new_figure(max(2.3, 0.9 + (0.45 + 0.155 * len(words)) * len(heads)))
    panels = figure.subplots(len(heads), 1, sharex=True, squeeze=False).flatten()
    for axes, head in zip(panels, heads, strict=True):
        mesh, edges = _panel(axes, attention_subjects.filter(head=head), words)
        means = attention_roles.filter(head=head, answer="all")
        _means(axes, means, list(words))
        axes.set_title(f"{head}, n = {means['n'].max():,} <subjects>")
    _answers(panels[-1], edges, left_out=len(every) - len(words))
    figure.colorbar(mesh, ax=panels, label="attention from END (share)", aspect=45, pad=0.075, fraction=0.02)
    return figure


def looked_at(attention_roles: pl.DataFrame, heads: list[str]) -> set[str]:
    """The roles that get a hundredth of some head's attention or more, and the final name token."""
    means = attention_roles.filter(pl.col("head").is_in(heads), answer="all")
    return {"final_name", *means.filter(pl.col("attention") >= LEAST_SHARE)["role"]}


def role_words(attention_roles: pl.DataFrame) -> dict[str, str]:
    """The roles in the prompt's order, with the words that stand for them: a single token is quoted."""
    rows = attention_roles.select("role", "token").unique(maintain_order=True).rows()
    plain = {"bos": "BOS", "newline": "line break", "shot": "example", "fact": '"<before>"'}
    return {
        role: plain.get(role) or (f'"{token.strip()}"' if token and token.strip() else role.replace("_", " "))
        for role, token in rows
    }


def _panel(axes: Axes, subjects: pl.DataFrame, words: dict[str, str]) -> tuple[QuadMesh, dict[str, tuple]]:
    """The cells of one head; returns them and where each answer begins and ends, in columns."""
    wide = subjects.pivot("role", index=["subject", "answer"], values="attention")
    wide = wide.sort("answer", "final_name", descending=[False, True], maintain_order=True)
    roles = list(words)
    values = np.stack([wide[role].to_numpy().astype(float) for role in roles])
    cells, edges = _binned(values, wide["answer"].to_numpy())
    # An image: thousands of cells as shapes would be among the heaviest parts of the page.
    mesh = axes.pcolormesh(cells, cmap=style.sequential(), vmin=0, vmax=1, rasterized=True)
    axes.set_yticks(np.arange(len(roles)) + 0.5, list(words.values()), fontsize=7)
    axes.invert_yaxis()
    axes.grid(False)
    for _, stop in list(edges.values())[:-1]:
        axes.axvline(stop, color=style.GREY, linewidth=0.8)
    return mesh, edges


def _binned(values: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Means over neighbouring subjects of one answer, at most about `COLUMNS` cells in a row."""
    cells, edges, start = [], {}, 0
    for answer in dict.fromkeys(answers):
        mine = np.flatnonzero(answers == answer)
        count = min(len(mine), max(1, round(COLUMNS * len(mine) / len(answers))))
        for part in np.array_split(mine, count):
            given = values[:, part]
            known = ~np.isnan(given)
            cells.append(np.where(known, given, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan))
        edges[answer] = (start, start + count)
        start += count
    return np.stack(cells, axis=1), edges


def _means(axes: Axes, means: pl.DataFrame, roles: list[str]) -> None:
    """The mean over all subjects as a number beside each row."""
    value = dict(means.select("role", "attention").iter_rows())
    for row, role in enumerate(roles):
        axes.annotate(
            f"{100 * value[role]:.1f} %" if role in value else "",
            (1.01, row + 0.5),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=7,
        )


def _answers(axes: Axes, edges: dict[str, tuple[int, int]], *, left_out: int) -> None:
    middles, turned = [(start + stop) / 2 for start, stop in edges.values()], len(edges) > LEVEL
    axes.set_xticks(middles, list(edges), rotation=90 if turned else 0)
    axes.tick_params(axis="x", length=0)
    small = f"\n{left_out} roles of less than {percent(LEAST_SHARE)} left out" if left_out else ""
    axes.set_xlabel(f"<subjects> by <answer>, those with most attention to the final name token first{small}")


def sentences(tables: Tables) -> list[str]:
    """The two places that each of the heads gives most of its attention to."""
    attention_roles = tables["attention_roles"]
    if attention_roles.is_empty():
        return ["No heads bring the answer to END, so there is no attention to look at."]
    words, found = role_words(attention_roles), []
    for head in attention_roles["head"].unique(maintain_order=True).head(NAMED):
        rows = attention_roles.filter(head=head, answer="all").sort("attention", descending=True)
        most, *rest = rows.head(2).iter_rows(named=True)
        rest = [row for row in rest if row["attention"] >= LEAST_SHARE]
        told = (
            f"From END, {head} gives {share(most, 'attention')} of its attention to {_place(words, most['role'])} "
            f"(n = {most['n']:,}; uniform attention: {percent(most['uniform'])})"
        )
        told += "".join(f" and {share(row, 'attention')} to {_place(words, row['role'])}" for row in rest)
        found.append(f"{told}.")
    return found


def _place(words: dict[str, str], role: str) -> str:
    if role.endswith("_name"):
        return f"the {words[role]} token"
    return {"shot": "the example", "newline": "the line break after the example"}.get(role, words[role])
