"""Docs that are derived: as the declarations and the stored runs have them, and nothing without a meaning."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest

from factfinding.data.prompts import SCHEMA
from factfinding.declarations import declarations
from factfinding.derived_docs import RUNS, derived, with_numbers
from factfinding.errors import InputError
from factfinding.run_numbers import Lookups, render
from factfinding.tables import schema_of
from helpers import ROOT

DERIVED = derived()


@pytest.mark.parametrize("path", sorted(DERIVED), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_derived_doc_is_fresh(path):
    assert path.read_text() == DERIVED[path], f"{path.relative_to(ROOT)} is stale; `make docs` writes it anew"


@pytest.mark.parametrize("name", sorted(declarations().tables))
def test_every_column_and_every_table_says_what_it_is(name):
    table = declarations().tables[name]
    assert table.about
    meanings = [declared.about for declared in table.columns.values()]
    assert all(meanings) and len(set(meanings)) == len(meanings), (
        "a meaning that says nothing of its own column"
    )


def test_the_declared_prompts_are_those_that_are_written():
    assert pl.Schema(schema_of("prompts")) == pl.Schema(SCHEMA)


def test_every_stored_number_is_said_somewhere_and_every_template_is_used():
    docs = [path for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")] if RUNS not in str(path)]
    blocks = set(re.findall(r"<!-- numbers: (\S+) -->", "".join(path.read_text() for path in docs)))
    templates = {f"{path.parent.name}/{path.stem}" for path in (ROOT / RUNS).glob("*/*.md")}
    assert blocks == templates
    for folder in {path.parent for path in (ROOT / RUNS).glob("*/numbers.json")}:
        lookups = Lookups.stored(folder / "numbers.json")
        for template in folder.glob("*.md"):
            render(template, lookups)
        assert set(lookups.found) == set(json.loads((folder / "numbers.json").read_text()))


@pytest.fixture
def runs(tmp_path):
    """A run with one table, a template that looks a share up, and a doc with its block."""
    (tmp_path / "results/tables").mkdir(parents=True)
    rows = {"answer": ["golf", "chess"], "token_id": [7, 9], "answer_token": [" golf", " chess"]}
    rows["n_answer_tokens"] = [1, 1]
    pl.DataFrame(rows).write_csv(tmp_path / "results/tables/candidates.csv")
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/one/few.md").write_text(
        '{{ row("candidates", answer="golf").token_id }} of {{ count("candidates") }}, '
        '{{ row("candidates", first="-token_id").answer }} last\n'
    )
    return tmp_path


DOC = "Before.\n<!-- numbers: one/few -->\nold\n<!-- /numbers -->\nAfter.\n"


def test_numbers_of_a_run_are_written_between_the_marks_and_again_from_what_was_stored(runs):
    live = Lookups.live(runs / "results")
    text = with_numbers(DOC, runs / "runs", {"one": live})
    assert text == DOC.replace("old", "7 of 2, chess last")
    live.store(runs / "runs/one/numbers.json")
    assert with_numbers(DOC, runs / "runs", {}) == text == with_numbers(text, runs / "runs", {})


def test_a_template_sees_what_another_run_has_stored(runs):
    lookups = Lookups.live(runs / "results")
    with_numbers(DOC, runs / "runs", {"one": lookups})
    lookups.store(runs / "runs/one/numbers.json")
    (runs / "runs/two").mkdir()
    (runs / "runs/two/few.md").write_text('{{ of("one").count("candidates") }} there\n')
    text = with_numbers(DOC.replace("one/", "two/"), runs / "runs", {"two": lookups})
    assert "\n2 there\n" in text
    (runs / "runs/two/few.md").write_text('{{ of("one").count("recall") }}')
    with pytest.raises(InputError, match="count table="):
        with_numbers(DOC.replace("one/", "two/"), runs / "runs", {"two": lookups})


def test_what_stands_in_the_block_of_a_run_that_was_never_recorded_stays(runs):
    assert with_numbers(DOC, runs / "runs", {}) == DOC
    with pytest.raises(InputError, match="no such file"):  # but the block has a template
        with_numbers(DOC.replace("one/few", "one/many"), runs / "runs", {})


def test_a_comparison_is_read_with_its_column_of_studies(tmp_path):
    rows = {"study": ["a", "a", "b"], "verdict": ["supported", "undecided", "supported"]}
    pl.DataFrame(rows).write_csv(tmp_path / "ledger.csv")
    assert Lookups.live(tmp_path).count("ledger", study="a", verdict="supported") == 1


def test_a_number_that_no_run_gave_is_named(runs):
    Lookups.live(runs / "results").store(runs / "runs/one/numbers.json")
    with pytest.raises(InputError, match=r'row answer="golf" table="candidates"'):
        with_numbers(DOC, runs / "runs", {})
    with pytest.raises(InputError, match="0 rows"):
        Lookups.live(runs / "results").row("candidates", answer="darts")
