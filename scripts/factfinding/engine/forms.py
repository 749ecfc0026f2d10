"""What stands between the matrix products of a difference run: norm, activation, attention, and the vocabulary's sum.

Here in plain tensors, for any device and precision; `fused` does the same on a GPU, one kernel each. What goes into a
product may come out rounded already, as that product takes it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factfinding.engine.closed_forms import (
    ACTIVATIONS,
    norm_difference,
    product_difference,
    softmax_difference,
)
from factfinding.engine.direct import Norm
from factfinding.engine.groups import own
from factfinding.engine.products import Products
from factfinding.engine.suffix import Window
from factfinding.families import Family
from factfinding.model.anatomy import Block, rotate

Rotary = tuple[Tensor, Tensor] | None


class Forms:
    """The non-linear parts of a block, for changes of what goes into them."""

    def __init__(self, products: Products, family: Family) -> None:
        self.products, self.family = products, family
        self._norms: dict[nn.Module, Norm] = {}

    def norm_of(self, module: nn.Module) -> Norm:
        """What a norm computes: centred or not, its weight as it is multiplied by."""
        if module not in self._norms:
            self._norms[module] = Norm.of(module, self.family)
        return self._norms[module]

    def norm(
        self,
        module: nn.Module,
        before: Float[Tensor, "prompts 1 *n d"],
        moved: Float[Tensor, "prompts size *n d"],
    ) -> Float[Tensor, "prompts size *n d"]:
        """Change of a norm's output when its input `before` changes by `moved`, on its way into a product."""
        norm = self.norm_of(module)
        return norm_difference(before, moved, norm.eps, centred=norm.centred) * norm.weight

    def activation(
        self,
        module: nn.Module,
        before: Float[Tensor, "prompts 1 n d_mlp"],
        moved: Float[Tensor, "prompts size n d_mlp"],
    ) -> Float[Tensor, "prompts size n d_mlp"]:
        """Change of an activation when its input `before` changes by `moved`."""
        return ACTIVATIONS[type(module).__name__](before, moved)

    def product(
        self,
        x: Float[Tensor, "prompts 1 n d_mlp"],
        dx: Float[Tensor, "prompts size n d_mlp"],
        y: Float[Tensor, "prompts 1 n d_mlp"],
        dy: Float[Tensor, "prompts size n d_mlp"],
    ) -> Float[Tensor, "prompts size n d_mlp"]:
        """Change of x y, neuron by neuron, when x changes by dx and y by dy."""
        return product_difference(x, dx, y, dy)

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
            turned = tuple(part[:, :changed] for part in rotary)
            dq, dk = (rotate(x, *turned, rotated=self.family.rotated) for x in (dq, dk))
        dq, dk, dv = (nn.functional.pad(x, (0, 0, 0, w.n - changed)) for x in (dq, dk, dv))
        dq = dq[:, :, skipped:]
        q = w.kept(clean.queries[block.index], 2)[prompts, :, skipped:]
        keys, values = (x[block.index, :, :, : w.last + 1] for x in (clean.keys, clean.values))
        hidden = ~torch.cat((w.visible.new_ones(wanted, w.first), w.visible[skipped:]), dim=1)
        with self.products.full_settings():
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
