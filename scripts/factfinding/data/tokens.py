"""Tokens as a study needs them: a tokenizer read without transformers, the token that an answer is asked by, and what must
hold of the tokens of every prompt before a model is asked.

All of it is known before a model runs, so the pre-flight and the rule `prompts` use the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tokenizers import Tokenizer

from factfinding.errors import InputError
from factfinding.files import read_json

NAMED = 5
"""Names that a message lists."""
SAYABLE = (
    "names that the tokenizer writes, each in tokens of its own; leave these rows out or use another model"
)


class PlainTokenizer:
    """A tokenizer.json as it stands, with as much of a transformers tokenizer's manner as prompts need.

    Nothing is padded or cut, whatever the file says of batches. Raises InputError for a file that is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more particular
            raise InputError(path, f"no tokenizer ({error})", "a fast tokenizer as it was saved") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        self.all_special_ids = sorted(special | self._unknown())

    def _unknown(self) -> set[int]:
        """The token that stands for what the tokenizer does not know, if it has one."""
        content = read_json(self.path).get("model") or {}
        number = content.get("unk_id")  # of Unigram; the other kinds name it
        if number is None and content.get("unk_token") is not None:
            number = self._tokenizer.token_to_id(content["unk_token"])
        return set() if number is None else {number}

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[Any]]:
        try:
            encoded = [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        except Exception as error:  # noqa: BLE001
            raise InputError(
                self.path, f"no tokens of a prompt ({error})", "a tokenizer of any text"
            ) from None
        return {"input_ids": [one.ids for one in encoded], "offset_mapping": [one.offsets for one in encoded]}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self._tokenizer.id_to_token(number) for number in ids]

    def token_to_id(self, token: str) -> int | None:
        """The number of a token, by its name; None where there is no such token."""
        return self._tokenizer.token_to_id(token)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


class BothReadings:
    """transformers' tokenizer of a model folder, held against tokenizer.json itself at every text.

    transformers may build a tokenizer anew from the class that tokenizer_config.json names or the model's type suggests, with
    other rules than those of tokenizer.json. Which of the two the model was trained with cannot be told from here, so a text on
    which they differ is refused.
    """

    def __init__(self, tokenizer: Any, plain: PlainTokenizer) -> None:
        self._tokenizer, self._plain = tokenizer, plain
        self.all_special_ids = sorted({*tokenizer.all_special_ids, *plain.all_special_ids})

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        encoded = self._tokenizer(texts, **options)
        for text, ids, plain in zip(
            texts, encoded["input_ids"], self._plain(texts)["input_ids"], strict=True
        ):
            if list(ids) != plain:
                raise self._differ(text, list(ids), plain)
        return encoded

    def _differ(self, text: str, ids: list[int], plain: list[int]) -> InputError:
        at = next(
            (i for i, (a, b) in enumerate(zip(ids, plain, strict=False)) if a != b), min(len(ids), len(plain))
        )
        shown = [self._tokenizer.convert_ids_to_tokens(part[at : at + 3]) for part in (ids, plain)]
        return InputError(
            self._plain.path,
            f"two tokenizations of {text[:120]!r}: from token {at} on {shown[1]} by this file, {shown[0]} by "
            f"transformers' {type(self._tokenizer).__name__}",
            "one tokenizer: a tokenizer.json as transformers itself saves it, with the tokenizer_class and add_prefix_space of "
            "tokenizer_config.json that fit it",
        )

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def opened(bos: int, tokens: Sequence[int], first: int) -> list[int]:
    """A text's tokens as a prompt: with the token `bos` before them, unless they begin with it (as they do where `model.bos`
    is none, and their own first word takes its place). first: where the name begins, which never stands at position 0."""
    return list(tokens) if first > 0 and tokens[0] == bos else [bos, *tokens]


def first_token(tokenizer: Any, text: str) -> int:
    """The token that a text begins with. Raises InputError for one that has none."""
    ids = (
        tokenizer([text], add_special_tokens=False, return_offsets_mapping=True)["input_ids"][0]
        if text
        else []
    )
    if not ids:
        raise InputError(
            "config.relation",
            "no words before the name",
            "words that prompts can begin with (model.bos: none)",
        )
    return ids[0]


@dataclass(frozen=True, kw_only=True)
class AnswerToken:
    """The token that an answer is asked by: the first that carries text.

    space: tokens of white space alone before it, which belong to the prompt. text: as the tokenizer writes it. unusable: why
    the token is no answer, where it is none.
    """

    space: tuple[int, ...]
    id: int | None
    text: str
    unusable: str | None


def answer_token(tokenizer: Any, after: Sequence[int], answer: str) -> AnswerToken:
    """The token by which `answer` is asked for, from the tokens that follow the prompt.

    A tokenizer that splits digits writes " 1963" as a space and four digits. The space is no answer: it is the same for
    every number. Neither is a digit of a longer number, nor a part of a letter, nor a mark without letters or digits, nor
    the token for what the tokenizer does not know.
    """
    texts = [tokenizer.decode([number]) for number in after]
    at = next((i for i, text in enumerate(texts) if text.strip()), len(texts))
    space = tuple(after[:at])
    if at == len(texts):
        return AnswerToken(space=space, id=None, text="", unusable="its tokens are white space")
    return AnswerToken(
        space=space, id=after[at], text=texts[at],
        unusable=_unusable(texts[at], answer, after[at] in special_ids(tokenizer)),
    )  # fmt: skip


def _unusable(text: str, answer: str, special: bool) -> str | None:
    bare = text.strip()
    if special:
        return f"its first token is {bare!r}, which stands for anything unknown"
    if "\N{REPLACEMENT CHARACTER}" in bare:
        return "its first token is a part of a character"
    if not any(character.isalnum() for character in bare):
        return f"its first token {bare!r} has no letter and no digit"
    rest = answer[len(bare) :] if answer.casefold().startswith(bare.casefold()) else ""
    if bare[-1].isdigit() and re.match(r"[.,]?\d", rest):
        return f"its first token {bare!r} is a part of a number"
    return None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for no text: the unknown token, BOS and their like."""
    return frozenset(getattr(tokenizer, "all_special_ids", ()))


def check_prompts(
    tables: Mapping[str, pl.DataFrame], tokenizer: Any, *, positions: int | None = None
) -> None:
    """What must hold of every prompt. tables: prompts tables (data/prompts.py) of the same subjects by condition.

    Raises InputError, naming the subjects and the condition: for an unknown or special token in a name, a character of a
    name in no token, a name whose tokens are not the same under every condition, two names with the same tokens, and a
    prompt of more tokens, BOS included, than the model has positions (None: not known).
    """
    for condition, table in tables.items():
        _check_written(table, condition, tokenizer)
        if positions is not None and table.height and table["n_tokens"].max() > positions:  # type: ignore[operator]
            longest = table.sort("n_tokens", maintain_order=True).row(-1, named=True)
            raise InputError(
                f"the prompt of {longest['subject']!r} under {condition!r}",
                f"{longest['n_tokens']} tokens, BOS included",
                f"at most {positions}, the positions of the model (config.json)",
            )
    first, *others = tables
    names = _name_ids(tables[first])
    for condition in others:
        for (subject, ids), (_, other) in zip(names, _name_ids(tables[condition]), strict=True):
            if ids != other:
                one, two = (tokenizer.convert_ids_to_tokens(list(part)) for part in (ids, other))
                raise InputError(
                    f"subject {subject!r}",
                    f"the name tokens {one} under {first!r} and {two} under {condition!r}",
                    "the same tokens of a name under every condition",
                )
    _check_distinct(names, tokenizer)


def _name_ids(table: pl.DataFrame) -> list[tuple[str, tuple[int, ...]]]:
    rows = table.select("subject", "token_ids", "first_name", "final_name").iter_rows()
    return [(subject, tuple(ids[first : final + 1])) for subject, ids, first, final in rows]


def _check_written(table: pl.DataFrame, condition: str, tokenizer: Any) -> None:
    special = special_ids(tokenizer)
    found = [(name, sorted(special.intersection(ids))) for name, ids in _name_ids(table)]
    unknown = [(name, ids) for name, ids in found if ids]
    if unknown:
        token = tokenizer.convert_ids_to_tokens(unknown[0][1][:1])[0]
        raise InputError(
            f"{len(unknown)} of {table.height} names under {condition!r}: {_listed([name for name, _ in unknown])}",
            f"the token {token!r}, which stands for no text of theirs",
            SAYABLE,
        )


def _check_distinct(names: Sequence[tuple[str, tuple[int, ...]]], tokenizer: Any) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for subject, ids in names:
        other = seen.setdefault(ids, subject)
        if other != subject:
            tokens = tokenizer.convert_ids_to_tokens(list(ids))
            raise InputError(f"subjects {other!r} and {subject!r}", f"the same tokens {tokens}", SAYABLE)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
