"""Writes prose.txt, English prose for post 5 and the dossiers of a real model: `python resources/make_prose.py`.

It is the prose of the Python Language Reference, as Python itself carries it (`pydoc_data.topics`; copyright Python Software
Foundation, PSF licence version 2). Paragraphs that are code, grammar, tables or lists are left out, and so are repeated ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from pydoc_data.topics import topics

LEAST_WORDS = 25
CODE = re.compile(r"::=|>>>|^\s*[-*+|=~^.`\"']|[{}\\|]|__\w+__\(|https?:|\n {4,}", re.MULTILINE)


def is_prose(paragraph: str) -> bool:
    """Whole sentences: a capital at the beginning, a full stop at the end, nothing that only code has."""
    words = paragraph.split()
    plain = sum(word.strip(",.;:()*'\"").isalpha() for word in words)
    return (
        len(words) >= LEAST_WORDS
        and paragraph[0].isupper()
        and paragraph.endswith(".")
        and plain >= 0.9 * len(words)
        and not CODE.search(paragraph)
    )


def paragraphs() -> list[str]:
    """Every paragraph of prose once, each on a line, in the order of the topics' names."""
    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            text = paragraph.strip().replace("**", "").replace("*", "").replace('"', "")
            if is_prose(text):
                found[" ".join(text.split())] = None
    return list(found)


if __name__ == "__main__":
    Path(__file__).with_name("prose.txt").write_text("\n".join(paragraphs()) + "\n", encoding="utf-8")
