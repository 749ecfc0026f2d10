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
from factfinding.families import Family
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
    "SiLUActivation": "silu",
    "SiLU": "silu",
}
"""The kernel of an activation module, by the name of its class."""


def forms_of(anatomy: Anatomy, products: Products) -> Forms:
    """Fused forms for a float32 model on a GPU with Triton, plain ones anywhere else."""
    if kernels is None or anatomy.device.type != "cuda" or anatomy.dtype != torch.float32:
        return Forms(products, anatomy.family)
    return Fused(products, anatomy.family)


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

    def __init__(self, products: Products, family: Family) -> None:
        super().__init__(products, family)
        self.failed: set[str] = set()  # forms whose kernels do not work here
        self._kept: WeakKeyDictionary[Clean, dict[tuple[str, int], Tensor]] = WeakKeyDictionary()

    @_or_plain
    def norm(self, module: nn.Module, before: Tensor, moved: Tensor) -> Float[Tensor, "prompts size *n d"]:
        if moved.ndim != 4:  # of each head's queries or keys: the kernel is for the residual stream
            return super().norm(module, before, moved)
        norm = self.norm_of(module)
        return kernels.norm(moved, before, norm.weight, norm.eps, self.products.operand, centred=norm.centred)

    @_or_plain
    def activation(
        self, module: nn.Module, before: Tensor, moved: Tensor
    ) -> Float[Tensor, "prompts size n d_mlp"]:
        kind = ACTIVATION_KINDS[type(module).__name__]
        return kernels.activation(kind, before, moved, self.products.operand)

    @_or_plain
    def product(self, x: Tensor, dx: Tensor, y: Tensor, dy: Tensor) -> Float[Tensor, "prompts size n d_mlp"]:
        return kernels.product(x, dx, y, dy, self.products.operand)

    @_or_plain
    def attention(
        self, block: Block, w: Window, moved: tuple[Tensor, Tensor, Tensor], rotary: Rotary, wanted: int
    ) -> Float[Tensor, "rows wanted d_model"]:
        clean, layer = w.clean, block.index
        fits = kernels.attention_fits(w.n, w.first, block.d_head)
        if self.products.kind == "full" or not fits or self.family.rotated != "halves":
            # the kernel's products are for matrix units, and it turns a head's halves
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

    def _pattern(self, block: Block, clean: Clean) -> Float[Tensor, "prompts heads kept seq"]:
        visible = causal(clean.tokens.shape[1], device=clean.tokens.device)[clean.start :]
        return block.pattern(clean.queries[block.index], clean.keys[block.index], visible)
