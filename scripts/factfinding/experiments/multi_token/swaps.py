"""One attribute's subspace replaced by a donor's at the final name token, and every question asked (P1.1).

A subject has one donor, with a name of as many tokens, who differs from it in as many attributes as possible. After the stated
layer the component in a subspace is replaced by that of the donor under the same question:

    probe     the span of an attribute's probe, of the folds that have not seen the subject
    random    a random subspace with as many dimensions: the baseline
    whole     everything: what replacing the attribute can do at most

What is asked of a cell, attribute by question, is asked of pairs that differ in both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int

from factfinding.engine.clean import prepare
from factfinding.engine.readings import Logits, clean_values
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit
from factfinding.engine.tokens import tokens_of
from factfinding.experiments.multi_token.subspaces import Basis, Subspaces, random_basis
from factfinding.methods.attributes import told_by
from factfinding.methods.estimates import accuracy_estimate, estimate_columns
from factfinding.methods.groups import Group, groups_of, in_batches
from factfinding.methods.name_stream import name_outputs
from factfinding.model.anatomy import Anatomy
from factfinding.stats import Estimate, majority_rate, mean_interval, paired_difference, share_interval
from factfinding.tables import empty, schema_of

PROBE, RANDOM, WHOLE = "probe", "random", "whole"
EACH = "all"
"""In the column `attribute`: everything is replaced, and no attribute alone."""
Key = tuple[str, str]
"""(attribute, subspace): what is replaced."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The subjects that are swapped, by their rows in `names`, and the row of each one's donor. labels: each attribute's answer
    of everybody, as a number; -1: not known."""

    names: list[str]
    labels: dict[str, Int[np.ndarray, " subjects"]]
    donor: Int[np.ndarray, " subjects"]
    sampled: Int[np.ndarray, " sampled"]

    def differ(self, attribute: str) -> Bool[np.ndarray, " subjects"]:
        """Of whom the attribute is known, and another than the donor's."""
        own = self.labels[attribute]
        other = own[self.donor]
        return (own >= 0) & (other >= 0) & (own != other) & (self.donor >= 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """Answers of the sampled subjects to one question, as tokens, by what was replaced; -1 where it was not.

    own, donor: the right answers' tokens; before: what is said when nothing is replaced."""

    own: Int[np.ndarray, " subjects"]
    donor: Int[np.ndarray, " subjects"]
    before: Int[np.ndarray, " subjects"]
    after: dict[Key, Int[np.ndarray, " subjects"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Swapped:
    """All questions' answers, and who was swapped with whom."""

    pairs: Pairs
    by_question: dict[str, Said]


def pair_up(
    spans: Sequence[Subspaces], lengths: Mapping[str, int], *, subjects: int, rng: np.random.Generator
) -> Pairs:
    """A donor for everybody: of those whose name has as many tokens, one who differs in most attributes, drawn. At most
    `subjects` are swapped, those of whom most attributes are known."""
    names = sorted({name for one in spans for name in one.attribute.subjects["subject"]})
    row_of, labels = {name: row for row, name in enumerate(names)}, {}
    for one in spans:
        own = np.full(len(names), -1)
        own[[row_of[name] for name in one.attribute.subjects["subject"]]] = one.attribute.labels
        labels[one.attribute.name] = own
    table, length = np.stack(list(labels.values())), np.array([lengths[name] for name in names])
    donor = np.full(len(names), -1)
    for row in range(len(names)):
        own = table[:, [row]]
        apart = ((own >= 0) & (table >= 0) & (own != table)).sum(axis=0)
        apart[length != length[row]] = 0
        best = np.flatnonzero(apart == apart.max())
        donor[row] = rng.choice(best) if apart.max() else -1
    able = rng.permutation(np.flatnonzero(donor >= 0))
    most = able[np.argsort(-(table[:, able] >= 0).sum(axis=0), kind="stable")]
    return Pairs(names=names, labels=labels, donor=donor, sampled=np.sort(most[:subjects]))


def swapped(
    anatomy: Anatomy,
    facts: pl.DataFrame,
    spans: Sequence[Subspaces],
    *,
    layer: int,
    subjects: int,
    batch_size: int,
    seed: int,
) -> Swapped:
    """Every question asked with every subspace replaced. facts: those that count, as prompts (data/fact_prompts.py)."""
    rng = np.random.default_rng(seed)
    lengths = dict(facts.select("subject", "n_name_tokens").iter_rows())
    pairs = pair_up(spans, lengths, subjects=subjects, rng=rng)
    random = {one.attribute.name: random_basis(anatomy.d_model, one.dimensions, rng) for one in spans}
    needed, found = [pairs.names[row] for row in {*pairs.sampled, *pairs.donor[pairs.sampled]}], {}
    for one in spans:
        known = facts.filter(pl.col("fact") == one.attribute.name)
        prompts = known.filter(pl.col("subject").is_in(needed)).sort("subject")
        prompts = prompts.with_columns(roles=pl.Series([[]] * prompts.height, dtype=pl.List(pl.String)))
        found[one.attribute.name] = _asked(
            anatomy, prompts, known["target"].unique().sort().to_numpy(), spans, pairs, random, layer=layer,
            batch_size=batch_size,
        )  # fmt: skip
    return Swapped(pairs=pairs, by_question=found)


def _asked(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    tokens: Int[np.ndarray, " answers"],
    spans: Sequence[Subspaces],
    pairs: Pairs,
    random: Mapping[str, Basis],
    *,
    layer: int,
    batch_size: int,
) -> Said:
    """One question, of those sampled subjects who know its answer, as their donors do. prompts: of all of these; tokens: of
    the answers that may be given."""
    groups, n = groups_of(prompts), len(pairs.names)
    resid = name_outputs(anatomy, prompts, groups, batch_size=batch_size).resid[:, layer].double().numpy()
    place = np.full(n + 1, -1)  # of a subject in the prompts table; of nobody: -1
    row_of = {name: row for row, name in enumerate(pairs.names)}
    who = np.array([row_of.get(name, -1) for name in prompts["subject"]])
    place[who[who >= 0]] = np.flatnonzero(who >= 0)
    able = pairs.sampled[(place[pairs.sampled] >= 0) & (place[pairs.donor[pairs.sampled]] >= 0)]
    difference = np.zeros_like(resid)
    difference[place[able]] = resid[place[pairs.donor[able]]] - resid[place[able]]
    values = dict(_replaced(resid, difference, place, able, spans, pairs, random))
    targets = prompts["target"].to_numpy()
    said = Said(
        own=np.full(n, -1), donor=np.full(n, -1), before=np.full(n, -1),
        after={key: np.full(n, -1) for key in values},
    )  # fmt: skip
    said.own[able], said.donor[able] = targets[place[able]], targets[place[pairs.donor[able]]]
    asked = [Group(layout=group.layout, rows=np.intersect1d(group.rows, place[able])) for group in groups]
    ids = torch.tensor(tokens.tolist(), device=anatomy.device)

    def run(group: Group, rows: Int[np.ndarray, " batch"]) -> dict[Key | None, np.ndarray]:
        clean = prepare(anatomy, tokens_of(prompts, rows, anatomy.device), start=group.layout.final_name)
        reading, site = Logits(at=group.layout.end, tokens=ids), Site("resid_post", layer)
        answers: dict[Key | None, np.ndarray] = {None: clean_values(anatomy, clean, reading)}
        everyone = torch.arange(len(rows), device=anatomy.device)
        for key, value in values.items():
            new = torch.from_numpy(value[rows]).to(anatomy.device, anatomy.dtype)
            edits = edit(anatomy, clean, site, at=group.layout.final_name, prompt=everyone, value=new)
            answers[key] = Suffix(anatomy).values(clean, edits, reading)
        return {key: tokens[logits.argmax(dim=1).cpu().numpy()] for key, logits in answers.items()}

    for rows, answers in in_batches([group for group in asked if len(group.rows)], batch_size, run):
        said.before[who[rows]] = answers.pop(None)
        for key, tokens_said in answers.items():
            said.after[key][who[rows]] = tokens_said
    return said


def _replaced(
    resid: Float[np.ndarray, "prompts d_model"],
    difference: Float[np.ndarray, "prompts d_model"],
    place: Int[np.ndarray, " subjects"],
    able: Int[np.ndarray, " able"],
    spans: Sequence[Subspaces],
    pairs: Pairs,
    random: Mapping[str, Basis],
) -> list[tuple[Key, Float[np.ndarray, "prompts d_model"]]]:
    """New residuals by what is replaced; subjects of whom an attribute is not known keep theirs."""
    found = [((EACH, WHOLE), resid + difference)]
    for one in spans:
        name, within = one.attribute.name, np.zeros_like(resid)
        fold = dict(zip(one.attribute.subjects["subject"], one.fold.tolist(), strict=True))
        for row in able[pairs.differ(name)[able]]:
            basis, at = one.held_out[fold[pairs.names[row]]], place[row]
            within[at] = difference[at] @ basis @ basis.T
        found.append(((name, PROBE), resid + within))
        found.append(((name, RANDOM), resid + difference @ random[name] @ random[name].T))
    return found


def told(said: Swapped, spans: Sequence[Subspaces]) -> dict[tuple[str, str], Estimate]:
    """By (attribute, question): how often the attribute's answer alone gives the question's, held out."""
    found, row_of = {}, {name: row for row, name in enumerate(said.pairs.names)}
    for given, asked in product(spans, spans):
        if given is asked:
            continue
        one, labels = asked.attribute, said.pairs.labels[given.attribute.name]
        own = labels[[row_of[name] for name in one.subjects["subject"]]]
        both = own >= 0
        if both.any():
            found[given.attribute.name, one.name] = share_interval(
                told_by(own[both], one.labels[both], one.folds[both])
            )
    return found


def tied(
    by_one: Mapping[tuple[str, str], Estimate], attribute: str, question: str, follows_from: float
) -> bool:
    """Whether one of two attributes follows from the other, so that no swap can be expected to part them."""
    pairs = ((attribute, question), (question, attribute))
    return any(pair in by_one and by_one[pair].value >= follows_from for pair in pairs)


def swaps(
    said: Swapped, spans: Sequence[Subspaces], *, follows_from: float, layer: int, seed: int
) -> pl.DataFrame:
    """The table `attribute_swaps`: each attribute by each question, and everything by each question."""
    by_one, rows = told(said, spans), []
    dimensions = {one.attribute.name: one.dimensions for one in spans}
    for question, answers in said.by_question.items():
        for (attribute, subspace), after in answers.after.items():
            here = cell(said, attribute, question)
            if not here.any():
                continue
            row: dict[str, Any] = {
                "attribute": attribute,
                "question": question,
                "subspace": subspace,
                "layer": layer,
            }
            row |= {"dimensions": dimensions.get(attribute)}
            if attribute not in (EACH, question):
                row |= {"tied": tied(by_one, attribute, question, follows_from)}
                row |= estimate_columns("told", by_one.get((attribute, question)))
            follows, beyond = after[here] == answers.donor[here], None
            if subspace == PROBE:
                random = answers.after[attribute, RANDOM][here] == answers.donor[here]
                beyond = paired_difference(follows, random, seed=seed)
            row |= estimate_columns("follows", share_interval(follows))
            row |= estimate_columns("changes", share_interval(after[here] != answers.before[here]))
            row |= estimate_columns("over_random", beyond)
            rows.append(row | {"n": int(here.sum()), "majority_rate": majority_rate(answers.donor[here])})
    return pl.DataFrame(rows, schema=schema_of("attribute_swaps")) if rows else empty("attribute_swaps")


def cell(said: Swapped, attribute: str, question: str) -> Bool[np.ndarray, " subjects"]:
    """The subjects of a cell: asked the question, and another than the donor in it and in the attribute."""
    answers = said.by_question[question]
    asked = (answers.before >= 0) & (answers.own != answers.donor)
    return asked if attribute == EACH else asked & said.pairs.differ(attribute)


def specificity(
    said: Swapped,
    spans: Sequence[Subspaces],
    *,
    follows: Collection[str],
    follows_from: float,
    layer: int,
    seed: int,
) -> pl.DataFrame:
    """The table `attribute_specificity`: what swapping one attribute does to its own question, and to the others.

    Over attributes that do not follow from the main answer (`follows`), and pairs of them that are not tied. A subject's
    numbers are means over attributes, and over pairs of them.
    """
    names, by_one, rows = (
        [one.attribute.name for one in spans if one.attribute.name not in follows],
        told(said, spans),
        [],
    )
    pairs = [(a, q) for a, q in product(names, names) if a != q and not tied(by_one, a, q, follows_from)]
    for subspace in (PROBE, RANDOM, WHOLE):
        own = _means(said, [(name, name) for name in names], subspace, "donor")
        others = _means(said, pairs if subspace != WHOLE else [], subspace, "before")
        both = np.flatnonzero(~np.isnan(own) & (~np.isnan(others) | (subspace == WHOLE)))
        if not len(both):
            continue
        row: dict[str, Any] = {
            "subspace": subspace,
            "layer": layer,
            "attributes": len(names),
            "pairs": len(pairs),
        }
        row |= estimate_columns("own", accuracy_estimate(own[both], seed=seed))
        if subspace != WHOLE:
            row |= estimate_columns("others", accuracy_estimate(others[both], seed=seed))
            row |= estimate_columns("own_over_others", mean_interval(own[both] - others[both], seed=seed))
        rows.append(row | {"n": len(both)})
    return (
        pl.DataFrame(rows, schema=schema_of("attribute_specificity"))
        if rows
        else empty("attribute_specificity")
    )


def _means(
    said: Swapped, cells: Sequence[tuple[str, str]], subspace: str, which: str
) -> Float[np.ndarray, " subjects"]:
    """Each subject's mean over cells of whether it then says what its donor would (`donor`), or something else than before
    (`before`); NaN where it is in none."""
    found = np.full((len(cells) + 1, len(said.pairs.names)), np.nan)
    for row, (attribute, question) in enumerate(cells):
        answers, here = said.by_question[question], cell(said, attribute, question)
        after = answers.after[(EACH, WHOLE) if subspace == WHOLE else (attribute, subspace)]
        hits = after == answers.donor if which == "donor" else after != answers.before
        found[row, here] = hits[here]
    there = ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return np.where(there, found, 0.0).sum(axis=0) / there.sum(axis=0)
