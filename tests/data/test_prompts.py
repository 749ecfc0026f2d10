"""Prompts: the name's tokens are where the tokenizer says, and what cannot be told apart is refused."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factfinding.data.fact_prompts import donor_prompts, fact_prompts
from factfinding.data.facts import COLUMNS
from factfinding.data.prompts import CONDITIONS, ROLES, candidates, in_parts, prompt_table, prompt_text
from factfinding.data.tokens import first_token
from factfinding.errors import InputError
from factfinding.experiments.context.compute import context_prompts
from factfinding.relation import STUDY
from helpers.models import tokenizer

TOKENIZER = tokenizer()
PROMPT = prompt_text("A B", "full").text
NAMES = [
    "Michael Jordan",
    "Nikola Jokić",
    "Shaquille O'Neal",
    "Karl-Anthony Towns",
    "Nenê",
    "J.J. Watt",
    "X Æ A-12",
    "李 明",
]


def table(names, condition, tokens=TOKENIZER, bos=0):
    people = pl.DataFrame({"subject": names, "answer": ["baseball"] * len(names)})
    return prompt_table(people, tokens, bos, condition)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_name_tokens_decode_to_the_name(condition):
    for row in table(NAMES, condition).iter_rows(named=True):
        name = TOKENIZER.decode(row["token_ids"][row["first_name"] : row["final_name"] + 1])
        assert name == " " + row["subject"]
        assert row["token_ids"][0] == 0 and row["n_tokens"] == len(row["token_ids"]) == len(row["roles"])
        assert row["n_name_tokens"] == row["final_name"] - row["first_name"] + 1


@pytest.mark.parametrize("condition", CONDITIONS)
def test_without_bos_a_prompt_is_its_words_and_all_begin_with_the_same_token(condition):
    bos = first_token(TOKENIZER, STUDY.shot + STUDY.before)
    prompts, with_bos = table(NAMES, condition, bos=bos), table(NAMES, condition)
    for row, other in zip(prompts.iter_rows(named=True), with_bos.iter_rows(named=True), strict=True):
        words = other["token_ids"][1:]
        assert row["token_ids"] == ([bos, *words] if condition == "name_only" else words)
        assert row["token_ids"][0] == bos and row["roles"][0] == "bos" and row["roles"].count("bos") == 1
        assert len(row["roles"]) == row["n_tokens"] == len(row["token_ids"])
        for role in ("first_name", "final_name", "end"):
            assert row["token_ids"][row[role] :] == other["token_ids"][other[role] :], role
            assert row["roles"][row[role]] == other["roles"][other[role]]
        assert row["roles"][1:] == other["roles"][1 if condition == "name_only" else 2 :]


def test_without_bos_facts_donors_and_contexts_begin_with_that_token_too():
    bos, name = first_token(TOKENIZER, STUDY.shot), "Bo Li"
    ask = [
        ("own", f"Fact: {name} plays"),
        ("other", f"It is said that {name} plays"),
        ("name", f"{name} plays"),
    ]
    facts = pl.DataFrame([(name, kind, prompt, "golf") for kind, prompt in ask], orient="row", schema=COLUMNS)
    people = pl.DataFrame({"subject": [name], "answer": ["baseball"]})
    prompts = fact_prompts(facts, TOKENIZER, bos)
    for (kind, text), row in zip(ask, prompts.iter_rows(named=True), strict=True):
        words, ids = TOKENIZER(text, add_special_tokens=False)["input_ids"], row["token_ids"]
        assert (
            ids == (words if kind == "own" else [bos, *words])
            and row["n_tokens"] == len(ids) == row["end"] + 1
        )
        assert TOKENIZER.decode(ids[row["first_name"] : row["final_name"] + 1]).strip() == name
        donor = donor_prompts(people, row["prefix"], TOKENIZER, bos).row(0, named=True)
        assert donor["token_ids"] == ids[: row["final_name"] + 1] and donor["final_name"] == row["final_name"]
    for context, own in (("Fact:", True), (" Mr", False), ("", False)):
        row = context_prompts(TOKENIZER, bos, people, context).row(0, named=True)
        words = TOKENIZER(f"{context} {name}", add_special_tokens=False)["input_ids"]
        assert row["token_ids"] == (words if own else [bos, *words])
        assert TOKENIZER.decode(row["token_ids"][row["first_name"] : row["final_name"] + 1]) == f" {name}"
        assert row["roles"][row["final_name"]] == "final_name" and len(row["roles"]) == row["n_tokens"]


def test_a_name_never_takes_the_place_of_bos():
    row = table(["Bo Li"], "name_only", bos=first_token(TOKENIZER, " Bo")).row(0, named=True)
    assert row["first_name"] == 1 and row["token_ids"][0] == row["token_ids"][1]


@given(st.text(st.characters(categories=["L", "M", "N", "P"]), min_size=1, max_size=30))
def test_roles_partition_every_prompt(name):
    for condition in CONDITIONS:
        row = table([name], condition).row(0, named=True)
        found = row["roles"]
        assert set(found) <= set(ROLES) and found[0] == "bos" and found.count("bos") == 1
        assert found[row["final_name"]] == "final_name" and found.count("final_name") == 1
        assert sum(role.endswith("_name") for role in found) == row["n_name_tokens"]
        order = [ROLES.index(role) for role in found]
        assert order == sorted(order), "roles follow one another in the order in which they are listed"
        assert found[row["end"]] == ("final_name" if condition == "name_only" else "end")
        shot = "".join(
            TOKENIZER.decode([t]) for t, r in zip(row["token_ids"], found, strict=True) if r == "shot"
        )
        assert shot == (STUDY.shot if condition == "full" else "")


def test_the_wording_is_the_studys():
    assert (
        prompt_text("A B", "full").text
        == "Fact: Tiger Woods plays the sport of golf\nFact: A B plays the sport of"
    )
    assert prompt_text("A B", "zero_shot").text == "Fact: A B plays the sport of"
    assert prompt_text("A B", "name_only").text == " A B"


def test_a_name_that_merges_with_its_neighbour_is_refused_by_name():
    merging = tokenizer(vocabulary=300)
    merging.backend_tokenizer.add_tokens(["Bo plays"])  # cut out before words are kept apart
    with pytest.raises(
        InputError,
        match=r"1 of 2 names under 'full': subject 'Jim Bo'.*merges with its neighbours \(' Jim Bo plays'\)",
    ):
        table(["Ann Li", "Jim Bo"], "full", merging)


def test_candidates_are_the_tokens_after_the_prompt():
    prompt = prompt_text("Michael Jordan", "full").text
    found = candidates(["football", "baseball"], prompt, TOKENIZER)
    assert found["answer"].to_list() == ["baseball", "football"]
    assert [TOKENIZER.decode([t]) for t in found["token_id"]] == [" baseball", " football"]


def test_an_answer_of_several_tokens_is_asked_by_its_first():
    found = candidates(["football", "basketball match"], PROMPT, TOKENIZER)
    assert found["answer_token"].to_list() == [" basketball", " football"]
    assert found["n_answer_tokens"][0] > 1 and found["n_answer_tokens"][1] == 1
    assert in_parts(found) == "basketball match by ' basketball'"
    assert in_parts(found.filter(answer="football")) == ""


def test_two_answers_that_begin_with_one_token_are_refused_by_both_names_and_the_token():
    with pytest.raises(
        InputError,
        match="answers 'football' and 'football match': found the same first token ' football', .*leave the rows",
    ):
        candidates(["baseball", "football match", "football"], PROMPT, TOKENIZER)


def test_an_answer_that_begins_with_a_token_of_white_space_is_refused():
    with pytest.raises(
        InputError, match=r"answer 'water polo': found a first token of white space alone \('Ġ' "
    ):
        candidates(["baseball", "water polo"], PROMPT, TOKENIZER)


def test_an_answer_that_merges_with_the_prompt_is_refused():
    merging = tokenizer()
    merging.backend_tokenizer.add_tokens(["of football"])  # cut out before words are kept apart
    with pytest.raises(
        InputError, match="answer 'football': found tokens that merge with those of the prompt"
    ):
        candidates(["baseball", "football"], PROMPT, merging)
