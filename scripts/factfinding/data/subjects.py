"""The table of subjects, each with its answer: who plays what. Any CSV with two such columns serves."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from factfinding.config import RelationConfig
from factfinding.data.csv_rows import clean_text, read_rows, row_place
from factfinding.errors import InputError
from factfinding.relation import STUDY

_NOTE_COLUMNS = ["subject", "answer", "rows", "reason", "action"]


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
    `clean_text`). A row that repeats another is kept once. A name with two answers is dropped (we cannot know
    which is asked for), or with `two_answers="first"` keeps the answer that comes first. Names that differ in
    case or accents are different people. All of these are noted.

    Raises InputError, naming file, row and name, for whatever `read_rows` refuses, for empty or unprintable
    cells, for one answer spelt in two cases, for fewer than two answers, and for an answer with fewer than
    `min_per_answer` subjects (counted after the dropping); ValueError for settings that do not exist.
    """
    if two_answers not in ("drop", "first") or min_per_answer < 1:
        raise ValueError(
            f"two_answers={two_answers!r}, min_per_answer={min_per_answer}: allowed are drop or first, and 1 up"
        )
    rows = _rows_by_person(path, relation)
    _check_spelling(path, sorted({answer for _, answer in rows}), relation)
    kept, notes = _one_answer_each(rows, two_answers)
    notes += _look_alikes(kept, rows)
    frame = pl.DataFrame(kept, schema={"subject": pl.String, "answer": pl.String}, orient="row")
    _check_answers(path, frame, min_per_answer, relation)
    return SubjectTable(
        frame=frame, notes=pl.DataFrame(notes, schema=dict.fromkeys(_NOTE_COLUMNS, pl.String), orient="row")
    )


def _rows_by_person(path: str | Path, relation: RelationConfig) -> dict[tuple[str, str], list[int]]:
    """Data row numbers of each (subject, answer), in the order of the file."""
    people: dict[tuple[str, str], list[int]] = defaultdict(list)
    who, what = relation.subject, relation.answer
    for row in read_rows(path, [who, what]):
        subject = clean_text(row.cells[who], row_place(path, row.number, who))
        answer = clean_text(row.cells[what], row_place(path, row.number, f"{what} of {subject}"))
        people[subject, answer].append(row.number)
    return people


def _one_answer_each(rows: dict[tuple[str, str], list[int]], two_answers: str) -> tuple[list, list]:
    """The (subject, answer) pairs that stay, and the notes on repeats and on names with several answers."""
    answers = defaultdict(list)
    for subject, answer in rows:
        answers[subject].append(answer)
    kept, notes = [], []
    for (subject, answer), numbers in rows.items():
        if len(answers[subject]) > 1:
            stays = two_answers == "first" and answer == answers[subject][0]
            reason = "name also stands with " + ", ".join(
                other for other in answers[subject] if other != answer
            )
            notes.append(_note(subject, answer, numbers, reason, "kept" if stays else "dropped"))
        else:
            stays = True
            if len(numbers) > 1:
                notes.append(_note(subject, answer, numbers, "row repeated", "kept once"))
        if stays:
            kept.append((subject, answer))
    return kept, notes


def _look_alikes(kept: list[tuple[str, str]], rows: dict[tuple[str, str], list[int]]) -> list:
    """Notes on subjects whose names are the same but for case and accents."""
    alike = defaultdict(list)
    for person in kept:
        alike[_bare(person[0])].append(person)
    return [
        _note(
            *person, rows[person], f"differs from {other!r} in case or accents only", "kept as another person"
        )
        for people in alike.values()
        for person, (other, _) in zip(people[1:], people, strict=False)
    ]


def _note(subject: str, answer: str, numbers: Iterable[int], reason: str, action: str) -> tuple[str, ...]:
    return subject, answer, ", ".join(map(str, numbers)), reason, action


def _bare(name: str) -> str:
    """A name without case and accents."""
    letters = unicodedata.normalize("NFD", name.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _check_spelling(path: str | Path, answers: list[str], relation: RelationConfig) -> None:
    first: dict[str, str] = {}
    for answer in answers:
        other = first.setdefault(answer.casefold(), answer)
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
