"""How recall comes to be: its stages at checkpoints of the training, and which of them is there first (P1.5).

The same subjects at every checkpoint: such as the finished model knows. What is measured of each stage says measure.py; the
lookup's own measure is a held-out probe of the answer at the final name token, beside one on the embeddings of the name's
tokens at the same checkpoint: a model may keep a fact in a token's embedding, and that is no lookup. Who has been told about when is known of the embedded model, whose training begins with a few people: those are one group, the
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
    enough_for_folds,
    probe_rows,
    with_name_groups,
)
from factfinding.experiments.linear_relation.compute import evenly
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.circuit import Circuit, circuit_of, looked_up_in
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
COMPARED = (*STAGES, "attends", "recall")
"""Measures whose order is asked."""
SHARES = {"recall", "lookup"}
"""Measures that are hits and misses."""
FIRST, LATER, ALL = "first", "later", "all"
"""Groups of subjects: told about from the beginning, told about later, and all where that is not known."""
NAME = -2
"""Among layers: the name's own embeddings."""
LEAST = 4
"""Subjects of a group: fewer have no two halves with two subjects each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """A group of subjects, as places among the sampled ones; `labels`: their answers."""

    name: str
    at: Int[np.ndarray, " cohort"]
    subjects: pl.DataFrame
    labels: Int[np.ndarray, " cohort"]


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
    read: dict[str, dict[int, Probed]] = {cohort.name: {} for cohort in cohorts}
    for step, anatomy in models:
        place = where(circuit, anatomy)
        looks[step] = seen(anatomy, drawn, place, batch_size=batch_size, seed=seed)
        for cohort in cohorts:
            read[cohort.name][step] = probed(looks[step], cohort, fitting, layer=place.layer, seed=seed)
    steps = sorted(looks)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for cohort in cohorts:
        probes = {step: read[cohort.name][step] for step in steps}
        courses = courses_of([looks[step] for step in steps], list(probes.values()), cohort)
        told = [_share_told(cohort, checkpoints.told_by(step)) for step in steps]
        found["emergence"] += _values(cohort, courses, steps, told, seed=seed)
        found["emergence_layers"] += _layers(cohort, probes, seed=seed)
        half, order = _order(cohort, courses, steps, seed=seed)
        found["emergence_halves"] += half
        found["emergence_order"] += order
    return {name: pl.DataFrame(rows, schema=schema_of(name)) for name, rows in found.items()}


def where(circuit: Circuit, anatomy: Anatomy) -> Where:
    """What is looked at, by the finished model's circuit. Where it has no lookup, the middle layer ends it; where nothing
    gathers the name, every layer up to there may. Raises InputError for a part that the model does not have."""
    last = looked_up_in(circuit.lookup, anatomy.n_layers)[1]
    layer = check(Site("resid_post", last), anatomy).layer
    span = circuit.concatenate or (0, layer)
    check(Site("attn_out", span[1]), anatomy)
    heads = tuple(check(parse(name), anatomy) for name in circuit.extract)
    return Where(gather=tuple(range(span[0], span[1] + 1)), layer=layer, heads=heads)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probed:
    """Whose answer held-out probes give at one checkpoint: of the residual stream at the final name token, by layer (-1: the
    embeddings); and, as `without`, of the name's own embeddings, or always the commonest answer where that is better."""

    layers: dict[int, Float[np.ndarray, " cohort"]]
    layer: int
    without: Float[np.ndarray, " cohort"]

    @property
    def lookup(self) -> Float[np.ndarray, " cohort"]:
        """After the lookup's last layer; NaN where there are too few subjects for a probe."""
        return self.layers.get(self.layer, np.full_like(self.without, np.nan))


def probed(look: Seen, cohort: Cohort, fitting: ProbeSettings, *, layer: int, seed: int) -> Probed:
    """The probes of a group at one checkpoint; no layers for a group too small."""
    commonest = labels_hit(cohort.labels)
    if not enough_for_folds(cohort.subjects, fitting):
        return Probed(layers={}, layer=layer, without=commonest)
    resid, name = look.resid[cohort.at], look.name[cohort.at]
    inputs = [("full", place - 1, resid[:, place]) for place in range(resid.shape[1])]
    rows = list(probe_rows([*inputs, ("full", NAME, name)], cohort.subjects, settings=fitting, seed=seed))
    hits = {row.cells["layer"]: _in_order(row.hits, cohort) for row in rows}
    tokens = hits.pop(NAME)
    return Probed(layers=hits, layer=layer, without=tokens if tokens.mean() > commonest.mean() else commonest)


def _in_order(hits: np.ndarray, cohort: Cohort) -> Float[np.ndarray, " cohort"]:
    """Hits in the order of the group; probes give them in the order of names."""
    found = np.empty(len(hits))
    found[cohort.subjects["subject"].arg_sort().to_numpy()] = hits
    return found


def courses_of(looks: Sequence[Seen], probes: Sequence[Probed], cohort: Cohort) -> dict[str, Course]:
    """Every measure of a group at all checkpoints, in the order of the steps; measures that nobody has are left out."""
    commonest, found = labels_hit(cohort.labels), {}
    for name in MEASURES:
        if name == "lookup":
            values, baselines = [one.lookup for one in probes], [one.without for one in probes]
        else:
            values = [look.values[name][cohort.at] for look in looks]
            baselines = [look.baselines[name][cohort.at] for look in looks]
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
                | estimate_columns("baseline", _mean(name, baselines, seed))
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


def _layers(cohort: Cohort, probes: Mapping[int, Probed], *, seed: int) -> list[dict[str, Any]]:
    """Rows of `emergence_layers`."""
    return [
        {"cohort": cohort.name, "step": step, "layer": layer}
        | estimate_columns("accuracy", accuracy_estimate(own, seed=seed))
        | estimate_columns("baseline", accuracy_estimate(one.without, seed=seed))
        | estimate_columns("above", accuracy_difference(own, one.without, seed=seed))
        | {"majority_rate": majority_rate(cohort.labels), "n": len(own)}
        for step, one in probes.items()
        for layer, own in one.layers.items()
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
            own = gaps[name]
            cells |= {"from_start": own.after is None, "after_step": own.after, "by_step": own.by}
            cells["first_step"] = own.first
        rows.append(
            cells | estimate_columns("half", half) | estimate_columns("final", final) | {"n": int(has.sum())}
        )
    order = []
    for one, other in combinations([name for name in COMPARED if name in points], 2):
        both = int((courses[one].has & courses[other].has).sum())
        later = estimate(points[other] - points[one], draws[other] - draws[one], both)
        cells = {"cohort": cohort.name, "measure": one, "other": other}
        order.append(
            cells | estimate_columns("later", later) | {"same_gap": gaps[one].by == gaps[other].by, "n": both}
        )
    return rows, order
