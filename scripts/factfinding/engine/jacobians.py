"""Jacobians: how the residual stream at END answers to that at an earlier position, after any layer, everything between free
to respond.

In forward mode every layer would need a run of its own for each of its dimensions. In reverse mode one pass
for each dimension at END gives the Jacobians of all layers at once; both are exact, in the model's own precision. Only the
positions from the earlier one to END are run, and of the model the layers above the lowest one asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.clean import Clean
from factfinding.engine.groups import Groups
from factfinding.engine.suffix import Window, run_block
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy

DIRECTIONS = 256
"""Directions at END that go back at once, over all prompts."""


@torch.enable_grad()
def end_jacobians(
    anatomy: Anatomy, clean: Clean, layers: Sequence[int], *, at: int, end: int
) -> Float[Tensor, "layers prompts d_model d_model"]:
    """d resid_post of the last layer at `end` / d resid_post of each of `layers` at `at`: a row for each dimension at `end`.

    layers: -1 is the embedding. Raises InputError for a layer with none above it, and for positions that the clean run did
    not keep.
    """
    last, n_positions = anatomy.n_layers - 1, clean.tokens.shape[1]
    wrong = [layer for layer in layers if not -1 <= layer < last]
    if wrong or not layers:
        found = f"layer {wrong[0]}" if wrong else "no layer"
        raise InputError("jacobian", found, f"layers -1 to {last - 1}, with one above them")
    if not clean.start <= at <= end < n_positions:
        raise InputError(
            "jacobian", f"positions {at} and {end}", f"{clean.start} to {n_positions - 1}, in order"
        )
    everyone = torch.arange(len(clean.tokens), device=clean.tokens.device)
    above = range(min(layers) + 1, anatomy.n_layers)
    window = Window(
        clean=clean, prompt=everyone, groups=Groups(everyone), first=at, last=end, layers=above
    )  # fmt: skip
    rotary = anatomy.rotary(torch.arange(at, end + 1, device=everyone.device)[None])
    resid = window.kept(clean.resid[above.start]).clone().requires_grad_()
    after = {above.start - 1: resid}
    for layer, _, wanted in window.steps():
        resid = after[layer] = run_block(anatomy.blocks[layer], window, resid, rotary, window.n, wanted)
    inputs = [after[layer] for layer in layers]
    directions = torch.eye(anatomy.d_model, dtype=resid.dtype, device=resid.device)

    def back(part: slice) -> Float[Tensor, "directions layers prompts d_model"]:
        chosen = directions[part, None, None].expand(-1, *resid.shape)
        found = torch.autograd.grad(
            resid, inputs, chosen, is_grads_batched=True, retain_graph=True, materialize_grads=True
        )
        return torch.stack([gradient[:, :, 0] for gradient in found], dim=1)

    rows = Batches(max(1, DIRECTIONS // len(everyone))).run(back, anatomy.d_model)
    return rows.permute(1, 2, 0, 3)
