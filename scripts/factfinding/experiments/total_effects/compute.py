"""Total effects: what changes at END when one node's output at one position is replaced (P2.7).

Nodes are every head, attention layer and MLP layer; positions are those from the name on, since what comes before is
the same in all prompts. A node's output there is ablated in each of the four ways, or patched from the corrupt run, and
the rest of the model runs on. The donors of `resample_other` are of the corrupt partner's answer, against which the logit
difference is taken: one of a third answer would move the answer where the difference does not look.

Run through the fast engine (engine/suffix.py) on a seeded sample of subjects: all nodes of a layer and position are rows
of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean, activation
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Edits, Suffix
from factfinding.engine.tokens import tokens_of
from factfinding.engine.trace import Read, run
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.groups import CORRUPT, KINDS, Group, PromptLayout, in_batches
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
from factfinding.tables import schema_of

DONORS = {"resample_same": "own answer", "resample_other": "partner's answer", CORRUPT: "partner"}
"""Whose outputs are put in, by kind."""


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `total_effects`."""
    anatomy, section, size = anatomy_of(inputs), settings.interventions, settings.compute.batch_size
    swapped, ablated = (
        sample_of(inputs, section, subjects=subjects, draws=section.draws)
        for subjects in (section.patched_subjects, section.node_subjects)  # the second are some of the first
    )
    nodes = anatomy.n_layers * (anatomy.n_heads + 2)
    say(f"{nodes} nodes of {len(swapped.rows)} subjects patched, of {len(ablated.rows)} ablated")
    few = min(size, 32)  # four kinds of rows and more for each prompt
    kinds = [
        total_effects(anatomy, ablated, kinds=KINDS, batch_size=few, seed=section.seed),
        total_effects(anatomy, swapped, kinds=[CORRUPT], batch_size=size, seed=section.seed),
    ]
    return {"total_effects": pl.concat(kinds)}


def total_effects(
    anatomy: Anatomy, drawn: Sample, *, kinds: Sequence[str] = (*KINDS, CORRUPT), batch_size: int, seed: int
) -> pl.DataFrame:
    """Columns node, type (head, attention, mlp), layer, head, role, number, token, kind, effect (logits) with its
    interval, whole_swap (mean, of the same subjects), share, n. Resampling averages over its draws first."""
    layouts = [group.layout for group in drawn.sampled] if "mean" in kinds else []
    means = {layout: place_means(anatomy, drawn, layout, batch_size=batch_size) for layout in layouts}

    def measure(batch: Batch) -> Iterator[Effect]:
        others = donor_runs(anatomy, drawn, batch, kinds)
        given = Given(means=means.get(batch.layout, {}), others=others)
        for at, role, number in batch.layout.slots(batch.layout.first_name):
            for layer in range(anatomy.n_layers):
                yield from _node_effects(anatomy, batch, given, (layer, at, role, number), kinds)

    found = patched(anatomy, drawn, measure, batch_size=batch_size)
    rows = []
    for key, (difference, subjects) in differences(drawn, found.effects).items():
        layer, role, number, node, kind = key
        where = place_of(anatomy, drawn, role, number, subjects)
        rows.append(
            _node(layer, node) | where
            | {"kind": kind, "donor": DONORS.get(kind), "key": (difference, subjects)}
        )  # fmt: skip
    return estimated(rows, found.whole, schema_of("total_effects"), seed, rivals=_rivals)


def _rivals(row: dict) -> tuple:
    """Nodes at one position under one replacement; a layer's attention, which contains its heads, apart from these."""
    return row["role"], row["number"], row["kind"], row["type"] == "attention"


def place_means(
    anatomy: Anatomy, drawn: Sample, layout: PromptLayout, *, batch_size: int
) -> dict[Site, Float[Tensor, "positions ..."]]:
    """Mean outputs of all nodes at every position, over all subjects with this layout."""
    sites = [Site(kind, layer) for kind in ("z", "mlp_out") for layer in range(anatomy.n_layers)]
    group = next(group for group in drawn.groups if group.layout == layout)

    def summed(group: Group, rows: Int[np.ndarray, " batch"]) -> list[Tensor]:
        tokens = tokens_of(drawn.prompts, rows, anatomy.device)
        values = run(anatomy, tokens, reads=[Read(site=site) for site in sites]).values
        return [value.sum(0) for value in values]

    sums = [found for _, found in in_batches([group], batch_size, summed)]
    totals = (sum(of_site) for of_site in zip(*sums, strict=True))
    return {site: total / len(group.rows) for site, total in zip(sites, totals, strict=True)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What is put in place of a node's output: means at every position, and the runs of other subjects by kind."""

    means: dict[Site, Float[Tensor, "positions ..."]]
    others: dict[str, list[Clean]]


def _node_effects(
    anatomy: Anatomy, batch: Batch, given: Given, where: tuple, kinds: Sequence[str]
) -> Iterator[Effect]:
    """All nodes of one layer at one position under every kind: attention's and MLP's rows in a batch each."""
    layer, at, role, number = where
    b = len(batch.rows)
    for kind_of_site, names in (("attn_out", ["attention", *range(anatomy.n_heads)]), ("mlp_out", ["mlp"])):
        deltas, keys = [], []
        for kind in kinds:
            found = _deltas(anatomy, batch.clean, kind_of_site, (layer, at), kind, given)
            for i, delta in enumerate(found):
                deltas.append(delta)
                keys += [((layer, role, number, name, kind), i) for name in names]
        rows = torch.cat([delta.transpose(0, 1).flatten(0, 1) for delta in deltas])  # kind, node, subject
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
    given: Given,
) -> Iterator[Float[Tensor, "batch nodes d_model"]]:
    """What the replacement adds to the residual, draw by draw: for attention the whole layer first, then its heads."""
    layer, at = where
    site = Site("z" if kind_of_site == "attn_out" else "mlp_out", layer)
    old = activation(anatomy, clean, site, at)
    if kind == "zero":
        values = [torch.zeros_like(old)]
    elif kind == "mean":
        values = [given.means[site][at].expand_as(old)]
    else:
        values = [activation(anatomy, other, site, at) for other in given.others[kind]]
    for value in values:
        if kind_of_site == "mlp_out":
            yield (value - old)[:, None]
            continue
        heads = torch.einsum("bhe,hed->bhd", value - old, anatomy.blocks[layer].out_weight)
        whole = heads.sum(1)
        if kind == "zero":  # the layer's output has a bias, which belongs to no head
            whole = -activation(anatomy, clean, Site("attn_out", layer), at)
        yield torch.cat((whole[:, None], heads), dim=1)


def _node(layer: int, node: str | int) -> dict:
    names = {"attention": f"attn_out:{layer}", "mlp": f"mlp_out:{layer}"}
    head = None if isinstance(node, str) else node
    return {
        "node": names.get(node, f"L{layer}H{node}"),
        "type": "head" if head is not None else node,
        "layer": layer,
        "head": head,
    }
