"""The dossier of one neuron, as it stands in results/<study>/dossiers/*.json (P3.4): its shape, written and read.

One file per answer, `answer_neuron_<answer>.json`, for the neuron that tells that answer best, and one per neuron that the
configuration names, `neuron_<neuron>.json`. An answer's characters that cannot stand in a file name are percent-encoded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from factfinding.errors import InputError
from factfinding.files import read_json, write_json

FORMAT: Final = "factfinding dossier 2"


class Part(BaseModel):
    """A part of a dossier: frozen, with exactly these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Telling(Part):
    """How well the neuron tells its answer from the others, on subjects that it was not chosen on.

    base_rate: share of the answer among these `n`. p_corrected is null for a neuron that was not chosen by the scan.
    """

    auc_choosing: float
    auc: float
    auc_low: float | None
    auc_high: float | None
    n: int
    base_rate: float
    p_corrected: float | None
    neurons_tried: int | None


class Histogram(Part):
    """Subjects that it was not chosen on by activation and answer: counts[answer][i] lie between edges[i] and edges[i + 1],
    the last end included.
    """

    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]


class Ablation(Part):
    """The whole model on subjects of the neuron's answer that it was not chosen on. loss: -log P(answer) in nats.

    change, accuracy_change: from the unchanged model; from_mean: of the loss, from mean ablation; over_random: the change
    less that of the random neuron whose change is largest in size. All are paired. random_*: as many other neurons of the
    layer, ablated one at a time: their mean change with its interval over subjects, the largest, and the share of them whose
    change is at least as large in size. Null where nothing is ablated.
    """

    kind: Literal["none", "mean", "zero"]
    loss: float
    loss_low: float | None
    loss_high: float | None
    accuracy: float
    accuracy_low: float | None
    accuracy_high: float | None
    change: float | None
    change_low: float | None
    change_high: float | None
    accuracy_change: float | None
    accuracy_change_low: float | None
    accuracy_change_high: float | None
    from_mean: float | None
    from_mean_low: float | None
    from_mean_high: float | None
    over_random: float | None
    over_random_low: float | None
    over_random_high: float | None
    random_change: float | None
    random_change_low: float | None
    random_change_high: float | None
    random_largest: float | None
    random_as_large: float | None
    random_neurons: int
    n: int
    base_rate: float


class Cosine(Part):
    """A cosine of the neuron's weights with one another or with a direction of the answer.

    head, head_rank: whose direction it is, and its place among those that extract; null for the others. layer_*: of all
    neurons of the layer, their 95 % range and median. share_*: of the layer's other neurons, below and above.
    """

    first: str
    second: str
    head: str | None
    head_rank: int | None
    cosine: float
    layer_low: float
    layer_median: float
    layer_high: float
    share_below: float | None
    share_above: float | None
    neurons: int


class Projection(Part):
    """AUC once directions are projected out of the input weights; auc_pre: of the pre-activation.

    change: from `nothing`; kept: what is left of its AUC above chance, null where it tells nothing to begin with;
    from_first_head: of sets of another head, from the same set of the first. All are paired.
    """

    removed: str
    head: str | None
    head_rank: int | None
    dimensions: int
    auc: float
    auc_low: float | None
    auc_high: float | None
    auc_pre: float
    auc_pre_low: float | None
    auc_pre_high: float | None
    change: float
    change_low: float | None
    change_high: float | None
    kept: float | None
    kept_low: float | None
    kept_high: float | None
    from_first_head: float | None
    from_first_head_low: float | None
    from_first_head_high: float | None
    n: int
    base_rate: float


class Window(Part):
    """Some tokens of running text and the neuron's activation on each; `start`: the first one's number in the text."""

    start: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


class Texts(Part):
    """Where the neuron fires most in running text. mean, largest: over all `tokens` that were read."""

    source: str
    tokens: int
    mean: float
    largest: float
    windows: tuple[Window, ...]


class Dossier(Part):
    """All that is known of one neuron, on subjects that it was not chosen on. best: it is the one of the scan that claims
    are about. sign: -1 where it is low on its answer; pre_error: largest difference of the
    recomputed pre-activation from the cached one, relative to the largest (null where none is cached)."""

    format: Literal["factfinding dossier 2"] = FORMAT
    neuron: str
    layer: int
    index: int
    answer: str
    sign: Literal[-1, 1]
    chosen_by: Literal["scan", "configuration"]
    best: bool
    telling: Telling
    histogram: Histogram
    ablations: tuple[Ablation, ...]
    cosines: tuple[Cosine, ...]
    projections: tuple[Projection, ...]
    pre_error: float | None
    texts: Texts | None

    @property
    def file_name(self) -> str:
        if self.chosen_by == "configuration":
            return f"neuron_{self.neuron}.json"
        return f"answer_neuron_{quote(self.answer, safe='')}.json"


def write_dossiers(dossiers: Sequence[Dossier], folder: Path) -> None:
    """One file each; the folder is there even where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for dossier in dossiers:
        write_json(dossier.model_dump(mode="json"), folder / dossier.file_name)


def read_dossiers(folder: Path) -> list[Dossier]:
    """All dossiers of a folder, those of answers first. Raises InputError naming the file and the key that is wrong."""
    paths = sorted(folder.glob("*.json"), key=lambda path: (path.name.startswith("neuron_"), path.name))
    return [_read(path) for path in paths]


def _read(path: Path) -> Dossier:
    try:
        return Dossier.model_validate_json(json.dumps(read_json(path)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where}", repr(first["input"])[:80], first["msg"]) from None
