"""Where memory runs out, every experiment that runs the model goes on with smaller batches, and finds the same tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from factfinding.data.texts import String
from factfinding.engine.answers import answers
from factfinding.engine.sites import neuron
from factfinding.experiments.circuit_checks.compute import circuit_checks
from factfinding.experiments.dossiers import ablation
from factfinding.experiments.dossiers.texts import Running, firing
from factfinding.experiments.entity_cells.compute import entity_cells
from factfinding.experiments.linear_relation.compute import linear_relation
from factfinding.experiments.locality.measure import locality
from factfinding.experiments.name_unit.compute import name_unit
from factfinding.experiments.recall.compute import answer_scores
from factfinding.methods.effective import NameTables
from factfinding.methods.patched import sample
from factfinding.store import Activations
from helpers import ROOT, hypotheses, planted, planted_course, stores
from helpers.attribute_tables import attribute_tables
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import intervention_tables, readers_of
from helpers.models import random_anatomy
from helpers.name_tables import example_name_tables
from helpers.neuron_tables import neuron_tables
from helpers.wording_tables import SAME, tables_of

MODEL, LARGER = planted.at_name(firsts=4, lasts=4), planted.at_name(firsts=8, lasts=8)
Tables = dict[str, pl.DataFrame]


def interventions() -> Tables:
    return intervention_tables(MODEL.anatomy, MODEL.prompts, planted_candidates(MODEL))


def names() -> Tables:
    return example_name_tables(LARGER.anatomy, LARGER.prompts)


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


def wordings() -> Tables:
    return tables_of([SAME], batch_size=16)


def attributes() -> Tables:
    return attribute_tables.__wrapped__(hypotheses.fact_cells, batch_size=16)


def relation() -> Tables:
    drawn = sample(MODEL.prompts, planted_candidates(MODEL), subjects=16, draws=0, seed=0)
    table = linear_relation(MODEL.anatomy, drawn, examples=4, ranks=(1, 2), batch_size=16, seed=0)
    return {"linear_relation": table}


def cells() -> Tables:
    drawn = sample(MODEL.prompts, planted_candidates(MODEL), subjects=16, draws=0, seed=0)
    return entity_cells(MODEL.anatomy, drawn, (1, 1), sizes=(1, 2), batch_size=16, seed=0)


def units() -> Tables:
    reader, candidates = readers_of(MODEL.anatomy, MODEL.prompts), planted_candidates(MODEL)
    return name_unit(MODEL.anatomy, MODEL.prompts, MODEL.prompts, candidates, reader, batch_size=16, seed=0)


def checkpoints() -> Tables:
    made = planted_course.in_order("concatenation", "lookup", "extraction", firsts=4, lasts=4)[2:]
    return planted_course.course(made, batch_size=16)


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


def activations() -> Tables:
    names = [f"{first} {last}" for first in ("Bo", "Al", "Ann") for last in ("Lee", "Li", "X")]
    with TemporaryDirectory() as folder:
        stores.store(Path(folder), names, batch_size=16, shard_rows=16)
        with Activations(Path(folder) / "full.h5") as file:
            values = {name: file.layer(name, file.layers(name)[0]) for name in file.names()}
    return {
        name: pl.DataFrame(np.nan_to_num(value).reshape(len(value), -1)) for name, value in values.items()
    }


RULES: dict[Callable[[], Tables], tuple[int, set[str]]] = {
    recall: (6, {"recall"}),
    checks: (6, {"circuit_checks"}),
    interventions: (
        6,
        {
            "total_effects", "residual_patching", "circuit_scan", "ladder", "effective_model", "context",
            "probe_patching", "effective_probes", "nonlinear_excess",
        },
    ),
    names: (6, {"mlp_norms", "linear_structure", "orthogonal_remainder"}),  # a pair of P3.7 is six names together
    wordings: (6, {"paraphrases"}),
    attributes: (6, {"multi_token", "extraction_unasked"}),
    relation: (2, {"linear_relation"}),
    cells: (6, {"entity_cells"}),
    units: (6, {"name_unit"}),
    checkpoints: (6, {"emergence"}),
    neurons: (3, {"neuron_facts", "neuron_effects", "mlp_paths"}),
    local: (6, {"locality"}),
    ablations: (6, {"dossiers"}),
    texts: (6, {"dossiers"}),
    activations: (1, {"activations"}),
}  # fmt: skip
"""What is tried, the rows of a batch that fit, and the rules in whose batches memory must then have run out."""
SHARDED = {rule: f"{rule}_shard" for rule in ("activations", "total_effects", "neuron_effects")}
"""Rules whose work is done by jobs that share it."""
NO_BATCHES = {"model_card"}
"""Rules with a GPU that run the guards only, two prompts of nine tokens."""
RUN_BY = re.compile(r"factfinding\.(?:experiments\.(\w+)|engine\.(capture))")


def running() -> set[str]:
    """The rules whose code is being run."""
    found, frame = set(), sys._getframe()
    while frame is not None:
        match = RUN_BY.match(frame.f_globals.get("__name__", ""))
        if match:
            found.add(match[1] or "activations")
        frame = frame.f_back
    return found


class Memory:
    """Memory for so many rows: a batch with more raises what torch raises, and whose batch it was is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.rows = rows
        self.refused: set[str] = set()
        for place in (torch.nn.Embedding, NameTables):
            monkeypatch.setattr(place, "forward", self.limited(place.forward))

    def limited(self, forward: Callable) -> Callable:
        def forward_if_it_fits(module, ids, *others):
            if len(ids) > self.rows:
                self.refused |= running()
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(module, ids, *others)

        return forward_if_it_fits


@pytest.mark.parametrize("tables", RULES, ids=lambda tables: tables.__name__)
def test_the_tables_are_the_same_where_few_rows_fit(monkeypatch, tables):
    rows, rules = RULES[tables]
    expected = tables()
    memory = Memory(monkeypatch, rows)
    found = tables()
    assert memory.refused >= rules, "what is missing was not tried: all of its batches fitted"
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        assert_frame_equal(found[name], table, abs_tol=1e-9, rel_tol=1e-9)


def test_every_rule_that_runs_the_model_is_tried():
    rules = re.compile(r"^rule (\w+):(?:(?!^rule ).)*?^        gpu=1,", re.MULTILINE | re.DOTALL)
    found = {name for path in (ROOT / "rules").glob("*.smk") for name in rules.findall(path.read_text())}
    assert found - NO_BATCHES == {
        SHARDED.get(name, name) for name in set().union(*(rules for _, rules in RULES.values()))
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_where_a_gpu_is_full_the_batch_is_halved_and_the_answers_are_the_same(caplog):
    """Memory is capped at a quarter of what the whole batch took."""
    anatomy = random_anatomy("gpt_neox", width=1024, layers=2, vocabulary=MODEL.anatomy.d_vocab)
    anatomy.model.to("cuda")
    prompts, ids = pl.concat([MODEL.prompts] * 128), planted_candidates(MODEL)["token_id"].to_list()

    def said() -> np.ndarray:
        return answers(anatomy, prompts, ids, batch_size=prompts.height).logits

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    expected = said()
    cap = before + (torch.cuda.max_memory_allocated() - before) // 4
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(cap / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = said()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with 2048 rows in a batch; going on with 1024" in caplog.text
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_no_method_steps_through_rows_by_a_size_that_is_fixed():
    """They would die where memory runs out, or leave it to the user to find the size."""
    rooms = [ROOT / "scripts/factfinding" / room for room in ("experiments", "methods", "engine")]
    steps = re.compile(r"range\([^()]*(?:\([^()]*\)[^()]*)*(?:batch_size|BATCH)\b")
    found = [path for room in rooms for path in room.rglob("*.py") if steps.search(path.read_text())]
    assert found == []
