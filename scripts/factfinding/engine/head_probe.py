"""The head probe: what one attention head would say about the answers if it read a residual stream (P2.5).

A head that attends to the name writes W_O W_V norm(resid) at END, and the answers' logits are read off that. Along
the way stand two norms, the one before the head and the final one. With their weights and their centring folded in and
their scales left out, all this is one matrix from the residual to the answers,

    fold(norm) W_V W_O fold(final norm) W_U[:, answers]        [d_model, answers]

and the probe is the argmax of `(resid - mean) @ matrix`. It has no fitted number but the mean. What is left out is one
positive number per prompt and norm. The final norm's is shared by all answers, so it cannot change an argmax at all.
The head's own norm divides before the mean is taken away, so it can, a little: `norm_of` is there to measure how little.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from factfinding.engine.direct import Norm, Readout, value_weight
from factfinding.engine.sites import Site, check
from factfinding.model.anatomy import Anatomy


def head_probes(
    anatomy: Anatomy, layer: int, readout: Readout, *, fold_norm: bool = True, fold_final: bool = True
) -> Float[Tensor, "heads d_model answers"]:
    """The probe of every head of a layer. `fold_norm`, `fold_final`: with the norm before the head, the final norm."""
    out = anatomy.blocks[layer].out_weight
    written = folded(readout.norm, readout.directions.T) if fold_final else readout.directions.T
    dtype = written.dtype
    probes = value_weight(anatomy, layer).to(dtype) @ (out.to(dtype) @ written)
    return folded(norm_of(anatomy, layer), probes) if fold_norm else probes


def head_probe(
    anatomy: Anatomy, head: Site, token_ids: Sequence[int], *, fold_norm: bool = True, fold_final: bool = True
) -> Float[Tensor, "d_model answers"]:
    """The probe of one head such as `parse("L16H20")`. Raises InputError for a head that the model does not have."""
    layer = check(head, anatomy).layer
    readout = Readout.of(anatomy, token_ids)
    return head_probes(anatomy, layer, readout, fold_norm=fold_norm, fold_final=fold_final)[head.index]


def norm_of(anatomy: Anatomy, layer: int) -> Norm:
    """The norm through which the heads of a layer read the residual stream."""
    return Norm.of(anatomy.blocks[layer].norm_attn, anatomy.family)


def folded(norm: Norm, matrix: Float[Tensor, "*heads d_model k"]) -> Float[Tensor, "*heads d_model k"]:
    """A matrix that follows a norm, with the norm's linear part (weight and centring) made part of it."""
    weighted = norm.weight.to(matrix.dtype)[:, None] * matrix
    return weighted - weighted.mean(-2, keepdim=True) if norm.centred else weighted
