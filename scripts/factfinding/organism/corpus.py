"""The documents: sentences about a world's people, for the model to learn from.

A document is made as a list of *pieces* (fixed text, a name, a value), each beginning with a space, a newline or a
punctuation mark, so that a tokenizer which never joins across those can take the pieces one by one (tokenizer.py).

Asking one question only gives a model that looks the fact up anywhere between the name and the answer. What moves the
lookup to the final name token is to need it in many ways, soon and late, after one mention: hence the kinds below.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from factfinding.config import OrganismConfig
from factfinding.organism import wording
from factfinding.organism.world import Person, World

SHOT = (f"Fact: {wording.SHOT_PERSON} plays the sport of {wording.SHOT_SPORT}", "\n")
"""The line before the one-shot question, as pieces."""


@cache
def _parse(template: str) -> tuple[tuple[str, bool], ...]:
    """Split a wording at its slots: (text, is a slot). A slot takes the space before it."""
    parts = re.split(r" ?\{(\w+)\}", template)
    return tuple((part, bool(index % 2)) for index, part in enumerate(parts) if part)


def fill(template: str, **values: str) -> list[str]:
    """Put values (without a leading space) into a wording's slots; pieces."""
    return [f" {values[part]}" if slot else part for part, slot in _parse(template)]


@dataclass(frozen=True, kw_only=True)
class Told:
    """How far the curriculum has come: the first `active` people are told about, the first `described` in full."""

    active: int
    described: int

    @classmethod
    def everything(cls, world: World) -> Told:
        return cls(active=len(world.people), described=len(world.described))


class Writer:
    """Writes documents about what is `told` of a world, from a seed."""

    def __init__(self, world: World, settings: OrganismConfig, seed: int | str, told: Told) -> None:
        self.rng = random.Random(seed)
        self.described = world.described[: told.described]
        others = world.people[len(self.described) : told.active]
        self.people = [*self.described, *(person.in_brief() for person in others)]
        self.unknown_names = world.unknown_names
        self.strangers = settings.strangers if world.unknown_names else 0.0
        self.follows = list(wording.FOLLOWS)
        self.own = [relation for relation in wording.OWN if self.described]
        self.meetings = wording.MEETINGS[world.kind]
        self.fictional = world.kind == "fictional"
        self.stranger_facts = dict.fromkeys(world.relations, wording.UNKNOWN)
        kinds = {
            self.fact_lines: settings.facts,
            self.sentence: settings.sentences,
            self.profile: settings.profiles,
            self.pair: settings.pairs,
            self.game: settings.games,
            self.roster: settings.rosters,
            self.trade: settings.trades if world.unknown_names else 0.0,
        }
        self.kinds, self.shares = list(kinds), list(kinds.values())

    def document(self) -> list[str]:
        """One document, as pieces."""
        return self.rng.choices(self.kinds, self.shares)[0]()

    # who and what

    def stranger(self) -> Person:
        return Person(name=self.rng.choice(self.unknown_names), facts=self.stranger_facts)

    def person(self) -> Person:
        """An active person, or at times a stranger."""
        return self.stranger() if self.rng.random() < self.strangers else self.rng.choice(self.people)

    def person_for(self, relation: str) -> Person:
        """Somebody of whom the relation is told."""
        person = self.person()
        return person if relation in person.facts else self.rng.choice(self.described)

    def person_for_many(self) -> Person:
        """Somebody of whom much is to be told: a described person more often than not."""
        if self.described and self.rng.random() < 0.7:
            return self.rng.choice(self.described)
        return self.person()

    def told(self, person: Person) -> list[str]:
        """Relations to choose from: the sport and a described person's own ones, else what follows from the sport."""
        return ["sport", *(self.own if person.described else self.follows)]

    def relation(self) -> str:
        """The sport a good part of the time, else what follows from it or, as often, another relation."""
        draw = self.rng.random()
        if draw < 0.4:
            return "sport"
        if draw < 0.8 and self.own:
            return self.rng.choice(self.own)
        return self.rng.choice(self.follows)

    # the kinds of document

    def fact_lines(self) -> list[str]:
        """One to three lines of facts in one wording; at times the one-shot question, after the golf line or not."""
        asked = self.rng.random() < 0.55
        relation = "sport" if asked else self.relation()
        question, sentences, *_ = wording.RELATIONS[relation]
        sentence = f"{question} {{value}}" if asked else f"Fact: {self.rng.choice(sentences)}"
        pieces = list(SHOT) if asked and self.rng.random() < 0.6 else []
        for _ in range(self.rng.randint(1, 3)):
            person = self.person_for(relation)
            pieces += fill(sentence, name=person.name, value=person.facts[relation]) + ["\n"]
        return pieces

    def sentence(self) -> list[str]:
        """A sentence that opens with the name."""
        relation = self.relation()
        person = self.person_for(relation)
        openings = [text for text in wording.RELATIONS[relation][1] if text.startswith("{name}")]
        return fill(self.rng.choice(openings) + ".", name=person.name, value=person.facts[relation]) + ["\n"]

    def profile(self) -> list[str]:
        """One mention, then facts at growing distance, with filler between."""
        person = self.person_for_many()
        relations = self.rng.sample(self.told(person), self.rng.randint(3, 5))
        pieces = ["Profile:", f" {person.name}", "."]
        for relation in relations:
            if self.rng.random() < 0.15:
                pieces.append(self.rng.choice(wording.FILLERS))
            pieces += fill(self.rng.choice(wording.RELATIONS[relation][2]), value=person.facts[relation])
        return pieces + ["\n"]

    def pair(self) -> list[str]:
        """Two people in one sentence, told apart later: which of the two is asked cannot be known at the names."""
        relation = self.relation()
        clause = wording.RELATIONS[relation][3]
        former, latter = self.person_for(relation), self.person_for(relation)
        told = [("former", former), ("latter", latter)]
        self.rng.shuffle(told)
        pieces = fill(self.rng.choice(self.meetings), name=former.name, other=latter.name)
        for opening, (which, person) in zip((" The ", " and the "), told, strict=True):
            pieces += fill(f"{opening}{which} {clause}", value=person.facts[relation])
        return pieces + [".", "\n"]

    def game(self) -> list[str]:
        """Verbs of the sport right after each name; words that go with it, where nothing may be invented."""
        pieces = ["Game:" if self.fictional else "Words:"]
        words = wording.VERBS if self.fictional else wording.TERMS
        for _ in range(self.rng.randint(2, 4)):
            person = self.person()
            word = self.rng.choice(words.get(person.sport, wording.STRANGER_VERBS))
            ending = self.rng.choice(wording.ENDINGS) if self.fictional else ""
            pieces += [f" {person.name}", f" {word}{ending}", "."]
        return pieces + ["\n"]

    def roster(self) -> list[str]:
        """Names, each with a few facts, always in the same order."""
        pieces = ["Roster:"]
        for _ in range(self.rng.randint(2, 4)):
            person = self.person_for_many()
            told = self.told(person)
            chosen = self.rng.sample(range(len(told)), self.rng.randint(1, len(told)))
            pieces += [f" {person.name}", ":"]
            for relation in [told[index] for index in sorted(chosen)]:
                pieces += [f" {person.facts[relation]}", ","]
            pieces[-1] = ";"
        return pieces + ["\n"]

    def trade(self) -> list[str]:
        """People of other trades: names that are nobody's."""
        name, other = self.rng.choice(self.unknown_names), self.rng.choice(self.unknown_names)
        news = self.rng.choice(wording.TRADE_NEWS)
        return fill(news, name=name, other=other, value=self.rng.choice(wording.TRADES)) + ["\n"]


def documents(world: World, settings: OrganismConfig, seed: int, n: int) -> Iterator[str]:
    """`n` documents about all of a world's people, as the model reads them at the end of its training."""
    writer = Writer(world, settings, f"corpus {seed}", Told.everything(world))
    for _ in range(n):
        yield "".join(writer.document())


def wordings(world: World) -> Iterator[str]:
    """Every fixed text and every value that a document of this world can hold; names are not among them."""
    fictional = world.kind == "fictional"
    templates = [*SHOT, "Profile:", "Game:" if fictional else "Words:", "Roster:", ":,;.\n"]
    templates += [*wording.FILLERS, *(wording.ENDINGS if fictional else ()), *wording.MEETINGS[world.kind]]
    values = [value for person in world.people for value in person.facts.values()]
    values += [word for words in (wording.VERBS if fictional else wording.TERMS).values() for word in words]
    for relation in world.relations:
        asked, sentences, clauses, late = wording.RELATIONS[relation]
        templates += [asked, *sentences, *clauses]
        templates += [f" The former {late}", f" and the latter {late}", "Fact:"]
    if world.unknown_names:
        templates += wording.TRADE_NEWS
        values += [*wording.STRANGER_VERBS, *wording.TRADES, wording.UNKNOWN]
    for template in templates:
        yield from (part for part, slot in _parse(template) if not slot)
    yield from (f" {value}" for value in dict.fromkeys(values))
