"""Tables as they are declared: read with the columns and types of `experiments/<name>/experiment.yaml`, and held to them
when they are written. An empty CSV keeps its types so, and a column of digits that are names stays text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from factfinding.declarations import ColumnType, TableDeclaration, declarations
from factfinding.errors import InputError
from factfinding.files import write_table

TYPES: Mapping[ColumnType, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "number32": pl.Float32(),
    "boolean": pl.Boolean(),
    "strings": pl.List(pl.String()),
    "integers": pl.List(pl.Int64()),
}
WRITTEN = "a table written by this workflow"


def schema_of(name: str) -> dict[str, pl.DataType]:
    """The declared columns of a table, in order. Those of which there is one for each answer are left out."""
    return {column: TYPES[kind] for column, kind in _declared(name).names.items() if "*" not in column}


def empty(name: str) -> pl.DataFrame:
    """A table without rows, with all its columns."""
    return pl.DataFrame(schema=schema_of(name))


def as_declared(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """A table's declared columns, in order and in their types."""
    schema = schema_of(name)
    return frame.select(*schema).cast(schema)  # type: ignore[arg-type]


def read_table(path: str | Path) -> pl.DataFrame:
    """Read a table that this project wrote; its name is the file's.

    Raises InputError naming the file where it is missing, damaged, or has other columns than it should.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", WRITTEN)
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        declared = _declared(path.stem)
        header = pl.read_csv(path, n_rows=0, infer_schema=False).columns
        types = declared.types(header)
        if types is None:
            found = f"the columns {', '.join(header)}"
            raise InputError(path, found, f"the columns {', '.join(declared.names)}")
        return pl.read_csv(path, schema={column: TYPES[kind] for column, kind in types.items()})
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(path, f"a damaged table ({error})", WRITTEN) from None


def write_declared(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table, whole. Raises ValueError for columns or types that are not the declared ones."""
    name = Path(path).stem
    types = _declared(name).types(frame.columns)
    wanted = None if types is None else {column: TYPES[kind] for column, kind in types.items()}
    if wanted is None or dict(frame.schema) != wanted:
        raise ValueError(
            f"table {name}: columns {dict(frame.schema)}, declared are {wanted or _declared(name).names}"
        )
    write_table(frame, path)


def _declared(name: str) -> TableDeclaration:
    known = declarations().tables
    if name not in known:
        raise InputError(f"table {name!r}", "no declaration", f"one of {', '.join(sorted(known))}")
    return known[name]
