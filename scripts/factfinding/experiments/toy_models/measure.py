"""What is inside a toy network: which neurons it needs, what can be read from its layers, what its first layer tabulates.

All functions take a batch of networks of one shape and treat each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from factfinding.methods.toy_networks import Examples, Networks, accuracies, forward, losses

KINDS = ("zero", "mean")
KEPT = 0.95
"""Share of the accuracy that a pruned network has to keep."""
RIDGE = 0.1
"""Penalty of the linear readings against the mean square of the inputs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruning:
    """Single ablations of every neuron, and what is left when only the most important ones stay.

    order: 1 for the neuron of the largest effect; kept[:, j]: accuracy with the neurons up to order j alone.
    """

    effect: Float[Tensor, "nets neurons"]
    drop: Float[Tensor, "nets neurons"]
    order: Int[Tensor, "nets neurons"]
    kept: Float[Tensor, "nets one_more"]


def prune(
    networks: Networks, examples: Examples, kind: str, *, random_order: list[Int[np.ndarray, " neurons"]]
) -> tuple[Pruning, Float[Tensor, "nets one_more"]]:
    """Ablate each neuron by itself (`effect`: bits of loss per pair, `drop`: accuracy), then prune.

    kind: `zero`, or `mean` (over all items). Neurons of all layers are pruned together, those of the smallest single
    effect first. Also returns what is kept in a random order (0 goes last), the baseline.
    """
    plain = forward(networks, examples.inputs)
    means = torch.stack([post.mean(2) for post in plain.post], dim=1)
    fill = means if kind == "mean" else torch.zeros_like(means)
    shape, total = means.shape, means[0].numel()

    def left(keep: Float[Tensor, "nets neurons"]) -> Float[Tensor, "nets facts items"]:
        return forward(networks, examples.inputs, keep=keep.reshape(shape), fill=fill).logits

    loss, accuracy = losses(plain.logits, examples), accuracies(plain.logits, examples)
    effects, drops = [], []
    for neuron in range(total):
        keep = torch.ones(len(networks), total)
        keep[:, neuron] = 0
        logits = left(keep)
        effects.append(losses(logits, examples) - loss)
        drops.append(accuracy - accuracies(logits, examples))
    effect = torch.stack(effects, dim=1)
    order = 1 + torch.argsort(effect, dim=1, descending=True, stable=True).argsort(1)
    chance = 1 + torch.tensor(np.stack(random_order))
    kept, kept_random = (
        torch.stack(
            [accuracies(left((rank <= count).float()), examples) for count in range(total + 1)], dim=1
        )
        for rank in (order, chance)
    )
    return Pruning(effect=effect, drop=torch.stack(drops, dim=1), order=order, kept=kept), kept_random


def share_needed(kept: Float[Tensor, "nets one_more"]) -> Float[Tensor, " nets"]:
    """The smallest share of neurons from which on every larger one keeps 95 % of the whole network's accuracy."""
    enough = kept >= KEPT * kept[:, -1:]
    from_here = enough.flip(1).cumprod(1).flip(1)
    return from_here.argmax(1) / (kept.shape[1] - 1)


def participation(effect: Float[Tensor, "nets neurons"]) -> Float[Tensor, " nets"]:
    """Participation ratio of the neurons' effects, as a share: 1 if all matter alike, 1/neurons if one does it all."""
    total = effect.abs().sum(1) ** 2
    return total / (effect.shape[1] * effect.square().sum(1)).clamp(min=torch.finfo(effect.dtype).tiny)


def interaction_share(x: Float[Tensor, "nets k pairs"], m: int) -> Float[Tensor, " nets"]:
    """Share of the variance over all pairs that no sum of a part of a and a part of b gives (two-way ANOVA)."""
    table = x.double().unflatten(2, (m, m))
    table = table - table.mean((2, 3), keepdim=True)
    rest = table - table.mean(3, keepdim=True) - table.mean(2, keepdim=True)
    return rest.square().sum((1, 2, 3)) / table.square().sum((1, 2, 3))


def class_share(
    x: Float[Tensor, "nets k pairs"], classes: Int[Tensor, "nets 2 m"]
) -> Float[Tensor, "nets k"]:
    """Share of each row's variance over all pairs that the classes of a and b tell; NaN for a constant row.

    Of noise they tell (classes^2 - 1) / (pairs - 1).
    """
    cells = (int(classes.max()) + 1) ** 2
    one_hot = torch.nn.functional.one_hot(pair_cells(classes), cells).double()
    centred = x.double() - x.double().mean(2, keepdim=True)
    sizes = one_hot.sum(1, keepdim=True)
    told = ((centred @ one_hot).square() / sizes).sum(2)
    return told / centred.square().sum(2)


def pair_cells(classes: Int[Tensor, "nets 2 m"]) -> Int[Tensor, "nets pairs"]:
    """The number of the cell in the table of classes that each pair falls into."""
    count = int(classes.max()) + 1
    return (classes[:, 0, :, None] * count + classes[:, 1, None, :]).flatten(1)


def read_held_out(
    x: Float[Tensor, "nets width items"], target: Int[Tensor, "nets items"], fold: Int[Tensor, "nets items"]
) -> Float[Tensor, " nets"]:
    """Accuracy of a linear reading of `target` on items in folds that it was not fitted on.

    Least squares onto one row per class with a small penalty; the largest output is the answer.
    """
    x = x.double()
    right = torch.zeros(len(x), dtype=torch.float64)
    aim = torch.nn.functional.one_hot(target, int(target.max()) + 1).double()
    eye = torch.eye(x.shape[1], dtype=torch.float64)
    for number in range(int(fold.max()) + 1):
        fit = (fold != number).double()[:, None]
        n = fit.sum(2, keepdim=True)
        mean, level = (x * fit).sum(2, keepdim=True) / n, (fit @ aim) / n
        centred = x - mean
        square = (centred * fit) @ centred.mT
        scale = square.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        square += RIDGE * scale[:, None, None] * eye
        weight = torch.linalg.solve(square, (centred * fit) @ (aim - level))
        said = (centred.mT @ weight + level).argmax(2)
        right += ((said == target) & (fold == number)).sum(1)
    return right / x.shape[2]


def token_folds(classes: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Folds of whole tokens, each with as many of every class: 4, or fewer where a class has fewer tokens."""
    count = len(classes) // (classes.max() + 1)
    within = np.array([np.sum(classes[:i] == one) for i, one in enumerate(classes)])
    return within % min(4, count)


def own_classes(embedding: Float[np.ndarray, "m width"], count: int) -> Int[np.ndarray, " m"]:
    """The network's own classes of tokens: Ward clusters of their embeddings, numbered from 0."""
    return fcluster(linkage(embedding, "ward"), count, "maxclust") - 1


def cell_accuracy(
    cell: Int[np.ndarray, " pairs"], labels: Int[np.ndarray, " pairs"], fold: Int[np.ndarray, " pairs"]
) -> float:
    """How often a pair has the commonest label of its cell, counted on the pairs of the other folds (ties: half)."""
    vote, right = 2 * labels.astype(float) - 1, 0.0
    for number in range(fold.max() + 1):
        fit = fold != number
        sums = np.bincount(cell[fit], vote[fit], minlength=cell.max() + 1)
        right += (0.5 + 0.5 * np.sign(sums[cell[~fit]]) * vote[~fit]).sum()
    return right / len(labels)
