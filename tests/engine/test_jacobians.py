from __future__ import annotations

import pytest
import torch

from factfinding.engine.clean import prepare
from factfinding.engine.jacobians import end_jacobians
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, run
from factfinding.errors import InputError
from helpers.models import FAMILIES, random_anatomy

AT, END, PROMPTS = 3, 7, 2


def by_hooks(anatomy, tokens, layer, dimension, step=1e-5):
    """Central differences on whole runs of the model's own code."""
    site = Site("resid_pre", 0) if layer < 0 else Site("resid_post", layer)
    at, end = (torch.full((len(tokens),), place) for place in (AT, END))
    own = run(anatomy, tokens, reads=[Read(site=site, at=at)]).values[0]
    last = Read(site=Site("resid_post", anatomy.n_layers - 1), at=end)
    ends = []
    for side in (1, -1):
        value = own.clone()
        value[:, dimension] += side * step
        edit = Edit(site=site, at=at, value=value)
        ends.append(run(anatomy, tokens, edits=[edit], reads=[last]).values[0])
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_jacobians_are_those_of_the_whole_model_after_every_layer(family):
    anatomy = random_anatomy(family, dtype=torch.float64)
    tokens = torch.randint(0, anatomy.d_vocab, (PROMPTS, END + 2), generator=torch.Generator().manual_seed(1))
    layers = list(range(-1, anatomy.n_layers - 1))
    found = end_jacobians(anatomy, prepare(anatomy, tokens, start=AT - 1), layers, at=AT, end=END)
    assert found.shape == (len(layers), PROMPTS, anatomy.d_model, anatomy.d_model)
    for place, layer in enumerate(layers):
        for dimension in (0, anatomy.d_model - 1):
            expected = by_hooks(anatomy, tokens, layer, dimension)
            assert expected.abs().max() > 0
            error = (found[place, :, :, dimension] - expected).abs().max()
            assert error < 1e-6 * found[place].abs().max(), (layer, dimension)


def test_layers_may_come_in_any_order_and_few_directions_at_once_are_the_same(monkeypatch):
    anatomy = random_anatomy("gpt_neox", dtype=torch.float64)
    clean = prepare(anatomy, torch.arange(9)[None], start=AT)
    whole = end_jacobians(anatomy, clean, [0, 1], at=AT, end=END)
    monkeypatch.setattr("factfinding.engine.jacobians.DIRECTIONS", 5)
    torch.testing.assert_close(end_jacobians(anatomy, clean, [1, 0], at=AT, end=END).flip(0), whole)


@pytest.mark.parametrize(
    ("layers", "at", "end", "found"),
    [([], 4, 7, "no layer"), ([2], 4, 7, "layer 2"), ([0], 2, 7, "positions 2 and 7"), ([0], 7, 4, "positions 7 and 4")],
)  # fmt: skip
def test_what_cannot_be_asked_is_named(layers, at, end, found):
    anatomy = random_anatomy("gpt_neox", layers=3)
    clean = prepare(anatomy, torch.arange(9)[None], start=3)
    with pytest.raises(InputError, match=f"jacobian: found {found}"):
        end_jacobians(anatomy, clean, layers, at=at, end=end)
