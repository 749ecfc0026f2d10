"""The tables of docs/reliability.md: written by the tests that broke something and saw it survive."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import ROOT

PAGE = ROOT / "docs/reliability.md"


COLUMNS = ("fault", "tried", "lost", "cost", "on")


def write_row(table: str, order: Sequence[str], row: Sequence[object]) -> None:
    """Write a row of the table between `<!-- name -->` and `<!-- end of name -->`, in place of the one of the same fault.

    Rows of other faults stay as they are, with the day on which they were tried; those that `order` does not know go."""
    begin, end = f"<!-- {table} -->", f"<!-- end of {table} -->"
    head, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    old, closed, tail = rest.partition(end)
    assert found and closed, f"{PAGE} has no place for the table {table}"
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines()}
    rows[str(row[0])] = _line(row)
    kept = [rows[fault] for fault in order if fault in rows]
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *kept]
    PAGE.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}", encoding="utf-8")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
