"""A model folder in the Hugging Face format, looked at without torch: what its files say, and whether they fit together.

A model that lacks a weight loads all the same, with random numbers in its place: so every layer is looked for here. What
takes reading all weights (is every one of them finite?) is seen where the model is adopted, by `model/weights.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
EMBEDDING = re.compile(r"(^|\.)(embed_in|wte|embed_tokens)\.weight$")
LAYER = re.compile(r"(^|\.)(layers|h)\.(\d+)\.")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a configuration may name: layers, heads of a layer, neurons of a layer; None: not said. family: as in FAMILY."""

    family: str
    layers: int | None
    heads: int | None
    neurons: int | None


def sizes_of(folder: Path) -> Sizes:
    """The sizes that config.json gives. Raises InputError for a missing or damaged file, an unknown family, odd sizes."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "a model folder in the Hugging Face format")
    if not path.is_file():
        raise InputError(folder, "no config.json", "a model folder in the Hugging Face format")
    config = read_json(path)
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if not isinstance(config, dict) or not isinstance(kind, str) or kind not in FAMILY:
        raise InputError(path, f"model_type {kind!r}", f"one of {', '.join(sorted(FAMILY))}")
    width = _size(path, config, "hidden_size", "n_embd")
    neurons = _size(path, config, "intermediate_size", "n_inner")
    if neurons is None and kind == "gpt2" and width is not None:
        neurons = 4 * width
    return Sizes(
        family=FAMILY[kind],
        layers=_size(path, config, "num_hidden_layers", "n_layer"),
        heads=_size(path, config, "num_attention_heads", "n_head"),
        neurons=neurons,
    )


def check_model_folder(folder: Path, *, allow_pickle: bool = False) -> Sizes:
    """Check all of a model folder but the values of its weights; its sizes.

    Raises InputError, naming the file: for what `sizes_of` refuses; a tokenizer that is missing, damaged or larger than
    the embedding; weights that are missing, pickled without `allow_pickle`, cut off, or not those of config.json.
    """
    sizes = sizes_of(folder)
    config = read_json(folder / "config.json")
    vocabulary = _size(folder / "config.json", config, "vocab_size")
    _check_tokenizer(folder, vocabulary)
    if not any(folder.glob("*.safetensors")) and not (folder / INDEX).is_file():
        _check_pickle(folder, allow_pickle)
        return sizes
    shapes = _shapes(folder)
    _check_layers(folder, shapes, sizes.layers)
    _check_embedding(
        folder, shapes, vocabulary, _size(folder / "config.json", config, "hidden_size", "n_embd")
    )
    return sizes


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


def _check_tokenizer(folder: Path, vocabulary: int | None) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            folder, "no tokenizer.json", "a fast tokenizer (its offsets say which tokens are the name)"
        )
    try:
        tokens = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # noqa: BLE001 - the library raises nothing more particular
        raise InputError(path, f"no tokenizer ({error})", "a fast tokenizer as it was saved") from None
    largest = max(tokens.values(), default=-1)
    if vocabulary is not None and largest >= vocabulary:
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


def _shapes(folder: Path) -> Shapes:
    """Name and shape of every weight, from the headers of the safetensors files that would be loaded."""
    if (folder / WHOLE).is_file():
        return _header(folder / WHOLE)
    if not (folder / INDEX).is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.safetensors")))
        raise InputError(folder, f"weights named {found} and no {INDEX}", f"{WHOLE}, or shards and {INDEX}")
    index = read_json(folder / INDEX)
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise InputError(folder / INDEX, "no weight_map", "which shard holds which weight")
    shapes: Shapes = {}
    for shard in sorted({str(name) for name in shard_of.values()}):
        if Path(shard).name != shard:
            raise InputError(folder / INDEX, f"the shard {shard!r}", "names of files in the same folder")
        if not (folder / shard).is_file():
            raise InputError(folder, f"no {shard}, which {INDEX} names", "every shard of the model")
        held = _header(folder / shard)
        lost = sorted(name for name, where in shard_of.items() if where == shard and name not in held)
        if lost:
            raise InputError(folder / shard, f"no weight {lost[0]}", f"the weights that {INDEX} says")
        shapes |= held
    return shapes


def _header(path: Path) -> Shapes:
    """The header says where each weight lies, and the file must end where the last does: a cut-off file is seen."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            path,
            f"no whole safetensors file ({error})",
            "weights as they were saved; copy or download them again",
        ) from None


def _check_layers(folder: Path, names: Iterable[str], layers: int | None) -> None:
    """Each weight of a block must be there for every block, and there must be as many blocks as config.json says."""
    found: dict[str, set[int]] = {}
    for name in names:
        if match := LAYER.search(name):
            found.setdefault(f"{name[: match.start(3)]}N{name[match.end(3) :]}", set()).add(int(match[3]))
    if not found:
        raise InputError(folder, "weights of no layer", "the weights of a language model")
    there = max(number for numbers in found.values() for number in numbers) + 1
    if layers is not None and there > layers:
        raise InputError(folder, f"weights of {there} layers", f"{layers}, as config.json says")
    for name, numbers in sorted(found.items()):
        missing = sorted(set(range(layers or there)) - numbers)
        if missing:
            raise InputError(
                folder,
                f"no weight {name.replace('N', str(missing[0]), 1)}",
                f"weights of {layers or there} layers",
            )


def _check_embedding(folder: Path, shapes: Shapes, vocabulary: int | None, width: int | None) -> None:
    for name, shape in shapes.items():
        wanted = (vocabulary, width)
        if EMBEDDING.search(name) and None not in wanted and shape != wanted:
            raise InputError(
                f"{folder}, {name}",
                f"an embedding of {shape[0]} tokens and width {shape[-1]}",
                f"{vocabulary} and {width}, as config.json says",
            )
