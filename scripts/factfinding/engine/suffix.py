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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean, activation
from factfinding.engine.groups import Groups, own
from factfinding.engine.readings import Reading, clean_values, layer_of, read
from factfinding.engine.replaced import Replaced, Written
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

    @property
    def enters(self) -> int:
        """The first layer that has to run."""
        return self.layer if self.kind == "resid_pre" else self.layer + 1

    def take(self, rows: Tensor | slice) -> Edits:
        """Some of the rows."""
        return replace(self, prompt=self.prompt[rows], delta=self.delta[rows])


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
    def positions(self) -> Int[Tensor, "1 n"]:
        return torch.arange(self.first, self.last + 1, device=self.prompt.device)[None]

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
    last_layer = layer_of(anatomy, reading)
    n_positions = clean.tokens.shape[1]
    if not clean.start <= edits.at < n_positions:
        raise InputError(
            "edits", f"position {edits.at}", f"{clean.start}-{n_positions - 1}, what the clean run kept"
        )
    if not edits.at <= reading.at < n_positions:
        raise InputError(
            "reading", f"position {reading.at}", f"{edits.at}-{n_positions - 1}: none before the edit"
        )
    if not edits.enters - 1 <= last_layer < anatomy.n_layers:
        raise InputError(
            "reading",
            f"layer {last_layer}",
            f"{edits.enters - 1}-{anatomy.n_layers - 1}: none below the edit",
        )
    return Window(
        clean=clean,
        prompt=edits.prompt,
        groups=Groups(edits.prompt),
        first=edits.at,
        last=reading.at,
        layers=range(edits.enters, last_layer + 1),
    )


def whole_window(anatomy: Anatomy, clean: Clean, outputs: Replaced) -> Window:
    """What has to run with outputs replaced: everything that the clean run keeps, from the first replaced layer on."""
    first = min(outputs.layers, default=anatomy.n_layers)
    return Window(
        clean=clean,
        prompt=outputs.prompt,
        groups=Groups(outputs.prompt),
        first=clean.start,
        last=clean.tokens.shape[1] - 1,
        layers=range(first, anatomy.n_layers),
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
        return self._both(clean, [edits], reading)[1]

    @torch.no_grad()
    def effects(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """Change of what is read from the clean run, row by row; exactly zero for a delta of zero."""
        before, edited = self._both(clean, [edits], reading)
        return edited - before

    @torch.no_grad()
    def joint_effects(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]:
        """`effects` of edits of any layers at one position, in one pass: rows join the batch at their layer."""
        return [edited - before for before, edited in zip(*self._jointly(clean, many, reading), strict=True)]

    @torch.no_grad()
    def added_effects(
        self,
        clean: Clean,
        added: Mapping[int, Float[Tensor, "rows d_model"]],
        reading: Reading,
        *,
        at: int,
        prompt: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows k"]:
        """Change of what is read when the MLPs of several layers write more at one position: in row i, each of the layers
        adds `added[layer][i]` to whatever its MLP writes there by then."""
        first = min(added)
        edits = Edits(kind="mlp_out", layer=first, at=at, prompt=prompt, delta=added[first])
        w = window(self.anatomy, clean, edits, reading)
        rotary = self.anatomy.rotary(w.positions)
        resid = self._start(edits, w)
        for layer, changed, wanted in w.steps():
            resid = run_block(self.anatomy.blocks[layer], w, resid, rotary, changed, wanted)
            if layer in added and wanted == w.n:
                resid = torch.cat((resid[:, :1] + added[layer][:, None], resid[:, 1:]), dim=1)
        before = clean_values(self.anatomy, clean, reading)[prompt]
        return read(self.anatomy, reading, resid[:, -1], prompt) - before

    @torch.no_grad()
    def joint_values(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]:
        """`values` of edits of any layers at one position, in one pass: rows join the batch at their layer."""
        return self._jointly(clean, many, reading)[1]

    @torch.no_grad()
    def replaced(
        self, clean: Clean, outputs: Replaced, readings: Sequence[Reading]
    ) -> list[Float[Tensor, "rows k"]]:
        """What each of the readings sees, row by row, with outputs of several layers replaced at `clean.start`."""
        w, found = whole_window(self.anatomy, clean, outputs), {}
        rotary = self.anatomy.rotary(w.positions)
        resid = w.kept(clean.resid[w.layers.start])[w.prompt]
        for layer in range(-1, self.anatomy.n_layers):
            if layer in w.layers:
                block = self.anatomy.blocks[layer]
                z = attend(block, w, *block.qkv(block.norm_attn(resid), rotary))
                attn = _put(block.attn_out(z), outputs.attn.get(layer))
                mid = resid if block.parallel else resid + attn
                resid = resid + attn + _put(block.looked_up(mid), outputs.mlp.get(layer))
            for i, reading in enumerate(readings):
                if layer_of(self.anatomy, reading) != layer:
                    continue
                if layer in w.layers:
                    here = resid[:, reading.at - clean.start]
                    found[i] = read(self.anatomy, reading, here, w.prompt)
                else:  # below what is replaced
                    found[i] = clean_values(self.anatomy, clean, reading)[w.prompt]
        return [found[i] for i in range(len(readings))]

    def _jointly(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What is read before and after each of the edits."""
        order = sorted(range(len(many)), key=lambda i: many[i].enters)
        both = self._both(clean, [many[i] for i in order], reading)
        sizes = [len(many[i].prompt) for i in order]
        before, edited = (dict(zip(order, part.split(sizes), strict=True)) for part in both)
        return [before[i] for i in range(len(many))], [edited[i] for i in range(len(many))]

    def _both(self, clean: Clean, many: Sequence[Edits], reading: Reading) -> tuple[Tensor, Tensor]:
        """What is read before and after the edits, all their rows one after another; only rows that move run."""
        prompt = torch.cat([edits.prompt for edits in many])
        before = clean_values(self.anatomy, clean, reading)[prompt]
        moves = [~untouched(edits, window(self.anatomy, clean, edits, reading)) for edits in many]
        moved = [edits.take(rows) for edits, rows in zip(many, moves, strict=True) if bool(rows.any())]
        edited = before.clone()
        if moved:
            rows, windows = torch.cat(moves), [window(self.anatomy, clean, some, reading) for some in moved]
            edited[rows] = read(self.anatomy, reading, self._resid(moved, windows), prompt[rows])
        return before, edited

    def _resid(self, many: Sequence[Edits], windows: Sequence[Window]) -> Float[Tensor, "rows d_model"]:
        """The residual stream that is read, after edits in the order of the layers that they enter."""
        n, stop = windows[0].n, windows[0].layers.stop
        rotary, running = self.anatomy.rotary(windows[0].positions), []
        for layer in range(many[0].enters, stop + 1):
            new = [(some, w) for some, w in zip(many, windows, strict=True) if some.enters == layer]
            running += [(self._start(some, w), w, 1) for some, w in new]
            if layer == stop:
                break
            block, wanted = self.anatomy.blocks[layer], 1 if layer == stop - 1 else n
            running = [(run_block(block, w, x, rotary, changed, wanted), w, n) for x, w, changed in running]
            running = [_joined(running)] if len(running) > 1 else running
        return torch.cat([resid[:, -1] for resid, *_ in running])

    def _start(self, edits: Edits, w: Window) -> Float[Tensor, "rows n d_model"]:
        """The residual stream with which edits enter the first layer that they run."""
        clean = w.clean
        resid = w.kept(clean.resid[w.layers.start])[w.prompt]
        if edits.kind == "attn_out" and not self.anatomy.parallel:
            block, i = self.anatomy.blocks[edits.layer], edits.at - clean.start
            mid = (clean.resid[edits.layer, :, i] + clean.attn_out[edits.layer, :, i])[w.prompt] + edits.delta
            resid[:, 0] = mid + block.looked_up(mid)
        else:
            resid[:, 0] += edits.delta
        return resid


def _put(written: Float[Tensor, "rows n d_model"], other: Written | None) -> Tensor:
    """What some rows write instead, in place of what is written at the first position."""
    if other is not None:
        written[other.rows, 0] = other.value.to(written)
    return written


def _joined(parts: Sequence[tuple[Tensor, Window, int]]) -> tuple[Tensor, Window, int]:
    """Rows that have come to the same layer, as one batch."""
    prompt = torch.cat([w.prompt for _, w, _ in parts])
    w = replace(parts[0][1], prompt=prompt, groups=Groups(prompt))
    return torch.cat([resid for resid, *_ in parts]), w, parts[0][2]


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
        return mid + block.looked_up(mid)
    fresh = max(changed - (w.n - wanted), 0)  # positions where the MLP's input has changed
    mlp = block.looked_up(resid[:, :fresh])
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
