"""Several studies in one run: how their configurations are made, and what is refused."""

from __future__ import annotations

import copy
import re

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from factfinding.config import Config
from factfinding.declarations import declarations
from factfinding.errors import InputError
from factfinding.files import write_json
from factfinding.studies import merged, seeds_of, studies_of
from factfinding.tables import write_declared
from helpers import ROOT, example_ledger
from helpers.drawn_tables import Drawn, drawn_tables
from helpers.workflow import copy_project, planned, snakemake

BASE = yaml.safe_load((ROOT / "config.yaml").read_text())
OVERLAYS = ROOT / "studies"


def listed(*entries) -> dict[str, Config]:
    return studies_of(BASE | {"studies": list(entries)}, OVERLAYS)


def test_without_a_list_the_configuration_is_the_study():
    assert studies_of(BASE, OVERLAYS) == {"organism": Config()}


def test_seeds_sizes_and_checkpoints_are_one_list():
    found = listed(
        "organism",
        {"study": "second", "organism": {"seed": 5}},
        "pythia-410m",
        {"study": "early", "like": "pythia-410m", "model": {"revision": "step1000"}},
    )
    assert list(found) == ["organism", "second", "pythia-410m", "early"]
    assert found["organism"] == Config()
    assert found["second"].organism == Config().organism.model_copy(update={"seed": 5})
    assert found["early"].model.revision == "step1000"
    assert found["early"].model.id == found["pythia-410m"].model.id == "EleutherAI/pythia-410m"
    assert found["early"].subjects == found["pythia-410m"].subjects


def test_a_name_means_the_same_study_whatever_the_configuration_beside_it_has_changed():
    """As with `--configfile studies/untrained.yaml --config 'studies=[untrained, organism-1, ...]'`."""
    untrained = merged(BASE, yaml.safe_load((OVERLAYS / "untrained.yaml").read_text()))
    entries = [
        "untrained",
        "organism-1",
        {"study": "second", "like": "organism-1"},
        {"study": "own", "organism": {"seed": 1}},
    ]
    found = studies_of(untrained | {"studies": entries}, OVERLAYS)
    assert {name: one.organism.max_steps for name, one in found.items()} == {
        "untrained": 1,
        "organism-1": Config().organism.max_steps,
        "second": Config().organism.max_steps,
        "own": 1,
    }
    assert found["organism-1"] == listed("organism-1")["organism-1"]


def test_every_overlay_that_is_shipped_can_be_listed():
    names = [
        path.stem for path in OVERLAYS.glob("*.yaml") if "studies" not in yaml.safe_load(path.read_text())
    ]
    assert len(names) >= 6 and set(listed(*names)) == set(names)


@pytest.mark.parametrize(
    ("entries", "where", "found"),
    [
        (["nobody"], "config.studies[0]", "'nobody'"),
        (["organism", "organism"], "config.studies[1]", "'organism' a second time"),
        ([{"organism": {"seed": 1}}], "config.studies[0]", "seed"),
        ([3], "config.studies[0]", "3"),
        ([{"study": "x", "like": "nobody"}], "config.studies[0].like", "'nobody'"),
        ([{"study": "comparison"}], "config.studies[0].study", "'comparison'"),
        ([{"study": "x", "organism": {"seeds": 1}}], "config.studies[0].organism.seeds", "unknown key"),
        ([{"study": "../x"}], "config.studies[0].study", "'../x'"),
        (["../config"], "config.studies[0]", "'../config'"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_place(entries, where, found):
    with pytest.raises(InputError) as error:
        listed(*entries)
    assert str(error.value).startswith(where) and found in str(error.value)


def test_a_list_that_is_no_list_is_refused():
    with pytest.raises(InputError, match="config.studies: found 'organism'"):
        studies_of(BASE | {"studies": "organism"}, OVERLAYS)


def test_an_overlay_that_is_no_mapping_is_refused_by_file(tmp_path):
    (tmp_path / "odd.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for name, said in (("odd", "a mapping"), ("broken", "a YAML file")):
        with pytest.raises(InputError, match=re.escape(f"{tmp_path}/{name}.yaml")) as error:
            studies_of(BASE | {"studies": [name]}, tmp_path)
        assert said in str(error.value)


values = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(mappings, mappings)
def test_merging_replaces_leaves_keeps_the_rest_and_changes_neither(base, other):
    before = copy.deepcopy((base, other))
    result = merged(base, other)
    assert (base, other) == before
    assert merged(result, other) == result
    assert set(result) == set(base) | set(other)
    for key in set(base) - set(other):
        assert result[key] == base[key]
    for key, value in other.items():
        if not isinstance(value, dict):
            assert result[key] == value


def test_a_list_of_studies_is_no_study_of_another_list():
    with pytest.raises(InputError, match=r"config.studies\[1\]: found seeds, a list of studies itself"):
        listed("organism", "seeds")


def test_studies_that_differ_in_their_seed_alone_are_one_family():
    wide = {"study": "wide", "organism": {"width": 96}}
    found = listed("organism", "organism-1", wide, {"study": "third", "organism": {"seed": 5}}, "pythia-410m")
    assert seeds_of(found) == {"organism": ["organism", "organism-1", "third"]}
    assert seeds_of(listed("organism", wide)) == {}
    both = listed(wide, "organism", "organism-1", wide | {"study": "x", "organism": {"width": 96, "seed": 1}})
    assert seeds_of(both) == {"wide": ["wide", "x"], "organism": ["organism", "organism-1"]}
    hub = [{"study": f"p{i}", "like": "pythia-410m", "organism": {"seed": i}} for i in range(2)]
    assert seeds_of(listed(*hub)) == {}, "that seed changes nothing of a model that is not trained here"


def test_make_seeds_runs_five_seeds_of_one_study():
    assert "--configfile studies/seeds.yaml" in (ROOT / "Makefile").read_text().split("seeds: ")[1]
    found = studies_of(BASE | yaml.safe_load((OVERLAYS / "seeds.yaml").read_text()), OVERLAYS)
    assert [len(members) for members in seeds_of(found).values()] == [5]
    assert [config.organism.seed for config in found.values()] == [0, 1, 2, 3, 4]
    assert found["organism"] == Config()


def test_the_comparison_of_three_seeds_says_what_they_say_together(tmp_path):
    """The rule alone, on ledgers that lie there: its table and its page."""
    project = copy_project(tmp_path)
    small = yaml.safe_load((project / "tests/fixtures/small.yaml").read_text())
    others = [{"study": f"seed-{i}", "organism": {"seed": i}} for i in (1, 2)]
    (project / "three.yaml").write_text(yaml.safe_dump(small | {"studies": ["small", *others]}))
    tables = drawn_tables(Drawn(layers=4, heads=3, n=120))
    concluded = re.search(
        r"^CONCLUDED = \[(.*?)^\]", (ROOT / "rules/report.smk").read_text(), re.DOTALL | re.MULTILINE
    )[1]
    shape = {"parameters": 1, "n_layers": 2, "d_model": 8}
    source = {"kind": "organism", "id": None, "revision": None, "folder": "f", "digest": "d" * 32}
    for name, value in (("small", 0.8), ("seed-1", 0.85), ("seed-2", 0.9)):
        folder = project / "results" / name
        ledger = example_ledger.ledger().with_columns(
            pl.when(pl.col("claim") == "recall").then(value + shift).otherwise(end).alias(end)
            for end, shift in (("value", 0.0), ("low", -0.01), ("high", 0.01))
        )
        write_declared(ledger, folder / "tables/ledger.csv")
        for table in re.findall(r'^    "(\w+)",$', concluded, re.MULTILINE):
            write_declared(tables[table], folder / declarations().tables[table].path)
        write_json({"shape": shape, "source": source, "recall": []}, folder / "model/card.json")
    target = "results/comparison/report.html"
    snakemake(project, target, "--cores", "1", "--allowed-rules", "comparison", study="three.yaml")
    table = pl.read_csv(project / "results/comparison/seeds.csv")
    row = table.row(by_predicate=pl.col("claim") == "recall", named=True)
    assert row["seeds"] == row["n"] == row["supported"] == 3 and row["verdict"] == "supported"
    assert row["value"] == pytest.approx(0.85) and 0.78 < row["low"] < 0.85 < row["high"] < 0.92
    page = (project / target).read_text()
    assert "Across the seeds of small" in page and "small, seed-1, seed-2" in page


def test_one_run_plans_every_study_of_the_list_with_its_own_values(tmp_path):
    """Two small organisms, one of them of another seed, and a tiny model: three trainings or makings, one comparison."""
    project = copy_project(tmp_path)
    small = yaml.safe_load((project / "tests/fixtures/small.yaml").read_text())
    tiny = {
        "study": "tiny",
        "model": {"source": "tiny"},
        "subjects": {"table": "tests/fixtures/subjects.csv"},
    }
    other = {"study": "other", "organism": {"seed": 9}}
    (project / "three.yaml").write_text(yaml.safe_dump(small | {"studies": ["small", other, tiny]}))
    output = snakemake(project, "-n", study="three.yaml")
    assert {"train_organism", "tiny_model", "comparison", "report"} <= planned(output)
    counts = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert counts["train_organism"] == "2" and counts["tiny_model"] == "1" and counts["report"] == "3"
    assert counts["comparison"] == "1"
