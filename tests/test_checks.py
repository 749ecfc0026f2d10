"""The circuit checks: they say where a fact is looked up in models whose answer is known."""

from __future__ import annotations

import polars as pl
import pytest

from factfinding.analysis.checks import circuit_checks, same_length
from factfinding.data.prompts import candidates, prompt_table
from models import random_anatomy, tokenizer

TOKENIZER = tokenizer()
SPORTS = ["baseball", "basketball", "football"]
NAMES = [f"{a} {b}" for a in ("Al", "Bo", "Cy", "Di") for b in ("Lee", "May", "Noe", "Orr", "Poe")] + [
    "Onlyone Longestname"
]


@pytest.fixture(scope="module")
def table():
    sports = [SPORTS[i % 3] for i in range(len(NAMES))]
    return prompt_table(pl.DataFrame({"athlete": NAMES, "sport": sports}), TOKENIZER, 0, "full")


def test_groups_have_equal_lengths_and_at_least_two_prompts(table):
    groups = list(same_length(table))
    rows = sorted(row for group in groups for row in group)
    assert len(rows) == len(set(rows)) and all(len(group) > 1 for group in groups)
    assert NAMES.index("Onlyone Longestname") not in rows
    for group in groups:
        assert table[group]["n_tokens"].n_unique() == 1 and table[group]["final_name"].n_unique() == 1


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_every_check_runs_on_every_family_and_a_model_that_knows_nothing_shows_nothing(table, family):
    anatomy = random_anatomy(family)
    answers = candidates(SPORTS, table["text"][0], TOKENIZER)
    checks = circuit_checks(anatomy, table, answers, batch_size=4, seed=0)
    assert checks["check"].to_list()[:2] == ["clean", "mlps_at_name"]
    assert checks.filter(pl.col("check").str.starts_with("donor")).height == anatomy.n_layers
    assert (checks["accuracy_low"] <= checks["accuracy"]).all() and (
        checks["accuracy"] <= checks["accuracy_high"]
    ).all()
    assert checks["accuracy"].max() < 0.75, "nothing was learnt, so nothing can be right but by chance"
    again = circuit_checks(anatomy, table, answers, batch_size=64, seed=0)
    assert checks.equals(again), "the batch size changes no answer"


def test_nobody_known_gives_an_empty_table(table):
    answers = candidates(SPORTS, table["text"][0], TOKENIZER)
    assert circuit_checks(random_anatomy("gpt_neox"), table[:0], answers, batch_size=4, seed=0).is_empty()
