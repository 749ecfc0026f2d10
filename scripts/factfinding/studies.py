"""Which studies a run is about: the configuration itself, or the list under its key `studies`, each with its own values.

An entry of the list is the name of the study that the configuration itself describes, the name of a file in studies/
(`pythia-410m`), or a mapping of what differs, with a name of its own under `study` and, under `like`, the entry that it
starts from; without `like` it starts from the configuration itself. So two seeds, several sizes or the checkpoints of one
training are one list:

    studies:
      - organism
      - {study: organism-1, organism: {seed: 1}}
      - {study: pythia-410m-step1000, like: pythia-410m, model: {revision: step1000}}

A file in studies/ stands over the defaults alone, as it does where it is the run's own `--configfile`: a name means the
same study in every list, whatever the configuration beside it has changed. Values are merged as Snakemake merges files:
mappings key by key, lists replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factfinding.config import Config, check_plain, read_yaml, validate
from factfinding.errors import InputError

COMPARISON = "comparison"
"""The folder of results that no study may have the name of."""


def studies_of(values: Mapping[str, Any], folder: str | Path) -> dict[str, Config]:
    """The configuration of each study of a run, by name, in the order of the list. `folder` holds the overlays.

    Raises InputError, naming the entry and the key, for a list or a configuration that cannot be used.
    """
    check_plain(values, "config")
    base = {key: value for key, value in values.items() if key != "studies"}
    entries = values.get("studies") or []
    if not isinstance(entries, list):
        raise InputError(
            "config.studies", repr(entries), "a list of names or mappings, such as [organism, organism-1]"
        )
    if not entries:
        own = _checked(base, "config")
        return {own.study: own}
    found: dict[str, Config] = {}
    for number, entry in enumerate(entries):
        where = f"config.studies[{number}]"
        config = _checked(_values(entry, base, Path(folder), where), where)
        if config.study in found:
            raise InputError(where, f"study {config.study!r} a second time", "each name once")
        found[config.study] = config
    return found


def seeds_of(studies: Mapping[str, Config]) -> dict[str, list[str]]:
    """The studies that differ in the embedded model's seed alone, by the name of the first of them; none of one seed.

    A model that is not trained here has no such seed.
    """
    families: dict[str, list[str]] = {}
    for name, config in studies.items():
        values = config.model_dump(mode="json", exclude={"study": True, "organism": {"seed"}})
        if config.model.source == "organism":
            families.setdefault(json.dumps(values, sort_keys=True), []).append(name)
    return {members[0]: members for members in families.values() if len(members) > 1}


def merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`other` on top of `base`: mappings key by key, everything else replaced. Neither is changed."""
    result = dict(base)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _checked(values: Mapping[str, Any], where: str) -> Config:
    config = validate(values, Config, where)
    if config.study == COMPARISON:
        raise InputError(
            f"{where}.study", repr(COMPARISON), "any other name: results/comparison is for comparisons"
        )
    return config


def _values(entry: Any, base: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    if isinstance(entry, str):
        return dict(base if entry == base.get("study") else _overlay(entry, folder, where))
    if not isinstance(entry, Mapping) or not isinstance(entry.get("study"), str):
        raise InputError(where, repr(entry), "a name, or a mapping with a name under `study`")
    own = {key: value for key, value in entry.items() if key != "like"}
    start = _values(entry["like"], base, folder, f"{where}.like") if "like" in entry else base
    return merged(start, own)


def _overlay(name: str, folder: Path, where: str) -> Mapping[str, Any]:
    path = folder / f"{name}.yaml"
    known = sorted(other.stem for other in folder.glob("*.yaml"))
    if name not in known:
        raise InputError(
            where, repr(name), f"the configuration's own study, or one of {', '.join(known)} ({folder}/)"
        )
    values = read_yaml(path, "a YAML file with keys of config.yaml")
    if not isinstance(values, Mapping):
        raise InputError(path, repr(values)[:80], "a mapping with keys of config.yaml")
    if values.get("studies"):
        raise InputError(
            where, f"{name}, a list of studies itself", f"one study; for these, --configfile {path}"
        )
    return values
