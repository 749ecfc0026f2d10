"""P1.3 on models whose relation is known to be linear after one layer, and not before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from factfinding.experiments.linear_relation.affine import Affine
from factfinding.experiments.linear_relation.compute import (
    best_beta,
    evenly,
    example_maps,
    linear_relation,
    run_states,
)
from factfinding.experiments.linear_relation.show import draw_linear_relation
from factfinding.findings.words import told
from factfinding.methods.patched import sample
from factfinding.stats import evenly_spread
from factfinding.tables import schema_of
from helpers import planted, sparse
from helpers.figures import assert_readable
from helpers.head_tables import planted_candidates

MODEL = planted.at_name(firsts=8, lasts=6)
DRAWN = sample(MODEL.prompts, planted_candidates(MODEL), subjects=48, draws=0, seed=0)
HOW = {"examples": 8, "betas": (1.0, 2.0), "ranks": (1, 2, 4), "batch_size": 16, "seed": 0}
TABLE = linear_relation(MODEL.anatomy, DRAWN, **HOW)
BESIDE = {
    name: pl.DataFrame(schema=schema_of(name)) for name in ("layer_probes", "effective_model")
}  # fmt: skip


def cell(column: str, layer: int):
    return TABLE.filter(layer=layer)[column].item()


def test_before_the_lookup_no_map_is_the_model_and_after_it_one_is():
    """Layer 0 gathers two signs, of which no affine map makes whether they agree; layer 1 looks that up; layer 2 reads it."""
    assert TABLE["layer"].to_list() == [0, 1, 2] and TABLE["n"].unique().to_list() == [40]
    assert cell("faithful", 0) == cell("majority_rate", 0) == 0.5
    assert cell("faithful", 1) == cell("faithful_answers", 1) == cell("follows", 1) == 1
    assert cell("over_random_low", 1) > 0 and cell("rank", 1) == 1
    assert 0 < cell("length", 1) <= 1.001, "no further than the fact lies from the other's"


def test_a_step_can_turn_an_answer_that_no_map_can_tell():
    """Before the lookup: along the sum of the signs every answer can be had, but which one it is depends on more than the sum."""
    assert cell("follows", 0) == 1 and cell("random", 0) == 0 and cell("faithful_high", 0) < 0.7


def test_once_the_fact_is_read_the_map_is_a_constant_and_moves_nothing():
    assert cell("follows", 2) == cell("random", 2) == cell("length", 2) == 0
    assert cell("faithful", 2) <= cell("majority_rate", 2)


def test_the_weight_is_the_planted_one():
    """What the head reads after the lookup is the fact, and what it writes the answer; nothing else goes through it."""
    shown = DRAWN.rows[:6]
    states = run_states(MODEL.anatomy, DRAWN, [1], batch_size=16)
    weight = example_maps(MODEL.anatomy, DRAWN, shown, states, batch_size=4)[1].weight
    fact, answer = (planted.direction(name).numpy() for name in ("fact", "answer"))
    np.testing.assert_allclose(weight @ fact, answer, atol=1e-3)
    last_sign = planted.direction("last_sign").numpy()
    assert np.abs(weight @ last_sign).max() < 1e-3


def test_examples_are_not_scored_and_the_answers_have_as_many_each():
    rng = np.random.default_rng(1)
    labels = np.array([0] * 20 + [1] * 3 + [2] * 5)
    rows = np.arange(2, 28)
    shown = evenly(rows, labels, 8, rng)
    assert np.bincount(labels[shown]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert len(set(shown)) == 8 and set(shown) <= set(rows) and (np.diff(shown) > 0).all()
    assert len(evenly(rows, labels, 99, rng)) == 26
    assert [
        evenly_spread(0, 4, 8),
        evenly_spread(0, 29, 4),
        evenly_spread(0, 0, 8),
        evenly_spread(0, 29, 1),
    ] == [
        [0, 1, 2, 3, 4],
        [0, 10, 19, 29],
        [0],
        [0],
    ]


def test_beta_makes_up_for_a_map_that_is_too_short():
    shown = DRAWN.rows[:8]
    states = run_states(MODEL.anatomy, DRAWN, [1], batch_size=16)
    name, end = states.of(1, shown), states.end[shown]
    whole = example_maps(MODEL.anatomy, DRAWN, shown, states, batch_size=8)[1]
    short = replace(whole, weight=whole.weight / 4)
    assert best_beta(MODEL.anatomy, short, name, end, (0.1, 1.0, 4.0)) == 4.0
    assert best_beta(MODEL.anatomy, replace(whole, weight=0 * whole.weight), name, end, (3.0, 1.0)) == 1.0


def test_the_inverse_of_low_rank_is_the_pseudo_inverse_of_what_it_keeps():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    size = np.array([4.0, 2.0, 1.0, 0, 0, 0])
    one = Affine(weight=left * size @ right.T, bias=np.zeros(6))
    np.testing.assert_allclose(one.inverse(6), np.linalg.pinv(one.weight), atol=1e-12)
    kept = left[:, :2] * size[:2] @ right[:, :2].T
    np.testing.assert_allclose(one.inverse(2), np.linalg.pinv(kept), atol=1e-12)
    assert not Affine(weight=np.zeros((3, 3)), bias=np.zeros(3)).inverse(2).any()


def test_a_random_direction_is_as_long_and_does_little_where_there_is_room():
    model = sparse.at_name()
    drawn = sample(model.prompts(), model.candidates, subjects=40, draws=0, seed=0)
    table = linear_relation(model.anatomy, drawn, **HOW | {"ranks": (4,), "layers": 2})
    assert table["layer"].to_list() == [0, 2]
    moved = linear_relation(model.anatomy, drawn, **HOW | {"ranks": (4,)}).filter(layer=1).row(0, named=True)
    assert moved["follows"] == 1 and moved["random"] < 0.3 and moved["over_random_low"] > 0
    assert moved["majority_rate"] < 0.5 and moved["faithful"] == 1


def test_the_words_and_the_figure_are_those_of_the_table():
    first, by_layer, moved = told("linear_relation", {"linear_relation": TABLE} | BESIDE)
    assert "made of 8 athletes" in first and "of 40 others after layer 1 (always the commonest" in first
    assert (
        by_layer.startswith("By layer (0, 1, 2), 50.0")
        and "; of the probe on the same athletes, 72.5" in by_layer
    )
    assert "1 direction" in moved and "the model reads what the map reads" in moved
    assert_readable(draw_linear_relation(linear_relation=TABLE, **BESIDE))


@pytest.mark.parametrize("subjects", [0, 9])
def test_too_few_give_an_empty_table_a_figure_and_a_sentence(subjects):
    few = replace(DRAWN, rows=DRAWN.rows[:subjects])
    table = linear_relation(MODEL.anatomy, few, **HOW)
    assert table.is_empty() and table.schema == pl.Schema(schema_of("linear_relation"))
    assert not draw_linear_relation(linear_relation=table, **BESIDE).axes
    assert len(told("linear_relation", {"linear_relation": table} | BESIDE)) == 1
