"""The slow twin: identities that hold for every model, on every family, in float64."""

from __future__ import annotations

import pytest
import torch

from factfinding.engine.sites import LAYER_KINDS, Site, head, neuron
from factfinding.engine.trace import Edit, Knockout, Read, pick, put, run
from factfinding.errors import InputError
from helpers.models import FAMILIES, random_anatomy

N, T = 3, 8
TOKENS = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(2))
END = torch.full((N,), T - 1)
AT = torch.tensor([3, 4, 5])


@pytest.fixture(scope="module", params=FAMILIES)
def anatomy(request):
    return random_anatomy(request.param, dtype=torch.float64)


def plain(anatomy, tokens=TOKENS):
    return run(anatomy, tokens, logits_at=END).logits


def close(x, y):
    return torch.allclose(x, y, atol=1e-12, rtol=0)


def hooks(anatomy):
    """Hooks on the model, without those that the model library itself keeps there once it has run."""
    found = [
        h
        for m in anatomy.model.modules()
        for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    return sum(hook.__module__.startswith("factfinding") for hook in found)


def test_a_run_without_edits_is_the_model(anatomy):
    assert close(run(anatomy, TOKENS, logits_at=END).logits, anatomy.model(input_ids=TOKENS).logits[:, -1])


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_reading_changes_nothing_and_patching_with_itself_is_exactly_zero(anatomy, kind):
    for at in (None, AT, torch.stack([AT, AT + 1], 1)):
        read = run(anatomy, TOKENS, logits_at=END, reads=[Read(site=Site(kind, 1), at=at)])
        assert torch.equal(read.logits, plain(anatomy))
        again = run(
            anatomy, TOKENS, logits_at=END, edits=[Edit(site=Site(kind, 1), at=at, value=read.values[0])]
        )
        tolerance = 1e-12 if kind == "pattern" else 0.0  # z is made again from the pattern
        assert (again.logits - plain(anatomy)).abs().max() <= tolerance


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_an_edit_of_everything_from_another_run_is_that_run_from_there(anatomy, kind):
    """resid_post is all that later layers see; other sites are only part of it and must differ."""
    other = run(anatomy, OTHER, reads=[Read(site=Site(kind, 1))]).values[0]
    patched = run(anatomy, TOKENS, logits_at=END, edits=[Edit(site=Site(kind, 1), value=other)]).logits
    same = torch.allclose(patched, plain(anatomy, OTHER), atol=1e-12)
    assert same == kind.startswith("resid")
    assert not torch.allclose(patched, plain(anatomy))


def test_all_neurons_of_a_layer_are_the_mlp_output(anatomy):
    read = [Read(site=Site("post", 1), at=AT), Read(site=Site("mlp_out", 1), at=AT)]
    post, out = run(anatomy, OTHER, reads=read).values
    by_neurons = run(
        anatomy, TOKENS, logits_at=END, edits=[Edit(site=Site("post", 1), at=AT, value=post)]
    ).logits
    by_output = run(
        anatomy, TOKENS, logits_at=END, edits=[Edit(site=Site("mlp_out", 1), at=AT, value=out)]
    ).logits
    assert torch.allclose(by_neurons, by_output, atol=1e-12)


def test_units_one_by_one_are_the_whole_layer(anatomy):
    z, post = run(
        anatomy, OTHER, reads=[Read(site=Site("z", 1), at=AT), Read(site=Site("post", 1), at=AT)]
    ).values
    heads = [Edit(site=head(1, h), at=AT, value=z[:, h]) for h in range(anatomy.n_heads)]
    neurons = [Edit(site=neuron(1, n), at=AT, value=post[:, n : n + 1]) for n in range(anatomy.d_mlp)]
    for single, kind, value in ((heads, "z", z), (neurons, "post", post)):
        whole = run(
            anatomy, TOKENS, logits_at=END, edits=[Edit(site=Site(kind, 1), at=AT, value=value)]
        ).logits
        assert torch.equal(run(anatomy, TOKENS, logits_at=END, edits=single).logits, whole)


def test_one_prompt_alone_is_the_same_as_in_a_batch(anatomy):
    value = torch.ones(anatomy.d_model, dtype=torch.float64)
    edit = [Edit(site=Site("mlp_out", 0), at=AT, value=value)]
    together = run(anatomy, TOKENS, logits_at=END, edits=edit).logits
    for i in range(N):
        alone = [Edit(site=Site("mlp_out", 0), at=AT[i : i + 1], value=value)]
        assert torch.allclose(
            run(anatomy, TOKENS[i : i + 1], logits_at=END[:1], edits=alone).logits,
            together[i : i + 1],
            atol=1e-12,
        )


def test_knocked_out_edges_are_zero_and_the_rest_sums_to_one(anatomy):
    cut = Knockout(layer=1, queries=END[:, None], keys=torch.stack([AT, AT - 1], 1), head=2)
    pattern = run(anatomy, TOKENS, reads=[Read(site=Site("pattern", 1), at=END)], knockouts=[cut]).values[0]
    assert torch.equal(
        pick(pattern[:, 2], torch.stack([AT, AT - 1], 1)), torch.zeros(N, 2, dtype=torch.float64)
    )
    assert torch.allclose(pattern.sum(-1), torch.ones(N, anatomy.n_heads, dtype=torch.float64))
    clean = run(anatomy, TOKENS, reads=[Read(site=Site("pattern", 1), at=END)]).values[0]
    assert torch.allclose(pattern[:, [0, 1, 3]], clean[:, [0, 1, 3]], atol=1e-12)
    assert not torch.allclose(pattern[:, 2], clean[:, 2])


def test_the_pattern_read_is_the_models_own(anatomy):
    ours = run(anatomy, TOKENS, reads=[Read(site=Site("pattern", 1))]).values[0]
    own = anatomy.model(input_ids=TOKENS, output_attentions=True).attentions[1]
    assert torch.allclose(ours.transpose(1, 2), own, atol=1e-12)


def test_cutting_every_edge_to_a_position_hides_its_token(anatomy):
    """With position 2 cut off from all later ones in every layer, its token cannot matter to the end."""
    changed = TOKENS.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 360
    later = torch.arange(3, T).expand(N, -1)
    cuts = [Knockout(layer=i, queries=later, keys=torch.full((N, 1), 2)) for i in range(anatomy.n_layers)]
    first, second = (
        run(anatomy, tokens, logits_at=END, knockouts=cuts).logits for tokens in (TOKENS, changed)
    )
    assert torch.equal(first, second)
    assert not torch.equal(plain(anatomy, TOKENS), plain(anatomy, changed))


def test_a_knockout_that_leaves_nothing_to_see_is_refused(anatomy):
    cut = Knockout(
        layer=0, queries=torch.zeros(N, 1, dtype=torch.long), keys=torch.zeros(N, 1, dtype=torch.long)
    )
    with pytest.raises(ValueError, match="layer 0: a knockout leaves a query position no key"):
        run(anatomy, TOKENS, knockouts=[cut])
    assert hooks(anatomy) == 0


def test_hooks_are_gone_after_an_error(anatomy):
    bad = Edit(site=Site("mlp_out", 1), at=AT, value=torch.ones(7))
    with pytest.raises(RuntimeError):
        run(anatomy, TOKENS, edits=[bad])
    assert hooks(anatomy) == 0
    assert torch.equal(run(anatomy, TOKENS, logits_at=END).logits, plain(anatomy))


def test_a_site_that_the_model_lacks_is_refused_before_it_runs(anatomy):
    with pytest.raises(InputError, match="this model has layers 0-2"):
        run(anatomy, TOKENS, reads=[Read(site=head(9, 0))])


def test_gradients_flow_through_an_edit(anatomy):
    value = torch.zeros(anatomy.d_model, dtype=torch.float64, requires_grad=True)
    out = run(
        anatomy,
        TOKENS,
        logits_at=END,
        edits=[Edit(site=Site("resid_post", 1), at=AT, value=value)],
        grad=True,
    )
    out.logits[:, 0].sum().backward()
    assert value.grad.abs().sum() > 0


def test_put_is_the_inverse_of_pick_and_leaves_its_input_alone():
    x = torch.randn(N, T, 5)
    before = x.clone()
    value = torch.randn(N, 2, 5)
    at = torch.stack([AT, AT + 1], 1)
    assert torch.equal(pick(put(x, at, value), at), value)
    assert torch.equal(x, before)
