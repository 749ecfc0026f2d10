"""The effects of single neurons put together from the jobs that share the layers (P3.2); effects.py says what they are."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from factfinding.errors import InputError
from factfinding.inputs import Inputs, Say, Settings
from factfinding.tables import read_table


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `neuron_effects`, `neuron_effects_twin` and `neuron_facts`, from the files of all shards."""
    effects, twins, facts = (
        [read_table(path) for path in inputs.named[part]] for part in ("effects", "twins", "facts")
    )
    together = merged(effects, facts)
    say(f"{together.height:,} effects on {facts[0]['used'].sum()} facts")
    numbered = [twin.with_columns(shard=pl.lit(shard, dtype=pl.Int64)) for shard, twin in enumerate(twins)]
    return {"neuron_effects": together, "neuron_effects_twin": pl.concat(numbered), "neuron_facts": facts[0]}


def merged(shards: Sequence[pl.DataFrame], facts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The effects of all shards (each with some layers), by fact in the order of the facts, layer and neuron.

    facts: the table neuron_facts of each shard. Raises InputError if two shards do not agree on which facts are used:
    they come from runs that differ.
    """
    used = [frame.filter("used").select("subject", "fact") for frame in facts]
    for number, other in enumerate(used[1:], 1):
        if not other.equals(used[0]):
            raise InputError(
                f"shard {number} of the neuron effects",
                "other facts than those of shard 0",
                "shards of one run (remove results/<study>/neuron_effects to have them made again)",
            )
    order = used[0].with_row_index("_fact")
    together = pl.concat(shards).join(order, on=["subject", "fact"], how="left", maintain_order="left")
    return together.sort("_fact", "layer", "neuron", maintain_order=True).drop("_fact")
