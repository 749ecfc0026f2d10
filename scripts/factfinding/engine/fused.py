"""The forms of `forms` on a GPU, one kernel each, so that between two matrix products memory is crossed once.

Pushed through as plain tensors, a norm, a GELU or a softmax difference is a dozen passes over memory, and they take
longer than the products. Where there is no Triton, or a kernel does not compile on this machine, the plain form serves,
and a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factfinding.engine.clean import Clean
from factfinding.engine.forms import Forms, Rotary
from factfinding.engine.products import Products
from factfinding.engine.suffix import Window
from factfinding.errors import out_of_memory
from factfinding.model.anatomy import Anatomy, Block, causal

try:
    from factfinding.engine import kernels
except ImportError:  # no Triton
    kernels = None

ACTIVATION_KINDS = {
    "GELUActivation": "gelu",
    "GELU": "gelu",
    "NewGELUActivation": "tanh",
    "FastGELUActivation": "tanh",
    "GELUTanh": "tanh",
    "ReLU": "relu",
}
"""The kernel of an activation module, by the name of its class."""


def forms_of(anatomy: Anatomy, products: Products) -> Forms:
    """Fused forms for a float32 model on a GPU with Triton, plain ones anywhere else."""
    if kernels is None or anatomy.device.type != "cuda" or anatomy.dtype != torch.float32:
        return Forms(products)
    return Fused(products)


def _or_plain(fused: Callable) -> Callable:
    """A form whose kernel fails on this machine is done in plain tensors from then on; memory that runs out is not
    such a failure."""
    name = fused.__name__
    plain = getattr(Forms, name)

    @wraps(fused)
    def form(self: Fused, *arguments):
        if name not in self.failed:
            try:
                return fused(self, *arguments)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self.failed.add(name)
                warnings.warn(
                    f"no fused kernel for {name} here, plain tensors instead: {error}", stacklevel=2
                )
        return plain(self, *arguments)

    return form


class Fused(Forms):
    """The forms as kernels. Inputs and results of products come and go in the product's own precision."""

    def __init__(self, products: Products) -> None:
        super().__init__(products)
        self.failed: set[str] = set()  # forms whose kernels do not work here
        self._kept: WeakKeyDictionary[Clean, dict[tuple[str, int], Tensor]] = WeakKeyDictionary()

    @_or_plain
    def norm(self, norm: nn.Module, resid: Tensor, change: Tensor) -> Float[Tensor, "prompts size n d_model"]:
        return kernels.norm(change, resid, norm.weight, norm.eps, self.products.operand)

    @_or_plain
    def activation(
        self, block: Block, w: Window, at: slice, resid: Tensor, moved: Tensor
    ) -> Float[Tensor, "prompts size n d_mlp"]:
        kind = ACTIVATION_KINDS[type(block.mlp_act).__name__]
        before = w.groups.of(self._once("pre", block, w.clean, self._pre))[:, None, at]
        return kernels.activation(kind, before, moved, self.products.operand)

    @_or_plain
    def attention(
        self, block: Block, w: Window, moved: tuple[Tensor, Tensor, Tensor], rotary: Rotary, wanted: int
    ) -> Float[Tensor, "rows wanted d_model"]:
        clean, layer = w.clean, block.index
        if self.products.kind == "full" or not kernels.attention_fits(w.n, w.first, block.d_head):
            # the kernel's products are for matrix units
            return super().attention(block, w, moved, rotary, wanted)
        pattern = w.kept(self._once("pattern", block, clean, self._pattern), 2)[..., : w.last + 1]
        keys, values = (x[layer, :, :, : w.last + 1] for x in (clean.keys, clean.values))
        parts = (w.kept(clean.queries[layer], 2), keys, values, pattern)
        return kernels.attention(
            moved,
            *(w.groups.of(part) for part in parts),
            rotary,
            size=w.groups.size,
            skipped=w.n - wanted,
            scale=block.scale,
            dtype=self.products.operand,
        )

    @_or_plain
    def growth(self, logits: Tensor, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.growth(logits, own, others)

    def _once(self, name: str, block: Block, clean: Clean, find: Callable[[Block, Clean], Tensor]) -> Tensor:
        """Something of a clean run that all batches of its edits use: found once, kept while the run is."""
        kept = self._kept.setdefault(clean, {})
        if (name, block.index) not in kept:
            with self.products.full_settings():
                kept[name, block.index] = find(block, clean)
        return kept[name, block.index]

    def _pre(self, block: Block, clean: Clean) -> Float[Tensor, "prompts kept d_mlp"]:
        resid = clean.resid[block.index]
        mid = resid if block.parallel else resid + clean.attn_out[block.index]
        return block.neurons(block.norm_mlp(mid))[0]

    def _pattern(self, block: Block, clean: Clean) -> Float[Tensor, "prompts heads kept seq"]:
        visible = causal(clean.tokens.shape[1], device=clean.tokens.device)[clean.start :]
        return block.pattern(clean.queries[block.index], clean.keys[block.index], visible)
