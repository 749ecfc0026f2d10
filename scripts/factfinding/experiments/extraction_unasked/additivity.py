"""Which parts add up to the right answer, and whether they add up: subject heads, relation heads, mixed heads, MLPs (P1.2).

After Chughtai, Cooney and Nanda (2024). Every subject is asked every question, and what a head does to the logits of all
answers to all questions is taken apart as in an analysis of variance with two factors: a part that depends on the subject
alone, one that depends on the question alone, and what depends on both together,

    effect(s, q) = mean + subject(s) + relation(q) + both(s, q)

A head is a subject head, or a relation head, if that part explains `mostly` of the variance, and a mixed head otherwise. A
node's effect is that of what it writes beyond its mean over all subjects and questions. A group's effect on an answer is
minus the change when the group alone is set to this mean, the final norm recomputed; the joint effect is that of setting
everything to its mean at once. If the parts add up, their sum is the joint effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int

from factfinding.engine.direct import Readout
from factfinding.engine.sites import head
from factfinding.experiments.extraction_unasked.recorded import Recorded, on_device
from factfinding.least import LEAST_SHARE
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.intervals import LEVELS
from factfinding.model.anatomy import Anatomy
from factfinding.stats import Estimate, majority_rate, mean_interval, paired_difference, resample_counts
from factfinding.tables import schema_of

KINDS = ("subject_head", "relation_head", "mixed_head")
SUM, JOINT = "sum", "joint"
RESAMPLES = 500
"""Resamples of subjects for the shares of variance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Effects by subject and question. tokens: all answers to all questions; target: the right one's place among them, and
    rivals: the answers to the same question.

    heads: logits by head, with their root mean square as `size`; kind: of each head. exact, frozen: effects on the right answer's logit less the mean of its rivals',
    of each group and (`JOINT`) of all at once, the final norm recomputed or with its scale kept; right: whether a group's
    logits alone (frozen) are largest at the right answer.
    """

    names: list[str]
    kind: list[str]
    heads: Float[np.ndarray, "subjects questions heads tokens"]
    size: Float[np.ndarray, " heads"]
    target: Int[np.ndarray, "subjects questions"]
    exact: dict[str, Float[np.ndarray, "subjects questions"]]
    frozen: dict[str, Float[np.ndarray, "subjects questions"]]
    right: dict[str, Bool[np.ndarray, "subjects questions"]]


def parts_of(
    anatomy: Anatomy, runs: Mapping[str, Recorded], facts: Mapping[str, pl.DataFrame], *, mostly: float
) -> Parts:
    """The parts of a complete design. facts: each question's prompts, in the order of the runs' subjects, with `target`."""
    targets = [facts[name]["target"].to_numpy() for name in runs]
    tokens = np.unique(np.concatenate(targets))
    readout, layers = Readout.of(anatomy, tokens.tolist()), range(anatomy.n_layers)
    target = np.stack([np.searchsorted(tokens, own) for own in targets], axis=1)
    rivals = np.stack([np.isin(tokens, own) for own in targets])
    z_mean, mlp_mean, embedding_mean, resid_mean = (
        np.mean([getattr(run, name).mean(axis=0) for run in runs.values()], axis=0)
        for name in ("z", "mlp", "embedding", "resid")
    )
    effects = [run.effects(anatomy, readout, z_mean=z_mean, mlp_mean=mlp_mean) for run in runs.values()]
    both = np.stack(effects, axis=1)
    names = [str(head(layer, index)) for layer in layers for index in range(anatomy.n_heads)]
    heads = both[:, :, : len(names)]
    kind = [kind_of(*shares(heads[:, :, at]), mostly=mostly) for at in range(len(names))]
    found: dict[str, dict[str, list[np.ndarray]]] = {"exact": {}, "frozen": {}, "right": {}}
    for at, run in enumerate(runs.values()):
        moved = _moved(anatomy, run, kind, z_mean=z_mean, mlp_mean=mlp_mean, embedding_mean=embedding_mean)
        moved[JOINT] = run.resid - resid_mean
        for name, change in moved.items():
            exact, frozen = (_logits(anatomy, readout, run, change, exact=how) for how in (True, False))
            found["exact"].setdefault(name, []).append(_margin(exact, target[:, at], rivals[at]))
            found["frozen"].setdefault(name, []).append(_margin(frozen, target[:, at], rivals[at]))
            found["right"].setdefault(name, []).append(frozen.argmax(axis=1) == target[:, at])
    together = {
        kind: {name: np.stack(columns, axis=1) for name, columns in groups.items()}
        for kind, groups in found.items()
    }
    return Parts(names=names, kind=kind, heads=heads, size=size_of(heads), target=target, **together)


def size_of(effects: Float[np.ndarray, "subjects questions heads tokens"]) -> Float[np.ndarray, " heads"]:
    """Root mean square of each head's effect; what is added to all logits is none."""
    centred = effects - effects.mean(axis=3, keepdims=True)
    return np.sqrt((centred**2).sum(axis=3).mean(axis=(0, 1)))


def _moved(
    anatomy: Anatomy,
    run: Recorded,
    kind: list[str],
    *,
    z_mean: np.ndarray,
    mlp_mean: np.ndarray,
    embedding_mean: np.ndarray,
) -> dict[str, Float[np.ndarray, "subjects d_model"]]:
    """What each group writes beyond its mean."""
    kinds = np.array(kind).reshape(anatomy.n_layers, anatomy.n_heads)
    found = {name: np.zeros(run.resid.shape) for name in KINDS}
    beyond = torch.from_numpy(run.z - z_mean)
    for layer, block in enumerate(anatomy.blocks):
        for name in KINDS:
            heads = torch.from_numpy(np.flatnonzero(kinds[layer] == name))
            weight = block.out_weight[heads.to(anatomy.device)].double()
            written = beyond[:, layer, heads].to(weight).flatten(1) @ weight.flatten(0, 1)
            found[name] += written.cpu().numpy()
    return found | {"mlps": (run.mlp - mlp_mean).sum(axis=1), "embedding": run.embedding - embedding_mean}


def _logits(
    anatomy: Anatomy, readout: Readout, run: Recorded, written: np.ndarray, *, exact: bool
) -> Float[np.ndarray, "subjects tokens"]:
    """Minus the change of the logits when what was written is taken away."""
    change = on_device(-np.asarray(written, dtype=np.float64), anatomy)[:, None]
    return -readout.change(on_device(run.resid, anatomy), change, exact=exact)[:, 0].double().cpu().numpy()


def _margin(
    logits: Float[np.ndarray, "subjects tokens"],
    target: Int[np.ndarray, " subjects"],
    rivals: Bool[np.ndarray, " tokens"],
) -> Float[np.ndarray, " subjects"]:
    """The right answer's logit less the mean of the other answers' to the same question."""
    own = logits[np.arange(len(target)), target]
    return own - (logits[:, rivals].sum(axis=1) - own) / (rivals.sum() - 1)


def shares(
    effects: Float[np.ndarray, "subjects questions tokens"],
    weights: Float[np.ndarray, " subjects"] | None = None,
) -> tuple[float, float]:
    """Shares of the variance of a head's effect that the subject alone, and the question alone, explains; 0 where nothing
    varies. Logits count up to what is added to all of them. weights: of subjects, with mean 1."""
    n = len(effects)
    weights = np.ones(n) if weights is None else weights
    centred = _centred(effects)
    by_question = np.tensordot(weights, centred, axes=(0, 0)) / n
    whole = by_question.mean(axis=0)
    by_subject = centred.mean(axis=1)
    total = float(weights @ (centred**2).sum(axis=(1, 2)) / n / centred.shape[1] - (whole**2).sum())
    if total <= 1e-12 * float((effects**2).sum(axis=2).mean()):
        return 0.0, 0.0
    subject = float(weights @ (by_subject**2).sum(axis=1) / n - (whole**2).sum())
    relation = float((by_question**2).sum(axis=1).mean() - (whole**2).sum())
    return subject / total, relation / total


def _centred(
    effects: Float[np.ndarray, "subjects questions tokens"],
) -> Float[np.ndarray, "subjects questions tokens"]:
    """Without what is added to all logits, in float64: shares are differences of sums of squares."""
    wide = effects.astype(np.float64)
    return wide - wide.mean(axis=2, keepdims=True)


def resampled_shares(
    effects: Float[np.ndarray, "subjects questions tokens"], weights: Float[np.ndarray, "resamples subjects"]
) -> tuple[Float[np.ndarray, " resamples"], Float[np.ndarray, " resamples"]]:
    """`shares` under each row of weights.

    The squared length of a weighted sum over subjects is a quadratic form of their weights, and the matrix of its products
    between subjects is the same for all resamples.
    """
    n, questions = effects.shape[:2]
    centred = _centred(effects)
    rows, by_subject = centred.reshape(n, -1), centred.mean(axis=1)

    def squared_mean(parts: Float[np.ndarray, "subjects k"]) -> Float[np.ndarray, " resamples"]:
        return ((weights @ (parts @ parts.T)) * weights).sum(axis=1) / n**2

    whole = squared_mean(by_subject)
    total = weights @ (rows**2).sum(axis=1) / n / questions - whole
    subject = weights @ (by_subject**2).sum(axis=1) / n - whole
    relation = squared_mean(rows) / questions - whole
    varies = total > 1e-12 * float((effects**2).sum(axis=2).mean())
    of_total = np.where(varies, total, 1.0)
    return np.where(varies, subject, 0.0) / of_total, np.where(varies, relation, 0.0) / of_total


def kind_of(subject: float, relation: float, *, mostly: float) -> str:
    """A head's kind by the shares of its variance."""
    return KINDS[0] if subject >= mostly else KINDS[1] if relation >= mostly else KINDS[2]


def additivity(parts: Parts, *, seed: int) -> pl.DataFrame:
    """The table `additivity`: each group, their sum, and everything at once."""
    rows, target = [], parts.target
    common: dict[str, Any] = {
        "n": len(target),
        "questions": target.shape[1],
        "majority_rate": majority_rate(target.ravel()),
    }
    counts = Counter(
        kind
        for kind, size in zip(parts.kind, parts.size, strict=True)
        if size >= LEAST_SHARE * parts.size.sum() > 0
    )
    sums = {
        how: np.sum([effect for name, effect in effects.items() if name != JOINT], axis=0)
        for how, effects in (("exact", parts.exact), ("frozen", parts.frozen))
    }
    for name in (*(one for one in parts.exact if one != JOINT), SUM, JOINT):
        row = common | {"part": name, "heads": counts[name] if name in KINDS else None}
        for how, effects in (("exact", parts.exact), ("frozen", parts.frozen)):
            effect = sums[how] if name == SUM else effects[name]
            row |= estimate_columns(how, mean_interval(effect, seed=seed))
        less = None
        if name == SUM:
            less = paired_difference(sums["exact"].mean(axis=1), parts.exact[JOINT].mean(axis=1), seed=seed)
        row |= estimate_columns("over_joint", less)
        hits = parts.right.get(name)
        row |= estimate_columns(
            "right", None if hits is None else mean_interval(hits.astype(float), seed=seed)
        )
        rows.append(row)
    return pl.DataFrame(rows, schema=schema_of("additivity"))


def additivity_heads(parts: Parts, *, seed: int) -> pl.DataFrame:
    """The table `additivity_heads`: of each head, on what its effect depends, and how large it is."""
    size, (n, questions), rows = parts.size, parts.heads.shape[:2], []
    drawn = np.concatenate(list(resample_counts(n, np.random.default_rng(seed), RESAMPLES))).astype(float)
    for at, name in enumerate(parts.names):
        effects = parts.heads[:, :, at]
        found, again = shares(effects), resampled_shares(effects, drawn)
        row = {
            "node": name,
            "layer": int(name[1:].split("H")[0]),
            "index": int(name.split("H")[1]),
            "kind": parts.kind[at],
        }
        for column, value, draws in zip(("subject_share", "relation_share"), found, again, strict=True):
            low, high = np.quantile(draws, LEVELS) if n > 1 else (np.nan, np.nan)
            row |= estimate_columns(
                column, Estimate(value=float(value), low=float(low), high=float(high), n=n)
            )
        row |= {"size": float(size[at]), "share": float(size[at] / size.sum()) if size.sum() else 0.0}
        rows.append(row | {"n": n, "questions": questions})
    return pl.DataFrame(rows, schema=schema_of("additivity_heads"))
