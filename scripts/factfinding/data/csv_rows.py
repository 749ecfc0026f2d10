"""Reading a user's CSV: whatever is wrong is an InputError that says where, and what is allowed."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factfinding.errors import InputError

_JOINERS = {"\u200c", "\u200d"}
"""Zero-width joiners: invisible, but part of the spelling of some scripts."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One data row. Row 1 is the first under the header; blank lines do not count."""

    number: int
    cells: dict[str, str]


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """Read the named columns of a comma-separated UTF-8 file, with or without BOM, other columns ignored.

    Cells may be quoted and may then hold commas and newlines; lines may end in LF or CRLF
    (within a cell too: there CRLF reads as LF); blank lines are skipped. Columns without a name (a written-out
    index) are allowed.

    Raises InputError naming the file, and the row where there is one: file missing, unreadable or not UTF-8,
    empty, no data rows, columns missing or named twice, broken quotes, rows with more or fewer cells than the
    header.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=None), strict=True)
    rows = _parsed(path, reader)
    if not rows:
        raise InputError(path, "an empty file", f"a CSV with the columns {', '.join(columns)}")
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


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "no such file", "a CSV file") from None
    except OSError as error:
        raise InputError(path, f"a file that cannot be read ({error.strerror})", "a CSV file") from None
    except UnicodeDecodeError as error:
        raise InputError(
            path, f"bytes that are not UTF-8 (at byte {error.start})", "a CSV file in UTF-8"
        ) from None


def _parsed(path: str | Path, reader) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row:  # a blank line reads as no cells
                rows.append(row)
    except csv.Error as error:
        where = row_place(path, len(rows)) if rows else f"{path}, header"
        raise InputError(where, f"a broken row ({error})", 'comma-separated cells, quoted as "..."') from None
    return rows


def _check_header(path: str | Path, header: list[str], columns: Sequence[str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InputError(path, f"the column {twice[0]!r} more than once", "each column named once")
    missing = [name for name in columns if name not in header]
    if missing:
        there = ", ".join(repr(name) for name in header)
        raise InputError(
            path, f"no column {missing[0]!r} among {there}", f"columns {', '.join(columns)}, and others"
        )


def _whole_row(path: str | Path, number: int, cells: list[str], header: list[str]) -> bool:
    if len(cells) != len(header):
        found = f"{len(cells)} cells, beginning {cells[:3]}"
        raise InputError(row_place(path, number), found, f"{len(header)} cells, as in the header")
    return True
