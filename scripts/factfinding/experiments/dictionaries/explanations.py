"""What a feature of a dictionary stands for: its best explanation, chosen on one half of the subjects, judged on what it has not
seen.

A feature *fires* for a subject where its activation is more than `FIRES` of its highest on the training half. An explanation is
a set of subjects (those with one first token, last token, answer, or answer to another relation; or one subject alone), and fits
as well as its F1 with the set for which the feature fires. Judged is

    a set of several      on the other half of the subjects, under the same prompt
    one subject alone     under another prompt, against all subjects: of an entity there is no other half

The kinds of a feature whose explanation holds are those of `EXPLAINED`; a subject whose first or last token nobody else has
cannot be told from that token, and is a kind of its own. The rest are

    group                 fires for two or more training subjects, for the same ones under the other prompt, and none of these
                          explanations holds
    none                  not even that
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

FIRES = 0.5
FIRST, LAST, ANSWER, RELATION, ENTITY, TOKEN_OR_ENTITY = (
    "first_token",
    "last_token",
    "answer",
    "relation",
    "entity",
    "token_or_entity",
)
GROUP, NONE = "group", "none"
SHARED = (ANSWER, LAST, FIRST, RELATION)
"""Kinds of sets of several subjects; of explanations that fit alike, the earlier kind is taken."""
EXPLAINED = (*SHARED, ENTITY, TOKEN_OR_ENTITY)
KINDS = (*EXPLAINED, GROUP, NONE)
Hits = Bool[np.ndarray, "subjects features"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attribute:
    """Something that each subject has one value of. values: None where it is not known, as of a relation that was not asked."""

    kind: str
    name: str
    values: Sequence[object]


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanations:
    """The sets of several subjects, and who stands alone. subjects: their names. kinds, names, values: of each set. members,
    covered: of each set, who belongs to it, and of whom that is known. training: who is in the training half. alone: subjects
    whose first or last token nobody else has."""

    subjects: Sequence[str]
    kinds: Sequence[str]
    names: Sequence[str]
    values: Sequence[str]
    members: Bool[np.ndarray, "sets subjects"]
    covered: Bool[np.ndarray, "sets subjects"]
    training: Bool[np.ndarray, " subjects"]
    alone: Bool[np.ndarray, " subjects"]

    @classmethod
    def of(
        cls,
        subjects: Sequence[str],
        attributes: Sequence[Attribute],
        training: Bool[np.ndarray, " subjects"],
        *,
        least: int,
    ) -> Explanations:
        """Every value that `least` subjects or more of either half have; but not what all have of whom it is known, and no set
        that an earlier attribute has already. attributes: in the order of `SHARED`."""
        found: list[tuple[str, str, str]] = []
        sets: list[np.ndarray] = []
        known: list[np.ndarray] = []
        for one in attributes:
            values = np.array([None if value is None else str(value) for value in one.values], dtype=object)
            covered = np.array([value is not None for value in values], dtype=bool)
            for value in sorted(set(values[covered])):
                members = values == value
                few = min((members & training).sum(), (members & ~training).sum()) < least
                if few or (members == covered).all() or _stands(members, covered, sets):
                    continue
                found.append((one.kind, one.name, value))
                sets.append(members)
                known.append(covered)
        n = len(subjects)
        kinds, names, values = zip(*found, strict=True) if found else ((), (), ())
        return cls(
            subjects=subjects,
            kinds=kinds,
            names=names,
            values=values,
            members=np.array(sets, dtype=bool).reshape(len(sets), n),
            covered=np.array(known, dtype=bool).reshape(len(sets), n),
            training=training,
            alone=_alone(attributes, n),
        )

    def judged(self, fires: Hits, elsewhere: Hits, *, holds_from: float) -> Explained:
        """What each feature stands for. fires: under the prompt of training; elsewhere: under the other prompt. Every feature fires
        for a training subject. holds_from: F1 from which an explanation holds."""
        chosen_on, judged_on = self.training, ~self.training
        n_features = fires.shape[1]
        each = np.arange(n_features)
        one = 2 / (1 + fires[chosen_on].sum(0))
        who = np.flatnonzero(chosen_on)[fires[chosen_on].argmax(0)]
        best, fits = np.zeros(n_features, dtype=np.int64), np.zeros(n_features)
        held = np.zeros(n_features)
        if len(self.kinds):
            scores = self._f1(fires, chosen_on)
            best = scores.argmax(0)
            fits, held = scores[best, each], self._f1(fires, judged_on)[best, each]
        single = one > fits
        only = 2 * elsewhere[who, each] / (1 + elsewhere.sum(0))
        repeated = _overlap(fires[chosen_on], elsewhere[chosen_on])
        score = np.where(single, only, held)
        kinds = np.array(self.kinds or [NONE], dtype=object)[best]
        kinds[single] = np.where(self.alone[who[single]], TOKEN_OR_ENTITY, ENTITY)
        several = (fires[chosen_on].sum(0) > 1) & (repeated >= holds_from)
        kinds = np.where(score >= holds_from, kinds, np.where(several, GROUP, NONE))
        return Explained(
            kinds=kinds.astype(str),
            single=single,
            place=np.where(single, who, best),
            chosen_f1=np.where(single, one, fits),
            f1=score,
            repeated=repeated,
            fires=fires[chosen_on].sum(0),
            covered={kind: self._covered(kind, kinds, fires, best, who) for kind in EXPLAINED},
        )

    def sets_of(self, kind: str) -> Int[np.ndarray, " sets"]:
        """The sets of a kind, by number."""
        return np.array([i for i, own in enumerate(self.kinds) if own == kind], dtype=np.int64)

    def counted(self, kind: str) -> Bool[np.ndarray, " subjects"]:
        """Of whom it can be asked whether a feature of this kind is theirs: of the held-out half those who are in such a set; of
        the training half, those who can be told from their tokens, or who cannot."""
        if kind in SHARED:
            return ~self.training & self.members[self.sets_of(kind)].any(0)
        return self.training & (self.alone if kind == TOKEN_OR_ENTITY else ~self.alone)

    def _covered(
        self, kind: str, kinds: np.ndarray, fires: Hits, best: np.ndarray, who: np.ndarray
    ) -> Bool[np.ndarray, " counted"]:
        """For which of those who are counted a feature of this kind fires that stands for what they have."""
        own = kinds == kind
        theirs = np.zeros(len(self.subjects), dtype=bool)
        if kind in SHARED:
            theirs = (self.members[best[own]].T & fires[:, own]).any(1) if own.any() else theirs
        else:
            theirs[who[own]] = True
        return theirs[self.counted(kind)]

    def _f1(self, fires: Hits, half: Bool[np.ndarray, " subjects"]) -> Float[np.ndarray, "sets features"]:
        """F1 of each set with each feature, on one half, of subjects of whom the attribute is known."""
        here = fires[half].astype(np.float64)
        both = self.members[:, half].astype(np.float64) @ here
        firing = self.covered[:, half].astype(np.float64) @ here
        total = self.members[:, half].sum(1)[:, None] + firing
        return 2 * both / np.maximum(total, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """What each feature stands for. place: the set, or the subject where `single`. chosen_f1: on the training half. f1: as judged.
    repeated: F1 of the training subjects for whom it fires with those under the other prompt. fires: how many these are. covered:
    by kind, for whom of those who are counted (`Explanations.counted`) one of these features fires that is theirs."""

    kinds: np.ndarray
    single: Bool[np.ndarray, " features"]
    place: Int[np.ndarray, " features"]
    chosen_f1: Float[np.ndarray, " features"]
    f1: Float[np.ndarray, " features"]
    repeated: Float[np.ndarray, " features"]
    fires: Int[np.ndarray, " features"]
    covered: Mapping[str, Bool[np.ndarray, " counted"]]

    def count(self, kind: str) -> int:
        return int((self.kinds == kind).sum())


def firing(
    activations: Float[np.ndarray, "subjects features"], highest: Float[np.ndarray, " features"]
) -> Hits:
    """For whom each feature fires. highest: its highest activation on the training half."""
    return (activations > 0) & (activations > FIRES * highest)


def _overlap(one: Hits, other: Hits) -> Float[np.ndarray, " features"]:
    return 2 * (one & other).sum(0) / np.maximum(one.sum(0) + other.sum(0), 1)


def _stands(members: np.ndarray, covered: np.ndarray, sets: Sequence[np.ndarray]) -> bool:
    """Whether an earlier set is the same among the subjects of whom this one is known."""
    return any(((earlier & covered) == members).all() for earlier in sets)


def _alone(attributes: Sequence[Attribute], n: int) -> Bool[np.ndarray, " subjects"]:
    """Subjects whose first or last token nobody else has."""
    alone = np.zeros(n, dtype=bool)
    for one in attributes:
        if one.kind in (FIRST, LAST):
            counts = {value: sum(other == value for other in one.values) for value in set(one.values)}
            alone |= np.array([value is not None and counts[value] == 1 for value in one.values], dtype=bool)
    return alone
