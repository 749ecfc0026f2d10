"""The difference form: its closed forms against mpmath, its effects against the suffix engine, and what
rounding does.
"""

from __future__ import annotations

import copy

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.activations import ACT2FN

from factfinding.engine import readings, trace
from factfinding.engine.clean import prepare
from factfinding.engine.closed_forms import (
    ACTIVATIONS,
    gelu_difference,
    log_partition_difference,
    norm_difference,
    product_difference,
    relu_difference,
    silu_difference,
    softmax_difference,
    tanh_gelu_difference,
)
from factfinding.engine.difference import Difference
from factfinding.engine.products import Products
from factfinding.engine.readings import Logits, LogProbs, Resid
from factfinding.engine.sites import neuron
from factfinding.engine.suffix import Edits, Suffix, edit_neurons
from factfinding.errors import InputError
from factfinding.families import WITH_DIFFERENCES
from factfinding.model.anatomy import Anatomy
from factfinding.stats import spearman
from helpers.models import FAMILIES, random_anatomy, random_model

N, T, END = 3, 7, 6
TOKENS = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(1))
ANSWERS = torch.tensor([[5, 17], [200, 3], [359, 0]])
PROMPT = torch.tensor([2, 0, 0, 1, 2, 0])
READINGS = (
    Logits(at=END),
    Logits(at=END, tokens=ANSWERS),
    LogProbs(at=END, tokens=ANSWERS),
    LogProbs(at=END, tokens=ANSWERS[0]),
    Resid(at=5, layer=2),
)
mpmath.mp.dps = 50


@pytest.fixture(scope="module", params=FAMILIES)
def anatomy(request):
    return random_anatomy(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def clean(anatomy):
    return prepare(anatomy, TOKENS)


def random_edits(kind="mlp_out", layer=1, at=3, size=1.0, dtype=torch.float64, prompt=PROMPT):
    delta = torch.randn(len(prompt), 32, generator=torch.Generator().manual_seed(3), dtype=dtype) * size
    return Edits(kind=kind, layer=layer, at=at, prompt=prompt, delta=delta)


def gelu(x):
    return x * mpmath.ncdf(x)


def tanh_gelu(x):
    return x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3))) / 2


FORMS = (
    (gelu_difference, gelu),
    (tanh_gelu_difference, tanh_gelu),
    (relu_difference, lambda x: max(x, mpmath.mpf(0))),
    (silu_difference, lambda x: x / (1 + mpmath.exp(-x))),
)
SIZES = st.tuples(st.sampled_from([-1, 1]), st.floats(-25, 1.5)).map(lambda pair: pair[0] * 10 ** pair[1])


@pytest.mark.parametrize(("form", "exact"), FORMS, ids=["gelu", "tanh", "relu", "silu"])
@pytest.mark.parametrize(("dtype", "tolerance"), ((torch.float64, 3e-12), (torch.float32, 2e-6)))
@settings(max_examples=150, deadline=None)
@given(x=st.floats(-40, 40), d=SIZES)
@example(
    x=-33.122242804522394, d=31.622776601683793
)  # most of the way back from where the tanh form's cube is large
def test_an_activations_difference_is_right_relative_to_the_change(form, exact, dtype, tolerance, x, d):
    """Right to a few roundings of d, whatever x: subtraction would be right to a rounding of x only."""
    x, d = torch.tensor([x], dtype=dtype), torch.tensor([d], dtype=dtype)
    truth = exact(mpmath.mpf(x.item()) + mpmath.mpf(d.item())) - exact(mpmath.mpf(x.item()))
    tiny = torch.finfo(dtype).tiny  # below it numbers lose digits themselves
    assert abs(mpmath.mpf(form(x, d).item()) - truth) <= tolerance * abs(d.item()) + 100 * tiny


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    size=st.sampled_from([1e-10, 1e-4, 1.0, 50.0]),
)
def test_norm_and_softmax_differences(seed, scale, size):
    generator = torch.Generator().manual_seed(seed)
    x, d = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(2))
    x, d = x * scale, d * size

    def rms_normed(v):
        return [a / mpmath.sqrt(sum(b**2 for b in v) / len(v) + mpmath.mpf(1e-5)) for a in v]

    def normed(v):
        return rms_normed([a - sum(v) / len(v) for a in v])

    def softmax(v):
        powers = [mpmath.exp(a) for a in v]
        return [a / sum(powers) for a in powers]

    before, change = [mpmath.mpf(a) for a in x.tolist()], [mpmath.mpf(a) for a in d.tolist()]
    after = [a + b for a, b in zip(before, change, strict=True)]
    for found, function in (
        (norm_difference(x, d, 1e-5), normed),
        (norm_difference(x, d, 1e-5, centred=False), rms_normed),
        (softmax_difference(x.softmax(0), d), softmax),
    ):
        truth = [float(a - b) for a, b in zip(function(after), function(before), strict=True)]
        # relative to the largest change, and for a pattern that is all but one-hot to the change of its scores
        bound = 1e-11 * max(map(abs, truth)) + 1e-15 * min(float(d.abs().max()), 1.0)
        assert torch.allclose(found, torch.tensor(truth, dtype=torch.float64), rtol=0, atol=bound)
    partition = log_partition_difference(x.log_softmax(0), d)
    truth = mpmath.log(sum(map(mpmath.exp, after))) - mpmath.log(sum(map(mpmath.exp, before)))
    assert abs(float(partition) - float(truth)) <= 1e-12 * float(d.abs().max())


@settings(max_examples=60, deadline=None)
@given(x=st.floats(-40, 40), y=st.floats(-40, 40), dx=SIZES, dy=SIZES)
def test_the_difference_of_a_gate_times_what_it_gates(x, y, dx, dy):
    """Right relative to the terms that it is made of, of which the second order is one."""
    one, other, d_one, d_other = (torch.tensor(value, dtype=torch.float64) for value in (x, y, dx, dy))
    found = mpmath.mpf(product_difference(one, d_one, other, d_other).item())
    x, y, dx, dy = map(mpmath.mpf, (x, y, dx, dy))
    largest = abs(x * dy) + abs(dx * y) + abs(dx * dy)
    assert abs(found - ((x + dx) * (y + dy) - x * y)) <= 1e-15 * largest


def test_extreme_scores_do_not_overflow():
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float32)
    d = torch.tensor([[0.0, 500.0, 3.0], [-500.0, 0.0, 0.0], [900.0, 900.0, 0.0]], dtype=torch.float32)
    assert torch.allclose(
        softmax_difference(p, d), torch.tensor([[-0.5, 0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    )
    assert torch.allclose(
        log_partition_difference(p.log(), torch.tensor([500.0, 500.0, 0.0])), torch.tensor(500.0)
    )


@pytest.mark.parametrize("kind", ("resid_pre", "attn_out", "mlp_out"))
@pytest.mark.parametrize("layer", (0, 1, 2))
def test_effects_are_the_suffix_engines(anatomy, clean, kind, layer):
    for at in (0, 3, END):
        for size in (1.0, 30.0):
            edits = random_edits(kind, layer, at, size)
            for reading in READINGS:
                if at > reading.at:
                    continue
                values, difference = (
                    e.effects(clean, edits, reading) for e in (Suffix(anatomy), Difference(anatomy))
                )
                assert (values - difference).abs().max() <= 1e-9 * values.abs().max()


def test_effects_of_neurons_are_those_of_hooks_on_the_model(anatomy, clean):
    """A neuron is what the last projection reads: a gated one is its gate's activation times what it gates."""
    units, values = (
        torch.tensor([0, 40, 95, 40, 7, 40]),
        torch.tensor([3.0, -2.0, 1e-3, 50.0, 0.0, 0.5]).double(),
    )
    end, at = torch.full((len(units),), END), torch.full((len(units),), 3)
    before = trace.run(anatomy, TOKENS[PROMPT], logits_at=end).logits.log_softmax(1)
    for layer in (0, 1, 2):
        edits = edit_neurons(anatomy, clean, layer=layer, at=3, prompt=PROMPT, neuron=units, value=values)
        found = Difference(anatomy).effects(clean, edits, LogProbs(at=END))
        for i, unit in enumerate(units.tolist()):
            change = trace.Edit(site=neuron(layer, unit), at=at[:1], value=values[i : i + 1, None])
            after = trace.run(anatomy, TOKENS[PROMPT[i : i + 1]], logits_at=end[:1], edits=[change]).logits
            truth = after.log_softmax(1)[0] - before[i]
            assert (found[i] - truth).abs().max() <= 1e-9 * truth.abs().max() + 1e-13


@pytest.mark.parametrize("size", (1e-3, 1.0, 300.0))
def test_the_vocabulary_in_pieces_whatever_the_size_of_the_change(anatomy, clean, monkeypatch, size):
    """Also where exponentials of the change alone would overflow (size 300 of logits that grow with the weights)."""
    grown = Anatomy(copy.deepcopy(anatomy.model))
    grown.unembed.weight.data *= 200
    edits, both = random_edits(size=size), (Suffix(grown), Difference(grown))
    for piece in (7, 359, 8192):
        monkeypatch.setattr(readings, "PIECE", piece)
        for tokens in (ANSWERS, ANSWERS[0]):
            values, changes = (e.effects(clean, edits, LogProbs(at=END, tokens=tokens)) for e in both)
            assert (values - changes).abs().max() <= 1e-9 * values.abs().max()


def test_values_and_probes_are_the_suffix_engines(anatomy, clean):
    edits, probe = (
        random_edits(),
        Resid(at=END, layer=2, weight=torch.randn(32, 3).double(), bias=torch.ones(3).double()),
    )
    for reading in (*READINGS, probe):
        both = (engine.values(clean, edits, reading) for engine in (Suffix(anatomy), Difference(anatomy)))
        assert torch.allclose(*both, atol=1e-9)


def test_one_prompt_or_a_row_alone_is_the_same_as_in_a_batch(anatomy, clean):
    edits, engine = random_edits(), Difference(anatomy)
    together = engine.effects(clean, edits, READINGS[2])
    for i in range(len(PROMPT)):
        one = Edits(kind="mlp_out", layer=1, at=3, prompt=PROMPT[i : i + 1], delta=edits.delta[i : i + 1])
        assert torch.allclose(engine.effects(clean, one, READINGS[2]), together[i : i + 1], atol=1e-12)


@pytest.mark.parametrize("product", ("full", "tf32", "bfloat16"))
@pytest.mark.parametrize("family", ("gpt_neox", "llama"))
def test_a_zero_change_is_exactly_zero(family, product):
    """Beside rows that change a lot; and not by a mask alone: every closed form is zero for zero."""
    anatomy = random_anatomy(family)
    clean, engine = prepare(anatomy, TOKENS), Difference(anatomy, product)
    edits = random_edits(dtype=torch.float32)
    edits.delta[[0, 3]] = 0.0
    for reading in READINGS:
        effects = engine.effects(clean, edits, reading)
        assert (
            torch.equal(effects[[0, 3]], torch.zeros_like(effects[[0, 3]]))
            and (effects[[1, 2, 4]] != 0).any()
        )
    zero = torch.zeros(4, 5)
    for form, _ in FORMS:
        assert torch.equal(form(torch.randn(4, 5), zero), zero)
    for centred in (True, False):
        assert torch.equal(norm_difference(torch.randn(4, 5), zero, 1e-5, centred=centred), zero)
    assert torch.equal(softmax_difference(torch.randn(4, 5).softmax(1), zero), zero)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_change_keeps_its_digits_where_subtraction_does_not(family):
    """A change of 1e-6 in a residual stream of size 1, in float32: six digits against one or none."""
    exact, single = random_anatomy(family, dtype=torch.float64), random_anatomy(family)
    edits = random_edits(size=1e-6)
    truth = Difference(exact).effects(prepare(exact, TOKENS), edits, LogProbs(at=END, tokens=ANSWERS))
    slow = Suffix(exact).effects(prepare(exact, TOKENS), edits, LogProbs(at=END, tokens=ANSWERS))
    assert (slow - truth).abs().max() < 1e-7 * truth.abs().max()
    edits = random_edits(size=1e-6, dtype=torch.float64)
    edits = Edits(
        kind=edits.kind, layer=edits.layer, at=edits.at, prompt=edits.prompt, delta=edits.delta.float()
    )
    clean = prepare(single, TOKENS)
    errors = {
        type(engine).__name__: (engine.effects(clean, edits, LogProbs(at=END, tokens=ANSWERS)) - truth)
        .abs()
        .max()
        / truth.abs().max()
        for engine in (Difference(single), Suffix(single))
    }
    assert errors["Difference"] < 3e-6
    assert errors["Suffix"] > 1e-2


@pytest.mark.parametrize("product", ("tf32", "bfloat16"))
@pytest.mark.parametrize("family", ("gpt_neox", *FAMILIES[3:]))
def test_rounded_products_are_right_relative_to_the_effect(family, product):
    """For effects of a millionth, where values in the same precision would be nothing but rounding."""
    exact, single = (
        random_anatomy(family, dtype=torch.float64, layers=5),
        random_anatomy(family, layers=5),
    )
    prompt = torch.zeros(200, dtype=torch.long)
    edits = random_edits(size=1e-5, prompt=prompt)
    reading = LogProbs(at=END, tokens=ANSWERS[0, :1])
    truth = Suffix(exact).effects(prepare(exact, TOKENS), edits, reading)[:, 0]
    edits = Edits(kind="mlp_out", layer=1, at=3, prompt=prompt, delta=edits.delta.float())
    found = Difference(single, product).effects(prepare(single, TOKENS), edits, reading)[:, 0].double()
    relative = ((found - truth).abs() / truth.abs()).median()
    assert relative < {"tf32": 2e-3, "bfloat16": 1e-2}[product]
    assert spearman(found.numpy(), truth.numpy()) > 0.999


@pytest.mark.parametrize("product", ("full", "bfloat16"))
def test_an_answer_that_is_almost_certain_keeps_its_digits(product):
    """With P(answer) = 1 - 1e-5 nearly all of a logit's change cancels in log P; what is left must still be
    right.
    """
    models = [random_model("gpt_neox", vocabulary=360) for _ in range(2)]
    tokens, prompt = TOKENS[:1], torch.zeros(60, dtype=torch.long)
    resid = Anatomy(models[0]).final_norm(prepare(Anatomy(models[0]), tokens).resid[-1, 0, -1])
    for model in models:
        weight = model.get_output_embeddings().weight
        weight[7] += resid * (20 - weight[7] @ resid) / resid.square().sum()
    exact, single = Anatomy(models[1].double()), Anatomy(models[0])
    reading = LogProbs(at=END, tokens=torch.tensor([7]))
    delta = torch.randn(60, 32, generator=torch.Generator().manual_seed(3)) * 1e-3
    edits = [Edits(kind="mlp_out", layer=1, at=3, prompt=prompt, delta=x) for x in (delta.double(), delta)]
    clean = prepare(exact, tokens)
    p = Suffix(exact).values(clean, edits[0], reading).exp()
    assert ((1 - p).abs() < 1e-4).all()
    truth = Suffix(exact).effects(clean, edits[0], reading)
    found = Difference(single, product).effects(prepare(single, tokens), edits[1], reading)
    assert ((found - truth).abs() / truth.abs()).median() < {"full": 1e-4, "bfloat16": 1e-2}[product]


def test_products_are_rounded_as_the_matrix_units_do():
    x, y = torch.randn(7, 16), torch.randn(16, 5)
    cpu = torch.device("cpu")
    for kind, spacing in (("bfloat16", 2**-8), ("tf32", 2**-11)):
        products = Products(kind, cpu)
        relative = ((products.round(x) - x) / x).abs()
        assert 0.3 * spacing < relative.max() <= spacing
        assert torch.equal(products(x, y), products.round(x) @ products.round(y))
        assert torch.equal(products.round(products.round(x)), products.round(x))
    assert torch.equal(Products("bfloat16", cpu).round(x), x.bfloat16().float())
    assert torch.equal(Products("full", cpu)(x, y), x @ y)
    layer = nn.Linear(16, 5)
    assert torch.allclose(Products("full", cpu).linear(layer, x), layer(x) - layer.bias, atol=1e-6)


def test_tf32_and_full_leave_the_global_setting_as_it_was():
    before = torch.get_float32_matmul_precision()
    anatomy = random_anatomy("gpt_neox")
    Difference(anatomy, "tf32").effects(
        prepare(anatomy, TOKENS), random_edits(dtype=torch.float32), READINGS[0]
    )
    assert torch.get_float32_matmul_precision() == before


def test_what_has_no_difference_form_is_refused_by_name():
    with pytest.raises(InputError, match="product: found 'fp8'; allowed: full, tf32, bfloat16"):
        Difference(random_anatomy("gpt_neox"), "fp8")
    with pytest.raises(InputError, match="torch.bfloat16"):
        Difference(random_anatomy("gpt_neox", dtype=torch.bfloat16))
    model = random_model("llama", vocabulary=360)
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.Mish()
    with pytest.raises(
        InputError, match="activation 'Mish'; allowed: gelu, .*, swish .use the suffix engine"
    ):
        Difference(Anatomy(model))


def test_the_activations_that_have_it_are_named_in_one_place():
    """What pre-flight reads (families.py) is what the closed forms know, of all that transformers has."""
    assert {name for name in ACT2FN if type(ACT2FN[name]).__name__ in ACTIVATIONS} == set(WITH_DIFFERENCES)
