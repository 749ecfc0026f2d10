"""Athletes in two halves: heads are chosen on one and scored on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from factfinding.stats import stratified_folds


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Athletes' sports as indices, and which of them heads are chosen on; the others are scored."""

    labels: Int[np.ndarray, " athletes"]
    choosing: Bool[np.ndarray, " athletes"]

    @property
    def scored(self) -> Int[np.ndarray, scored]:
        """Sports of the athletes that are scored."""
        return self.labels[~self.choosing]


def halve(athletes: pl.DataFrame, sports: Sequence[str], *, seed: int) -> Halves | None:
    """Two halves, every sport evenly split, the same whatever the order of the table (columns athlete, sport).

    None where there are no two sports with two athletes each: then there is nothing to choose or to score.
    """
    counts = athletes["sport"].value_counts()["count"]
    if len(counts) < 2 or counts.min() < 2:
        return None
    labels = np.array([sports.index(sport) for sport in athletes["sport"]])
    by_name = athletes["athlete"].arg_sort().to_numpy()
    choosing = np.empty(len(labels), dtype=bool)
    choosing[by_name] = stratified_folds(labels[by_name], n_folds=2, seed=seed) == 0
    return Halves(labels=labels, choosing=choosing)
