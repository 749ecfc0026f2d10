"""The words of a relation in everything that is shown.

Figures, sentences, captions and claims are written once, with marks where the words of the study's relation belong:
`<subject>`, `<subjects>`, `<answer>`, `<answers>`, with a capital where a sentence begins (`<Subjects>`), and with the
article (`<a subject>`, `<An answer>`); `<title>` and `<before>` stand for these texts of the prompt. They are put in at
three places: where a figure is drawn (figures/style.py),
where the page collects its sentences (findings/words.py), and where declarations are shown (`Declarations.spoken`).
"""

from __future__ import annotations

import re
import textwrap
from typing import Any, TypeVar

from factfinding.config import RelationConfig, Wording

STUDY = RelationConfig()
"""The study's own relation: which sport an athlete plays."""

STUDY_PARAPHRASES = (
    Wording(shot="Fact: The sport of Tiger Woods is golf\n", before="Fact: The sport of", after=" is"),
    Wording(shot="Fact: Tiger Woods plays golf\n", after=" plays"),
)
"""The study's question in other words, which the embedded model's documents hold as well (organism/wording.py)."""
PROMPT = ("shot", "before", "after")
STUDY_FACTS = "resources/facts.csv"
"""Facts of the study's subjects (P3.2), for models that have none of their own."""

MARK = re.compile(r"<(?:([Aa])n? )?([sSaA])(ubject|nswer)(s?)>")
QUOTED = re.compile(r"<(title|before)>")
LONGEST = 24
"""Characters of a text of the prompt that are shown where it names something, as in a legend."""
T = TypeVar("T")


def spoken(value: T, relation: RelationConfig = STUDY) -> T:
    """`value` with the relation's words in place of all marks: a text, or lists and mappings of such."""
    if isinstance(value, str):
        said = QUOTED.sub(lambda mark: _text(getattr(relation, mark[1])), value)
        return MARK.sub(lambda mark: _word(mark, relation), said)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: spoken(item, relation) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(spoken(item, relation) for item in value)
    return value


def of_the_study(relation: RelationConfig) -> bool:
    """Whether it is the study's subjects that are asked about, and the study's answers that they have."""
    return (relation.subject, relation.answer) == (STUDY.subject, STUDY.answer)


def wordings(relation: Any) -> tuple[RelationConfig, ...]:
    """The question in each of its wordings, the relation's own first.

    relation: with shot, before, after and paraphrases; of what is given back only the first three mean anything. Where
    nothing is said of paraphrases, the study's own prompt has two (`STUDY_PARAPHRASES`), and any other has none.
    """
    own = {key: getattr(relation, key) for key in PROMPT}
    paraphrases = relation.paraphrases
    if paraphrases is None:
        asked = all(own[key] == getattr(STUDY, key) for key in PROMPT)
        paraphrases = STUDY_PARAPHRASES if asked else ()
    others = (wording.model_dump(exclude_none=True) for wording in paraphrases)
    return tuple(RelationConfig(**own | other) for other in ({}, *others))


def _text(text: str) -> str:
    """A text of the prompt on one line, the end left out where it is long."""
    return textwrap.shorten(text, LONGEST, placeholder=" …")


def _word(mark: re.Match[str], relation: RelationConfig) -> str:
    article, first, rest, plural = mark.groups()
    word = getattr(relation, f"{first.lower()}{rest}{plural}")
    if article:
        return f"{article}{'n' if word[0].lower() in 'aeiou' else ''} {word}"
    return word[0].upper() + word[1:] if first.isupper() else word
