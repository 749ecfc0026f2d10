"""What the toy networks learn: a table of pairs (a, b) from an m x m grid, each with one of two labels.

    memorising    labels drawn one by one: there is nothing to know but the table
    generalising  a and b each have a hidden class, and the label is a function of the two classes
    exceptions    the same, with some labels turned round: a rule of thumb and what has to be learnt by heart beside it

The function of the classes has as many ones as zeros in each row and column, and no two rows or columns alike: neither
token tells the label alone, and no two classes can be taken for one (with two classes it is XOR). Of the last two tasks a
share of the pairs is held out: only there it can be seen whether the rule was learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

TASKS = ("memorising", "generalising", "exceptions")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One table. Pair (a, b) has index a * m + b.

    classes: of a and of b; those that the labels follow, or (memorising) classes that nothing follows.
    random_classes: drawn as the others and never used, the control of every measure of classes.
    """

    kind: str
    m: int
    seed: int
    labels: Bool[np.ndarray, " pairs"]
    trained: Bool[np.ndarray, " pairs"]
    classes: Int[np.ndarray, "2 m"]
    random_classes: Int[np.ndarray, "2 m"]


def make_task(kind: str, m: int, *, classes: int, exceptions: float, held_out: float, seed: int) -> Task:
    """A task of one of the kinds in `TASKS`, a function of its arguments alone.

    classes: how many, even; exceptions, held_out: shares of the pairs, rounded to whole pairs.
    """
    rng = np.random.default_rng([seed, TASKS.index(kind), m])
    own, control = (np.stack([rng.permutation(np.arange(m) % classes) for _ in range(2)]) for _ in range(2))
    labels, trained = rng.random(m * m) < 0.5, np.ones(m * m, dtype=bool)
    if kind != "memorising":
        labels = balanced_table(classes, rng)[own[0][:, None], own[1]].reshape(-1)
        trained[rng.permutation(m * m)[: round(held_out * m * m)]] = False
    if kind == "exceptions":
        labels[rng.permutation(m * m)[: round(exceptions * m * m)]] ^= True
    return Task(
        kind=kind, m=m, seed=seed, labels=labels, trained=trained, classes=own, random_classes=control
    )


def balanced_table(classes: int, rng: np.random.Generator) -> Bool[np.ndarray, "classes classes"]:
    """A random table with half ones in each row and column, no two rows and no two columns alike.

    It starts from a table that has the sums and is mixed by turning rectangles 10/01 into 01/10, which keeps them.
    """
    at = np.arange(classes)
    table = (at[:, None] + at) % classes < classes // 2
    for _ in range(4 * classes**2):
        rows, columns = (rng.choice(classes, 2, replace=False) for _ in range(2))
        corner = table[np.ix_(rows, columns)]
        if corner[0, 0] == corner[1, 1] != corner[0, 1] == corner[1, 0]:
            table[np.ix_(rows, columns)] = ~corner
            if not (_all_different(table) and _all_different(table.T)):
                table[np.ix_(rows, columns)] = corner
    return table[rng.permutation(classes)][:, rng.permutation(classes)]


def _all_different(rows: Bool[np.ndarray, "classes classes"]) -> bool:
    return len({row.tobytes() for row in rows}) == len(rows)


def pair_inputs(m: int) -> Float[np.ndarray, "two_m pairs"]:
    """Two-hot columns: an embedding table times this is the sum of the embeddings of each pair's two tokens."""
    eye = np.eye(m, dtype=np.float32)
    return np.concatenate([np.repeat(eye, m, axis=1), np.tile(eye, (1, m))])
