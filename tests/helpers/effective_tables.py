"""The tables of P3.3 and P3.5 of an effective model, by their experiments, without any files."""

from __future__ import annotations

from typing import Any

import polars as pl

from factfinding.experiments.effective_probes import compute as effective_probes
from factfinding.experiments.nonlinear_excess import compute as nonlinear_excess
from factfinding.inputs import Settings
from factfinding.methods.effective import EffectiveModel
from helpers.inputs import given, quiet

SETTINGS = Settings(
    {
        "compute": {"batch_size": 1},
        "lookup": {
            "subjects": "known",
            "name_tokens": None,
            "probe_folds": ["last_name"],
            "probe_repeats": 2,
            "seed": 0,
        },
        "probes": {"n_folds": 3, "regularisation": 1e-3, "max_iter": 500, "tolerance": 1e-4},
    }
)


def effective_tables(
    model: EffectiveModel | None, name_only: pl.DataFrame, **read_by: Any
) -> dict[str, pl.DataFrame]:
    """All tables by name. model: None where there is no effective model; name_only: prompts, all of known subjects.
    read_by: what probes are made of: anatomy, candidates, readers, circuit."""
    held = {"effective_model.safetensors": model, "prompts/name_only": name_only}
    held |= {"circuit.yaml" if name == "circuit" else name: value for name, value in read_by.items()}
    inputs = given(recall=name_only.select("subject", known=pl.lit(True)), **held)
    return nonlinear_excess.compute(inputs, SETTINGS, quiet) | effective_probes.compute(
        inputs, SETTINGS, quiet
    )
