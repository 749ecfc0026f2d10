"""Prompts of a facts table: tokens, where the subject's name lies, and the token of the answer (P3.2).

Facts are asked as they stand in the table, after BOS and with nothing before them, by the first token of the answer that
carries text (`tokens.answer_token`): white space before it belongs to the prompt. A fact that cannot be asked so stays in
the table, with the reason. `prefix` is what stands before the
name: what the model makes of a name depends on that alone, so another subject's activations fit a prompt if they were
recorded after the same prefix (`donor_prompts`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import polars as pl

from factfinding.data.folding import folded
from factfinding.data.prompts import Text, encode, name_tokens, stands_in
from factfinding.data.tokens import answer_token, opened, special_ids
from factfinding.errors import InputError

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "subject": pl.String,
    "fact": pl.String,
    "fact_answer": pl.String,
    "target": pl.Int64,
    "answer_token": pl.String,
    "left_out": pl.String,
    "prefix": pl.String,
    "token_ids": pl.List(pl.Int64),
    "n_tokens": pl.Int64,
    "n_name_tokens": pl.Int64,
    "first_name": pl.Int64,
    "final_name": pl.Int64,
    "end": pl.Int64,
}
DONORS = ("subject", "answer", "token_ids", "n_tokens", "final_name")


def fact_prompts(facts: pl.DataFrame, tokenizer: Any, bos: int) -> pl.DataFrame:
    """One row per fact, in the order given: the columns of `SCHEMA`.

    facts: columns subject, relation, prompt, answer, as `facts.read_facts` checks them. `target` is the id of the token by
    which the answer is asked for, `answer_token` its text, and `left_out` says why the fact cannot be asked (null where it
    can): its token is no answer, its prompt holds the answer, or the tokenizer does not know its subject's name. Positions
    count BOS; where white space of the answer was put into the prompt, `end` is there. Raises InputError, naming subject
    and relation, where a name's or an answer's tokens merge with what stands before them.
    """
    if facts.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    ids, offsets = encode(tokenizer, facts["prompt"].to_list())
    answered, _ = encode(tokenizer, [f"{row['prompt']} {row['answer']}" for row in facts.to_dicts()])
    special, rows = special_ids(tokenizer), []
    for fact, tokens, spans, after in zip(facts.to_dicts(), ids, offsets, answered, strict=True):
        prefix, name = fact["prompt"].partition(fact["subject"])[0], fact["subject"]
        if after[: len(tokens)] != tokens or len(after) == len(tokens):
            raise InputError(
                f"fact {fact['relation']!r} of {name!r}",
                f"an answer whose tokens merge with the prompt's ({fact['answer']!r})",
                "an answer with tokens of its own after a space",
            )
        place = _place(prefix, name, fact["prompt"])
        first, final = name_tokens(place, spans, name)
        asked = answer_token(tokenizer, after[len(tokens) :], fact["answer"])
        left_out = asked.unusable
        if stands_in(folded(fact["answer"]), folded(fact["prompt"])):
            left_out = "its prompt holds the answer"
        if special.intersection(tokens[first : final + 1]):
            left_out = "the tokenizer does not know the name"
        whole = [*opened(bos, tokens, first), *asked.space]
        shift = len(whole) - len(tokens) - len(asked.space)
        rows.append(
            {"subject": name, "fact": fact["relation"], "fact_answer": fact["answer"]}
            | {"target": asked.id, "answer_token": asked.text, "left_out": left_out, "prefix": prefix}
            | {"token_ids": whole, "n_tokens": len(whole), "n_name_tokens": final - first + 1}
            | {"first_name": first + shift, "final_name": final + shift, "end": len(whole) - 1}
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def donor_prompts(people: pl.DataFrame, prefix: str, tokenizer: Any, bos: int) -> pl.DataFrame:
    """The names of people (columns subject, answer) after a prefix: columns subject, answer, token_ids, n_tokens,
    final_name. Names that merge with the prefix are left out.
    """
    texts = [prefix + name for name in people["subject"]]
    ids, offsets = encode(tokenizer, texts) if texts else ([], [])
    rows = []
    for (name, answer), text, tokens, spans in zip(
        people.select("subject", "answer").iter_rows(), texts, ids, offsets, strict=True
    ):
        try:
            first, final = name_tokens(_place(prefix, name, text), spans, name)
        except InputError:
            continue
        whole = opened(bos, tokens, first)
        rows.append((name, answer, whole, len(whole), final + len(whole) - len(tokens)))
    schema = {"answer": pl.String, **SCHEMA}
    return pl.DataFrame(rows, schema={name: schema[name] for name in DONORS}, orient="row")


def subject_order(facts: pl.DataFrame, *, first: Sequence[str] = (), seed: int) -> list[str]:
    """The subjects: those of `first`, then those with most facts in the table, in random order among equals.

    Raises InputError for one of `first` who is not in the table.
    """
    counts = dict(facts.group_by("subject", maintain_order=True).len().iter_rows())
    missing = [name for name in first if name not in counts]
    if missing:
        raise InputError("neurons.first", repr(missing[0]), "subjects of the facts table")
    others = sorted(set(counts) - set(first))
    random.Random(seed).shuffle(others)
    return [*dict.fromkeys(first), *sorted(others, key=lambda name: -counts[name])]


def _place(prefix: str, name: str, text: str) -> Text:
    """Where a name lies, the space before it included."""
    start = len(prefix) - prefix.endswith(" ")
    return Text(text=text, start=start, stop=len(prefix) + len(name))
