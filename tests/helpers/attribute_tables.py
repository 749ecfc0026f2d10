"""The tables of P1.1 and P1.2 of models whose facts are planted, by their experiments."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from factfinding.config import Config
from factfinding.experiments.extraction_unasked.compute import compute as extraction_unasked
from factfinding.experiments.multi_token.compute import compute as multi_token
from factfinding.inputs import Inputs, Settings
from factfinding.methods.circuit import AT_NAME, Circuit
from helpers import planted
from helpers.head_tables import planted_candidates
from helpers.hypotheses import Hypothesis
from helpers.inputs import RunActivations, quiet

GIVEN = {
    "compute": (), "multi_token": (), "extraction_unasked": (), "recall": ("known", "known_above"),
    "probes": ("n_folds", "regularisation", "max_iter", "tolerance"),
}  # fmt: skip
"""The keys that the rules are given; none: the whole section."""


@cache
def attribute_tables(
    model: Callable[[], Hypothesis],
    lookup: int = 2,
    keep: int = 36,
    knows: bool = True,
    batch_size: int = 128,
) -> dict[str, pl.DataFrame]:
    """All tables. lookup: its last layer, after which attributes are replaced. keep: subjects. knows: whether they are known."""
    made = model()
    circuit = Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, lookup), extract=("L3H0",))
    recorded = activations(model, keep)
    return tables_of(
        made.anatomy, recorded.prompts, made.candidates, made.facts, circuit, recorded=recorded, knows=knows, batch_size=batch_size
    )  # fmt: skip


@cache
def activations(model: Callable[[], Hypothesis], keep: int) -> RunActivations:
    """Of the first subjects; what was run once is not run again."""
    made = model()
    return RunActivations(made.anatomy, made.prompts()[:keep])


@cache
def unknown_attribute() -> dict[str, pl.DataFrame]:
    """Of a model that knows who plays what, and nothing of a second relation, whose answers are drawn."""
    made, rng = planted.at_name(firsts=16, lasts=16), np.random.default_rng(0)
    rows = []
    for name, answer in made.prompts.select("subject", "answer").iter_rows():
        rows += [(name, "sport", f"Fact: {name} plays the sport of", answer)]
        rows += [(name, "friend", f"Fact: {name} plays the", str(rng.choice(["golf", "Woods", "Tiger"])))]
    facts = pl.DataFrame(rows, schema=["subject", "relation", "prompt", "answer"], orient="row")
    circuit = Circuit(lookup_at=AT_NAME, concatenate=(0, 0), lookup=(1, 1), extract=("L2H2",))
    return tables_of(
        made.anatomy,
        made.prompts,
        planted_candidates(made),
        facts,
        circuit,
        subjects="all",
        asked_subjects=None,
    )


def tables_of(
    anatomy: Any,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    facts: pl.DataFrame,
    circuit: Circuit,
    *,
    recorded: RunActivations | None = None,
    knows: bool = True,
    batch_size: int = 128,
    **section: Any,
) -> dict[str, pl.DataFrame]:
    """The tables of any model, with these keys of the section `multi_token`; `subjects` is that of both sections."""
    recall = prompts.select("subject", "answer").with_columns(
        known=pl.lit(knows), left_out=pl.lit(None, pl.String)
    )
    values = Config(
        compute={"batch_size": batch_size}, multi_token={"angle_draws": 20, "swapped_subjects": 36} | section,
        extraction_unasked={"subjects": section.get("subjects", "known")},
    ).model_dump(mode="json")  # fmt: skip
    kept = {name: {key: values[name][key] for key in keys or values[name]} for name, keys in GIVEN.items()}
    held = {"anatomy": anatomy, "candidates": candidates, "recall": recall, "prompts/full": prompts}
    held |= {"activations/full": recorded or RunActivations(anatomy, prompts), "circuit.yaml": circuit}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "facts.csv"
        facts.write_csv(path)
        inputs = Inputs(Path("nowhere"), declared=(), named={"facts": path}, held=held)
        tables = multi_token(inputs, Settings(kept), quiet)
    inputs = Inputs(Path("nowhere"), declared=(), held=held | tables)
    return tables | extraction_unasked(inputs, Settings(kept), quiet)
