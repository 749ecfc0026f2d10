"""Edits by pushing the *difference* from the clean run through the layers, instead of edited values.

A single neuron changes the answer by a millionth of the residual stream. Pushed as a value, its effect drowns
in the rounding of everything else; pushed as a difference, every matrix product acts on the change alone and
every non-linear part is a closed form (`closed_forms`), so that the error is relative to the effect. Then
matrix units of low precision (TF32, bfloat16) give right answers, and a change of zero gives exactly zero.

    engine = Difference(anatomy, product="bfloat16")
    change = engine.effects(clean, edits, LogProbs(at=end, tokens=answers))         # as suffix.Suffix does

`clean` must come from the same model in float32 (or float64). Families with LayerNorm and an ungated MLP
only, in both residual orders: GPT-NeoX and GPT-2; others are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factfinding.engine.clean import Clean
from factfinding.engine.closed_forms import (
    ACTIVATIONS,
    log_partition_difference,
    norm_difference,
    softmax_difference,
)
from factfinding.engine.readings import Logits, Reading, Resid, clean_values, tokens_of, unembed_tokens
from factfinding.engine.suffix import Edits, Groups, Window, own, untouched, window
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy, Block, rotate, weight_in_out

PRODUCTS = ("full", "tf32", "bfloat16")
SUPPORTED = ("GPT-NeoX", "GPT-2")


class Products:
    """Matrix products whose inputs are rounded as asked and whose sums are kept in full.

    `full`: the model's own precision. `tf32` and `bfloat16`: on a GPU the matrix units do it (bfloat16
    inputs, float32 sums and results). A CPU without such units gives the same numbers, up to the order of the
    sums, from inputs that are rounded first and multiplied in float32, so precision can be tried anywhere; it
    is not faster there.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        if kind not in PRODUCTS:
            raise InputError("product", repr(kind), ", ".join(PRODUCTS))
        self.kind, self.on_gpu = kind, device.type == "cuda"
        self._weights: dict[nn.Module, Tensor] = {}

    def round(self, x: Tensor) -> Tensor:
        """x as the matrix unit takes it in."""
        if self.kind == "bfloat16":
            return x.bfloat16() if self.on_gpu else x.bfloat16().to(x.dtype)
        return _ten_bits(x) if self.kind == "tf32" and not self.on_gpu else x

    def linear(self, module: nn.Module, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """A projection without its bias, which a difference does not see; its rounded weight is kept."""
        if module not in self._weights:
            self._weights[module] = self.round(weight_in_out(module))
        return self._multiply(self.round(x), self._weights[module], x.dtype)

    def __call__(self, x: Float[Tensor, "... n k"], y: Float[Tensor, "... k m"]) -> Float[Tensor, "... n m"]:
        return self._multiply(self.round(x), self.round(y), x.dtype)

    def _multiply(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        if x.dtype == dtype:
            return x @ y
        if y.ndim == 2:
            return torch.mm(x.flatten(0, -2), y, out_dtype=dtype).unflatten(0, x.shape[:-1])
        return torch.bmm(x.flatten(0, -3), y.flatten(0, -3), out_dtype=dtype).unflatten(0, x.shape[:-2])

    @contextmanager
    def settings(self) -> Iterator[None]:
        """TF32 switched on for a GPU's float32 products, and off again."""
        before = torch.get_float32_matmul_precision()
        try:
            if self.on_gpu:
                torch.set_float32_matmul_precision("high" if self.kind == "tf32" else "highest")
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _ten_bits(x: Tensor) -> Tensor:
    """float32 rounded to TF32's ten bits of mantissa (halves away from zero)."""
    bits = x.float().contiguous().view(torch.int32)
    return (((bits + (1 << 12)) >> 13) << 13).view(torch.float32).to(x.dtype)


def _shadow(module: nn.Module, products: Products) -> SimpleNamespace:
    """A module's projections as products without bias, so that the family's own wiring can be fed
    differences.
    """

    def product(child: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: products.linear(child, x)

    children = {
        n: product(child) for n, child in module.named_children() if isinstance(child, nn.Linear | Conv1D)
    }
    return SimpleNamespace(act=lambda x: x, **children)


def check_supported(anatomy: Anatomy) -> None:
    """Raise InputError for a model that has no difference form here, naming its family or activation."""
    allowed = f"{' and '.join(SUPPORTED)} (use the suffix engine for others)"
    if anatomy.family.name not in SUPPORTED:
        raise InputError("difference form", f"family {anatomy.family.name!r}", allowed)
    activation = type(anatomy.blocks[0].mlp_act).__name__
    if activation not in ACTIVATIONS:
        raise InputError("difference form", f"activation {activation!r}", ", ".join(ACTIVATIONS))
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
        self._activation = ACTIVATIONS[type(anatomy.blocks[0].mlp_act).__name__]
        self._attn = [_shadow(block.attn, self.products) for block in anatomy.blocks]
        self._mlps = [_shadow(block.mlp, self.products) for block in anatomy.blocks]

    def values(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """What is read, row by row: the clean value plus the effect."""
        return clean_values(self.anatomy, clean, reading)[edits.prompt] + self.effects(clean, edits, reading)

    @torch.no_grad()
    def effects(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]:
        """Change of what is read from the clean run, row by row; exactly zero for a delta of zero.

        Rows of different prompts are padded to the same number for each prompt: give prompts about as many
        rows each.
        """
        given = Groups(edits.prompt)
        every = Edits(
            kind=edits.kind,
            layer=edits.layer,
            at=edits.at,
            prompt=given.prompts.repeat_interleave(given.size),
            delta=given.together(edits.delta).flatten(0, 1),
        )
        w = window(self.anatomy, clean, every, reading)
        with self.products.settings():
            change = self._read(clean, reading, w, self._propagate(every, w))
        return given.apart(change).masked_fill(untouched(edits, w)[:, None], 0.0)

    def _propagate(self, edits: Edits, w: Window) -> Float[Tensor, "prompts size d_model"]:
        """The change of the residual stream that is read."""
        clean, i = w.clean, edits.at - w.clean.start
        change = edits.delta.new_zeros(len(w.prompt), w.n, self.anatomy.d_model)
        change[:, 0] = edits.delta
        change = change.unflatten(0, (-1, w.groups.size))
        if edits.kind == "attn_out" and not self.anatomy.parallel:
            mid = (clean.resid[edits.layer, :, i] + clean.attn_out[edits.layer, :, i])[w.groups.prompts]
            change[:, :, :1] += self._mlp(
                self.anatomy.blocks[edits.layer], mid[:, None, None], change[:, :, :1]
            )
        positions = torch.arange(w.first, w.last + 1, device=clean.tokens.device)[None]
        rotary = self.anatomy.rotary(positions)
        for layer, changed, wanted in w.steps():
            change = self._block(self.anatomy.blocks[layer], w, change, rotary, changed, wanted)
        return change[:, :, -1]

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
        resid = w.kept(clean.resid[block.index])[w.groups.prompts, None]
        attn = self._attention(block, w, resid, change, rotary, changed, wanted)
        change, resid = change[:, :, skipped:], resid[:, :, skipped:]
        if not block.parallel:
            mid = resid + w.kept(clean.attn_out[block.index])[w.groups.prompts, None, skipped:]
            attn = attn + change
            return attn + self._mlp(block, mid, attn)
        fresh = max(changed - skipped, 0)  # positions where the MLP's input has changed
        out = change + attn
        out[:, :, :fresh] += self._mlp(block, resid[:, :, :fresh], change[:, :, :fresh])
        return out

    def _mlp(self, block: Block, resid: Float[Tensor, "prompts 1 n d_model"], change: Tensor) -> Tensor:
        """Change of the MLP's output when its input changes."""
        normed = norm_difference(resid, change, block.norm_mlp.eps) * block.norm_mlp.weight
        moved, _ = block.family.neurons(self._mlps[block.index], normed)
        before, _ = block.neurons(block.norm_mlp(resid))
        return self.products.linear(block.mlp_out, self._activation(before, moved))

    def _attention(
        self, block: Block, w: Window, resid: Tensor, change: Tensor, rotary, changed: int, wanted: int
    ) -> Float[Tensor, "prompts size wanted d_model"]:
        """Change of the attention output: through scores (queries, keys) and through values."""
        clean, prompts, skipped = w.clean, w.groups.prompts, w.n - wanted
        normed = norm_difference(resid[:, :, :changed], change[:, :, :changed], block.norm_attn.eps)
        normed = (normed * block.norm_attn.weight).flatten(0, 1)
        dq, dk, dv = block.family.project(self._attn[block.index], normed, block.d_head)
        if rotary is not None:
            dq, dk = (rotate(x, *(part[:, :changed] for part in rotary)) for x in (dq, dk))
        dq, dk, dv = (nn.functional.pad(x, (0, 0, 0, w.n - changed)) for x in (dq, dk, dv))
        dq = dq[:, :, skipped:]
        q = w.kept(clean.queries[block.index], 2)[prompts, :, skipped:]
        keys, values = (x[block.index, :, :, : w.last + 1] for x in (clean.keys, clean.values))
        hidden = ~torch.cat((w.visible.new_ones(wanted, w.first), w.visible[skipped:]), dim=1)
        before = block.pattern(q, keys[prompts], ~hidden)
        after = (q[:, None] + dq.unflatten(0, (len(prompts), -1))).flatten(0, 1)
        scores = w.groups.times(dq, keys.transpose(-1, -2), self.products)
        scores[..., w.first :] += own(after, dk.transpose(-1, -2), self.products)
        scores = (scores * block.scale).masked_fill_(hidden, 0.0).unflatten(0, (len(prompts), -1))
        moved = softmax_difference(before[:, None], scores)
        pattern = (before[:, None] + moved)[..., w.first :].flatten(0, 1)
        z = w.groups.times(moved.flatten(0, 1), values, self.products) + own(pattern, dv, self.products)
        out = self.products.linear(block.out_proj, z.transpose(1, 2).flatten(2))
        return out.unflatten(0, (len(prompts), -1))

    def _read(
        self, clean: Clean, reading: Reading, w: Window, change: Float[Tensor, "prompts size d_model"]
    ) -> Float[Tensor, "prompts size k"]:
        """Change of what is read, given the change of the residual stream there."""
        if isinstance(reading, Resid):
            return change if reading.weight is None else change @ reading.weight.to(change)
        norm, prompts = self.anatomy.final_norm, w.groups.prompts
        resid = clean.resid[-1, prompts, reading.at - clean.start][:, None]
        normed = norm_difference(resid, change, norm.eps) * norm.weight
        if isinstance(reading, Logits) and reading.tokens is not None:
            few = unembed_tokens(self.anatomy, normed.flatten(0, 1), reading.tokens, w.prompt, bias=False)
            return few.unflatten(0, (len(prompts), -1))
        logits = self.products.linear(self.anatomy.unembed, normed)
        if isinstance(reading, Logits):
            return logits
        log_p = self.anatomy.logits(resid).log_softmax(-1)
        if reading.tokens is None:
            return logits - log_partition_difference(log_p, logits)[..., None]
        # relative to the token's own logit: where its probability is almost 1, the effect is what is left after
        # nearly all of that logit's change cancels, and its rounding must cancel too
        own = logits.flatten(0, 1).gather(1, tokens_of(reading, w.prompt)).unflatten(0, (len(prompts), -1))
        changes = [
            log_partition_difference(log_p, logits - own[..., k : k + 1]) for k in range(own.shape[-1])
        ]
        return -torch.stack(changes, dim=-1)
