"""How fast an answer's log-probability changes with each neuron: one backward pass for all neurons of all layers.

The effect of a neuron is a curve of its new value (`response`), and this is the slope of that curve at the clean value.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.engine.attribution import gradients, log_probability
from factfinding.engine.sites import Site
from factfinding.engine.trace import Read
from factfinding.model.anatomy import Anatomy


def neuron_slopes(
    anatomy: Anatomy, tokens: Tensor, *, at: int, end: int, answer: int
) -> Float[Tensor, "layers d_mlp"]:
    """d log P(answer) at `end` / d post-activation of every neuron at position `at`, for one prompt `[1, seq]`."""
    where, last, token = (torch.tensor([p], device=anatomy.device) for p in (at, end, answer))
    reads = [Read(site=Site("post", layer), at=where) for layer in range(anatomy.n_layers)]
    found = gradients(anatomy, tokens, reads, log_probability(token), logits_at=last)
    return torch.cat(found.gradients)
