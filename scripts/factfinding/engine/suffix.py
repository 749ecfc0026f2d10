"""Exact edits at a fraction of a forward pass.

An edit at layer l and position p changes nothing before p and nothing below l. So the prompts are run once
and what later positions need of them is kept (`clean.prepare`); an edit then runs only the layers above it
and only the positions from p to the one that is read, many edits as rows of one batch:

    clean = prepare(anatomy, tokens, start=final_name)
    edits = edit_neurons(anatomy, clean, layer=3, at=final_name, prompt=prompt, neuron=neuron, value=value)
    change = Suffix(anatomy).effects(clean, edits, LogProbs(at=end, tokens=answers))       # [rows, k]

What else is not computed: keys and values before p are those of the prompt, shared by all its rows and never
copied per row; in the first layer that runs only position p differs, so the other positions keep their
queries, keys and values (and, in a parallel block, their MLP output); in the last layer only the position
that is read is computed.

Everything is written as what an edit *adds* to the residual stream. Adding at `attn_out` (or `z`) runs the
same block's MLP again where the MLP reads the sum (sequential blocks) and does not where it does not
(parallel blocks). The slow twin is `trace.run` with the same `Edit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean, activation
from factfinding.engine.readings import Reading, Resid, clean_values, read
from factfinding.engine.sites import Site
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy, Block, causal


@dataclass(frozen=True, kw_only=True, eq=False)
class Edits:
    """Edits of one layer and position: row i adds `delta[i]` to the residual stream of prompt `prompt[i]`.

    `kind` says where it is added: before the layer (resid_pre), with its attention output, or with its MLP
    output.
    """

    kind: str  # resid_pre, attn_out or mlp_out
    layer: int
    at: int
    prompt: Int[Tensor, " rows"]
    delta: Float[Tensor, "rows d_model"]


@torch.no_grad()
def edit(
    anatomy: Anatomy, clean: Clean, site: Site, *, at: int, prompt: Int[Tensor, " rows"], value: Tensor
) -> Edits:
    """Rows that set a site to `value` (`[rows, ...]`, or what broadcasts to it), as `trace.Edit` does.

    Raises InputError for a site that the model does not have or that is not `EDITABLE`.
    """
    old = activation(anatomy, clean, site, at)[prompt]
    delta = (value.to(old) - old).expand_as(old)
    block, kind = anatomy.blocks[site.layer], site.kind
    if kind == "z":
        heads = slice(None) if site.index is None else slice(site.index, site.index + 1)
        kind, delta = "attn_out", delta.flatten(1) @ block.out_weight[heads].flatten(0, 1)
    elif kind == "post":
        neurons = slice(None) if site.index is None else slice(site.index, site.index + 1)
        kind, delta = "mlp_out", delta @ block.neuron_out[neurons]
    kind = "mlp_out" if kind == "resid_post" else kind
    return Edits(kind=kind, layer=site.layer, at=at, prompt=prompt, delta=delta)


@torch.no_grad()
def edit_neurons(
    anatomy: Anatomy,
    clean: Clean,
    *,
    layer: int,
    at: int,
    prompt: Int[Tensor, " rows"],
    neuron: Int[Tensor, " rows"],
    value: Float[Tensor, " rows"],
) -> Edits:
    """Rows that set one neuron each: row i sets neuron `neuron[i]` of prompt `prompt[i]` to `value[i]`."""
    old = activation(anatomy, clean, Site("post", layer), at)[prompt, neuron]
    delta = (value.to(old) - old)[:, None] * anatomy.blocks[layer].neuron_out[neuron]
    return Edits(kind="mlp_out", layer=layer, at=at, prompt=prompt, delta=delta)


class Groups:
    """Rows arranged by prompt, so that all rows of a prompt meet its keys and values in one product."""

    def __init__(self, prompt: Int[Tensor, " rows"]) -> None:
        self.prompts, owner, counts = prompt.unique(return_inverse=True, return_counts=True)
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

    def times(
        self,
        x: Float[Tensor, "rows heads n k"],
        shared: Float[Tensor, "prompts kv_heads k m"],
        matmul=torch.matmul,
    ):
        """x @ shared, `[rows, heads, n, m]`: each prompt's matrix meets all its rows as one tall product."""
        kv_heads, (heads, n) = shared.shape[1], x.shape[1:3]
        tall = self.together(x).unflatten(2, (kv_heads, heads // kv_heads)).transpose(1, 2)
        out = matmul(tall.flatten(2, 4), shared[self.prompts] if len(self.prompts) < len(shared) else shared)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """The part of the computation that a batch of edits needs: which prompts, positions first..last, in which
    layers.
    """

    clean: Clean
    prompt: Int[Tensor, " rows"]
    groups: Groups
    first: int
    last: int
    layers: range

    @property
    def n(self) -> int:
        return self.last - self.first + 1

    @property
    def visible(self) -> Bool[Tensor, "n n"]:
        return causal(self.n, device=self.prompt.device)

    def kept(self, x: Float[Tensor, "prompts kept ..."], dim: int = 1) -> Tensor:
        """The window's positions of something kept from the clean run's `start` on, for every prompt."""
        return x.narrow(dim, self.first - self.clean.start, self.n)

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """Layers to run: (layer, leading positions that differ from the clean run, trailing positions
        wanted).
        """
        for layer in self.layers:
            changed = 1 if layer == self.layers.start else self.n
            yield layer, changed, 1 if layer == self.layers.stop - 1 else self.n


def window(anatomy: Anatomy, clean: Clean, edits: Edits, reading: Reading) -> Window:
    """What has to run for these edits and this reading. Raises InputError where a reading cannot see the
    edits.
    """
    last_layer = reading.layer if isinstance(reading, Resid) else anatomy.n_layers - 1
    first_layer = edits.layer if edits.kind == "resid_pre" else edits.layer + 1
    n_positions = clean.tokens.shape[1]
    if not clean.start <= edits.at < n_positions:
        raise InputError(
            "edits", f"position {edits.at}", f"{clean.start}-{n_positions - 1}, what the clean run kept"
        )
    if not edits.at <= reading.at < n_positions:
        raise InputError(
            "reading", f"position {reading.at}", f"{edits.at}-{n_positions - 1}: none before the edit"
        )
    if not first_layer - 1 <= last_layer < anatomy.n_layers:
        raise InputError(
            "reading", f"layer {last_layer}", f"{first_layer - 1}-{anatomy.n_layers - 1}: none below the edit"
        )
    return Window(
        clean=clean,
        prompt=edits.prompt,
        groups=Groups(edits.prompt),
        first=edits.at,
        last=reading.at,
        layers=range(first_layer, last_layer + 1),
    )


def untouched(edits: Edits, w: Window) -> Bool[Tensor, " rows"]:
    """Rows that are the clean run: nothing is added, or nothing lies above that could carry it to another
    position.
    """
    return (edits.delta == 0).all(1) | (len(w.layers) == 0 and w.n > 1)


@dataclass(frozen=True)
class Suffix:
    """Edits by running the rest of the model on values, in the model's own precision."""

    anatomy: Anatomy
    name = "suffix"

    @torch.no_grad()
    def values(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """What is read, row by row. A row whose delta is zero is the clean run, exactly."""
        w = window(self.anatomy, clean, edits, reading)
        edited = read(self.anatomy, reading, self._resid(edits, w), edits.prompt)
        before = clean_values(self.anatomy, clean, reading)[edits.prompt]
        return torch.where(untouched(edits, w)[:, None], before, edited)

    @torch.no_grad()
    def effects(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """Change of what is read from the clean run, row by row; exactly zero for a delta of zero."""
        return self.values(clean, edits, reading) - clean_values(self.anatomy, clean, reading)[edits.prompt]

    def _resid(self, edits: Edits, w: Window) -> Float[Tensor, "rows d_model"]:
        """The residual stream that is read, after the edit."""
        clean = w.clean
        resid = w.kept(clean.resid[w.layers.start])[w.prompt]
        if edits.kind == "attn_out" and not self.anatomy.parallel:
            block, i = self.anatomy.blocks[edits.layer], edits.at - clean.start
            mid = (clean.resid[edits.layer, :, i] + clean.attn_out[edits.layer, :, i])[w.prompt] + edits.delta
            resid[:, 0] = mid + block.mlp_out(block.neurons(block.norm_mlp(mid))[1])
        else:
            resid[:, 0] += edits.delta
        positions = torch.arange(w.first, w.last + 1, device=clean.tokens.device)[None]
        rotary = self.anatomy.rotary(positions)
        for layer, changed, wanted in w.steps():
            resid = run_block(self.anatomy.blocks[layer], w, resid, rotary, changed, wanted)
        return resid[:, -1]


def run_block(
    block: Block, w: Window, resid: Float[Tensor, "rows n d_model"], rotary, changed: int, wanted: int
) -> Float[Tensor, "rows wanted d_model"]:
    """One block over the window, of whose positions the first `changed` differ from the clean run's.

    Only the last `wanted` positions of its output are computed.
    """
    clean, layer = w.clean, block.index
    turned = None if rotary is None else tuple(part[:, :changed] for part in rotary)
    q, k, v = block.qkv(block.norm_attn(resid[:, :changed]), turned)
    if changed < w.n:
        kept = (clean.queries[layer], *(x[layer, :, :, clean.start :] for x in (clean.keys, clean.values)))
        rest = (w.kept(x, 2)[w.prompt, :, changed:] for x in kept)
        q, k, v = (torch.cat((x, y), dim=2) for x, y in zip((q, k, v), rest, strict=True))
    z = attend(block, w, q[:, :, w.n - wanted :], k, v)
    attn, resid = block.attn_out(z), resid[:, w.n - wanted :]
    if not block.parallel:
        mid = resid + attn
        return mid + block.mlp_out(block.neurons(block.norm_mlp(mid))[1])
    fresh = max(changed - (w.n - wanted), 0)  # positions where the MLP's input has changed
    mlp = block.mlp_out(block.neurons(block.norm_mlp(resid[:, :fresh]))[1])
    if fresh == wanted:
        return resid + attn + mlp
    after = w.kept(clean.resid[layer + 1] - clean.attn_out[layer])[w.prompt, w.n - wanted + fresh :]
    return torch.cat((resid[:, :fresh] + mlp, after), dim=1) + attn


def attend(
    block: Block, w: Window, q: Tensor, k: Tensor, v: Tensor
) -> Float[Tensor, "rows wanted heads d_head"]:
    """z of the window's last queries: over the prompt's keys before the window, shared by its rows, and their
    own.
    """
    past_k, past_v = (x[block.index, :, :, : w.first] for x in (w.clean.keys, w.clean.values))
    own_scores = own(q, k.transpose(-1, -2)).masked_fill(~w.visible[-q.shape[2] :], torch.finfo(q.dtype).min)
    scores = torch.cat((w.groups.times(q, past_k.transpose(-1, -2)), own_scores), dim=-1) * block.scale
    pattern = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(q.dtype)
    z = w.groups.times(pattern[..., : w.first], past_v) + own(pattern[..., w.first :], v)
    return z.transpose(1, 2)
