"""Every neuron of the lookup MLPs as a detector of each answer (P3.4): which one tells it best, and is that luck?

A neuron's activation at the final name token is taken for a score; its AUC for an answer against all others is the
probability that a subject of the answer has a higher one than another subject (ties count half). Neurons that are low
on the answer count as well, with sign -1 and the AUC of the negated activation.

**Choosing.** The best of thousands looks good by chance. Subjects are split into halves, each answer evenly: neurons and
their signs are chosen on one, and their AUC is that on the other. The table has both ways round. `p_corrected` asks how
often, under shuffled answers on the scored half, the best of *all* neurons with either sign is as good for this answer;
it takes into account how many neurons there are and how alike they are. It does not count the answers that were tried.

**The one that claims are about.** The study speaks of one neuron. Of the first neurons of all answers it is the one with
the largest AUC on the half on which they were chosen (`best`): the choice is made where nothing is scored. Of two alike,
as with two answers, the one that is high on its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from factfinding.engine.cached import activations_of, rows_of
from factfinding.engine.sites import Site, neuron
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import circuit_of
from factfinding.methods.estimates import estimate_columns, estimate_schema
from factfinding.methods.groups import known_prompts
from factfinding.methods.halves import Halves, halve
from factfinding.methods.neuron_aucs import HALVES, auc_draws, centred_ranks, rank_aucs, sign_of

ANSWER_NEURONS = {
    "chosen_on": pl.String,
    "answer": pl.String,
    "rank": pl.Int64,
    "neuron": pl.String,
    "layer": pl.Int64,
    "index": pl.Int64,
    "sign": pl.Int64,
    "best": pl.Boolean,
    "auc_choosing": pl.Float64,
}
ANSWER_NEURONS |= estimate_schema("auc")
ANSWER_NEURONS |= {"p_corrected": pl.Float64, "chance_best": pl.Float64, "neurons_tried": pl.Int64}
ANSWER_NEURONS |= {"n": pl.Int64, "base_rate": pl.Float64}
"""Columns of the table `answer_neurons`."""

PERMUTED = 1000
"""Shuffled answers held at once: bounds memory."""
ROUNDING = 1e-6
ALIKE = 9
"""Decimals to which two AUCs are the same."""

Layers = Iterable[tuple[int, Float[np.ndarray, "subjects neurons"]]]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `answer_neurons`."""
    section, lookup = settings.answer_neurons, circuit_of(inputs).lookup
    prompts, answers = known_prompts(inputs, section.subjects), inputs.candidates["answer"].to_list()
    with activations_of(inputs) as file:
        rows = rows_of(file, prompts["subject"])
        layers = [] if lookup is None else range(lookup[0], lookup[1] + 1)
        say(f"{len(layers)} layers of neurons on {prompts.height} subjects")
        scan = scan_neurons(
            ((layer, file.layer("post@final_name", layer)[rows]) for layer in layers),
            halve(prompts, answers, seed=section.seed),
            answers,
            best=section.best,
            permutations=section.permutations,
            seed=section.seed,
        )
    return {"answer_neurons": scan}


def scan_neurons(
    layers: Layers, halves: Halves | None, answers: Sequence[str], *, best: int, permutations: int, seed: int
) -> pl.DataFrame:
    """The table `answer_neurons`: for each answer and half the `best` neurons that were chosen on it, scored on the other.

    layers: (layer, activations at the final name token), one at a time. answers: in the order of the labels; those that
    no subject has are left out. Empty where there are no halves or no layers.
    """
    layers = iter(layers)
    first = None if halves is None else next(layers, None)
    if first is None:
        return pl.DataFrame(schema=ANSWER_NEURONS)
    present = np.unique(halves.labels)
    turns = [_Turn(halves.labels, chosen_on, present, permutations, seed) for chosen_on in _choosing(halves)]
    for layer, values in (first, *layers):
        values = np.asarray(values)
        ranks = [centred_ranks(values[half]) for half in _choosing(halves)]
        for turn, (on, off) in zip(turns, (ranks, ranks[::-1]), strict=True):
            turn.add(layer, on, off, values)
    rows = []
    for half, turn in zip(HALVES, turns, strict=True):
        of_half = [
            {"chosen_on": half, "answer": answers[label]} | row
            for k, label in enumerate(present)
            for row in turn.best(k, best)
        ]
        the_best = best_of(of_half)
        rows += [row | {"best": row is the_best} for row in of_half]
    return pl.DataFrame(rows, schema=ANSWER_NEURONS)


def best_of(rows: Sequence[dict]) -> dict:
    """Of rows of one half the one with the largest AUC there; of two alike the one that is high on its answer."""
    return max(rows, key=lambda row: (round(row["auc_choosing"], ALIKE), row["sign"]))


def _choosing(halves: Halves) -> tuple[Bool[np.ndarray, " subjects"], Bool[np.ndarray, " subjects"]]:
    return halves.choosing, ~halves.choosing


class _Turn:
    """One way round: the AUCs on both halves, and the best of all neurons under each shuffling of the scored half."""

    def __init__(
        self,
        labels: Int[np.ndarray, " subjects"],
        choosing: Bool[np.ndarray, " subjects"],
        present: Int[np.ndarray, " answers"],
        permutations: int,
        seed: int,
    ) -> None:
        self.choosing, self.present, self.seed = choosing, present, seed
        self.labels, rng = labels, np.random.default_rng(seed)
        scored = labels[~choosing]
        self.shuffled = np.stack([rng.permutation(scored) for _ in range(permutations)], axis=1)
        self.luck = np.zeros((len(present), permutations))
        self.sites: list[Site] = []
        self.columns: list[Float[np.ndarray, "scored neurons"]] = []
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def add(
        self,
        layer: int,
        on: Float[np.ndarray, "choosing neurons"],
        off: Float[np.ndarray, "scored neurons"],
        values: Float[np.ndarray, "subjects neurons"],
    ) -> None:
        """on, off: `centred_ranks` of the half on which neurons are chosen, and of the other."""
        one_hot = [labels[:, None] == self.present for labels in (self.labels[self.choosing], self.scored)]
        self.found.append((rank_aucs(on, one_hot[0]), rank_aucs(off, one_hot[1])))
        quick = off.astype(np.float32)
        for k, label in enumerate(self.present):
            for start in range(0, self.shuffled.shape[1], PERMUTED):
                part = slice(start, start + PERMUTED)
                off_by_luck = np.abs(rank_aucs(quick, self.shuffled[:, part] == label) - 0.5).max(axis=1)
                self.luck[k, part] = np.maximum(self.luck[k, part], off_by_luck)
        self.sites += [neuron(layer, index) for index in range(values.shape[1])]
        self.columns.append(values[~self.choosing])

    @property
    def scored(self) -> Int[np.ndarray, " scored"]:
        return self.labels[~self.choosing]

    def best(self, k: int, count: int) -> list[dict]:
        """Rows of the best neurons for the k-th answer that is present."""
        on, off = (np.concatenate([found[half][k] for found in self.found]) for half in (0, 1))
        values, positive = np.concatenate(self.columns, axis=1), self.scored == self.present[k]
        order = np.argsort(-np.abs(on - 0.5), kind="stable")[:count]
        rows = []
        for rank, i in enumerate(order, start=1):
            site, sign = self.sites[i], sign_of(on[i])
            auc = auc_draws(sign * values[:, i], positive, seed=self.seed).estimate
            as_good = int((self.luck[k] >= sign * (off[i] - 0.5) - ROUNDING).sum())
            cells = {
                "rank": rank,
                "neuron": str(site),
                "layer": site.layer,
                "index": site.index,
                "sign": sign,
            }
            cells |= {"auc_choosing": 0.5 + abs(on[i] - 0.5)} | estimate_columns("auc", auc)
            cells |= {"p_corrected": (1 + as_good) / (1 + self.luck.shape[1])}
            cells |= {"chance_best": 0.5 + float(np.quantile(self.luck[k], 0.95))}
            cells |= {"neurons_tried": len(on), "n": len(positive), "base_rate": float(positive.mean())}
            rows.append(cells)
        return rows
