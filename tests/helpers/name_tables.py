"""The tables of P3.6-P3.8 of a model, by the steps of the rule name_structure, without any files."""

from __future__ import annotations

import numpy as np
import polars as pl

from factfinding.data.strangers import unknown_pairings
from factfinding.methods.linearity import linear_structure
from factfinding.methods.norms import mlp_norms
from factfinding.methods.remainder import orthogonal_remainder
from helpers import planted

SIZE = {"condition": "full", "batch_size": 16, "seed": 0}
NEURONS = pl.DataFrame(
    [("baseball", 1, 3, -1), ("basketball", 1, 3, 1)],
    schema=["sport", "layer", "index", "sign"],
    orient="row",
)


def name_tables(
    anatomy, known: pl.DataFrame, table: pl.DataFrame, neurons: pl.DataFrame = NEURONS, *, pairs: int = 40
) -> dict[str, pl.DataFrame]:
    """All tables by name. known: prompts of known athletes; table: of all athletes."""
    return {
        "mlp_norms": mlp_norms(anatomy, known, unknown_pairings(known, table, seed=0), **SIZE),
        "linear_structure": linear_structure(anatomy, known, table, pairs=pairs, **SIZE),
        "orthogonal_remainder": orthogonal_remainder(anatomy, known, neurons, **SIZE),
    }


def example_name_tables(anatomy, grid: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """A planted grid of names of which most whose signs agree are athletes, and few others: the rest is unknown."""
    agrees = (grid["sport"] == planted.SPORTS[1]).to_numpy()
    draw = np.random.default_rng(0).random(grid.height)
    athletes = grid.filter(pl.Series(np.where(agrees, draw < 0.8, draw < 0.2)))
    return name_tables(anatomy, athletes, athletes)
