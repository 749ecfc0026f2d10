"""The typed configuration: one model per section. Unknown keys, wrong types and impossible values are refused.

Every default stands here and is spelt out in config.yaml, which a test holds against this file. Numbers that cannot
change a result (threads, memory, partitions) are not configuration: they stand in the rules and profiles.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factfinding.errors import InputError
from factfinding.organism_config_draft import OrganismConfig

Condition = Literal["full", "name_only", "zero_shot"]
FoldKind = Literal["random", "first_name", "last_name"]


class Section(BaseModel):
    """A section of the configuration: frozen, no unknown keys, no silent conversions ("1e-3" is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """Where the model comes from."""

    source: Literal["organism", "hub", "folder", "tiny"] = Field(
        "organism",
        description="organism: trained here; hub: downloaded; folder: on this disk; tiny: random weights, for tests",
    )
    id: str | None = Field(None, description="hub: the repository, such as EleutherAI/pythia-2.8b")
    revision: str | None = Field(None, description="hub: a commit, tag or branch; a commit never moves")
    folder: str | None = Field(None, description="folder: a model in the Hugging Face format")
    family: Literal["gpt_neox", "gpt2", "llama"] = Field("gpt_neox", description="tiny: the architecture")
    allow_pickle: bool = Field(False, description="accept *.bin weights, which run code when they are loaded")

    @model_validator(mode="after")
    def _source_is_complete(self) -> ModelConfig:
        if self.source == "hub" and not (self.id and self.revision):
            raise ValueError("source 'hub' needs `id` and `revision`")
        if self.source == "folder" and not self.folder:
            raise ValueError("source 'folder' needs `folder`")
        return self


class ComputeConfig(Section):
    """How the model is run."""

    dtype: Literal["float64", "float32", "bfloat16", "float16"] = Field(
        "float32", description="of weights and activations"
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes the GPU where there is one"
    )
    batch_size: int = Field(
        128, ge=1, description="prompts in one forward pass; changes no result beyond rounding"
    )


class AthletesConfig(Section):
    """Whose facts are asked for."""

    table: str | None = Field(
        None, description="CSV with columns athlete and sport; null: the embedded model's own people"
    )
    two_sports: Literal["drop", "first"] = Field(
        "drop", description="a name with two sports: drop both rows or keep the first"
    )
    min_per_sport: int = Field(10, ge=1, description="fewer athletes of a sport than this are an error")


class RecallConfig(Section):
    """P2.1: what the model knows."""

    seed: int = Field(0, ge=0, description="of the bootstrap intervals")


class Dataset(Section):
    """One group of datasets in the activation files."""

    site: Literal["resid", "attn_out", "mlp_out", "z", "pre", "post", "pattern"]
    roles: tuple[Literal["first_name", "final_name", "end"], ...] = Field(("final_name", "end"), min_length=1)
    layers: tuple[int, ...] | None = Field(None, description="null: all; or a list of layers")


class ActivationsConfig(Section):
    """What is cached of each prompt."""

    conditions: tuple[Condition, ...] = Field(
        ("full", "name_only"), min_length=1, description="one file each"
    )
    datasets: tuple[Dataset, ...] = Field(
        (
            Dataset(site="resid"),
            Dataset(site="attn_out"),
            Dataset(site="mlp_out"),
            Dataset(site="z"),
            Dataset(site="pre", roles=("final_name",)),
            Dataset(site="post", roles=("final_name",)),
            Dataset(site="pattern"),
        ),
        min_length=1,
    )
    stored: Literal["float32", "float16"] = Field("float32", description="precision on disk")


class CircuitConfig(Section):
    """Which layers do what. null: to be found from the data."""

    concatenate: tuple[int, int] | None = Field(
        None, description="first and last attention layer that gathers the name"
    )
    lookup: tuple[int, int] | None = Field(None, description="first and last MLP that looks the fact up")


class ProbesConfig(Section):
    """How logistic probes are fitted and scored (P2.6); see analysis/probes.py for the reasons."""

    n_folds: int = Field(
        5, ge=2, le=20, description="Folds of the cross-validation; a sport needs as many athletes."
    )
    folds: tuple[FoldKind, ...] = Field(
        ("random", "first_name", "last_name"),
        min_length=1,
        description="Kinds of folds: random, or no first (last) name in two folds.",
    )
    control_folds: tuple[FoldKind, ...] = Field(
        ("random", "first_name", "last_name"),
        description="Those of `folds` on which the shuffled-label control runs too; doubles their cost.",
    )
    regularisation: float = Field(
        1.0e-3,
        gt=0,
        le=10,
        description="Weight of the L2 penalty against the mean loss; inputs have unit mean squared norm.",
    )
    max_iter: int = Field(
        500, ge=10, le=100_000, description="Iterations of L-BFGS at most; too few are warned of."
    )
    tolerance: float = Field(
        1.0e-4, gt=0, le=1e-1, description="Largest gradient of the mean loss at which L-BFGS stops."
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Draws the folds, the shuffled labels and the bootstrap."
    )

    conditions: tuple[Condition, ...] = Field(
        ("full", "name_only"), min_length=1, description="Each needs its activations."
    )
    athletes: Literal["known", "all"] = Field(
        "known", description="known: those whose sport the model recalls (P2.1)."
    )

    @model_validator(mode="after")
    def _kinds_of_folds(self) -> ProbesConfig:
        for name in ("folds", "control_folds"):
            kinds = getattr(self, name)
            if len(set(kinds)) != len(kinds):
                raise ValueError(f"{name}: {list(kinds)} names a kind more than once; allowed: each once")
        extra = sorted(set(self.control_folds) - set(self.folds))
        if extra:
            raise ValueError(
                f"control_folds: {extra} not among folds {list(self.folds)}; allowed: a part of folds"
            )
        return self


class Config(Section):
    """The whole configuration of a study."""

    study: str = Field(
        "organism", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="results go to results/<study>/"
    )
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    organism: OrganismConfig = OrganismConfig()
    athletes: AthletesConfig = AthletesConfig()
    recall: RecallConfig = RecallConfig()
    activations: ActivationsConfig = ActivationsConfig()
    circuit: CircuitConfig = CircuitConfig()
    probes: ProbesConfig = ProbesConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        if self.athletes.table is None and not (
            self.model.source == "organism" and self.organism.world == "fictional"
        ):
            raise ValueError("athletes.table may be null only for the embedded model in its fictional world")
        if (
            self.athletes.table is not None
            and self.model.source == "organism"
            and self.organism.world == "fictional"
        ):
            raise ValueError(
                "athletes.table is set, but organism.world is 'fictional' and knows only its own people"
            )
        missing = set(self.probes.conditions) - set(self.activations.conditions)
        if missing:
            raise ValueError(f"probes.conditions {sorted(missing)} are not among activations.conditions")
        return self


Model = TypeVar("Model", bound=BaseModel)


def validate(values: Any, model: type[Model] = Config, where: str = "config") -> Model:
    """Values from YAML as a typed section. Raises InputError naming every wrong key, its value and what is allowed."""
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = [_problem(where, details) for details in error.errors()]
        raise (
            InputError(*problems[0])
            if len(problems) == 1
            else InputError(
                where,
                f"{len(problems)} problems\n"
                + "\n".join(
                    f"  {key}: found {found}; allowed: {allowed}" for key, found, allowed in problems
                ),
                "what the lines above say",
            )
        ) from None


def _problem(where: str, details: Any) -> tuple[str, str, str]:
    """One pydantic error as key, what was found, what is allowed."""
    key = ".".join([where, *(str(part) for part in details["loc"])])
    if details["type"] == "extra_forbidden":
        return key, "an unknown key", "the keys listed in config.yaml"
    allowed = details["msg"].removeprefix("Value error, ")
    found = "an impossible combination" if details["type"] == "value_error" else repr(details["input"])
    return key, found, allowed[0].lower() + allowed[1:]
