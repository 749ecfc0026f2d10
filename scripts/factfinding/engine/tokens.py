"""The token ids of prompts that run in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor


def tokens_of(
    prompts: pl.DataFrame, rows: Sequence[int] | np.ndarray, device: torch.device, *, until: int | None = None
) -> Int[Tensor, "batch seq"]:
    """Token ids of prompts of one length; up to and with position `until`, where what comes later does not matter."""
    tokens = torch.tensor(prompts["token_ids"][np.asarray(rows, dtype=np.int64)].to_list(), device=device)
    return tokens if until is None else tokens[:, : until + 1]
