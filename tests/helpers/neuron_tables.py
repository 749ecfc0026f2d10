"""The tables of P3.1 and P3.2 of a planted model, by their experiments, without any files."""

from __future__ import annotations

import polars as pl

from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from factfinding.experiments.effect_concentration import compute as effect_concentration
from factfinding.experiments.fact_correlations import compute as fact_correlations
from factfinding.experiments.mlp_paths.compute import mlp_paths
from factfinding.experiments.neuron_effects.effects import neuron_effects
from factfinding.experiments.neuron_effects.screen import Screen, certificate
from factfinding.experiments.neuron_facts.compute import ask_facts, facts_table
from factfinding.inputs import Settings
from factfinding.methods.simplified import Parts
from helpers import planted
from helpers.head_tables import planted_candidates
from helpers.inputs import given, quiet
from helpers.intervention_tables import readers_of


def planted_facts(model: planted.Planted) -> pl.DataFrame:
    """The answer of every planted subject, asked in two wordings."""
    rows = []
    for name, answer in model.prompts.select("subject", "answer").iter_rows():
        for relation, shot in (("sport", ""), ("again", "Fact: Tiger Woods plays the sport of golf\n")):
            rows.append((name, relation, f"{shot}Fact: {name} plays the sport of", answer))
    return pl.DataFrame(rows, schema=["subject", "relation", "prompt", "answer"], orient="row")


def neuron_tables(*, knows: bool) -> dict[str, pl.DataFrame]:
    """knows: the model looks the fact up at the name; else it answers another thing, and no lookup was found."""
    model = planted.at_name(firsts=4, lasts=4)
    facts = planted_facts(model)
    if not knows:
        facts = facts.head(6).with_columns(answer=pl.lit("L3"))
    else:  # two facts of one subject are a pair only if their answers differ
        others = dict(zip(planted.ANSWERS, reversed(planted.ANSWERS), strict=True))
        other = pl.col("answer").replace_strict(others)
        facts = facts.with_columns(
            answer=pl.when(pl.col("relation") == "again").then(other).otherwise("answer")
        )
    parts = Parts(concatenate=0, lookup=(0, 2)) if knows else None
    reader, candidates = readers_of(model.anatomy, model.prompts), planted_candidates(model)
    asked = ask_facts(
        model.anatomy, facts, model.prompts, subjects=4, known_only=not knows, seed=0, batch_size=16
    )
    how = Sweeping(engine=Suffix(model.anatomy), twin_rows=2, log=quiet)
    sweep = neuron_effects(
        model.anatomy,
        asked.filter("used"),
        model.prompts,
        [0, 1, 2],
        how,
        draws=4,
        batch_size=16,
        screen=Screen(largest=4, sample=4, seed=0),
    )
    return {
        "mlp_paths": mlp_paths(
            model.anatomy, model.prompts, candidates, [reader], parts, draws=1, batch_size=16, seed=0
        ),
        "neuron_facts": facts_table(asked),
        "neuron_effects_twin": sweep.twin,
        "neuron_effects_screen": certificate(sweep.run, sweep.table.height // 2),
        **compared(sweep.table, facts_table(asked)),
    }


def compared(effects: pl.DataFrame, facts: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The tables that are made from the effects and the answers."""
    inputs, settings = given(neuron_effects=effects, neuron_facts=facts), Settings({"neurons": {"seed": 0}})
    return fact_correlations.compute(inputs, settings, quiet) | effect_concentration.compute(
        inputs, settings, quiet
    )
