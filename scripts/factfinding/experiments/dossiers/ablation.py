"""What the whole model loses on subjects of a neuron's answer when that neuron is ablated at the final name token (P3.4).

Two kinds: its activation is set to zero, or to its mean over all subjects of the experiment. The subjects are of the half
on which the neuron was not chosen. Beside it, other neurons of
the layer, drawn at random, are ablated in the same way one at a time, on the same subjects. Edits run through
`engine/suffix`; the slow twin is `trace.run` with an edit of the same site.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int

from factfinding.data.dossier import Ablation
from factfinding.engine.clean import prepare
from factfinding.engine.readings import LogProbs, clean_values
from factfinding.engine.sites import Site
from factfinding.engine.suffix import Suffix, edit_neurons
from factfinding.engine.tokens import tokens_of
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import Group, groups_of, in_batches, labels_of
from factfinding.model.anatomy import Anatomy
from factfinding.stats import Estimate, mean_interval, paired_difference, share_interval, some_of

KINDS = ("mean", "zero")
COMPARED = ("change", "accuracy_change", "from_mean", "over_random", "random_change")
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
    held_out: Bool[np.ndarray, " subjects"],
    *,
    subjects: int,
    random_neurons: int,
    seed: int,
) -> list[Ablation]:
    """Rows of unchanged, mean and zero ablation of one neuron, on at most `subjects` of its answer, drawn.

    means: of all neurons of the layer, over all subjects of the experiment at the final name token. held_out: those that
    the neuron was not chosen on, of whom they are drawn.
    """
    rng, labels = np.random.default_rng(seed), labels_of(prompts, candidates)
    own = candidates["answer"].to_list().index(answer)
    rows = some_of(np.flatnonzero(held_out & (labels == own)), subjects, rng)
    others = rng.permutation(np.delete(np.arange(anatomy.d_mlp), site.index))[:random_neurons]
    units = np.concatenate([[site.index], others])
    said = answers(anatomy, prompts, candidates["token_id"].to_list(), rows, site.layer, units, means)
    same = {"random_neurons": len(others), "base_rate": float((labels[held_out] == own).mean())}
    found = [_row("none", said.clean, None, None, None, own, seed)]
    found += [
        _row(
            kind,
            logp[0],
            said.clean,
            said.ablated[KINDS.index("mean"), 0] if kind != "mean" else None,
            logp[1:],
            own,
            seed,
        )
        for kind, logp in zip(KINDS, said.ablated, strict=True)
    ]
    return [Ablation(**row, **same) for row in found]


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
    clean: Float[np.ndarray, "subjects candidates"] | None,
    at_mean: Float[np.ndarray, "subjects candidates"] | None,
    random: Float[np.ndarray, "units subjects candidates"] | None,
    own: int,
    seed: int,
) -> dict:
    """One kind's cells but the base rate and the number of random neurons. None: with what there is no comparison."""
    loss, right = -logp[:, own], logp.argmax(axis=1) == own
    cells = {"kind": kind, "n": len(logp)}
    cells |= estimate_columns("loss", mean_interval(loss, seed=seed))
    cells |= estimate_columns("accuracy", share_interval(right))
    found: dict[str, Estimate | None] = dict.fromkeys(COMPARED)
    if clean is not None:
        found["change"] = paired_difference(loss, -clean[:, own], seed=seed)
        found["accuracy_change"] = paired_difference(right, clean.argmax(axis=1) == own, seed=seed)
    if at_mean is not None:
        found["from_mean"] = paired_difference(loss, -at_mean[:, own], seed=seed)
    largest = as_large = None
    if clean is not None and random is not None and len(random):
        changes = clean[:, own] - random[:, :, own]
        each = changes.mean(axis=1)
        most = int(np.abs(each).argmax())
        largest, as_large = float(each[most]), float((np.abs(each) >= abs(found["change"].value)).mean())
        found["over_random"] = paired_difference(loss + clean[:, own], changes[most], seed=seed)
        found["random_change"] = mean_interval(changes.mean(axis=0), seed=seed)
    for name, estimate in found.items():
        cells |= estimate_columns(name, estimate)
    return cells | {"random_largest": largest, "random_as_large": as_large}
