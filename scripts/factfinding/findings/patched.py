"""What the sentences on patched subjects share (P2.7): how a position is named, and what is said without an answer that
comes from the name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl


def role_in_words(role: str, number: int = 0) -> str:
    """A position of the prompt, with its number where a role has several: `the final name token`, `END`."""
    named = {
        "end": "END",
        "relation": f"relation token {number + 1}",
        "middle_name": f"middle name token {number + 1}",
    }
    return named.get(role, f"the {role.replace('_', ' ')} token")


def with_share_ends(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of patched subjects with the interval of its share: that of the effect over the same whole swap, which lowers the
    logit difference. None where the effect has no interval."""
    low, high = (
        None if row[f"effect_{end}"] is None else row[f"effect_{end}"] / row["whole_swap"]
        for end in ("high", "low")
    )
    return {**row, "share_low": low, "share_high": high}


def nothing_to_swap(table: pl.DataFrame) -> bool:
    """Whether swapping the whole name does not lower the logit difference: then no share of it means anything."""
    return table["whole_swap"].max() >= 0


def no_swap(table: pl.DataFrame) -> str:
    """What is said in place of shares where there is nothing to swap."""
    return (
        f"Swapping the whole name changes the logit difference by {table['whole_swap'].max():.2f} logits "
        f"(n = {table['n'].max():,}): the answer does not come from the name, and no part of it can be traced."
    )
