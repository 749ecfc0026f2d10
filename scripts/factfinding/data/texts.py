"""Running text: a text file, a table of texts, or the embedded model's corpus; and how it is cut into strings of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from factfinding.data.prompts import encode
from factfinding.errors import InputError

TABLES: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
}
COMMON = frozenset(
    "and of or in to that which with for the a an they on is their but are its i we it at".split()
)
"""The study's list of common words (post 5)."""
CATEGORIES = ("newline", "full_stop", "comma", "common", "alphabetic", "other")


@dataclass(frozen=True, kw_only=True)
class String:
    """Consecutive tokens of a text: their ids and the text that each stands for."""

    ids: tuple[int, ...]
    words: tuple[str, ...]


def read_texts(path: str | Path, field: str = "text") -> list[str]:
    """The texts of a file: of a table (.parquet, .jsonl) those in the column `field`, one per row; of any other file the
    whole, which must be UTF-8, as one text.

    Raises InputError for a file that is missing, damaged, not UTF-8 or without any text, for a missing column and for
    rows that are no text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            path, "no such file", "a text file in UTF-8, or a .jsonl or .parquet with a column of texts"
        )
    if path.suffix in TABLES:
        texts = _column(path, field)
    else:
        try:
            texts = [path.read_text(encoding="utf-8")]
        except UnicodeDecodeError as error:
            raise InputError(path, f"bytes that are no UTF-8 (at {error.start})", "a text in UTF-8") from None
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(path, "no text", "at least one text that is not empty")
    return texts


def read_corpus(path: str | Path) -> list[str]:
    """The embedded model's corpus without its opening note. Raises as `read_texts`."""
    _, _, text = read_texts(path)[0].partition("\n\n")
    return [text]


def _column(path: Path, field: str) -> list[str]:
    try:
        frame = TABLES[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(path, f"a damaged table ({error})", f"a table in the format {path.suffix}") from None
    if field not in frame.columns:
        raise InputError(
            path, f"no column {field!r}", f"one of {', '.join(frame.columns)} (config.locality.field)"
        )
    if frame.height and frame.schema[field] != pl.String:
        raise InputError(f"{path}, column {field}", f"{frame.schema[field]}", "texts")
    empty = frame.with_row_index("row").filter(pl.col(field).is_null())
    if empty.height:
        raise InputError(f"{path}, row {empty['row'][0] + 1}", f"no text in {field!r}", "a text in every row")
    return frame[field].to_list()


def strings_of(
    texts: Sequence[str], tokenizer: Any, *, tokens: int, wanted: int, seed: int, where: object
) -> list[String]:
    """Up to `wanted` strings of exactly `tokens` tokens, drawn from all that the texts hold.

    A text is cut from its beginning; a string begins where the one before it ended, or at the next beginning of a line if
    one comes within another string's length. Ends that are too short are left out. Raises InputError, naming `where`, if
    no text is long enough.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(texts))
    found: list[String] = []
    longest = 0
    for index in order:
        (ids,), (spans,) = encode(tokenizer, [texts[index]])
        longest = max(longest, len(ids))
        for start in _starts(texts[index], spans, tokens):
            part = slice(start, start + tokens)
            words = tuple(texts[index][begin:end] for begin, end in spans[part])
            found.append(String(ids=tuple(ids[part]), words=words))
        if len(found) >= wanted and len(texts) > 1:
            break  # texts come in random order: enough of them are a sample
    if not found:
        raise InputError(
            where,
            f"texts of at most {longest} tokens",
            f"one of at least {tokens}, or a smaller config.locality.tokens",
        )
    drawn = np.random.default_rng([seed, 1]).permutation(len(found))[:wanted]
    return [found[index] for index in np.sort(drawn)]


def _starts(text: str, spans: Sequence[tuple[int, int]], tokens: int) -> list[int]:
    lines = [i for i, (start, _) in enumerate(spans) if start == 0 or "\n" in text[spans[i - 1][0] : start]]
    starts, at = [], 0
    while at + tokens <= len(spans):
        starts.append(at)
        ahead = np.searchsorted(lines, at + tokens)
        near = ahead < len(lines) and lines[ahead] < at + 2 * tokens
        at = lines[ahead] if near else at + tokens
    return starts


def category(word: str) -> str:
    """Which of `CATEGORIES` a token's text belongs to; spaces around it and capitals do not count."""
    bare = word.strip()
    if not bare:
        return "newline" if "\n" in word else "other"
    if bare in {".", ","}:
        return "full_stop" if bare == "." else "comma"
    if bare.lower() in COMMON:
        return "common"
    return "alphabetic" if re.fullmatch(r"[^\W\d_]+", bare) else "other"


def download_dataset(
    name: str, *, config: str, split: str, revision: str, field: str, texts: int, folder: str | Path
) -> pl.DataFrame:
    """The first `texts` texts of a data set of the Hugging Face hub, from the Parquet files that the hub keeps of it.

    Fetches no more files than that takes, into `folder`. Raises InputError that says what to do instead, when the hub
    cannot be reached or does not have it, and for a column that is not there.
    """
    from huggingface_hub import HfApi, hf_hub_download

    where = f"config.locality.dataset {name!r}, config {config!r}, split {split!r}, revision {revision!r}"
    kept: list[str] = []
    try:
        files = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        wanted = sorted(
            file for file in files if file.startswith(f"{config}/{split}/") and file.endswith(".parquet")
        )
        for file in wanted:
            path = hf_hub_download(name, file, repo_type="dataset", revision=revision, local_dir=folder)
            kept += read_texts(path, field)
            if len(kept) >= texts:
                break
    except InputError:
        raise
    except Exception as error:  # the hub's client has a score of kinds, all for files that did not come
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise InputError(
            where,
            f"no download ({type(error).__name__}: {reason})",
            "a network, or a file of texts on this machine in config.locality.texts",
        ) from error
    if not wanted:
        there = sorted({file.rpartition("/")[0] for file in files if file.endswith(".parquet")})
        raise InputError(
            where, "no such configuration or split", f"config/split: {', '.join(there) or 'none'}"
        )
    return pl.DataFrame({"text": kept[:texts]})
