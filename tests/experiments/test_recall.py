from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scipy.special import log_softmax

from factfinding.config import RecallConfig, RelationConfig
from factfinding.data.prompts import candidates, prompt_table
from factfinding.data.subjects import read_subjects
from factfinding.errors import InputError
from factfinding.experiments.recall.compute import AnswerScores, compute, recall_summary, recall_table
from factfinding.experiments.recall.filters import known_filters, spelling_hits, with_known
from factfinding.experiments.recall.show import draw_recall, sentences
from factfinding.inputs import Settings
from factfinding.known import Rule
from factfinding.model.anatomy import load
from factfinding.model.tiny import save_tiny_model
from factfinding.stats import share_interval
from factfinding.tables import schema_of
from helpers.figures import assert_readable
from helpers.inputs import given

ANSWERS = ["baseball", "basketball", "football"]
CANDIDATES = pl.DataFrame(
    {
        "answer": ANSWERS,
        "token_id": [7, 3, 5],
        "answer_token": [" base", " basket", " foot"],
        "n_answer_tokens": [2, 2, 1],
    }
)
VOCABULARY = 11
STUDY = Rule()


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
    top_ids = full_logits.argmax(axis=1)
    return AnswerScores(logits=full_logits[:, ids], logp=logp[:, ids], top_token=top, top_token_id=top_ids)


def _random(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size=(n, VOCABULARY)).astype(np.float32)


def _table(rule: Rule = STUDY) -> pl.DataFrame:
    scores = {"full": _scores(_random(30, 0)), "zero_shot": _scores(_random(30, 1))}
    return recall_table(_prompts(30), CANDIDATES, scores, rule)


@pytest.fixture
def table() -> pl.DataFrame:
    return _table()


def _page(recall: pl.DataFrame, rule: Rule = STUDY, spelling=None, candidates=CANDIDATES) -> dict:
    """The tables that the sentences and the figure are made from."""
    return {
        "recall": recall,
        "recall_summary": recall_summary(recall, seed=0),
        "known_filters": known_filters(recall, rule, spelling, seed=0),
        "candidates": candidates,
    }


def test_columns(table):
    by_answer = lambda prefix: [f"{prefix}_{answer}" for answer in ANSWERS]
    assert table.columns == [
        *("subject", "answer", "n_name_tokens", "answer_token", "full_p", "full_logp"),
        *by_answer("full_p"),
        *by_answer("full_logit"),
        *("full_answer", "full_top_token", "known", "zero_shot_p", "zero_shot_logp"),
        *by_answer("zero_shot_logit"),
        *("zero_shot_answer", "full_recalled", "zero_shot_recalled", "left_out"),
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
    many = table.with_columns(
        full_p=pl.Series(full_p), zero_shot_p=pl.Series(zero_shot_p),
        full_recalled=pl.Series(full_p > 0.5), zero_shot_recalled=pl.Series(zero_shot_p > 0.5),
    )  # fmt: skip
    many = pl.concat([many] * (1 + 200 // table.height))
    summary = recall_summary(many, seed=0).filter(group="all")
    full, without = summary.iter_rows(named=True)
    assert without["recalled_high"] > full["recalled_low"] and without["from_full_high"] < 0
    assert any("fewer than after it" in one for one in sentences(_page(many)))


def test_summary_survives_the_table_as_csv(table, tmp_path):
    from factfinding.files import write_table
    from factfinding.tables import read_table

    write_table(table, tmp_path / "recall.csv")
    assert recall_summary(read_table(tmp_path / "recall.csv"), seed=3).equals(recall_summary(table, seed=3))


def test_a_group_of_one_has_no_mean_interval(table):
    row = recall_summary(table.head(1), seed=0).row(0, named=True)
    assert row["n"] == 1 and np.isnan(row["mean_p_low"]) and row["recalled_low"] < row["recalled_high"]


# a relation file, from the samples to what is known

GAMES = ("soccer", "water polo", "hockey", "baseball", "football", "tennis", "chess", "boxing")


@pytest.mark.parametrize("n_answers", [2, 5, 8])
def test_a_relation_file_is_asked_with_any_number_of_answers(n_answers, tmp_path):
    games = GAMES[:n_answers]
    samples = [{"subject": f"Player{i} Of{game[:3]}", "object": game} for game in games for i in range(6)]
    path = tmp_path / "plays.json"
    path.write_text(json.dumps({"name": "plays", "prompt_templates": ["{} plays"], "samples": samples}))
    relation = RelationConfig(subject="person", subjects="people", answer="game", answers="games")
    people = read_subjects(path, relation=relation, min_per_answer=6).frame
    save_tiny_model(tmp_path / "model", people, "gpt_neox")
    anatomy = load(tmp_path / "model", device="cpu")
    prompts = {
        name: prompt_table(people, anatomy.tokenizer, anatomy.bos_token_id, name, relation)
        for name in ("full", "zero_shot")
    }
    asked = candidates(games, prompts["full"]["text"][0], anatomy.tokenizer)
    held = given(
        anatomy=anatomy,
        candidates=asked,
        prompts_full=prompts["full"],
        prompts_zero_shot=prompts["zero_shot"],
    )
    section = RecallConfig(known="best", beyond_spelling=True)
    tables = compute(
        held, Settings({"compute": {"batch_size": 16}, "recall": section.model_dump()}), lambda _: None
    )
    recall = tables["recall"]
    assert recall.select("subject", "answer").equals(people) and recall.height == 6 * n_answers
    assert recall["full_recalled"].equals((recall["full_answer"] == recall["answer"]).alias("full_recalled"))
    assert tables["known_filters"]["answer"].to_list() == 2 * ["all", *sorted(games)]
    given_away = tables["known_filters"].filter(filter="beyond_spelling", answer="all").row(0, named=True)
    assert given_away["accuracy"] == 1 and given_away["left"] == 0 == recall["known"].sum()
    parts = asked.filter(answer="water polo").row(0, named=True)
    assert parts["answer_token"] == " water" and parts["n_answer_tokens"] == 2
    told = sentences(tables | {"candidates": asked})
    assert any("water polo by ' water'" in one for one in told)
    shown = {name: tables[name] for name in ("recall", "recall_summary", "known_filters")}
    assert_readable(draw_recall(**shown))


# who is known


def test_the_three_rules_row_by_row():
    tables = {how: _table(Rule(how=how)) for how in ("probability", "first", "best")} | {
        "low": _table(Rule(above=0.2))
    }
    for condition, seed in (("full", 0), ("zero_shot", 1)):
        logits, ids = _random(30, seed), dict(CANDIDATES.select("answer", "token_id").rows())
        p = np.exp(log_softmax(logits.astype(float), axis=1))
        for i, answer in enumerate(_prompts(30)["answer"]):
            own = ids[answer]
            expected = {
                "probability": p[i, own] > 0.5,
                "low": p[i, own] > 0.2,
                "first": logits[i].argmax() == own,
                "best": logits[i, own] == max(logits[i, token] for token in ids.values()),
            }
            for how, recalled in expected.items():
                assert tables[how][f"{condition}_recalled"][i] == recalled, (how, i)
    counts = {how: table["known"].sum() for how, table in tables.items()}
    assert 0 < counts["probability"] < counts["first"] < counts["best"] < 30
    for table in tables.values():
        assert table["known"].equals(table["full_recalled"].rename("known"))
        assert table["left_out"].is_null().equals(table["known"].rename("left_out"))


def test_a_rule_that_needs_the_likeliest_token_says_so():
    scores = AnswerScores(logits=np.zeros((1, 3)), logp=np.full((1, 3), -2.0), top_token=["x"])
    with pytest.raises(ValueError, match="`first` needs the likeliest token"):
        recall_table(_prompts(1), CANDIDATES, {"full": scores, "zero_shot": scores}, Rule(how="first"))


@pytest.mark.parametrize(
    ("rule", "said", "title"),
    [
        (Rule(), "P\N{NO-BREAK SPACE}>\N{NO-BREAK SPACE}0.5", "P(own sport) > 0.5"),
        (Rule(above=0.05), "P\N{NO-BREAK SPACE}>\N{NO-BREAK SPACE}0.05", "P(own sport) > 0.05"),
        (Rule(how="first"), "the likeliest token of all", "own sport the likeliest token of all"),
        (Rule(how="best"), "the likeliest of the answers", "own sport the likeliest of the candidates"),
    ],
)
def test_page_and_figure_say_by_which_rule(rule, said, title):
    tables = _page(_table(rule), rule)
    assert f": {said}" in sentences(tables)[0]
    recall = tables.pop("recall")
    tables.pop("candidates")
    figure = draw_recall(recall=recall, **tables)
    assert_readable(figure)
    above, below = figure.subfigs
    assert below.get_suptitle() == f"recalled: {title}, with 95 % intervals; below each group its n"
    dotted = [
        line
        for line in figure.axes[0].lines
        if line.get_linestyle() == ":" and len(set(line.get_xdata())) == 1
    ]
    assert [line.get_xdata()[0] for line in dotted] == ([rule.above] if rule.how == "probability" else [])
    legend = " ".join(text.get_text() for text in above.legends[0].get_texts())
    assert (f"P = {rule.above:g}; above it: recalled" in legend) == (rule.how == "probability")


def test_answers_of_several_tokens_are_named_on_the_page(table):
    assert any("baseball by ' base', basketball by ' basket'. What" in one for one in sentences(_page(table)))
    whole = CANDIDATES.with_columns(n_answer_tokens=pl.lit(1))
    assert not any("several tokens" in one for one in sentences(_page(table, candidates=whole)))


def _spelt(given_away: bool, n: int = 240) -> pl.DataFrame:
    """Names of random letters with answers that their endings tell, or that nothing tells; all recalled but every tenth."""
    rng = np.random.default_rng(0)
    endings = ("ville", "burg", "ton")
    words = ["".join(rng.choice(list("abcdefghijklmnoprstuvw"), 6)) for _ in range(n)]
    names = [f"{word.title()}{endings[i % 3] if given_away else ''}" for i, word in enumerate(words)]
    assert len(set(names)) == n
    recalled = [i % 10 > 0 for i in range(n)]
    answers = [ANSWERS[i % 3] for i in range(n)]
    frame = pl.DataFrame({"subject": names, "answer": answers, "full_recalled": recalled})
    return frame.with_columns(known="full_recalled", left_out=pl.lit(None, pl.String))


def test_names_whose_letters_give_the_answer_away_are_left_out_and_others_stay():
    counted = {}
    for given_away in (True, False):
        recall = _spelt(given_away)
        hits = spelling_hits(recall, seed=0)
        filtered = with_known(recall, hits)
        assert filtered["known"].to_list() == (recall["full_recalled"] & ~pl.Series(hits)).to_list()
        reasons = filtered["left_out"].to_list()
        for reason, recalled, hit in zip(reasons, recall["full_recalled"], hits, strict=True):
            assert reason == ("not recalled" if not recalled else "spelling" if hit else None)
        table = known_filters(filtered, STUDY, hits, seed=0)
        assert table.schema == pl.Schema(schema_of("known_filters"))
        whole = table.filter(filter="beyond_spelling", answer="all").row(0, named=True)
        counted[given_away] = whole
        assert whole["n"] == 216 and whole["left"] == filtered["known"].sum() == 216 - whole["removed"]
        assert whole["accuracy"] == hits.mean() and whole["n_classified"] == 240
        assert whole["majority_rate"] == pytest.approx(1 / 3)
        assert whole["over_majority"] == pytest.approx(hits.mean() - 1 / 3)
        for column in ("n", "removed", "left"):
            by_answer = table.filter(pl.col("answer") != "all").group_by("filter").agg(pl.col(column).sum())
            for name, total in by_answer.iter_rows():
                assert table.filter(filter=name, answer="all")[column].item() == total
    assert counted[True]["left"] <= 5 and counted[True]["over_majority_low"] > 0.5
    assert (
        counted[False]["left"] > 100
        and counted[False]["accuracy_low"] < 1 / 3 < counted[False]["accuracy_high"]
    )


def test_the_letters_tell_the_same_whatever_the_order_of_the_table():
    recall = _spelt(True).head(60)
    order = np.random.default_rng(1).permutation(60)
    assert (spelling_hits(recall, seed=3)[order] == spelling_hits(recall[order], seed=3)).all()


def test_an_answer_of_one_subject_has_no_spelling():
    with pytest.raises(
        InputError, match=r"recall\.beyond_spelling: found 1 subject of the answer 'football'"
    ):
        spelling_hits(_spelt(True).head(3).vstack(_spelt(True)[3:5]), seed=0)


def test_the_page_says_whom_the_letters_leave_out(table):
    hits = np.arange(30) % 2 == 0
    filtered = with_known(table, hits)
    tables = _page(filtered, spelling=hits)
    assert tables["recall_summary"]["removed"][0] == 30 - filtered["known"].sum()
    whole = tables["known_filters"].filter(filter="beyond_spelling", answer="all").row(0, named=True)
    said = sentences(tables)[-1]
    assert f"gives the <answer> of {whole['removed']} of the {whole['n']} recalled" in said
    assert (
        f"and {filtered['known'].sum()} are known" in said and "On all 30 names it is right for 50.0" in said
    )
    nobody = with_known(table.with_columns(full_recalled=pl.lit(False)), hits)
    assert "Nobody is recalled whose letters" in sentences(_page(nobody, spelling=hits))[-1]


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


def test_as_many_are_drawn_of_each_answer_and_the_table_says_so():
    names = [f"F{i} L{i}" for i in range(60)]
    table = pl.DataFrame(
        {
            "subject": names,
            "answer": ["a"] * 40 + ["b"] * 15 + ["c"] * 5,
            "full_recalled": [i % 2 == 0 for i in range(60)],  # 20 of a, 8 of b, 2 of c
        }
    )
    drawn = with_known(table, at_most=16, seed=3)
    assert drawn.filter("known").group_by("answer").len().sort("answer").rows() == [
        ("a", 7),
        ("b", 7),
        ("c", 2),
    ]
    assert drawn.filter("known")["full_recalled"].all()
    assert drawn["left_out"].value_counts().sort("left_out").rows() == [
        (None, 16), ("not drawn", 14), ("not recalled", 30),
    ]  # fmt: skip
    assert drawn.equals(with_known(table, at_most=16, seed=3))
    assert with_known(table, at_most=30)["known"].sum() == with_known(table)["known"].sum() == 30
    rows = (
        known_filters(drawn, Rule(), None, seed=0)
        .filter(answer="all")
        .select("filter", "n", "removed", "left")
    )
    assert rows.rows() == [("recalled", 60, 30, 30), ("at_most", 30, 14, 16)]
