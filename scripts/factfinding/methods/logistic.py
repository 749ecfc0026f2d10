"""The logistic regression that probes (methods/probes.py) and readers (methods/readers.py) fit, and its preparation.

Columns are centred and scaled to a deviation of 1 over the training rows; where there are more dimensions than rows, the
rows are rotated into their own span. `regularisation` weighs half of the squared weights against the *mean* loss of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


def column_scale(
    train: Float[np.ndarray, "train d"], *, of_mean: float, of_widest: float = 0.0
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and standard deviation of each column; a deviation of 1 for those that count as constant.

    Constant is a column that varies by no more than `of_mean` of its mean's size, or `of_widest` of the widest column's
    deviation: centred, it is zero up to rounding, and must not be blown up to the size of the others.
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread <= np.maximum(of_widest * spread.max(), of_mean * np.abs(mean))] = 1.0
    return mean, spread


def in_own_span(
    rows: Float[np.ndarray, "train d"],
) -> tuple[Float[np.ndarray, "train k"], Float[np.ndarray, "d k"] | None]:
    """The rows in at most as many dimensions as there are rows, and the orthonormal basis of these (None: as they were).

    An isometry: the dot products of rows, which are all that a penalised fit sees, stay.
    """
    if rows.shape[1] <= len(rows):
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
