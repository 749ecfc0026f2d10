"""Relation files as published with *Linearity of Relation Decoding* (Hernandez and others, 2023): subjects and their answers in
JSON, with templates of prompts.

    {"name": "...", "prompt_templates": ["{} plays the sport of"], "prompt_templates_zs": [...], "properties": {...},
     "samples": [{"subject": "...", "object": "..."}, ...]}

Of these only the samples are used. How a question is worded is the configuration's to say (`relation`); `wording` says what
it would have to say to ask as a template does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factfinding.data.csv_rows import Row, parsed_json, read_text, rows_of_records
from factfinding.errors import InputError

SUBJECT, ANSWER = "subject", "object"
"""The keys of a sample."""
TEMPLATES = ("prompt_templates", "prompt_templates_zs")
ALLOWED = 'a relation file: {"samples": [{"subject": "...", "object": "..."}, ...]}'
PLACE = "{}"
"""Where a template has its subject."""


@dataclass(frozen=True, kw_only=True)
class RelationFile:
    """The samples as rows, numbered from 1, with the cells `SUBJECT` and `ANSWER`; the templates, each once."""

    rows: list[Row]
    templates: tuple[str, ...]


def is_relation_file(path: str | Path) -> bool:
    """Whether a file's name says that it is one."""
    return Path(path).suffix.lower() == ".json"


def read_relation_file(path: str | Path) -> RelationFile:
    """Read the samples and templates. Raises InputError naming the file, and the sample as a row, for a file that is missing,
    unreadable or no JSON, for no samples, and for samples without a text under `subject` and `object`."""
    text = read_text(path, ALLOWED)
    try:
        content = parsed_json(text)
    except ValueError as error:
        raise InputError(path, f"no JSON ({error})", ALLOWED) from None
    if not isinstance(content, dict):
        found = f"a {type(content).__name__} instead of an object"
        raise InputError(
            path, found, f"{ALLOWED}; for rows alone a file that ends in .jsonl, one object in each line"
        )
    if "samples" not in content:
        there = ", ".join(map(repr, content)) or "nothing"
        raise InputError(path, f"no 'samples' among {there}", ALLOWED)
    samples = content["samples"]
    if not isinstance(samples, list) or not samples:
        raise InputError(f"{path}, samples", f"{json.dumps(samples):.80}", "a list of at least one sample")
    return RelationFile(rows=rows_of_records(path, samples, (SUBJECT, ANSWER)), templates=_templates(content))


def wording(template: str) -> str:
    """What the configuration would say to ask as a template does, or why it cannot.

    A prompt is `relation.shot`, `relation.before`, a space, the subject, and `relation.after`.
    """
    before, place, after = template.partition(PLACE)
    if not place or PLACE in after:
        return (
            "it does not name the subject exactly once, so relation.before and relation.after cannot say it"
        )
    if not after.strip():
        return "it ends with the subject, so nothing is asked at a token of its own"
    if before and not before.endswith(" "):
        return "no space stands before the subject, so relation.before cannot say it"
    quoted = ", ".join(f"{name}: {json.dumps(text, ensure_ascii=False)}" for name, text in (
        ("before", before.removesuffix(" ")), ("after", after.rstrip())
    ))  # fmt: skip
    return f"to ask so: relation: {{{quoted}}}, with a shot in the same words"


def _templates(content: dict[str, Any]) -> tuple[str, ...]:
    """Whatever is no text there is no template; nothing depends on it."""
    lists: Sequence[Any] = [content.get(key) for key in TEMPLATES]
    found = [text for some in lists if isinstance(some, list) for text in some if isinstance(text, str)]
    return tuple(dict.fromkeys(found))
