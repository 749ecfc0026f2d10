"""What each attention head would answer if it read the name: head probes (P2.5) and their curve over layers (P2.6).

A head probe is W_V W_O W_U[:, answers] of one head, applied to a residual from which the mean activation is taken away;
its answer is the argmax (engine/head_probe.py). Nothing is fitted but the mean, so what it finds is what the head is
built to read, not what a regression could.

**The norms.** Between the residual and the answers stand the norm before the head and the final norm. Their weights and
centring are linear and are folded into the matrix. Their scales are one positive number per subject: the final norm's
multiplies all answers alike and cannot change an argmax; the head's own divides *before* the mean is taken away and can.
So the scan is read in three ways, and the columns show how much it matters:

    folded     (accuracy)  both norms folded in, no scale: one linear map for all subjects
    unfolded               the bare matrices, no norm at all
    scaled                 as folded, and each subject divided by the head's own norm's scale, as in the model

**Choosing.** Among many heads one looks good by chance. The known subjects are split into halves, each answer evenly:
heads are ranked on the first, which also gives the mean, and scored on the second alone. For heads that were not
chosen, `p_corrected` asks how often, under shuffled answers, the *best* of all heads does as well (a permutation test
that takes the number of heads and their likeness into account); `chance_best` is the 95 % point of that best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from factfinding.engine.cached import activations_of, rows_of
from factfinding.engine.direct import Readout
from factfinding.engine.head_probe import head_probe, head_probes, norm_of
from factfinding.engine.sites import Site, head, parse
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.direct import heads_of
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import known_prompts
from factfinding.methods.halves import Halves, halve
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import weights_of
from factfinding.stats import majority_rate, mean_interval, share_interval
from factfinding.tables import as_declared, empty, schema_of

READINGS = ("folded", "unfolded", "scaled")
SHARES = ("accuracy", "accuracy_unfolded", "accuracy_scaled", "same_unfolded", "same_scaled")

Answers = Int[np.ndarray, "heads subjects"]
Residuals = Iterator[tuple[int, Float[np.ndarray, "subjects d_model"]]]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `head_probes` and `head_probe_layers`. From weights and cached activations: the model does not run."""
    anatomy, section, seed = weights_of(inputs), settings.heads, settings.heads.seed
    prompts, candidates = known_prompts(inputs, section.subjects), inputs.candidates
    halves = halve(prompts, candidates["answer"].to_list(), seed=seed)
    token_ids, subjects = candidates["token_id"].to_list(), prompts["subject"].to_list()
    say(f"{anatomy.n_layers * anatomy.n_heads} heads on {prompts.height} subjects")
    residuals = _residuals(inputs, "full", subjects)
    scan = scan_heads(anatomy, residuals, halves, token_ids, permutations=section.permutations, seed=seed)
    extracting = heads_of(inputs, settings)
    heads = heads_to_follow(scan, extracting, fixed=settings.circuit.extract is not None)
    say("by layer: " + (", ".join(f"{head} ({how})" for head, how in heads.items()) or "no head"))
    layers = (
        (condition, layer, resid)
        for condition in section.conditions
        for layer, resid in _residuals(inputs, condition, subjects)
    )
    by_layer = head_probe_layers(anatomy, heads, layers, halves, token_ids, seed=seed)
    return {"head_probes": scan, "head_probe_layers": by_layer}


def _residuals(inputs: Inputs, condition: str, subjects: Sequence[str]) -> Residuals:
    """(layer, activations of the subjects at the final name token), the embeddings first."""
    with activations_of(inputs, condition) as file:
        rows = rows_of(file, subjects)
        for layer in file.layers("resid@final_name"):
            yield layer, file.layer("resid@final_name", layer)[rows]


def scan_heads(
    anatomy: Anatomy,
    residuals: Iterable[tuple[int, Float[np.ndarray, "subjects d_model"]]],
    halves: Halves | None,
    token_ids: Sequence[int],
    *,
    permutations: int,
    seed: int,
) -> pl.DataFrame:
    """The table `head_probes`: every head's probe on the residual that the head itself reads (P2.5).

    residuals: (layer, resid_post at the final name token) from -1, the embeddings, on; a head of layer L reads that of
    L - 1 (column read_after). token_ids: of the answers, in the order of the labels. Empty for no halves.
    """
    if halves is None:
        return empty("head_probes")
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
    return as_declared(table.with_columns(rank), "head_probes")


def layer_answers(
    anatomy: Anatomy,
    layer: int,
    resid: Float[torch.Tensor, "subjects d_model"],
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
    answers: Answers, labels: Int[np.ndarray, " subjects"], *, permutations: int, seed: int
) -> Float[np.ndarray, " permutations"]:
    """The best head's accuracy under each of many shufflings of the answers."""
    rng, kinds = np.random.default_rng(seed), np.unique(labels)
    shuffled = np.stack([rng.permutation(labels) for _ in range(permutations)], axis=1)
    hits = sum((answers == k).astype(np.float32) @ (shuffled == k).astype(np.float32) for k in kinds)
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
    activations: Iterable[tuple[str, int, Float[np.ndarray, "subjects d_model"]]],
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
    if halves is None:
        return empty("head_probe_layers")
    probes = {site: head_probe(anatomy, site, token_ids).double().cpu().numpy() for site in heads}
    rows = []
    for condition, layer, array in activations:
        centred = array - array[halves.choosing].mean(axis=0, dtype=np.float64)
        for site, chosen_by in heads.items():
            cells = {"head": str(site), "chosen_by": chosen_by, "condition": condition, "layer": layer}
            cells |= {"input": "resid", "probe": "head", "labels": "true", "folds": "half"}
            rows.append(cells | _held_out(centred @ probes[site], halves, seed))
    return pl.DataFrame(rows, schema=schema_of("head_probe_layers"))


def _scores(
    answers: Mapping[str, Int[np.ndarray, " subjects"]],
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


def _held_out(outputs: Float[np.ndarray, "subjects answers"], halves: Halves, seed: int) -> dict:
    """Accuracy and loss on the scored half, as cells of the table."""
    factor = _loss_factor(outputs[halves.choosing], halves.labels[halves.choosing])
    outputs, labels = outputs[~halves.choosing], halves.scored
    losses = -log_softmax(factor * outputs, axis=1)[np.arange(len(labels)), labels]
    cells = estimate_columns("accuracy", share_interval(outputs.argmax(axis=1) == labels))
    cells |= estimate_columns("loss", mean_interval(losses, seed=seed))
    return cells | {"n": len(labels), "n_groups": len(labels), "majority_rate": majority_rate(labels)}


def _loss_factor(
    outputs: Float[np.ndarray, "subjects answers"], labels: Int[np.ndarray, " subjects"]
) -> float:
    """The number by which outputs are multiplied for the least loss; the loss is convex in it."""
    spread = outputs.std() or 1.0

    def loss(factor: float) -> float:
        return -log_softmax(factor * outputs / spread, axis=1)[np.arange(len(labels)), labels].mean()

    return minimize_scalar(loss, bounds=(0.0, 100.0), method="bounded").x / spread
