"""The tables of docs/reliability.md: written by the tests that broke something and saw it survive."""

from __future__ import annotations

from collections.abc import Sequence

from workflow import ROOT

PAGE = ROOT / "docs/reliability.md"


def write_table(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Replace the table between `<!-- name -->` and `<!-- end of name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    assert found and closed, f"{PAGE} has no place for the table {name}"
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
    PAGE.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
