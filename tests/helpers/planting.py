"""How a model is planted: what the models whose weights are set by hand share.

A feature is a pair of residual dimensions, +f and -f, so the mean that LayerNorm takes away is zero. Attention scores are 0 or
hundreds, so patterns are one or zero; every query that has nothing to look for rests on BOS. `planted` says more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

CONTENT = 2
"""The first two dimensions of queries and keys are turned by the rotary embedding, so marks are read into those after them."""
SHARP = 200.0
"""Score of an attended key."""
BOS = "<|endoftext|>"
QUESTION = [BOS, "Fact:", "\n", " Tiger", " Woods", " plays", " the", " sport", " of", " golf"]
"""The words of the study's prompt."""


def pair_direction(features: Sequence[str], feature: str, width: int) -> Tensor:
    """A feature's direction in the residual stream, `[width]`; `x @ direction / 2` reads its value."""
    vector = torch.zeros(width, dtype=torch.float64)
    at = 2 * features.index(feature)
    vector[at], vector[at + 1] = 1.0, -1.0
    return vector


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Whole words, the space before a word belonging to it; their places are their ids, and `BOS` stands for all others."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=BOS))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^\s]+"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token=BOS)


def empty_model(
    *, width: int, layers: int, heads: int, neurons: int, scale: float, parallel: bool = True
) -> GPTNeoXForCausalLM:
    """All weights zero but the norms', which are `scale` and so undo the scale that the ballast gives."""
    rotary = CONTENT / (width // heads)
    config = GPTNeoXConfig(
        vocab_size=64,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=neurons,
        max_position_embeddings=64,
        hidden_act="relu",
        use_parallel_residual=parallel,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": rotary},
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    model = GPTNeoXForCausalLM(config).double().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.fill_(scale if "norm" in name and name.endswith("weight") else 0.0)
    return model


def set_head(
    model: GPTNeoXForCausalLM,
    layer: int,
    index: int,
    *,
    query: Tensor,
    key: Tensor,
    rest: Tensor,
    moves: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """A head whose queries attend to its keys, and where there is nothing to look for to what `rest` reads, BOS.

    query, key, rest: what reads the marks of these tokens, `[width]`. moves: what is read at the key, and what is written for it.
    """
    config, attention = model.config, model.gpt_neox.layers[layer].attention
    d_head = config.hidden_size // config.num_attention_heads
    weight = attention.query_key_value.weight.view(-1, 3, d_head, config.hidden_size)[index]
    bias = attention.query_key_value.bias.view(-1, 3, d_head)[index]
    resting, matching = CONTENT, CONTENT + 1
    strength = (SHARP * d_head**0.5) ** 0.5
    bias[0, resting] = strength  # every query looks for BOS, half as hard as for what it is really after
    weight[1, resting] = strength / 2 * rest
    weight[0, matching] = strength * query
    weight[1, matching] = strength * key
    for i, (read, write) in enumerate(moves):
        weight[2, i] = read
        attention.dense.weight[:, index * d_head + i] = write
