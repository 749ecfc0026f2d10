"""The typed configuration: one model per section. Unknown keys, wrong types and impossible values are refused.

Every default stands here and is spelt out in config.yaml, which a test holds against this file. Numbers that cannot
change a result (threads, memory, partitions) are not configuration: they stand in the rules and profiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factfinding.errors import InputError
from factfinding.least import LEAST_SHARE
from factfinding.steps import NAMED, step_in

Condition = Literal["full", "name_only", "zero_shot"]
HeadName = Annotated[str, Field(pattern=r"^L(0|[1-9][0-9]{0,8})H(0|[1-9][0-9]{0,8})$")]
NeuronName = Annotated[str, Field(pattern=r"^L(0|[1-9][0-9]{0,8})N(0|[1-9][0-9]{0,8})$")]
LayerNumber = Annotated[int, Field(lt=10_000)]
"""Bounded, so that all layers up to it can be listed; which there are is the model's to say (preflight.py)."""
FilePath = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=1000)]
"""Text that can name a file: without control characters, and no longer than file systems take."""
Revision = Annotated[str, Field(pattern=rf"^[A-Za-z0-9._-]*{NAMED}", max_length=200)]
Checkpoint = Annotated[str, Field(pattern=rf"^[^\x00-\x1f\x7f]*{NAMED}", max_length=1000)]
"""A revision of the hub, and a folder, whose names say the step of the training."""
Word = Annotated[str, Field(pattern=r"^[^\W\d_][^\x00-\x1f\x7f<>]*$", max_length=60)]
"""A word or two that stand in a sentence."""
Token = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=100)]
FoldKind = Literal["random", "first_name", "last_name"]
LARGEST, DEEPEST = 100_000, 50
"""Values in a configuration, and levels: a few lines of YAML aliases can stand for billions."""
LARGEST_INTEGER = 2**63
"""What no library takes as an integer; Python itself refuses to print or read one of some thousand digits."""


class Section(BaseModel):
    """A section of the configuration: frozen, no unknown keys, no silent conversions ("1e-3" is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Where the model comes from."""

    source: Literal["organism", "hub", "folder", "gguf", "tiny"] = Field(
        "organism",
        description="organism: trained here; hub: downloaded; folder: on this disk; gguf: a file of llama.cpp, made into "
        "a folder; tiny: random weights, for tests",
    )
    id: str | None = Field(None, description="hub: the repository, such as EleutherAI/pythia-2.8b")
    revision: str | None = Field(None, description="hub: a commit, tag or branch; a commit never moves")
    folder: FilePath | None = Field(None, description="folder: a model in the Hugging Face format")
    file: FilePath | None = Field(
        None, description="gguf: the file, of any quantization (needs the packages of envs/real-model.txt)"
    )
    bos: Token = Field(
        "auto",
        description="the token that every prompt begins with. auto: what the tokenizer names as BOS, or its end of text; "
        "one of its special tokens, such as <|endoftext|>; or none: prompts begin with their own words",
    )
    family: Literal[
        "gpt_neox",
        "gpt2",
        "llama",
        "qwen3",
        "phi3",
        "gemma",
        "gptj",
        "gpt_neo",
        "opt",
        "phi",
        "falcon",
    ] = Field("gpt_neox", description="tiny: the architecture")
    allow_pickle: bool = Field(False, description="accept *.bin weights, which run code when they are loaded")

    @model_validator(mode="after")
    def _source_is_complete(self) -> ModelConfig:
        if self.source == "hub" and not (self.id and self.revision):
            raise ValueError("source 'hub' needs `id` and `revision`")
        if self.source == "folder" and not self.folder:
            raise ValueError("source 'folder' needs `folder`")
        if self.source == "gguf" and not self.file:
            raise ValueError("source 'gguf' needs `file`")
        return self


class ComputeConfig(Section):
    """How the model is run."""

    dtype: Literal["float64", "float32", "bfloat16", "float16"] = Field(
        "float32", description="of weights and activations"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        description="auto takes the GPU where there is one",
    )
    batch_size: int = Field(
        128,
        ge=1,
        description="prompts in one forward pass, halved where memory runs out; changes no result beyond rounding",
    )
    engine: Literal["auto", "difference", "suffix"] = Field(
        "suffix",
        description="how parts of a run are replaced (P2.7, P2.8, P2.11, P3.1 and the borders of the circuit; P3.2 has its "
        "own): on values, or on differences, whose products may be of low precision; auto takes differences where the model "
        "has that form",
    )
    products: Literal["full", "tf32", "bfloat16"] = Field(
        "full",
        description="precision of the matrix products of differences, on a GPU several times as fast below full",
    )
    twin_rows: int = Field(
        16,
        ge=0,
        le=1000,
        description="rows of each experiment by differences that are run again by values, in float64 where it fits",
    )


class Wording(Section):
    """Another wording of the question. What is left out is the relation's own."""

    shot: str | None = None
    before: str | None = None
    after: str | None = None


class RelationConfig(Section):
    """What is asked, in words: who is asked about, what may be answered, and the prompt."""

    subject: Word = Field("athlete", description="one of those asked about; also the column of the table")
    subjects: Word = Field("athletes", description="several of them")
    answer: Word = Field("sport", description="what is asked for; also the column of the table")
    answers: Word = Field("sports", description="several of them")
    shot: str = Field(
        "Fact: Tiger Woods plays the sport of golf\n",
        description="the example before the question, under `full`",
    )
    before: str = Field("Fact:", description="what stands before the subject, the space left out")
    after: str = Field(
        " plays the sport of", description="what stands after the subject, and asks for the answer"
    )
    title: str = Field(" Mr", description="P2.10: a title before a name")
    sentence: str = Field("The weather was good.", description="P2.10: a sentence before a name")
    paraphrases: tuple[Wording, ...] | None = Field(
        None,
        max_length=8,
        description="P2.12: other wordings of the question, such as [{before: 'Fact: The sport of', after: ' is'}], with "
        "shot, before and after (those left out are the ones above); null: two for the study's own prompt, none for others",
    )


class OrganismConfig(Section):
    """The embedded model. The defaults train the fictional world; every key can change the weights."""

    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the people, the documents and the initial weights."
    )
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
    checkpoints: int = Field(
        16,
        ge=0,
        le=1000,
        description="States of the model kept while it trains (P1.5), 1 MB each: the untrained one, the last one, and others "
        "spread geometrically over the steps; 0 keeps none. They change no weight.",
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
                "start_described exceeds start_active: only people who are told about can be described"
            )
        if self.decay_steps > self.max_steps:
            raise ValueError(f"decay_steps {self.decay_steps} exceeds max_steps {self.max_steps}")
        if self.checkpoints == 1:
            raise ValueError(
                "checkpoints: 1; allowed: 0, or at least 2, the untrained model and the last state"
            )
        if 3 * self.athletes_per_sport * 2 > self.first_names * self.last_names:
            raise ValueError(
                "more than half of all name pairings are athletes: too few unknown names are left"
            )
        return self


class SubjectsConfig(Section):
    """Whose facts are asked for."""

    table: FilePath | None = Field(
        None,
        description="CSV, TSV, Parquet or JSON lines (.jsonl) with columns named by relation.subject and relation.answer, or "
        "a relation file (.json) with samples of subject and object; two to twenty answers; null: the embedded model's own "
        "people",
    )
    two_answers: Literal["drop", "first"] = Field(
        "drop", description="a name with two answers: drop both rows or keep the first"
    )
    min_per_answer: int = Field(10, ge=1, description="an answer with fewer subjects than this has too few")
    few: Literal["error", "drop"] = Field(
        "error",
        description="an answer with too few subjects: an error, or dropped and noted in subjects_notes.csv",
    )


class RecallConfig(Section):
    """P2.1: what the model knows."""

    known: Literal["probability", "first", "best"] = Field(
        "probability",
        description="whose answer counts as known. probability: its token has more than known_above, of all tokens; first: "
        "it is the likeliest token of all; best: the likeliest of the answers",
    )
    known_above: float = Field(0.5, gt=0, lt=1, description="for known: probability; the study's is 0.5")
    beyond_spelling: bool = Field(
        False,
        description="true leaves out names whose answer a classifier on their letters, fitted on other names, gives too: "
        "what is left had to be remembered",
    )
    at_most: int | None = Field(
        None,
        ge=2,
        description="of those who would be known, so many are drawn, as evenly over the answers as there are; the others are "
        "left out, so that a large model is done in time; null: all",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="of the bootstrap intervals, that classifier's folds and that draw"
    )

    @model_validator(mode="after")
    def _threshold_is_used(self) -> RecallConfig:
        if self.known != "probability" and self.known_above != type(self).model_fields["known_above"].default:
            raise ValueError(
                f"known_above: {self.known_above} with known: {self.known}, which has no threshold; allowed: known_above with "
                "known: probability"
            )
        return self


class Dataset(Section):
    """One group of datasets in the activation files."""

    site: Literal["resid", "attn_out", "mlp_out", "z", "pre", "post", "pattern"]
    roles: tuple[Literal["first_name", "final_name", "end"], ...] = Field(("final_name", "end"), min_length=1)
    layers: tuple[LayerNumber, ...] | None = Field(None, description="null: all; or a list of layers")

    @model_validator(mode="after")
    def _layers_in_order(self) -> Dataset:
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers: {list(self.layers)}; allowed: each once, in ascending order")
        return self


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
    shards: int = Field(1, ge=1, le=100, description="jobs that share the prompts of a condition")

    @model_validator(mode="after")
    def _each_dataset_once(self) -> ActivationsConfig:
        names = [f"{dataset.site} at {role}" for dataset in self.datasets for role in dataset.roles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"datasets: {', '.join(twice)} more than once; allowed: each site and role once")
        return self


class CircuitConfig(Section):
    """Which layers do what. null: to be found from the data."""

    concatenate: tuple[LayerNumber, LayerNumber] | None = Field(
        None, description="first and last attention layer that gathers the name"
    )
    lookup: tuple[LayerNumber, LayerNumber] | None = Field(
        None, description="first and last MLP that looks the fact up"
    )
    extract: tuple[HeadName, ...] | None = Field(
        None, min_length=1, description="heads that bring the fact from the name to END, such as [L16H20]"
    )


class HeadsConfig(Section):
    """P2.2-P2.6: which heads bring the answer to END, what they read, and what they would answer (head probes)."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
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
        description="shuffled answers against which the best of all head probes is held",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws donors, halves, shuffled answers and the bootstrap"
    )


class InterventionsConfig(Section):
    """P2.7-P2.11: what is replaced, on whom."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    node_subjects: int = Field(
        96,
        ge=2,
        description="of these, drawn for ablating every node one at a time in four ways (P2.7), the costliest part",
    )
    patched_subjects: int = Field(
        400,
        ge=2,
        description="drawn, those included, for patching every node and the residual stream from another subject (P2.7), "
        "for the borders of the circuit and for patching probes' directions (P2.11)",
    )
    draws: int = Field(1, ge=1, le=64, description="other subjects given to each in the resampling ablations")
    screen: Literal["auto", "always", "never"] = Field(
        "auto",
        description="P2.7: whether attribution patching chooses which nodes are replaced in earnest, and estimates the "
        "others. auto: where replacing all of them would take more than some minutes of a processor, as in models of "
        "hundreds of millions of parameters; never: all, however long it takes",
    )
    screen_below: float = Field(
        0.0025,
        gt=0,
        le=LEAST_SHARE,
        description="share of what swapping the whole name does below which the screen leaves an effect as an estimate",
    )
    screen_sample: int = Field(
        200,
        ge=20,
        le=100_000,
        description="of those below, drawn for each kind of replacement and replaced all the same: they say how far "
        "the estimates are off",
    )
    shards: int = Field(1, ge=1, le=100, description="P2.7: jobs that share the layers of the model")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="draws the subjects, the donors, the random subspaces, the checked effects and estimates and the bootstrap",
    )


class LookupConfig(Section):
    """P3.1, P3.3, P3.5-P3.8: what the MLPs that look the fact up do."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    name_tokens: int | None = Field(
        None,
        ge=2,
        description="length of the names that the effective model is looked at on (P3.3, P3.5); null: 2, or the commonest "
        "length where too few have two tokens",
    )
    probe_folds: tuple[FoldKind, ...] = Field(
        ("last_name",),
        min_length=1,
        description="folds of the probes of P3.5: random, or no first (last) part of a name in two folds",
    )
    probe_repeats: int = Field(3, ge=1, le=100, description="draws of these folds")
    seed: int = Field(0, ge=0, lt=2**32, description="draws unknown names, folds and the bootstrap")


class NamesConfig(Section):
    """P3.6-P3.8: known names beside unknown pairings of their tokens."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    conditions: tuple[Condition, ...] = Field(
        ("name_only",), min_length=1, description="of the prompts; the name alone is cheapest by far"
    )
    swap_pairs: int = Field(
        400, ge=1, description="pairs of names whose last tokens are swapped (P3.7), at most"
    )
    shuffles: int = Field(
        20,
        ge=2,
        description="networks with shuffled MLP weights (P3.7); each costs as much as the model's own ratios",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws pairings, pairs, shuffled weights and the bootstrap"
    )


class ParaphrasesConfig(Section):
    """P2.12: whether other wordings of the question (relation.paraphrases) find the same heads, layers and neurons."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls in every wording"
    )
    compared_subjects: int = Field(
        400, ge=2, description="of these, drawn, on whom the wordings are compared"
    )
    top_heads: int = Field(
        4, ge=1, le=100, description="heads of the largest direct effect that are compared"
    )
    top_neurons: int = Field(20, ge=1, le=1000, description="neurons that tell an answer best, compared")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="draws subjects, donors, folds, halves, permuted units and the bootstrap",
    )


class MultiTokenConfig(Section):
    """P1.1: the attributes that can be read at the final name token, and replaced there one at a time."""

    subjects: Literal["known", "all"] = Field(
        "known",
        description="known: those whose answer the model recalls (also where recall.at_most leaves them out), and facts that "
        "count as known",
    )
    asked_subjects: int | None = Field(
        200,
        ge=2,
        description="subjects who are asked the facts of neurons.facts, those with most facts in the table first; null: all",
    )
    least_subjects: int = Field(
        30, ge=2, description="of whom an attribute must be known for it to be looked at"
    )
    layer: LayerNumber | None = Field(
        None,
        ge=0,
        description="after which attributes are replaced, and claims judged; null: the last of the lookup (the middle one where "
        "there is none)",
    )
    layers: int = Field(
        8, ge=2, description="layers that are probed, spread evenly, the embeddings and the last among them"
    )
    follows_from: float = Field(
        0.95,
        gt=0,
        le=1,
        description="an attribute follows from another where that alone gives it, held out, for this share of subjects",
    )
    swapped_subjects: int = Field(
        64,
        ge=2,
        description="whose subspaces are replaced by a donor's: those of whom most attributes are known, drawn among equals",
    )
    angle_draws: int = Field(
        200, ge=20, le=100_000, description="pairs of random subspaces beside which two attributes' are held"
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="draws folds, shuffled answers, donors, random subspaces and the bootstrap",
    )


class ExtractionUnaskedConfig(Section):
    """P1.2: what the extracting heads do where something else is asked."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: as in multi_token; the facts are those that were asked there"
    )
    asked_subjects: int = Field(100, ge=2, description="drawn, each of whom is asked every question")
    least_subjects: int = Field(
        20,
        ge=2,
        description="who must be asked every question; the questions known of fewest are left out until there are",
    )
    suppressors: int = Field(
        5,
        ge=1,
        le=100,
        description="nodes listed that lower the unasked answer most, chosen on one half of the subjects",
    )
    mostly: float = Field(
        0.6,
        gt=0.5,
        lt=1,
        description="share of the variance of a head's effect that the subject alone (a subject head) or the question alone (a "
        "relation head) must explain; where neither does, it is a mixed head",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="draws the subjects, the halves and the bootstrap")


class MlpPathsConfig(Section):
    """P3.1: paths between the MLPs that look the fact up, removed."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    ablated_subjects: int | None = Field(
        None, ge=2, description="of these, drawn, on whom paths are removed; null: all"
    )
    draws: int = Field(
        1,
        ge=1,
        le=64,
        description="subjects of another answer whose MLP outputs are put in, for each subject",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="draws these subjects and the bootstrap")


class NeuronsConfig(Section):
    """P3.2: whether different facts of one subject need the same neurons."""

    facts: FilePath | None = Field(
        None,
        description="CSV, TSV, Parquet or JSON lines with columns subject, relation, prompt, answer; null: the embedded "
        "model's own facts; resources/facts.csv for other models that are asked for the sport of athletes; none for another relation",
    )
    subjects: Literal["known", "all"] = Field(
        "known",
        description="known: facts that count as known (recall.known), and values of subjects whose answer the model recalls "
        "(P2.1)",
    )
    asked_subjects: int | None = Field(
        24,
        ge=1,
        description="subjects with two known facts or more, those with most facts in the table first; null: all; the "
        "cost grows with it",
    )
    first: tuple[str, ...] = Field(
        (), description="subjects asked before all others, such as [Michael Jordan]"
    )
    draws: int = Field(
        64, ge=2, le=1024, description="subjects of another answer whose values are put in, for each neuron"
    )
    engine: Literal["auto", "difference", "suffix"] = Field(
        "suffix",
        description="how edits are run: on values, or on differences, which half precision cannot hurt; auto takes "
        "differences where the model has that form",
    )
    products: Literal["full", "tf32", "bfloat16"] = Field(
        "full", description="precision of the matrix products of differences"
    )
    tolerance: float = Field(
        1.0e-3,
        ge=0,
        le=0.1,
        description="error allowed in a neuron's curve, against the largest effect in its layer; 0 runs every draw",
    )
    shards: int = Field(2, ge=1, le=100, description="jobs that share the layers of the lookup")
    twin_rows: int = Field(
        16, ge=0, le=1000, description="effects of each shard that are computed again by plain hooks"
    )
    screen: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether the slopes of one backward pass choose which neurons are replaced in earnest, and estimate the "
        "others. auto: where replacing all of them would take more than some minutes of a processor; never: all, however long "
        "it takes",
    )
    screen_largest: int = Field(
        8,
        ge=1,
        le=100_000,
        description="neurons of each layer, those with the largest estimates, that the screen has replaced for each fact",
    )
    screen_sample: int = Field(
        2,
        ge=1,
        le=100_000,
        description="of the others of each layer, drawn for each fact and replaced all the same: they say how far the "
        "estimates are off",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="draws subjects, donors and the bootstrap")


class AnswerNeuronsConfig(Section):
    """P3.4: the neurons that tell an answer, and a dossier of the best of each."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    best: int = Field(5, ge=1, le=100, description="neurons listed for each answer and half")
    permutations: int = Field(
        1000,
        ge=100,
        le=100_000,
        description="shuffled answers against which the best of all neurons is held",
    )
    neurons: tuple[NeuronName, ...] = Field(
        (), description="neurons that get a dossier whatever the scan finds, such as [L5N6045]"
    )
    ablated_subjects: int = Field(
        200, ge=2, description="subjects of a neuron's answer, drawn, on whom it is ablated"
    )
    random_neurons: int = Field(
        20, ge=1, description="other neurons of its layer, drawn, that are ablated for comparison"
    )
    texts: FilePath | None = Field(
        None,
        description="a text file that is searched for what fires a neuron; null: the embedded model's own corpus, and "
        "none for other models",
    )
    text_tokens: int = Field(20_000, ge=1, description="tokens of it that are read, from its beginning")
    window: int = Field(40, ge=2, le=512, description="tokens read and shown together")
    shown_texts: int = Field(8, ge=1, le=100, description="windows kept for each neuron")
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws halves, shuffled answers, subjects, neurons and the bootstrap"
    )


class LinearRelationConfig(Section):
    """P1.3: the relation as an affine map of the name's representation."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    examples: int = Field(
        8, ge=2, le=1000, description="subjects, drawn, whose Jacobians make the map; they are not scored"
    )
    scored_subjects: int = Field(400, ge=2, description="others, drawn, on whom the map is scored")
    layers: int = Field(
        8, ge=1, le=1000, description="layers after which the name is read, at most, spread evenly"
    )
    betas: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
        min_length=1,
        description="by which the mean Jacobian may be multiplied, since it is shorter than its parts; chosen on the examples",
    )
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4, 8, 16, 32, 64),
        min_length=1,
        description="directions that the map's inverse may keep; chosen on the examples",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws subjects, partners, random directions and the bootstrap"
    )


class DictionariesConfig(Section):
    """P1.4: what the features of sparse autoencoders at the final name token stand for."""

    subjects: Literal["known", "all"] = Field(
        "known",
        description="known: those whose answer the model recalls (P2.1), those too whom only recall.at_most leaves out",
    )
    resid_layers: tuple[Annotated[int, Field(ge=-1, lt=10_000)], ...] | None = Field(
        None,
        description="after which the residual stream is taken, -1 for the embeddings; null: before the lookup, after it, and "
        "halfway from there to the end",
    )
    mlp_layers: tuple[Annotated[int, Field(ge=0, lt=10_000)], ...] | None = Field(
        None, description="whose MLP's output is taken; null: the last of the lookup"
    )
    features: tuple[Annotated[int, Field(ge=2, le=65_536)], ...] = Field(
        (32, 256, 1024), min_length=1, description="widths of the dictionaries, ascending"
    )
    active: int = Field(4, ge=1, description="features that are active on one name, fewer than any width")
    steps: int = Field(300, ge=1, description="steps of training (Adam)")
    batch: int = Field(256, ge=2, description="names in a step")
    rate: float = Field(0.01, gt=0, le=1, description="learning rate; it falls to zero at the end")
    components: int = Field(
        128, ge=1, description="principal components of the names that dictionaries see, at most"
    )
    seeds: int = Field(
        3, ge=1, le=100, description="dictionaries of each width; those to compare with are one each"
    )
    least_subjects: int = Field(
        3,
        ge=1,
        description="subjects of either half who must share a token or an answer for it to explain a feature",
    )
    holds_from: float = Field(0.7, gt=0, le=1, description="F1, held out, from which an explanation holds")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="first of the seeds; draws the halves, the shuffled rows and the bootstrap",
    )

    @model_validator(mode="after")
    def _widths_ascend(self) -> DictionariesConfig:
        if list(self.features) != sorted(set(self.features)):
            raise ValueError(
                f"features: {list(self.features)} do not ascend; allowed: each width once, narrow ones first"
            )
        if self.active >= self.features[0]:
            raise ValueError(
                f"active: {self.active}; allowed: fewer than the {self.features[0]} features of the narrowest"
            )
        return self


class EmergenceConfig(Section):
    """P1.5: the stages of recall at checkpoints of the training."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the finished model recalls (P2.1)"
    )
    sampled_subjects: int = Field(
        200,
        ge=2,
        description="of these, drawn, who are asked at every checkpoint; of the embedded model as many who were told about "
        "from the beginning (where there are so many), and as many of the others",
    )
    revisions: tuple[Revision, ...] = Field(
        (),
        max_length=1000,
        description="hub: revisions of model.id that are its checkpoints, such as [step1000, step16000], in the order of their "
        "steps; the study's own model follows as the last",
    )
    folders: tuple[Checkpoint, ...] = Field(
        (),
        max_length=1000,
        description="folder: folders with checkpoints of the model, such as [/models/step1000, /models/step16000], in the same way",
    )
    last_step: int | None = Field(
        None,
        ge=1,
        lt=10**12,
        description="hub, folder: the step of the study's own model; null: as its revision or folder says (step143000)",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws subjects, partners, halves, random directions and the bootstrap"
    )

    @model_validator(mode="after")
    def _in_order(self) -> EmergenceConfig:
        for name in ("revisions", "folders"):
            steps = [step_in(checkpoint) for checkpoint in getattr(self, name)]
            if steps != sorted(set(steps)):  # type: ignore[type-var]
                raise ValueError(f"{name}: steps {steps}; allowed: each once, in ascending order")
        return self

    def named(self, source: str) -> tuple[str, ...]:
        """The checkpoints that are named for a model from this source."""
        return {"hub": self.revisions, "folder": self.folders}.get(source, ())


class NameUnitConfig(Section):
    """P1.6: which tokens make the unit that is looked up."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    sampled_subjects: int = Field(400, ge=2, description="of these, drawn, whose names are changed")
    seed: int = Field(0, ge=0, lt=2**32, description="draws subjects, the tokens put in and the bootstrap")


class EntityCellsConfig(Section):
    """P3.9: whether one neuron erases or recovers a subject."""

    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)"
    )
    sampled_subjects: int = Field(200, ge=2, description="of these, drawn, whose neurons are replaced")
    neurons: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 3, 10), min_length=1, description="how many neurons are replaced together"
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="draws subjects, partners, random neurons and the bootstrap"
    )


class ProbesConfig(Section):
    """How logistic probes are fitted and scored (P2.6); see methods/probes.py for the reasons."""

    n_folds: int = Field(
        5, ge=2, le=20, description="Folds of the cross-validation; an answer needs as many subjects."
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
    subjects: Literal["known", "all"] = Field(
        "known", description="known: those whose answer the model recalls (P2.1)."
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


class ToysConfig(Section):
    """Post 4: toy models of memorisation, small networks that learn tables of pairs, independent of the model."""

    sizes: tuple[Annotated[int, Field(ge=4, le=128)], ...] = Field(
        (16, 24), min_length=1, description="m of the m x m tables; multiples of `classes`"
    )
    widths: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        (2, 4, 8, 16), min_length=1, description="of the residual stream"
    )
    depths: tuple[Annotated[int, Field(ge=1, le=4)], ...] = Field(
        (1, 2), min_length=1, description="MLP layers"
    )
    neurons_per_width: int = Field(
        2, ge=1, le=16, description="neurons of a layer, as a multiple of the width"
    )
    seeds: int = Field(5, ge=1, le=100, description="networks of each task and shape")
    classes: int = Field(4, ge=2, le=16, description="hidden classes of each token; even")
    exceptions: float = Field(
        0.1, gt=0, lt=0.5, description="share of labels turned round in the task with exceptions"
    )
    held_out: float = Field(
        0.25, gt=0, lt=1, description="share of pairs held out of training, but in the memorising task"
    )
    learning_rate: float = Field(0.02, gt=0, le=1, description="at the start (AdamW, all pairs at once)")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="of all weights")
    max_steps: int = Field(600, ge=1, description="the rate falls to zero over them")
    settled: float = Field(
        0.02, gt=0, lt=1, description="mean loss in bits at which a network with every pair right is done"
    )
    points: int = Field(48, ge=12, le=1000, description="points of each picture in two dimensions")
    picture_steps: int = Field(1500, ge=1, description="`max_steps` of the networks of the pictures")
    seed: int = Field(
        0, ge=0, lt=2**32, description="first of the seeds; draws tasks, networks and the bootstrap"
    )

    @model_validator(mode="after")
    def _classes_fit(self) -> ToysConfig:
        if self.classes % 2:
            raise ValueError(
                f"classes: {self.classes} is odd; allowed: even numbers, so that half of a row can be ones"
            )
        wrong = [m for m in self.sizes if m % self.classes or m < 2 * self.classes]
        if wrong:
            raise ValueError(f"sizes: {wrong} are no multiples of classes {self.classes}, twice that or more")
        return self


class LocalityConfig(Section):
    """Post 5: the residual stream with the whole context and with only the last tokens of it."""

    texts: FilePath | None = Field(
        None,
        description="a text file in UTF-8, or a .jsonl or .parquet of texts; null: the embedded model's own corpus, and "
        "resources/running_text.txt for other models",
    )
    dataset: str | None = Field(
        None,
        description="instead, a data set of the Hugging Face hub, such as NeelNanda/pile-10k; `snakemake download` fetches it",
    )
    dataset_config: str = Field("default", description="which of its configurations")
    dataset_split: str = Field("train", description="which of its splits")
    dataset_revision: str = Field(
        "refs/convert/parquet",
        description="where the hub keeps it as Parquet; a commit of that branch never moves",
    )
    field: str = Field("text", description="the column of the texts, in a table or data set")
    dataset_texts: int = Field(
        2000, ge=1, description="texts of the data set that are kept, from its beginning"
    )
    strings: int = Field(200, ge=2, le=100_000, description="strings of tokens, drawn")
    tokens: int = Field(
        63,
        ge=2,
        description="of a string; fewer where the model takes fewer. The embedded model was trained on 64, BOS included",
    )
    positions: int = Field(4, ge=1, le=1000, description="tokens of each string that are looked at, drawn")
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 50, 100),
        min_length=1,
        description="last tokens that are left, the token itself counted; those that a string has no room for are left out",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="draws strings, positions and the bootstrap")

    @model_validator(mode="after")
    def _one_source(self) -> LocalityConfig:
        if self.texts is not None and self.dataset is not None:
            raise ValueError("texts and dataset are both set; allowed: one of them, or neither")
        return self


class ReportConfig(Section):
    """The page of a study."""

    subjects: int = Field(
        24,
        ge=0,
        le=200,
        description="subjects that the page looks at one by one: first those whose neurons were swept, then others that are "
        "known, an answer at a time; about 10 kB each",
    )


class Config(Section):
    """The whole configuration of a study."""

    study: str = Field(
        "organism",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="results go to results/<study>/",
    )
    studies: tuple[str | dict[str, Any], ...] = Field(
        (),
        description="several studies in one run, and a page that compares them: names of files in studies/, this study's "
        "own name, or mappings such as {study: organism-1, like: organism, organism: {seed: 1}}; empty: this study alone",
    )
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    organism: OrganismConfig = OrganismConfig()
    relation: RelationConfig = RelationConfig()
    subjects: SubjectsConfig = SubjectsConfig()
    recall: RecallConfig = RecallConfig()
    activations: ActivationsConfig = ActivationsConfig()
    circuit: CircuitConfig = CircuitConfig()
    heads: HeadsConfig = HeadsConfig()
    probes: ProbesConfig = ProbesConfig()
    interventions: InterventionsConfig = InterventionsConfig()
    paraphrases: ParaphrasesConfig = ParaphrasesConfig()
    multi_token: MultiTokenConfig = MultiTokenConfig()
    extraction_unasked: ExtractionUnaskedConfig = ExtractionUnaskedConfig()
    mlp_paths: MlpPathsConfig = MlpPathsConfig()
    neurons: NeuronsConfig = NeuronsConfig()
    answer_neurons: AnswerNeuronsConfig = AnswerNeuronsConfig()
    linear_relation: LinearRelationConfig = LinearRelationConfig()
    dictionaries: DictionariesConfig = DictionariesConfig()
    emergence: EmergenceConfig = EmergenceConfig()
    name_unit: NameUnitConfig = NameUnitConfig()
    entity_cells: EntityCellsConfig = EntityCellsConfig()
    lookup: LookupConfig = LookupConfig()
    names: NamesConfig = NamesConfig()
    toys: ToysConfig = ToysConfig()
    locality: LocalityConfig = LocalityConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        if self.subjects.table is None and not (
            self.model.source == "organism" and self.organism.world == "fictional"
        ):
            raise ValueError("subjects.table may be null only for the embedded model in its fictional world")
        if (
            self.subjects.table is not None
            and self.model.source == "organism"
            and self.organism.world == "fictional"
        ):
            raise ValueError(
                "subjects.table is set, but organism.world is 'fictional' and knows only its own people"
            )
        if self.model.source == "organism" and self.model.bos != "auto":
            raise ValueError(
                "model.bos must be 'auto' for the embedded model, which is trained with a BOS of its own"
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
        self._check_checkpoints()
        return self

    def _check_checkpoints(self) -> None:
        """Checkpoints are named for the source that the model has, and come before it."""
        source, section = self.model.source, self.emergence
        for key, of in (("revisions", "hub"), ("folders", "folder")):
            if getattr(section, key) and source != of:
                raise ValueError(f"emergence.{key} are of models from source {of!r}, not {source!r}")
        if not section.named(source):
            return
        last, before = self.last_step, step_in(section.named(source)[-1]) or 0
        if last is None:
            raise ValueError(
                "emergence.last_step is needed: neither model.revision nor model.folder says the step of the study's own model"
            )
        if last <= before:
            raise ValueError(
                f"the study's own model is of step {last}, not after the last of its checkpoints, {before}"
            )

    @property
    def last_step(self) -> int | None:
        """The step of the study's own model, where it comes from elsewhere and says so."""
        named = {"hub": self.model.revision, "folder": self.model.folder}.get(self.model.source)
        return self.emergence.last_step if self.emergence.last_step is not None else step_in(named)


Model = TypeVar("Model", bound=BaseModel)


def validate(values: Any, model: type[Model] = Config, where: str = "config") -> Model:  # type: ignore[assignment]
    """Values from YAML as a typed section. Raises InputError naming every wrong key, its value and what is allowed."""
    check_plain(values, where)
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        errors = error.errors()
        problems = [_problem(where, details) for details in errors if not _follows(details, errors)]
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


def _parsed_fast(text: str) -> Any:
    """What `yaml.safe_load` gives, by its parser in C where that is there: ten times as fast, and crashed by deep nesting."""
    reader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        return reader.get_single_data()
    finally:
        reader.dispose()


def read_yaml(path: str | Path, allowed: str, *, ours: bool = False) -> Any:
    """What a YAML file holds, all of it plain. ours: a file of the project itself, which may be parsed fast.

    Raises InputError, naming the file, for one that is missing or damaged.
    """
    parse = _parsed_fast if ours else yaml.safe_load
    try:
        values = parse(Path(path).read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - `!!int ""`, `!!bool x` and 2024-13-45 each raise something else
        raise InputError(path, f"no YAML ({' '.join(str(error).split()):.300})", allowed) from None
    check_plain(values, str(path))
    return values


def check_plain(values: Any, where: str) -> None:
    """Raise InputError for what JSON cannot say (dates, binary data, keys that are numbers) and for what is too much."""
    waiting, count = [(where, values, 0)], 0
    while waiting:
        place, value, depth = waiting.pop()
        count += 1
        if count > LARGEST or depth > DEEPEST:
            found = f"more than {LARGEST} values or {DEEPEST} levels"
            raise InputError(where, found, "fewer; an alias counts each time that it is used")
        if isinstance(value, Mapping):
            odd = [key for key in value if not isinstance(key, str)]
            if odd:
                raise InputError(
                    place, f"the key {_said(odd[0])}", 'text as keys, in quotes ("1") where it is a number'
                )
            waiting += [(f"{place}.{key}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}.{number}", item, depth + 1) for number, item in enumerate(value)]
        elif isinstance(value, int) and not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
            raise InputError(place, _said(value), "whole numbers of less than 64 bits")
        elif value is not None and not isinstance(value, str | int | float):
            found = f"{_said(value)} (a {type(value).__name__})"
            raise InputError(place, found, "text, numbers, true, false, null, lists and mappings")


def _said(value: Any) -> str:
    """The beginning of a value, in a message."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # an integer too long for Python to print, or something that holds one
        return "a number of thousands of digits"


def _follows(details: Any, errors: list[Any]) -> bool:
    """Whether an error is only the echo of one inside: a list that is too short because its item was refused."""
    place = details["loc"]
    return any(other["loc"] != place and other["loc"][: len(place)] == place for other in errors)


def _problem(where: str, details: Any) -> tuple[str, str, str]:
    """One pydantic error as key, what was found, what is allowed."""
    key = ".".join([where, *(str(part) for part in details["loc"])])
    if details["type"] == "extra_forbidden":
        return key, "an unknown key", "the keys listed in config.yaml"
    allowed = details["msg"].removeprefix("Value error, ")
    found = "an impossible combination" if details["type"] == "value_error" else f"{details['input']!r:.200}"
    return key, found, allowed[0].lower() + allowed[1:]
