"""Where in the effective model a probe reads the answer: in the sum of the name's parts, and after each lookup MLP (P3.5).

The probes are those of P2.6 (probes.py: same regression, penalty and scaling), fitted on the effective model's residual
stream instead of the model's own. Before the lookup that stream is a sum of one term per token and nothing else, so a
probe there can learn only what tokens say by themselves.

One draw of folds over a few hundred names moves an accuracy by a per cent or two, so folds and shuffled labels are drawn
several times. A subject's hits and losses are averaged over the draws; intervals are over subjects, as everywhere, and
take the draws as given. Folds are grouped by the parts of the name as the effective model sees them: all names with one
last token (or one beginning) lie in one fold, so the probe is never asked about a table entry that it was fitted on. A
step from one layer to the next is paired, subject by subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.effective import EffectiveModel, effective_model_of
from factfinding.methods.estimates import accuracy_estimate, estimate_columns, estimate_schema
from factfinding.methods.name_pairs import NAMES, NamePairs, pairs_of
from factfinding.methods.probes import ProbeSettings, cross_validated
from factfinding.stats import (
    grouped_folds,
    majority_rate,
    mean_interval,
    paired_difference,
    stratified_folds,
)

TOKEN_SUM, RESID = "token_sum", "resid"
SCHEMA = (
    {"n_name_tokens": pl.Int64, "input": pl.String, "layer": pl.Int64, "labels": pl.String}
    | {"folds": pl.String, "repeats": pl.Int64}
    | estimate_schema("accuracy", "loss", "selectivity", "step", "loss_step", "from_largest")
    | {"n": pl.Int64, "n_groups": pl.Int64, "majority_rate": pl.Float64}
)


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `effective_probes`."""
    section, probes = settings.lookup, settings.probes
    fitted = ProbeSettings(
        n_folds=probes.n_folds,
        folds=section.probe_folds,
        control_folds=section.probe_folds,
        regularisation=probes.regularisation,
        max_iter=probes.max_iter,
        tolerance=probes.tolerance,
    )
    table = effective_probes(
        effective_model_of(inputs),
        pairs_of(inputs, section.subjects, name_tokens=section.name_tokens, say=say),
        settings=fitted,
        repeats=section.probe_repeats,
        batch_size=NAMES * settings.compute.batch_size,
        seed=section.seed,
    )
    return {"effective_probes": table}


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Held-out hits and losses (nats) of each subject, means over the draws of the folds."""

    hits: Float[np.ndarray, " subjects"]
    losses: Float[np.ndarray, " subjects"]


def effective_probes(
    model: EffectiveModel | None,
    names: NamePairs | None,
    *,
    settings: ProbeSettings,
    repeats: int,
    seed: int,
    batch_size: int = 4096,
) -> pl.DataFrame:
    """The table `effective_probes`: a probe of the sum of the name's parts and of the stream after each lookup MLP.

    Columns: n_name_tokens, input (token_sum, resid), layer (null for the sum), labels (true, shuffled), folds, repeats,
    accuracy, loss, selectivity (true minus shuffled), step and loss_step (from the input before), from_largest (the step
    less the largest one, paired), n, n_groups, majority_rate. settings.folds: kinds of folds; of random ones there is no group.
    Empty for None, and where there are too few subjects or groups for the folds.
    """
    if model is None or names is None or not _enough(names, settings):
        return pl.DataFrame(schema=SCHEMA)
    rows: list[dict] = []
    labels = np.unique(names.answers, return_inverse=True)[1]
    inputs = list(streams(model, names, batch_size=batch_size))
    for kind in settings.folds:
        groups = _groups(names, kind)
        head = {"n_name_tokens": names.n_name_tokens, "folds": kind, "repeats": repeats, "n": len(labels)}
        head |= {"n_groups": len(np.unique(groups)), "majority_rate": majority_rate(labels)}
        previous: list[_Held] = []
        steps: list[tuple[int, Float[np.ndarray, " subjects"]]] = []
        for source, layer, resid in inputs:
            held = _repeated(resid, labels, groups, kind, settings, repeats, seed)
            for i, (name, found) in enumerate(zip(("true", "shuffled"), held, strict=False)):
                row = head | {"input": source, "layer": layer, "labels": name}
                row |= _scores(found, previous[i] if previous else None, seed)
                gain = held[0].hits - held[1].hits if name == "true" and len(held) == 2 else None
                rows.append(row | estimate_columns("selectivity", _mean(gain, seed)))
                rows[-1] |= estimate_columns("from_largest", None)
                if name == "true" and previous:
                    steps.append((len(rows) - 1, found.hits - previous[i].hits))
            previous = held
        largest = max((step for _, step in steps), key=np.mean, default=None)
        for at, step in steps:
            rows[at] |= estimate_columns("from_largest", paired_difference(step, largest, seed=seed))
    return pl.DataFrame(rows, schema=SCHEMA)


@torch.no_grad()
def streams(
    model: EffectiveModel, names: NamePairs, *, batch_size: int
) -> Iterator[tuple[str, int | None, Float[np.ndarray, "subjects d_model"]]]:
    """(input, layer, array) of the names: the sum of their parts, then the residual stream after each lookup MLP."""
    names = names.to(model.weight.device)
    tables = model.names[str(names.n_name_tokens)]

    def run(part: slice) -> tuple[Tensor, Tensor]:
        tokens = names.tokens(names.begin[part], names.last[part])
        return tables(*tokens).sum(1).double().cpu(), model.stream(*tokens).double().cpu()

    sums, found = zip(*Batches(batch_size).each(run, len(names.subjects)), strict=True)
    yield TOKEN_SUM, None, torch.cat(sums).numpy()
    stream = torch.cat(found).numpy()
    for i in range(stream.shape[1]):
        yield RESID, model.shape.lookup[0] + i, stream[:, i]


def _groups(names: NamePairs, kind: str) -> Int[np.ndarray, " subjects"]:
    """What must not stand in two folds: the last token, the beginning, or nothing but the subject."""
    if kind == "random":
        return np.arange(len(names.subjects))
    return (names.last if kind == "last_name" else names.begin).cpu().numpy()


def _enough(names: NamePairs, settings: ProbeSettings) -> bool:
    counts = np.unique(names.answers, return_counts=True)[1]
    groups = [len(np.unique(_groups(names, kind))) for kind in settings.folds]
    return len(counts) > 1 and min(counts.min(), *groups) >= settings.n_folds


def _repeated(
    resid: Float[np.ndarray, "subjects d_model"],
    labels: Int[np.ndarray, " subjects"],
    groups: Int[np.ndarray, " subjects"],
    kind: str,
    settings: ProbeSettings,
    repeats: int,
    seed: int,
) -> list[_Held]:
    """Scores under true labels and, where the settings ask for it, under shuffled ones, over several draws of folds."""
    rounds = []
    for draw in np.random.SeedSequence(seed).generate_state(repeats).tolist():
        if kind == "random":
            folds = stratified_folds(labels, n_folds=settings.n_folds, seed=draw)
        else:
            folds = grouped_folds(groups, labels, n_folds=settings.n_folds, seed=draw)
        labellings = [labels]
        if kind in settings.control_folds:
            labellings.append(np.random.default_rng(draw).permutation(labels))
        rounds.append(cross_validated(resid, labellings, folds, settings))
    return [
        _Held(
            hits=np.mean([scores.hits for scores in same], axis=0),
            losses=np.mean([scores.losses for scores in same], axis=0),
        )
        for same in zip(*rounds, strict=True)
    ]


def _scores(held: _Held, before: _Held | None, seed: int) -> dict:
    row = estimate_columns("accuracy", accuracy_estimate(held.hits, seed=seed))
    row |= estimate_columns("loss", mean_interval(held.losses, seed=seed))
    row |= estimate_columns("step", _mean(before and held.hits - before.hits, seed))
    return row | estimate_columns("loss_step", _mean(before and held.losses - before.losses, seed))


def _mean(values: Float[np.ndarray, " subjects"] | None, seed: int):
    return None if values is None else mean_interval(values, seed=seed)
