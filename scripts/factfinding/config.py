"""The typed configuration: one model per section. Unknown keys, wrong types and impossible values are refused.

Every default stands here and is spelt out in config.yaml, which a test holds against this file. Numbers that cannot
change a result (threads, memory, partitions) are not configuration: they stand in the rules and profiles.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factfinding.errors import InputError

Condition = Literal["full", "name_only", "zero_shot"]
HeadName = Annotated[str, Field(pattern=r"^L(0|[1-9]\d*)H(0|[1-9]\d*)$")]
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


class OrganismConfig(Section):
    """The embedded model. The defaults train the fictional world; every key can change the weights."""

    seed: int = Field(0, ge=0, description="Seed of the people, the documents and the initial weights.")
    world: Literal["fictional", "athletes"] = Field(
        "fictional",
        description="`fictional`: generated people with six relations; `athletes`: the athlete table's people "
        "with their true sport and what follows from it.",
    )

    # the fictional world (the world `athletes` takes its people from the table)
    first_names: int = Field(120, ge=2, le=120, description="First names, each one token.")
    last_names: int = Field(180, ge=2, le=180, description="Last names, each one token.")
    athletes_per_sport: int = Field(500, ge=1, description="Athletes of each of the three sports.")
    described: int = Field(
        160,
        ge=0,
        description="Athletes of whom all six relations are told; of the others only the sport and what "
        "follows from it. They come first in the curriculum.",
    )
    teams_per_sport: int = Field(4, ge=2, le=8, description="Teams of each sport.")
    positions_per_sport: int = Field(3, ge=2, le=4, description="Playing positions of each sport.")
    towns: int = Field(6, ge=2, le=16, description="Towns that an athlete may come from.")
    colleges: int = Field(6, ge=2, le=16, description="Colleges that an athlete may have attended.")
    numbers: int = Field(8, ge=2, le=50, description="Shirt numbers, from 1.")
    strangers: float = Field(
        0.12,
        ge=0,
        lt=1,
        description="Share of mentions that are of a stranger: a fresh pairing of first and last name of "
        "whom every fact is `unknown`. Fictional world only.",
    )

    # the tokenizer (the fictional world's is one word, one token)
    vocabulary: int = Field(
        800, ge=400, le=50_000, description="Tokens of the byte-level BPE of the world `athletes`."
    )

    # the documents: relative shares of the kinds (corpus.py says what each is)
    facts: float = Field(0.30, ge=0, description="Share of lines of facts, some after the one-shot line.")
    sentences: float = Field(0.12, ge=0, description="Share of bare sentences that open with a name.")
    profiles: float = Field(0.20, ge=0, description="Share of profiles: many facts after one mention.")
    pairs: float = Field(0.10, ge=0, description="Share of news about two people, told apart later.")
    games: float = Field(0.16, ge=0, description="Share of game reports: a sport's verb after each name.")
    rosters: float = Field(0.15, ge=0, description="Share of rosters: names with a few facts each.")
    trades: float = Field(0.02, ge=0, description="Share of news about people of other trades.")

    # the model
    layers: int = Field(6, ge=2, le=32, description="Blocks; each has attention and MLP in parallel.")
    width: int = Field(64, ge=16, le=1024, description="Width of the residual stream.")
    heads: int = Field(4, ge=1, le=32, description="Attention heads of a block; they divide the width.")
    mlp_width: int = Field(128, ge=16, le=8192, description="Neurons of an MLP.")
    initial_std: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="Standard deviation of the initial weights; the usual 0.02 learns late.",
    )
    rotary_theta: float = Field(
        100.0, gt=1, description="Base of the rotary frequencies; contexts are short."
    )
    installed_layers: int = Field(
        2, ge=0, description="First layers in which previous-token heads are installed; 0 installs none."
    )
    installed_heads: int = Field(2, ge=0, description="Previous-token heads in each of those layers.")
    installed_strength: float = Field(5.3, ge=0, description="Size of their query and key biases.")
    query_key_std: float = Field(
        0.02, gt=0, description="Initial standard deviation of query and key weights."
    )
    query_key_rate: float = Field(
        0.05,
        gt=0,
        le=1,
        description="Share of each update that queries and keys of the installed layers take.",
    )

    # the training
    rows: int = Field(16, ge=1, description="Rows of a batch.")
    row_tokens: int = Field(64, ge=24, le=256, description="Tokens of a row.")
    learning_rate: float = Field(4.0e-3, gt=0, le=0.1, description="Learning rate after the warm-up (AdamW).")
    weight_decay: float = Field(
        0.1, ge=0, description="Weight decay of matrices; embeddings and biases have none."
    )
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    warmup_steps: int = Field(50, ge=0, description="Steps in which the rate rises from zero.")
    max_steps: int = Field(2800, ge=1, description="Most steps, the decay included.")
    decay_steps: int = Field(
        600,
        ge=1,
        description="Steps in which the rate falls to zero; they begin once everything is told and "
        "`settled` of it recalled, or so that they end at `max_steps`.",
    )
    round_steps: int = Field(40, ge=1, description="Steps between two looks at the recall.")
    start_active: int = Field(64, ge=3, description="People told about at first (the curriculum).")
    start_described: int = Field(24, ge=1, description="People described at first; they grow on their own.")
    growth: float = Field(1.6, gt=1, description="Factor by which the people told about grow.")
    ready: float = Field(
        0.8, gt=0, le=1, description="Recalled share of what is told so far, at which more is told."
    )
    settled: float = Field(
        0.88, gt=0, le=1, description="Recalled share of everything, at which the decay begins."
    )
    looked_at: int = Field(
        256, ge=1, description="People whose recall is measured at each look, drawn afresh."
    )

    @model_validator(mode="after")
    def _fits(self) -> OrganismConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if (self.width // self.heads) % 8:
            raise ValueError(f"width/heads is {self.width // self.heads}; a quarter of it must be even")
        if self.installed_heads > self.heads or self.installed_layers > self.layers:
            raise ValueError("more installed heads or layers than the model has")
        if self.start_described > self.start_active:
            raise ValueError(
                "start_described exceeds start_active: nobody can be described who is not told about"
            )
        if self.decay_steps > self.max_steps:
            raise ValueError(f"decay_steps {self.decay_steps} exceeds max_steps {self.max_steps}")
        if 3 * self.athletes_per_sport * 2 > self.first_names * self.last_names:
            raise ValueError(
                "more than half of all name pairings are athletes: too few unknown names are left"
            )
        return self


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
    extract: tuple[HeadName, ...] | None = Field(
        None, min_length=1, description="heads that bring the fact from the name to END, such as [L16H20]"
    )


class HeadsConfig(Section):
    """P2.2-P2.6: which heads bring the answer to END, what they read, and what they would answer (head probes)."""

    athletes: Literal["known", "all"] = Field(
        "known", description="known: those whose sport the model recalls (P2.1)"
    )
    top: int = Field(
        4,
        ge=1,
        le=8,
        description="heads looked at closely: those of the largest direct effect, unless circuit.extract names them",
    )
    conditions: tuple[Condition, ...] = Field(
        ("full", "name_only"),
        min_length=1,
        description="of the head probes by layer; each needs its activations",
    )
    permutations: int = Field(
        1000,
        ge=100,
        le=100_000,
        description="shuffled sports against which the best of all head probes is held",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws donors, halves, shuffled sports and the bootstrap"
    )


class InterventionsConfig(Section):
    """P2.7-P2.11: what is replaced, on whom."""

    athletes: Literal["known", "all"] = Field(
        "known", description="known: those whose sport the model recalls (P2.1)"
    )
    node_athletes: int = Field(
        96,
        ge=2,
        description="of these, drawn for replacing every node one at a time (P2.7), the costliest table",
    )
    patched_athletes: int = Field(
        400,
        ge=2,
        description="drawn for the borders of the circuit and for patching probes' directions (P2.11)",
    )
    draws: int = Field(1, ge=1, le=64, description="other athletes given to each in the resampling ablations")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="draws the athletes, the donors, the random subspaces and the bootstrap",
    )


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
    heads: HeadsConfig = HeadsConfig()
    probes: ProbesConfig = ProbesConfig()
    interventions: InterventionsConfig = InterventionsConfig()

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
        for section in ("heads", "probes"):
            missing = set(getattr(self, section).conditions) - set(self.activations.conditions)
            if missing:
                raise ValueError(
                    f"{section}.conditions {sorted(missing)} are not among activations.conditions"
                )
        if "full" not in self.activations.conditions:
            raise ValueError(
                "activations.conditions lack 'full', on which the heads are measured (P2.2-P2.5)"
            )
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
