"""Whole studies, figures and report included: GPT-2 and Llama of random weights, and a model that looks up at END.

The jobs are forks of one process (forked.py), which is all that differs from the command line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml

import planted
from factfinding.analysis.effective import EffectiveModel
from factfinding.analysis.ladder import NOTHING
from factfinding.analysis.proposal import read_circuit
from factfinding.files import read_json, read_table, write_table
from workflow import ROOT, copy_project, snakemake_forked, would_run

FAMILIES = {"gpt2": "GPT-2", "llama": "Llama"}
AT_END = "at-end"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder with all these studies finished."""
    folder = copy_project(tmp_path_factory.mktemp("whole"))
    smoke = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    for family in FAMILIES:
        values = smoke | {"study": family, "model": {"source": "tiny", "family": family}}
        (folder / f"{family}.yaml").write_text(yaml.safe_dump(values))
    model = planted.at_end(firsts=6, lasts=6)
    planted.save(model, folder / "models/at-end")
    write_table(model.prompts.select("athlete", "sport"), folder / "models/at-end.csv")
    values = smoke | {
        "study": AT_END,
        "model": {"source": "folder", "folder": "models/at-end"},
        "athletes": {"table": "models/at-end.csv"},
        "circuit": {},  # to be found
        "interventions": {"node_athletes": 8, "patched_athletes": 24},
    }
    (folder / f"{AT_END}.yaml").write_text(yaml.safe_dump(values))
    studies = [f"{name}.yaml" for name in (*FAMILIES, AT_END)]
    snakemake_forked(folder, *studies, arguments=("--cores", "2", "--resources", "gpu=2"))
    return folder


@pytest.mark.parametrize("study", [*FAMILIES, AT_END])
def test_every_section_has_its_figure_and_its_sentences_and_nothing_is_left_to_do(project, study):
    results = project / "results" / study
    page = (results / "report.html").read_text()
    for section in yaml.safe_load((ROOT / "resources/report/sections.yaml").read_text()):
        figure = results / f"figures/{section['figure']}.svg"
        if section["figure"] == "training":
            continue  # nobody trained these
        assert figure.stat().st_size > 1000 and figure.with_suffix(".png").stat().st_size > 1000
        assert f'id="{section["id"]}"' in page, section["id"]
    assert "Traceback" not in page
    assert would_run(project, f"{study}.yaml") == set()


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


def test_the_notebook_s_three_lines_run_as_the_page_has_them(project):
    page = (ROOT / "docs/experiments/p2-9.md").read_text()
    lines = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    athlete = (
        read_table(project / "results/llama/prompts/name_only.parquet")
        .filter(n_name_tokens=2)
        .row(0, named=True)
    )
    ids = athlete["token_ids"][1:]
    here = lines.replace("results/organism", "results/llama")
    here = re.sub(r"sport\(first=\d+, last=\d+\)", f"sport(first={ids[0]}, last={ids[1]})", here)
    code = here.replace("model.sport", "answer = model.sport") + "print(answer)"
    assert len([line for line in lines.splitlines() if line]) == 3 and code.count("answer") == 2
    environment = os.environ | {"PYTHONPATH": "scripts"}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, text=True, capture_output=True, check=True
    )
    model = EffectiveModel.load(project / "results/llama/effective_model.safetensors")
    assert said.stdout.strip() == model.sport(*ids) and model.sport(*ids) in model.shape.sports


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
