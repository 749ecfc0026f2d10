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
`shuffled`, the known names in models whose MLPs have all their entries permuted, which are as non-linear as MLPs of
such weights are without having learnt anything.

Longer names: f is all tokens but the last. Each name is in one pair at most, so pairs are independent draws.

One shuffle is one network: others lie further from it than its interval over pairs says. So there are many, and the
interval of `shuffled` is that of a shuffle and pairs drawn together; what it would be over pairs alone stands beside.
Differences are taken within resamples: known and shuffled share their pairs, layers theirs; known and unknown do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.data.strangers import Swaps, swaps, unknown_pairings
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import known_prompts
from factfinding.methods.intervals import LEVELS, resampled_medians
from factfinding.methods.name_sites import name_batches, read_last
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import Estimate, resample_counts
from factfinding.tables import schema_of

OUTPUTS = {"mlp": "mlp_out", "resid": "resid_post"}
NAMES = ("known", "unknown", "shuffled")
ROUNDING = 16
"""A numerator or denominator below this many rounding errors of the largest of the six vectors counts as zero."""


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
                shuffles=section.shuffles,
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
    shuffles: int,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """The table `linear_structure`: a row per names (known, unknown, shuffled), output (mlp, resid) and layer.

    known, table: prompts of the known subjects and of all subjects, in one condition; at most `pairs` pairs of each
    kind. `shuffles`: networks with permuted weights. n: pairs in which the ratio exists (at a layer that writes the same
    for all names it does not). Kinds of names of which no pair can be made are left out; empty if that is all.
    """
    unknown = unknown_pairings(known, table, seed=seed)
    drawn = {
        "known": swaps(known, table, unknown, pairs=pairs, seed=seed),
        "unknown": swaps(unknown, table, unknown, pairs=pairs, seed=seed),
    }
    rng, found = np.random.default_rng(seed), {}
    for names, these in drawn.items():
        if len(these):
            counts = resampled(len(these), rng)
            found[names] = resample(ratios(anatomy, these, batch_size=batch_size)[None], counts, rng)
            if names == "known":
                values = []
                for i in range(shuffles):
                    with shuffled_mlps(anatomy, seed=seed + i):
                        values.append(ratios(anatomy, these, batch_size=batch_size))
                found["shuffled"] = resample(np.stack(values), counts, rng)
    rows = []
    for names in [names for names in NAMES if names in found]:
        places = [(output, layer) for output in OUTPUTS for layer in range(anatomy.n_layers)]
        cells = _cells(found[names], None if names == "known" else found.get("known"), anatomy.n_layers)
        for (output, layer), columns in zip(places, cells, strict=True):
            rows.append({"condition": condition, "names": names, "output": output, "layer": layer} | columns)
    return pl.DataFrame(rows, schema=schema_of("linear_structure"))


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


@contextmanager
def shuffled_mlps(anatomy: Anatomy, *, seed: int) -> Iterator[None]:
    """Within it, the entries of each weight and bias of each MLP are permuted, each in itself; then the model is as before,
    to the bit, also after an error.

    Sizes, scales and the distribution of weights stay; what was learnt is gone. One random order is drawn for each number of
    entries, and each parameter takes it from a random place on: so every parameter's permutation is uniform, and no two are
    meant to be the same. Orders are drawn on the CPU, and are the same on every device. The model itself is changed and no
    copy is made: beside it, memory holds the orders and one parameter.
    """
    generator = torch.Generator().manual_seed(seed)
    orders: dict[int, Int[Tensor, " entries"]] = {}
    permuted: list[tuple[Tensor, int]] = []
    try:
        for parameter in _mlp_parameters(anatomy):
            entries = parameter.numel()
            if entries not in orders:
                orders[entries] = torch.randperm(entries, generator=generator).to(parameter.device)
            offset = int(torch.randint(entries, (), generator=generator))
            _permute(parameter, orders[entries], offset)
            permuted.append((parameter, offset))
        yield
    finally:
        for parameter, offset in reversed(permuted):
            _put_back(parameter, orders[parameter.numel()], offset)


@torch.no_grad()
def _permute(parameter: Tensor, order: Int[Tensor, " entries"], offset: int) -> None:
    """Entry i becomes the one at `order.roll(offset)[i]`."""
    parameter.copy_(parameter.flatten().index_select(0, order).roll(offset).view_as(parameter))


@torch.no_grad()
def _put_back(parameter: Tensor, order: Int[Tensor, " entries"], offset: int) -> None:
    """Undoes `_permute`."""
    rolled = parameter.flatten().roll(-offset)
    parameter.copy_(torch.empty_like(rolled).scatter_(0, order, rolled).view_as(parameter))


def _mlp_parameters(anatomy: Anatomy) -> Iterator[Tensor]:
    for block in anatomy.blocks:
        yield from (parameter for _, parameter in sorted(block.mlp.named_parameters()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """Medians and means of ratios: first over all pairs, then over each resample of pairs; n: pairs with a ratio.

    With several shuffles the first is their mean, and a resample is of one shuffle that is drawn with it; `pairs` has the
    mean over shuffles in each resample instead.
    """

    median: Float[np.ndarray, "resamples+1 k"]
    mean: Float[np.ndarray, "resamples+1 k"]
    pairs: Float[np.ndarray, "resamples+1 k"]
    n: Int[np.ndarray, " k"]
    shuffles: int


def resampled(n: int, rng: np.random.Generator) -> Int[np.ndarray, "resamples+1 n"]:
    """How often each pair is in the whole (once), and in each resample."""
    return np.concatenate([np.ones((1, n), dtype=np.int64), *resample_counts(n, rng)])


def resample(
    values: Float[np.ndarray, "shuffles pairs k"],
    counts: Int[np.ndarray, "resamples+1 pairs"],
    rng: np.random.Generator,
) -> Resampled:
    """The ratios of pairs in one network, or in several shuffled ones, resampled."""
    shuffles, _, columns = values.shape
    exists = ~np.isnan(values)
    medians = np.stack(
        [[resampled_medians(one[:, k], counts) for k in range(columns)] for one in values]
    ).transpose(0, 2, 1)
    with np.errstate(invalid="ignore"):  # a resample without a ratio has no mean
        means = counts @ np.where(exists, values, 0.0) / (counts @ exists)
    drawn = rng.integers(0, shuffles, len(counts) - 1), np.arange(1, len(counts))
    median, mean = (np.concatenate([all_.mean(0)[:1], all_[drawn]]) for all_ in (medians, means))
    n = exists.sum(axis=1).min(axis=0)
    return Resampled(median=median, mean=mean, pairs=medians.mean(0), n=n, shuffles=shuffles)


def _cells(
    found: Resampled, known: Resampled | None, n_layers: int
) -> Iterator[dict[str, float | int | None]]:
    """The columns of each output and layer. known: the ratios of known names, for kinds of names that are held to them."""
    first = np.arange(found.median.shape[1]) // n_layers * n_layers  # layer 0 of the same output
    since = found.median - found.median[:, first]
    more = None if known is None else known.median - found.median
    for k, n in enumerate(found.n.tolist()):
        cells = estimate_columns("median", _estimate(found.median[:, k], n))
        over_pairs = estimate_columns("pairs", _estimate(found.pairs[:, k], n))
        cells |= {name: value for name, value in over_pairs.items() if name != "pairs"}
        cells |= estimate_columns("mean", _estimate(found.mean[:, k], n))
        cells |= estimate_columns("since_first", _estimate(since[:, k], n))
        cells |= estimate_columns("known_more", None if more is None else _estimate(more[:, k], n))
        yield cells | {"shuffles": found.shuffles if found.shuffles > 1 else None, "n": n}


def _estimate(drawn: Float[np.ndarray, " resamples+1"], n: int) -> Estimate | None:
    """The first, with the interval of the others; none from one pair, or where most resamples lack it."""
    value, others = float(drawn[0]), drawn[1:][~np.isnan(drawn[1:])]
    if np.isnan(value):
        return None
    enough = n > 1 and 2 * len(others) >= len(drawn) - 1
    low, high = np.quantile(others, LEVELS).tolist() if enough else (np.nan, np.nan)
    return Estimate(value=value, low=low, high=high, n=n)
