"""The excess of single names, and what each neuron adds to it (P3.3); compute.py says what is computed and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.experiments.nonlinear_excess.grid import GridMeans, Network, against_others
from factfinding.methods.name_pairs import NamePairs

TOP = (1, 10, 100)
"""How many neurons are called few: their share of what all make."""

ROUNDING = 1e3
"""An excess below this many units of rounding of the largest output is none: its ratio would be noise."""
LEAST = 0.01
"""So is one below this share of the known names' mean size. Unknown names of a model that finds nothing for them have an
excess of half a per cent of that, through LayerNorm, and ratios to it of any size and sign."""


def made_by_activation(pre: Float[Tensor, ...], post: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """What an activation function makes of an excess, by the study's rule, from the NLE of its input and output."""
    return (post - pre.clamp(min=0)).clamp(min=0)


def made_of_both_signs(pre: Float[Tensor, ...], post: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """The same, where an excess below zero counts as well: what of the output's NLE is not in the input's."""
    zero = torch.zeros_like(post)
    return post - pre.clamp(torch.minimum(post, zero), torch.maximum(post, zero))


def concentration(values: Float[Tensor, "names neurons"]) -> dict[str, Float[Tensor, " names"]]:
    """How few neurons carry a sum, signs apart: `neurons`, the participation ratio (sum |v|)^2 / sum v^2, which is k
    for k neurons alike; `top_k`, the share of the k largest in sum |v|. NaN where all are zero."""
    size = values.abs()
    total = size.sum(1)
    largest = size.topk(min(max(TOP), size.shape[1]), dim=1).values
    found = {"neurons": total**2 / (size**2).sum(1)}
    return found | {f"top_{k}": largest[:, :k].sum(1) / total for k in TOP}


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Of names: the output's excess towards an answer and, by lookup layer, what neurons add to it.

    concentration: of `made`, over the neurons of all layers (first) and of each. scale: rounding; least: what the excess
    of a name must be for a ratio to it, in logits.
    """

    begin: Int[np.ndarray, " names"]
    last: Int[np.ndarray, " names"]
    answer: Int[np.ndarray, " names"]
    excess: Float[np.ndarray, " names"]
    passed: list[Float[np.ndarray, "names neurons"]]
    made: list[Float[np.ndarray, "names neurons"]]
    both: list[Float[np.ndarray, "names neurons"]]
    concentration: list[dict[str, Float[np.ndarray, " names"]]]
    scale: float
    least: float = 0.0

    def spans(self, layers: range) -> Iterator[tuple[str, bool, slice, dict]]:
        """(name, whether it is the last layer, which of the layers' lists, concentration): of all together and each."""
        yield "all", False, slice(None), self.concentration[0]
        for i, layer in enumerate(layers):
            yield str(layer), i == len(layers) - 1, slice(i, i + 1), self.concentration[i + 1]

    @property
    def sure(self) -> np.ndarray:
        """Names with an excess that something can be a ratio to: beyond rounding, and not negligible."""
        return np.abs(self.excess) > max(self.scale, self.least)


def measured(
    network: Network,
    names: NamePairs,
    means: list[GridMeans],
    cells: tuple[Tensor, Tensor],
    reading: Int[Tensor, " names"],
    own: Int[Tensor, " names"] | None,
    batch_size: int,
) -> Measured:
    """The excess of cells of the grid towards `own` answer; None: towards the answer that the probe answers.

    reading: which of the network's probes reads each name.
    """
    direct = network.direct()
    readings, _, count = network.weight.shape

    def measure(part: slice) -> dict:
        begin, last = (index[part] for index in cells)
        reads = reading[part]
        values = network(names.tokens(begin, last))
        row = torch.arange(len(begin), device=begin.device)
        answers = values[0].unflatten(1, (readings, count))[row, reads].argmax(1)
        answer = answers if own is None else own[part]
        scores, *neurons = (
            mean.excess(value, begin, last) for mean, value in zip(means, values, strict=True)
        )
        scores = against_others(scores.unflatten(1, (readings, count)))
        weights = [weight[reads, :, answer] for weight in direct]
        pairs = list(zip(neurons[::2], neurons[1::2], weights, strict=True))
        made = [made_by_activation(pre, post) * weight for pre, post, weight in pairs]
        found = {
            "begin": begin,
            "last": last,
            "answer": answer,
            "excess": scores[row, reads, answer],
            "passed": [post * weight for _, post, weight in pairs],
            "made": made,
            "both": [made_of_both_signs(pre, post) * weight for pre, post, weight in pairs],
            "concentration": [concentration(torch.cat(made, dim=1)), *map(concentration, made)],
        }
        return _on_cpu(found)

    parts = list(Batches(batch_size).each(measure, len(cells[0])))
    scale = means[0].begin.unflatten(1, (readings, count))[:, reading.unique()].abs().max()
    rounding = ROUNDING * torch.finfo(network.dtype).eps * float(scale)
    return Measured(**_joined(parts), scale=rounding)


def _on_cpu(found):
    """Tensors, in whatever lists and dicts, as arrays."""
    if isinstance(found, dict):
        return {key: _on_cpu(value) for key, value in found.items()}
    return [_on_cpu(value) for value in found] if isinstance(found, list) else found.cpu().numpy()


def _joined(parts: list):
    """Batches of the same form, one behind the other."""
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], list):
        return [_joined(list(items)) for items in zip(*parts, strict=True)]
    return np.concatenate(parts)


def summed(layers: list[np.ndarray]) -> Float[np.ndarray, " names"]:
    return np.sum([values.sum(axis=1) for values in layers], axis=0)
