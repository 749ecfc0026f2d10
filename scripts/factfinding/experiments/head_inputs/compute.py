"""What the extracting heads read (P2.4): node at the final name token -> a head's value -> END -> logits; see
methods/direct.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.engine import direct as closed_form
from factfinding.engine.cached import activations_of, cached_nodes, cached_pattern, cached_resid, rows_of
from factfinding.engine.direct import BATCH, Effects, HeadPath, NodeOutputs, Readout
from factfinding.engine.sites import Site
from factfinding.files import CSV_ROWS
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.direct import (
    ALL,
    Pairs,
    clean_difference,
    heads_of,
    largest,
    mean_changes,
    node_changes,
    node_frame,
    opening,
    ranked,
)
from factfinding.model.anatomy import Anatomy
from factfinding.tables import as_declared, empty


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `head_inputs`. From weights and cached activations: the model does not run."""
    anatomy, pairs, readout = opening(inputs, settings.heads)
    at_name = torch.tensor(pairs.prompts["final_name"].to_list(), dtype=torch.int64)
    tables = [empty("head_inputs")]
    with activations_of(inputs) as file:
        rows = rows_of(file, pairs.prompts["subject"])
        resid_end = cached_resid(file, "end", anatomy.n_layers - 1, rows)
        heads = heads_of(inputs, settings)
        deepest = max((head.layer for head in heads), default=0)
        nodes = cached_nodes(file, "final_name", rows, n_layers=anatomy.n_layers, before=deepest)
        for head in heads:
            say(f"what {head} reads at the name")
            below = _below(nodes, head.layer, cached_resid(file, "final_name", head.layer - 1, rows))
            pattern = cached_pattern(file, head.layer, rows)[:, head.index]
            attention = pattern[torch.arange(len(rows)), at_name]
            given = {"attention": attention, "resid_end": resid_end, "seed": settings.heads.seed}
            tables.append(head_inputs(anatomy, head, below, pairs, readout, **given))
    return {"head_inputs": largest(pl.concat(tables), CSV_ROWS)}


def _below(nodes: NodeOutputs, layer: int, resid: Float[Tensor, "subjects d_model"]) -> NodeOutputs:
    """The nodes of the layers below one, and `resid`, the residual that it reads."""
    parts = {name: getattr(nodes, name)[:, :layer] for name in ("z", "attn_out", "mlp_out")}
    return replace(nodes, resid=resid, **parts)


def head_inputs(
    anatomy: Anatomy,
    reader: Site,
    nodes: NodeOutputs,
    pairs: Pairs,
    readout: Readout,
    *,
    attention: Float[Tensor, " subjects"],
    resid_end: Float[Tensor, "subjects d_model"],
    seed: int,
    batch: int = BATCH,
) -> pl.DataFrame:
    """Rows of the table `head_inputs` for one head: what reaches the logits through its value (P2.4).

    nodes: at the final name token, of the layers below the head's own. attention: of the head, from END to that token,
    in the clean run. resid_end: the clean last residual at END. rank counts nodes, heads
    and whole attention layers alike, 1 for the most negative exact change.
    """
    weights, through = [block.out_weight for block in anatomy.blocks], HeadPath.of(anatomy, reader)

    def path(rows: slice, clean: NodeOutputs, donor: NodeOutputs, exact: bool) -> tuple[Effects, Tensor]:
        at = {"attention": attention[rows], "resid_end": resid_end[rows]}
        change = (donor.resid - clean.resid)[:, None]
        arrived = through.carry(clean.resid, change, attention[rows], exact=exact)
        whole = readout.change(resid_end[rows], arrived, exact=exact)
        return closed_form.head_input_effects(
            clean, donor, weights, through, readout, exact=exact, **at
        ), whole

    if pairs.prompts.is_empty():
        return empty("head_inputs")
    changes = {exact: node_changes(nodes, pairs, path, exact, batch) for exact in (True, False)}
    everybody = np.ones(pairs.prompts.height, dtype=bool)
    table = mean_changes(
        node_frame(nodes), changes, clean_difference(resid_end, pairs, readout), everybody, seed
    )
    table = ranked(table, pl.col("kind") != ALL).with_columns(pl.lit(str(reader)).alias("reader"))
    return as_declared(table, "head_inputs")
