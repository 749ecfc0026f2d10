"""Direct paths: identities, and the slow twin, a run of the model in which only that path is changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.engine.direct import (
    HeadPath,
    NodeOutputs,
    Norm,
    Readout,
    direct_effects,
    head_input_effects,
    head_outputs,
    logit_difference,
    value_weight,
)
from factfinding.engine.sites import Site, head, parse
from factfinding.engine.trace import Edit, Read, run
from factfinding.errors import InputError
from helpers.models import FAMILIES, random_anatomy
from helpers.patching import read_nodes

N, T, LAST = 5, 9, 2
TOKENS = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(2))
END = torch.full((N,), T - 1)
NAME = torch.tensor([3, 4, 5, 3, 4])
CANDIDATES = [7, 11, 300]
CLEAN, CORRUPT = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 2, 0, 2, 0])


@pytest.fixture(scope="module", params=FAMILIES)
def anatomy(request):
    return random_anatomy(request.param, dtype=torch.float64)


@pytest.fixture
def close():
    return lambda x, y: torch.allclose(x, y, atol=1e-10, rtol=0)


@pytest.fixture(scope="module")
def weights(anatomy):
    return [block.out_weight for block in anatomy.blocks]


@pytest.fixture(scope="module")
def readout(anatomy):
    return Readout.of(anatomy, CANDIDATES)


@pytest.fixture(scope="module")
def clean(anatomy):
    return read_nodes(anatomy, TOKENS, END)


@pytest.fixture(scope="module")
def corrupt(anatomy):
    return read_nodes(anatomy, OTHER, END)


def everything(effects):
    return torch.cat([effects.embedding[:, None], effects.heads.flatten(1, 2), effects.mlp_out], dim=1)


def attention_biases(anatomy):
    """The part of the attention outputs that belongs to no head."""
    none = torch.zeros(anatomy.d_model, dtype=anatomy.dtype)
    return sum((block.out_proj.bias for block in anatomy.blocks if block.out_proj.bias is not None), none)


def chosen_logits(anatomy, **options):
    return run(anatomy, TOKENS, logits_at=END, **options).logits[:, CANDIDATES]


@pytest.mark.parametrize("exact", [True, False])
def test_clean_for_clean_is_exactly_zero(clean, weights, readout, exact):
    effects = direct_effects(clean, clean, weights, readout, exact=exact)
    assert all(torch.equal(values, torch.zeros_like(values)) for values in vars(effects).values())


def test_nodes_sum_to_the_residual(anatomy, clean, weights, close):
    heads = sum(head_outputs(clean.z[:, layer], weights[layer]).sum(1) for layer in range(anatomy.n_layers))
    assert close(clean.embedding + clean.attn_out.sum(1) + clean.mlp_out.sum(1), clean.resid)
    assert close(heads + attention_biases(anatomy), clean.attn_out.sum(1))


def test_the_norm_is_the_models_own(anatomy, clean, close):
    for module in (anatomy.final_norm, anatomy.blocks[0].norm_attn):
        assert close(Norm.of(module, anatomy.family)(clean.resid), module(clean.resid))


def test_frozen_effects_of_all_nodes_sum_to_the_logit_difference(
    anatomy, clean, corrupt, weights, readout, close
):
    """Replacing every node with the scale frozen; taken from nothing instead, the nodes and the biases are the logits."""
    effects = direct_effects(clean, corrupt, weights, readout, exact=False)
    whole = readout.change(clean.resid, (corrupt.resid - clean.resid)[:, None], exact=False)
    assert close(everything(effects).sum(1), whole[:, 0])
    assert close(effects.heads.sum(2), effects.attn_out)

    nothing = NodeOutputs(**{name: torch.zeros_like(value) for name, value in vars(clean).items()})
    removed = direct_effects(clean, nothing, weights, readout, exact=False)
    biases = attention_biases(anatomy).expand_as(clean.resid)
    from_biases = readout.change(clean.resid, biases[:, None], exact=False)[:, 0]
    if readout.norm.bias is not None:
        from_biases = from_biases + readout.directions @ readout.norm.bias
    if anatomy.unembed.bias is not None:
        from_biases = from_biases + anatomy.unembed.bias[CANDIDATES]
    assert close(from_biases - everything(removed).sum(1), chosen_logits(anatomy))


def test_exact_effects_are_those_of_the_run_with_only_that_path_changed(
    anatomy, clean, corrupt, weights, readout, close
):
    """The slow twin: the last residual at END, and nothing before it, is given the node's change."""
    effects = direct_effects(clean, corrupt, weights, readout, exact=True, batch=2)
    base = chosen_logits(anatomy)

    def twin(change):
        edit = Edit(site=Site("resid_post", LAST), at=END, value=clean.resid + change)
        return chosen_logits(anatomy, edits=[edit]) - base

    assert close(effects.embedding, twin(corrupt.embedding - clean.embedding))
    for layer in range(anatomy.n_layers):
        assert close(effects.mlp_out[:, layer], twin(corrupt.mlp_out[:, layer] - clean.mlp_out[:, layer]))
        assert close(effects.attn_out[:, layer], twin(corrupt.attn_out[:, layer] - clean.attn_out[:, layer]))
        for index in range(anatomy.n_heads):
            change = (corrupt.z[:, layer, index] - clean.z[:, layer, index]) @ weights[layer][index]
            assert close(effects.heads[:, layer, index], twin(change))
    assert effects.heads.abs().min() > 1e-6


def test_a_node_of_the_last_layer_has_no_other_path(anatomy, clean, corrupt, weights, readout, close):
    """There, patching the head itself in the whole model is the direct effect (no MLP follows a parallel block)."""
    effects = direct_effects(clean, corrupt, weights, readout, exact=True)
    base = chosen_logits(anatomy)
    mlp = Edit(site=Site("mlp_out", LAST), at=END, value=corrupt.mlp_out[:, LAST])
    assert close(effects.mlp_out[:, LAST], chosen_logits(anatomy, edits=[mlp]) - base)
    patched = (
        chosen_logits(anatomy, edits=[Edit(site=head(LAST, 1), at=END, value=corrupt.z[:, LAST, 1])]) - base
    )
    assert close(effects.heads[:, LAST, 1], patched) == anatomy.parallel


def test_the_logit_difference_is_that_of_the_pair(clean, corrupt, weights, readout):
    effects = direct_effects(clean, corrupt, weights, readout, exact=True)
    pair = effects.difference(CLEAN, CORRUPT)
    for i in range(N):
        assert torch.equal(
            pair.heads[i, ..., 0], effects.heads[i, ..., CLEAN[i]] - effects.heads[i, ..., CORRUPT[i]]
        )
        assert torch.equal(
            pair.embedding[i, 0], effects.embedding[i, CLEAN[i]] - effects.embedding[i, CORRUPT[i]]
        )
    with pytest.raises((RuntimeError, IndexError)):
        logit_difference(effects.mlp_out, torch.full((N,), 3), CORRUPT)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_batch_size_changes_nothing(clean, corrupt, weights, readout, exact, batch):
    whole = direct_effects(clean, corrupt, weights, readout, exact=exact)
    split = direct_effects(clean, corrupt, weights, readout, exact=exact, batch=batch)
    for name, values in vars(whole).items():
        assert torch.allclose(vars(split)[name], values, atol=1e-13)


def test_value_weights_make_the_values(anatomy, close):
    normed = torch.randn(
        2, 3, anatomy.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    change = torch.randn(
        2, 3, anatomy.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    block = anatomy.blocks[1]
    values = [block.qkv(x, anatomy.rotary(torch.arange(3)[None]))[2] for x in (normed, normed + change)]
    ours = torch.einsum("bsd,hde->bhse", change, value_weight(anatomy, 1))
    theirs = (values[1] - values[0]).repeat_interleave(anatomy.n_heads // anatomy.n_kv_heads, dim=1)
    assert close(ours, theirs)


def paths(anatomy, site, *, exact, other=OTHER):
    """Everything that P2.4 takes, read from runs."""
    clean, corrupt = (read_nodes(anatomy, tokens, NAME, before=site.layer) for tokens in (TOKENS, other))
    pattern, resid = run(
        anatomy,
        TOKENS,
        reads=[Read(site=Site("pattern", site.layer), at=END), Read(site=Site("resid_post", LAST), at=END)],
    ).values
    attention = pattern[torch.arange(N), site.index, NAME]
    weights = [block.out_weight for block in anatomy.blocks]
    head_path, readout = HeadPath.of(anatomy, site), Readout.of(anatomy, CANDIDATES)
    effects = head_input_effects(
        clean,
        corrupt,
        weights,
        head_path,
        readout,
        attention=attention,
        resid_end=resid,
        exact=exact,
        batch=2,
    )
    return clean, corrupt, weights, effects


def test_paths_through_a_head_are_those_of_the_run_with_only_that_path_changed(anatomy, close):
    """The slow twin, for a head of the last layer: its input at the name is given the node's change, everything but
    that head's value is held (patterns, the other heads, the MLP), so only this path is left."""
    site = head(LAST, 2)
    clean, corrupt, weights, effects = paths(anatomy, site, exact=True)
    held = [
        Site("pattern", LAST),
        Site("mlp_out", LAST),
        *(head(LAST, i) for i in range(anatomy.n_heads) if i != 2),
    ]
    values = run(anatomy, TOKENS, reads=[Read(site=s) for s in held]).values
    edits = [Edit(site=s, value=value) for s, value in zip(held, values, strict=True)]
    base = chosen_logits(anatomy)

    def twin(change):
        changed = Edit(site=Site("resid_pre", LAST), at=NAME, value=clean.resid + change)
        return chosen_logits(anatomy, edits=[changed, *edits]) - base

    assert close(effects.embedding, twin(corrupt.embedding - clean.embedding))
    for layer in range(LAST):
        assert close(effects.mlp_out[:, layer], twin(corrupt.mlp_out[:, layer] - clean.mlp_out[:, layer]))
        change = (corrupt.z[:, layer, 3] - clean.z[:, layer, 3]) @ weights[layer][3]
        assert close(effects.heads[:, layer, 3], twin(change))
    assert effects.heads.abs().max() > 1e-4


def test_frozen_paths_through_a_head_sum_to_all_of_its_input(anatomy, close):
    site = parse("L1H3")
    clean, corrupt, _, effects = paths(anatomy, site, exact=False)
    pattern, resid = run(
        anatomy,
        TOKENS,
        reads=[Read(site=Site("pattern", 1), at=END), Read(site=Site("resid_post", LAST), at=END)],
    ).values
    change = (corrupt.resid - clean.resid)[:, None]
    attention = pattern[torch.arange(N), 3, NAME]
    arrived = HeadPath.of(anatomy, site).carry(clean.resid, change, attention, exact=False)
    whole = Readout.of(anatomy, CANDIDATES).change(resid, arrived, exact=False)[:, 0]
    assert close(everything(effects).sum(1), whole)
    assert effects.heads.shape == (N, 1, anatomy.n_heads, len(CANDIDATES))


@pytest.mark.parametrize("exact", [True, False])
def test_a_head_that_reads_the_embedding_only(anatomy, exact):
    effects = paths(anatomy, head(0, 1), exact=exact)[-1]
    assert effects.heads.shape == (N, 0, anatomy.n_heads, len(CANDIDATES))
    assert effects.mlp_out.shape == (N, 0, len(CANDIDATES))
    assert effects.embedding.abs().min() > 0
    same = paths(anatomy, head(0, 1), exact=exact, other=TOKENS)[-1]
    assert not same.embedding.any()


def test_a_head_that_the_model_lacks_is_refused(anatomy):
    with pytest.raises(InputError, match="L1H9: found head 9; allowed: this model has heads 0-3 in a layer"):
        HeadPath.of(anatomy, head(1, 9))


def test_half_precision_caches_are_widened(anatomy, clean, corrupt, weights, readout):
    """Caches are stored in half precision: products must not be taken in it."""
    halves = [
        NodeOutputs(**{k: v.to(torch.bfloat16) for k, v in vars(nodes).items()}) for nodes in (clean, corrupt)
    ]
    single = [
        NodeOutputs(**{k: v.to(torch.bfloat16).double() for k, v in vars(nodes).items()})
        for nodes in (clean, corrupt)
    ]
    low = Readout(
        norm=Norm(
            weight=readout.norm.weight.float(),
            bias=None,
            eps=readout.norm.eps,
            centred=readout.norm.centred,
        ),
        directions=readout.directions.float(),
    )
    got = direct_effects(*halves, [w.to(torch.float32) for w in weights], low, exact=True)
    want = direct_effects(*single, weights, readout, exact=True)
    assert got.heads.dtype == torch.float32
    assert torch.allclose(got.heads.double(), want.heads, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    size=st.floats(-8, 3),
    centred=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_norms_change_is_right_at_every_size(size, centred, seed):
    """Relative to the change itself, in float32, from 1e-8 of the residual (where a plain subtraction has nothing
    left) to a thousand times the residual."""
    generator = torch.Generator().manual_seed(seed)
    x, d = (torch.randn(2, 16, generator=generator) for _ in range(2))
    weight, bias = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
    d = d * 10.0**size
    norm = Norm(weight=weight, bias=bias, eps=1e-5, centred=centred)
    wide = Norm(weight=weight.double(), bias=bias.double(), eps=1e-5, centred=centred)
    if size > -5:
        truth = wide(x.double() + d.double()) - wide(x.double())
    else:
        truth = torch.func.jvp(wide, (x.double(),), (d.double(),))[1]
    found = norm.change(x, d, exact=True)
    assert (found - truth).abs().max() <= 2e-5 * truth.abs().max()


@settings(max_examples=30, deadline=None)
@given(size=st.floats(-8, 3), centred=st.booleans(), one=st.booleans(), seed=st.integers(0, 1000))
def test_changes_by_heads_are_those_of_what_the_heads_add(size, centred, one, seed):
    """At every size: the products of z against the heads' outputs written out, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x, z, out, onto, weight = (
        torch.randn(*shape, generator=generator)
        for shape in ((3, 24), (3, 4, 6), (1 if one else 4, 6, 24), (24, 2), (24,))
    )
    z = z * 10.0**size
    norm = Norm(weight=weight, bias=None, eps=1e-5, centred=centred)
    wide = Norm(weight=weight.double(), bias=None, eps=1e-5, centred=centred)
    for exact in (True, False):
        written = torch.einsum("shk,hkd->shd", z.double(), out.double().expand(4, -1, -1))
        truth = wide.change(x.double(), written, exact=exact) @ onto.double()
        found = norm.change_by_heads(x, z, out, onto, exact=exact)
        assert (found - truth).abs().max() <= 5e-5 * truth.abs().max()
