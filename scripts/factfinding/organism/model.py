"""The embedded model before training: a GPT-NeoX of Pythia's architecture, with previous-token heads installed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from factfinding.config import OrganismConfig

ROTARY_SHARE = 0.25
"""Share of a head's dimensions that rotate with the position, as in Pythia."""
POSITIONS = 256
"""Longest text in tokens."""


def make_model(settings: OrganismConfig, vocabulary: int, bos: int) -> GPTNeoXForCausalLM:
    """A freshly drawn model, float32, the same for the same settings."""
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.mlp_width,
        max_position_embeddings=POSITIONS,
        use_parallel_residual=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        initializer_range=settings.initial_std,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": settings.rotary_theta,
            "partial_rotary_factor": ROTARY_SHARE,
        },
        bos_token_id=bos,
        eos_token_id=bos,
        use_cache=False,
        attn_implementation="eager",  # on a CPU no slower than sdpa at this size
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = GPTNeoXForCausalLM(config).float()
        with torch.no_grad():
            for layer in range(settings.layers):
                query_key(model, layer).normal_(0, settings.query_key_std)
            for layer in range(settings.installed_layers):
                install_previous_token_heads(model, layer, settings)
    return model


def query_key(model: GPTNeoXForCausalLM, layer: int) -> Float[Tensor, "heads 2 d_head d_model"]:
    """A view of a layer's query and key weights."""
    config = model.config
    weight = model.gpt_neox.layers[layer].attention.query_key_value.weight
    return weight.view(config.num_attention_heads, 3, -1, config.hidden_size)[:, :2]


def install_previous_token_heads(model: GPTNeoXForCausalLM, layer: int, settings: OrganismConfig) -> None:
    """Set query and key biases so that the first heads of a layer attend to the token before.

    The biases are the same at every position; rotation turns key k at position j by j*f and query q at position i by
    i*f (f: a pair's frequency). A query turned back by one step, q = R(-f) k, therefore scores highest at j = i - 1:
    sum over f of strength^2 cos(f (i - 1 - j)). Nothing is written of *what* is moved: values learn from scratch.
    """
    d_head = settings.width // settings.heads
    half = int(d_head * ROTARY_SHARE) // 2  # pair p rotates dimensions p and p + half
    frequency = settings.rotary_theta ** (-torch.arange(half) / half)
    heads = slice(settings.installed_heads)
    bias = model.gpt_neox.layers[layer].attention.query_key_value.bias.view(settings.heads, 3, d_head)
    bias[heads, 0, :half] = settings.installed_strength * torch.cos(frequency)
    bias[heads, 0, half : 2 * half] = -settings.installed_strength * torch.sin(frequency)
    bias[heads, 1, :half] = settings.installed_strength
