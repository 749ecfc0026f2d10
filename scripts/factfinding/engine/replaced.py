"""Outputs of several layers replaced at once, at one position: what each row writes there instead.

An edit (`suffix.Edits`) adds to the residual stream once. Here attention and MLPs of any layers write something else at
the first position that a clean run keeps, whatever they read by then, and all other parts run on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """What some rows write instead."""

    rows: Int[Tensor, " some"]
    value: Float[Tensor, "some d_model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Replaced:
    """Row i is a run of prompt `prompt[i]`. attn, mlp: by layer, the rows in which its output is another, and that."""

    prompt: Int[Tensor, " rows"]
    attn: Mapping[int, Written] = field(default_factory=dict)
    mlp: Mapping[int, Written] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        prompt: Int[Tensor, " rows"],
        *,
        attn: Mapping[int, Float[Tensor, "rows d_model"]] | None = None,
        mlp: Mapping[int, Float[Tensor, "rows d_model"]] | None = None,
    ) -> Replaced:
        """The same layers replaced in every row."""
        every = torch.arange(len(prompt), device=prompt.device)
        attn, mlp = (
            {layer: Written(rows=every, value=value) for layer, value in (given or {}).items()}
            for given in (attn, mlp)
        )
        return cls(prompt=prompt, attn=attn, mlp=mlp)

    @classmethod
    def joined(cls, many: Sequence[Replaced]) -> Replaced:
        """The rows of all, one after another."""
        starts = torch.tensor([0, *(len(one.prompt) for one in many)]).cumsum(0).tolist()
        parts = {name: _joined([getattr(one, name) for one in many], starts) for name in ("attn", "mlp")}
        return cls(prompt=torch.cat([one.prompt for one in many]), **parts)

    def take(self, row: int) -> Replaced:
        """One of the rows."""
        return Replaced(prompt=self.prompt[row : row + 1], attn=_of(self.attn, row), mlp=_of(self.mlp, row))

    @property
    def layers(self) -> list[int]:
        """Where something is replaced, in any row."""
        return sorted({*self.attn, *self.mlp})


def _joined(parts: Sequence[Mapping[int, Written]], starts: Sequence[int]) -> dict[int, Written]:
    found: dict[int, list[Written]] = {}
    for part, start in zip(parts, starts, strict=False):  # the last start is the number of all rows
        for layer, written in part.items():
            found.setdefault(layer, []).append(Written(rows=written.rows + start, value=written.value))
    return {
        layer: Written(
            rows=torch.cat([one.rows for one in some]), value=torch.cat([one.value for one in some])
        )
        for layer, some in found.items()
    }


def _of(parts: Mapping[int, Written], row: int) -> dict[int, Written]:
    found = {}
    for layer, written in parts.items():
        here = written.rows == row
        if bool(here.any()):
            value = written.value[here.to(written.value.device)]
            found[layer] = Written(rows=torch.zeros_like(written.rows[here]), value=value)
    return found
