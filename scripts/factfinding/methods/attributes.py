"""Attributes of subjects: what several questions about one and the same subject ask for (P1.1, P1.2).

The facts are those of `neurons.facts` (P3.2). A relation is an attribute where enough subjects have it, of answers that are
not rare. The relation whose answers are the study's own (the sport) is the main one. Another *follows* from it where the main
answer alone gives it, held out, for nearly all subjects: it is then no attribute of its own, whatever a probe says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from factfinding.data.folding import folded
from factfinding.inputs import Inputs
from factfinding.known import NOT_DRAWN
from factfinding.stats import stratified_folds


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribute:
    """One relation, and the subjects of whom it is looked at, in the order of their names.

    subjects: columns subject, answer (to this relation), main_answer (to the study's own). labels: the answers as numbers.
    folds: which of the cross-validation each subject is in, random and stratified.
    """

    name: str
    main: bool
    subjects: pl.DataFrame
    labels: Int[np.ndarray, " subjects"]
    folds: Int[np.ndarray, " subjects"]

    @property
    def n_answers(self) -> int:
        return int(self.labels.max()) + 1


def recalled_prompts(inputs: Inputs, subjects: str) -> pl.DataFrame:
    """The prompts (`full`) of `known` subjects or of `all`. Those are known, too, whom only `recall.at_most` leaves out."""
    prompts, recall = inputs.prompts("full"), inputs.table("recall")
    if subjects == "all":
        return prompts
    known = pl.col("known") | (pl.col("left_out") == NOT_DRAWN).fill_null(False)
    return prompts.join(
        recall.filter(known).select("subject"), on="subject", how="semi", maintain_order="left"
    )


def about(facts: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """The facts of subjects who are in the prompts table, by names that may differ in look-alikes."""
    names = {folded(name) for name in prompts["subject"]}
    return facts.filter([folded(name) in names for name in facts["subject"]])


def counted(asked: pl.DataFrame, subjects: str) -> pl.DataFrame:
    """The asked facts that count: `known` ones, or `all` that could be asked."""
    return asked.filter("known" if subjects == "known" else pl.col("left_out").is_null())


def attribute_of(
    asked: pl.DataFrame, relation: str, *, n_folds: int, least: int, seed: int
) -> Attribute | None:
    """One relation of the facts that count; None where fewer than `least` subjects have it, or two answers are not given.

    asked: columns subject, fact, fact_answer, answer (the main one). Answers of fewer than `n_folds` subjects are left out.
    """
    rows = asked.filter(pl.col("fact") == relation).sort("subject")
    common = rows["fact_answer"].value_counts().filter(pl.col("count") >= n_folds)["fact_answer"].to_list()
    rows = rows.filter(pl.col("fact_answer").is_in(common))
    if rows.height < least or len(common) < 2:
        return None
    labels = np.unique(rows["fact_answer"].to_numpy(), return_inverse=True)[1]
    subjects = rows.select("subject", answer="fact_answer", main_answer="answer")
    same = [folded(own) == folded(main or "") for _, own, main in subjects.iter_rows()]
    folds = stratified_folds(labels, n_folds=n_folds, seed=seed)
    return Attribute(name=relation, main=all(same), subjects=subjects, labels=labels, folds=folds)


def told_by(
    given: Sequence[object], labels: Int[np.ndarray, " subjects"], folds: Int[np.ndarray, " subjects"]
) -> Bool[np.ndarray, " subjects"]:
    """Who is right when each subject's label is guessed, held out, from what is given of it alone.

    The guess is the commonest label among those of the other folds with the same; where there are none, of all of them.
    """
    codes = np.unique([str(one) for one in given], return_inverse=True)[1]
    hits = np.zeros(len(labels), dtype=bool)
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        counts = np.zeros((codes.max() + 1, labels.max() + 1))
        np.add.at(counts, (codes[inside], labels[inside]), 1.0)
        counts += 1e-6 * counts.sum(axis=0)  # decides ties, and what was never seen
        hits[outside] = counts[codes[outside]].argmax(axis=1) == labels[outside]
    return hits
