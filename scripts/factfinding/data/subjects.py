"""The table of subjects, each with its answer: who plays what. Any CSV with two such columns serves."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from factfinding.config import RelationConfig
from factfinding.data.csv_rows import clean_text, read_rows, row_place
from factfinding.data.folding import FOLDED, damage, folded
from factfinding.errors import InputError
from factfinding.relation import STUDY

_NOTE_COLUMNS = ["subject", "answer", "rows", "reason", "action"]


@dataclass(kw_only=True)
class _Person:
    """A name with one answer: its spellings in the order of the file, the first of which is kept, and the data rows."""

    answer: str
    spellings: list[str]
    rows: list[int]

    @property
    def subject(self) -> str:
        return self.spellings[0]

    @property
    def key(self) -> str:
        return folded(self.subject)


@dataclass(frozen=True, kw_only=True)
class SubjectTable:
    """Subjects ready for use, and what was done to get there.

    frame: columns subject (no name twice), answer; in the order of the file.
    notes: columns subject, answer, rows (numbers of the data rows, "3, 17"), reason, action; one row for each
        name and answer that was dropped, kept once, or kept but looks like another.
    """

    frame: pl.DataFrame
    notes: pl.DataFrame


def read_subjects(
    path: str | Path,
    *,
    relation: RelationConfig = STUDY,
    two_answers: Literal["drop", "first"] = "drop",
    min_per_answer: int = 10,
) -> SubjectTable:
    """Read and check a table of subjects; its columns are named by the relation (`athlete`, `sport`).

    Names may have any number of words in any script; their whitespace and Unicode form are made uniform (see
    `clean_text`). Names that differ in quotes, dashes, width, case or invisible characters are one name, in its first
    spelling (`folded`). A row that repeats another is kept once. A name with two answers is dropped (we cannot know
    which is asked for), or with `two_answers="first"` keeps the answer that comes first. Names that differ in
    accents are different people. All of these are noted, and so are names that look damaged by a conversion (`damage`).

    Raises InputError, naming file, row and name, for whatever `read_rows` refuses, for empty or unprintable
    cells, for one answer spelt in two ways, for fewer than two answers, and for an answer with fewer than
    `min_per_answer` subjects (counted after the dropping); ValueError for settings that do not exist.
    """
    if two_answers not in ("drop", "first") or min_per_answer < 1:
        raise ValueError(
            f"two_answers={two_answers!r}, min_per_answer={min_per_answer}: allowed are drop or first, and 1 up"
        )
    people = _people(path, relation)
    _check_spelling(path, sorted({person.answer for person in people}), relation)
    kept, notes = _one_answer_each(people, two_answers)
    notes += _look_alikes(kept) + _damaged(kept, relation)
    frame = pl.DataFrame(
        [(person.subject, person.answer) for person in kept],
        schema={"subject": pl.String, "answer": pl.String}, orient="row",
    )  # fmt: skip
    _check_answers(path, frame, min_per_answer, relation)
    return SubjectTable(
        frame=frame, notes=pl.DataFrame(notes, schema=dict.fromkeys(_NOTE_COLUMNS, pl.String), orient="row")
    )


def _people(path: str | Path, relation: RelationConfig) -> list[_Person]:
    """Each name and answer once, in the order of the file."""
    people: dict[tuple[str, str], _Person] = {}
    spelt: dict[str, str] = {}  # the first spelling of a name, whatever the answer
    who, what = relation.subject, relation.answer
    for row in read_rows(path, [who, what]):
        subject = clean_text(row.cells[who], row_place(path, row.number, who))
        answer = clean_text(row.cells[what], row_place(path, row.number, f"{what} of {subject}"))
        key = folded(subject)
        if not key:
            found = f"a name of invisible characters ({subject!a})"
            raise InputError(row_place(path, row.number, who), found, "text")
        first = spelt.setdefault(key, subject)
        person = people.setdefault((key, answer), _Person(answer=answer, spellings=[first], rows=[]))
        person.spellings += [subject] if subject not in person.spellings else []
        person.rows.append(row.number)
    return list(people.values())


def _one_answer_each(people: list[_Person], two_answers: str) -> tuple[list[_Person], list]:
    """Who stays, and the notes on repeats, on other spellings and on names with several answers."""
    answers = defaultdict(list)
    for person in people:
        answers[person.key].append(person.answer)
    kept, notes = [], []
    for person in people:
        others = [answer for answer in answers[person.key] if answer != person.answer]
        stays = not others or (two_answers == "first" and person.answer == answers[person.key][0])
        spelt = ", ".join(map(repr, person.spellings[1:]))
        also = f"also written {spelt}, which differs in {FOLDED}" if spelt else ""
        if others:
            reason = "; ".join(filter(None, ["name also stands with " + ", ".join(others), also]))
            notes.append(_note(person, reason, "kept" if stays else "dropped"))
        elif also or len(person.rows) > 1:
            notes.append(_note(person, also or "row repeated", "kept once"))
        kept += [person] if stays else []
    return kept, notes


def _look_alikes(kept: list[_Person]) -> list:
    """Notes on subjects whose names are the same but for accents."""
    alike = defaultdict(list)
    for person in kept:
        alike[_bare(person.subject)].append(person)
    return [
        _note(person, f"differs from {people[0].subject!r} in accents only", "kept as another person")
        for people in alike.values()
        for person in people[1:]
    ]


def _damaged(kept: list[_Person], relation: RelationConfig) -> list:
    """Notes on names, and on answers, that a conversion seems to have spoilt."""
    notes, answers = [], set()
    for person in kept:
        said = damage(person.subject)
        if said:
            notes.append(_note(person, f"the name {said}", "kept as it is"))
        said = None if person.answer in answers else damage(person.answer)
        if said:
            notes.append(_note(person, f"the {relation.answer} {said}", "kept as it is"))
        answers.add(person.answer)
    return notes


def _note(person: _Person, reason: str, action: str) -> tuple[str, ...]:
    return person.subject, person.answer, ", ".join(map(str, person.rows)), reason, action


def _bare(name: str) -> str:
    """A name folded and without accents."""
    letters = unicodedata.normalize("NFD", folded(name))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _check_spelling(path: str | Path, answers: list[str], relation: RelationConfig) -> None:
    first: dict[str, str] = {}
    for answer in answers:
        other = first.setdefault(folded(answer), answer)
        if other != answer:
            found = f"the {relation.answers} {other!r} and {answer!r}"
            raise InputError(path, found, f"one spelling of each {relation.answer}")


def _check_answers(
    path: str | Path, frame: pl.DataFrame, min_per_answer: int, relation: RelationConfig
) -> None:
    counts = Counter(frame["answer"])
    if len(counts) < 2:
        found = f"{len(counts)} {relation.answers} ({', '.join(counts) or f'no {relation.subject} is left'})"
        raise InputError(path, found, f"at least two {relation.answers}")
    answer, count = min(counts.items(), key=lambda item: item[1])
    if count < min_per_answer:
        found = f"{count} {relation.subjects} of the {relation.answer} {answer!r}"
        allowed = f"at least {min_per_answer} of each {relation.answer} (subjects.min_per_answer)"
        raise InputError(path, found, allowed)
