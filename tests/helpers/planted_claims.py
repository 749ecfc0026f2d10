"""For every claim of the ledger a small truth and a small falsehood.

`MODELS`: two models with weights set by hand, of which the claim is true and false, and the tables that the experiments
themselves make of them. `TABLES`: two sets of tables written by hand, where no model is planted: that holds the rule, but
not the experiment that makes its numbers. tests/report/test_claims.py judges all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import polars as pl

from factfinding.data.prompts import prompt_table
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Sweeping
from factfinding.experiments.circuit_checks.compute import circuit_checks
from factfinding.experiments.entity_cells.compute import entity_cells
from factfinding.experiments.layer_probes.compute import baseline_rows, probe_rows, table_of, with_name_groups
from factfinding.experiments.linear_relation.compute import linear_relation
from factfinding.experiments.mlp_paths.compute import mlp_paths
from factfinding.experiments.name_unit.compute import name_unit
from factfinding.experiments.neuron_effects.effects import neuron_effects
from factfinding.experiments.neuron_facts.compute import ask_facts, facts_table
from factfinding.experiments.recall.compute import answer_scores, recall_table
from factfinding.methods.circuit import AT_NAME, Circuit
from factfinding.methods.patched import sample
from factfinding.methods.probes import ProbeSettings
from factfinding.methods.simplified import Parts
from factfinding.tables import schema_of
from helpers import hypotheses, intervention_tables, planted_cells, sparse, variants
from helpers.attribute_tables import attribute_tables, unknown_attribute
from helpers.effective_tables import effective_tables
from helpers.head_tables import head_tables, name_residuals, planted_candidates
from helpers.inputs import quiet
from helpers.intervention_tables import readers_of
from helpers.neuron_tables import compared, planted_facts
from helpers.planted import Planted
from helpers.planted_directions import tables_with

Tables = dict[str, pl.DataFrame]
Made = Callable[[], Tables]


@cache
def heads(model: Callable[[], Planted], *arguments: int) -> Tables:
    """The tables on heads."""
    made = model(*arguments)
    return head_tables(made.anatomy, made.prompts, planted_candidates(made))


@cache
def heads_of_three_answers(model: Callable[[], hypotheses.Hypothesis]) -> Tables:
    made = model()
    return head_tables(made.anatomy, made.prompts(), made.candidates)


@cache
def simplified(
    model: Callable[[], Planted], *arguments: int, experiments: tuple[str, ...] = (), **fixed: Any
) -> Tables:
    """The circuit with the tables that it rests on, and those of further experiments of P2.8 to P2.11. fixed: the parts of
    the circuit that the configuration sets."""
    made, everyone = model(*arguments), {"patched": 80}
    candidates, reader = planted_candidates(made), readers_of(made.anatomy, made.prompts)
    circuit, tables = intervention_tables.circuit_of(
        made.anatomy, made.prompts, candidates, reader, **everyone, **fixed
    )
    name_only = prompt_table(
        made.prompts.select("subject", "answer"),
        made.anatomy.tokenizer,
        made.anatomy.bos_token_id,
        "name_only",
    )
    held = intervention_tables._held(made.anatomy, made.prompts, candidates, reader)
    held |= {"prompts/name_only": name_only, "circuit.yaml": circuit}
    tables = tables | intervention_tables._computed(experiments, held, **everyone, **fixed)
    if "model" in tables:
        read_by = {"anatomy": made.anatomy, "candidates": candidates, "readers": reader, "circuit": circuit}
        tables |= effective_tables(tables.pop("model"), name_only, **read_by)
    return tables


def recalled(model: Callable[[], Planted]) -> Tables:
    made = model()
    candidates = planted_candidates(made).with_columns(answer_token=pl.concat_str(pl.lit(" "), "answer"))
    scores = answer_scores(made.anatomy, made.prompts, candidates, batch_size=80)
    prompts = made.prompts.select("subject", "answer", n_name_tokens=pl.lit(2, pl.Int64))
    return {"recall": recall_table(prompts, candidates, {"full": scores, "zero_shot": scores})}


@cache
def probed(model: Callable[[], Planted], *arguments: int) -> Tables:
    """The table of regressions by layer, under both conditions, and on the name's tokens."""
    made, settings = model(*arguments), ProbeSettings(control_folds=("last_name",), tolerance=1e-3)
    subjects = made.prompts.select("subject", "answer")
    grouped = with_name_groups(subjects)
    tokenizer = made.anatomy.tokenizer
    layers = []
    for condition in ("full", "name_only"):
        prompts = prompt_table(subjects, tokenizer, made.anatomy.bos_token_id, condition)
        layers += [(condition, layer, resid) for layer, resid in name_residuals(made.anatomy, prompts)]
    tokens = [
        tokenizer.convert_tokens_to_ids([f" {word}" for word in name.split()]) for name in subjects["subject"]
    ]
    found = [
        *baseline_rows(grouped, tokens, settings=settings, seed=0),
        *probe_rows(iter(layers), grouped, settings=settings, seed=0),
    ]
    return {"layer_probes": table_of(found, seed=0)}


@cache
def checked(model: Callable[[], Planted]) -> Tables:
    made = model()
    return {
        "circuit_checks": circuit_checks(
            made.anatomy, made.prompts, planted_candidates(made), batch_size=80, seed=0
        )
    }


@cache
def paths(model: Callable[[], hypotheses.Hypothesis]) -> Tables:
    made, parts = model(), Parts(concatenate=0, lookup=(1, 2))
    reader = readers_of(made.anatomy, made.prompts())
    table = mlp_paths(
        made.anatomy, made.prompts(), made.candidates, [reader], parts, draws=2, batch_size=80, seed=0
    )
    return {"mlp_paths": table}


@cache
def neurons(model: Callable[[], Any]) -> Tables:
    """P3.2 on six subjects, every neuron of MLPs 1 and 2."""
    made = model()
    hypothesis = isinstance(made, hypotheses.Hypothesis)
    facts, prompts = (made.facts, made.prompts()) if hypothesis else (planted_facts(made), made.prompts)
    asked = ask_facts(made.anatomy, facts, prompts, subjects=6, seed=0, batch_size=128)
    how = Sweeping(engine=Suffix(made.anatomy), twin_rows=2, log=quiet)
    swept = neuron_effects(made.anatomy, asked.filter("used"), prompts, [1, 2], how, draws=8)
    return compared(swept.table, facts_table(asked))


@cache
def related(model: Callable[[], sparse.Sparse], lookup: tuple[int, int] | None) -> Tables:
    """P1.3 on 72 subjects of three answers, and the circuit that was planted."""
    made = model()
    drawn = sample(made.prompts(), made.candidates, subjects=72, draws=0, seed=0)
    table = linear_relation(
        made.anatomy, drawn, examples=8, betas=(1.0, 2.0, 4.0), ranks=(1, 2, 4), batch_size=80, seed=0
    )
    parts = {
        "lookup_at": AT_NAME if lookup else "end",
        "concatenate": (0, 0),
        "lookup": lookup,
        "extract": (),
    }
    return {"linear_relation": table, "circuit": Circuit(**parts, proposed=parts).to_table()}


@cache
def cells(model: Callable[[], Any]) -> Tables:
    """P3.9 on all subjects, MLPs 1 and 2."""
    made = model()
    prompts, candidates = (
        made.prompts,
        planted_candidates(made) if isinstance(made, Planted) else made.candidates,
    )
    drawn = sample(prompts, candidates, subjects=80, draws=0, seed=0)
    return entity_cells(made.anatomy, drawn, (1, 2), sizes=(1, 3), batch_size=80, seed=0)


@cache
def units(model: Callable[[], Planted], lookup: tuple[int, int]) -> Tables:
    """P1.6 on all subjects, and the circuit that was planted."""
    made = model()
    reader, candidates = readers_of(made.anatomy, made.prompts), planted_candidates(made)
    found = name_unit(made.anatomy, made.prompts, made.prompts, candidates, reader, batch_size=80, seed=0)
    parts = {"lookup_at": AT_NAME, "concatenate": (0, 0), "lookup": lookup, "extract": ()}
    return found | {"circuit": Circuit(**parts, proposed=parts).to_table()}


def effective_of(model: Callable[[], Planted], **fixed: Any) -> Tables:
    return simplified(model, experiments=("effective_model",), **fixed)


ladder = ("ladder",)
late = {"experiments": ladder, "concatenate": (0, 0)}
early = {"experiments": ladder, "concatenate": (1, 1)}
narrow, wide = {"features": (32,), "active": 2}, {"features": (8, 256)}
"""Widths of dictionaries: as many features as tokens and some more; far fewer than subjects, and more."""

MODELS: dict[str, tuple[Made, Made]] = {
    "attributes-readable": (lambda: attribute_tables(hypotheses.fact_cells), unknown_attribute),
    "attribute-moved-alone": (
        lambda: attribute_tables(hypotheses.fact_cells),
        lambda: attribute_tables(hypotheses.hash_lookup, 1),
    ),
    "attends-unasked": (
        lambda: attribute_tables(hypotheses.extracts_always),
        lambda: attribute_tables(hypotheses.fact_cells),
    ),
    "extracts-unasked": (
        lambda: attribute_tables(hypotheses.extracts_always),
        lambda: attribute_tables(hypotheses.fact_cells),
    ),
    "recall-confident": (lambda: recalled(variants.at_name), lambda: recalled(variants.unsure)),
    "direct-few-heads": (lambda: heads(variants.at_name), lambda: heads(variants.many_heads)),
    "direct-heads-late": (lambda: heads(variants.at_name), lambda: heads(variants.extracted_early)),
    "direct-head-for-one-sport": (
        lambda: heads_of_three_answers(variants.heads_for_one_answer),
        lambda: heads_of_three_answers(hypotheses.entity_cells),
    ),
    "attention-to-name": (lambda: heads(variants.at_name), lambda: heads(variants.by_way_of_relation)),
    "first-head-reads-mlps": (lambda: heads(variants.at_name), lambda: heads(variants.additive)),
    "later-heads-read-the-first": (lambda: heads(variants.head_reads_head), lambda: heads(variants.copies)),
    "head-probe": (lambda: heads(variants.at_name), lambda: heads(variants.at_end)),
    "head-probe-writes": (lambda: heads(variants.at_name), lambda: heads(variants.idle_reader)),
    "sport-readable-early": (
        lambda: heads(variants.at_name) | simplified(variants.at_name),
        lambda: heads(variants.later, 3) | simplified(variants.later, 3),
    ),
    "more-than-the-tokens": (lambda: probed(variants.at_name), lambda: probed(variants.additive_at_end)),
    "name-alone-suffices": (lambda: probed(variants.at_name), lambda: probed(variants.only_if_asked)),
    "probes-flat-later": (lambda: probed(variants.at_name), lambda: probed(variants.later, 3)),
    "answer-at-name": (lambda: simplified(variants.at_name), lambda: simplified(variants.at_end)),
    "attention-early": (lambda: simplified(variants.at_name), lambda: simplified(variants.later, 3)),
    "lookup-at-name": (lambda: checked(variants.at_name), lambda: checked(variants.at_end)),
    "frozen-patterns-suffice": (lambda: checked(variants.at_name), lambda: checked(variants.by_pattern)),
    "attention-0-needed": (lambda: simplified(variants.at_name), lambda: simplified(variants.later, 3)),
    "attention-1-needed": (lambda: simplified(variants.later, 1), lambda: simplified(variants.at_name)),
    "late-attention-idle": (
        lambda: simplified(variants.at_name, experiments=ladder),
        lambda: simplified(variants.later, 1, **late),
    ),
    "early-mlps-idle": (
        lambda: simplified(variants.later, 1, lookup=(2, 2), **early),
        lambda: simplified(variants.later, 1, lookup=(3, 3), **early),
    ),
    "effective-model": (
        lambda: effective_of(variants.at_name),
        lambda: effective_of(variants.by_pattern, lookup=(1, 1)),
    ),
    "context-early": (
        lambda: simplified(variants.at_name, experiments=("context",)),
        lambda: simplified(variants.only_if_asked, experiments=("context",)),
    ),
    "probed-direction-used": (
        lambda: simplified(variants.at_name, experiments=("probe_patching",)),
        lambda: simplified(variants.copies, experiments=("probe_patching",)),
    ),
    "mlp-paths-matter": (lambda: paths(hypotheses.hash_lookup), lambda: paths(hypotheses.entity_cells)),
    "facts-share-no-neurons-mean": (
        lambda: neurons(hypotheses.fact_cells),
        lambda: neurons(hypotheses.entity_cells),
    ),
    "facts-share-no-neurons-resample": (
        lambda: neurons(hypotheses.fact_cells),
        lambda: neurons(hypotheses.entity_cells),
    ),
    "no-entity-cells": (lambda: neurons(variants.many_neurons), lambda: neurons(hypotheses.entity_cells)),
    "relation-linear": (
        lambda: related(sparse.at_name, (1, 1)),
        lambda: related(sparse.at_end, None),
    ),
    "relation-linear-causal": (
        lambda: related(sparse.at_name, (1, 1)),
        lambda: related(sparse.at_end, None),
    ),
    "dictionary-first-names": (
        lambda: tables_with("first", "last", **narrow),
        lambda: tables_with("last", "answer", **narrow),
    ),
    "dictionary-last-names": (
        lambda: tables_with("first", "last", **narrow),
        lambda: tables_with("first", "answer", **narrow),
    ),
    "dictionary-answers": (
        lambda: tables_with("first", "last", "answer", features=(8,)),
        lambda: tables_with("first", "last", **narrow),
    ),
    "dictionary-entities-wide": (
        lambda: tables_with("first", "last", "answer", "entity", **wide),
        lambda: tables_with("first", "answer", **wide),
    ),
    "dictionary-few-groups": (
        lambda: tables_with("entity", features=(256,)),
        lambda: tables_with("first", "last", "group", features=(64,)),
    ),
    "name-goes-on": (lambda: units(variants.at_name, (1, 1)), lambda: units(variants.additive, (1, 1))),
    "no-neuron-erases": (lambda: cells(variants.many_neurons), lambda: cells(planted_cells.at_name)),
    "no-neuron-recovers": (lambda: cells(variants.many_neurons), lambda: cells(planted_cells.at_name)),
    "token-sum-says-little": (
        lambda: effective_of(variants.at_name),
        lambda: effective_of(variants.additive, lookup=(1, 1)),
    ),
}


def rows(table: str, *found: dict[str, Any]) -> Tables:
    """A table of these rows; columns that are not named are empty. A tuple (value, low, high) fills an estimate."""
    spelt = []
    for row in found:
        cells: dict[str, Any] = {}
        for name, value in row.items():
            ends = (
                dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))
                if isinstance(value, tuple)
                else {}
            )
            cells |= ends or {name: value}
        spelt.append(cells)
    schema = schema_of(table)
    unknown = {name for row in spelt for name in row} - set(schema)
    if unknown:
        raise ValueError(f"{table} has no columns {sorted(unknown)}")
    return {table: pl.DataFrame(spelt, schema=schema)}


def near(value: float, width: float = 0.02) -> tuple[float, float, float]:
    """An estimate with this half width."""
    return value, value - width, value + width


def path_costs(metric: str, *, path: float, fall: float) -> Tables:
    """Averaging the lookup's MLPs costs 4 nats and 0.6 of the accuracy; the path 1 -> 2 these."""
    common = {"kind": "mean", "n": 64}
    return rows(
        "mlp_paths",
        common | {"metric": metric, "change": near(4.0)},
        common | {"metric": "accuracy", "change": near(-0.6)},
        common | {"metric": metric, "source": 1, "target": 2, "change": near(path)},
        common | {"metric": "accuracy", "source": 1, "target": 2, "change": near(-fall)},
    )


def paths_out_of(first: float, second: float) -> Tables:
    common = {"kind": "mean", "n": 64, "metric": "loss"}
    costs = {(1, 2): first, (1, 3): 0.1, (2, 3): second}
    removed = [common | {"source": i, "target": j, "change": near(cost)} for (i, j), cost in costs.items()]
    return rows("mlp_paths", common | {"change": near(4.0)}, *removed)


def rise(*accuracies: float) -> Tables:
    """Held-out accuracies of the effective model: on the token sum, then after one MLP after another."""
    common = {"labels": "true", "folds": "last_name", "n": 400, "majority_rate": 0.33, "n_name_tokens": 2}
    steps = [
        common | {"input": "resid", "layer": layer, "accuracy": near(now), "step": near(now - before, 0.03)}
        for layer, (before, now) in enumerate(pairwise(accuracies), start=1)
    ]
    return rows("effective_probes", common | {"input": "token_sum", "accuracy": near(accuracies[0])}, *steps)


def norms(auc: float) -> Tables:
    layers = [
        {"condition": "full", "output": "mlp", "layer": layer, "auc": near(auc if layer == 1 else auc - 0.1),
         "auc_control": near(0.5), "n_known": 400, "n_unknown": 400}
        for layer in range(4)
    ]  # fmt: skip
    return rows("mlp_norms", *layers)


def broken(*, more: float, since_first: float = 0.2, output: str = "mlp") -> Tables:
    """Median ratios at layer 1 of known names, which are `more` above those of shuffled weights and of unknown names."""
    common = {"condition": "full", "output": output, "n": 100, "median": near(0.6)}
    found = [
        common | {"names": names, "layer": layer, "since_first": near(since_first)}
        | ({} if names == "known" else {"known_more": near(more)})
        for names in ("known", "unknown", "shuffled")
        for layer in range(3)
    ]  # fmt: skip
    circuit = Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, 2), extract=())
    return rows("linear_structure", *found) | {"circuit": circuit.to_table()}


def remainder(auc: float) -> Tables:
    return rows("orthogonal_remainder", {"others": "all", "status": "defined", "auc": near(auc), "n": 400})


def toys(task: str, score: float) -> Tables:
    return rows("toy_verdict", {"task": task, "score": near(score), "found": "shown", "n": 5})


def local(*medians: float, alone: float = 0.5, quartile: float = 0.9) -> Tables:
    """Median cosines after each layer with ten tokens, and with one."""
    found = [
        {"layer": layer, "k": k, "median": median, "median_low": median - 0.005, "median_high": median + 0.005,
         "lower_quartile": quartile, "lower_quartile_low": quartile - 0.005, "lower_quartile_high": quartile + 0.005,
         "n": 800, "n_strings": 200}
        for layer, value in enumerate(medians)
        for k, median in ((1, alone), (10, value))
    ]  # fmt: skip
    return rows("locality", *found)


def changed(compared_with: str, *differences: float, **more: str) -> Tables:
    """Differences of median cosines with ten tokens, layer by layer."""
    common = {"k": 10, "compared_with": compared_with, "n": 800, "n_strings": 200} | more
    found = [
        common | {"layer": layer, "difference": near(value, 0.005)} for layer, value in enumerate(differences)
    ]
    return rows("locality_differences", *found)


NEURON = {"neuron": "L1N3", "layer": 1, "index": 3, "answer": "baseball"}


def neuron(table: str = "", *found: dict[str, Any], auc: float = 0.9) -> Tables:
    """A neuron that tells baseball, the best of all answers, and rows of another table about it."""
    best = NEURON | {
        "chosen_on": "first",
        "rank": 1,
        "sign": 1,
        "auc_choosing": auc,
        "auc": near(auc),
        "n": 200,
    }
    told = [NEURON | {"chosen_by": "scan", "best": True} | row for row in found]
    return rows("answer_neurons", best | {"best": True}) | (rows(table, *told) if table else {})


def ablated(mean: float, zero: float) -> Tables:
    common = {"n": 100, "random_largest": 0.01, "random_change": near(0.0)}
    found = [
        common
        | {"kind": kind, "loss": near(0.1 + rise), "change": near(rise), "from_mean": near(rise - mean)}
        for kind, rise in {"none": 0.0, "mean": mean, "zero": zero}.items()
    ]
    return neuron("answer_neuron_ablations", *found)


def cosines(share: float) -> Tables:
    seconds = ("output weights", "head logit", "head logit difference")
    found = [
        {"first": "input weights", "second": second, "share_below": share, "share_above": 1 - share, "sign": 1,
         "neurons": 128, "head_rank": 1}
        for second in seconds
    ]  # fmt: skip
    return neuron("answer_neuron_cosines", *found)


def projected(kept: float) -> Tables:
    row = {
        "removed": "output weights and head",
        "head_rank": 1,
        "auc": near(0.5 + 0.4 * kept),
        "kept": near(kept),
        "n": 200,
    }
    return neuron("answer_neuron_projections", row)


def excess(ratio: float) -> Tables:
    row = {"names": "known", "layers": "all", "probe": "head", "ratio_both": near(ratio), "n": 400}
    return rows("nonlinear_excess", row)


TABLES: dict[str, tuple[Made, Made]] = {
    "mlp-paths-loss-before-accuracy": (
        lambda: path_costs("loss", path=2.0, fall=0.1),
        lambda: path_costs("loss", path=1.0, fall=0.6),
    ),
    "mlp-paths-kl-before-accuracy": (
        lambda: path_costs("kl", path=2.0, fall=0.1),
        lambda: path_costs("kl", path=1.0, fall=0.6),
    ),
    "mlp-paths-worst-from-first": (lambda: paths_out_of(2.0, 1.0), lambda: paths_out_of(1.0, 2.0)),
    "excess-not-in-one-step": (lambda: excess(0.23), lambda: excess(0.85)),
    "lookup-gradual": (lambda: rise(0.4, 0.6, 0.8, 1.0), lambda: rise(0.4, 0.41, 0.99, 1.0)),
    "sport-neuron": (neuron, lambda: neuron(auc=0.6)),
    "sport-neuron-matters": (lambda: ablated(0.2, 0.4), lambda: ablated(0.0, 0.4)),
    "sport-neuron-zero-is-worse": (lambda: ablated(0.2, 0.4), lambda: ablated(0.2, 0.05)),
    "sport-neuron-keeps-direction": (lambda: cosines(0.99), lambda: cosines(0.5)),
    "sport-neuron-along-sport": (lambda: cosines(0.99), lambda: cosines(0.5)),
    "sport-neuron-not-only-direction": (lambda: projected(0.84), lambda: projected(0.1)),
    "known-names-larger": (lambda: norms(0.7), lambda: norms(0.3)),
    "mlp-outputs-break-structure": (lambda: broken(more=0.3), lambda: broken(more=-0.3)),
    "residual-structure-breaks-with-depth": (
        lambda: broken(more=0.3, output="resid"),
        lambda: broken(more=0.3, since_first=-0.2, output="resid"),
    ),
    "unknown-names-break-as-much": (lambda: broken(more=0.01), lambda: broken(more=0.5)),
    "orthogonal-remainder": (lambda: remainder(0.6), lambda: remainder(0.5)),
    "toys-generalising-show-features": (lambda: toys("generalising", 0.8), lambda: toys("generalising", 0.1)),
    "toys-memorising-show-none": (lambda: toys("memorising", 0.0), lambda: toys("memorising", 0.8)),
    "early-layers-local": (lambda: local(0.99, 0.95, 0.9), lambda: local(0.8, 0.7, 0.6)),
    "early-layers-not-quite-local": (
        lambda: local(0.99, 0.97, 0.9, quartile=0.9),
        lambda: local(0.99, 0.98, 0.97, quartile=0.98),
    ),
    "locality-falls": (
        lambda: changed("first_layer", 0, -0.1, -0.2),
        lambda: changed("first_layer", 0, 0.1, 0.2),
    ),
    "locality-last-layer": (
        lambda: changed("layer_before", 0, -0.1, 0.1),
        lambda: changed("layer_before", 0, 0.1, -0.1),
    ),
    "locality-least-for-common-tokens": (
        lambda: changed("alphabetic", -0.1, 0.1, category="comma"),
        lambda: changed("alphabetic", 0.1, -0.1, category="comma"),
    ),
}
