"""Does a single neuron hold a subject? (P3.9)

Newer work finds single early neurons that erase an entity, or bring it into the run of another. Here, of the neurons of
the lookup at the final name token, those are replaced that are most likely to:

    specificity   the neurons that are highest on the subject, in deviations from their mean over all subjects
    gradient      the neurons whose replacement does most to first order, chosen on the very run that is scored
    all           all neurons of the lookup: what there is to be had

in two ways:

    erase         in the subject's own run, the neurons are set to their mean over all other subjects. Does it: the
                  subject's answer was the best candidate, and is no longer
    inject        in the run of a subject of another answer, the neurons are set to the subject's values. Does it: the
                  subject's answer was not the best candidate, and is now

Beside each choice stand as many other neurons of the same layers, drawn, whose change of output is as long. What a neuron
adds is its change in the unchanged run times its output weights, so that chosen and random neurons differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factfinding.engine.clean import Clean
from factfinding.engine.readings import clean_values
from factfinding.engine.sites import Site, neuron
from factfinding.engine.suffix import Suffix
from factfinding.engine.trace import Read
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import AT_NAME, circuit_of
from factfinding.methods.estimates import accuracy_difference, accuracy_estimate, estimate_columns
from factfinding.methods.groups import CORRUPT
from factfinding.methods.name_sites import name_batches, read_last
from factfinding.methods.patched import (
    Batch,
    Effect,
    Patched,
    Sample,
    difference_slopes,
    differences,
    donor_runs,
    patched,
    sample_of,
)
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import mean_interval
from factfinding.tables import empty, schema_of

CHANGES = ("erase", "inject")
SPECIFICITY, GRADIENT, ALL = "specificity", "gradient", "all"
CHOSEN, RANDOM = "chosen", "random"
ROUNDING = 1e-6
"""Of the largest activation of a layer: a neuron that varies by less is constant, and specific to nobody."""
Key = tuple[str, str, int, str]
"""What is done, how neurons are chosen, how many, and whether these are the chosen ones or random ones."""
Values = Float[np.ndarray, "rows layers d_mlp"]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `entity_cells` and `entity_cell_subjects`."""
    section, circuit = settings.entity_cells, circuit_of(inputs)
    drawn = sample_of(inputs, section, subjects=section.sampled_subjects)
    lookup = circuit.lookup if circuit.lookup_at == AT_NAME else None
    say(f"neurons of {'no layer' if lookup is None else f'layers {lookup}'}, {len(drawn.rows)} subjects")
    return entity_cells(
        anatomy_of(inputs), drawn, lookup, sizes=section.neurons, batch_size=settings.compute.batch_size,
        seed=section.seed,
    )  # fmt: skip


def entity_cells(
    anatomy: Anatomy,
    drawn: Sample,
    lookup: tuple[int, int] | None,
    *,
    sizes: Sequence[int],
    batch_size: int,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """Both tables; empty where there is no lookup at the name, or nobody to replace.

    drawn: the subjects, each with a partner of another answer; means are over all subjects of its prompts. lookup: first and
    last layer. sizes: how many neurons are replaced together.
    """
    if lookup is None or not len(drawn.rows):
        return {name: empty(name) for name in ("entity_cells", "entity_cell_subjects")}
    cells = Cells.of(anatomy, drawn, range(lookup[0], lookup[1] + 1), batch_size=batch_size, seed=seed)
    does: dict[Key, Bool[np.ndarray, " subjects"]] = {}

    def measure(batch: Batch) -> Iterator[Effect]:
        donor = donor_runs(anatomy, drawn, batch, (CORRUPT,))[CORRUPT][0]
        for change, clean in zip(CHANGES, (batch.clean, donor), strict=True):
            before = clean_values(anatomy, clean, batch.reading).double().cpu().numpy()
            for key, added in cells.replacements(change, clean, batch, sizes):
                moved = _effects(anatomy, clean, batch, added)
                hits = does.setdefault(key, np.zeros(drawn.prompts.height, dtype=bool))
                own = drawn.labels[batch.rows]
                was, now = before.argmax(axis=1) == own, (before + moved).argmax(axis=1) == own
                hits[batch.rows] = was & ~now if change == "erase" else ~was & now
                yield Effect(key=key, rows=batch.rows, change=moved)

    run = patched(anatomy, drawn, measure, batch_size=batch_size)
    effects = {
        key: by_subject(values, rows, drawn)
        for key, (values, rows) in differences(drawn, run.effects).items()
    }
    hits = {key: values[drawn.rows] for key, values in does.items()}
    return {
        "entity_cells": _table(hits, effects, run, drawn, cells, seed),
        "entity_cell_subjects": _subjects(hits, effects, drawn, cells),
    }


def by_subject(values: np.ndarray, rows: np.ndarray, drawn: Sample) -> Float[np.ndarray, " drawn"]:
    """Values in the order of the drawn subjects."""
    return values[np.argsort(rows)][np.searchsorted(np.sort(rows), drawn.rows)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The neurons of the lookup at the final name token: each subject's values, and how far they stand out.

    specificity: deviations from the mean over all subjects, 0 for a neuron that is constant. lots: a number for each neuron
    and drawn subject, by which random ones are chosen, whatever the batches.
    """

    anatomy: Anatomy
    drawn: Sample
    layers: tuple[int, ...]
    values: Float[np.ndarray, "subjects layers d_mlp"]
    specificity: Float[np.ndarray, "subjects layers d_mlp"]
    lots: Float[np.ndarray, "drawn layers d_mlp"]

    @classmethod
    def of(
        cls, anatomy: Anatomy, drawn: Sample, layers: Sequence[int], *, batch_size: int, seed: int
    ) -> Cells:
        """The neurons of these layers, read from runs of all subjects."""
        values = np.empty((drawn.prompts.height, len(layers), anatomy.d_mlp))

        def read(tokens: Int[Tensor, "batch seq"]) -> Values:
            return read_last(anatomy, tokens, ["post"], layers)[0].double().cpu().numpy()

        for rows, found in name_batches([drawn.prompts], anatomy.device, batch_size, read):
            values[rows] = found
        spread = values.std(axis=0)
        constant = spread <= ROUNDING * np.abs(values).max(axis=(0, 2))[:, None]
        specificity = (values - values.mean(axis=0)) / np.where(constant, np.inf, spread)
        lots = np.random.default_rng(seed).random((len(drawn.rows), *values.shape[1:]))
        return cls(
            anatomy=anatomy, drawn=drawn, layers=tuple(layers), values=values, specificity=specificity, lots=lots
        )  # fmt: skip

    @property
    def n(self) -> int:
        return len(self.layers) * self.anatomy.d_mlp

    def change(self, change: str, rows: Int[np.ndarray, " rows"]) -> Values:
        """By how much each neuron's value changes when it is replaced."""
        own = self.values[rows]
        if change == "inject":
            return own - self.values[self.drawn.corrupt[rows]]
        others = (self.values.sum(axis=0) - own) / max(len(self.values) - 1, 1)
        return others - own

    def replacements(
        self, change: str, clean: Clean, batch: Batch, sizes: Sequence[int]
    ) -> Iterator[tuple[Key, Mapping[int, Float[Tensor, "batch d_model"]]]]:
        """What each replacement adds to the residual stream, by layer."""
        changed = self.change(change, batch.rows)
        helps = self._slopes(clean, batch) * changed * (-1 if change == "erase" else 1)
        lots = self.lots[np.searchsorted(self.drawn.rows, batch.rows)]
        yield (change, ALL, self.n, CHOSEN), self._written(changed)
        for how, score in ((SPECIFICITY, self.specificity[batch.rows]), (GRADIENT, helps)):
            for size in sorted({min(size, self.n) for size in sizes}):
                chosen = top(score, size)
                written = self._written(np.where(chosen, changed, 0.0))
                yield (change, how, size, CHOSEN), written
                others = top(np.where(chosen, -1.0, lots), min(size, self.n - size))
                yield (change, how, size, RANDOM), self._as_long(others, changed, written)

    def _slopes(self, clean: Clean, batch: Batch) -> Values:
        """How fast each subject's logit difference changes with each neuron, in this run."""
        name = torch.full((len(batch.rows),), batch.layout.final_name, device=self.anatomy.device)
        reads = [Read(site=Site("post", layer), at=name) for layer in self.layers]
        found = difference_slopes(self.anatomy, self.drawn, batch, clean, reads)
        return torch.stack(found, dim=1).double().cpu().numpy()

    def _written(self, changed: Values) -> dict[int, Float[Tensor, "rows d_model"]]:
        """What changes of neurons add to the residual stream."""
        device, dtype = self.anatomy.device, self.anatomy.dtype
        return {
            layer: torch.from_numpy(changed[:, i]).to(device, dtype) @ self.anatomy.blocks[layer].neuron_out
            for i, layer in enumerate(self.layers)
        }

    def _as_long(
        self, chosen: Bool[np.ndarray, "rows layers d_mlp"], changed: Values, like: Mapping[int, Tensor]
    ) -> dict[int, Float[Tensor, "rows d_model"]]:
        """What chosen neurons add, each to the side to which it would change and all alike, as long in all as `like`."""
        lengths = np.stack(
            [
                self.anatomy.blocks[layer].neuron_out.norm(dim=1).double().cpu().numpy()
                for layer in self.layers
            ]
        )
        sides = np.where(changed < 0, -1.0, 1.0) / np.where(lengths > 0, lengths, 1.0)
        written = self._written(np.where(chosen, sides, 0.0))
        wanted, found = (_length(one)[:, None] for one in (like, written))
        scale = wanted / found.clamp_min(torch.finfo(found.dtype).tiny)
        return {layer: scale * value for layer, value in written.items()}


def top(score: Values, size: int) -> Bool[np.ndarray, "rows layers d_mlp"]:
    """The `size` neurons of the highest score in each row; of neurons alike, the first."""
    flat = score.reshape(len(score), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :size]
    chosen = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen.reshape(score.shape)


def _length(written: Mapping[int, Float[Tensor, "rows d_model"]]) -> Float[Tensor, " rows"]:
    """The length of what is added in all layers together."""
    return torch.cat(list(written.values()), dim=1).norm(dim=1)


def _effects(
    anatomy: Anatomy, clean: Clean, batch: Batch, added: Mapping[int, Float[Tensor, "batch d_model"]]
) -> Float[np.ndarray, "batch candidates"]:
    prompt = torch.arange(len(batch.rows), device=anatomy.device)
    at = batch.layout.final_name
    change = Suffix(anatomy).added_effects(clean, added, batch.reading, at=at, prompt=prompt)
    return change.double().cpu().numpy()


def _table(
    hits: Mapping[Key, Bool[np.ndarray, " drawn"]],
    effects: Mapping[Key, Float[np.ndarray, " drawn"]],
    run: Patched,
    drawn: Sample,
    cells: Cells,
    seed: int,
) -> pl.DataFrame:
    """A row for each replacement, random neurons beside the chosen ones."""
    swap = float(np.mean([run.whole[int(row)] for row in drawn.rows]))
    rows = []
    for key in (key for key in hits if key[-1] == CHOSEN):
        change, how, size, _ = key
        other = (*key[:-1], RANDOM)
        does, effect = hits[key], effects[key]
        whole = swap if change == "erase" else -swap
        cell = {"change": change, "chosen_by": how, "neurons": size, "n_neurons": cells.n, "n": len(does)}
        cell |= {"whole_swap": whole, "share": float(effect.mean()) / whole if whole else None}
        cell |= estimate_columns("does", accuracy_estimate(does, seed=seed))
        cell |= estimate_columns("effect", mean_interval(effect, seed=seed))
        beside = None, None, None
        if other in hits:
            beside = (
                accuracy_estimate(hits[other], seed=seed),
                accuracy_difference(does, hits[other], seed=seed),
                mean_interval(effects[other], seed=seed),
            )
        names = ("random", "over_random", "random_effect")
        for name, estimate in zip(names, beside, strict=True):
            cell |= estimate_columns(name, estimate)
        rows.append(cell)
    return pl.DataFrame(rows, schema=schema_of("entity_cells"))


def _subjects(
    hits: Mapping[Key, Bool[np.ndarray, " drawn"]],
    effects: Mapping[Key, Float[np.ndarray, " drawn"]],
    drawn: Sample,
    cells: Cells,
) -> pl.DataFrame:
    """Each subject's most specific neuron, and what it does alone; null where it was not replaced alone."""
    flat = cells.specificity[drawn.rows].reshape(len(drawn.rows), -1)
    best = flat.argmax(axis=1)
    layer, index = np.divmod(best, cells.anatomy.d_mlp)
    shared = np.bincount(best, minlength=cells.n)[best]
    names, answers = (drawn.prompts[column].gather(drawn.rows) for column in ("subject", "answer"))
    partners = drawn.prompts["subject"].gather(drawn.corrupt[drawn.rows])
    columns: dict[str, object] = {
        "subject": names,
        "answer": answers,
        "partner": partners,
        "neuron": [
            str(neuron(cells.layers[i], j)) for i, j in zip(layer.tolist(), index.tolist(), strict=True)
        ],
        "specificity": flat[np.arange(len(best)), best],
        "shared_by": shared,
    }
    for change in CHANGES:
        key = (change, SPECIFICITY, 1, CHOSEN)
        nothing = [None] * len(best)
        columns[f"{change}_does"] = hits.get(key, nothing)
        columns[f"{change}_effect"] = effects.get(key, nothing)
    return pl.DataFrame(columns, schema=schema_of("entity_cell_subjects"))
