"""Changes sent through a model's own wiring.

How a family makes its queries, keys, values and neurons stands in families.py, written for tensors. Here the same lines
are run on changes: `Changed` takes a tensor's place, and `Wired` a module's. A projection maps the change alone and leaves
out its bias, norms and activations are closed forms, and a product of two changed factors (a gate and what it gates)
has its second-order term. So a new family needs nothing here, as long as it is made of these parts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factfinding.engine.closed_forms import ACTIVATIONS
from factfinding.engine.forms import Forms


class Changed:
    """What the clean run has, one for each prompt, and by how much each row changes it: `size` rows for a prompt.

    clean: `[prompts, ...]`, computed only if something asks for it. change: `[prompts * size, ...]`, of as many dimensions.
    """

    def __init__(
        self,
        clean: Callable[[], Float[Tensor, "prompts ..."]],
        change: Float[Tensor, "rows ..."],
        forms: Forms,
    ) -> None:
        self._clean, self.change, self.forms = clean, change, forms

    @cached_property
    def clean(self) -> Float[Tensor, "prompts ..."]:
        """In the model's own precision, whatever that of the products of changes."""
        with self.forms.products.full_settings():
            return self._clean()

    @property
    def apart(self) -> tuple[Float[Tensor, "prompts 1 ..."], Float[Tensor, "prompts size ..."]]:
        """Both with an axis for the rows of a prompt, as `Forms` takes them."""
        return self.clean[:, None], self.change.unflatten(0, (len(self.clean), -1))

    def through(self, clean: Callable[[Tensor], Tensor], change: Tensor) -> Changed:
        """What comes out of a module that makes `clean` of the clean value, and changes by `change`."""
        return Changed(lambda: clean(self.clean), change, self.forms)

    @property
    def shape(self) -> torch.Size:
        return self.change.shape

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> Changed:
        return self._both(lambda x: x.unflatten(dim, sizes))

    def transpose(self, one: int, other: int) -> Changed:
        return self._both(lambda x: x.transpose(one, other))

    def chunk(self, n: int, dim: int) -> list[Changed]:
        return self._parts(lambda x: x.chunk(n, dim))

    def split(self, sizes: tuple[int, ...], dim: int) -> list[Changed]:
        return self._parts(lambda x: x.split(sizes, dim))

    def __mul__(self, other: Changed) -> Changed:
        change = self.forms.product(*self.apart, *other.apart).flatten(0, 1)
        return Changed(lambda: self.clean * other.clean, change, self.forms)

    def _both(self, reshape: Callable[[Tensor], Tensor]) -> Changed:
        """A change of shape that leaves the first dimension alone."""
        return self.through(reshape, reshape(self.change))

    def _parts(self, cut: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Changed]:
        return [self.through(lambda x, i=i: cut(x)[i], part) for i, part in enumerate(cut(self.change))]


class Wired:
    """A block's attention or MLP as its family's wiring sees it, whose parts act on `Changed`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        part = getattr(self._module, name)
        return partial(_moved, part) if isinstance(part, nn.Module) else part


def _moved(module: nn.Module, x: Changed) -> Changed:
    """What comes out of a projection, a norm of heads or an activation."""
    forms = x.forms
    if isinstance(module, nn.Linear | Conv1D):
        return x.through(module, forms.products.linear(module, x.change))
    form = forms.activation if type(module).__name__ in ACTIVATIONS else forms.norm
    return x.through(module, form(module, *x.apart).flatten(0, 1))
