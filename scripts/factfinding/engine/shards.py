"""Long sweeps in pieces, and finished pieces found again after a kill.

A piece (shard) is a Parquet file whose name is the key of its content: what the numbers depend on (model,
precision, code, prompts, rows). It is trusted only if the key inside is the key asked for and the table is
the one that was written; anything else is said in the log and made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from factfinding.engine.batches import Log, free_memory, rows_within
from factfinding.engine.readings import PIECE
from factfinding.files import text_digest, whole
from factfinding.model.anatomy import Anatomy


def table_digest(frame: pl.DataFrame) -> str:
    """Digest of a flat table's columns, types and values."""
    return hashlib.sha256(f"{frame.schema}\n{frame.write_csv()}".encode()).hexdigest()


def tensor_digest(x: Tensor) -> str:
    """Digest of a tensor's shape, type and values."""
    data = x.detach().cpu().contiguous()
    header = f"{tuple(data.shape)} {data.dtype} ".encode()
    return hashlib.sha256(header + data.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


class TableShards:
    """Finished pieces of a table in a folder. With no folder nothing is kept."""

    def __init__(self, folder: Path | None, context: Mapping[str, Any], log: Log) -> None:
        self.folder, self.context, self.log = folder, json.dumps(dict(context), sort_keys=True), log

    def get(
        self, rows: pl.DataFrame, about: Sequence[str], compute: Callable[[], pl.DataFrame]
    ) -> pl.DataFrame:
        """The piece for these index rows: read if it is finished, else computed and written whole.

        `about` is all else that the piece depends on and the context does not say.
        """
        if self.folder is None:
            return compute()
        key = text_digest(self.context, table_digest(rows), *about)
        path = self.folder / f"{key[:32]}.parquet"
        found = self._read(path, key)
        if found is None:
            found = compute()
            with whole(path) as part:
                found.write_parquet(part, metadata={"key": key, "content": table_digest(found)})
        return found

    def _read(self, path: Path, key: str) -> pl.DataFrame | None:
        if not path.is_file():
            return None
        try:
            said, frame = pl.read_parquet_metadata(path), pl.read_parquet(path)
            if said.get("key") != key:
                raise ValueError("its key is another's")
            if said.get("content") != table_digest(frame):
                raise ValueError("its content is not what was written")
        except (pl.exceptions.PolarsError, OSError, ValueError) as error:
            self.log(f"shard {path} is not trusted and is made again: {error}")
            return None
        return frame


def first_batch(anatomy: Anatomy, n_positions: int) -> int:
    """Rows to begin with, of edits that run `n_positions` positions each: what fits into the memory that is free now."""
    device = anatomy.device
    item = torch.finfo(anatomy.dtype).bits // 8
    logits = 4 * min(anatomy.d_vocab, PIECE)
    per_row = item * (n_positions * (6 * anatomy.d_mlp + 12 * anatomy.d_model) + logits)
    return rows_within(free_memory(device) if device.type == "cuda" else 0, per_row, device.type)
