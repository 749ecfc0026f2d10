"""The borders of the circuit: which attention layers concatenate and which MLPs look up, by what is kept without them (P2.8).

Kept is (accuracy - majority rate) / (unchanged accuracy - majority rate): 1 where nothing is lost, 0 where guessing is left.
The experiment `circuit` draws the borders and says why at `KEPT`; here are the rules as functions of what is kept, layer by
layer, and what they give on resamples of the subjects. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from factfinding.methods.intervals import LEVELS
from factfinding.stats import RESAMPLES, resample_counts

KEPT = 0.95
Span = tuple[int, int] | None
"""A first and a last layer; None where there are none."""


def concatenating(
    kept_from: Float[np.ndarray, " layers+1"], kept_alone: Float[np.ndarray, " layers"]
) -> Span:
    """They end below the first layer from which on all attention can be ablated, and begin at the first that is missed alone.

    kept_from: with this layer's attention and all above ablated; the last entry ablates nothing. kept_alone: this layer's.
    """
    needless = first_kept(kept_from)
    if needless == 0:
        return None
    missed = np.flatnonzero(kept_alone[:needless] < KEPT)
    return (int(missed[0]) if len(missed) else 0), needless - 1


def looking_up(
    kept_from: Float[np.ndarray, " layers+1"], kept_below: Float[np.ndarray, " scanned"], first: int
) -> Span:
    """They end below the first layer from which on all MLPs can be ablated, and begin at the highest below which all can.

    kept_below: from layer `first` on, the first MLP that reads several tokens, below which none is ablated.
    """
    end = first_kept(kept_from)
    if end <= first:
        return None
    return min(first + last_kept(kept_below), end - 1), end - 1


def first_kept(kept_from: Float[np.ndarray, " layers+1"]) -> int:
    """The first layer from which on everything can be ablated."""
    return int(np.argmax(kept_from >= KEPT))


def last_kept(kept_below: Float[np.ndarray, " scanned"]) -> int:
    """The last layer below which everything can be ablated, counted from the first that was scanned."""
    return int(np.flatnonzero(kept_below >= KEPT)[-1])


def border_rows(
    hits: Mapping[str, Bool[np.ndarray, "subjects scanned"]],
    labels: Int[np.ndarray, " subjects"],
    *,
    first_mlp: int,
    seed: int,
) -> list[dict]:
    """Rows of the table `circuit_borders`: each border on these subjects and on resamples of them.

    hits: who is right, by scan (experiments/circuit_scan) and layer. Where the unchanged model is no better than always the
    commonest answer, there is no border. `earliest` and `latest` are the ends of the places that 95 % of the resamples that have one take; none with
    fewer than two subjects.
    """
    counts = np.concatenate(
        [np.ones((1, len(labels)), dtype=int), *resample_counts(len(labels), np.random.default_rng(seed))]
    )
    shares = {name: counts @ right / len(labels) for name, right in hits.items()}
    commonest = np.max([counts @ (labels == label) for label in np.unique(labels)], axis=0) / len(labels)
    beyond = shares["attention_from"][:, -1] - commonest
    drawn = [
        _spans({name: (share[i] - commonest[i]) / beyond[i] for name, share in shares.items()}, first_mlp)
        if beyond[i] > 0
        else {"concatenate": None, "lookup": None}
        for i in range(RESAMPLES + 1)
    ]
    return [
        {"part": part, "end": end}
        | _cells([None if one[part] is None else one[part][side] for one in drawn], len(labels))
        for part in ("concatenate", "lookup")
        for side, end in enumerate(("first", "last"))
    ]


def _spans(kept: Mapping[str, Float[np.ndarray, " scanned"]], first_mlp: int) -> dict[str, Span]:
    return {
        "concatenate": concatenating(kept["attention_from"], kept["attention_alone"]),
        "lookup": looking_up(kept["mlps_from"], kept["mlps_below"], first_mlp),
    }


def _cells(drawn: Sequence[int | None], n: int) -> dict[str, int | float | None]:
    """One border: the first is that of all subjects, the others those of resamples."""
    own, others = drawn[0], drawn[1:]
    there = [layer for layer in others if layer is not None]
    earliest = latest = None
    if n > 1 and there:
        earliest, latest = (int(layer) for layer in np.quantile(there, LEVELS, method="inverted_cdf"))
    return {
        "layer": own,
        "earliest": earliest,
        "latest": latest,
        "same": float(np.mean([layer == own for layer in others])),
        "none": float(np.mean([layer is None for layer in others])),
        "n": n,
    }
