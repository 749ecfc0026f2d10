"""The core of what holds for every family of models: cheap enough to be looked at always.

`pytest -m families` runs all tests of the engine, and a whole study, on each of them.
"""

from __future__ import annotations

import json

import pytest
import torch

from factfinding.engine.clean import activation, prepare
from factfinding.engine.difference import Difference
from factfinding.engine.direct import Readout, direct_effects, head_outputs, value_weight
from factfinding.engine.readings import Logits
from factfinding.engine.sites import LAYER_KINDS, Site, head, neuron
from factfinding.engine.suffix import Suffix, edit
from factfinding.engine.trace import Edit, Knockout, Read, run
from factfinding.errors import InputError
from factfinding.families import KNOWN_TYPES, REFUSED_TYPES, check_family
from factfinding.model.anatomy import check_guards, load
from factfinding.model_folder import check_model_folder
from helpers.models import MORE, random_anatomy, save_model
from helpers.patching import read_nodes

ALL = ("gpt_neox", "gpt2", "llama", "mistral", "qwen2", *MORE)
N, T, LAST = 3, 8, 2
TOKENS = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(2))
END = torch.full((N,), T - 1)
AT = 4


@pytest.fixture(scope="module", params=ALL)
def anatomy(request):
    return random_anatomy(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def own(anatomy):
    """The library's own forward pass, with nothing of ours on it."""
    return anatomy.model(input_ids=TOKENS, output_hidden_states=True, use_cache=False)


def close(x, y, tolerance=1e-10):
    return x.shape == y.shape and torch.allclose(x, y, atol=tolerance, rtol=tolerance)


def test_every_known_type_is_tested():
    assert set(ALL) == set(KNOWN_TYPES)


def test_our_blocks_are_the_models_own(anatomy, own):
    errors = check_guards(anatomy)
    assert max(errors.values()) < 1e-12, errors
    assert close(anatomy.forward(TOKENS), own.logits)


def test_residual_streams_are_the_librarys_hidden_states(anatomy, own):
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(anatomy.n_layers - 1))]
    read = run(anatomy, TOKENS, logits_at=END, reads=[Read(site=site) for site in sites])
    assert close(read.logits, own.logits[:, -1], 1e-12)
    for found, state in zip(read.values, own.hidden_states[:-1], strict=True):  # the last one is normed
        assert torch.equal(found, state)


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_a_site_put_back_changes_nothing_and_one_of_another_run_does(anatomy, own, kind):
    site = Site(kind, 1)
    (same,), (other,) = (run(anatomy, tokens, reads=[Read(site=site)]).values for tokens in (TOKENS, OTHER))
    for value, changes in ((same, False), (other, True)):
        found = run(anatomy, TOKENS, logits_at=END, edits=[Edit(site=site, value=value)]).logits
        assert close(found, own.logits[:, -1], 1e-11) != changes


def test_patterns_are_those_that_mix_the_values(anatomy):
    pattern, z = run(anatomy, TOKENS, reads=[Read(site=Site(kind, 1)) for kind in ("pattern", "z")]).values
    assert close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)))
    assert not pattern.transpose(1, 2).triu(1).any()
    clean = prepare(anatomy, TOKENS)
    assert close(anatomy.blocks[1].mix(pattern.transpose(1, 2), clean.values[1]), z)


def test_an_edge_that_is_cut_carries_nothing(anatomy):
    """END sees no position 4 where that edge is cut, and its pattern still sums to one."""
    cuts = [
        Knockout(layer=layer, queries=torch.tensor([[T - 1]] * N), keys=torch.tensor([[AT]] * N))
        for layer in range(anatomy.n_layers)
    ]
    reads = [Read(site=Site("pattern", layer), at=END) for layer in range(anatomy.n_layers)]
    for pattern in run(anatomy, TOKENS, knockouts=cuts, reads=reads).values:
        assert not pattern[..., AT].any() and close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)))


@pytest.mark.parametrize(
    "site",
    [
        *(Site(kind, 1) for kind in ("resid_pre", "attn_out", "mlp_out", "z", "post")),
        head(1, 2),
        neuron(1, 30),
    ],
    ids=str,
)
def test_the_engines_are_the_run_with_the_edit(anatomy, site):
    clean, rows = prepare(anatomy, TOKENS), torch.tensor([2, 0, 0])
    shape = activation(anatomy, clean, site, AT)[rows].shape
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edits = edit(anatomy, clean, site, at=AT, prompt=rows, value=value)
    slow = run(
        anatomy, TOKENS[rows], logits_at=END, edits=[Edit(site=site, value=value, at=torch.full((N,), AT))]
    )
    for engine in (Suffix(anatomy), Difference(anatomy)):
        assert close(engine.values(clean, edits, Logits(at=T - 1)), slow.logits)


def test_heads_and_other_nodes_sum_to_the_residual_and_their_direct_effects_to_the_whole(anatomy):
    clean, corrupt = (read_nodes(anatomy, tokens, END) for tokens in (TOKENS, OTHER))
    assert close(clean.embedding + clean.attn_out.sum(1) + clean.mlp_out.sum(1), clean.resid)
    weights = [block.out_weight for block in anatomy.blocks]
    for layer, block in enumerate(anatomy.blocks):
        bias = getattr(block.out_proj, "bias", None)
        heads = head_outputs(clean.z[:, layer], weights[layer]).sum(1)
        assert close(heads if bias is None else heads + bias, clean.attn_out[:, layer])
    readout = Readout.of(anatomy, [7, 11, 300])
    effects = direct_effects(clean, corrupt, weights, readout, exact=False)
    parts = effects.embedding + effects.heads.sum((1, 2)) + effects.mlp_out.sum(1)
    whole = readout.change(clean.resid, (corrupt.resid - clean.resid)[:, None], exact=False)[:, 0]
    assert close(parts, whole) and whole.abs().max() > 1e-2


def test_an_exact_direct_effect_is_the_run_with_the_last_residual_changed(anatomy):
    clean, corrupt = (read_nodes(anatomy, tokens, END) for tokens in (TOKENS, OTHER))
    weights = [block.out_weight for block in anatomy.blocks]
    effects = direct_effects(clean, corrupt, weights, Readout.of(anatomy, [7, 11]), exact=True)
    change = head_outputs(corrupt.z[:, 1] - clean.z[:, 1], weights[1])[:, 2]
    changed = Edit(site=Site("resid_post", LAST), at=END, value=clean.resid + change)
    edited = run(anatomy, TOKENS, logits_at=END, edits=[changed]).logits
    before = run(anatomy, TOKENS, logits_at=END).logits
    assert close(effects.heads[:, 1, 2], (edited - before)[:, [7, 11]])


def test_values_are_the_normed_residual_through_their_weights(anatomy):
    """W_V of every head, from what the family says of where values are projected."""
    clean = prepare(anatomy, TOKENS)
    normed = anatomy.blocks[1].norm_attn(clean.resid[1])
    each = clean.values[1].repeat_interleave(anatomy.n_heads // anatomy.n_kv_heads, dim=1)
    found = torch.einsum("bsm,hmd->bhsd", normed, value_weight(anatomy, 1))
    bias = (each - found)[:, :, :1].mean(0, keepdim=True)  # what no input changes
    assert close(found + bias, each)


@pytest.mark.parametrize("family", ALL)
def test_a_saved_model_passes_preflight_and_loads(family, tmp_path):
    folder = save_model(tmp_path, family)
    sizes = check_model_folder(folder)
    anatomy = load(folder, device="cpu")
    assert (sizes.layers, sizes.heads, sizes.neurons) == (anatomy.n_layers, anatomy.n_heads, anatomy.d_mlp)
    assert sizes.family == anatomy.family.name


@pytest.mark.parametrize("kind", REFUSED_TYPES)
def test_what_cannot_be_computed_exactly_is_refused_by_name_with_the_reason(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for check in (check_model_folder, lambda folder: load(folder, device="cpu")):
        with pytest.raises(
            InputError, match=f"'{kind}'; allowed: norms before the blocks: a norm after a block"
        ):
            check(tmp_path)


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before: found False; allowed: norms before"),
        (
            "opt",
            {"word_embed_proj_dim": 512, "hidden_size": 1024},
            "found 512; allowed: an embedding as wide",
        ),
        ("opt", {"_remove_final_layer_norm": True}, "a final norm"),
        ("opt", {"enable_bias": False}, "biases"),
        ("opt", {"layer_norm_elementwise_affine": False}, "norms with weights"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm: found True; allowed: queries and keys that are not"),
        ("falcon", {"alibi": True}, "alibi: found True; allowed: a parallel block with one norm"),
        ("falcon", {"new_decoder_architecture": True}, "new_decoder_architecture"),
        ("falcon", {"parallel_attn": False}, "parallel_attn"),
        ("falcon", {"multi_query": False}, "multi_query"),
    ],
)
def test_a_variant_that_is_computed_otherwise_is_refused_with_the_key_and_the_reason(kind, config, reason):
    check_family({"model_type": kind}, "config.json")
    with pytest.raises(InputError, match=reason):
        check_family({"model_type": kind, **config}, "config.json")


@pytest.mark.parametrize("family", ["gpt_neo", "mistral"])
def test_a_prompt_longer_than_the_window_is_refused_where_ours_would_differ(family):
    anatomy = random_anatomy(family, dtype=torch.float64)
    assert anatomy.window == {"gpt_neo": 256, "mistral": 4096}[family]
    anatomy.window = T - 1
    for compute in (anatomy.forward, lambda tokens: prepare(anatomy, tokens)):
        with pytest.raises(
            InputError, match=f"prompt: found {T} tokens; allowed: at most {T - 1}, the window"
        ):
            compute(TOKENS)
    anatomy.window = T
    assert close(anatomy.forward(TOKENS), anatomy.model(input_ids=TOKENS, use_cache=False).logits)
