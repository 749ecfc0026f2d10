"""Heads: direct effects, attention, inputs and probes find what was planted, and nothing where nothing is."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.data.prompts import candidates, prompt_table
from factfinding.engine.cached import cached_nodes, cached_pattern, rows_of
from factfinding.engine.capture import Wanted, capture
from factfinding.engine.direct import HeadPath, Readout
from factfinding.engine.head_probe import folded, head_probe, norm_of
from factfinding.engine.sites import head
from factfinding.errors import InputError
from factfinding.experiments.attention_roles import show as attention_roles_show
from factfinding.experiments.attention_roles.compute import (
    attention_by_role,
    attention_roles,
    attention_subjects,
    finer_roles,
)
from factfinding.experiments.direct_effects import show as direct_effects
from factfinding.experiments.head_inputs import show as head_inputs
from factfinding.experiments.head_probes import show as head_probes
from factfinding.experiments.head_probes.compute import chance_best, scan_heads
from factfinding.methods.direct import extracting_heads, largest, pair_up
from factfinding.methods.halves import halve
from factfinding.store import Activations, Source, assemble
from factfinding.tables import empty
from helpers import planted
from helpers.head_tables import head_tables, name_residuals, planted_candidates
from helpers.models import FAMILIES, random_anatomy, tokenizer
from helpers.patching import read_nodes

TOKENIZER = tokenizer()
ANSWERS = ["baseball", "basketball", "football"]
WHOLE = -4 * planted.LOGIT  # +-16 turned round: the logit difference goes from +16 to -16


@cache
def found(kind: str) -> dict[str, pl.DataFrame]:
    model = planted.at_name() if kind == "name" else planted.at_end()
    return head_tables(model.anatomy, model.prompts, planted_candidates(model))


@cache
def random_prompts(n: int = 24) -> pl.DataFrame:
    """Prompts of one length for a model that knows nobody."""
    names = [
        f"{a} {b}" for a in ("Al", "Bo", "Cy", "Di", "Ed", "Fy") for b in ("Lee", "May", "Noe", "Orr", "Poe")
    ]
    subjects = pl.DataFrame({"subject": names, "answer": [ANSWERS[i * 7 % 3] for i in range(len(names))]})
    prompts = prompt_table(subjects, TOKENIZER, 0, "full")
    return prompts.filter(pl.col("n_tokens") == pl.col("n_tokens").mode().first()).head(n)


def random_candidates():
    return candidates(ANSWERS, random_prompts()["text"][0], TOKENIZER)


def test_direct_effects_find_the_planted_head_alone():
    table = found("name")["direct_effects"].filter(answer="all")
    change = dict(table.select("node", "exact").rows())
    for node in ("L2H2", "attn_out:2", "all"):
        assert change.pop(node) == pytest.approx(WHOLE, abs=1e-3)
    assert max(map(abs, change.values())) < 1e-3
    assert table.filter(rank=1)["node"].to_list() == ["L2H2"]
    assert table["logit_difference"].unique().to_list() == pytest.approx([2 * planted.LOGIT], abs=1e-3)
    assert set(table["n"]) == {16}


def test_where_the_fact_is_looked_up_at_end_no_head_is_named_but_the_mlp_is_seen():
    tables = found("end")
    everybody = tables["direct_effects"].filter(answer="all")
    assert everybody.filter(pl.col("kind") != "all").sort("exact")["node"][0] == "mlp_out:1"
    assert everybody.filter(kind="head")["exact"].abs().max() < 1e-3
    for name in ("attention_roles", "attention_subjects", "head_inputs"):
        assert tables[name].is_empty() and tables[name].width
    said = direct_effects.sentences(tables)
    assert "none of 16 heads lowers the logit difference by 1.0\N{NO-BREAK SPACE}% or more of what" in said[0]
    assert "Of the MLPs at END, most of all does MLP 1 by -32.00" in said[1] and len(said) == 2


def test_the_planted_head_looks_at_the_final_name_token_and_reads_the_lookup():
    tables = found("name")
    roles = tables["attention_roles"].filter(head="L2H2", answer="all")
    assert dict(roles.select("role", "attention").rows())["final_name"] == pytest.approx(1.0)
    assert roles["attention"].sum() == pytest.approx(1.0) and roles["uniform"].sum() == pytest.approx(1.0)
    tokens = dict(roles.select("role", "token").rows())
    assert (
        tokens["relation_1"].strip() == "plays"
        and tokens["end"].strip() == "of"
        and tokens["final_name"] is None
    )
    change = dict(tables["head_inputs"].filter(reader="L2H2").select("node", "exact").rows())
    assert change.pop("all") == pytest.approx(WHOLE, abs=1e-3) == change.pop("mlp_out:1")
    assert max(map(abs, change.values())) < 1e-3
    by_answer = tables["attention_subjects"]["answer"].to_list()
    assert by_answer == sorted(by_answer)


def test_the_planted_head_is_the_best_probe_from_the_lookup_on():
    scan = found("name")["head_probes"]
    best = scan.filter(rank=1).row(0, named=True)
    assert (best["head"], best["accuracy"], best["heads_tried"], best["n"]) == ("L2H2", 1.0, 16, 8)
    assert (
        best["accuracy_unfolded"]
        == best["accuracy_scaled"]
        == best["same_unfolded"]
        == best["same_scaled"]
        == 1.0
    )
    assert best["p_corrected"] < 0.1 and scan.filter(pl.col("p_corrected") < 0.1).height == 1
    layers = found("name")["head_probe_layers"].filter(head="L2H2", condition="full").sort("layer")
    assert layers["accuracy"].to_list()[2:] == [1.0] * 3 and max(layers["accuracy"].to_list()[:2]) < 0.8
    assert layers["loss"].to_list()[2] < 0.05 and layers["chosen_by"][0] == "direct effect and probe"
    assert layers["selectivity"].is_null().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_identities_hold_on_every_family(family):
    """Frozen changes sum to that of everything; a layer's heads sum to its attention; attention sums to one."""
    anatomy = random_anatomy(family, dtype=torch.float64)
    tables = head_tables(anatomy, random_prompts(), random_candidates(), fixed=["L2H1", "L0H0"])
    close = {"abs": 1e-9}
    for table in (
        tables["direct_effects"].filter(answer="football"),
        tables["head_inputs"].filter(reader="L2H1"),
    ):
        parts = table.filter(pl.col("kind").is_in(["embedding", "head", "mlp_out"]))["frozen"].sum()
        assert parts == pytest.approx(table.filter(kind="all")["frozen"].item(), **close)
        heads = table.filter(kind="head", layer=1)["frozen"].sum()
        assert heads == pytest.approx(table.filter(node="attn_out:1")["frozen"].item(), **close)
        assert (table["exact_low"] <= table["exact"]).all() and (table["exact"] <= table["exact_high"]).all()
    sums = (
        tables["attention_subjects"].group_by("head", "subject").agg(pl.col("attention").sum())["attention"]
    )
    assert sums.to_list() == pytest.approx([1.0] * len(sums), abs=1e-6)
    nothing_below = tables["head_inputs"].filter(reader="L0H0")
    assert nothing_below["kind"].to_list() == ["embedding", "all"]
    assert set(tables["head_probe_layers"]["chosen_by"]) >= {"configuration"}
    assert set(tables["head_probe_layers"]["layer"]) == set(range(-1, anatomy.n_layers))


def test_a_model_that_knows_nothing_shows_no_probe_better_than_the_best_by_chance():
    tables = head_tables(random_anatomy("gpt_neox"), random_prompts(), random_candidates())
    assert tables["head_probes"]["p_corrected"].min() > 0.01
    assert tables["head_probes"]["chance_best"][0] > tables["head_probes"]["majority_rate"][0]


@pytest.mark.parametrize("few", [0, 1, 2])
def test_nobody_or_one_answer_gives_empty_tables_with_all_columns_and_sentences(few):
    prompts = random_prompts().filter(answer="football").head(few)
    full = found("name")
    for name, table in (
        head_tables(random_anatomy("gpt2"), prompts, random_candidates()).items() if few else ()
    ):
        assert table.is_empty() and table.columns == full[name].columns, name
    empty = {name: table.clear() for name, table in full.items()}
    said = direct_effects.sentences(empty) + attention_roles_show.sentences(empty)
    said += head_inputs.sentences(empty)
    said += head_probes.sentences(empty | {"layer_probes": pl.DataFrame()})
    assert len(said) == 4


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), seed=st.integers(0, 5))
def test_donors_and_halves_depend_on_names_and_seed_alone(order, seed):
    prompts, answers = random_prompts(12), random_candidates()
    shuffled = prompts[list(order)]

    def donors(table):
        pairs = pair_up(table, answers, seed=seed)
        assert (pairs.own != pairs.other).all()
        names = table["subject"].to_list()
        return {name: names[int(donor)] for name, donor in zip(names, pairs.donor, strict=True)}

    def chosen(table):
        return set(table.filter(halve(table, ANSWERS, seed=seed).choosing)["subject"])

    assert donors(prompts) == donors(shuffled)
    assert chosen(prompts) == chosen(shuffled) and len(chosen(prompts)) in (5, 6, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_is_what_the_head_writes(family):
    """The slow twin: push a residual through the head's own norm, W_V and W_O, and read it off the final norm's weight."""
    anatomy, site = random_anatomy(family, dtype=torch.float64), head(1, 2)
    ids = random_candidates()["token_id"].to_list()
    resid = torch.randn(9, anatomy.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    readout, path = Readout.of(anatomy, ids), HeadPath.of(anatomy, site)
    written = path.norm(resid) @ path.value @ path.out
    said = written @ folded(readout.norm, readout.directions.T)
    probe = head_probe(anatomy, site, ids, fold_norm=False)
    assert torch.allclose(norm_of(anatomy, 1)(resid) @ probe, said, atol=1e-9)

    centred = resid - resid.mean(-1, keepdim=True) if path.norm.centred else resid
    scale = (centred.square().mean(-1, keepdim=True) + path.norm.eps).sqrt()
    linear = (resid / scale) @ head_probe(anatomy, site, ids)
    assert torch.allclose(
        linear - linear[:1], said - said[:1], atol=1e-6
    )  # the norm's bias is the same for all


def test_the_best_of_many_heads_by_chance_is_what_it_is():
    """Answers that are coin tosses: the corrected p-value of the best head is below 0.05 in about 5 % of the scans."""
    rng, below = np.random.default_rng(0), 0
    for trial in range(60):
        labels, answers = rng.integers(0, 3, 60), rng.integers(0, 3, (40, 60))
        best = chance_best(answers, labels, permutations=100, seed=trial)
        accuracy = (answers == labels).mean(axis=1).max()
        below += (1 + (best >= accuracy - 1e-9).sum()) / 101 < 0.05
        assert best.min() > 1 / 3
    assert below <= 9


def test_residuals_out_of_order_are_refused():
    model = planted.at_name()
    halves = halve(model.prompts, list(planted.ANSWERS), seed=0)
    layers = list(name_residuals(model.anatomy, model.prompts))[1:]
    with pytest.raises(ValueError, match="read the residual after -1, not after 0"):
        scan_heads(model.anatomy, layers, halves, [10, 11], permutations=100, seed=0)


def test_a_head_that_the_model_lacks_is_named():
    model = planted.at_name()
    with pytest.raises(InputError, match="L2H9.*head 9.*heads 0-3"):
        extracting_heads(model.anatomy, found("name")["direct_effects"], fixed=["L2H9"], count=4)
    fixed = extracting_heads(model.anatomy, pl.DataFrame(), fixed=["L3H0"], count=4)
    assert fixed == [head(3, 0)]


def test_names_of_any_number_of_tokens():
    """One, two and four tokens in one table: roles that a prompt lacks are not counted as zero."""
    roles = {
        1: ["bos", "shot", "shot", "fact", "final_name", "relation", "end"],
        2: ["bos", "shot", "shot", "fact", "first_name", "final_name", "relation", "end"],
        4: [
            "bos",
            "shot",
            "shot",
            "fact",
            "first_name",
            "middle_name",
            "middle_name",
            "final_name",
            "relation",
            "end",
        ],
    }
    assert finer_roles(roles[1])[1:3] == ["shot", "newline"] and finer_roles(roles[1])[-2:] == [
        "relation_1",
        "end",
    ]
    prompts = pl.DataFrame(
        {"subject": ["C", "A", "B"], "answer": ["x", "y", "x"], "roles": [roles[4], roles[1], roles[2]]}
    )
    pattern = np.full((3, 10), np.nan)
    for row, length in enumerate((10, 7, 8)):
        pattern[row, :length] = 1 / length
    found = attention_by_role({"L0H0": pattern}, prompts)
    assert found.subjects["subject"].to_list() == ["B", "C", "A"]
    each = attention_subjects(found)
    assert each.height == 8 + 9 - 0 + 7 and each["attention"].is_not_null().all()
    means = attention_roles(found, tokens={"end": " of"}, seed=0).filter(answer="all")
    assert means["role"].to_list() == [
        "bos", "shot", "newline", "fact", "first_name", "middle_name", "final_name", "relation_1", "end"
    ]  # fmt: skip
    n = dict(means.select("role", "n").rows())
    assert (n["bos"], n["first_name"], n["middle_name"]) == (3, 2, 1)
    assert means["attention"].to_list() == pytest.approx(means["uniform"].to_list())
    assert means.filter(role="middle_name")["attention_low"].is_null().all(), "one subject has no interval"


@pytest.mark.parametrize("before", [None, 2, 0])
def test_nodes_from_a_file_are_those_of_a_run(tmp_path, before):
    anatomy, table = random_anatomy("gpt_neox"), random_prompts(6)
    kinds = ("resid", "attn_out", "mlp_out", "z", "pattern")
    source = Source(model="m", revision="", dtype="float32", condition="full", code="c", stored="float32")
    kept = {"shards": tmp_path / "shards", "log": lambda _: None}
    options = {"source": source, "batch_size": 4, "shard_rows": 4, "attributes": {}}
    wanted = [Wanted(site=kind, role="end") for kind in kinds]
    capture(anatomy, table, wanted, tmp_path / "listing.h5", **kept, **options)
    assemble(tmp_path / "full.h5", table, [tmp_path / "listing.h5"], **kept)
    asked = table["subject"].to_list()[::-2]
    with Activations(tmp_path / "full.h5") as file:
        rows = rows_of(file, asked)
        cached = cached_nodes(file, "end", rows, n_layers=anatomy.n_layers, before=before)
        pattern = cached_pattern(file, 1, rows)
        with pytest.raises(InputError, match="full.h5.*no subject 'Nobody'"):
            rows_of(file, ["Nobody"])
    mine = table[rows]
    tokens, at = torch.tensor(mine["token_ids"].to_list()), torch.tensor(mine["end"].to_list())
    for name, value in vars(read_nodes(anatomy, tokens, at, before=before)).items():
        assert torch.allclose(getattr(cached, name), value, atol=1e-5), name
    assert torch.allclose(pattern.sum(-1), torch.ones(len(rows), anatomy.n_heads), atol=1e-5)


def test_a_table_too_long_for_csv_keeps_all_nodes_and_the_largest_changes():
    table = found("name")["direct_effects"]
    nodes = table.filter(answer="all").height
    cut = largest(table, nodes + 2)
    assert cut.filter(answer="all").equals(table.filter(answer="all")) and cut.height == nodes + 2
    assert set(cut.filter(pl.col("answer") != "all")["exact"].abs().round(3)) == {round(-WHOLE, 3)}
    assert largest(table, 10_000).equals(table)


def test_the_sentences_name_the_planted_parts():
    tables, regression = found("name"), empty("layer_probes")
    said = direct_effects.sentences(tables)[:1] + attention_roles_show.sentences(tables)[:1]
    said += head_inputs.sentences(tables)[:1]
    said += head_probes.sentences(tables | {"layer_probes": regression})
    parts = ("1 of 16 heads", "L2H2 gives 100.0 %", "MLP 1 alone does -32.00", "L2H2, is right for 100.0 %")
    for sentence, part in zip(said, parts, strict=False):
        assert part in sentence.replace("\u00a0", " ")
    assert "surely right for 90 % nowhere, at best for 100.0 % [67.6, 100.0] after layer 1" in said[
        -1
    ].replace("\u00a0", " ")
