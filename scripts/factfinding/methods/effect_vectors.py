"""The effects of single neurons as vectors over neurons, and how alike two of them are (P3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

STATISTICS = ("pearson", "spearman", "absolute", "top_neuron")
ALL = "all"
"""What stands for all layers, and for the mean over facts or over pairs of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """The effects of one kind as vectors over neurons, one for each subject and fact."""

    subjects: list[str]
    facts: list[str]
    answers: list[str]  # the token by which each is asked for, as text
    effects: Float[np.ndarray, "vectors neurons"]
    layers: Int[np.ndarray, " neurons"]
    reliability: Float[np.ndarray, " vectors"]  # NaN where there are no draws

    @property
    def people(self) -> Int[np.ndarray, " vectors"]:
        """The subject of each vector, as a number in order of appearance."""
        number = {name: i for i, name in enumerate(dict.fromkeys(self.subjects))}
        return np.array([number[name] for name in self.subjects], dtype=np.intp)

    @property
    def one_answer(self) -> Bool[np.ndarray, "vectors vectors"]:
        """Which are facts of one subject that are asked by the same token: one measurement, and no pair of facts."""
        person, answer = self.people, np.array(self.answers, dtype=object)
        same = (person[:, None] == person) & (answer[:, None] == answer)
        return same & ~np.eye(len(person), dtype=bool)

    def rows(self, fact: str) -> Int[np.ndarray, " subjects"]:
        return np.flatnonzero(np.array(self.facts) == fact)


def vectors(effects: pl.DataFrame, kind: str) -> Vectors:
    """The table neuron_effects, one kind of it. Raises ValueError if some neuron is missing for some fact."""
    part = effects.filter(kind=kind)
    pairs = part.select("subject", "fact", "answer_token").unique(maintain_order=True)
    n_neurons = part.select("layer", "neuron").n_unique()
    if part.height != pairs.height * n_neurons:
        raise ValueError(f"{part.height} effects of {pairs.height} facts and {n_neurons} neurons: some miss")
    order = pairs.with_row_index("pair")
    part = part.join(order.drop("answer_token"), on=["subject", "fact"]).sort("pair", "layer", "neuron")
    shape = (pairs.height, n_neurons)
    values = part["effect"].to_numpy().reshape(shape)
    errors = part["standard_error"].fill_null(np.nan).to_numpy().reshape(shape)
    spread = values.var(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        reliability = np.clip(1 - (errors**2).mean(axis=1) / spread, 0, None)
    return Vectors(
        subjects=pairs["subject"].to_list(),
        facts=pairs["fact"].to_list(),
        answers=pairs["answer_token"].to_list(),
        effects=values,
        layers=part["layer"].head(n_neurons).to_numpy(),
        reliability=reliability,
    )


def similarity(
    effects: Float[np.ndarray, "vectors neurons"], statistic: str
) -> Float[np.ndarray, "vectors vectors"]:
    """Every vector with every other; NaN where one of them is constant."""
    constant = np.ptp(np.abs(effects) if statistic == "absolute" else effects, axis=1) == 0
    if statistic == "top_neuron":
        top = np.abs(effects).argmax(axis=1)
        alike = (top[:, None] == top[None]).astype(np.float64)
    else:
        x = transformed(effects, statistic)
        x = x - x.mean(axis=1, keepdims=True)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(length > 0, length, 1.0)
        alike = np.clip(x @ x.T, -1, 1)
    alike[constant] = alike[:, constant] = np.nan
    return alike


def transformed(effects: Float[np.ndarray, "vectors neurons"], statistic: str) -> np.ndarray:
    """What a correlation is taken of."""
    if statistic == "spearman":
        return rankdata(effects, axis=1)
    return np.abs(effects) if statistic == "absolute" else effects
