"""The residual stream from the final name token on, with outputs of that token's own layers replaced (P2.8).

Replacing what attention or an MLP writes *at* the final name token changes nothing at earlier positions. So one run per
prompt keeps the earlier keys and values, and each simplification costs that token (and, where the answer at END is
wanted, the few after it) through the blocks. The slow twin is `trace.run` with edits of `attn_out` and `mlp_out` there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean, prepare
from factfinding.engine.tokens import tokens_of
from factfinding.methods.groups import KINDS, Group, in_batches
from factfinding.model.anatomy import Anatomy, causal

Replaced = Mapping[int, Float[Tensor, "batch d_model"]]
"""By layer: what is written instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NameOutputs:
    """What attention and MLP of each layer write at each subject's final name token, and the residual after it."""

    attn: Float[Tensor, "subjects layers d_model"]
    mlp: Float[Tensor, "subjects layers d_model"]
    resid: Float[Tensor, "subjects layers d_model"]


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


@torch.no_grad()
def name_stream(
    anatomy: Anatomy, clean: Clean, *, attn: Replaced | None = None, mlp: Replaced | None = None
) -> Float[Tensor, "batch layers positions d_model"]:
    """resid_post of every layer from the final name token on, with outputs replaced at that token.

    `clean`: from `clean_run`; its last position is the last one here.
    """
    attn, mlp, start = attn or {}, mlp or {}, clean.start
    n, device = clean.tokens.shape[1], clean.tokens.device
    rotary = anatomy.rotary(torch.arange(start, n, device=device)[None])
    visible = causal(n, device=device)[start:]
    resid, found = clean.resid[0], []
    for block in anatomy.blocks:
        q, k, v = block.qkv(block.norm_attn(resid), rotary)
        k, v = (
            torch.cat((kept[block.index, :, :, :start], own), dim=2)
            for kept, own in ((clean.keys, k), (clean.values, v))
        )
        written = _put(block.attn_out(block.mix(block.pattern(q, k, visible), v)), attn.get(block.index))
        mid = resid if block.parallel else resid + written
        looked_up = _put(block.looked_up(mid), mlp.get(block.index))
        resid = resid + written + looked_up
        found.append(resid)
    return torch.stack(found, dim=1)


def _put(written: Float[Tensor, "batch positions d_model"], value: Tensor | None) -> Tensor:
    """`value` in place of what is written at the first position."""
    return written if value is None else torch.cat((value.to(written)[:, None], written[:, 1:]), dim=1)


def replaced(
    outputs: Float[Tensor, "subjects layers d_model"],
    kind: str,
    layers: Sequence[int],
    rows: Int[np.ndarray, " batch"],
    donors: Int[np.ndarray, " subjects"] | None,
) -> dict[int, Float[Tensor, "batch d_model"]]:
    """What each of `layers` writes under an ablation of `kind`. `donors`: a row for each subject, if it resamples."""
    if kind not in KINDS:
        raise ValueError(f"ablation kind {kind!r}; allowed: {KINDS}")
    here = torch.as_tensor(rows)
    if kind == "zero":
        return {layer: torch.zeros_like(outputs[here, layer]) for layer in layers}
    if kind == "mean":
        return {layer: outputs[:, layer].mean(0).expand(len(here), -1) for layer in layers}
    given = torch.as_tensor(donors[rows])
    return {layer: outputs[given, layer] for layer in layers}
