"""Reading and writing files whole: a reader never sees half of one, even if the writer is killed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from factfinding.errors import InputError

CSV_ROWS = 10_000
"""Tables above this many rows are Parquet: a CSV is there to be opened and read."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a part beside `path`; on success sync and rename it to `path`, on failure remove it.

    The part lies in the same folder so that the rename is atomic: after a kill there is either the old
    file, or the new one, or none; never a half. Its name is this writer's alone, so that of two processes at
    one path each publishes its own file; the next writer removes what a killed one left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if _writer_is_gone(left):
            left.unlink(missing_ok=True)
    part = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _host() -> str:
    """This machine in eight characters: on a disk that machines share, a process number alone does not tell whose it is."""
    return text_digest(os.uname().nodename)[:8]


def _writer_is_gone(part: Path) -> bool:
    """Whether a part was left by a process of this machine that no longer runs; other machines remove their own."""
    name = re.search(r"\.([0-9a-f]{8})-(\d{1,9})-[0-9a-f]{8}\.part$", part.name)
    if name is None or name[1] != _host():
        return False
    try:
        os.kill(int(name[2]), 0)  # signal 0 only asks whether there is such a process
    except ProcessLookupError:
        return True
    except PermissionError:  # there is, and it is another user's
        pass
    return False


def write_text(text: str, path: str | Path) -> None:
    """Write UTF-8 text, whole."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(obj: Any, path: str | Path) -> None:
    """Write `obj` as indented JSON in its own key order, whole. NaN is refused: no reader agrees on it."""
    write_text(json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_json(path: str | Path) -> Any:
    """Read JSON; raises InputError naming the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "no such file", "a JSON file") from None
    except (ValueError, RecursionError) as error:  # also for numbers and nesting beyond Python's limits
        raise InputError(path, f"no valid JSON ({error})", "a JSON file") from None


def write_csv(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a CSV of any length, whole: for files in the format of a user's own input (subjects, facts)."""
    with whole(path) as part:
        frame.write_csv(part)


def write_table(frame: pl.DataFrame, path: str | Path) -> None:
    """Write a table, whole, as the suffix says (.csv or .parquet).

    Raises ValueError for another suffix and for a CSV of more than `CSV_ROWS` rows.
    """
    suffix = Path(path).suffix
    if suffix == ".csv" and frame.height > CSV_ROWS:
        raise ValueError(
            f"{path}: {frame.height} rows; tables of more than {CSV_ROWS} are written as Parquet"
        )
    if suffix not in {".csv", ".parquet"}:
        raise ValueError(f"{path}: tables are .csv or .parquet")
    with whole(path) as part:
        frame.write_csv(part) if suffix == ".csv" else frame.write_parquet(part)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def text_digest(*parts: str) -> str:
    """SHA-256 of several strings, as hex; where one string ends and the next begins counts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
