"""P3.1: a path removed is what hooks on the whole model do, nothing where nothing flows, and all where the fact does."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from factfinding.config import ComputeConfig
from factfinding.data.prompts import prompt_table
from factfinding.declarations import declarations
from factfinding.engine.readings import LogProbs, Resid
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix
from factfinding.engine.trace import Edit, Read, run
from factfinding.experiments.mlp_paths.compute import Paths, Removed, compute, mlp_paths, path_edits, paths_of
from factfinding.experiments.mlp_paths.show import NEEDED, sentences
from factfinding.inputs import Settings
from factfinding.methods.circuit import Circuit
from factfinding.methods.groups import groups_of
from factfinding.methods.name_stream import clean_run, name_outputs
from factfinding.methods.simplified import Parts
from factfinding.tables import schema_of
from helpers import planted
from helpers.head_tables import planted_candidates
from helpers.inputs import given, known, quiet
from helpers.intervention_tables import readers_of
from helpers.models import FAMILIES, random_anatomy, tokenizer

OPTIONS = {"draws": 2, "batch_size": 4, "seed": 0}


def real_names(family: str):
    """A random model and prompts with names of two to many tokens, in two answers."""
    tokens = tokenizer()
    anatomy = random_anatomy(family, dtype=torch.float64, vocabulary=len(tokens))
    anatomy.tokenizer = tokens
    names = ["Tiger Woods", "Tom Brady", "Babe Ruth", "Michael Jordan", "Bo Li", "Al Oz"]
    subjects = pl.DataFrame({"subject": names, "answer": ["baseball", "basketball"] * 3})
    ids = tokens.convert_tokens_to_ids(["Ġbaseball", "Ġbasketball"])
    candidates = pl.DataFrame({"answer": ["baseball", "basketball"], "token_id": ids})
    return anatomy, prompt_table(subjects, tokens, 0, "full"), candidates


def by_hooks(anatomy, tokens, final_name, end, target, moved, *, resid):
    """The whole model, with the input of one MLP's norm changed at the final name token: log-probs and a residual.

    The neurons are given what they make of it, and not the norm itself, which attention may share.
    """
    block = anatomy.blocks[target]
    reads = [Read(site=Site(kind, target), at=final_name) for kind in ("resid_pre", "attn_out")]
    entering, attended = run(anatomy, tokens, reads=reads).values
    mid = entering if anatomy.parallel else entering + attended
    value = block.neurons(block.norm_mlp(mid + moved))[1]
    edit = Edit(site=Site("post", target), at=final_name, value=value)
    read = Read(site=Site("resid_post", resid), at=final_name)
    found = run(anatomy, tokens, logits_at=end, reads=[read], edits=[edit])
    return found.logits.log_softmax(1), found.values[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_removed_is_what_hooks_on_the_norm_give(family):
    """In parallel and sequential blocks, for names of several lengths."""
    anatomy, prompts, _ = real_names(family)
    last = anatomy.n_layers - 1
    outputs = name_outputs(anatomy, prompts, groups_of(prompts), batch_size=3).mlp
    for group in groups_of(prompts):
        clean = clean_run(anatomy, prompts, group, group.rows, to_end=True)
        at, end = (
            torch.full((len(group.rows),), place) for place in (group.layout.final_name, group.layout.end)
        )
        for source, target in ((0, 1), (0, last), (1, last)):
            moved = outputs.mean(0)[source] - outputs[group.rows, source]
            edits = path_edits(anatomy, clean, target, moved)
            logp, resid = by_hooks(anatomy, clean.tokens, at, end, target, moved, resid=last)
            engine = Suffix(anatomy)
            fast = engine.values(clean, edits, LogProbs(at=group.layout.end))
            assert torch.allclose(fast, logp, atol=1e-10) and float(edits.delta.abs().max()) > 1e-6
            stream = engine.values(clean, edits, Resid(at=group.layout.final_name, layer=last))
            assert torch.allclose(stream, resid, atol=1e-10)


@pytest.mark.parametrize("family", ("gpt_neox", "gpt2", "llama"))
def test_put_back_its_own_output_and_nothing_changes_at_all(family):
    anatomy, prompts, candidates = real_names(family)
    runs = Paths(anatomy, prompts, candidates, [readers_of(anatomy, prompts, n_folds=3)], 2, **OPTIONS)
    runs.donors["resample_other"] = [np.arange(prompts.height)]  # everybody is given his own
    before, after = runs.measure([Removed(source=0, target=1, kind="resample_other")]).values()
    for metric, values in after.items():
        assert np.array_equal(values, before[metric])
    assert (after["kl", None] == 0).all()


def test_of_each_pair_the_earlier_is_the_source():
    pairs = {(path.source, path.target) for path in paths_of((2, 4))}
    assert pairs == {(2, 3), (2, 4), (3, 4)}
    assert paths_of((3, 3)) == []


def test_columns_intervals_and_the_unchanged_model():
    anatomy, prompts, candidates = real_names("gpt_neox")
    reader = readers_of(anatomy, prompts, n_folds=3)
    parts = Parts(concatenate=0, lookup=(0, 2))
    table = mlp_paths(anatomy, prompts, candidates, [reader], parts, **OPTIONS)
    assert table.schema == pl.Schema(schema_of("mlp_paths"))
    assert table.height == 5 * (1 + 1 + 3 * 2)  # nothing removed, all MLPs averaged, three paths in two ways
    clean = table.filter(kind="none")
    assert clean["change"].null_count() == 5 and clean.filter(metric="kl")["value"][0] == 0
    changed = table.filter(pl.col("kind") != "none").join(clean, on="metric", suffix="_clean")
    assert np.allclose(changed["value"] - changed["value_clean"], changed["change"], atol=1e-12)
    assert (changed["change_low"] <= changed["change"] + 1e-12).all()
    assert (changed["n"] == 6).all() and (changed["majority_rate"] == 0.5).all()
    kl = changed.filter(metric="kl").drop_nulls("source")
    assert (kl.filter(target=1)["value"] > 0).all()
    assert (kl.filter(target=2)["value"] == 0).all()  # above the last layer nothing brings it to END
    again = mlp_paths(anatomy, prompts, candidates, [reader], parts, **OPTIONS)
    assert again.equals(table)


@pytest.mark.parametrize(("most", "n"), [(None, 16), (5, 5), (100, 16)])
def test_paths_are_removed_on_as_many_of_the_known_as_are_wanted(most, n):
    model = planted.at_name(firsts=4, lasts=4)
    held = {
        "anatomy": model.anatomy,
        "circuit.yaml": Circuit(lookup_at="final_name", concatenate=(0, 0), lookup=(0, 1), extract=()),
        "readers": readers_of(model.anatomy, model.prompts),
        "prompts_full": model.prompts,
        "recall": known(model.prompts),
        "candidates": planted_candidates(model),
    }
    section = {"subjects": "known", "ablated_subjects": most, "draws": 1, "seed": 0}
    settings = Settings({"mlp_paths": section, "compute": ComputeConfig(batch_size=16).model_dump()})
    table = compute(given(**held), settings, quiet)["mlp_paths"]
    assert set(table.filter(kind="mean")["n"]) == {n}


def test_where_only_one_mlp_looks_up_no_path_is_missed():
    """The planted model looks up in MLP 1 alone: nothing flows from it to the others, nor from them to it."""
    model = planted.at_name(firsts=4, lasts=4)
    reader = readers_of(model.anatomy, model.prompts)
    parts = Parts(concatenate=0, lookup=(0, 3))
    candidates = planted_candidates(model)
    table = mlp_paths(model.anatomy, model.prompts, candidates, [reader], parts, **OPTIONS)
    changed = table.drop_nulls("source").filter(pl.col("metric") != "probe_accuracy")
    assert changed.height and changed["change"].abs().max() < 1e-9
    whole = table.filter(pl.col("source").is_null(), metric="answer_accuracy", kind="mean")
    assert whole["value"].item() <= 0.5 + 1e-9  # all of them averaged: nothing is known
    said = sentences({"mlp_paths": table})
    assert "0 surely raise the loss by more than 5 % of what averaging" in said[-1] and "For " not in said[-1]


def test_all_mlps_averaged_is_what_hooks_on_their_outputs_give():
    """The slow twin: the whole model with what these MLPs write at the final name token set to its mean."""
    model = planted.at_name(firsts=4, lasts=4, noise=0.1)
    reader, candidates = readers_of(model.anatomy, model.prompts), planted_candidates(model)
    table = mlp_paths(
        model.anatomy, model.prompts, candidates, [reader], Parts(concatenate=0, lookup=(0, 2)), **OPTIONS
    )
    outputs = name_outputs(model.anatomy, model.prompts, groups_of(model.prompts), batch_size=3).mlp.mean(0)
    edits = [
        Edit(
            site=Site("mlp_out", layer),
            at=model.final_name,
            value=outputs[layer].expand(len(model.tokens), -1),
        )
        for layer in range(3)
    ]
    logp = run(model.anatomy, model.tokens, edits=edits, logits_at=model.end).logits.log_softmax(1)
    slow = -logp[torch.arange(len(logp)), model.answer].mean()
    fast = table.filter(pl.col("source").is_null(), metric="loss", kind="mean")["value"].item()
    assert abs(fast - float(slow)) < 1e-9


def test_where_a_later_mlp_reads_the_fact_from_an_earlier_one_its_path_carries_it():
    """MLP 1's fact is moved by MLP 2 into the feature that the head reads: without 1 -> 2 the answer is lost."""
    model = planted.at_name(firsts=4, lasts=4)
    relay(model)
    candidates, reader = planted_candidates(model), readers_of(model.anatomy, model.prompts)
    parts = Parts(concatenate=0, lookup=(1, 2))
    table = mlp_paths(model.anatomy, model.prompts, candidates, [reader], parts, **OPTIONS)
    right = table.filter(metric="answer_accuracy")
    assert right.filter(kind="none")["value"][0] == 1.0
    assert right.filter(kind="resample_other")["value"][0] == 0.0  # the donor's answer instead
    assert right.filter(kind="mean")["value"][0] <= 0.5 + 1e-9
    assert "1 surely raises the loss" in sentences({"mlp_paths": table})[-1]


def relay(model: planted.Planted) -> None:
    """Rewire `at_name`: the head of layer 3 reads what MLP 2 makes of the fact, and no head reads the fact itself."""
    layers = model.anatomy.model.gpt_neox.layers
    neuron = 5
    fact, free = planted.direction("fact"), planted.direction("moved_last")
    mlp = layers[2].mlp
    mlp.dense_h_to_4h.weight[neuron] = fact / 2
    mlp.dense_4h_to_h.weight[:, neuron] = free
    for old, new in ((2, 3),):
        here, there = layers[old].attention, layers[new].attention
        there.query_key_value.weight[:] = here.query_key_value.weight
        there.query_key_value.bias[:] = here.query_key_value.bias
        there.dense.weight[:] = here.dense.weight
        here.dense.weight[:] = 0
        weight = there.query_key_value.weight.view(planted.HEADS, 3, planted.D_HEAD, planted.WIDTH)
        weight[2, 2, 0] = free / 2


def test_page_and_ledger_call_a_path_needed_from_the_same_size_on():
    (claim,) = (claim for _, claim in declarations().claims if claim.id == "mlp-paths-matter")
    assert (
        claim.supported_if == "above" and claim.threshold == NEEDED
    )  # a share of averaging the lookup's MLPs


def test_without_a_lookup_or_with_one_mlp_or_nobody_known_the_table_is_empty():
    anatomy, prompts, candidates = real_names("gpt_neox")
    for parts, people in (
        (None, prompts),
        (Parts(concatenate=0, lookup=(1, 1)), prompts),
        (Parts(concatenate=0, lookup=(0, 2)), prompts.clear()),
        (Parts(concatenate=0, lookup=(0, 2)), prompts.head(1)),
    ):
        table = mlp_paths(anatomy, people, candidates, [], parts, **OPTIONS)
        assert table.is_empty() and table.schema == pl.Schema(schema_of("mlp_paths"))
    assert sentences({"mlp_paths": table})[0].startswith("No path between MLPs was removed")


def test_subjects_of_one_answer_have_no_donor_of_another():
    anatomy, prompts, candidates = real_names("gpt_neox")
    alone = prompts.filter(pl.col("answer") == "baseball")
    table = mlp_paths(anatomy, alone, candidates, [], Parts(concatenate=0, lookup=(0, 1)), **OPTIONS)
    assert set(table["kind"]) == {"none", "mean"}
    assert (table["majority_rate"] == 1.0).all()
