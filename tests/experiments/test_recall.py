from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import log_softmax

from factfinding.errors import InputError
from factfinding.experiments.recall.compute import AnswerScores, recall_summary, recall_table
from factfinding.experiments.recall.show import sentences
from factfinding.stats import share_interval

ANSWERS = ["baseball", "basketball", "football"]
CANDIDATES = pl.DataFrame(
    {"answer": ANSWERS, "token_id": [7, 3, 5], "answer_token": [" base", " basket", " foot"]}
)
VOCABULARY = 11


def _prompts(n: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject": [f"A{i} B{i}" for i in range(n)],
            "answer": [ANSWERS[i % 3] for i in range(n)],
            "n_name_tokens": [2 + i % 2 for i in range(n)],
        }
    )


def _scores(full_logits: np.ndarray) -> AnswerScores:
    ids = CANDIDATES["token_id"].to_list()
    logp = log_softmax(full_logits, axis=1)
    top = [f"<{i}>" for i in full_logits.argmax(axis=1)]
    return AnswerScores(logits=full_logits[:, ids], logp=logp[:, ids], top_token=top)


def _random(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size=(n, VOCABULARY)).astype(np.float32)


@pytest.fixture
def table() -> pl.DataFrame:
    return recall_table(
        _prompts(30), CANDIDATES, {"full": _scores(_random(30, 0)), "zero_shot": _scores(_random(30, 1))}
    )


def test_columns(table):
    by_answer = lambda prefix: [f"{prefix}_{answer}" for answer in ANSWERS]
    assert table.columns == [
        *("subject", "answer", "n_name_tokens", "answer_token", "full_p", "full_logp"),
        *by_answer("full_p"),
        *by_answer("full_logit"),
        *("full_answer", "full_top_token", "known", "zero_shot_p", "zero_shot_logp"),
        *by_answer("zero_shot_logit"),
        "zero_shot_answer",
    ]


def test_values_against_the_vocabulary_row_by_row(table):
    logits, shot_less = _random(30, 0).astype(float), _random(30, 1).astype(float)
    ids = dict(CANDIDATES.select("answer", "token_id").rows())
    for i, row in enumerate(table.iter_rows(named=True)):
        p = np.exp(logits[i]) / np.exp(logits[i]).sum()
        q = np.exp(shot_less[i]) / np.exp(shot_less[i]).sum()
        assert row["full_p"] == pytest.approx(p[ids[row["answer"]]], rel=1e-5)
        assert row["full_p"] == row[f"full_p_{row['answer']}"]
        assert row["full_logp"] == pytest.approx(np.log(row["full_p"]), abs=1e-6)
        assert row["zero_shot_p"] == pytest.approx(q[ids[row["answer"]]], rel=1e-5)
        assert row["known"] == (row["full_p"] > 0.5)
        assert row["full_answer"] == max(ANSWERS, key=lambda answer: logits[i, ids[answer]])
        assert row["zero_shot_answer"] == max(ANSWERS, key=lambda answer: shot_less[i, ids[answer]])
        assert row["full_top_token"] == f"<{logits[i].argmax()}>"
        assert row["full_logit_football"] == pytest.approx(logits[i, 5])
    assert 0 < table["known"].sum() < 30


def test_known_subjects_are_answered_rightly(table):
    known = table.filter("known")
    assert (known["full_answer"] == known["answer"]).all()


def test_exactly_one_half_is_not_known():
    logp = np.log(np.array([[0.5, 0.25, 0.25]]))
    scores = AnswerScores(logits=logp, logp=logp, top_token=["x"])
    table = recall_table(_prompts(1), CANDIDATES, {"full": scores, "zero_shot": scores})
    assert table["full_p"][0] == 0.5 and table["known"].to_list() == [False]


def test_rounding_above_one_is_no_probability_above_one():
    logp = np.array([[1e-6, -50.0, -50.0]], dtype=np.float32)
    scores = AnswerScores(logits=logp, logp=logp, top_token=["x"])
    assert recall_table(_prompts(1), CANDIDATES, {"full": scores, "zero_shot": scores})["full_p"][0] == 1.0


def test_summary_counts_and_baselines(table):
    summary = recall_summary(table, seed=0)
    assert summary.select("condition", "group", "level").rows() == [
        (condition, group, level)
        for condition in ("full", "zero_shot")
        for group, level in [
            ("all", "all"),
            *(("answer", s) for s in ANSWERS),
            *(("n_name_tokens", t) for t in "23"),
        ]
    ]
    for row in summary.iter_rows(named=True):
        part = table
        if row["group"] != "all":
            part = table.filter(pl.col(row["group"]).cast(pl.String) == row["level"])
        p = part[f"{row['condition']}_p"].to_numpy()
        right = (part[f"{row['condition']}_answer"] == part["answer"]).to_numpy()
        from_full = None if row["condition"] == "full" else (p > 0.5).mean() - (part["full_p"] > 0.5).mean()
        assert row["from_full"] == pytest.approx(from_full)
        assert row["n"] == part.height and row["mean_p"] == pytest.approx(p.mean())
        assert row["mean_p_low"] < row["mean_p"] < row["mean_p_high"]
        assert row["recalled"] == np.mean(p > 0.5) and row["accuracy"] == right.mean()
        assert (row["accuracy_low"], row["accuracy_high"]) == (
            share_interval(right).low,
            share_interval(right).high,
        )
        assert row["removed"] == part.height - part["known"].sum()
        assert row["majority_rate"] == part["answer"].value_counts()["count"].max() / part.height
    assert summary.filter(group="answer")["majority_rate"].to_list() == [1.0] * 6
    both = summary.filter(group="all")
    assert both["removed"][0] == both["removed"][1]  # the filter looks at `full` in both rows


def test_a_change_that_nearly_all_show_is_told_though_the_shares_intervals_overlap(table):
    full_p = np.where(np.arange(table.height) % 5 < 4, 0.9, 0.1)
    zero_shot_p = np.where(np.arange(table.height) % 20 == 0, 0.1, full_p)  # some are lost, and none is won
    many = table.with_columns(full_p=pl.Series(full_p), zero_shot_p=pl.Series(zero_shot_p))
    many = pl.concat([many] * (1 + 200 // table.height))
    summary = recall_summary(many, seed=0).filter(group="all")
    full, without = summary.iter_rows(named=True)
    assert without["recalled_high"] > full["recalled_low"] and without["from_full_high"] < 0
    assert any(
        "fewer than after it" in one for one in sentences({"recall_summary": recall_summary(many, seed=0)})
    )


def test_summary_survives_the_table_as_csv(table, tmp_path):
    from factfinding.files import write_table
    from factfinding.tables import read_table

    write_table(table, tmp_path / "recall.csv")
    assert recall_summary(read_table(tmp_path / "recall.csv"), seed=3).equals(recall_summary(table, seed=3))


def test_a_group_of_one_has_no_mean_interval(table):
    row = recall_summary(table.head(1), seed=0).row(0, named=True)
    assert row["n"] == 1 and np.isnan(row["mean_p_low"]) and row["recalled_low"] < row["recalled_high"]


def _refused(prompts=None, candidates=CANDIDATES, full=None):
    prompts = _prompts(4) if prompts is None else prompts
    good = _scores(_random(4, 0))
    return recall_table(prompts, candidates, {"full": full or good, "zero_shot": good})


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"candidates": CANDIDATES.head(2)}, InputError, "answer of A2 B2: found 'football'"),
        (
            {"candidates": pl.concat([CANDIDATES, CANDIDATES])},
            InputError,
            "the answer 'baseball' more than once",
        ),
        (
            {"candidates": CANDIDATES.with_columns(token_id=pl.lit(9))},
            InputError,
            "the token_id 9 more than once",
        ),
        ({"prompts": _prompts(3)}, ValueError, r"full: logits \(4, 3\) must be finite and of shape \(3, 3\)"),
        (
            {
                "full": AnswerScores(
                    logits=np.full((4, 3), np.nan), logp=np.full((4, 3), -1.0), top_token=list("abcd")
                )
            },
            ValueError,
            "must be finite",
        ),
        (
            {"full": AnswerScores(logits=np.ones((4, 3)), logp=np.ones((4, 3)), top_token=list("abcd"))},
            ValueError,
            "probabilities above 1",
        ),
        (
            {
                "full": AnswerScores(
                    logits=np.ones((4, 3)), logp=np.full((4, 3), -0.1), top_token=list("abcd")
                )
            },
            ValueError,
            "probabilities above 1",
        ),
        (
            {"full": AnswerScores(logits=np.ones((4, 3)), logp=np.full((4, 3), -2.0), top_token=["a"])},
            ValueError,
            "1 top tokens for 4 subjects",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, kind, message):
    with pytest.raises(kind, match=message):
        _refused(**change)
