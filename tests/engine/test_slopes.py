"""Slopes of neurons against central differences by hooks, on every family."""

from __future__ import annotations

import pytest
import torch

from factfinding.engine import trace
from factfinding.engine.sites import Site
from factfinding.engine.slopes import neuron_slopes
from helpers.models import FAMILIES, random_anatomy

TOKENS = torch.randint(0, 360, (1, 7), generator=torch.Generator().manual_seed(1))
AT, END, ANSWER = 3, 6, 17


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_central_differences(family):
    anatomy = random_anatomy(family, dtype=torch.float64)
    step, tolerance = 1e-4, 1e-5
    with torch.no_grad():  # as callers have it
        slopes = neuron_slopes(anatomy, TOKENS, at=AT, end=END, answer=ANSWER)
    assert slopes.shape == (anatomy.n_layers, anatomy.d_mlp) and not slopes.requires_grad
    where, end = torch.tensor([AT] * 2), torch.tensor([END] * 2)
    for layer, neuron in ((0, 5), (1, 60), (1, 90)):
        site = Site("post", layer, neuron)
        value = trace.run(anatomy, TOKENS, reads=[trace.Read(site=site, at=where[:1])]).values[0]
        value = value + torch.tensor([[step], [-step]], dtype=torch.float64)
        edits = [trace.Edit(site=site, at=where, value=value)]
        logits = trace.run(anatomy, TOKENS.expand(2, -1), logits_at=end, edits=edits).logits
        up, down = logits.log_softmax(1)[:, ANSWER]
        assert float(slopes[layer, neuron]) == pytest.approx(
            float(up - down) / (2 * step), rel=tolerance, abs=1e-12
        )
    # the last layer acts at its own position only
    assert not slopes[-1].any()
