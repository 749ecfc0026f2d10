"""Where memory runs out, every experiment that runs the model goes on with smaller batches, and finds the same tables."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from factfinding.data.texts import String
from factfinding.engine.sites import neuron
from factfinding.experiments.circuit_checks.compute import circuit_checks
from factfinding.experiments.dossiers import ablation
from factfinding.experiments.dossiers.texts import Running, firing
from factfinding.experiments.locality.measure import locality
from factfinding.experiments.recall.compute import answer_scores
from factfinding.methods.effective import NameTables
from helpers import ROOT, planted
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import intervention_tables
from helpers.name_tables import example_name_tables
from helpers.neuron_tables import neuron_tables

FITS = 6
"""Rows of a batch that fit: the names of one pair of P3.7, which go together. All experiments here ask for more."""
MODEL = planted.at_name(firsts=4, lasts=4)
Tables = dict[str, pl.DataFrame]


def interventions() -> Tables:
    return intervention_tables(MODEL.anatomy, MODEL.prompts, planted_candidates(MODEL))


def names() -> Tables:
    return example_name_tables(MODEL.anatomy, MODEL.prompts)


def neurons() -> Tables:
    return neuron_tables(knows=True)


def checks() -> Tables:
    return {
        "checks": circuit_checks(
            MODEL.anatomy, MODEL.prompts, planted_candidates(MODEL), batch_size=16, seed=0
        )
    }


def recall() -> Tables:
    scores = answer_scores(MODEL.anatomy, MODEL.prompts, planted_candidates(MODEL), batch_size=16)
    return {"logits": pl.DataFrame(scores.logits), "logp": pl.DataFrame(scores.logp)}


def local() -> Tables:
    ids = np.array(MODEL.prompts["token_ids"].to_list())[:, 1:]
    strings = [String(ids=row.tolist(), words=["word"] * len(row)) for row in ids]
    made = locality(MODEL.anatomy, strings, ks=(1, 2), positions=2, batch_size=16, seed=0)
    return {"locality": made.locality, "tokens": made.tokens, "values": made.values}


def ablations() -> Tables:
    candidates, width = planted_candidates(MODEL), MODEL.anatomy.d_mlp
    rows, units = np.arange(MODEL.prompts.height), np.array([0, 3, 5])
    tokens = candidates["token_id"].to_list()
    found = ablation.answers(MODEL.anatomy, MODEL.prompts, tokens, rows, 1, units, np.zeros(width))
    return {"clean": pl.DataFrame(found.clean), "ablated": pl.DataFrame(found.ablated.reshape(len(rows), -1))}


def texts() -> Tables:
    ids = np.array(MODEL.prompts["token_ids"].to_list())[:, 1:]
    running = Running(source="here", ids=ids, pieces=[[str(i) for i in row] for row in ids.tolist()])
    found = firing(MODEL.anatomy, running, [neuron(1, 3)], shown=4, batch_size=16)[neuron(1, 3)]
    return {"windows": pl.DataFrame([vars(window) for window in found.windows])}


class Memory:
    """Memory for `FITS` rows: a batch with more raises what torch raises, and is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused = 0
        for place in (torch.nn.Embedding, NameTables):
            monkeypatch.setattr(place, "forward", self.limited(place.forward))

    def limited(self, forward: Callable) -> Callable:
        def forward_if_it_fits(module, ids, *others):
            if len(ids) > FITS:
                self.refused += 1
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(module, ids, *others)

        return forward_if_it_fits


@pytest.mark.parametrize(
    "tables",
    [recall, checks, interventions, names, neurons, local, ablations, texts],
    ids=lambda tables: tables.__name__,
)
def test_the_tables_are_the_same_where_few_rows_fit(monkeypatch, tables):
    expected = tables()
    memory = Memory(monkeypatch)
    found = tables()
    assert memory.refused, "everything fitted: nothing was tried"
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        assert_frame_equal(found[name], table, abs_tol=1e-9, rel_tol=1e-9)


def test_no_method_steps_through_rows_by_a_size_that_is_fixed():
    """They would die where memory runs out, or leave it to the user to find the size."""
    rooms = [ROOT / "scripts/factfinding" / room for room in ("experiments", "methods", "engine")]
    steps = re.compile(r"range\([^()]*(?:\([^()]*\)[^()]*)*(?:batch_size|BATCH)\b")
    found = [path for room in rooms for path in room.rglob("*.py") if steps.search(path.read_text())]
    assert found == []
