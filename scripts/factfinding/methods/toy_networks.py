"""Many small networks of one shape side by side: summed embeddings, MLP layers with a skip, a readout.

    x_0 = embedding @ inputs      x_{l+1} = x_l + W_out @ relu(W_in @ x_l + b_in)      logits = readout @ x_depth + bias

Every tensor has the networks on its first axis, and no operation mixes them: a network of a batch is the network trained
alone, up to the rounding of matrix products. Items (the columns of `inputs`) are on the last axis: with widths this small
the products are several times faster so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

EMBEDDING_STD = 0.1
"""Small embeddings let the shared structure of tokens grow first; with 1.0 the same networks learn rules by heart."""
CHECK_STEPS = 10
"""Steps between two looks at which networks are done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """The parameters of a batch of networks."""

    embedding: Float[Tensor, "nets width features"]
    w_in: Float[Tensor, "nets depth neurons width"]
    b_in: Float[Tensor, "nets depth neurons"]
    w_out: Float[Tensor, "nets depth width neurons"]
    readout: Float[Tensor, "nets facts width"]
    bias: Float[Tensor, "nets facts"]

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def parameters(self) -> int:
        """Numbers in one network."""
        return sum(tensor[0].numel() for tensor in self.tensors())


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """A forward pass: the residual stream from the embeddings on, the neurons of each layer, and the logits."""

    resid: list[Float[Tensor, "nets width items"]]
    post: list[Float[Tensor, "nets neurons items"]]
    logits: Float[Tensor, "nets facts items"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What each network is to learn. inputs: the same for all, or one for each; trained: the items that count in the loss."""

    inputs: Float[Tensor, "features items"] | Float[Tensor, "nets features items"]
    labels: Float[Tensor, "nets facts items"]
    trained: Float[Tensor, "nets items"]

    def of(self, rows: Int[Tensor, " some"]) -> Examples:
        inputs = self.inputs if self.inputs.ndim == 2 else self.inputs[rows]
        return Examples(inputs=inputs, labels=self.labels[rows], trained=self.trained[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """Networks as they were when each was done, or at the step limit."""

    networks: Networks
    steps: Int[Tensor, " nets"]
    reached: Bool[Tensor, " nets"]


def initial_networks(
    seeds: list[list[int]],
    *,
    features: int,
    width: int,
    neurons: int,
    depth: int,
    facts: int = 1,
    embedding_std: float = EMBEDDING_STD,
) -> Networks:
    """One network for each seed (a list of numbers): a network's weights do not depend on the others."""
    sizes = {
        "embedding": ((width, features), embedding_std),
        "w_in": ((depth, neurons, width), width**-0.5),
        "b_in": ((depth, neurons), 0.0),
        "w_out": ((depth, width, neurons), neurons**-0.5),
        "readout": ((facts, width), width**-0.5),
        "bias": ((facts,), 0.0),
    }
    drawn = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        drawn.append({name: scale * rng.standard_normal(shape) for name, (shape, scale) in sizes.items()})
    stacked = {name: np.stack([one[name] for one in drawn]) for name in sizes}
    return Networks(**{name: torch.tensor(value, dtype=torch.float32) for name, value in stacked.items()})


def forward(
    networks: Networks,
    inputs: Float[Tensor, "*nets features items"],
    *,
    keep: Float[Tensor, "nets depth neurons"] | None = None,
    fill: Float[Tensor, "nets depth neurons"] | None = None,
) -> Pass:
    """The networks on their inputs. Where `keep` is 0 a neuron's activation is replaced by `fill`."""
    resid, posts = [networks.embedding @ inputs], []
    layers = zip(networks.w_in.unbind(1), networks.b_in.unbind(1), networks.w_out.unbind(1), strict=True)
    for layer, (w_in, b_in, w_out) in enumerate(layers):
        post = torch.baddbmm(b_in[:, :, None], w_in, resid[-1]).relu()
        if keep is not None and fill is not None:
            here, there = keep[:, layer, :, None], fill[:, layer, :, None]
            post = here * post + (1 - here) * there
        posts.append(post)
        resid.append(torch.baddbmm(resid[-1], w_out, post))
    logits = torch.baddbmm(networks.bias[:, :, None], networks.readout, resid[-1])
    return Pass(resid=resid, post=posts, logits=logits)


def losses(logits: Float[Tensor, "nets facts items"], examples: Examples) -> Float[Tensor, " nets"]:
    """Mean cross-entropy of each network over its trained items and facts, in bits."""
    each = binary_cross_entropy_with_logits(logits, examples.labels, reduction="none")
    return (each * _weights(examples)).sum((1, 2))


def _weights(examples: Examples) -> Float[Tensor, "nets facts items"]:
    """What each label's cross-entropy (in nats) adds to its network's loss (in bits)."""
    weights = (examples.trained / examples.trained.sum(1, keepdim=True) / float(np.log(2)))[:, None]
    return (weights / examples.labels.shape[1]).expand_as(examples.labels)


def accuracies(
    logits: Float[Tensor, "nets facts items"], examples: Examples, *, held_out: bool = False
) -> Float[Tensor, " nets"]:
    """Share of the trained (or held-out) items and facts whose label is said; NaN where nothing was held out."""
    counted = 1 - examples.trained if held_out else examples.trained
    right = ((logits > 0) == (examples.labels > 0.5)).float().mean(1)
    return (right * counted).sum(1) / counted.sum(1)


def train(
    networks: Networks,
    examples: Examples,
    *,
    learning_rate: float,
    weight_decay: float,
    max_steps: int,
    settled: float,
) -> Trained:
    """AdamW on all items at once, the rate falling linearly to zero at `max_steps`.

    A network is done, and kept as it is, at the first look at which it has every trained item right and a mean loss of
    at most `settled` bits; the others go on without it.
    """
    final = [tensor.clone() for tensor in networks.tensors()]
    steps = torch.full((len(networks),), max_steps)
    reached = torch.zeros(len(networks), dtype=torch.bool)
    alive, part, weights = torch.arange(len(networks)), examples, _weights(examples)
    now = _trainable(networks, alive)
    optimizer = _adamw(now, learning_rate, weight_decay)
    for step in range(max_steps + 1):
        if step % CHECK_STEPS == 0 or step == max_steps:
            with torch.no_grad():
                logits = forward(now, part.inputs).logits
            done = (accuracies(logits, part) == 1) & (losses(logits, part) <= settled)
            leave = done | (step == max_steps)
            for tensor, value in zip(final, now.tensors(), strict=True):
                tensor[alive[leave]] = value.detach()[leave]
            steps[alive[leave]], reached[alive[done]] = step, True
            if leave.all():
                break
            if leave.any():
                stay = torch.nonzero(~leave)[:, 0]
                alive, part, weights = alive[stay], part.of(stay), weights[stay]
                now, optimizer = _without(now, optimizer, stay)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / max_steps)
        optimizer.zero_grad()
        logits = forward(now, part.inputs).logits
        binary_cross_entropy_with_logits(logits, part.labels, weights, reduction="sum").backward()
        optimizer.step()
    return Trained(networks=_of(final), steps=steps, reached=reached)


def _of(tensors: list[Tensor]) -> Networks:
    return Networks(**dict(zip(Networks.__dataclass_fields__, tensors, strict=True)))


def _trainable(networks: Networks, rows: Int[Tensor, " some"]) -> Networks:
    return _of([tensor.detach()[rows].requires_grad_() for tensor in networks.tensors()])


def _adamw(networks: Networks, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(networks.tensors(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def _without(
    networks: Networks, optimizer: torch.optim.AdamW, stay: Int[Tensor, " some"]
) -> tuple[Networks, torch.optim.AdamW]:
    """The networks that stay, and an optimizer that goes on with their moments."""
    kept = _trainable(networks, stay)
    group = optimizer.param_groups[0]
    fresh = _adamw(kept, group["lr"], group["weight_decay"])
    for old, new in zip(networks.tensors(), kept.tensors(), strict=True):
        state = optimizer.state[old]
        if state:
            moments = {name: state[name][stay] for name in ("exp_avg", "exp_avg_sq")}
            fresh.state[new] = {"step": state["step"].clone()} | moments
    return kept, fresh
