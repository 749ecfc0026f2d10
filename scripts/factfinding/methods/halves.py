"""Subjects in two halves: heads are chosen on one and scored on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from factfinding.stats import stratified_folds


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Subjects' answers as indices, and which of them heads are chosen on; the others are scored."""

    labels: Int[np.ndarray, " subjects"]
    choosing: Bool[np.ndarray, " subjects"]

    @property
    def scored(self) -> Int[np.ndarray, scored]:
        """Answers of the subjects that are scored."""
        return self.labels[~self.choosing]


def halve(subjects: pl.DataFrame, answers: Sequence[str], *, seed: int) -> Halves | None:
    """Two halves, every answer evenly split, the same whatever the order of the table (columns subject, answer).

    None where there are no two answers with two subjects each: then there is nothing to choose or to score.
    """
    counts = subjects["answer"].value_counts()["count"]
    if len(counts) < 2 or counts.min() < 2:
        return None
    labels = np.array([answers.index(answer) for answer in subjects["answer"]])
    by_name = subjects["subject"].arg_sort().to_numpy()
    choosing = np.empty(len(labels), dtype=bool)
    choosing[by_name] = stratified_folds(labels[by_name], n_folds=2, seed=seed) == 0
    return Halves(labels=labels, choosing=choosing)
