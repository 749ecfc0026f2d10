"""The table of subjects, each with its answer: who plays what. Any table with two such columns serves, and relation files."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from factfinding.config import RelationConfig
from factfinding.data.csv_rows import Row, clean_text, mended, read_rows, row_place
from factfinding.data.folding import FOLDED, damage, folded
from factfinding.data.relation_file import ANSWER, SUBJECT, is_relation_file, read_relation_file, wording
from factfinding.errors import InputError
from factfinding.relation import STUDY

FEWEST_ANSWERS, MOST_ANSWERS = 2, 20
LISTED = 20
"""Rows that a note lists."""
_NOTE_COLUMNS = ["subject", "answer", "rows", "reason", "action"]


@dataclass(kw_only=True)
class _Person:
    """A name with one answer: its spellings in the order of the file, the first of which is kept, the data rows, and what
    was mended in the name."""

    answer: str
    spellings: list[str]
    rows: list[int]
    mended: str | None = None

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
        name and answer that was dropped, mended, kept once, or kept but looks like another; one without a subject for each
        answer that was dropped or mended; and one without both for each template of a relation file.
    """

    frame: pl.DataFrame
    notes: pl.DataFrame


def read_subjects(
    path: str | Path,
    *,
    relation: RelationConfig = STUDY,
    two_answers: Literal["drop", "first"] = "drop",
    min_per_answer: int = 10,
    few: Literal["error", "drop"] = "error",
) -> SubjectTable:
    """Read and check a table of subjects; its columns are named by the relation (`athlete`, `sport`), and those of a
    relation file (.json) by that format (data/relation_file.py).

    Names may have any number of words in any script; their whitespace and Unicode form are made uniform (see
    `clean_text`). Names that differ in quotes, dashes, width, case or invisible characters are one name, in its first
    spelling (`folded`). A row that repeats another is kept once. A name with two answers is dropped (we cannot know
    which is asked for), or with `two_answers="first"` keeps the answer that comes first. Names that differ in
    accents are different people. All of these are noted, and so are names that look damaged by a conversion (`damage`).
    An answer with fewer than `min_per_answer` subjects, counted after all this, is an error, or with `few="drop"` left
    out with its subjects and noted.

    Raises InputError, naming file, row and name, for whatever `read_rows` and `read_relation_file` refuse, for empty or
    unprintable cells, for one answer spelt in two ways, for fewer than two answers or more than twenty, and for an answer
    with too few subjects; ValueError for settings that do not exist.
    """
    if two_answers not in ("drop", "first") or min_per_answer < 1 or few not in ("error", "drop"):
        raise ValueError(
            f"two_answers={two_answers!r}, min_per_answer={min_per_answer}, few={few!r}: allowed are drop or first, 1 up, and "
            "error or drop"
        )
    rows, templates = _rows(path, relation)
    people, answers_mended = _people(path, rows, relation)
    _check_spelling(path, sorted({person.answer for person in people}), relation)
    kept, notes = _one_answer_each(people, two_answers)
    if few == "drop":
        kept, dropped = _enough_each(kept, min_per_answer, relation)
        notes += dropped
    notes += _look_alikes(kept) + _damaged(kept, relation) + answers_mended + templates
    frame = pl.DataFrame(
        [(person.subject, person.answer) for person in kept],
        schema={"subject": pl.String, "answer": pl.String}, orient="row",
    )  # fmt: skip
    _check_answers(path, frame, min_per_answer, relation)
    return SubjectTable(
        frame=frame, notes=pl.DataFrame(notes, schema=dict.fromkeys(_NOTE_COLUMNS, pl.String), orient="row")
    )


def _rows(path: str | Path, relation: RelationConfig) -> tuple[list[Row], list]:
    """The rows, with the cells `SUBJECT` and `ANSWER`, and notes on a relation file's templates."""
    if is_relation_file(path):
        file = read_relation_file(path)
        notes = [
            (None, None, None, f"the file's prompt template {template!r}", f"not used; {wording(template)}")
            for template in file.templates
        ]
        return file.rows, notes
    who, what = relation.subject, relation.answer
    rows = read_rows(path, [who, what])
    return [Row(number=r.number, cells={SUBJECT: r.cells[who], ANSWER: r.cells[what]}) for r in rows], []


def _people(path: str | Path, rows: list[Row], relation: RelationConfig) -> tuple[list[_Person], list]:
    """Each name and answer once, in the order of the file; and notes on answers that were mended."""
    people: dict[tuple[str, str], _Person] = {}
    spelt: dict[str, str] = {}  # the first spelling of a name, whatever the answer
    answers: dict[tuple[str, str], list[int]] = {}  # rows of an answer, and what was mended there
    who, what = relation.subject, relation.answer
    for row in rows:
        subject = clean_text(row.cells[SUBJECT], row_place(path, row.number, who))
        answer = clean_text(row.cells[ANSWER], row_place(path, row.number, f"{what} of {subject}"))
        key = folded(subject)
        if not key:
            found = f"a name of invisible characters ({subject!a})"
            raise InputError(row_place(path, row.number, who), found, "text")
        first = spelt.setdefault(key, subject)
        person = people.setdefault((key, answer), _Person(answer=answer, spellings=[first], rows=[]))
        person.spellings += [subject] if subject not in person.spellings else []
        person.rows.append(row.number)
        person.mended = person.mended or mended(row.cells[SUBJECT])
        if said := mended(row.cells[ANSWER]):
            answers.setdefault((answer, said), []).append(row.number)
    notes = [
        (None, answer, _listed(rows), f"the {what} {said}", "mended")
        for (answer, said), rows in answers.items()
    ]
    return list(people.values()), notes


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
        name = f"the name {person.mended}" if person.mended else ""
        if others:
            reason = ["name also stands with " + ", ".join(others), also, name]
            notes.append(_note(person, reason, "kept" if stays else "dropped"))
        elif also or len(person.rows) > 1:
            notes.append(_note(person, [also or "row repeated", name], "kept once"))
        elif name:
            notes.append(_note(person, [name], "mended"))
        kept += [person] if stays else []
    return kept, notes


def _enough_each(
    people: list[_Person], min_per_answer: int, relation: RelationConfig
) -> tuple[list[_Person], list]:
    """Those whose answer has enough subjects, and a note on each answer that has not."""
    of_answer = defaultdict(list)
    for person in people:
        of_answer[person.answer].append(person)
    few = {answer: some for answer, some in of_answer.items() if len(some) < min_per_answer}
    notes = []
    for answer, some in few.items():
        rows = _listed(sorted(row for person in some for row in person.rows))
        found = f"{len(some)} {relation.subjects} of this {relation.answer}"
        reason = f"{found}, fewer than {min_per_answer} (subjects.min_per_answer)"
        notes.append((None, answer, rows, reason, f"dropped with its {relation.subjects} (subjects.few)"))
    return [person for person in people if person.answer not in few], notes


def _look_alikes(kept: list[_Person]) -> list:
    """Notes on subjects whose names are the same but for accents."""
    alike = defaultdict(list)
    for person in kept:
        alike[_bare(person.subject)].append(person)
    return [
        _note(person, [f"differs from {people[0].subject!r} in accents only"], "kept as another person")
        for people in alike.values()
        for person in people[1:]
    ]


def _damaged(kept: list[_Person], relation: RelationConfig) -> list:
    """Notes on names, and on answers, that a conversion seems to have spoilt."""
    notes, answers = [], set()
    for person in kept:
        said = damage(person.subject)
        if said:
            notes.append(_note(person, [f"the name {said}"], "kept as it is"))
        said = None if person.answer in answers else damage(person.answer)
        if said:
            notes.append(_note(person, [f"the {relation.answer} {said}"], "kept as it is"))
        answers.add(person.answer)
    return notes


def _note(person: _Person, reasons: list[str], action: str) -> tuple[str, ...]:
    rows = ", ".join(map(str, person.rows))
    return person.subject, person.answer, rows, "; ".join(filter(None, reasons)), action


def _listed(rows: list[int]) -> str:
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return ", ".join(map(str, rows[:LISTED])) + more


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
    if len(counts) < FEWEST_ANSWERS:
        found = f"{len(counts)} {relation.answers} ({', '.join(counts) or f'no {relation.subject} is left'})"
        raise InputError(path, found, f"at least two {relation.answers}")
    if len(counts) > MOST_ANSWERS:
        raise InputError(path, f"{len(counts)} {relation.answers}", _how_to_choose(counts, relation))
    answer, count = min(counts.items(), key=lambda item: item[1])
    if count < min_per_answer:
        found = f"{count} {relation.subjects} of the {relation.answer} {answer!r}"
        allowed = f"at least {min_per_answer} of each {relation.answer} (subjects.min_per_answer)"
        raise InputError(path, found, f"{allowed}; subjects.few: drop leaves such {relation.answers} out")


def _how_to_choose(counts: Counter[str], relation: RelationConfig) -> str:
    """How a table of too many answers becomes one of few: by the number of subjects that each must have."""
    allowed = f"at most {MOST_ANSWERS} {relation.answers}: leave rows out of the table"
    ranked = sorted(counts.values(), reverse=True)
    least = ranked[MOST_ANSWERS] + 1  # more than the commonest answer that must go
    left = sum(count >= least for count in ranked)
    if left < FEWEST_ANSWERS:
        return allowed
    return f"{allowed}, or keep the {left} commonest by subjects: {{few: drop, min_per_answer: {least}}}"
