"""A neuron's weights beside one another and beside the answer's direction (P3.4).

**The space.** Input weights read the residual stream through the MLP's norm. Its weight and centring are linear and are
folded into them (its scale is one positive number per subject and is left out), so that input weights, output weights
and directions of the answer all live in the residual stream. Where the norm centres, all of them are centred too: their
mean is what no reader sees. The input weights of a gated neuron are those of its gate.

**Directions of an answer.** Those of the study go through a head that extracts: what the head makes of the residual stream
for the logit of the answer (`head logit`), and for that logit less the mean of the other answers' (`head logit
difference`). The study reads with its first head; here every extracting head reads in turn. Beside them stands a probe
fitted to subjects, which is none of the study's: its weights for the answer less the mean of those for the others (the
logistic probe after the last lookup layer, or after the neuron's own where there is no lookup).

**Projected out.** The study takes three directions out of the input weights: the neuron's own output weights and both of
the head's (`output weights and head`). They are taken out one by one as well, together, and together with the probe; and
the pre-activation is computed again from what the norm gives each subject, scale and bias as they were. With nothing
taken out it must be the cached one (`pre_error`). Its mean over the subjects stays, so that directions take away what
tells subjects apart, and not where on its activation function the neuron works. What tells an answer is the activation (of
a gated neuron, its gate's); the AUC of the pre-activation stands beside it, as a neuron that finds two signs together
tells the answer only behind its activation function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factfinding.data.dossier import Cosine, Projection
from factfinding.engine.direct import Norm
from factfinding.engine.head_probe import folded, head_probe
from factfinding.engine.sites import parse
from factfinding.experiments.dossiers.removed import WITH_HEAD, WITH_PROBE
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.neuron_aucs import AUC, auc_draws
from factfinding.methods.readers import Readers
from factfinding.model.anatomy import Anatomy
from factfinding.stats import Estimate

SAME = 1e-5
"""Of the largest distance of a pre-activation from its mean: what is no difference."""
RANDOM_DRAWS = 20
"""Sets of random directions that are projected out for comparison."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadDirections:
    """What a head reads in the residual stream for an answer's logit, and for its difference to the others' mean."""

    head: str
    logit: Float[np.ndarray, " d_model"]
    difference: Float[np.ndarray, " d_model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """The directions of an answer. heads: those that extract, the first first. probe: None where nobody is known."""

    heads: Sequence[HeadDirections] = ()
    probe: Float[np.ndarray, " d_model"] | None = None

    def one_by_one(self) -> Iterator[tuple[str, str | None, int | None, Float[np.ndarray, " d_model"]]]:
        """(name, head, its place among the heads, direction)."""
        for rank, one in enumerate(self.heads, start=1):
            yield "head logit", one.head, rank, one.logit
            yield "head logit difference", one.head, rank, one.difference
        if self.probe is not None:
            yield "logistic probe", None, None, self.probe


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """All neurons of one layer in the space of the residual stream; `offset`: pre-activations of an all-mean input.

    activation: the activation function, of a gated neuron that of its gate.
    """

    norm: Norm
    into: Float[np.ndarray, "neurons d_model"]
    out: Float[np.ndarray, "neurons d_model"]
    offset: Float[np.ndarray, " neurons"]
    activation: Callable[[Tensor], Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, anatomy: Anatomy, layer: int) -> Weights:
        """The weights of a layer's MLP, in float64."""
        block = anatomy.blocks[layer]
        norm = Norm.of(block.norm_mlp, block.family)
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
            activation=block.mlp_act,
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

    @torch.no_grad()
    def without(
        self,
        normed: Float[np.ndarray, "subjects d_model"],
        index: int,
        basis: Float[np.ndarray, "d_model k"],
    ) -> tuple[Float[np.ndarray, " subjects"], Float[np.ndarray, " subjects"]]:
        """Pre-activation and activation of one neuron with the span of a basis projected out of its input weights.

        The mean pre-activation stays. What differs by less than SAME of the range that it had is the same: with all that
        a neuron reads taken out, rounding is left, and it tells no answer.
        """
        whole = self.pre(normed, index)
        mean = whole.mean()
        left = whole - mean - (normed - normed.mean(axis=0)) @ basis @ (basis.T @ self.into[index])
        step = SAME * max(float(np.abs(whole - mean).max()), np.finfo(np.float64).tiny)
        pre = mean + np.round(left / step) * step
        return pre, self.activation(torch.from_numpy(pre)).numpy()


def answer_directions(
    anatomy: Anatomy, norm: Norm, readers: Readers, heads: Sequence[str], token_of: Mapping[str, int],
    *, answer: str, read_after: int,
) -> Directions:  # fmt: skip
    """What stands for an answer in the residual stream. token_of: the token of each answer.

    Raises InputError for a head that the model does not have.
    """
    ids, own = list(token_of.values()), list(token_of).index(answer)
    through = {name: _numpy(head_probe(anatomy, parse(name), ids)) for name in heads}
    probe = None
    if not readers.empty and answer in readers.answers and len(readers.answers) > 1:
        probe = _from_others(norm, readers.weight[-1, read_after], readers.answers.index(answer))
    return Directions(
        heads=tuple(
            HeadDirections(
                head=name, logit=_centred(norm, matrix[:, own]), difference=_from_others(norm, matrix, own)
            )
            for name, matrix in through.items()
        ),
        probe=probe,
    )


def _from_others(
    norm: Norm, weight: Float[np.ndarray, "d_model answers"], own: int
) -> Float[np.ndarray, " d_model"]:
    return _centred(norm, weight[:, own] - np.delete(weight, own, axis=1).mean(axis=1))


def cosines(weights: Weights, index: int, directions: Directions) -> list[Cosine]:
    """Of input with output weights, and of both with each direction, beside all neurons of the layer."""
    pairs = [("input weights", "output weights", None, None, _cosine(weights.into, weights.out))]
    for name, head, rank, direction in directions.one_by_one():
        pairs.append(("input weights", name, head, rank, _cosine(weights.into, direction)))
        pairs.append(("output weights", name, head, rank, _cosine(weights.out, direction)))
    return [_beside_layer(values, index, *what) for *what, values in pairs]


def _beside_layer(
    values: Float[np.ndarray, " neurons"],
    index: int,
    first: str,
    second: str,
    head: str | None,
    rank: int | None,
) -> Cosine:
    others = np.delete(values, index)
    low, median, high = np.quantile(values, [0.025, 0.5, 0.975]).tolist()
    return Cosine(
        first=first, second=second, head=head, head_rank=rank, cosine=float(values[index]),
        layer_low=low, layer_median=median, layer_high=high,
        share_below=_share(others < values[index]), share_above=_share(others > values[index]), neurons=len(values),
    )  # fmt: skip


def _share(hits: Bool[np.ndarray, " others"]) -> float | None:
    return float(hits.mean()) if len(hits) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Removed:
    """A set of directions that is taken out of a neuron's input weights."""

    name: str
    vectors: Sequence[Float[np.ndarray, " d_model"]] = ()
    head: str | None = None
    rank: int | None = None


@dataclass(frozen=True, eq=False)
class Left:
    """The AUCs of activation and pre-activation with directions projected out, and how many they span."""

    post: AUC
    pre: AUC
    dimensions: int


def sets_of(out: Float[np.ndarray, " d_model"], directions: Directions) -> list[Removed]:
    """What is removed: nothing, each direction, the study's set through each head, and the first of these with the probe."""
    found = [Removed(name="nothing"), Removed(name="output weights", vectors=[out])]
    found += [
        Removed(name=name, vectors=[direction], head=head, rank=rank)
        for name, head, rank, direction in directions.one_by_one()
    ]
    for rank, one in enumerate(directions.heads, start=1):
        study = [out, one.logit, one.difference]
        found.append(Removed(name=WITH_HEAD, vectors=study, head=one.head, rank=rank))
        if rank == 1 and directions.probe is not None:
            found.append(
                Removed(name=WITH_PROBE, vectors=[*study, directions.probe], head=one.head, rank=rank)
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
    """AUC of sign * activation, and of sign * pre-activation, with each of `sets_of` projected out of the input weights, and
    with as many random directions as the study's set has (where no head reads: one). normed: `Weights.normed` of the
    subjects that are scored."""
    width = weights.into.shape[1]

    def left_without(basis: Float[np.ndarray, "d_model k"]) -> Left:
        pre, post = weights.without(normed, index, basis)
        aucs = (auc_draws(sign * score, positive, seed=seed) for score in (post, pre))
        return Left(*aucs, dimensions=basis.shape[1])

    sets = sets_of(weights.out[index], directions)
    found = [(one, left_without(basis_of(one.vectors, width))) for one in sets]
    first = next((left for one, left in found if one.name == WITH_HEAD), None)
    size, rng = 1 if first is None else first.dimensions, np.random.default_rng(seed)
    randoms = [left_without(_random_basis(weights.norm, rng, width, size)) for _ in range(RANDOM_DRAWS)]
    post, pre = (_mean([getattr(one, name) for one in randoms]) for name in ("post", "pre"))
    found.append((Removed(name="random directions"), Left(post, pre, dimensions=size)))
    whole, base_rate = found[0][1].post, float(positive.mean())
    return [
        Projection(
            removed=one.name,
            head=one.head,
            head_rank=one.rank,
            dimensions=left.dimensions,
            **estimate_columns("auc", left.post.estimate),
            **estimate_columns("auc_pre", left.pre.estimate),
            **estimate_columns("change", left.post.change_from(whole)),
            **estimate_columns("kept", left.post.share(whole)),
            **estimate_columns("from_first_head", _from_first(one, left, first)),
            n=len(positive),
            base_rate=base_rate,
        )
        for one, left in found
    ]


def _from_first(one: Removed, left: Left, first: Left | None) -> Estimate | None:
    """The AUC with the study's set through another head, less that through the first."""
    if first is None or one.name != WITH_HEAD or left is first:
        return None
    return left.post.change_from(first.post)


def _mean(aucs: Sequence[AUC]) -> AUC:
    """The mean of some AUCs of the same subjects, draw by draw."""
    value, draws = np.mean([one.value for one in aucs]), np.mean([one.draws for one in aucs], axis=0)
    return AUC(value=float(value), draws=draws, n=aucs[0].n)


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
