"""Every neuron of the lookup MLPs as a detector of each sport (P3.4): which one tells it best, and is that luck?

A neuron's activation at the final name token is taken for a score; its AUC for a sport against all others is the
probability that an athlete of the sport has a higher one than another athlete (ties count half). Neurons that are low
on the sport count as well, with sign -1 and the AUC of the negated activation.

**Choosing.** The best of thousands looks good by chance. Athletes are split into halves, each sport evenly: neurons and
their signs are chosen on one, and their AUC is that on the other. The table has both ways round. `p_corrected` asks how
often, under shuffled sports on the scored half, the best of *all* neurons with either sign is as good for this sport;
it takes into account how many neurons there are and how alike they are. It does not count the sports that were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from factfinding.engine.sites import Site, neuron, parse
from factfinding.methods.estimates import estimate_columns, estimate_schema
from factfinding.methods.halves import Halves
from factfinding.stats import RESAMPLES, Estimate, resample_counts

SPORT_NEURONS = {
    "chosen_on": pl.String,
    "sport": pl.String,
    "rank": pl.Int64,
    "neuron": pl.String,
    "layer": pl.Int64,
    "index": pl.Int64,
    "sign": pl.Int64,
    "auc_choosing": pl.Float64,
}
SPORT_NEURONS |= estimate_schema("auc")
SPORT_NEURONS |= {"p_corrected": pl.Float64, "chance_best": pl.Float64, "neurons_tried": pl.Int64}
SPORT_NEURONS |= {"n": pl.Int64, "base_rate": pl.Float64}
"""Columns of the table `sport_neurons`."""

HALVES = ("first", "second")
PERMUTED = 1000
"""Shuffled sports held at once: bounds memory."""
ROUNDING = 1e-6

Layers = Iterable[tuple[int, Float[np.ndarray, "athletes neurons"]]]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A neuron, the sport that it is looked at for, its sign, and why it is looked at."""

    site: Site
    sport: str
    sign: int
    chosen_by: str  # scan or configuration


def scan_neurons(
    layers: Layers, halves: Halves | None, sports: Sequence[str], *, best: int, permutations: int, seed: int
) -> pl.DataFrame:
    """The table `sport_neurons`: for each sport and half the `best` neurons that were chosen on it, scored on the other.

    layers: (layer, activations at the final name token), one at a time. sports: in the order of the labels; those that
    no athlete has are left out. Empty where there are no halves or no layers.
    """
    layers = iter(layers)
    first = None if halves is None else next(layers, None)
    if first is None:
        return pl.DataFrame(schema=SPORT_NEURONS)
    present = np.unique(halves.labels)
    turns = [_Turn(halves.labels, chosen_on, present, permutations, seed) for chosen_on in _choosing(halves)]
    for layer, values in (first, *layers):
        for turn in turns:
            turn.add(layer, np.asarray(values))
    rows = [
        {"chosen_on": half, "sport": sports[label]} | row
        for half, turn in zip(HALVES, turns, strict=True)
        for k, label in enumerate(present)
        for row in turn.best(k, best)
    ]
    return pl.DataFrame(rows, schema=SPORT_NEURONS)


def _choosing(halves: Halves) -> tuple[Bool[np.ndarray, " athletes"], Bool[np.ndarray, " athletes"]]:
    return halves.choosing, ~halves.choosing


class _Turn:
    """One way round: the AUCs on both halves, and the best of all neurons under each shuffling of the scored half."""

    def __init__(
        self,
        labels: Int[np.ndarray, " athletes"],
        choosing: Bool[np.ndarray, " athletes"],
        present: Int[np.ndarray, " sports"],
        permutations: int,
        seed: int,
    ) -> None:
        self.choosing, self.present, self.seed = choosing, present, seed
        self.labels, rng = labels, np.random.default_rng(seed)
        scored = labels[~choosing]
        self.shuffled = np.stack([rng.permutation(scored) for _ in range(permutations)], axis=1)
        self.luck = np.zeros((len(present), permutations))
        self.sites: list[Site] = []
        self.columns: list[Float[np.ndarray, "scored neurons"]] = []
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, layer: int, values: Float[np.ndarray, "athletes neurons"]) -> None:
        on, off = (centred_ranks(values[half]) for half in (self.choosing, ~self.choosing))
        one_hot = [labels[:, None] == self.present for labels in (self.labels[self.choosing], self.scored)]
        self.found.append((rank_aucs(on, one_hot[0]), rank_aucs(off, one_hot[1])))
        quick = off.astype(np.float32)
        for k, label in enumerate(self.present):
            for start in range(0, self.shuffled.shape[1], PERMUTED):
                part = slice(start, start + PERMUTED)
                off_by_luck = np.abs(rank_aucs(quick, self.shuffled[:, part] == label) - 0.5).max(axis=1)
                self.luck[k, part] = np.maximum(self.luck[k, part], off_by_luck)
        self.sites += [neuron(layer, index) for index in range(values.shape[1])]
        self.columns.append(values[~self.choosing])

    @property
    def scored(self) -> Int[np.ndarray, " scored"]:
        return self.labels[~self.choosing]

    def best(self, k: int, count: int) -> list[dict]:
        """Rows of the best neurons for the k-th sport that is present."""
        on, off = (np.concatenate([found[half][k] for found in self.found]) for half in (0, 1))
        values, positive = np.concatenate(self.columns, axis=1), self.scored == self.present[k]
        order = np.argsort(-np.abs(on - 0.5), kind="stable")[:count]
        rows = []
        for rank, i in enumerate(order, start=1):
            site, sign = self.sites[i], sign_of(on[i])
            auc = auc_draws(sign * values[:, i], positive, seed=self.seed).estimate
            as_good = int((self.luck[k] >= sign * (off[i] - 0.5) - ROUNDING).sum())
            cells = {
                "rank": rank,
                "neuron": str(site),
                "layer": site.layer,
                "index": site.index,
                "sign": sign,
            }
            cells |= {"auc_choosing": 0.5 + abs(on[i] - 0.5)} | estimate_columns("auc", auc)
            cells |= {"p_corrected": (1 + as_good) / (1 + self.luck.shape[1])}
            cells |= {"chance_best": 0.5 + float(np.quantile(self.luck[k], 0.95))}
            cells |= {"neurons_tried": len(on), "n": len(positive), "base_rate": float(positive.mean())}
            rows.append(cells)
        return rows


def sign_of(auc: float) -> int:
    """-1 for a neuron that is lower on the sport."""
    return -1 if auc < 0.5 else 1


def centred_ranks(values: Float[np.ndarray, "athletes neurons"]) -> Float[np.ndarray, "athletes neurons"]:
    """Ranks of each column, ties at their mean, less the mean rank: multiples of one half."""
    return rankdata(values, axis=0) - (len(values) + 1) / 2


def rank_aucs(
    ranks: Float[np.ndarray, "athletes neurons"], positive: Bool[np.ndarray, "athletes k"]
) -> Float[np.ndarray, "k neurons"]:
    """AUC of every column for every choice of positives, from `centred_ranks`; 0.5 where one class is empty.

    The sums are exact in float64, and in float32 for up to some thousand athletes.
    """
    n_positive = positive.sum(axis=0)[:, None]
    pairs = np.maximum(n_positive * (len(ranks) - n_positive), 1)
    return 0.5 + (positive.T.astype(ranks.dtype) @ ranks).astype(np.float64) / pairs


@dataclass(frozen=True, kw_only=True, eq=False)
class AUC:
    """An AUC and its bootstrap draws; those of equal athletes and seed are paired."""

    value: float
    draws: Float[np.ndarray, " resamples"]
    n: int

    @property
    def estimate(self) -> Estimate:
        return interval(self.value, self.draws, self.n)

    def change_from(self, other: AUC) -> Estimate:
        """This AUC minus another one of the same athletes, paired."""
        return interval(self.value - other.value, self.draws - other.draws, self.n)


def interval(value: float, draws: Float[np.ndarray, " resamples"], n: int) -> Estimate:
    """Percentiles of the draws, without those in which a class was missing; NaN if that is more than half of them."""
    kept = draws[~np.isnan(draws)]
    low, high = np.quantile(kept, [0.025, 0.975]) if 2 * len(kept) >= len(draws) else (np.nan, np.nan)
    return Estimate(value=float(value), low=float(low), high=float(high), n=n)


def auc_draws(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    *,
    seed: int,
    n_resamples: int = RESAMPLES,
) -> AUC:
    """AUC with the percentile bootstrap over athletes, both classes resampled together.

    An AUC of exactly 1 stays 1 in every resample: its interval has no width, which is what was seen and no certainty.
    """
    high, low = scores[positive], scores[~positive]
    if not len(high) or not len(low):
        return AUC(value=np.nan, draws=np.full(n_resamples, np.nan), n=len(scores))
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    counts = _resamples(len(scores), seed, n_resamples)
    of_high, of_low = counts[:, positive], counts[:, ~positive]
    pairs = of_high.sum(axis=1) * of_low.sum(axis=1)
    won = ((of_high @ wins) * of_low).sum(axis=1)
    draws = np.divide(won, pairs, out=np.full(n_resamples, np.nan), where=pairs > 0)
    return AUC(value=float(wins.mean()), draws=draws, n=len(scores))


@lru_cache(maxsize=2)
def _resamples(n: int, seed: int, n_resamples: int) -> Float[np.ndarray, "resamples n"]:
    """How often each athlete is drawn in each resample."""
    return next(resample_counts(n, np.random.default_rng(seed), n_resamples)).astype(np.float64)


def detectors(
    scan: pl.DataFrame,
    named: Sequence[str],
    activations: Callable[[int], Float[np.ndarray, "athletes neurons"]],
    halves: Halves | None,
    sports: Sequence[str],
) -> list[Detector]:
    """The neurons that get a dossier: the best of each sport by the scan's first half, and those that are `named`.

    A named one is looked at for the sport that it tells best on that half, and of two alike the one that it is high on. `activations(layer)` gives all neurons.
    """
    if halves is None:
        return []
    best = scan.filter(chosen_on=HALVES[0], rank=1).sort("sport")
    found = [
        Detector(site=parse(row["neuron"]), sport=row["sport"], sign=row["sign"], chosen_by="scan")
        for row in best.iter_rows(named=True)
    ]
    present = np.unique(halves.labels)
    for site in map(parse, dict.fromkeys(named)):
        ranks = centred_ranks(activations(site.layer)[halves.choosing][:, [site.index]])
        aucs = rank_aucs(ranks, halves.labels[halves.choosing][:, None] == present)[:, 0]
        above = np.round(aucs - 0.5, 9)
        k = int(np.lexsort((above, np.abs(above)))[-1])
        told = Detector(site=site, sport=sports[present[k]], sign=sign_of(aucs[k]), chosen_by="configuration")
        found.append(told)
    return found
