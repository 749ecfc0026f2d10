"""What one checkpoint does with each subject: what each stage is able to do by itself, and what the answer loses without it.

A stage that is knocked out can take no more from the answer than there is, so by that alone all stages come up together,
with the answer. What a stage is *able* to do is therefore measured in a way that needs no other stage:

    concatenation   attention from the final name token to the earlier ones, of the gathering head that gives most
    extraction      the residual stream at the final name token pushed along the direction to which END is most sensitive, on
                    average over other subjects, by a tenth of its length: how far the logit difference goes the partner's
                    way. It asks whether END would read an answer there, were one written. The push is a share of what
                    stands there, and not of the way to another name, which grows as names come to be told apart
    attends         attention from END to the final name token, of the heads that extract in the finished model

(The lookup's measure is a probe of the residual stream there, beside one of the name's own embeddings; compute.py fits both.)
What the answer *uses* is the loss of the logit difference when

    concatenation_used   the final name token sees no earlier name token
    lookup_used          the MLPs there that can read several tokens write their mean over subjects
    extraction_used      no later position sees the final name token, after the layer where the lookup ends

Each is of the checkpoint alone: nothing of the finished model is put into it, whose directions an early checkpoint does not
share. What is taken from the finished model are the subjects, and which layers and heads are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.attribution import Metric, gradients
from factfinding.engine.sites import Site
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Edit, Knockout, Read, run
from factfinding.methods.groups import Group, in_batches
from factfinding.methods.patched import Sample
from factfinding.model.anatomy import Anatomy

PUSH = 0.1
"""Length of the push, of that of the residual stream."""
Rows = Int[np.ndarray, " batch"]
"""Rows of the prompts table."""
BySubject = dict[str, Float[np.ndarray, " sampled"]]
"""By measure; NaN where a subject has none, such as attention between the tokens of a name that has one."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """What is looked at. gather: layers whose heads may gather the name; layer: the last of the lookup; heads: those that
    extract in the finished model."""

    gather: tuple[int, ...]
    layer: int
    heads: tuple[Site, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The sampled subjects at one checkpoint: each measure, and what it would be if there were nothing; the residual stream at
    the final name token, the embeddings first; and the name's own embeddings, of its final token and the mean of the others
    (nothing for a name of one token)."""

    values: BySubject
    baselines: BySubject
    resid: Float[np.ndarray, "sampled layers+1 d_model"]
    name: Float[np.ndarray, "sampled 2*d_model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Clean:
    """Unchanged runs of the sampled subjects and their partners, by row of the prompts table; NaN for others."""

    logits: Float[np.ndarray, "subjects candidates"]
    resid: Float[np.ndarray, "subjects layers+1 d_model"]
    mlp: Float[np.ndarray, "subjects mlps d_model"]
    gathered: Float[np.ndarray, "subjects heads"]
    attended: Float[np.ndarray, " subjects"]
    name: Float[np.ndarray, "subjects 2*d_model"]


def seen(anatomy: Anatomy, drawn: Sample, where: Where, *, batch_size: int, seed: int) -> Seen:
    """All measures but the probes. drawn: the subjects, each with a partner of another answer and the same layout."""
    rows, rng = drawn.rows, np.random.default_rng(seed)
    half = rng.permutation(np.arange(len(rows)) % 2)
    noise = rng.normal(size=(len(rows), anatomy.d_model))
    clean = _unchanged(anatomy, drawn, where, batch_size=batch_size)
    slopes, used = _changed(anatomy, drawn, where, clean, batch_size=batch_size)
    before = _difference(drawn, clean.logits[rows])
    length = PUSH * np.linalg.norm(clean.resid[rows, where.layer + 1], axis=1, keepdims=True)
    values: BySubject = {
        "recall": (clean.logits[rows].argmax(1) == drawn.labels[rows]).astype(np.float64),
        "logit_difference": before,
        "attends": clean.attended[rows],
        **{name: before - _difference(drawn, logits) for name, logits in used.items()},
    }
    baselines: BySubject = {name: np.zeros(len(rows)) for name in values}
    moves = {"values": _towards(drawn, slopes, half), "baselines": noise}
    for name, move in moves.items():
        logits = _moved(anatomy, drawn, where, clean, _as_long(move, length), batch_size=batch_size)
        (values if name == "values" else baselines)["extraction"] = before - _difference(drawn, logits)
    values["concatenation"] = _most_gathered(clean.gathered[rows])
    prompts = drawn.prompts[rows]
    name_at, end_at = (prompts[role].to_numpy().astype(np.float64) for role in ("final_name", "end"))
    earlier = name_at - prompts["first_name"].to_numpy()
    baselines["concatenation"] = np.where(earlier > 0, earlier / (name_at + 1), np.nan)
    baselines["attends"] = 1 / (end_at + 1)
    return Seen(values=values, baselines=baselines, resid=clean.resid[rows], name=clean.name[rows])


def _unchanged(anatomy: Anatomy, drawn: Sample, where: Where, *, batch_size: int) -> _Clean:
    needed = np.union1d(drawn.rows, drawn.corrupt[drawn.rows])
    groups = [replace(group, rows=np.intersect1d(group.rows, needed)) for group in drawn.groups]
    layers, mlps = range(anatomy.n_layers), anatomy.mlps_of_several_tokens
    at_end = sorted({head.layer for head in where.heads})

    def read(group: Group, rows: Rows) -> tuple[np.ndarray, ...]:
        tokens, name, end = _placed(anatomy, drawn, group, rows)
        sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in layers)]
        sites += [Site("mlp_out", layer) for layer in mlps]
        sites += [Site("pattern", layer) for layer in where.gather]
        reads = [Read(site=site, at=name) for site in sites]
        reads += [Read(site=Site("pattern", layer), at=end) for layer in at_end]
        found = run(anatomy, tokens, logits_at=end, reads=reads)
        values = [value.double().cpu().numpy() for value in found.values]
        n, m = len(layers) + 1, len(mlps)
        resid, mlp = (np.stack(part, axis=1) for part in (values[:n], values[n : n + m]))
        patterns = values[n + m : n + m + len(where.gather)]
        first, last = group.layout.first_name, group.layout.final_name
        heads = np.concatenate([pattern[:, :, first:last].sum(-1) for pattern in patterns], axis=1)
        by_layer = dict(zip(at_end, values[n + m + len(where.gather) :], strict=True))
        attended = [by_layer[head.layer][:, head.index, last] for head in where.heads]
        none = np.full(len(rows), np.nan)
        gathered = heads if last > first else np.full_like(heads, np.nan)
        logits = _of_candidates(drawn, found.logits)
        seen_there = np.mean(attended, axis=0) if attended else none
        return logits, resid, mlp, gathered, seen_there, _embedded(anatomy, tokens[:, first : last + 1])

    parts = list(in_batches([group for group in groups if len(group.rows)], batch_size, read))
    whole = []
    for i in range(len(parts[0][1])):
        array = np.full((drawn.prompts.height, *parts[0][1][i].shape[1:]), np.nan)
        for rows, found in parts:
            array[rows] = found[i]
        whole.append(array)
    names = ("logits", "resid", "mlp", "gathered", "attended", "name")
    return _Clean(**dict(zip(names, whole, strict=True)))


@torch.no_grad()
def _embedded(anatomy: Anatomy, names: Int[Tensor, "batch name"]) -> Float[np.ndarray, "batch 2*d_model"]:
    """The embedding of each name's final token, and the mean of those of its other tokens."""
    embeddings = anatomy.embedding(names).double().cpu().numpy()
    others = embeddings[:, :-1].mean(axis=1) if names.shape[1] > 1 else np.zeros_like(embeddings[:, -1])
    return np.concatenate([embeddings[:, -1], others], axis=1)


def _changed(
    anatomy: Anatomy, drawn: Sample, where: Where, clean: _Clean, *, batch_size: int
) -> tuple[Float[np.ndarray, "sampled answers d_model"], dict[str, Float[np.ndarray, "sampled candidates"]]]:
    """The slope of each answer's logit in the residual stream at the final name token, above the mean of all answers; and the
    logits with parts knocked out, by what is then measured."""
    layers, mlps = range(anatomy.n_layers), anatomy.mlps_of_several_tokens
    tokens_of_answers = drawn.candidates["token_id"].to_list()
    place = Site("resid_post", where.layer)

    def work(group: Group, rows: Rows) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        tokens, name, end = _placed(anatomy, drawn, group, rows)
        first, last, final = group.layout.first_name, group.layout.final_name, group.layout.end
        slopes = [
            gradients(
                anatomy,
                tokens,
                [Read(site=place, at=name)],
                _above_mean(answer, tokens_of_answers),
                logits_at=end,
            ).gradients[0]
            for answer in tokens_of_answers
        ]
        mean = np.nanmean(clean.mlp[group.rows], axis=0)
        averaged = [
            Edit(site=Site("mlp_out", layer), at=name, value=torch.from_numpy(mean[i]))
            for i, layer in enumerate(mlps)
        ]
        later = torch.arange(last + 1, final + 1, device=anatomy.device).expand(len(rows), -1)
        earlier = torch.arange(first, last, device=anatomy.device).expand(len(rows), -1)
        blind = [
            Knockout(layer=layer, queries=name[:, None], keys=earlier) for layer in layers if last > first
        ]
        shut = [
            Knockout(layer=layer, queries=later, keys=name[:, None]) for layer in layers[where.layer + 1 :]
        ]
        runs = {
            "concatenation_used": run(anatomy, tokens, logits_at=end, knockouts=blind).logits,
            "lookup_used": run(anatomy, tokens, logits_at=end, edits=averaged).logits,
            "extraction_used": run(anatomy, tokens, logits_at=end, knockouts=shut).logits,
        }
        logits = {what: _of_candidates(drawn, found) for what, found in runs.items()}
        if last == first:
            logits["concatenation_used"] = np.full_like(logits["lookup_used"], np.nan)
        return torch.stack(slopes, dim=1).double().cpu().numpy(), logits

    slopes = np.empty((len(drawn.rows), len(tokens_of_answers), anatomy.d_model))
    used: dict[str, np.ndarray] = {}
    for rows, (part, logits) in in_batches(drawn.sampled, batch_size, work):
        at = np.searchsorted(drawn.rows, rows)
        slopes[at] = part
        for what, found in logits.items():
            used.setdefault(what, np.full((len(drawn.rows), len(tokens_of_answers)), np.nan))[at] = found
    return slopes, used


def _moved(
    anatomy: Anatomy,
    drawn: Sample,
    where: Where,
    clean: _Clean,
    moves: Float[np.ndarray, "sampled d_model"],
    *,
    batch_size: int,
) -> Float[np.ndarray, "sampled candidates"]:
    """The candidates' logits when the residual stream at the final name token, after the lookup's last layer, is moved."""
    site = Site("resid_post", where.layer)

    def work(group: Group, rows: Rows) -> np.ndarray:
        tokens, name, end = _placed(anatomy, drawn, group, rows)
        value = clean.resid[rows, where.layer + 1] + moves[np.searchsorted(drawn.rows, rows)]
        edit = Edit(site=site, at=name, value=torch.from_numpy(value))
        return _of_candidates(drawn, run(anatomy, tokens, logits_at=end, edits=[edit]).logits)

    found = np.empty((len(drawn.rows), drawn.candidates.height))
    for rows, logits in in_batches(drawn.sampled, batch_size, work):
        found[np.searchsorted(drawn.rows, rows)] = logits
    return found


def _placed(anatomy: Anatomy, drawn: Sample, group: Group, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of these prompts, and the positions of the final name token and of END, one for each."""
    tokens = tokens_of(drawn.prompts, rows, anatomy.device)
    name, end = (
        torch.full((len(rows),), at, device=anatomy.device)
        for at in (group.layout.final_name, group.layout.end)
    )
    return tokens, name, end


def _of_candidates(drawn: Sample, logits: Tensor | None) -> np.ndarray:
    assert logits is not None
    return logits[:, drawn.candidates["token_id"].to_list()].double().cpu().numpy()


def _above_mean(answer: int, answers: Sequence[int]) -> Metric:
    """An answer's logit above the mean of all of them."""

    def metric(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return logits[:, answer] - logits[:, list(answers)].mean(1)

    return metric


def _difference(
    drawn: Sample, logits: Float[np.ndarray, "sampled candidates"]
) -> Float[np.ndarray, " sampled"]:
    """The logit difference of each subject: the own answer's logit less the partner's."""
    at = np.arange(len(drawn.rows))
    return logits[at, drawn.labels[drawn.rows]] - logits[at, drawn.labels[drawn.corrupt[drawn.rows]]]


def _towards(
    drawn: Sample, slopes: Float[np.ndarray, "sampled answers d_model"], half: Int[np.ndarray, " sampled"]
) -> Float[np.ndarray, "sampled d_model"]:
    """For each subject the direction from its own answer to its partner's, by the mean slopes of the other half."""
    mean = np.stack([slopes[half != side].mean(axis=0) for side in (0, 1)])
    own, partner = drawn.labels[drawn.rows], drawn.labels[drawn.corrupt[drawn.rows]]
    return mean[half, partner] - mean[half, own]


def _as_long(
    moves: Float[np.ndarray, "sampled d_model"], length: Float[np.ndarray, "sampled 1"]
) -> Float[np.ndarray, "sampled d_model"]:
    """The same directions of these lengths; what is nothing stays nothing."""
    norm = np.linalg.norm(moves, axis=1, keepdims=True)
    return moves * length / np.where(norm > 0, norm, 1.0)


def _most_gathered(gathered: Float[np.ndarray, "sampled heads"]) -> Float[np.ndarray, " sampled"]:
    """Attention to the earlier name tokens, of the head that gives most over the subjects whose names have several."""
    has = ~np.isnan(gathered).any(axis=1)
    return gathered[:, gathered[has].mean(axis=0).argmax()] if has.any() else np.full(len(gathered), np.nan)
