"""What each layer writes at the final name token, and what is written there instead (P2.8, P3.1, the circuit's borders).

Replacing what attention or an MLP writes *at* the final name token changes nothing at earlier positions. So one run per
prompt keeps the earlier keys and values, and each simplification costs that token (and, where the answer at END is
wanted, the few after it) through the blocks: `replaced` of the engines. The slow twin is `trace.run` with edits of
`attn_out` and `mlp_out` there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean, prepare
from factfinding.engine.tokens import tokens_of
from factfinding.methods.groups import KINDS, Group, in_batches
from factfinding.model.anatomy import Anatomy

Instead = Mapping[int, Float[Tensor, "batch d_model"]]
"""By layer: what is written instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NameOutputs:
    """What attention and MLP of each layer write at each subject's final name token, and the residual after it."""

    attn: Float[Tensor, "subjects layers d_model"]
    mlp: Float[Tensor, "subjects layers d_model"]
    resid: Float[Tensor, "subjects layers d_model"]

    @cached_property
    def means(self) -> dict[str, list[Float[Tensor, " d_model"]]]:
        """Over the subjects, by layer."""
        return {
            part: [written.mean(0) for written in getattr(self, part).unbind(1)] for part in ("attn", "mlp")
        }

    def instead(
        self,
        part: Literal["attn", "mlp"],
        kind: str,
        layers: Sequence[int],
        rows: Int[np.ndarray, " batch"],
        donors: Int[np.ndarray, " subjects"] | None = None,
    ) -> Instead:
        """By layer: what attention or the MLP of each of `layers` writes under an ablation of `kind`.

        donors: a row for each subject, if it resamples.
        """
        if kind not in KINDS:
            raise ValueError(f"ablation kind {kind!r}; allowed: {KINDS}")
        written, here = getattr(self, part), torch.as_tensor(rows)
        if kind == "zero":
            return {layer: torch.zeros_like(written[here, layer]) for layer in layers}
        if kind == "mean":
            return {layer: self.means[part][layer].expand(len(here), -1) for layer in layers}
        given = torch.as_tensor(donors[rows])
        return {layer: written[given, layer] for layer in layers}


def clean_run(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    group: Group,
    rows: Int[np.ndarray, " batch"],
    *,
    to_end: bool = False,
) -> Clean:
    """Prompts of one layout, run once; up to the final name token, or `to_end`."""
    at = group.layout.final_name
    tokens = tokens_of(prompts, rows, anatomy.device, until=None if to_end else at)
    return prepare(anatomy, tokens, start=at)


@torch.no_grad()
def name_outputs(
    anatomy: Anatomy, prompts: pl.DataFrame, groups: Sequence[Group], *, batch_size: int
) -> NameOutputs:
    """The unchanged outputs of all subjects, in the order of the prompts table; on the CPU."""
    shape = (prompts.height, anatomy.n_layers, anatomy.d_model)
    dtype = torch.promote_types(anatomy.dtype, torch.float32)
    attn, mlp, resid = (torch.empty(shape, dtype=dtype) for _ in range(3))

    def outputs(group: Group, rows: Int[np.ndarray, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
        clean = clean_run(anatomy, prompts, group, rows)
        before, after = (clean.resid[part, :, 0].transpose(0, 1) for part in (slice(-1), slice(1, None)))
        written = clean.attn_out[:, :, 0].transpose(0, 1)
        return written.to(attn), (after - before - written).to(mlp), after.to(resid)

    for rows, found in in_batches(groups, batch_size, outputs):
        attn[rows], mlp[rows], resid[rows] = found
    return NameOutputs(attn=attn, mlp=mlp, resid=resid)
