"""The suffix engine against its slow twin: every kind of edit, layer and position, on every family, in
float64.
"""

from __future__ import annotations

import pytest
import torch

from factfinding.engine import readings, trace
from factfinding.engine.clean import activation, prepare
from factfinding.engine.groups import Groups
from factfinding.engine.readings import Logits, LogProbs, Resid
from factfinding.engine.sites import Site, head, neuron
from factfinding.engine.suffix import Edits, Suffix, edit, edit_neurons
from factfinding.errors import InputError
from helpers.models import FAMILIES, random_anatomy

N, T, LAYERS = 3, 7, 3
END = T - 1
TOKENS = torch.randint(0, 360, (N, T), generator=torch.Generator().manual_seed(1))
ANSWERS = torch.tensor([[5, 17], [200, 3], [359, 0]])
PROMPT = torch.tensor([2, 0, 0, 1, 2, 0])  # rows of several prompts, mixed and uneven
SITES = [
    *(Site(kind, 1) for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "post")),
    head(1, 2),
    neuron(1, 30),
]


@pytest.fixture(scope="module", params=FAMILIES)
def anatomy(request):
    return random_anatomy(request.param, dtype=torch.float64)


@pytest.fixture(scope="module")
def clean(anatomy):
    return prepare(anatomy, TOKENS)


def value_of(anatomy, clean, site, at, seed=0):
    """A new value per row, of the site's own shape."""
    shape = activation(anatomy, clean, site, at)[PROMPT].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twin(anatomy, site, at, value, read_at=END, prompt=PROMPT):
    """Logits by hooks on whole prompts, one row per edit."""
    positions = torch.full((len(prompt),), at)
    edits = [trace.Edit(site=site, at=positions, value=value)]
    return trace.run(
        anatomy, TOKENS[prompt], logits_at=torch.full((len(prompt),), read_at), edits=edits
    ).logits


def close(x, y, tolerance=1e-10):
    return x.shape == y.shape and torch.allclose(x, y, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("at", (0, 3, END))
def test_every_edit_is_the_slow_twins(anatomy, clean, site, layer, at):
    site = Site(site.kind, layer, site.index)
    value = value_of(anatomy, clean, site, at)
    edits = edit(anatomy, clean, site, at=at, prompt=PROMPT, value=value)
    fast = Suffix(anatomy).values(clean, edits, Logits(at=END))
    assert close(fast, twin(anatomy, site, at, value))


@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_reading_between_the_edit_and_the_end_is_the_slow_twins(anatomy, clean, site):
    value = value_of(anatomy, clean, site, 2)
    edits = edit(anatomy, clean, site, at=2, prompt=PROMPT, value=value)
    for read_at in (2, 4):
        fast = Suffix(anatomy).values(clean, edits, Logits(at=read_at))
        assert close(fast, twin(anatomy, site, 2, value, read_at))


def test_what_was_kept_from_a_later_start_is_enough(anatomy, clean):
    late, site = prepare(anatomy, TOKENS, start=3), Site("z", 0)
    value = value_of(anatomy, clean, site, 4)
    for kept in (clean, late):
        edits = edit(anatomy, kept, site, at=4, prompt=PROMPT, value=value)
        assert close(Suffix(anatomy).values(kept, edits, Logits(at=END)), twin(anatomy, site, 4, value))


@pytest.mark.parametrize("kind", ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "post"))
def test_the_clean_values_of_sites_are_those_that_hooks_read(anatomy, clean, kind):
    for at in (0, 3, END):
        read = trace.Read(site=Site(kind, 1), at=torch.full((N,), at))
        assert close(
            activation(anatomy, clean, Site(kind, 1), at), trace.run(anatomy, TOKENS, reads=[read]).values[0]
        )


def test_readings_are_parts_of_the_same_logits(anatomy, clean):
    site = Site("mlp_out", 0)
    value = value_of(anatomy, clean, site, 3)
    edits, engine = edit(anatomy, clean, site, at=3, prompt=PROMPT, value=value), Suffix(anatomy)
    logits = twin(anatomy, site, 3, value)
    log_probs, own = logits.log_softmax(1), ANSWERS[PROMPT]
    assert close(engine.values(clean, edits, Logits(at=END, tokens=ANSWERS)), logits.gather(1, own))
    assert close(engine.values(clean, edits, Logits(at=END, tokens=ANSWERS[0])), logits[:, ANSWERS[0]])
    assert close(engine.values(clean, edits, LogProbs(at=END, tokens=ANSWERS)), log_probs.gather(1, own))
    assert close(engine.values(clean, edits, LogProbs(at=END, tokens=ANSWERS[0])), log_probs[:, ANSWERS[0]])
    assert close(engine.values(clean, edits, LogProbs(at=END)), log_probs)


@pytest.mark.parametrize("layer", (0, 1, 2))
def test_the_residual_and_a_probe_of_it(anatomy, clean, layer):
    site, at = Site("attn_out", 0), 2
    value = value_of(anatomy, clean, site, at)
    edits, engine = edit(anatomy, clean, site, at=at, prompt=PROMPT, value=value), Suffix(anatomy)
    weight, bias = torch.randn(anatomy.d_model, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    for read_at in (at, END):
        where = torch.full((len(PROMPT),), read_at)
        change = trace.Edit(site=site, at=torch.full((len(PROMPT),), at), value=value)
        read = trace.Read(site=Site("resid_post", layer), at=where)
        slow = trace.run(anatomy, TOKENS[PROMPT], reads=[read], edits=[change]).values[0]
        assert close(engine.values(clean, edits, Resid(at=read_at, layer=layer)), slow)
        probe = Resid(at=read_at, layer=layer, weight=weight, bias=bias)
        assert close(engine.values(clean, edits, probe), slow @ weight + bias)


def test_effects_are_changes_and_a_zero_change_is_exactly_zero(anatomy, clean):
    site, reading, engine = Site("resid_post", 0), LogProbs(at=END, tokens=ANSWERS), Suffix(anatomy)
    value = value_of(anatomy, clean, site, 3)
    value[[0, 3]] = activation(anatomy, clean, site, 3)[PROMPT[[0, 3]]]
    edits = edit(anatomy, clean, site, at=3, prompt=PROMPT, value=value)
    effects = engine.effects(clean, edits, reading)
    assert torch.equal(effects[[0, 3]], torch.zeros(2, 2, dtype=torch.float64))
    assert (effects[[1, 2, 4, 5]] != 0).all()
    clean_log_probs = trace.run(anatomy, TOKENS, logits_at=torch.full((N,), END)).logits.log_softmax(1)
    assert close(effects, engine.values(clean, edits, reading) - clean_log_probs.gather(1, ANSWERS)[PROMPT])


def test_an_edit_with_nothing_above_it_cannot_reach_a_later_position(anatomy, clean):
    """In the last layer only the position itself can change."""
    edits = Edits(
        kind="mlp_out", layer=LAYERS - 1, at=3, prompt=PROMPT, delta=torch.ones(6, 32, dtype=torch.float64)
    )
    assert torch.equal(
        Suffix(anatomy).effects(clean, edits, Logits(at=END)), torch.zeros(6, 360, dtype=torch.float64)
    )
    assert (Suffix(anatomy).effects(clean, edits, Logits(at=3)) != 0).any()


def test_the_residual_at_the_end_of_the_last_layer_is_unembedded_directly(anatomy, clean):
    site = Site("resid_post", LAYERS - 1)
    value = value_of(anatomy, clean, site, END)
    edits = edit(anatomy, clean, site, at=END, prompt=PROMPT, value=value)
    assert close(Suffix(anatomy).values(clean, edits, Logits(at=END)), anatomy.logits(value))


def test_all_neurons_of_a_layer_at_once_are_the_mlp_output(anatomy, clean):
    post = value_of(anatomy, clean, Site("post", 1), 3)
    out = anatomy.blocks[1].mlp_out(post)
    both = [
        edit(anatomy, clean, Site(kind, 1), at=3, prompt=PROMPT, value=value)
        for kind, value in (("post", post), ("mlp_out", out))
    ]
    first, second = (Suffix(anatomy).values(clean, edits, Logits(at=END)) for edits in both)
    assert close(first, second)


def test_a_neuron_per_row(anatomy, clean):
    neurons, values = torch.tensor([3, 0, 90, 17, 17, 41]), torch.randn(6, dtype=torch.float64)
    edits = edit_neurons(anatomy, clean, layer=1, at=3, prompt=PROMPT, neuron=neurons, value=values)
    fast = Suffix(anatomy).values(clean, edits, Logits(at=END))
    for row in range(6):
        one = twin(
            anatomy, neuron(1, int(neurons[row])), 3, values[row : row + 1], prompt=PROMPT[row : row + 1]
        )
        assert close(fast[row : row + 1], one)


def test_a_row_alone_is_the_same_as_in_a_batch(anatomy, clean):
    site = head(0, 1)
    value = value_of(anatomy, clean, site, 2)
    together = Suffix(anatomy).values(
        clean, edit(anatomy, clean, site, at=2, prompt=PROMPT, value=value), Logits(at=END)
    )
    for i in range(len(PROMPT)):
        one = slice(i, i + 1)
        alone = edit(anatomy, clean, site, at=2, prompt=PROMPT[one], value=value[one])
        assert close(Suffix(anatomy).values(clean, alone, Logits(at=END)), together[one])


def test_edits_of_several_layers_in_one_pass_are_each_as_alone(anatomy, clean):
    """In any order, some of them zero, one entering after the last layer, and with rows of other prompts."""
    places = [
        ("mlp_out", 1),
        ("resid_pre", 0),
        ("attn_out", 0),
        ("resid_pre", 2),
        ("mlp_out", 2),
        ("attn_out", 2),
    ]
    for at in (2, END):
        many = []
        for i, (kind, layer) in enumerate(places):
            delta = torch.randn(6, 32, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
            delta[i % 3 :: 4] = 0.0
            prompt = PROMPT if i % 2 else PROMPT.flip(0)
            many.append(Edits(kind=kind, layer=layer, at=at, prompt=prompt, delta=delta * (i != 3)))
        for reading in (Logits(at=END), LogProbs(at=END, tokens=ANSWERS)):
            together = Suffix(anatomy).joint_effects(clean, many, reading)
            for edits, found in zip(many, together, strict=True):
                assert close(found, Suffix(anatomy).effects(clean, edits, reading))
                assert torch.equal(found[(edits.delta == 0).all(1)].abs().sum(), torch.zeros(()).double())


@pytest.mark.parametrize("layers", [(0,), (2,), (0, 1), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("at", (2, END))
def test_what_several_mlps_add_together_is_the_slow_twin_s(anatomy, clean, layers, at):
    """By hooks, layer by layer: what an MLP writes by then, and what is added to it."""
    added = {
        layer: torch.randn(6, 32, generator=torch.Generator().manual_seed(layer), dtype=torch.float64)
        for layer in layers
    }
    positions, end, edits = torch.full((6,), at), torch.full((6,), END), []
    for layer in layers:
        read = trace.Read(site=Site("mlp_out", layer), at=positions)
        written = trace.run(anatomy, TOKENS[PROMPT], reads=[read], edits=edits).values[0]
        edits = [*edits, trace.Edit(site=Site("mlp_out", layer), at=positions, value=written + added[layer])]
    before, after = (
        trace.run(anatomy, TOKENS[PROMPT], logits_at=end, edits=made).logits for made in ([], edits)
    )
    found = Suffix(anatomy).added_effects(clean, added, Logits(at=END), at=at, prompt=PROMPT)
    assert close(found, after - before)
    assert bool(found.abs().max() > 1e-9) == (at == END or layers[0] < LAYERS - 1)


def test_rows_that_do_not_move_are_not_run(anatomy, clean, monkeypatch):
    ran = []
    monkeypatch.setattr(Suffix, "_resid", lambda self, many, windows: ran.extend(many))
    edits = Edits(kind="mlp_out", layer=0, at=3, prompt=PROMPT, delta=torch.zeros(6, 32).double())
    assert not Suffix(anatomy).effects(clean, edits, Logits(at=END)).any() and ran == []


def test_the_vocabulary_in_pieces_is_the_vocabulary_at_once(anatomy, clean, monkeypatch):
    site = Site("mlp_out", 0)
    value = value_of(anatomy, clean, site, 3)
    edits, reading = (
        edit(anatomy, clean, site, at=3, prompt=PROMPT, value=value),
        LogProbs(at=END, tokens=ANSWERS),
    )
    expected = twin(anatomy, site, 3, value).log_softmax(1).gather(1, ANSWERS[PROMPT])
    for size in (1, 7, 359, 360, 8192):
        monkeypatch.setattr(readings, "PIECE", size)
        assert close(Suffix(anatomy).values(clean, edits, reading), expected)


def test_groups_put_rows_together_by_prompt_and_back():
    x = torch.arange(12.0).reshape(6, 2)
    for prompt in (PROMPT, torch.tensor([0, 0, 1, 1, 4, 4]), torch.tensor([5] * 6)):
        groups = Groups(prompt)
        together = groups.together(x)
        assert together.shape[0] == len(prompt.unique())
        assert torch.equal(groups.apart(together), x)
        for i, owner in enumerate(groups.prompts):
            assert set(x[prompt == owner].flatten().tolist()) <= set(together[i].flatten().tolist())


def test_what_cannot_be_read_or_edited_is_refused(anatomy, clean):
    delta = torch.ones(6, 32, dtype=torch.float64)
    edits = Edits(kind="mlp_out", layer=1, at=3, prompt=PROMPT, delta=delta)
    with pytest.raises(InputError, match="position 2; allowed: 3-6"):
        Suffix(anatomy).values(clean, edits, Logits(at=2))
    with pytest.raises(InputError, match="layer 0; allowed: 1-2"):
        Suffix(anatomy).values(clean, edits, Resid(at=3, layer=0))
    with pytest.raises(InputError, match="position 3; allowed: 4-6"):
        Suffix(anatomy).values(prepare(anatomy, TOKENS, start=4), edits, Logits(at=END))
    with pytest.raises(InputError, match="kind 'pattern'"):
        edit(anatomy, clean, Site("pattern", 0), at=3, prompt=PROMPT, value=delta)
    with pytest.raises(InputError, match="this model has layers 0-2"):
        edit(anatomy, clean, Site("mlp_out", 3), at=3, prompt=PROMPT, value=delta)
    with pytest.raises(InputError, match="position 7"):
        prepare(anatomy, TOKENS, start=7)
