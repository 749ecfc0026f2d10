"""Every figure and every sentence takes what a table may hold: one subject, no interval, two, five or eight answers."""

from __future__ import annotations

import re
from math import inf

import polars as pl
import pytest
from hypothesis import Phase, example, given, note, settings
from hypothesis import strategies as st

from factfinding.declarations import declarations
from factfinding.figures import style
from factfinding.findings.words import number, share, told, with_open_ends
from helpers.drawn_tables import Drawn, drawn_tables
from helpers.figures import assert_readable, drawn

ONE = Drawn(n_answers=2, layers=1, heads=1, n=1, intervals="none")
"""One subject, one head: nothing has an interval."""
MANY = Drawn(n_answers=8, layers=4, heads=4, n=1500, intervals="some", tokens=(2, 3, 11), facts=4)
TWENTY = Drawn(n_answers=20, n=1500)
"""As many answers as there may be."""
DRAWN = st.builds(
    Drawn,
    n_answers=st.sampled_from((2, 5, 8)),
    layers=st.integers(1, 4),
    heads=st.integers(1, 3),
    n=st.sampled_from((1, 2, 40, 1500)),
    intervals=st.sampled_from(("none", "some", "all")),
    values=st.sampled_from(("shares", "zeros", "normal")),
    tokens=st.sampled_from(((2,), (3,), (2, 3, 11))),
    facts=st.integers(2, 4),
    ks=st.integers(1, 5),
    seed=st.integers(0, 99),
)
QUICKLY = settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
"""A handful of examples, and none of them made smaller: each draws every figure."""
EXPERIMENTS = [name for name, experiment in declarations().experiments.items() if experiment.figures]


def test_the_tables_that_are_drawn_are_those_that_are_declared():
    declared = declarations()
    tables = drawn_tables(MANY)
    read = {table for _, figure in declared.figures.values() for table in figure.tables}
    assert read <= set(tables)
    for name, table in tables.items():
        assert declared.tables[name].types(table.columns) is not None, name
        assert table.height, name
    lows = [column for column in tables["ladder"].columns if column.endswith("_low")]
    empty = sum(tables["ladder"][column].null_count() for column in lows)
    assert 0 < empty < len(lows) * tables["ladder"].height
    assert drawn_tables(ONE)["ladder"].select(lows).null_count().row(0) == (
        drawn_tables(ONE)["ladder"].height,
    ) * len(lows)


@pytest.mark.parametrize("name", declarations().figures)
@pytest.mark.parametrize("how", [ONE, MANY, TWENTY], ids=["one", "many", "twenty"])
def test_every_figure_of_one_and_of_many_can_be_read(name, how):
    assert_readable(_drawn(name, how))


@QUICKLY
@given(how=DRAWN)
def test_every_figure_is_drawn_whatever_its_tables_hold(how):
    for name in declarations().figures:
        note(name)
        _drawn(name, how)


@QUICKLY
@given(how=DRAWN)
@example(how=ONE)
@example(how=MANY)
def test_every_sentence_is_said_and_says_no_number_that_is_none(how):
    tables = drawn_tables(how)
    for name in EXPERIMENTS:
        note(name)
        more = {"fictional": True} if name == "training" else {}
        sentences = told(name, tables, **more)
        assert sentences, name
        for sentence in sentences:
            assert sentence and sentence[-1] in ".!?)", (name, sentence)
            assert not re.search(r"\b(None|nan|inf|null)\b", sentence), (name, sentence)


def _drawn(name: str, how: Drawn):
    return drawn(name, drawn_tables(how, declarations().figures[name][1].tables))


def test_an_interval_that_was_not_measured_decides_nothing_and_is_not_written():
    table = pl.DataFrame(
        {"value": [0.9], "value_low": [None], "value_high": [float("nan")]},
        schema_overrides={"value_low": pl.Float64},
    )
    row = with_open_ends(table).row(0, named=True)
    assert (row["value_low"], row["value_high"]) == (-inf, inf)
    for either in (row, table.row(0, named=True)):
        assert share(either, "value") == "90.0\N{NO-BREAK SPACE}%" and number(either, "value", ".1f") == "0.9"


def test_a_band_without_an_interval_is_a_line():
    figure = style.new_figure(2)
    frame = pl.DataFrame(
        {"layer": [0, 1], "share": [0.5, 0.6], "share_low": [None, None], "share_high": [None, None]}
    )
    line = style.band(figure.subplots(), frame, "layer", "share")
    assert line.get_ydata().tolist() == [50, 60]
