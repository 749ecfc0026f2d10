"""What all of them share: how a number, a share and a list of layers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import polars as pl

from factfinding.config import RelationConfig
from factfinding.declarations import declarations
from factfinding.known import STUDY_RULE, Rule
from factfinding.least import LEAST_SHARE, LEAST_SUBJECTS
from factfinding.relation import STUDY, spoken

FEW = LEAST_SUBJECTS
"""Groups of fewer subjects are not singled out in a sentence."""
NAMED = 4
"""Heads that are named in a sentence."""
READ_WELL = 0.9
Row = dict[str, Any]

NOBODY = "Too few <subjects> are known to compare one <answer> with another: there is nothing to see."
NO_PROBE = "Too few <subjects> are known to fit a probe: there is nothing to see."

Tables = Mapping[str, pl.DataFrame]
"""The study's tables by name."""


def told(section: str, tables: Tables, *, relation: RelationConfig = STUDY, **more: Any) -> list[str]:
    """The sentences of an experiment's page (`sentences` in its show.py), in the words of a relation.

    They compare ends of intervals. One that was not measured, as over a single subject, is the whole line to them: from
    minus to plus infinity, so that nothing is surely above or below anything. It is not written out (`share`, `number`).
    """
    tell = import_module(f"factfinding.experiments.{section}.show").sentences
    frames = {name: with_open_ends(frame) for name, frame in tables.items()}
    found = tell(frames, **more)
    if declarations().experiments[section].twin:
        found = found + computed_again(tables.get(f"{section}_twin"))
    return spoken(found, relation)


def computed_again(twin: pl.DataFrame | None) -> list[str]:
    """How far effects by differences lie from those by values (`certified.against_values`)."""
    if twin is None or twin.is_empty():
        return []
    rows, engine, dtype = twin["rows"].sum(), twin["engine"][0], twin["dtype"][0]
    worst = twin["relative_error"].max()
    off = "in nothing" if worst is None else f"by at most {worst:.1g} of the largest effect"
    return [f"Run by {engine}; {rows:,} rows, run again by values in {dtype}, differ {off}."]


def with_open_ends(table: pl.DataFrame) -> pl.DataFrame:
    """A table with minus and plus infinity for the ends of intervals that were not measured."""
    open_ends = {"_low": -math.inf, "_high": math.inf}
    return table.with_columns(
        pl.col(name).fill_null(end).fill_nan(end)
        for side, end in open_ends.items()
        for name in table.columns
        if name.endswith(side) and table.schema[name].is_float()
    )


def _measured(row: Row, name: str) -> bool:
    """Whether a number has an interval."""
    ends = (row[f"{name}_low"], row[f"{name}_high"])
    return None not in ends and all(math.isfinite(end) for end in ends)


def percent(value: float) -> str:
    """A share as per cent, to a tenth, in one piece."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def share(row: Row, name: str) -> str:
    """A share of a row, with its interval where it has one."""
    ends = (
        f" [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]" if _measured(row, name) else ""
    )
    return f"{percent(row[name])}{ends}"


def number(row: Row, name: str, form: str, *, scale: float = 1.0) -> str:
    """A number of a row with its interval, where it has one; `form` as in format strings: "+.2f"."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    ends = "" if not _measured(row, name) else f" [{scale * low:{form}}, {scale * high:{form}}]"
    return f"{scale * value:{form}}{ends}"


def logits(row: Row, name: str) -> str:
    """A number of logits with its interval; tiny ones keep their digits."""
    return number(row, name, "+.2f" if abs(row[name]) >= 0.1 else "+.4f")


def known_rule(tables: Tables) -> Rule:
    """By which rule answers and facts count as recalled, as the table `known_filters` has it; the study's, if it is empty."""
    recalled = tables["known_filters"].filter(filter="recalled")
    return Rule.of(recalled.row(0, named=True)) if recalled.height else STUDY_RULE


def layers_in_words(layers: Sequence[int], probed: Sequence[int]) -> str:
    """Layers as "from layer 3 on" where they are the last ones, else one by one; -1 is the embeddings."""
    layers, probed = sorted(layers), sorted(probed)
    if len(layers) > 1 and layers == probed[-len(layers) :]:
        return "from the embeddings on" if layers[0] < 0 else f"from layer {layers[0]} on"
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][-1] + 1:
            spans[-1].append(layer)
        else:
            spans.append([layer])
    names = [
        _layer(span[0]) if len(span) == 1 else f"{_layer(span[0])} to {_layer(span[-1])}" for span in spans
    ]
    return "at " + ", ".join(names)


def _layer(layer: int) -> str:
    return "the embeddings" if layer < 0 else f"layer {layer}"


def at_layer(layer: int) -> str:
    """`after layer 3`, or the embeddings."""
    return "in the embeddings" if layer < 0 else f"after layer {layer}"


def either(parts: Sequence[str]) -> str:
    """`a, b or c`."""
    return _listed("or", parts)


def all_of(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return _listed("and", parts)


def _listed(last: str, parts: Sequence[str]) -> str:
    """`a, b and c`, with the word before the last one."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def most(rows: pl.DataFrame, name: str, *, lowest: bool = False) -> list[Row]:
    """The row that leads by a number, and after it those that cannot be told apart from it; empty for no rows.

    Where the table has the columns `behind`, and they are measured from this very leader, they decide: a row can be told
    apart whose difference from the leader on the same subjects has an interval without zero. Elsewhere the two intervals
    must not overlap, which asks for more. What has no interval cannot be told apart. lowest: whether the lowest leads.
    """
    ordered = list(
        rows.sort(name, descending=not lowest, nulls_last=True, maintain_order=True).iter_rows(named=True)
    )
    return [row for i, row in enumerate(ordered) if i == 0 or _tied(ordered[0], row, name)]


def _tied(leader: Row, row: Row, name: str) -> bool:
    if leader.get("behind") == 0 and row.get("behind") is not None:
        low, high = row["behind_low"], row["behind_high"]
        return None in (low, high) or low <= 0 <= high
    ends = [one[f"{name}{end}"] for one in (leader, row) for end in ("_low", "_high")]
    return None in ends or (ends[0] <= ends[3] and ends[2] <= ends[1])


def not_surely_more(leaders: Sequence[Row], words: Callable[[Row], str], *, less: bool = False) -> str:
    """What follows a superlative: `, not surely more than A, B and 3 others`; nothing where the leader stands alone."""
    rest = [words(row) for row in leaders[1:]]
    if not rest:
        return ""
    named, more = rest[: NAMED - 1], len(rest) - (NAMED - 1)
    if more == 1:
        named, more = rest, 0
    told = f"{', '.join(named)} and {more:,} others" if more > 0 else _listed("and", named)
    return f", not surely {'less' if less else 'more'} than {told}"


def worth_a_word() -> pl.Expr:
    """Rows that do `LEAST_SHARE` of the whole effect or more, by their column `share`."""
    return pl.col("share") >= LEAST_SHARE


def after_layers(layers: Sequence[int]) -> str:
    """`after layer 2`, `after layers 1, 2 and 5`, `in the embeddings and after layer 0`."""
    blocks = [str(layer) for layer in sorted(layers) if layer >= 0]
    after = [f"after layer{'s' if len(blocks) > 1 else ''} {_listed('and', blocks)}"] if blocks else []
    return _listed("and", (["in the embeddings"] if -1 in layers else []) + after)


def not_surely_better(leaders: Sequence[Row]) -> str:
    """As `not_surely_more`, for layers of one curve: all of them are named."""
    layers = [row["layer"] for row in leaders[1:]]
    return f", not surely more than {after_layers(layers)}" if layers else ""


def best_layer(rows: pl.DataFrame) -> str:
    """The highest accuracy of a curve over layers, where, and the layers that cannot be told from that one."""
    best, *_ = leaders = most(rows, "accuracy")
    return f"{share(best, 'accuracy')} {at_layer(best['layer'])}{not_surely_better(leaders)}"
