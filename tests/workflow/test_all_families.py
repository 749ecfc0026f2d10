"""The whole smoke study, figures and report included, on every family of models; GPT-2 and Llama are always run, in
test_whole_studies.py.
"""

from __future__ import annotations

import pytest
import yaml

from factfinding.declarations import declarations
from factfinding.families import KNOWN_TYPES
from factfinding.files import read_json
from factfinding.tables import read_table
from helpers import ROOT
from helpers.models import MORE
from helpers.workflow import copy_project, snakemake_forked, would_run

pytestmark = pytest.mark.families


@pytest.mark.parametrize("family", MORE)
def test_the_whole_study_runs_on_every_family(family, tmp_path):
    folder = copy_project(tmp_path / family)
    smoke = yaml.safe_load((ROOT / "studies/smoke.yaml").read_text())
    values = smoke | {"study": family, "model": {"source": "tiny", "family": family}}
    (folder / "family.yaml").write_text(yaml.safe_dump(values))
    snakemake_forked(folder, "family.yaml")
    results = folder / "results" / family
    assert read_json(results / "model/card.json")["shape"]["family"] == KNOWN_TYPES[family].name
    page = (results / "report.html").read_text()
    assert "Traceback" not in page
    for name, (experiment, _) in declarations().figures.items():
        if name != "training":  # nobody trained it
            assert (results / f"figures/{name}.svg").stat().st_size > 1000, name
            assert f'id="{experiment.name}"' in page, experiment.name
    effective = read_table(results / "tables/effective_model.csv").filter(model="effective")
    assert effective.height and effective["largest_error"].max() < 1e-4
    assert read_table(results / "tables/neuron_effects_twin.csv")["relative_error"].max() < 1e-3
    assert would_run(folder, "family.yaml") == set()
