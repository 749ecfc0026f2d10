"""Reading a user's table: whatever is wrong is an InputError that says where, and what is allowed."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from factfinding.errors import InputError

TABS = frozenset({".tsv", ".tab"})
LINES = frozenset({".jsonl", ".ndjson"})
FORMATS = "a CSV file, or one that ends in .tsv, .parquet or .jsonl"
_JOINERS = {"\u200c", "\u200d"}
"""Zero-width joiners: invisible, but part of the spelling of some scripts."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One data row. Row 1 is the first under the header; blank lines do not count."""

    number: int
    cells: dict[str, str]


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """Read the named columns of a table, other columns ignored. The end of the file's name says how it is written.

    .parquet; .jsonl or .ndjson, one JSON object in each line; .tsv or .tab, cells between tabs; anything else is
    comma-separated. Text is UTF-8, with or without BOM. Cells between commas or tabs may be quoted and may then hold them and
    newlines; lines may end in LF or CRLF (within a cell too: there CRLF reads as LF); blank lines are skipped. Columns
    without a name (a written-out index) are allowed.

    Raises InputError naming the file, and the row where there is one: file missing, unreadable, damaged or not UTF-8,
    empty, no data rows, columns missing or named twice, broken quotes, rows with more or fewer cells than the
    header; in Parquet and JSON also cells that are no text.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        raise InputError(path, "a JSON file", FORMATS)
    if suffix == ".parquet":
        return _rows_of_parquet(path, columns)
    if suffix in LINES:
        return rows_of_records(path, _records(path, columns), columns)
    return _rows_of_text(path, columns, "\t" if suffix in TABS else ",")


def rows_of_records(path: str | Path, records: Sequence[Any], columns: Sequence[str]) -> list[Row]:
    """Rows from JSON values, each an object with a text under each of the columns. Raises InputError as `read_rows`."""
    found: dict[str, None] = {}
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise InputError(row_place(path, number), f"{record!r:.80}", _an_object(columns))
        found |= dict.fromkeys(record)
    _check_columns(path, list(found), columns)
    return [
        Row(number=number, cells={name: _text(path, number, record, name, columns) for name in columns})
        for number, record in enumerate(records, start=1)
    ]


def row_place(path: str | Path, number: int, what: str = "") -> str:
    """How an error names a row: the file, the data row and, where it helps, whose row it is."""
    return f"{path}, row {number}" + (f" ({what})" if what else "")


def clean_text(text: str, where: str) -> str:
    """A name in one spelling: outer whitespace off, inner runs of it one space, Unicode NFC.

    Raises InputError when nothing is left, and for newlines, tabs and other control or invisible characters
    inside.
    """
    text = text.strip()
    if not text:
        raise InputError(where, "an empty cell", "text")
    for character in text:
        kind = unicodedata.category(character)
        if kind in {"Cc", "Zl", "Zp"} or (kind == "Cf" and character not in _JOINERS):
            name = f"U+{ord(character):04X}"
            raise InputError(
                where, f"the character {name} in {text!r}", "one line without control characters"
            )
    return unicodedata.normalize("NFC", " ".join(text.split()))


def mended(text: str) -> str | None:
    """What `clean_text` changes in a text, in words; None where it changes nothing."""
    single = " ".join(text.split())
    spaces = "has outer, doubled or other than plain spaces" if single != text else None
    form = "is not in the Unicode form NFC" if unicodedata.normalize("NFC", single) != single else None
    return " and ".join(filter(None, [spaces, form])) or None


def read_text(path: str | Path, allowed: str = FORMATS) -> str:
    """A file's text in UTF-8, without BOM. Raises InputError naming the file."""
    content = _read_bytes(path, allowed)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            path, f"bytes that are not UTF-8 (at byte {error.start})", f"text in UTF-8: {allowed}"
        ) from None


def parsed_json(text: str) -> Any:
    """A JSON value. Raises ValueError for what is none, for numbers and nesting beyond Python's limits, and for half
    characters (lone surrogates), which no file can hold."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _read_bytes(path: str | Path, allowed: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(path, "no such file", allowed) from None
    except OSError as error:
        raise InputError(path, f"a file that cannot be read ({error.strerror})", allowed) from None


def _rows_of_text(path: str | Path, columns: Sequence[str], delimiter: str) -> list[Row]:
    text = io.StringIO(read_text(path), newline=None)
    rows = _parsed(path, csv.reader(text, delimiter=delimiter, strict=True))
    if not rows:
        raise InputError(path, "an empty file", f"a table with the columns {', '.join(columns)}")
    header = [name.strip() for name in rows[0]]
    _check_header(path, header, columns)
    if len(rows) == 1:
        raise InputError(path, "a header and no rows", "at least one row under the header")
    places = {name: header.index(name) for name in columns}
    return [
        Row(number=number, cells={name: cells[place] for name, place in places.items()})
        for number, cells in enumerate(rows[1:], start=1)
        if _whole_row(path, number, cells, header)
    ]


def _parsed(path: str | Path, reader) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row:  # a blank line reads as no cells
                rows.append(row)
    except csv.Error as error:
        where = row_place(path, len(rows)) if rows else f"{path}, header"
        allowed = 'cells between commas (tabs in a .tsv), quoted as "..."'
        raise InputError(where, f"a broken row ({error})", allowed) from None
    return rows


def _check_header(path: str | Path, header: list[str], columns: Sequence[str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(path, f"the column {twice[0]!r} more than once", "each column named once")
    _check_columns(path, header, columns)


def _check_columns(path: str | Path, header: list[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        there = ", ".join(repr(name) for name in header) or "no columns"
        allowed = f"columns {', '.join(columns)}, and others"
        if len(header) == 1 and (parted := {"\t": "tabs", ";": "semicolons"}.get(_mark(header[0]))):
            allowed += f"; between {parted} cells are not told apart here: commas, or tabs in a file that ends in .tsv"
        raise InputError(path, f"no column {missing[0]!r} among {there}", allowed)


def _mark(header: str) -> str:
    """What seems to stand between the names of a header that was read as one."""
    return next((mark for mark in "\t;" if mark in header), "")


def _whole_row(path: str | Path, number: int, cells: list[str], header: list[str]) -> bool:
    if len(cells) != len(header):
        found = f"{len(cells)} cells, beginning {cells[:3]}"
        raise InputError(row_place(path, number), found, f"{len(header)} cells, as in the header")
    return True


def _records(path: str | Path, columns: Sequence[str]) -> list[Any]:
    """The values of JSON lines. They are read one by one, so that an error can say which line it is."""
    records = []
    for line in filter(str.strip, read_text(path).split("\n")):
        try:
            records.append(parsed_json(line))
        except ValueError as error:
            where = row_place(path, len(records) + 1)
            raise InputError(where, f"no JSON ({error})", _an_object(columns)) from None
    if not records:
        raise InputError(path, "an empty file", f"{_an_object(columns)} in each line")
    return records


def _an_object(columns: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{name}": "..."' for name in columns) + "}"


def _text(path: str | Path, number: int, record: Mapping[str, Any], name: str, columns: Sequence[str]) -> str:
    if name not in record:
        there = ", ".join(map(repr, record)) or "nothing"
        raise InputError(row_place(path, number), f"no {name!r} among {there}", _an_object(columns))
    value = record[name]
    if not isinstance(value, str):
        raise InputError(
            row_place(path, number, name), f"{json.dumps(value):.80}, which is no text", "a text in quotes"
        )
    return value


def _rows_of_parquet(path: str | Path, columns: Sequence[str]) -> list[Row]:
    content = _read_bytes(path, FORMATS)
    try:
        schema = pl.read_parquet_schema(io.BytesIO(content))
        _check_columns(path, list(schema), columns)
        frame = pl.read_parquet(io.BytesIO(content), columns=list(columns))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            path, f"a damaged Parquet file ({reason:.200})", "a Parquet file as it was saved"
        ) from None
    if frame.is_empty():
        raise InputError(path, "a header and no rows", "at least one row")
    texts = {name: _texts(path, frame[name]) for name in columns}
    return [
        Row(number=number, cells=dict(zip(columns, cells, strict=True)))
        for number, cells in enumerate(zip(*texts.values(), strict=True), start=1)
    ]


def _texts(path: str | Path, column: pl.Series) -> list[str]:
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype not in (pl.String, pl.Null):
        raise InputError(f"{path}, column {column.name}", f"{column.dtype}", "texts (String)")
    values = column.to_list()
    if None in values:
        raise InputError(row_place(path, values.index(None) + 1, column.name), "null", "a text in every row")
    return values
