"""The table of models and tables as they are found (docs/reliability.md) is what is said of them."""

from __future__ import annotations

import pytest

from helpers import ROOT, wild_table
from helpers.reliability import PAGE

LINES = wild_table.written(PAGE.read_text(encoding="utf-8")).splitlines()[2:]
SITUATIONS = wild_table.situations()


def test_the_table_has_every_situation_and_its_tests():
    assert len(LINES) == len(SITUATIONS) >= 20
    for situation in SITUATIONS:
        assert all((ROOT / path).is_file() for path in situation.test.split(", "))


@pytest.mark.parametrize(
    ("line", "situation"),
    list(zip(LINES, SITUATIONS, strict=False)),
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_line_is_what_is_said(line, situation):
    assert line == wild_table.row(situation), "make wild"
