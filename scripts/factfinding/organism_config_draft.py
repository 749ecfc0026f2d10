"""Settings of the embedded model: its world, its documents, its shape and its training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class OrganismConfig(BaseModel):
    """The embedded model. The defaults train the fictional world; every key can change the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        0.08,
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
    mlp_width: int = Field(256, ge=16, le=8192, description="Neurons of an MLP.")
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
    max_steps: int = Field(2600, ge=1, description="Most steps, the decay included.")
    decay_steps: int = Field(
        500,
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
        0.85, gt=0, le=1, description="Recalled share of everything, at which the decay begins."
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
