"""Declarations of a single experiment with a single claim, as files of a folder, to be changed and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from factfinding.declarations import declarations
from factfinding.ledger import judge

NUMBERS = {name: {"type": "number"} for name in ("value", "low", "high", "baseline")} | {
    "n": {"type": "integer"}
}
NEEDS = {
    "enough": {
        "sentence": "too few",
        "tables": ["t"],
        "query": "SELECT COUNT(*) > 0 AS met FROM t WHERE n > 9",
    }
}


def claim_with(**changes: Any) -> dict[str, Any]:
    return {
        "id": "one", "sentence": "It is so.", "reference": "1", "measured": "it", "tables": ["t"],
        "query": "SELECT value, low, high, n FROM t", "supported_if": "above", "threshold": 0.5,
        "least_n": 1,
    } | changes  # fmt: skip


def experiment_with(**changes: Any) -> dict[str, Any]:
    return {
        "number": "P2.1", "title": "One", "question": "Is it so?", "method": "Looked at.",
        "tables": {"t": {"columns": NUMBERS}}, "claims": [claim_with()],
    } | changes  # fmt: skip


def written(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """The folder of experiments and the file of the stages' tables, as `declarations` takes them."""
    experiments, stages = folder / "experiments", folder / "tables.yaml"
    (experiments / "first").mkdir(parents=True, exist_ok=True)
    (experiments / "first/experiment.yaml").write_text(yaml.safe_dump(experiment_with(**changes)))
    (experiments / "needs.yaml").write_text(yaml.safe_dump(NEEDS))
    (experiments / "consistency.yaml").write_text("{}")
    stages.write_text(yaml.safe_dump({"other": {"columns": NUMBERS}}))
    return experiments, stages


def judged(claim: str, tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """The row of the ledger of one of the project's own claims, on these tables, whatever it needs."""
    declared = declarations()
    (experiment,) = [one for one, found in declared.claims if found.id == claim]
    alone = experiment.model_copy(
        update={"claims": tuple(found for found in experiment.claims if found.id == claim)}
    )
    only = declared.model_copy(update={"experiments": {experiment.name: alone}, "needs": {}})
    return judge(only, tables, regardless=True).row(0, named=True)
