"""Every rule of the ledger tells a planted truth from a planted falsehood: that is what freezes it."""

from __future__ import annotations

import subprocess

import pytest

from factfinding.declarations import declarations
from factfinding.ledger import CONTRADICTED, SUPPORTED, judge
from helpers.planted_claims import MODELS, TABLES, near, rows
from helpers.rule_history import first_committed, histories

DECLARED = declarations()
CLAIMS = {claim.id: claim for _, claim in DECLARED.claims}


def verdict(claim: str, tables) -> str:
    """The verdict on one claim, whatever it needs; other tables than its own are not given."""
    own = {name: table for name, table in tables.items() if name in CLAIMS[claim].tables}
    only = DECLARED.model_copy(
        update={
            "experiments": {
                name: experiment.model_copy(
                    update={"claims": tuple(one for one in experiment.claims if one.id == claim)}
                )
                for name, experiment in DECLARED.experiments.items()
            }
        }
    )
    (row,) = judge(only, own, regardless=True).iter_rows(named=True)
    assert row["n"] is None or row["n"] >= CLAIMS[claim].least_n, row
    return f"{row['verdict']}" if row["verdict"] in (SUPPORTED, CONTRADICTED) else f"{row['verdict']}: {row}"


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_rule_tells_the_planted_truth_from_the_falsehood(claim):
    """A new claim needs both, in helpers/planted_claims.py: models if it can be, else tables."""
    planted = MODELS | TABLES
    assert claim in planted, "no truth and no falsehood is planted for it"
    true, false = planted[claim]
    assert verdict(claim, true()) == SUPPORTED
    assert verdict(claim, false()) == CONTRADICTED


@pytest.mark.parametrize(
    ("heads", "writing", "few"),
    [
        (4, 1, True),
        (4, 4, False),
        (24, 2, True),
        (24, 3, True),
        (24, 24, False),
        (1024, 12, True),
        (1024, 1024, False),
    ],
)
def test_few_heads_are_few_in_models_of_every_size(heads, writing, few):
    """1,024 equal heads, each of a thousandth, are not few; one of four is, though it is a quarter of all."""
    common = {"answer": "all", "n": 100}
    share = [-10 / writing if i < writing else -1e-8 for i in range(heads)]
    told = [
        common | {"node": f"L0H{i}", "kind": "head", "layer": 0, "index": i, "rank": i + 1,
                  "exact": near(effect, 1e-9), "frozen": near(effect, 1e-9)}
        for i, effect in enumerate(share)
    ]  # fmt: skip
    whole = common | {"node": "all", "kind": "all", "exact": near(-10.0), "frozen": near(-10.0)}
    found = verdict("direct-few-heads", rows("direct_effects", whole, *told))
    assert found == (SUPPORTED if few else CONTRADICTED)


@pytest.mark.parametrize(("effect", "counts"), [(-0.02, False), (-2.0, True)])
def test_a_head_with_a_trace_of_the_effect_is_no_head_for_one_answer(effect, counts):
    """It writes one of three answers alone, and 0.2 % of the whole, or 20 %."""
    head = {"node": "L0H0", "kind": "head", "layer": 0, "index": 0, "rank": 1, "n": 100}
    by_answer = {
        "all": effect,
        "baseball": 1.5 * effect,
        "basketball": 0.75 * effect,
        "football": 0.75 * effect,
    }
    told = [head | {"answer": answer, "exact": near(one, 1e-4)} for answer, one in by_answer.items()]
    whole = {"node": "all", "kind": "all", "answer": "all", "exact": near(-10.0), "n": 300}
    found = verdict("direct-head-for-one-sport", rows("direct_effects", whole, *told))
    assert found == SUPPORTED if counts else found.startswith("not applicable")


def test_what_holds_a_rule_is_said_in_its_declaration():
    assert not set(MODELS) & set(TABLES) and set(MODELS) | set(TABLES) == set(CLAIMS)
    assert {name: claim.held_by for name, claim in CLAIMS.items()} == {
        name: "model" if name in MODELS else "tables" for name in CLAIMS
    }


@pytest.mark.slow
def test_when_a_rule_was_written_and_changed_is_told_as_the_history_has_it():
    """A claim that is new has no commit to name yet; all others do, and say why they were changed once values were known."""
    try:
        first, versions = first_committed(), histories()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no history")
    if "recall-confident" not in first or first["recall-confident"]["commit"] != "5b889db":
        pytest.skip("not the whole history")
    for name, claim in CLAIMS.items():
        if claim.first_committed is None:
            assert name not in first or first[name]["values_known"], (
                f"{name} was there before the first values"
            )
        else:
            assert claim.first_committed.model_dump() == first[name], name
            assert claim.changed or len(versions[name]) == 1, f"{name} was changed: why?"
