"""Tables as they are printed, and docs/performance.md, of which each suite writes its own part."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factfinding.files import write_text

HEAD = """# Performance

Written by `python benchmarks/run.py`; each part below says on what machine, with what versions and by which command.
Figures are the fastest of a few rounds in which all ways of doing the same work take turns, so read the ratios.

Weights are random (of the shape named), so a speed does not depend on what the model knows; the number of points that a
curve needs does. On a trained 8-layer model of width 64 it was 3.3 to 4.4 evaluations per neuron on average for 1e-4
of the largest effect, the held-out one counted (one athlete, layers 1 to 3), and no neuron needed more than 8.

The other tools run the whole model for every patch and are timed on fewer patches; all figures are per patch, and
errors are over the patches that all have in common. A patch is one neuron set to one value, or one layer's residual at
one position of one prompt.
"""
NOT_RUN = {
    "rules": "## Where the time of a study goes\n\nNot measured yet: `python benchmarks/rules.py results/organism`.\n",
    "throughput": "## On a GPU\n\nNot run yet: no GPU was at hand. `python benchmarks/run.py --device cuda --shape "
    "pythia-2.8b` measures it and writes this part.\n",
    "compare": "## Against other tools\n\nNot run yet: `python benchmarks/run.py` measures it and writes this part.\n",
}


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


def write_part(path: Path, suite: str, title: str, about: Sequence[str], tables: Sequence[Table]) -> None:
    """Write one suite's part into the page and leave the other's as it is."""
    parts = {name: _part(path, name) or text for name, text in NOT_RUN.items()}
    parts[suite] = "\n".join(
        [f"## {title}\n", *(f"- {line}" for line in about), "", *(t.markdown() for t in tables)]
    )
    marked = [
        f"<!-- {name} -->\n{parts[name].strip()}\n<!-- end of {name} -->"
        for name in ("rules", "compare", "throughput")
    ]
    write_text("\n\n".join([HEAD.strip(), *marked]) + "\n", path)


def _part(path: Path, suite: str) -> str | None:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(rf"<!-- {suite} -->\n(.*?)<!-- end of {suite} -->", text, re.DOTALL)
    return found[1] if found else None
