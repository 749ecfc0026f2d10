"""How alike the neurons behind different facts are (P3.2).

Made from the tables `neuron_effects` and `neuron_facts`. A subject and a fact give one vector,
the effect of every lookup neuron. Vectors are compared over neurons by

    pearson, spearman  their correlation: do the same neurons help, and hurt, both facts
    absolute           Pearson's correlation of the absolute effects: do the same neurons matter, in whatever direction
    top_neuron         1 if the neuron of the largest absolute effect is the same, else 0

The baselines are one fact of two *different* subjects, who share what these neurons do to any prompt, and the noise of
the draws, which sets the most that Pearson's correlation could be:

    ceiling = sqrt(r_a r_b),  r = 1 - mean(standard_error^2) / variance of the effects over neurons

r is the reliability that two halves of the draws would show (brought to the full number), known here from the spread of
the draws without splitting them. A correlation well below the ceiling is not low for want of draws.

Beside the pairs of facts stands the mean over all of them, taken in each subject first, so that a subject is resampled
with all his pairs and the mean has an interval of its own. It is no average of the pairs' intervals: a mean over many
pairs is known better than any of them.

All neurons together may hide that facts share neurons in one layer and not in another, as behind a hash. So the mean is
taken over the neurons of each layer alone, too. A layer that does nothing for the facts has a correlation near 1 of what
little there is: effect_concentration says which share of the effects each layer has.

Two facts that follow from each other (each answer of the one goes with one answer of the other, as an answer and its ball)
are one fact in two wordings, and no test of whether different facts share neurons: `follows` tells such pairs apart.

Two facts of one subject that are asked by the same token (a team and a league of one name) are no pair: their effects are
those on one answer. They are left out.

Subjects are what is sampled: intervals are bootstrapped over them. Neurons are not: they are all there are. Only where
a single subject has both facts, as in the study, is the interval one over neurons, and the column says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, combinations_with_replacement

import numpy as np
import polars as pl
from jaxtyping import Float

from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.effect_vectors import ALL, STATISTICS, Vectors, similarity, transformed, vectors
from factfinding.methods.estimates import estimate_columns, estimate_schema
from factfinding.stats import RESAMPLES_OF_PAIRS, Estimate, mean_interval, resample_counts

CHUNK = 2_000_000
"""Counts held at once in a bootstrap over neurons."""
MOST = 40
"""Facts that are compared with one another, at most: those that most subjects have."""

CORRELATIONS = (
    dict.fromkeys(("fact", "other_fact", "layers", "subjects", "kind", "statistic"), pl.String)
    | estimate_schema("value")
    | {"interval": pl.String, "ceiling": pl.Float64, "n": pl.Int64, "n_neurons": pl.Int64}
    | {"follows": pl.Boolean}
)
PAIRS = (
    dict.fromkeys(
        ("pair", "subject", "fact", "answer_token", "other_fact", "other_answer_token", "kind"), pl.String
    )
    | dict.fromkeys(("layer", "neuron"), pl.Int64)
    | dict.fromkeys(("effect", "other_effect"), pl.Float64)
)
SHOWN = 1000
"""Neurons of a pair of facts that are drawn, at most."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `fact_correlations` and `neuron_pairs`."""
    effects = inputs.table("neuron_effects")
    correlations = fact_correlations(effects, inputs.table("neuron_facts"), seed=settings.neurons.seed)
    say(f"{correlations.height} correlations from {effects.height:,} effects")
    for subject, facts, token in asked_by_one_token(effects):
        say(f"{subject}: {', '.join(facts)} are all asked by the token {token!r}, and not paired")
    return {"fact_correlations": correlations, "neuron_pairs": neuron_pairs(effects, correlations)}


def fact_correlations(effects: pl.DataFrame, facts: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Columns fact, other_fact (both `all`: the mean over pairs of facts), layers (`all`, or the one whose neurons are
    compared, for the mean over pairs alone), subjects (`same`: two facts of one subject; `different`: one fact of two
    subjects), kind, statistic (`STATISTICS`), value (mean over subjects, or over pairs of them) with its interval,
    interval (over `subjects` or `neurons`; null where there is none), ceiling (pearson and resampled effects only), n
    (subjects), n_neurons, follows (whether the two facts follow from each other; null but for two facts of one subject).

    facts: the table `neuron_facts`, whose answers say which facts follow from each other.

    Vectors that are constant have no correlation and do not count; of more than `MOST` facts, the rarest do not either.
    Empty when the effects are.
    """
    rows, effects = [], _commonest(effects)
    following = follow_from_each_other(facts)
    for kind in effects["kind"].unique(maintain_order=True):
        found = vectors(effects, kind)
        same, different = {}, {}
        for statistic in STATISTICS:
            alike = _pairs(found, statistic)
            same[ALL, ALL, statistic] = _all_same(found, alike, seed)
            different[ALL, ALL, statistic] = _all_different(found, alike, seed)
            for pair in combinations_with_replacement(dict.fromkeys(found.facts), 2):
                key = (*pair, statistic)
                if pair[0] != pair[1]:
                    same[key] = _same(found, alike, *pair, seed=seed)
                else:
                    different[key] = _different(found, alike, pair[0], seed=seed)
        singles = [key for key, row in same.items() if row and row["n"] == 1 and key[2] != "top_neuron"]
        _neuron_intervals(found, same, singles, seed)
        for subjects, table in (("same", same), ("different", different)):
            for (fact, other, statistic), row in table.items():
                if row is not None:
                    about = {
                        "fact": fact,
                        "other_fact": other,
                        "layers": ALL,
                        "subjects": subjects,
                        "kind": kind,
                    }
                    about |= {"statistic": statistic, "n_neurons": found.effects.shape[1]}
                    about |= {"follows": {fact, other} in following if fact != other else None}
                    rows.append(about | row | ({} if statistic == "pearson" else {"ceiling": None}))
        rows += _layers(effects, kind, seed)
    return pl.DataFrame(rows, schema=CORRELATIONS)


def follow_from_each_other(facts: pl.DataFrame) -> list[set[str]]:
    """Pairs of facts of which each answer of the one goes with one answer of the other, in all subjects who have both.

    A pair counts only if at least two subjects share an answer on average: numbers that nobody shares say nothing.
    """
    wide = facts.pivot(
        "fact", index="subject", values="fact_answer", aggregate_function="first", maintain_order=True
    )
    found = []
    for fact, other in combinations(wide.columns[1:], 2):
        both = wide.select(fact, other).drop_nulls()
        kinds = {both[fact].n_unique(), both[other].n_unique(), both.n_unique()}
        if len(kinds) == 1 and 0 < 2 * max(kinds) <= both.height:
            found.append({fact, other})
    return found


def asked_by_one_token(effects: pl.DataFrame) -> list[tuple[str, list[str], str]]:
    """Subject, facts and token, wherever several facts of one subject are asked by the same token."""
    asked = effects.select("subject", "fact", "answer_token").unique(maintain_order=True)
    grouped = asked.group_by("subject", "answer_token", maintain_order=True).agg("fact")
    several = grouped.filter(pl.col("fact").list.len() > 1)
    return several.select("subject", "fact", "answer_token").rows()


def _pairs(found: Vectors, statistic: str) -> Float[np.ndarray, "vectors vectors"]:
    """How alike each two vectors are; NaN for those that are no pair of facts."""
    alike = similarity(found.effects, statistic)
    alike[found.one_answer] = np.nan
    return alike


def _commonest(effects: pl.DataFrame) -> pl.DataFrame:
    """The effects on the `MOST` facts that most subjects have, in their order."""
    counts = effects.group_by("fact", maintain_order=True).agg(pl.col("subject").n_unique())
    kept = counts.sort("subject", descending=True, maintain_order=True).head(MOST)
    return effects.join(kept.select("fact"), on="fact", how="semi", maintain_order="left")


def _same(found: Vectors, alike: np.ndarray, fact: str, other: str, *, seed: int) -> dict | None:
    """Two facts of one subject, averaged over subjects; None where no subject has both."""
    of = {found.subjects[row]: row for row in found.rows(other)}
    pairs = [(row, of[found.subjects[row]]) for row in found.rows(fact) if found.subjects[row] in of]
    pairs = [(i, j) for i, j in pairs if not np.isnan(alike[i, j])]
    if not pairs:
        return None
    i, j = np.array(pairs).T
    value = mean_interval(alike[i, j], seed=seed)
    about = {"interval": "subjects" if value.n > 1 else None, "ceiling": _ceiling(found, i, j), "n": value.n}
    return estimate_columns("value", value) | about


def _different(found: Vectors, alike: np.ndarray, fact: str, *, seed: int) -> dict | None:
    """One fact of two subjects, averaged over pairs of them; None where there is no pair."""
    rows = found.rows(fact)
    matrix = alike[np.ix_(rows, rows)]
    np.fill_diagonal(matrix, np.nan)
    i, j = np.nonzero(~np.isnan(matrix))
    if not len(i):
        return None
    return _between(matrix, _ceiling(found, rows[i], rows[j]), seed)


def _over_pairs(matrix: Float[np.ndarray, "people people"], n: int, seed: int) -> Estimate:
    """The mean over the pairs that are there (not NaN); people are resampled, and with them all their pairs."""
    there, people = ~np.isnan(matrix), len(matrix)
    counts = next(resample_counts(people, np.random.default_rng(seed), RESAMPLES_OF_PAIRS))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = ((counts @ np.where(there, matrix, 0.0)) * counts).sum(axis=1)
        drawn = total / ((counts @ there) * counts).sum(axis=1)
    drawn = drawn[~np.isnan(drawn)]
    low, high = (np.nan, np.nan)
    if n > 2 and 2 * len(drawn) >= RESAMPLES_OF_PAIRS:
        low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return Estimate(value=float(matrix[there].mean()), low=low, high=high, n=n)


def _layers(effects: pl.DataFrame, kind: str, seed: int) -> Iterator[dict]:
    """The same over the neurons of one layer: means over pairs of facts, and over facts."""
    for layer in effects["layer"].unique().sort().to_list():
        found = vectors(effects.filter(layer=layer), kind)
        for statistic in STATISTICS:
            alike = _pairs(found, statistic)
            same, different = _all_same(found, alike, seed), _all_different(found, alike, seed)
            for subjects, row in (("same", same), ("different", different)):
                about = {"fact": ALL, "other_fact": ALL, "layers": str(layer), "subjects": subjects}
                about |= {"kind": kind, "statistic": statistic, "n_neurons": found.effects.shape[1]}
                if row is not None:
                    yield about | row | ({} if statistic == "pearson" else {"ceiling": None})


def _all_same(found: Vectors, alike: np.ndarray, seed: int) -> dict | None:
    """Each subject's mean over pairs of his facts, averaged over subjects."""
    person = found.people
    i, j = np.nonzero(np.triu(person[:, None] == person, 1) & ~np.isnan(alike))
    if not len(i):
        return None
    pairs = np.bincount(person[i])
    means = np.bincount(person[i], alike[i, j])[pairs > 0] / pairs[pairs > 0]
    value = mean_interval(means, seed=seed)
    about = {"interval": "subjects" if value.n > 1 else None, "ceiling": _ceiling(found, i, j), "n": value.n}
    return estimate_columns("value", value) | about


def _all_different(found: Vectors, alike: np.ndarray, seed: int) -> dict | None:
    """Each two subjects' mean over the facts that both have, averaged over pairs of subjects."""
    person, fact = found.people, np.array(found.facts)
    i, j = np.nonzero((person[:, None] != person) & (fact[:, None] == fact) & ~np.isnan(alike))
    if not len(i):
        return None
    total, count = np.zeros((2, person.max() + 1, person.max() + 1))
    np.add.at(total, (person[i], person[j]), alike[i, j])
    np.add.at(count, (person[i], person[j]), 1)
    matrix = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return _between(matrix, _ceiling(found, i, j), seed)


def _between(matrix: Float[np.ndarray, "people people"], ceiling: float | None, seed: int) -> dict:
    value = _over_pairs(matrix, int((~np.isnan(matrix)).any(axis=1).sum()), seed)
    interval = None if np.isnan(value.low) else "subjects"
    return estimate_columns("value", value) | {"interval": interval, "ceiling": ceiling, "n": value.n}


def _ceiling(found: Vectors, i: np.ndarray, j: np.ndarray) -> float | None:
    ceiling = np.sqrt(found.reliability[i] * found.reliability[j]).mean()
    return None if np.isnan(ceiling) else float(ceiling)


def _neuron_intervals(found: Vectors, same: dict, singles: Sequence[tuple], seed: int) -> None:
    """Intervals over neurons for pairs of facts that one subject has, and for the mean over them where nobody else has
    two facts: all of them share the resampled neurons."""
    if not singles:
        return
    keys, means = ([key for key in singles if (key[0] == ALL) == mean] for mean in (False, True))
    pairs = [_pair_of(found, *key[:2]) for key in keys]
    x, y = (
        np.stack(
            [
                transformed(found.effects[[pair[side]]], key[2])[0]
                for pair, key in zip(pairs, keys, strict=True)
            ]
        )
        for side in (0, 1)
    )
    drawn = np.concatenate(list(_resampled_correlations(x, y, seed)))
    averaged = [drawn[:, [key[2] == statistic for key in keys]].mean(axis=1) for *_, statistic in means]
    bounds = np.nanquantile(np.column_stack([drawn, *averaged]), (0.025, 0.975), axis=0).T
    for key, (low, high) in zip([*keys, *means], bounds.tolist(), strict=True):
        same[key] |= {"value_low": low, "value_high": high, "interval": "neurons"}


def _pair_of(found: Vectors, fact: str, other: str) -> tuple[int, int]:
    """The vectors of two facts that exactly one subject has as a pair."""
    of, apart = {found.subjects[row]: row for row in found.rows(other)}, ~found.one_answer
    pairs = ((row, of[found.subjects[row]]) for row in found.rows(fact) if found.subjects[row] in of)
    return next(pair for pair in pairs if apart[pair])


def _resampled_correlations(x: np.ndarray, y: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Pearson's correlation of each row of x with that of y over resampled columns, some resamples at a time."""
    n, rng = x.shape[1], np.random.default_rng(seed)
    x, y = (
        (v - v.mean(1, keepdims=True)) / np.maximum(v.std(1, keepdims=True), np.finfo(float).tiny)
        for v in (x, y)
    )
    sums = [part.T.copy() for part in (x, y, x * x, y * y, x * y)]
    for counts in resample_counts(n, rng, RESAMPLES_OF_PAIRS, at_once=CHUNK // n):
        mx, my, xx, yy, xy = (counts / n @ part for part in sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            yield (xy - mx * my) / np.sqrt((xx - mx**2) * (yy - my**2))


def neuron_pairs(effects: pl.DataFrame, correlations: pl.DataFrame) -> pl.DataFrame:
    """The effects behind the two pairs of facts that are most and least alike (Pearson, resampled where there are
    draws), in the first subject who has both: columns pair (most, least), subject, fact, answer_token, other_fact,
    other_answer_token, kind, layer, neuron, effect, other_effect; of more than `SHOWN` neurons those that matter most to either
    fact. For the eye.
    """
    found = [pl.DataFrame(schema=PAIRS)]
    alike = correlations.filter(pl.col("fact") != ALL, subjects="same", statistic="pearson")
    alike = alike.sort("value", descending=True)
    alike = alike.filter(kind="resample_other") if "resample_other" in alike["kind"] else alike
    for pair, row in zip(("most", "least"), (alike.head(1), alike.tail(1)), strict=True):
        for fact, other in row.select("fact", "other_fact").iter_rows():
            on = ["subject", "layer", "neuron", "kind"]
            one, two = (
                effects.filter(pl.col("fact") == name).select(*on, "answer_token", "effect")
                for name in (fact, other)
            )
            two = two.rename({"effect": "other_effect", "answer_token": "other_answer_token"})
            both = one.join(two, on=on, maintain_order="left")
            both = both.filter(pl.col("answer_token") != pl.col("other_answer_token"))
            both = both.filter(pl.col("subject") == both["subject"][0])
            largest = pl.max_horizontal(pl.col("effect").abs(), pl.col("other_effect").abs())
            for kind in both["kind"].unique(maintain_order=True):
                part = both.filter(pl.col("kind") == kind).top_k(SHOWN, by=largest).sort("layer", "neuron")
                named = part.with_columns(pair=pl.lit(pair), fact=pl.lit(fact), other_fact=pl.lit(other))
                found.append(named.select(list(PAIRS)).cast(PAIRS))
    return pl.concat(found)
