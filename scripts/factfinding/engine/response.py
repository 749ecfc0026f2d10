"""The effect of one neuron as a curve of one number.

Replacing a neuron's value adds a multiple of one fixed vector to the residual stream, so its effect is a
smooth function of the new value alone, zero at the clean value; 64 resamples are 64 points on that curve. A
few of them determine it: the curve is interpolated by a polynomial through exact points, and every point is
itself a draw.

One more thing is known for nothing: the curve's slope at the clean value. One backward pass through the clean
run gives it for all neurons of all layers (`slopes`), and it saves each neuron a point.

Points are taken one by one where the interpolation could be most wrong: at the draw with the largest product
of distances to the points that the curve already passes through (Leja points, which are nested for any number
and spread as Chebyshev's do). The clean value is the first and costs nothing; the next two are the ends of
the range. Each new point is a test before it becomes a node: the curve so far predicts it, then the true
effect is evaluated, and the error of the prediction is known. Besides, `held_out` random draws of every
neuron are evaluated and never used as nodes. A neuron is finished when its last prediction and its held-out
draws are right to `tolerance` times the largest effect; one that is not finished with `max_nodes` nodes has
all its draws evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PATIENCE = 0.1
"""A prediction counts as no better than this share of the error of the one before: a single lucky hit, where a
curve happens to cross its interpolation, does not finish a neuron."""

Evaluate = Callable[[Int[Tensor, " k"], Float[Tensor, " k"]], Float[Tensor, " k"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Response:
    """Effects of every neuron under every draw, and how they are known.

    `exact` says which were evaluated and which interpolated, `evaluations` how many were evaluated per
    neuron. `certificate` is the largest error that true draws have shown of a neuron's curve: the last
    prediction that was tested (see `PATIENCE`) and the held-out draws, in the units of the effects; zero
    where the value of every draw was evaluated, be it by another draw of the same value. It is a measured size, no bound: on
    trained models the largest error over all draws was at most 1.3 tolerances. `scale` is the largest effect evaluated, to
    which the tolerance is relative.
    """

    effects: Float[Tensor, "neurons draws"]
    exact: Bool[Tensor, "neurons draws"]
    evaluations: Int[Tensor, " neurons"]
    certificate: Float[Tensor, " neurons"]
    scale: float


def curves(
    evaluate: Evaluate,
    clean: Float[Tensor, " neurons"],
    draws: Float[Tensor, "neurons draws"],
    *,
    tolerance: float = 1e-4,
    min_nodes: int = 2,
    max_nodes: int = 16,
    held_out: int = 1,
    scale: float = 0.0,
    seed: int = 0,
    slope: Float[Tensor, " neurons"] | None = None,
) -> Response:
    """Effects of setting each neuron to each of its draws, from as few evaluations as the tolerance allows.

    `evaluate(neuron, value)` gives the effect of setting `neuron[i]` to `value[i]`, for rows in any order and
    number; it must be zero at the clean value. A tolerance of 0 evaluates every draw. `scale` is a largest
    effect already known (of the same subject, say). `slope` is the effects' derivative at the clean values; it
    counts as a node. A wrong one costs evaluations, no truth: what true draws show of a curve decides as always.
    All tensors on one device; arithmetic of the curves in float64. Raises ValueError for settings that make no
    sense.
    """
    if tolerance < 0 or held_out < 0 or not 1 <= min_nodes <= max_nodes:
        raise ValueError(f"tolerance {tolerance}, nodes {min_nodes}-{max_nodes}, held out {held_out}")
    fit = _Fit(evaluate, clean.double(), draws.double(), scale, slope)
    active = torch.arange(len(clean), device=clean.device)
    if tolerance == 0:
        fit.evaluate_all(active)
        return fit.result()
    fit.hold_out(held_out, seed)
    for n_nodes in range(1 if slope is None else 2, max_nodes + 1):
        active = active[fit.can_grow()[active]]
        if not len(active):
            break
        fit.add_node(active)
        if n_nodes >= min_nodes:
            active = active[fit.certificate()[active] > tolerance * fit.scale]
    fit.evaluate_all(active)
    return fit.result()


class _Fit:
    """Newton's interpolation at all draws of all neurons at once: what is predicted, what is known."""

    def __init__(
        self, evaluate: Evaluate, clean: Tensor, draws: Tensor, scale: float, slope: Tensor | None
    ) -> None:
        self.evaluate, self.scale, self.draws = evaluate, scale, draws
        low = torch.minimum(draws.amin(1), clean)[:, None]
        width = torch.maximum(draws.amax(1), clean)[:, None] - low
        # distances on an interval of length 4, where products of many of them neither grow nor vanish
        self.u = 4 * (draws - low) / width.clamp_min(torch.finfo(draws.dtype).tiny)
        start = 4 * (clean[:, None] - low) / width.clamp_min(torch.finfo(draws.dtype).tiny)
        self.distances = self.u - start  # product of distances to all nodes; the clean value is the first
        self.predicted = torch.zeros_like(draws)
        if slope is not None:  # the curve's tangent there: the clean value is a node twice
            self.distances = self.distances.square()
            self.predicted = slope.to(draws)[:, None] * (draws - clean[:, None])
        self.true = torch.zeros_like(draws)
        self.exact = draws == clean[:, None]  # no change: nothing to evaluate
        self.evaluations = torch.zeros(len(draws), dtype=torch.long, device=draws.device)
        self.error, self.last_error = torch.zeros_like(clean), torch.zeros_like(clean)
        self.held = torch.zeros_like(self.exact)

    def _look(self, rows: Tensor, columns: Tensor) -> Tensor:
        """True effects of draws, remembered; a draw is evaluated once."""
        new = ~self.exact[rows, columns]
        if bool(new.any()):
            at = (rows[new], columns[new])
            effects = self.evaluate(at[0], self.draws[at]).to(self.draws)
            self.true[at], self.exact[at] = effects, True
            self.evaluations += torch.bincount(at[0], minlength=len(self.draws))
            self.scale = max(self.scale, float(effects.abs().max()))
        return self.true[rows, columns]

    def hold_out(self, n: int, seed: int) -> None:
        """Evaluate n random draws of each neuron, which never become nodes while others are left."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(self.draws.shape, generator=generator).argsort(1)[:, :n].to(self.draws.device)
        rows = torch.arange(len(order), device=order.device).repeat_interleave(order.shape[1])
        self._look(rows, order.flatten())
        self.held[rows, order.flatten()] = True

    def _candidates(self) -> Float[Tensor, "neurons draws"]:
        return self.distances.abs().masked_fill(self.held, 0.0)

    def can_grow(self) -> Bool[Tensor, " neurons"]:
        """Neurons with a draw left whose value the curve does not already pass through."""
        return self._candidates().amax(1) > 0

    def add_node(self, rows: Int[Tensor, " k"]) -> None:
        """Evaluate each curve's next point, note how wrong the curve was there, and let it pass."""
        columns = self._candidates()[rows].argmax(1)
        error = self._look(rows, columns) - self.predicted[rows, columns]
        distances = self.distances[rows]
        self.predicted[rows] += error[:, None] * distances / self.distances[rows, columns][:, None]
        self.distances[rows] = distances * (self.u[rows] - self.u[rows, columns][:, None])
        self.last_error[rows] = torch.maximum(error.abs(), PATIENCE * self.error[rows])
        self.error[rows] = error.abs()

    def certificate(self) -> Float[Tensor, " neurons"]:
        """Largest error of each curve that a true draw has shown: at its last node before that was one, and
        held out.
        """
        shown = torch.where(self.held, (self.predicted - self.true).abs(), 0.0)
        return torch.maximum(shown.amax(1), self.last_error)

    def evaluate_all(self, rows: Int[Tensor, " k"]) -> None:
        """No curve: every draw of these neurons."""
        missing = (~self.exact[rows]).nonzero()
        self._look(rows[missing[:, 0]], missing[:, 1])

    def known(self) -> Bool[Tensor, " neurons"]:
        """Neurons of which nothing is interpolated: each draw was evaluated, or has the value of one that is a node."""
        return (self.exact | (self.distances == 0)).all(1)

    def result(self) -> Response:
        return Response(
            effects=torch.where(self.exact, self.true, self.predicted),
            exact=self.exact,
            evaluations=self.evaluations,
            certificate=self.certificate().masked_fill(self.known(), 0.0),
            scale=self.scale,
        )
