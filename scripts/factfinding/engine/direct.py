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

A path ends in a few tokens, or in one head's value. So what a head adds, z through its W_O, is never written out in the
width of the model: what the norm and the path need of it are a few products of z (`Norm.change_by_heads`).
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
BATCH = 512
"""Subjects at a time: enough that the products of a layer's weights, made anew for each batch, cost little beside it."""


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

    def change_by_heads(
        self,
        resid: Float[Tensor, "subjects d_model"],
        z: Float[Tensor, "subjects heads d_head"],
        out: Float[Tensor, "#heads d_head d_model"],
        onto: Float[Tensor, "d_model outputs"],
        *,
        exact: bool,
    ) -> Float[Tensor, "subjects heads outputs"]:
        """`change(resid, z @ out) @ onto`, from products of z alone; `out` of one head serves all.

        With x the centred residual, e = z @ out centred and r, s the scales before and after (`norm_difference`), that is
        s e @ onto + (s - r) x @ onto; s follows from x . e and from |e|^2 = z (out out^T) z, in float64, since that sum
        may be much smaller than its terms.
        """
        x, out = self._centre(_wide(resid)), self._centre(out)
        onto = self.weight[:, None] * onto
        moved = torch.einsum("shk,hko->sho", z, out @ onto)
        variance = x.square().mean(-1)[:, None] + self.eps
        before = variance.rsqrt()[..., None]
        if not exact:
            return moved * before
        along = ((x @ out.flatten(0, 1).T).unflatten(-1, out.shape[:2]) * z).sum(-1)
        gram, wide = out.double() @ out.double().mT, z.double()
        size = (torch.einsum("shk,hkl->shl", wide, gram) * wide).sum(-1).to(z.dtype)
        grown = (2 * along + size) / x.shape[-1]
        after = (variance + grown).clamp_min(self.eps).rsqrt()[..., None]
        fallen = grown[..., None] * (before * after).square() / (before + after)
        return moved * after - fallen * (x @ onto)[:, None]

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

    def change_by_heads(
        self,
        resid: Float[Tensor, "subjects d_model"],
        z: Float[Tensor, "subjects heads d_head"],
        out: Float[Tensor, "#heads d_head d_model"],
        *,
        exact: bool,
    ) -> Float[Tensor, "subjects heads tokens"]:
        """The same for what each head's z adds through its rows of W_O."""
        return self.norm.change_by_heads(resid, z, out, self.directions.T, exact=exact)


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

    def values_by_heads(
        self,
        resid: Float[Tensor, "subjects d_model"],
        z: Float[Tensor, "subjects heads d_head"],
        out: Float[Tensor, "heads d_head d_model"],
        attention: Float[Tensor, " subjects"],
        *,
        exact: bool,
    ) -> Float[Tensor, "subjects heads d_head"]:
        """What other heads' z, added to that input through their rows of W_O, do to this head's z where it attends from."""
        value = self.norm.change_by_heads(resid, z, out, self.value, exact=exact)
        return value * _wide(attention)[:, None, None]


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
    batch: int = BATCH,
) -> Effects:
    """Replace each node's output at END, clean by corrupt, only along node -> final norm -> unembedding (P2.2).

    Both `NodeOutputs` are of END and of all layers; `out_weights` holds each block's `out_weight`. `batch` subjects
    are taken at once: memory is a few times batch x d_model numbers, one layer at a time.
    """

    def push(rows: slice, change: Tensor) -> Tensor:
        return readout.change(clean.resid[rows], change, exact=exact)

    def push_heads(rows: slice, z: Tensor, out: Tensor) -> Tensor:
        return readout.change_by_heads(clean.resid[rows], z, out, exact=exact)

    return _each_node(clean, corrupt, out_weights, push, push_heads, batch)


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
    batch: int = BATCH,
) -> Effects:
    """Replace each node's output at one position only along node -> this head's value -> END -> logits (P2.4).

    Both `NodeOutputs` are of that position (the final name token) and of the layers below the head's own; `attention`
    is the head's clean pattern from END to it, `resid_end` the clean last residual at END.
    """

    def push(rows: slice, change: Tensor) -> Tensor:
        arrived = head.carry(clean.resid[rows], change, attention[rows], exact=exact)
        return readout.change(resid_end[rows], arrived, exact=exact)

    def push_heads(rows: slice, z: Tensor, out: Tensor) -> Tensor:
        arrived = head.values_by_heads(clean.resid[rows], z, out, attention[rows], exact=exact)
        return readout.change_by_heads(resid_end[rows], arrived, head.out[None], exact=exact)

    return _each_node(clean, corrupt, out_weights, push, push_heads, batch)


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
    push_heads: Callable[[slice, Tensor, Tensor], Float[Tensor, "subjects heads tokens"]],
    batch: int,
) -> Effects:
    """`push` the replacement of every node, a batch of subjects and a layer at a time; heads by their z and W_O."""

    def change(name: str, rows: slice, layer: int) -> Tensor:
        return _wide(getattr(corrupt, name)[rows, layer]) - _wide(getattr(clean, name)[rows, layer])

    parts = []
    for start in range(0, len(clean.resid), batch):
        rows = slice(start, start + batch)
        embedding = push(rows, (_wide(corrupt.embedding[rows]) - _wide(clean.embedding[rows]))[:, None])[:, 0]
        nodes = embedding.new_zeros(len(embedding), clean.n_layers, clean.z.shape[2] + 2, embedding.shape[-1])
        for layer in range(clean.n_layers):
            nodes[:, layer, 2:] = push_heads(rows, change("z", rows, layer), _wide(out_weights[layer]))
            for place, name in enumerate(("attn_out", "mlp_out")):
                nodes[:, layer, place] = push(rows, change(name, rows, layer)[:, None])[:, 0]
        parts.append((embedding, nodes))
    embedding, nodes = (torch.cat(values) for values in zip(*parts, strict=True))
    return Effects(
        embedding=embedding, heads=nodes[:, :, 2:], attn_out=nodes[:, :, 0], mlp_out=nodes[:, :, 1]
    )


def _wide(x: Tensor) -> Tensor:
    """Stored activations and weights in half precision are widened to float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _align(x: Tensor, like: Tensor) -> Tensor:
    """`[subjects, last]` with the axes of nodes that `like` has between the two."""
    return x.reshape(len(x), *(1,) * (like.ndim - 2), x.shape[-1])
