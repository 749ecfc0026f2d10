"""What can be known of a study to be wrong before anything of it runs: its tables, texts, model folder, layers and heads.

Reads files and headers, loads no model, imports no torch, and writes nothing. A file below results/ that is not there yet
may be made by the run itself, and is looked at when it is read. Large texts, too, are looked at when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factfinding.config import Config
from factfinding.data.athletes import read_athletes
from factfinding.data.facts import read_facts
from factfinding.data.texts import read_texts
from factfinding.errors import InputError
from factfinding.model_folder import Sizes, check_model_folder, sizes_of

LARGE_TEXT = 64 << 20
"""Bytes above which a text is not read ahead."""
TINY = {
    "gpt_neox": Sizes(family="GPT-NeoX", layers=3, heads=4, neurons=128),
    "gpt2": Sizes(family="GPT-2", layers=3, heads=4, neurons=128),
    "llama": Sizes(family="Llama", layers=3, heads=4, neurons=96),
}
"""The sizes of model/tiny.py, which imports torch; a test holds the two together."""


def preflight(study: Config) -> None:
    """Raise InputError, naming the file or key and the study, for what cannot work."""
    _check_tables(study)
    _check_texts(study)
    with _named(study, "model.folder"):
        sizes = _sizes(study)
    _check_circuit(study, sizes)
    _check_stored(study, sizes)
    _check_neurons(study, sizes)


@contextmanager
def _named(study: Config, key: str) -> Iterator[None]:
    """Errors about a file also say which key names it."""
    try:
        yield
    except InputError as error:
        where = f"{error.where} ({_key(study, key)})"
        raise InputError(where, error.found, error.allowed) from None


def _key(study: Config, key: str) -> str:
    return f"config.{key} of study {study.study!r}"


def _there(path: str | None) -> bool:
    """Whether a file is named and to be looked at now."""
    return path is not None and (Path(path).exists() or not _made_by_a_run(Path(path)))


def _made_by_a_run(path: Path) -> bool:
    return path.resolve().is_relative_to(Path("results").resolve())


def _check_tables(study: Config) -> None:
    athletes, neurons = study.athletes, study.neurons
    if _there(athletes.table):
        with _named(study, "athletes.table"):
            read_athletes(
                athletes.table, two_sports=athletes.two_sports, min_per_sport=athletes.min_per_sport
            )
    if not _there(neurons.facts):
        return
    with _named(study, "neurons.facts"):
        subjects = set(read_facts(neurons.facts)["subject"])
    for name in neurons.first:
        if name not in subjects:
            raise InputError(_key(study, "neurons.first"), repr(name), f"subjects of {neurons.facts}")


def _check_texts(study: Config) -> None:
    for section, field in (("locality", study.locality.field), ("sport_neurons", None)):
        path = getattr(study, section).texts
        if not _there(path) or (Path(path).is_file() and Path(path).stat().st_size > LARGE_TEXT):
            continue
        with _named(study, f"{section}.texts"):
            read_texts(path, field) if field is not None else _check_plain_text(Path(path))


def _check_plain_text(path: Path) -> None:
    if not path.is_file():
        raise InputError(path, "no such file", "a text file in UTF-8")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"no readable text ({error})", "a text file in UTF-8") from None
    if not text.strip():
        raise InputError(path, "no text", "a text file that is not empty")


def _sizes(study: Config) -> Sizes | None:
    """The model's sizes, where they can be known: of a model from the hub, once it is there."""
    model, organism = study.model, study.organism
    match model.source:
        case "organism":
            shape = {"layers": organism.layers, "heads": organism.heads, "neurons": organism.mlp_width}
            return Sizes(family="GPT-NeoX", **shape)
        case "tiny":
            return TINY[model.family]
        case "folder" if _there(model.folder):
            return check_model_folder(Path(model.folder), allow_pickle=model.allow_pickle)
    downloaded = Path("results", study.study, "model")
    return sizes_of(downloaded / "weights") if (downloaded / "source.json").is_file() else None


def _check_circuit(study: Config, sizes: Sizes | None) -> None:
    for name in ("concatenate", "lookup"):
        span = getattr(study.circuit, name)
        if span is None:
            continue
        where = _key(study, f"circuit.{name}")
        if not 0 <= span[0] <= span[1]:
            raise InputError(where, str(list(span)), "a first and a last layer, the first not above the last")
        _check_layer(where, list(span), span[1], sizes)
    for name in study.circuit.extract or ():
        layer, head = map(int, name[1:].split("H"))
        where = _key(study, "circuit.extract")
        _check_layer(where, name, layer, sizes)
        _check_unit(where, name, head, "heads", sizes)


def _check_layer(where: str, found: object, layer: int, sizes: Sizes | None) -> None:
    """`found` names this layer. Layers of an unknown model are taken as they are."""
    if layer < 0 or (sizes is not None and sizes.layers is not None and layer >= sizes.layers):
        last = f"0-{sizes.layers - 1} of this model" if sizes is not None and sizes.layers else "0 and up"
        raise InputError(where, str(found), f"layers {last}")


def _check_unit(where: str, found: str, index: int, unit: str, sizes: Sizes | None) -> None:
    count = None if sizes is None else getattr(sizes, unit)
    if count is not None and index >= count:
        raise InputError(where, found, f"{unit} 0-{count - 1} of a layer of this model")


def _check_stored(study: Config, sizes: Sizes | None) -> None:
    """Activations are asked for of layers that there are."""
    for number, dataset in enumerate(study.activations.datasets):
        for layer in dataset.layers or ():
            _check_layer(_key(study, f"activations.datasets.{number}.layers"), layer, layer, sizes)


def _check_neurons(study: Config, sizes: Sizes | None) -> None:
    stored = _layers_with_neurons(study)
    for name in study.sport_neurons.neurons:
        where = _key(study, "sport_neurons.neurons")
        layer, neuron = map(int, name[1:].split("N"))
        _check_layer(where, name, layer, sizes)
        _check_unit(where, name, neuron, "neurons", sizes)
        if stored is not None and layer not in stored:
            layers = ", ".join(map(str, sorted(stored)))
            allowed = f"a neuron of a layer whose activations are stored ({layers}; see circuit.lookup and activations)"
            raise InputError(where, name, allowed)
    if study.neurons.engine == "difference":
        where = _key(study, "neurons.engine")
        if sizes is not None and sizes.family == "Llama":
            raise InputError(
                where, "'difference' for a Llama", "suffix or auto; differences need GPT-NeoX or GPT-2"
            )
        if study.compute.dtype not in ("float32", "float64"):
            found = f"'difference' with compute.dtype {study.compute.dtype!r}"
            raise InputError(where, found, "float32 or float64 for differences, or the engine suffix")


def _layers_with_neurons(study: Config) -> set[int] | None:
    """Layers whose neurons are stored at the final name token; None: all."""
    chosen = [d for d in study.activations.datasets if d.site == "post" and "final_name" in d.roles]
    lookup = study.circuit.lookup
    if all(dataset.layers is None for dataset in chosen):
        return None if lookup is None else set(range(lookup[0], lookup[1] + 1))
    return {layer for dataset in chosen for layer in dataset.layers or ()}
