"""The rows that dictionaries are trained on: activations of many names, and two kinds of rows to compare them with (P1.4).

    true        what the model has at the final name token, under two prompts
    sum         the best sum of one vector for the first token, one for the last and one for the answer, and nothing else: what a
                dictionary finds there it was bound to find, so it says what the method can see; and there is nothing of any
                entity or group in it
    shuffled    each principal component permuted over the subjects on its own: the same variances, nothing that belongs together

Rows are centred by the mean of the training half under their prompt, and stand in the principal components of that half, so that
the shuffled ones keep every variance. Their mean squared norm on the training half is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

TRUE, SUM, SHUFFLED = "true", "sum", "shuffled"
DATA = (TRUE, SUM, SHUFFLED)
ROUNDING = 1e-5
"""Of the largest singular value: components below it are rounding."""
RIDGE = 1e-6
"""Keeps the fit of the sum unique: adding to all first tokens what is taken from all last ones changes nothing."""
Rows = Float[np.ndarray, "subjects components"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cloud:
    """Rows of all subjects. rows: under the prompt of training; elsewhere: under the other one. outside: mean squared norm, on the
    held-out half, of what the components leave out."""

    rows: Rows
    elsewhere: Rows
    training: Bool[np.ndarray, " subjects"]
    outside: float

    @property
    def held_out(self) -> float:
        """Mean squared norm on the held-out half."""
        return _squares(self.rows[~self.training]) + self.outside

    def explained(self, rebuilt: Rows) -> tuple[float, float]:
        """Shares of the variance that rebuilt rows explain: on the held-out half, and on the training half."""
        missed = self.rows - rebuilt
        held = 1 - (_squares(missed[~self.training]) + self.outside) / max(self.held_out, 1e-30)
        return held, 1 - _squares(missed[self.training]) / _squares(self.rows[self.training])

    def principal(self, k: int) -> float:
        """The share of the held-out variance that the first k principal components of the training half explain."""
        _, _, directions = np.linalg.svd(self.rows[self.training], full_matrices=False)
        return _squares(self.rows[~self.training] @ directions[:k].T) / max(self.held_out, 1e-30)


def cloud_of(
    full: Float[np.ndarray, "subjects d"],
    elsewhere: Float[np.ndarray, "subjects d"],
    training: Bool[np.ndarray, " subjects"],
    *,
    components: int,
) -> Cloud | None:
    """The true rows, in at most so many principal components; None where all training rows are alike."""
    full, elsewhere = (x - x[training].mean(0) for x in (full, elsewhere))
    _, sizes, directions = np.linalg.svd(full[training], full_matrices=False)
    size = np.sqrt(_squares(full[training]))
    if size <= ROUNDING:
        return None
    kept = directions[: min(components, int((sizes > ROUNDING * sizes[0]).sum()))].T
    rows = full @ kept
    outside = max(0.0, _squares(full[~training]) - _squares(rows[~training]))
    found = Cloud(rows=rows, elsewhere=elsewhere @ kept, training=training, outside=outside)
    return _of_unit_size(found)


def shuffled(cloud: Cloud, *, seed: int) -> Cloud:
    """Each component permuted within either half, alike under both prompts."""
    rng = np.random.default_rng(seed)
    rows, elsewhere = cloud.rows.copy(), cloud.elsewhere.copy()
    for half in (np.flatnonzero(cloud.training), np.flatnonzero(~cloud.training)):
        for component in range(rows.shape[1]):
            order = rng.permutation(half)
            rows[half, component] = cloud.rows[order, component]
            elsewhere[half, component] = cloud.elsewhere[order, component]
    return replace(cloud, rows=rows, elsewhere=elsewhere)


def summed(cloud: Cloud, parts: Sequence[Sequence[object]]) -> Cloud:
    """The best sum of one vector for each value of each part, fitted to the training half under either prompt. parts: of each
    subject the value, None for none. A value that the training half lacks adds nothing. What has no such sum stays as it is."""
    columns = []
    for values in parts:
        seen = sorted(
            {str(value) for value in np.array(values, dtype=object)[cloud.training] if value is not None}
        )
        given = np.array([None if value is None else str(value) for value in values], dtype=object)
        columns += [given == value for value in seen]
    design = np.array(columns, dtype=np.float64).T
    inside = design[cloud.training]
    square = inside.T @ inside + RIDGE * np.eye(design.shape[1])
    fitted = [
        design @ np.linalg.solve(square, inside.T @ x[cloud.training]) for x in (cloud.rows, cloud.elsewhere)
    ]
    if _squares(fitted[0][cloud.training]) <= ROUNDING:
        return cloud
    return _of_unit_size(replace(cloud, rows=fitted[0], elsewhere=fitted[1], outside=0.0))


def _of_unit_size(cloud: Cloud) -> Cloud:
    size = _squares(cloud.rows[cloud.training])
    return replace(
        cloud,
        rows=cloud.rows / np.sqrt(size),
        elsewhere=cloud.elsewhere / np.sqrt(size),
        outside=cloud.outside / size,
    )


def _squares(rows: Float[np.ndarray, "rows d"]) -> float:
    """Mean squared norm."""
    return float((rows**2).sum(1).mean())
