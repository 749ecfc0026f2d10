"""Checkpoints of one training: which models they are, at which steps, and who had been told about by then.

The index is a small JSON beside them. Each checkpoint is a model folder of its own, described as the study's model is
(source.json) and loaded by the same code. The last one is the finished model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factfinding.errors import InputError
from factfinding.files import read_json, write_json
from factfinding.inputs import Inputs
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import load_source


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of a training, in the order of their steps.

    sources: by step, what source.json says of such a model. told: whom the training tells about, in the order in which it
    begins to; active: by step, how many of them it had told about by then. Both are empty where that is not known.
    """

    sources: Mapping[int, Mapping[str, Any]]
    told: tuple[str, ...] = ()
    active: Mapping[int, int] | None = None

    @property
    def steps(self) -> list[int]:
        return sorted(self.sources)

    def told_by(self, step: int) -> frozenset[str] | None:
        """Whom the training had told about by a step; None: it is not known."""
        return None if self.active is None else frozenset(self.told[: self.active[step]])


NONE = Checkpoints(sources={})


def write_checkpoints(
    sources: Mapping[int, Mapping[str, Any]],
    path: str | Path,
    *,
    told: Sequence[str] = (),
    active: Mapping[int, int] | None = None,
) -> None:
    """Write the index, whole. Arguments as in `Checkpoints`."""
    rows = [
        {"step": step, "active": None if active is None else active[step], "source": sources[step]}
        for step in sorted(sources)
    ]
    write_json({"told": list(told), "checkpoints": rows}, path)


def read_checkpoints(path: str | Path) -> Checkpoints:
    """Read an index. Raises InputError, naming the file, for something else."""
    content = read_json(path)
    try:
        rows = {int(row["step"]): row for row in content["checkpoints"]}
        active = {step: row["active"] for step, row in rows.items() if row["active"] is not None}
        return Checkpoints(
            sources={step: row["source"] for step, row in rows.items()},
            told=tuple(content["told"]),
            active=active if rows and active.keys() == rows.keys() else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            path, f"no index of checkpoints ({error!r})", "the file that the workflow writes"
        ) from None


def checkpoints_of(inputs: Inputs) -> Checkpoints:
    """The checkpoints of the study's model; none where the rule was given no index."""

    def read() -> Checkpoints:
        path = inputs.named.get("checkpoints")
        return read_checkpoints(path) if path else NONE

    return inputs.once("checkpoints", read)


def loaded(inputs: Inputs, checkpoints: Checkpoints) -> Iterator[tuple[int, Anatomy]]:
    """Each checkpoint's step and model, one in memory at a time, the last one first: it is the finished model.

    Raises as `load_source`, and InputError for a checkpoint whose sizes or tokens are not those of the finished model: its
    prompts, layers and heads would be others.
    """
    finished: tuple | None = None
    for step in reversed(checkpoints.steps):
        source = dict(checkpoints.sources[step])
        anatomy = load_source(source, inputs.settings.compute, inputs.log)
        shape = (anatomy.n_layers, anatomy.n_heads, anatomy.d_model, anatomy.d_vocab)
        own = (shape, anatomy.tokenizer.get_vocab(), anatomy.bos_token_id)
        finished = finished or own
        if own != finished:
            what = "sizes" if own[0] != finished[0] else "tokens"
            raise InputError(
                source["folder"], f"other {what} than the finished model", "checkpoints of one training"
            )
        yield step, anatomy
