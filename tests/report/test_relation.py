"""Everything that is shown speaks the words of the study's relation, and no other."""

from __future__ import annotations

import re

import pytest
from matplotlib.text import Text

from factfinding.config import RelationConfig
from factfinding.declarations import Declarations, declarations
from factfinding.findings.words import told
from factfinding.relation import STUDY, spoken
from helpers.drawn_tables import Drawn, drawn_tables
from helpers.figures import draw_of

CITIES = RelationConfig(subject="city", subjects="cities", answer="country", answers="countries")
OTHERS = re.compile(r"\b(athletes?|sports?|subjects?)\b|<[a-z ]*(subject|answer)s?>", re.IGNORECASE)
"""The study's words, the code's word for them, and marks that were left."""
FICTIONAL = {"training": {"fictional": True}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<Subjects> by <answer>", "Cities by country"),
        ("<a subject> of another <answer>", "a city of another country"),
        ("<An answer>, <A answer>", "A country, A country"),
        ("a < b and a <subject>s' c", "a < b and a citys' c"),
    ],
)
def test_marks_become_words(text, words):
    assert spoken(text, CITIES) == words


def test_the_article_follows_the_word():
    assert spoken("<a subject> and <a answer>") == "an athlete and a sport"
    assert spoken({"x": ["<A subject>", 3, None]}) == {"x": ["An athlete", 3, None]}


@pytest.fixture(scope="module")
def tables():
    return drawn_tables(Drawn(layers=4, heads=3, n=120))


@pytest.mark.parametrize("name", [name for name, one in declarations().experiments.items() if one.figures])
def test_sentences_speak_the_words_of_the_relation(name, tables):
    sentences = told(name, tables, relation=CITIES, **FICTIONAL.get(name, {}))
    assert sentences and not [sentence for sentence in sentences if OTHERS.search(sentence)]
    assert not [
        sentence
        for sentence in told(name, tables, **FICTIONAL.get(name, {}))
        if "<" in sentence and ">" in sentence
    ]


@pytest.mark.parametrize("name", declarations().figures)
def test_figures_speak_the_words_of_the_relation(name, tables):
    declared = declarations().figures[name][1]
    figure = draw_of(name)(**{table: tables[table] for table in declared.tables}, relation=CITIES)
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(texts) and not [text for text in texts if OTHERS.search(text)]


def _texts(declared: Declarations):
    """All that is shown of declarations, but for what the study itself reports."""
    for experiment in declared.experiments.values():
        yield from (experiment.title, experiment.question, experiment.method)
        yield from (figure.caption for figure in experiment.figures.values())
        for claim in experiment.claims:
            yield from (claim.sentence, claim.measured, claim.changed or "")
        for table in experiment.tables.values():
            yield from (table.about, *(column.about for column in table.columns.values()))
    yield from (need.sentence for need in declared.needs.values())
    yield from (check.sentence for check in declared.consistency.values())


def test_declarations_speak_the_words_of_the_relation():
    texts = list(_texts(declarations().spoken(CITIES)))
    plain = [re.sub(r"`[^`]*`", "", text) for text in texts]
    assert not [text for text in plain if OTHERS.search(text)]
    assert any("cities" in text for text in plain)
    assert declarations().spoken(STUDY).claims[0][1].query == declarations().claims[0][1].query


@pytest.mark.parametrize("name", ["context", "attention_roles"])
def test_texts_of_the_prompt_are_those_of_the_relation(name, tables):
    """The study's "Mr" and "Fact:" stand in no figure or sentence of another relation."""
    asked = CITIES.model_copy(
        update={"title": " Old", "before": "Question: in which country lies the city of"}
    )
    figure = draw_of(name)(**{t: tables[t] for t in declarations().figures[name][1].tables}, relation=asked)
    figure.draw_without_rendering()
    drawn = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "Question: in which" in drawn and " …" in drawn, "a long text is cut at a word"
    assert ("“Old”" in drawn) == (name == "context")
    said = " ".join(told(name, tables, relation=asked))
    assert not [word for word in ("Fact:", "Mr", "<") if word in drawn + said]
