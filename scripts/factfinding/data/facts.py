"""The table of facts: several questions about one subject, each with its answer (P3.2)."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import polars as pl

from factfinding.data.csv_rows import Row, clean_text, read_rows, row_place
from factfinding.data.folding import folded
from factfinding.errors import InputError

COLUMNS = ["subject", "relation", "prompt", "answer"]


def read_facts(path: str | Path) -> pl.DataFrame:
    """Read and check a CSV with the columns subject, relation, prompt, answer; others are ignored.

    A prompt is the text before the answer, without the space between them, and holds its subject exactly
    once, letter by letter, so that the subject's tokens can be found. It may hold newlines (earlier facts as
    examples), and the answer. The answer is written without the space before it. Text is brought to Unicode
    NFC.

    Raises InputError, naming file, row, subject and relation, for whatever `read_rows` refuses, for empty
    cells, for a subject and relation that stand twice (in look-alike spellings too: `folded`), and for prompts and answers
    that are not as said.
    """
    facts: dict[tuple[str, str], int] = {}
    rows = []
    for row in read_rows(path, COLUMNS):
        fact = _fact(path, row)
        subject, relation = fact[:2]
        earlier = facts.setdefault((folded(subject), folded(relation)), row.number)
        if earlier != row.number:
            where = row_place(path, row.number, f"{subject}, {relation}")
            raise InputError(where, f"the same subject and relation as in row {earlier}", "each once")
        rows.append(fact)
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def no_facts() -> pl.DataFrame:
    """The facts of a study that has none."""
    return pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String))


def _fact(path: str | Path, row: Row) -> tuple[str, str, str, str]:
    subject = clean_text(row.cells["subject"], row_place(path, row.number, "subject"))
    relation = clean_text(row.cells["relation"], row_place(path, row.number, f"relation of {subject}"))
    where = row_place(path, row.number, f"{subject}, {relation}")
    prompt, answer = (unicodedata.normalize("NFC", row.cells[name]) for name in ("prompt", "answer"))
    for name, text in (("prompt", prompt), ("answer", answer)):
        if not text.strip():
            raise InputError(where, f"an empty {name}", "text")
    if prompt != prompt.rstrip():
        raise InputError(
            where, f"a prompt that ends in whitespace: {prompt[-20:]!r}", "the text up to the last word"
        )
    if answer != answer.strip():
        raise InputError(where, f"the answer {answer!r}", "an answer without whitespace around it")
    times = len(re.findall(f"(?={re.escape(subject)})", prompt))
    if times != 1:
        raise InputError(where, f"a prompt that holds its subject {times} times: {prompt!r}", "exactly once")
    return subject, relation, prompt, answer
