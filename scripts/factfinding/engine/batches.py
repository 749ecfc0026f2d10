"""Batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from factfinding.errors import out_of_memory

MOST_ROWS = {"cuda": 8192, "cpu": 4096}
"""Rows of a batch beyond which nothing is gained."""

Log = Callable[[str], None]
Item = TypeVar("Item")
Rows = TypeVar("Rows")
Result = TypeVar("Result")
LOGGER = logging.getLogger("factfinding")
"""Where it is said that a batch did not fit; a rule's job (scripts/job.py) writes it into its log."""


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process can still have: what is free, and what torch has reserved and does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def rows_within(free: int, per_row: int, device_type: str) -> int:
    """Rows of a first batch: half of a GPU's free memory, whose other half is left for what was not counted; on a CPU
    256 MiB, which stays near its caches.
    """
    budget = free // 2 if device_type == "cuda" else 2**28
    return min(max(budget // per_row, 1), MOST_ROWS[device_type])


def packed(items: Iterable[Item], rows: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Items in their order, as many at once as have `most` rows together; one at least."""
    some: list[Item] = []
    together = 0
    for item in items:
        if some and together + rows(item) > most:
            yield some
            some, together = [], 0
        some.append(item)
        together += rows(item)
    if some:
        yield some


class Batches:
    """Work on rows in batches as large as fit: the size is halved when memory runs out, and kept from then
    on.
    """

    def __init__(self, rows: int, log: Log = LOGGER.warning) -> None:
        self.rows, self.log = max(1, rows), log

    def of(self, rows: Rows, work: Callable[[Rows], Result]) -> Iterator[tuple[Rows, Result]]:
        """Each batch of `rows` (a list or an array), and what `work` makes of it; see `each`."""
        return self.each(lambda at: (rows[at], work(rows[at])), len(rows))  # type: ignore[index,arg-type]

    def run(self, work: Callable[[slice], Tensor], n: int) -> Tensor:
        """`work(rows)` on all of n >= 1 rows, the results joined; see `each`."""
        return torch.cat(list(self.each(work, n)))

    def each(self, work: Callable[[slice], Result], n: int) -> Iterator[Result]:
        """`work(rows)` on all of n rows, batch by batch.

        Raises what `work` raises, but out-of-memory only when a single row does not fit."""
        start = 0
        while start < n:
            stop = min(start + self.rows, n)
            try:
                done = work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or stop - start == 1:
                    raise
                self.rows = (stop - start) // 2
            else:
                yield done
                start = stop
                continue
            # said and cleaned up only here, where the error and the tensors that it holds are gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.log(f"out of memory with {stop - start} rows in a batch; going on with {self.rows}")
