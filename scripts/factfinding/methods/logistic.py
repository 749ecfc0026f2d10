"""The logistic regression that probes (methods/probes.py) and readers (methods/readers.py) fit, and its preparation.

Columns are centred and scaled by the training rows (`Scale`); where there are more dimensions than rows, and not many rows,
the rows are rotated into their own span. `regularisation` weighs half of the squared weights against the *mean* loss of a row.

**How columns are scaled.** A column's scale is its deviation and the typical one of all columns taken together,

    scale_j^2 = var_j + mean_k(var_k)

Dividing by the deviation alone lets one penalty serve columns of any size, but fails where activations are sparse. A
direction that no training name uses holds next to nothing: rounding, or the faint trace of other names. Blown up to the
size of the others, it puts a held-out name that does use it hundreds or thousands of deviations away, and a weight fitted
to noise decides its answer. No penalty at all in units of deviations (a ridge in the original scale) fails the other way:
one huge column leaves nothing of the others. With both, no difference between two rows is stretched by more than one
over the typical deviation, however faint a column is in training, and one huge column among d raises the typical
deviation by only a part in sqrt(d). Where columns vary about alike, as in trained dense models, all scales are, and
nothing changes but by what they differ. There is no threshold at which a faint column changes its treatment; only one that
varies by less than arithmetic resolves, `ROUNDING` of the rows' root mean square, counts as constant and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

ROUNDING = 1e-6
"""Of the rows' root mean square: a few roundings of single precision (6e-8 each), which add up from layer to layer."""
ROTATED = 500
"""Most rows that are rotated into their own span. The rotation takes time with their square, a fit with their number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """Centre and scale of each column, infinite for a constant one: `(rows - mean) / scale`, and weights go back by `/ scale`.

    Training rows so scaled have a mean squared length of 1, whatever their width.
    """

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, train: Float[np.ndarray, "train d"]) -> Scale:
        """The scale of training rows, as the module's docstring has it."""
        mean, variance = train.mean(axis=0), train.var(axis=0)
        resolved = ROUNDING**2 * (variance + mean**2).mean()
        scale = np.sqrt(variance + variance.mean())
        scale[variance <= resolved] = np.inf
        length = np.sqrt((variance / scale**2).sum()) or 1.0
        return cls(mean=mean, scale=scale * length)

    def __call__(self, rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rows d"]:
        return (rows - self.mean) / self.scale


def in_own_span(
    rows: Float[np.ndarray, "train d"],
) -> tuple[Float[np.ndarray, "train k"], Float[np.ndarray, "d k"] | None]:
    """The rows in at most as many dimensions as there are rows, and the orthonormal basis of these (None: as they were, where
    a rotation would save no dimension, or take longer than the fits that it makes quicker).

    An isometry: the dot products of rows, which are all that a penalised fit sees, stay.
    """
    if rows.shape[1] <= len(rows) or len(rows) > ROTATED:
        return rows, None
    basis, upper = scipy.linalg.qr(rows.T, mode="economic", check_finite=False)
    return np.ascontiguousarray(upper.T), basis


def fit_logistic(
    train, labels: Int[np.ndarray, " train"], *, regularisation: float, max_iter: int, tolerance: float
) -> LogisticRegression:
    """Multinomial logistic regression on prepared rows, dense or sparse, by L-BFGS from zero weights.

    It stops when no gradient of the mean loss exceeds `tolerance`, or with a ConvergenceWarning after `max_iter` steps.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and only needed to fit

    strength = 1 / (regularisation * len(labels))  # scikit-learn's C weighs the *sum* of the rows' losses
    return LogisticRegression(C=strength, max_iter=max_iter, tol=tolerance).fit(train, labels)
