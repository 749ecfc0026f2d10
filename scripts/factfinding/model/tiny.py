"""A model of random weights with a real tokenizer, saved in the hub's format: it knows nothing, and every rule runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from factfinding.data.prompts import prompt_text
from factfinding.families import KNOWN_TYPES, TINY

END_OF_TEXT = "<|endoftext|>"


def byte_level_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on texts: every string has tokens, frequent words have one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def _options(kind: str, *, layers: int, width: int, heads: int) -> dict[str, Any]:
    """What the configuration of a tiny model says beside its sizes, by model_type."""
    grouped = {"num_key_value_heads": max(1, heads // 2)}
    own = {"head_dim": width // heads}
    options: dict[str, dict[str, Any]] = {
        "llama": grouped,
        "mistral": grouped | own,
        "qwen2": grouped,
        "qwen3": grouped | own,
        "gemma": grouped | own | {"pad_token_id": None},
        "phi3": grouped | {"pad_token_id": None},
        "gptj": {"rotary_dim": width // heads // 2 // 2 * 2},  # of pairs; the others are not rotated
        "gpt_neo": {"attention_types": [[["global"], 1], [["local"], layers - 1]]},
        "opt": {"word_embed_proj_dim": width, "pad_token_id": None},
    }
    return options.get(kind, {})


def random_model(
    family: str,
    *,
    vocabulary: int,
    layers: int = 3,
    width: int = TINY["width"],
    heads: int = TINY["heads"],
    seed: int = 0,
) -> PreTrainedModel:
    """A model of one of the families with weights drawn from the seed: no bias is zero, no activation nearly linear.

    family: a model_type that is known, or gpt_neox_sequential (no parallel residual). Where a family may group its
    queries, two share a key and a value.
    """
    kind = family.removesuffix("_sequential")
    sizes = {"layers": layers, "width": width, "heads": heads, "positions": 128, "vocabulary": vocabulary}
    sizes["neurons"] = KNOWN_TYPES[kind].tiny_neurons * width
    options = {
        "max_position_embeddings": sizes["positions"],
        **{named[0]: sizes[name] for name, named in KNOWN_TYPES[kind].size_keys.items()},
        **_options(kind, layers=layers, width=width, heads=heads),
        **({"use_parallel_residual": False} if family != kind else {}),
    }
    config = AutoConfig.for_model(kind, **options, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = torch.randn(weight.shape, generator=generator)
            is_norm_scale = name.endswith("weight") and weight.ndim == 1
            weight.copy_(1 + 0.1 * spread if is_norm_scale else 0.15 * spread)
    return model.eval().requires_grad_(False)


def save_tiny_model(folder: Path, subjects: pl.DataFrame, family: str) -> None:
    """Save a tiny model whose tokenizer knows the subjects' answers as single tokens."""
    texts = [
        f"{prompt_text(name, 'full').text} {answer}"
        for name, answer in subjects.select("subject", "answer").rows()
    ]
    tokenizer = byte_level_tokenizer(texts, vocabulary=512)
    random_model(family, vocabulary=len(tokenizer), layers=TINY["layers"]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
