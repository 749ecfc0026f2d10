"""A relation as an affine map (Hernandez and others 2024, *Linearity of Relation Decoding*; P1.3).

What a model makes of a representation s of a name is taken to first order around a few examples s_i:

    end = beta * W s + b        W = mean of J(s_i),  b = mean of end(s_i) - J(s_i) s_i

J is the Jacobian of the residual stream at END, after the last layer, in that at the final name token. A mean Jacobian
is shorter than its parts, which do not all point the same way; `beta` makes up for that. The inverse, of low rank, says
how a representation is to be moved so that END moves as wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FAINT = 1e-6
"""Of the largest singular value: what is smaller is rounding, and its inverse would be noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """The map of one layer."""

    weight: Float[np.ndarray, "d_end d_name"]
    bias: Float[np.ndarray, " d_end"]
    beta: float = 1.0

    def __call__(self, name: Float[np.ndarray, "rows d_name"]) -> Float[np.ndarray, "rows d_end"]:
        return self.beta * name @ self.weight.T + self.bias

    def inverse(self, rank: int) -> Float[np.ndarray, "d_name d_end"]:
        """The pseudo-inverse of the weight (without beta, as in the paper), of its `rank` largest directions."""
        left, size, right = np.linalg.svd(self.weight, full_matrices=False)
        kept = slice(0, min(rank, int((size > FAINT * max(size[0], np.finfo(float).tiny)).sum())))
        return (right[kept].T / size[kept]) @ left[:, kept].T
