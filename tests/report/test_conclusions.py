"""What a study says at first sight: ranked, true of a model that knows nothing, and with what is not to be trusted."""

from __future__ import annotations

import re

import polars as pl
import pytest

from factfinding.conclusions import SHOWN, cautions, conclusions
from factfinding.declarations import declarations
from factfinding.units import digits, measured
from helpers import example_tables

CARD = {"source": {"kind": "hub"}, "training": None}


def test_what_the_model_knows_comes_first_and_the_rest_by_size_and_certainty():
    found = conclusions(example_tables.study(knows=True))
    margins = [one.margin for one in found[1:]]
    assert found[0].about == "recall" and 3 <= len(margins) <= SHOWN
    assert margins == sorted(margins, reverse=True) and max(margins) <= 1
    for one in found:
        assert re.search(r"n = \d|of [\d,]+ <subjects>", one.sentence) and "[" in one.sentence, one.sentence
        assert "most" not in one.sentence.replace("at most", "").replace("almost", ""), one.sentence
        assert one.about in declarations().experiments


def test_a_wider_interval_comes_later():
    tables = example_tables.study(knows=True)
    about = [one.about for one in conclusions(tables)]
    wider = tables["total_effects"].with_columns(effect_high=0.02 * pl.col("effect"))
    later = [one.about for one in conclusions(tables | {"total_effects": wider})]
    assert later.index("total_effects") > about.index("total_effects")


def test_of_a_model_that_knows_nothing_only_that_is_said():
    (only,) = conclusions(example_tables.study(knows=False))
    assert only.sentence.startswith("Nothing here shows that the model knows") and only.margin <= 0


def said(card, knows: bool = True, **more) -> str:
    return " ".join(cautions(CARD | card, example_tables.study(knows=knows), **more))


def test_installed_heads_random_weights_fictional_people_and_one_seed_are_told():
    assert "Put in by hand: two heads." in said({"training": {"installed": "two heads"}})
    assert "weights are random" in said({"source": {"kind": "tiny"}}) and "fictional" in said(
        {}, fictional=True
    )
    plain = said({})
    assert (
        "by hand" not in plain
        and "random" not in plain
        and "fictional" not in plain
        and "another seed" in plain
    )


def test_quantised_weights_are_told_and_plain_ones_are_not():
    stored = {"kind": "gguf", "converted_from": {"tensor_types": {"F32": 61, "Q4_1": 200}}}
    assert "stored quantised (Q4_1)" in said({"source": stored})
    plain = {"kind": "gguf", "converted_from": {"tensor_types": {"F16": 61}}}
    assert "quantised" not in said({"source": plain})


def test_a_name_that_gives_the_answer_away_is_told():
    tables = example_tables.study(knows=True)
    given = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95}
    here = (pl.col("input") == "name_tokens") & (pl.col("labels") == "true")
    table = tables["layer_probes"].with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(name).alias(name) for name, value in given.items()
    )
    text = " ".join(cautions(CARD, tables | {"layer_probes": table}))
    assert (
        "part of the <answer> is in the tokens themselves" in text
        and "alone gives the <answer> away for 90.0" in text
    )
    assert "alone gives the <answer> away" not in said({})


@pytest.mark.parametrize(
    ("row", "unit", "words"),
    [
        ({"value": 0.5, "low": 0.4, "high": 0.6, "n": 1200}, "%", "50.0 % [40.0, 60.0], n = 1,200 athletes"),
        (
            {"value": -0.0123, "low": -0.02, "high": 0.0, "n": 9},
            "points",
            "-1.2 points [-2.0, 0.0], n = 9 athletes",
        ),
        ({"value": 3.0, "low": 3.0, "high": 3.0, "n": 12}, "heads", "3 heads, n = 12 athletes"),
        ({"value": 0.25, "low": None, "high": None, "n": 2}, "nats", "0.250 nats, n = 2 athletes"),
        ({"value": None, "low": None, "high": None, "n": None}, "%", ""),
    ],
)
def test_numbers_have_units_intervals_and_what_is_counted(row, unit, words):
    assert measured(row, unit, "athletes").replace("\N{NO-BREAK SPACE}", " ") == words


def test_nothing_is_written_as_minus_zero():
    assert digits(-0.0001, "%") == "0.0" and digits(-0.0004, "") == "-0.0004"


def test_every_claim_has_a_unit_or_says_what_it_counts():
    missing = [claim.id for _, claim in declarations().claims if claim.id not in declarations().units]
    assert missing == [], "scripts/factfinding/experiments/units.yaml"
    assert all(unit.counts for unit in declarations().units.values())


def test_a_sum_over_tokens_that_fits_anything_is_no_caution_about_tokens():
    tables = example_tables.study(knows=True)
    fits = pl.when(pl.col("folds") == "none").then(1.0).otherwise("accuracy").alias("accuracy")
    text = " ".join(cautions(CARD, tables | {"layer_probes": tables["layer_probes"].with_columns(fits)}))
    assert "it can be fitted to anything, and says nothing here" in text and "by heart" not in text
