"""A model folder in the Hugging Face format, looked at without torch: which files make the model, what they say, and
whether they fit together.

A model that lacks a weight loads all the same, with random numbers in its place; one whose config.json lacks a size loads
with that of another model; one whose files hold weights that config.json does not mention loads without them. So every
weight is looked for here, in the shape that config.json gives it, and no other may be there. What takes reading all weights
(is every one of them finite?) is seen where the model is adopted, by `model/weights.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from factfinding.errors import InputError
from factfinding.families import FLOATING, KNOWN_TYPES, Family, Weights, check_family
from factfinding.files import file_digest, read_json, text_digest, write_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SETTINGS = ("*.json", "*.model", "*.tiktoken", "*.jinja", "merges.txt", "vocab.txt")
"""What loading may read beside the weights."""
RECORDS = frozenset({"source.json", "card.json", "training.json"})
"""What the workflow itself writes into a model's folder."""
MEMO = Path(".snakemake/model-digests.json")
"""Digests of large files, by what the file system says of them, so that each is read once and not by every job."""
SETTLED = 5
"""Seconds since a file's last change after which the time of that change tells it from a later one."""
GGUF = b"GGUF"
"""What a GGUF file begins with."""
MOST_LAYERS = 1000
"""Several times what the deepest models have: a slip in config.json is not taken for a model to be built."""
INNER = ("n_inner", "intermediate_size", "ffn_hidden_size")
"""Keys for the neurons of a layer, of families whose config.json need not say them: 4 times the width then."""
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


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a configuration may name: layers, heads of a layer, neurons of a layer. family: its name. positions: the most
    tokens of a prompt, activation: its name; None where config.json does not say."""

    family: str
    layers: int
    heads: int
    neurons: int
    positions: int | None = None
    activation: str | None = None


def loaded_files(folder: Path) -> dict[str, Path]:
    """Every file that loading the model reads, by name, through links: settings, tokenizer, and the weights that are used."""
    found = {path.name: path for pattern in SETTINGS for path in folder.glob(pattern)}
    if any(folder.glob("*.safetensors")):
        weights = [folder / WHOLE] if (folder / WHOLE).is_file() else folder.glob("*.safetensors")
    else:
        weights = folder.glob("pytorch_model*.bin")
    found |= {path.name: path for path in weights}
    return {
        name: path.resolve() for name, path in sorted(found.items()) if name not in RECORDS and path.is_file()
    }


def file_digests(folder: Path) -> dict[str, str]:
    """The digest of every file that loading the model reads, by name."""
    memo = _memo()
    known = dict(memo)
    found = {name: _digest(path, memo) for name, path in loaded_files(folder).items()}
    if memo != known and MEMO.parent.is_dir():
        with suppress(OSError):  # it only saves time
            write_json(memo, MEMO)
    return found


def model_digest(files: Mapping[str, str], *chosen: str) -> str:
    """One digest of all files of a model (`file_digests`), and of what was chosen beside them."""
    return text_digest(*(part for item in files.items() for part in item), *chosen)[:32]


def _memo() -> dict[str, str]:
    try:
        memo = read_json(MEMO)
    except (InputError, OSError):
        return {}
    return memo if isinstance(memo, dict) else {}


def _digest(path: Path, memo: dict[str, str]) -> str:
    """A file's digest; taken from the memo where neither its place nor its time of change is another. That time is the
    system's own (ctime): unlike the time of modification, no copying sets it back."""
    stat = path.stat()
    if time.time() - stat.st_ctime < SETTLED:
        return file_digest(path)
    key = f"{path} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    if key not in memo:
        memo[key] = file_digest(path)
    return memo[key]


def sizes_of(folder: Path) -> Sizes:
    """The sizes that config.json gives.

    Raises InputError for a missing or damaged file, an unknown family, sizes that are missing or do not fit together.
    """
    config, family = _config(folder)
    return _named(family, _all_sizes(folder / "config.json", config, family), config)


def all_sizes(path: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Every size that a weight's shape may name (layers, width, heads, head, neurons, vocabulary), from what config.json,
    which is at `path`, says. Raises InputError for an unknown family and for sizes that are missing."""
    return _all_sizes(path, config, check_family(config, path))


def weights_within(config: Mapping[str, Any], sizes: Mapping[str, int], layers: int) -> int:
    """How many numbers the weights hold of a model of that config.json with so many layers."""
    family = KNOWN_TYPES[config["model_type"]]
    named = dict(_weights(family, family.weights[config["model_type"]], config, layers))
    return sum(prod(sizes[size] for size in shape.split()) for shape in named.values())


def check_model_folder(folder: Path, *, allow_pickle: bool = False) -> Sizes:
    """Check all of a model folder but the values of its weights; its sizes.

    Raises InputError, naming the file: for what `sizes_of` refuses; quantized weights, an adapter beside the weights, an
    unknown activation or rotary embedding; a tokenizer that is missing, damaged or larger than the embedding; weights that
    are missing, pickled without `allow_pickle`, cut off, no floating-point numbers, not in the shapes of config.json, or
    that the model of config.json does not have.
    """
    config, family = _config(folder)
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            folder / "adapter_config.json", "an adapter", "weights into which their adapter has been merged"
        )
    sizes = _all_sizes(folder / "config.json", config, family)
    _check_settings(folder / "config.json", config, family)
    _check_tokenizer(folder, sizes["vocabulary"])
    if any(folder.glob("*.safetensors")) or (folder / INDEX).is_file():
        _check_weights(folder, _headers(folder), config, sizes)
    else:
        _check_pickle(folder, allow_pickle)
    return _named(family, sizes, config)


def stored_type(folder: Path) -> str | None:
    """The type of all weights of a model folder (one of FLOATING), from the headers of its safetensors files.

    None where they are of several types, and where the files do not say: pickled weights, or files that cannot be loaded.
    """
    try:
        config, family = _config(folder)
        headers = _headers(folder)
    except InputError:
        return None
    weights = family.weights[config["model_type"]]
    constant = _constants(family, weights)
    found = {
        header.dtype
        for name, header in headers.items()
        if not constant.fullmatch(_in_the_model(name, family, weights))
    }
    return found.pop() if len(found) == 1 else None


def check_gguf(path: Path) -> None:
    """Raise InputError for what is no GGUF file; reads four bytes and imports nothing."""
    if not path.is_file():
        raise InputError(path, "no such file", "a model as a GGUF file")
    with path.open("rb") as file:
        begins = file.read(len(GGUF))
    if begins != GGUF:
        raise InputError(
            path, f"a file that begins with {begins!r}", f"a GGUF file, which begins with {GGUF!r}"
        )


def _named(family: Family, sizes: Mapping[str, int], config: Mapping[str, Any]) -> Sizes:
    return Sizes(
        family=family.name, layers=sizes["layers"], heads=sizes["heads"], neurons=sizes["neurons"],
        positions=sizes.get("positions"), activation=config.get(family.activation_key),
    )  # fmt: skip


def _config(folder: Path) -> tuple[dict[str, Any], Family]:
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "a model folder in the Hugging Face format")
    if not path.is_file():
        raise InputError(folder, "no config.json", "a model folder in the Hugging Face format")
    config = read_json(path)
    return config, check_family(config, path)


def _all_sizes(path: Path, config: Mapping[str, Any], family: Family) -> dict[str, int]:
    """Every size that a weight's shape may name. None is guessed: the library's defaults are those of some one model."""
    keys = family.size_keys
    sizes: dict[str, int] = {}
    for name, named in keys.items():
        size = _size(path, config, *named)
        if size is None:
            raise InputError(path, f"no {named[0]}", "the sizes of the model that the weights are of")
        sizes[name] = size
    if sizes["layers"] > MOST_LAYERS:
        raise InputError(f"{path}, {keys['layers'][0]}", str(sizes["layers"]), f"at most {MOST_LAYERS}")
    if "neurons" not in sizes:
        sizes["neurons"] = _size(path, config, *INNER) or 4 * sizes["width"]
    positions = _size(path, config, *keys.get("positions", ("max_position_embeddings",)))
    sizes |= {} if positions is None else {"positions": positions}
    sizes |= {"both": 2 * sizes["neurons"], "positions+2": sizes.get("positions", 0) + 2}
    return sizes | _head_sizes(path, config, family, sizes)


def _head_sizes(
    path: Path, config: Mapping[str, Any], family: Family, sizes: Mapping[str, int]
) -> dict[str, int]:
    """How wide the queries, the keys and all three of them are, over all heads."""
    width, heads = sizes["width"], sizes["heads"]
    head = _size(path, config, "head_dim") if family.own_heads else None
    groups = (_size(path, config, "num_key_value_heads") if family.own_heads else None) or (
        family.fixed_kv_heads or heads
    )
    if head is None and width % heads:
        raise InputError(path, f"{heads} heads for a width of {width}", "a number of heads that divides it")
    if heads % groups:
        raise InputError(path, f"{groups} key-value heads for {heads} heads", "a number that divides it")
    head = head or width // heads
    return {
        "head": head,
        "queries": heads * head,
        "keys": groups * head,
        "qkv": (heads + 2 * groups) * head,
    }


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


def _check_settings(path: Path, config: Mapping[str, Any], family: Family) -> None:
    """What else config.json may say that no model can be built of."""
    if config.get("quantization_config") is not None:
        raise InputError(
            path, "a quantization_config", "weights that are floating-point numbers, not quantized"
        )
    key = family.activation_key
    _check_choice(f"{path}, {key}", config.get(key, "gelu"), ACTIVATIONS)
    for key in () if family.positions is not None else ("rope_parameters", "rope_scaling"):
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
    """Each weight of the model is there, as config.json says it, and nothing else but constants that old files hold."""
    family = KNOWN_TYPES[config["model_type"]]
    weights = family.weights[config["model_type"]]
    held = _in_full(headers, family, weights, tied=bool(config.get("tie_word_embeddings", weights.tied)))
    block = re.compile(re.escape(family.block_prefix) + r"(\d{1,9})\.")
    there = 1 + max((int(match[1]) for match in map(block.match, held) if match), default=-1)
    if there > sizes["layers"]:
        raise InputError(folder, f"weights of {there} layers", f"{sizes['layers']}, as config.json says")
    expected = dict(_weights(family, weights, config, sizes["layers"]))
    written = {_in_the_model(name, family, weights): name for name in headers}
    others = {name: written[name] for name in held if name not in expected}
    _check_unexpected(folder, others, family, weights, config)
    for name, shape in expected.items():
        if name not in held:
            allowed = f"every weight of a {family.name}: embedding, weights of {sizes['layers']} layers, final norm, unembedding"
            raise InputError(folder, f"no weight {name}", allowed)
        _check_weight(f"{folder}, {name}", held[name], shape, sizes)


def _check_unexpected(
    folder: Path, others: Mapping[str, str], family: Family, weights: Weights, config: Mapping[str, Any]
) -> None:
    """Weights that the model of config.json has no place for would be dropped in silence. others: their names in full, and
    as they are written."""
    constant = _constants(family, weights)
    unused = sorted(written for name, written in others.items() if not constant.fullmatch(name))
    if not unused:
        return
    more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
    allowed = f"the weights of the {family.name} that config.json describes, and no others"
    for key, default, biases in weights.biases:
        if not config.get(key, default) and any(unused[0].endswith(f".{name}") for name in biases):
            allowed += f" ({key} of config.json is not true, so it has no such weight)"
    raise InputError(folder, f"the weight {unused[0]}{more}, which the model does not use", allowed)


def _constants(family: Family, weights: Weights) -> re.Pattern[str]:
    """Full names of constants that old files hold beside the weights."""
    return re.compile(
        rf"{re.escape(family.block_prefix)}\d{{1,9}}\.({'|'.join(map(re.escape, weights.buffers))})"
        r"|.*rotary_emb\.inv_freq"
    )


def _in_full(
    headers: Mapping[str, Header], family: Family, weights: Weights, *, tied: bool
) -> dict[str, Header]:
    """The weights under their full names: published GPT-2s leave out `transformer.`, tied models the unembedding."""
    held = {_in_the_model(name, family, weights): header for name, header in headers.items()}
    ends = (family.embedding, weights.unembedding)
    for one, other in (ends, ends[::-1]):
        if tied and one in held:
            held.setdefault(other, held[one])
    return held


def _in_the_model(name: str, family: Family, weights: Weights) -> str:
    """A weight's name in the file as the model calls it."""
    if name in ("lm_head.weight", weights.unembedding):
        return weights.unembedding
    return name if name.startswith("lm_head.") else _full_name(name, f"{family.body}.")


def _full_name(name: str, body: str) -> str:
    """The name with what it lacks of `model.decoder.` or the like before it."""
    ends = [i for i in range(len(body) + 1) if i in (0, len(body)) or body[i - 1] == "."]
    return next(body[:i] + name for i in ends if (body[:i] + name).startswith(body))


def _weights(
    family: Family, weights: Weights, config: Mapping[str, Any], layers: int
) -> Iterator[tuple[str, str]]:
    """Name and shape of every weight that the model computes with."""
    yield family.embedding, "vocabulary width"
    yield from weights.ends.items()
    yield weights.unembedding, "vocabulary width"
    block = dict(weights.block)
    for key, default, biases in weights.biases:
        block |= biases if config.get(key, default) else {}
    for layer in range(layers):
        yield from ((f"{family.block_prefix}{layer}.{name}", shape) for name, shape in block.items())


def _check_weight(where: str, header: Header, shape: str, sizes: Mapping[str, int]) -> None:
    wanted = tuple(sizes[name] for name in shape.split())
    if header.shape != wanted:
        allowed = f"{_by(wanted)} ({shape.replace(' ', ' x ')}), as config.json says"
        raise InputError(where, f"numbers in the shape {_by(header.shape)}", allowed)
    if header.dtype not in FLOATING:
        raise InputError(where, f"numbers of the type {header.dtype}", f"one of {', '.join(FLOATING)}")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of a single number"
