"""Tables as they are printed, and docs/performance.md, of which each benchmark writes its own marked part."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from factfinding.files import write_text

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text with a title and a note."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n" + (f"{self.note}\n\n" if self.note else "") + table + "\n"

    def plain(self) -> str:
        widths = [max(len(line[i]) for line in [self.columns, *self.rows]) for i in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True))
            for line in [self.columns, *self.rows]
        ]
        return "\n".join([f"\n{self.title}", *lines])


def number(x: float, digits: int = 3) -> str:
    """A figure with `digits` significant digits."""
    return "-" if math.isnan(x) else f"{x:.{digits}g}"


class Section:
    """One part of the page, printed and written row by row, so that a run that is killed keeps what it has.

    sweep = Section(path, "sweep", ["command: ..."])
    row = sweep.table("Neuron sweep", ("way", "seconds"))
    row("curves", "15.8")
    """

    def __init__(self, path: Path, name: str, about: Sequence[str]) -> None:
        self.path, self.name, self.about = path, name, list(about)
        self.tables: list[Table] = []
        self.failed = False
        print(f"\n{name}", flush=True)
        self._write()

    def table(self, title: str, columns: Sequence[str], note: str = "") -> Callable[..., None]:
        """Begin a table; what is returned adds a row of cells to it."""
        rows: list[Sequence[str]] = []
        table = Table(title=title, columns=columns, rows=rows, note=note)
        self.tables.append(table)
        print(f"\n{title}", _line(columns, columns), sep="\n", flush=True)

        def add(*cells: str) -> None:
            rows.append([str(cell) for cell in cells])
            print(_line(rows[-1], columns), flush=True)
            self._write()

        return add

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Tell of an error in the page instead of raising it, so that what comes after is still measured."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - printed, told in the page, and in the exit code
            traceback.print_exc()
            self.failed = True
            self.say(f"{what}: stopped by {type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def say(self, line: str) -> None:
        """A line about this part: what could not be measured, and why."""
        self.about.append(line)
        print(line, flush=True)
        self._write()

    def _write(self) -> None:
        write_part(self.path, self.name, self.about, [table for table in self.tables if table.rows])


FIRST_WIDTH = 36


def _line(cells: Sequence[str], columns: Sequence[str]) -> str:
    """A row as it is printed before the others are known: columns as wide as their titles, the first one wider."""
    widths = [FIRST_WIDTH, *(max(len(column), 8) for column in columns[1:])]
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def write_part(
    path: Path, name: str, about: Sequence[str], tables: Sequence[Table], title: str | None = None
) -> None:
    """Write one marked part of the page, and leave all else in it as it is.

    A page that is not there yet begins as a copy of docs/performance.md. Raises ValueError for a page without
    the part's marks.
    """
    page = (path if path.is_file() else DOCUMENT).read_text(encoding="utf-8")
    head = [f"## {title}\n"] if title else []
    part = "\n".join([*head, *(f"- {line}" for line in about), "", *(table.markdown() for table in tables)])
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path}: found no part {start.strip()} ... {end.strip()}")
    write_text(before + start + part.strip() + end + after, path)
