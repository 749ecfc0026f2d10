"""What each attention head would answer if it read the name: head probes (P2.5) and their curve over layers (P2.6).

A head probe is W_V W_O W_U[:, sports] of one head, applied to a residual from which the mean activation is taken away;
its answer is the argmax (engine/head_probe.py). Nothing is fitted but the mean, so what it finds is what the head is
built to read, not what a regression could.

**The norms.** Between the residual and the sports stand the norm before the head and the final norm. Their weights and
centring are linear and are folded into the matrix. Their scales are one positive number per athlete: the final norm's
multiplies all sports alike and cannot change an argmax; the head's own divides *before* the mean is taken away and can.
So the scan is read in three ways, and the columns show how much it matters:

    folded     (accuracy)  both norms folded in, no scale: one linear map for all athletes
    unfolded               the bare matrices, no norm at all
    scaled                 as folded, and each athlete divided by the head's own norm's scale, as in the model

**Choosing.** Among many heads one looks good by chance. The known athletes are split into halves, each sport evenly:
heads are ranked on the first, which also gives the mean, and scored on the second alone. For heads that were not
chosen, `p_corrected` asks how often, under shuffled sports, the *best* of all heads does as well (a permutation test
that takes the number of heads and their likeness into account); `chance_best` is the 95 % point of that best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from factfinding.engine.direct import Readout
from factfinding.engine.head_probe import head_probe, head_probes, norm_of
from factfinding.engine.sites import Site, head, parse
from factfinding.methods.estimates import estimate_columns, estimate_schema
from factfinding.methods.probes import table_schema
from factfinding.model.anatomy import Anatomy
from factfinding.stats import majority_rate, mean_interval, share_interval, stratified_folds

READINGS = ("folded", "unfolded", "scaled")
SHARES = ("accuracy", "accuracy_unfolded", "accuracy_scaled", "same_unfolded", "same_scaled")
HEAD_PROBES = {
    "head": pl.String,
    "layer": pl.Int64,
    "index": pl.Int64,
    "read_after": pl.Int64,
    "rank": pl.Int64,
}
HEAD_PROBES |= {"accuracy_choosing": pl.Float64}
HEAD_PROBES |= estimate_schema(*SHARES)
HEAD_PROBES |= {"n": pl.Int64, "majority_rate": pl.Float64}
HEAD_PROBES |= {"heads_tried": pl.Int64, "p_corrected": pl.Float64, "chance_best": pl.Float64}
"""Columns of the table `head_probes`."""

Answers = Int[np.ndarray, "heads athletes"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Halves:
    """Athletes' sports as indices, and which of them heads are chosen on; the others are scored."""

    labels: Int[np.ndarray, " athletes"]
    choosing: Bool[np.ndarray, " athletes"]

    @property
    def scored(self) -> Int[np.ndarray, scored]:
        """Sports of the athletes that are scored."""
        return self.labels[~self.choosing]


def halve(athletes: pl.DataFrame, sports: Sequence[str], *, seed: int) -> Halves | None:
    """Two halves, every sport evenly split, the same whatever the order of the table (columns athlete, sport).

    None where there are no two sports with two athletes each: then there is nothing to choose or to score.
    """
    counts = athletes["sport"].value_counts()["count"]
    if len(counts) < 2 or counts.min() < 2:
        return None
    labels = np.array([sports.index(sport) for sport in athletes["sport"]])
    by_name = athletes["athlete"].arg_sort().to_numpy()
    choosing = np.empty(len(labels), dtype=bool)
    choosing[by_name] = stratified_folds(labels[by_name], n_folds=2, seed=seed) == 0
    return Halves(labels=labels, choosing=choosing)


def scan_heads(
    anatomy: Anatomy,
    residuals: Iterable[tuple[int, Float[np.ndarray, "athletes d_model"]]],
    halves: Halves | None,
    token_ids: Sequence[int],
    *,
    permutations: int,
    seed: int,
) -> pl.DataFrame:
    """The table `head_probes`: every head's probe on the residual that the head itself reads (P2.5).

    residuals: (layer, resid_post at the final name token) from -1, the embeddings, on; a head of layer L reads that of
    L - 1 (column read_after). token_ids: of the sports, in the order of the labels. Empty for no halves.
    """
    if halves is None:
        return pl.DataFrame(schema=HEAD_PROBES)
    said: dict[str, list[Answers]] = {reading: [] for reading in READINGS}
    for layer, (read_after, values) in zip(range(anatomy.n_layers), residuals, strict=False):
        if read_after != layer - 1:
            raise ValueError(
                f"heads of layer {layer} read the residual after {layer - 1}, not after {read_after}"
            )
        resid = torch.from_numpy(values).to(anatomy.device)
        for reading, answers in layer_answers(anatomy, layer, resid, halves, token_ids).items():
            said[reading].append(answers)
    answers = {reading: np.concatenate(parts) for reading, parts in said.items()}
    best = chance_best(
        answers["folded"][:, ~halves.choosing], halves.scored, permutations=permutations, seed=seed
    )
    rows = []
    for row, (layer, index) in enumerate(np.ndindex(anatomy.n_layers, anatomy.n_heads)):
        cells = {"head": str(head(layer, index)), "layer": layer, "index": index, "read_after": layer - 1}
        rows.append(cells | _scores({reading: answers[reading][row] for reading in READINGS}, halves, best))
    table = pl.DataFrame(rows).with_columns(pl.lit(len(rows)).alias("heads_tried"))
    rank = pl.col("accuracy_choosing").rank("ordinal", descending=True).alias("rank")
    return table.with_columns(rank).select(*HEAD_PROBES).cast(HEAD_PROBES)


def layer_answers(
    anatomy: Anatomy,
    layer: int,
    resid: Float[torch.Tensor, "athletes d_model"],
    halves: Halves,
    token_ids: Sequence[int],
) -> dict[str, Answers]:
    """What the probes of a layer's heads answer, in each of the three readings."""
    readout, choosing = Readout.of(anatomy, token_ids), torch.from_numpy(halves.choosing)
    through = norm_of(anatomy, layer)(resid)
    inputs = {
        "folded": (resid, head_probes(anatomy, layer, readout)),
        "unfolded": (resid, head_probes(anatomy, layer, readout, fold_norm=False, fold_final=False)),
        "scaled": (through, head_probes(anatomy, layer, readout, fold_norm=False)),
    }
    answers = {}
    for reading, (values, probes) in inputs.items():
        centred = (values - values[choosing].mean(0)).to(probes.dtype)
        answers[reading] = torch.einsum("ad,hdk->hak", centred, probes).argmax(-1).cpu().numpy()
    return answers


def chance_best(
    answers: Answers, labels: Int[np.ndarray, " athletes"], *, permutations: int, seed: int
) -> Float[np.ndarray, " permutations"]:
    """The best head's accuracy under each of many shufflings of the sports."""
    rng, sports = np.random.default_rng(seed), np.unique(labels)
    shuffled = np.stack([rng.permutation(labels) for _ in range(permutations)], axis=1)
    hits = sum((answers == k).astype(np.float32) @ (shuffled == k).astype(np.float32) for k in sports)
    return hits.max(axis=0) / len(labels)


def heads_to_follow(scan: pl.DataFrame, extracting: Sequence[Site], *, fixed: bool) -> dict[Site, str]:
    """The heads whose probes are read after every layer, and how each was chosen.

    They are the `extracting` ones (named by the configuration if `fixed`, else of the largest direct effect) and the one
    that is best on the half for choosing.
    """
    heads = dict.fromkeys(extracting, "configuration" if fixed else "direct effect")
    if not scan.is_empty():
        best = parse(scan.filter(rank=1)["head"].item())
        heads[best] = f"{heads[best]} and probe" if best in heads else "probe"
    return heads


def head_probe_layers(
    anatomy: Anatomy,
    heads: Mapping[Site, str],
    activations: Iterable[tuple[str, int, Float[np.ndarray, "athletes d_model"]]],
    halves: Halves | None,
    token_ids: Sequence[int],
    *,
    seed: int,
) -> pl.DataFrame:
    """The table `head_probe_layers`: a head's probe on the residual after every layer, also where no head reads it.

    heads: with the word for how each was chosen. activations: (condition, layer, array) at the final name token, layer
    -1 for the embeddings, taken one at a time. The columns are those of `layer_probes`, with folds "half": the mean is
    that of the half on which heads were chosen, and the other is scored. The loss is that of the probe's outputs times
    one number, fitted on the first half, since a direction has no scale of its own. Nothing is fitted to labels, so
    there is no shuffled control, and selectivity is null.
    """
    schema = {"head": pl.String, "chosen_by": pl.String} | table_schema()
    if halves is None:
        return pl.DataFrame(schema=schema)
    probes = {site: head_probe(anatomy, site, token_ids).double().cpu().numpy() for site in heads}
    rows = []
    for condition, layer, array in activations:
        centred = array - array[halves.choosing].mean(axis=0, dtype=np.float64)
        for site, chosen_by in heads.items():
            cells = {"head": str(site), "chosen_by": chosen_by, "condition": condition, "layer": layer}
            cells |= {"input": "resid", "probe": "head", "labels": "true", "folds": "half"}
            rows.append(cells | _held_out(centred @ probes[site], halves, seed))
    return pl.DataFrame(rows, schema=schema)


def _scores(
    answers: Mapping[str, Int[np.ndarray, " athletes"]],
    halves: Halves,
    best: Float[np.ndarray, " permutations"],
) -> dict:
    """One head's cells: accuracies of the three readings on the scored half, and how the readings agree."""
    hits = {reading: answers[reading] == halves.labels for reading in READINGS}
    same = {reading: answers[reading] == answers["folded"] for reading in READINGS[1:]}
    shares = dict(zip(SHARES, (*hits.values(), *same.values()), strict=True))
    cells: dict = {"accuracy_choosing": float(hits["folded"][halves.choosing].mean())}
    for name, which in shares.items():
        cells |= estimate_columns(name, share_interval(which[~halves.choosing]))
    cells |= {"n": len(halves.scored), "majority_rate": majority_rate(halves.scored)}
    as_good = int((best >= cells["accuracy"] - 1e-9).sum())
    return cells | {
        "p_corrected": (1 + as_good) / (1 + len(best)),
        "chance_best": float(np.quantile(best, 0.95)),
    }


def _held_out(outputs: Float[np.ndarray, "athletes sports"], halves: Halves, seed: int) -> dict:
    """Accuracy and loss on the scored half, as cells of the table."""
    factor = _loss_factor(outputs[halves.choosing], halves.labels[halves.choosing])
    outputs, labels = outputs[~halves.choosing], halves.scored
    losses = -log_softmax(factor * outputs, axis=1)[np.arange(len(labels)), labels]
    cells = estimate_columns("accuracy", share_interval(outputs.argmax(axis=1) == labels))
    cells |= estimate_columns("loss", mean_interval(losses, seed=seed))
    return cells | {"n": len(labels), "n_groups": len(labels), "majority_rate": majority_rate(labels)}


def _loss_factor(
    outputs: Float[np.ndarray, "athletes sports"], labels: Int[np.ndarray, " athletes"]
) -> float:
    """The number by which outputs are multiplied for the least loss; the loss is convex in it."""
    spread = outputs.std() or 1.0

    def loss(factor: float) -> float:
        return -log_softmax(factor * outputs / spread, axis=1)[np.arange(len(labels)), labels].mean()

    return minimize_scalar(loss, bounds=(0.0, 100.0), method="bounded").x / spread
