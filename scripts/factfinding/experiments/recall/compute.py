"""Recall (P2.1): does the model know each subject's answer, with and without the example shot?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from factfinding.engine.answers import answers
from factfinding.errors import InputError
from factfinding.experiments.recall.bos import bos_check
from factfinding.experiments.recall.filters import known_filters, spelling_hits, with_known
from factfinding.inputs import Inputs, Say, Settings
from factfinding.known import STUDY_RULE, Rule
from factfinding.methods.estimates import estimate_columns
from factfinding.model.anatomy import Anatomy
from factfinding.model.source import anatomy_of
from factfinding.stats import majority_rate, mean_interval, paired_difference, share_interval
from factfinding.tables import schema_of

CONDITIONS = ("full", "zero_shot")


def compute(inputs: Inputs, settings: Settings, say: Say) -> dict[str, pl.DataFrame]:
    """The tables `recall`, `recall_summary`, `known_filters` and `bos_check`. Every prompt is answered under both conditions."""
    anatomy, candidates = anatomy_of(inputs), inputs.candidates
    scores = {
        condition: answer_scores(
            anatomy, inputs.prompts(condition), candidates, batch_size=settings.compute.batch_size
        )
        for condition in CONDITIONS
    }
    section = settings.recall
    rule = Rule(how=section.known, above=section.known_above)
    recall = recall_table(inputs.prompts("full"), candidates, scores, rule)
    spelling = spelling_hits(recall, seed=section.seed) if section.beyond_spelling else None
    recall = with_known(recall, spelling, at_most=section.at_most, seed=section.seed)
    say(f"{recall['known'].sum()} of {recall.height} subjects known")
    return {
        "recall": recall,
        "recall_summary": recall_summary(recall, seed=section.seed),
        "known_filters": known_filters(recall, rule, spelling, seed=section.seed),
        "bos_check": bos_check(
            anatomy,
            inputs.prompts("full"),
            candidates,
            rule,
            seed=section.seed,
            batch_size=settings.compute.batch_size,
        ),
    }


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """What the model says at END under one condition.

    logits: of each candidate answer's token. logp: their log probabilities in nats, the softmax taken over the
    *whole* vocabulary. top_token: the likeliest token of all, as text; top_token_id: itself, which only the rule `first`
    needs.
    """

    logits: Float[np.ndarray, "subjects candidates"]
    logp: Float[np.ndarray, "subjects candidates"]
    top_token: list[str]
    top_token_id: Int[np.ndarray, " subjects"] | None = None


def answer_scores(
    anatomy: Anatomy, prompts: pl.DataFrame, candidates: pl.DataFrame, *, batch_size: int
) -> AnswerScores:
    """What the model says to each prompt."""
    given = answers(anatomy, prompts, candidates["token_id"].to_list(), batch_size=batch_size)
    top = [anatomy.tokenizer.decode([token]) for token in given.top_token_id]
    return AnswerScores(logits=given.logits, logp=given.logp, top_token=top, top_token_id=given.top_token_id)


def recall_table(
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    scores: Mapping[str, AnswerScores],
    rule: Rule = STUDY_RULE,
) -> pl.DataFrame:
    """The table `recall`: one row per subject, probabilities and logits under `full` and `zero_shot`. Known is who is recalled
    under `full` by the rule, before any other filter (`filters.with_known`).

    prompts: columns subject, answer, n_name_tokens, one row per subject, in the order of the scores' rows.
    candidates: columns answer, token_id, answer_token, in the order of the scores' columns.
    scores: for each of `CONDITIONS`.

    Raises InputError when an answer is no candidate or two candidates share a token; ValueError for arrays that
    do not fit the frames or hold what no log probability can be.
    """
    answers = candidates["answer"].to_list()
    own = _own_candidate(prompts, candidates)
    for condition in CONDITIONS:
        _check_scores(condition, scores[condition], (prompts.height, len(answers)))
    full, zero_shot = scores["full"], scores["zero_shot"]
    full_p = _of_own(_probabilities(full), own)
    recalled = {name: _recalled(scores[name], own, candidates, rule) for name in CONDITIONS}
    table = prompts.select("subject", "answer", "n_name_tokens").with_columns(
        candidates["answer_token"].gather(own).alias("answer_token"),
        pl.Series("full_p", full_p),
        pl.Series("full_logp", _of_own(full.logp, own)),
        *_by_answer("full_p", answers, _probabilities(full)),
        *_by_answer("full_logit", answers, full.logits),
        pl.Series("full_answer", _answers(full.logits, answers)),
        pl.Series("full_top_token", full.top_token, dtype=pl.String),
        pl.Series("known", recalled["full"]),
        pl.Series("zero_shot_p", _of_own(_probabilities(zero_shot), own)),
        pl.Series("zero_shot_logp", _of_own(zero_shot.logp, own)),
        *_by_answer("zero_shot_logit", answers, zero_shot.logits),
        pl.Series("zero_shot_answer", _answers(zero_shot.logits, answers)),
        *(pl.Series(f"{name}_recalled", recalled[name]) for name in CONDITIONS),
    )
    return with_known(table)


def recall_summary(recall: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """The table `recall_summary`: shares and means over all subjects, by answer and by number of name tokens.

    Columns: condition, group, level, n, then with `_low` and `_high` recalled (share recalled under the
    row's condition), mean_p, accuracy (argmax among the candidates); majority_rate (of the answers within the
    row's subjects, hence 1 by answer); from_full (recalled, less that under `full`, paired); removed (how many of the row's
    subjects are not known: that looks at `full` whatever the row's condition).

    Shares have Wilson's interval, mean_p the bootstrap over subjects. Raises ValueError for a table without
    rows.
    """
    rows = [
        _summary_row(condition, group, level, part, seed)
        for condition in CONDITIONS
        for group, level, part in _groups(recall)
    ]
    return pl.DataFrame(rows, schema=schema_of("recall_summary"))


def _groups(recall: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    yield "all", "all", recall
    for column in ("answer", "n_name_tokens"):
        for level in recall[column].unique().sort():
            yield column, str(level), recall.filter(pl.col(column) == level)


def _summary_row(condition: str, group: str, level: str, part: pl.DataFrame, seed: int) -> dict:
    p = part[f"{condition}_p"].to_numpy()
    recalled = part[f"{condition}_recalled"].to_numpy()
    estimates = {
        "recalled": share_interval(recalled),
        "mean_p": mean_interval(p, seed=seed),
        "accuracy": share_interval((part[f"{condition}_answer"] == part["answer"]).to_numpy()),
    }
    row: dict = {"condition": condition, "group": group, "level": level, "n": part.height}
    for name, estimate in estimates.items():
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    row |= {"majority_rate": majority_rate(part["answer"]), "removed": int((~part["known"]).sum())}
    full = None
    if condition != "full":
        full = paired_difference(recalled, part["full_recalled"].to_numpy(), seed=seed)
    return row | estimate_columns("from_full", full)


def _own_candidate(prompts: pl.DataFrame, candidates: pl.DataFrame) -> Int[np.ndarray, " subjects"]:
    """Column of each subject's own answer."""
    for column in ("answer", "token_id"):
        twice = candidates.filter(pl.col(column).is_duplicated())[column]
        if len(twice):
            raise InputError("candidates", f"the {column} {twice[0]!r} more than once", "each once")
    column_of = {answer: column for column, answer in enumerate(candidates["answer"])}
    for subject, answer in prompts.select("subject", "answer").iter_rows():
        if answer not in column_of:
            raise InputError(f"answer of {subject}", repr(answer), f"one of {', '.join(column_of)}")
    return np.array([column_of[answer] for answer in prompts["answer"]], dtype=np.int64)


def _check_scores(condition: str, scores: AnswerScores, shape: tuple[int, int]) -> None:
    for name in ("logits", "logp"):
        array = getattr(scores, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f"{condition}: {name} {array.shape} must be finite and of shape {shape}")
    # float32 rounding can lift a log probability a little above 0
    if scores.logp.max() > 1e-5 or np.exp(scores.logp.astype(np.float64)).sum(axis=1).max() > 1 + 1e-4:
        raise ValueError(
            f"{condition}: logp holds probabilities above 1: is it a log softmax over the vocabulary?"
        )
    if len(scores.top_token) != shape[0]:
        raise ValueError(f"{condition}: {len(scores.top_token)} top tokens for {shape[0]} subjects")


def _recalled(
    scores: AnswerScores, own: Int[np.ndarray, " subjects"], candidates: pl.DataFrame, rule: Rule
) -> Bool[np.ndarray, " subjects"]:
    """Whose answer is recalled. Raises ValueError where the rule `first` is not told the likeliest tokens."""
    if scores.top_token_id is None and rule.how == "first":
        raise ValueError("the rule `first` needs the likeliest token of each prompt (top_token_id)")
    tokens = candidates["token_id"].gather(own).to_numpy()
    return rule.holds(
        p=_of_own(_probabilities(scores), own),
        first=tokens == scores.top_token_id,
        best=scores.logits.argmax(axis=1) == own,
    )


def _probabilities(scores: AnswerScores) -> Float[np.ndarray, "subjects candidates"]:
    return np.exp(np.minimum(scores.logp.astype(np.float64), 0.0))


def _of_own(
    values: Float[np.ndarray, "subjects candidates"], own: Int[np.ndarray, " subjects"]
) -> Float[np.ndarray, " subjects"]:
    return values[np.arange(len(own)), own].astype(np.float64)


def _by_answer(
    prefix: str, answers: list[str], values: Float[np.ndarray, "subjects candidates"]
) -> list[pl.Series]:
    return [
        pl.Series(f"{prefix}_{answer}", values[:, i].astype(np.float64)) for i, answer in enumerate(answers)
    ]


def _answers(logits: Float[np.ndarray, "subjects candidates"], answers: list[str]) -> list[str]:
    return [answers[column] for column in logits.argmax(axis=1)]
