"""Attribution patching: exact where the model is linear, of the right order where it is not, and honest in its table."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from factfinding.engine.attribution import (
    ERROR_SCHEMA,
    attribute,
    curvature,
    error_table,
    exact_effects,
    first_order,
    gradients,
    log_probability,
    logit_difference,
)
from factfinding.engine.sites import Site, head, neuron
from factfinding.engine.trace import Edit, Read, run
from factfinding.model.anatomy import Anatomy
from helpers.models import FAMILIES, random_anatomy

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


@pytest.mark.parametrize("second_order", [False, True])
def test_clean_for_clean_is_exactly_zero(anatomy, second_order):
    found = effects(attribute, anatomy, edits_towards(anatomy, 0.0), second_order=second_order)
    assert torch.equal(found, torch.zeros(N, len(PLACES), dtype=torch.float64))


def test_gradients_are_the_slopes_of_exact_effects(anatomy):
    """Central differences of the slow twin, along each edit."""
    step = 1e-3 if anatomy.model.config.model_type == "llama" else 1e-5  # its RMS norm rounds to float32
    up, down = (effects(exact_effects, anatomy, edits_towards(anatomy, s)) for s in (step, -step))
    slope = effects(attribute, anatomy, edits_towards(anatomy))
    assert torch.allclose((up - down) / (2 * step), slope, rtol=1e-3, atol=1e-4)
    assert (slope.abs().amax(0) > 1e-6).all()


@pytest.mark.parametrize("metric", [METRIC, LOG_P])
def test_errors_fall_with_the_second_and_the_third_power_of_the_change(metric):
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64)
    sizes = (0.01, 0.005)
    errors = {False: [], True: []}
    for size in sizes:
        edits = edits_towards(anatomy, size)
        truth = effects(exact_effects, anatomy, edits, metric)
        for second_order, found in errors.items():
            found.append(
                (effects(attribute, anatomy, edits, metric, second_order=second_order) - truth).abs().amax(0)
            )
    for second_order, power in ((False, 2), (True, 3)):
        large, small = errors[second_order]
        clear = small > 1e-11  # above rounding
        assert clear.sum() > 8
        assert ((large / small).log2()[clear] - power).abs().max() < 0.3


def test_the_second_order_is_closer(anatomy):
    edits = edits_towards(anatomy, 0.05)
    truth = effects(exact_effects, anatomy, edits)
    first, second = (effects(attribute, anatomy, edits, second_order=o) - truth for o in (False, True))
    assert second.abs().sum() < first.abs().sum() / 3


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
    for second_order in (False, True):
        assert torch.allclose(
            effects(attribute, anatomy, edits, second_order=second_order), truth, atol=1e-12
        )


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
    together = effects(attribute, anatomy, edits, second_order=True, metric=LOG_P)
    alone = [Edit(site=e.site, at=None if e.at is None else e.at[1:2], value=e.value[1:2]) for e in edits]
    metric = log_probability(torch.tensor([11]))
    found = attribute(anatomy, TOKENS[1:2], alone, metric, logits_at=END[1:2], second_order=True)
    assert torch.allclose(found[0], together[1], rtol=1e-4, atol=1e-5)


def test_what_cannot_reach_the_metric_has_no_gradient_and_no_curvature(anatomy):
    after = Site("resid_post", anatomy.n_layers - 1)
    edit = Edit(site=after, at=AT, value=torch.ones(anatomy.d_model, dtype=torch.float64))
    assert not effects(attribute, anatomy, [edit], second_order=True).any()


def test_curvature_of_a_quadratic_metric_is_its_hessian():
    """The last residual moved along d, norms taken out: the metric's own Hessian, known in closed form."""
    anatomy = linear_anatomy()
    site, d = Site("resid_post", 1), torch.ones(N, 16, dtype=torch.float64)
    clean = run(anatomy, TOKENS, reads=[Read(site=site, at=END)]).values[0]
    edit = Edit(site=site, at=END, value=clean + d)
    found = curvature(anatomy, TOKENS, edit, clean, lambda logits: logits[:, 4].square(), logits_at=END)
    slope = d @ anatomy.unembed.weight[4]
    assert torch.allclose(found, 2 * slope.square(), atol=1e-12)


def test_no_gradient_is_left_on_the_model_and_none_leaks_out(anatomy):
    found = effects(attribute, anatomy, edits_towards(anatomy), second_order=True)
    assert not found.requires_grad
    assert all(weight.grad is None and not weight.requires_grad for weight in anatomy.model.parameters())


def test_the_error_table_says_how_far_and_on_how_many():
    truth = torch.tensor([[1.0, -2.0, 0.0], [4.0, -8.0, 0.5]], dtype=torch.float64)
    guess = truth + torch.tensor([[0.5, 0.0, 0.25], [0.0, 0.0, -1.0]], dtype=torch.float64)
    table = error_table({"same": truth, "off": guess}, truth, groups=["a", "a", "b"], seed=0, n_resamples=200)
    assert dict(table.schema) == ERROR_SCHEMA
    rows = {(row["estimate"], row["group"]): row for row in table.iter_rows(named=True)}
    assert list(rows) == [(e, g) for e in ("same", "off") for g in ("all", "a", "b")]
    same, off, b = rows["same", "all"], rows["off", "all"], rows["off", "b"]
    assert (same["largest_error"], same["relative_error"], same["sign_agreement"]) == (0, 0, 1)
    assert same["rank_correlation"] == pytest.approx(1)
    assert (off["n"], off["n_subjects"], off["largest_effect"], off["largest_error"]) == (6, 2, 8.0, 1.0)
    assert off["relative_error"] == 1 / 8
    assert off["median_relative_error"] == 0.0  # of 0.5, 0, 0, 0 and 2: the effect of zero has none
    assert off["sign_agreement"] == 4 / 5
    assert off["majority_rate"] == 3 / 5
    assert (b["n"], b["largest_error"], b["sign_agreement"], b["majority_rate"]) == (2, 1.0, 0.0, 1.0)
    assert off["rank_correlation_low"] <= off["rank_correlation"] <= off["rank_correlation_high"]
    assert off["sign_agreement_low"] <= off["sign_agreement"] <= off["sign_agreement_high"]


def test_an_error_table_of_no_effect_at_all_claims_nothing():
    zero = torch.zeros(3, 2)
    row = error_table({"first": zero}, zero, seed=0, n_resamples=50).row(0, named=True)
    assert row["largest_effect"] == 0
    assert all(
        math.isnan(row[k]) for k in ("relative_error", "rank_correlation", "sign_agreement", "majority_rate")
    )


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"first: \(3, 2\) and 3 groups for exact effects of shape \(3, 3\)"):
        error_table({"first": torch.zeros(3, 2)}, torch.zeros(3, 3), seed=0)
