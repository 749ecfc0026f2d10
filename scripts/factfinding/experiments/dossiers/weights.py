"""A neuron's weights beside one another and beside the answer's direction (P3.4).

**The space.** Input weights read the residual stream through the MLP's norm. Its weight and centring are linear and are
folded into them (its scale is one positive number per subject and is left out), so that input weights, output weights
and directions of the answer all live in the residual stream. Where the norm centres, all of them are centred too: their
mean is what no reader sees. The input weights of a gated neuron are those of its gate.

**Directions of an answer.** A probe's weights for the answer minus the mean of those for the others: of the logistic probe
after the last lookup layer (after the neuron's own layer where there is no lookup), and of the head probe of the first
extracting head.

**Projected out.** Directions are taken out of the input weights, and the pre-activation is computed again from what the
norm gives each subject, scale and bias as they were. With nothing taken out it must be the cached one (`pre_error`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factfinding.data.dossier import Cosine, Projection
from factfinding.engine.direct import Norm
from factfinding.engine.head_probe import folded, head_probe
from factfinding.engine.sites import parse
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.neuron_aucs import AUC, auc_draws
from factfinding.methods.readers import Readers
from factfinding.model.anatomy import Anatomy

RANDOM_DRAWS = 20
"""Sets of random directions that are projected out for comparison."""

Directions = Mapping[str, Float[np.ndarray, " d_model"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """All neurons of one layer in the space of the residual stream; `offset`: pre-activations of an all-mean input."""

    norm: Norm
    into: Float[np.ndarray, "neurons d_model"]
    out: Float[np.ndarray, "neurons d_model"]
    offset: Float[np.ndarray, " neurons"]

    @classmethod
    @torch.no_grad()
    def of(cls, anatomy: Anatomy, layer: int) -> Weights:
        """The weights of a layer's MLP, in float64."""
        block = anatomy.blocks[layer]
        norm = Norm.of(block.norm_mlp)
        eye = torch.eye(anatomy.d_model, device=anatomy.device, dtype=anatomy.dtype)
        start = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
        # pre-activations are affine in their input; the tangent is their matrix without the rounding of a difference
        offset, into = torch.func.jvp(
            lambda x: block.neurons(x)[0], (start.to(eye).repeat(len(eye), 1),), (eye,)
        )
        return cls(
            norm=norm,
            into=_numpy(folded(norm, into.double())).T,
            out=_centred(norm, _numpy(block.neuron_out)),
            offset=_numpy(offset[0]),
        )

    def normed(self, mid: Float[np.ndarray, "subjects d_model"]) -> Float[np.ndarray, "subjects d_model"]:
        """What the norm makes of the MLP's input, without its weight and bias, which are folded elsewhere."""
        plain = replace(self.norm, weight=torch.ones(mid.shape[1], dtype=torch.float64), bias=None)
        return plain(torch.from_numpy(np.asarray(mid, dtype=np.float64))).numpy()

    def pre(
        self, normed: Float[np.ndarray, "subjects d_model"], index: int
    ) -> Float[np.ndarray, " subjects"]:
        """The pre-activation of one neuron, recomputed."""
        return normed @ self.into[index] + self.offset[index]


def answer_directions(
    anatomy: Anatomy, norm: Norm, readers: Readers, heads: Sequence[str], token_of: Mapping[str, int],
    *, answer: str, read_after: int,
) -> Directions:  # fmt: skip
    """By name: what tells an answer from the others, in the residual stream. No probes if no subject is known."""
    if readers.empty or answer not in readers.answers or len(readers.answers) < 2:
        return {}
    probes = {"logistic probe": readers.weight[-1, read_after]}
    if heads:
        ids = [token_of[name] for name in readers.answers]
        probes[f"head probe {heads[0]}"] = _numpy(head_probe(anatomy, parse(heads[0]), ids))
    own = readers.answers.index(answer)
    return {
        name: _centred(norm, weight[:, own] - np.delete(weight, own, axis=1).mean(axis=1))
        for name, weight in probes.items()
    }


def cosines(weights: Weights, index: int, directions: Directions) -> list[Cosine]:
    """Of input with output weights, and of both with each direction, beside all neurons of the layer."""
    pairs = {("input weights", "output weights"): _cosine(weights.into, weights.out)}
    for name, direction in directions.items():
        pairs["input weights", name] = _cosine(weights.into, direction)
        pairs["output weights", name] = _cosine(weights.out, direction)
    found = []
    for (first, second), values in pairs.items():
        low, median, high = np.quantile(values, [0.025, 0.5, 0.975]).tolist()
        below = float((values < values[index]).mean())
        cells = {"first": first, "second": second, "cosine": float(values[index]), "share_below": below}
        found.append(
            Cosine(**cells, layer_low=low, layer_median=median, layer_high=high, neurons=len(values))
        )
    return found


def projections(
    weights: Weights,
    index: int,
    directions: Directions,
    normed: Float[np.ndarray, "subjects d_model"],
    positive: Bool[np.ndarray, " subjects"],
    *,
    sign: int,
    seed: int,
) -> list[Projection]:
    """AUC of sign * pre-activation with the output weights, the answer's directions, all of them, or as many random ones
    projected out of the input weights. normed: `Weights.normed` of the subjects that are scored."""
    into, out = weights.into[index], weights.out[index]
    removed = {"nothing": [], "output weights": [out]}
    removed |= {name: [direction] for name, direction in directions.items()}
    if directions:
        removed["output weights and probes"] = [out, *directions.values()]

    def auc(basis: Float[np.ndarray, "d_model k"]) -> AUC:
        kept = into - basis @ (basis.T @ into)
        return auc_draws(sign * (normed @ kept + weights.offset[index]), positive, seed=seed)

    bases = {name: basis_of(vectors, len(into)) for name, vectors in removed.items()}
    found = {name: auc(basis) for name, basis in bases.items()}
    size, rng = bases[list(removed)[-1]].shape[1], np.random.default_rng(seed)
    randoms = [auc(_random_basis(weights.norm, rng, len(into), size)) for _ in range(RANDOM_DRAWS)]
    found["random directions"] = AUC(
        value=float(np.mean([one.value for one in randoms])),
        draws=np.mean([one.draws for one in randoms], axis=0),
        n=len(positive),
    )
    sizes = {name: basis.shape[1] for name, basis in bases.items()} | {"random directions": size}
    return [
        Projection(
            removed=name,
            dimensions=sizes[name],
            **estimate_columns("auc", one.estimate),
            **estimate_columns("change", one.change_from(found["nothing"])),
            n=len(positive),
            base_rate=float(positive.mean()),
        )
        for name, one in found.items()
    ]


def basis_of(
    vectors: Sequence[Float[np.ndarray, " d_model"]], d_model: int
) -> Float[np.ndarray, "d_model k"]:
    """An orthonormal basis of the span of vectors; those that are zero or lie in the span of others add nothing."""
    units = [vector / np.linalg.norm(vector) for vector in vectors if np.linalg.norm(vector) > 0]
    if not units:
        return np.zeros((d_model, 0))
    left, size, _ = np.linalg.svd(np.stack(units, axis=1), full_matrices=False)
    return left[:, size > 1e-6]


def _random_basis(
    norm: Norm, rng: np.random.Generator, d_model: int, size: int
) -> Float[np.ndarray, "d_model size"]:
    return basis_of(list(_centred(norm, rng.normal(size=(size, d_model)))), d_model)


def _centred(norm: Norm, vectors: Float[np.ndarray, "... d_model"]) -> Float[np.ndarray, "... d_model"]:
    return vectors - vectors.mean(axis=-1, keepdims=True) if norm.centred else vectors


def _cosine(
    x: Float[np.ndarray, "neurons d_model"], y: Float[np.ndarray, "... d_model"]
) -> Float[np.ndarray, " neurons"]:
    """Cosine of each row; 0 where one of the two is zero."""
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return np.divide((x * y).sum(axis=-1), lengths, out=np.zeros(len(x)), where=lengths > 0)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()
