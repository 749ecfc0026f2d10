"""P2.7-P2.11 on planted circuits: the tables say what was planted, and nothing else; and what they are made from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.data.prompts import prompt_table
from factfinding.declarations import declarations
from factfinding.engine.difference import Difference
from factfinding.engine.readings import Logits, Resid
from factfinding.engine.replaced import Replaced
from factfinding.engine.sites import Site, parse
from factfinding.engine.suffix import Suffix
from factfinding.engine.trace import Edit, Read, run
from factfinding.errors import InputError
from factfinding.experiments.circuit.compute import propose, settle
from factfinding.experiments.circuit_scan import show as circuit_show
from factfinding.experiments.context.compute import context_prompts, unknown_tokens
from factfinding.experiments.effective_model import show as effective_show
from factfinding.experiments.effective_model.compute import effective_model
from factfinding.experiments.ladder import show as ladder_show
from factfinding.experiments.ladder.compute import steps
from factfinding.experiments.probe_patching.compute import erased, probe_patching, span
from factfinding.experiments.readers.compute import fit_readers
from factfinding.experiments.residual_patching import show as residual_show
from factfinding.experiments.total_effects.effects import place_means
from factfinding.findings.words import share
from factfinding.known import Rule
from factfinding.methods.circuit import Circuit, read_circuit
from factfinding.methods.groups import CORRUPT, KINDS, draw_donors, groups_of
from factfinding.methods.name_stream import clean_run, name_outputs
from factfinding.methods.patched import sample
from factfinding.methods.readers import load_readers
from factfinding.methods.screen import Screen
from factfinding.methods.simplified import Parts, parts_of
from helpers import planted
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import intervention_tables, readers_of, total_effects_of
from helpers.models import FAMILIES, random_anatomy, tokenizer


@pytest.fixture(scope="module")
def at_name():
    model = planted.at_name(firsts=6, lasts=6)
    return intervention_tables(model.anatomy, model.prompts, planted_candidates(model))


@pytest.fixture(scope="module")
def at_end():
    model = planted.at_end(firsts=6, lasts=6)
    return intervention_tables(model.anatomy, model.prompts, planted_candidates(model))


def real_names(family: str, dtype=torch.float64):
    """A random model and prompts with names of two to many tokens, in two answers."""
    tokens = tokenizer()
    anatomy = random_anatomy(family, dtype=dtype, vocabulary=len(tokens))
    anatomy.tokenizer = tokens
    names = ["Tiger Woods", "Tom Brady", "Babe Ruth", "Michael Jordan", "Bo Li", "Al Oz", "Bo Oz", "Al Li"]
    subjects = pl.DataFrame({"subject": names, "answer": ["baseball", "basketball"] * 4})
    prompts = {c: prompt_table(subjects, tokens, 0, c) for c in ("full", "name_only")}
    ids = tokens.convert_tokens_to_ids(["Ġbaseball", "Ġbasketball"])
    return anatomy, prompts, pl.DataFrame({"answer": ["baseball", "basketball"], "token_id": ids})


# the planted answers


def test_total_effects_find_the_planted_nodes_and_no_other(at_name):
    patched = at_name["total_effects"].filter(kind=CORRUPT).filter(pl.col("effect").abs() > 1e-3)
    found = set(patched.select("node", "role").rows())
    assert found == {
        ("L0H1", "final_name"), ("attn_out:0", "final_name"), ("mlp_out:1", "final_name"), ("L2H2", "end"),
        ("attn_out:2", "end"),
    }  # fmt: skip
    whole = patched.filter(node="mlp_out:1")
    assert whole["share"][0] == pytest.approx(1, abs=1e-4) and whole["effect"][0] == pytest.approx(
        -32, abs=1e-2
    )


def test_a_subject_of_the_same_answer_changes_nothing_that_depends_on_the_answer_alone(at_name):
    rows = at_name["total_effects"].filter(kind="resample_same", node="mlp_out:1", role="final_name")
    assert abs(rows["effect"][0]) < 1e-3


def test_residual_patching_follows_the_fact_from_the_name_to_end(at_name):
    table = at_name["residual_patching"]

    def share(layer, role):
        return table.filter(layer=layer, role=role, number=0)["follows"][0]

    assert [share(layer, "final_name") for layer in range(4)] == [
        pytest.approx(share(0, "final_name")),
        1,
        1,
        0,
    ]
    assert [share(layer, "end") for layer in range(4)] == [0, 0, 0, 1]
    assert table.filter(role="relation")["effect"].abs().max() < 1e-3


def test_the_planted_circuit_is_proposed_with_its_evidence(at_name):
    used = Circuit.from_table(at_name["circuit"])
    assert (used.lookup_at, used.concatenate, used.lookup) == ("final_name", (0, 0), (1, 1))
    assert used.extract == ("L2H2",)
    assert "looked up at the final name token" in circuit_show.sentences(at_name)[0]


def test_a_lookup_at_end_is_said_and_no_circuit_is_proposed(at_end):
    used = Circuit.from_table(at_end["circuit"])
    assert (used.lookup_at, used.concatenate, used.lookup, used.extract) == ("end", None, None, ())
    assert at_end["effective_model"].is_empty() and set(at_end["ladder"]["step"]) == {"full", "name_only"}
    said = circuit_show.sentences(at_end)[0]
    assert "not looked up at the name" in said and "END" in said
    assert "No lookup at the name" in ladder_show.sentences(at_end)[-1]


def test_the_steps_of_the_ladder_that_matter_do_and_the_others_do_not(at_name):
    ladder = at_name["ladder"].filter(layer=2)
    assert set(ladder["reader"]) == {"logistic", "head"}
    for row in ladder.filter(~pl.col("step").str.starts_with("attention_")).iter_rows(named=True):
        assert row["accuracy"] == 1 and row["drop"] in (None, 0), row
    for row in ladder.filter(step="attention_0", kind="mean").iter_rows(named=True):
        assert row["accuracy"] <= 0.6 and row["drop_low"] > 0.2 and row["before"] == "full"


def test_the_effective_model_of_the_planted_circuit_knows_every_subject(at_name):
    table = at_name["effective_model"].filter(model="effective")
    assert table["accuracy"].to_list() == [1.0] and table["largest_error"][0] < 1e-9
    confusion = at_name["effective_confusion"]
    assert (
        confusion.filter(pl.col("answer") == pl.col("given"))["subjects"].sum()
        == 36
        == confusion["subjects"].sum()
    )


def test_longer_names_stand_beside_those_of_two_tokens_and_never_in_their_place():
    anatomy, prompts, _ = real_names("gpt_neox")
    reader = readers_of(anatomy, prompts["full"], n_folds=2)
    parts = Parts(concatenate=0, lookup=(1, 1))
    table = effective_model(anatomy, prompts, reader, parts, batch_size=4, seed=0).accuracy
    single = table.filter(pl.col("n_name_tokens") > 2)
    together = table.filter(pl.col("n_name_tokens").is_null())
    assert single["n_name_tokens"].n_unique() > 1 and together["model"].to_list() == ["effective", "full"]
    for name in ("effective", "full"):
        alone, one = single.filter(model=name), together.filter(model=name).row(0, named=True)
        assert one["n"] == alone["n"].sum()
        for column in ("accuracy", "loss"):
            assert one[column] == pytest.approx((alone[column] * alone["n"]).sum() / one["n"])
    first = effective_show.sentences({"effective_model": table})[0]
    assert f"is right for {share(together.row(0, named=True), 'accuracy')} of {together['n'][0]}" in first
    claims = {claim.id: claim for _, claim in declarations().claims}
    asked = pl.SQLContext(effective_model=table).execute(claims["effective-model"].query, eager=True)
    assert asked["n"].to_list() == table.filter(n_name_tokens=2, model="effective")["n"].to_list()


def test_without_names_of_two_tokens_longer_ones_are_not_told_as_the_study_s():
    row = {"n_name_tokens": 5, "accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": 0.7, "n": 90}
    row |= {"majority_rate": 0.4, "largest_error": 1e-7}
    rows = [
        row | {"model": model} | more
        for more in ({}, {"n_name_tokens": None})
        for model in ("effective", "full")
    ]
    told = effective_show.sentences({"effective_model": pl.DataFrame(rows)})
    assert told[0].startswith(
        "Nobody who is known has a name of two tokens, as in the study. On longer ones, of 5"
    )
    assert told[1].startswith("On names of 5 tokens the effective model is right for 60.0")


def test_the_planted_direction_is_used_and_a_random_one_is_not(at_name):
    table = at_name["probe_patching"].filter(layer=1)
    follows = dict(table.select("change", "follows").iter_rows())
    assert follows["whole"] == follows["logistic"] == follows["head"] == 1
    assert follows["random"] == follows["logistic_complement"] == follows["head_complement"] == 0
    over = {row["change"]: row for row in table.iter_rows(named=True)}
    assert over["head"]["over_random"] == 1 and over["head"]["over_random_low"] > 0.8
    assert over["head_complement"]["over_random"] == 0 and over["head_complement"]["over_random_low"] < 0
    assert over["random"]["over_random"] is None
    recalled = dict(table.select("change", "recalled").iter_rows())
    assert recalled["random_erased"] == 1 and recalled["leace"] <= 0.6
    later = at_name["probe_patching"].filter(layer=3)
    assert later["follows"].max() == 0, "nothing is read from the name after layer 2"


def test_who_is_still_recalled_is_by_the_rule_of_the_study():
    anatomy, prompts, answers = real_names("gpt_neox")
    reader = readers_of(anatomy, prompts["full"], n_folds=2)
    drawn = sample(prompts["full"], answers, subjects=8, draws=1, seed=0)
    rules = {how: Rule(how=how, above=1e-3) for how in ("probability", "first", "best")}
    tables = {
        how: probe_patching(anatomy, drawn, [reader], batch_size=3, seed=0, rule=rule)
        for how, rule in rules.items()
    }
    for table in tables.values():
        assert table["follows"].equals(tables["best"]["follows"]), "what is read is the same"
    recalled = {how: table["recalled"].to_numpy() for how, table in tables.items()}
    assert (recalled["best"] == tables["best"]["stays"].to_numpy()).all() and recalled["best"].max() > 0
    assert (recalled["first"] <= recalled["best"]).all() and recalled["first"].sum() < recalled["best"].sum()
    top = anatomy.model(torch.tensor([prompts["full"]["token_ids"][0]])).logits[0, -1].argmax().item()
    likeliest = answers.with_columns(token_id=pl.Series([top, answers["token_id"][0]]))
    drawn = sample(prompts["full"].head(4), likeliest, subjects=4, draws=1, seed=0)
    late = probe_patching(
        anatomy,
        drawn,
        [readers_of(anatomy, prompts["full"].head(4), n_folds=2)],
        batch_size=3,
        seed=0,
        rule=rules["first"],
    )
    assert late["recalled"].max() > 0, "the token that the model likes best is recalled"


def test_context_changes_nothing_where_only_the_name_is_read(at_name):
    table = at_name["context"]
    assert table.filter(layer=2)["accuracy"].to_list() == [1.0] * 5
    assert table["cosine"].min() > 0.999
    assert set(table.filter(pl.col("unknown_tokens") > 0)["context"]) == {"title", "sentence"}


@pytest.mark.parametrize("name", ["at_name", "at_end"])
def test_every_table_has_n_intervals_around_its_values_and_sentences(name, request):
    tables = request.getfixturevalue(name)
    one_by_one = {
        "circuit",
        "nonlinear_excess_subjects",
        "nonlinear_excess_neurons",
    }  # nothing is averaged there
    for table in (table for key, table in tables.items() if key not in one_by_one):
        assert table.is_empty() or table["n"].min() > 0
        for column in (c for c in table.columns if f"{c}_low" in table.columns):
            inside = table.drop_nulls([column, f"{column}_low"])
            rounding = 1e-12 * inside[column].abs().clip(1)
            assert (inside[f"{column}_low"] <= inside[column] + rounding).all()
            assert (inside[column] <= inside[f"{column}_high"] + rounding).all()


def test_nobody_known_gives_empty_tables_and_sentences():
    model = planted.at_name()
    tables = intervention_tables(model.anatomy, model.prompts.clear(), planted_candidates(model))
    assert all(table.is_empty() for name, table in tables.items() if name != "circuit")
    assert Circuit.from_table(tables["circuit"]).lookup_at == "unclear"
    said = [residual_show.sentences(tables), ladder_show.sentences(tables)]
    assert all("nothing to see" in sentences[0] for sentences in said)


# fast against slow


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [*KINDS, CORRUPT])
def test_total_effects_are_those_of_hooks_on_the_whole_model(family, kind):
    anatomy, prompts, candidates = real_names(family)
    full = prompts["full"]
    drawn = sample(full, candidates, subjects=8, draws=1, seed=0)
    group = max(drawn.sampled, key=lambda group: len(group.rows))
    drawn = sample(full[group.rows], candidates, subjects=8, draws=1, seed=0)
    table = total_effects_of(anatomy, drawn, kinds=[kind], batch_size=3, seed=0).table
    means = place_means(anatomy, drawn, drawn.groups[0].layout, batch_size=4)
    for address, role in (
        ("L1H2", "final_name"),
        ("attn_out:0", "first_name"),
        ("mlp_out:1", "relation"),
        ("L2H0", "end"),
    ):
        row = table.filter(node=address, role=role, number=0).row(0, named=True)
        assert row["effect"] == pytest.approx(
            slow_effect(anatomy, drawn, parse(address), role, kind, means), abs=1e-8
        )


@pytest.mark.parametrize("screen", [None, Screen(below=0.05, sample=2, seed=0)])
def test_where_nobody_has_a_donor_of_the_same_answer_that_replacement_alone_is_left_out(screen):
    """Many answers, few subjects: of none is there another of the same answer."""
    anatomy, prompts, candidates = real_names("gpt_neox")
    group = max(groups_of(prompts["full"]), key=lambda group: len(group.rows))
    full = prompts["full"][group.rows[:2]].with_columns(answer=candidates["answer"])
    drawn = sample(full, candidates, subjects=2, draws=1, seed=0)
    options = {"batch_size": 2, "seed": 0}
    table = total_effects_of(anatomy, drawn, screen=screen, **options).table
    assert (
        set(table["kind"]) == {"zero", "mean", "resample_other", CORRUPT}
        and table["n"].to_list() == [2] * table.height
    )


def slow_effect(anatomy, drawn, site, role, kind, means):
    """One effect, averaged over subjects, by `trace.run`."""
    changes = []
    ids = drawn.candidates["token_id"].to_list()
    layout = drawn.groups[0].layout
    at = torch.tensor([layout.roles.index(role)])
    for row in drawn.rows:
        tokens = torch.tensor([drawn.prompts["token_ids"][int(row)].to_list()])
        if kind == "zero":
            clean = run(anatomy, tokens, reads=[Read(site=site, at=at)]).values[0]
            value = torch.zeros_like(clean)
        elif kind == "mean":
            everyone = torch.tensor(drawn.prompts["token_ids"].to_list())
            value = (
                run(anatomy, everyone, reads=[Read(site=site, at=at.expand(len(everyone)))]).values[0].mean(0)
            )
        else:
            donor = int(drawn.donors[kind][0][row])
            if donor < 0:
                continue
            other = torch.tensor([drawn.prompts["token_ids"][donor].to_list()])
            value = run(anatomy, other, reads=[Read(site=site, at=at)]).values[0]
        end = torch.tensor([layout.end])
        edited = run(anatomy, tokens, logits_at=end, edits=[Edit(site=site, at=at, value=value)]).logits[0]
        change = edited - run(anatomy, tokens, logits_at=end).logits[0]
        own, corrupt = drawn.labels[row], drawn.labels[drawn.corrupt[row]]
        changes.append(float(change[ids[own]] - change[ids[corrupt]]))
    assert means
    return np.mean(changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", [Suffix, Difference])
def test_replaced_outputs_at_the_name_are_those_of_hooks_on_the_whole_model(family, engine):
    """Runs in which other layers are replaced share a batch; what is read below the first of them is the clean run's."""
    anatomy, prompts, _ = real_names(family)
    full = prompts["full"]
    outputs = name_outputs(anatomy, full, groups_of(full), batch_size=4)
    donors = np.roll(np.arange(full.height), 1)
    for group in groups_of(full):
        everyone = torch.arange(len(group.rows))
        clean = clean_run(anatomy, full, group, group.rows, to_end=True)
        instead = [
            {
                "attn": outputs.instead("attn", "resample_other", (1,), group.rows, donors),
                "mlp": outputs.instead("mlp", "mean", (0, 2), group.rows),
            },
            {"attn": {}, "mlp": outputs.instead("mlp", "zero", (2,), group.rows)},
            {"attn": {}, "mlp": {}},
        ]
        joined = Replaced.joined([Replaced.of(everyone, **one) for one in instead])
        places = [
            (at, layer)
            for at in range(clean.start, group.layout.end + 1)
            for layer in range(anatomy.n_layers)
        ]
        readings = [Resid(at=at, layer=layer) for at, layer in places]
        fast = engine(anatomy).replaced(clean, joined, [*readings, Logits(at=group.layout.end)])
        tokens = torch.tensor(full["token_ids"][group.rows].to_list())
        at = torch.full((len(tokens),), group.layout.final_name)
        for i, one in enumerate(instead):
            edits = [
                Edit(site=Site(kind, layer), at=at, value=value)
                for part, kind in (("attn", "attn_out"), ("mlp", "mlp_out"))
                for layer, value in one[part].items()
            ]
            reads = [
                Read(site=Site("resid_post", layer), at=torch.full_like(at, where)) for where, layer in places
            ]
            slow = run(
                anatomy, tokens, reads=reads, edits=edits, logits_at=torch.full_like(at, group.layout.end)
            )
            rows = slice(i * len(everyone), (i + 1) * len(everyone))
            for found, truth in zip(fast, [*slow.values, slow.logits], strict=True):
                assert torch.allclose(found[rows], truth, atol=1e-10)


# the pieces


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.booleans(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_donors_are_others_from_the_same_pool_and_of_the_answer_asked_for(labels, same_answer, seed):
    labels = np.array(labels)
    pools = [np.arange(len(labels))[::2], np.arange(len(labels))[1::2]]
    donors = draw_donors(labels, pools, same_answer=same_answer, rng=np.random.default_rng(seed))
    for row, donor in enumerate(donors):
        pool = next(pool for pool in pools if row in pool)
        able = [other for other in pool if other != row and (labels[other] == labels[row]) == same_answer]
        assert donor in able if able else donor == -1


def test_readers_are_held_out_saved_and_asked_for_by_name(tmp_path):
    rng = np.random.default_rng(0)
    names, answers = [f"A{i}" for i in range(60)], ["x", "y", "z"] * 20
    options = {"n_folds": 3, "regularisation": 1e-3, "max_iter": 300, "tolerance": 1e-4, "seed": 0}
    noise = rng.normal(size=(60, 200))  # wide enough that anything fits what it has seen
    readers = fit_readers([noise], names, answers, **options)
    truth = np.array([readers.answers.index(answer) for answer in answers])
    held_out = readers.log_probabilities(0, noise, readers.folds_of(names)).argmax(1) == truth
    on_all = readers.log_probabilities(0, noise, np.full(60, 3)).argmax(1) == truth
    assert on_all.all() and held_out.mean() < 0.6
    readers.save(tmp_path / "readers.safetensors")
    again = load_readers(tmp_path / "readers.safetensors")
    assert (again.weight == readers.weight).all() and again.subjects == readers.subjects
    with pytest.raises(InputError, match="no fold for 'B'"):
        readers.folds_of(["B"])
    order = rng.permutation(60)
    turned = fit_readers([noise[order]], [names[i] for i in order], [answers[i] for i in order], **options)
    assert (turned.fold == readers.fold[order]).all(), "folds do not depend on the order of the table"
    assert fit_readers([noise[:4]], names[:4], answers[:4], **options).empty
    (tmp_path / "other").write_bytes(b"12345678")
    with pytest.raises(InputError, match="no readers"):
        load_readers(tmp_path / "other")


def test_the_subjects_that_are_ablated_are_some_of_those_that_are_patched():
    model = planted.at_name(firsts=6, lasts=6)
    few, many = (
        sample(model.prompts, planted_candidates(model), subjects=subjects, draws=1, seed=0)
        for subjects in (5, 20)
    )
    assert len(few.rows) == 5 and set(few.rows) <= set(many.rows)
    assert (few.corrupt == many.corrupt).all()


def test_a_probe_s_span_leaves_out_what_all_answers_share():
    weight = np.random.default_rng(0).normal(size=(10, 3)) + 5 * np.ones((10, 1))
    basis = span(weight)
    assert basis.shape == (10, 2) and np.allclose(basis.T @ basis, np.eye(2))
    assert np.allclose(basis @ basis.T @ (weight[:, 0] - weight[:, 1]), weight[:, 0] - weight[:, 1])


def test_what_is_erased_cannot_be_read_by_a_fresh_probe():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    resid = rng.normal(size=(300, 8)) + 4 * np.eye(8)[labels]
    folds = np.arange(300) % 2
    options = {"n_folds": 3, "regularisation": 1e-3, "max_iter": 300, "tolerance": 1e-4, "seed": 0}
    names = [f"A{i}" for i in range(300)]

    def accuracy(x):
        readers = fit_readers([x], names, [str(label) for label in labels], **options)
        return (readers.log_probabilities(0, x, readers.fold).argmax(1) == labels).mean()

    assert accuracy(resid) > 0.95 and accuracy(erased(resid, labels, folds)) < 0.45


def test_contexts_put_the_name_where_its_tokens_are():
    tokens = planted.tokenizer()
    subjects = planted.subjects()
    prompts = context_prompts(tokens, tokens.bos_token_id, subjects, "Fact:")
    row = prompts.row(0, named=True)
    words = tokens.convert_ids_to_tokens(row["token_ids"])
    assert (words[row["first_name"]], words[row["final_name"]]) == (" F0", " L0") and row["end"] == row[
        "final_name"
    ]
    assert unknown_tokens(tokens, "Fact:") == 0 and unknown_tokens(tokens, " Mr") == 1


def test_the_ladder_has_a_step_for_early_mlps_only_where_there_are_some():
    def names(lookup, parallel):
        return [step.name for step in steps(Parts(concatenate=1, lookup=lookup), 6, parallel=parallel)]

    assert "early_mlps" not in names((1, 3), True) and "early_mlps" in names((2, 3), True)
    assert "early_mlps" in names((1, 3), False), "in a sequential block MLP 0 reads what attention 0 gathered"
    assert {"attention_0", "attention_1"} <= set(names((2, 3), True)) and "attention_2" not in names(
        (2, 3), True
    )
    assert [step.name for step in steps(None, 6, parallel=True)] == ["full", "name_only"]


def test_a_circuit_is_written_and_read_and_the_configuration_wins(tmp_path, at_name):
    proposal = propose(at_name["circuit_scan"], at_name["residual_patching"], at_name["total_effects"])
    used = settle(proposal, concatenate=(0, 1), lookup=None, extract=["L3H0"])
    assert used.concatenate == (0, 1) and used.lookup == (1, 1) and used.extract == ("L3H0",)
    assert used.fixed == ("concatenate", "extract") and used.proposed["concatenate"] == (0, 0)
    used.save(tmp_path / "circuit.yaml")
    again = read_circuit(tmp_path / "circuit.yaml")
    assert (again.concatenate, again.lookup, again.extract, again.fixed) == (
        (0, 1),
        (1, 1),
        ("L3H0",),
        used.fixed,
    )
    assert [row.claim for row in again.evidence] == [row.claim for row in used.evidence]
    assert again.thresholds == used.thresholds
    as_table = Circuit.from_table(used.to_table())
    assert as_table == replace(used, evidence=(), thresholds=None), "the table has all but the numbers"
    assert "thresholds:" in (tmp_path / "circuit.yaml").read_text()
    (tmp_path / "bad.yaml").write_text("lookup: 3")
    with pytest.raises(InputError, match="no circuit"):
        read_circuit(tmp_path / "bad.yaml")


@pytest.mark.parametrize("span", [(0, 4), (2, 1)])
def test_layers_that_a_model_does_not_have_are_refused_by_name(span):
    anatomy = planted.at_name().anatomy
    circuit = Circuit(lookup_at="final_name", concatenate=(0, 0), lookup=span, extract=())
    with pytest.raises(InputError, match=r"circuit\.lookup.*0-3"):
        parts_of(circuit, anatomy)


def test_an_answer_that_does_not_come_from_the_name_is_no_evidence(at_name):
    turned = {
        name: at_name[name].with_columns(-pl.col("effect"), whole_swap=pl.lit(0.5), share=pl.lit(2.0))
        for name in ("residual_patching", "total_effects")
    }
    circuit = propose(at_name["circuit_scan"], *turned.values())
    assert circuit.lookup_at == "unclear" and circuit.extract == () and circuit.lookup is None
    assert "does not come from the name" in residual_show.sentences(turned)[0]


def test_shares_are_of_the_whole_swap(at_name):
    for row in at_name["total_effects"].iter_rows(named=True):
        assert math.isclose(row["share"] * row["whole_swap"], row["effect"], abs_tol=1e-9)
