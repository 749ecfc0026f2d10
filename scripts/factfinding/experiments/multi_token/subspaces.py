"""The directions that probes of an attribute read, and how those of two attributes lie to each other (P1.1).

An attribute's subspace is the span of a logistic probe's directions, less what is added to all answers alike: one dimension
fewer than there are answers. Two subspaces' principal angles (Björck and Golub 1973) come from the singular values of the
product of their bases; their overlap is the mean squared cosine of these angles: 0 at right angles, 1 where one lies in the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from factfinding.experiments.readers.compute import fit_readers
from factfinding.methods.attributes import Attribute
from factfinding.methods.probes import ProbeSettings
from factfinding.methods.readers import Readers, span
from factfinding.stats import stratified_folds
from factfinding.tables import schema_of

Basis = Float[np.ndarray, "d_model k"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subspaces:
    """An attribute's subspace: of each fold, fitted on the others (`held_out`), on all subjects, and on two halves.

    fold: of each subject of the attribute.
    """

    attribute: Attribute
    held_out: tuple[Basis, ...]
    fold: Int[np.ndarray, " subjects"]
    whole: Basis
    halves: tuple[Basis, Basis] | None

    @property
    def dimensions(self) -> int:
        return self.whole.shape[1]


def subspaces_of(
    attributes: Sequence[Attribute],
    resid: Float[np.ndarray, "rows d_model"],
    row_of: Mapping[str, int],
    fitting: ProbeSettings,
    *,
    seed: int,
) -> list[Subspaces]:
    """Each attribute's subspaces in the residual stream of one layer. row_of: where in `resid` a subject stands."""
    found = []
    for one in attributes:
        here = resid[[row_of[name] for name in one.subjects["subject"]]]
        readers = _fitted(here, one, fitting, n_folds=fitting.n_folds, seed=seed)
        *held_out, whole = (span(weight[0]) for weight in readers.weight)
        found.append(
            Subspaces(
                attribute=one, held_out=tuple(held_out), fold=readers.fold, whole=whole,
                halves=_on_halves(here, one, fitting, seed=seed),
            )
        )  # fmt: skip
    return found


def _on_halves(
    resid: Float[np.ndarray, "subjects d_model"], one: Attribute, fitting: ProbeSettings, *, seed: int
) -> tuple[Basis, Basis] | None:
    """The subspace as either half of the subjects has it; None where a half has an answer once."""
    half = stratified_folds(one.labels, n_folds=2, seed=seed)
    if min(np.bincount(one.labels[half == side]).min() for side in (0, 1)) < 2:
        return None
    sides = (np.flatnonzero(half == side) for side in (0, 1))
    first, second = (
        span(_fitted(resid, one, fitting, n_folds=2, seed=seed, rows=rows).weight[-1, 0]) for rows in sides
    )
    return first, second


def _fitted(
    resid: Float[np.ndarray, "subjects d_model"],
    one: Attribute,
    fitting: ProbeSettings,
    *,
    n_folds: int,
    seed: int,
    rows: Int[np.ndarray, " some"] | None = None,
) -> Readers:
    """Probes of the folds, and of all subjects or those of `rows`."""
    rows = np.arange(len(resid)) if rows is None else rows
    return fit_readers(
        [resid[rows]],
        one.subjects["subject"][rows].to_list(),
        one.subjects["answer"][rows].to_list(),
        n_folds=n_folds,
        regularisation=fitting.regularisation,
        max_iter=fitting.max_iter,
        tolerance=fitting.tolerance,
        seed=seed,
    )


def cosines(one: Basis, other: Basis) -> Float[np.ndarray, " k"]:
    """Cosines of the principal angles, the largest first; as many as the smaller subspace has dimensions."""
    return np.linalg.svd(one.T @ other, compute_uv=False).clip(0.0, 1.0)


def random_basis(d_model: int, dimensions: int, rng: np.random.Generator) -> Basis:
    """An orthonormal basis of a random subspace, all directions equally likely."""
    return np.linalg.qr(rng.normal(size=(d_model, dimensions)))[0]


def angles(spans: Sequence[Subspaces], *, layer: int, draws: int, seed: int) -> pl.DataFrame:
    """The table `attribute_angles`: each two attributes, and each with itself on the two halves of its subjects."""
    rng, rows = np.random.default_rng(seed), []
    pairs = [(one, one, one.halves) for one in spans if one.halves is not None]
    pairs += [(one, other, (one.whole, other.whole)) for one, other in combinations(spans, 2)]
    for one, other, (first, second) in pairs:
        d_model, sizes = len(first), (first.shape[1], second.shape[1])
        chance = [cosines(*(random_basis(d_model, size, rng) for size in sizes)) for _ in range(draws)]
        found = cosines(first, second)
        low, high = np.quantile([(each**2).mean() for each in chance], [0.025, 0.975])
        shared = len(one.attribute.labels) if one is other else _shared(one.attribute, other.attribute)
        rows.append(
            {"relation": one.attribute.name, "other_relation": other.attribute.name, "layer": layer}
            | {"dimensions": sizes[0], "other_dimensions": sizes[1], "overlap": float((found**2).mean())}
            | {"smallest_angle": _degrees(found[0]), "n": shared}
            | {"chance": float(np.mean([(each**2).mean() for each in chance]))}
            | {"chance_low": float(low), "chance_high": float(high)}
            | {"chance_smallest_angle": float(np.mean([_degrees(each[0]) for each in chance]))}
        )
    return pl.DataFrame(rows, schema=schema_of("attribute_angles"))


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(cosine)))


def _shared(one: Attribute, other: Attribute) -> int:
    return len(set(one.subjects["subject"]) & set(other.subjects["subject"]))
