"""What stands between the matrix products of a difference run: norm, activation, attention, and the vocabulary's sum.

Here in plain tensors, for any device and precision; `fused` does the same on a GPU, one kernel each. What goes into a
product may come out rounded already, as that product takes it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factfinding.engine.closed_forms import ACTIVATIONS, norm_difference, softmax_difference
from factfinding.engine.groups import own
from factfinding.engine.products import Products
from factfinding.engine.suffix import Window
from factfinding.model.anatomy import Block, rotate

Rotary = tuple[Tensor, Tensor] | None


class Forms:
    """The non-linear parts of a block, for changes of what goes into them."""

    def __init__(self, products: Products) -> None:
        self.products = products

    def norm(
        self,
        norm: nn.Module,
        resid: Float[Tensor, "prompts 1 n d_model"],
        change: Float[Tensor, "prompts size n d_model"],
    ) -> Float[Tensor, "prompts size n d_model"]:
        """Change of a LayerNorm's output, on its way into a product."""
        return norm_difference(resid, change, norm.eps) * norm.weight

    def activation(
        self,
        block: Block,
        w: Window,
        at: slice,
        resid: Float[Tensor, "prompts 1 n d_model"],
        moved: Float[Tensor, "prompts size n d_mlp"],
    ) -> Float[Tensor, "prompts size n d_mlp"]:
        """Change of the neurons' post-activations when their pre-activations change by `moved`.

        `resid` is what the clean run's MLP reads at positions `at`, counted from the clean run's start.
        """
        before, _ = block.neurons(block.norm_mlp(resid))
        return ACTIVATIONS[type(block.mlp_act).__name__](before, moved)

    def attention(
        self, block: Block, w: Window, moved: tuple[Tensor, Tensor, Tensor], rotary: Rotary, wanted: int
    ) -> Float[Tensor, "rows wanted d_model"]:
        """Change of the heads' mixed values, before the output projection: through scores and through values.

        `moved`: the changes of queries, keys and values before rotation, `[rows, heads, changed, d_head]` each, at the
        window's leading positions. `wanted` trailing positions come out.
        """
        clean, prompts, skipped = w.clean, w.groups.prompts, w.n - wanted
        dq, dk, dv = moved
        changed = dq.shape[2]
        if rotary is not None:
            dq, dk = (rotate(x, *(part[:, :changed] for part in rotary)) for x in (dq, dk))
        dq, dk, dv = (nn.functional.pad(x, (0, 0, 0, w.n - changed)) for x in (dq, dk, dv))
        dq = dq[:, :, skipped:]
        q = w.kept(clean.queries[block.index], 2)[prompts, :, skipped:]
        keys, values = (x[block.index, :, :, : w.last + 1] for x in (clean.keys, clean.values))
        hidden = ~torch.cat((w.visible.new_ones(wanted, w.first), w.visible[skipped:]), dim=1)
        before = block.pattern(q, keys[prompts], ~hidden)
        after = (q[:, None] + dq.unflatten(0, (len(prompts), -1))).flatten(0, 1)
        scores = w.groups.times(dq, keys.transpose(-1, -2), self.products)
        scores[..., w.first :] += own(after, dk.transpose(-1, -2), self.products)
        scores = (scores * block.scale).masked_fill_(hidden, 0.0).unflatten(0, (len(prompts), -1))
        change = softmax_difference(before[:, None], scores)
        pattern = (before[:, None] + change)[..., w.first :].flatten(0, 1)
        z = w.groups.times(change.flatten(0, 1), values, self.products) + own(pattern, dv, self.products)
        return z.transpose(1, 2).flatten(2)

    def growth(
        self,
        logits: Float[Tensor, "prompts size piece"],
        own: Float[Tensor, "prompts size k"],
        others: Float[Tensor, "prompts 1 k piece"],
    ) -> tuple[Float[Tensor, "prompts size k"], Float[Tensor, "prompts size k"]]:
        """Sum of others * expm1(logits - own) over a piece of the vocabulary, and the largest logits - own in it."""
        moved = logits[:, :, None] - own[..., None]
        largest = moved.amax(-1)
        return moved.expm1_().mul_(others).sum(-1), largest
