"""The tables of the planted hypotheses, and the numbers of theirs that a study's page shows beside its own.

python -m helpers.hypothesis_tables      (`make planted`; PYTHONPATH=scripts:tests)   writes resources/planted.json
"""

from __future__ import annotations

import json
from functools import cache

import polars as pl

from factfinding.declarations import declarations
from factfinding.engine.engines import engine_of
from factfinding.engine.sweep import Sweeping
from factfinding.experiments.effective_model.compute import effective_model
from factfinding.experiments.linear_structure import compute as linear_structure
from factfinding.experiments.mlp_norms import compute as mlp_norms
from factfinding.experiments.mlp_paths.compute import mlp_paths
from factfinding.experiments.neuron_effects.effects import neuron_effects
from factfinding.experiments.neuron_facts.compute import ask_facts, facts_table
from factfinding.methods.head_reader import head_readers
from factfinding.methods.simplified import parts_of
from factfinding.synthesis import number_of
from helpers import ROOT
from helpers.effective_tables import effective_tables
from helpers.hypotheses import MODELS, Hypothesis
from helpers.inputs import quiet
from helpers.intervention_tables import readers_of
from helpers.name_tables import names_given
from helpers.neuron_tables import compared

STORED = ROOT / "resources/planted.json"
DIGITS = 4
Tables = dict[str, pl.DataFrame]


@cache
def tables(name: str) -> Tables:
    """The tables of P3.1-P3.3, P3.6 and P3.7, by the project's own functions, as its rules call them."""
    model = MODELS[name]()
    anatomy, parts = model.anatomy, parts_of(model.circuit, model.anatomy)
    prompts = {condition: model.prompts(condition) for condition in ("full", "name_only")}
    full, size = prompts["full"], {"batch_size": 64, "seed": 0}
    reader = readers_of(anatomy, full)
    heads = head_readers(anatomy, model.circuit.extract, model.candidates, full, reader, batch_size=64)
    effective = effective_model(anatomy, prompts, reader, parts, **size).model
    inputs, settings = names_given(anatomy, full, full, pairs=100, batch_size=64)
    read_by = {
        "anatomy": anatomy, "candidates": model.candidates, "readers": reader, "circuit": model.circuit
    }  # fmt: skip
    found = neuron_tables(model) | effective_tables(effective, prompts["name_only"], **read_by)
    for experiment in (mlp_norms, linear_structure):
        found |= experiment.compute(inputs, settings, quiet)
    return found | {
        "circuit": model.circuit.to_table(),
        "mlp_paths": mlp_paths(anatomy, full, model.candidates, [reader, *heads], parts, draws=4, **size),
    }


def neuron_tables(model: Hypothesis) -> Tables:
    """Six people, three facts, all neurons of MLPs 1 and 2."""
    people = model.people.select("subject", "answer")
    asked = ask_facts(model.anatomy, model.facts, people, subjects=6, seed=0, batch_size=128)
    how = Sweeping(engine=engine_of(model.anatomy, "auto"), twin_rows=4, log=lambda _: None)
    sweep = neuron_effects(model.anatomy, asked.filter("used"), people, [1, 2], how, draws=24)
    return compared(sweep.table, facts_table(asked))


def planted_numbers() -> dict[str, dict[str, float]]:
    """By prediction and planted model: what the prediction's query gives. Raises ValueError for one that gives nothing."""
    numbers: dict[str, dict[str, float]] = {}
    for name, prediction in declarations().predictions.items():
        for model in MODELS:
            found = number_of(name, prediction, tables(model))
            if found is None:
                raise ValueError(f"{name} was not measured on the planted model {model}")
            numbers.setdefault(name, {})[model] = round(found["value"], DIGITS)
    return numbers


if __name__ == "__main__":
    STORED.parent.mkdir(parents=True, exist_ok=True)
    STORED.write_text(json.dumps(planted_numbers(), indent=1) + "\n")
