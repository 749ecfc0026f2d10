"""The effects of single neurons put together from the jobs that share the layers (P3.2); effects.py says what they are."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from factfinding.errors import InputError
from factfinding.experiments.neuron_effects.screen import certificate
from factfinding.inputs import Inputs, Say, Settings
from factfinding.tables import read_table


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `neuron_effects`, `neuron_effects_twin` and `neuron_effects_screen`, from the files of all shards."""
    effects, twins, runs = (
        [read_table(path) for path in inputs.named[part]] for part in ("effects", "twins", "runs")
    )
    facts = inputs.table("neuron_facts")
    together = joined(effects, facts)
    say(f"{together.height:,} effects on {facts['used'].sum()} facts")
    numbered = [twin.with_columns(shard=pl.lit(shard, dtype=pl.Int64)) for shard, twin in enumerate(twins)]
    run = pl.concat(runs)
    if run.height:
        say(f"{run.height:,} of them run, the others estimated")
    return {
        "neuron_effects": together,
        "neuron_effects_twin": pl.concat(numbered),
        "neuron_effects_screen": certificate(run, together.height // max(1, together["kind"].n_unique())),
    }


def joined(shards: Sequence[pl.DataFrame], facts: pl.DataFrame) -> pl.DataFrame:
    """The effects of all shards (each with some layers), by fact in the order of the facts, layer and neuron.

    facts: the table neuron_facts. Raises InputError for a shard with the effects on a fact that is not used: it comes
    from another run.
    """
    order = facts.filter("used").select("subject", "fact").with_row_index("_fact")
    for number, shard in enumerate(shards):
        if shard.join(order, on=["subject", "fact"], how="anti").height:
            raise InputError(
                f"shard {number} of the neuron effects",
                "facts that are not those of neuron_facts.parquet",
                "shards of one run (remove results/<study>/neuron_effects to have them made again)",
            )
    together = pl.concat(shards).join(order, on=["subject", "fact"], how="left", maintain_order="left")
    return together.sort("_fact", "layer", "neuron", maintain_order=True).drop("_fact")
