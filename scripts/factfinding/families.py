"""The families of models that are known: where each keeps its parts, what its weights are called, how it is described.

All that differs between families stands in the table `FAMILIES`. Pre-flight and dry runs read it too, so it imports no
torch: the functions on tensors use nothing but the tensors' own methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

Shapes = Mapping[str, str]
"""Weight -> names of the sizes that are its shape."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a model_type in its files, besides the embedding. Those of a block are named within the block.

    tied: whether the unembedding is the embedding where config.json does not say. biases: weights of a block that are
    there if a key of config.json says so: the key, what holds where it is not said, the weights. buffers: what old files
    also hold of a block, constants that the model makes itself.
    """

    unembedding: str
    ends: Shapes
    block: Shapes
    tied: bool = False
    biases: tuple[tuple[str, bool, Shapes], ...] = ()
    buffers: tuple[str, ...] = ("self_attn.rotary_emb.inv_freq",)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family of models keeps its parts: dotted names, seen from the model, a block, or a block's MLP."""

    name: str
    weights: Mapping[str, Weights]  # by model_type
    body: str
    embed: str
    positions: str | None  # learned position embedding, if the family has one; else positions are rotated in
    blocks: str
    final_norm: str
    norm_attn: str
    norm_mlp: str
    attn: str
    out_proj: str
    value_proj: str  # the module whose output holds the values (alone, or with queries and keys)
    mlp: str
    mlp_act: str  # the module whose input is a neuron's pre-activation
    mlp_out: str  # the projection whose input is the neurons' post-activations
    size_keys: Mapping[str, tuple[str, ...]]  # size -> keys of config.json, the first that is there
    activation_key: str
    own_heads: bool  # whether config.json may give a head's size and fewer key-value heads
    differences: bool  # whether engine/difference.py has its form: neurons that are not gated
    tiny_neurons: int  # of a model of model/tiny.py, for each dimension of its width
    project: Callable[[nn.Module, Tensor, int], tuple[Tensor, Tensor, Tensor]]
    split_value: Callable[[Tensor, int, int], Tensor]
    neurons: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]

    @property
    def embedding(self) -> str:
        """The name of the embedding's weight."""
        return f"{self.body}.{self.embed}.weight"

    @property
    def block_prefix(self) -> str:
        """What stands before a block's number in the names of its weights."""
        return f"{self.body}.{self.blocks}."


def _neox_split(qkv: Tensor, d_head: int) -> tuple[Tensor, ...]:
    """GPT-NeoX keeps query, key and value of one head side by side."""
    return qkv.unflatten(-1, (-1, 3 * d_head)).transpose(1, 2).chunk(3, dim=-1)


def _heads(x: Tensor, d_head: int) -> Float[Tensor, "batch heads seq d_head"]:
    return x.unflatten(-1, (-1, d_head)).transpose(1, 2)


def _gpt2_split(qkv: Tensor, d_head: int) -> tuple[Tensor, ...]:
    return tuple(_heads(part, d_head) for part in qkv.chunk(3, dim=-1))


def _llama_project(attn: nn.Module, x: Tensor, d_head: int) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(_heads(project(x), d_head) for project in (attn.q_proj, attn.k_proj, attn.v_proj))


def _plain_neurons(up: str) -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]:
    """Neurons that are not gated; `up` names the projection that gives their pre-activations."""

    def neurons(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        pre = getattr(mlp, up)(x)
        return pre, mlp.act(pre)

    return neurons


def _llama_neurons(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A gated neuron: its pre-activation is the gate's, its post-activation what enters the down projection."""
    pre = mlp.gate_proj(x)
    return pre, mlp.act_fn(pre) * mlp.up_proj(x)


GPT_NEOX = Weights(
    unembedding="embed_out.weight",
    buffers=("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
    ends={"gpt_neox.final_layer_norm.weight": "width", "gpt_neox.final_layer_norm.bias": "width"},
    block={
        "input_layernorm.weight": "width",
        "input_layernorm.bias": "width",
        "attention.query_key_value.weight": "qkv width",
        "attention.dense.weight": "width width",
        "post_attention_layernorm.weight": "width",
        "post_attention_layernorm.bias": "width",
        "mlp.dense_h_to_4h.weight": "neurons width",
        "mlp.dense_h_to_4h.bias": "neurons",
        "mlp.dense_4h_to_h.weight": "width neurons",
        "mlp.dense_4h_to_h.bias": "width",
    },
    biases=(
        (
            "attention_bias",
            True,
            {"attention.query_key_value.bias": "qkv", "attention.dense.bias": "width"},
        ),
    ),
)
GPT2 = Weights(
    unembedding="lm_head.weight",
    buffers=("attn.bias", "attn.masked_bias"),
    tied=True,
    ends={
        "transformer.wpe.weight": "positions width",
        "transformer.ln_f.weight": "width",
        "transformer.ln_f.bias": "width",
    },
    block={
        "ln_1.weight": "width",
        "ln_1.bias": "width",
        "attn.c_attn.weight": "width qkv",
        "attn.c_attn.bias": "qkv",
        "attn.c_proj.weight": "width width",
        "attn.c_proj.bias": "width",
        "ln_2.weight": "width",
        "ln_2.bias": "width",
        "mlp.c_fc.weight": "width neurons",
        "mlp.c_fc.bias": "neurons",
        "mlp.c_proj.weight": "neurons width",
        "mlp.c_proj.bias": "width",
    },
)
QKV_BIAS = {
    "self_attn.q_proj.bias": "queries",
    "self_attn.k_proj.bias": "keys",
    "self_attn.v_proj.bias": "keys",
}
MISTRAL = Weights(
    unembedding="lm_head.weight",
    ends={"model.norm.weight": "width"},
    block={
        "input_layernorm.weight": "width",
        "self_attn.q_proj.weight": "queries width",
        "self_attn.k_proj.weight": "keys width",
        "self_attn.v_proj.weight": "keys width",
        "self_attn.o_proj.weight": "width queries",
        "post_attention_layernorm.weight": "width",
        "mlp.gate_proj.weight": "neurons width",
        "mlp.up_proj.weight": "neurons width",
        "mlp.down_proj.weight": "width neurons",
    },
)
LLAMA_BIASES = (
    ("attention_bias", False, QKV_BIAS | {"self_attn.o_proj.bias": "width"}),
    (
        "mlp_bias",
        False,
        {"mlp.gate_proj.bias": "neurons", "mlp.up_proj.bias": "neurons", "mlp.down_proj.bias": "width"},
    ),
)
SIZE_KEYS = {
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "width": ("hidden_size",),
    "neurons": ("intermediate_size",),
    "vocabulary": ("vocab_size",),
}
GPT2_KEYS = {
    "layers": ("n_layer", "num_hidden_layers"),
    "heads": ("n_head", "num_attention_heads"),
    "width": ("n_embd", "hidden_size"),
    "positions": ("n_positions", "max_position_embeddings"),
    "vocabulary": ("vocab_size",),
}


FAMILIES = (
    Family(
        name="GPT-NeoX",
        weights={"gpt_neox": GPT_NEOX},
        body="gpt_neox",
        embed="embed_in",
        positions=None,
        blocks="layers",
        final_norm="final_layer_norm",
        norm_attn="input_layernorm",
        norm_mlp="post_attention_layernorm",
        attn="attention",
        out_proj="attention.dense",
        value_proj="attention.query_key_value",
        mlp="mlp",
        mlp_act="act",
        mlp_out="dense_4h_to_h",
        size_keys=SIZE_KEYS,
        activation_key="hidden_act",
        own_heads=False,
        differences=True,
        tiny_neurons=4,
        project=lambda attn, x, d_head: _neox_split(attn.query_key_value(x), d_head),
        split_value=lambda out, d_head, kv_heads: _neox_split(out, d_head)[2],
        neurons=_plain_neurons("dense_h_to_4h"),
    ),
    Family(
        name="GPT-2",
        weights={"gpt2": GPT2},
        body="transformer",
        embed="wte",
        positions="wpe",
        blocks="h",
        final_norm="ln_f",
        norm_attn="ln_1",
        norm_mlp="ln_2",
        attn="attn",
        out_proj="attn.c_proj",
        value_proj="attn.c_attn",
        mlp="mlp",
        mlp_act="act",
        mlp_out="c_proj",
        size_keys=GPT2_KEYS,
        activation_key="activation_function",
        own_heads=False,
        differences=True,
        tiny_neurons=4,
        project=lambda attn, x, d_head: _gpt2_split(attn.c_attn(x), d_head),
        split_value=lambda out, d_head, kv_heads: _gpt2_split(out, d_head)[2],
        neurons=_plain_neurons("c_fc"),
    ),
    Family(
        name="Llama",
        weights={
            "llama": replace(MISTRAL, biases=LLAMA_BIASES),
            "mistral": MISTRAL,
            "qwen2": replace(MISTRAL, block={**MISTRAL.block, **QKV_BIAS}),
        },
        body="model",
        embed="embed_tokens",
        positions=None,
        blocks="layers",
        final_norm="norm",
        norm_attn="input_layernorm",
        norm_mlp="post_attention_layernorm",
        attn="self_attn",
        out_proj="self_attn.o_proj",
        value_proj="self_attn.v_proj",
        mlp="mlp",
        mlp_act="act_fn",
        mlp_out="down_proj",
        size_keys=SIZE_KEYS,
        activation_key="hidden_act",
        own_heads=True,
        differences=False,
        tiny_neurons=3,
        project=_llama_project,
        split_value=lambda out, d_head, kv_heads: _heads(out, d_head),
        neurons=_llama_neurons,
    ),
)
KNOWN_TYPES = {model_type: family for family in FAMILIES for model_type in family.weights}
"""The family of each model_type of config.json."""
WITH_DIFFERENCES = tuple(family.name for family in FAMILIES if family.differences)
TINY = {"layers": 4, "width": 32, "heads": 4}
"""The sizes of a model of model/tiny.py: layers enough for a lookup that has layers below it and one that reads it."""
