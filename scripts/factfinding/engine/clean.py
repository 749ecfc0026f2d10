"""A clean run of prompts, kept once: what edits need of it, and the values of its sites.

The prompts of a run have one length (nothing is padded). Kept are each layer's keys and values at all
positions, and from position `start` on the residual stream, the attention outputs and the queries: enough to
enter any layer at any of those positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.sites import Site, check
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy, position_ids

EDITABLE = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "post")


@dataclass(frozen=True, kw_only=True, eq=False)
class Clean:
    """A clean run of prompts of one length: what edits from position `start` on need of it. `kept` = seq -
    start.
    """

    tokens: Int[Tensor, "prompts seq"]
    start: int
    resid: Float[Tensor, "layers+1 prompts kept d_model"]  # before each layer, and after the last
    attn_out: Float[Tensor, "layers prompts kept d_model"]
    queries: Float[Tensor, "layers prompts heads kept d_head"]
    keys: Float[Tensor, "layers prompts kv_heads seq d_head"]
    values: Float[Tensor, "layers prompts kv_heads seq d_head"]


@torch.no_grad()
def prepare(anatomy: Anatomy, tokens: Int[Tensor, "prompts seq"], *, start: int = 0) -> Clean:
    """Run prompts of one length once and keep what edits at positions >= `start` need."""
    if not 0 <= start < tokens.shape[1]:
        raise InputError(
            "start", f"position {start}", f"0-{tokens.shape[1] - 1}, the positions of these prompts"
        )
    tokens = tokens.to(anatomy.device)
    anatomy.guard(tokens.shape[1])
    resid, rotary = anatomy.embed(tokens), anatomy.rotary(position_ids(tokens))
    visible = anatomy.visible(tokens.shape[1])
    kept = {name: [] for name in ("resid", "attn_out", "queries", "keys", "values")}
    for block in anatomy.blocks:
        q, k, v = block.qkv(block.norm_attn(resid), rotary)
        attn = block.attn_out(block.mix(block.pattern(q, k, visible), v))
        mid = resid if block.parallel else resid + attn
        for name, value in (
            ("resid", resid[:, start:]),
            ("attn_out", attn[:, start:]),
            ("queries", q[:, :, start:]),
        ):
            kept[name].append(value)
        kept["keys"].append(k)
        kept["values"].append(v)
        resid = resid + attn + block.looked_up(mid)
    kept["resid"].append(resid[:, start:])
    return Clean(tokens=tokens, start=start, **{name: torch.stack(value) for name, value in kept.items()})


@torch.no_grad()
def activation(anatomy: Anatomy, clean: Clean, site: Site, at: int) -> Float[Tensor, "prompts ..."]:
    """The clean run's value of an editable site at a position, for every prompt; shapes as `trace.Read` gives
    them.
    """
    check(site, anatomy)
    if site.kind not in EDITABLE:
        raise InputError(
            site, f"kind {site.kind!r}", f"{', '.join(EDITABLE)} (others are edited by trace.run)"
        )
    block, layer, i = anatomy.blocks[site.layer], site.layer, at - clean.start
    resid, attn = clean.resid[layer, :, i], clean.attn_out[layer, :, i]
    mid = resid if block.parallel else resid + attn
    match site.kind:
        case "resid_pre" | "resid_post":
            return clean.resid[layer + (site.kind == "resid_post"), :, i]
        case "attn_out":
            return attn
        case "mlp_out":
            return block.looked_up(mid)
        case "post":
            whole = block.posts(mid)
            return whole if site.index is None else whole[:, site.index : site.index + 1]
    seen = torch.ones(1, at + 1, dtype=torch.bool, device=resid.device)
    keys, values = clean.keys[layer, :, :, : at + 1], clean.values[layer, :, :, : at + 1]
    z = block.mix(block.pattern(clean.queries[layer, :, :, i : i + 1], keys, seen), values)[:, 0]
    return z if site.index is None else z[:, site.index]
