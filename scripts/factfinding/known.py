"""When a model is said to know something: one rule for answers, for other facts, and for what an intervention leaves."""

from __future__ import annotations

from typing import Any

KNOWN_ABOVE = 0.5
"""More than this probability on the right answer's first token: more than on all other tokens together."""


def is_known(p: Any) -> Any:
    """Whether each probability of a right answer is that of a known one; p: a number, an array or a polars column."""
    return p > KNOWN_ABOVE
