"""The question that one known subject is asked, token by token, as the page's picture shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from factfinding.data.tokens import PlainTokenizer


@dataclass(frozen=True, kw_only=True)
class Example:
    """The question that one known subject is asked: texts and roles of its tokens, without the example before it."""

    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    subject: str
    answer: str


def example_of(prompts: pl.DataFrame, recall: pl.DataFrame, folder: Path) -> Example | None:
    """The first known subject whose name has the commonest number of tokens (the fewer, of equally common ones), with the
    texts of its tokens by the tokenizer of a model folder. Nobody known: the first of all. None: there is no prompt, or no
    tokenizer any more.
    """
    path = folder / "tokenizer.json"
    if prompts.is_empty() or not path.is_file():
        return None
    known = prompts.filter(pl.col("subject").is_in(recall.filter("known")["subject"].implode()))
    rows = prompts if known.is_empty() else known
    lengths = rows["n_name_tokens"].value_counts().sort(["count", "n_name_tokens"], descending=[True, False])
    row = rows.filter(n_name_tokens=lengths["n_name_tokens"][0]).row(0, named=True)
    tokenizer = PlainTokenizer(path)
    asked = [i for i, role in enumerate(row["roles"]) if role not in ("bos", "shot", "fact")]
    return Example(
        tokens=tuple(tokenizer.decode([row["token_ids"][i]]) for i in asked),
        roles=tuple(row["roles"][i] for i in asked),
        subject=row["subject"],
        answer=row["answer"],
    )
