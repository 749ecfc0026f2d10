"""What is measured: a model of Pythia's or Llama's shape with random weights, prompts of random tokens, and the edits.

Random weights of a larger scale than a fresh model's, so that single neurons move the answer measurably in float32.
Speed does not depend on the weights. How many points a curve needs does: docs/performance.md says what a trained
model needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedModel

from factfinding.families import KNOWN_TYPES

VOCABULARY = 50304
LENGTH, NAME, END = 20, 15, 19
"""Tokens of a prompt, its final name token, and its last: those of the study's one-shot prompts."""
DRAWS = 64


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A size of model, which layer's neurons are swept, and how wide the random weights are.

    kind: its model_type. kv_heads: how many keys and values its heads share (None: each has its own).
    """

    layers: int
    heads: int
    d_model: int
    d_mlp: int
    swept: tuple[int, ...]
    scale: float
    vocabulary: int = VOCABULARY
    kind: str = "gpt_neox"
    kv_heads: int | None = None

    @property
    def gated(self) -> bool:
        """A Llama's block: gated neurons, and an MLP after attention, not beside it."""
        return self.kind == "llama"


SHAPES = {
    "pythia-160m": Shape(layers=12, heads=12, d_model=768, d_mlp=3072, swept=(2,), scale=0.05),
    "pythia-2.8b": Shape(layers=32, heads=32, d_model=2560, d_mlp=10240, swept=(2, 3, 4, 5, 6), scale=0.03),
    "tiny": Shape(layers=4, heads=4, d_model=64, d_mlp=256, swept=(1,), scale=0.2, vocabulary=2048),
    "smollm2-135m": Shape(
        layers=30, heads=9, kv_heads=3, d_model=576, d_mlp=1536, swept=(6,), scale=0.05, vocabulary=49152, kind="llama",
    ),
    "tiny-llama": Shape(
        layers=4, heads=4, kv_heads=2, d_model=64, d_mlp=192, swept=(1,), scale=0.2, vocabulary=2048, kind="llama",
    ),
}  # fmt: skip


def build(shape: Shape, *, device: str = "cpu", seed: int = 0) -> PreTrainedModel:
    """The model in float32, with attention as a user gets it by default."""
    sizes = {
        "vocabulary": shape.vocabulary, "width": shape.d_model, "layers": shape.layers, "heads": shape.heads,
        "neurons": shape.d_mlp,
    }  # fmt: skip
    keys = KNOWN_TYPES[shape.kind].size_keys
    config = AutoConfig.for_model(
        shape.kind,
        **{named[0]: sizes[name] for name, named in keys.items()},
        **({"num_key_value_heads": shape.kv_heads} if shape.kv_heads else {}),
        max_position_embeddings=2048,
        initializer_range=shape.scale,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [kind.__name__]
    torch.manual_seed(seed)
    with torch.device(device):
        model = kind(config)
    return model.float().eval().requires_grad_(False)


def prompts(
    n: int, *, seed: int, device: str = "cpu", vocabulary: int = VOCABULARY
) -> Int[Tensor, "prompts seq"]:
    """Prompts of random tokens behind BOS."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (n, LENGTH), generator=generator)
    tokens[:, 0] = 0
    return tokens.to(device)


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronSweep:
    """Single neurons of one prompt at the name, each set to its value in DRAWS other prompts; log P of one token."""

    tokens: Int[Tensor, "1 seq"]
    layer: int
    neurons: Int[Tensor, " neurons"]
    draws: Float[Tensor, "neurons draws"]
    answer: int

    def take(self, n: int) -> NeuronSweep:
        """The first n neurons."""
        return NeuronSweep(**{**vars(self), "neurons": self.neurons[:n], "draws": self.draws[:n]})

    @property
    def rows(self) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Neuron and value of every patch, neuron by neuron."""
        return self.neurons.repeat_interleave(self.draws.shape[1]), self.draws.flatten()


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPosition:
    """The residual stream before each layer at each position set to the donor prompt's; a difference of two logits."""

    tokens: Int[Tensor, "prompts seq"]
    donors: Int[Tensor, "prompts seq"]
    answers: Int[Tensor, " 2"]
