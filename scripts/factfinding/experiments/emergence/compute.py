"""How recall comes to be: its stages at checkpoints of the training, and which of them is there first (P1.5).

The same subjects at every checkpoint: such as the finished model knows. What is measured of each stage says measure.py; the
lookup's own measure is a held-out probe of the answer at the final name token, beside one on the name's tokens alone. Who
has been told about when is known of the embedded model, whose training begins with a few people: those are one group, the
others another. Of other models all are one group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from factfinding.engine.sites import Site, check, parse
from factfinding.experiments.emergence.measure import Seen, Where, seen
from factfinding.experiments.emergence.order import (
    Course,
    estimate,
    gap,
    half_steps,
    labels_hit,
    resampled,
    whole,
)
from factfinding.experiments.layer_probes.compute import (
    baseline_rows,
    enough_for_folds,
    probe_rows,
    with_name_groups,
)
from factfinding.experiments.linear_relation.compute import evenly
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import Circuit, circuit_of
from factfinding.methods.estimates import accuracy_difference, accuracy_estimate, estimate_columns
from factfinding.methods.groups import known_prompts
from factfinding.methods.patched import Sample, sample
from factfinding.methods.probes import ProbeSettings
from factfinding.model.anatomy import Anatomy
from factfinding.model.checkpoints import Checkpoints, checkpoints_of, loaded
from factfinding.stats import Estimate, majority_rate, mean_interval, paired_difference
from factfinding.tables import empty, schema_of

TABLES = ("emergence", "emergence_layers", "emergence_halves", "emergence_order")
STAGES = ("concatenation", "lookup", "extraction")
MEASURES = (
    *("recall", "logit_difference", *STAGES, "attends"),
    *("concatenation_used", "lookup_used", "extraction_used"),
)
COMPARED = (*STAGES, "recall")
"""Measures whose order is asked."""
SHARES = {"recall", "lookup"}
"""Measures that are hits and misses."""
FIRST, LATER, ALL = "first", "later", "all"
"""Groups of subjects: told about from the beginning, told about later, and all where that is not known."""
LEAST = 4
"""Subjects of a group: fewer have no two halves with two subjects each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """A group of subjects, as places among the sampled ones; `labels`: their answers."""

    name: str
    at: Int[np.ndarray, " cohort"]
    subjects: pl.DataFrame
    labels: Int[np.ndarray, " cohort"]
    tokens: list[list[int]]


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables of `TABLES`; all are empty where there are no checkpoints, or too few subjects."""
    section, checkpoints = settings.emergence, checkpoints_of(inputs)
    drawn, groups = cohorts_of(
        known_prompts(inputs, section.subjects), inputs.candidates, checkpoints,
        most=section.sampled_subjects, seed=section.seed,
    )  # fmt: skip
    if len(checkpoints.steps) < 2 or not groups:
        say(f"{len(checkpoints.steps)} checkpoints, {len(drawn.rows)} subjects: the tables are empty")
        return {name: empty(name) for name in TABLES}

    def told() -> Iterable[tuple[int, Anatomy]]:
        for step, anatomy in loaded(inputs, checkpoints):
            say(f"step {step}, {len(drawn.rows)} subjects")
            yield step, anatomy

    fitting = {
        key: getattr(settings.probes, key) for key in ("n_folds", "regularisation", "max_iter", "tolerance")
    }
    return emergence(
        told(), drawn, groups, circuit_of(inputs), checkpoints,
        fitting=ProbeSettings(**fitting, folds=("random",), control_folds=()),
        batch_size=settings.compute.batch_size, seed=section.seed,
    )  # fmt: skip


def cohorts_of(
    prompts: pl.DataFrame, candidates: pl.DataFrame, checkpoints: Checkpoints, *, most: int, seed: int
) -> tuple[Sample, list[Cohort]]:
    """The sampled subjects, at most `most` of each group and as many of each answer as there are; and the groups."""
    rng = np.random.default_rng(seed)
    everyone = sample(prompts, candidates, subjects=prompts.height, draws=0, seed=seed)
    names = prompts["subject"].to_list()
    early = checkpoints.told_by(checkpoints.steps[0]) if checkpoints.steps else None
    kinds = {ALL: [*everyone.rows]}
    if early is not None:
        kinds = {FIRST: [row for row in everyone.rows if names[row] in early]}
        kinds[LATER] = [row for row in everyone.rows if names[row] not in early]
    chosen = {
        kind: evenly(np.array(rows, dtype=np.int64), everyone.labels, most, rng)
        for kind, rows in kinds.items()
        if len(rows) >= LEAST
    }
    sampled = np.sort(np.concatenate([*chosen.values(), np.zeros(0, dtype=np.int64)]))
    drawn = replace(everyone, rows=sampled)
    return drawn, [_cohort(drawn, kind, rows) for kind, rows in chosen.items()]


def _cohort(drawn: Sample, kind: str, rows: Int[np.ndarray, " cohort"]) -> Cohort:
    own = drawn.prompts[rows]
    return Cohort(
        name=kind,
        at=np.searchsorted(drawn.rows, rows),
        subjects=with_name_groups(own.select("subject", "answer")),
        labels=drawn.labels[rows],
        tokens=[
            row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in own.iter_rows(named=True)
        ],
    )


def emergence(
    models: Iterable[tuple[int, Anatomy]],
    drawn: Sample,
    cohorts: Sequence[Cohort],
    circuit: Circuit,
    checkpoints: Checkpoints,
    *,
    fitting: ProbeSettings,
    batch_size: int,
    seed: int,
) -> dict[str, pl.DataFrame]:
    """The tables of `TABLES`. models: each checkpoint's step and model, in any order, taken one at a time."""
    looks: dict[int, Seen] = {}
    read: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    for step, anatomy in models:
        looks[step] = seen(anatomy, drawn, where(circuit, anatomy), batch_size=batch_size, seed=seed)
        layer = where(circuit, anatomy).layer
        for cohort in cohorts:
            read[step, cohort.name] = probes(looks[step].resid[cohort.at], cohort, fitting, seed=seed)
    steps = sorted(looks)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for cohort in cohorts:
        hits = {step: read[step, cohort.name] for step in steps}
        without = token_hits(cohort, fitting, seed=seed)
        courses = courses_of(
            [looks[step] for step in steps], [hits[step] for step in steps], cohort, layer, without
        )
        told = [_share_told(cohort, checkpoints.told_by(step)) for step in steps]
        found["emergence"] += _values(cohort, courses, steps, told, seed=seed)
        found["emergence_layers"] += _layers(cohort, hits, without, seed=seed)
        half, order = _order(cohort, courses, steps, seed=seed)
        found["emergence_halves"] += half
        found["emergence_order"] += order
    return {name: pl.DataFrame(rows, schema=schema_of(name)) for name, rows in found.items()}


def where(circuit: Circuit, anatomy: Anatomy) -> Where:
    """What is looked at, by the finished model's circuit. Where it has no lookup, the middle layer ends it; where nothing
    gathers the name, every layer up to there may. Raises InputError for a part that the model does not have."""
    last = (anatomy.n_layers - 1) // 2 if circuit.lookup is None else circuit.lookup[1]
    layer = check(Site("resid_post", last), anatomy).layer
    span = circuit.concatenate or (0, layer)
    check(Site("attn_out", span[1]), anatomy)
    heads = tuple(check(parse(name), anatomy) for name in circuit.extract)
    return Where(gather=tuple(range(span[0], span[1] + 1)), layer=layer, heads=heads)


def probes(
    resid: Float[np.ndarray, "cohort layers+1 d_model"], cohort: Cohort, fitting: ProbeSettings, *, seed: int
) -> dict[int, Float[np.ndarray, " cohort"]]:
    """By layer (-1: the embeddings), whose answer a held-out probe at the final name token gives; empty for too few."""
    if not enough_for_folds(cohort.subjects, fitting):
        return {}
    layers = [("full", layer - 1, resid[:, layer]) for layer in range(resid.shape[1])]
    rows = probe_rows(layers, cohort.subjects, settings=fitting, seed=seed)
    return {row.cells["layer"]: _in_order(row.hits, cohort) for row in rows}


def token_hits(cohort: Cohort, fitting: ProbeSettings, *, seed: int) -> Float[np.ndarray, " cohort"]:
    """Whose answer the better of two baselines without a model gives: a probe on the name's tokens, on the same folds, or
    always the commonest answer."""
    commonest = labels_hit(cohort.labels)
    if not enough_for_folds(cohort.subjects, fitting):
        return commonest
    rows = baseline_rows(cohort.subjects, cohort.tokens, settings=fitting, seed=seed, fitted=False)
    tokens = next(_in_order(row.hits, cohort) for row in rows if row.has(input="name_tokens", labels="true"))
    return max(tokens, commonest, key=np.mean)


def _in_order(hits: np.ndarray, cohort: Cohort) -> Float[np.ndarray, " cohort"]:
    """Hits in the order of the group; probes give them in the order of names."""
    found = np.empty(len(hits))
    found[cohort.subjects["subject"].arg_sort().to_numpy()] = hits
    return found


def courses_of(
    looks: Sequence[Seen],
    hits: Sequence[Mapping[int, np.ndarray]],
    cohort: Cohort,
    layer: int,
    without: Float[np.ndarray, " cohort"],
) -> dict[str, Course]:
    """Every measure of a group at all checkpoints, in the order of the steps; measures that nobody has are left out."""
    commonest = labels_hit(cohort.labels)
    found = {}
    for name in MEASURES:
        if name == "lookup":
            if not all(hits):
                continue
            values, baselines = [one[layer] for one in hits], [without] * len(hits)
        else:
            values, baselines = (
                [getattr(look, part)[name][cohort.at] for look in looks] for part in ("values", "baselines")
            )
        if name == "recall":
            baselines = [commonest] * len(looks)
        course = Course(values=np.stack(values), baselines=np.stack(baselines))
        if course.has.sum() >= 2:
            found[name] = course
    return found


def _share_told(cohort: Cohort, told: frozenset[str] | None) -> float | None:
    return None if told is None else float(np.mean([name in told for name in cohort.subjects["subject"]]))


def _values(
    cohort: Cohort,
    courses: Mapping[str, Course],
    steps: Sequence[int],
    told: Sequence[float | None],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of `emergence`."""
    n, rows = len(cohort.at), []
    weights = resampled(n, seed=seed)
    for name, course in courses.items():
        has, all_draws, plain = course.has, course.shares(weights), course.shares(whole(n))[0]
        for i, step in enumerate(steps):
            values, baselines = course.values[i, has], course.baselines[i, has]
            share = (
                estimate(float(plain[i]), all_draws[:, i], int(has.sum())) if not np.isnan(plain[i]) else None
            )
            rows.append(
                {"cohort": cohort.name, "step": step, "told": told[i], "measure": name}
                | estimate_columns("value", _mean(name, values, seed))
                | {"baseline": float(baselines.mean())}
                | estimate_columns("above", _above(name, values, baselines, seed))
                | estimate_columns("of_final", share)
                | {"n": int(has.sum())}
            )
    return rows


def _mean(name: str, values: Float[np.ndarray, " n"], seed: int) -> Estimate:
    return accuracy_estimate(values, seed=seed) if name in SHARES else mean_interval(values, seed=seed)


def _above(
    name: str, values: Float[np.ndarray, " n"], baselines: Float[np.ndarray, " n"], seed: int
) -> Estimate:
    compare = accuracy_difference if name in SHARES else paired_difference
    return compare(values, baselines, seed=seed)


def _layers(
    cohort: Cohort,
    hits: Mapping[int, Mapping[int, np.ndarray]],
    without: Float[np.ndarray, " cohort"],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of `emergence_layers`."""
    return [
        {"cohort": cohort.name, "step": step, "layer": layer}
        | estimate_columns("accuracy", accuracy_estimate(own, seed=seed))
        | {"baseline": float(without.mean())}
        | estimate_columns("above", accuracy_difference(own, without, seed=seed))
        | {"majority_rate": majority_rate(cohort.labels), "n": len(own)}
        for step, layers in hits.items()
        for layer, own in layers.items()
    ]


def _order(
    cohort: Cohort, courses: Mapping[str, Course], steps: Sequence[int], *, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `emergence_halves` and of `emergence_order`. A measure that the finished model does not surely have above its
    baseline has no half, and no place in the order."""
    n = len(cohort.at)
    weights = resampled(n, seed=seed)
    points, draws, gaps, rows = {}, {}, {}, []
    for name, course in courses.items():
        has = course.has
        final = _above(name, course.values[-1, has], course.baselines[-1, has], seed)
        half = None
        cells: dict[str, Any] = {"cohort": cohort.name, "measure": name, "from_start": None}
        if final.low > 0:
            plain = course.shares(whole(n))
            points[name] = float(half_steps(plain, steps)[0])
            draws[name], gaps[name] = half_steps(course.shares(weights), steps), gap(plain[0], steps)
            half = estimate(points[name], draws[name], int(has.sum()))
            before, by = gaps[name]
            cells |= {"from_start": before is None, "after_step": before, "by_step": by}
        rows.append(
            cells | estimate_columns("half", half) | estimate_columns("final", final) | {"n": int(has.sum())}
        )
    order = []
    for one, other in combinations([name for name in COMPARED if name in points], 2):
        both = int((courses[one].has & courses[other].has).sum())
        later = estimate(points[other] - points[one], draws[other] - draws[one], both)
        cells = {"cohort": cohort.name, "measure": one, "other": other}
        order.append(
            cells | estimate_columns("later", later) | {"same_gap": gaps[one] == gaps[other], "n": both}
        )
    return rows, order
