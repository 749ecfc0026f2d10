"""A GGUF file, as llama.cpp and Ollama use them, turned into a model folder with plain weights.

Transformers reads the file: it undoes the quantization, the file's order of query and key rows, and its tokenizer. What
it read is put into a fresh model without the mark of quantization, because the model as it was read cannot be saved. The
packages `gguf` and `accelerate`, which it needs for this, are imported here alone and only for this (envs/real-model.in).
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from factfinding.errors import InputError
from factfinding.families import KNOWN_TYPES
from factfinding.files import file_digest

PACKAGES = ("gguf", "accelerate")
NAME = "model.gguf"
READ = {"gguf_file": NAME, "local_files_only": True, "trust_remote_code": False}


def _check_packages(path: Path) -> None:
    """Where the file is read, not before a run: a rule may have an environment of its own (`--sdm conda`)."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"model.source 'gguf' of {path}",
            f"no package {' and no package '.join(missing)}",
            "the packages of envs/real-model.txt (pip install -r envs/real-model.txt)",
        )


def convert_gguf(path: Path, folder: Path) -> dict[str, Any]:
    """Write the model and tokenizer of a GGUF file into `folder`, weights in float32; says what was read and mended.

    Keys: file, sha256, architecture, tensor_types (how many tensors of each type of quantization), tokenizer (its kind
    and its way to cut text into words, as the file names them), mended (what the folder has otherwise than the file).

    Raises InputError, naming the file, for a missing package; a damaged file; a family that
    is not known here or that transformers does not read from GGUF; stretched rotary positions, which it leaves out; a
    tokenizer that it cannot build; a weight that the file lacks.
    """
    _check_packages(path)
    record = _described(path)
    # from a folder of its own: transformers also looks at what lies beside a file (tokenizer_config.json, adapters)
    with TemporaryDirectory() as alone:
        (Path(alone) / NAME).symlink_to(path.resolve())
        model = _read_model(path, alone)
        tokenizer = _read_tokenizer(path, alone)
    _plain(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return record


def _described(path: Path) -> dict[str, Any]:
    """What the file says of itself."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {
            name: field
            for name, field in reader.fields.items()
            if "tokens" not in name and "merges" not in name
        }
        said = {name: field.contents() for name, field in fields.items() if len(field.data) == 1}
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        names = [tensor.name for tensor in reader.tensors]
    except Exception as error:  # the reader raises whatever a wrong number leads to
        raise _unread(path, error, "a whole GGUF file") from error
    architecture = said.get("general.architecture")
    _check_positions(path, said, names)
    tokenizer = {key: said.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")}
    if tokenizer["model"] is None:
        raise InputError(path, "no tokenizer", "a GGUF file with its tokenizer (tokenizer.ggml.*)")
    return {
        "file": path.name,
        "sha256": file_digest(path),
        "architecture": architecture,
        "tensor_types": dict(sorted(types.items())),
        "tokenizer": tokenizer,
        "mended": ["quantized weights are written as float32", "config.json has no quantization_config"],
    }


def _check_positions(path: Path, said: dict[str, Any], names: list[str]) -> None:
    """Positions stretched for longer texts change every rotation, and transformers does not take them from a GGUF."""
    scaling = said.get(f"{said.get('general.architecture')}.rope.scaling.type", "none")
    stretched = [name for name in names if name.startswith("rope_")]
    if stretched or scaling != "none":
        found = f"the tensor {stretched[0]}" if stretched else f"rope.scaling.type {scaling!r}"
        raise InputError(
            path,
            f"stretched rotary positions ({found})",
            "a model of plain positions, or its Hugging Face folder",
        )


def _read_model(path: Path, alone: str) -> Any:
    """The model as transformers reads it, all weights in float32. alone: a folder with nothing but the file, as NAME."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    allowed = f"one of {', '.join(sorted(set(KNOWN_TYPES) & set(GGUF_SUPPORTED_ARCHITECTURES)))}"
    try:
        config = AutoConfig.from_pretrained(alone, **READ)
    except Exception as error:
        raise _unread(path, error, f"a model that transformers reads: {allowed}") from error
    if config.model_type not in KNOWN_TYPES:
        raise InputError(path, f"a model of the family {config.model_type!r}", allowed)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            alone, dtype=torch.float32, output_loading_info=True, **READ
        )
    except Exception as error:
        raise _unread(path, error, "a whole GGUF file") from error
    if loaded["missing_keys"]:
        lost = sorted(loaded["missing_keys"])
        raise InputError(path, f"no weight {lost[0]} ({len(lost)} are missing)", "every weight of the model")
    return model


def _plain(model: Any) -> Any:
    """The same weights in a fresh model, whose configuration does not speak of quantization."""
    import torch

    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):  # no numbers are drawn that would be overwritten
        plain = type(model)(type(model.config).from_dict(settings))
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def _read_tokenizer(path: Path, alone: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(alone, use_fast=True, **READ)
    except Exception as error:
        raise _unread(path, error, "a tokenizer that transformers can build") from error
    if not tokenizer.is_fast:
        raise InputError(path, "no fast tokenizer", "one whose offsets say which tokens are the name")
    return tokenizer


def _unread(path: Path, error: Exception, allowed: str) -> InputError:
    return InputError(path, f"a file that is not read ({type(error).__name__}: {error!s:.300})", allowed)
