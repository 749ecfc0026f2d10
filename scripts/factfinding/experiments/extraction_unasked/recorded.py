"""What every node writes at END under one question, and how much of it goes to which logits (P1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.capture import Wanted, layout, prompt_batches, record
from factfinding.engine.direct import Readout
from factfinding.model.anatomy import Anatomy

BATCH = 128
"""Subjects whose logits are made at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """At END of each prompt: what the nodes write, the last residual, and how much attention goes to the name.

    name_share: tokens of the name among all up to END.
    """

    embedding: Float[np.ndarray, "subjects d_model"]
    z: Float[np.ndarray, "subjects layers heads d_head"]
    mlp: Float[np.ndarray, "subjects layers d_model"]
    resid: Float[np.ndarray, "subjects d_model"]
    attention: Float[np.ndarray, "subjects layers heads"]
    name_share: Float[np.ndarray, " subjects"]

    def effects(
        self,
        anatomy: Anatomy,
        readout: Readout,
        *,
        z_mean: Float[np.ndarray, "layers heads d_head"] | None = None,
        mlp_mean: Float[np.ndarray, "layers d_model"] | None = None,
    ) -> Float[np.ndarray, "subjects nodes tokens"]:
        """What each head, then each MLP, writes beyond a mean (of these subjects, if none is given), in logits of the readout's
        tokens; the final norm keeps its scale, so effects add up."""
        z = self.z - (self.z.mean(axis=0) if z_mean is None else z_mean)
        mlp = self.mlp - (self.mlp.mean(axis=0) if mlp_mean is None else mlp_mean)

        def written(rows: slice) -> Tensor:
            resid = on_device(self.resid[rows], anatomy)
            heads = [
                readout.change_by_heads(
                    resid, on_device(z[rows, layer], anatomy), block.out_weight.to(resid), exact=False
                )
                for layer, block in enumerate(anatomy.blocks)
            ]
            mlps = readout.change(resid, on_device(mlp[rows], anatomy), exact=False)
            return torch.cat([*heads, mlps], dim=1).cpu()

        return Batches(BATCH).run(written, len(z)).numpy()


def on_device(values: np.ndarray, anatomy: Anatomy) -> Tensor:
    """On the model's device, in its precision, in float32 at least."""
    return torch.from_numpy(values).to(anatomy.device, torch.promote_types(anatomy.dtype, torch.float32))


def recorded(anatomy: Anatomy, prompts: pl.DataFrame, *, batch_size: int) -> Recorded:
    """One forward pass for each prompt, in the order of the table (columns token_ids, n_tokens, first_name, final_name, end)."""
    wanted = [Wanted(site=site, role="end") for site in ("z", "mlp_out", "pattern")]
    wanted.append(Wanted(site="resid", role="end", layers=(anatomy.n_layers - 1,)))
    layouts = [layout(one, anatomy, longest=0) for one in wanted]
    n, batches = prompts.height, Batches(batch_size)
    arrays = {
        place.name: np.zeros((n, *place.shape), dtype=np.float32)
        for place in layouts
        if place.name != "pattern@end"
    }
    attention = np.zeros((n, anatomy.n_layers, anatomy.n_heads))
    first, final, end = (prompts[name].to_numpy() for name in ("first_name", "final_name", "end"))
    for same in prompt_batches(prompts, range(n)):
        for rows, found in batches.of(same, lambda rows: record(anatomy, prompts, rows, layouts)):
            for row, pattern in zip(rows, found.pop("pattern@end"), strict=True):
                attention[row] = pattern[..., first[row] : final[row] + 1].sum(axis=-1)
            for name, values in found.items():
                arrays[name][rows] = values
    resid = arrays["resid@end"]
    return Recorded(
        embedding=resid[:, 0], resid=resid[:, 1], z=arrays["z@end"], mlp=arrays["mlp_out@end"], attention=attention,
        name_share=(final - first + 1) / (end + 1),
    )  # fmt: skip
