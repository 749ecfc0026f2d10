"""What the pages on the effects of single neurons share (P3.2)."""

from __future__ import annotations

import polars as pl

from factfinding.findings.words import Tables, percent

NO_EFFECTS = "no lookup was found at the name, no <subject> has two known facts, or no neuron changes them"
"""Why the tables on the effects of single neurons are empty; which of the three it is, they do not say."""
NO_PAIRS = f"There are no effects of single neurons to compare: {NO_EFFECTS}."
ORDER = ("resample_other", "mean")
"""The reading that is told first."""
READINGS = {
    "mean": "replaced by their mean",
    "resample_other": "replaced by values of <subjects> of another <answer>",
}


def reading(kind: str, tables: Tables) -> str:
    """What was put in place of the neurons, and, under a screen (`neuron_effects_screen`), of how many of them in earnest."""
    screen = tables.get("neuron_effects_screen")
    rows = None if screen is None else screen.filter(pl.col("layer").is_null(), kind=kind)
    if rows is None or rows.is_empty():
        return READINGS[kind]
    run = (rows["largest"] + rows["n"]).sum() / rows["effects"].sum()
    return f"{READINGS[kind]} (the largest and a sample, {percent(run)} of them, in earnest, and the others by estimate)"
