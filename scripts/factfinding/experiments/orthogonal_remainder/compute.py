"""What of a subject's residual is no combination of the others', and what the answer neuron makes of it (P3.8).

A subject's *remainder* is the component of the residual stream, as the answer neuron's MLP reads it at the final name
token, that is orthogonal to the span of the residuals of all other subjects. Its score is what it adds to the neuron's
pre-activation, the norm's scale kept as it was for the whole residual.

**The reading was withdrawn by the study's authors.** They had taken an AUC above one half for a sign that something is
learnt about each subject alone. What it needs to mean that is not given: the remainder depends on how many others there
are (with as many as dimensions it is zero for all), and since all others include those of the same answer, what
is left is not "the subject without the answer".

**All at once.** With the residuals as rows of X and G = X X^T of full rank, the remainder of row i is

    r_i = (G^-1 X)_i / (G^-1)_ii        |r_i|^2 = 1 / (G^-1)_ii

by the formula for the last step of Gram-Schmidt (leave-one-out residuals of a regression). X = U S V^T gives both
without forming G: G^-1 X = U S^-1 V^T, and (G^-1)_ii is the sum of squares of row i of U S^-1. If X has a lower rank k
than rows, S has k values; then row i is independent of the others exactly if its leverage, the sum of squares of row i
of U, is 1, and the same formulas hold for it; all other remainders are zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.engine.direct import Norm
from factfinding.engine.head_probe import folded
from factfinding.engine.sites import neuron as neuron_site
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import each, estimate_columns, estimate_schema
from factfinding.methods.groups import known_prompts
from factfinding.methods.intervals import auc_intervals
from factfinding.methods.name_sites import name_batches, read_last
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import mean_interval

BASELINE = 0.5
LEVERAGE = 1e-6
"""A row counts as independent of the others if its leverage is this close to 1."""
DEFINED, FULL, SPANNED, ONE_CLASS = (
    "defined",
    "undefined: rank is full",
    "undefined: each is spanned by the others",
    "undefined: one class",
)

SCHEMA = (
    {"condition": pl.String, "answer": pl.String, "neuron": pl.String, "sign": pl.Int64, "others": pl.String}
    | {"spanned": pl.Int64, "rank": pl.Int64, "d_model": pl.Int64, "status": pl.String}
    | estimate_schema("auc", "auc_whole", "length")
    | {"baseline": pl.Float64, "n": pl.Int64, "base_rate": pl.Float64}
)


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `orthogonal_remainder`."""
    section, parts = settings.names, []
    neurons = best_neurons(inputs.table("answer_neurons"))
    for condition in section.conditions:
        known = known_prompts(inputs, section.subjects, condition)
        say(f"{condition}: {known.height} subjects, {neurons.height} neurons")
        parts.append(
            orthogonal_remainder(
                anatomy_of(inputs),
                known,
                neurons,
                condition=condition,
                batch_size=settings.compute.batch_size,
                seed=section.seed,
            )
        )
    return {"orthogonal_remainder": pl.concat(parts)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Remainders:
    """Leave-one-out remainders of rows; zero where a row is not independent of the others. rank: of all rows."""

    vectors: Float[np.ndarray, "rows d"]
    independent: Bool[np.ndarray, " rows"]
    rank: int


def remainders(x: Float[np.ndarray, "rows d"], *, eps: float) -> Remainders:
    """The component of each row that is orthogonal to all others.

    eps: the rounding error of the numbers in x (that of the model's dtype, not of x itself, which is float64). Singular
    values below `eps * max(rows, d) * largest` count as zero, as in numpy's `matrix_rank`.
    """
    u, s, vt = np.linalg.svd(np.asarray(x, dtype=np.float64), full_matrices=False)
    rank = int((s > eps * max(x.shape) * s[0]).sum()) if len(s) else 0
    u, scaled = u[:, :rank], u[:, :rank] / s[:rank]
    independent = (u**2).sum(axis=1) > 1 - LEVERAGE
    inverse = np.where(independent, (scaled**2).sum(axis=1), 1.0)  # the diagonal of G^-1
    vectors = np.where(independent[:, None], scaled @ vt[:rank] / inverse[:, None], 0.0)
    return Remainders(vectors=vectors, independent=independent, rank=rank)


def orthogonal_remainder(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    neurons: pl.DataFrame,
    *,
    condition: str,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """The table `orthogonal_remainder`: for each neuron a row with all other subjects, and one with blocks of them.

    prompts: of the known subjects; neurons: columns answer, layer, index, sign (1, or -1 for a neuron that is low on its
    answer). `others` is `all`, or `block`: subjects fall into random blocks of at most half as many as the residual
    stream has dimensions, and the others are those of the block, so that a remainder is left in any model. Columns as in
    `SCHEMA`: spanned (the most others that anybody has), rank (of all residuals; of blocks the lowest), status (`defined`,
    or why there is no number), auc of the remainder's score and auc_whole of the whole residual's, length (of remainder
    over residual, mean), n (subjects with a remainder), base_rate (share of the answer among them). Empty without subjects.
    """
    if prompts.height < 2 or neurons.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    layers = sorted(set(neurons["layer"]))
    inputs = mlp_inputs(anatomy, prompts, layers, batch_size)
    eps = torch.finfo(anatomy.dtype).eps
    answers = prompts["answer"].to_numpy()
    rows = []
    for layer, resid in zip(layers, inputs, strict=True):
        scale = norm_scale(anatomy, layer, resid)
        found = {
            others: _by_block(resid, blocks, eps)
            for others, blocks in _blocks(len(resid), anatomy.d_model, seed).items()
        }
        for row in neurons.filter(layer=layer).iter_rows(named=True):
            into = row["sign"] * input_weights(anatomy, layer, row["index"])
            for others, (part, spanned) in found.items():
                scores = {"auc": part.vectors @ into / scale, "auc_whole": resid @ into / scale}
                where = {
                    "condition": condition,
                    "answer": row["answer"],
                    "sign": row["sign"],
                    "others": others,
                }
                where |= {"neuron": str(neuron_site(layer, row["index"])), "d_model": anatomy.d_model}
                length = np.linalg.norm(part.vectors, axis=1) / np.linalg.norm(resid, axis=1)
                measured = _measured(scores, length, part, answers == row["answer"], seed)
                rows.append(where | {"spanned": spanned, "rank": part.rank, "baseline": BASELINE} | measured)
    return pl.DataFrame(rows, schema=SCHEMA).sort("answer", maintain_order=True)


def best_neurons(scan: pl.DataFrame) -> pl.DataFrame:
    """From the table `answer_neurons` (P3.4), the best neuron of each answer by its first half: answer, layer, index, sign."""
    best = scan if scan.is_empty() else scan.filter(chosen_on="first", rank=1)  # an empty CSV has no types
    return best.select("answer", "layer", "index", "sign").sort("answer")


@torch.no_grad()
def mlp_inputs(
    anatomy: Anatomy, prompts: pl.DataFrame, layers: list[int], batch_size: int
) -> Float[np.ndarray, "layers subjects d_model"]:
    """What the MLPs of these layers read at the final name token, before their norm."""
    found = np.empty((len(layers), prompts.height, anatomy.d_model))

    def read(tokens: Int[Tensor, "batch seq"]) -> Float[np.ndarray, "layers batch d_model"]:
        resid, attn = read_last(anatomy, tokens, ["resid_pre", "attn_out"], layers)
        entering = resid if anatomy.parallel else resid + attn
        return entering.double().transpose(0, 1).cpu().numpy()

    for rows, values in name_batches([prompts], anatomy.device, batch_size, read):
        found[:, rows] = values
    return found


def _blocks(n: int, d_model: int, seed: int) -> dict[str, list[Int[np.ndarray, " block"]]]:
    """Whose remainders are taken together: all, and random blocks of equal size up to half of d_model."""
    whole = np.arange(n)
    count = -(-n // max(2, d_model // 2))
    if count == 1:
        return {"all": [whole]}
    return {"all": [whole], "block": np.array_split(np.random.default_rng(seed).permutation(n), count)}


def _by_block(resid: np.ndarray, blocks: list[np.ndarray], eps: float) -> tuple[Remainders, int]:
    """Remainders within each block, put together; and the most others that anybody has."""
    vectors, independent, ranks = np.empty_like(resid), np.empty(len(resid), dtype=bool), []
    for rows in blocks:
        found = remainders(resid[rows], eps=eps)
        vectors[rows], independent[rows] = found.vectors, found.independent
        ranks.append(found.rank)
    together = Remainders(vectors=vectors, independent=independent, rank=min(ranks))
    return together, max(map(len, blocks)) - 1


def input_weights(anatomy: Anatomy, layer: int, index: int) -> Float[np.ndarray, " d_model"]:
    """What a neuron's pre-activation reads of the residual, the norm's weight and centring folded in, its scale not."""
    block = anatomy.blocks[layer]
    like = {"dtype": anatomy.dtype, "device": anatomy.device}
    # pre-activations are affine in what the norm gives: the gradient is the row of weights
    with torch.enable_grad():
        normed = torch.zeros(1, anatomy.d_model, requires_grad=True, **like)
        (row,) = torch.autograd.grad(block.neurons(normed)[0][0, index], normed)
    return folded(Norm.of(block.norm_mlp, block.family), row[0, :, None].double())[:, 0].cpu().numpy()


def norm_scale(
    anatomy: Anatomy, layer: int, resid: Float[np.ndarray, "subjects d_model"]
) -> Float[np.ndarray, " subjects"]:
    """What the norm before a layer's MLP divides each subject's residual by."""
    norm = Norm.of(anatomy.blocks[layer].norm_mlp, anatomy.family)
    x = resid - resid.mean(axis=1, keepdims=True) if norm.centred else resid
    return np.sqrt((x**2).mean(axis=1) + norm.eps)


def _measured(
    scores: Mapping[str, np.ndarray], length: np.ndarray, part: Remainders, positive: np.ndarray, seed: int
) -> dict[str, Any]:
    """The cells of a row that are measured; null where the status says that nothing is."""
    kept = part.independent
    n, status = int(kept.sum()), DEFINED
    if not n:
        status = FULL if part.rank == part.vectors.shape[1] else SPANNED
    elif positive[kept].all() or not positive[kept].any():
        status = ONE_CLASS
    cells = {"status": status, "n": n, "base_rate": float(positive[kept].mean()) if n else None}
    cells |= estimate_columns("length", mean_interval(length[kept], seed=seed) if n else None)
    for name, score in scores.items():
        estimate = None
        if status == DEFINED:
            sides = (score[kept & positive][:, None], score[kept & ~positive][:, None])
            (estimate,) = each(auc_intervals(*sides, seed=seed))
        cells |= estimate_columns(name, estimate)
    return cells
