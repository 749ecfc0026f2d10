"""P2.12: two wordings whose answer the same head brings, a third that uses another, and what is said where there is nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from factfinding.config import validate
from factfinding.errors import InputError
from factfinding.experiments.paraphrases.show import WRITE, draw_paraphrases, sentences
from factfinding.findings.words import told
from factfinding.methods.agreement import Scores, expected_jaccard, jaccard, rank_correlation
from factfinding.tables import schema_of
from helpers.figures import assert_readable
from helpers.wording_tables import OTHER, SAME, tables_of


@pytest.fixture(scope="module")
def tables():
    return tables_of([SAME, OTHER])


def agreed(tables, part, measure, pair):
    rows = tables["paraphrase_agreement"].filter(
        part=part, measure=measure, wording=pair[0], other_wording=pair[1]
    )
    return rows.row(0, named=True)


def test_the_same_heads_agree_and_other_heads_do_not(tables):
    same, apart = (agreed(tables, "heads", "jaccard", pair) for pair in ((1, 2), (1, 3)))
    assert (same["value"], same["value_low"], same["within"]) == (1.0, 1.0, 1.0)
    assert (apart["value"], apart["value_high"], apart["within"]) == (0.0, 0.0, 1.0)
    # one head of sixteen in each: the chance that it is the same
    assert same["chance"] == pytest.approx(1 / 16) and same["units"] == 16 and same["n"] == 64
    same, apart = (agreed(tables, "heads", "rank_correlation", pair) for pair in ((1, 2), (1, 3)))
    assert same["value"] == 1.0 and apart["value"] == pytest.approx(-1 / 15) and apart["chance"] == 0.0


def test_the_leading_head_of_each_wording_is_the_planted_one(tables):
    first = tables["paraphrase_nodes"].filter(kind="head", rank=1).sort("wording")
    assert first["node"].to_list() == ["L2H2", "L2H2", "L2H3"]
    assert (first["exact_high"] < -10).all() and (first["n"] == 64).all()


def test_neurons_and_layers_at_the_name_do_not_know_what_is_asked_later(tables):
    for pair in ((1, 2), (1, 3), (2, 3)):
        for part, measure in (
            ("neurons", "rank_correlation"),
            ("neurons", "jaccard"),
            ("layers_at_final_name", "rank_correlation"),
        ):
            assert agreed(tables, part, measure, pair)["value"] == pytest.approx(1.0), (part, measure, pair)
    layers = tables["paraphrase_layers"].filter(position="final_name")
    assert set(layers["probe"]) == {"logistic", "head"}
    late = layers.filter(pl.col("layer") >= 1)
    assert (late["accuracy"] == 1.0).all() and (
        layers.filter(layer=-1, probe="logistic")["accuracy"] < 0.8
    ).all()


def test_at_the_end_the_answer_comes_with_the_head(tables):
    rows = tables["paraphrase_layers"].filter(position="end")
    assert set(rows["probe"]) == {"logistic"}
    assert (rows.filter(pl.col("layer") >= 2)["accuracy"] == 1.0).all()
    assert rows.filter(wording=2, layer=3)["from_own"].item() == 0.0


def test_recall_is_compared_in_pairs(tables):
    table = tables["paraphrases"]
    assert table["wording"].to_list() == [1, 2, 3] and (table["recalled"] == 1.0).all()
    assert table["question"].to_list() == [
        "Fact: … plays the sport of",
        "… plays the sport of",
        "Fact: … plays",
    ]
    assert table["recalled_from_own"].to_list() == [None, 0.0, 0.0]
    assert (table["known_in_both"] == 64).all() and (table["majority_rate"] == 0.5).all()


def test_what_is_said_and_drawn_is_what_the_tables_hold(tables):
    found = told("paraphrases", tables)
    assert found[0].startswith("Asked in 3 wordings, any two of them agree (of 3 pairs, the least)")
    assert any("L2H2 by" in one and "L2H3 by" in one and "The head that" in one for one in found)
    assert_readable(draw_paraphrases(**tables))


def test_a_wording_that_is_not_understood_leaves_nothing_to_compare_and_says_so():
    deaf = {"shot": "", "before": "Fact:", "after": " the"}  # no head looks anything up there
    tables = tables_of([deaf])
    # it then says the same of everybody, and of one <answer> alone there is nothing to compare
    assert tables["paraphrases"]["recalled"].to_list() == [1.0, 0.5]
    assert all(tables[f"paraphrase_{name}"].is_empty() for name in ("nodes", "agreement"))
    assert set(tables["paraphrase_layers"]["probe"]) == {"head"}
    found = told("paraphrases", tables)
    assert "too few <subjects>".replace("<subjects>", "athletes") in found[0] and "fewer" in found[1]
    assert_readable(draw_paraphrases(**tables))
    # asked of all subjects there is something to measure, and no agreement about heads
    anyway = tables_of([deaf], subjects="all")["paraphrase_agreement"].filter(part="heads", measure="jaccard")
    assert anyway["value"].to_list() == [0.0]


def test_a_wording_that_nobody_wrote_is_left_out_where_the_tokenizer_does_not_know_it():
    """The planted vocabulary has no \"The\" and no \" is\"; \" plays\" it has."""
    assert tables_of(None)["paraphrases"]["question"].to_list() == [
        "Fact: … plays the sport of",
        "Fact: … plays",
    ]
    with pytest.raises(InputError, match=r"config\.relation\.paraphrases\.0: found .The.*does not know"):
        tables_of([{"before": "Fact: The sport of", "after": " is"}])


def test_one_wording_says_what_to_write():
    tables = tables_of([])
    assert tables["paraphrases"].height == 1
    assert all(table.schema == pl.Schema(schema_of(name)) for name, table in tables.items())
    assert sentences(tables) == [WRITE]
    assert not draw_paraphrases(**tables).axes


def test_one_subject_has_no_intervals_and_no_probe():
    tables = tables_of([SAME], keep=1)
    assert tables["paraphrases"]["n"].to_list() == [1, 1] and tables["paraphrase_nodes"].is_empty()
    assert set(tables["paraphrase_layers"]["probe"]) <= {"head"}
    assert_readable(draw_paraphrases(**tables))
    assert all("nan" not in one and "None" not in one for one in told("paraphrases", tables))


def test_few_subjects_are_drawn_the_same_way_in_every_order():
    few = tables_of([SAME], compared_subjects=20)
    assert (few["paraphrase_nodes"]["n"] == 20).all() and (few["paraphrases"]["n"] == 64).all()


# the statistics


def scores(seed, units=30, subjects=50, noise=0.0):
    base = np.random.default_rng(0).normal(size=units)
    return Scores(values=base + noise * np.random.default_rng(seed).normal(size=(subjects, units)))


def test_rank_correlation_is_scipys_and_falls_with_noise():
    one, other = scores(1, noise=2.0), scores(2, noise=2.0)
    found = rank_correlation(one, other, seed=0)
    expected = stats.spearmanr(one.values.mean(0), other.values.mean(0)).statistic
    assert found.estimate.value == pytest.approx(expected)
    assert found.estimate.low <= expected <= found.estimate.high < 1
    assert found.within < expected  # halves are noisier than the whole
    assert 0.2 < found.chance_95 < 0.45  # 1.64 / sqrt(29) = 0.31
    assert rank_correlation(one, scores(2, noise=0.0), seed=0).estimate.value > expected


def test_unrelated_units_agree_as_chance_says():
    rng = np.random.default_rng(3)
    found = [
        jaccard(*(Scores(values=rng.normal(size=(2, 40))) for _ in range(2)), top=8, seed=0)
        for _ in range(60)
    ]
    mean = np.mean([one.estimate.value for one in found])
    assert found[0].chance == pytest.approx(expected_jaccard(40, 8, 8))
    assert mean == pytest.approx(found[0].chance, abs=0.04)


def test_the_expected_jaccard_is_that_of_all_pairs_of_sets():
    from itertools import combinations

    sets = [set(one) for one in combinations(range(6), 3)]
    others = [set(one) for one in combinations(range(6), 2)]
    every = [len(a & b) / len(a | b) for a in sets for b in others]
    assert expected_jaccard(6, 3, 2) == pytest.approx(np.mean(every))
    assert expected_jaccard(6, 0, 0) == 0.0 and expected_jaccard(4, 4, 4) == 1.0


def test_units_that_do_too_little_are_none_of_the_first():
    values = np.array([[1.0, 0.5, 0.001], [1.0, 0.5, 0.001]])
    one = Scores(values=values, whole=np.array([2.0, 2.0]), least=0.01)
    assert one.first(np.ones((1, 2)), top=3)[0, 0].tolist() == [True, True, False]
    nothing = Scores(values=np.zeros((2, 3)), whole=np.zeros(2), least=0.01)
    assert (
        jaccard(nothing, nothing, top=3, seed=0) is None
        and rank_correlation(nothing, nothing, seed=0) is None
    )


def test_the_order_of_rounding_errors_is_no_agreement():
    dust = np.arange(10) * 1e-9
    values = [np.where(np.arange(10) == at, 1.0, dust)[None].repeat(5, 0) for at in (0, 1)]
    one, other = (Scores(values=x, whole=np.ones(5), least=0.01) for x in values)
    assert rank_correlation(one, other, seed=0).estimate.value == pytest.approx(-1 / 9)


def test_a_group_score_is_how_much_higher_the_group_is():
    values, group = np.array([[3.0], [1.0], [0.0], [0.0]]), np.array([[True], [True], [False], [False]])
    made = Scores(values=values, groups=group)
    assert made.drawn(np.array([[1, 1, 1, 1], [2, 0, 1, 1]]))[:, 0, 0].tolist() == [2.0, 3.0]
    assert np.isnan(made.drawn(np.array([[0, 0, 2, 2]]))).all()


def test_the_default_is_two_wordings_for_the_studys_prompt_and_none_for_others():
    from factfinding.config import RelationConfig
    from factfinding.relation import STUDY, wordings

    assert [one.after for one in wordings(STUDY)] == [" plays the sport of", " is", " plays"]
    assert len(wordings(RelationConfig(after=" lives in"))) == 1
    assert len(wordings(RelationConfig(paraphrases=()))) == 1
    own, other = wordings(
        validate({"after": " lives in", "paraphrases": [{"before": "News:"}]}, RelationConfig)
    )
    assert (other.before, other.after, other.shot) == ("News:", " lives in", own.shot)
