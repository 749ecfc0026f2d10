"""The families of models that are known: where each keeps its parts, what its weights are called, how it is described.

All that differs between families stands in the table `FAMILIES`. Pre-flight and dry runs read it too, so it imports no
torch: the functions on tensors use nothing but the tensors' own methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from factfinding.errors import InputError

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
class Need:
    """What config.json must say for a model to be computed exactly; `default` holds where it does not say.

    holds: whether a value will do; the second argument is all of config.json. why: what is needed, and the reason.
    """

    key: str
    default: Any
    holds: Callable[[Any, Mapping[str, Any]], bool]
    why: str


def _is(value: Any) -> Callable[[Any, Mapping[str, Any]], bool]:
    def holds(found: Any, _config: Mapping[str, Any]) -> bool:
        return bool(found == value)

    return holds


def _needs(why: str, **values: Any) -> tuple[Need, ...]:
    """Keys that must have the one value given, which is also what holds where config.json does not say."""
    return tuple(Need(key=key, default=value, holds=_is(value), why=why) for key, value in values.items())


def _rotary(body: nn.Module, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of positions, from the model's own module."""
    return body.rotary_emb(like, position_ids=positions)


def _scale(attn: nn.Module, d_head: int) -> float:
    """What attention scores are multiplied by."""
    return float(getattr(attn, "scaling", d_head**-0.5))


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family of models keeps its parts: dotted names, seen from the model, a block, or a block's MLP.

    What has a default is what most families do.
    """

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
    mlp: str  # "" where its parts lie in the block itself
    mlp_act: str  # the module whose input is a neuron's pre-activation
    mlp_out: str  # the projection whose input is the neurons' post-activations
    size_keys: Mapping[str, tuple[str, ...]]  # size -> keys of config.json, the first that is there
    activation_key: str
    own_heads: bool  # whether config.json may give a head's size and fewer key-value heads
    tiny_neurons: int  # of a model of model/tiny.py, for each dimension of its width
    project: Callable[[nn.Module, Tensor, int], tuple[Tensor, Tensor, Tensor]]
    split_value: Callable[[Tensor, int, int], Tensor]
    neurons: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
    mlp_parts: tuple[str, ...] = ()  # of an MLP without a module of its own, in their order
    parallel: Callable[[Any], bool] = lambda config: False  # whether the MLP reads what attention reads
    fixed_kv_heads: int | None = None  # of every model of the family, whatever config.json says
    rotary: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]] = _rotary
    rotated: str = "halves"  # which dimensions of a head turn together: those of its halves, or "neighbours"
    position_offset: int = 0  # the row of the position embedding that stands for position 0
    scale: Callable[[nn.Module, int], float] = _scale
    gain_offset: float = 0.0  # what a norm adds to its weight
    interface: bool = True  # whether the model attends through transformers' AttentionInterface
    own_attention: str | None = None  # the method that attends instead, where it rounds to float32
    needs: tuple[Need, ...] = ()

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


def _qwen3_project(attn: nn.Module, x: Tensor, d_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """The queries and keys of each head are normed before they are rotated."""
    q, k, v = _llama_project(attn, x, d_head)
    return attn.q_norm(q), attn.k_norm(k), v


def _stacked_split(qkv: Tensor, d_head: int, kv_heads: int) -> tuple[Tensor, ...]:
    """All queries, then the keys, then the values, of which there may be fewer heads."""
    few = kv_heads * d_head
    return tuple(_heads(x, d_head) for x in qkv.split((qkv.shape[-1] - 2 * few, few, few), dim=-1))


def _phi3_project(attn: nn.Module, x: Tensor, d_head: int) -> tuple[Tensor, ...]:
    return _stacked_split(attn.qkv_proj(x), d_head, attn.num_key_value_heads)


def _falcon_project(attn: nn.Module, x: Tensor, d_head: int) -> tuple[Tensor, ...]:
    return _stacked_split(attn.query_key_value(x), d_head, attn.num_kv_heads)


def _gptj_rotary(body: nn.Module, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """GPT-J keeps sines and cosines in every block, once for each pair of neighbours."""
    sin, cos = body.h[0].attn.embed_positions[positions].to(like.dtype).chunk(2, dim=-1)
    return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)


def _plain_neurons(up: str, act: str = "act") -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]:
    """Neurons that are not gated; `up` names the projection that gives their pre-activations."""

    def neurons(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        pre = getattr(mlp, up)(x)
        return pre, getattr(mlp, act)(pre)

    return neurons


def _llama_neurons(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A gated neuron: its pre-activation is the gate's, its post-activation what enters the down projection."""
    pre = mlp.gate_proj(x)
    return pre, mlp.act_fn(pre) * mlp.up_proj(x)


def _phi3_neurons(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gated neurons whose gates and values are one projection."""
    gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
    return gate, up * mlp.activation_fn(gate)


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
ATTENTION_BIAS = ("attention_bias", False, QKV_BIAS | {"self_attn.o_proj.bias": "width"})
LLAMA_BIASES = (
    ATTENTION_BIAS,
    (
        "mlp_bias",
        False,
        {"mlp.gate_proj.bias": "neurons", "mlp.up_proj.bias": "neurons", "mlp.down_proj.bias": "width"},
    ),
)
QWEN3 = replace(
    MISTRAL,
    block={**MISTRAL.block, "self_attn.q_norm.weight": "head", "self_attn.k_norm.weight": "head"},
    biases=(ATTENTION_BIAS,),
)
PHI3 = Weights(
    unembedding="lm_head.weight",
    ends={"model.norm.weight": "width"},
    block={
        "input_layernorm.weight": "width",
        "self_attn.qkv_proj.weight": "qkv width",
        "self_attn.o_proj.weight": "width queries",
        "post_attention_layernorm.weight": "width",
        "mlp.gate_up_proj.weight": "both width",
        "mlp.down_proj.weight": "width neurons",
    },
)


def _layer_norms(*names: str) -> dict[str, str]:
    """Weight and bias of LayerNorms."""
    return {f"{name}.{kind}": "width" for name in names for kind in ("weight", "bias")}


def _mlp(up: str, out: str) -> dict[str, str]:
    """Weights and biases of an MLP that is not gated."""
    return {
        f"{up}.weight": "neurons width",
        f"{up}.bias": "neurons",
        f"{out}.weight": "width neurons",
        f"{out}.bias": "width",
    }


GPTJ = Weights(
    unembedding="lm_head.weight",
    ends={**_layer_norms("transformer.ln_f"), "lm_head.bias": "vocabulary"},
    block={
        **_layer_norms("ln_1"),
        **{f"attn.{name}_proj.weight": "width width" for name in ("q", "k", "v", "out")},
        **_mlp("mlp.fc_in", "mlp.fc_out"),
    },
)
GPT_NEO = Weights(
    unembedding="lm_head.weight",
    tied=True,
    ends={"transformer.wpe.weight": "positions width", **_layer_norms("transformer.ln_f")},
    block={
        **_layer_norms("ln_1", "ln_2"),
        **{f"attn.attention.{name}_proj.weight": "width width" for name in ("q", "k", "v", "out")},
        "attn.attention.out_proj.bias": "width",
        **_mlp("mlp.c_fc", "mlp.c_proj"),
    },
)
OPT = Weights(
    unembedding="lm_head.weight",
    tied=True,
    ends={
        "model.decoder.embed_positions.weight": "positions+2 width",
        **_layer_norms("model.decoder.final_layer_norm"),
    },
    block={
        **_layer_norms("self_attn_layer_norm", "final_layer_norm"),
        **{f"self_attn.{name}_proj.weight": "width width" for name in ("q", "k", "v", "out")},
        **{f"self_attn.{name}_proj.bias": "width" for name in ("q", "k", "v", "out")},
        **_mlp("fc1", "fc2"),
    },
)
PHI = Weights(
    unembedding="lm_head.weight",
    ends={**_layer_norms("model.final_layernorm"), "lm_head.bias": "vocabulary"},
    block={
        **_layer_norms("input_layernorm"),
        "self_attn.q_proj.weight": "queries width",
        "self_attn.k_proj.weight": "keys width",
        "self_attn.v_proj.weight": "keys width",
        **QKV_BIAS,
        "self_attn.dense.weight": "width queries",
        "self_attn.dense.bias": "width",
        **_mlp("mlp.fc1", "mlp.fc2"),
    },
)
FALCON = Weights(
    unembedding="lm_head.weight",
    tied=True,
    ends=_layer_norms("transformer.ln_f"),
    block={
        **_layer_norms("input_layernorm"),
        "self_attention.query_key_value.weight": "qkv width",
        "self_attention.dense.weight": "width width",
        "mlp.dense_h_to_4h.weight": "neurons width",
        "mlp.dense_4h_to_h.weight": "width neurons",
    },
    biases=(
        (
            "bias",
            False,
            {
                "self_attention.query_key_value.bias": "qkv",
                "self_attention.dense.bias": "width",
                "mlp.dense_h_to_4h.bias": "neurons",
                "mlp.dense_4h_to_h.bias": "width",
            },
        ),
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
GPT_NEO_KEYS = {
    "layers": ("num_layers", "num_hidden_layers"),
    "heads": ("num_heads", "num_attention_heads"),
    "width": ("hidden_size",),
    "positions": ("max_position_embeddings",),
    "vocabulary": ("vocab_size",),
}
FALCON_KEYS = {name: keys for name, keys in SIZE_KEYS.items() if name != "neurons"}
NORMS_AFTER = (
    "norms before the blocks: a norm after a block rescales all that the block wrote, and then no head and no neuron adds "
    "a term of its own to the residual stream"
)
ONE_NORM = "a parallel block with one norm, as in Falcon 7B, and rotary positions"

GPT2_FAMILY = Family(
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
    tiny_neurons=4,
    project=lambda attn, x, d_head: _gpt2_split(attn.c_attn(x), d_head),
    split_value=lambda out, d_head, kv_heads: _gpt2_split(out, d_head)[2],
    neurons=_plain_neurons("c_fc"),
)
GPT_NEO_FAMILY = replace(
    GPT2_FAMILY,
    name="GPT-Neo",
    weights={"gpt_neo": GPT_NEO},
    attn="attn.attention",
    out_proj="attn.attention.out_proj",
    value_proj="attn.attention.v_proj",
    size_keys=GPT_NEO_KEYS,
    project=_llama_project,
    split_value=lambda out, d_head, kv_heads: _heads(out, d_head),
    scale=lambda attn, d_head: 1.0,
    interface=False,
    own_attention="_attn",
)
LLAMA_FAMILY = Family(
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
    tiny_neurons=3,
    project=_llama_project,
    split_value=lambda out, d_head, kv_heads: _heads(out, d_head),
    neurons=_llama_neurons,
)

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
        tiny_neurons=4,
        parallel=lambda config: config.use_parallel_residual,
        project=lambda attn, x, d_head: _neox_split(attn.query_key_value(x), d_head),
        split_value=lambda out, d_head, kv_heads: _neox_split(out, d_head)[2],
        neurons=_plain_neurons("dense_h_to_4h"),
    ),
    GPT2_FAMILY,
    LLAMA_FAMILY,
    replace(LLAMA_FAMILY, name="Qwen3", weights={"qwen3": QWEN3}, project=_qwen3_project),
    replace(
        LLAMA_FAMILY,
        name="Phi-3",
        weights={"phi3": PHI3},
        value_proj="self_attn.qkv_proj",
        mlp_act="activation_fn",
        project=_phi3_project,
        split_value=lambda out, d_head, kv_heads: _stacked_split(out, d_head, kv_heads)[2],
        neurons=_phi3_neurons,
    ),
    replace(
        LLAMA_FAMILY,
        name="Gemma",
        weights={"gemma": replace(MISTRAL, tied=True, biases=(ATTENTION_BIAS,))},
        gain_offset=1.0,
    ),
    replace(
        GPT_NEO_FAMILY,
        name="GPT-J",
        weights={"gptj": GPTJ},
        positions=None,
        norm_mlp="ln_1",
        attn="attn",
        out_proj="attn.out_proj",
        value_proj="attn.v_proj",
        mlp_out="fc_out",
        size_keys=GPT2_KEYS,
        neurons=_plain_neurons("fc_in"),
        parallel=lambda config: True,
        rotary=_gptj_rotary,
        rotated="neighbours",
        scale=_scale,
    ),
    GPT_NEO_FAMILY,
    Family(
        name="OPT",
        weights={"opt": OPT},
        body="model.decoder",
        embed="embed_tokens",
        positions="embed_positions",
        position_offset=2,
        blocks="layers",
        final_norm="final_layer_norm",
        norm_attn="self_attn_layer_norm",
        norm_mlp="final_layer_norm",
        attn="self_attn",
        out_proj="self_attn.out_proj",
        value_proj="self_attn.v_proj",
        mlp="",
        mlp_parts=("fc1", "activation_fn", "fc2"),
        mlp_act="activation_fn",
        mlp_out="fc2",
        size_keys={
            **SIZE_KEYS,
            "neurons": ("ffn_dim",),
            "positions": ("max_position_embeddings",),
        },
        activation_key="activation_function",
        own_heads=False,
        tiny_neurons=4,
        project=_llama_project,
        split_value=lambda out, d_head, kv_heads: _heads(out, d_head),
        neurons=_plain_neurons("fc1", "activation_fn"),
        needs=(
            *_needs(NORMS_AFTER, do_layer_norm_before=True),
            *_needs("a final norm", _remove_final_layer_norm=False),
            *_needs("biases and norms with weights, as the published models have", enable_bias=True),
            *_needs("norms with weights", layer_norm_elementwise_affine=True),
            Need(
                key="word_embed_proj_dim",
                default=None,
                holds=lambda found, config: found in (None, config.get("hidden_size")),
                why="an embedding as wide as the residual stream (hidden_size), not projected into it",
            ),
        ),
    ),
    replace(
        LLAMA_FAMILY,
        name="Phi",
        weights={"phi": PHI},
        final_norm="final_layernorm",
        norm_mlp="input_layernorm",
        out_proj="self_attn.dense",
        mlp_act="activation_fn",
        mlp_out="fc2",
        tiny_neurons=4,
        neurons=_plain_neurons("fc1", "activation_fn"),
        parallel=lambda config: True,
        needs=_needs("queries and keys that are not normed", qk_layernorm=False),
    ),
    Family(
        name="Falcon",
        weights={"falcon": FALCON},
        body="transformer",
        embed="word_embeddings",
        positions=None,
        blocks="h",
        final_norm="ln_f",
        norm_attn="input_layernorm",
        norm_mlp="input_layernorm",
        attn="self_attention",
        out_proj="self_attention.dense",
        value_proj="self_attention.query_key_value",
        mlp="mlp",
        mlp_act="act",
        mlp_out="dense_4h_to_h",
        size_keys=FALCON_KEYS,
        activation_key="activation",
        own_heads=False,
        tiny_neurons=4,
        project=_falcon_project,
        split_value=lambda out, d_head, kv_heads: _stacked_split(out, d_head, kv_heads)[2],
        neurons=_plain_neurons("dense_h_to_4h"),
        parallel=lambda config: True,
        fixed_kv_heads=1,
        interface=False,
        needs=_needs(
            ONE_NORM, alibi=False, new_decoder_architecture=False, multi_query=True, parallel_attn=True
        ),
    ),
)
KNOWN_TYPES = {model_type: family for family in FAMILIES for model_type in family.weights}
"""The family of each model_type of config.json."""
REFUSED_TYPES = dict.fromkeys(("olmo2", "olmo3", "gemma2", "gemma3", "gemma3_text"), NORMS_AFTER)
"""Known to be impossible: what is needed instead, and the reason."""


def check_family(config: Any, where: object) -> Family:
    """The family of a config.json as read. Raises InputError for an unknown one, and for what is not computed exactly."""
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if isinstance(kind, str) and kind in REFUSED_TYPES:
        raise InputError(where, f"model_type {kind!r}", REFUSED_TYPES[kind])
    if not isinstance(config, dict) or not isinstance(kind, str) or kind not in KNOWN_TYPES:
        raise InputError(where, f"model_type {kind!r}", f"one of {', '.join(sorted(KNOWN_TYPES))}")
    for need in KNOWN_TYPES[kind].needs:
        found = config.get(need.key, need.default)
        if not need.holds(found, config):
            raise InputError(f"{where}, {need.key}", repr(found), need.why)
    return KNOWN_TYPES[kind]


FLOATING = ("F64", "F32", "F16", "BF16")
"""Types of weights that are plain numbers, as safetensors and GGUF files name them."""
WITH_DIFFERENCES = (
    "gelu",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "relu",
    "silu",
    "swish",
)
"""Activations, as config.json names them, whose change has a closed form (engine/closed_forms.py). The difference form is
that of every family; a model has it if its activation is one of these."""
TINY = {"layers": 4, "width": 32, "heads": 4}
"""The sizes of a model of model/tiny.py: layers enough for a lookup that has layers below it and one that reads it."""
