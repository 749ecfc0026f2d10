"""The effective model of a study, and how often it is right (P2.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from factfinding.engine.tokens import tokens_of
from factfinding.methods.effective import EffectiveModel, Names
from factfinding.methods.estimates import accuracy_estimate, estimate_columns, estimate_schema
from factfinding.methods.groups import Group, groups_of
from factfinding.methods.name_stream import name_outputs
from factfinding.methods.readers import Readers
from factfinding.methods.simplified import Parts, constant_mlps, mean_patterns, simplified_run
from factfinding.model.anatomy import Anatomy
from factfinding.stats import majority_rate, mean_interval

SCHEMA = (
    {"model": pl.String, "n_name_tokens": pl.Int64}
    | estimate_schema("accuracy", "loss")
    | {"n": pl.Int64, "majority_rate": pl.Float64, "largest_error": pl.Float64}
)
CONFUSION_SCHEMA = {
    "n_name_tokens": pl.Int64, "sport": pl.String, "answer": pl.String, "athletes": pl.Int64
} | estimate_schema("share") | {"n": pl.Int64}  # fmt: skip
FEWEST = 2
"""Athletes with a name of one length, below which it has no tables: a mean pattern of one prompt is no mean."""


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
    """The effective model for the names of the athletes, one set of tables per number of name tokens.

    prompts: `full` and `name_only` of the same athletes in the same order. accuracy has columns model (`effective`, and
    the unchanged model `full` read by the same probe at the same layer), n_name_tokens, accuracy, loss (nats),
    n, majority_rate, and largest_error: of the effective model's residual from the simplified model's, over the largest
    value. Probes are those of folds that have not seen the athlete; the saved model has the one fitted on all.
    """
    if reader.empty or parts is None:
        return Result(
            model=None, accuracy=pl.DataFrame(schema=SCHEMA), confusion=pl.DataFrame(schema=CONFUSION_SCHEMA)
        )
    last, table = parts.lookup[1], prompts["name_only"]
    groups = [group for group in groups_of(table) if len(group.rows) >= FEWEST]
    everyone = groups_of(table)
    outputs = name_outputs(anatomy, table, everyone, batch_size=batch_size)
    late = range(parts.concatenate + 1, anatomy.n_layers)
    attn = {layer: outputs.attn[:, layer].mean(0) for layer in late}
    mlp = {layer: outputs.mlp[:, layer].mean(0) for layer in range(parts.lookup[0])}
    names = [names_of(anatomy, table, group, parts, batch_size=batch_size) for group in groups]
    model = EffectiveModel.from_anatomy(
        anatomy, parts, names, attn=attn, mlp=mlp, sports=reader.sports, seed=seed,
        weight=torch.from_numpy(reader.weight[-1, last]), bias=torch.from_numpy(reader.bias[-1, last]),
    )  # fmt: skip
    full = name_outputs(anatomy, prompts["full"], groups_of(prompts["full"]), batch_size=batch_size)
    rows, confusion = [], []
    for group, known in zip(groups, names, strict=True):
        tokens = tokens_of(table, group.rows, anatomy.device)
        with torch.no_grad():
            resid = model.stream(*tokens[:, 1:].T)
        constants = {layer: value.expand(len(tokens), -1) for layer, value in attn.items()}
        below = {
            layer: mlp[layer].expand(len(tokens), -1)
            for layer in constant_mlps(parts, parallel=anatomy.parallel)
        }
        truth, _ = simplified_run(anatomy, tokens, known.layout, known.patterns, attn=constants, mlp=below)
        truth = truth[:, parts.lookup[0] : last + 1]
        error = float((resid - truth).abs().max() / truth.abs().max())
        said = _logp(reader, last, resid[:, -1].double().cpu().numpy(), table, group)
        unchanged = _logp(reader, last, full.resid[group.rows, last].double().numpy(), table, group)
        rows.append(_row("effective", said, table, group, reader, seed) | {"largest_error": error})
        rows.append(_row("full", unchanged, table, group, reader, seed) | {"largest_error": None})
        confusion += _confusion(said, table, group, reader, seed)
    return Result(
        model=model,
        accuracy=pl.DataFrame(rows, schema=SCHEMA),
        confusion=pl.DataFrame(confusion, schema=CONFUSION_SCHEMA),
    )


def names_of(
    anatomy: Anatomy, prompts: pl.DataFrame, group: Group, parts: Parts, *, batch_size: int
) -> Names:
    """The names of one layout: tokens by slot (those that stand there in some name) and frozen patterns."""
    batches = [tokens_of(prompts, rows, anatomy.device) for rows in group.batches(batch_size)]
    slots = torch.cat(batches)[:, group.layout.first_name : group.layout.final_name + 1]
    return Names(
        layout=group.layout,
        tokens=tuple(slot.unique() for slot in slots.T),
        patterns=mean_patterns(anatomy, batches, group.layout, parts.concatenate),
    )


def _logp(
    reader: Readers, layer: int, resid: np.ndarray, prompts: pl.DataFrame, group: Group
) -> Float[np.ndarray, "group sports"]:
    folds = reader.folds_of(prompts["athlete"][group.rows].to_list())
    return reader.log_probabilities(layer, resid, folds)


def _row(
    model: str, logp: np.ndarray, prompts: pl.DataFrame, group: Group, reader: Readers, seed: int
) -> dict:
    truth = _truth(prompts, group, reader)
    hits, losses = logp.argmax(axis=1) == truth, -logp[np.arange(len(truth)), truth]
    return (
        {"model": model, "n_name_tokens": group.layout.n_name_tokens}
        | estimate_columns("accuracy", accuracy_estimate(hits, seed=seed))
        | estimate_columns("loss", mean_interval(losses, seed=seed))
        | {"n": len(truth), "majority_rate": majority_rate(truth)}
    )


def _confusion(
    logp: np.ndarray, prompts: pl.DataFrame, group: Group, reader: Readers, seed: int
) -> list[dict]:
    truth, answers = _truth(prompts, group, reader), logp.argmax(axis=1)
    rows = []
    for i, sport in enumerate(reader.sports):
        given = answers[truth == i]
        for j, answer in enumerate(reader.sports):
            share = accuracy_estimate(given == j, seed=seed) if len(given) else None
            rows.append(
                {"n_name_tokens": group.layout.n_name_tokens, "sport": sport, "answer": answer}
                | {"athletes": int((given == j).sum()), "n": len(given)}
                | estimate_columns("share", share)
            )
    return rows


def _truth(prompts: pl.DataFrame, group: Group, reader: Readers) -> np.ndarray:
    return np.array([reader.sports.index(sport) for sport in prompts["sport"][group.rows]])
