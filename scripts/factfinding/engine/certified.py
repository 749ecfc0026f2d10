"""Differences whose effects are checked: some of all rows that were run, drawn, are run again by values.

    engine = certified(anatomy, settings.compute, seed=0)       # values, or differences that are checked
    ...
    table = against_values("mlp_paths_twin", engine, say)       # how far the drawn rows lie from values

The drawn rows are kept with their prompt and what was read of them. In the end they are run by values in float64 where that
fits into memory. What a row adds, or writes instead, is taken as it was given: it is the run that is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.config import ComputeConfig
from factfinding.engine.clean import Clean, prepare
from factfinding.engine.difference import Difference
from factfinding.engine.engines import engine_of
from factfinding.engine.readings import Logits, LogProbs, Reading, clean_values
from factfinding.engine.replaced import Replaced
from factfinding.engine.suffix import Edits, Suffix
from factfinding.engine.sweep import Engine, distance, in_float64
from factfinding.inputs import Say
from factfinding.model.anatomy import Anatomy
from factfinding.tables import empty, schema_of

KINDS = {Logits: "logits", LogProbs: "log_probs"}
"""What else is read is the residual stream."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """A row that was run, alone with its prompt: what was done to it, what was read, and the effect that was found."""

    tokens: Tensor
    start: int
    done: Edits | Replaced
    reading: Reading
    effect: Float[Tensor, " k"]

    def again(self, anatomy: Anatomy) -> Float[np.ndarray, " k"]:
        """The effect by values, in the precision of this model."""
        clean, suffix = prepare(anatomy, self.tokens, start=self.start), Suffix(anatomy)
        if isinstance(self.done, Edits):
            done = replace(self.done, delta=self.done.delta.to(anatomy.dtype))
            return suffix.effects(clean, done, self.reading)[0].double().cpu().numpy()
        after = suffix.replaced(clean, self.done, [self.reading])[0]
        return (after - clean_values(anatomy, clean, self.reading))[0].double().cpu().numpy()


class Sample:
    """At most `size` of all rows that come by, each as likely as any other, and the largest effect among all of them."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.rng = size, np.random.default_rng(seed)
        self.kept: list[Kept] = []
        self.seen, self.largest = 0, 0.0

    def places(self, n: int) -> list[tuple[int, int]]:
        """Of the next `n` rows: those that are drawn, each with the place that it takes."""
        order = self.seen + np.arange(1, n + 1)
        drawn = np.flatnonzero(self.rng.random(n) * order < self.size)
        self.seen += n
        return [
            (row, int(order[row]) - 1 if order[row] <= self.size else int(self.rng.integers(self.size)))
            for row in drawn.tolist()
        ]

    def put(self, place: int, kept: Kept) -> None:
        if place < len(self.kept):
            self.kept[place] = kept
        else:
            self.kept.append(kept)


class Certified(Difference):
    """Differences of which `rows` rows, drawn, are kept to be checked."""

    def __init__(self, anatomy: Anatomy, product: str, *, rows: int, seed: int) -> None:
        super().__init__(anatomy, product)
        self.rows, self.seed = rows, seed
        self.samples: dict[str, Sample] = {}

    def joint_effects(
        self, clean: Clean, many: Sequence[Edits], reading: Reading
    ) -> list[Float[Tensor, "rows k"]]:
        found = super().joint_effects(clean, many, reading)
        for edits, effects in zip(many, found, strict=True):
            moves = (edits.delta != 0).any(1).nonzero()[:, 0].tolist()
            self._keep(clean, edits, reading, effects, moves)
        return found

    def replaced_effects(
        self, clean: Clean, outputs: Replaced, readings: Sequence[Reading]
    ) -> list[Float[Tensor, "rows k"]]:
        found = super().replaced_effects(clean, outputs, readings)
        written = [one.rows for part in (outputs.attn, outputs.mlp) for one in part.values()]
        moves = torch.cat(written).unique().tolist() if written else []
        for reading, effects in zip(readings, found, strict=True):
            self._keep(clean, outputs, reading, effects, moves)
        return found

    def _keep(
        self, clean: Clean, done: Edits | Replaced, reading: Reading, effects: Tensor, moves: Sequence[int]
    ) -> None:
        """Some of the rows that change something."""
        if not self.rows or not moves:
            return
        kind = KINDS.get(type(reading), "resid")
        sample = self.samples.setdefault(kind, Sample(self.rows, self.seed))
        sample.largest = max(sample.largest, float(effects.abs().max()))
        for row, place in sample.places(len(moves)):
            sample.put(place, _kept(clean, done, reading, effects, moves[row]))


def _kept(clean: Clean, done: Edits | Replaced, reading: Reading, effects: Tensor, row: int) -> Kept:
    own = done.take(slice(row, row + 1)) if isinstance(done, Edits) else done.take(row)
    prompt = int(own.prompt[0])
    tokens = getattr(reading, "tokens", None)
    if tokens is not None and tokens.ndim == 2:
        reading = replace(reading, tokens=tokens[prompt : prompt + 1])
    return Kept(
        tokens=clean.tokens[prompt : prompt + 1], start=clean.start, done=replace(own, prompt=own.prompt * 0),
        reading=reading, effect=effects[row].double().cpu(),
    )  # fmt: skip


def certified(anatomy: Anatomy, compute: ComputeConfig, *, seed: int) -> Engine:
    """The engine that `compute.engine` and `compute.products` ask for. Raises as `engine_of`."""
    checked = partial(Certified, rows=compute.twin_rows, seed=seed)
    return engine_of(anatomy, compute.engine, compute.products, differences=checked)


def against_values(table: str, engine: Engine, say: Say) -> pl.DataFrame:
    """The table of that name: how far the effects of an engine lie from values. Empty for values themselves, and where no
    row was kept."""
    if not isinstance(engine, Certified) or not engine.samples:
        return empty(table)
    slow, rows = in_float64(engine.anatomy, say), []
    for kind, sample in engine.samples.items():
        found = np.concatenate([one.effect.numpy() for one in sample.kept])
        truth = np.concatenate([one.again(slow) for one in sample.kept])
        about = {"reading": kind, "engine": engine.name, "rows": len(sample.kept)}
        about["dtype"] = str(slow.dtype).removeprefix("torch.")
        rows.append(about | distance(found, truth, largest=sample.largest))
        say("against values: " + ", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    return pl.DataFrame(rows, schema=schema_of(table))
