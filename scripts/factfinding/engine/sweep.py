"""What all sweeps of exact edits share: a table of edits in, the same rows with their results out.

A sweep works in pieces (`sweep_neurons`: one prompt and layer), so that memory does not grow with it. Finished
pieces are kept in a folder and found again (`shards`), batch sizes are found by themselves, and a random sample of
the rows is computed again by the slow twin: how far the table lies from it is written beside the table.

The index names prompts by their row in a prompts table (data/prompts.py) that has one more column, `answer`:
the token whose log-probability or logit counts.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.digest import code_digest
from factfinding.engine.batches import Log
from factfinding.engine.clean import Clean
from factfinding.engine.readings import Reading
from factfinding.engine.replaced import Replaced
from factfinding.engine.shards import TableShards
from factfinding.engine.suffix import Edits
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy
from factfinding.stats import spearman

Progress = Callable[[int, int], None]


class Engine(Protocol):
    """`suffix.Suffix` or `difference.Difference`."""

    name: str
    anatomy: Anatomy

    def values(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]: ...

    def effects(self, clean: Clean, edits: Edits, reading: Reading) -> Float[Tensor, "rows k"]: ...

    def joint_values(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]: ...

    def joint_effects(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]: ...

    def replaced(
        self, clean: Clean, outputs: Replaced, readings: Sequence[Reading]
    ) -> list[Float[Tensor, "rows k"]]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweeping:
    """How a sweep is run: by which engine, how exactly, and where its finished pieces are kept.

    model: the digest of its weights, under which pieces are kept in `folder` (None: nowhere). tolerance: of curves,
    relative to the largest effect of a piece; 0 evaluates every draw. twin_rows: effects computed again by the slow twin.
    """

    engine: Engine
    model: str = ""
    folder: Path | None = None
    tolerance: float = 1e-4
    twin_rows: int = 16
    seed: int = 0
    log: Log = print
    progress: Progress = lambda done, total: None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """`table`: the index rows in order, with results. `twin`: one row, how far a sample lies from the slow twin.

    twin's columns: rows compared, dtype of the twin, largest_error, relative_error (largest error over the
    table's largest effect; null where all are zero), median_relative_error (of each row's own effect) and rank_correlation.
    """

    table: pl.DataFrame
    twin: pl.DataFrame


def check_index(index: pl.DataFrame, prompts: pl.DataFrame, sizes: Mapping[str, int]) -> None:
    """Raise InputError, naming the first wrong row, for an index that does not fit."""
    limits = {name: prompts.height for name in ("prompt", "donor") if name in index.columns} | dict(sizes)
    for name, limit in limits.items():
        wrong = index.with_row_index("row").filter((pl.col(name) < 0) | (pl.col(name) >= limit))
        if wrong.height:
            raise InputError(f"index, row {wrong['row'][0]}", f"{name} {wrong[name][0]}", f"0-{limit - 1}")
    if not index.height:
        raise InputError("index", "no rows", "at least one edit")


class SweepJob(Protocol):
    """How one kind of sweep does one piece."""

    def depends_on(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
        """What a piece's numbers depend on: its rows without row numbers of other tables, and those rows'
        contents.
        """
        ...

    def compute(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The results of a piece, aligned with its rows."""
        ...

    def twin(self, anatomy: Anatomy, row: dict) -> float:
        """One row's effect by the slow twin."""
        ...


def context_of(entry: str, engine: Engine, model: str, anatomy: Anatomy, **settings) -> dict:
    """What all pieces of a sweep depend on; `entry` is the file that computes them."""
    files = (Path(entry), Path(__file__).with_name("difference.py"))
    code = code_digest(*files, root=Path(__file__).resolve().parents[2])
    return {"model": model, "dtype": str(anatomy.dtype), "engine": engine.name, "code": code, **settings}


def in_pieces(
    index: pl.DataFrame, by: list[str], shards: TableShards, job: SweepJob, progress: Progress
) -> pl.DataFrame:
    """Each piece of the index from its shard or computed, in the order of the index."""
    pieces, done = [], 0
    for _, rows in index.with_row_index("_row").group_by(by, maintain_order=True):
        own = rows.drop("_row")
        results = shards.get(*job.depends_on(own), lambda own=own: job.compute(own))
        pieces.append(pl.concat([rows, results], how="horizontal"))
        done += rows.height
        progress(done, index.height)
    return pl.concat(pieces).sort("_row").drop("_row")


def against_twin(anatomy: Anatomy, table: pl.DataFrame, slow, n: int, seed: int, log: Log) -> pl.DataFrame:
    """A random sample of rows computed again by the slow twin, and how far the table lies from it."""
    sample = table[sorted(random.Random(seed).sample(range(table.height), min(n, table.height)))]
    if not sample.height:
        return pl.DataFrame()
    exact = in_float64(anatomy, log)
    truth = np.array([slow(exact, row) for row in sample.iter_rows(named=True)])
    result = {"rows": sample.height, "dtype": str(exact.dtype).removeprefix("torch.")}
    result |= distance(sample["effect"].to_numpy(), truth, largest=table["effect"].abs().max())
    log("against the slow twin: " + ", ".join(f"{name} {value}" for name, value in result.items()))
    return pl.DataFrame([result], schema_overrides={"relative_error": pl.Float64})


def distance(
    found: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"], *, largest: float
) -> dict[str, float | None]:
    """How far effects lie from those of a twin: largest error, that over the `largest` effect of all (None where all are
    zero), the median of errors relative to each one's own effect, and the rank correlation."""
    error, tiny = np.abs(found - truth), np.finfo(np.float64).tiny
    return {
        "largest_error": float(error.max()),
        "relative_error": float(error.max() / largest) if largest else None,  # nothing to be relative to
        "median_relative_error": float(np.median(error / np.maximum(np.abs(truth), tiny))),
        "rank_correlation": spearman(found, truth),
    }


def in_float64(anatomy: Anatomy, log: Log) -> Anatomy:
    """A float64 copy of the model where memory has room for one, else the model as it is."""
    if anatomy.dtype == torch.float64:
        return anatomy
    needed = 8 * sum(weight.numel() for weight in anatomy.model.parameters()) * 1.3
    on_gpu = anatomy.device.type == "cuda"
    free = (
        torch.cuda.mem_get_info(anatomy.device)[0]
        if on_gpu
        else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    if needed > free:
        log(
            f"no room for a float64 copy ({needed / 1e9:.0f} GB, {free / 1e9:.0f} GB free): "
            f"the slow twin runs in {anatomy.dtype}"
        )
        return anatomy
    return Anatomy(copy.deepcopy(anatomy.model).double(), anatomy.tokenizer)
