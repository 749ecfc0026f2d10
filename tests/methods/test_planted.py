"""The planted circuits are what they say, and the experiments find exactly them and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.engine.direct import (
    HeadPath,
    Readout,
    direct_effects,
    head_input_effects,
)
from factfinding.engine.sites import Site, head, neuron
from factfinding.engine.trace import Edit, Knockout, Read, run
from factfinding.model.anatomy import check_guards, load
from helpers import planted
from helpers.patching import attribute, exact_effects, read_nodes
from helpers.patching import logit_difference as pair_metric

EXACT = 1e-4  # the norms are the identity up to 1e-6, logits are around 8


@pytest.fixture(scope="module")
def name():
    return planted.at_name()


@pytest.fixture(scope="module")
def end():
    return planted.at_end()


def logits(model, **options):
    return run(model.anatomy, model.tokens, logits_at=model.end, **options).logits


def accuracy(model, **options):
    return float((logits(model, **options).argmax(-1) == model.answer).double().mean())


def metric(model):
    """The logit difference between a subject's answer and its donor's."""
    return pair_metric(model.answer, model.answer[model.donors])


def values(model, site, at, rows=slice(None)):
    """What a run reads there for the given subjects."""
    return run(model.anatomy, model.tokens[rows], reads=[Read(site=site, at=at[rows])]).values[0]


def found(effects):
    """Which edits matter to any subject."""
    return effects.abs().amax(0) > EXACT


@pytest.mark.parametrize("model", ["name", "end"])
def test_every_fact_is_recalled_and_neither_name_gives_it_away(model, request):
    model = request.getfixturevalue(model)
    assert accuracy(model) == 1.0
    assert logits(model).softmax(-1).gather(1, model.answer[:, None]).min() > 0.9
    answers = model.prompts["answer"].to_numpy().reshape(4, 4) == "basketball"
    assert (answers.mean(0) == 0.5).all() and (answers.mean(1) == 0.5).all()
    assert set(check_guards(model.anatomy)) == {"blocks", "heads", "unembedding"}
    assert (model.answer != model.answer[model.donors]).all()


def test_direct_effects_find_the_extracting_head_alone(name):
    nodes = read_nodes(name.anatomy, name.tokens, name.end)
    donor = type(nodes)(**{k: v[name.donors] for k, v in vars(nodes).items()})
    weights = [block.out_weight for block in name.anatomy.blocks]
    ids = torch.unique(name.answer)
    clean, corrupt = torch.searchsorted(ids, name.answer), torch.searchsorted(ids, name.answer[name.donors])
    for exact in (True, False):
        effects = direct_effects(
            nodes, donor, weights, Readout.of(name.anatomy, ids), exact=exact
        ).difference(clean, corrupt)
        heads = found(effects.heads[..., 0])
        assert {head(*at, "end") for at in heads.nonzero().tolist()} == set(name.extract)
        assert torch.allclose(
            effects.heads[:, 2, 2, 0], torch.tensor(-4 * planted.LOGIT).double(), atol=1e-3
        )  # +-16 turned round
        assert not found(effects.mlp_out[..., 0]).any()
        assert not found(effects.embedding[..., 0]).any()


def test_paths_into_the_extracting_head_start_at_the_lookup(name):
    clean = read_nodes(name.anatomy, name.tokens, name.final_name, before=2)
    donor = type(clean)(**{k: v[name.donors] for k, v in vars(clean).items()})
    pattern = values(name, Site("pattern", 2), name.end)
    attention = pattern[torch.arange(len(pattern)), 2, name.final_name]
    assert torch.allclose(attention, torch.ones_like(attention))
    effects = head_input_effects(
        clean,
        donor,
        [block.out_weight for block in name.anatomy.blocks],
        HeadPath.of(name.anatomy, head(2, 2)),
        Readout.of(name.anatomy, torch.unique(name.answer)),
        attention=attention,
        resid_end=values(name, Site("resid_post", 3), name.end),
        exact=True,
    )
    assert found(effects.mlp_out).any(-1).tolist() == [False, True]
    assert not found(effects.heads).any() and not found(effects.embedding).any()


def test_direct_effects_find_the_lookup_itself_where_it_is_at_end(end):
    nodes = read_nodes(end.anatomy, end.tokens, end.end)
    donor = type(nodes)(**{k: v[end.donors] for k, v in vars(nodes).items()})
    weights = [block.out_weight for block in end.anatomy.blocks]
    effects = direct_effects(
        nodes, donor, weights, Readout.of(end.anatomy, torch.unique(end.answer)), exact=True
    )
    assert found(effects.mlp_out).any(-1).tolist() == [False, True, False, False]
    assert not found(effects.heads).any() and not found(effects.embedding).any()


def patched(model, sites, role):
    """Every site's value at a role replaced by the donor's, one at a time: `[subjects, sites]`."""
    at = getattr(model, role)
    edits = [Edit(site=site, at=at, value=values(model, site, at)[model.donors]) for site in sites]
    return exact_effects(model.anatomy, model.tokens, edits, metric(model), logits_at=model.end)


@pytest.mark.parametrize(("model", "role"), [("name", "final_name"), ("end", "end")])
def test_patching_finds_the_two_neurons_alone(model, role, request):
    planted_model = request.getfixturevalue(model)
    sites = [neuron(layer, n) for layer in (1, 2) for n in range(planted.NEURONS)]
    effects = patched(planted_model, sites, role)
    hits = {site.at(role) for site, hit in zip(sites, found(effects), strict=True) if hit}
    assert hits == set(planted_model.lookup)
    assert (
        (effects.abs() > EXACT).sum(1) == 1
    ).all()  # for each subject one of them: the one of its last name's sign
    other = "end" if role == "final_name" else "final_name"
    assert not found(patched(planted_model, [Site("post", layer) for layer in range(4)], other)).any()


@pytest.mark.parametrize("model", ["name", "end"])
def test_patching_finds_the_heads_alone(model, request):
    planted_model = request.getfixturevalue(model)
    sites = [head(layer, index) for layer in range(4) for index in range(4)]
    hits = set()
    for role in ("first_name", "final_name", "end"):
        hit = found(patched(planted_model, sites, role))
        hits |= {site.at(role) for site, is_hit in zip(sites, hit, strict=True) if is_hit}
    wanted = {*planted_model.concatenate, *planted_model.extract}
    assert hits == wanted - {
        head(0, 3, "end")
    }  # the donor has the same last name, so what this head moves is the same


def test_a_name_residual_carries_the_fact_only_where_it_is_looked_up_at_the_name(name, end):
    for model, moved in ((name, True), (end, False)):
        for layer in range(4):
            donor = values(model, Site("resid_post", layer), model.final_name)[model.donors]
            edit = Edit(site=Site("resid_post", layer), at=model.final_name, value=donor)
            follows = logits(model, edits=[edit]).argmax(-1) == model.answer[model.donors]
            assert follows.all() == (moved and layer < 2)
            assert follows.any() == (moved and layer < 2)


def test_knockouts_find_the_edges(name, end):
    """Which attention edge, cut in one layer, costs the answer."""

    def cut(model, layer, query, key):
        edge = Knockout(
            layer=layer, queries=getattr(model, query)[:, None], keys=getattr(model, key)[:, None]
        )
        return accuracy(model, knockouts=[edge]) < 1

    edges = [
        (layer, q, k)
        for layer in range(4)
        for q, k in (("final_name", "first_name"), ("end", "first_name"), ("end", "final_name"))
    ]
    assert [e for e in edges if cut(name, *e)] == [(0, "final_name", "first_name"), (2, "end", "final_name")]
    assert [e for e in edges if cut(end, *e)] == [(0, "end", "first_name"), (0, "end", "final_name")]


def test_ablating_the_two_neurons_leaves_chance_and_all_others_cost_nothing(name):
    zero = torch.zeros(1, dtype=torch.float64)
    pair = [Edit(site=site.at(None), at=name.final_name, value=zero) for site in name.lookup]
    assert accuracy(name, edits=pair) == 0.5
    assert accuracy(name, edits=pair[:1]) == 0.75
    post = values(name, Site("post", 1), name.final_name)
    others = torch.zeros_like(post)
    others[:, list(planted.PAIR)] = post[:, list(planted.PAIR)]
    assert accuracy(name, edits=[Edit(site=Site("post", 1), at=name.final_name, value=others)]) == 1.0


def test_attribution_sees_what_takes_away_and_is_blind_to_what_was_off(name):
    """A ReLU that is off has no gradient before it: first order misses the first name's sign for subjects whose
    neurons are off; patching does not. At the neurons' outputs it is right for all."""
    sites = [neuron(1, n) for n in planted.PAIR]
    at = name.final_name
    edits = [Edit(site=s, at=at, value=values(name, s, at)[name.donors]) for s in sites]
    edits.append(Edit(site=head(0, 1), at=at, value=values(name, head(0, 1), at)[name.donors]))
    options = {"metric": metric(name), "logits_at": name.end}
    truth = exact_effects(name.anatomy, name.tokens, edits, **options)
    guess = attribute(name.anatomy, name.tokens, edits, **options)
    assert torch.allclose(guess[:, :2], truth[:, :2], atol=1e-3)
    off = name.prompts["answer"].to_numpy() == "baseball"
    assert (guess[off, 2] == 0).all() and (truth[off, 2].abs() > 1).all()


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 100))
def test_a_little_noise_does_not_hide_the_circuit(seed):
    model = planted.at_name(noise=2e-3, seed=seed)
    assert accuracy(model) == 1.0
    effects = patched(model, [neuron(1, n) for n in range(planted.NEURONS)], "final_name").abs().amax(0)
    assert set(effects.topk(2).indices.tolist()) == set(planted.PAIR)
    assert effects.topk(3).values[2] < 0.05 * effects.topk(3).values[1]


def test_it_can_be_saved_and_loaded_as_a_users_model(tmp_path, name):
    loaded = load(planted.save(name, tmp_path), dtype="float64", device="cpu")
    again = run(loaded, name.tokens, logits_at=name.end).logits
    assert torch.allclose(again, logits(name), atol=1e-12)


def test_the_model_works_in_float32():
    assert accuracy(planted.at_name(dtype=torch.float32, firsts=6, lasts=6)) == 1.0
