"""P1.6 on models whose unit is known: two tokens of a name, or its first one alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl

from factfinding.experiments.name_unit.compute import (
    cut_off,
    drawn_tokens,
    name_unit,
    put_after,
    put_before,
)
from factfinding.experiments.name_unit.show import draw_name_unit
from factfinding.findings.words import told
from factfinding.stats import cosines
from factfinding.tables import schema_of
from helpers import variants
from helpers.figures import assert_readable
from helpers.head_tables import planted_candidates
from helpers.intervention_tables import readers_of

MODEL = variants.at_name()


@cache
def tables_of(model) -> dict[str, pl.DataFrame]:
    made, reader = model(), readers_of(model().anatomy, model().prompts)
    return name_unit(
        made.anatomy, made.prompts, made.prompts, planted_candidates(made), reader, batch_size=80, seed=0
    )  # fmt: skip


def own(model, place: str, layer: int) -> dict:
    return tables_of(model)["name_unit"].filter(place=place, layer=layer).row(0, named=True)


def test_the_unit_of_two_tokens_is_another_one_where_the_name_goes_on():
    """A last name put after the name looks for the first name as the name's own does: what it finds is of another pair."""
    whole, appended = own(variants.at_name, "whole", 1), own(variants.at_name, "appended", 1)
    assert whole["own"] == 1 and whole["from_whole"] is None and whole["cosine"] > 0.999
    assert 0.3 < appended["own"] < 0.7 and appended["from_whole_high"] < -0.2
    assert appended["n"] == 80 and appended["majority_rate"] == 0.5


def test_where_the_first_name_is_all_that_counts_the_next_token_inherits_it():
    assert own(variants.additive, "appended", 1)["own"] == own(variants.additive, "whole", 1)["own"] == 1


def test_a_first_name_put_before_the_name_is_taken_in_by_a_head_that_sees_all_first_names():
    """The planted head looks at every first name alike, so half of what it brings is another's."""
    assert own(variants.at_name, "preceded", 1)["own"] < 0.9


def test_a_name_that_has_not_ended_carries_nothing_here():
    prefix = own(variants.at_name, "prefix", 1)
    assert prefix["tokens_left"] == 1 and abs(prefix["own"] - 0.5) < 0.05
    assert tables_of(variants.at_name)["name_unit"].filter(place="prefix")[
        "tokens_left"
    ].unique().to_list() == [1]


def test_tokens_are_put_where_they_should_be():
    prompts, rng = MODEL.prompts, np.random.default_rng(0)
    tokens = drawn_tokens(prompts, "final_name", MODEL.anatomy, prompts, rng)
    lasts = {ids[at] for ids, at in prompts.select("token_ids", "final_name").iter_rows()}
    assert set(tokens.tolist()) <= lasts
    row, after, before = (
        table.row(0, named=True)
        for table in (prompts, put_after(prompts, tokens), put_before(prompts, tokens))
    )
    at, token = row["final_name"], tokens[0]
    assert after["token_ids"] == [*row["token_ids"][: at + 1], token, *row["token_ids"][at + 1 :]]
    assert after["token_ids"][after["final_name"]] == token and after["first_name"] == row["first_name"]
    first = row["first_name"]
    assert before["token_ids"] == [*row["token_ids"][:first], token, *row["token_ids"][first:]]
    for changed in (after, before):
        assert changed["token_ids"][changed["end"]] == row["token_ids"][row["end"]]
        assert (
            changed["n_tokens"] == len(changed["token_ids"]) == len(changed["roles"]) == row["n_tokens"] + 1
        )
    assert before["token_ids"][before["final_name"]] == row["token_ids"][at]
    assert cut_off(prompts, 1)["final_name"].to_list() == prompts["first_name"].to_list()
    assert cut_off(prompts, 2).is_empty()


def test_a_cosine_with_nothing_is_nothing():
    one = np.array([[[3.0, 4.0]], [[0.0, 0.0]]])
    assert cosines(one, np.array([[[4.0, 3.0]], [[1.0, 0.0]]])).tolist() == [[0.96], [0.0]]


def test_the_words_and_the_figure_are_those_of_the_table():
    said = told("name_unit", tables_of(variants.at_name))
    assert "own sport after layer 1 for 100.0" in said[0] and "surely less." in said[0]
    assert said[1].startswith(
        "Of a name that has not ended, the same probe reads the own sport: 1 token before its end"
    )
    assert "of 80 names as they are" in said[2]
    assert_readable(draw_name_unit(name_unit=tables_of(variants.at_name)["name_unit"]))


def test_without_readers_the_tables_are_empty():
    reader = readers_of(MODEL.anatomy, MODEL.prompts)
    none = replace(reader, subjects=(), fold=reader.fold[:0])
    given = (MODEL.anatomy, MODEL.prompts, MODEL.prompts, planted_candidates(MODEL), none)
    found = name_unit(*given, batch_size=80, seed=0)
    for name, table in found.items():
        assert table.is_empty() and table.schema == pl.Schema(schema_of(name))
    assert not draw_name_unit(name_unit=found["name_unit"]).axes and len(told("name_unit", found)) == 1
