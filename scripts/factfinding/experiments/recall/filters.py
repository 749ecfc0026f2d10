"""Who counts as known (P2.1): those whose answer is recalled, less those whose answer their name gives away.

Some names tell their answer to anyone who can read: a city ending in -ville lies in France. A model that knows spelling
alone recalls these without having read of them. The filter `beyond_spelling` leaves out every name whose answer a classifier on
letters gives that was fitted on other names: the regression on character n-grams that is the baseline of the probes in
P2.6 (methods/probes.py), fitted on all names of the table but those of one fold, whatever the model knows of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from factfinding.errors import InputError
from factfinding.known import Rule
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.probes import ProbeSettings, cross_validated
from factfinding.stats import majority_rate, paired_difference, share_interval, stratified_folds
from factfinding.tables import schema_of

FOLDS = 5
NOT_RECALLED, SPELLING = "not recalled", "spelling"
"""Why somebody is left out."""

Hits = Bool[np.ndarray, " subjects"]


def spelling_hits(subjects: pl.DataFrame, *, seed: int) -> Hits:
    """Whether a classifier on a name's letters that was fitted on other names gives its answer.

    subjects: columns subject (no name twice) and answer. Five folds, or as many as the rarest answer has subjects, with
    every answer spread evenly over them. The result is in the order of the table and does not depend on it. Raises
    InputError for an answer of one subject.
    """
    counts = subjects["answer"].value_counts(sort=True)
    answer, fewest = counts.row(-1)
    if fewest < 2:
        found = (
            f"{fewest} subject of the answer {answer!r}, so that no other name tells how such names are spelt"
        )
        raise InputError("recall.beyond_spelling", found, "two subjects or more of each answer")
    order = subjects["subject"].arg_sort().to_numpy()
    labels = np.unique(subjects["answer"].to_numpy()[order], return_inverse=True)[1]
    folds = stratified_folds(labels, n_folds=min(FOLDS, fewest), seed=seed)
    names = subjects["subject"].gather(order).to_list()
    scores = cross_validated(names, [labels], folds, ProbeSettings())[0]
    hits = np.empty(len(order), dtype=bool)
    hits[order] = scores.hits
    return hits


def with_known(recall: pl.DataFrame, spelling: Hits | None) -> pl.DataFrame:
    """The table `recall` with the columns known and left_out (why not; null for the known).

    spelling: whose answers the letters give away (`spelling_hits`); None leaves nobody out for that.
    """
    given_away = pl.lit(False) if spelling is None else pl.Series(spelling)
    left_out = (
        pl.when(~pl.col("full_recalled")).then(pl.lit(NOT_RECALLED)).when(given_away).then(pl.lit(SPELLING))
    )
    return recall.with_columns(known=pl.col("full_recalled") & ~given_away, left_out=left_out)


def known_filters(recall: pl.DataFrame, rule: Rule, spelling: Hits | None, *, seed: int) -> pl.DataFrame:
    """The table `known_filters`: for each filter, and for all subjects and each answer, how many it removes of those before.

    recall: columns answer, full_recalled. spelling: as in `with_known`; its accuracy is of all subjects of the row's
    answer, recalled or not, beside that of always naming the commonest answer of the table.
    """
    recalled = recall["full_recalled"].to_numpy()
    commonest = (recall["answer"] == recall["answer"].mode().sort()[0]).to_numpy()
    above = rule.above if rule.how == "probability" else None
    rows = []
    for answer, own in _groups(recall):
        about = {"filter": "recalled", "rule": rule.how, "above": above, "answer": answer}
        rows.append(about | _counts(own, ~recalled) | _classifier(None, None, None, seed))
    for answer, own in _groups(recall) if spelling is not None else ():
        about = {"filter": "beyond_spelling", "rule": "spelling", "above": None, "answer": answer}
        given = _classifier(spelling[own], commonest[own], majority_rate(recall["answer"]), seed)
        rows.append(about | _counts(own & recalled, spelling) | given)
    return pl.DataFrame(rows, schema=schema_of("known_filters"))


def _groups(recall: pl.DataFrame) -> Iterator[tuple[str, Hits]]:
    yield "all", np.ones(recall.height, dtype=bool)
    for answer in recall["answer"].unique().sort():
        yield answer, (recall["answer"] == answer).to_numpy()


def _counts(before: Hits, removes: Hits) -> dict[str, Any]:
    removed = removes[before]
    share = share_interval(removed) if len(removed) else None
    counts = {"n": len(removed), "removed": int(removed.sum()), "left": int((~removed).sum())}
    return counts | estimate_columns("share", share)


def _classifier(
    hits: Hits | None, commonest: Hits | None, majority: float | None, seed: int
) -> dict[str, Any]:
    """What the classifier on letters is worth; empty columns for another filter."""
    accuracy = None if hits is None else share_interval(hits)
    beyond = None if hits is None else paired_difference(hits, commonest, seed=seed)
    return (
        estimate_columns("accuracy", accuracy)
        | {"n_classified": None if hits is None else len(hits), "majority_rate": majority}
        | estimate_columns("over_majority", beyond)
    )
