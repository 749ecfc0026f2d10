"""The fused forms: the same numbers as the plain ones, and the plain ones where a kernel does not work.

The kernels themselves need Triton and a GPU, or Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/test_fused.py`.
Without either, kernels written in plain tensors from their definitions stand for them here.
"""

from __future__ import annotations

import os
import warnings
from types import SimpleNamespace

import pytest
import torch

from factfinding.engine import batches, fused
from factfinding.engine.batches import rows_within
from factfinding.engine.clean import prepare
from factfinding.engine.closed_forms import (
    gelu_difference,
    norm_difference,
    product_difference,
    relu_difference,
    silu_difference,
    tanh_gelu_difference,
)
from factfinding.engine.difference import Difference
from factfinding.engine.fused import Fused
from factfinding.engine.products import Products
from factfinding.engine.readings import LogProbs
from factfinding.engine.shards import first_batch
from factfinding.engine.suffix import Edits
from factfinding.model.anatomy import repeat_heads, rotate
from helpers.models import FAMILIES, random_anatomy

FORMS = {
    "gelu": gelu_difference,
    "tanh": tanh_gelu_difference,
    "relu": relu_difference,
    "silu": silu_difference,
}
TOKENS = torch.randint(0, 360, (3, 7), generator=torch.Generator().manual_seed(1))
READING = LogProbs(at=6, tokens=torch.tensor([[5, 17], [200, 3], [359, 0]]))
PROMPTS = (torch.tensor([2, 0, 0, 1, 2, 0]), torch.zeros(9, dtype=torch.long), torch.tensor([2, 1, 1, 2]))
ON_GPU = torch.cuda.is_available()
RUNS = fused.kernels is not None and (ON_GPU or os.environ.get("TRITON_INTERPRET") == "1")
needs_triton = pytest.mark.skipif(not RUNS, reason="needs Triton, and a GPU or TRITON_INTERPRET=1")


def plain_attention(moved, q, keys, values, pattern, rotary, *, size, skipped, scale, dtype):
    """By definition: attention with everything changed, minus attention with nothing changed."""
    n, seen = q.shape[2], keys.shape[2]
    first, changed = seen - n, moved[0].shape[2]
    if rotary is not None:
        turned = tuple(part[:, :changed] for part in rotary)
        moved = (rotate(moved[0], *turned), rotate(moved[1], *turned), moved[2])
    heads = q.shape[1]
    moved, keys, values = (
        [repeat_heads(x, heads) for x in moved],
        *(repeat_heads(x, heads) for x in (keys, values)),
    )
    q, keys, values = (x.double().repeat_interleave(size, 0) for x in (q, keys, values))
    after = [x.clone() for x in (q, keys, values)]
    after[0][:, :, :changed] += moved[0]
    for x, change in zip(after[1:], moved[1:], strict=True):
        x[:, :, first : first + changed] += change
    hidden = ~torch.ones(n, seen, dtype=torch.bool, device=q.device).tril(first)

    def mixed(q, k, v):
        return ((q @ k.transpose(-1, -2)) * scale).masked_fill(hidden, -torch.inf).softmax(-1) @ v

    before = pattern.double().repeat_interleave(size, 0) @ values
    change = (mixed(*after) - before)[:, :, skipped:]
    return change.transpose(1, 2).flatten(2).to(dtype)


def plain_growth(logits, own, others):
    moved = logits[:, :, None] - own[..., None]
    return (others * moved.expm1()).sum(-1), moved.amax(-1)


PLAIN = SimpleNamespace(
    norm=lambda change, x, weight, eps, dtype, centred: (
        norm_difference(x, change, eps, centred=centred) * weight
    ),
    activation=lambda kind, before, moved, dtype: FORMS[kind](before, moved),
    product=lambda *a: product_difference(*a[:4]),
    attention=lambda *a, dtype, **k: plain_attention(*a, dtype=torch.float64, **k),
    attention_fits=lambda *a: True,
    growth=plain_growth,
)


def both(anatomy, product="full"):
    """The engine with plain forms, and with fused ones."""
    plain, other = Difference(anatomy, product), Difference(anatomy, product)
    other.forms = Fused(other.products, anatomy.family)
    return plain, other


def edits_of(kind="mlp_out", layer=1, at=3, prompt=PROMPTS[0], size=1.0, dtype=torch.float64):
    delta = torch.randn(len(prompt), 32, generator=torch.Generator().manual_seed(3), dtype=dtype) * size
    return Edits(kind=kind, layer=layer, at=at, prompt=prompt, delta=delta)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", PROMPTS, ids=["three", "one", "two"])
def test_fused_forms_are_given_what_the_plain_ones_use(family, prompt, monkeypatch):
    """Every slice of the clean run: prompts, positions, layers; with kernels that are right by definition."""
    monkeypatch.setattr(fused, "kernels", PLAIN)
    anatomy = random_anatomy(family, dtype=torch.float64)
    plain, other = both(anatomy)
    other.products.kind = "fused"  # full products leave attention to the plain form
    for start in (0, 2):
        clean = prepare(anatomy, TOKENS, start=start)
        for kind, layer, at in (
            ("attn_out", 0, 3),
            ("mlp_out", 0, 2),
            ("resid_pre", 1, 6),
            ("mlp_out", 1, 5),
        ):
            edits = edits_of(kind, layer, at, prompt)
            expected, found = (engine.effects(clean, edits, READING) for engine in (plain, other))
            assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert not other.forms.failed


def test_a_kernel_that_fails_gives_way_to_the_plain_form_and_says_so_once(monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("ptxas died")

    names = ("norm", "activation", "product", "attention", "growth")
    monkeypatch.setattr(
        fused, "kernels", SimpleNamespace(**dict.fromkeys(names, broken), attention_fits=broken)
    )
    anatomy = random_anatomy("llama", dtype=torch.float64)
    plain, other = both(anatomy)
    other.products.kind = "fused"
    clean, edits = prepare(anatomy, TOKENS), edits_of(layer=0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            assert torch.equal(other.effects(clean, edits, READING), plain.effects(clean, edits, READING))
    ours = [str(w.message) for w in said if "fused kernel" in str(w.message)]
    assert sorted(m.split()[4] for m in ours) == sorted(names) and all("ptxas died" in m for m in ours)


def test_memory_that_runs_out_in_a_kernel_is_no_failure_of_it(monkeypatch):
    def full(*_arguments, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "kernels", SimpleNamespace(norm=full))
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64)
    _, other = both(anatomy)
    with pytest.raises(torch.OutOfMemoryError):
        other.effects(prepare(anatomy, TOKENS), edits_of(), READING)
    assert not other.forms.failed


def test_what_is_kept_of_a_clean_run_goes_with_it(monkeypatch):
    monkeypatch.setattr(fused, "kernels", PLAIN)
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64)
    _, other = both(anatomy)
    other.products.kind = "fused"
    clean = prepare(anatomy, TOKENS)
    other.effects(clean, edits_of(layer=0), READING)
    assert len(other.forms._kept[clean]) > 0
    del clean
    assert len(other.forms._kept) == 0


def test_without_a_gpu_the_forms_are_plain():
    anatomy = random_anatomy("gpt_neox")
    if not ON_GPU:
        assert not isinstance(Difference(anatomy).forms, Fused)


def test_a_first_batch_is_found_from_the_free_memory(monkeypatch):
    assert rows_within(2**30, 2**20, "cuda") == 512
    assert rows_within(2**30, 2**31, "cuda") == 1
    assert rows_within(2**45, 2**20, "cuda") == batches.MOST_ROWS["cuda"]
    assert rows_within(0, 2**20, "cpu") == 256  # its own measure, whatever is free
    anatomy = random_anatomy("gpt_neox")
    assert first_batch(anatomy, 4) > first_batch(anatomy, 400) >= 1


def test_a_linear_part_added_in_place_is_the_sum():
    products, layer = Products("bfloat16", torch.device("cpu")), torch.nn.Linear(16, 5)
    x, total = torch.randn(2, 3, 16), torch.randn(2, 3, 5)
    expected = total + products.linear(layer, x)
    products.add_linear(total, layer, x)
    assert torch.equal(total, expected)


@torch.no_grad()
def test_a_sum_that_the_library_does_not_take_over_is_made_apart(monkeypatch):
    products, layer = Products("full", torch.device("cpu")), torch.nn.Linear(16, 5)
    products._sums = True
    x, total = torch.randn(2, 3, 16), torch.randn(2, 3, 5)
    expected = total + products.linear(layer, x)
    taken = total.clone()
    products.add_linear(taken, layer, x)
    assert torch.allclose(taken, expected, atol=1e-6) and products._sums

    def refuses(*_arguments, **_options):
        raise RuntimeError("self and mat2 must have the same dtype")

    monkeypatch.setattr(torch, "addmm", refuses)
    products.add_linear(total, layer, x)
    assert torch.equal(total, expected) and not products._sums


def on_device(*tensors):
    return [x.cuda() if ON_GPU else x for x in tensors]


@needs_triton
@pytest.mark.parametrize(("n", "d"), ((1, 32), (5, 80), (3, 2560)))
@pytest.mark.parametrize("centred", (True, False), ids=["layer", "rms"])
def test_the_norm_kernel(n, d, centred):
    change, x, weight = on_device(torch.randn(2, 3, n + 1, d) * 1e-3, torch.randn(2, 1, n, d), torch.randn(d))
    change = change[:, :, :n]  # rows further apart than they are long
    found = fused.kernels.norm(change, x, weight, 1e-5, torch.float32, centred=centred)
    expected = norm_difference(x.double(), change.double(), 1e-5, centred=centred) * weight
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


@needs_triton
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("scale", (1e-6, 1e-2, 3.0))
def test_the_activation_kernels(kind, scale):
    before, moved = on_device(3 * torch.randn(2, 4, 700), torch.randn(2, 17, 2, 700) * scale)
    before = before[:, None, 1:3]
    found = fused.kernels.activation(kind, before, moved, torch.float32)
    expected = FORMS[kind](before.double(), moved.double())
    assert ((found - expected).abs() <= 3e-6 * moved.abs() + 1e-30).all()


@needs_triton
@pytest.mark.parametrize("scale", (1e-6, 1.0))
def test_the_product_kernel(scale):
    """A gate's change comes as its kernel rounded it; what is gated comes in full."""
    x, y = on_device(torch.randn(2, 4, 700), torch.randn(2, 4, 700))
    dx, dy = on_device(*(torch.randn(2, 17, 2, 700) * scale for _ in range(2)))
    x, y, dx = x[:, None, 1:3], y[:, None, 1:3], dx.bfloat16()
    found = fused.kernels.product(x, dx, y, dy, torch.float32)
    expected = product_difference(*(part.double() for part in (x, dx, y, dy)))
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


@needs_triton
@pytest.mark.parametrize(
    ("n", "changed", "skipped"), ((5, 5, 0), (5, 1, 0), (5, 5, 4), (1, 1, 0), (20, 20, 0))
)
@pytest.mark.parametrize("scale", (1e-3, 1.0, 6.0))
@pytest.mark.parametrize("kv_heads", (4, 2))
def test_the_attention_kernel(n, changed, skipped, scale, kv_heads):
    prompts, size, heads, d_head, first = 2, 7, 4, 24, 4
    moved = torch.randn(prompts * size, changed, heads, 3 * d_head) * scale
    q = torch.randn(prompts, heads, n, d_head)
    keys, values = (torch.randn(prompts, kv_heads, first + n, d_head) for _ in range(2))
    angle = torch.randn(1, n, 8).repeat(1, 1, 2)
    moved, q, keys, values, cos, sin = on_device(moved, q, keys, values, angle.cos(), angle.sin())
    hidden = ~torch.ones(n, first + n, dtype=torch.bool, device=q.device).tril(first)
    every = repeat_heads(keys, heads).double()
    scores = (q.double() @ every.transpose(-1, -2) * d_head**-0.5).masked_fill(hidden, -torch.inf)
    pattern = scores.softmax(-1)
    dq, *few = moved.transpose(1, 2).chunk(3, dim=-1)
    parts = (dq, *(x[:, :kv_heads] for x in few))
    for rotary in (None, (cos, sin)):
        options = {"size": size, "skipped": skipped, "scale": d_head**-0.5}
        found = fused.kernels.attention(
            parts, q, keys, values, pattern.float(), rotary, dtype=torch.float32, **options
        )
        expected = plain_attention(parts, q, keys, values, pattern, rotary, dtype=torch.float64, **options)
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < (5e-3 * max(1, scale**2) if ON_GPU else 1e-4)  # TF32 scores, relative to their size


@needs_triton
@pytest.mark.parametrize("scale", (1e-6, 1.0))
def test_the_growth_kernel(scale):
    logits, own, others = on_device(
        torch.randn(2, 5, 1500) * scale, torch.randn(2, 5, 2) * scale, torch.randn(2, 1, 2, 1500).softmax(-1)
    )
    found, top = fused.kernels.growth(logits, own, others)
    expected, expected_top = plain_growth(logits.double(), own.double(), others.double())
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (top - expected_top).abs().max() < 1e-6 * expected_top.abs().max()
