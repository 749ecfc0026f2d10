"""Subjects whose activations are replaced, and what that does to their answers (P2.7, P2.11).

Each subject has a corrupt run, a subject of another answer with a prompt of the same layout. Replacements are measured
by the change of the logit difference, logit(own answer) - logit(corrupt subject's answer); beside it stands what swapping
the whole name would do, the corrupt run's own difference minus the clean one's, so that their ratio is a share. Donors
of another answer (`resample_other`) are of the corrupt subject's, since the difference looks at no third one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.config import InterventionsConfig
from factfinding.engine.attribution import gradients
from factfinding.engine.clean import Clean, prepare
from factfinding.engine.readings import Logits, clean_values
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read
from factfinding.inputs import Inputs
from factfinding.methods.estimates import behind, each, estimate_columns
from factfinding.methods.groups import (
    CORRUPT,
    RESAMPLED,
    Group,
    PromptLayout,
    draw_donors,
    groups_of,
    in_batches,
    known_prompts,
    labels_of,
    resampling_donors,
)
from factfinding.model.anatomy import Anatomy
from factfinding.stats import mean_intervals, some_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The subjects that are patched: their groups, answers, and whose activations they are given, by kind and draw."""

    prompts: pl.DataFrame
    candidates: pl.DataFrame
    groups: list[Group]  # all subjects, in layouts: means are taken over them
    rows: Int[np.ndarray, " sampled"]
    labels: Int[np.ndarray, " subjects"]
    corrupt: Int[np.ndarray, " subjects"]
    donors: dict[str, list[Int[np.ndarray, " subjects"]]]

    @property
    def sampled(self) -> list[Group]:
        """The groups, with the sampled subjects only."""
        parts = [replace(group, rows=group.rows[np.isin(group.rows, self.rows)]) for group in self.groups]
        return [part for part in parts if len(part.rows)]


def sample(
    prompts: pl.DataFrame, candidates: pl.DataFrame, *, subjects: int, draws: int, seed: int
) -> Sample:
    """Draw at most `subjects` of those that have a partner of another answer with a prompt of the same layout."""
    rng, groups, labels = np.random.default_rng(seed), groups_of(prompts), labels_of(prompts, candidates)
    pools = [group.rows for group in groups]
    corrupt = draw_donors(labels, pools, same_answer=False, rng=rng)
    able = np.flatnonzero(corrupt >= 0)
    rows = some_of(able, subjects, rng)
    donors = resampling_donors(labels, pools, draws=draws, rng=rng, partners=corrupt)
    return Sample(
        prompts=prompts, candidates=candidates, groups=groups, rows=rows, labels=labels, corrupt=corrupt,
        donors=donors | {CORRUPT: [corrupt]},
    )  # fmt: skip


def sample_of(inputs: Inputs, section: InterventionsConfig, *, subjects: int, draws: int = 0) -> Sample:
    """A sample of the study's subjects. section: keys subjects and seed of `interventions`."""
    prompts = known_prompts(inputs, section.subjects)
    return sample(prompts, inputs.candidates, subjects=subjects, draws=draws, seed=section.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """The change of every candidate's logit for some subjects under one replacement; `key` says which."""

    key: tuple
    rows: Int[np.ndarray, " batch"]
    change: Float[np.ndarray, "batch candidates"]

    def difference(self, drawn: Sample) -> Float[np.ndarray, " batch"]:
        """The change of each subject's logit difference."""
        return _logit_difference(drawn, self.rows, self.change)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributed(Effect):
    """An effect of which the change of the logit difference alone is known, such as its estimate to first order."""

    change: Float[np.ndarray, " batch"]

    def difference(self, drawn: Sample) -> Float[np.ndarray, " batch"]:
        """The change itself."""
        return self.change


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some sampled subjects of one layout and their clean run; `clean_logits` of the candidates at END."""

    layout: PromptLayout
    rows: Int[np.ndarray, " batch"]
    clean: Clean
    reading: Logits
    clean_logits: Float[np.ndarray, "batch candidates"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Patched:
    """Of the sampled subjects: the effects of all replacements, by subject what swapping the whole prompt does, and the
    unchanged logits of the candidates at END (NaN for other subjects)."""

    effects: list[Effect]
    whole: dict[int, float]
    clean_logits: Float[np.ndarray, "subjects candidates"]


def patched(
    anatomy: Anatomy, drawn: Sample, measure: Callable[[Batch], Iterable[Effect]], *, batch_size: int
) -> Patched:
    """The sampled subjects, batch by batch: `measure` gives the effects of the replacements that are asked about."""
    tokens = torch.tensor(drawn.candidates["token_id"].to_list(), device=anatomy.device)

    def run(
        group: Group, rows: Int[np.ndarray, " batch"]
    ) -> tuple[np.ndarray, dict[int, float], list[Effect]]:
        reading = Logits(at=group.layout.end, tokens=tokens)
        prompts = tokens_of(drawn.prompts, rows, anatomy.device)
        clean = prepare(anatomy, prompts, start=group.layout.first_name)
        logits = clean_values(anatomy, clean, reading).double().cpu().numpy()
        batch = Batch(layout=group.layout, rows=rows, clean=clean, reading=reading, clean_logits=logits)
        return logits, whole_swap(anatomy, drawn, batch), list(measure(batch))

    effects: list[Effect] = []
    whole: dict[int, float] = {}
    clean_logits = np.full((drawn.prompts.height, drawn.candidates.height), np.nan)
    for rows, (logits, swapped, found) in in_batches(drawn.sampled, batch_size, run):
        clean_logits[rows] = logits
        whole |= swapped
        effects += found
    return Patched(effects=effects, whole=whole, clean_logits=clean_logits)


def donor_runs(anatomy: Anatomy, drawn: Sample, batch: Batch, kinds: Sequence[str]) -> dict[str, list[Clean]]:
    """The clean runs of the subjects whose activations this batch is given, by kind and draw."""
    found: dict[str, list[Clean]] = {}
    for kind in kinds:
        for donors in drawn.donors.get(kind, ()):
            own = donors[batch.rows]
            given = np.where(own < 0, batch.rows, own)  # without a donor: unused
            tokens = tokens_of(drawn.prompts, given, anatomy.device)
            found.setdefault(kind, []).append(prepare(anatomy, tokens, start=batch.layout.first_name))
    return found


def whole_swap(anatomy: Anatomy, drawn: Sample, batch: Batch) -> dict[int, float]:
    """By subject: what the logit difference changes by when the whole prompt is the corrupt one."""
    tokens = tokens_of(drawn.prompts, drawn.corrupt[batch.rows], anatomy.device)
    corrupt = prepare(anatomy, tokens, start=batch.layout.end)
    logits = clean_values(anatomy, corrupt, batch.reading).double().cpu().numpy()
    change = _logit_difference(drawn, batch.rows, logits - batch.clean_logits)
    return dict(zip(batch.rows.tolist(), change.tolist(), strict=True))


def difference_slopes(
    anatomy: Anatomy, drawn: Sample, batch: Batch, clean: Clean, reads: Sequence[Read]
) -> list[Tensor]:
    """The gradient of each subject's logit difference in what is read of a run of the batch, from one backward pass.

    clean: the batch's own run, or that of its partners.
    """
    tokens = torch.tensor(drawn.candidates["token_id"].to_list(), device=anatomy.device)
    own, other = (
        tokens[torch.from_numpy(labels).to(anatomy.device)]
        for labels in (drawn.labels[batch.rows], drawn.labels[drawn.corrupt[batch.rows]])
    )

    def difference(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return (logits.gather(1, own[:, None]) - logits.gather(1, other[:, None]))[:, 0]

    end = torch.full((len(batch.rows),), batch.layout.end, device=anatomy.device)
    return gradients(anatomy, clean.tokens, reads, difference, logits_at=end).gradients


def differences(drawn: Sample, effects: Iterable[Effect]) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """By key: each subject's change of the logit difference, averaged over draws, and the subjects.

    Keys of nobody are left out: with many answers, none of a few subjects may have a donor of its own answer.
    """
    found: dict[tuple, tuple[list, list]] = {}
    for effect in effects:
        values, rows = found.setdefault(effect.key, ([], []))
        values.append(effect.difference(drawn))
        rows.append(effect.rows)
    averaged = {
        key: _over_draws(drawn, key, np.concatenate(v), np.concatenate(r)) for key, (v, r) in found.items()
    }
    return {key: measured for key, measured in averaged.items() if len(measured[1])}


def place_of(anatomy: Anatomy, drawn: Sample, role: str, number: int, subjects: np.ndarray) -> dict:
    """Role and number of a position; its token's text where that is the same in every prompt."""
    text = None
    if role in ("relation", "end"):
        prompt = drawn.prompts.row(int(subjects[0]), named=True)
        at = [i for i, r in enumerate(prompt["roles"]) if r == role][number]
        text = anatomy.tokenizer.decode([prompt["token_ids"][at]])
    return {"role": role, "number": number, "token": text}


def estimated(
    rows: list[dict],
    whole: dict[int, float],
    schema: dict,
    seed: int,
    *,
    rivals: Callable[[dict], Hashable],
) -> pl.DataFrame:
    """Rows with their effects estimated, those of the same subjects on the same resamples.

    rivals: rows for which it gives the same are compared, in the columns `behind`: the effect minus the strongest one.
    Rows that say that they are not `exact` are compared with none.
    """
    compared = [row for row in rows if row.get("exact", True)]
    groups = [rivals(row) for row in compared]
    away = behind(_matrix(compared), groups, lowest=True, seed=seed) if compared else []
    by_subjects: dict[bytes, list[dict]] = {}
    for row in rows:
        row |= estimate_columns("behind", None)
    for row, difference in zip(compared, away, strict=True):
        row |= estimate_columns("behind", difference)
    for row in rows:
        by_subjects.setdefault(row["key"][1].tobytes(), []).append(row)
    for same in by_subjects.values():
        subjects = same[0]["key"][1]
        estimates = each(mean_intervals(np.stack([row["key"][0] for row in same], axis=1), seed=seed))
        swap = float(np.mean([whole[int(subject)] for subject in subjects]))
        for row, estimate in zip(same, estimates, strict=True):
            del row["key"]
            share = estimate.value / swap if swap else None
            row |= estimate_columns("effect", estimate) | {
                "whole_swap": swap,
                "share": share,
                "n": estimate.n,
            }
    return pl.DataFrame(rows, schema=schema)


def _matrix(rows: list[dict]) -> Float[np.ndarray, "subjects rows"]:
    """The differences of all rows side by side; NaN for subjects that a row lacks."""
    subjects = np.unique(np.concatenate([row["key"][1] for row in rows]))
    values = np.full((len(subjects), len(rows)), np.nan)
    for column, row in enumerate(rows):
        difference, own = row["key"]
        values[np.searchsorted(subjects, own), column] = difference
    return values


def _logit_difference(
    drawn: Sample, rows: Int[np.ndarray, " batch"], logits: Float[np.ndarray, "batch candidates"]
) -> Float[np.ndarray, " batch"]:
    at = np.arange(len(rows))
    return logits[at, drawn.labels[rows]] - logits[at, drawn.labels[drawn.corrupt[rows]]]


def _over_draws(
    drawn: Sample, key: tuple, values: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if key[-1] in RESAMPLED:
        able = np.all([donors[rows] >= 0 for donors in drawn.donors[key[-1]]], axis=0)
        values, rows = values[able], rows[able]
    subjects, index, counts = np.unique(rows, return_inverse=True, return_counts=True)
    if len(subjects) == len(rows):
        return values, rows
    return np.bincount(index, weights=values) / counts, subjects
