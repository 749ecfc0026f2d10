"""The tables of P3.6-P3.8 of a model, by their experiments, without any files."""

from __future__ import annotations

import numpy as np
import polars as pl

from factfinding.experiments.linear_structure import compute as linear_structure
from factfinding.experiments.mlp_norms import compute as mlp_norms
from factfinding.experiments.orthogonal_remainder import compute as orthogonal_remainder
from factfinding.inputs import Inputs, Settings
from helpers import planted
from helpers.inputs import given, quiet

SIZE = {"condition": "full", "batch_size": 16, "seed": 0}
NEURONS = pl.DataFrame(
    [("baseball", 1, 3, -1), ("basketball", 1, 3, 1)],
    schema=["answer", "layer", "index", "sign"],
    orient="row",
)


def names_given(
    anatomy,
    known: pl.DataFrame,
    table: pl.DataFrame,
    neurons: pl.DataFrame = NEURONS,
    *,
    pairs: int = 40,
    batch_size: int = 16,
) -> tuple[Inputs, Settings]:
    """What the three experiments are given. known: prompts of known subjects; table: of all subjects."""
    inputs = given(
        anatomy=anatomy,
        recall=known.select("subject", known=pl.lit(True)),
        answer_neurons=neurons.with_columns(chosen_on=pl.lit("first"), rank=pl.lit(1)),
        **{"prompts/full": table},
    )
    chosen = {"subjects": "known", "conditions": ["full"], "swap_pairs": pairs, "shuffles": 4, "seed": 0}
    return inputs, Settings({"compute": {"batch_size": batch_size}, "names": chosen})


def name_tables(
    anatomy, known: pl.DataFrame, table: pl.DataFrame, neurons: pl.DataFrame = NEURONS, *, pairs: int = 40
) -> dict[str, pl.DataFrame]:
    """All tables by name; arguments as in `names_given`."""
    inputs, settings = names_given(anatomy, known, table, neurons, pairs=pairs)
    tables: dict[str, pl.DataFrame] = {}
    for experiment in (mlp_norms, linear_structure, orthogonal_remainder):
        tables |= experiment.compute(inputs, settings, quiet)
    return tables


def example_name_tables(anatomy, grid: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """A planted grid of names of which most whose signs agree are subjects, and few others: the rest is unknown."""
    agrees = (grid["answer"] == planted.ANSWERS[1]).to_numpy()
    draw = np.random.default_rng(0).random(grid.height)
    subjects = grid.filter(pl.Series(np.where(agrees, draw < 0.8, draw < 0.2)))
    return name_tables(anatomy, subjects, subjects)
