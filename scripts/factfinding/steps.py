"""The step of a training in the name of a revision or folder, as Pythia's checkpoints (step1000) and trainers' folders
(checkpoint-500) have it."""

from __future__ import annotations

import re

NAMED = r"(?:step|checkpoint)[-_]?([0-9]{1,12})$"
"""How such a name ends."""


def step_in(name: str | None) -> int | None:
    """The step that a name ends in; None: it says none."""
    found = re.search(NAMED, (name or "").rstrip("/"))
    return int(found[1]) if found else None
