"""The words of a relation in everything that is shown.

Figures, sentences, captions and claims are written once, with marks where the words of the study's relation belong:
`<subject>`, `<subjects>`, `<answer>`, `<answers>`, with a capital where a sentence begins (`<Subjects>`), and with the
article (`<a subject>`, `<An answer>`). They are put in at three places: where a figure is drawn (figures/style.py),
where the page collects its sentences (findings/words.py), and where declarations are shown (`Declarations.spoken`).
"""

from __future__ import annotations

import re
from typing import TypeVar

from factfinding.config import RelationConfig

STUDY = RelationConfig()
"""The study's own relation: which sport an athlete plays."""

MARK = re.compile(r"<(?:([Aa])n? )?([sSaA])(ubject|nswer)(s?)>")
T = TypeVar("T")


def spoken(value: T, relation: RelationConfig = STUDY) -> T:
    """`value` with the relation's words in place of all marks: a text, or lists and mappings of such."""
    if isinstance(value, str):
        return MARK.sub(lambda mark: _word(mark, relation), value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: spoken(item, relation) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(spoken(item, relation) for item in value)
    return value


def _word(mark: re.Match[str], relation: RelationConfig) -> str:
    article, first, rest, plural = mark.groups()
    word = getattr(relation, f"{first.lower()}{rest}{plural}")
    if article:
        return f"{article}{'n' if word[0].lower() in 'aeiou' else ''} {word}"
    return word[0].upper() + word[1:] if first.isupper() else word
