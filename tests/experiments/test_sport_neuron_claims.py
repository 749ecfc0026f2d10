"""The claims on the answer neuron, judged on planted models in which each is true and in which it is false.

All models recall by the same circuit (helpers/planted.py); what differs is the neurons of layer 2, which is counted to
the lookup, so that one neuron of it can be the best detector of an answer:

    direction   reads what head L2H2 reads as the answer, and noise: it is only that direction
    copy        reads that, and as much of a second copy of the fact, which no head reads
    lookup      none: the best are the two neurons that look the fact up, each for half of the subjects of one answer
    bystander   reads one name's sign, which tells no answer
"""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from factfinding.declarations import declarations
from factfinding.experiments.answer_neurons import compute as answer_neurons
from factfinding.experiments.answer_neurons.compute import best_of
from factfinding.experiments.answer_neurons.show import sentences as scan_sentences
from factfinding.experiments.dossiers import compute as dossiers
from factfinding.experiments.dossiers.removed import WITH_HEAD, WITH_PROBE
from factfinding.experiments.dossiers.show import sentences
from factfinding.experiments.dossiers.weights import Weights
from factfinding.inputs import Settings
from factfinding.ledger import CONTRADICTED, NOT_APPLICABLE, SUPPORTED, judge
from factfinding.methods.circuit import Circuit
from factfinding.tables import schema_of
from helpers import planted
from helpers.head_tables import planted_candidates
from helpers.inputs import RunActivations, given, known, quiet
from helpers.intervention_tables import readers_of

READER = 5
COPY = "bos"
"""The feature that holds the copy: at the name token nothing else writes it or reads it."""
NOISE = 0.02
SETTINGS = {
    "compute": {},
    "answer_neurons": {
        "subjects": "known",
        "best": 3,
        "permutations": 100,
        "neurons": [],
        "ablated_subjects": 200,
        "random_neurons": 10,
        "texts": None,
        "text_tokens": 10,
        "window": 5,
        "shown_texts": 1,
        "seed": 0,
    },
}


def model(kind: str) -> planted.Planted:
    made = planted.at_name(firsts=16, lasts=16)
    first, second = (made.anatomy.blocks[layer].mlp for layer in (1, 2))
    fact, copy = planted.direction("fact"), planted.direction(COPY)
    if kind == "direction":
        noise = torch.randn(planted.WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        noise[:2] = 0  # not the ballast
        second.dense_h_to_4h.weight[READER] = fact / 2 + NOISE * noise
    if kind == "copy":
        for unit in planted.PAIR:
            first.dense_4h_to_h.weight[:, unit] += copy
        second.dense_h_to_4h.weight[READER] = fact / 2 + copy / 2
    if kind == "bystander":
        second.dense_h_to_4h.weight[READER] = planted.direction("last_sign") / 2
    if kind != "lookup":
        second.dense_h_to_4h.bias[READER] = 0.25
    return made


@cache
def tables(kind: str, lookup: tuple[int, int] = (1, 2)) -> dict[str, pl.DataFrame]:
    """The tables of P3.4 of a planted model; `lookup`: the layers whose neurons are tried."""
    made = model(kind)
    held = {
        "anatomy": made.anatomy,
        "candidates": planted_candidates(made),
        "recall": known(made.prompts),
        "prompts_full": made.prompts,
        "activations_full": RunActivations(made.anatomy, made.prompts),
        "readers": readers_of(made.anatomy, made.prompts),
        "circuit.yaml": Circuit(
            lookup_at="final_name", concatenate=(0, 0), lookup=lookup, extract=("L2H2", "L2H1")
        ),
    }
    settings = Settings(SETTINGS)
    scan = answer_neurons.compute(given(**held), settings, quiet)
    made_of = dossiers.compute(given(**held, **scan), settings, quiet)
    return scan | {name: table for name, table in made_of.items() if name != "dossiers"}


def verdicts(found: dict[str, pl.DataFrame]) -> dict[str, str]:
    """What the ledger says of the claims on the answer neuron."""
    declared = declarations()
    own = {name: declared.experiments[name] for name in ("answer_neurons", "dossiers")}
    ledger = judge(declared.model_copy(update={"experiments": own}), found, regardless=True)
    return dict(ledger.select("claim", "verdict").iter_rows())


def left(kind: str, removed: str, rank: int | None = 1, **options) -> dict:
    """The row of the neuron that claims are about with something removed."""
    rows = tables(kind, **options)["answer_neuron_projections"].filter("best", removed=removed)
    return rows.filter(pl.col("head_rank").eq_missing(rank)).row(0, named=True)


def test_each_planted_neuron_is_the_one_that_claims_are_about():
    for kind, neuron in (("direction", "L2N5"), ("copy", "L2N5")):
        (row,) = tables(kind)["answer_neurons"].filter("best", chosen_on="first").iter_rows(named=True)
        assert (row["neuron"], row["sign"], row["answer"], row["auc"]) == (neuron, 1, "basketball", 1.0)
    (row,) = tables("lookup")["answer_neurons"].filter("best", chosen_on="first").iter_rows(named=True)
    assert row["neuron"] in {"L1N3", "L1N17"} and row["auc"] == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize(
    ("kind", "verdict"), [("direction", CONTRADICTED), ("copy", SUPPORTED), ("lookup", SUPPORTED)]
)
def test_only_a_neuron_that_is_more_than_the_heads_direction_is_called_so(kind, verdict):
    assert verdicts(tables(kind))["sport-neuron-not-only-direction"] == verdict


def test_where_a_neuron_tells_nothing_to_begin_with_nothing_is_judged():
    found = tables("bystander", lookup=(2, 2))
    whole = left("bystander", "nothing", None, lookup=(2, 2))
    assert whole["auc_low"] <= 0.5 and whole["kept"] is None
    assert verdicts(found)["sport-neuron-not-only-direction"] == NOT_APPLICABLE
    assert "so nothing follows" in sentences(found)[0]


def test_a_neuron_of_one_direction_points_along_it_and_one_that_looks_up_does_not():
    assert verdicts(tables("direction"))["sport-neuron-along-sport"] == SUPPORTED
    assert verdicts(tables("lookup"))["sport-neuron-along-sport"] == CONTRADICTED


def test_the_model_loses_what_a_lookup_neuron_makes_and_nothing_of_what_a_reader_reads():
    assert verdicts(tables("lookup"))["sport-neuron-matters"] == SUPPORTED
    assert verdicts(tables("lookup"))["sport-neuron-zero-is-worse"] == SUPPORTED
    assert verdicts(tables("copy"))["sport-neuron-matters"] == CONTRADICTED
    assert verdicts(tables("copy"))["sport-neuron-zero-is-worse"] not in {SUPPORTED}


def test_a_neuron_tells_well_or_not():
    assert verdicts(tables("copy"))["sport-neuron"] == SUPPORTED
    assert verdicts(tables("bystander", lookup=(2, 2)))["sport-neuron"] == CONTRADICTED


def test_what_the_study_removes_has_its_own_row_and_a_probe_is_none_of_it():
    removed = tables("copy")["answer_neuron_projections"].filter("best")
    whole, study = left("copy", "nothing", None), left("copy", WITH_HEAD)
    assert study["head"] == "L2H2" and study["auc"] == whole["auc"] == 1.0 and study["kept"] == 1.0
    # the head's two directions are one where there are two answers, and the neuron writes nothing
    assert (study["dimensions"], left("copy", WITH_PROBE)["dimensions"]) == (1, 2)
    assert removed.filter(removed=WITH_HEAD)["head"].to_list() == ["L2H2", "L2H1"]
    assert removed.filter(pl.col("from_first_head").is_not_null())["head"].to_list() == ["L2H1"]


def test_it_is_said_when_what_is_left_depends_on_the_head_that_reads():
    """L2H1 does nothing, so with it nothing but the output weights is taken out, which are zero."""
    first, other = left("direction", WITH_HEAD), left("direction", WITH_HEAD, 2)
    assert first["auc"] < 0.7 < other["auc"] == 1.0
    assert other["from_first_head"] == pytest.approx(other["auc"] - first["auc"])
    assert other["from_first_head_low"] > 0
    told = sentences(tables("direction"))[1]  # of basketball; baseball's is the same neuron, low on it
    assert "L2N5 tells basketball" in told and "so it is little but these directions" in told
    assert "With L2H1 in place of L2H2" in told and "depends on the head that reads" in told
    assert "so it is more than these directions" in sentences(tables("copy"))[1]


def test_everything_is_measured_where_the_neuron_was_not_chosen():
    found = tables("lookup")
    bars = found["answer_neuron_histograms"].filter("best")
    assert bars["subjects"].sum() == bars["n"][0] == 128
    assert set(found["answer_neuron_ablations"]["n"]) == {64}
    assert set(found["answer_neuron_projections"]["n"]) == {128}
    whole = found["answer_neuron_projections"].filter("best", removed="nothing")
    scanned = found["answer_neurons"].filter("best", chosen_on="first")
    assert whole["auc"].item() == pytest.approx(scanned["auc"].item())


def test_loss_and_answers_are_both_said():
    told = [one for one in scan_sentences(tables("copy")) if "was not chosen on the loss is" in one]
    assert all("of the answers are right" in one and "points)" in one for one in told) and len(told) == 2


def test_the_best_is_the_largest_on_the_choosing_half_and_of_two_alike_the_one_that_is_high():
    rows = [{"auc_choosing": value, "sign": sign} for value, sign in ((0.7, 1), (0.9, -1), (0.9 - 1e-13, 1))]
    assert best_of(rows) is rows[2] and best_of(rows[:2]) is rows[1]


def test_rounding_that_is_left_when_all_is_taken_out_tells_nothing():
    made, rng = model("direction"), np.random.default_rng(0)
    weights = Weights.of(made.anatomy, 2)
    into = weights.into[READER]
    normed = rng.normal(size=(60, len(into)))
    pre, post = weights.without(normed, READER, (into / np.linalg.norm(into))[:, None])
    assert len(set(pre)) == 1 == len(set(post))
    assert pre[0] == pytest.approx(weights.pre(normed, READER).mean())
    assert len(set(weights.without(normed, READER, np.zeros((len(into), 0)))[0])) == 60


def test_tables_are_those_declared():
    for name, table in tables("lookup").items():
        assert dict(table.schema) == schema_of(name), name
