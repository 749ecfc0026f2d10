"""Which nodes write the answer at END (P2.2): node -> final norm -> logits; see methods/direct.py."""

from __future__ import annotations

import numpy as np
import polars as pl

from factfinding.engine.cached import activations_of, cached_nodes, rows_of
from factfinding.engine.direct import BATCH, NodeOutputs, Readout
from factfinding.files import CSV_ROWS
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.direct import (
    ALL,
    Pairs,
    clean_difference,
    largest,
    mean_changes,
    node_changes,
    node_frame,
    opening,
    ranked,
    to_logits,
)
from factfinding.model.anatomy import Anatomy
from factfinding.tables import as_declared, empty


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `direct_effects`. From weights and cached activations: the model does not run."""
    anatomy, pairs, readout = opening(inputs, settings.heads)
    with activations_of(inputs) as file:
        rows = rows_of(file, pairs.prompts["subject"])
        say(f"direct effects of every node, {len(rows)} subjects")
        nodes = cached_nodes(file, "end", rows, n_layers=anatomy.n_layers)
    effects = direct_effects(anatomy, nodes, pairs, readout, seed=settings.heads.seed)
    return {"direct_effects": largest(effects, CSV_ROWS)}


def direct_effects(
    anatomy: Anatomy, nodes: NodeOutputs, pairs: Pairs, readout: Readout, *, seed: int, batch: int = BATCH
) -> pl.DataFrame:
    """The table `direct_effects`: a row per node for all subjects together (answer "all") and for those of each answer.

    nodes: at END, of all layers. logit_difference is the clean one, the scale of the
    changes; rank counts heads within their rows of an answer, 1 for the most negative exact change.
    """
    if pairs.prompts.is_empty():
        return empty("direct_effects")
    path = to_logits(anatomy, readout)
    changes = {exact: node_changes(nodes, pairs, path, exact, batch) for exact in (True, False)}
    clean, answers = clean_difference(nodes.resid, pairs, readout), pairs.prompts["answer"].to_numpy()
    frame = node_frame(nodes)
    tables = []
    for answer in (ALL, *np.unique(answers)):
        rows = np.ones(len(answers), dtype=bool) if answer == ALL else answers == answer
        table = mean_changes(frame, changes, clean, rows, seed).with_columns(pl.lit(answer).alias("answer"))
        tables.append(ranked(table, pl.col("kind") == "head"))
    return as_declared(pl.concat(tables), "direct_effects")
