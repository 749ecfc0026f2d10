"""The token that prompts begin with: a planted model that one token leads astray, and what is said of it."""

from __future__ import annotations

import polars as pl
import polars.selectors as cs
import pytest
import torch

from factfinding.data.prompts import prompt_table
from factfinding.engine.answers import answers
from factfinding.experiments.recall.bos import SAMPLE, beginning_with, bos_check, bos_tokens, sample
from factfinding.experiments.recall.show import bos_warnings
from factfinding.findings.words import with_open_ends
from factfinding.known import Rule
from factfinding.model.anatomy import Anatomy
from factfinding.tables import schema_of
from helpers import planted

TURN, TEXT = "<|im_start|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def astray() -> Anatomy:
    """`planted.at_name`, whose tokenizer names a BOS that looks like a first name: the last name gathers its sign."""
    made = planted.at_name(firsts=8, lasts=8).anatomy
    made.tokenizer.add_special_tokens({"bos_token": TURN})
    row = made.tokenizer.convert_tokens_to_ids(TURN)
    embedding = made.model.gpt_neox.embed_in.weight
    with torch.no_grad():
        embedding[row] = planted.BALLAST * planted.direction("ballast")
        embedding[row] += 2 * planted.direction("first") + planted.direction("first_sign")
    return Anatomy(made.model, made.tokenizer)


def asked(anatomy: Anatomy) -> tuple[pl.DataFrame, pl.DataFrame]:
    people = planted.subjects(firsts=8, lasts=8)
    prompts = prompt_table(people, anatomy.tokenizer, anatomy.bos_token_id, "full")
    ids = anatomy.tokenizer.convert_tokens_to_ids([f" {answer}" for answer in planted.ANSWERS])
    return prompts, pl.DataFrame({"answer": planted.ANSWERS, "token_id": ids})


def checked(anatomy: Anatomy) -> pl.DataFrame:
    return bos_check(anatomy, *asked(anatomy), seed=0, batch_size=16)


def warned(table: pl.DataFrame) -> list[str]:
    return bos_warnings({"bos_check": with_open_ends(table)})


def test_a_beginning_that_leads_astray_is_found_and_the_line_to_write_is_said(astray):
    table = checked(astray)
    assert table.schema == pl.Schema(schema_of("bos_check"))
    assert table["token"].to_list() == [TURN, TEXT, "none"] and table["used"].to_list() == [
        True,
        False,
        False,
    ]
    assert table["accuracy"].to_list() == [
        0.5,
        1.0,
        1.0,
    ]  # half of the names have the sign of the planted BOS
    assert table["recalled_from_used"].to_list()[1:] == [0.5, 0.5] and table["recalled_from_used"][0] is None
    assert (table["n"] == 64).all() and (table["majority_rate"] == 0.5).all()
    (first,) = warned(table)
    assert f"begin with {TEXT} do clearly better than those with {TURN}" in first
    assert first.endswith('Write `model: {bos: "<|endoftext|>"}` into the configuration.')
    assert "50.0" in first and "instead of" in first and "in pairs +50.0 [" in first
    (none,) = warned(table.filter(pl.col("token") != TEXT))
    assert "begin with no token before their words do clearly better" in none
    assert none.endswith('Write `model: {bos: "none"}` into the configuration.')


def test_with_the_token_that_is_better_nothing_is_said(astray):
    table = checked(Anatomy(astray.model, astray.tokenizer, bos=TEXT))
    assert table["token"].to_list() == [TEXT, TURN, "none"]
    assert warned(table) == []
    assert table["recalled_from_used"].to_list() == [None, -0.5, 0.0]


def test_who_is_recalled_is_by_the_rule_of_the_study(astray):
    """Where the planted model is right it is so by any rule, but never with all of the probability."""
    prompts, candidates = asked(astray)
    tables = {
        rule: bos_check(astray, prompts, candidates, rule, seed=0, batch_size=16)
        for rule in (Rule(), Rule(above=1 - 1e-9), Rule(how="best"), Rule(how="first"))
    }
    for rule, table in tables.items():
        exact = table["accuracy"] if rule.how != "probability" or rule.above == 0.5 else [0.0] * 3
        assert table["recalled"].to_list() == list(exact), rule
        assert table.drop(cs.starts_with("recalled")).equals(tables[Rule()].drop(cs.starts_with("recalled")))


def test_a_small_gain_is_no_warning(astray):
    table = checked(astray).with_columns(
        recalled_from_used_low=pl.lit(0.049),
        accuracy_from_used_low=pl.lit(0.05),
        logp_from_used_low=pl.lit(0.69),
    )
    assert warned(table) == []
    assert len(warned(table.with_columns(logp_from_used_low=pl.lit(0.71)))) == 1
    unmeasured = {
        f"{name}_from_used_low": pl.lit(None, pl.Float64) for name in ("recalled", "accuracy", "logp")
    }
    assert warned(table.with_columns(**unmeasured)) == [] and bos_warnings({}) == []


def test_without_a_token_the_prompt_is_its_words(astray):
    prompts, candidates = asked(astray)
    bare = beginning_with(prompts, None)
    assert bare["token_ids"].to_list() == [ids[1:] for ids in prompts["token_ids"].to_list()]
    tokens = torch.tensor(bare["token_ids"].to_list())
    logits = astray.model(tokens).logits[:, -1].log_softmax(-1)[:, candidates["token_id"].to_list()]
    said = answers(astray, bare, candidates["token_id"].to_list(), batch_size=64)
    assert torch.allclose(torch.from_numpy(said.logp), logits, atol=1e-9)
    other = beginning_with(prompts, 7)
    assert {ids[0] for ids in other["token_ids"].to_list()} == {7} and other["end"].equals(prompts["end"])


def test_a_study_without_bos_is_held_against_every_token(astray):
    bare = Anatomy(astray.model, astray.tokenizer, bos="none", template="Fact:")
    prompts, candidates = asked(bare)
    assert (
        prompts["token_ids"].to_list()
        == bare.tokenizer(prompts["text"].to_list(), add_special_tokens=False)["input_ids"]
    )
    table = bos_check(bare, prompts, candidates, seed=0, batch_size=16)
    assert table["token"].to_list() == ["none", TURN, TEXT] and table["used"].to_list() == [
        True,
        False,
        False,
    ]
    same = checked(astray).sort("token")
    assert table.sort("token")["logp"].to_list() == same["logp"].to_list(), (
        "each beginning is measured as before"
    )
    assert warned(table) == [] and table["recalled_from_used"].to_list() == [None, -0.5, 0.0]


def test_the_sample_is_drawn_whatever_the_order():
    people = pl.DataFrame({"subject": [f"A{i:03}" for i in range(3 * SAMPLE)]})
    drawn = sample(people, seed=1)
    assert drawn.height == SAMPLE and drawn.equals(sample(people[::-1], seed=1))
    assert not drawn.equals(sample(people, seed=2)) and sample(people[:5], seed=1).height == 5


def test_tokens_of_one_kind_are_tried_once_and_others_by_their_names(astray):
    tokenizer = planted.tokenizer()
    assert list(bos_tokens(tokenizer, tokenizer.bos_token_id)) == [TEXT, "none"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|begin_of_text|>", "<|vision_start|>"]})
    assert list(bos_tokens(tokenizer, tokenizer.bos_token_id)) == [TEXT, "<|begin_of_text|>", "none"]
