"""The effective model of a study, and how often it is right (P2.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.tokens import tokens_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import circuit_of
from factfinding.methods.effective import Constants, EffectiveModel, Names, NoEffectiveModel
from factfinding.methods.estimates import accuracy_estimate, estimate_columns
from factfinding.methods.groups import Group, groups_of, known_prompts
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.readers import Readers, readers_of
from factfinding.methods.simplified import Parts, constant_mlps, mean_patterns, parts_of, simplified_run
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate, mean_interval
from factfinding.tables import empty, schema_of

FEWEST = 2
"""Subjects with a name of one length, below which it has no tables: a mean pattern of one prompt is no mean."""
STUDIED = 2
"""Tokens of the names that the study's claim is about."""
NONE = "a study in which no lookup at the name was found, or too few subjects are known"


def compute(
    inputs: Inputs, settings: Settings, say: Say
) -> dict[str, pl.DataFrame | EffectiveModel | NoEffectiveModel]:
    """The effective model as a file, `model`, and the tables `effective_model` and `effective_confusion`."""
    anatomy, section = anatomy_of(inputs), settings.interventions
    prompts = {name: known_prompts(inputs, section.subjects, name) for name in ("full", "name_only")}
    result = effective_model(
        anatomy,
        prompts,
        readers_of(inputs),
        parts_of(circuit_of(inputs), anatomy),
        batch_size=settings.compute.batch_size,
        seed=section.seed,
    )
    if result.model is None:
        say(f"no effective model: this is {NONE}")
    for row in result.accuracy.iter_rows(named=True):
        length = row["n_name_tokens"] or "more than two"
        say(f"{row['model']}, names of {length} tokens: {row['accuracy']:.3f} of {row['n']}")
    return {
        "model": result.model or NoEffectiveModel(NONE),
        "effective_model": result.accuracy,
        "effective_confusion": result.confusion,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The model (None where there is nothing to make one from), its accuracy, and its confusion matrix."""

    model: EffectiveModel | None
    accuracy: pl.DataFrame
    confusion: pl.DataFrame


def effective_model(
    anatomy: Anatomy,
    prompts: Mapping[str, pl.DataFrame],
    reader: Readers,
    parts: Parts | None,
    *,
    batch_size: int,
    seed: int,
) -> Result:
    """The effective model for the names of the subjects, one set of tables per number of name tokens.

    prompts: `full` and `name_only` of the same subjects in the same order. accuracy has columns model (`effective`, and
    the unchanged model `full` read by the same probe at the same layer), n_name_tokens (null: all names of more than
    two together, where there are some), accuracy, loss (nats), n, majority_rate, and largest_error: of the effective model's
    residual from the simplified model's, over the largest value. Probes are those of folds that have not seen the subject; the
    saved model has the one fitted on all.
    """
    if reader.empty or parts is None:
        return Result(model=None, accuracy=empty("effective_model"), confusion=empty("effective_confusion"))
    last, table = parts.lookup[1], prompts["name_only"]
    groups = [group for group in groups_of(table) if len(group.rows) >= FEWEST]
    everyone = groups_of(table)
    outputs = name_outputs(anatomy, table, everyone, batch_size=batch_size)
    late = range(parts.concatenate + 1, anatomy.n_layers)
    below = constant_mlps(parts, parallel=anatomy.parallel)
    constants = Constants(
        attn={layer: outputs.attn[:, layer].mean(0) for layer in late},
        mlp={layer: outputs.mlp[:, layer].mean(0) for layer in below},
    )
    names = [names_of(anatomy, table, group, parts, batch_size=batch_size) for group in groups]
    weight, bias = (torch.from_numpy(part[-1, last]) for part in (reader.weight, reader.bias))
    model = EffectiveModel.from_anatomy(
        anatomy, parts, names, constants, weight=weight, bias=bias, answers=reader.answers, seed=seed
    )
    full = name_outputs(anatomy, prompts["full"], groups_of(prompts["full"]), batch_size=batch_size)
    rows, confusion, longer = [], [], []
    for group, known in zip(groups, names, strict=True):
        resid, truth = both_streams(anatomy, model, table, group, known, constants)
        error = float((resid - truth).abs().max() / truth.abs().max())
        said = _logp(reader, last, resid[:, -1].double().cpu().numpy(), table, group)
        unchanged = _logp(reader, last, full.resid[group.rows, last].double().numpy(), table, group)
        length, answers = group.layout.n_name_tokens, _truth(table, group, reader)
        rows += _rows(length, said, unchanged, answers, error, seed)
        if length > STUDIED:
            longer.append((said, unchanged, answers, error))
        confusion += _confusion(said, table, group, reader, seed)
    if longer:
        *together, errors = zip(*longer, strict=True)
        rows += _rows(None, *map(np.concatenate, together), max(errors), seed)
    return Result(
        model=model,
        accuracy=pl.DataFrame(rows, schema=schema_of("effective_model")),
        confusion=pl.DataFrame(confusion, schema=schema_of("effective_confusion")),
    )


@torch.no_grad()
def both_streams(
    anatomy: Anatomy,
    model: EffectiveModel,
    prompts: pl.DataFrame,
    group: Group,
    known: Names,
    constants: Constants,
) -> tuple[Float[Tensor, "group layers d_model"], Float[Tensor, "group layers d_model"]]:
    """The residual stream after the lookup's layers of the effective model and of the simplified model, name by name.

    All names of the group go together, if they fit.
    """
    first, last = model.shape.lookup
    tokens = tokens_of(prompts, group.rows, anatomy.device)

    def run(part: Int[Tensor, "batch seq"]) -> tuple[Tensor, Tensor]:
        written = constants.of(len(part))
        simplified, _ = simplified_run(anatomy, part, known.layout, known.patterns, **written)
        return model.stream(*part[:, 1:].T), simplified[:, first : last + 1]

    effective, simplified = zip(*(found for _, found in Batches(len(tokens)).of(tokens, run)), strict=True)
    return torch.cat(effective), torch.cat(simplified)


def names_of(
    anatomy: Anatomy, prompts: pl.DataFrame, group: Group, parts: Parts, *, batch_size: int
) -> Names:
    """The names of one layout: tokens by slot (those that stand there in some name) and frozen patterns."""
    tokens = tokens_of(prompts, group.rows, anatomy.device)
    slots = tokens[:, group.layout.first_name : group.layout.final_name + 1]
    return Names(
        layout=group.layout,
        tokens=tuple(slot.unique() for slot in slots.T),
        patterns=mean_patterns(anatomy, tokens, group.layout, parts.concatenate, batch_size=batch_size),
    )


def _logp(
    reader: Readers, layer: int, resid: np.ndarray, prompts: pl.DataFrame, group: Group
) -> Float[np.ndarray, "group answers"]:
    folds = reader.folds_of(prompts["subject"][group.rows].to_list())
    return reader.log_probabilities(layer, resid, folds)


def _rows(
    length: int | None, said: np.ndarray, unchanged: np.ndarray, truth: np.ndarray, error: float, seed: int
) -> list[dict]:
    """The effective model's row and that of the unchanged one, for names of one length or (None) of several."""
    rows = []
    for model, logp, largest in (("effective", said, error), ("full", unchanged, None)):
        hits, losses = logp.argmax(axis=1) == truth, -logp[np.arange(len(truth)), truth]
        rows.append(
            {"model": model, "n_name_tokens": length, "largest_error": largest}
            | estimate_columns("accuracy", accuracy_estimate(hits, seed=seed))
            | estimate_columns("loss", mean_interval(losses, seed=seed))
            | {"n": len(truth), "majority_rate": majority_rate(truth)}
        )
    return rows


def _confusion(
    logp: np.ndarray, prompts: pl.DataFrame, group: Group, reader: Readers, seed: int
) -> list[dict]:
    truth, chosen = _truth(prompts, group, reader), logp.argmax(axis=1)
    rows = []
    for i, answer in enumerate(reader.answers):
        mine = chosen[truth == i]
        for j, given in enumerate(reader.answers):
            share = accuracy_estimate(mine == j, seed=seed) if len(mine) else None
            rows.append(
                {"n_name_tokens": group.layout.n_name_tokens, "answer": answer, "given": given}
                | {"subjects": int((mine == j).sum()), "n": len(mine)}
                | estimate_columns("share", share)
            )
    return rows


def _truth(prompts: pl.DataFrame, group: Group, reader: Readers) -> np.ndarray:
    return np.array([reader.answers.index(answer) for answer in prompts["answer"][group.rows]])
