"""Gradients of a metric of the logits in any sites of a clean run, everything after each site allowed to respond.

The derivatives hold the whole graph of the prompts given in memory: give a few dozen prompts of a large model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, pick, run
from factfinding.model.anatomy import Anatomy

Metric = Callable[[Float[Tensor, "subjects d_vocab"]], Float[Tensor, " subjects"]]
"""One number per prompt, of that prompt's logits alone."""


def log_probability(answer: Int[Tensor, " subjects"]) -> Metric:
    """log P(answer token), nats, over the whole vocabulary."""

    def metric(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]

    return metric


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """A clean run: the metric, and for each read its value and the metric's gradient there, of the same shape."""

    metric: Float[Tensor, " subjects"]
    values: list[Tensor]
    gradients: list[Tensor]


@torch.enable_grad()
def gradients(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    reads: Sequence[Read],
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
) -> Gradients:
    """The metric's gradient in every site read, everything after the site allowed to respond.

    One forward and one backward pass for all sites; one more of each for every layer whose pattern is read.
    Raises InputError for a site that the model does not have.
    """
    others = sorted({(read.site.kind, read.site.layer) for read in reads if read.site.kind != "pattern"})
    whole = {place: Read(site=Site(*place)) for place in others}
    clean = run(
        anatomy,
        tokens,
        logits_at=logits_at,
        reads=list(whole.values()),
        edits=[_graph_starts(anatomy, tokens)],
        grad=True,
    )
    value = metric(clean.logits)
    found = dict(zip(others, zip(clean.values, _gradient(value, clean.values), strict=True), strict=True))
    for layer in sorted({read.site.layer for read in reads if read.site.kind == "pattern"}):
        found["pattern", layer] = _pattern_gradient(anatomy, tokens, layer, metric, logits_at)
    picked = [tuple(_at(x.detach(), read) for x in found[read.site.kind, read.site.layer]) for read in reads]
    return Gradients(metric=value.detach(), values=[v for v, _ in picked], gradients=[g for _, g in picked])


def _graph_starts(anatomy: Anatomy, tokens: Tensor) -> Edit:
    """The embedding replaced by itself, as the leaf from which the graph of a run grows."""
    start = Site("resid_pre", 0)
    embedding = run(anatomy, tokens, reads=[Read(site=start)]).values[0]
    return Edit(site=start, value=embedding.detach().clone().requires_grad_())


def _gradient(value: Float[Tensor, " subjects"], wanted: Sequence[Tensor]) -> Sequence[Tensor]:
    """d value / d each tensor; zero for what the metric does not depend on (such as the last layer before END)."""
    if not wanted:
        return ()
    return torch.autograd.grad(value.sum(), wanted, allow_unused=True, materialize_grads=True)


def _pattern_gradient(
    anatomy: Anatomy, tokens: Tensor, layer: int, metric: Metric, logits_at: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer's patterns and the gradient there. Reading a pattern takes no part in the run, so it is put in as a
    leaf: an edit by itself."""
    site = Site("pattern", layer)
    clean = run(anatomy, tokens, reads=[Read(site=site)]).values[0].detach().clone().requires_grad_()
    value = metric(
        run(anatomy, tokens, logits_at=logits_at, edits=[Edit(site=site, value=clean)], grad=True).logits
    )
    return clean, _gradient(value, [clean])[0]


def _at(whole: Float[Tensor, "subjects seq ..."], read: Read) -> Tensor:
    """What the read would give, from the whole site: its unit at its positions."""
    x, index = pick(whole, read.at), read.site.index
    if index is None:
        return x
    axis = 1 if read.at is not None and read.at.ndim == 1 else 2
    unit = x.narrow(axis, index, 1)
    return unit.squeeze(axis) if read.site.kind == "z" else unit
