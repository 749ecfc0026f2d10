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

How probes are fitted: methods/probes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from jaxtyping import Float, Int

from factfinding.engine.cached import activations_of, rows_of
from factfinding.inputs import Inputs, Say, Settings
from factfinding.methods.groups import known_prompts
from factfinding.methods.probes import FOLDS, ProbeSettings, Scores, cross_validated, scored_on_all
from factfinding.stats import (
    Estimate,
    grouped_folds,
    majority_rate,
    mean_interval,
    share_interval,
    stratified_folds,
)
from factfinding.tables import empty, schema_of

_SUFFIXES = {"jr", "jr.", "sr", "sr.", "ii", "iii", "iv"}


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The table `layer_probes`: the baselines on names alone, then every layer under every condition."""
    section = settings.probes
    fitting = ProbeSettings(**section.model_dump(include=set(ProbeSettings.__dataclass_fields__)))
    prompts = known_prompts(inputs, section.subjects)
    subjects = with_name_groups(prompts.select("subject", "answer"))
    if not enough_for_folds(subjects, fitting):
        say(
            f"only {prompts.height} subjects to probe, too few for {fitting.n_folds} folds: the table is empty"
        )
        return {"layer_probes": empty("layer_probes")}
    tokens = [
        row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in prompts.iter_rows(named=True)
    ]
    baselines = name_baselines(subjects, tokens, settings=fitting, seed=section.seed)
    layers = _layers(inputs, section.conditions, prompts["subject"].to_list(), say)
    probes = layer_probes(layers, subjects, settings=fitting, seed=section.seed)
    return {"layer_probes": pl.concat([baselines, probes])}


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
    task = _task(subjects, settings, seed)
    rows: list[dict] = []
    for condition, layer, array in activations:
        values = np.asarray(array, dtype=np.float64)
        if values.ndim != 2 or len(values) != subjects.height or not np.isfinite(values).all():
            raise ValueError(
                f"{condition}, layer {layer}: {values.shape} must be finite, {subjects.height} rows"
            )
        head = {"condition": condition, "layer": layer, "input": source}
        rows += _probe_rows(head, values[task.order], task, settings, seed)
    return pl.DataFrame(rows, schema=schema_of("layer_probes"))


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
    if len(token_ids) != subjects.height or not all(len(tokens) for tokens in token_ids):
        raise ValueError(
            f"{len(token_ids)} token lists, none empty, are needed for {subjects.height} subjects"
        )
    task = _task(subjects, settings, seed)
    head = {"condition": None, "layer": None}
    tokens = _token_marks([token_ids[i] for i in task.order])
    rows: list[dict] = []
    rows += _probe_rows(head | {"input": "name_string"}, task.names, task, settings, seed)
    rows += _probe_rows(head | {"input": "name_tokens"}, tokens, task, settings, seed)
    rows += _fitted_rows(head | {"input": "name_tokens"}, tokens, task, settings, seed)
    return pl.DataFrame(rows, schema=schema_of("layer_probes"))


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


def _probe_rows(head: dict, features, task: _Task, settings: ProbeSettings, seed: int) -> Iterator[dict]:
    """Rows of one input for every kind of folds, true labels and (where asked for) shuffled ones."""
    for kind, folds in task.folds.items():
        labellings = [task.labels, task.shuffled] if kind in settings.control_folds else [task.labels]
        scores = cross_validated(features, labellings, folds, settings)
        yield from _table_rows(head | {"folds": kind}, scores, task.labels, task.n_groups[kind], seed)


def _fitted_rows(head: dict, features, task: _Task, settings: ProbeSettings, seed: int) -> Iterator[dict]:
    """Rows of one input fitted and scored on all subjects: what it can express, not what it predicts."""
    scores = scored_on_all(features, [task.labels, task.shuffled], settings)
    yield from _table_rows(head | {"folds": "none"}, scores, task.labels, len(task.labels), seed)


def _table_rows(
    head: dict, scores: list[Scores], labels: np.ndarray, n_groups: int, seed: int
) -> Iterator[dict]:
    """Rows for true labels and, if there is a second entry in `scores`, for shuffled ones."""
    gain = None
    if len(scores) == 2:  # -1, 0 or 1 for each subject: the same subjects under both labellings
        gain = mean_interval(scores[0].hits.astype(float) - scores[1].hits, seed=seed)
    for name, result in zip(("true", "shuffled"), scores, strict=False):
        row = head | {"probe": "logistic", "labels": name}
        row |= _columns("accuracy", share_interval(result.hits))
        row |= _columns("loss", mean_interval(result.losses, seed=seed))
        row |= {"n": len(labels), "n_groups": n_groups, "majority_rate": majority_rate(labels)}
        yield row | _columns("selectivity", gain if name == "true" else None)


def _columns(name: str, estimate: Estimate | None) -> dict:
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


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
