"""Record and edit any site during a model's own forward pass, by hooks that are always removed.

This is the plain way to do it, and the slow twin of every faster path in the engine: whole prompts, the model's own
code, nothing left out. A run takes prompts of one length (nothing is padded), reads and edits, and gives back the
logits at one position of each prompt and what was read:

    clean = run(anatomy, tokens, logits_at=end, reads=[Read(site=Site("mlp_out", 3), at=final_name)])
    edit = Edit(site=Site("mlp_out", 3), at=final_name, value=clean.values[0].mean(0))     # mean ablation
    ablated = run(anatomy, tokens, logits_at=end, edits=[edit])

Zero, mean and resample ablation and patching differ only in the value given. `Knockout` cuts attention edges before
the softmax (the rest of the pattern is renormalised); an `Edit` of a `pattern` sets the pattern itself and leaves the
values as they are, so it freezes attention. Edits of one site are made in the order given, and reads of a site see
the values after all edits. Gradients flow through edits when `grad=True`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.sites import Site, check
from factfinding.model.anatomy import Anatomy, repeat_heads

Positions = Int[Tensor, " batch"] | Int[Tensor, "batch k"] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What to record: a site, and the positions where (one per prompt, several per prompt, or None for all)."""

    site: Site
    at: Positions = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """What to replace: a site at positions, by `value`, which broadcasts to what a `Read` of it would give."""

    site: Site
    value: Float[Tensor, ...]
    at: Positions = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Knockout:
    """Attention edges to cut in one layer: no query position sees any key position; `head` None cuts all heads."""

    layer: int
    queries: Int[Tensor, "batch q"]
    keys: Int[Tensor, "batch k"]
    head: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """Logits `[batch, d_vocab]` at the positions asked for (None if none were), and values aligned with the reads."""

    logits: Float[Tensor, "batch d_vocab"] | None
    values: list[Tensor]


def run(
    anatomy: Anatomy,
    tokens: Int[Tensor, "batch seq"],
    *,
    logits_at: Int[Tensor, " batch"] | None = None,
    reads: Sequence[Read] = (),
    edits: Sequence[Edit] = (),
    knockouts: Sequence[Knockout] = (),
    grad: bool = False,
) -> Run:
    """One forward pass with reads and edits. Raises InputError for a site that the model does not have, and for a prompt that
    is too long for it or for its guards (`Anatomy.guard`)."""
    anatomy.guard(tokens.shape[1])
    for wanted in (*reads, *edits):
        check(wanted.site, anatomy)
    values: dict[int, Tensor] = {}
    with torch.set_grad_enabled(grad), hooked(anatomy, tokens, reads, edits, knockouts, values):
        normed = anatomy.body(input_ids=tokens, use_cache=False).last_hidden_state
        logits = None if logits_at is None else anatomy.unembed(pick(normed, logits_at))
    return Run(logits=logits, values=[values[i] for i in range(len(reads))])


def pick(x: Float[Tensor, "batch seq ..."], at: Positions) -> Tensor:
    """x at positions: `[batch, ...]` for one position per prompt, `[batch, k, ...]` for several, x itself for None."""
    if at is None:
        return x
    rows = torch.arange(len(x), device=x.device)
    return x[rows, at] if at.ndim == 1 else x[rows[:, None], at]


def put(x: Float[Tensor, "batch seq ..."], at: Positions, value: Tensor) -> Tensor:
    """A copy of x with `value` at positions: the inverse of `pick`. x itself is not touched."""
    value = value.to(dtype=x.dtype, device=x.device)
    if at is None:
        return value.expand_as(x)
    rows = torch.arange(len(x), device=x.device)
    index = (rows, at) if at.ndim == 1 else (rows[:, None], at)
    return x.index_put(index, value.expand_as(x[index]))


@contextmanager
def hooked(
    anatomy: Anatomy,
    tokens: Tensor,
    reads: Sequence[Read],
    edits: Sequence[Edit],
    knockouts: Sequence[Knockout],
    values: dict[int, Tensor],
) -> Iterator[None]:
    """All hooks of a run, removed however it ends. Values read go to `values`, by the index of the read."""
    handles = []
    try:
        # masks first: a pattern that is read or edited is the one under the mask
        for layer in sorted({cut.layer for cut in knockouts}):
            cuts = [cut for cut in knockouts if cut.layer == layer]
            handles.append(_hook_mask(anatomy, layer, tokens, cuts))
        for place in sorted({(wanted.site.kind, wanted.site.layer) for wanted in (*reads, *edits)}):
            here = [(i, r) for i, r in enumerate(reads) if (r.site.kind, r.site.layer) == place]
            changes = [e for e in edits if (e.site.kind, e.site.layer) == place]
            handles += _hook(anatomy, *place, _shaped(_visit(here, changes, values), tokens.shape))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _visit(reads, edits, values) -> Callable[[Tensor], Tensor]:
    """What is done with one site's activation `[batch, seq, ...]` as it passes: edit, then read."""

    def visit(x: Tensor) -> Tensor:
        for edit in edits:
            index = edit.site.index
            if index is None:
                x = put(x, edit.at, edit.value)
            else:  # one head or neuron: the others at that position stay as they are
                unit = put(x[:, :, index : index + 1], edit.at, _with_unit_axis(edit))
                x = torch.cat((x[:, :, :index], unit, x[:, :, index + 1 :]), dim=2)
        for i, read in reads:
            index = read.site.index
            seen = pick(x if index is None else x[:, :, index : index + 1], read.at)
            values[i] = seen.squeeze(seen.ndim - 2) if index is not None and read.site.kind == "z" else seen
        return x

    return visit


def _shaped(visit: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """The visit, of modules too that are given all positions of all prompts in one row."""

    def visit_shaped(x: Tensor) -> Tensor:
        return visit(x) if x.ndim > 2 else visit(x.view(*shape, -1)).view(x.shape)

    return visit_shaped


def _with_unit_axis(edit: Edit) -> Tensor:
    """A head's value `[..., d_head]` gets the axis of heads back; a neuron's `[..., 1]` and a pattern's have it."""
    return edit.value.unsqueeze(-2) if edit.site.kind == "z" else edit.value


def _hook(anatomy: Anatomy, kind: str, layer: int, visit: Callable[[Tensor], Tensor]) -> list:
    block = anatomy.blocks[layer]

    def on_input(_module, args):
        return (visit(args[0]), *args[1:])

    def on_output(_module, _args, out):
        if isinstance(out, tuple):
            return (visit(out[0]), *out[1:])
        return visit(out).clone()  # what was read must not change where the model adds to its output in place

    def on_heads(_module, args):
        return (visit(args[0].unflatten(-1, (-1, anatomy.d_head))).flatten(-2), *args[1:])

    if kind == "pattern":
        return _hook_pattern(anatomy, layer, visit)
    if kind == "z":
        return [block.out_proj.register_forward_pre_hook(on_heads)]
    on_inputs = {"resid_pre": block.module, "pre": block.mlp_act, "post": block.mlp_out}
    if kind in on_inputs:
        return [on_inputs[kind].register_forward_pre_hook(on_input)]
    on_outputs = {"resid_post": block.module, "attn_out": block.out_proj, "mlp_out": block.mlp_out}
    return [on_outputs[kind].register_forward_hook(on_output)]


def _hook_pattern(anatomy: Anatomy, layer: int, visit: Callable[[Tensor], Tensor]) -> list:
    """Patterns arise inside the attention function, so they are made again from what goes in and comes out of it.

    The values are caught where they are projected; queries and keys are projected again from the normed residual.
    z is replaced only if the visit changed the pattern, so that reading changes nothing.
    """
    block, caught = anatomy.blocks[layer], {}

    def catch_inputs(_module, args, kwargs):
        normed = args[0] if args else kwargs["hidden_states"]
        caught.update(normed=normed, mask=kwargs.get("attention_mask"))

    def replace_z(_module, args):
        positions = torch.arange(caught["normed"].shape[1], device=anatomy.device)[None]
        q, k, v = block.qkv(caught["normed"], anatomy.rotary(positions))
        mask, visible = caught["mask"], anatomy.visible(q.shape[2])
        if mask is not None:
            visible = mask > torch.finfo(mask.dtype).min / 2
        before = block.pattern(q, k, visible).transpose(1, 2)  # [batch, query, head, key]: positions second
        after = visit(before)
        if after is before:
            return None
        z = after.transpose(1, 2) @ repeat_heads(v, q.shape[1])
        return (z.transpose(1, 2).flatten(-2), *args[1:])

    return [
        block.attn.register_forward_pre_hook(catch_inputs, with_kwargs=True),
        block.out_proj.register_forward_pre_hook(replace_z),
    ]


def _hook_mask(anatomy: Anatomy, layer: int, tokens: Tensor, cuts: Sequence[Knockout]):
    """Attention knockout: the cut edges are closed in the mask that the attention is given."""
    batch, n = tokens.shape
    lowest = torch.finfo(anatomy.dtype).min
    closed = torch.zeros(batch, anatomy.n_heads, n, n, dtype=torch.bool, device=tokens.device)
    rows = torch.arange(batch, device=tokens.device)[:, None, None]
    for cut in cuts:
        heads = slice(None) if cut.head is None else slice(cut.head, cut.head + 1)
        edges = torch.zeros(batch, n, n, dtype=torch.bool, device=tokens.device)
        edges[rows, cut.queries[:, :, None], cut.keys[:, None, :]] = True
        closed[:, heads] |= edges[:, None]
    closed |= ~anatomy.visible(n)
    if bool(closed.all(-1).any()):
        raise ValueError(f"layer {layer}: a knockout leaves a query position no key to see")
    mask = torch.zeros(closed.shape, dtype=anatomy.dtype, device=tokens.device).masked_fill_(closed, lowest)

    def set_mask(_module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask}

    return anatomy.blocks[layer].attn.register_forward_pre_hook(set_mask, with_kwargs=True)
