"""What the whole model loses on subjects of a neuron's answer when that neuron is ablated at the final name token (P3.4).

Two kinds: its activation is set to zero, or to its mean over all subjects of the experiment. Beside it, other neurons of
the layer, drawn at random, are ablated in the same way one at a time, on the same subjects. Edits run through
`engine/suffix`; the slow twin is `trace.run` with an edit of the same site.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from factfinding.data.dossier import Ablation
from factfinding.engine.clean import prepare
from factfinding.engine.readings import LogProbs, clean_values
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit_neurons
from factfinding.engine.tokens import tokens_of
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import Group, groups_of, in_batches, labels_of
from factfinding.model.anatomy import Anatomy
from factfinding.stats import mean_interval, share_interval

KINDS = ("mean", "zero")
ROWS = 2048
"""Edited runs in one batch, at most (or those of one prompt)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Log probabilities (nats) of the candidates at END: unchanged, and for each kind and unit, the neuron first."""

    clean: Float[np.ndarray, "subjects candidates"]
    ablated: Float[np.ndarray, "kinds units subjects candidates"]


def ablations(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    site: Site,
    answer: str,
    means: Float[np.ndarray, " neurons"],
    *,
    subjects: int,
    random_neurons: int,
    seed: int,
) -> list[Ablation]:
    """Rows of unchanged, mean and zero ablation of one neuron, on at most `subjects` of its answer, drawn.

    means: of all neurons of the layer, over all subjects of the experiment at the final name token.
    """
    rng, labels = np.random.default_rng(seed), labels_of(prompts, candidates)
    own = candidates["answer"].to_list().index(answer)
    rows = np.sort(rng.permutation(np.flatnonzero(labels == own))[:subjects])
    others = rng.permutation(np.delete(np.arange(anatomy.d_mlp), site.index))[:random_neurons]
    units = np.concatenate([[site.index], others])
    said = answers(anatomy, prompts, candidates["token_id"].to_list(), rows, site.layer, units, means)
    base_rate = float((labels == own).mean())
    unchanged = _row("none", said.clean, said.clean, None, own, seed) | {"base_rate": base_rate}
    found = [unchanged | {"random_neurons": len(others)}]
    for kind, logp in zip(KINDS, said.ablated, strict=True):
        row = _row(kind, logp[0], said.clean, logp[1:], own, seed)
        found.append(row | {"random_neurons": len(others), "base_rate": base_rate})
    return [Ablation(**row) for row in found]


def answers(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    token_ids: list[int],
    rows: Int[np.ndarray, " subjects"],
    layer: int,
    units: Int[np.ndarray, " units"],
    means: Float[np.ndarray, " neurons"],
) -> Answers:
    """What the model says with each of the `units`, neurons of a layer, ablated at the final name token of each row."""
    clean = np.empty((len(rows), len(token_ids)))
    ablated = np.empty((len(KINDS), len(units), *clean.shape))
    at_row = np.full(prompts.height, -1)
    at_row[rows] = np.arange(len(rows))
    groups = [replace(group, rows=group.rows[np.isin(group.rows, rows)]) for group in groups_of(prompts)]

    def said(group: Group, part: Int[np.ndarray, " batch"]) -> Answers:
        n, found = len(part), []
        run = prepare(anatomy, tokens_of(prompts, part, anatomy.device), start=group.layout.final_name)
        reading = LogProbs(at=group.layout.end, tokens=torch.tensor(token_ids, device=anatomy.device))
        unchanged = clean_values(anatomy, run, reading).double().cpu().numpy()
        prompt = torch.arange(n, device=anatomy.device).repeat_interleave(len(units))
        neuron = torch.from_numpy(units).to(anatomy.device).repeat(n)
        for kind in KINDS:
            value = torch.from_numpy(means[units] if kind == "mean" else np.zeros(len(units)))
            edits = edit_neurons(
                anatomy, run, layer=layer, at=group.layout.final_name, prompt=prompt, neuron=neuron,
                value=value.to(anatomy.device).repeat(n),
            )  # fmt: skip
            logp = Suffix(anatomy).values(run, edits, reading).double().cpu().numpy()
            found.append(logp.reshape(n, len(units), -1).transpose(1, 0, 2))
        return Answers(clean=unchanged, ablated=np.stack(found))

    for part, found in in_batches(groups, ROWS // len(units), said):
        here = at_row[part]
        clean[here], ablated[:, :, here] = found.clean, found.ablated
    return Answers(clean=clean, ablated=ablated)


def _row(
    kind: str,
    logp: Float[np.ndarray, "subjects candidates"],
    clean: Float[np.ndarray, "subjects candidates"],
    random: Float[np.ndarray, "units subjects candidates"] | None,
    own: int,
    seed: int,
) -> dict:
    """One kind's cells; the base rate and the number of random neurons are the caller's."""
    cells = {"kind": kind, "n": len(logp)}
    cells |= estimate_columns("loss", mean_interval(-logp[:, own], seed=seed))
    cells |= estimate_columns("accuracy", share_interval(logp.argmax(axis=1) == own))
    change = None if kind == "none" else mean_interval(clean[:, own] - logp[:, own], seed=seed)
    cells |= estimate_columns("change", change)
    if random is None or not len(random):
        return (
            cells
            | estimate_columns("random_change", None)
            | dict.fromkeys(("random_largest", "random_as_large"))
        )
    changes = clean[:, own] - random[:, :, own]
    each = changes.mean(axis=1)
    cells |= estimate_columns("random_change", mean_interval(changes.mean(axis=0), seed=seed))
    largest = float(each[np.abs(each).argmax()])
    return cells | {
        "random_largest": largest,
        "random_as_large": float((np.abs(each) >= abs(change.value)).mean()),
    }
