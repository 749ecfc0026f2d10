"""Whole studies, figures and report included: GPT-2 and Llama of random weights, and a model that looks up at END.

The first two are one run with a comparison. The jobs are forks of one process (forked.py), which is all that differs from
the command line. What comes out is opened in a browser, as a reader would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import escape, unescape
from pathlib import Path

import polars as pl
import pytest
import yaml

from factfinding.declarations import declarations
from factfinding.experiments.ladder.compute import NOTHING
from factfinding.files import read_json, write_table
from factfinding.ledger import NOT_APPLICABLE
from factfinding.methods.circuit import read_circuit
from factfinding.methods.effective import EffectiveModel
from factfinding.relation import STUDY
from factfinding.tables import read_table
from helpers import ROOT, planted
from helpers.browser import needs_browser, opened, printed, used
from helpers.workflow import copy_project, snakemake, snakemake_forked, would_run

FAMILIES = {"gpt2": "GPT-2", "llama": "Llama"}
AT_END = "at-end"
RUNS = {**dict.fromkeys(FAMILIES, "families.yaml"), AT_END: "at-end.yaml"}
WORDS = ROOT / "resources/report"
PHONE = 390
LOOK = r"""
const light = (colour) => {
  const [r, g, b] = colour.match(/[\d.]+/g).map((v) => (v / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = light(w.getComputedStyle(d.body).backgroundColor);
const contrast = (node) => {
  const ink = light(w.getComputedStyle(node)[node.ownerSVGElement ? "fill" : "color"]);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
};
const worst = (kind) => Math.min(...[...d.querySelectorAll(kind)].map(contrast));
const fits = () => d.documentElement.scrollWidth === d.documentElement.clientWidth;
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder with all these studies finished."""
    folder = copy_project(tmp_path_factory.mktemp("whole"))
    smoke = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    values = smoke | {"studies": [{"study": family, "model": {"family": family}} for family in FAMILIES]}
    (folder / "families.yaml").write_text(yaml.safe_dump(values))
    model = planted.at_end(firsts=6, lasts=6)
    planted.save(model, folder / "models/at-end")
    people = model.prompts.select(athlete="subject", sport="answer")
    write_table(people, folder / "models/at-end.csv")
    values = smoke | {
        "study": AT_END,
        "model": {"source": "folder", "folder": "models/at-end"},
        "subjects": {"table": "models/at-end.csv"},
        "circuit": {},  # to be found
        "interventions": {"node_subjects": 8, "patched_subjects": 24},
    }
    (folder / f"{AT_END}.yaml").write_text(yaml.safe_dump(values))
    runs = dict.fromkeys(RUNS.values())
    snakemake_forked(folder, *runs, arguments=("--cores", "2", "--resources", "gpu=2"))
    return folder


@pytest.mark.parametrize("study", [*FAMILIES, AT_END])
def test_every_section_has_its_figure_and_its_sentences_and_nothing_is_left_to_do(project, study):
    results = project / "results" / study
    page = (results / "report.html").read_text()
    for name, (experiment, _) in declarations().figures.items():
        figure = results / f"figures/{name}.svg"
        if name == "training":
            continue  # nobody trained these
        assert figure.stat().st_size > 1000 and figure.with_suffix(".png").stat().st_size > 1000
        assert f'id="{experiment.name}"' in page, experiment.name
    assert "Traceback" not in page
    assert would_run(project, RUNS[study]) == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family_each_step_of_the_ladder_runs(project, family):
    tables = project / f"results/{family}/tables"
    assert read_json(project / f"results/{family}/model/card.json")["shape"]["family"] == FAMILIES[family]
    ladder = read_table(tables / "ladder.csv")
    steps = {"full", "name_only", "late_attention", "both", "early_mlps", "attention_0", "attention_1"}
    assert steps <= set(ladder["step"]) and {"frozen", "frozen_longer"} & set(ladder["step"])
    assert set(ladder["kind"]) == {NOTHING, "zero", "mean", "resample_same", "resample_other"}
    effective = read_table(tables / "effective_model.csv").filter(model="effective")
    assert effective.height and effective["largest_error"].max() < 1e-4
    total = read_table(tables / "total_effects.parquet")
    assert set(total["type"]) == {"head", "attention", "mlp"} and total["n"].min() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family_single_neurons_have_effects(project, family):
    """P3.2 has something to compare: the lookup is not the last layer, of which nothing at END can read."""
    tables = project / f"results/{family}/tables"
    effects = read_table(tables / "neuron_effects.parquet")
    assert effects.height and effects["effect"].abs().min() < effects["effect"].abs().max()
    assert read_table(tables / "fact_correlations.csv").height
    assert read_table(tables / "effect_concentration.csv").height
    assert read_table(tables / "neuron_effects_twin.csv")["relative_error"].max() < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family_differences_lie_near_values(project, family):
    """The smoke study replaces parts of its runs by differences, in every experiment that may; its lookup of one MLP has no
    paths."""
    tables = project / f"results/{family}/tables"
    names = {name for name, one in declarations().experiments.items() if one.twin}
    twins = {name: read_table(tables / f"{name}_twin.csv") for name in names - {"mlp_paths"}}
    for name, twin in twins.items():
        assert twin["rows"].min() > 0 and set(twin["dtype"]) == {"float64"}, name
        assert twin["relative_error"].max() < 1e-3 and twin["rank_correlation"].min() > 0.99, name


def test_the_notebook_s_three_lines_run_as_the_page_has_them(project):
    page = (ROOT / "docs/experiments/p2-9.md").read_text()
    lines = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    subject = (
        read_table(project / "results/llama/prompts/name_only.parquet")
        .filter(n_name_tokens=2)
        .row(0, named=True)
    )
    ids = subject["token_ids"][1:]
    here = lines.replace("results/organism", "results/llama")
    here = re.sub(r"answer\(first=\d+, last=\d+\)", f"answer(first={ids[0]}, last={ids[1]})", here)
    code = here.replace("model.answer", "given = model.answer") + "print(given)"
    assert len([line for line in lines.splitlines() if line]) == 3 and code.count("given") == 2
    environment = os.environ | {"PYTHONPATH": "scripts"}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, text=True, capture_output=True, check=True
    )
    model = EffectiveModel.load(project / "results/llama/effective_model.safetensors")
    assert said.stdout.strip() == model.answer(*ids) and model.answer(*ids) in model.shape.answers


def test_the_workflow_says_so_where_the_fact_is_looked_up_at_end(project):
    circuit = read_circuit(project / "results/at-end/circuit.yaml")
    assert (circuit.lookup_at, circuit.concatenate, circuit.lookup, circuit.extract) == (
        "end",
        None,
        None,
        (),
    )
    page = (project / "results/at-end/report.html").read_text()
    assert (
        "The fact is not looked up at the name: it cannot be read there, and an MLP at END carries it" in page
    )
    assert "No lookup at the name was found" in page
    assert read_table(project / "results/at-end/tables/effective_model.csv").is_empty()


def test_two_studies_of_one_run_stand_side_by_side(project):
    ledger = pl.read_csv(project / "results/comparison/ledger.csv", infer_schema_length=None)
    own = [read_table(project / f"results/{family}/tables/ledger.csv") for family in FAMILIES]
    assert ledger["study"].unique(maintain_order=True).to_list() == list(FAMILIES)
    assert ledger["claim"].to_list() == [claim for table in own for claim in table["claim"]]
    page = (project / "results/comparison/report.html").read_text()
    for family, table in zip(FAMILIES, own, strict=True):
        assert f'<a href="../{family}/report.html">{family}</a>' in page
        of_model = table.filter(about="model")
        assert f"{of_model.filter(verdict=NOT_APPLICABLE).height} {NOT_APPLICABLE}</td>" in page
        assert all(f'<small class="why">{escape(reason)}</small>' in page for reason in of_model["reason"])


def test_snakemake_s_own_report_has_every_figure_with_its_caption(project, tmp_path):
    snakemake(project, "--report", str(tmp_path / "all.html"), study="families.yaml")
    script = (tmp_path / "all.html").read_text().split('<script id="results">')[1]
    results, _ = json.JSONDecoder().raw_decode(script, script.index("{"))
    told = {path: unescape(re.sub("<[^>]+>", "", found["caption"])) for path, found in results.items()}
    figures = {
        n: figure for n, (_, figure) in declarations().spoken(STUDY).figures.items() if n != "training"
    }
    for family in FAMILIES:
        for name, figure in figures.items():
            assert figure.caption == told[f"results/{family}/figures/{name}.svg"].strip(), name
        assert f"The study {family} on one page" in told[f"results/{family}/report.html"]
        assert "Each claim" in told[f"results/{family}/tables/ledger.csv"]
    assert "one column per study" in told["results/comparison/report.html"]


def on_a_phone_in_the_dark(page, script, folder):
    """What a script finds on a copy of a page, which opens without a word on the console and asks for nothing; the copy."""
    here = Path(shutil.copy(page, folder))
    _, console, asked = opened(here)
    assert console == [] and asked == set()
    return used(here.read_text(), LOOK + script, folder, width=PHONE, dark=True), here


@needs_browser
def test_a_real_report_is_read_on_a_phone_in_the_dark_and_on_paper(study, tmp_path):
    page = study.folder / "results/small/report.html"
    found, here = on_a_phone_in_the_dark(
        page,
        """
        const said = {dark: paper < 0.05, contrast: worst("p, dd, small, a, th, td, .verdict"), figures: worst("svg.figure [id*='-xtick_'] use")};
        said.sections = [...d.querySelectorAll("main > section")].map((section) => section.id);
        said.claims = d.querySelectorAll(".claim").length;
        const fold = [...d.querySelectorAll("details")].find((one) => text(one).includes(". layer_probes:"));
        fold.open = true; await soon(); await soon();
        const table = fold.querySelector("table"), heads = [...table.tHead.rows[0].cells];
        const accuracy = heads.findIndex((head) => text(head) === "accuracy");
        heads[accuracy].click(); await soon();
        said.sorted = column(table, accuracy).map(Number);
        said.fits = fits();
        return said;
        """,
        tmp_path,
    )
    sections = [one.name for one in declarations().experiments.values() if one.figures]
    assert found["sections"] == [
        "answer",
        "synthesis",
        "ledger",
        "model",
        "summary",
        "closer",
        *sections,
        "computed",
    ]
    assert found["claims"] == read_table(page.parent / "tables/ledger.csv").height
    assert len(set(found["sorted"])) > 5 and found["sorted"] == sorted(found["sorted"])
    assert found["fits"] and found["dark"] and found["contrast"] > 4.5 and found["figures"] > 4.5
    sheets = printed(here)
    assert len(sheets) > len(sections) and all(width < height for width, height in sheets)


@needs_browser
def test_a_real_comparison_is_read_on_a_phone_in_the_dark_and_on_paper(project, tmp_path):
    page = project / "results/comparison/report.html"
    found, here = on_a_phone_in_the_dark(
        page,
        """
        const claims = [...d.querySelectorAll("#claims tbody tr:not(.group)")];
        return {dark: paper < 0.05, contrast: worst("p, small, a, th, td, .verdict"), claims: claims.length, fits: fits(),
          cells: claims.every((row) => row.cells.length === 3)};
        """,
        tmp_path,
    )
    claims = pl.read_csv(page.parent / "ledger.csv", infer_schema_length=None)["claim"].n_unique()
    assert found["claims"] == claims > 40 and found["cells"] and found["fits"]
    assert found["dark"] and found["contrast"] > 4.5
    sheets = printed(here)
    assert len(sheets) > 3  # the whole table, and not what its box shows before it scrolls
    assert all(width > height for width, height in sheets)
