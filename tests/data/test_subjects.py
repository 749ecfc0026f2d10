from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from factfinding.config import RelationConfig
from factfinding.data.prompts import prompt_text
from factfinding.data.relation_file import wording
from factfinding.data.subjects import read_subjects
from factfinding.errors import InputError
from factfinding.relation import STUDY


def _csv(tmp_path, text: str | bytes):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _read(tmp_path, rows, *, header="athlete,sport", **settings):
    path = _csv(tmp_path, "\n".join([header, *rows]) + "\n")
    return read_subjects(path, **{"min_per_answer": 1} | settings)


def _public_look_alike(tmp_path, newline: str, bom: str):
    """The shape of the study's own table: unnamed index, eight columns, newlines in prompts, repeats."""
    columns = [
        "",
        "athlete",
        "sport",
        "log_prob_one_shot",
        "num_athlete_tokens",
        "sport_index",
        "sport_token",
        "prompt",
    ]
    answers = {"baseball": (0, 14623), "basketball": (1, 14648), "football": (2, 5842)}
    people = [(f"First{i} Last{i}", list(answers)[i % 3]) for i in range(45)]
    people += [("José Ramírez", "baseball"), ("Shaquille O'Neal", "basketball"), ("Nene", "basketball")]
    people += [("Ronald Acuña Jr.", "baseball"), ("Juan Carlos de la Cruz-Peña", "football")]
    people += [("Michael Jordan", "basketball"), ("Michael Jordan", "baseball"), people[3]]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=newline)
    writer.writerow(columns)
    for i, (subject, answer) in enumerate(people):
        prompt = f"Fact: Tiger Woods plays the sport of golf\nFact: {subject} plays the sport of"
        writer.writerow([i, subject, answer, -0.25, 3, *answers[answer], prompt])
    return _csv(tmp_path, bom + buffer.getvalue()), people


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_the_public_table_loads_as_it_is(tmp_path, newline, bom):
    path, people = _public_look_alike(tmp_path, newline, bom)
    table = read_subjects(path)
    assert table.frame.columns == ["subject", "answer"]
    assert table.frame.rows() == people[:50]
    assert table.notes.rows() == [
        ("First3 Last3", "baseball", "4, 53", "row repeated", "kept once"),
        ("Michael Jordan", "basketball", "51", "name also stands with baseball", "dropped"),
        ("Michael Jordan", "baseball", "52", "name also stands with basketball", "dropped"),
    ]


PEOPLE = [("Ann Lee", "golf"), ("José Ruiz", "chess"), ("Cy Day", "golf")]


def _formats(tmp_path) -> dict[str, Path]:
    """One table in every format, with a column that nobody reads."""
    frame = pl.DataFrame(PEOPLE, schema=["athlete", "sport"], orient="row").with_columns(born=1990)
    paths = {
        suffix: tmp_path / f"table{suffix}"
        for suffix in (".csv", ".TSV", ".tab", ".parquet", ".jsonl", ".ndjson")
    }
    for suffix, path in paths.items():
        match suffix:
            case ".csv":
                frame.write_csv(path)
            case ".TSV" | ".tab":
                frame.write_csv(path, separator="\t")
            case ".parquet":
                frame.with_columns(pl.col("sport").cast(pl.Categorical)).write_parquet(path)
            case _:
                frame.write_ndjson(path)
    return paths


def test_one_table_reads_the_same_in_every_format(tmp_path):
    for suffix, path in _formats(tmp_path).items():
        table = read_subjects(path, min_per_answer=1)
        assert table.frame.rows() == PEOPLE and table.notes.is_empty(), suffix


def test_a_tsv_may_hold_commas_and_quotes_inside(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text('athlete\tsport\nKen Griffey, Jr.\tgolf\nShaquille O"Neal\tchess\n')
    assert read_subjects(path, min_per_answer=1).frame["subject"].to_list() == [
        "Ken Griffey, Jr.",
        'Shaquille O"Neal',
    ]


def _relation_file(tmp_path, **more) -> Path:
    path = tmp_path / "plays.json"
    samples = [{"subject": name, "object": sport} for name, sport in PEOPLE]
    path.write_text(
        json.dumps({"name": "plays", "samples": samples, "properties": {}} | more), encoding="utf-8"
    )
    return path


def test_a_relation_file_gives_subjects_and_answers_whatever_the_relations_words(tmp_path):
    path = _relation_file(
        tmp_path, prompt_templates=["{} plays"], prompt_templates_zs=["{} plays", "What does {} play? The"]
    )
    for relation in (STUDY, RelationConfig(subject="person", answer="game")):
        table = read_subjects(path, relation=relation, min_per_answer=1)
        assert table.frame.rows() == PEOPLE
        assert [row[3] for row in table.notes.rows()] == [
            "the file's prompt template '{} plays'",
            "the file's prompt template 'What does {} play? The'",
        ]
        assert 'relation: {before: "", after: " plays"}' in table.notes["action"][0]
    assert read_subjects(_relation_file(tmp_path, prompt_templates=7), min_per_answer=1).notes.is_empty()


@pytest.mark.parametrize(
    "template", ["{} plays the sport of", "What sport does {} play? They play", 'The "sport" of {} is']
)
def test_a_template_is_asked_for_as_a_note_says(template):
    said = yaml.safe_load(wording(template).partition("relation: ")[2].partition("}")[0] + "}")
    relation = RelationConfig(**said)
    text = prompt_text("Ann Lee", "zero_shot", relation).text
    assert text == template.replace("{}", "Ann Lee") or text == " " + template.replace("{}", "Ann Lee")


@pytest.mark.parametrize(
    ("template", "why"),
    [("who plays", "exactly once"), ("{} and {} play", "exactly once"), ("The sport of {}", "ends with the subject"),
     ("Is ({}) in", "no space stands before")],
)  # fmt: skip
def test_a_template_that_cannot_be_asked_for_says_why(template, why):
    assert why in wording(template) and "relation: {" not in wording(template)


def test_answers_with_too_few_are_dropped_and_said(tmp_path):
    rows = ["A B,golf", "C D,golf", "E F,chess", "G H,chess", "I J,polo", "K L,judo", "I J,judo"]
    table = _read(tmp_path, rows, min_per_answer=2, few="drop")
    assert table.frame["answer"].unique().sort().to_list() == ["chess", "golf"] and table.frame.height == 4
    dropped = table.notes.filter(pl.col("subject").is_null())
    assert dropped.rows() == [
        (None, "judo", "6", "1 athletes of this sport, fewer than 2 (subjects.min_per_answer)",
         "dropped with its athletes (subjects.few)")
    ]  # fmt: skip
    with pytest.raises(InputError, match="1 athletes of the sport 'judo'; .*few: drop"):
        _read(tmp_path, rows, min_per_answer=2)


def test_two_to_twenty_answers(tmp_path):
    rows = [f"A{i} B,sport {i:02d}" for i in range(20)]
    assert _read(tmp_path, rows).frame.height == 20
    with pytest.raises(
        InputError, match="found 21 sports; allowed: at most 20 sports: leave rows out of the table$"
    ):
        _read(tmp_path, [*rows, "A20 B,sport 20"])
    more = [*rows, "A20 B,sport 20", "C D,sport 00", "E F,sport 01"]
    with pytest.raises(InputError, match="keep the 2 commonest by subjects: {few: drop, min_per_answer: 2}"):
        _read(tmp_path, more)
    assert _read(tmp_path, more, few="drop", min_per_answer=2).frame["answer"].n_unique() == 2


def test_what_is_mended_is_said(tmp_path):
    table = _read(
        tmp_path, ["Ann  Lee,golf", "B C, chess", "D\u00a0E,chess", "Ann Lee,golf", "Jose\u0301, chess"]
    )
    assert table.frame.rows() == [("Ann Lee", "golf"), ("B C", "chess"), ("D E", "chess"), ("José", "chess")]
    spaces, form = "has outer, doubled or other than plain spaces", "is not in the Unicode form NFC"
    assert table.notes.rows() == [
        ("Ann Lee", "golf", "1, 4", f"row repeated; the name {spaces}", "kept once"),
        ("D E", "chess", "3", f"the name {spaces}", "mended"),
        ("José", "chess", "5", f"the name {form}", "mended"),
        (None, "chess", "2, 5", f"the sport {spaces}", "mended"),
    ]


def test_first_of_two_answers(tmp_path):
    table = _read(tmp_path, ["A B,golf", "C D,chess", "A B,chess", "A B,golf"], two_answers="first")
    assert table.frame.rows() == [("A B", "golf"), ("C D", "chess")]
    assert [(row[1], row[2], row[4]) for row in table.notes.rows()] == [
        ("golf", "1, 4", "kept"),
        ("chess", "3", "dropped"),
    ]


def test_names_are_brought_to_one_spelling(tmp_path):
    table = _read(tmp_path, ["  Jose\u0301   Rami\u0301rez\t,golf", "C\u00a0D, chess "])
    assert table.frame.rows() == [("José Ramírez", "golf"), ("C D", "chess")]


def test_one_name_in_two_unicode_forms_is_one_person(tmp_path):
    table = _read(tmp_path, ["José,golf", "Jose\u0301,golf", "B,chess"])
    assert table.frame.rows() == [("José", "golf"), ("B", "chess")]
    assert table.notes["reason"].to_list() == ["row repeated; the name is not in the Unicode form NFC"]


def test_accents_make_other_people_and_a_note(tmp_path):
    table = _read(tmp_path, ["José Cruz,golf", "Jose Cruz,golf", "JOSÉ Pena,chess", "B,chess"])
    assert table.frame.height == 4
    assert table.notes["subject"].to_list() == ["Jose Cruz"]
    assert "'José Cruz'" in table.notes["reason"][0] and "another person" in table.notes["action"][0]


LOOK_ALIKES = [
    ("Shaquille O'Neal", "Shaquille O\u2019Neal"),
    ("Shaquille O'Neal", "Shaquille O\u02bcNeal"),
    ("Karl-Anthony Towns", "Karl\u2010Anthony Towns"),
    ("Karl-Anthony Towns", "Karl\u2011Anthony Towns"),
    ("Karl-Anthony Towns", "Karl\u2013Anthony Towns"),
    ("Karl-Anthony Towns", "Karl\u2212Anthony Towns"),
    ("Bo Li", "\uff22\uff4f \uff2c\uff49"),
    ("Bo Li", "Bo\u3000Li"),
    ("Bo Li", "Bo\u200d Li"),
    ("Bo Li", "Bo\ufe0f Li"),
    ("Bo Li", "Bo\u3164 Li"),
    ("Bo Li", "BO LI"),
    ("Bo Strauss", "BO STRAUSS"),
    ("O\u2019Neal \u201cShaq\u201d", 'O\'Neal ""Shaq""'),
]


@pytest.mark.parametrize(("one", "other"), LOOK_ALIKES, ids=lambda name: ascii(name))
def test_look_alikes_are_one_person_in_his_first_spelling(tmp_path, one, other):
    """Two answers of look-alikes are two answers of one name; that the names were taken for one is said."""
    quoted = [f'"{name}"' if '"' in name else name for name in (one, other)]
    twice = _read(tmp_path, [f"{quoted[0]},golf", f"{quoted[1]},golf", "B,chess"])
    assert twice.frame.rows() == [(one, "golf"), ("B", "chess")]
    note = twice.notes.row(0, named=True)
    assert note["rows"] == "1, 2" and note["action"] == "kept once"
    if " ".join(other.split()) != one:
        assert repr(other.replace('""', '"')) in note["reason"] and "quotes, dashes, width" in note["reason"]
    rows = [f"{quoted[0]},golf", f"{quoted[1]},chess", "B,chess", "C,golf"]
    assert _read(tmp_path, rows).frame["subject"].to_list() == ["B", "C"], "dropped: which sport is meant?"
    assert _read(tmp_path, rows, two_answers="first").frame.rows() == [
        (one, "golf"),
        ("B", "chess"),
        ("C", "golf"),
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Jos\ufffd Cruz", "U+FFFD"),
        ("Jos\u00c3\u00a9 Cruz", "'José Cruz'"),
        ("Jos\u00c3\u00a9 Ram\u00edrez", "'José Ramírez'"),
        ("Shaquille O\u00e2\u20ac\u2122Neal", "'O\u2019Neal'"),
        ("Shaquille O&#39;Neal", "O'Neal"),
        ("Smith &amp; Sons", "Smith & Sons"),
        ("P\u0435arson", "cyrillic, latin"),
    ],
)
def test_what_a_conversion_spoilt_is_kept_and_noted(tmp_path, name, said):
    table = _read(tmp_path, [f"{name},golf", "B,chess"])
    assert table.frame["subject"].to_list() == [name, "B"]
    (note,) = table.notes.rows(named=True)
    assert said in note["reason"] or said.strip("'") in note["reason"]
    assert note["action"] == "kept as it is" and note["rows"] == "1"


def test_names_that_only_look_foreign_get_no_note(tmp_path):
    names = [
        "Nikola Jokić",
        "Nenê",
        "Ñandú Müller",
        "Lê Văn",
        "李 明",
        "Ян Ли",
        "X Æ A-12",
        "Bob & Co",
        "Þór Ægisson",
    ]
    table = _read(tmp_path, [f"{name},golf" for name in names] + ["B,chess"])
    assert table.notes.is_empty() and table.frame.height == len(names) + 1


def test_answers_that_look_alike_are_one_answer_in_two_spellings(tmp_path):
    with pytest.raises(InputError, match="one spelling of each sport"):
        _read(tmp_path, ["A,water-polo", "B,water\u2011polo", "C,chess"])


def test_clean_table_has_empty_notes_with_their_columns(tmp_path):
    notes = _read(tmp_path, ["A,golf", "B,chess"]).notes
    assert notes.height == 0 and notes.columns == ["subject", "answer", "rows", "reason", "action"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_byte_order_mark_before_the_first_column(tmp_path, newline):
    path = _csv(tmp_path, newline.join(["\ufeffathlete,sport", "A,golf", "B,chess"]))
    assert read_subjects(path, min_per_answer=1).frame.rows() == [("A", "golf"), ("B", "chess")]


def test_blank_lines_and_spaced_headers(tmp_path):
    table = _read(tmp_path, ["", "A,golf", "", "B,chess", ""], header=" athlete , sport ")
    assert table.frame.rows() == [("A", "golf"), ("B", "chess")]


BAD = [
    ("", "an empty file", "columns athlete, sport"),
    ("\n\n", "an empty file", "columns athlete, sport"),
    ("athlete,sport\n", "a header and no rows", "at least one row"),
    ("name,sport\nA,golf\n", "no column 'athlete' among 'name', 'sport'", "athlete, sport"),
    ("athlete;sport\nA;golf\n", "among 'athlete;sport'", "athlete, sport"),
    ("athlete,sport,sport\nA,golf,golf\n", "the column 'sport' more than once", "named once"),
    ("athlete,sport\nA,golf\nB,\n", "row 2 (sport of B): found an empty cell", "text"),
    ("athlete,sport\n  ,golf\n", "row 1 (athlete): found an empty cell", "text"),
    ("athlete,sport\nA,golf\nB\n", "row 2: found 1 cells, beginning ['B']", "2 cells, as in the header"),
    ("athlete,sport\nA,golf\nB,C,chess\n", "row 2: found 3 cells", "2 cells"),
    ('athlete,sport\n"A\nB",golf\n', "row 1 (athlete): found the character U+000A", "one line"),
    ("athlete,sport\nA\tB,golf\n", "the character U+0009", "without control characters"),
    ("athlete,sport\nA\u200bB,golf\n", "the character U+200B", "without control characters"),
    ("athlete,sport\nA,golf\x00\n", "row 1 (sport of A): found the character U+0000", "one line"),
    ('athlete,sport\nA,golf\n"B,chess\n', "row 2: found a broken row", "quoted"),
    ('athlete,sport\n"A"B,golf\n', "row 1: found a broken row", "quoted"),
    ("athlete,sport\nA,golf\nB,golf\n", "1 sports (golf)", "at least two sports"),
    ("athlete,sport\nA,golf\nA,chess\n", "0 sports (no athlete is left)", "at least two sports"),
    ("athlete,sport\nA,golf\nB,chess\nC,Golf\n", "the sports 'Golf' and 'golf'", "one spelling"),
    (
        "athlete,sport\nA,golf\nB,chess\nC,golf\n",
        "1 athletes of the sport 'chess'",
        "at least 2 of each sport",
    ),
    ("athlete,sport\nJosé,golf\n".encode("latin-1"), "not UTF-8 (at byte 17)", "UTF-8"),
    ("athlete,sport\nA,golf\n".encode("utf-16"), "not UTF-8", "UTF-8"),
]


@pytest.mark.parametrize(("text", "found", "allowed"), BAD)
def test_bad_tables_say_where_what_and_what_is_allowed(tmp_path, text, found, allowed):
    path = _csv(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_subjects(path, min_per_answer=2)
    said = str(error.value)
    assert said.startswith(str(path)) and found in said and allowed in said.split("; allowed: ")[1]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="none.csv: found no such file"):
        read_subjects(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_subjects(tmp_path)


def test_dropping_counts_before_the_minimum(tmp_path):
    rows = ["A,golf", "B,golf", "C,chess", "D,chess", "C,golf"]
    with pytest.raises(InputError, match="1 athletes of the sport 'chess'"):
        _read(tmp_path, rows, min_per_answer=2)
    assert _read(tmp_path, rows, min_per_answer=2, two_answers="first").frame.height == 4


@pytest.mark.parametrize("settings", [{"two_answers": "both"}, {"min_per_answer": 0}])
def test_settings_that_do_not_exist(tmp_path, settings):
    with pytest.raises(ValueError, match="allowed are drop or first"):
        _read(tmp_path, ["A,golf"], **settings)


cells = st.text(max_size=8) | st.sampled_from(
    ["athlete", "sport", "golf", "chess", "A B", "José", '"', "\n", " "]
)
grids = st.lists(st.lists(cells, max_size=4), max_size=8)
raw = st.binary(max_size=80) | st.text(alphabet='athlesporg,"\r\n \x00é\ufeff', max_size=80).map(str.encode)


@settings(max_examples=200, deadline=None)
@given(grid=grids, header=st.booleans(), tail=raw, two_answers=st.sampled_from(["drop", "first"]))
def test_any_table_loads_or_is_refused(tmp_path_factory, grid, header, tail, two_answers):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["athlete", "sport"]] * header + grid)
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(buffer.getvalue().encode("utf-8", "surrogatepass") + tail)
    try:
        table = read_subjects(path, two_answers=two_answers, min_per_answer=1)
    except InputError as error:
        assert str(path) in str(error) and "; allowed: " in str(error)
        return
    names = table.frame["subject"].to_list()
    assert len(names) == len(set(names)) and table.frame["answer"].n_unique() >= 2
    assert all(text == " ".join(text.split()) != "" for row in table.frame.rows() for text in row)


words = st.text(alphabet="abcé'-", min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=2, max_size=20, unique=True
    )
)
def test_good_tables_come_back_as_they_were(tmp_path_factory, names):
    import unicodedata

    path = tmp_path_factory.getbasetemp() / "good.csv"
    people = [(name, "golf" if i % 2 else "chess") for i, name in enumerate(names)]
    path.write_text("athlete,sport\n" + "\n".join(map(",".join, people)), encoding="utf-8")
    kept = [(unicodedata.normalize("NFC", name), answer) for name, answer in people]
    assert read_subjects(path, min_per_answer=1).frame.rows() == kept
