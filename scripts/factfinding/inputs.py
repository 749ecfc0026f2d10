"""What an experiment may read, each thing once and only when it is asked for; and the settings that it was given.

    inputs = Inputs(Path("results/organism"))       # from a notebook: all of a finished study
    inputs.table("recall"), inputs.prompts("full"), inputs.candidates

Modules that know how to read something say so beside it, and keep it here: `anatomy_of(inputs)` (model/source.py),
`activations_of(inputs)` (engine/cached.py), `readers_of(inputs)` and `circuit_of(inputs)` (methods/). So a rule depends
on the code of what it reads, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import BaseModel

from factfinding.config import Config, validate
from factfinding.declarations import declarations
from factfinding.files import read_json
from factfinding.tables import read_table

T = TypeVar("T")
Say = Callable[[str], None]


class Settings:
    """The sections of the configuration that a rule was given, typed: `settings.heads.seed`.

    Where a rule was given some keys of a section only, the others are not there: asking for one is an AttributeError,
    so that no result can depend on a key whose change would not rerun it.
    """

    def __init__(self, values: Mapping[str, Mapping[str, Any]] | Config) -> None:
        if isinstance(values, Config):
            values = values.model_dump(mode="json")
            values = {name: keys for name, keys in values.items() if isinstance(keys, dict)}
        for name, keys in values.items():
            section = validate(dict(keys), _section(name), f"config.{name}")
            whole = set(keys) == set(type(section).model_fields)
            setattr(self, name, section if whole else _Keys(section, keys))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the rule was not given the section {name!r} of the configuration")


class _Keys:
    """Some keys of a section."""

    def __init__(self, section: BaseModel, keys: Iterable[str]) -> None:
        for key in keys:
            setattr(self, key, getattr(section, key))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the rule was not given the key {name!r} of this section of the configuration")


class Inputs:
    """The files of a study below `folder` (`results/<study>`).

    declared: the files that a rule names as its inputs (others are refused, since their change would not rerun it);
    None allows all. named: files that depend on the study, by the name that the rule gives them. held: things that are
    there already, by name, in place of what would be read: so tests and notebooks give a model, a table or readers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Settings | None = None,
        declared: Iterable[str | Path] | None = None,
        named: Mapping[str, Any] | None = None,
        held: Mapping[str, Any] | None = None,
        log: Say = lambda message: None,
    ) -> None:
        self.folder, self.settings, self.log = folder, settings or Settings({}), log
        self._declared = None if declared is None else {str(path) for path in declared}
        self.named, self._held = dict(named or {}), dict(held or {})

    def once(self, name: str, read: Callable[[], T]) -> T:
        """What is held under `name`; read now where nothing is."""
        if name not in self._held:
            self._held[name] = read()
        return self._held[name]

    def given(self, name: str) -> Any:
        """What was given under `name` in place of a file; None where nothing was."""
        return self._held.get(name)

    def path(self, name: str) -> Path:
        """The path of one of the study's files, such as "circuit.yaml". Raises LookupError for one not declared."""
        path = self.folder / name
        if self._declared is not None and str(path) not in self._declared:
            raise LookupError(f"{path} is read, but is no input of the rule")
        return path

    def table(self, name: str) -> pl.DataFrame:
        """One of the study's tables, by name."""
        return self.once(name, lambda: read_table(self.path(declarations().tables[name].path)))

    def prompts(self, condition: str = "full") -> pl.DataFrame:
        """The prompts of all subjects under a condition."""
        return self.once(
            f"prompts/{condition}", lambda: read_table(self.path(f"prompts/{condition}.parquet"))
        )

    @property
    def candidates(self) -> pl.DataFrame:
        """The answers that are asked for, with their tokens."""
        return self.table("candidates")

    @property
    def source(self) -> dict[str, Any]:
        """Which model the study uses (model/source.py)."""
        return self.once("source", lambda: read_json(self.path("model/source.json")))


def _section(name: str) -> type[BaseModel]:
    return type(Config.model_fields[name].default)
