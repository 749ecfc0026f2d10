"""Dossiers of single neurons (P3.4), put together: who fires them, what they are needed for, what their weights say.

The parts are measured in dossier_ablation.py, dossier_weights.py and dossier_texts.py; their shape stands in
data/dossier.py. Tables of them are one row per entry of a part, after the columns neuron, layer, index, sport, chosen_by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from factfinding.data.dossier import Dossier, Histogram, Telling, Texts
from factfinding.engine.sites import Site, check, parse
from factfinding.errors import InputError
from factfinding.methods.circuit import Circuit
from factfinding.methods.dossier_ablation import ablations
from factfinding.methods.dossier_weights import Weights, cosines, projections, sport_directions
from factfinding.methods.estimates import estimate_columns, estimate_schema
from factfinding.methods.groups import labels_of
from factfinding.methods.halves import Halves
from factfinding.methods.readers import Readers
from factfinding.methods.sport_neurons import HALVES, Detector, auc_draws, centred_ranks, rank_aucs
from factfinding.model.anatomy import Anatomy
from factfinding.store import Activations

BINS = 24

WHO = {
    "neuron": pl.String,
    "layer": pl.Int64,
    "index": pl.Int64,
    "sport": pl.String,
    "chosen_by": pl.String,
}
NUMBERS = {"n": pl.Int64, "base_rate": pl.Float64}
HISTOGRAMS = WHO | {
    "athletes_sport": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
    "athletes": pl.Int64,
    "n": pl.Int64,
}
ABLATIONS = WHO | {"kind": pl.String} | estimate_schema("loss", "accuracy", "change", "random_change")
ABLATIONS |= {"random_largest": pl.Float64, "random_as_large": pl.Float64, "random_neurons": pl.Int64}
ABLATIONS |= NUMBERS
COSINES = WHO | {"first": pl.String, "second": pl.String, "cosine": pl.Float64, "layer_low": pl.Float64}
COSINES |= {"layer_median": pl.Float64, "layer_high": pl.Float64, "share_below": pl.Float64}
COSINES |= {"neurons": pl.Int64}
PROJECTIONS = (
    WHO | {"removed": pl.String, "dimensions": pl.Int64} | estimate_schema("auc", "change") | NUMBERS
)
"""Columns of the tables sport_neuron_histograms, _ablations, _cosines and _projections."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What all dossiers of a study are made from. prompts: of the athletes, in whose order all arrays are.

    post, pre (None where it is not cached) and mid, what a layer's MLP reads: `layer -> [athletes, ...]`.
    """

    anatomy: Anatomy
    prompts: pl.DataFrame
    candidates: pl.DataFrame
    halves: Halves | None
    circuit: Circuit
    readers: Readers
    post: Callable[[int], Float[np.ndarray, "athletes neurons"]]
    pre: Callable[[int], Float[np.ndarray, "athletes neurons"] | None]
    mid: Callable[[int], Float[np.ndarray, "athletes d_model"]]

    @property
    def sports(self) -> list[str]:
        return self.candidates["sport"].to_list()


def mlp_input(
    file: Activations, layer: int, rows: Sequence[int], *, parallel: bool
) -> Float[np.ndarray, "athletes d_model"]:
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
            raise InputError("config.sport_neurons.neurons", name, allowed)


def dossiers(
    study: Study,
    scan: pl.DataFrame,
    found: Sequence[Detector],
    texts: Mapping[Site, Texts],
    *,
    ablated_athletes: int,
    random_neurons: int,
    seed: int,
) -> list[Dossier]:
    """One dossier per detector. scan: the table `sport_neurons`, for the corrected p of those that it chose."""
    labels = labels_of(study.prompts, study.candidates)
    made = []
    for detector in found:
        site, positive = detector.site, labels == study.sports.index(detector.sport)
        post = study.post(site.layer)
        weighed = _weighed(study, detector, positive, seed)
        lost = ablations(
            study.anatomy, study.prompts, study.candidates, site, detector.sport, post.mean(axis=0),
            athletes=ablated_athletes, random_neurons=random_neurons, seed=seed,
        )  # fmt: skip
        dossier = Dossier(
            neuron=str(site),
            layer=site.layer,
            index=site.index,
            sport=detector.sport,
            sign=detector.sign,
            chosen_by=detector.chosen_by,
            telling=_telling(detector, post[:, site.index], positive, study.halves, scan, seed),
            histogram=histogram(post[:, site.index], labels, study.sports),
            ablations=tuple(lost),
            texts=texts.get(site),
            **weighed,
        )
        made.append(dossier)
    return made


def histogram(
    values: Float[np.ndarray, " athletes"], labels: Int[np.ndarray, " athletes"], sports: Sequence[str]
) -> Histogram:
    """Athletes of each sport by activation, in bins of equal width that all sports share."""
    edges = np.histogram_bin_edges(np.asarray(values, dtype=np.float64), bins=BINS)
    counts = {
        sport: tuple(np.histogram(values[labels == k], bins=edges)[0].tolist())
        for k, sport in enumerate(sports)
        if (labels == k).any()
    }
    return Histogram(edges=tuple(edges.tolist()), counts=counts)


def _telling(
    detector: Detector,
    values: Float[np.ndarray, " athletes"],
    positive: Bool[np.ndarray, " athletes"],
    halves: Halves,
    scan: pl.DataFrame,
    seed: int,
) -> Telling:
    on = rank_aucs(centred_ranks(values[halves.choosing][:, None]), positive[halves.choosing][:, None])[0, 0]
    off = ~halves.choosing
    auc = auc_draws(detector.sign * values[off], positive[off], seed=seed).estimate
    chosen = scan.filter(chosen_on=HALVES[0], rank=1, neuron=str(detector.site), sport=detector.sport)
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
    study: Study, detector: Detector, positive: Bool[np.ndarray, " athletes"], seed: int
) -> dict[str, object]:
    """The parts of a dossier that come from the weights: cosines, projections, and the check of the recomputation."""
    site, circuit = detector.site, study.circuit
    weights = Weights.of(study.anatomy, site.layer)
    directions = sport_directions(
        study.anatomy, weights.norm, study.readers, circuit.extract,
        dict(study.candidates.select("sport", "token_id").iter_rows()), sport=detector.sport,
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


def tables(made: Sequence[Dossier]) -> dict[str, pl.DataFrame]:
    """The tables histograms, ablations, cosines and projections of some dossiers."""
    rows: dict[str, list[dict]] = {
        "histograms": [row for one in made for row in _bars(one)],
    }
    for part in ("ablations", "cosines", "projections"):
        rows[part] = [_who(one) | entry.model_dump() for one in made for entry in getattr(one, part)]
    schemas = {
        "histograms": HISTOGRAMS,
        "ablations": ABLATIONS,
        "cosines": COSINES,
        "projections": PROJECTIONS,
    }
    return {name: pl.DataFrame(rows[name], schema=schema) for name, schema in schemas.items()}


def _who(dossier: Dossier) -> dict[str, object]:
    return {name: getattr(dossier, name) for name in WHO}


def _bars(dossier: Dossier) -> list[dict]:
    edges, n = dossier.histogram.edges, sum(map(sum, dossier.histogram.counts.values()))
    return [
        _who(dossier) | {"athletes_sport": sport, "low": low, "high": high, "athletes": count, "n": n}
        for sport, counts in dossier.histogram.counts.items()
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
