"""The circuit: which layers gather the name, which MLPs look the fact up, which heads bring it to END.

    circuit = circuit_of(inputs)             # from circuit.yaml, with the numbers that it rests on
    Circuit.from_table(tables["circuit"])    # from the table, which has all but these numbers

The experiment `circuit` proposes it. Imports no torch, so that figures and sentences can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import TypeAdapter

from factfinding.config import read_yaml
from factfinding.errors import InputError
from factfinding.files import write_text
from factfinding.inputs import Inputs
from factfinding.tables import schema_of

AT_NAME, AT_END, UNCLEAR = "final_name", "end", "unclear"
"""Where the fact is looked up."""
PARTS = ("lookup_at", "concatenate", "lookup", "extract")
CELLS = ("place", "first", "last", "heads")
"""Columns of the table `circuit` that a part is written in: `lookup_at` has a place, `extract` heads, the others layers."""
HEADER = "# Which parts of the model do what, and the numbers that say so (scripts/factfinding/experiments/circuit/compute.py).\n"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One number that a proposal rests on: what it is, where it stands, and what it was compared with."""

    claim: str
    table: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """Which parts do what; None, or no heads, where nothing is proposed. `fixed`: the parts that the configuration names
    (who sets `lookup` says that the place is the name); `proposed`: all parts as they were proposed, whatever is set."""

    lookup_at: str
    concatenate: tuple[int, int] | None  # first and last layer
    lookup: tuple[int, int] | None
    extract: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    proposed: Mapping[str, Any] | None = None
    evidence: tuple[Evidence, ...] = ()
    thresholds: Mapping[str, float] | None = None

    @classmethod
    def from_table(cls, table: pl.DataFrame) -> Circuit:
        """The circuit of the table `circuit`, without evidence. Raises KeyError where the table lacks a part."""
        rows = {row["part"]: row for row in table.iter_rows(named=True)}
        return cls(
            **{part: _value(rows[part], part) for part in PARTS},
            fixed=tuple(part for part in PARTS if rows[part]["fixed"]),
            proposed={part: _value(rows[part], part, "proposed_") for part in PARTS},
        )

    def to_table(self) -> pl.DataFrame:
        """The table `circuit`: a row for each part, as it is used and as it was proposed."""
        proposed = self.proposed or {}
        rows = [
            {"part": part, "fixed": part in self.fixed}
            | {"set": _text(getattr(self, part)) if part in self.fixed else None}
            | {"found": _text(proposed.get(part))}
            | _cells(part, getattr(self, part))
            | _cells(part, proposed.get(part), "proposed_")
            for part in PARTS
        ]
        return pl.DataFrame(rows, schema=schema_of("circuit"))

    @property
    def found(self) -> Circuit:
        """The circuit that the tables speak for, with nothing set."""
        if self.proposed is None:
            return self
        parts: dict[str, Any] = {
            part: tuple(v) if isinstance(v, list) else v for part, v in self.proposed.items()
        }
        return Circuit(**parts)

    def save(self, path: str | Path) -> None:
        """Write circuit.yaml, evidence and thresholds included."""
        text = yaml.safe_dump(_plain(asdict(self)), sort_keys=False, allow_unicode=True, width=110)
        write_text(HEADER + text, path)


def circuit_of(inputs: Inputs) -> Circuit:
    """The study's circuit."""
    return inputs.once("circuit.yaml", lambda: read_circuit(inputs.path("circuit.yaml")))


def read_circuit(path: str | Path) -> Circuit:
    """Read circuit.yaml. Raises InputError, naming the file, for one that is damaged or something else."""
    try:
        content = read_yaml(path, "a YAML file")
        if not isinstance(content, dict) or content.keys() != Circuit.__dataclass_fields__.keys():
            raise ValueError(
                f"the keys {sorted(content) if isinstance(content, dict) else type(content).__name__}"
            )
        return TypeAdapter(Circuit).validate_python(content)
    except (ValueError, TypeError) as error:  # an InputError, too, is a ValueError
        raise InputError(path, f"no circuit ({error!r})", "the file that the rule `circuit` writes") from None


def _cells(part: str, value: Any, prefix: str = "") -> dict[str, Any]:
    """A part in the columns of the table `circuit`; all are null where there is nothing."""
    cells: dict[str, Any] = dict.fromkeys(CELLS)
    if part == "lookup_at":
        cells["place"] = value
    elif part == "extract":
        cells["heads"] = " ".join(value or ()) or None
    elif value is not None:
        cells["first"], cells["last"] = value
    return {f"{prefix}{cell}": content for cell, content in cells.items()}


def looked_up_in(lookup: tuple[int, int] | None, n_layers: int) -> tuple[int, int]:
    """The first and last layer of the lookup; where none is found, the middle layer takes its place."""
    return ((n_layers - 1) // 2,) * 2 if lookup is None else lookup


def _text(value: Any) -> str | None:
    """A part in one cell: `end`, `1-2`, `L16H20 L21H9`; None where there is nothing."""
    if isinstance(value, str) or not value:
        return value or None
    return " ".join(value) if isinstance(value[0], str) else "-".join(str(layer) for layer in value)


def _value(row: Mapping[str, Any], part: str, prefix: str = "") -> Any:
    """A part from the columns of its row: a place, heads, or a first and a last layer."""
    place, first, last, heads = (row[f"{prefix}{cell}"] for cell in CELLS)
    if part == "lookup_at":
        return place
    if part == "extract":
        return tuple((heads or "").split())
    return None if first is None else (first, last)


def _plain(value: Any) -> Any:
    """Tuples as lists and numbers as Python's own, rounded for reading."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return round(float(value), 6) if isinstance(value, float) else value
