"""Sites patched from another prompt's run, one position at a time (P2.7).

index = patching_index(prompts, pairs=[(0, 7), (1, 4)], sites=["resid_pre:0", "mlp_out:3", "L3H2"])
sweep = patching_sweep(anatomy, prompts, index, engine=Suffix(anatomy), model=digest, folder=shards)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from factfinding.engine import trace
from factfinding.engine.batches import Batches, Log
from factfinding.engine.clean import Clean, activation, prepare
from factfinding.engine.readings import Logits
from factfinding.engine.shards import TableShards, first_batch
from factfinding.engine.sites import check, parse
from factfinding.engine.suffix import Edits, edit
from factfinding.engine.sweep import Engine, Progress, Sweep, against_twin, check_index, context_of, in_pieces
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy


def patching_index(
    prompts: pl.DataFrame, pairs: Iterable[tuple[int, int]], sites: Iterable[str]
) -> pl.DataFrame:
    """Each site at every position of each (prompt, donor) pair, with the position's role in the prompt."""
    rows = [
        {"prompt": prompt, "donor": donor, "site": site, "position": position, "role": role}
        for prompt, donor in pairs
        for site in sites
        for position, role in enumerate(prompts["roles"][prompt])
    ]
    return pl.DataFrame(rows)


def patching_sweep(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    index: pl.DataFrame,
    *,
    engine: Engine,
    model: str,
    folder: Path | None = None,
    pairs_per_piece: int = 32,
    seed: int = 0,
    twin_rows: int = 16,
    log: Log = print,
    progress: Progress = lambda done, total: None,
) -> Sweep:
    """Patch a site at one position from another prompt's run; effect = change of the logit difference (P2.7).

    index: prompt and donor (rows of `prompts`, of one length), site (an address without role, such as
    resid_pre:3, mlp_out:3 or L3H2) and position. The logit difference is the prompt's answer minus the
    donor's. Raises InputError as `neuron_sweep` does, and for a pair of different lengths.
    """
    check_index(index, prompts, {})
    for site in index["site"].unique():
        check(parse(site), anatomy)
    index = _numbered_pieces(index, prompts, pairs_per_piece)
    job = _Patching(anatomy, prompts, engine, log)
    shards = TableShards(folder, context_of(__file__, engine, model, anatomy), log)
    table = in_pieces(index, ["piece"], shards, job, progress).drop("piece")
    return Sweep(table=table, twin=against_twin(anatomy, table, job.twin, twin_rows, seed, log))


def _numbered_pieces(index: pl.DataFrame, prompts: pl.DataFrame, size: int) -> pl.DataFrame:
    """Index rows with the number of their piece: at most `size` pairs, all of one length."""
    lengths = prompts["n_tokens"].to_list()
    pairs = index.select("prompt", "donor").unique(maintain_order=True).rows()
    seen: dict[int, int] = {}
    pieces = []
    for prompt, donor in pairs:
        length = lengths[prompt]
        if lengths[donor] != length:
            found = f"{length} and {lengths[donor]} tokens"
            raise InputError(f"index, prompt {prompt} and donor {donor}", found, "two prompts of one length")
        pieces.append(f"{length}.{seen.get(length, 0) // size}")
        seen[length] = seen.get(length, 0) + 1
    table = pl.DataFrame(pairs, schema=["prompt", "donor"], orient="row").with_columns(
        pl.Series("piece", pieces)
    )
    return index.join(table, on=["prompt", "donor"], how="left", maintain_order="left")


def _pairs(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("prompt", "donor").unique(maintain_order=True)


def _with_pair(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Rows with the number of their pair within the piece."""
    return rows.join(pairs.with_row_index("pair"), on=["prompt", "donor"], how="left", maintain_order="left")


def _rows(many: list[Edits], part: slice) -> list[Edits]:
    """A slice of the rows of several edits, counted through."""
    found, before = [], 0
    for edits in many:
        start, stop = (min(max(i - before, 0), len(edits.prompt)) for i in (part.start, part.stop))
        if start < stop:
            found.append(edits.take(slice(start, stop)))
        before += len(edits.prompt)
    return found


class _Patching:
    """One piece of a patching sweep: some pairs of one length, all their sites and positions."""

    def __init__(self, anatomy: Anatomy, prompts: pl.DataFrame, engine: Engine, log: Log) -> None:
        self.anatomy, self.prompts, self.engine = anatomy, prompts, engine
        self.batches = Batches(first_batch(anatomy, int(prompts["n_tokens"].max())), log)

    def depends_on(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
        pairs = _pairs(rows)
        told = self.prompts.select("token_ids", "target", "end")
        contents = [repr(told[pairs[name].to_list()].rows()) for name in ("prompt", "donor")]
        return _with_pair(rows, pairs).drop("prompt", "donor", "piece"), contents

    def _run(self, rows: list[int], start: int) -> Clean:
        tokens = torch.tensor(self.prompts["token_ids"][rows].to_list(), device=self.anatomy.device)
        return prepare(self.anatomy, tokens, start=start)

    def compute(self, rows: pl.DataFrame) -> pl.DataFrame:
        pairs = _pairs(rows)
        start = rows["position"].min()
        clean, donor = (self._run(pairs[name].to_list(), start) for name in ("prompt", "donor"))
        tokens = torch.tensor(
            [self.prompts["target"][pairs[name].to_list()].to_list() for name in pairs.columns]
        ).T
        which = (
            _with_pair(rows, pairs)
            .with_columns(pl.Series("end", self.prompts["end"][rows["prompt"].to_list()]))
            .with_row_index("row")
        )
        effects = np.empty(rows.height)
        for (at, end), group in which.group_by("position", "end", maintain_order=True):
            edits, order = self._edits(clean, donor, group, at)
            reading = Logits(at=end, tokens=tokens)

            def work(part: slice, edits=edits, reading=reading) -> Tensor:
                return torch.cat(self.engine.joint_effects(clean, _rows(edits, part), reading))

            change = self.batches.run(work, len(order)).double().cpu().numpy()
            effects[order] = change[:, 0] - change[:, 1]
        return pl.DataFrame({"effect": effects})

    def _edits(
        self, clean: Clean, donor: Clean, group: pl.DataFrame, at: int
    ) -> tuple[list[Edits], list[int]]:
        """The edits of each layer and kind (its heads, say) as one, in the order in which they enter, and where
        their rows belong.
        """
        parts: dict[tuple[int, str, int], list[tuple[Edits, list[int]]]] = {}
        for (site,), rows in group.group_by("site", maintain_order=True):
            pair = torch.tensor(rows["pair"].to_list(), device=self.anatomy.device)
            value = activation(self.anatomy, donor, parse(site), at)[pair]
            made = edit(self.anatomy, clean, parse(site), at=at, prompt=pair, value=value)
            key = (made.enters, made.kind, made.layer)
            parts.setdefault(key, []).append((made, rows["row"].to_list()))
        edits, order = [], []
        for key in sorted(parts):
            made, places = zip(*parts[key], strict=True)
            joined = {name: torch.cat([getattr(part, name) for part in made]) for name in ("prompt", "delta")}
            edits.append(replace(made[0], **joined))
            order += [row for rows in places for row in rows]
        return edits, order

    def twin(self, anatomy: Anatomy, row: dict) -> float:
        """The same effect by hooks on whole prompts, the donor's value read from its own run."""
        own, other = (
            torch.tensor([self.prompts["token_ids"][row[name]].to_list()], device=anatomy.device)
            for name in ("prompt", "donor")
        )
        at, end = (
            torch.tensor([p], device=anatomy.device)
            for p in (row["position"], self.prompts["end"][row["prompt"]])
        )
        value = trace.run(anatomy, other, reads=[trace.Read(site=parse(row["site"]), at=at)]).values[0]
        edits = [trace.Edit(site=parse(row["site"]), at=at, value=value)]
        change = (
            trace.run(anatomy, own, logits_at=end, edits=edits).logits
            - trace.run(anatomy, own, logits_at=end).logits
        )
        answers = (self.prompts["target"][row[name]] for name in ("prompt", "donor"))
        first, second = (float(change[0, token]) for token in answers)
        return first - second
