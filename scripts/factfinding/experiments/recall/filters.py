"""Who counts as known (P2.1): those whose answer is recalled, less those whose answer their name gives away, and of the
rest as many as are asked for.

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
from factfinding.known import NOT_DRAWN, Rule
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.probes import ProbeSettings, cross_validated
from factfinding.stats import in_turn, majority_rate, paired_difference, share_interval, stratified_folds
from factfinding.tables import schema_of

FOLDS = 5
NOT_RECALLED, SPELLING = "not recalled", "spelling"
"""Why somebody is left out, beside `NOT_DRAWN`."""

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


def drawn_evenly(answers: pl.Series, able: Hits, most: int, *, seed: int) -> Hits:
    """At most `most` of those who are `able`, drawn: as many of each answer, or all of it where it has fewer."""
    order = np.random.default_rng(seed).permutation(len(able))
    drawn = np.zeros(len(able), dtype=bool)
    drawn[in_turn(order[able[order]], answers.to_numpy(), most)] = True
    return drawn


def with_known(
    recall: pl.DataFrame, spelling: Hits | None = None, *, at_most: int | None = None, seed: int = 0
) -> pl.DataFrame:
    """The table `recall` with the columns known and left_out (why not; null for the known).

    spelling: whose answers the letters give away (`spelling_hits`); None leaves nobody out for that. at_most: how many stay
    (`drawn_evenly`); None: all.
    """
    recalled = recall["full_recalled"].to_numpy()
    given_away = np.zeros(len(recalled), dtype=bool) if spelling is None else spelling
    able = recalled & ~given_away
    known = able if at_most is None else drawn_evenly(recall["answer"], able, at_most, seed=seed)
    why = np.select([~recalled, given_away, ~known], [NOT_RECALLED, SPELLING, NOT_DRAWN], "")
    return recall.with_columns(
        known=pl.Series(known), left_out=pl.Series(why).replace("", None).cast(pl.String)
    )


def known_filters(recall: pl.DataFrame, rule: Rule, spelling: Hits | None, *, seed: int) -> pl.DataFrame:
    """The table `known_filters`: for each filter, and for all subjects and each answer, how many it removes of those before.

    recall: with the columns of `with_known`. spelling: as there; its accuracy is of all subjects of the row's
    answer, recalled or not, beside that of always naming the commonest answer of the table.
    """
    left_out, groups = recall["left_out"].fill_null("").to_numpy(), list(_groups(recall))
    commonest = (recall["answer"] == recall["answer"].mode().sort()[0]).to_numpy()
    above = rule.above if rule.how == "probability" else None
    filters = [("recalled", rule.how, above, NOT_RECALLED)]
    filters += [("beyond_spelling", "spelling", None, SPELLING)] if spelling is not None else []
    filters += [("at_most", "drawn", None, NOT_DRAWN)] if NOT_DRAWN in left_out else []
    rows, before = [], np.ones(len(left_out), dtype=bool)
    for name, how, threshold, why in filters:
        removed = left_out == why
        for answer, own in groups:
            about = {"filter": name, "rule": how, "above": threshold, "answer": answer}
            worth = _classifier(None, None, None, seed)
            if spelling is not None and why == SPELLING:
                worth = _classifier(spelling[own], commonest[own], majority_rate(recall["answer"]), seed)
            rows.append(about | _counts(own & before, removed) | worth)
        before = before & ~removed
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
