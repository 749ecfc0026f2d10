"""Post 5: do early layers work locally? The residual stream with the whole context, and with only the last few tokens.

For sampled tokens of running text: resid_post of every layer after BOS and all that precedes the token, and after BOS and
the last k tokens alone (the token itself counted). Both are centred by the mean, over all sampled tokens, of the states
*with the whole context*: so a shift that is the same for all tokens counts as a difference. (Centring each by its own mean
forgives it; `own_median` says how much that changes.) Then their cosine.

All k are measured on the same tokens, which have more than the largest k before them: curves over k differ by k alone. A k
for which a string has no such positions is left out. The control, `k` null, runs the whole context again as a window of
its own: its cosine is 1 but for rounding. The baseline is the cosine to the full-context state of another sampled token.

Layers are compared on the same tokens, and kinds of tokens on the same strings: a difference of medians has the interval
of the differences within resamples of strings. Two intervals that overlap say nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.data.texts import CATEGORIES, String, category
from factfinding.engine.batches import Batches
from factfinding.engine.sites import Site
from factfinding.engine.trace import Read, run
from factfinding.methods.estimates import estimate_schema
from factfinding.model.anatomy import Anatomy
from factfinding.stats import RESAMPLES_OF_QUANTILES, resample_counts

CONTROL = 64
"""Sampled tokens on which the control is run."""

QUANTILES = {"median": 0.5, "lower_quartile": 0.25, "upper_quartile": 0.75}
JUDGED = ("median", "lower_quartile")
"""Those with an interval: the study's claims are about them."""
DESCRIBED = (*QUANTILES, *(f"{name}_{end}" for name in JUDGED for end in ("low", "high")))
LOCALITY = (
    {"layer": pl.Int64, "k": pl.Int64}
    | {f"{prefix}{name}": pl.Float64 for prefix in ("", "square_") for name in DESCRIBED}
    | {"own_median": pl.Float64, "baseline": pl.Float64}
    | {"n": pl.Int64, "n_strings": pl.Int64, "tokens": pl.Int64}
)  # fmt: skip
TOKENS = {"category": pl.String} | {
    name: kind for name, kind in LOCALITY.items() if name not in ("own_median", "tokens")
}
FIRST, BEFORE, WORDS = "first_layer", "layer_before", "alphabetic"
"""What a median is compared with: that after layer 0, that after the layer before, that of alphabetic tokens."""
DIFFERENCES = (
    {"layer": pl.Int64, "k": pl.Int64, "category": pl.String, "compared_with": pl.String}
    | estimate_schema("difference")
    | {"n": pl.Int64, "n_strings": pl.Int64}
)
VALUES = {
    "string": pl.Int64, "position": pl.Int64, "category": pl.String, "layer": pl.Int64, "k": pl.Int64,
    "cosine": pl.Float32,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSample:
    """Tokens drawn from strings of one length: which string, which position (1: the first after BOS), what it is."""

    ids: Int[np.ndarray, "strings tokens"]
    string: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    category: list[str]


@dataclass(frozen=True, kw_only=True)
class Locality:
    """The tables of post 5, as docs/tables.md describes them."""

    locality: pl.DataFrame
    tokens: pl.DataFrame
    values: pl.DataFrame
    differences: pl.DataFrame


def usable(ks: Sequence[int], tokens: int, positions: int) -> list[int]:
    """The k that leave room for so many positions, each with more than k tokens up to and with itself."""
    return sorted({k for k in ks if k <= tokens - positions})


def draw(strings: Sequence[String], ks: Sequence[int], *, positions: int, seed: int) -> TokenSample:
    """`positions` tokens of each string, beyond the largest k (or beyond the first, where there is no k)."""
    rng, tokens = np.random.default_rng([seed, 2]), len(strings[0].ids)
    first = max(ks, default=0) + 1
    count = min(positions, tokens - first + 1)
    place = np.stack(
        [np.sort(rng.choice(np.arange(first, tokens + 1), count, replace=False)) for _ in strings]
    )
    where = np.repeat(np.arange(len(strings)), count)
    words = [strings[i].words[p - 1] for i, p in zip(where, place.reshape(-1), strict=True)]
    return TokenSample(
        ids=np.array([string.ids for string in strings]),
        string=where,
        position=place.reshape(-1),
        category=[category(word) for word in words],
    )


def locality(
    anatomy: Anatomy,
    strings: Sequence[String],
    *,
    ks: Sequence[int],
    positions: int,
    batch_size: int,
    seed: int,
) -> Locality:
    """The tables of post 5 on strings of one length (`data/texts.py`)."""
    tokens = len(strings[0].ids)
    kept = usable(ks, tokens, positions)
    sample = draw(strings, kept, positions=positions, seed=seed)
    full = full_states(anatomy, sample, batch_size)
    mean = full.double().mean(0)
    others = _others(len(sample.string), seed)
    counts = _resampled(sample.string, seed)
    rows, by_category, differences, values = [], [], [], []
    for k in [*kept, None]:
        used = _evenly(len(sample.string), CONTROL) if k is None else np.arange(len(sample.string))
        part = window_states(anatomy, sample, used, k, batch_size)
        near, far = cosines(part, full[used], mean), cosines(part, full[others[used]], mean)
        own = None if k is None else cosines(part, full[used], mean, part.double().mean(0))
        rows += _rows(k, near, far, own, sample, used, counts)
        values.append(_values(k, near, sample, used))
        if k is not None:
            by_category += _category_rows(k, near, far, sample, counts)
            differences += [{"k": k} | row for row in compared(near, sample, counts)]
    return Locality(
        locality=pl.DataFrame(rows, schema=LOCALITY),
        tokens=pl.DataFrame(by_category, schema=TOKENS),
        values=pl.concat(values),
        differences=pl.DataFrame(differences, schema=DIFFERENCES),
    )


def full_states(anatomy: Anatomy, sample: TokenSample, batch_size: int) -> Float[Tensor, "n layers d_model"]:
    """resid_post of every layer at the sampled tokens, each string being run once."""
    per = len(sample.position) // len(sample.ids)
    at = torch.from_numpy(sample.position.reshape(-1, per))
    batches = Batches(batch_size)
    found = batches.run(lambda part: states(anatomy, sample.ids[part], at[part]), len(sample.ids))
    return found.flatten(0, 1)


def window_states(
    anatomy: Anatomy, sample: TokenSample, used: Int[np.ndarray, " m"], k: int | None, batch_size: int
) -> Float[Tensor, "m layers d_model"]:
    """The same of the tokens `used`, with only the last k tokens after BOS; k None: with all that precede them."""
    lengths = np.full(len(used), k) if k is not None else sample.position[used]
    kept: list[tuple[np.ndarray, Tensor]] = []
    batches = Batches(batch_size)

    def read(rows: Int[np.ndarray, " batch"]) -> Float[Tensor, "batch layers d_model"]:
        length, ends = int(lengths[rows[0]]), sample.position[used[rows]]
        ids = sample.ids[sample.string[used[rows], None], ends[:, None] + np.arange(-length, 0)]
        return states(anatomy, ids, torch.full((len(rows), 1), length))[:, 0]

    for length in np.unique(lengths):
        kept += batches.of(np.flatnonzero(lengths == length), read)
    order = np.argsort(np.concatenate([rows for rows, _ in kept]))
    return torch.cat([found for _, found in kept])[torch.from_numpy(order)]


def states(
    anatomy: Anatomy, ids: Int[np.ndarray, "batch tokens"], at: Int[Tensor, "batch positions"]
) -> Float[Tensor, "batch positions layers d_model"]:
    """resid_post of every layer at positions of windows that are put after BOS (which is position 0)."""
    tokens = torch.from_numpy(ids).to(anatomy.device)
    bos = tokens.new_full((len(tokens), 1), anatomy.bos_token_id)
    where = at.to(anatomy.device)
    reads = [Read(site=Site("resid_post", layer), at=where) for layer in range(anatomy.n_layers)]
    found = run(anatomy, torch.cat([bos, tokens], dim=1), reads=reads).values
    return torch.stack(found, dim=2).float().cpu()


def cosines(
    x: Float[Tensor, "n layers d_model"],
    y: Float[Tensor, "n layers d_model"],
    mean: Float[Tensor, "layers d_model"],
    own: Float[Tensor, "layers d_model"] | None = None,
) -> Float[np.ndarray, "n layers"]:
    """Cosine of x and y, both centred by `mean` (x by `own`, if given); 0 where either is nothing."""
    found = []
    for layer in range(x.shape[1]):
        a = x[:, layer].double() - (mean if own is None else own)[layer]
        b = y[:, layer].double() - mean[layer]
        norms = a.norm(dim=1) * b.norm(dim=1)
        found.append((a * b).sum(1) / torch.where(norms > 0, norms, torch.ones_like(norms)))
    return torch.stack(found, dim=1).clamp(-1, 1).numpy()


def quantiles(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, "resamples n"], q: float
) -> Float[np.ndarray, " resamples"]:
    """The smallest value that a share q of each resample does not exceed; NaN for a resample without any."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[:, order], axis=1, dtype=np.float64)
    reached = below >= q * below[:, -1:] - 1e-9
    return np.where(below[:, -1] > 0, values[order][reached.argmax(axis=1)], np.nan)


def _others(n: int, seed: int) -> Int[np.ndarray, " n"]:
    """For each token another one."""
    order = np.random.default_rng([seed, 3]).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def _resampled(string: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, "resamples n"]:
    """How often each token is in each resample of strings: the bootstrap's unit."""
    count = int(string.max()) + 1
    drawn = next(resample_counts(count, np.random.default_rng([seed, 4]), RESAMPLES_OF_QUANTILES))
    return drawn[:, string].astype(np.int16)


def _evenly(n: int, wanted: int) -> Int[np.ndarray, " m"]:
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(np.int64))


def _described(
    near: Float[np.ndarray, " n"], far: Float[np.ndarray, " n"], counts: Int[np.ndarray, "resamples n"]
) -> dict[str, float | None]:
    """Quantiles, the judged ones with their intervals, of cosines and their squares, and the baseline's median."""
    once = np.ones((1, len(near)), dtype=np.int16)
    row: dict[str, float | None] = {"baseline": float(quantiles(far, once, 0.5)[0])}
    for prefix, values in (("", near), ("square_", near**2)):
        row |= {f"{prefix}{name}": float(quantiles(values, once, q)[0]) for name, q in QUANTILES.items()}
        for name in JUDGED:
            low, high = _interval(values, counts, QUANTILES[name])
            row |= {f"{prefix}{name}_low": low, f"{prefix}{name}_high": high}
    return row


def _interval(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, "resamples n"], q: float
) -> tuple[float | None, float | None]:
    """95 % of the resamples' quantiles; nothing where there is one value, or where most resamples have none."""
    drawn = quantiles(values, counts, q)
    drawn = drawn[~np.isnan(drawn)]
    if len(values) < 2 or 2 * len(drawn) < len(counts):
        return None, None
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return low, high


def _rows(
    k: int | None,
    near: np.ndarray,
    far: np.ndarray,
    own: np.ndarray | None,
    sample: TokenSample,
    used: np.ndarray,
    counts: np.ndarray,
) -> Iterator[dict]:
    once = np.ones((1, len(used)), dtype=np.int16)
    for layer in range(near.shape[1]):
        row = {"layer": layer, "k": k} | _described(near[:, layer], far[:, layer], counts[:, used])
        row["own_median"] = None if own is None else float(quantiles(own[:, layer], once, 0.5)[0])
        yield row | {
            "n": len(used),
            "n_strings": len(np.unique(sample.string[used])),
            "tokens": sample.ids.shape[1],
        }


def _category_rows(
    k: int, near: np.ndarray, far: np.ndarray, sample: TokenSample, counts: np.ndarray
) -> Iterator[dict]:
    kinds = np.array(sample.category)
    for kind in CATEGORIES:
        rows = np.flatnonzero(kinds == kind)
        for layer in range(near.shape[1] if len(rows) else 0):
            yield (
                {"category": kind, "layer": layer, "k": k}
                | _described(near[rows, layer], far[rows, layer], counts[:, rows])
                | {"n": len(rows), "n_strings": len(np.unique(sample.string[rows]))}
            )


def compared(
    near: Float[np.ndarray, "n layers"], sample: TokenSample, counts: Int[np.ndarray, "resamples n"]
) -> Iterator[dict]:
    """Differences of medians, each within the resamples `counts`: between layers, over the same tokens; and of each kind
    of token from alphabetic ones, over the same strings."""
    kinds, after = np.array(sample.category), _medians(near, counts)
    whole = _size(sample, np.ones(len(kinds), dtype=bool))
    for layer in range(1, near.shape[1]):
        for name, other in ((FIRST, 0), (BEFORE, layer - 1)):
            cells = {"layer": layer, "category": None, "compared_with": name}
            yield cells | _difference(after[layer], after[other], whole)
    rows_of = {kind: kinds == kind for kind in CATEGORIES if kind in kinds}
    of = {kind: _medians(near[rows], counts[:, rows]) for kind, rows in rows_of.items()}
    for kind in [kind for kind in of if kind != WORDS and WORDS in of]:
        for layer, (one, words) in enumerate(zip(of[kind], of[WORDS], strict=True)):
            cells = {"layer": layer, "category": kind, "compared_with": WORDS}
            yield cells | _difference(one, words, _size(sample, rows_of[kind]))


def _medians(
    near: Float[np.ndarray, "n layers"], counts: Int[np.ndarray, "resamples n"]
) -> Float[np.ndarray, "layers resamples+1"]:
    """The median after each layer: first that of all rows, then that of each resample."""
    every = np.concatenate([np.ones((1, near.shape[0]), dtype=counts.dtype), counts])
    return np.stack([quantiles(values, every, 0.5) for values in near.T])


def _difference(
    one: Float[np.ndarray, " resamples+1"], other: Float[np.ndarray, " resamples+1"], size: dict[str, int]
) -> dict[str, float | int | None]:
    """One median less another; no interval from one string, or where most resamples lack one of the two."""
    apart = one - other
    drawn = apart[1:][~np.isnan(apart[1:])]
    enough = size["n_strings"] > 1 and 2 * len(drawn) >= len(apart) - 1
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist() if enough else (None, None)
    return {"difference": float(apart[0]), "difference_low": low, "difference_high": high} | size


def _size(sample: TokenSample, rows: Bool[np.ndarray, " n"]) -> dict[str, int]:
    return {"n": int(rows.sum()), "n_strings": len(np.unique(sample.string[rows]))}


def _values(k: int | None, near: np.ndarray, sample: TokenSample, used: np.ndarray) -> pl.DataFrame:
    layers = near.shape[1]
    return pl.DataFrame(
        {
            "string": np.repeat(sample.string[used], layers),
            "position": np.repeat(sample.position[used], layers),
            "category": np.repeat(np.array(sample.category)[used], layers),
            "layer": np.tile(np.arange(layers), len(used)),
            "k": pl.Series([k], dtype=pl.Int64).extend_constant(k, len(used) * layers - 1),
            "cosine": near.reshape(-1).astype(np.float32),
        },
        schema=VALUES,
    )
