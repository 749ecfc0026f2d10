"""Total effects: what changes at END when one node's output at one position is replaced (P2.7).

Nodes are every head, attention layer and MLP layer; positions are those from the name on, since what comes before is
the same in all prompts. A node's output there is ablated in each of the four ways, or patched from the corrupt run (an
athlete of another sport with a prompt of the same layout), and the rest of the model runs on. The number is the change
of the logit difference, logit(own sport) - logit(corrupt athlete's sport); beside it stands what swapping the whole
name would do, the corrupt run's own difference minus the clean one's, so that their ratio is a share. The same for the
whole residual stream before each layer (`residual_patching`), where the answers that become the donor's count too.

Run through the fast engine (engine/suffix.py) on a seeded sample of athletes: all nodes of a layer and position are rows
of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.analysis.estimates import accuracy_estimate, each, estimate_columns, estimate_schema
from factfinding.analysis.groups import (
    CORRUPT,
    KINDS,
    RESAMPLED,
    Group,
    Layout,
    draw_donors,
    groups_of,
    labels_of,
    tokens_of,
)
from factfinding.engine.clean import Clean, activation, prepare
from factfinding.engine.readings import Logits, clean_values
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Edits, Suffix, edit
from factfinding.engine.trace import Read, run
from factfinding.model.anatomy import Anatomy
from factfinding.stats import majority_rate, mean_intervals

PLACE = {"role": pl.String, "number": pl.Int64, "token": pl.String}
NUMBERS = estimate_schema("effect") | {"whole_swap": pl.Float64, "share": pl.Float64, "n": pl.Int64}
TOTAL_SCHEMA = (
    {"node": pl.String, "type": pl.String, "layer": pl.Int64, "head": pl.Int64}
    | PLACE
    | {"kind": pl.String}
    | NUMBERS
)
RESIDUAL_SCHEMA = (
    {"layer": pl.Int64} | PLACE | NUMBERS | estimate_schema("follows") | {"majority_rate": pl.Float64}
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The athletes that are patched: their groups, sports, and whose activations they are given, by kind and draw."""

    prompts: pl.DataFrame
    candidates: pl.DataFrame
    groups: list[Group]  # all athletes, in layouts: means are taken over them
    rows: Int[np.ndarray, " sampled"]
    labels: Int[np.ndarray, " athletes"]
    corrupt: Int[np.ndarray, " athletes"]
    donors: dict[str, list[Int[np.ndarray, " athletes"]]]

    @property
    def sampled(self) -> list[Group]:
        """The groups, with the sampled athletes only."""
        parts = [replace(group, rows=group.rows[np.isin(group.rows, self.rows)]) for group in self.groups]
        return [part for part in parts if len(part.rows)]


def sample(
    prompts: pl.DataFrame, candidates: pl.DataFrame, *, athletes: int, draws: int, seed: int
) -> Sample:
    """Draw at most `athletes` of those that have a partner of another sport with a prompt of the same layout."""
    rng, groups, labels = np.random.default_rng(seed), groups_of(prompts), labels_of(prompts, candidates)
    pools = [group.rows for group in groups]
    corrupt = draw_donors(labels, pools, same_sport=False, rng=rng)
    able = np.flatnonzero(corrupt >= 0)
    rows = np.sort(rng.permutation(able)[:athletes])
    donors = {
        kind: [draw_donors(labels, pools, same_sport=kind == "resample_same", rng=rng) for _ in range(draws)]
        for kind in RESAMPLED
    }
    return Sample(
        prompts=prompts, candidates=candidates, groups=groups, rows=rows, labels=labels, corrupt=corrupt,
        donors=donors | {CORRUPT: [corrupt]},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """The change of every candidate's logit for some athletes under one replacement; `key` says which."""

    key: tuple
    rows: Int[np.ndarray, " batch"]
    change: Float[np.ndarray, "batch candidates"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some sampled athletes of one layout and their clean run; `clean_logits` of the candidates at END."""

    layout: Layout
    rows: Int[np.ndarray, " batch"]
    clean: Clean
    reading: Logits
    clean_logits: Float[np.ndarray, "batch candidates"]


def total_effects(
    anatomy: Anatomy, drawn: Sample, *, kinds: Sequence[str] = (*KINDS, CORRUPT), batch_size: int, seed: int
) -> pl.DataFrame:
    """Columns node, type (head, attention, mlp), layer, head, role, number, token, kind, effect (logits) with its
    interval, whole_swap (mean, of the same athletes), share, n. Resampling averages over its draws first."""
    effects: list[Effect] = []
    whole: dict[int, float] = {}
    for group in drawn.sampled:
        means = place_means(anatomy, drawn, group.layout, batch_size=batch_size) if "mean" in kinds else {}
        for batch in _batches(anatomy, drawn, group, batch_size):
            whole |= _whole_swap(anatomy, drawn, batch)
            others = _others(anatomy, drawn, batch, kinds)
            for at, role, number in batch.layout.slots(batch.layout.first_name):
                for layer in range(anatomy.n_layers):
                    effects += _node_effects(anatomy, batch, means, others, (layer, at, role, number), kinds)
    rows = []
    for key, (difference, athletes) in _differences(drawn, effects).items():
        layer, role, number, node, kind = key
        where = _place(anatomy, drawn, role, number, athletes)
        rows.append(_node(layer, node) | where | {"kind": kind, "key": (difference, athletes)})
    return _estimated(rows, whole, TOTAL_SCHEMA, seed)


def residual_patching(anatomy: Anatomy, drawn: Sample, *, batch_size: int, seed: int) -> pl.DataFrame:
    """Columns layer (resid_pre of it), role, number, token, effect, whole_swap, share, n, and follows: the share of
    answers (best candidate) that are the donor's sport; majority_rate is of the donors' sports."""
    effects: list[Effect] = []
    whole: dict[int, float] = {}
    clean_logits = np.full((drawn.prompts.height, drawn.candidates.height), np.nan)
    for group in drawn.sampled:
        for batch in _batches(anatomy, drawn, group, batch_size):
            whole |= _whole_swap(anatomy, drawn, batch)
            clean_logits[batch.rows] = batch.clean_logits
            donor = _others(anatomy, drawn, batch, (CORRUPT,))[CORRUPT][0]
            everyone = torch.arange(len(batch.rows), device=anatomy.device)
            for at, role, number in batch.layout.slots(batch.layout.first_name):
                for layer in range(anatomy.n_layers):
                    site = Site("resid_pre", layer)
                    value = activation(anatomy, donor, site, at)
                    made = edit(anatomy, batch.clean, site, at=at, prompt=everyone, value=value)
                    change = Suffix(anatomy).effects(batch.clean, made, batch.reading)
                    key = (layer, role, number)
                    effects.append(Effect(key=key, rows=batch.rows, change=change.double().cpu().numpy()))
    rows, sports = [], drawn.labels[drawn.corrupt]
    for key, (difference, athletes) in _differences(drawn, effects).items():
        change = np.concatenate([effect.change for effect in effects if effect.key == key])
        follows = (clean_logits[athletes] + change).argmax(axis=1) == sports[athletes]
        layer, role, number = key
        rows.append(
            {"layer": layer} | _place(anatomy, drawn, role, number, athletes) | {"key": (difference, athletes)}
            | estimate_columns("follows", accuracy_estimate(follows, seed=seed))
            | {"majority_rate": majority_rate(sports[athletes])}
        )  # fmt: skip
    return _estimated(rows, whole, RESIDUAL_SCHEMA, seed)


def place_means(
    anatomy: Anatomy, drawn: Sample, layout: Layout, *, batch_size: int
) -> dict[Site, Float[Tensor, "positions ..."]]:
    """Mean outputs of all nodes at every position, over all athletes with this layout."""
    sites = [Site(kind, layer) for kind in ("z", "mlp_out") for layer in range(anatomy.n_layers)]
    group = next(group for group in drawn.groups if group.layout == layout)
    total: list[Tensor] = []
    for rows in group.batches(batch_size):
        tokens = tokens_of(drawn.prompts, rows, anatomy.device)
        sums = [
            value.sum(0) for value in run(anatomy, tokens, reads=[Read(site=site) for site in sites]).values
        ]
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    return {site: value / len(group.rows) for site, value in zip(sites, total, strict=True)}


def _batches(anatomy: Anatomy, drawn: Sample, group: Group, size: int) -> Iterator[Batch]:
    layout = group.layout
    reading = Logits(
        at=layout.end, tokens=torch.tensor(drawn.candidates["token_id"].to_list(), device=anatomy.device)
    )
    for rows in group.batches(size):
        clean = prepare(anatomy, tokens_of(drawn.prompts, rows, anatomy.device), start=layout.first_name)
        logits = clean_values(anatomy, clean, reading).double().cpu().numpy()
        yield Batch(layout=layout, rows=rows, clean=clean, reading=reading, clean_logits=logits)


def _others(anatomy: Anatomy, drawn: Sample, batch: Batch, kinds: Sequence[str]) -> dict[str, list[Clean]]:
    """The clean runs of the athletes whose activations this batch is given, by kind and draw."""
    found: dict[str, list[Clean]] = {}
    for kind in kinds:
        for donors in drawn.donors.get(kind, ()):
            given = np.where(
                donors[batch.rows] < 0, batch.rows, donors[batch.rows]
            )  # without a donor: unused
            tokens = tokens_of(drawn.prompts, given, anatomy.device)
            found.setdefault(kind, []).append(prepare(anatomy, tokens, start=batch.layout.first_name))
    return found


def _whole_swap(anatomy: Anatomy, drawn: Sample, batch: Batch) -> dict[int, float]:
    """By athlete: what the logit difference changes by when the whole prompt is the corrupt one."""
    tokens = tokens_of(drawn.prompts, drawn.corrupt[batch.rows], anatomy.device)
    corrupt = prepare(anatomy, tokens, start=batch.layout.end)
    logits = clean_values(anatomy, corrupt, batch.reading).double().cpu().numpy()
    change = _logit_difference(drawn, batch.rows, logits - batch.clean_logits)
    return dict(zip(batch.rows.tolist(), change.tolist(), strict=True))


def _logit_difference(
    drawn: Sample, rows: Int[np.ndarray, " batch"], logits: Float[np.ndarray, "batch candidates"]
) -> Float[np.ndarray, " batch"]:
    at = np.arange(len(rows))
    return logits[at, drawn.labels[rows]] - logits[at, drawn.labels[drawn.corrupt[rows]]]


def _node_effects(
    anatomy: Anatomy,
    batch: Batch,
    means: dict,
    others: dict[str, list[Clean]],
    where: tuple,
    kinds: Sequence[str],
) -> Iterator[Effect]:
    """All nodes of one layer at one position under every kind: attention's and MLP's rows in a batch each."""
    layer, at, role, number = where
    b = len(batch.rows)
    for kind_of_site, names in (("attn_out", ["attention", *range(anatomy.n_heads)]), ("mlp_out", ["mlp"])):
        deltas, keys = [], []
        for kind in kinds:
            for i, delta in enumerate(
                _deltas(anatomy, batch.clean, kind_of_site, (layer, at), kind, means, others)
            ):
                deltas.append(delta)
                keys += [((layer, role, number, name, kind), i) for name in names]
        rows = torch.cat([delta.transpose(0, 1).flatten(0, 1) for delta in deltas])  # kind, node, athlete
        prompt = torch.arange(b, device=rows.device).repeat(len(rows) // b)
        edits = Edits(kind=kind_of_site, layer=layer, at=at, prompt=prompt, delta=rows)
        change = Suffix(anatomy).effects(batch.clean, edits, batch.reading).double().cpu().numpy()
        for (key, _draw), part in zip(keys, change.reshape(-1, b, change.shape[1]), strict=True):
            yield Effect(key=key, rows=batch.rows, change=part)


def _deltas(
    anatomy: Anatomy,
    clean: Clean,
    kind_of_site: str,
    where: tuple[int, int],
    kind: str,
    means: dict,
    others: dict,
) -> Iterator[Float[Tensor, "batch nodes d_model"]]:
    """What the replacement adds to the residual, draw by draw: for attention the whole layer first, then its heads."""
    layer, at = where
    site = Site("z" if kind_of_site == "attn_out" else "mlp_out", layer)
    old = activation(anatomy, clean, site, at)
    if kind == "zero":
        values = [torch.zeros_like(old)]
    elif kind == "mean":
        values = [means[site][at].expand_as(old)]
    else:
        values = [activation(anatomy, other, site, at) for other in others[kind]]
    for value in values:
        if kind_of_site == "mlp_out":
            yield (value - old)[:, None]
            continue
        heads = torch.einsum("bhe,hed->bhd", value - old, anatomy.blocks[layer].out_weight)
        whole = heads.sum(1)
        if kind == "zero":  # the layer's output has a bias, which belongs to no head
            whole = -activation(anatomy, clean, Site("attn_out", layer), at)
        yield torch.cat((whole[:, None], heads), dim=1)


def _differences(drawn: Sample, effects: Sequence[Effect]) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
    """By key: each athlete's change of the logit difference, averaged over draws, and the athletes."""
    found: dict[tuple, tuple[list, list]] = {}
    for effect in effects:
        values, rows = found.setdefault(effect.key, ([], []))
        values.append(_logit_difference(drawn, effect.rows, effect.change))
        rows.append(effect.rows)
    return {
        key: _over_draws(drawn, key, np.concatenate(v), np.concatenate(r)) for key, (v, r) in found.items()
    }


def _over_draws(
    drawn: Sample, key: tuple, values: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if key[-1] in RESAMPLED:
        able = np.all([donors[rows] >= 0 for donors in drawn.donors[key[-1]]], axis=0)
        values, rows = values[able], rows[able]
    athletes, index, counts = np.unique(rows, return_inverse=True, return_counts=True)
    if len(athletes) == len(rows):
        return values, rows
    return np.bincount(index, weights=values) / counts, athletes


def _place(anatomy: Anatomy, drawn: Sample, role: str, number: int, athletes: np.ndarray) -> dict:
    """Role and number of a position; its token's text where that is the same in every prompt."""
    text = None
    if role in ("relation", "end"):
        prompt = drawn.prompts.row(int(athletes[0]), named=True)
        at = [i for i, r in enumerate(prompt["roles"]) if r == role][number]
        text = anatomy.tokenizer.decode([prompt["token_ids"][at]])
    return {"role": role, "number": number, "token": text}


def _node(layer: int, node: str | int) -> dict:
    names = {"attention": f"attn_out:{layer}", "mlp": f"mlp_out:{layer}"}
    head = None if isinstance(node, str) else node
    return {
        "node": names.get(node, f"L{layer}H{node}"),
        "type": "head" if head is not None else node,
        "layer": layer,
        "head": head,
    }


def _estimated(rows: list[dict], whole: dict[int, float], schema: dict, seed: int) -> pl.DataFrame:
    """Rows with their effects estimated, those of the same athletes on the same resamples."""
    by_athletes: dict[bytes, list[dict]] = {}
    for row in rows:
        by_athletes.setdefault(row["key"][1].tobytes(), []).append(row)
    for same in by_athletes.values():
        athletes = same[0]["key"][1]
        estimates = each(mean_intervals(np.stack([row["key"][0] for row in same], axis=1), seed=seed))
        swap = float(np.mean([whole[int(athlete)] for athlete in athletes]))
        for row, estimate in zip(same, estimates, strict=True):
            del row["key"]
            share = estimate.value / swap if swap else None
            row |= estimate_columns("effect", estimate) | {
                "whole_swap": swap,
                "share": share,
                "n": estimate.n,
            }
    return pl.DataFrame(rows, schema=schema)
