"""Small random models of the three families, with a tokenizer, in the hub's own format: what a user would bring."""

from __future__ import annotations

from pathlib import Path

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

from factfinding.model.anatomy import Anatomy

FAMILIES = ("gpt_neox", "gpt_neox_sequential", "gpt2", "llama")
TEXT = [
    "Fact: Tiger Woods plays the sport of golf\nFact: Michael Jordan plays the sport of basketball",
    "Fact: Babe Ruth plays the sport of baseball\nFact: Tom Brady plays the sport of football",
] * 8


def tokenizer(text: list[str] = TEXT, vocabulary: int = 360) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every string can be tokenized; the words of `TEXT` are single tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def random_model(family: str, *, layers: int = 3, width: int = 32, heads: int = 4, vocabulary: int = 360, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, large enough that no activation is nearly linear and no bias is zero."""
    torch.manual_seed(seed)
    shared = dict(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0)
    if family.startswith("gpt_neox"):
        config = GPTNeoXConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=128,
            use_parallel_residual=family == "gpt_neox",
            attn_implementation="eager",
            **shared,
        )
        model = GPTNeoXForCausalLM(config)
    elif family == "gpt2":
        config = GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=128, attn_implementation="eager", **shared)
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            intermediate_size=3 * width,
            max_position_embeddings=128,
            attn_implementation="eager",
            **shared,
        )
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 0.15 if weight.ndim > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            if "norm" in name.lower() or ".ln_" in name:
                weight.add_(1.0 if name.endswith("weight") else 0.0)
    return model.eval().requires_grad_(False)


def random_anatomy(family: str, *, dtype: torch.dtype = torch.float32, **options) -> Anatomy:
    """A random model with its parts known; no tokenizer."""
    return Anatomy(random_model(family, **options).to(dtype))


def save_model(folder: Path, family: str = "gpt_neox", **options) -> Path:
    """A model folder as a user would have it on disk."""
    tokens = tokenizer()
    model = random_model(family, vocabulary=len(tokens), **options)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
