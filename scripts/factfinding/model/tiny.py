"""A model of random weights with a real tokenizer, saved in the hub's format: it knows nothing, and every rule runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

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

    Families: gpt_neox, gpt_neox_sequential (no parallel residual), gpt2, llama (grouped-query attention).
    """
    shared = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 128,
    }
    neurons = KNOWN_TYPES[family.removesuffix("_sequential")].tiny_neurons * width
    if family in ("gpt_neox", "gpt_neox_sequential"):
        parallel = family == "gpt_neox"
        config = GPTNeoXConfig(**sizes, **shared, intermediate_size=neurons, use_parallel_residual=parallel)
        model = GPTNeoXForCausalLM(config)
    elif family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=128, **shared)
        )
    else:
        config = LlamaConfig(
            **sizes, **shared, intermediate_size=neurons, num_key_value_heads=max(1, heads // 2)
        )
        model = LlamaForCausalLM(config)
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
