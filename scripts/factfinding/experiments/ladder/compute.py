"""The circuit simplified step by step: what of the answer is left at each layer of the final name token (P2.8).

    full                 nothing is changed; the question after one example
    late_attention       attention above the concatenating layers is ablated
    name_only            the prompt is the name alone
    both                 the two together
    early_mlps           and the MLPs below the lookup (MLP 0 stays in a parallel block: it reads one token alone)
    frozen               and the patterns of the concatenating layers are their mean, with the edges of simplified.py
                         cut; names of two tokens
    frozen_longer        the same for longer names
    attention_<layer>    contrast: one concatenating layer alone is ablated, under `full`

All of it at the final name token, and each with every kind of ablation. What is read is the accuracy of readers that
were fitted on the unchanged model (`readers.py`), each subject by one that has not seen it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from factfinding.engine.batches import packed
from factfinding.engine.certified import against_values, certified
from factfinding.engine.clean import Clean
from factfinding.engine.readings import Resid
from factfinding.engine.replaced import Replaced
from factfinding.engine.shards import first_batch
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Engine
from factfinding.engine.tokens import tokens_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import circuit_of
from factfinding.methods.estimates import accuracy_estimate, each, estimate_columns
from factfinding.methods.groups import (
    KINDS,
    Group,
    PromptLayout,
    groups_of,
    in_batches,
    known_prompts,
    resampling_donors,
)
from factfinding.methods.head_reader import head_readers
from factfinding.methods.name_stream import Instead, NameOutputs, clean_run, name_outputs
from factfinding.methods.readers import Readers, read_out, readers_of
from factfinding.methods.simplified import (
    Parts,
    Patterns,
    constant_mlps,
    mean_patterns,
    parts_of,
    simplified_run,
)
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate, mean_intervals
from factfinding.tables import empty, schema_of

NOTHING = "none"
"""The kind of a step that ablates nothing."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `ladder` and `ladder_twin`."""
    anatomy, circuit, logistic = anatomy_of(inputs), circuit_of(inputs), readers_of(inputs)
    section, size = settings.interventions, settings.compute.batch_size
    prompts = {name: known_prompts(inputs, section.subjects, name) for name in ("full", "name_only")}
    heads = head_readers(
        anatomy, circuit.extract, inputs.candidates, prompts["full"], logistic, batch_size=size
    )
    engine = certified(anatomy, settings.compute, seed=section.seed)
    table = ladder_table(
        anatomy,
        prompts,
        [logistic, *heads],
        parts_of(circuit, anatomy),
        engine=engine,
        draws=section.draws,
        batch_size=size,
        seed=section.seed,
    )
    say(f"{table['step'].n_unique()} steps on {prompts['full'].height} subjects")
    return {"ladder": table, "ladder_twin": against_values("ladder_twin", engine, say)}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One simplification: which outputs are ablated at the final name token, and which step it is compared with."""

    name: str
    condition: str
    before: str | None
    attention: tuple[int, ...] = ()
    mlps: tuple[int, ...] = ()
    frozen: bool = False
    longer: bool = False  # of the frozen steps: names of more than two tokens

    @property
    def ablates(self) -> bool:
        return bool(self.attention or self.mlps or self.frozen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a reader says of every subject at every layer; NaN where a step does not apply. Means over draws."""

    hits: Float[np.ndarray, "subjects layers"]
    losses: Float[np.ndarray, "subjects layers"]

    @classmethod
    def none(cls, subjects: int, layers: int) -> Scores:
        return cls(hits=np.full((subjects, layers), np.nan), losses=np.full((subjects, layers), np.nan))


def steps(parts: Parts | None, n_layers: int, *, parallel: bool) -> list[Step]:
    """The ladder for these parts; without parts, only the two steps that ablate nothing."""
    ladder = [Step(name="full", condition="full", before=None)]
    name_only = Step(name="name_only", condition="name_only", before="full")
    if parts is None:
        return [*ladder, name_only]
    late = tuple(range(parts.concatenate + 1, n_layers))
    early = tuple(constant_mlps(parts, parallel=parallel))
    ladder += [Step(name="late_attention", condition="full", before="full", attention=late), name_only]
    ladder.append(Step(name="both", condition="name_only", before="name_only", attention=late))
    if early:
        ladder.append(
            Step(name="early_mlps", condition="name_only", before="both", attention=late, mlps=early)
        )
    shared = {
        "condition": "name_only",
        "before": ladder[-1].name,
        "attention": late,
        "mlps": early,
        "frozen": True,
    }
    ladder += [Step(name="frozen", **shared), Step(name="frozen_longer", longer=True, **shared)]
    for layer in range(parts.concatenate + 1):
        ladder.append(Step(name=f"attention_{layer}", condition="full", before="full", attention=(layer,)))
    return ladder


def ladder_table(
    anatomy: Anatomy,
    prompts: Mapping[str, pl.DataFrame],
    readers: Sequence[Readers],
    parts: Parts | None,
    *,
    kinds: Sequence[str] = KINDS,
    engine: Engine | None = None,
    draws: int,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """Columns step, reader, kind (`none` where nothing is ablated), layer, accuracy and loss (nats) with intervals,
    drop (of accuracy from the step `before`, same subjects and kind, paired), before, n, majority_rate.

    prompts: `full` and `name_only`, of the same subjects in the same order. engine: None for values; the frozen steps always
    run on values. Empty when the readers are.
    """
    readers = [reader for reader in readers if not reader.empty]
    if not readers:
        return empty("ladder")
    ladder = steps(parts, anatomy.n_layers, parallel=anatomy.parallel)
    scored: dict[tuple[str, str, str], Scores] = {}
    for condition in ("full", "name_only"):
        runs = Simplifications(
            anatomy, prompts[condition], parts, engine=engine, draws=draws, batch_size=batch_size, seed=seed
        )
        scored |= runs.score([step for step in ladder if step.condition == condition], kinds, readers)
    truth = np.array(prompts["full"]["answer"].to_list())
    return pl.DataFrame(_rows(ladder, scored, truth, seed), schema=schema_of("ladder"))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Subjects of one layout, their clean run, and the frozen patterns of their layout where a step needs them."""

    layout: PromptLayout
    rows: Int[np.ndarray, " batch"]
    clean: Clean
    patterns: Patterns | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """A step under one kind of ablation, and of one that resamples whose outputs are put in."""

    step: Step
    kind: str
    donors: Int[np.ndarray, " subjects"] | None


def _without_donor(
    rows: Int[np.ndarray, " batch"], run: _Run, resid: Float[np.ndarray, "batch layers d_model"]
) -> Float[np.ndarray, "batch layers d_model"]:
    """NaN for subjects who have no donor."""
    if run.donors is not None and (run.step.attention or run.step.mlps):
        resid[run.donors[rows] < 0] = np.nan
    return resid


class Simplifications:
    """Runs of one condition's prompts under the ladder's steps; unchanged outputs and donors are kept."""

    def __init__(
        self,
        anatomy: Anatomy,
        prompts: pl.DataFrame,
        parts: Parts | None,
        *,
        engine: Engine | None = None,
        draws: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.anatomy, self.prompts, self.parts, self.batch_size = anatomy, prompts, parts, batch_size
        self.engine = engine or Suffix(anatomy)
        self.groups = groups_of(prompts)
        self.outputs: NameOutputs = name_outputs(anatomy, prompts, self.groups, batch_size=batch_size)
        answers = np.unique(prompts["answer"].to_list(), return_inverse=True)[1]
        rng, everyone = np.random.default_rng(seed), np.arange(prompts.height)
        self.donors = resampling_donors(answers, [everyone], draws=draws, rng=rng)

    def score(
        self, ladder: Sequence[Step], kinds: Sequence[str], readers: Sequence[Readers]
    ) -> dict[tuple[str, str, str], Scores]:
        """What each reader says under each step and kind, by (step, reader, kind). Batch by batch, so that memory
        does not grow with the subjects."""
        asked = [(step, kind) for step in ladder for kind in (kinds if step.ablates else (NOTHING,))]
        found = {
            (step.name, reader.name, kind): Scores.none(self.prompts.height, self.anatomy.n_layers)
            for step, kind in asked
            for reader in readers
        }
        frozen = [step for step in ladder if step.frozen]
        patterns = {
            group.layout: self.patterns(group)
            for group in self.groups
            if any(applies(step, group) for step in frozen)
        }

        def scores(group: Group, rows: Int[np.ndarray, " batch"]) -> dict[tuple[str, str, str], Scores]:
            clean = clean_run(self.anatomy, self.prompts, group, rows)
            batch = _Batch(layout=group.layout, rows=rows, clean=clean, patterns=patterns.get(group.layout))
            here = [(step, kind) for step, kind in asked if not step.frozen or applies(step, group)]
            return self._read(batch, here, readers)

        for rows, measured in in_batches(self.groups, self.batch_size, scores):
            for key, read in measured.items():
                found[key].hits[rows], found[key].losses[rows] = read.hits, read.losses
        return found

    def _read(
        self, batch: _Batch, asked: Sequence[tuple[Step, str]], readers: Sequence[Readers]
    ) -> dict[tuple[str, str, str], Scores]:
        """What each reader says of a batch under each step and kind, means over the draws."""
        runs = [
            _Run(step=step, kind=kind, donors=donors)
            for step, kind in asked
            for donors in self.donors.get(kind, [None])
        ]
        drawn: dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
        for run, resid in self._residuals(batch, runs):
            for reader in readers:
                read = read_out(reader, resid, self.prompts[batch.rows])
                drawn.setdefault((run.step.name, reader.name, run.kind), []).append(read)
        found = {}
        for key, read in drawn.items():
            hits, losses = (np.mean(values, axis=0) for values in zip(*read, strict=True))
            found[key] = Scores(hits=hits, losses=losses)
        return found

    def _residuals(
        self, batch: _Batch, runs: Sequence[_Run]
    ) -> Iterator[tuple[_Run, Float[np.ndarray, "batch layers d_model"]]]:
        """resid_post at the final name token in each run; NaN for subjects who have no donor of its kind.

        Those whose patterns stay run together, as many as fit.
        """
        rows, layers = batch.rows, range(self.anatomy.n_layers)
        at = [Resid(at=batch.layout.final_name, layer=layer) for layer in layers]
        everyone = torch.arange(len(rows), device=self.anatomy.device)
        together = [run for run in runs if run.step.ablates and not run.step.frozen]
        for some in packed(together, lambda _: len(rows), first_batch(self.anatomy, 1)):
            outputs = Replaced.joined([Replaced.of(everyone, **self._instead(rows, run)) for run in some])
            resid = torch.stack(self.engine.replaced(batch.clean, outputs, at), dim=1)
            parts = resid.double().cpu().numpy().reshape(len(some), len(rows), len(layers), -1)
            yield from zip(some, map(partial(_without_donor, rows), some, parts), strict=True)
        for run in (run for run in runs if not run.step.ablates):
            yield run, self.outputs.resid[rows].double().numpy()
        for run in (run for run in runs if run.step.frozen):
            tokens, instead = tokens_of(self.prompts, rows, self.anatomy.device), self._instead(rows, run)
            resid, _ = simplified_run(self.anatomy, tokens, batch.layout, batch.patterns, **instead)
            yield run, _without_donor(rows, run, resid.double().cpu().numpy())

    def _instead(self, rows: Int[np.ndarray, " batch"], run: _Run) -> dict[str, Instead]:
        """What is written instead at the final name token."""
        parts = (("attn", run.step.attention), ("mlp", run.step.mlps))
        return {
            part: self.outputs.instead(part, run.kind, layers, rows, run.donors) for part, layers in parts
        }

    def patterns(self, group: Group) -> Patterns:
        """The frozen patterns of one layout."""
        tokens = tokens_of(self.prompts, group.rows, self.anatomy.device)
        last = self.parts.concatenate
        return mean_patterns(self.anatomy, tokens, group.layout, last, batch_size=self.batch_size)


def applies(step: Step, group: Group) -> bool:
    """A frozen step is for names of two tokens, or for longer ones; a mean over one prompt would freeze nothing."""
    n = group.layout.n_name_tokens
    return len(group.rows) > 1 and (n > 2 if step.longer else n == 2)


def _rows(
    ladder: Sequence[Step], scored: Mapping[tuple[str, str, str], Scores], truth: np.ndarray, seed: int
) -> list[dict]:
    """One row per step, reader, kind and layer; steps of the same subjects are bootstrapped together."""
    rows, same = [], {}
    for step in ladder:
        for (name, reader, kind), scores in scored.items():
            if name != step.name:
                continue
            before = scored.get((step.before, reader, kind), scored.get((step.before, reader, NOTHING)))
            here = ~np.isnan(scores.hits).any(axis=1)
            here &= before is None or ~np.isnan(before.hits).any(axis=1)
            if here.any():
                same.setdefault(here.tobytes(), (here, []))[1].append((step, reader, kind, scores, before))
    for here, parts in same.values():
        columns = [
            x[here]
            for *_, s, before in parts
            for x in (s.losses, (s if before is None else before).hits - s.hits)
        ]
        means = iter(each(mean_intervals(np.concatenate(columns, axis=1), seed=seed)))
        for step, reader, kind, scores, before in parts:
            n_layers = scores.hits.shape[1]
            losses, drops = ([next(means) for _ in range(n_layers)] for _ in range(2))
            for layer in range(n_layers):
                rows.append(
                    {"step": step.name, "reader": reader, "kind": kind, "layer": layer}
                    | estimate_columns("accuracy", accuracy_estimate(scores.hits[here, layer], seed=seed))
                    | estimate_columns("loss", losses[layer])
                    | estimate_columns("drop", None if before is None else drops[layer])
                    | {
                        "before": step.before,
                        "n": int(here.sum()),
                        "majority_rate": majority_rate(truth[here]),
                    }
                )
    order = {step.name: i for i, step in enumerate(ladder)}
    return sorted(rows, key=lambda row: order[row["step"]])
