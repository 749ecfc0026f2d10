"""The tokenizer of a model folder: one for the whole workflow, the same by both ways of reading it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from factfinding.data.tokens import BothReadings, PlainTokenizer


def read_tokenizer(folder: str | Path) -> BothReadings:
    """transformers' tokenizer of a folder, held against tokenizer.json at every text that it is given.

    Local files only, no remote code. Raises InputError for a tokenizer.json that is none, and what transformers raises.
    """
    plain = PlainTokenizer(Path(folder) / "tokenizer.json")
    loaded = AutoTokenizer.from_pretrained(
        folder, use_fast=True, local_files_only=True, trust_remote_code=False
    )
    return BothReadings(loaded, plain)
