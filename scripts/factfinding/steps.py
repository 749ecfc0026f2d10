"""The step of a training in the name of a revision or folder, as Pythia's checkpoints (step1000) and trainers' folders
(checkpoint-500) have it."""

from __future__ import annotations

import re

NAMED = r"(step|checkpoint)[-_]?[0-9]{1,12}$"
"""How such a name ends."""
_STEP = re.compile(r"(?:step|checkpoint)[-_]?([0-9]{1,12})$")


def step_in(name: str | None) -> int | None:
    """The step that a name ends in; None: it says none."""
    found = _STEP.search((name or "").rstrip("/"))
    return int(found[1]) if found else None
