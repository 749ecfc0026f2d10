"""Prompts of a study: text, tokens, and the role that each position plays.

Three conditions, each a row per subject: `full` (one shot of golf, then the question), `name_only` (the name alone)
and `zero_shot` (the question alone). BOS is put in front explicitly, whether or not the tokenizer would. Where `model.bos`
is none, the first token of the words that stand before every name takes its place: `full` and `zero_shot` are then their
words alone, and a name alone stands behind that token. The wording is the relation's (`relation` in the configuration).

Where a name's tokens lie is found from the tokenizer's offsets, not assumed; a name whose tokens merge with what
stands before or after it is refused by name. Some tokenizers put a space before every text of their own accord; the name
alone is then written without one, so that its tokens are those that it has in the question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from factfinding.config import RelationConfig
from factfinding.data.folding import folded
from factfinding.data.tokens import answer_token, first_token, opened, special_ids
from factfinding.errors import InputError
from factfinding.relation import STUDY

CONDITIONS = ("full", "name_only", "zero_shot")
ROLES = ("bos", "shot", "fact", "first_name", "middle_name", "final_name", "relation", "end")
"""What a position may be. A name of one token is its `final_name`; `fact` is the "Fact:" before the subject's name;
`relation` are the tokens between the name and the last one, which is `end`. Without a question `end` is the name's
final token, and its role stays `final_name`."""

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "subject": pl.String,
    "answer": pl.String,
    "condition": pl.String,
    "text": pl.String,
    "token_ids": pl.List(pl.Int64),
    "roles": pl.List(pl.String),
    "n_tokens": pl.Int64,
    "n_name_tokens": pl.Int64,
    "first_name": pl.Int64,
    "final_name": pl.Int64,
    "end": pl.Int64,
}


@dataclass(frozen=True, kw_only=True)
class Text:
    """A prompt's text without BOS, and the characters that the name covers, the space before it included."""

    text: str
    start: int
    stop: int


def prompt_text(subject: str, condition: str, relation: RelationConfig = STUDY) -> Text:
    """The prompt of one subject under one condition (STUDY: `full`, `name_only`, `zero_shot`)."""
    before, after = {
        "full": (relation.shot + relation.before, relation.after),
        "zero_shot": (relation.before, relation.after),
        "name_only": ("", ""),
    }[condition]
    name = f" {subject}"
    return Text(text=before + name + after, start=len(before), stop=len(before) + len(name))


def encode(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Token ids and character offsets of texts, with nothing added by the tokenizer."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    return encoded["input_ids"], encoded["offset_mapping"]


def name_tokens(prompt: Text, offsets: Sequence[tuple[int, int]], subject: str) -> tuple[int, int]:
    """First and final token of the name, from the tokenizer's character offsets (BOS not counted).

    Raises InputError, naming the subject, where a token covers part of the name and part of its neighbours, and where a
    letter of the name is in no token.
    """
    inside = [i for i, (start, stop) in enumerate(offsets) if stop > prompt.start and start < prompt.stop]
    if not inside:
        raise InputError(
            f"subject {subject!r}", "a name without tokens", "a name that the tokenizer can write"
        )
    begins, ends = offsets[inside[0]][0], offsets[inside[-1]][1]
    if begins < prompt.start or ends > prompt.stop:
        merged = prompt.text[begins:ends]
        raise InputError(
            f"subject {subject!r}",
            f"a name that merges with its neighbours ({merged!r})",
            "a name with tokens of its own",
        )
    covered = {at for i in inside for at in range(*offsets[i])}
    lost = [
        at for at in range(prompt.start, prompt.stop) if at not in covered and _is_written(prompt.text[at])
    ]
    if lost:
        raise InputError(
            f"subject {subject!r}",
            f"no token for {prompt.text[lost[0]]!r}",
            "a name that the tokenizer can write",
        )
    return inside[0], inside[-1]


def _is_written(character: str) -> bool:
    """Letters, digits, marks and signs; not white space, accents apart or invisible joiners, which tokenizers may drop."""
    return unicodedata.category(character)[0] in "LNPS"


def roles(n_tokens: int, shot: int, first: int, final: int) -> list[str]:
    """The role of each position (BOS counted); `shot` is how many tokens the shot line has."""
    named = ["bos"] + ["shot"] * shot + ["fact"] * (first - 1 - shot)
    named += ["first_name"] * (final > first) + ["middle_name"] * (final - first - 1) + ["final_name"]
    named += ["relation"] * (n_tokens - len(named))
    if final < n_tokens - 1:
        named[-1] = "end"
    return named


def prompt_table(
    subjects: pl.DataFrame, tokenizer: Any, bos: int, condition: str, relation: RelationConfig = STUDY
) -> pl.DataFrame:
    """One row per subject with the columns of `SCHEMA`, in the order given.

    `subjects` has columns subject and answer. Raises InputError naming every subject (up to five) whose name merges.
    """
    prompts = [prompt_text(subject, condition, relation) for subject in subjects["subject"]]
    if condition == "name_only":
        prompts = opening_names(tokenizer, subjects["subject"].to_list(), relation)
    ids, offsets = encode(tokenizer, [prompt.text for prompt in prompts])
    rows, refused = [], []
    for subject, answer, prompt, tokens, spans in zip(
        subjects["subject"], subjects["answer"], prompts, ids, offsets, strict=True
    ):
        try:
            first, final = name_tokens(prompt, spans, subject)
        except InputError as error:
            refused.append(error)
            continue
        whole = opened(bos, tokens, first)
        shift = len(whole) - len(tokens)
        shot = sum(stop <= len(relation.shot) for _, stop in spans) if condition == "full" else 0
        shot -= shot > 0 and not shift  # the first token of the example is the one that all begin with
        rows.append(
            {
                "subject": subject,
                "answer": answer,
                "condition": condition,
                "text": prompt.text,
                "token_ids": whole,
                "roles": roles(len(whole), shot, first + shift, final + shift),
                "n_tokens": len(whole),
                "n_name_tokens": final - first + 1,
                "first_name": first + shift,
                "final_name": final + shift,
                "end": len(whole) - 1,
            }
        )
    if refused:
        names = ", ".join(error.where for error in refused[:5])
        raise InputError(
            f"{len(refused)} of {subjects.height} names under {condition!r}: {names}",
            refused[0].found,
            refused[0].allowed,
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def opening_names(tokenizer: Any, names: Sequence[str], relation: RelationConfig = STUDY) -> list[Text]:
    """Names as a text begins with them: after a space, or without one where the tokenizer puts its own before a text.

    Of the two it is the one with the tokens that the name has within a sentence; after a space where neither is.
    """
    spaced = [prompt_text(name, "name_only") for name in names]
    bare = [Text(text=name, start=0, stop=len(name)) for name in names]
    within = [prompt_text(name, "zero_shot", relation) for name in names]
    written, alone, wanted = (_name_ids(tokenizer, texts) for texts in (spaced, bare, within))
    return [bare[i] if alone[i] == wanted[i] != written[i] else spaced[i] for i in range(len(names))]


def _name_ids(tokenizer: Any, texts: Sequence[Text]) -> list[list[int]]:
    """The tokens that cover any of each text's name."""
    ids, offsets = encode(tokenizer, [text.text for text in texts]) if texts else ([], [])
    return [
        [
            token
            for token, (start, stop) in zip(tokens, spans, strict=True)
            if stop > text.start and start < text.stop
        ]
        for text, tokens, spans in zip(texts, ids, offsets, strict=True)
    ]


def check_shot(names: Iterable[str], answers: Iterable[str], relation: RelationConfig = STUDY) -> None:
    """Raise InputError for a name or an answer that stands in the example: the prompt would give it away."""
    shot = folded(relation.shot)
    for what, several, texts in (
        (relation.answer, relation.answers, answers),
        (relation.subject, relation.subjects, names),
    ):
        for text in texts:
            if stands_in(folded(text), shot):
                raise InputError(
                    f"{what} {text!r}",
                    f"a word of the example that stands before every question ({relation.shot.strip()!r})",
                    f"{several} that the example does not name, since it gives them away; leave these rows out, or take "
                    "another example (relation.shot)",
                )


def check_wording(wording: RelationConfig, where: str) -> None:
    """Raise InputError, naming the key below `where`, for a question that cannot be put so.

    An answer follows `after`, and a name `before`, after one space, which belongs to what follows; and an example that does
    not end in white space would run into the question.
    """
    shot, before, after = wording.shot, wording.before, wording.after
    if not after.strip():
        allowed = "words between the name and the answer, such as ' plays the sport of' (or ':'): what is read at END"
        raise InputError(f"{where}.after", repr(after), allowed)
    if after != after.rstrip():
        raise InputError(
            f"{where}.after", f"{after!r}, which ends in white space", "text up to its last word"
        )
    if before.endswith(" "):
        allowed = "text without it; the space before a name belongs to the name"
        raise InputError(f"{where}.before", f"{before!r}, which ends in a space", allowed)
    if shot and not shot.strip():
        raise InputError(f"{where}.shot", repr(shot), "an example, or '' for none")
    if shot.strip() and before and not (shot[-1].isspace() or before[0].isspace()):
        found = f"an example that runs into the question ({(shot + before)[-40:]!r})"
        raise InputError(f"{where}.shot", found, r'an example that ends in a line break ("...\n") or a space')


def check_beginnings(tokenizer: Any, relation: RelationConfig, where: str) -> None:
    """Raise InputError where prompts without BOS (`model.bos: none`) would not all begin with the same token: heads that
    have nothing to look for rest on it. The question alone begins with `before`, the other prompts with the example."""
    shared = first_token(tokenizer, relation.shot + relation.before)
    if not relation.before or first_token(tokenizer, relation.before) != shared:
        token = tokenizer.decode([shared])
        allowed = f"with model.bos none, words that begin with the token of the example ({token!r}), on which heads rest in every prompt"
        raise InputError(f"{where}.before", repr(relation.before), allowed)


def check_template(tokenizer: Any, wording: RelationConfig, where: str) -> None:
    """Raise InputError where the tokenizer loses or does not know a part of the prompt that is no name.

    Every letter, digit and sign must be in a token, and in none that stands for what the tokenizer does not know. A special
    token that the text itself spells out, such as one that opens a turn, is text.
    """
    text, special = wording.shot + wording.before + wording.after, special_ids(tokenizer)
    (ids,), (spans,) = encode(tokenizer, [text])
    for token, (start, stop) in zip(ids, spans, strict=True):
        if token in special and tokenizer.convert_ids_to_tokens([token])[0] != text[start:stop].strip():
            found = f"{text[start:stop].strip()!r}, which the tokenizer does not know"
            raise InputError(where, found, "words of shot, before and after that it can write")
    covered = {at for start, stop in spans for at in range(start, stop)}
    lost = [at for at in range(len(text)) if at not in covered and _is_written(text[at])]
    if lost:
        raise InputError(where, f"no token for {text[lost[0]]!r}", "text that the tokenizer can write")


def stands_in(words: str, text: str) -> bool:
    """Whether words stand in a text, not as a part of longer words."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


CANDIDATES: dict[str, pl.DataType | type[pl.DataType]] = {
    "answer": pl.String,
    "token_id": pl.Int64,
    "answer_token": pl.String,
    "n_answer_tokens": pl.Int64,
}


def candidates(answers: Sequence[str], prompt: str, tokenizer: Any) -> pl.DataFrame:
    """The token by which each answer is asked for, as it follows `prompt`: the answer's first.

    Columns answer (in the order of the alphabet), token_id, answer_token (as text), n_answer_tokens (1: the token is the
    whole answer). Raises InputError for an answer that merges with the prompt or whose first token is none to ask by
    (white space alone, or as `answer_token` says), and for two answers that begin with the same token.
    """
    base = encode(tokenizer, [prompt])[0][0]
    rows = [_candidate(answer, prompt, base, tokenizer) for answer in sorted(answers)]
    first: dict[int, str] = {}
    for row in rows:
        other = first.setdefault(row["token_id"], row["answer"])
        if other != row["answer"]:
            raise InputError(
                f"answers {other!r} and {row['answer']!r}",
                f"the same first token {row['answer_token']!r}, by which both would be asked for",
                "answers that differ in their first token; leave the rows of one out, or write it in other words",
            )
    return pl.DataFrame(rows, schema=CANDIDATES)


def _candidate(answer: str, prompt: str, base: list[int], tokenizer: Any) -> dict[str, Any]:
    tokens = encode(tokenizer, [f"{prompt} {answer}"])[0][0]
    after = tokens[len(base) :]
    if tokens[: len(base)] != base or not after:
        found = "tokens that merge with those of the prompt"
        raise InputError(f"answer {answer!r}", found, "a word with tokens of its own after the prompt")
    asked = answer_token(tokenizer, after, answer)
    if asked.unusable:
        raise InputError(
            f"answer {answer!r}", f"no answer: {asked.unusable}", "a word that the tokenizer can write"
        )
    if asked.space:
        pieces = " ".join(map(repr, tokenizer.convert_ids_to_tokens(after)))
        found = f"a first token of white space alone ({pieces}), which is the same for every answer"
        raise InputError(f"answer {answer!r}", found, "a word whose first token holds its first letters")
    return {
        "answer": answer,
        "token_id": asked.id,
        "answer_token": asked.text,
        "n_answer_tokens": len(after),
    }


def in_parts(candidates: pl.DataFrame) -> str:
    """The answers of several tokens, each with the one it is asked by; empty where there are none."""
    several = candidates.filter(pl.col("n_answer_tokens") > 1)
    return ", ".join(
        f"{answer} by {token!r}" for answer, token in several.select("answer", "answer_token").iter_rows()
    )


def finer_roles(roles: Sequence[str]) -> list[str]:
    """The role of each position of a prompt, the shot's line break and the relation's tokens told apart."""
    finer = list(roles)
    if "shot" in finer:
        finer[len(finer) - 1 - finer[::-1].index("shot")] = "newline"
    relation = [position for position, role in enumerate(finer) if role == "relation"]
    for number, position in enumerate(relation, start=1):
        finer[position] = f"relation_{number}"
    return finer
