"""The ledger of claims: the rules, the file, and that nothing is called supported that no model showed."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factfinding.declarations import declarations
from factfinding.errors import InputError
from factfinding.ledger import (
    CONTRADICTED,
    NOT_APPLICABLE,
    SUPPORTED,
    UNDECIDED,
    VERDICTS,
    decide,
    judge,
)
from factfinding.relation import STUDY
from factfinding.tables import read_table, schema_of
from helpers.declared import claim_with, written

DECLARED = declarations()
CLAIMS = [claim for _, claim in DECLARED.claims]
READ = {name for claim in CLAIMS for name in claim.tables} | {
    n for need in DECLARED.needs.values() for n in need.tables
}
LOCAL_ANYWAY = {"early-layers-local", "early-layers-not-quite-local", "locality-falls"}
"""True of an untrained transformer as well: what is far away is averaged over many tokens."""


def claims_with(tmp_path, **changes):
    """Declarations of one claim, changed."""
    return declarations(*written(tmp_path, claims=[claim_with(**changes)]))


def table(value=0.8, low=0.7, high=0.9, n=10, **more) -> dict[str, pl.DataFrame]:
    return {"t": pl.DataFrame({"value": [value], "low": [low], "high": [high], "n": [n]} | more)}


def test_there_are_at_least_thirty_claims_of_all_posts_with_their_words():
    assert len(CLAIMS) >= 30
    assert {experiment.post for experiment, _ in DECLARED.claims} == {1, 2, 3, 4, 5}
    for claim in CLAIMS:
        assert claim.sentence.endswith(".") and claim.reference and claim.measured
        assert claim.about == "toys" or "knows" in claim.needs, (
            f"{claim.id} would judge a model that knows nothing"
        )


def test_no_reference_enters_a_computation(tmp_path):
    tables = table()
    one = judge(claims_with(tmp_path), tables)
    other = judge(claims_with(tmp_path, reference="0.123"), tables)
    assert one.drop("reference").equals(other.drop("reference"))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_verdict_depends_on_both_whole_intervals_and_is_symmetric(a, b, c, d):
    low, high, line = min(a, b), max(a, b), (min(c, d), max(c, d))
    above, below = decide("above", low, high, line), decide("below", low, high, line)
    assert (above == SUPPORTED) == (low > line[1]) and (above == CONTRADICTED) == (high < line[0])
    mirrored = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED, UNDECIDED: UNDECIDED}
    assert below == mirrored[above]


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({}, SUPPORTED),
        ({"low": 0.4}, UNDECIDED),
        ({"value": 0.2, "low": 0.1, "high": 0.3}, CONTRADICTED),
        ({"value": None}, NOT_APPLICABLE),
        ({"low": None}, NOT_APPLICABLE),
        ({"value": float("nan")}, NOT_APPLICABLE),
    ],
)
def test_the_rule_decides(tmp_path, numbers, verdict):
    row = judge(claims_with(tmp_path), table(**numbers)).row(0, named=True)
    assert row["verdict"] == verdict and row["reason"]


def test_no_rows_is_not_applicable_and_says_which_tables_had_none(tmp_path):
    row = judge(claims_with(tmp_path), {"t": table()["t"].clear()}).row(0, named=True)
    assert row["verdict"] == NOT_APPLICABLE and row["value"] is None and "no such rows in t" in row["reason"]


def test_an_unmet_need_makes_a_claim_not_applicable_and_says_why(tmp_path):
    claims = claims_with(tmp_path, needs=["enough"])
    row = judge(claims, table(n=9)).row(0, named=True)
    assert row["verdict"] == NOT_APPLICABLE and "too few" in row["reason"]
    assert judge(claims, table(n=9), regardless=True)["verdict"][0] == SUPPORTED
    assert judge(claims, table(n=10))["verdict"][0] == SUPPORTED


def test_a_threshold_may_come_from_the_query(tmp_path):
    query = "SELECT value, low, high, n, baseline AS threshold FROM t"
    claims = claims_with(tmp_path, threshold=None, query=query)
    assert judge(claims, table(baseline=[0.75]))["verdict"][0] == UNDECIDED
    assert judge(claims, table(baseline=[0.65]))["threshold"][0] == 0.65


@pytest.mark.parametrize(
    ("baseline", "verdict"),
    [
        ((0.5, 0.6), SUPPORTED),
        ((0.6, 0.8), UNDECIDED),
        ((0.8, 0.95), UNDECIDED),
        ((0.91, 0.95), CONTRADICTED),
    ],
)
def test_a_measured_threshold_counts_with_its_interval(tmp_path, baseline, verdict):
    """The value is 0.8 [0.7, 0.9]."""
    low, high = baseline
    query = f"SELECT value, low, high, n, {(low + high) / 2} AS threshold, {low} AS threshold_low, {high} AS threshold_high FROM t"
    row = judge(claims_with(tmp_path, threshold=None, query=query), table()).row(0, named=True)
    assert row["verdict"] == verdict and (row["threshold_low"], row["threshold_high"]) == baseline
    assert f"[{low}, {high}]" in row["reason"]


@pytest.mark.parametrize("nothing", [None, float("nan")])
@pytest.mark.parametrize("order", ["DESC", "desc", "DESC NULLS LAST", "ASC", ""])
def test_what_is_missing_is_never_the_first_of_a_ranking(tmp_path, nothing, order):
    """SQL puts NULL above all numbers: the claim would be called unmeasured, though a number is there."""
    query = f"SELECT value, low, high, n FROM t ORDER BY value {order} LIMIT 1"
    tables = table()
    tables["t"] = pl.concat([tables["t"].with_columns(value=pl.lit(nothing, pl.Float64)), tables["t"]])
    row = judge(claims_with(tmp_path, query=query), tables).row(0, named=True)
    assert (row["value"], row["verdict"]) == (0.8, SUPPORTED)


@pytest.mark.parametrize(("n", "verdict"), [(9, NOT_APPLICABLE), (10, SUPPORTED)])
def test_fewer_than_the_rule_asks_for_are_shown_and_not_judged(tmp_path, n, verdict):
    row = judge(claims_with(tmp_path, least_n=10), table(n=n)).row(0, named=True)
    assert row["verdict"] == verdict and (row["value"], row["n"], row["threshold"]) == (0.8, n, 0.5)
    assert ("n = 9" in row["reason"] and "asks for 10" in row["reason"]) == (n == 9)


def test_what_is_too_small_a_share_is_neither_ranked_nor_counted(tmp_path):
    query = (
        "SELECT value, low, high, n FROM t WHERE effect > :least_share * whole ORDER BY value DESC LIMIT 1"
    )
    claims = claims_with(tmp_path, query=query, least_share=0.05)
    noise, real = table(effect=[1e-8], whole=[69.7])["t"], table(value=0.6, effect=[35.0], whole=[69.7])["t"]
    row = judge(claims, {"t": pl.concat([noise, real])}).row(0, named=True)
    assert row["value"] == 0.6 and row["least_share"] == 0.05
    assert judge(claims, {"t": noise})["verdict"][0] == NOT_APPLICABLE


def test_every_rule_on_the_effects_of_heads_and_layers_asks_for_a_least_share():
    """What has an interval below zero may be rounding: -1e-8 of -69.7 was "100 % of the effect"."""
    ranked = [
        claim for claim in CLAIMS if {"direct_effects", "head_inputs", "total_effects"} & set(claim.tables)
    ]
    assert len(ranked) > 5
    assert {claim.id for claim in ranked if claim.least_share is None} <= {
        "head-probe-writes"
    }  # a share itself


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": "SELECT value FROM t"}, "a query without low, high, n"),
        ({"query": "SELECT nothing FROM t"}, "a query that does not run"),
        ({"query": "SELEC"}, "a query that does not run"),
        ({"query": "SELECT value, low, high, n FROM other"}, "a query that does not run"),
        ({"threshold": None}, "a query without threshold"),
        ({"tables": ["t", "other"]}, "the table other"),
        (
            {"query": "SELECT value, low, high, n FROM t UNION ALL SELECT value, low, high, n FROM t"},
            "2 rows",
        ),
    ],
)
def test_a_query_that_cannot_be_used_is_refused_by_the_claims_name(tmp_path, changes, said):
    with pytest.raises(InputError, match="claim one") as error:
        judge(claims_with(tmp_path, **changes), table())
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"supported_if": "equal"}, "supported_if"),
        ({"id": "Not An Id"}, "id"),
        ({"colour": "red"}, "colour"),
        ({"needs": ["nothing"]}, "nothing"),
        ({"tables": []}, "tables"),
        ({"tables": ["unheard_of"]}, "unheard_of"),
        ({"threshold": "high"}, "threshold"),
        ({"least_n": None}, "least_n"),
        ({"least_n": 0}, "least_n"),
        ({"least_share": 0.1}, "claim one: `least_share`"),
        ({"query": "SELECT value FROM t WHERE n > :least_share"}, "claim one: `least_share`"),
        ({"held_by": "faith"}, "held_by"),
    ],
)
def test_a_claim_that_cannot_be_used_is_refused_by_file_and_key(tmp_path, changes, said):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))) as error:
        claims_with(tmp_path, **changes)
    assert said in str(error.value)


def test_a_claim_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="declared twice"):
        declarations(*written(tmp_path, claims=[claim_with(), claim_with()]))


def test_no_claim_stumbles_over_an_empty_table(study):
    """As CSV writes it: without types. Needs that are met by other tables do not help."""
    folder = study.folder / "results/small/tables"
    tables = {path.stem: read_table(path) for path in folder.iterdir() if path.stem in READ}
    as_text = {name: frame.clear().cast(pl.String) for name, frame in tables.items()}
    ledger = judge(DECLARED, as_text, regardless=True)
    assert set(ledger["verdict"]) == {NOT_APPLICABLE}


def test_every_claim_can_be_judged_and_an_untrained_model_supports_none(study):
    """The small study has seen 12 steps and knows nobody; its tables are full, because it asks for all subjects."""
    folder = study.folder / "results/small/tables"
    tables = {path.stem: read_table(path) for path in folder.iterdir() if path.stem in READ}
    assert not READ - set(tables)
    ledger = judge(DECLARED.spoken(STUDY), tables)
    assert ledger.schema == pl.Schema(schema_of("ledger")) and ledger.height == len(CLAIMS)
    assert set(ledger["verdict"]) <= set(VERDICTS)
    of_model = ledger.filter(about="model")
    assert set(of_model["verdict"]) == {NOT_APPLICABLE}
    told = ["claim", "verdict", "reason"]  # the numbers are empty, and a CSV of empty columns has no types
    assert read_table(folder / "ledger.csv").select(told).equals(ledger.select(told))
    ignoring = judge(DECLARED, tables, regardless=True).filter(about="model", verdict=SUPPORTED)
    assert set(ignoring["claim"]) <= LOCAL_ANYWAY  # the rules themselves, without what they need
