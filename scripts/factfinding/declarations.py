"""What each experiment declares of itself: its words, tables, figures and claims, from `experiments/<name>/experiment.yaml`.

An experiment is a folder, named as its rule. From its declaration are derived: which figures there are and what they
are drawn from, how tables are typed when they are read, the sections and captions of the page, the claims of the
ledger, docs/tables.md and the index of experiments. Declarations are data and not code, so that rewording one reruns no
work on the model; only the names and types of columns count as code (`columns_digest`).

The Snakefile reads all of them, so nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from factfinding.config import RelationConfig, read_yaml
from factfinding.errors import InputError
from factfinding.files import text_digest
from factfinding.relation import spoken

EXPERIMENTS = Path(__file__).with_name("experiments")
STAGES = Path(__file__).with_name("data") / "tables.yaml"
"""The tables of the stages before the experiments: subjects, prompts, training."""

ColumnType = Literal["string", "integer", "number", "number32", "boolean", "strings", "integers"]
ENDS = ("", "_low", "_high")
"""An estimate stands in three columns: itself and the ends of its 95 % interval."""
EACH = "*"
"""In a column's name: there is one for each answer."""


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Declared):
    """One column of a table. `interval`: `<name>_low` and `<name>_high` stand behind it."""

    type: ColumnType
    about: str = Field("", description="its meaning, for docs/tables.md")
    interval: bool = False


class TableDeclaration(_Declared):
    """A table. `path`: below `results/<study>/`; its suffix says how it is written."""

    path: str = Field(pattern=r"^[a-z_/<>]+\.(csv|parquet)$")
    about: str = ""
    columns: dict[str, Column] = Field(min_length=1)

    @property
    def names(self) -> dict[str, ColumnType]:
        """Every column by name, in order, with the ends of intervals spelt out."""
        return {
            f"{name}{end}": column.type
            for name, column in self.columns.items()
            for end in (ENDS if column.interval else ENDS[:1])
        }

    def types(self, found: Sequence[str]) -> dict[str, ColumnType] | None:
        """The type of each column of a file, in the file's order; None where the columns are not those declared."""
        names, types = self.names, {}
        patterns = {re.compile(re.escape(name).replace(r"\*", ".+")): kind for name, kind in names.items()}
        for column in found:
            kinds = [names[column]] if column in names else []
            kinds = kinds or [kind for pattern, kind in patterns.items() if pattern.fullmatch(column)]
            if not kinds:
                return None
            types[column] = kinds[0]
        missing = [name for name in names if EACH not in name and name not in types]
        return None if missing else types


class FigureDeclaration(_Declared):
    """A figure: the tables that it is drawn from, its own experiment's or others', and its caption."""

    tables: tuple[str, ...] = Field(min_length=1)
    caption: str


class FirstCommitted(_Declared):
    """When a claim's rule was first committed, and whether values of its post were known by then: findings.md had some.

    `python tests/helpers/rule_history.py` derives it from the history of the repository.
    """

    commit: str = Field(pattern=r"^[0-9a-f]{7,40}$")
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d \d\d:\d\d$")
    values_known: bool

    @property
    def words(self) -> str:
        return f"{self.date}, {'after' if self.values_known else 'before'} the first values"


SHARE = ":least_share"
"""In a query: the claim's least share."""


class Claim(_Declared):
    """One claim of the study; ledger.py says how it is judged. `about`: the model, or toy networks, which are the same
    whatever model is studied."""

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    about: Literal["model", "toys"] = "model"
    sentence: str
    reference: str
    measured: str = Field(
        description="our value in words, such as: held-out accuracy of the best layer's probe"
    )
    tables: tuple[str, ...] = Field(min_length=1)
    query: str
    supported_if: Literal["above", "below"]
    threshold: float | None = Field(None, description="a number; null: the query's column `threshold`")
    needs: tuple[str, ...] = ()
    least_n: int = Field(ge=1, description="the least n of the value, below which nothing is judged")
    least_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the least share of the whole effect that something must have to be ranked or counted; the query "
        "says `:least_share` where it asks for it",
    )
    held_by: Literal["model", "tables"] | None = Field(
        None,
        description="what the rule is held by: `model`, planted models of which the claim is true and false; `tables`, "
        "planted tables alone; null: nothing, so the rule was never seen to tell a truth from a falsehood",
    )
    first_committed: FirstCommitted | None = None
    changed: str | None = Field(
        None, description="how and why the rule was changed after values had been seen"
    )

    @model_validator(mode="after")
    def _share_is_used(self) -> Claim:
        if (self.least_share is not None) != (SHARE in self.query):
            raise ValueError(f"claim {self.id}: `least_share` and {SHARE} in its query go together")
        return self

    @property
    def sql(self) -> str:
        """The query with the least share in it."""
        return self.query.replace(SHARE, str(self.least_share))


class Experiment(_Declared):
    """One experiment. Those with a figure have a section on the page; texts mark where the relation's words
    belong: `<subject>`, `<an answer>` (factfinding/relation.py)."""

    name: str
    number: str | None = Field(
        None, pattern=r"^P\d(\.\d+)?$", description="its place in the study; null: ours"
    )
    title: str
    question: str
    method: str
    study: tuple[str, ...] = Field((), description="what the study saw")
    models: Literal["all", "organism"] = Field(
        "all", description="organism: only where the workflow trains the model"
    )
    tables: dict[str, TableDeclaration] = {}
    twin: bool = Field(
        False,
        description="whether it may run by differences, which the table `<name>_twin` checks (twin.yaml)",
    )
    figures: dict[str, FigureDeclaration] = {}
    files: dict[str, str] = Field({}, description="what else it writes: path below results/<study>/, meaning")
    shown: tuple[str, ...] = Field((), description="tables that the page shows below the figure")
    claims: tuple[Claim, ...] = ()

    @property
    def order(self) -> tuple[int, int, str]:
        """The study's order: by post, then by number; our own come last, but training, which comes first."""
        if self.number is None:
            return (0 if self.models == "organism" else 9, 0, self.name)
        return (self.post, int(self.number.partition(".")[2] or 0), self.name)

    @property
    def post(self) -> int:
        """The post of the study that it belongs to. Raises ValueError for an experiment of our own."""
        if self.number is None:
            raise ValueError(f"experiment {self.name} is none of the study's")
        return int(self.number[1])


class Need(_Declared):
    """What must hold for a claim to be judged. `query` gives one row with a truth value `met`."""

    sentence: str
    tables: tuple[str, ...] = Field(min_length=1)
    query: str


class Check(_Declared):
    """What must agree between tables. `query` gives one row with a truth value `holds`; `sentence` says what is wrong where
    it does not hold."""

    sentence: str
    tables: tuple[str, ...] = Field(min_length=1)
    query: str


class Unit(_Declared):
    """How the number of a claim is shown: its unit, `%` for shares of 1 and `points` for differences of such, and what its n
    counts."""

    unit: str = ""
    counts: str = ""


class Prediction(Unit):
    """A number on which the hypotheses about the early MLPs differ (synthesis.py). `query` gives value, low, high and n;
    `single`, `hash`: what either predicts; `unless`: why it may not have been measured."""

    number: str = Field(pattern=r"^P\d(\.\d+)?$")
    asks: str
    single: str
    hash: str
    unless: str
    tables: tuple[str, ...] = Field(min_length=1)
    query: str


class Declarations(_Declared):
    """All that is declared: the experiments in the study's order, and every table by name. `units`: of claims, by their id."""

    experiments: dict[str, Experiment]
    stages: dict[str, TableDeclaration]
    needs: dict[str, Need]
    consistency: dict[str, Check] = {}
    predictions: dict[str, Prediction] = {}
    units: dict[str, Unit] = {}

    @model_validator(mode="after")
    def _agree(self) -> Declarations:
        seen: dict[str, str] = {name: "data/tables.yaml" for name in self.stages}
        for experiment in self.experiments.values():
            for table in experiment.tables:
                if table in seen:
                    raise ValueError(f"table {table!r} is declared by {seen[table]} and by {experiment.name}")
                seen[table] = experiment.name
        for experiment in self.experiments.values():
            named = {table for figure in experiment.figures.values() for table in figure.tables}
            named |= {table for claim in experiment.claims for table in claim.tables} | set(experiment.shown)
            unknown = sorted(named - set(seen))
            if unknown:
                raise ValueError(
                    f"{experiment.name} reads the tables {unknown}, which no experiment declares"
                )
            asked = {need for claim in experiment.claims for need in claim.needs}
            if asked - set(self.needs):
                raise ValueError(
                    f"{experiment.name} needs {sorted(asked - set(self.needs))}; allowed: {sorted(self.needs)}"
                )
            if experiment.claims and experiment.number is None:
                raise ValueError(f"{experiment.name} has claims of the study, but no number in it")
        for name, check in self.consistency.items():
            if set(check.tables) - set(seen):
                raise ValueError(f"consistency.{name} reads the tables {check.tables}; not all are declared")
        for name, prediction in self.predictions.items():
            if set(prediction.tables) - set(seen):
                raise ValueError(
                    f"predictions.{name} reads the tables {prediction.tables}; not all are declared"
                )
        unheard = sorted(set(self.units) - {claim.id for _, claim in self.claims})
        if unheard:
            raise ValueError(f"units of {unheard}, which no experiment claims")
        for kind in ("figures", "claims"):
            names = [self._name(entry) for e in self.experiments.values() for entry in getattr(e, kind)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice} are declared twice; allowed: each name once")
        return self

    @staticmethod
    def _name(entry: str | Claim) -> str:
        return entry if isinstance(entry, str) else entry.id

    def spoken(self, relation: RelationConfig) -> Declarations:
        """The same with all texts in the words of a relation (factfinding/relation.py)."""
        return Declarations.model_validate(spoken(self.model_dump(), relation))

    @property
    def tables(self) -> dict[str, TableDeclaration]:
        """Every table by name."""
        own = (experiment.tables for experiment in self.experiments.values())
        return {name: table for tables in (self.stages, *own) for name, table in tables.items()}

    @property
    def figures(self) -> dict[str, tuple[Experiment, FigureDeclaration]]:
        """Every figure by name, with the experiment that draws it."""
        return {
            name: (experiment, figure)
            for experiment in self.experiments.values()
            for name, figure in experiment.figures.items()
        }

    @property
    def claims(self) -> list[tuple[Experiment, Claim]]:
        """Every claim, in the study's order, with its experiment."""
        return [
            (experiment, claim) for experiment in self.experiments.values() for claim in experiment.claims
        ]

    def of(self, source: str) -> dict[str, Experiment]:
        """The experiments that a study with a model from `source` has."""
        return {
            name: experiment
            for name, experiment in self.experiments.items()
            if experiment.models in ("all", source)
        }


@cache
def declarations(folder: Path = EXPERIMENTS, stages: Path = STAGES) -> Declarations:
    """All declarations, checked. Raises InputError naming the file, the key, what was found and what is allowed."""
    found = [read_experiment(path) for path in sorted(folder.glob("*/experiment.yaml"))]
    tables = _checked(dict[str, TableDeclaration], _with_paths(_yaml(stages)), stages)
    ordered = {experiment.name: experiment for experiment in sorted(found, key=lambda one: one.order)}
    return _checked(
        Declarations,
        {"experiments": ordered, "stages": tables}
        | {name: _yaml(folder / f"{name}.yaml") for name in ("needs", "consistency")}
        | {
            name: _yaml(path)
            for name in ("predictions", "units")
            if (path := folder / f"{name}.yaml").is_file()
        },
        folder,
    )


def columns_digest(experiment: Experiment) -> str:
    """Digest of the names and types of an experiment's columns: what of its declaration its results depend on."""
    return text_digest(
        *(
            f"{name} {table.path} {column} {kind}"
            for name, table in experiment.tables.items()
            for column, kind in table.names.items()
        )
    )[:16]


def read_experiment(path: Path) -> Experiment:
    """One experiment's declaration, its name that of its folder. Raises InputError as `declarations`."""
    values, name = _yaml(path), path.parent.name
    tables = dict(values.get("tables") or {})
    if values.get("twin") is True:
        tables[f"{name}_twin"] = _twin_table()
    return _checked(Experiment, values | {"name": name, "tables": _with_paths(tables)}, path)


@cache
def _twin_table() -> dict[str, Any]:
    """What all tables `<name>_twin` are."""
    return _yaml(EXPERIMENTS / "twin.yaml")


def _with_paths(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables that say no path are CSV files in `tables/`."""
    return {name: {"path": f"tables/{name}.csv"} | dict(table) for name, table in tables.items()}


def _yaml(path: Path) -> dict[str, Any]:
    values = read_yaml(path, "a YAML file of declarations", ours=True)
    if not isinstance(values, Mapping):
        raise InputError(path, repr(values)[:80], "a mapping")
    return dict(values)


def _checked(kind: Any, values: Any, where: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where}: {key or 'declarations'}", f"{first['input']!r:.80}", first["msg"]
        ) from None
