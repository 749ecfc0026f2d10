"""What can be known of a study to be wrong before anything of it runs: its tables, texts, model folder, layers and heads.

Reads files and headers, loads no model, imports no torch, and writes nothing. A file below results/ that is not there yet
may be made by the run itself, and is looked at when it is read. Large texts, too, are looked at when they are read.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from itertools import chain, count
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from factfinding.config import Config, RelationConfig
from factfinding.data.fact_prompts import fact_prompts
from factfinding.data.facts import read_facts
from factfinding.data.prompts import (
    CONDITIONS,
    candidates,
    check_beginnings,
    check_shot,
    check_template,
    check_wording,
    prompt_table,
)
from factfinding.data.subjects import read_subjects
from factfinding.data.texts import read_texts
from factfinding.data.tokens import PlainTokenizer, check_prompts, first_token
from factfinding.errors import InputError, naming
from factfinding.families import KNOWN_TYPES, TINY, WITH_DIFFERENCES
from factfinding.model_folder import Sizes, check_gguf, check_model_folder, sizes_of
from factfinding.relation import PROMPT, of_the_study, wordings

LARGE_TEXT = 64 << 20
"""Bytes above which a text is not read ahead."""
ANY_BOS = -1
"""Which token opens the prompts does not matter to these checks, only that one does."""


class StoredNeed(NamedTuple):
    """Activations that every study reads. layers: `lookup` are those of circuit.lookup, or all where it is to be found."""

    site: str
    role: str
    layers: Literal["all", "last", "lookup"]
    rules: str


NEEDS = (
    StoredNeed(
        "resid", "final_name", "all", "layer_probes, readers, head_probes, head_inputs and answer_neurons"
    ),
    StoredNeed("attn_out", "final_name", "all", "head_inputs and answer_neurons"),
    StoredNeed("mlp_out", "final_name", "all", "head_inputs"),
    StoredNeed("z", "final_name", "all", "head_inputs"),
    StoredNeed("resid", "end", "last", "direct_effects and head_inputs"),
    StoredNeed("attn_out", "end", "all", "direct_effects"),
    StoredNeed("mlp_out", "end", "all", "direct_effects"),
    StoredNeed("z", "end", "all", "direct_effects"),
    StoredNeed("pattern", "end", "all", "attention_roles and head_inputs"),
    StoredNeed("post", "final_name", "lookup", "answer_neurons"),
)
"""What the rules read of the activation files. All else may be left out; `pre` only checks a recomputation (P3.4)."""


def preflight(study: Config) -> None:
    """Raise InputError, naming the file or key and the study, for what cannot work."""
    _check_wordings(study)
    subjects = _subjects(study)
    facts = _facts(study)
    _check_texts(study)
    with _named(study, "model.file" if study.model.source == "gguf" else "model.folder"):
        sizes = _sizes(study)
    _check_checkpoints(study, sizes)
    if subjects is not None:
        _check_folds(study, subjects)
        _check_prompts(study, subjects, sizes)
    if facts is not None:
        _check_fact_prompts(study, facts, sizes)
    _check_circuit(study, sizes)
    _check_stored(study, sizes)
    _check_neurons(study, sizes)
    _check_engines(study, sizes)


def _named(study: Config, key: str) -> AbstractContextManager[None]:
    """Errors about a file also say which key names it."""
    return naming(_key(study, key))


def _key(study: Config, key: str) -> str:
    return f"config.{key} of study {study.study!r}"


def _to_check(study: Config, key: str, name: str | None) -> Path | None:
    """The path, if one is named and is to be checked now. Raises InputError for a name that cannot be looked up."""
    if name is None:
        return None
    path = Path(name)
    try:
        return path if path.exists() or not _made_by_a_run(path) else None
    except (OSError, ValueError, RuntimeError) as error:  # the last: a circle of links
        raise InputError(_key(study, key), f"{name!r:.200} ({error!s:.200})", "the path of a file") from None


def _made_by_a_run(path: Path) -> bool:
    return path.resolve().is_relative_to(Path("results").resolve())


def _wordings(study: Config) -> list[tuple[str, RelationConfig]]:
    """Each wording of the question, the own one first, and the key that it stands under."""
    own = f"config.relation of study {study.study!r}"
    others = (f"config.relation.paraphrases.{i} of study {study.study!r}" for i in count())
    return list(zip(chain([own], others), wordings(study.relation), strict=False))


def _check_wordings(study: Config) -> None:
    """Each can be asked, and no two are the same."""
    seen: dict[tuple[str, ...], str] = {}
    for where, wording in _wordings(study):
        check_wording(wording, where)
        other = seen.setdefault((wording.shot, wording.before, wording.after), where)
        if other != where:
            raise InputError(
                where, f"the same as {other}", "a wording of its own: another shot, before or after"
            )


def _subjects(study: Config) -> pl.DataFrame | None:
    """The subjects, where they are known beforehand."""
    section = study.subjects
    table = _to_check(study, "subjects.table", section.table)
    if table is None:
        return None
    with _named(study, "subjects.table"):
        return read_subjects(
            table,
            relation=study.relation,
            two_answers=section.two_answers,
            min_per_answer=section.min_per_answer,
            few=section.few,
        ).frame


def _check_folds(study: Config, subjects: pl.DataFrame) -> None:
    """A model may know too few subjects for the probes' folds, and that is its result; but there must be as many."""
    relation = study.relation
    counts = Counter(subjects["answer"])  # polars would start threads, for which a fork of this process waits
    answer, count = min(counts.items(), key=lambda item: item[1])
    if count < study.probes.n_folds:
        raise InputError(
            _key(study, "probes.n_folds"),
            f"{study.probes.n_folds} folds, but {count} {relation.subjects} of the {relation.answer} {answer!r}",
            f"at most {count} folds, or more {relation.subjects} in {study.subjects.table}",
        )


def _check_prompts(study: Config, subjects: pl.DataFrame, sizes: Sizes | None) -> None:
    """The rule `prompts` refuses what a tokenizer cannot write, but only once all weights of a folder have been read."""
    with _named(study, "subjects.table"):
        for _, wording in _wordings(study):
            words = study.relation.model_copy(update={key: getattr(wording, key) for key in PROMPT})
            check_shot(subjects["subject"], dict.fromkeys(subjects["answer"]), words)
    folder = _model_folder(study)
    if folder is None:
        return
    tokenizer = PlainTokenizer(folder / "tokenizer.json")
    _check_bos(study, tokenizer)
    bare = study.model.bos == "none"
    if bare:
        check_beginnings(tokenizer, study.relation, _key(study, "relation"))
    bos = first_token(tokenizer, study.relation.shot + study.relation.before) if bare else ANY_BOS
    with _named(study, "subjects.table"):
        tables = {name: prompt_table(subjects, tokenizer, bos, name, study.relation) for name in CONDITIONS}
        check_prompts(tables, tokenizer, positions=None if sizes is None else sizes.positions)
        candidates(sorted(set(subjects["answer"])), tables["full"]["text"][0], tokenizer)
    theirs = _wordings(study)[: 1 + len(study.relation.paraphrases or ())]
    for where, wording in theirs:  # what the project itself puts beside them may be left out (P2.12)
        check_template(tokenizer, wording, where)
        with naming(where):
            bos = first_token(tokenizer, wording.shot + wording.before) if bare else ANY_BOS
            asked = {"full": prompt_table(subjects, tokenizer, bos, "full", wording)}
            check_prompts(asked, tokenizer, positions=None if sizes is None else sizes.positions)
            candidates(sorted(set(subjects["answer"])), asked["full"]["text"][0], tokenizer)


def _check_bos(study: Config, tokenizer: PlainTokenizer) -> None:
    """A word that is a token but no special one is refused when the model is loaded: only then is all known of it."""
    bos = study.model.bos
    if bos not in ("auto", "none") and tokenizer.token_to_id(bos) is None:
        special = tokenizer.convert_ids_to_tokens(tokenizer.all_special_ids)
        listed = ", ".join(token for token in special if token)[:200]
        raise InputError(
            _key(study, "model.bos"),
            repr(bos),
            f"auto, none, or a special token: {listed or 'there is none'}",
        )


def _model_folder(study: Config) -> Path | None:
    """Where the model's files lie, if they are there already and not made by a run."""
    if study.model.source == "folder":
        return _to_check(study, "model.folder", study.model.folder)
    downloaded = Path("results", study.study, "model")
    there = study.model.source in ("hub", "gguf") and (downloaded / "source.json").is_file()
    return downloaded / "weights" if there else None


def _facts(study: Config) -> pl.DataFrame | None:
    """The facts, where they are the user's."""
    neurons = study.neurons
    path = _to_check(study, "neurons.facts", neurons.facts)
    if path is None:
        if neurons.first and study.model.source != "organism" and not of_the_study(study.relation):
            allowed = (
                f"neurons.facts: a table of facts of {study.relation.subjects}; without one none are asked"
            )
            raise InputError(_key(study, "neurons.first"), repr(neurons.first[0]), allowed)
        return None
    with _named(study, "neurons.facts"):
        facts = read_facts(path)
    for name in neurons.first:
        if name not in set(facts["subject"]):
            raise InputError(_key(study, "neurons.first"), repr(name), f"subjects of {neurons.facts}")
    return facts


def _check_fact_prompts(study: Config, facts: pl.DataFrame, sizes: Sizes | None) -> None:
    """Facts that no token can be asked for are left out later, and said; here is refused what would stop the run."""
    folder = _model_folder(study)
    if folder is None:
        return
    with _named(study, "neurons.facts"):
        prompts = fact_prompts(facts, PlainTokenizer(folder / "tokenizer.json"), ANY_BOS)
        longest = prompts.sort("n_tokens").row(-1, named=True)
        if sizes is not None and sizes.positions is not None and longest["n_tokens"] > sizes.positions:
            raise InputError(
                f"fact {longest['fact']!r} of {longest['subject']!r}",
                f"{longest['n_tokens']} tokens, BOS included",
                f"at most {sizes.positions}, the positions of the model (config.json)",
            )


def _check_texts(study: Config) -> None:
    for section, field in (("locality", study.locality.field), ("answer_neurons", None)):
        path = _to_check(study, f"{section}.texts", getattr(study, section).texts)
        if path is None or (path.is_file() and path.stat().st_size > LARGE_TEXT):
            continue
        with _named(study, f"{section}.texts"):
            read_texts(path, field) if field is not None else _check_plain_text(path)


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
            name, neurons = KNOWN_TYPES["gpt_neox"].name, organism.mlp_width
            return Sizes(family=name, layers=organism.layers, heads=organism.heads, neurons=neurons)
        case "tiny":
            return tiny_sizes(model.family)
    if model.source == "gguf" and (file := _to_check(study, "model.file", model.file)) is not None:
        check_gguf(file)
    folder = _model_folder(study)
    if folder is None:
        return None
    return (
        check_model_folder(folder, allow_pickle=model.allow_pickle)
        if model.source == "folder"
        else sizes_of(folder)
    )


def _check_checkpoints(study: Config, sizes: Sizes | None) -> None:
    """The folders of checkpoints are whole models, of the sizes of the study's own."""
    for i, name in enumerate(study.emergence.folders):
        key = f"emergence.folders.{i}"
        with _named(study, key):
            folder = _to_check(study, key, name)
            if folder is None:
                continue
            own = check_model_folder(folder, allow_pickle=study.model.allow_pickle)
            if own != sizes:
                raise InputError(folder, "a model of other sizes", "checkpoints of the study's own model")


def tiny_sizes(model_type: str) -> Sizes:
    """The sizes of the model that model/tiny.py makes of a family."""
    family = KNOWN_TYPES[model_type]
    neurons = family.tiny_neurons * TINY["width"]
    return Sizes(family=family.name, layers=TINY["layers"], heads=TINY["heads"], neurons=neurons)


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
    if layer < 0 or (sizes is not None and layer >= sizes.layers):
        last = f"0-{sizes.layers - 1} of this model" if sizes is not None else "0 and up"
        raise InputError(where, str(found), f"layers {last}")


def _check_unit(where: str, found: str, index: int, unit: str, sizes: Sizes | None) -> None:
    if sizes is not None and index >= getattr(sizes, unit):
        raise InputError(where, found, f"{unit} 0-{getattr(sizes, unit) - 1} of a layer of this model")


def _check_stored(study: Config, sizes: Sizes | None) -> None:
    """Activations are asked for of layers that there are, and all that the rules read is asked for."""
    for number, dataset in enumerate(study.activations.datasets):
        for layer in dataset.layers or ():
            _check_layer(_key(study, f"activations.datasets.{number}.layers"), layer, layer, sizes)
    for need in NEEDS:
        _check_need(study, need, sizes)


def _check_need(study: Config, need: StoredNeed, sizes: Sizes | None) -> None:
    where, name = _key(study, "activations.datasets"), f"{need.site} at {need.role}"
    stored = _stored(study, need.site, need.role)
    if stored == set():
        raise InputError(where, f"no {name}", f"{name} among them, which the rules {need.rules} read")
    missing = set() if stored is None else _needed_layers(study, need, sizes) - stored
    if missing:
        found = f"{name} without layer {min(missing)}"
        raise InputError(where, found, f"`layers: null`, or all that the rules {need.rules} read")


def _needed_layers(study: Config, need: StoredNeed, sizes: Sizes | None) -> set[int]:
    """As far as they can be known: a model has layer 0, however many there are."""
    lookup = study.circuit.lookup
    if need.layers == "lookup" and lookup is not None:
        return set(range(lookup[0], lookup[1] + 1))
    if sizes is None:
        return set() if need.layers == "last" else {0}
    return {sizes.layers - 1} if need.layers == "last" else set(range(sizes.layers))


def _stored(study: Config, site: str, role: str) -> set[int] | None:
    """The layers of which a site is stored at a role, as engine/capture.py chooses them; None: all of the model's."""
    groups = [group for group in study.activations.datasets if group.site == site and role in group.roles]
    lookup = study.circuit.lookup
    if not groups:
        return set()
    if groups[0].layers is None and site in ("pre", "post") and lookup is not None:
        return set(range(lookup[0], lookup[1] + 1))
    return None if groups[0].layers is None else set(groups[0].layers)


def _check_neurons(study: Config, sizes: Sizes | None) -> None:
    stored = _stored(study, "post", "final_name")
    for name in study.answer_neurons.neurons:
        where = _key(study, "answer_neurons.neurons")
        layer, neuron = map(int, name[1:].split("N"))
        _check_layer(where, name, layer, sizes)
        _check_unit(where, name, neuron, "neurons", sizes)
        if stored is not None and layer not in stored:
            layers = ", ".join(map(str, sorted(stored)))
            allowed = f"a neuron of a layer whose activations are stored ({layers}; see circuit.lookup and activations)"
            raise InputError(where, name, allowed)


def _check_engines(study: Config, sizes: Sizes | None) -> None:
    """Whether the model has the difference form where that is asked for."""
    for section in ("compute", "neurons"):
        if getattr(study, section).engine != "difference":
            continue
        where = _key(study, f"{section}.engine")
        activation = None if sizes is None else sizes.activation
        if activation is not None and activation not in WITH_DIFFERENCES:
            found = f"'difference' for a model whose activation is {activation!r}"
            allowed = f"suffix or auto; differences need one of {', '.join(WITH_DIFFERENCES)}"
            raise InputError(where, found, allowed)
        if study.compute.dtype not in ("float32", "float64"):
            found = f"'difference' with compute.dtype {study.compute.dtype!r}"
            raise InputError(where, found, "float32 or float64 for differences, or the engine suffix")
