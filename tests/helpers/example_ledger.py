"""A made-up ledger: every verdict, all kinds of numbers, and texts that look like markup."""

from __future__ import annotations

import polars as pl

from factfinding.ledger import CONTRADICTED, NOT_APPLICABLE, SUPPORTED, UNDECIDED
from factfinding.tables import schema_of

MARKUP = "<img src=x onerror=alert(1)> </script><script>alert(2)</script>"


def ledger(**verdicts: str) -> pl.DataFrame:
    """Five claims of posts 2 to 4; `verdicts` replaces those of single claims."""
    rows = [
        _row("recall", 2, SUPPORTED, 0.82, 0.71, 0.91, 1494, sentence="The model knows."),
        _row("heads", 2, CONTRADICTED, 3.0, 3.0, 3.0, 747, sentence=f"Few heads. {MARKUP}"),
        _row("lookup", 3, UNDECIDED, 0.5, 0.3, 0.8, 96, sentence="The lookup is early."),
        _row("neurons", 3, SUPPORTED, 12_000.0, 11_000.5, 13_000.0, 96, sentence="Many neurons."),
        _row("toys", 4, NOT_APPLICABLE, None, None, None, None, sentence="Toys.", about="toys"),
    ]
    for row in rows:
        row["verdict"] = verdicts.get(row["claim"], row["verdict"])
    return pl.DataFrame(rows, schema=schema_of("ledger"))


def _row(claim, post, verdict, value, low, high, n, *, sentence, about="model") -> dict:
    return {
        "claim": claim,
        "post": post,
        "experiment": f"P{post}.1",
        "about": about,
        "sentence": sentence,
        "reference": "0.80 of 1,566",
        "verdict": verdict,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "supported_if": "above",
        **dict.fromkeys(("threshold", "threshold_low", "threshold_high"), None if value is None else 0.7),
        "measured": f"what {MARKUP}",
        "reason": "The interval lies somewhere.",
    }
