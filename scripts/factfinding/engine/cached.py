"""Nodes and residuals from an activation file, as the closed forms of direct.py take them: no forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from factfinding.engine.direct import NodeOutputs
from factfinding.errors import InputError
from factfinding.inputs import Inputs
from factfinding.store import Activations


@contextmanager
def activations_of(inputs: Inputs, condition: str = "full") -> Iterator[Activations]:
    """The study's activations under a condition, open."""
    given = inputs.given(f"activations/{condition}")
    if given is not None:
        yield given
        return
    path = inputs.path(f"activations/{condition}.h5")
    with Activations(path, model=inputs.source["digest"], condition=condition) as file:
        yield file


def cached_nodes(
    file: Activations, role: str, rows: Sequence[int], *, n_layers: int, before: int | None = None
) -> NodeOutputs:
    """All nodes at a position role, below layer `before` (None: of all layers), for the subjects in `rows`.

    Raises InputError naming the file where it lacks a dataset or a layer.
    """
    layers = range(n_layers if before is None else before)
    read = {
        kind: [_layer(file, f"{kind}@{role}", i, rows) for i in layers]
        for kind in ("z", "attn_out", "mlp_out")
    }
    shapes = {kind: _layer(file, f"{kind}@{role}", 0, rows).shape[1:] for kind in read}
    stacked = {
        kind: torch.stack(values, dim=1) if values else torch.zeros(len(rows), 0, *shapes[kind])
        for kind, values in read.items()
    }
    resid = [_layer(file, f"resid@{role}", i, rows) for i in (-1, len(layers) - 1)]
    return NodeOutputs(embedding=resid[0], resid=resid[1], **stacked)


def cached_resid(
    file: Activations, role: str, layer: int, rows: Sequence[int]
) -> Float[Tensor, "subjects d_model"]:
    """The residual stream at a position role after a layer; -1 is the embedding."""
    return _layer(file, f"resid@{role}", layer, rows)


def cached_pattern(
    file: Activations, layer: int, rows: Sequence[int], *, role: str = "end"
) -> Float[Tensor, "subjects heads key"]:
    """Attention from a position role, NaN beyond each prompt's end."""
    return _layer(file, f"pattern@{role}", layer, rows)


def rows_of(file: Activations, subjects: Sequence[str]) -> list[int]:
    """Where each subject stands in a file. Raises InputError, by name, for one who does not."""
    row_of = {name: row for row, name in enumerate(file.subjects()["subject"])}
    missing = [name for name in subjects if name not in row_of]
    if missing:
        raise InputError(file.path, f"no subject {missing[0]!r}", "the subjects of the prompts table")
    return [row_of[name] for name in subjects]


def _layer(file: Activations, name: str, layer: int, rows: Sequence[int]) -> Tensor:
    """One layer of a dataset; half precision on disk is widened."""
    values = file.layer(name, layer)[np.asarray(rows, dtype=np.int64)]
    return torch.from_numpy(values.astype(np.promote_types(values.dtype, np.float32), copy=False))
