"""Differences f(x + d) - f(x) of a transformer's non-linear parts, without cancellation.

Subtracting two activations leaves their rounding error, however small the change; these forms have an error
relative to the change d itself, and are exactly zero for d = 0. They hold for changes of any size. `x`
broadcasts against `d`, so that one clean value can serve many rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

LARGE_SCORE = 20.0
"""Above this change of an attention score exp(change) is taken relative to the largest, so that it cannot
overflow.
"""

LEAST_GROWTH = -0.5
"""A partition function that shrinks by more than this share is summed anew: 1 plus its change would cancel."""


def norm_difference(
    x: Float[Tensor, "... d"], d: Float[Tensor, "... d"], eps: float, *, centred: bool = True
) -> Float[Tensor, "... d"]:
    """LayerNorm without weight and bias: the change of (x - mean) / sqrt(var + eps); RMS norm if not `centred`.

    With c the centred x, e the centred d and r = 1/sqrt(var + eps) before, s after: c (s - r) + e s, where
    s - r = -(change of var) r^2 s^2 / (r + s).
    """
    if centred:
        x, d = x - x.mean(-1, keepdim=True), d - d.mean(-1, keepdim=True)
    before = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    grown = ((2 * x + d) * d).mean(-1, keepdim=True)
    after = ((x + d).square().mean(-1, keepdim=True) + eps).rsqrt()
    return torch.addcmul(d * after, x, -grown * (before * after).square() / (before + after))


def softmax_difference(
    p: Float[Tensor, "... keys"], d: Float[Tensor, "... keys"]
) -> Float[Tensor, "... keys"]:
    """Change of a softmax with value p when its scores change by d: p (e - z) / (1 + z), e = expm1(d), z =
    sum p e.
    """
    e = torch.expm1(d)
    z = (p * e).sum(-1, keepdim=True)
    change = p * ((e - z) / (1 + z))
    top = d.amax(-1, keepdim=True)
    if bool((top > LARGE_SCORE).any()):
        grown = p * (d - top).exp()
        change = torch.where(top > LARGE_SCORE, grown / grown.sum(-1, keepdim=True) - p, change)
    return change


def log_partition_difference(log_p: Float[Tensor, "... tokens"], d: Float[Tensor, "... tokens"]) -> Tensor:
    """Change of logsumexp(logits) when they change by d, where log_p = log_softmax(logits): log(1 + sum p
    expm1(d)).
    """
    grown = (log_p.exp() * torch.expm1(d)).sum(-1)
    large = (d.amax(-1) > LARGE_SCORE) | (grown < LEAST_GROWTH)
    return (
        torch.where(large, (log_p + d).logsumexp(-1), grown.log1p()) if bool(large.any()) else grown.log1p()
    )


def gelu_difference(x: Tensor, d: Tensor) -> Tensor:
    """Exact GELU: five terms of its Taylor series for a small d, else the difference of its bounded part.

    GELU(x) = relu(x) - |x| Phi(-|x|). The change of relu is exact, and the second part is never above 0.17,
    so that subtracting it costs at most eps * 0.17 / d. The series is used below d = (100 eps)^(1/5), where
    what it leaves out, 0.01 d^6, is below eps * d.
    """
    square = x.square()
    density = torch.exp(-square / 2) / math.sqrt(2 * math.pi)
    terms = (
        torch.erfc(-x * math.sqrt(0.5)) / 2 + x * density,
        (2 - square) * density / 2,
        x * (square - 4) * density / 6,
        ((7 - square) * square - 4) * density / 24,
        x * ((square - 11) * square + 18) * density / 120,
    )
    change = terms[-1] * d
    for term in reversed(terms[:-1]):
        change = change.add_(term).mul_(d)
    large = (d.abs() > (100 * torch.finfo(d.dtype).eps) ** 0.2).nonzero(as_tuple=True)
    before, moved = x.expand(d.shape)[large], d[large]
    change[large] = relu_difference(before, moved) - (_bounded(before + moved) - _bounded(before))
    return change


def _bounded(x: Tensor) -> Tensor:
    """|x| Phi(-|x|), between 0 and 0.17."""
    x = x.abs()
    return x * torch.erfc(x * math.sqrt(0.5)) / 2


def tanh_gelu_difference(x: Tensor, d: Tensor) -> Tensor:
    """The tanh form of GELU, x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3); the change of u is a polynomial
    in d.
    """
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    before, after = (scale * (y + cubic * y**3) for y in (x, x + d))
    v = scale * d * (1 + cubic * (3 * x.square() + 3 * x * d + d.square()))
    return _half_open_difference(x, d, before, v, after)


def silu_difference(x: Tensor, d: Tensor) -> Tensor:
    """SiLU (swish), x sigmoid(x) = x (1 + tanh(x / 2)) / 2."""
    return _half_open_difference(x, d, x / 2, d / 2, (x + d) / 2)


def _half_open_difference(x: Tensor, d: Tensor, u: Tensor, v: Tensor, after: Tensor) -> Tensor:
    """Change of x (1 + tanh u) / 2 when x changes by d, and u by v to `after`.

    tanh(u + v) - tanh(u) = tanh(v) (1 - tanh(u) tanh(u + v)). The sum u + v is given, not made here: where u goes with the
    cube of x, adding the two loses what a large change leaves of it.
    """
    tanh = torch.tanh(after)
    return (d * (1 + tanh) + x * torch.tanh(v) * (1 - torch.tanh(u) * tanh)) / 2


def relu_difference(x: Tensor, d: Tensor) -> Tensor:
    """max(x + d, 0) - max(x, 0), exact where x and x + d have one sign."""
    return torch.where(x > 0, torch.maximum(d, -x), (x + d).clamp_min(0))


ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "GELUActivation": gelu_difference,
    "GELU": gelu_difference,
    "NewGELUActivation": tanh_gelu_difference,
    "FastGELUActivation": tanh_gelu_difference,
    "GELUTanh": tanh_gelu_difference,
    "ReLU": relu_difference,
    "SiLUActivation": silu_difference,
    "SiLU": silu_difference,
}
"""The difference form of an activation module, by the name of its class."""


def product_difference(x: Tensor, dx: Tensor, y: Tensor, dy: Tensor) -> Tensor:
    """(x + dx) (y + dy) - x y, such as a gate and what it gates, both changed."""
    return torch.addcmul(dx * (y + dy), x, dy)
