"""Plain reading of layers at the final name token, batch by batch: nothing of a model's run is kept (P3.6-P3.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.sites import Site
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.methods.groups import Group, groups_of, in_batches
from factfinding.model.anatomy import Anatomy

Result = TypeVar("Result")


def name_batches(
    tables: Sequence[pl.DataFrame],
    device: torch.device,
    batch_size: int,
    work: Callable[[Int[Tensor, "tables*batch seq"]], Result],
) -> Iterator[tuple[Int[np.ndarray, " batch"], Result]]:
    """Rows, and what `work` makes of the tokens of these rows of each table in turn, up to the final name token.

    The same row of each table must have one layout. About `batch_size` prompts go together, one row at least.
    """

    def on_tokens(group: Group, rows: Int[np.ndarray, " batch"]) -> Result:
        until = group.layout.final_name
        return work(torch.cat([tokens_of(table, rows, device, until=until) for table in tables]))

    return in_batches(groups_of(tables[0]), batch_size // len(tables), on_tokens)


def read_last(
    anatomy: Anatomy,
    tokens: Int[Tensor, "batch seq"],
    kinds: Sequence[str],
    layers: Sequence[int] | None = None,
) -> list[Float[Tensor, "batch layers d_model"]]:
    """Sites of each kind (`mlp_out`, `attn_out`, `resid_pre`, `resid_post`) at the last position; float32 at least."""
    layers = range(anatomy.n_layers) if layers is None else layers
    at = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
    reads = [Read(site=Site(kind, layer), at=at) for kind in kinds for layer in layers]
    values = run(anatomy, tokens, reads=reads).values
    n = len(layers)
    wide = torch.promote_types(anatomy.dtype, torch.float32)
    return [torch.stack(values[i * n : (i + 1) * n], dim=1).to(wide) for i in range(len(kinds))]
