"""The tables of P2.7-P2.11 of a model, by the steps of the rules in rules/interventions.smk, without any files."""

from __future__ import annotations

import polars as pl

from factfinding.data.prompts import prompt_table
from factfinding.methods.context import context_table
from factfinding.methods.effective_table import effective_model
from factfinding.methods.groups import groups_of
from factfinding.methods.head_reader import head_readers
from factfinding.methods.ladder import ladder_table
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.patched import sample
from factfinding.methods.probe_patching import probe_patching
from factfinding.methods.proposal import Circuit, circuit_table, propose, settle
from factfinding.methods.readers import Readers, fit_readers
from factfinding.methods.residual_patching import residual_patching
from factfinding.methods.scan import circuit_scan
from factfinding.methods.simplified import parts_of
from factfinding.methods.total_effects import total_effects
from helpers.effective_tables import effective_tables

SIZE = {"batch_size": 16, "seed": 0}


def readers_of(anatomy, prompts: pl.DataFrame, *, n_folds: int = 4) -> Readers:
    resid = name_outputs(anatomy, prompts, groups_of(prompts), batch_size=64).resid.double().numpy()
    return fit_readers(
        (resid[:, layer] for layer in range(anatomy.n_layers)),
        prompts["athlete"].to_list(),
        prompts["sport"].to_list(),
        n_folds=n_folds,
        regularisation=1e-3,
        max_iter=200,
        tolerance=1e-3,
        seed=0,
    )


def circuit_of(anatomy, prompts, candidates, reader, **fixed) -> tuple[Circuit, dict[str, pl.DataFrame]]:
    """The circuit as rule `circuit` has it, and the tables that it rests on."""
    drawn = sample(prompts, candidates, athletes=12, draws=1, seed=0)
    tables = {
        "circuit_scan": circuit_scan(anatomy, prompts, candidates, reader, athletes=40, **SIZE),
        "residual_patching": residual_patching(anatomy, drawn, **SIZE),
        "total_effects": total_effects(anatomy, drawn, **SIZE),
    }
    nothing = dict.fromkeys(("concatenate", "lookup", "extract"))
    circuit = settle(propose(*tables.values()), **nothing | fixed)
    return circuit, tables | {"circuit": circuit_table(circuit)}


def intervention_tables(
    anatomy, full: pl.DataFrame, candidates: pl.DataFrame, **fixed
) -> dict[str, pl.DataFrame]:
    """All tables by name. full: the prompts table of the athletes, none of them if nobody is known."""
    athletes = full.select("athlete", "sport")
    name_only = full
    if full.height:
        name_only = prompt_table(athletes, anatomy.tokenizer, anatomy.bos_token_id, "name_only")
    prompts = {"full": full, "name_only": name_only}
    reader = readers_of(anatomy, full)
    circuit, tables = circuit_of(anatomy, full, candidates, reader, **fixed)
    parts = parts_of(circuit, anatomy)
    heads = head_readers(anatomy, circuit.extract, candidates, full, reader, batch_size=16)
    effective = effective_model(anatomy, prompts, reader, parts, **SIZE)
    drawn = sample(full, candidates, athletes=24, draws=1, seed=0)
    tables |= effective_tables(effective.model, name_only)
    return tables | {
        "ladder": ladder_table(anatomy, prompts, [reader, *heads], parts, draws=1, **SIZE),
        "effective_model": effective.accuracy,
        "effective_confusion": effective.confusion,
        "context": context_table(anatomy, full, reader, **SIZE),
        "probe_patching": probe_patching(anatomy, drawn, [reader, *heads], **SIZE),
    }
