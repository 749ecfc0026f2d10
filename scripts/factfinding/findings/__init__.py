"""What the tables say, in sentences.

Each sentence is computed and carries n, interval and baseline. They are worded to be true of any model, one that knows
nothing included. The rules are the same throughout, and stand in the sentences:

- a share is *above* a baseline if the lower end of its 95 % interval is above the baseline (above its upper end, where
  the baseline was itself measured);
- two shares *differ* if their intervals do not overlap; a fall that is not measured is not called zero.

The first sentence of each list is the one that the summary of the page shows. One module per stage, each with its
`FINDINGS`: by section of the report (resources/report/sections.yaml), the sentences on it, given all tables by name.
"""

from __future__ import annotations

from collections.abc import Callable

from factfinding.findings import (
    heads,
    interventions,
    neurons,
    recall,
    simplified,
)
from factfinding.findings.words import Tables

FINDINGS: dict[str, Callable[[Tables], list[str]]] = (
    recall.FINDINGS | heads.FINDINGS | interventions.FINDINGS | simplified.FINDINGS | neurons.FINDINGS
)
