"""Means of everything in the effective model over all pairings of beginnings and last tokens, which are not kept.

The grid may be large (700 beginnings x 1,000 last tokens x 100,000 numbers of neurons), so it is run through batch by
batch, and what stays are sums in float64 for each beginning and each last token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.families import KNOWN_TYPES
from factfinding.methods.effective import EffectiveModel
from factfinding.methods.name_pairs import NamePairs
from factfinding.model.anatomy import weight_in_out


class Network:
    """The effective model with its neurons: `network(tokens)` gives `[scores, pre, post, pre, post, ...]`.

    scores: `[batch, readings * answers]`, what each of `readings` probes of the last residual stream says, those of `weight`
    `[readings, d_model, answers]` and `bias`; by default the model's own alone. pre, post: `[batch, d_mlp]` of each lookup MLP,
    before and after the activation function (of a gated MLP: the gate's input, and what enters the down projection).
    """

    def __init__(
        self,
        model: EffectiveModel,
        weight: Float[Tensor, "readings d_model answers"] | None = None,
        bias: Float[Tensor, "readings answers"] | None = None,
    ) -> None:
        half = model.weight.dtype in (torch.float16, torch.bfloat16)
        self.model = copy.deepcopy(model).float() if half else model
        self.family = KNOWN_TYPES[model.shape.config["model_type"]]
        own = self.model.weight
        self.device, self.dtype = own.device, own.dtype
        self.weight = own[None] if weight is None else weight.to(own)
        self.bias = self.model.bias[None] if bias is None else bias.to(own)

    def __call__(self, tokens: Int[Tensor, "slots batch"]) -> list[Float[Tensor, "batch _"]]:
        found: list[Tensor] = []
        places = [
            mlp.get_submodule(name)
            for mlp in self.model.mlps
            for name in (self.family.mlp_act, self.family.mlp_out)
        ]
        handles = [
            place.register_forward_pre_hook(lambda _module, args: found.append(args[0])) for place in places
        ]
        try:
            resid = self.model.stream(*tokens)[:, -1]
        finally:
            for handle in handles:
                handle.remove()
        return [(resid @ self.weight + self.bias[:, None]).transpose(0, 1).flatten(1), *found]

    def direct(self) -> list[Float[Tensor, "readings d_mlp answers"]]:
        """Of each neuron, layer by layer: what one unit of it adds to an answer's score minus the mean of the others'."""
        directions = against_others(self.weight.double())
        outputs = (mlp.get_submodule(self.family.mlp_out) for mlp in self.model.mlps)
        return [weight_in_out(output).double() @ directions for output in outputs]


@dataclass(frozen=True, kw_only=True, eq=False)
class GridMeans:
    """GridMeans over a grid, in float64: of each beginning over last tokens, of each last token over beginnings, of all."""

    begin: Float[Tensor, "begins k"]
    last: Float[Tensor, "lasts k"]
    grid: Float[Tensor, " k"]

    def excess(
        self, values: Float[Tensor, "batch k"], begin: Int[Tensor, " batch"], last: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch k"]:
        """NLE of cells of the grid with these values."""
        rows, columns = len(self.begin), len(self.last)
        others = rows * columns / ((rows - 1) * (columns - 1))
        return others * (values.double() - self.begin[begin] - self.last[last] + self.grid)


def grid_means(
    network: Callable[[Tensor], list[Tensor]], names: NamePairs, batch_size: int
) -> list[GridMeans]:
    """Means of everything that `network` gives, over all pairings of beginnings and last tokens, which are not kept."""
    rows, columns = names.shape
    sums: list[tuple[Tensor, Tensor]] = []

    def summed(begins: Int[Tensor, " high"], lasts: Int[Tensor, " wide"]) -> list[tuple[Tensor, Tensor]]:
        cells = torch.cartesian_prod(begins, lasts)
        values = (value.unflatten(0, (len(begins), len(lasts))) for value in network(names.tokens(*cells.T)))
        return [tuple(value.sum(axis, dtype=torch.float64) for axis in (1, 0)) for value in values]

    for begins, lasts, found in names.blocks(batch_size, summed):
        if not sums:
            sums = [
                tuple(
                    part.new_zeros(n, part.shape[1]) for part, n in zip(parts, (rows, columns), strict=True)
                )
                for parts in found
            ]
        for (by_begin, by_last), (of_begins, of_lasts) in zip(sums, found, strict=True):
            by_begin[begins] += of_begins
            by_last[lasts] += of_lasts
    return [
        GridMeans(begin=by_begin / columns, last=by_last / rows, grid=by_begin.sum(0) / (rows * columns))
        for by_begin, by_last in sums
    ]


def against_others(values: Float[Tensor, "... answers"]) -> Float[Tensor, "... answers"]:
    """Each answer's value minus the mean of the others'."""
    answers = values.shape[-1]
    return (answers * values - values.sum(-1, keepdim=True)) / (answers - 1)
