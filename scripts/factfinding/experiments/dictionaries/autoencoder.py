"""A dictionary: a sparse autoencoder that takes each row apart into k of its many features (top-k; Makhzani and Frey 2013,
Gao and others 2024).

    score        encoder . row + bias             of each feature
    code         the k highest scores of a row, where they are above zero
    rebuilt      sum of code times decoder, plus the mean row

Decoder directions have unit norm. It is trained to rebuild its rows by Adam, with the auxiliary loss of Gao and others: features
that have long not been in any code are asked to rebuild what the others leave, so that they come to life. The decode and its
gradient touch k features of a row and no more, so a wide dictionary costs little more than its scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

IDLE_STEPS = 10
"""Steps without being in any code after which a feature counts as dead."""
AUXILIARY = 1 / 32
"""Weight of the dead features' loss (Gao and others)."""
FALLS = 0.3
"""Share of the steps, at the end, in which the rate falls to zero."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dictionary:
    """A trained dictionary."""

    encoder: Float[Tensor, "features dimensions"]
    bias: Float[Tensor, " features"]
    decoder: Float[Tensor, "features dimensions"]
    mean: Float[Tensor, " dimensions"]
    k: int

    def activations(self, rows: Float[np.ndarray, "rows dimensions"]) -> Float[np.ndarray, "rows features"]:
        """Every feature's activation on every row; at most k of a row are above zero."""
        scores = torch.addmm(self.bias, _tensor(rows), self.encoder.T)
        values, features = _code(scores, self.k)
        return torch.zeros_like(scores).scatter_(1, features, values).numpy()

    def rebuilt(
        self, activations: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, "rows dimensions"]:
        """The rows that these activations stand for."""
        return torch.addmm(self.mean, _tensor(activations), self.decoder).numpy()


@dataclass(frozen=True, kw_only=True)
class Training:
    """How dictionaries are trained. k: features of a row. rate: of Adam, in the first steps."""

    k: int
    steps: int
    batch: int
    rate: float


def trained(
    rows: Float[np.ndarray, "rows dimensions"], features: int, how: Training, *, seed: int
) -> Dictionary:
    """A dictionary of so many features of these rows, which should have mean zero and mean squared norm 1.

    The seed draws the first directions and the batches; the same seed gives the same dictionary."""
    generator = torch.Generator().manual_seed(seed)
    given = _tensor(rows)
    decoder = normalize(torch.randn(features, given.shape[1], generator=generator), dim=1)
    parts = [decoder.clone(), torch.zeros(features), decoder, torch.zeros(given.shape[1])]
    encoder, bias, decoder, mean = (part.requires_grad_() for part in parts)
    optimiser = torch.optim.Adam([encoder, bias, decoder, mean], lr=how.rate)
    idle = torch.zeros(features)
    for step in range(how.steps):
        batch = given[torch.randperm(len(given), generator=generator)[: how.batch]]
        scores = torch.addmm(bias, batch, encoder.T)
        values, chosen = _code(scores, how.k)
        missed = batch - mean - _decoded(values, chosen, decoder)
        loss = missed.square().sum(1).mean()
        idle = _idle(idle, values.detach(), chosen)
        dead = idle > IDLE_STEPS
        if dead.any():
            loss = loss + AUXILIARY * _left_over(missed.detach(), scores, dead, decoder, how.k)
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = how.rate * min(1.0, (how.steps - step) / (FALLS * how.steps))
        _step(optimiser, decoder)
    done = (part.detach() for part in (encoder, bias, decoder, mean))
    return Dictionary(**dict(zip(("encoder", "bias", "decoder", "mean"), done, strict=True)), k=how.k)


def _step(optimiser: torch.optim.Optimizer, decoder: Tensor) -> None:
    """One step of the optimiser that leaves the decoder's directions at unit norm: only turns count."""
    with torch.no_grad():
        if decoder.grad is not None:
            decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
        optimiser.step()
        decoder.copy_(normalize(decoder, dim=1))


def _code(
    scores: Float[Tensor, "rows features"], k: int
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """The k highest scores of each row, zero where they are below it, and whose they are."""
    values, chosen = scores.topk(k, dim=1)
    return values.relu(), chosen


def _decoded(
    values: Float[Tensor, "rows k"],
    chosen: Int[Tensor, "rows k"],
    decoder: Float[Tensor, "features dimensions"],
) -> Float[Tensor, "rows dimensions"]:
    return embedding_bag(chosen, decoder, per_sample_weights=values, mode="sum")


def _idle(
    idle: Float[Tensor, " features"], values: Float[Tensor, "rows k"], chosen: Int[Tensor, "rows k"]
) -> Float[Tensor, " features"]:
    """Steps since each feature was last in a code."""
    used = torch.zeros_like(idle).index_put_((chosen[values > 0],), torch.ones(()))
    return torch.where(used > 0, 0.0, idle + 1)


def _left_over(
    missed: Float[Tensor, "rows dimensions"],
    scores: Float[Tensor, "rows features"],
    dead: Tensor,
    decoder: Float[Tensor, "features dimensions"],
    k: int,
) -> Float[Tensor, ""]:
    """How badly the dead features, twice k of a row, rebuild what the others leave."""
    which = dead.nonzero()[:, 0]
    values, chosen = _code(scores[:, which], min(2 * k, len(which)))
    return (missed - _decoded(values, which[chosen], decoder)).square().sum(1).mean()


def _tensor(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
