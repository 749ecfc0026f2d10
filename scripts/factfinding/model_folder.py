"""A model folder in the Hugging Face format, looked at without torch: what its files say, and whether they fit together.

A model that lacks a weight loads all the same, with random numbers in its place; one whose config.json lacks a size loads
with that of another model. So every weight is looked for here, in the shape that config.json gives it. What takes reading
all weights (is every one of them finite?) is seen where the model is adopted, by `model/weights.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from factfinding.errors import InputError
from factfinding.files import read_json

FAMILY = {
    "gpt_neox": "GPT-NeoX",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "mistral": "Llama",
    "qwen2": "Llama",
}
"""Family of each model_type that is known; a test holds this against anatomy.py, which imports torch."""
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATING = ("F64", "F32", "F16", "BF16")
MOST_LAYERS = 1000
"""Several times what the deepest models have: a slip in config.json is not taken for a model to be built."""
ACTIVATIONS = frozenset(
    (
        "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh "
        "hardswish laplace leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu sqrtsoftplus "
        "swish tanh"
    ).split()
)
"""Those of transformers that have no weights of their own; a test holds the two together, as for `ROTARY`."""
ROTARY = frozenset({"default", "dynamic", "linear", "llama3", "longrope", "proportional", "yarn"})


class Header(NamedTuple):
    """What a safetensors file says of one weight before its numbers."""

    shape: tuple[int, ...]
    dtype: str


Shapes = Mapping[str, str]
"""Weight -> names of the sizes that are its shape."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The weights of a model_type. Those of a block are named within the block, the others in full.

    tied: whether the unembedding is the embedding where config.json does not say. biases: weights of a block that are
    there if a key of config.json says so: the key, what holds where it is not said, the weights.
    """

    body: str
    blocks: str
    embedding: str
    unembedding: str
    ends: Shapes
    block: Shapes
    tied: bool = False
    biases: tuple[tuple[str, bool, Shapes], ...] = ()


GPT_NEOX = Layout(
    body="gpt_neox.",
    blocks="gpt_neox.layers.",
    embedding="gpt_neox.embed_in.weight",
    unembedding="embed_out.weight",
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
GPT2 = Layout(
    body="transformer.",
    blocks="transformer.h.",
    embedding="transformer.wte.weight",
    unembedding="lm_head.weight",
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
MISTRAL = Layout(
    body="model.",
    blocks="model.layers.",
    embedding="model.embed_tokens.weight",
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
LAYOUTS = {
    "gpt_neox": GPT_NEOX,
    "gpt2": GPT2,
    "llama": replace(MISTRAL, biases=LLAMA_BIASES),
    "mistral": MISTRAL,
    "qwen2": replace(MISTRAL, block={**MISTRAL.block, **QKV_BIAS}),
}
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


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a configuration may name: layers, heads of a layer, neurons of a layer. family: as in FAMILY."""

    family: str
    layers: int
    heads: int
    neurons: int


def sizes_of(folder: Path) -> Sizes:
    """The sizes that config.json gives.

    Raises InputError for a missing or damaged file, an unknown family, sizes that are missing or do not fit together.
    """
    config = _config(folder)
    return _named(config, _all_sizes(folder / "config.json", config))


def check_model_folder(folder: Path, *, allow_pickle: bool = False) -> Sizes:
    """Check all of a model folder but the values of its weights; its sizes.

    Raises InputError, naming the file: for what `sizes_of` refuses; quantized weights, an unknown activation or rotary
    embedding; a tokenizer that is missing, damaged or larger than the embedding; weights that are missing, pickled
    without `allow_pickle`, cut off, no floating-point numbers, or not in the shapes of config.json.
    """
    config = _config(folder)
    sizes = _all_sizes(folder / "config.json", config)
    _check_settings(folder / "config.json", config)
    _check_tokenizer(folder, sizes["vocabulary"])
    if any(folder.glob("*.safetensors")) or (folder / INDEX).is_file():
        _check_weights(folder, _headers(folder), config, sizes)
    else:
        _check_pickle(folder, allow_pickle)
    return _named(config, sizes)


def _named(config: Mapping[str, Any], sizes: Mapping[str, int]) -> Sizes:
    named = {name: sizes[name] for name in ("layers", "heads", "neurons")}
    return Sizes(family=FAMILY[config["model_type"]], **named)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "a model folder in the Hugging Face format")
    if not path.is_file():
        raise InputError(folder, "no config.json", "a model folder in the Hugging Face format")
    config = read_json(path)
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if not isinstance(config, dict) or not isinstance(kind, str) or kind not in FAMILY:
        raise InputError(path, f"model_type {kind!r}", f"one of {', '.join(sorted(FAMILY))}")
    return config


def _all_sizes(path: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Every size that a weight's shape may name. None is guessed: the library's defaults are those of some one model."""
    is_gpt2 = config["model_type"] == "gpt2"
    keys = GPT2_KEYS if is_gpt2 else SIZE_KEYS
    found = {name: _size(path, config, *named) for name, named in keys.items()}
    sizes = {name: size for name, size in found.items() if size is not None}
    for name in found:
        if name not in sizes:
            raise InputError(path, f"no {keys[name][0]}", "the sizes of the model that the weights are of")
    if sizes["layers"] > MOST_LAYERS:
        raise InputError(f"{path}, {keys['layers'][0]}", str(sizes["layers"]), f"at most {MOST_LAYERS}")
    if is_gpt2:
        sizes["neurons"] = _size(path, config, "n_inner") or 4 * sizes["width"]
    return sizes | _head_sizes(path, config, sizes)


def _head_sizes(path: Path, config: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """How wide the queries, the keys and all three of them are, over all heads."""
    width, heads = sizes["width"], sizes["heads"]
    is_llama = FAMILY[config["model_type"]] == "Llama"
    head = _size(path, config, "head_dim") if is_llama else None
    groups = (_size(path, config, "num_key_value_heads") if is_llama else None) or heads
    if head is None and width % heads:
        raise InputError(path, f"{heads} heads for a width of {width}", "a number of heads that divides it")
    if heads % groups:
        raise InputError(path, f"{groups} key-value heads for {heads} heads", "a number that divides it")
    head = head or width // heads
    return {"queries": heads * head, "keys": groups * head, "qkv": 3 * width}


def _size(path: Path, config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these keys that is there. Raises InputError for what is no positive whole number."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{path}, {name}", repr(value), "a whole number of at least 1")
        return value
    return None


def _check_settings(path: Path, config: Mapping[str, Any]) -> None:
    """What else config.json may say that no model can be built of."""
    if config.get("quantization_config") is not None:
        raise InputError(
            path, "a quantization_config", "weights that are floating-point numbers, not quantized"
        )
    is_gpt2 = config["model_type"] == "gpt2"
    key = "activation_function" if is_gpt2 else "hidden_act"
    _check_choice(f"{path}, {key}", config.get(key, "gelu"), ACTIVATIONS)
    for key in () if is_gpt2 else ("rope_parameters", "rope_scaling"):
        rotary = config.get(key)
        if isinstance(rotary, dict):
            _check_choice(f"{path}, {key}", rotary.get("rope_type", rotary.get("type", "default")), ROTARY)
        elif rotary is not None:
            raise InputError(f"{path}, {key}", repr(rotary), "a mapping with a rope_type")


def _check_choice(where: str, found: Any, allowed: frozenset[str]) -> None:
    if not isinstance(found, str) or found not in allowed:
        raise InputError(where, repr(found), f"one of {', '.join(sorted(allowed))}")


def _check_tokenizer(folder: Path, vocabulary: int) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            folder, "no tokenizer.json", "a fast tokenizer (its offsets say which tokens are the name)"
        )
    for settings in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if settings.is_file() and not isinstance(read_json(settings), dict):
            raise InputError(settings, "no mapping", "settings of the tokenizer as they were saved")
    try:
        tokens = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # noqa: BLE001 - the library raises nothing more particular
        raise InputError(path, f"no tokenizer ({error})", "a fast tokenizer as it was saved") from None
    largest = max(tokens.values(), default=-1)
    if largest >= vocabulary:
        token = next(text for text, number in tokens.items() if number == largest)
        raise InputError(
            path,
            f"token {token!r} of number {largest}, but an embedding of {vocabulary}",
            "a tokenizer no larger than the embedding (vocab_size in config.json)",
        )


def _check_pickle(folder: Path, allow_pickle: bool) -> None:
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        raise InputError(folder, "no weights", "*.safetensors beside config.json")
    if not allow_pickle:
        raise InputError(
            folder,
            f"pickle weights (*.bin) only: {pickles[0]}",
            "safetensors, or `model.allow_pickle: true` if you trust the source",
        )


def _headers(folder: Path) -> dict[str, Header]:
    """Every weight by its name, from the headers of the safetensors files that would be loaded."""
    if (folder / WHOLE).is_file():
        return _header(folder / WHOLE)
    if not (folder / INDEX).is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.safetensors")))
        raise InputError(folder, f"weights named {found} and no {INDEX}", f"{WHOLE}, or shards and {INDEX}")
    index = read_json(folder / INDEX)
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise InputError(folder / INDEX, "no weight_map", "which shard holds which weight")
    headers: dict[str, Header] = {}
    for shard in sorted({str(name) for name in shard_of.values()}):
        if Path(shard).name != shard:
            raise InputError(folder / INDEX, f"the shard {shard!r}", "names of files in the same folder")
        if not (folder / shard).is_file():
            raise InputError(folder, f"no {shard}, which {INDEX} names", "every shard of the model")
        held = _header(folder / shard)
        lost = sorted(name for name, where in shard_of.items() if where == shard and name not in held)
        if lost:
            raise InputError(folder / shard, f"no weight {lost[0]}", f"the weights that {INDEX} says")
        headers |= held
    return headers


def _header(path: Path) -> dict[str, Header]:
    """The header says where each weight lies, and the file must end where the last does: a cut-off file is seen."""
    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: Header(tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            path,
            f"no whole safetensors file ({error})",
            "weights as they were saved; copy or download them again",
        ) from None


def _check_weights(
    folder: Path, headers: Mapping[str, Header], config: Mapping[str, Any], sizes: Mapping[str, int]
) -> None:
    """Each weight of the model is there, as config.json says it. What else is there (old masks) is left alone."""
    layout = LAYOUTS[config["model_type"]]
    held = _in_full(headers, layout, tied=bool(config.get("tie_word_embeddings", layout.tied)))
    block = re.compile(re.escape(layout.blocks) + r"(\d{1,9})\.")
    there = 1 + max((int(match[1]) for match in map(block.match, held) if match), default=-1)
    if there > sizes["layers"]:
        raise InputError(folder, f"weights of {there} layers", f"{sizes['layers']}, as config.json says")
    for name, shape in _weights(layout, config, sizes["layers"]):
        if name not in held:
            family = FAMILY[config["model_type"]]
            allowed = f"every weight of a {family}: embedding, weights of {sizes['layers']} layers, final norm, unembedding"
            raise InputError(folder, f"no weight {name}", allowed)
        _check_weight(f"{folder}, {name}", held[name], shape, sizes)


def _in_full(headers: Mapping[str, Header], layout: Layout, *, tied: bool) -> dict[str, Header]:
    """The weights under the names of `layout`: published GPT-2s leave out `transformer.`, tied ones the unembedding."""
    held = {}
    for name, header in headers.items():
        if name in ("lm_head.weight", layout.unembedding):
            held[layout.unembedding] = header
        else:
            held[name if name.startswith(layout.body) else layout.body + name] = header
    for one, other in ((layout.embedding, layout.unembedding), (layout.unembedding, layout.embedding)):
        if tied and one in held:
            held.setdefault(other, held[one])
    return held


def _weights(layout: Layout, config: Mapping[str, Any], layers: int) -> Iterator[tuple[str, str]]:
    """Name and shape of every weight that the model computes with."""
    yield layout.embedding, "vocabulary width"
    yield from layout.ends.items()
    yield layout.unembedding, "vocabulary width"
    block = dict(layout.block)
    for key, default, biases in layout.biases:
        block |= biases if config.get(key, default) else {}
    for layer in range(layers):
        yield from ((f"{layout.blocks}{layer}.{name}", shape) for name, shape in block.items())


def _check_weight(where: str, header: Header, shape: str, sizes: Mapping[str, int]) -> None:
    wanted = tuple(sizes[name] for name in shape.split())
    if header.shape != wanted:
        allowed = f"{_by(wanted)} ({shape.replace(' ', ' x ')}), as config.json says"
        raise InputError(where, f"numbers in the shape {_by(header.shape)}", allowed)
    if header.dtype not in FLOATING:
        raise InputError(where, f"numbers of the type {header.dtype}", f"one of {', '.join(FLOATING)}")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
