"""Direct paths in closed form: what a node does to the logits along one path, from cached activations alone.

A node is a head's output (z through its W_O), an MLP's or an attention block's output, or the embedding. The residual
stream is the sum of all nodes, so replacing a clean node by a corrupt one *only along a path* adds their difference to
the one residual that the path enters, and no forward pass is needed:

    node -> final norm -> logits                              `direct_effects`        (P2.2)
    node at the name -> a head's value -> END -> logits       `head_input_effects`    (P2.4)

Each comes in two forms. `exact` recomputes every norm on the path for the changed residual. Frozen keeps the clean
scale, so it is linear: the effects of all nodes sum to the effect of replacing them all. Frozen effects say how the
logits are made up, exact ones what the replacement does.

An exact norm is taken as a difference, without cancellation: a small change has a small error, and none has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factfinding.engine.closed_forms import norm_difference
from factfinding.engine.sites import Site, check
from factfinding.families import Family
from factfinding.model.anatomy import Anatomy, weight_in_out

OutWeights = Sequence[Float[Tensor, "heads d_head d_model"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """A LayerNorm (centred) or RMS norm, with its parts in reach."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool

    @classmethod
    def of(cls, module: nn.Module, family: Family) -> Norm:
        """The norm that a module of a model of the family computes."""
        eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
        centred = isinstance(module, nn.LayerNorm)
        bias = getattr(module, "bias", None)
        return cls(
            weight=_wide(module.weight) + family.gain_offset,
            bias=None if bias is None else _wide(bias),
            eps=eps,
            centred=centred,
        )

    def __call__(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        x = self._centre(resid)
        normed = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight
        return normed if self.bias is None else normed + self.bias

    def change(
        self,
        resid: Float[Tensor, "subjects d_model"],
        change: Float[Tensor, "subjects *nodes d_model"],
        *,
        exact: bool,
    ) -> Float[Tensor, "subjects *nodes d_model"]:
        """What each change of the residual, made alone, does to the normed residual; frozen keeps the clean scale."""
        x = _align(_wide(resid), change)
        if exact:
            return norm_difference(x, change, self.eps, centred=self.centred) * self.weight
        scale = (self._centre(x).square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return self._centre(change) * scale * self.weight

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """The final norm and the unembedding of a few chosen tokens: where every path ends."""

    norm: Norm
    directions: Float[Tensor, "tokens d_model"]

    @classmethod
    def of(cls, anatomy: Anatomy, token_ids: Int[Tensor, " tokens"] | Sequence[int]) -> Readout:
        rows = torch.as_tensor(token_ids, device=anatomy.device)
        return cls(
            norm=Norm.of(anatomy.final_norm, anatomy.family), directions=_wide(anatomy.unembed.weight[rows])
        )

    def change(
        self,
        resid: Float[Tensor, "subjects d_model"],
        change: Float[Tensor, "subjects *nodes d_model"],
        *,
        exact: bool,
    ) -> Float[Tensor, "subjects *nodes tokens"]:
        """What each change of the last residual, made alone, does to the chosen tokens' logits."""
        return self.norm.change(resid, change, exact=exact) @ self.directions.T


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadPath:
    """The way through one head by its value: the norm of its layer's input, W_V and W_O."""

    norm: Norm
    value: Float[Tensor, "d_model d_head"]
    out: Float[Tensor, "d_head d_model"]

    @classmethod
    def of(cls, anatomy: Anatomy, head: Site) -> HeadPath:
        """The path of a head such as `parse("L16H20")`. Raises InputError for one that the model does not have."""
        block = anatomy.blocks[check(head, anatomy).layer]
        value = value_weight(anatomy, head.layer)[head.index]
        return cls(
            norm=Norm.of(block.norm_attn, anatomy.family),
            value=_wide(value),
            out=_wide(block.out_weight[head.index]),
        )

    def carry(
        self,
        resid: Float[Tensor, "subjects d_model"],
        change: Float[Tensor, "subjects *nodes d_model"],
        attention: Float[Tensor, " subjects"],
        *,
        exact: bool,
    ) -> Float[Tensor, "subjects *nodes d_model"]:
        """How changes of the head's input `resid` at one position arrive where it attends from, the pattern kept.

        `attention` is the pattern's weight from there to that position.
        """
        value = self.norm.change(resid, change, exact=exact) @ self.value
        return value * _align(_wide(attention)[:, None], value) @ self.out


def value_weight(anatomy: Anatomy, layer: int) -> Float[Tensor, "heads d_model d_head"]:
    """W_V of every head; heads of grouped-query attention that share one have it each."""
    block = anatomy.blocks[layer]
    rows = weight_in_out(block.value_proj)[
        None
    ]  # the family's split takes it for the outputs of d_model positions
    shared = anatomy.family.split_value(rows, anatomy.d_head, anatomy.n_kv_heads)[0]
    return shared.repeat_interleave(anatomy.n_heads // anatomy.n_kv_heads, dim=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeOutputs:
    """What every node wrote at one position, for the layers 0 to `layers` - 1, and the residual that they sum to.

    That is the last residual where `layers` are all the model's, and `resid_pre` of the layer `layers` otherwise.
    """

    embedding: Float[Tensor, "subjects d_model"]
    z: Float[Tensor, "subjects layers heads d_head"]
    attn_out: Float[Tensor, "subjects layers d_model"]
    mlp_out: Float[Tensor, "subjects layers d_model"]
    resid: Float[Tensor, "subjects d_model"]

    @property
    def n_layers(self) -> int:
        return self.mlp_out.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """Change of each chosen token's logit when one node is replaced along one path."""

    embedding: Float[Tensor, "subjects tokens"]
    heads: Float[Tensor, "subjects layers heads tokens"]
    attn_out: Float[Tensor, "subjects layers tokens"]
    mlp_out: Float[Tensor, "subjects layers tokens"]

    def difference(self, clean: Int[Tensor, " subjects"], corrupt: Int[Tensor, " subjects"]) -> Effects:
        """The same for the logit difference; `clean` and `corrupt` index the chosen tokens, whose axis is then 1."""
        return Effects(
            **{name: logit_difference(values, clean, corrupt) for name, values in vars(self).items()}
        )


def logit_difference(
    logits: Float[Tensor, "subjects *nodes tokens"],
    clean: Int[Tensor, " subjects"],
    corrupt: Int[Tensor, " subjects"],
) -> Float[Tensor, "subjects *nodes 1"]:
    """logit(clean subject's answer) - logit(corrupt subject's answer), each given as an index among the tokens."""

    def chosen(index: Tensor) -> Tensor:
        return logits.gather(-1, _align(index[:, None], logits).expand(*logits.shape[:-1], 1))

    return chosen(clean) - chosen(corrupt)


def direct_effects(
    clean: NodeOutputs,
    corrupt: NodeOutputs,
    out_weights: OutWeights,
    readout: Readout,
    *,
    exact: bool,
    batch: int = 128,
) -> Effects:
    """Replace each node's output at END, clean by corrupt, only along node -> final norm -> unembedding (P2.2).

    Both `NodeOutputs` are of END and of all layers; `out_weights` holds each block's `out_weight`. `batch` subjects
    are taken at once: memory is a few times batch x heads x d_model numbers, one layer at a time.
    """

    def push(rows: slice, change: Tensor) -> Tensor:
        return readout.change(clean.resid[rows], change, exact=exact)

    return _each_node(clean, corrupt, out_weights, push, batch)


def head_input_effects(
    clean: NodeOutputs,
    corrupt: NodeOutputs,
    out_weights: OutWeights,
    head: HeadPath,
    readout: Readout,
    *,
    attention: Float[Tensor, " subjects"],
    resid_end: Float[Tensor, "subjects d_model"],
    exact: bool,
    batch: int = 128,
) -> Effects:
    """Replace each node's output at one position only along node -> this head's value -> END -> logits (P2.4).

    Both `NodeOutputs` are of that position (the final name token) and of the layers below the head's own; `attention`
    is the head's clean pattern from END to it, `resid_end` the clean last residual at END.
    """

    def push(rows: slice, change: Tensor) -> Tensor:
        arrived = head.carry(clean.resid[rows], change, attention[rows], exact=exact)
        return readout.change(resid_end[rows], arrived, exact=exact)

    return _each_node(clean, corrupt, out_weights, push, batch)


def head_outputs(
    z: Float[Tensor, "subjects heads d_head"], out_weight: Float[Tensor, "heads d_head d_model"]
) -> Float[Tensor, "subjects heads d_model"]:
    """What each head adds to the residual stream (the attention block's bias belongs to no head)."""
    return torch.einsum("ahe,hed->ahd", _wide(z), _wide(out_weight))


def _each_node(
    clean: NodeOutputs,
    corrupt: NodeOutputs,
    out_weights: OutWeights,
    push: Callable[[slice, Float[Tensor, "subjects nodes d_model"]], Float[Tensor, "subjects nodes tokens"]],
    batch: int,
) -> Effects:
    """`push` the replacement of every node, a batch of subjects and a layer at a time."""
    parts = []
    for start in range(0, len(clean.resid), batch):
        rows = slice(start, start + batch)
        embedding, z, attn_out, mlp_out = (
            _wide(getattr(corrupt, name)[rows]) - _wide(getattr(clean, name)[rows])
            for name in ("embedding", "z", "attn_out", "mlp_out")
        )
        heads = [push(rows, head_outputs(z[:, layer], out_weights[layer])) for layer in range(clean.n_layers)]
        embedding = push(rows, embedding[:, None])[:, 0]
        no_heads = embedding.new_zeros(len(z), 0, z.shape[2], embedding.shape[-1])
        per_head = torch.stack(heads, dim=1) if heads else no_heads
        parts.append((embedding, per_head, push(rows, attn_out), push(rows, mlp_out)))
    embedding, heads, attn_out, mlp_out = (torch.cat(values) for values in zip(*parts, strict=True))
    return Effects(embedding=embedding, heads=heads, attn_out=attn_out, mlp_out=mlp_out)


def _wide(x: Tensor) -> Tensor:
    """Stored activations and weights in half precision are widened to float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _align(x: Tensor, like: Tensor) -> Tensor:
    """`[subjects, last]` with the axes of nodes that `like` has between the two."""
    return x.reshape(len(x), *(1,) * (like.ndim - 2), x.shape[-1])
