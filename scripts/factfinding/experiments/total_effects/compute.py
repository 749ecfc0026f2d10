"""The total effects put together from the jobs that share the layers (P2.7); effects.py says what they are."""

from __future__ import annotations

import polars as pl

from factfinding.experiments.total_effects.effects import table_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.screen import Screen
from factfinding.tables import empty, read_table


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `total_effects`, `total_effects_screen` and `total_effects_twin`, from the files of all shards."""
    section = settings.interventions
    screen = Screen(below=section.screen_below, sample=section.screen_sample, seed=section.seed)
    effects, twins = ([read_table(path) for path in inputs.named[part]] for part in ("effects", "twins"))
    frame = pl.concat(effects)
    found = [
        table_of(frame.filter(part=part), screen, seed=section.seed)
        for part in frame["part"].unique(maintain_order=True)
    ]
    for one in found:
        say(f"{one.table['exact'].sum():,} of {one.table.height:,} effects run")
    return {
        "total_effects": pl.concat([empty("total_effects"), *(one.table for one in found)]),
        "total_effects_screen": pl.concat([empty("total_effects_screen"), *(one.screen for one in found)]),
        "total_effects_twin": pl.concat(twins),
    }
