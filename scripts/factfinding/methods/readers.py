"""Linear maps that read the answer from the residual stream, one for each layer, to be held against simplified runs.

A reader is fitted on the residual stream of the unchanged model (`full`, final name token) and then read on that of a
simplified one: what is asked is whether the simplified model still says the same thing in the same words, so it is
never fitted again. Logistic readers are fitted once per fold, and each subject is read by the one that has not seen
it; the last fold is fitted on all subjects, for use outside the study. A head probe has no fitted part but a mean, and one fold.

    scores = resid @ weight[fold, layer] + bias[fold, layer]                [answers]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import log_softmax

from factfinding.errors import InputError
from factfinding.files import whole
from factfinding.inputs import Inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Readers:
    """Readers of resid_post of layers 0 to layers - 1, and which subject is read by which fold's."""

    name: str
    weight: Float[np.ndarray, "folds layers d_model answers"]
    bias: Float[np.ndarray, "folds layers answers"]
    subjects: tuple[str, ...]
    fold: Int[np.ndarray, " subjects"]
    answers: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether too few subjects are known to fit anything."""
        return not len(self.subjects)

    @property
    def n_layers(self) -> int:
        return self.weight.shape[1]

    def folds_of(self, subjects: Sequence[str]) -> Int[np.ndarray, " rows"]:
        """The fold that reads each of these subjects. Raises InputError, by name, for one without a fold."""
        fold = dict(zip(self.subjects, self.fold.tolist(), strict=True))
        missing = [name for name in subjects if name not in fold]
        if missing:
            raise InputError(
                f"readers {self.name}", f"no fold for {missing[0]!r}", "the subjects they were fitted on"
            )
        return np.array([fold[name] for name in subjects], dtype=np.int64)

    def log_probabilities(
        self, layer: int, resid: Float[np.ndarray, "rows d_model"], folds: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows answers"]:
        """What each row's reader of a layer says: log probabilities (nats) of the answers."""
        scores = np.empty((len(resid), len(self.answers)))
        for fold in np.unique(folds):
            rows = folds == fold
            scores[rows] = resid[rows].astype(np.float64) @ self.weight[fold, layer] + self.bias[fold, layer]
        return log_softmax(scores, axis=1)

    def save(self, path: str | Path) -> None:
        """Write as safetensors, whole; names and answers stand in its metadata as JSON."""
        arrays = {"weight": self.weight, "bias": self.bias, "fold": self.fold}
        about = {"name": self.name, "subjects": self.subjects, "answers": self.answers}
        with whole(path) as part:
            save_file(
                {k: np.ascontiguousarray(v) for k, v in arrays.items()}, part, {"readers": json.dumps(about)}
            )


def fixed_readers(
    name: str,
    matrix: Float[np.ndarray, "d_model answers"],
    means: Float[np.ndarray, "layers d_model"],
    like: Readers,
) -> Readers:
    """One matrix for all layers, such as a head probe, centred by each layer's mean over subjects."""
    weight = np.repeat(matrix[None, None], len(means), axis=1)
    return Readers(
        name=name,
        weight=weight,
        bias=-(means @ matrix)[None],
        subjects=like.subjects,
        fold=np.zeros(len(like.subjects), dtype=np.int64),
        answers=like.answers,
    )


def read_out(
    reader: Readers, resid: Float[np.ndarray, "subjects layers d_model"], prompts: pl.DataFrame
) -> tuple[Float[np.ndarray, "subjects layers"], Float[np.ndarray, "subjects layers"]]:
    """Hits (0 or 1) and losses of every subject at every layer; NaN where the residual is."""
    folds = reader.folds_of(prompts["subject"].to_list())
    truth = np.array([reader.answers.index(answer) for answer in prompts["answer"]])
    hits, losses = (np.empty(resid.shape[:2]) for _ in range(2))
    for layer in range(reader.n_layers):
        logp = reader.log_probabilities(layer, resid[:, layer], folds)
        gone = np.isnan(logp).any(axis=1)
        hits[:, layer] = np.where(gone, np.nan, logp.argmax(axis=1) == truth)
        losses[:, layer] = np.where(gone, np.nan, -logp[np.arange(len(truth)), truth])
    return hits, losses


def span(weight: Float[np.ndarray, "d_model answers"]) -> Float[np.ndarray, "d_model k"]:
    """An orthonormal basis of the directions that tell answers apart; what is added to all scores alike is none."""
    apart = weight - weight.mean(axis=1, keepdims=True)
    left, size, _ = np.linalg.svd(apart, full_matrices=False)
    return left[:, size > 1e-9 * max(size[0], np.finfo(float).tiny)]


def load_readers(path: str | Path) -> Readers:
    """Read what `Readers.save` wrote; InputError names a file that is something else."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            about: Mapping = json.loads((file.metadata() or {})["readers"])
            arrays = {name: file.get_tensor(name) for name in ("weight", "bias", "fold")}
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(path, f"no readers ({error})", "the file that the rule `readers` writes") from None
    return Readers(
        name=about["name"], subjects=tuple(about["subjects"]), answers=tuple(about["answers"]), **arrays
    )


def readers_of(inputs: Inputs) -> Readers:
    """The study's logistic readers."""
    return inputs.once("readers", lambda: load_readers(inputs.path("readers.safetensors")))
