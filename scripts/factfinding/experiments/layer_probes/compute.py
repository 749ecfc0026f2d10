"""Can a linear probe read the answer at the name, layer by layer, and would it mean anything (P2.6)?

A probe's accuracy means little alone: a name's letters or tokens may give the answer away, relatives share
last names and answers, and a wide residual fits anything. So each probe stands beside

- the majority rate;
- folds that keep all subjects of one last name (or first name) together, so that nothing learnt about a name
  is used on it;
- the same probe on shuffled labels. Every subject occurs once, so held out this control is at chance if
  nothing leaks: selectivity (true minus shuffled) is accuracy over what the procedure itself yields, not over
  memorisation in general;
- the same regression on the name as a string and as a bag of tokens, with no model at all (`name_baselines`).

All are of the same subjects, so differences are measured in pairs: from the best layer under `full`, from the best
baseline on the name, and from the additive model that has seen everybody (`table_of`).

How probes are fitted: methods/probes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from factfinding.engine.cached import activations_of, rows_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.estimates import estimate_columns
from factfinding.methods.groups import known_prompts
from factfinding.methods.probes import FOLDS, ProbeSettings, Scores, cross_validated, scored_on_all
from factfinding.stats import (
    grouped_folds,
    majority_rate,
    mean_interval,
    paired_difference,
    share_interval,
    stratified_folds,
)
from factfinding.tables import empty, schema_of

BESIDE = ("from_best", "over_name", "over_fitted")
"""Differences of a layer's probe from others on the same subjects."""
_SUFFIXES = {"jr", "jr.", "sr", "sr.", "ii", "iii", "iv"}


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `layer_probes`, the baselines on names alone, then every layer under every condition; and
    `layer_probe_subjects`, what the strictest probes give each subject."""
    section = settings.probes
    fitting = ProbeSettings(**section.model_dump(include=set(ProbeSettings.__dataclass_fields__)))
    prompts = known_prompts(inputs, section.subjects)
    subjects = with_name_groups(prompts.select("subject", "answer"))
    if not enough_for_folds(subjects, fitting):
        say(
            f"only {prompts.height} subjects to probe, too few for {fitting.n_folds} folds: the table is empty"
        )
        return {name: empty(name) for name in ("layer_probes", "layer_probe_subjects")}
    tokens = [
        row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in prompts.iter_rows(named=True)
    ]
    layers = _layers(inputs, section.conditions, prompts["subject"].to_list(), say)
    rows = [
        *baseline_rows(subjects, tokens, settings=fitting, seed=section.seed),
        *probe_rows(layers, subjects, settings=fitting, seed=section.seed),
    ]
    return {
        "layer_probes": table_of(rows, seed=section.seed),
        "layer_probe_subjects": of_subjects(rows, subjects),
    }


def _layers(
    inputs: Inputs, conditions: Sequence[str], subjects: Sequence[str], say: Say
) -> Iterator[tuple[str, int, Float[np.ndarray, "subjects d_model"]]]:
    """(condition, layer, activations at the final name token), the embeddings first."""
    for condition in conditions:
        with activations_of(inputs, condition) as file:
            rows = rows_of(file, subjects)
            for layer in file.layers("resid@final_name"):
                say(f"{condition}, layer {layer}, {len(rows)} subjects")
                yield condition, layer, file.layer("resid@final_name", layer)[rows]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeRow:
    """A row of the table, but for its differences from others, who was right and at what loss (nats): subjects in the order
    of names."""

    cells: dict
    hits: Bool[np.ndarray, " subjects"]
    losses: Float[np.ndarray, " subjects"]

    def has(self, **cells: object) -> bool:
        """Whether these cells have these values."""
        return all(self.cells[name] == value for name, value in cells.items())

    @property
    def accuracy(self) -> float:
        return self.cells["accuracy"]


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is predicted and on which folds, the same for each layer. Rows are subjects by name."""

    order: Int[np.ndarray, " subjects"]
    names: list[str]
    labels: Int[np.ndarray, " subjects"]
    shuffled: Int[np.ndarray, " subjects"]
    folds: dict[str, Int[np.ndarray, " subjects"]]
    n_groups: dict[str, int]


def with_name_groups(subjects: pl.DataFrame) -> pl.DataFrame:
    """`subjects` with the columns first_name_group and last_name_group: the name's outer words, case folded.

    A generational suffix (Jr., III) is no last name: father and son share a group. One word is both first and
    last.
    """
    words = [_group_words(name) for name in subjects["subject"]]
    return subjects.with_columns(
        pl.Series("first_name_group", [first for first, _ in words], dtype=pl.String),
        pl.Series("last_name_group", [last for _, last in words], dtype=pl.String),
    )


def enough_for_folds(subjects: pl.DataFrame, settings: ProbeSettings) -> bool:
    """Whether every kind of fold can be made: two answers or more, each with a subject for every fold, and as many
    first and last names. A model that knows too few subjects has an empty table, and that is its result."""
    counts = subjects["answer"].value_counts()["count"]
    groups = min(
        (subjects[f"{kind}_group"].n_unique() for kind in settings.folds if kind != "random"),
        default=counts.sum(),
    )
    return len(counts) > 1 and counts.min() >= settings.n_folds and groups >= settings.n_folds


def layer_probes(
    activations: Iterable[tuple[str, int, Float[np.ndarray, "subjects d"]]],
    subjects: pl.DataFrame,
    *,
    settings: ProbeSettings,
    seed: int,
    source: str = "resid",
) -> pl.DataFrame:
    """Logistic regression from each layer's activations at one position to the answer, held out (P2.6).

    activations: (condition, layer, array), taken one at a time; layer -1 is the embeddings. Rows as in
        `subjects`.
    subjects: columns subject (no name twice), answer, first_name_group, last_name_group; see
        `with_name_groups`.
    source: what the column `input` says, "resid" or "token_sum".

    Returns the rows of the table `layer_probes`: condition, layer, input, probe, labels, folds, accuracy and
    loss (nats per subject) with intervals over subjects, n, n_groups (for random folds each subject is a
    group), majority_rate, selectivity with its paired interval (null for shuffled labels and where no control
    ran). An empty frame for no layers.

    Raises ValueError for activations that do not fit the subjects or are not finite; InputError for too few
    subjects or groups for the folds. scikit-learn warns (ConvergenceWarning) when `max_iter` was reached.
    """
    rows = probe_rows(activations, subjects, settings=settings, seed=seed, source=source)
    return table_of(list(rows), seed=seed)


def probe_rows(
    activations: Iterable[tuple[str, int, Float[np.ndarray, "subjects d"]]],
    subjects: pl.DataFrame,
    *,
    settings: ProbeSettings,
    seed: int,
    source: str = "resid",
) -> Iterator[ProbeRow]:
    """The rows of `layer_probes`, one input after the other."""
    task = _task(subjects, settings, seed)
    for condition, layer, array in activations:
        values = np.asarray(array, dtype=np.float64)
        if values.ndim != 2 or len(values) != subjects.height or not np.isfinite(values).all():
            raise ValueError(
                f"{condition}, layer {layer}: {values.shape} must be finite, {subjects.height} rows"
            )
        head = {"condition": condition, "layer": layer, "input": source}
        yield from _probe_rows(head, values[task.order], task, settings, seed)


def table_of(rows: Sequence[ProbeRow], *, seed: int) -> pl.DataFrame:
    """The table of rows of the same subjects, with what each probe on true labels is right for beyond others (paired).

    from_best: the best layer under `full` on the same folds. over_name: the better of the baselines on the name, on
    the same folds. over_fitted: the additive model that was fitted and scored on all. Null where there is no such row,
    and for rows that are no probe of a layer.
    """
    true = [row for row in rows if row.has(labels="true")]
    layers = [row for row in true if row.cells["layer"] is not None]
    names = [row for row in true if row.cells["layer"] is None]
    cells = []
    for row in rows:
        folds, rivals = {"folds": row.cells["folds"]}, dict.fromkeys(BESIDE, ())
        if row in layers:
            rivals["from_best"] = [one for one in layers if one.has(condition="full", **folds)]
            rivals["over_name"] = [one for one in names if one.has(**folds)]
            rivals["over_fitted"] = [one for one in names if one.has(folds="none")]
        found = dict(row.cells)
        for name, of_others in rivals.items():
            other = max(of_others, key=lambda one: one.accuracy, default=None)
            beyond = None if other is None else paired_difference(row.hits, other.hits, seed=seed)
            found |= estimate_columns(name, beyond)
        cells.append(found)
    return pl.DataFrame(cells, schema=schema_of("layer_probes"))


def of_subjects(rows: Sequence[ProbeRow], subjects: pl.DataFrame) -> pl.DataFrame:
    """What the probes of the layers give each subject, held out, on the strictest folds that there are.

    Columns condition, subject, answer, layer, p (of the own answer), right (whether it is the likeliest). Empty for no
    probes of layers.
    """
    probes = [row for row in rows if row.has(labels="true") and row.cells["layer"] is not None]
    folds = [kind for kind in FOLDS if any(row.has(folds=kind) for row in probes)][-1:]
    named = subjects.sort("subject").select("subject", "answer")
    frames = [
        named.with_columns(
            condition=pl.lit(row.cells["condition"]),
            layer=pl.lit(row.cells["layer"]),
            p=pl.Series(np.exp(-row.losses)),
            right=pl.Series(row.hits),
        )
        for row in probes
        if row.cells["folds"] in folds
    ]
    schema = schema_of("layer_probe_subjects")
    return (
        pl.concat(frames).select(list(schema)).cast(pl.Schema(schema))
        if frames
        else empty("layer_probe_subjects")
    )


def name_baselines(
    subjects: pl.DataFrame,
    token_ids: Sequence[Sequence[int]],
    *,
    settings: ProbeSettings,
    seed: int,
) -> pl.DataFrame:
    """What the name alone gives away, with no model: the baseline of every probe.

    `name_string`: character 1- to 4-grams within words (TF-IDF, known from the training fold alone).

    `name_tokens`: counts of the name's tokens, and one mark each for its first and its final token. It
    can express every sum of one term per token, first and final ones apart, and no combination of tokens.
    Also, under folds "none", fitted on all subjects almost without penalty and scored on the same: can *any*
    additive model give these labels? Only if it cannot does recall need the tokens to be combined. (That
    row's shuffled twin: could it give any labels?)

    token_ids: of each subject's name, in the order of `subjects`. The folds and labels are those of
    `layer_probes` with the same settings and seed. Returns rows of the same table, condition and layer null.
    Raises as `layer_probes`.
    """
    return table_of(list(baseline_rows(subjects, token_ids, settings=settings, seed=seed)), seed=seed)


def baseline_rows(
    subjects: pl.DataFrame,
    token_ids: Sequence[Sequence[int]],
    *,
    settings: ProbeSettings,
    seed: int,
    fitted: bool = True,
) -> Iterator[ProbeRow]:
    """The rows of `name_baselines`; fitted: with those fitted and scored on all subjects."""
    if len(token_ids) != subjects.height or not all(len(tokens) for tokens in token_ids):
        raise ValueError(
            f"{len(token_ids)} token lists, none empty, are needed for {subjects.height} subjects"
        )
    task = _task(subjects, settings, seed)
    head = {"condition": None, "layer": None}
    tokens = _token_marks([token_ids[i] for i in task.order])
    yield from _probe_rows(head | {"input": "name_string"}, task.names, task, settings, seed)
    yield from _probe_rows(head | {"input": "name_tokens"}, tokens, task, settings, seed)
    if fitted:
        yield from _fitted_rows(head | {"input": "name_tokens"}, tokens, task, settings, seed)


def _group_words(name: str) -> tuple[str, str]:
    words = name.casefold().split()
    while len(words) > 2 and words[-1] in _SUFFIXES:
        words.pop()
    return words[0], words[-1].rstrip(",")


def _task(subjects: pl.DataFrame, settings: ProbeSettings, seed: int) -> _Task:
    if subjects["subject"].is_duplicated().any():
        raise ValueError("a subject stands twice: one held-out row could be known from its twin")
    unknown = {*settings.folds, *settings.control_folds} - set(FOLDS)
    if unknown:
        raise ValueError(f"folds {sorted(unknown)}; allowed: {FOLDS}")
    order = subjects["subject"].arg_sort().to_numpy()
    subjects = subjects[order]
    labels = np.unique(subjects["answer"].to_numpy(), return_inverse=True)[1]
    folds, n_groups = {}, {}
    for kind in settings.folds:
        if kind == "random":
            folds[kind] = stratified_folds(labels, n_folds=settings.n_folds, seed=seed)
            n_groups[kind] = subjects.height
        else:
            groups = subjects[f"{kind}_group"].to_numpy()
            folds[kind] = grouped_folds(groups, labels, n_folds=settings.n_folds, seed=seed)
            n_groups[kind] = len(np.unique(groups))
    return _Task(
        order=order,
        names=subjects["subject"].to_list(),
        labels=labels,
        shuffled=np.random.default_rng(seed).permutation(labels),
        folds=folds,
        n_groups=n_groups,
    )


def _probe_rows(head: dict, features, task: _Task, settings: ProbeSettings, seed: int) -> Iterator[ProbeRow]:
    """Rows of one input for every kind of folds, true labels and (where asked for) shuffled ones."""
    for kind, folds in task.folds.items():
        labellings = [task.labels, task.shuffled] if kind in settings.control_folds else [task.labels]
        scores = cross_validated(features, labellings, folds, settings)
        yield from _table_rows(head | {"folds": kind}, scores, task.labels, task.n_groups[kind], seed)


def _fitted_rows(head: dict, features, task: _Task, settings: ProbeSettings, seed: int) -> Iterator[ProbeRow]:
    """Rows of one input fitted and scored on all subjects: what it can express, not what it predicts."""
    scores = scored_on_all(features, [task.labels, task.shuffled], settings)
    yield from _table_rows(head | {"folds": "none"}, scores, task.labels, len(task.labels), seed)


def _table_rows(
    head: dict, scores: list[Scores], labels: np.ndarray, n_groups: int, seed: int
) -> Iterator[ProbeRow]:
    """Rows for true labels and, if there is a second entry in `scores`, for shuffled ones."""
    gain = None
    if len(scores) == 2:  # -1, 0 or 1 for each subject: the same subjects under both labellings
        gain = mean_interval(scores[0].hits.astype(float) - scores[1].hits, seed=seed)
    for name, result in zip(("true", "shuffled"), scores, strict=False):
        row = head | {"probe": "logistic", "labels": name}
        row |= estimate_columns("accuracy", share_interval(result.hits))
        row |= estimate_columns("loss", mean_interval(result.losses, seed=seed))
        row |= {"n": len(labels), "n_groups": n_groups, "majority_rate": majority_rate(labels)}
        row |= estimate_columns("selectivity", gain if name == "true" else None)
        yield ProbeRow(cells=row, hits=result.hits, losses=result.losses)


def _token_marks(token_ids: Sequence[Sequence[int]]) -> sp.csr_matrix:
    """Counts of each token, then one-hot first tokens, then one-hot final tokens: [subjects, 3 * tokens]."""
    tokens_used = sorted({token for tokens in token_ids for token in tokens})
    vocabulary, size = {token: i for i, token in enumerate(tokens_used)}, len(tokens_used)
    marks = sp.lil_matrix((len(token_ids), 3 * size))
    for row, tokens in enumerate(token_ids):
        for token in tokens:
            marks[row, vocabulary[token]] += 1
        marks[row, size + vocabulary[tokens[0]]] = 1
        marks[row, 2 * size + vocabulary[tokens[-1]]] = 1
    return marks.tocsr()
