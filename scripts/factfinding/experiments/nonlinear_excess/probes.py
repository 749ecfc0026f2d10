"""The probes through which the lookup's output is read (P3.3), each held out.

`head`, the study's: that of the first extracting head (engine/head_probe.py). Nothing in it is fitted, so nothing need be
held out. `logistic`: a regression on the last lookup layer's residual stream, fitted once per fold; each subject is read by
the one that has not seen it, and whoever is in no fold (unknown names) by the one fitted on all known subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import Batches
from factfinding.engine.head_probe import head_probe
from factfinding.engine.sites import parse
from factfinding.inputs import Inputs
from factfinding.methods.circuit import circuit_of
from factfinding.methods.effective import EffectiveModel
from factfinding.methods.name_pairs import NamePairs
from factfinding.methods.readers import Readers, readers_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import weights_of

HEAD, LOGISTIC = "head", "logistic"


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """Affine readings of the last residual stream. fold: which reads each known name; the last one reads all others."""

    name: str
    weight: Float[Tensor, "folds d_model answers"]
    bias: Float[Tensor, "folds answers"]
    fold: Int[Tensor, " names"]

    @property
    def folds(self) -> int:
        return len(self.weight)


def own_probe(model: EffectiveModel, names: NamePairs) -> Probe:
    """The effective model's own, a logistic one that was fitted on all known subjects."""
    fold = torch.zeros(len(names.subjects), dtype=torch.int64)
    return Probe(name=LOGISTIC, weight=model.weight[None], bias=model.bias[None], fold=fold)


def probes_of(inputs: Inputs, model: EffectiveModel, names: NamePairs, *, batch_size: int) -> list[Probe]:
    """The study's probes of the last lookup layer: the head's where a head extracts, and the logistic one."""
    found = [logistic_probe(model, readers_of(inputs), names)]
    heads = circuit_of(inputs).extract
    if heads:
        token_of = dict(inputs.candidates.select("answer", "token_id").iter_rows())
        token_ids = [token_of[answer] for answer in model.shape.answers]
        of_head = probe_of_head(model, weights_of(inputs), heads[0], token_ids, names, batch_size=batch_size)
        found.insert(0, of_head)
    return found


def logistic_probe(model: EffectiveModel, readers: Readers, names: NamePairs) -> Probe:
    """The readers of the last lookup layer, fold by fold. Raises ValueError for readers of other answers."""
    if readers.answers != model.shape.answers:
        raise ValueError(f"readers of {readers.answers} beside a model of {model.shape.answers}")
    layer, last = model.shape.lookup[1], len(readers.weight) - 1
    fold_of = dict(zip(readers.subjects, readers.fold.tolist(), strict=True))
    return Probe(
        name=LOGISTIC,
        weight=torch.from_numpy(readers.weight[:, layer]),
        bias=torch.from_numpy(readers.bias[:, layer]),
        fold=torch.tensor([fold_of.get(subject, last) for subject in names.subjects]),
    )


@torch.no_grad()
def probe_of_head(
    model: EffectiveModel,
    anatomy: Anatomy,
    head: str,
    token_ids: Sequence[int],
    names: NamePairs,
    *,
    batch_size: int,
) -> Probe:
    """The probe of a head such as "L16H20", centred by the mean of the known names' streams in the effective model.

    token_ids: of `model.shape.answers`. Raises InputError for a head that the model does not have.
    """
    weight = head_probe(anatomy, parse(head), token_ids).double().cpu()
    tokens = names.tokens(names.begin, names.last).to(model.weight.device)
    streams = Batches(batch_size).run(
        lambda rows: model.stream(*tokens[:, rows])[:, -1].double(), tokens.shape[1]
    )
    mean = streams.mean(0).cpu()
    fold = torch.zeros(len(names.subjects), dtype=torch.int64)
    return Probe(name=HEAD, weight=weight[None], bias=-(mean @ weight)[None], fold=fold)
