"""Known and unknown names told apart by how much each MLP writes (P3.6).

The norm of an MLP's output at the final name token, for known subjects and for unknown pairings of the same tokens
(data/strangers.py), as an AUC: the probability that a known name has the larger norm. 0.5 is no difference. Beside it,
the same of attention's output, and as a control the AUC between two halves of the unknown names, which is 0.5 but for
chance.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.data.strangers import unknown_pairings
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import each, estimate_columns, estimate_schema
from factfinding.methods.groups import known_prompts
from factfinding.methods.intervals import auc_intervals
from factfinding.methods.name_sites import name_batches, read_last
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import mean_intervals

OUTPUTS = {"mlp": "mlp_out", "attn": "attn_out"}
BASELINE = 0.5

SCHEMA = (
    {"condition": pl.String, "output": pl.String, "layer": pl.Int64}
    | estimate_schema("auc", "auc_control", "known", "unknown")
    | {"baseline": pl.Float64, "n_known": pl.Int64, "n_unknown": pl.Int64}
)


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `mlp_norms`."""
    section, parts = settings.names, []
    for condition in section.conditions:
        known = known_prompts(inputs, section.subjects, condition)
        unknown = unknown_pairings(known, inputs.prompts(condition), seed=section.seed)
        say(f"{condition}: {known.height} known names, {unknown.height} unknown pairings of their tokens")
        parts.append(
            mlp_norms(
                anatomy_of(inputs),
                known,
                unknown,
                condition=condition,
                batch_size=settings.compute.batch_size,
                seed=section.seed,
            )
        )
    return {"mlp_norms": pl.concat(parts)}


def mlp_norms(
    anatomy: Anatomy,
    known: pl.DataFrame,
    unknown: pl.DataFrame,
    *,
    condition: str,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """The table `mlp_norms`: a row per output (mlp, attn) and layer.

    known: prompts of known subjects; unknown: of unknown names (`strangers.unknown_pairings`), in the same condition.
    Columns condition, output, layer, auc, auc_control (between halves of the unknown names; null where there are fewer
    than four), known and unknown (mean norms), each with its interval, baseline, n_known, n_unknown. Empty without known
    or without unknown names.
    """
    if known.is_empty() or unknown.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    names = {
        "known": name_norms(anatomy, known, batch_size),
        "unknown": name_norms(anatomy, unknown, batch_size),
    }
    halves = np.array_split(np.random.default_rng(seed).permutation(unknown.height), 2)
    estimates = {
        "auc": each(auc_intervals(names["known"], names["unknown"], seed=seed)),
        "auc_control": [None] * (len(OUTPUTS) * anatomy.n_layers),
        **{name: each(mean_intervals(norms, seed=seed)) for name, norms in names.items()},
    }
    if unknown.height >= 4:
        estimates["auc_control"] = each(
            auc_intervals(*(names["unknown"][half] for half in halves), seed=seed)
        )
    rows = []
    for k, (output, layer) in enumerate((o, i) for o in OUTPUTS for i in range(anatomy.n_layers)):
        row = {"condition": condition, "output": output, "layer": layer, "baseline": BASELINE}
        for name, column in estimates.items():
            row |= estimate_columns(name, column[k])
        rows.append(row | {"n_known": known.height, "n_unknown": unknown.height})
    return pl.DataFrame(rows, schema=SCHEMA)


@torch.no_grad()
def name_norms(
    anatomy: Anatomy, prompts: pl.DataFrame, batch_size: int
) -> Float[np.ndarray, "names outputs*layers"]:
    """Norm of each output at the final name token: all MLPs, then all attention layers.

    An output too small to change the residual that it is added to counts as zero, so that no order is seen in rounding.
    """
    norms = np.empty((prompts.height, len(OUTPUTS) * anatomy.n_layers))
    eps = torch.finfo(anatomy.dtype).eps

    def sizes(tokens: Int[Tensor, "batch seq"]) -> Float[np.ndarray, "batch outputs*layers"]:
        *written, resid = read_last(anatomy, tokens, [*OUTPUTS.values(), "resid_pre"])
        least = eps * resid.double().norm(dim=-1)
        found = [output.double().norm(dim=-1) for output in written]
        return torch.cat([size * (size > least) for size in found], dim=1).cpu().numpy()

    for rows, found in name_batches([prompts], anatomy.device, batch_size, sizes):
        norms[rows] = found
    return norms
