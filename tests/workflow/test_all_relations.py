"""The whole smoke study, figures and report included, of other relations: two answers, eight, and prompts without BOS.

That nothing hangs on three answers or on the study's words is held in seconds by tests/report (tables of every shape) and
tests/experiments; here the rules run as well.
"""

from __future__ import annotations

import re
from itertools import product

import polars as pl
import pytest
import yaml

from factfinding.declarations import declarations
from factfinding.tables import read_table
from helpers import ROOT
from helpers.workflow import copy_project, snakemake_forked, would_run

pytestmark = pytest.mark.families

ANIMALS = {
    "bird": ("sparrow", "falcon", "heron", "pelican", "swallow"),
    "mammal": ("badger", "otter", "weasel", "beaver", "leopard"),
}
CITIES = {
    "subject": "city", "subjects": "cities", "answer": "country", "answers": "countries", "title": " Old",
    "shot": "Fact: Ottawa lies in the country of Canada\n", "after": " lies in the country of",
    "paraphrases": [{"after": " is a city in"}, {"before": "Question: The country of", "after": " is"}],
}  # fmt: skip
BEASTS = {
    "subject": "animal", "subjects": "animals", "answer": "class", "answers": "classes", "title": " wild",
    "shot": "Fact: the green crocodile is a reptile\n", "before": "Fact: the", "after": " is a",
}  # fmt: skip
STUDY = re.compile(
    r"which sport an athlete plays|Pythia 2.8B and its athletes|<dt>In the study</dt>.*?</dd>|<dt>Rule</dt>.*?</dd>"
)
"""Where the page speaks of the study itself: its question, its figures and the names of its claims."""
APART = re.compile(r"<(script|style|pre|table|aside|mark)\b.*?</\1>", re.DOTALL)


def eight() -> pl.DataFrame:
    cities = pl.read_csv(ROOT / "resources/cities.csv")
    return cities.group_by("country", maintain_order=True).head(10)


def two() -> pl.DataFrame:
    rows = [
        (f"{look} {name}", kind)
        for kind, names in ANIMALS.items()
        for name, look in product(names, ("brown", "northern"))
    ]
    return pl.DataFrame(rows, schema=["animal", "class"], orient="row")


def run(folder, name, people, relation, **changes):
    """The results of the smoke study of these people."""
    smoke = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    people.write_csv(folder / "people.csv")
    values = smoke | {"study": name, "subjects": {"table": "people.csv"}, "relation": relation} | changes
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    snakemake_forked(folder, "study.yaml")
    assert would_run(folder, "study.yaml") == set()
    return folder / "results" / name


@pytest.mark.parametrize(("name", "people", "relation"), [("two", two, BEASTS), ("eight", eight, CITIES)])
def test_a_relation_of_any_number_of_answers_speaks_its_own_words(name, people, relation, tmp_path):
    results = run(copy_project(tmp_path / name), name, people(), relation, recall={"known": "best"})
    page = (results / "report.html").read_text()
    for figure, (experiment, _) in declarations().figures.items():
        if figure != "training":  # nobody trained it
            assert (results / f"figures/{figure}.svg").stat().st_size > 1000, figure
            assert f'id="{experiment.name}"' in page, experiment.name
    shown = re.sub(r"<[^>]+>", " ", APART.sub("", STUDY.sub("", page)))
    assert relation["subjects"] in shown and relation["answers"] in shown
    assert not re.findall(r".{60}\b(?:athletes?|sports?|football)\b.{20}", shown)
    assert read_table(results / "tables/neuron_facts.parquet").is_empty(), (
        "facts of athletes are of other subjects"
    )


def test_without_bos_every_rule_runs_and_prompts_are_their_words(tmp_path):
    people = pl.read_csv(ROOT / "tests/fixtures/subjects.csv")
    model = {"source": "tiny", "family": "gpt2", "bos": "none"}
    results = run(copy_project(tmp_path), "bare", people, {}, model=model)
    prompts = {
        name: read_table(results / f"prompts/{name}.parquet") for name in ("full", "zero_shot", "name_only")
    }
    assert {row[0] for table in prompts.values() for row in table["token_ids"]} == {
        prompts["full"]["token_ids"][0][0]
    }
    check = read_table(results / "tables/bos_check.csv")
    recall = read_table(results / "tables/recall.csv")
    assert check["token"][0] == "none" and check["used"].to_list() == [True] + [False] * (check.height - 1)
    if check["n"][0] == recall.height:
        assert check["logp"][0] == pytest.approx(recall["full_logp"].mean(), abs=1e-6)
    assert "prompts begin with their own words, without BOS" in (results / "report.html").read_text()
