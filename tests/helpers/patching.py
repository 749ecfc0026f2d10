"""What tests hold results against: nodes read by one run, edits made one at a time, and their effects to first order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.attribution import Metric, gradients
from factfinding.engine.direct import NodeOutputs
from factfinding.engine.sites import Site
from factfinding.engine.trace import Edit, Read, run
from factfinding.model.anatomy import Anatomy


def read_nodes(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    at: Int[Tensor, " subjects"],
    *,
    before: int | None = None,
) -> NodeOutputs:
    """All nodes at one position of each prompt, below layer `before` (None: of all layers), from one forward pass."""
    layers = range(anatomy.n_layers if before is None else before)
    resid = Site("resid_post", layers[-1]) if layers else Site("resid_pre", 0)
    kinds = ("z", "attn_out", "mlp_out")
    sites = [Site("resid_pre", 0), resid, *(Site(kind, layer) for kind in kinds for layer in layers)]
    embedding, last, *rest = run(anatomy, tokens, reads=[Read(site=site, at=at) for site in sites]).values
    n = len(layers)
    shapes = {
        "z": (anatomy.n_heads, anatomy.d_head),
        "attn_out": (anatomy.d_model,),
        "mlp_out": (anatomy.d_model,),
    }
    stacked = {
        kind: torch.stack(rest[i * n : (i + 1) * n], dim=1)
        if n
        else last.new_zeros(len(last), 0, *shapes[kind])
        for i, kind in enumerate(kinds)
    }
    return NodeOutputs(embedding=embedding, resid=last, **stacked)


def logit_difference(clean: Int[Tensor, " subjects"], corrupt: Int[Tensor, " subjects"]) -> Metric:
    """logit(clean subject's answer token) - logit(corrupt subject's answer token)."""

    def metric(logits: Tensor) -> Tensor:
        return (logits.gather(1, clean[:, None]) - logits.gather(1, corrupt[:, None]))[:, 0]

    return metric


def exact_effects(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    edits: Sequence[Edit],
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
) -> Float[Tensor, "subjects edits"]:
    """The change of the metric that each edit, alone, makes: one forward pass per edit."""

    def measure(*edits: Edit) -> Tensor:
        return metric(run(anatomy, tokens, logits_at=logits_at, edits=edits).logits)

    clean = measure()
    return torch.stack([measure(edit) - clean for edit in edits], dim=1)


def first_order(
    site: Site, clean: Tensor, corrupt: Tensor, gradient: Tensor, *, per_unit: bool = False
) -> Float[Tensor, " subjects"] | Float[Tensor, "subjects units"]:
    """(corrupt - clean) . gradient of one read, summed over positions and the site's values.

    `per_unit` keeps the site's units apart: heads (z, pattern), neurons (pre, post), or dimensions of the residual.
    `clean` and `gradient` are a read's `[subjects, (positions,) ...]`; `corrupt` broadcasts to them.
    """
    product = (corrupt - clean) * gradient
    if not per_unit:
        return product.flatten(1).sum(1)
    if site.kind in ("z", "pattern") and site.index is None:
        product = product.sum(-1)
    return product.flatten(1, -2).sum(1) if product.ndim > 2 else product


def attribute(
    anatomy: Anatomy,
    tokens: Int[Tensor, "subjects seq"],
    edits: Sequence[Edit],
    metric: Metric,
    *,
    logits_at: Int[Tensor, " subjects"],
) -> Float[Tensor, "subjects edits"]:
    """The change of the metric that each edit, alone, would make, to first order (attribution patching)."""
    reads = [Read(site=edit.site, at=edit.at) for edit in edits]
    clean = gradients(anatomy, tokens, reads, metric, logits_at=logits_at)
    columns = []
    for edit, value, gradient in zip(edits, clean.values, clean.gradients, strict=True):
        columns.append(first_order(edit.site, value, edit.value.to(value), gradient))
    return torch.stack(columns, dim=1)
