"""Lists of planted models that stand for the checkpoints of a training: which stage comes when is known.

Each is `planted.at_name` without some of its stages. Who is told about when is not known of them, so that all subjects are
one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import polars as pl
import torch

from factfinding.experiments.emergence.compute import cohorts_of, emergence
from factfinding.methods.circuit import AT_NAME, Circuit
from factfinding.methods.probes import ProbeSettings
from factfinding.model.checkpoints import NONE
from helpers.head_tables import planted_candidates
from helpers.planted import Planted, _agree, _attend, _empty, _plant

FITTING = ProbeSettings(folds=("random",), control_folds=())
CIRCUIT = Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, 1), extract=("L2H2",))


@cache
def with_stages(*stages: str, firsts: int = 8, lasts: int = 8) -> Planted:
    """`planted.at_name` with these stages alone, of concatenation, lookup and extraction."""
    model = _empty()
    if "concatenation" in stages:
        _attend(model, 0, 1, query="last", key="first", read="first_sign", write="moved_first")
    if "lookup" in stages:
        _agree(model, 1, signs=("moved_first", "last_sign"), write="fact")
    if "extraction" in stages:
        _attend(model, 2, 2, query="end", key="last", read="fact", write="answer")
    sites: dict = {"concatenate": (), "lookup": (), "extract": ()}
    return _plant(model, sites, torch.float64, 0.0, firsts=firsts, lasts=lasts)


def in_order(*stages: str, **names: int) -> list[Planted]:
    """A training that gets these stages one after the other."""
    return [with_stages(*stages[:count], **names) for count in range(len(stages) + 1)]


def course(models: Sequence[Planted], *, batch_size: int = 80) -> dict[str, pl.DataFrame]:
    """The tables of P1.5 on these models, at steps 0, 100, 200, ..."""
    made = models[-1]
    drawn, cohorts = cohorts_of(made.prompts, planted_candidates(made), NONE, most=80, seed=0)
    pairs = [(100 * i, model.anatomy) for i, model in enumerate(models)]
    return emergence(pairs, drawn, cohorts, CIRCUIT, NONE, fitting=FITTING, batch_size=batch_size, seed=0)
