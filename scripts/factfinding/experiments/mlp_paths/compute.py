"""Do the lookup's MLPs build on each other? Every path from one to a later one, removed (P3.1).

MLP j at the final name token reads the residual stream there, in which the output of an earlier MLP i is one term. With
the path i -> j removed, MLP j reads LN(residual - out_i + replacement), and everything else (attention, the other MLPs,
the residual stream itself) runs on with the true out_i. The replacement is the mean of out_i over the subjects, or that
of a subject of another answer. What i does to j through what lies between them stays.

It is of any other answer: all that is measured speaks of the subject's own answer, or of the whole prediction, and of no
particular other answer.

Beside the paths stands the whole: all MLPs of the lookup at their mean, for all who read them. A path's cost is a share
of that.

What is measured, on each subject, against the unchanged model:

    probe_accuracy   readers of the unchanged model (readers.py), after the last lookup layer at the final name token
    accuracy         the right answer is the most probable token of the vocabulary
    answer_accuracy   it is the best of the answers
    loss             -log P(right answer's token), nats
    kl               of the prediction at END from the unchanged model's, nats

In effect the edit adds one vector to MLP j's output, so only what comes after is run (engine/suffix.py, or in differences).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from factfinding.engine.batches import packed
from factfinding.engine.certified import against_values, certified
from factfinding.engine.clean import Clean
from factfinding.engine.readings import LogProbs, Resid, clean_values
from factfinding.engine.replaced import Replaced
from factfinding.engine.shards import first_batch
from factfinding.engine.suffix import Edits, Suffix
from factfinding.engine.sweep import Engine
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import circuit_of
from factfinding.methods.estimates import accuracy_estimate, behind, each, estimate_columns
from factfinding.methods.groups import (
    Group,
    groups_of,
    in_batches,
    known_prompts,
    labels_of,
    resampling_donors,
    some_prompts,
)
from factfinding.methods.head_reader import head_readers
from factfinding.methods.name_stream import NameOutputs, clean_run, name_outputs
from factfinding.methods.readers import Readers, readers_of
from factfinding.methods.simplified import Parts, parts_of
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import Estimate, majority_rate, mean_intervals
from factfinding.tables import empty, schema_of

KINDS = ("mean", "resample_other")
UNCHANGED = "none"
"""The kind of the rows in which no path is removed."""


Metric = tuple[str, str | None]
"""What is measured, and for the probes which reader."""
Measured = dict[Metric, Float[np.ndarray, " subjects"]]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `mlp_paths` and `mlp_paths_twin`."""
    anatomy, circuit, logistic = anatomy_of(inputs), circuit_of(inputs), readers_of(inputs)
    section, size = settings.mlp_paths, settings.compute.batch_size
    prompts = known_prompts(inputs, section.subjects)
    if section.ablated_subjects is not None:
        prompts = some_prompts(prompts, section.ablated_subjects, seed=section.seed)
    heads = head_readers(anatomy, circuit.extract, inputs.candidates, prompts, logistic, batch_size=size)
    engine = certified(anatomy, settings.compute, seed=section.seed)
    table = mlp_paths(
        anatomy,
        prompts,
        inputs.candidates,
        [logistic, *heads],
        parts_of(circuit, anatomy),
        engine=engine,
        draws=section.draws,
        batch_size=size,
        seed=section.seed,
    )
    pairs = table.drop_nulls("source").select("source", "target").n_unique() if table.height else 0
    say(f"{pairs} paths between MLPs removed, on {prompts.height} subjects")
    return {"mlp_paths": table, "mlp_paths_twin": against_values("mlp_paths_twin", engine, say)}


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A path that is removed: what MLP `source` writes, as MLP `target` reads it. None, None: no path, but nothing at all
    (kind `none`), or the output of every MLP of the lookup."""

    source: int | None
    target: int | None
    kind: str


def paths_of(lookup: tuple[int, int], kinds: Sequence[str] = KINDS) -> list[Removed]:
    """Each pair of the lookup's MLPs, the earlier one first, under each kind of replacement."""
    layers = range(lookup[0], lookup[1] + 1)
    return [Removed(source=i, target=j, kind=kind) for i in layers for j in layers if i < j for kind in kinds]


def mlp_paths(
    anatomy: Anatomy,
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    readers: Sequence[Readers],
    parts: Parts | None,
    *,
    kinds: Sequence[str] = KINDS,
    engine: Engine | None = None,
    draws: int,
    batch_size: int,
    seed: int,
) -> pl.DataFrame:
    """Columns source, target (layers; null where no path is removed), kind (`none` where nothing is, `mean` where all MLPs
    of the lookup are averaged), metric, reader, value and change (from the unchanged model, same subjects) with their
    intervals, n, majority_rate.

    prompts: `full`, of the subjects to measure on, over whom the means are taken. parts: `simplified.parts_of` the
    circuit. engine: None for values. Empty where it has no lookup at the name or a lookup of one MLP, or with fewer than two
    subjects.
    """
    paths = [] if parts is None else paths_of(parts.lookup, kinds)
    if not paths or prompts.height < 2:
        return empty("mlp_paths")
    runs = Paths(
        anatomy, prompts, candidates, readers, parts.lookup[1],
        engine=engine, draws=draws, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    measured = runs.measure(paths, whole=range(parts.lookup[0], parts.lookup[1] + 1))
    return pl.DataFrame(_rows(measured, runs.labels, seed), schema=schema_of("mlp_paths"))


@torch.no_grad()
def path_edits(anatomy: Anatomy, clean: Clean, target: int, moved: Float[Tensor, "batch d_model"]) -> Edits:
    """MLP `target` reads its residual plus `moved` at the first position that `clean` keeps, for every prompt.

    Exactly nothing is added where `moved` is zero.
    """
    block = anatomy.blocks[target]
    reads = clean.resid[target, :, 0]
    if not block.parallel:
        reads = reads + clean.attn_out[target, :, 0]
    before, after = (block.looked_up(x) for x in (reads, reads + moved.to(reads)))
    everyone = torch.arange(len(reads), device=reads.device)
    return Edits(kind="mlp_out", layer=target, at=clean.start, prompt=everyone, delta=after - before)


class Paths:
    """Runs of one prompts table with paths removed; unchanged outputs and donors are kept."""

    def __init__(
        self,
        anatomy: Anatomy,
        prompts: pl.DataFrame,
        candidates: pl.DataFrame,
        readers: Sequence[Readers],
        read_after: int,
        *,
        engine: Engine | None = None,
        draws: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.anatomy, self.prompts, self.engine = anatomy, prompts, engine or Suffix(anatomy)
        self.read_after, self.batch_size = read_after, batch_size
        self.readers = {
            reader.name: (reader, reader.folds_of(prompts["subject"].to_list()))
            for reader in readers
            if not reader.empty
        }
        self.labels = labels_of(prompts, candidates)
        self.tokens = np.array(candidates["token_id"].to_list())
        self.groups = groups_of(prompts)
        self.outputs: NameOutputs = name_outputs(anatomy, prompts, self.groups, batch_size=batch_size)
        rng, everyone = np.random.default_rng(seed), np.arange(prompts.height)
        self.donors = resampling_donors(self.labels, [everyone], draws=draws, rng=rng)

    def measure(self, paths: Sequence[Removed], *, whole: Sequence[int] = ()) -> dict[Removed, Measured]:
        """Each metric of each subject, nothing removed first, then all MLPs of the layers `whole` averaged, if there are
        any; means over draws, NaN for subjects without a donor."""
        nothing, everything = (Removed(source=None, target=None, kind=kind) for kind in (UNCHANGED, "mean"))
        found: dict[Removed, Measured] = {nothing: {}} | ({everything: {}} if whole else {})
        found |= {path: {} for path in paths}

        def scores(group: Group, rows: Int[np.ndarray, " batch"]) -> dict[Removed, Measured]:
            batch = _Batch(self, group, rows)
            made = {nothing: batch.unchanged()} | ({everything: batch.averaged(whole)} if whole else {})
            return made | batch.without(paths)

        for rows, measured in in_batches(self.groups, self.batch_size, scores):
            for path, of_path in measured.items():
                for metric, values in of_path.items():
                    kept = found[path].setdefault(metric, np.full(self.prompts.height, np.nan))
                    kept[rows] = values
        return found


class _Batch:
    """Subjects of one layout, run once without a change, and what is read of them with one."""

    def __init__(self, paths: Paths, group: Group, rows: Int[np.ndarray, " batch"]) -> None:
        self.paths, self.rows = paths, rows
        self.clean = clean_run(paths.anatomy, paths.prompts, group, rows, to_end=True)
        self.engine = paths.engine
        self.said = LogProbs(at=group.layout.end)
        self.stream = Resid(at=group.layout.final_name, layer=paths.read_after)
        self.before = clean_values(paths.anatomy, self.clean, self.said).double()

    @torch.no_grad()
    def unchanged(self) -> Measured:
        """All metrics with nothing removed."""
        return self._scores(clean_values(self.paths.anatomy, self.clean, self.stream), self.before)

    @torch.no_grad()
    def averaged(self, layers: Sequence[int]) -> Measured:
        """All metrics with the outputs of the MLPs of these layers at their mean over the subjects."""
        everyone = torch.arange(len(self.rows), device=self.clean.tokens.device)
        mlp = self.paths.outputs.instead("mlp", "mean", layers, self.rows)
        outputs = Replaced.of(everyone, mlp=mlp)
        return self._scores(*self.engine.replaced(self.clean, outputs, [self.stream, self.said]))

    @torch.no_grad()
    def without(self, paths: Sequence[Removed]) -> dict[Removed, Measured]:
        """All metrics with each path removed, means over the draws; NaN for subjects without a donor.

        Paths run together, as many as fit.
        """
        drawn: dict[Removed, list[Measured]] = {path: [] for path in paths}
        wanted = [(path, donors) for path in paths for donors in self.paths.donors.get(path.kind, [None])]
        positions = self.clean.tokens.shape[1] - self.clean.start
        most = first_batch(self.paths.anatomy, positions)
        for some in packed(wanted, lambda _: len(self.rows), most):
            edits = [self._removed(path, donors) for path, donors in some]
            read = [self.engine.joint_values(self.clean, edits, one) for one in (self.stream, self.said)]
            for (path, donors), resid, said in zip(some, *read, strict=True):
                scores = self._scores(resid, said)
                if donors is not None:
                    alone = donors[self.rows] < 0
                    scores = {metric: np.where(alone, np.nan, values) for metric, values in scores.items()}
                drawn[path].append(scores)
        return {
            path: {metric: np.mean([scores[metric] for scores in found], axis=0) for metric in found[0]}
            for path, found in drawn.items()
        }

    def _removed(self, path: Removed, donors: Int[np.ndarray, " subjects"] | None) -> Edits:
        """What takes a path away from every prompt."""
        outputs = self.paths.outputs
        given = outputs.instead("mlp", path.kind, [path.source], self.rows, donors)[path.source]
        moved = (given - outputs.mlp[self.rows, path.source]).to(self.clean.resid.device)
        return path_edits(self.paths.anatomy, self.clean, path.target, moved)

    def _scores(self, resid: Tensor, said: Tensor) -> Measured:
        """resid: at the final name token, `[batch, d_model]`; said: log-probabilities at END, `[batch, vocabulary]`."""
        said, truth = said.double(), self.paths.labels[self.rows]
        divergence = (self.before.exp() * (self.before - said)).sum(1).cpu().numpy()
        top, said = said.argmax(1).cpu().numpy(), said[:, self.paths.tokens].cpu().numpy()
        scores = {
            ("accuracy", None): top == self.paths.tokens[truth],
            ("answer_accuracy", None): said.argmax(1) == truth,
            ("loss", None): -said[np.arange(len(truth)), truth],
            ("kl", None): divergence,
        }
        return self._probed(resid.double().cpu().numpy()) | scores

    def _probed(self, resid: Float[np.ndarray, "batch d_model"]) -> Measured:
        scores, answers = {}, np.array(self.paths.prompts["answer"].to_list())[self.rows]
        for name, (reader, folds) in self.paths.readers.items():
            logp = reader.log_probabilities(self.paths.read_after, resid, folds[self.rows])
            scores["probe_accuracy", name] = np.array(reader.answers)[logp.argmax(1)] == answers
        return scores


def _rows(
    measured: Mapping[Removed, Measured], labels: Int[np.ndarray, " subjects"], seed: int
) -> list[dict]:
    """One row per path and metric; the columns of the same subjects are bootstrapped together."""
    (_, before), *_ = measured.items()
    away = _behind(measured, seed)
    rows = []
    for path, scores in measured.items():
        here = ~np.isnan(next(iter(scores.values())))
        if not here.any():
            continue
        columns = [scores[metric][here] for metric in scores]
        columns += [scores[metric][here] - before[metric][here] for metric in scores]
        means = each(mean_intervals(np.stack(columns, axis=1), seed=seed))
        about = {"n": int(here.sum()), "majority_rate": majority_rate(labels[here])}
        for (metric, reader), value, change in zip(
            scores, means[: len(scores)], means[len(scores) :], strict=True
        ):
            if metric.endswith("accuracy"):
                value = accuracy_estimate(scores[metric, reader][here], seed=seed)
            rows.append(
                {"source": path.source, "target": path.target, "kind": path.kind}
                | {"metric": metric, "reader": reader}
                | estimate_columns("value", value)
                | estimate_columns("change", _none_if(change, path.kind == UNCHANGED))
                | estimate_columns("behind", away.get((path, metric, reader)))
                | about
            )
    return rows


def _behind(measured: Mapping[Removed, Measured], seed: int) -> dict[tuple, Estimate | None]:
    """How far each path is from the one that costs most, by the same metric and replacement, on the same subjects."""
    paths = [removed for removed in measured if removed.source is not None]
    found = {}
    for metric in measured[paths[0]]:
        values = np.stack([measured[path][metric] for path in paths], axis=1)
        able = ~np.isnan(values).all(axis=0)
        given = [path for path, some in zip(paths, able, strict=True) if some]
        kinds, lowest = [path.kind for path in given], metric[0].endswith("accuracy")
        away = behind(values[:, able], kinds, lowest=lowest, seed=seed)
        found |= {(path, *metric): difference for path, difference in zip(given, away, strict=True)}
    return found


def _none_if(estimate: Estimate, gone: bool) -> Estimate | None:
    return None if gone else estimate
