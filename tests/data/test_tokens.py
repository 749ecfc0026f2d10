"""The token that an answer is asked by, and what must hold of every prompt before a model is asked."""

from __future__ import annotations

import polars as pl
import pytest

from factfinding.config import RelationConfig
from factfinding.data.fact_prompts import fact_prompts
from factfinding.data.prompts import candidates, check_shot, prompt_table, prompt_text
from factfinding.data.tokens import answer_token, check_prompts
from factfinding.errors import InputError
from factfinding.relation import STUDY
from helpers.wild import byte_level, digits, metaspace, prefixed, texts, words

PEOPLE = [("Babe Ruth", "baseball"), ("Michael Jordan", "basketball"), ("Tom Brady", "football")]
TRAIN = texts(PEOPLE)
DIGITS, WHOLE = digits(TRAIN), byte_level(TRAIN)


def asked(tokenizer, answer: str):
    base = tokenizer("in the year", add_special_tokens=False)["input_ids"]
    after = tokenizer(f"in the year {answer}", add_special_tokens=False)["input_ids"]
    assert after[: len(base)] == base
    return answer_token(tokenizer, after[len(base) :], answer)


@pytest.mark.parametrize("answer", ["1963", "1823", "23", "7777", "1,000", "2.5", "4th and 10"])
def test_where_digits_stand_apart_a_number_has_no_token_to_be_asked_by(answer):
    found = asked(DIGITS, answer)
    assert [DIGITS.decode([token]) for token in found.space] == [" "]
    if answer == "4th and 10":
        assert found.unusable is None and found.text == "4", "no longer number goes on after it"
    else:
        assert f"{answer[0]!r} is a part of a number" in found.unusable


@pytest.mark.parametrize("answer", ["7", "0", "baseball", "Chicago"])
def test_white_space_goes_into_the_prompt_and_what_follows_is_asked(answer):
    found = asked(DIGITS, answer)
    assert found.unusable is None and found.text.strip() and answer.startswith(found.text.strip())
    assert "".join(DIGITS.decode([token]) for token in found.space) == (" " if found.text[0] != " " else "")


def test_a_whole_number_of_one_token_is_asked_by_it():
    assert asked(WHOLE, "1963").text == " 1963" and asked(WHOLE, "1963").unusable is None
    assert "' 1' is a part" not in str(asked(WHOLE, "1963").unusable)
    assert "is a part of a number" in asked(WHOLE, "19637").unusable


@pytest.mark.parametrize(
    ("tokenizer", "answer", "reason"),
    [
        (WHOLE, "Émile", "a part of a character"),
        (WHOLE, "李", "a part of a character"),
        (WHOLE, "$100", "no letter and no digit"),
        (WHOLE, "“Jaws”", "a part of a character"),
        (words(TRAIN, declared=True), "chess", "stands for anything unknown"),
        (metaspace(TRAIN), "Ωmega", "has no letter"),
    ],
)
def test_what_is_no_answer_has_a_reason(tokenizer, answer, reason):
    said = asked(tokenizer, answer).unusable
    assert said is not None and (reason in said or "stands for anything unknown" in said)


FACTS = pl.DataFrame(
    [
        ("Michael Jordan", "sport", "Fact: Michael Jordan plays the sport of", "basketball"),
        ("Michael Jordan", "birth_year", "Fact: Michael Jordan was born in the year", "1963"),
        ("Michael Jordan", "shirt_number", "Fact: Michael Jordan wore the number", "23"),
        ("Michael Jordan", "finger", "Fact: The rings of Michael Jordan are", "6"),
        ("Michael Jordan", "city", "Fact: Michael Jordan of the Chicago Bulls lived in", "Chicago"),
    ],
    schema=["subject", "relation", "prompt", "answer"],
    orient="row",
)


def test_facts_that_cannot_be_asked_stay_with_the_reason():
    """By the digits' tokenizer all years would share one token, a bare space; now they share none."""
    prompts = {row["fact"]: row for row in fact_prompts(FACTS, DIGITS, 0).iter_rows(named=True)}
    assert prompts["sport"]["left_out"] is None and prompts["sport"]["answer_token"] == " basketball"
    assert prompts["birth_year"]["left_out"] == "its first token '1' is a part of a number"
    assert prompts["shirt_number"]["left_out"] == "its first token '2' is a part of a number"
    assert prompts["city"]["left_out"] == "its prompt holds the answer"
    six = prompts["finger"]
    assert six["left_out"] is None and six["answer_token"] == "6"
    assert DIGITS.decode(six["token_ids"][1:]) == "Fact: The rings of Michael Jordan are "
    assert six["end"] == six["n_tokens"] - 1 == len(six["token_ids"]) - 1
    tokens = [row["target"] for row in prompts.values() if row["left_out"] is None]
    assert len(tokens) == len(set(tokens))


def test_the_same_facts_are_asked_where_numbers_are_tokens():
    prompts = fact_prompts(FACTS, WHOLE, 0).filter(pl.col("left_out").is_null())
    assert dict(prompts.select("fact", "answer_token").rows())["birth_year"] == " 1963"


def test_a_fact_of_a_name_that_the_tokenizer_does_not_know_is_left_out():
    known = words([*TRAIN, "Fact: Michael Jordan wore the number 23"], declared=True)
    facts = FACTS.filter(pl.col("relation").is_in(["shirt_number", "sport"])).with_columns(
        prompt=pl.col("prompt").str.replace("Michael", "Zinedine"),
        subject=pl.col("subject").str.replace("Michael", "Zinedine"),
    )
    assert set(fact_prompts(facts, known, 0)["left_out"]) == {"the tokenizer does not know the name"}


# names


def tables(names, tokenizer, conditions=("full", "zero_shot", "name_only")):
    people = pl.DataFrame({"subject": names, "answer": ["baseball"] * len(names)})
    return {condition: prompt_table(people, tokenizer, 0, condition) for condition in conditions}


def test_names_alone_begin_without_a_space_where_the_tokenizer_puts_one():
    found = tables(["Babe Ruth"], prefixed(TRAIN))
    assert found["name_only"]["text"].to_list() == ["Babe Ruth"]
    assert tables(["Babe Ruth"], WHOLE)["name_only"]["text"].to_list() == [" Babe Ruth"]


def test_a_name_of_other_tokens_under_another_condition_is_refused():
    found = tables(["Babe Ruth", "Tom Brady"], WHOLE)
    other = tables(["Babe Ruth", "Tom  Brady"], WHOLE)["name_only"].with_columns(
        subject=found["full"]["subject"]
    )
    with pytest.raises(
        InputError,
        match=r"subject 'Tom Brady': found the name tokens .* under 'full' and .* under 'name_only'",
    ):
        check_prompts(found | {"name_only": other}, WHOLE)


def test_two_names_of_the_same_tokens_are_refused():
    from tokenizers import normalizers

    bare = byte_level(TRAIN, normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]))
    with pytest.raises(InputError, match="subjects 'José Cruz' and 'Jose Cruz': found the same tokens"):
        check_prompts(tables(["José Cruz", "Bo Li", "Jose Cruz"], bare), bare)


def test_a_letter_without_a_token_is_refused():
    """A BPE without an unknown token and without bytes writes nothing for what it does not know."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.train_from_iterator(TRAIN, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    silent = PreTrainedTokenizerFast(tokenizer_object=made)
    with pytest.raises(
        InputError, match=r"1 of 2 names under 'full': subject 'Jokić'.*found no token for 'ć'"
    ):
        tables(["Babe Ruth", "Jokić"], silent)


def test_a_special_token_in_a_name_is_refused():
    with pytest.raises(InputError, match=r"1 of 2 names under 'full': 'Bo <\|endoftext\|>': found the token"):
        check_prompts(tables(["Babe Ruth", "Bo <|endoftext|>"], WHOLE), WHOLE)


# the example


@pytest.mark.parametrize("answer", ["golf", "Golf", "GOLF", "ｇｏｌｆ", "sport of golf", "sport"])
def test_an_answer_that_stands_in_the_example_is_refused(answer):
    with pytest.raises(InputError) as error:
        check_shot(["Babe Ruth"], ["baseball", answer])
    said = str(error.value)
    assert f"sport {answer!r}: found a word of the example" in said and STUDY.shot.strip() in said


@pytest.mark.parametrize("name", ["Tiger Woods", "TIGER WOODS", "Woods", "Tiger"])
def test_a_name_that_stands_in_the_example_is_refused(name):
    with pytest.raises(InputError, match=f"athlete '{name}': found a word of the example"):
        check_shot(["Babe Ruth", name], ["baseball"])


def test_the_example_is_that_of_the_relation():
    relation = RelationConfig(
        subject="city",
        subjects="cities",
        answer="country",
        answers="countries",
        shot="Fact: Oslo is in Norway\n",
    )
    check_shot(["Tiger Woods"], ["golf"], relation)
    with pytest.raises(
        InputError, match="country 'Norway': found a word of .*'Fact: Oslo is in Norway'.* countries that"
    ):
        check_shot(["Rome"], ["Italy", "Norway"], relation)
    with pytest.raises(InputError, match="city 'Oslo'.* cities that"):
        check_shot(["Oslo"], ["Italy"], relation)


def test_words_that_only_hold_a_word_of_the_example_are_none_of_it():
    check_shot(["Ickey Woods", "Charles Woodson", "Tigerwood"], ["miniature golf", "golfing", "the golf"])


def test_candidates_say_which_token_is_measured():
    found = candidates(["baseball", "football"], prompt_text("A B", "full").text, WHOLE)
    assert found["answer_token"].to_list() == [" baseball", " football"]
