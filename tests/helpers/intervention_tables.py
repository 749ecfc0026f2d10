"""The tables of P2.7-P2.11 of a model, by their experiments' `compute`, without any files."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import polars as pl

from factfinding.config import CircuitConfig, ComputeConfig, InterventionsConfig, RecallConfig
from factfinding.data.prompts import prompt_table
from factfinding.experiments.circuit import compute as circuit
from factfinding.experiments.readers.compute import fit_readers
from factfinding.experiments.total_effects.effects import Part, TotalEffects, measured, parts_of, table_of
from factfinding.inputs import Settings
from factfinding.methods.circuit import Circuit
from factfinding.methods.effective import EffectiveModel
from factfinding.methods.groups import CORRUPT, KINDS, groups_of
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.patched import Sample
from factfinding.methods.readers import Readers
from factfinding.methods.screen import Screen
from factfinding.relation import STUDY
from helpers.effective_tables import effective_tables
from helpers.inputs import given, quiet

SIZE = {"batch_size": 16, "seed": 0}
INTERVENTIONS, CIRCUIT = InterventionsConfig().model_dump(), CircuitConfig().model_dump()


def readers_of(anatomy, prompts: pl.DataFrame, *, n_folds: int = 4) -> Readers:
    resid = name_outputs(anatomy, prompts, groups_of(prompts), batch_size=64).resid.double().numpy()
    return fit_readers(
        (resid[:, layer] for layer in range(anatomy.n_layers)),
        prompts["subject"].to_list(),
        prompts["answer"].to_list(),
        n_folds=n_folds,
        regularisation=1e-3,
        max_iter=200,
        tolerance=1e-3,
        seed=0,
    )


def circuit_of(anatomy, prompts, candidates, reader, **fixed) -> tuple[Circuit, dict[str, pl.DataFrame]]:
    """The circuit as rule `circuit` has it, and the tables that it rests on."""
    held = _held(anatomy, prompts, candidates, reader)
    tables = _computed(("residual_patching", "circuit_scan"), held, **fixed)
    section = _settings(**fixed).interventions
    parts = [
        effects_of_part(anatomy, part, seed=section.seed)
        for part in parts_of(prompts, candidates, section, batch_size=SIZE["batch_size"])
    ]
    tables["total_effects"] = pl.concat(part.table for part in parts)
    tables["total_effects_screen"] = pl.concat(part.screen for part in parts)
    tables |= circuit.compute(given(**tables), _settings(**fixed), quiet)
    return tables.pop("circuit_yaml"), tables


def effects_of_part(
    anatomy, part: Part, *, screen: Screen | None = None, shards: int = 1, seed: int, **how
) -> TotalEffects:
    """The total effects of a part, from that many jobs."""
    frames = [
        measured(anatomy, part, screen=screen, shard=shard, shards=shards, **how) for shard in range(shards)
    ]
    return table_of(pl.concat(frames), screen or Screen(below=0.01, sample=20, seed=seed), seed=seed)


def total_effects_of(
    anatomy, drawn: Sample, *, kinds=(*KINDS, CORRUPT), batch_size: int, **how
) -> TotalEffects:
    """The total effects of one sample under every kind, or under some."""
    return effects_of_part(anatomy, Part(name="all", drawn=drawn, kinds=kinds, batch_size=batch_size), **how)


def intervention_tables(
    anatomy, full: pl.DataFrame, candidates: pl.DataFrame, **fixed
) -> dict[str, pl.DataFrame]:
    """All tables by name. full: the prompts table of the subjects, none of them if nobody is known. fixed: parts of the
    circuit, and `patched`, how many subjects are patched (24)."""
    subjects = full.select("subject", "answer")
    name_only = full
    if full.height:
        name_only = prompt_table(subjects, anatomy.tokenizer, anatomy.bos_token_id, "name_only")
    reader = readers_of(anatomy, full)
    found, tables = circuit_of(anatomy, full, candidates, reader, **fixed)
    held = _held(anatomy, full, candidates, reader) | {"prompts/name_only": name_only, "circuit.yaml": found}
    tables |= _computed(("ladder", "effective_model", "context", "probe_patching"), held, **fixed)
    model = tables.pop("model")
    made = model if isinstance(model, EffectiveModel) else None
    read_by = {"anatomy": anatomy, "candidates": candidates, "readers": reader, "circuit": found}
    return tables | effective_tables(made, name_only, **read_by)


def _held(anatomy, full: pl.DataFrame, candidates: pl.DataFrame, reader: Readers) -> dict[str, Any]:
    """What all experiments read. All subjects are known."""
    recall = full.select("subject", "answer", known=True)
    about = {"anatomy": anatomy, "recall": recall, "candidates": candidates, "readers": reader}
    return about | {"prompts/full": full}


def _computed(experiments: tuple[str, ...], held: dict[str, Any], **fixed) -> dict[str, Any]:
    """What these experiments make, one by one."""
    found: dict[str, Any] = {}
    for name in experiments:
        experiment = import_module(f"factfinding.experiments.{name}.compute")
        found |= experiment.compute(given(**held), _settings(**fixed), quiet)
    return found


def _settings(patched: int = 24, **fixed) -> Settings:
    sample = {"node_subjects": 12, "patched_subjects": patched, "seed": SIZE["seed"]}
    return Settings(
        {
            "compute": ComputeConfig(batch_size=SIZE["batch_size"]).model_dump(),
            "interventions": INTERVENTIONS | sample,
            "circuit": CIRCUIT | fixed,
            "relation": STUDY.model_dump(),
            "recall": RecallConfig().model_dump(),
        }
    )
