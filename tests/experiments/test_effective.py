"""The effective model equals the ablated model: every family, any split into parts, names of any length."""

from __future__ import annotations

import pytest
import torch

from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Knockout, Read, run
from factfinding.errors import InputError
from factfinding.methods.effective import EffectiveModel, NoEffectiveModel
from factfinding.methods.simplified import Parts
from helpers.effective_models import ANSWERS, ablated, made
from helpers.models import FAMILIES

PARTS = [
    Parts(concatenate=1, lookup=(2, 2)),
    Parts(concatenate=1, lookup=(1, 2)),  # attention of the lookup's first layer still concatenates
    Parts(concatenate=2, lookup=(0, 2)),
    Parts(concatenate=-1, lookup=(1, 1)),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_it_equals_the_ablated_model_on_all_pairs_of_tokens(family, parts):
    anatomy, model, names, _, constants, probe = made(family, parts)
    pairs = torch.cartesian_prod(*names[0].tokens)
    tokens = torch.cat((torch.zeros(len(pairs), 1, dtype=torch.int64), pairs), dim=1)
    truth = ablated(anatomy, parts, names[0], tokens, constants)
    assert torch.allclose(model.stream(*pairs.T), truth[:, parts.lookup[0] : parts.lookup[1] + 1], atol=1e-9)
    assert torch.allclose(
        model(*pairs.T), truth[:, parts.lookup[1]] @ probe["weight"] + probe["bias"], atol=1e-9
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_other_lengths_have_a_table_for_each_token(family):
    parts = Parts(concatenate=1, lookup=(1, 2))
    anatomy, model, names, tokens, constants, _ = made(family, parts, lengths=(1, 2, 3, 5))
    for group in names:
        length = group.layout.n_name_tokens
        truth = ablated(anatomy, parts, group, tokens[length], constants)[:, 1:3]
        assert torch.allclose(model.stream(*tokens[length][:, 1:].T), truth, atol=1e-9)
    with pytest.raises(InputError, match="a name of 4 tokens; allowed: names of 1, 2, 3, 5"):
        model(*torch.ones(4, 1, dtype=torch.int64))


def test_the_ablated_model_is_what_the_study_describes():
    """Hooks written out by hand: frozen patterns, no look at itself in layer 1, constants; two tokens."""
    parts = Parts(concatenate=1, lookup=(2, 2))
    anatomy, model, _, tokens, constants, probe = made("gpt_neox", parts)
    ids = tokens[2]
    everyone, final = torch.tensor([[1, 2]]).expand(12, -1), torch.full((12,), 2)
    cut = Knockout(layer=1, queries=final[:, None], keys=final[:, None])
    reads = [Read(site=Site("pattern", layer), at=everyone) for layer in (0, 1)]
    patterns = [value.mean(0) for value in run(anatomy, ids, reads=reads, knockouts=[cut]).values]
    assert patterns[1][1, :, 2].abs().max() == 0, "the final name token does not see itself in layer 1"
    edits = [Edit(site=Site("pattern", layer), at=everyone, value=patterns[layer]) for layer in (0, 1)]
    edits.append(Edit(site=Site("attn_out", 2), at=final, value=constants["attn"][2]))
    edits.append(Edit(site=Site("mlp_out", 1), at=final, value=constants["mlp"][1]))
    resid = run(anatomy, ids, reads=[Read(site=Site("resid_post", 2), at=final)], edits=edits).values[0]
    assert torch.allclose(model(ids[:, 1], ids[:, 2]), resid @ probe["weight"] + probe["bias"], atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_it_is_the_same_without_the_model(family, tmp_path):
    _, model, _, tokens, _, _ = made(family, Parts(concatenate=1, lookup=(1, 2)), lengths=(2, 3))
    path = tmp_path / "effective_model.safetensors"
    model.save(path)
    again = EffectiveModel.load(path)
    for length in (2, 3):
        ids = tokens[length][:, 1:].T
        assert torch.equal(again(*ids), model(*ids))
    first, last = (int(token) for token in tokens[2][0, 1:])
    expected = ANSWERS[int(model(*tokens[2][:1, 1:].T).argmax())]
    assert again.answer(first=first, last=last) == again.answer(first, last) == expected


def test_in_single_precision_it_agrees_as_far_as_that_goes():
    parts = Parts(concatenate=1, lookup=(1, 2))
    anatomy, model, names, tokens, constants, _ = made("gpt_neox", parts, dtype=torch.float32)
    truth = ablated(anatomy, parts, names[0], tokens[2], constants)[:, 1:3]
    assert float((model.stream(*tokens[2][:, 1:].T) - truth).abs().max() / truth.abs().max()) < 1e-5


def test_a_token_that_stands_in_no_name_is_refused():
    _, model, names, _, _, _ = made("gpt_neox", PARTS[0])
    strange = next(token for token in range(60) if token not in names[0].tokens[1])
    with pytest.raises(InputError, match=f"token 2 of the name: found token id {strange}"):
        model.answer(int(names[0].tokens[0][0]), strange)


def test_a_model_that_is_no_sum_of_tables_is_refused(monkeypatch):
    from factfinding.methods import effective

    whole = effective.simplified_run

    def with_a_product(anatomy, tokens, *args, **kwargs):
        resid, places = whole(anatomy, tokens, *args, **kwargs)
        return resid, [place + 1e-3 * (tokens[:, 1] * tokens[:, 2])[:, None] for place in places]

    monkeypatch.setattr(effective, "simplified_run", with_a_product)
    with pytest.raises(InputError, match="relative difference .* effective and the simplified model"):
        made("gpt_neox", PARTS[0])


def test_a_study_without_one_says_why(tmp_path):
    NoEffectiveModel("a study in which nothing is known").save(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="nothing is known"):
        EffectiveModel.load(tmp_path / "none.safetensors")
    (tmp_path / "broken").write_bytes(b"x")
    with pytest.raises(InputError, match="no safetensors file"):
        EffectiveModel.load(tmp_path / "broken")


def test_tables_have_mean_zero_and_the_constants_the_rest():
    _, model, _, _, _, _ = made("llama", PARTS[1])
    tables = model.names["2"]
    for slot in range(2):
        assert getattr(tables, f"terms_{slot}").mean(1).abs().max() < 1e-12
    assert tables.constants.shape == (3, 32), "the stream, and the attention of two layers"
