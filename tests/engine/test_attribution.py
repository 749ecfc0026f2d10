"""Gradients, by attribution patching: exact where the model is linear, of the right order where it is not."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from factfinding.engine.attribution import gradients, log_probability
from factfinding.engine.sites import Site, head, neuron
from factfinding.engine.trace import Edit, Read, run
from factfinding.model.anatomy import Anatomy
from helpers.models import FAMILIES, random_anatomy
from helpers.patching import attribute, exact_effects, first_order, logit_difference

N, T = 3, 8
TOKENS = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(1))
OTHER = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(2))
END = torch.full((N,), T - 1)
AT = torch.tensor([3, 4, 5])
METRIC = logit_difference(torch.tensor([7, 11, 300]), torch.tensor([11, 300, 7]))
LOG_P = log_probability(torch.tensor([7, 11, 300]))
PLACES = [
    *((Site(kind, 1), AT) for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "pre", "post")),
    (Site("pattern", 1), END),
    (head(1, 2), END),
    (neuron(1, 5), AT),
    (Site("pattern", 1, 3), END),
    (Site("mlp_out", 0), torch.stack([AT, AT + 1], 1)),
    (Site("resid_post", 0), None),
]


@pytest.fixture(scope="module", params=FAMILIES)
def anatomy(request):
    return random_anatomy(request.param, dtype=torch.float64)


def edits_towards(anatomy, share=1.0):
    """Each place moved from its clean towards its corrupt value, all the way or by a share."""
    reads = [Read(site=site, at=at) for site, at in PLACES]
    clean, corrupt = (run(anatomy, tokens, reads=reads).values for tokens in (TOKENS, OTHER))
    pairs = zip(PLACES, clean, corrupt, strict=True)
    return [Edit(site=site, at=at, value=x + share * (y - x)) for (site, at), x, y in pairs]


def effects(function, anatomy, edits, metric=METRIC, **options):
    return function(anatomy, TOKENS, edits, metric, logits_at=END, **options)


def test_clean_for_clean_is_exactly_zero(anatomy):
    found = effects(attribute, anatomy, edits_towards(anatomy, 0.0))
    assert torch.equal(found, torch.zeros(N, len(PLACES), dtype=torch.float64))


def test_gradients_are_the_slopes_of_exact_effects(anatomy):
    """Central differences of the slow twin, along each edit."""
    step = 1e-5
    up, down = (effects(exact_effects, anatomy, edits_towards(anatomy, s)) for s in (step, -step))
    slope = effects(attribute, anatomy, edits_towards(anatomy))
    assert torch.allclose((up - down) / (2 * step), slope, rtol=1e-3, atol=1e-4)
    assert (slope.abs().amax(0) > 1e-6).all()


@pytest.mark.parametrize("metric", [METRIC, LOG_P])
def test_errors_fall_with_the_square_of_the_change(metric):
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64)
    errors = []
    for size in (0.01, 0.005):
        edits = edits_towards(anatomy, size)
        truth = effects(exact_effects, anatomy, edits, metric)
        errors.append((effects(attribute, anatomy, edits, metric) - truth).abs().amax(0))
    large, small = errors
    clear = small > 1e-11  # above rounding
    assert clear.sum() > 8
    assert ((large / small).log2()[clear] - 2).abs().max() < 0.3


def linear_anatomy():
    """No norms, no activation function, and attention that is the same everywhere: nothing is left that is not linear."""
    config = GPTNeoXConfig(
        vocab_size=360,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_act="linear",
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(config).double().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.3)
    for layer in model.gpt_neox.layers:
        layer.attention.query_key_value.weight.view(2, 3, 8, 16)[:, :2] = 0.0  # no queries and keys but
        layer.attention.query_key_value.bias.view(2, 3, 8)[:, :2] = 0.0  # zero: every pattern is uniform
        layer.input_layernorm = layer.post_attention_layernorm = torch.nn.Identity()
    model.gpt_neox.final_layer_norm = torch.nn.Identity()
    return Anatomy(model)


def test_first_order_is_exact_for_a_linear_model():
    anatomy = linear_anatomy()
    places = [(Site(kind, 0), AT) for kind in ("resid_pre", "attn_out", "mlp_out", "z", "pre", "post")]
    reads = [Read(site=site, at=at) for site, at in places]
    corrupt = run(anatomy, OTHER, reads=reads).values
    edits = [Edit(site=site, at=at, value=value) for (site, at), value in zip(places, corrupt, strict=True)]
    truth = effects(exact_effects, anatomy, edits)
    assert truth.abs().amax(0).min() > 1e-5
    assert torch.allclose(effects(attribute, anatomy, edits), truth, atol=1e-12)


def test_units_sum_to_the_whole_and_are_the_single_edits(anatomy):
    sites = [Site("z", 1), Site("post", 1), Site("pattern", 1)]
    reads = [Read(site=site, at=END) for site in sites]
    corrupt = run(anatomy, OTHER, reads=reads).values
    clean = gradients(anatomy, TOKENS, reads, METRIC, logits_at=END)
    parts = zip(sites, clean.values, corrupt, clean.gradients, strict=True)
    units = [first_order(site, x, y, g, per_unit=True) for site, x, y, g in parts]
    assert [u.shape for u in units] == [(N, anatomy.n_heads), (N, anatomy.d_mlp), (N, anatomy.n_heads)]
    whole = effects(
        attribute, anatomy, [Edit(site=s, at=END, value=y) for s, y in zip(sites, corrupt, strict=True)]
    )
    assert torch.allclose(torch.stack([u.sum(1) for u in units], 1), whole, atol=1e-12)
    single = [
        Edit(site=head(1, 2), at=END, value=corrupt[0][:, 2]),
        Edit(site=neuron(1, 5), at=END, value=corrupt[1][:, 5:6]),
        Edit(site=Site("pattern", 1, 3), at=END, value=corrupt[2][:, 3:4]),
    ]
    expected = torch.stack([units[0][:, 2], units[1][:, 5], units[2][:, 3]], 1)
    assert torch.allclose(effects(attribute, anatomy, single), expected, atol=1e-12)


def test_units_at_several_positions_are_summed_over_them(anatomy):
    site, at = Site("z", 1), torch.stack([AT, AT + 1], 1)
    corrupt = run(anatomy, OTHER, reads=[Read(site=site, at=at)]).values[0]
    clean = gradients(anatomy, TOKENS, [Read(site=site, at=at)], METRIC, logits_at=END)
    units = first_order(site, clean.values[0], corrupt, clean.gradients[0], per_unit=True)
    assert units.shape == (N, anatomy.n_heads)
    whole = first_order(site, clean.values[0], corrupt, clean.gradients[0])
    assert torch.allclose(units.sum(1), whole, atol=1e-12)


def test_one_prompt_alone_is_the_same_as_in_a_batch(anatomy):
    edits = edits_towards(anatomy)
    together = effects(attribute, anatomy, edits, metric=LOG_P)
    alone = [Edit(site=e.site, at=None if e.at is None else e.at[1:2], value=e.value[1:2]) for e in edits]
    metric = log_probability(torch.tensor([11]))
    found = attribute(anatomy, TOKENS[1:2], alone, metric, logits_at=END[1:2])
    assert torch.allclose(found[0], together[1], rtol=1e-4, atol=1e-5)


def test_what_cannot_reach_the_metric_has_no_gradient(anatomy):
    after = Site("resid_post", anatomy.n_layers - 1)
    edit = Edit(site=after, at=AT, value=torch.ones(anatomy.d_model, dtype=torch.float64))
    assert not effects(attribute, anatomy, [edit]).any()


def test_no_gradient_is_left_on_the_model_and_none_leaks_out(anatomy):
    found = effects(attribute, anatomy, edits_towards(anatomy))
    assert not found.requires_grad
    assert all(weight.grad is None and not weight.requires_grad for weight in anatomy.model.parameters())
