"""P3.9 on models with a neuron for each subject, and on models that spread it over several."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, run
from factfinding.experiments.entity_cells.compute import Cells, _length, entity_cells, top
from factfinding.experiments.entity_cells.show import draw_entity_cells
from factfinding.findings.words import told
from factfinding.methods.patched import sample
from factfinding.tables import schema_of
from helpers import hypotheses, planted_cells, variants
from helpers.figures import assert_readable
from helpers.head_tables import planted_candidates
from helpers.planted_cells import LOGIT

HOW = {"sizes": (1, 3), "batch_size": 16, "seed": 0}


@cache
def one_neuron_each():
    model = planted_cells.at_name()
    return model, sample(model.prompts, model.candidates, subjects=36, draws=0, seed=0)


@cache
def tables() -> dict[str, pl.DataFrame]:
    model, drawn = one_neuron_each()
    return entity_cells(model.anatomy, drawn, (1, 1), **HOW)


def row(table: pl.DataFrame, change: str, chosen_by: str = "specificity", neurons: int = 1) -> dict:
    return table.filter(change=change, chosen_by=chosen_by, neurons=neurons).row(0, named=True)


@pytest.mark.parametrize("chosen_by", ["specificity", "gradient"])
def test_where_each_subject_has_a_neuron_it_does_what_is_worked_out_by_hand(chosen_by):
    """Off, nothing of the logit 8 is left; on in another's run, both answers have 8. Where nothing is known football is
    answered, and of two alike the later one in the alphabet: so a third is not lost, and half come up."""
    erased, injected = (row(tables()["entity_cells"], change, chosen_by) for change in ("erase", "inject"))
    for end in ("", "_low", "_high"):
        assert erased[f"effect{end}"] == pytest.approx(-LOGIT, abs=1e-3)
        assert injected[f"effect{end}"] == pytest.approx(LOGIT, abs=1e-3)
    assert erased["share"] == pytest.approx(0.5, abs=1e-3) == injected["share"]
    assert erased["does"] == pytest.approx(24 / 36) and erased["over_random_low"] > 0.2
    _, drawn = one_neuron_each()
    later = (drawn.labels > drawn.labels[drawn.corrupt])[drawn.rows]
    assert injected["does"] == pytest.approx(later.mean()) and injected["n"] == 36


def test_all_neurons_of_the_lookup_are_what_there_is_to_be_had():
    everything = row(tables()["entity_cells"], "inject", "all", planted_cells.NEURONS)
    assert everything["does"] == 1 and everything["random"] is None
    assert everything["share"] == pytest.approx(1, abs=1e-3) and everything["n_neurons"] == 48


def test_the_most_specific_neuron_is_the_subject_s_own_and_nobody_else_s():
    table = tables()["entity_cell_subjects"]
    model, drawn = one_neuron_each()
    assert table["subject"].to_list() == model.prompts["subject"].gather(drawn.rows).to_list()
    assert table["neuron"].to_list() == [f"L1N{i}" for i in drawn.rows] and (table["shared_by"] == 1).all()
    assert table["specificity"].to_list() == pytest.approx([35**0.5] * 36), "one of 36 is on"
    lost = dict(table.group_by("answer").agg(pl.col("erase_does").mean()).iter_rows())
    assert lost == {"baseball": 1.0, "basketball": 1.0, "football": 0.0}


def test_the_twin_of_hooks_says_the_same():
    model, drawn = one_neuron_each()
    tokens = torch.tensor(model.prompts["token_ids"].to_list())
    at, end = (torch.tensor([model.prompts[role][0]]) for role in ("final_name", "end"))
    ids = torch.tensor(model.candidates["token_id"].to_list())
    effects = dict(tables()["entity_cell_subjects"].select("subject", "erase_effect").iter_rows())
    for subject in (0, 7, 20):
        site = Site("post", 1, subject)
        edit = Edit(
            site=site, at=at, value=torch.zeros(1, 1, dtype=torch.float64)
        )  # on for this subject alone
        plain, erased = (
            run(model.anatomy, tokens[[subject]], logits_at=end, edits=edits).logits[0, ids].numpy()
            for edits in ([], [edit])
        )
        own, other = drawn.labels[subject], drawn.labels[drawn.corrupt[subject]]
        change = (erased - plain)[own] - (erased - plain)[other]
        assert effects[model.prompts["subject"][subject]] == pytest.approx(change, abs=1e-9)


@pytest.mark.parametrize(
    "model", [hypotheses.detokenization, variants.many_neurons], ids=lambda model: model.__name__
)
def test_where_several_neurons_share_a_subject_one_never_does_it(model):
    made = model()
    spread = isinstance(made, hypotheses.Hypothesis)
    prompts, candidates = (
        (made.prompts(), made.candidates) if spread else (made.prompts, planted_candidates(made))
    )
    drawn = sample(prompts, candidates, subjects=36, draws=0, seed=0)
    table = entity_cells(made.anatomy, drawn, (1, 2), **HOW)["entity_cells"]
    assert table.filter(pl.col("chosen_by") != "all", neurons=1)["does"].to_list() == [0.0] * 4
    assert table.filter(chosen_by="all")["does"].min() > 0.9


def test_random_neurons_write_as_much_and_are_others():
    model, drawn = one_neuron_each()
    cells = Cells.of(model.anatomy, drawn, [0, 1], batch_size=16, seed=0)
    changed = cells.change("erase", drawn.rows)
    chosen = top(cells.specificity[drawn.rows], 3)
    others = top(np.where(chosen, -1.0, cells.lots), 3)
    assert not (chosen & others).any() and (others.sum(axis=(1, 2)) == 3).all()
    written = cells._written(np.where(chosen, changed, 0.0))
    beside = cells._as_long(others, changed, written)
    able = _length(beside) > 0  # neurons that write nothing cannot be made to
    assert able.float().mean() > 0.5
    torch.testing.assert_close(_length(beside)[able], _length(written)[able])


def test_a_subject_whose_answer_was_not_there_loses_none():
    model, drawn = one_neuron_each()
    labels = drawn.labels.copy()
    labels[drawn.rows[0]] = (labels[drawn.rows[0]] + 1) % 3  # an answer that the model does not give
    wrong = replace(drawn, labels=labels)
    found = entity_cells(model.anatomy, wrong, (1, 1), **HOW)["entity_cell_subjects"]
    assert found["erase_does"][0] is False


def test_of_neurons_alike_the_first_is_taken_and_never_more_than_there_are():
    score = np.array([[[1.0, 2.0], [2.0, 0.0]]])
    assert top(score, 1).tolist() == [[[False, True], [False, False]]]
    assert top(score, 3).sum() == 3 and top(score, 9).all()


def test_a_constant_neuron_is_specific_to_nobody():
    model, drawn = one_neuron_each()
    cells = Cells.of(model.anatomy, drawn, [1], batch_size=16, seed=0)
    assert not cells.specificity[:, 0, 36:].any() and np.isfinite(cells.specificity).all()


def test_the_words_and_the_figure_are_those_of_the_table():
    said = told("entity_cells", tables())
    assert said[0].startswith("One neuron of the lookup at its mean loses the sport for 66.7")
    assert "In another's run, one neuron of the lookup at the athlete's value" in said[1]
    assert "Of 36 athletes, 36 have a most specific neuron that is nobody else's" in said[-1]
    assert_readable(draw_entity_cells(entity_cells=tables()["entity_cells"]))


@pytest.mark.parametrize("lookup", [None, (1, 1)])
def test_without_a_lookup_or_without_subjects_the_tables_are_empty(lookup):
    model, drawn = one_neuron_each()
    nobody = drawn if lookup is None else replace(drawn, rows=drawn.rows[:0])
    found = entity_cells(model.anatomy, nobody, lookup, **HOW)
    for name, table in found.items():
        assert table.is_empty() and table.schema == pl.Schema(schema_of(name))
    assert not draw_entity_cells(entity_cells=found["entity_cells"]).axes
    assert len(told("entity_cells", found)) == 1
