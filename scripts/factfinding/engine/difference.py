"""Edits by pushing the *difference* from the clean run through the layers, instead of edited values.

A single neuron changes the answer by a millionth of the residual stream. Pushed as a value, its effect drowns
in the rounding of everything else; pushed as a difference, every matrix product acts on the change alone and
every non-linear part is a closed form (`closed_forms`), so that the error is relative to the effect. Then
matrix units of low precision (TF32, bfloat16) give right answers, and a change of zero gives exactly zero.

    engine = Difference(anatomy, product="bfloat16")
    change = engine.effects(clean, edits, LogProbs(at=end, tokens=answers))         # as suffix.Suffix does

`clean` must come from the same model in float32 (or float64). Every family of families.py has this form: how each is
wired is read there (`changed`). A model whose activation has no closed form is refused by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factfinding.engine.changed import Changed, Wired
from factfinding.engine.clean import Clean, activation
from factfinding.engine.closed_forms import ACTIVATIONS, LARGE_SCORE, LEAST_GROWTH, log_partition_difference
from factfinding.engine.forms import Forms
from factfinding.engine.fused import forms_of
from factfinding.engine.groups import Groups
from factfinding.engine.products import Products
from factfinding.engine.readings import (
    Logits,
    Reading,
    Resid,
    clean_values,
    layer_of,
    pieces,
    read_tokens,
    unembed_tokens,
)
from factfinding.engine.replaced import Replaced, Written
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Edits, Window, untouched, whole_window, window
from factfinding.errors import InputError
from factfinding.families import WITH_DIFFERENCES
from factfinding.model.anatomy import Anatomy, Block


def check_supported(anatomy: Anatomy) -> None:
    """Raise InputError for a model that has no difference form here, naming its activation or precision."""
    activation = type(anatomy.blocks[0].mlp_act).__name__
    if activation not in ACTIVATIONS:
        allowed = f"{', '.join(WITH_DIFFERENCES)} (use the suffix engine for others)"
        raise InputError("difference form", f"activation {activation!r}", allowed)
    if anatomy.dtype not in (torch.float32, torch.float64):
        raise InputError(
            "difference form", f"a model in {anatomy.dtype}", "float32 or float64 for the clean run"
        )


class Difference:
    """The engine of `Suffix`, in difference form. Raises InputError for an unsupported model or product."""

    def __init__(self, anatomy: Anatomy, product: str = "full") -> None:
        check_supported(anatomy)
        self.anatomy, self.products = anatomy, Products(product, anatomy.device)
        self.name = f"difference, {product} products"
        self.forms = forms_of(anatomy, self.products)
        self._attn = [Wired(block.attn) for block in anatomy.blocks]
        self._mlps = [Wired(block.mlp) for block in anatomy.blocks]

    def values(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """What is read, row by row: the clean value plus the effect."""
        return clean_values(self.anatomy, clean, reading)[edits.prompt] + self.effects(clean, edits, reading)

    def effects(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """Change of what is read from the clean run, row by row; exactly zero for a delta of zero.

        Rows of different prompts are padded to the same number for each prompt: give prompts about as many
        rows each.
        """
        return self.joint_effects(clean, [edits], reading)[0]

    @torch.no_grad()
    def joint_effects(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]:
        """`effects` of edits of any layers at one position, in one pass: rows join the batch at their layer."""
        prompts = torch.cat([edits.prompt for edits in many]).unique()
        given = [Groups(edits.prompt, among=prompts) for edits in many]
        every = [_arranged(edits, groups) for edits, groups in zip(many, given, strict=True)]
        windows = [window(self.anatomy, clean, edits, reading) for edits in every]
        order = sorted(range(len(many)), key=lambda i: many[i].enters)
        with self.products.settings():
            moved, w = self._propagate([every[i] for i in order], [windows[i] for i in order])
            change = self._read(clean, reading, w, moved)
        parts = dict(zip(order, change.split([given[i].size for i in order], dim=1), strict=True))
        return [
            groups.apart(parts[i]).masked_fill(untouched(edits, windows[i])[:, None], 0.0)
            for i, (edits, groups) in enumerate(zip(many, given, strict=True))
        ]

    def joint_values(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]:
        """`values` of edits of any layers at one position, in one pass."""
        before = clean_values(self.anatomy, clean, reading)
        changes = self.joint_effects(clean, many, reading)
        return [before[edits.prompt] + change for edits, change in zip(many, changes, strict=True)]

    def replaced(
        self, clean: Clean, outputs: Replaced, readings: Sequence[Reading]
    ) -> list[Float[Tensor, "rows k"]]:
        """What each of the readings sees, row by row, with outputs of several layers replaced at `clean.start`."""
        return [
            clean_values(self.anatomy, clean, reading)[outputs.prompt] + change
            for reading, change in zip(readings, self.replaced_effects(clean, outputs, readings), strict=True)
        ]

    @torch.no_grad()
    def replaced_effects(
        self, clean: Clean, outputs: Replaced, readings: Sequence[Reading]
    ) -> list[Float[Tensor, "rows k"]]:
        """Change of what `replaced` gives, from the clean run."""
        given = Groups(outputs.prompt)
        w = _of_size(whole_window(self.anatomy, clean, outputs), given.size)
        change = clean.resid.new_zeros(len(given.prompts), given.size, w.n, self.anatomy.d_model)
        rotary, found = self.anatomy.rotary(w.positions), {}
        with self.products.settings():
            for layer in range(-1, self.anatomy.n_layers):
                if layer in w.layers:
                    change = self._replaced_block(
                        self.anatomy.blocks[layer], w, change, rotary, outputs, given
                    )
                for i, reading in enumerate(readings):
                    if layer_of(self.anatomy, reading) == layer:
                        here = change[:, :, reading.at - clean.start]
                        found[i] = given.apart(self._read(clean, reading, w, here))
        return [found[i] for i in range(len(readings))]

    def _replaced_block(
        self,
        block: Block,
        w: Window,
        change: Float[Tensor, "prompts size n d_model"],
        rotary,
        outputs: Replaced,
        given: Groups,
    ) -> Float[Tensor, "prompts size n d_model"]:
        """One block, in which some rows write something else at the first position."""
        layer = block.index
        before, attn_out = (w.groups.of(w.kept(x[layer]))[:, None] for x in (w.clean.resid, w.clean.attn_out))
        z = self._mixed(block, w, before, change, rotary, w.n, w.n)
        attn = self.products.linear(block.out_proj, z)
        self._put(attn, Site("attn_out", layer), outputs.attn.get(layer), w, outputs, given)
        before, moved = (before, change) if block.parallel else (before + attn_out, change + attn)
        mlp = self.products.linear(block.mlp_out, self._neurons(block, before, moved))
        self._put(mlp, Site("mlp_out", layer), outputs.mlp.get(layer), w, outputs, given)
        return change + attn + mlp

    def _put(
        self, change: Tensor, site: Site, other: Written | None, w: Window, outputs: Replaced, given: Groups
    ) -> None:
        """Set the change of an output at the first position, for the rows that write something else there."""
        if other is not None:
            own = activation(self.anatomy, w.clean, site, w.first)[outputs.prompt[other.rows]]
            rows = change.view(-1, *change.shape[2:])  # a copy would lose what is set
            rows[given.slot[other.rows], 0] = (other.value.to(own) - own).to(change)

    def _propagate(
        self, many: Sequence[Edits], windows: Sequence[Window]
    ) -> tuple[Float[Tensor, "prompts size d_model"], Window]:
        """The change of the residual stream that is read, after edits in the order of the layers that they enter, and the window
        of all their rows."""
        rotary, stop = self.anatomy.rotary(windows[0].positions), windows[0].layers.stop
        # rows, their window, and how many of its positions have changed
        running: list[tuple[Tensor, Window, int]] = []
        for layer in range(many[0].enters, stop + 1):
            new = [
                (self._start(edits, w), w, 1)
                for edits, w in zip(many, windows, strict=True)
                if edits.enters == layer
            ]
            running += [_joined(new)] if new else []
            if layer == stop:
                break
            block, n = self.anatomy.blocks[layer], windows[0].n
            wanted = 1 if layer == stop - 1 else n
            done = [(self._block(block, w, x, rotary, changed, wanted), w, n) for x, w, changed in running]
            running = [_joined(done)]
        change, w, _ = _joined([(change[:, :, -1], w, changed) for change, w, changed in running])
        return change, w

    def _start(self, edits: Edits, w: Window) -> Float[Tensor, "prompts size n d_model"]:
        """The change with which edits enter the first layer that they run."""
        clean, i = w.clean, edits.at - w.clean.start
        change = edits.delta.new_zeros(len(w.prompt), w.n, self.anatomy.d_model)
        change[:, 0] = edits.delta
        change = change.unflatten(0, (-1, w.groups.size))
        if edits.kind == "attn_out" and not self.anatomy.parallel:
            block, mid = (
                self.anatomy.blocks[edits.layer],
                clean.resid[edits.layer] + clean.attn_out[edits.layer],
            )
            self._add_mlp(block, w.groups.of(mid[:, i : i + 1])[:, None], change[:, :, :1])
        return change

    def _block(
        self,
        block: Block,
        w: Window,
        change: Float[Tensor, "prompts size n d_model"],
        rotary,
        changed: int,
        wanted: int,
    ) -> Float[Tensor, "prompts size wanted d_model"]:
        """One block over the window, as `suffix.run_block`: `changed` leading positions in, `wanted` trailing
        ones out.
        """
        clean, skipped = w.clean, w.n - wanted
        resid = w.groups.of(w.kept(clean.resid[block.index]))[:, None]
        z = self._mixed(block, w, resid, change, rotary, changed, wanted)
        change, resid = change[:, :, skipped:], resid[:, :, skipped:]
        if not block.parallel:
            self.products.add_linear(change, block.out_proj, z)
            mid = resid + w.groups.of(w.kept(clean.attn_out[block.index]))[:, None, skipped:]
            self._add_mlp(block, mid, change)
            return change
        fresh = max(changed - skipped, 0)  # positions where the MLP's input has changed
        post = self._neurons(block, resid[:, :, :fresh], change[:, :, :fresh]) if fresh else None
        self.products.add_linear(change, block.out_proj, z)
        if fresh:
            self.products.add_linear(change[:, :, :fresh], block.mlp_out, post)
        return change

    def _add_mlp(self, block: Block, resid: Tensor, change: Tensor) -> None:
        """Add the change of the MLP's output to a change of its input `resid`."""
        self.products.add_linear(change, block.mlp_out, self._neurons(block, resid, change))

    def _neurons(
        self, block: Block, resid: Float[Tensor, "prompts 1 n d_model"], change: Tensor
    ) -> Float[Tensor, "prompts size n d_mlp"]:
        """Change of the post-activations when the MLP's input changes."""
        normed = self._normed(block.norm_mlp, resid, change)
        _, post = block.family.neurons(self._mlps[block.index], normed)
        return post.change.unflatten(0, change.shape[:2])

    def _mixed(
        self, block: Block, w: Window, resid: Tensor, change: Tensor, rotary, changed: int, wanted: int
    ) -> Float[Tensor, "prompts size wanted d_model"]:
        """Change of the heads' mixed values: through scores (queries, keys) and through values."""
        normed = self._normed(block.norm_attn, resid[:, :, :changed], change[:, :, :changed])
        q, k, v = block.family.project(self._attn[block.index], normed, block.d_head)
        moved = (q.change, k.change, v.change)
        return self.forms.attention(block, w, moved, rotary, wanted).unflatten(0, change.shape[:2])

    def _normed(
        self,
        norm: nn.Module,
        resid: Float[Tensor, "prompts 1 n d_model"],
        change: Float[Tensor, "prompts size n d_model"],
    ) -> Changed:
        """What a block's attention or MLP reads, when the residual stream changes."""
        moved = self.forms.norm(norm, resid, change).flatten(0, 1)
        return Changed(lambda: norm(resid[:, 0]), moved, self.forms)

    def _read(
        self, clean: Clean, reading: Reading, w: Window, change: Float[Tensor, "prompts size d_model"]
    ) -> Float[Tensor, "prompts size k"]:
        """Change of what is read, given the change of the residual stream there."""
        if isinstance(reading, Resid):
            return change if reading.weight is None else change @ reading.weight.to(change)
        prompts = w.groups.prompts
        resid = clean.resid[-1, prompts, reading.at - clean.start][:, None]
        # in plain tensors: a fused form would round it, and not all that is read is a rounded product
        normed = Forms.norm(self.forms, self.anatomy.final_norm, resid, change)
        if isinstance(reading, Logits) and reading.tokens is not None:
            few = unembed_tokens(self.anatomy, normed.flatten(0, 1), reading.tokens, w.prompt, bias=False)
            return few.unflatten(0, (len(prompts), -1))
        log_p = None if isinstance(reading, Logits) else self.anatomy.logits(resid).log_softmax(-1)
        if reading.tokens is not None:
            return self._log_probs(log_p, normed, read_tokens(reading, prompts))
        logits = self.products.linear(self.anatomy.unembed, normed)
        return logits if log_p is None else logits - log_partition_difference(log_p, logits)[..., None]

    def _log_probs(
        self,
        log_p: Float[Tensor, "prompts 1 d_vocab"],
        normed: Float[Tensor, "prompts size d_model"],
        tokens: Int[Tensor, "prompts k"],
    ) -> Float[Tensor, "prompts size k"]:
        """Change of a few tokens' log-probabilities: minus that of logsumexp relative to the token's own logit.

        Relative, because where the token's probability is almost 1, the effect is what is left after nearly all
        of its logit's change cancels. Its own term is zero then, and is left out of the sum.
        """
        own = normed @ self.anatomy.unembed.weight[tokens].transpose(1, 2)
        others = log_p.exp()[:, :, None].expand(-1, -1, tokens.shape[1], -1)
        others = others.scatter(3, tokens[:, None, :, None], 0.0)

        def logits(part: slice) -> Float[Tensor, "prompts size piece"]:
            return self.products.linear(self.anatomy.unembed, normed, part)

        largest, grown = [], torch.zeros_like(own)
        for part in pieces(self.anatomy.d_vocab):
            more, top = self.forms.growth(logits(part), own, others[..., part])
            grown += more
            largest.append(top)
        change = grown.log1p()
        large = (torch.stack(largest).amax(0) > LARGE_SCORE) | (grown < LEAST_GROWTH)
        if bool(large.any()):  # exponentials of the change alone could overflow, or cancel 1
            sums = [
                (log_p[:, :, None, part] + (logits(part)[:, :, None] - own[..., None])).logsumexp(-1)
                for part in pieces(log_p.shape[-1])
            ]
            change = torch.where(large, torch.stack(sums).logsumexp(0), change)
        return -change


def _arranged(edits: Edits, groups: Groups) -> Edits:
    """Edits with the same number of rows for each prompt, prompt by prompt; those that are filled in add nothing."""
    prompt = groups.prompts.repeat_interleave(groups.size)
    return replace(edits, prompt=prompt, delta=groups.together(edits.delta).flatten(0, 1))


def _of_size(w: Window, size: int) -> Window:
    """The same with so many rows for each prompt."""
    prompt = w.groups.prompts.repeat_interleave(size)
    return replace(w, prompt=prompt, groups=Groups(prompt))


def _joined(parts: Sequence[tuple[Tensor, Window, int]]) -> tuple[Tensor, Window, int]:
    """Rows that have come to the same layer, as one batch."""
    if len(parts) == 1:
        return parts[0]
    change = torch.cat([change for change, *_ in parts], dim=1)
    return change, _of_size(parts[0][1], change.shape[1]), parts[0][2]
