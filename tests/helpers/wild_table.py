"""The table in docs/reliability.md of models and tables as they are found: each situation is made, and what is said copied.

PYTHONPATH=scripts:tests python -m helpers.wild_table       # or: make wild
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import polars as pl
import yaml

from factfinding.data.fact_prompts import fact_prompts
from factfinding.data.prompts import CONDITIONS, encode, prompt_table
from factfinding.data.subjects import read_subjects
from factfinding.engine.capture import as_stored
from factfinding.errors import InputError
from factfinding.experiments.fact_correlations.compute import asked_by_one_token
from factfinding.model.anatomy import load
from factfinding.model.source import describe, load_source
from factfinding.model.tokenizer import read_tokenizer
from factfinding.preflight import preflight
from factfinding.store import StoreLayout
from factfinding.studies import merged, studies_of
from helpers import ROOT
from helpers.bad_input import GOOD, WILD, folder_for
from helpers.reliability import PAGE
from helpers.wild import byte_level, digits, padded, prefixed, save_wild, texts

PEOPLE = [("Babe Ruth", "baseball"), ("Michael Jordan", "basketball"), ("Tom Brady", "football")]
SUBJECTS = pl.DataFrame(PEOPLE, schema=["subject", "answer"], orient="row")
TRAIN = texts(PEOPLE)
COLUMNS = ("situation", "what is said", "test")
PREFLIGHT = "tests/workflow/test_bad_input.py"
TOKENS, WILD_MODELS, SOURCE = (
    "tests/data/test_tokens.py",
    "tests/model/test_wild_models.py",
    "tests/model/test_source.py",
)


class Situation(NamedTuple):
    """said: what is said in this situation, which it makes in a folder of its own."""

    name: str
    test: str
    said: Callable[[Path], str]


@contextmanager
def inside(folder: Path):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def refused(run: Callable[[], object]) -> str:
    try:
        run()
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def by_preflight(case) -> Callable[[Path], str]:
    def said(folder: Path) -> str:
        default = yaml.safe_load((ROOT / "config.yaml").read_text())
        values = merged(merged(default, GOOD), folder_for(case, folder))
        studies = studies_of(values, ROOT / "studies")
        return refused(lambda: [preflight(study) for study in studies.values()])

    return said


def left_out(*facts: tuple[str, str, str, str]) -> Callable[[Path], str]:
    def said(_: Path) -> str:
        table = pl.DataFrame(facts, schema=["subject", "relation", "prompt", "answer"], orient="row")
        (row,) = fact_prompts(table, digits(TRAIN), 0).rows(named=True)
        return f"neuron_facts, left_out: {row['left_out']}; and on the page"

    return said


def shared_token(_: Path) -> str:
    rows = [("Kobe Bryant", fact, " Lakers") for fact in ("team", "nickname")]
    table = pl.DataFrame(rows, schema=["subject", "fact", "answer_token"], orient="row")
    ((subject, facts, token),) = asked_by_one_token(table)
    return f"{subject}: {', '.join(facts)} are all asked by the token {token!r}, and not paired"


def changed(_: Path) -> str:
    folder = save_wild(Path("model"), "gpt2", byte_level(TRAIN))
    source = describe(folder, kind="folder")
    (folder / "special_tokens_map.json").write_text("{}")
    compute = SimpleNamespace(dtype="float32", device="cpu")
    return refused(lambda: load_source(source, compute, lambda message: None))


def two_tokenizations(_: Path) -> str:
    byte_level(TRAIN).save_pretrained("model")
    path = Path("model/tokenizer_config.json")
    values = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return refused(lambda: encode(read_tokenizer("model"), [TRAIN[0]]))


def one_name(_: Path) -> str:
    tables = {name: prompt_table(SUBJECTS, prefixed(TRAIN), 0, name) for name in CONDITIONS}
    at = [tables[name].row(0, named=True) for name in ("full", "name_only")]
    ids = [row["token_ids"][row["first_name"] : row["final_name"] + 1] for row in at]
    assert ids[0] == ids[1]
    return "nothing: the name alone is written without a space of its own, and has the same tokens"


def good_padding(_: Path) -> str:
    padded(TRAIN).save_pretrained("model")
    assert len(encode(read_tokenizer("model"), ["Fact:"])[0][0]) < 8
    return "nothing: padding and truncation are for batches, and are left aside"


def window(_: Path) -> str:
    folder = save_wild(Path("model"), "mistral", byte_level(TRAIN), sliding_window=12, num_key_value_heads=2)
    return refused(lambda: load(folder, device="cpu").guard(22))


def overflow(_: Path) -> str:
    layout = StoreLayout(name="mlp_out@end", shape=(1, 3), axes=("layer", "d_model"), layers=(7,), units="")
    values = {"mlp_out@end": np.full((2, 1, 3), 9e4, dtype=np.float32)}
    return refused(lambda: as_stored(values, [layout], computed="float32", stored="float16"))


def noted(*names: str) -> Callable[[Path], str]:
    def said(_: Path) -> str:
        rows = [f"{name},baseball" for name in names] + ["Bo Li,football"]
        Path("subjects.csv").write_text("\n".join(["athlete,sport", *rows]))
        (note,) = read_subjects("subjects.csv", min_per_answer=1).notes.rows(named=True)
        return f"subjects_notes, rows {note['rows']}: {note['reason']}: {note['action']}"

    return said


def situations() -> list[Situation]:
    """All of them, in the order of the table."""
    years = ("Babe Ruth", "year", "Babe Ruth was born in the year", "1895")
    given = ("Babe Ruth", "city", "Babe Ruth of the Boston Red Sox lived in", "Boston")
    found = [
        Situation("a tokenizer that splits digits, and an answer that is a year", f"{TOKENS}", left_out(years)),
        Situation("a fact whose prompt holds the answer", TOKENS, left_out(given)),
        Situation("two facts of one subject asked by one token", "tests/experiments/test_neuron_effects.py", shared_token),
        Situation("a file of the model changed while a study is computed", f"{SOURCE}, tests/workflow/test_model_changes.py", changed),
        Situation("tokenizer.json and tokenizer_config.json mean two tokenizers", WILD_MODELS, two_tokenizations),
        Situation("a tokenizer that puts a space before every text (Llama 2)", f"{TOKENS}, {WILD_MODELS}", one_name),
        Situation("a tokenizer saved with padding and truncation", WILD_MODELS, good_padding),
        Situation("a sliding window shorter than a prompt", WILD_MODELS, window),
        Situation("activations too large for half precision", "tests/store/test_store.py", overflow),
        Situation("one name with two apostrophes", "tests/data/test_subjects.py", noted("Shaquille O'Neal", "Shaquille O\u2019Neal")),
        Situation("a name with HTML in it", "tests/data/test_subjects.py", noted("Shaquille O&#39;Neal")),
        Situation("a name read in a wrong encoding", "tests/data/test_subjects.py", noted("Jos\u00c3\u00a9 Cruz")),
    ]  # fmt: skip
    return found + [Situation(f"{case.kind}: {case.name}", PREFLIGHT, by_preflight(case)) for case in WILD]


def row(situation: Situation) -> str:
    """The line of the table: the situation is made in an empty folder, whose name is not part of what is said."""
    folder = Path(tempfile.mkdtemp())
    try:
        with inside(folder):
            said = situation.said(folder).replace(f"{folder}/", "")
    finally:
        shutil.rmtree(folder)
    cells = (situation.name, said.replace("|", "\\|").replace("\n", " "), situation.test)
    return f"| {' | '.join(cells)} |"


def written(page: str) -> str:
    """What stands between the marks of the table."""
    return page.partition("<!-- wild -->\n")[2].partition("\n<!-- end of wild -->")[0]


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- | --- | --- |", *map(row, situations())]
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(written(page), "\n".join(lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
