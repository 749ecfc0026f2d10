"""How far a layer is from adding up the parts of a name (P3.7).

For known subjects A = (f1, l1) and B = (f2, l2) whose swaps C = (f1, l2) and D = (f2, l1) are unknown names, and random
unknown names C', D':

    ratio = |g(A) + g(B) - g(C) - g(D)| / |g(A) + g(B) - g(C') - g(D')|

for g the output of an MLP, or the residual stream after a layer, at the final name token (halving both sides, as the study
does, changes nothing). If g is one term for the beginning of the name plus one for its last token, the numerator is
zero: C and D have the same terms as A and B. If g gives every name a vector of its own, unrelated to what it gives to
names with the same tokens, the ratio is about 1.

That a ratio is not 0 says only that something is not linear. Three rows say how much of it is memory of names:
`known` as above; `unknown`, where A and B are unknown names too, so nothing can have been memorised about them; and
`shuffled`, the known names in a model whose MLPs have all their entries permuted, which are as non-linear as MLPs of
such weights are without having learnt anything.

Longer names: f is all tokens but the last. Each name is in one pair at most, so pairs are independent draws.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.data.strangers import Swaps, swaps, unknown_pairings
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import each, estimate_columns, estimate_schema
from factfinding.methods.groups import known_prompts
from factfinding.methods.intervals import median_intervals
from factfinding.methods.name_sites import name_batches, read_last
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import mean_intervals

OUTPUTS = {"mlp": "mlp_out", "resid": "resid_post"}
NAMES = ("known", "unknown", "shuffled")
ROUNDING = 16
"""A numerator or denominator below this many rounding errors of the largest of the six vectors counts as zero."""

SCHEMA = (
    {"condition": pl.String, "names": pl.String, "output": pl.String, "layer": pl.Int64}
    | estimate_schema("median", "mean")
    | {"n": pl.Int64}
)


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `linear_structure`."""
    section, parts = settings.names, []
    for condition in section.conditions:
        known = known_prompts(inputs, section.subjects, condition)
        say(f"{condition}: {known.height} known names")
        parts.append(
            linear_structure(
                anatomy_of(inputs),
                known,
                inputs.prompts(condition),
                condition=condition,
                pairs=section.swap_pairs,
                batch_size=settings.compute.batch_size,
                seed=section.seed,
            )
        )
    return {"linear_structure": pl.concat(parts)}


def linear_structure(
    anatomy: Anatomy,
    known: pl.DataFrame,
    table: pl.DataFrame,
    *,
    condition: str,
    pairs: int,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """The table `linear_structure`: a row per names (known, unknown, shuffled), output (mlp, resid) and layer.

    known, table: prompts of the known subjects and of all subjects, in one condition; at most `pairs` pairs of each
    kind. Columns condition, names, output, layer, median and mean of the ratio over pairs with intervals, n (pairs in
    which the ratio exists: at a layer that writes the same for all names it does not). Kinds of names of which no pair
    can be made are left out; empty if that is all.
    """
    unknown = unknown_pairings(known, table, seed=seed)
    drawn = {
        "known": swaps(known, table, unknown, pairs=pairs, seed=seed),
        "unknown": swaps(unknown, table, unknown, pairs=pairs, seed=seed),
    }
    drawn["shuffled"] = drawn["known"]
    rows = []
    for names in NAMES:
        if not len(drawn[names]):
            continue
        here = shuffled_mlps(anatomy, seed=seed) if names == "shuffled" else anatomy
        summaries = _summaries(ratios(here, drawn[names], batch_size=batch_size), seed)
        places = ((output, layer) for output in OUTPUTS for layer in range(anatomy.n_layers))
        for (output, layer), summary in zip(places, summaries, strict=True):
            rows.append({"condition": condition, "names": names, "output": output, "layer": layer} | summary)
    return pl.DataFrame(rows, schema=SCHEMA)


@torch.no_grad()
def ratios(anatomy: Anatomy, drawn: Swaps, *, batch_size: int) -> Float[np.ndarray, "pairs outputs*layers"]:
    """The ratio of each pair: at all MLPs, then after all layers. NaN where numerator and denominator are zero.

    All six names of a pair run in one batch, of which only norms are kept.
    """
    found = np.empty((len(drawn), len(OUTPUTS) * anatomy.n_layers))

    def of_batch(tokens: Int[Tensor, "6*batch seq"]) -> Float[np.ndarray, "batch outputs*layers"]:
        outputs = torch.cat(read_last(anatomy, tokens, list(OUTPUTS.values())), dim=1).double()
        a, b, c, d, other_c, other_d = outputs.unflatten(0, (6, -1))
        noise = ROUNDING * torch.finfo(anatomy.dtype).eps * outputs.norm(dim=-1).unflatten(0, (6, -1)).amax(0)
        broken, unrelated = (a + b - c - d).norm(dim=-1), (a + b - other_c - other_d).norm(dim=-1)
        broken = torch.where(broken > noise, broken, 0.0)
        return torch.where(unrelated > noise, broken / unrelated, torch.nan).cpu().numpy()

    for rows, ratio in name_batches(drawn.tables, anatomy.device, batch_size, of_batch):
        found[rows] = ratio
    return found


def shuffled_mlps(anatomy: Anatomy, *, seed: int) -> Anatomy:
    """A copy of the model in which the entries of each weight and bias of each MLP are permuted, each in itself.

    Sizes, scales and the distribution of weights stay; what was learnt is gone. Permutations are drawn on the CPU, so
    that they are the same on every device.
    """
    copied = Anatomy(copy.deepcopy(anatomy.model), anatomy.tokenizer)
    generator = torch.Generator().manual_seed(seed)
    for parameter in _mlp_parameters(copied):
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.data = parameter.data.flatten()[order].view(parameter.shape)
    return copied


def _mlp_parameters(anatomy: Anatomy) -> Iterator[Tensor]:
    for block in anatomy.blocks:
        yield from (parameter for _, parameter in sorted(block.mlp.named_parameters()))


def _summaries(values: Float[np.ndarray, "pairs k"], seed: int) -> list[dict[str, float | int | None]]:
    """Cells of each column, over the pairs in which it exists; columns that exist in the same pairs together."""
    exists, cells = ~np.isnan(values), [{}] * values.shape[1]
    for pattern in np.unique(exists, axis=1).T:
        columns = np.flatnonzero((exists == pattern[:, None]).all(axis=0))
        chosen = values[np.ix_(pattern, columns)]
        medians, means = ([None] * len(columns),) * 2
        if len(chosen):
            medians, means = (
                each(median_intervals(chosen, seed=seed)),
                each(mean_intervals(chosen, seed=seed)),
            )
        for column, median, mean in zip(columns, medians, means, strict=True):
            cells[column] = (
                estimate_columns("median", median) | estimate_columns("mean", mean) | {"n": len(chosen)}
            )
    return cells
