"""Attention products of many rows: with what the rows of a prompt share, and with what each row has alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Groups:
    """Rows arranged by prompt, so that all rows of a prompt meet its keys and values in one product.

    among: the prompts, in order, of which there may be none among the rows; None: those of the rows.
    """

    def __init__(self, prompt: Int[Tensor, " rows"], among: Int[Tensor, " prompts"] | None = None) -> None:
        self.prompts = prompt.unique() if among is None else among
        owner = torch.searchsorted(self.prompts, prompt)
        counts = owner.bincount(minlength=len(self.prompts))
        self.size = int(counts.max())
        order = owner.argsort(stable=True)
        rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[owner[order]]
        self.slot = torch.empty_like(order).index_copy_(0, order, owner[order] * self.size + rank)
        n_slots = len(self.prompts) * self.size
        self.in_place = torch.equal(self.slot, torch.arange(n_slots, device=order.device))

    def together(self, x: Float[Tensor, "rows ..."]) -> Float[Tensor, "prompts size ..."]:
        """Rows by prompt; prompts with fewer rows than others are filled up with zeros."""
        if not self.in_place:
            x = x.new_zeros(len(self.prompts) * self.size, *x.shape[1:]).index_copy_(0, self.slot, x)
        return x.unflatten(0, (len(self.prompts), self.size))

    def apart(self, x: Float[Tensor, "prompts size ..."]) -> Float[Tensor, "rows ..."]:
        """The inverse of `together`."""
        return x.flatten(0, 1) if self.in_place else x.flatten(0, 1)[self.slot]

    def of(self, shared: Float[Tensor, "all ..."]) -> Float[Tensor, "prompts ..."]:
        """What these prompts have, of something that all prompts of a clean run have."""
        return shared[self.prompts] if len(self.prompts) < len(shared) else shared

    def times(
        self,
        x: Float[Tensor, "rows heads n k"],
        shared: Float[Tensor, "prompts kv_heads k m"],
        matmul=torch.matmul,
    ):
        """x @ shared, `[rows, heads, n, m]`: each prompt's matrix meets all its rows as one tall product."""
        kv_heads, (heads, n) = shared.shape[1], x.shape[1:3]
        tall = self.together(x).unflatten(2, (kv_heads, heads // kv_heads)).transpose(1, 2)
        out = matmul(tall.flatten(2, 4), self.of(shared))
        return self.apart(out.unflatten(2, (self.size, heads // kv_heads, n)).transpose(1, 2).flatten(2, 3))


def own(
    x: Float[Tensor, "rows heads n k"], y: Float[Tensor, "rows kv_heads k m"], matmul=torch.matmul
) -> Tensor:
    """x @ y row by row, heads of x that share keys taken together: `[rows, heads, n, m]`."""
    kv_heads, (heads, n) = y.shape[1], x.shape[1:3]
    return (
        matmul(x.unflatten(1, (kv_heads, heads // kv_heads)).flatten(2, 3), y)
        .unflatten(2, (-1, n))
        .flatten(1, 2)
    )
