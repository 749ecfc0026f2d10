"""Dossiers of single neurons (P3.4), put together: who fires them, what they are needed for, what their weights say.

All that is measured on subjects is measured on the half on which the neuron was not chosen. The parts are measured in
ablation.py, weights.py and texts.py; their shape stands in data/dossier.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from factfinding.data.dossier import Dossier, Histogram, Telling, Texts, write_dossiers
from factfinding.engine.cached import activations_of, rows_of
from factfinding.engine.sites import Site, check, parse
from factfinding.errors import InputError
from factfinding.experiments.dossiers.ablation import ablations
from factfinding.experiments.dossiers.rows import tables
from factfinding.experiments.dossiers.texts import firing, read_running
from factfinding.experiments.dossiers.weights import Weights, answer_directions, cosines, projections
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import Circuit, circuit_of
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import known_prompts, labels_of
from factfinding.methods.halves import Halves, halve
from factfinding.methods.neuron_aucs import HALVES, auc_draws, centred_ranks, rank_aucs, sign_of
from factfinding.methods.readers import Readers, readers_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.store import Activations

BINS = 24


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A neuron, the answer that it is looked at for, its sign, why it is looked at, and whether claims are about it."""

    site: Site
    answer: str
    sign: int
    chosen_by: str  # scan or configuration
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Dossiers:
    """All dossiers of a study, as a folder with a file for each."""

    made: Sequence[Dossier]

    def save(self, path: Path) -> None:
        write_dossiers(self.made, path)


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronStudy:
    """What all dossiers of a study are made from. prompts: of the subjects, in whose order all arrays are.

    post, pre (None where it is not cached) and mid, what a layer's MLP reads: `layer -> [subjects, ...]`.
    """

    anatomy: Anatomy
    prompts: pl.DataFrame
    candidates: pl.DataFrame
    halves: Halves | None
    circuit: Circuit
    readers: Readers
    post: Callable[[int], Float[np.ndarray, "subjects neurons"]]
    pre: Callable[[int], Float[np.ndarray, "subjects neurons"] | None]
    mid: Callable[[int], Float[np.ndarray, "subjects d_model"]]

    @property
    def answers(self) -> list[str]:
        return self.candidates["answer"].to_list()


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame | Dossiers]:
    """The tables `answer_neuron_histograms`, `_ablations`, `_cosines` and `_projections`, and the `dossiers`."""
    section, scan = settings.answer_neurons, inputs.table("answer_neurons")
    with activations_of(inputs) as file:
        study = study_of(inputs, file, subjects=section.subjects, seed=section.seed)
        check_named(section.neurons, study.anatomy, file.layers("post@final_name"))
        found = detectors(scan, section.neurons, study.post, study.halves, study.answers)
        say(f"dossiers: {', '.join(str(detector.site) for detector in found) or 'none'}")
        made = dossiers(
            study,
            scan,
            found,
            texts_of(inputs, settings, sorted({detector.site for detector in found})),
            ablated_subjects=section.ablated_subjects,
            random_neurons=section.random_neurons,
            seed=section.seed,
        )
    parts = {f"answer_neuron_{part}": table for part, table in tables(made).items()}
    return parts | {"dossiers": Dossiers(made=made)}


def study_of(inputs: Inputs, file: Activations, *, subjects: str, seed: int) -> NeuronStudy:
    """What all dossiers are made from, with activations of all neurons of a layer at the final name token."""
    anatomy, prompts, candidates = anatomy_of(inputs), known_prompts(inputs, subjects), inputs.candidates
    rows = rows_of(file, prompts["subject"])

    def pre(layer: int) -> Float[np.ndarray, "subjects neurons"] | None:
        name = "pre@final_name"
        return file.layer(name, layer)[rows] if name in file.names() and layer in file.layers(name) else None

    return NeuronStudy(
        anatomy=anatomy,
        prompts=prompts,
        candidates=candidates,
        halves=halve(prompts, candidates["answer"].to_list(), seed=seed),
        circuit=circuit_of(inputs),
        readers=readers_of(inputs),
        post=lambda layer: file.layer("post@final_name", layer)[rows],
        pre=pre,
        mid=lambda layer: mlp_input(file, layer, rows, parallel=anatomy.parallel),
    )


def texts_of(inputs: Inputs, settings: Settings, sites: Sequence[Site]) -> dict[Site, Texts]:
    """Where neurons fire in the study's running text; nothing where there is no text."""
    section, path = settings.answer_neurons, inputs.named.get("texts")
    if not path or not sites:
        return {}
    anatomy = anatomy_of(inputs)
    running = read_running(
        path,
        anatomy,
        source=section.texts or "the embedded model's own corpus",
        tokens=section.text_tokens,
        window=section.window,
    )
    if running is None:
        return {}
    return firing(anatomy, running, sites, shown=section.shown_texts, batch_size=settings.compute.batch_size)


def detectors(
    scan: pl.DataFrame,
    named: Sequence[str],
    activations: Callable[[int], Float[np.ndarray, "subjects neurons"]],
    halves: Halves | None,
    answers: Sequence[str],
) -> list[Detector]:
    """The neurons that get a dossier: the best of each answer by the scan's first half, and those that are `named`.

    A named one is looked at for the answer that it tells best on that half, and of two alike the one that it is high on.
    `activations(layer)` gives all neurons.
    """
    if halves is None:
        return []
    best = scan.filter(chosen_on=HALVES[0], rank=1).sort("answer")
    found = [
        Detector(
            site=parse(row["neuron"]),
            answer=row["answer"],
            sign=row["sign"],
            chosen_by="scan",
            best=row["best"],
        )
        for row in best.iter_rows(named=True)
    ]
    present = np.unique(halves.labels)
    for site in map(parse, dict.fromkeys(named)):
        ranks = centred_ranks(activations(site.layer)[halves.choosing][:, [site.index]])
        aucs = rank_aucs(ranks, halves.labels[halves.choosing][:, None] == present)[:, 0]
        above = np.round(aucs - 0.5, 9)
        k = int(np.lexsort((above, np.abs(above)))[-1])
        told = Detector(
            site=site, answer=answers[present[k]], sign=sign_of(aucs[k]), chosen_by="configuration"
        )
        found.append(told)
    return found


def mlp_input(
    file: Activations, layer: int, rows: Sequence[int], *, parallel: bool
) -> Float[np.ndarray, "subjects d_model"]:
    """What a layer's MLP reads at the final name token: the residual before the layer, and its attention's output where
    the two are not parallel. Raises InputError naming the file where it lacks one."""
    resid = file.layer("resid@final_name", layer - 1)[rows].astype(np.float64)
    return resid if parallel else resid + file.layer("attn_out@final_name", layer)[rows]


def check_named(named: Sequence[str], anatomy: Anatomy, stored: Sequence[int]) -> None:
    """Raise InputError for a neuron that the model does not have, or whose layer's activations are not stored."""
    for name in named:
        site = check(parse(name), anatomy)
        if site.layer not in stored:
            layers = ", ".join(map(str, stored))
            allowed = f"a neuron of a layer whose activations are stored ({layers}; see circuit.lookup and activations)"
            raise InputError("config.answer_neurons.neurons", name, allowed)


def dossiers(
    study: NeuronStudy,
    scan: pl.DataFrame,
    found: Sequence[Detector],
    texts: Mapping[Site, Texts],
    *,
    ablated_subjects: int,
    random_neurons: int,
    seed: int,
) -> list[Dossier]:
    """One dossier per detector. scan: the table `answer_neurons`, for the corrected p of those that it chose."""
    labels = labels_of(study.prompts, study.candidates)
    held_out = np.zeros(len(labels), dtype=bool) if study.halves is None else ~study.halves.choosing
    made = []
    for detector in found:
        site, positive = detector.site, labels == study.answers.index(detector.answer)
        post = study.post(site.layer)
        weighed = _weighed(study, detector, positive, seed)
        lost = ablations(
            study.anatomy, study.prompts, study.candidates, site, detector.answer, post.mean(axis=0),
            held_out, subjects=ablated_subjects, random_neurons=random_neurons, seed=seed,
        )  # fmt: skip
        dossier = Dossier(
            neuron=str(site),
            layer=site.layer,
            index=site.index,
            answer=detector.answer,
            sign=detector.sign,
            chosen_by=detector.chosen_by,
            best=detector.best,
            telling=_telling(detector, post[:, site.index], positive, study.halves, scan, seed),
            histogram=histogram(post[held_out, site.index], labels[held_out], study.answers),
            ablations=tuple(lost),
            texts=texts.get(site),
            **weighed,
        )
        made.append(dossier)
    return made


def histogram(
    values: Float[np.ndarray, " subjects"], labels: Int[np.ndarray, " subjects"], answers: Sequence[str]
) -> Histogram:
    """Subjects of each answer by activation, in bins of equal width that all answers share."""
    edges = np.histogram_bin_edges(np.asarray(values, dtype=np.float64), bins=BINS)
    counts = {
        answer: tuple(np.histogram(values[labels == k], bins=edges)[0].tolist())
        for k, answer in enumerate(answers)
        if (labels == k).any()
    }
    return Histogram(edges=tuple(edges.tolist()), counts=counts)


def _telling(
    detector: Detector,
    values: Float[np.ndarray, " subjects"],
    positive: Bool[np.ndarray, " subjects"],
    halves: Halves,
    scan: pl.DataFrame,
    seed: int,
) -> Telling:
    on = rank_aucs(centred_ranks(values[halves.choosing][:, None]), positive[halves.choosing][:, None])[0, 0]
    off = ~halves.choosing
    auc = auc_draws(detector.sign * values[off], positive[off], seed=seed).estimate
    chosen = scan.filter(chosen_on=HALVES[0], rank=1, neuron=str(detector.site), answer=detector.answer)
    by_scan = chosen.row(0, named=True) if chosen.height else {}
    return Telling(
        auc_choosing=0.5 + detector.sign * (float(on) - 0.5),
        **estimate_columns("auc", auc),
        n=auc.n,
        base_rate=float(positive[off].mean()),
        p_corrected=by_scan.get("p_corrected"),
        neurons_tried=by_scan.get("neurons_tried"),
    )


def _weighed(
    study: NeuronStudy, detector: Detector, positive: Bool[np.ndarray, " subjects"], seed: int
) -> dict[str, object]:
    """The parts of a dossier that come from the weights: cosines, projections, and the check of the recomputation."""
    site, circuit = detector.site, study.circuit
    weights = Weights.of(study.anatomy, site.layer)
    directions = answer_directions(
        study.anatomy, weights.norm, study.readers, circuit.extract,
        dict(study.candidates.select("answer", "token_id").iter_rows()), answer=detector.answer,
        read_after=site.layer if circuit.lookup is None else circuit.lookup[1],
    )  # fmt: skip
    normed, cached = weights.normed(study.mid(site.layer)), study.pre(site.layer)
    error = None
    if cached is not None:
        kept = cached[:, site.index].astype(np.float64)
        error = float(np.abs(weights.pre(normed, site.index) - kept).max() / max(np.abs(kept).max(), 1e-12))
    off = ~study.halves.choosing
    return {
        "cosines": tuple(cosines(weights, site.index, directions)),
        "projections": tuple(
            projections(
                weights, site.index, directions, normed[off], positive[off], sign=detector.sign, seed=seed
            )
        ),
        "pre_error": error,
    }
