"""The athlete table: who plays what. Any CSV with the columns `athlete` and `sport` serves."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from factfinding.data.csv_rows import clean_text, read_rows, row_place
from factfinding.errors import InputError

_NOTE_COLUMNS = ["athlete", "sport", "rows", "reason", "action"]


@dataclass(frozen=True, kw_only=True)
class AthleteTable:
    """Athletes ready for use, and what was done to get there.

    frame: columns athlete (no name twice), sport; in the order of the file.
    notes: columns athlete, sport, rows (numbers of the data rows, "3, 17"), reason, action; one row for each
        name and sport that was dropped, kept once, or kept but looks like another.
    """

    frame: pl.DataFrame
    notes: pl.DataFrame


def read_athletes(
    path: str | Path, *, two_sports: Literal["drop", "first"] = "drop", min_per_sport: int = 10
) -> AthleteTable:
    """Read and check a table of athletes.

    Names may have any number of words in any script; their whitespace and Unicode form are made uniform (see
    `clean_text`). A row that repeats another is kept once. A name with two sports is dropped (we cannot know
    which is asked for), or with `two_sports="first"` keeps the sport that comes first. Names that differ in
    case or accents are different people. All of these are noted.

    Raises InputError, naming file, row and name, for whatever `read_rows` refuses, for empty or unprintable
    cells, for one sport spelt in two cases, for fewer than two sports, and for a sport with fewer than
    `min_per_sport` athletes (counted after the dropping); ValueError for settings that do not exist.
    """
    if two_sports not in ("drop", "first") or min_per_sport < 1:
        raise ValueError(
            f"two_sports={two_sports!r}, min_per_sport={min_per_sport}: allowed are drop or first, and 1 up"
        )
    rows = _rows_by_person(path)
    _check_spelling(path, sorted({sport for _, sport in rows}))
    kept, notes = _one_sport_each(rows, two_sports)
    notes += _look_alikes(kept, rows)
    frame = pl.DataFrame(kept, schema={"athlete": pl.String, "sport": pl.String}, orient="row")
    _check_sports(path, frame, min_per_sport)
    return AthleteTable(
        frame=frame, notes=pl.DataFrame(notes, schema=dict.fromkeys(_NOTE_COLUMNS, pl.String), orient="row")
    )


def _rows_by_person(path: str | Path) -> dict[tuple[str, str], list[int]]:
    """Data row numbers of each (athlete, sport), in the order of the file."""
    people: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in read_rows(path, ["athlete", "sport"]):
        athlete = clean_text(row.cells["athlete"], row_place(path, row.number, "athlete"))
        sport = clean_text(row.cells["sport"], row_place(path, row.number, f"sport of {athlete}"))
        people[athlete, sport].append(row.number)
    return people


def _one_sport_each(rows: dict[tuple[str, str], list[int]], two_sports: str) -> tuple[list, list]:
    """The (athlete, sport) pairs that stay, and the notes on repeats and on names with several sports."""
    sports = defaultdict(list)
    for athlete, sport in rows:
        sports[athlete].append(sport)
    kept, notes = [], []
    for (athlete, sport), numbers in rows.items():
        if len(sports[athlete]) > 1:
            stays = two_sports == "first" and sport == sports[athlete][0]
            reason = "name also stands with " + ", ".join(
                other for other in sports[athlete] if other != sport
            )
            notes.append(_note(athlete, sport, numbers, reason, "kept" if stays else "dropped"))
        else:
            stays = True
            if len(numbers) > 1:
                notes.append(_note(athlete, sport, numbers, "row repeated", "kept once"))
        if stays:
            kept.append((athlete, sport))
    return kept, notes


def _look_alikes(kept: list[tuple[str, str]], rows: dict[tuple[str, str], list[int]]) -> list:
    """Notes on athletes whose names are the same but for case and accents."""
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


def _note(athlete: str, sport: str, numbers: Iterable[int], reason: str, action: str) -> tuple[str, ...]:
    return athlete, sport, ", ".join(map(str, numbers)), reason, action


def _bare(name: str) -> str:
    """A name without case and accents."""
    letters = unicodedata.normalize("NFD", name.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _check_spelling(path: str | Path, sports: list[str]) -> None:
    first: dict[str, str] = {}
    for sport in sports:
        other = first.setdefault(sport.casefold(), sport)
        if other != sport:
            raise InputError(path, f"the sports {other!r} and {sport!r}", "one spelling of each sport")


def _check_sports(path: str | Path, frame: pl.DataFrame, min_per_sport: int) -> None:
    counts = Counter(frame["sport"])
    if len(counts) < 2:
        found = f"{len(counts)} sports ({', '.join(counts) or 'no athlete is left'})"
        raise InputError(path, found, "at least two sports")
    sport, count = min(counts.items(), key=lambda item: item[1])
    if count < min_per_sport:
        found = f"{count} athletes of the sport {sport!r}"
        raise InputError(path, found, f"at least {min_per_sport} of each sport (athletes.min_per_sport)")
