"""P1.1 and P1.2: attributes that were planted, each in directions of its own, and heads that bring them asked or unasked."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, run
from factfinding.experiments.extraction_unasked.additivity import kind_of, resampled_shares, shares
from factfinding.experiments.extraction_unasked.compute import design_of, lowest, own_over_others
from factfinding.experiments.extraction_unasked.show import draw_extraction_unasked
from factfinding.experiments.multi_token.compute import chosen_layers, stated_layer
from factfinding.experiments.multi_token.show import draw_attribute_swaps, draw_multi_token
from factfinding.experiments.multi_token.subspaces import cosines, random_basis
from factfinding.findings.words import told
from factfinding.methods.attributes import attribute_of, told_by
from factfinding.tables import schema_of
from helpers import hypotheses
from helpers.attribute_tables import attribute_tables, unknown_attribute
from helpers.figures import assert_readable, drawn

FIGURES = ("multi_token", "attribute_swaps", "extraction_unasked")
FACTS = ["answer", "colour", "city"]


@pytest.fixture(scope="module")
def tables():
    return attribute_tables(hypotheses.fact_cells)


@pytest.fixture(scope="module")
def unasked():
    return attribute_tables(hypotheses.extracts_always)


# P1.1


def test_the_relations_are_told_apart_from_the_main_one(tables):
    found = tables["attributes"]
    assert found["relation"].to_list() == FACTS and found["main"].to_list() == [True, False, False]
    assert not found["follows"].any() and (found["known"] == 36).all() and (found["n"] == 36).all()
    assert found["from_main"].to_list()[0] == 1.0 and found["from_main"].to_list()[1] < 0.5


def test_every_planted_attribute_is_read_from_the_lookup_on_and_not_before(tables):
    rows = tables["attribute_probes"].filter(input="resid", labels="true")
    assert (rows.filter(pl.col("layer") >= 1)["accuracy"] == 1.0).all()
    assert (rows.filter(pl.col("layer") < 1)["accuracy"] < 0.7).all()
    assert rows.filter("stated")["layer"].unique().to_list() == [2]
    shuffled = tables["attribute_probes"].filter("stated", labels="shuffled")
    assert shuffled.height == 3 and (shuffled["accuracy"] < 0.7).all()
    above = rows.filter("stated")
    assert (above["over_baseline_low"] > 0).all() and set(above["baseline"]) <= {
        "name_string", "name_tokens", "main_answer"
    }  # fmt: skip


def test_what_a_model_does_not_know_is_not_read():
    row = (
        unknown_attribute()["attribute_probes"]
        .filter("stated", relation="friend", labels="true")
        .row(0, named=True)
    )
    assert row["over_baseline_high"] < 0.1 and row["n"] == 256


def test_planted_subspaces_are_at_right_angles_and_stand_on_both_halves(tables):
    angles = tables["attribute_angles"]
    apart = angles.filter(pl.col("relation") != pl.col("other_relation"))
    assert (
        apart.height == 3
        and (apart["overlap"] < apart["chance"]).all()
        and (apart["smallest_angle"] > 80).all()
    )
    same = angles.filter(pl.col("relation") == pl.col("other_relation"))
    assert (same["overlap"] > same["chance_high"]).all()
    assert angles.filter(relation="answer", other_relation="city").select(
        "dimensions", "other_dimensions"
    ).row(0) == (2, 3)


def test_a_replaced_attribute_moves_its_own_answer_and_no_other(tables):
    swaps = tables["attribute_swaps"].filter(subspace="probe")
    own = swaps.filter(pl.col("attribute") == pl.col("question"))
    others = swaps.filter(pl.col("attribute") != pl.col("question"))
    assert own.height == 3 and (own["follows"] == 1.0).all() and own["tied"].null_count() == 3
    assert others.height == 6 and (others["changes"] == 0.0).all() and not others["tied"].any()
    assert (tables["attribute_swaps"].filter(subspace="random")["changes"] == 0.0).all()
    assert (tables["attribute_swaps"].filter(subspace="whole")["follows"] == 1.0).all()
    row = tables["attribute_specificity"].filter(subspace="probe").row(0, named=True)
    assert (row["own"], row["others"], row["own_over_others"], row["attributes"], row["pairs"]) == (
        1.0,
        0.0,
        1.0,
        3,
        6,
    )


def test_plain_hooks_say_the_same_of_a_swap(tables):
    """The whole residual stream of one subject, put into another's run at the final name token."""
    made = hypotheses.fact_cells()
    facts = tables["attribute_prompts"].filter(fact="city").sort("subject")
    tokens = torch.tensor(facts["token_ids"].to_list())
    at = torch.tensor(facts["final_name"].to_list())
    site = Site("resid_post", 2)
    values = run(made.anatomy, tokens, reads=[Read(site=site, at=at)]).values[0]
    swapped = run(
        made.anatomy, tokens, logits_at=torch.tensor(facts["end"].to_list()), edits=[Edit(site=site, at=at, value=values.flip(0))]
    )  # fmt: skip
    assert swapped.logits.argmax(-1).tolist() == facts["target"].to_list()[::-1]


def test_in_a_code_nothing_linear_carries_an_attribute_though_all_of_it_does():
    swaps = attribute_tables(hypotheses.hash_lookup, 1)["attribute_specificity"]
    rows = {row["subspace"]: row for row in swaps.iter_rows(named=True)}
    assert rows["whole"]["own"] == 1.0 and rows["probe"]["own"] == 0.0


def test_a_relation_that_follows_is_guessed_from_what_it_follows_from():
    folds = np.tile(np.arange(5), 12)
    given = np.repeat(np.arange(3), 20)
    assert told_by(given, 2 - given, folds).all()
    rng = np.random.default_rng(0)
    assert told_by(given, rng.permutation(given), folds).mean() < 0.6
    assert not told_by(
        np.arange(60), np.repeat([0, 1], 30), np.repeat([0, 1], 30)
    ).any()  # never seen with it


def test_rare_answers_are_left_out_and_few_subjects_are_no_attribute():
    asked = pl.DataFrame(
        [(f"S{i}", "town", "Oslo" if i < 20 else "Rome" if i < 38 else "Bern", "golf") for i in range(40)],
        schema=["subject", "fact", "fact_answer", "answer"], orient="row",
    )  # fmt: skip
    one = attribute_of(asked, "town", n_folds=5, least=30, seed=0)
    assert len(one.labels) == 38 and one.n_answers == 2 and not one.main
    assert attribute_of(asked, "town", n_folds=5, least=39, seed=0) is None
    assert attribute_of(asked.head(20), "town", n_folds=5, least=2, seed=0) is None  # one answer


def test_cosines_of_known_subspaces():
    basis = np.eye(6)
    turned = np.stack([basis[0], (basis[1] + basis[3]) / 2**0.5], axis=1)
    assert cosines(basis[:, :2], turned) == pytest.approx([1.0, 0.5**0.5])
    drawn_basis = random_basis(6, 3, np.random.default_rng(0))
    assert drawn_basis.T @ drawn_basis == pytest.approx(np.eye(3))


def test_layers_are_spread_and_the_stated_one_is_the_last_of_the_lookup():
    assert chosen_layers(30, 7, 8) == [-1, 3, 7, 8, 12, 16, 20, 25, 29] and chosen_layers(3, 1, 8) == [
        -1,
        0,
        1,
        2,
    ]
    anatomy = hypotheses.fact_cells().anatomy
    assert stated_layer((1, 2), anatomy, None) == 2 and stated_layer(None, anatomy, None) == 1
    assert stated_layer((1, 2), anatomy, 0) == 0
    with pytest.raises(ValueError, match="layer 9"):
        stated_layer((1, 2), anatomy, 9)


# P1.2


def test_heads_that_are_not_asked_do_nothing_and_others_still_do(tables, unasked):
    for found, still in ((tables, 0.0), (unasked, 1.0)):
        rows = {
            row["question"]: row
            for row in found["unasked_extraction"].filter(heads="extracting").iter_rows(named=True)
        }
        assert list(rows) == ["own", *FACTS, "others", "apart"]
        assert rows["own"]["attention"] == pytest.approx(1.0) and rows["own"]["effect"] > 5
        assert rows["answer"]["effect"] == pytest.approx(rows["own"]["effect"])
        for question in ("colour", "city", "others", "apart"):
            row = rows[question]
            assert row["attention"] == pytest.approx(still) and row["n"] == 36 and row["number"] == 1
            assert row["effect"] == pytest.approx(still * rows["own"]["effect"], rel=0.02, abs=1e-6)
            assert row["effect_over_half"] == pytest.approx(row["effect"] - rows["own"]["effect"] / 2)
    others = unasked["unasked_extraction"].filter(heads="other", question="own").row(0, named=True)
    assert others["number"] == 31 and abs(others["effect"]) < 1e-6


def test_who_stops_writing_is_found_on_the_other_half(tables, unasked):
    row = tables["unasked_suppression"].row(0, named=True)
    assert (
        row["node"] == "L3H0"
        and row["extracting"]
        and row["change_high"] < -5
        and row["n"] + row["n_choosing"] == 36
    )
    assert row["effect_others"] == pytest.approx(0, abs=1e-6) and row["nodes_tried"] == 36
    assert unasked["unasked_suppression"]["change"].abs().max() < 1e-6


def test_what_is_lowest_by_chance_on_one_half_is_not_so_on_the_other():
    rng = np.random.default_rng(0)
    own, others = rng.normal(size=(2, 40, 200))
    others[:, 7] -= 3.0
    nodes = pl.DataFrame(
        {"node": [f"L0H{i}" for i in range(200)], "kind": "head", "layer": 0, "index": range(200)}
    )
    choosing = np.arange(40) % 2 == 0
    found = lowest(nodes, own, others, choosing, extract=(), listed=4, seed=0)
    assert found["node"][0] == "L0H7" and found["change_high"][0] < -1.5
    chance = found.tail(3)
    assert (chance["change_choosing"] < -0.6).all() and (chance["change"].mean() > -0.4)


def test_the_own_answer_is_held_against_the_mean_of_the_others():
    logits = np.array([[[3.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]]])
    assert own_over_others(logits, np.array([0, 2])).tolist() == [[2.5], [-2.0]]


def test_kinds_of_heads_by_what_their_effect_depends_on():
    rng = np.random.default_rng(0)
    subject, question, both = (
        rng.normal(size=(40, 1, 6)),
        rng.normal(size=(1, 5, 6)),
        rng.normal(size=(40, 5, 6)),
    )
    zero = np.zeros((40, 5, 6))
    for effect, kind in (
        (subject + zero, "subject_head"),
        (question + zero, "relation_head"),
        (both, "mixed_head"),
        (subject + question, "mixed_head"),
    ):
        found = shares(effect)
        assert kind_of(*found, mostly=0.6) == kind, found
    assert sum(shares(subject + question)) == pytest.approx(1.0)
    assert shares(subject + zero + 9.0) == pytest.approx((1.0, 0.0))
    assert shares(zero + rng.normal(size=(40, 5, 1))) == (0.0, 0.0)  # added to all logits alike


def test_weights_of_subjects_are_subjects_that_stand_there_so_often():
    rng = np.random.default_rng(1)
    effect, counts = rng.normal(size=(6, 3, 4)), np.array([2.0, 0.0, 1.0, 1.0, 2.0, 0.0])
    assert shares(effect, counts) == pytest.approx(shares(np.repeat(effect, counts.astype(int), axis=0)))


def test_shares_of_all_resamples_at_once_are_those_of_each():
    rng = np.random.default_rng(2)
    effects = rng.normal(size=(30, 1, 6)) + rng.normal(size=(1, 4, 6)) + rng.normal(size=(30, 4, 6))
    effects += 5 * rng.normal(size=6)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=50).astype(float)
    counts[0] = 30 * (np.arange(30) == 3)  # one subject alone: no share is the subject's
    found = np.stack(resampled_shares(effects, counts), axis=1)
    slow = np.array([shares(effects, weights) for weights in counts])
    assert np.abs(found - slow).max() < 1e-12 and slow[:, 0].max() > 0.1
    for nothing in (np.zeros((30, 4, 6)), np.repeat(rng.normal(size=(30, 4, 1)), 6, axis=2)):
        assert not np.any(resampled_shares(nothing, counts))


def test_parts_add_up_to_all_at_once(tables, unasked):
    for found, part in ((tables, "mixed_head"), (unasked, "subject_head")):
        rows = {row["part"]: row for row in found["additivity"].iter_rows(named=True)}
        assert rows["sum"]["frozen"] == pytest.approx(rows["joint"]["frozen"])
        assert abs(rows["sum"]["over_joint"]) < 0.05 and rows["joint"]["right"] == 1.0
        assert (
            rows[part]["exact"] == pytest.approx(rows["joint"]["exact"], rel=0.02)
            and rows[part]["heads"] == 3
        )
    heads = unasked["additivity_heads"].sort("size", descending=True).head(3)
    assert set(heads["node"]) == {"L3H0", "L3H1", "L3H2"} and (heads["subject_share_low"] > 0.99).all()
    # each fact is written whatever is asked, so the head alone does not know which is meant
    assert unasked["additivity"].filter(part="subject_head")["right"].item() < 0.5


def test_the_relation_that_fewest_know_is_left_out():
    prompts = pl.DataFrame({"subject": [f"S{i}" for i in range(30)], "answer": "golf"})
    facts = pl.DataFrame(
        [(f"S{i}", name) for name, most in (("sport", 30), ("town", 25), ("team", 5)) for i in range(most)],
        schema=["subject", "fact"], orient="row",
    )  # fmt: skip
    attributes = pl.DataFrame(
        {
            "relation": ["sport", "town", "team"],
            "probed": True,
            "main": [True, False, False],
            "follows": False,
        }
    )
    found = design_of(facts, prompts, attributes, least=20, most=24, seed=0)
    assert list(found.questions) == ["own", "sport", "town"] and len(found.subjects) == 24
    assert found.averaged() == {"others": ["town"], "apart": ["town"]}
    assert design_of(facts, prompts, attributes, least=28, most=24, seed=0) is None  # the sport alone is left


# both


def test_what_is_said_and_drawn_is_what_the_tables_hold(tables, unasked):
    for found in (tables, unasked):
        for name in FIGURES:
            assert_readable(drawn(name, found))
    said = told("multi_token", tables)
    assert said[0].startswith(
        "Of 2 attributes beside the sport, probes at the final name token after layer 2 read 2 beyond"
    )
    assert "become the donor's, and 0.0" in said[-1] and "100.0" in said[-1]
    assert "they still attend and write more than half" in told("extraction_unasked", unasked)[0]
    assert "they do not clearly still attend" in told("extraction_unasked", tables)[0]


def test_nobody_gives_empty_tables_figures_and_sentences():
    empty = attribute_tables(hypotheses.fact_cells, knows=False)
    assert all(table.is_empty() for name, table in empty.items())
    assert {name: table.schema for name, table in empty.items()} == {
        name: pl.Schema(schema_of(name)) for name in empty
    }
    for draw, names in (
        (draw_multi_token, ("attributes", "attribute_probes")),
        (draw_attribute_swaps, ("attributes", "attribute_swaps")),
        (draw_extraction_unasked, ("unasked_extraction", "unasked_suppression", "additivity")),
    ):
        assert not draw(**{name: empty[name] for name in names}).axes
    for experiment in ("multi_token", "extraction_unasked"):
        assert len(told(experiment, empty)) == 1


def test_too_few_subjects_are_counted_and_not_probed():
    few = attribute_tables(hypotheses.fact_cells, keep=12)
    assert few["attributes"]["known"].to_list() == [12, 12, 12] and not few["attributes"]["probed"].any()
    assert few["attribute_probes"].is_empty() and few["unasked_extraction"].is_empty()
