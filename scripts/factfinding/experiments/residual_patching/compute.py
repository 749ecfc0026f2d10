"""Residual patching: the whole residual stream at one position, before one layer, from the corrupt run (P2.7).

As total_effects, and beside the change of the logit difference the answers that become the donor's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import torch

from factfinding.engine.batches import packed
from factfinding.engine.certified import against_values, certified
from factfinding.engine.clean import activation
from factfinding.engine.shards import first_batch
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit
from factfinding.engine.sweep import Engine
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import accuracy_estimate, estimate_columns
from factfinding.methods.groups import CORRUPT
from factfinding.methods.patched import (
    Batch,
    Effect,
    Sample,
    differences,
    donor_runs,
    estimated,
    patched,
    place_of,
    sample_of,
)
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate
from factfinding.tables import schema_of


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `residual_patching` and `residual_patching_twin`."""
    section = settings.interventions
    drawn = sample_of(inputs, section, subjects=section.patched_subjects)
    say(f"the residual stream of {len(drawn.rows)} subjects patched")
    anatomy = anatomy_of(inputs)
    engine = certified(anatomy, settings.compute, seed=section.seed)
    table = residual_patching(
        anatomy, drawn, engine=engine, batch_size=settings.compute.batch_size, seed=section.seed
    )
    return {
        "residual_patching": table,
        "residual_patching_twin": against_values("residual_patching_twin", engine, say),
    }


def residual_patching(
    anatomy: Anatomy, drawn: Sample, *, engine: Engine | None = None, batch_size: int, seed: int
) -> pl.DataFrame:
    """Columns layer (resid_pre of it), role, number, token, effect, behind, whole_swap, share, n, and follows: the share of
    answers (best candidate) that are the donor's answer; majority_rate is of the donors' answers. engine: None for values."""
    engine = engine or Suffix(anatomy)

    def measure(batch: Batch) -> Iterator[Effect]:
        donor = donor_runs(anatomy, drawn, batch, (CORRUPT,))[CORRUPT][0]
        everyone = torch.arange(len(batch.rows), device=anatomy.device)
        most = first_batch(anatomy, batch.layout.n_tokens - batch.layout.first_name)
        layers = range(anatomy.n_layers)
        for at, role, number in batch.layout.slots(batch.layout.first_name):
            for some in packed(layers, lambda _: len(everyone), most):
                edits = []
                for layer in some:
                    site = Site("resid_pre", layer)
                    value = activation(anatomy, donor, site, at)
                    edits.append(edit(anatomy, batch.clean, site, at=at, prompt=everyone, value=value))
                changes = engine.joint_effects(batch.clean, edits, batch.reading)
                for layer, change in zip(some, changes, strict=True):
                    logits = change.double().cpu().numpy()
                    yield Effect(key=(layer, role, number), rows=batch.rows, change=logits)

    found = patched(anatomy, drawn, measure, batch_size=batch_size)
    changes: dict[tuple, list[np.ndarray]] = {}
    for effect in found.effects:
        changes.setdefault(effect.key, []).append(effect.change)
    rows, answers = [], drawn.labels[drawn.corrupt]
    for key, (difference, subjects) in differences(drawn, found.effects).items():
        change = np.concatenate(changes[key])
        follows = (found.clean_logits[subjects] + change).argmax(axis=1) == answers[subjects]
        layer, role, number = key
        rows.append(
            {"layer": layer} | place_of(anatomy, drawn, role, number, subjects) | {"key": (difference, subjects)}
            | estimate_columns("follows", accuracy_estimate(follows, seed=seed))
            | {"majority_rate": majority_rate(answers[subjects])}
        )  # fmt: skip
    return estimated(rows, found.whole, schema_of("residual_patching"), seed, rivals=lambda row: row["layer"])
