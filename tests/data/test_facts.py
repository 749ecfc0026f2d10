from __future__ import annotations

import csv

import pytest

from factfinding.data.facts import read_facts
from factfinding.errors import InputError

HEADER = ["subject", "relation", "prompt", "answer"]
GOOD = ["Michael Jordan", "answer", "Fact: Michael Jordan plays the sport of", "basketball"]


def _write(tmp_path, *rows, header=HEADER):
    path = tmp_path / "facts.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


def test_facts_load(tmp_path):
    shots = "Fact: Tiger Woods plays the sport of golf\nFact: Michael Jordan shirt number"
    rows = [
        GOOD,
        ["Michael Jordan", "number", shots, "23"],
        ["José", "state", "Maine is where José is from:", "Maine"],
    ]
    frame = read_facts(_write(tmp_path, *rows))
    assert frame.columns == HEADER
    assert [list(row) for row in frame.rows()] == rows


def test_other_columns_and_order_do_not_matter(tmp_path):
    path = _write(tmp_path, ["0", *reversed(GOOD)], header=["", *reversed(HEADER)])
    assert read_facts(path).rows() == [tuple(GOOD)]


def test_newlines_in_prompts_are_line_feeds_however_saved(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_bytes(b'subject,relation,prompt,answer\r\nAl,answer,"Fact: one\r\nFact: Al plays",golf\r\n')
    assert read_facts(path)["prompt"][0] == "Fact: one\nFact: Al plays"


def test_unicode_forms_meet(tmp_path):
    path = _write(tmp_path, ["Jose\u0301", "answer", "José plays", "golf"])
    assert read_facts(path)["subject"][0] == "José"


def _with(**changes):
    return [changes.get(name, cell) for name, cell in zip(HEADER, GOOD, strict=True)]


@pytest.mark.parametrize(
    ("row", "found", "allowed"),
    [
        (_with(subject=" "), "row 2 (subject): found an empty cell", "text"),
        (_with(relation=""), "row 2 (relation of Michael Jordan): found an empty cell", "text"),
        (_with(prompt=" \n"), "an empty prompt", "text"),
        (_with(answer=""), "an empty answer", "text"),
        (
            _with(prompt="Fact: Michael Jordan plays "),
            "ends in whitespace: 'ichael Jordan plays '",
            "last word",
        ),
        (_with(prompt="Fact: Michael Jordan plays\n"), "ends in whitespace", "last word"),
        (_with(answer=" golf"), "the answer ' golf'", "without whitespace"),
        (_with(answer="golf\n"), "the answer 'golf\\n'", "without whitespace"),
        (
            _with(prompt="Fact: Jordan plays"),
            "holds its subject 0 times: 'Fact: Jordan plays'",
            "exactly once",
        ),
        (_with(prompt="Michael Jordan: Michael Jordan is"), "holds its subject 2 times", "exactly once"),
        (_with(subject="aa", prompt="aaa is"), "holds its subject 2 times", "exactly once"),
        (_with(subject="Michael\nJordan"), "the character U+000A", "one line"),
        (
            GOOD,
            "row 2 (Michael Jordan, answer): found the same subject and relation as in row 1",
            "each once",
        ),
        (GOOD[:3], "3 cells", "4 cells"),
    ],
)
def test_bad_facts_say_where_what_and_what_is_allowed(tmp_path, row, found, allowed):
    path = _write(tmp_path, GOOD, row)
    with pytest.raises(InputError) as error:
        read_facts(path)
    said = str(error.value)
    assert said.startswith(f"{path}, row 2") and found in said and allowed in said.split("; allowed: ")[1]


def test_missing_columns_and_files(tmp_path):
    with pytest.raises(InputError, match="no column 'answer' among 'subject', 'relation', 'prompt'"):
        read_facts(_write(tmp_path, GOOD[:3], header=HEADER[:3]))
    with pytest.raises(InputError, match="a header and no rows"):
        read_facts(_write(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        read_facts(tmp_path / "none.csv")
