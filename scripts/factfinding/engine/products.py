"""Matrix products in full precision, TF32 or bfloat16, with sums in full: on a GPU's matrix units, or their numbers
anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factfinding.errors import InputError, out_of_memory
from factfinding.model.anatomy import weight_in_out

PRODUCTS = ("full", "tf32", "bfloat16")


class Products:
    """Matrix products whose inputs are rounded as asked and whose sums are kept in full.

    `full`: the model's own precision. `tf32` and `bfloat16`: on a GPU the matrix units do it (bfloat16
    inputs, float32 sums and results). A CPU without such units gives the same numbers, up to the order of the
    sums, from inputs that are rounded first and multiplied in float32, so precision can be tried anywhere; it
    is not faster there.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        if kind not in PRODUCTS:
            raise InputError("product", repr(kind), ", ".join(PRODUCTS))
        self.kind, self.on_gpu = kind, device.type == "cuda"
        self._weights: dict[nn.Module, Tensor] = {}
        self._sums = self.on_gpu  # whether products add to what is there

    @property
    def operand(self) -> torch.dtype:
        """What a float32 model's products take in."""
        return torch.bfloat16 if self.kind == "bfloat16" and self.on_gpu else torch.float32

    def round(self, x: Tensor) -> Tensor:
        """x as the matrix unit takes it in."""
        if self.kind == "bfloat16":
            return x.bfloat16() if self.on_gpu else x.bfloat16().to(x.dtype)
        return _ten_bits(x) if self.kind == "tf32" and not self.on_gpu else x

    def linear(
        self, module: nn.Module, x: Float[Tensor, "... d_in"], part: slice = slice(None)
    ) -> Float[Tensor, "... d_out"]:
        """A projection (or some of its outputs) without its bias, which a difference does not see; its rounded
        weight is kept.
        """
        x, weight = self.round(x), self._weight(module)[:, part]
        if x.dtype == weight.dtype != torch.bfloat16:
            return x @ weight
        return torch.mm(x.flatten(0, -2), weight, out_dtype=torch.float32).unflatten(0, x.shape[:-1])

    def add_linear(
        self, total: Float[Tensor, "... d_out"], module: nn.Module, x: Float[Tensor, "... d_in"]
    ) -> None:
        """`linear` added to `total` in place; on a GPU by the product itself, which saves passes over memory."""
        if not (self._sums and total.is_contiguous() and self._summed(total, module, x)):
            total += self.linear(module, x)

    def _summed(self, total: Tensor, module: nn.Module, x: Tensor) -> bool:
        """Whether the library's product took the sum over."""
        rows, x, weight = total.view(-1, total.shape[-1]), self.round(x).flatten(0, -2), self._weight(module)
        try:
            if x.dtype == rows.dtype:
                torch.addmm(rows, x, weight, out=rows)
            else:
                torch.addmm(rows, x, weight, out_dtype=rows.dtype, out=rows)
        except (RuntimeError, TypeError) as error:
            # older versions sum in the precision of what they multiply, or not at all
            if out_of_memory(error):
                raise
            self._sums = False
        return self._sums

    def _weight(self, module: nn.Module) -> Float[Tensor, "d_in d_out"]:
        if module not in self._weights:
            self._weights[module] = self.round(weight_in_out(module))
        return self._weights[module]

    def __call__(self, x: Float[Tensor, "... n k"], y: Float[Tensor, "... k m"]) -> Float[Tensor, "... n m"]:
        """Many small products. bfloat16 numbers are multiplied in float32, which gives the matrix units' results: for
        batches of bfloat16 with float32 results the library has nothing faster.
        """
        return self.round(x).to(x.dtype) @ self.round(y).to(x.dtype)

    def settings(self) -> AbstractContextManager[None]:
        """TF32 switched on for a GPU's float32 products, and off again."""
        return _float32_products("high" if self.kind == "tf32" else "highest", self.on_gpu)

    def full_settings(self) -> AbstractContextManager[None]:
        """Float32 products in full for a while: for what belongs to the clean run."""
        return _float32_products("highest", self.on_gpu)


@contextmanager
def _float32_products(precision: str, on_gpu: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    try:
        if on_gpu:
            torch.set_float32_matmul_precision(precision)
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _ten_bits(x: Tensor) -> Tensor:
    """float32 rounded to TF32's ten bits of mantissa (halves away from zero)."""
    bits = x.float().contiguous().view(torch.int32)
    return (((bits + (1 << 12)) >> 13) << 13).view(torch.float32).to(x.dtype)
