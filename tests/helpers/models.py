"""Small random models of every family, in the hub's own format: what a user would bring."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from factfinding.model.anatomy import Anatomy
from factfinding.model.tiny import byte_level_tokenizer, random_model

MORE = ("qwen3", "phi3", "gemma", "gptj", "gpt_neo", "opt", "phi", "falcon")
FAMILIES = (
    *("gpt_neox", "gpt_neox_sequential", "gpt2", "llama"),
    *(pytest.param(family, marks=pytest.mark.families) for family in MORE),
)
"""Parameters of a test: what it runs on always, and on `pytest -m families`. test_families.py takes the core of all."""
PARALLEL = ("gpt_neox", "gptj", "phi", "falcon")
"""Families whose MLP reads what attention reads."""
TEXT = [
    "Fact: Tiger Woods plays the sport of golf\nFact: Michael Jordan plays the sport of basketball",
    "Fact: Babe Ruth plays the sport of baseball\nFact: Tom Brady plays the sport of football",
] * 8


def tokenizer(vocabulary: int = 360) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every string can be tokenized; the words of `TEXT` are single tokens."""
    return byte_level_tokenizer(TEXT, vocabulary)


def random_anatomy(
    family: str, *, dtype: torch.dtype = torch.float32, vocabulary: int = 360, **options
) -> Anatomy:
    """A random model with its parts known; no tokenizer."""
    return Anatomy(random_model(family, vocabulary=vocabulary, **options).to(dtype))


def save_model(folder: Path, family: str = "gpt_neox", **options) -> Path:
    """A model folder as a user would have it on disk."""
    tokens = tokenizer()
    random_model(family, vocabulary=len(tokens), **options).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
