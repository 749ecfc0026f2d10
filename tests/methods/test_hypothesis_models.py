"""The models of tests/helpers/hypotheses.py are what they say: who is known, which neurons are on, and what each part is for."""

from __future__ import annotations

from itertools import combinations

import polars as pl
import pytest
import torch

from factfinding.data.prompts import prompt_table
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, run
from factfinding.model.anatomy import check_guards
from helpers import hypotheses
from helpers.hypotheses import ASKS, BYSTANDERS, FACTS, MODELS, NEURONS, Hypothesis, direction
from helpers.intervention_tables import circuit_of, readers_of

OWN = slice(0, NEURONS - BYSTANDERS)
"""The neurons that are no bystanders."""


@pytest.fixture(scope="module", params=list(MODELS))
def model(request) -> Hypothesis:
    return MODELS[request.param]()


def probabilities(model: Hypothesis, names: list[str], relation: str) -> torch.Tensor:
    """What a model says at the end of a question about each name: `[names, vocabulary]`."""
    tokens = model.anatomy.tokenizer
    texts = [f"Fact: {name} {ASKS[relation]}" for name in names]
    ids = torch.tensor(tokens(texts, add_special_tokens=False)["input_ids"])
    bos = torch.full((len(ids), 1), model.anatomy.bos_token_id)
    return model.anatomy.model(torch.cat((bos, ids), dim=1)).logits[:, -1].softmax(-1)


def neurons(model: Hypothesis, names: list[str], layer: int) -> torch.Tensor:
    """Post-activations at the final name token, bystanders left out."""
    table = pl.DataFrame({"subject": names, "answer": [FACTS["answer"][0]] * len(names)})
    prompts = prompt_table(table, model.anatomy.tokenizer, model.anatomy.bos_token_id, "full")
    tokens, at = torch.tensor(prompts["token_ids"].to_list()), torch.tensor(prompts["final_name"].to_list())
    return run(model.anatomy, tokens, reads=[Read(site=Site("post", layer), at=at)]).values[0][:, OWN]


def test_no_fact_says_anything_about_another_and_no_name_about_the_answer():
    table = hypotheses.people()
    for one, other in combinations(FACTS, 2):
        counts = table.group_by(one, other).len()
        assert counts.height == len(FACTS[one]) * len(FACTS[other]) and counts["len"].n_unique() == 1
    for name in ("first", "last"):
        assert table.group_by(name, "answer").len().height == 36
    pairs = set(table.select("first", "last").rows())
    for (a, b), (c, d) in combinations(sorted(pairs), 2):
        assert a == c or b == d or len({(a, d), (c, b)} & pairs) < 2


@pytest.mark.parametrize("relation", FACTS)
def test_known_pairs_are_known_and_of_unknown_ones_nothing(model, relation):
    known = model.people["subject"].to_list()
    own = model.anatomy.tokenizer.convert_tokens_to_ids([f" {value}" for value in model.people[relation]])
    assert probabilities(model, known, relation).gather(1, torch.tensor(own)[:, None]).min() > 0.98
    guess = probabilities(model, model.unknown, relation).amax(1)
    assert len(guess) == 108 and guess.max() < 1 / len(FACTS[relation]) + 0.01
    assert set(check_guards(model.anatomy)) == {"blocks", "heads", "unembedding"}


@pytest.mark.parametrize(("name", "each"), [("entity cells", 1), ("fact cells", 3)])
def test_cells_are_on_for_one_pair_each(name, each):
    model = MODELS[name]()
    on = neurons(model, model.people["subject"].to_list(), 1) > 1e-6
    assert (on.sum(1) == each).all() and on.sum(0).max() == 1
    assert not (neurons(model, model.unknown, 1) > 1e-6).any()


def test_detokenization_has_four_neurons_for_each_pair_and_two_pairs_for_each_neuron():
    model = MODELS["detokenization"]()
    on = neurons(model, model.people["subject"].to_list(), 1) > 1e-6
    assert (on.sum(1) == 4).all() and set(on.sum(0).tolist()) == {0, 2}
    assert (on.double() @ on.double().T).fill_diagonal_(0).max() == 1
    assert not (neurons(model, model.unknown, 1) > 1e-6).any()


def test_the_hash_is_generic_and_its_lookup_has_a_neuron_for_each_fact():
    model = MODELS["hash and lookup"]()
    known, unknown = model.people["subject"].to_list(), model.unknown
    on = [float((neurons(model, names, 1) > 1e-6).sum(1).double().mean()) for names in (known, unknown)]
    assert on[0] == pytest.approx(on[1], rel=0.05)
    on = neurons(model, known, 2) > 1e-6
    assert (on.sum(1) == 3).all() and on.sum(0).max() == 1
    assert not (neurons(model, unknown, 2) > 1e-6).any()


@pytest.mark.parametrize("name", MODELS)
def test_without_its_lookup_a_model_knows_nobody(name):
    model, layer = MODELS[name](), 2 if name == "hash and lookup" else 1
    prompts = model.prompts()
    tokens, at, end = (
        torch.tensor(prompts[column].to_list()) for column in ("token_ids", "final_name", "end")
    )
    off = Edit(site=Site("post", layer), at=at, value=torch.zeros(1, NEURONS, dtype=torch.float64))
    assert run(model.anatomy, tokens, logits_at=end, edits=[off]).logits.softmax(-1).max() < 0.35


def test_bystanders_write_what_nobody_reads(model):
    """Their directions are orthogonal to all that any part reads."""
    weights = model.anatomy.model.state_dict()
    readers = [value for name, value in weights.items() if name.endswith(("h_to_4h.weight", "value.weight"))]
    for reader in [*readers, weights["lm_head.weight"]]:
        for i in range(BYSTANDERS):
            assert (reader @ direction(f"junk_{i}")).abs().max() < 1e-9


def test_the_workflow_proposes_the_planted_circuit(model):
    """Where MLP 2 does nothing, it is not proposed; the experiments below are given both MLPs all the same."""
    prompts = model.prompts()
    circuit, _ = circuit_of(model.anatomy, prompts, model.candidates, readers_of(model.anatomy, prompts))
    assert circuit.lookup_at == "final_name" and circuit.concatenate == (0, 0)
    assert circuit.lookup == ((1, 2) if model.name == "hash and lookup" else (1, 1))
    assert circuit.extract == ("L3H0",)
