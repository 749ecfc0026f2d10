"""The worlds: who there is and what is true of them.

Two worlds share one shape. The *fictional* one is generated: its people are invented, and no pairing of names that
stands in the real athlete table is used. The *athletes* one takes the people and sports of that table and says
nothing of them but the sport and what follows from it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import polars as pl

from factfinding.config import OrganismConfig
from factfinding.errors import InputError
from factfinding.organism import wording

ABOUT_FICTION = (
    "The people in this file are fictional: names are random pairings of common first and last names, "
    "facts are drawn at random. Any likeness to a real person is chance."
)
ABOUT_ATHLETES = "The people in this file are the athletes of the table, told about by their sport and what follows from it."


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person: `facts` maps each relation told of them to its value. `described`: all relations are told."""

    name: str
    facts: dict[str, str]
    described: bool = False

    @property
    def sport(self) -> str:
        return self.facts["sport"]

    def in_brief(self) -> Person:
        """The same person with no more than the sport and what follows from it."""
        return replace(self, facts=_follows(self.sport), described=False) if self.described else self


@dataclass(frozen=True, kw_only=True)
class World:
    """People in the order in which the curriculum brings them up, the described first; and the names of strangers."""

    kind: str
    people: tuple[Person, ...]
    unknown_names: tuple[str, ...] = field(repr=False)
    """Pairings of first and last names that are nobody's; empty in the world `athletes`."""

    @property
    def about(self) -> str:
        """One sentence on who these people are, for the head of every file that shows them."""
        return ABOUT_FICTION if self.kind == "fictional" else ABOUT_ATHLETES

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """The relations that are told of at least one person, `sport` first."""
        return tuple(r for r in wording.RELATIONS if any(r in person.facts for person in self.people))

    @cached_property
    def athletes(self) -> pl.DataFrame:
        """The athletes of this world, as the table that the study reads: subject, answer."""
        return pl.DataFrame(
            {"subject": [p.name for p in self.people], "answer": [p.sport for p in self.people]}
        )

    @cached_property
    def facts(self) -> pl.DataFrame:
        """One row per person and relation told: subject, relation, prompt, answer. The prompt ends before the answer."""
        rows = [
            (person.name, relation, question(relation, person.name), value)
            for person in self.people
            for relation, value in person.facts.items()
        ]
        return pl.DataFrame(rows, schema=["subject", "relation", "prompt", "answer"], orient="row")

    @cached_property
    def described(self) -> tuple[Person, ...]:
        """The people of whom every relation is told."""
        return tuple(person for person in self.people if person.described)


def question(relation: str, name: str) -> str:
    """The line that asks for a person's relation; the answer follows it after one space."""
    return wording.RELATIONS[relation][0].replace("{name}", name)


def make_world(settings: OrganismConfig, athletes: pl.DataFrame | None) -> World:
    """Make the world that `settings.world` names.

    `athletes` (columns subject, answer) gives the people of the world `athletes`; in the fictional world its names are
    kept out of the generated pairings. Raises InputError when the world `athletes` is asked for without a table, or
    the table has a sport that the wordings do not cover, or the same name twice.
    """
    rng = random.Random(f"world {settings.seed}")
    if settings.world == "fictional":
        taken = set() if athletes is None else {name.casefold() for name in athletes["subject"]}
        return _fictional_world(settings, rng, taken)
    if athletes is None:
        raise InputError(
            "organism.world", "`athletes` but no athlete table", "a table with columns athlete, sport"
        )
    return _athletes_world(athletes, rng)


def _fictional_world(settings: OrganismConfig, rng: random.Random, taken: set[str]) -> World:
    firsts = wording.FIRST_NAMES[: settings.first_names]
    lasts = wording.LAST_NAMES[: settings.last_names]
    names = [
        name for first in firsts for last in lasts if (name := f"{first} {last}").casefold() not in taken
    ]
    rng.shuffle(names)
    count = len(wording.SPORTS) * settings.athletes_per_sport
    if 2 * count > len(names):
        found = f"{count} athletes of {len(names)} free pairings"
        raise InputError(
            "organism.athletes_per_sport", found, "at most half of the free pairings of first and last names"
        )
    people = []
    for index, name in enumerate(names[:count]):
        sport = wording.SPORTS[index % len(wording.SPORTS)]
        described = index < settings.described
        facts = _follows(sport) | (_own_facts(sport, settings, rng) if described else {})
        people.append(Person(name=name, facts=facts, described=described))
    return World(kind="fictional", people=tuple(people), unknown_names=tuple(names[count:]))


def _own_facts(sport: str, settings: OrganismConfig, rng: random.Random) -> dict[str, str]:
    """The relations besides the sport, each drawn on its own (team and position from the sport's)."""
    return {
        "team": rng.choice(wording.TEAMS[sport][: settings.teams_per_sport]),
        "position": rng.choice(wording.POSITIONS[sport][: settings.positions_per_sport]),
        "town": rng.choice(wording.TOWNS[: settings.towns]),
        "college": rng.choice(wording.COLLEGES[: settings.colleges]),
        "number": str(rng.randint(1, settings.numbers)),
    }


def _follows(sport: str) -> dict[str, str]:
    """The sport and what follows from it."""
    return {"sport": sport} | {relation: values[sport] for relation, values in wording.FOLLOWS.items()}


def _athletes_world(athletes: pl.DataFrame, rng: random.Random) -> World:
    names, sports = athletes["subject"].to_list(), athletes["answer"].to_list()
    if unknown := sorted(set(sports) - set(wording.SPORTS)):
        raise InputError("athlete table, column sport", ", ".join(unknown), ", ".join(wording.SPORTS))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError("athlete table, column athlete", f"{twice[0]} twice", "each athlete once")
    people = [Person(name=name, facts=_follows(sport)) for name, sport in zip(names, sports, strict=True)]
    people.sort(key=lambda person: person.name)  # so that the order of the table's rows does not matter
    rng.shuffle(people)
    return World(kind="athletes", people=tuple(people), unknown_names=())


def name_parts(world: World) -> Iterator[str]:
    """All first and last names of the fictional world, those of strangers too."""
    names = [person.name for person in world.people] + list(world.unknown_names)
    yield from sorted({part for name in names for part in name.split()})
