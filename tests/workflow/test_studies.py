"""Other models: the rules run on a user's model folder and on every family, and say what is wrong before they do."""

from __future__ import annotations

import pytest
import yaml

from factfinding.files import read_json
from factfinding.tables import read_table
from helpers.models import save_model
from helpers.workflow import copy_project, snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("studies"))


def write_study(project, name, **values):
    (project / f"{name}.yaml").write_text(
        yaml.safe_dump({"study": name, "subjects": {"table": "tests/fixtures/subjects.csv"}} | values)
    )
    return f"{name}.yaml"


def test_a_users_model_folder_goes_through_and_its_card_says_what_it_is(project):
    folder = save_model(project / "my model", "gpt2")
    study = write_study(
        project, "folder", model={"source": "folder", "folder": str(folder)}, probes={"subjects": "all"}
    )
    snakemake(project, "results/folder/model/card.json", "--cores", "2", study=study)
    card = read_json(project / "results/folder/model/card.json")
    assert card["shape"]["family"] == "GPT-2" and card["source"]["kind"] == "folder"
    assert set(card["source"]["files"]) >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert read_table(project / "results/folder/tables/recall.csv").height == 60
    (folder / "model.safetensors").unlink()
    output = snakemake(project, "results/folder/model/card.json", "--cores", "2", study=study, check=False)
    assert "no weights; allowed: *.safetensors beside config.json" in output


def test_a_llama_of_random_weights_knows_nothing_and_every_table_is_there(project):
    study = write_study(
        project,
        "llama",
        model={"source": "tiny", "family": "llama"},
        probes={"subjects": "all", "n_folds": 3},
    )
    snakemake(project, "results/llama/tables/layer_probes.csv", "--cores", "2", study=study)
    recall = read_table(project / "results/llama/tables/recall.csv")
    assert recall.height == 60 and recall["known"].sum() < 10
    probes = read_table(project / "results/llama/tables/layer_probes.csv")
    assert probes["n"].unique().to_list() == [60]


def test_without_a_network_the_download_rule_says_what_to_put_where(project, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    study = write_study(
        project, "hub", model={"source": "hub", "id": "EleutherAI/pythia-14m", "revision": "main"}
    )
    output = snakemake(project, "results/hub/model/source.json", "--cores", "1", study=study, check=False)
    assert "download_model: model.id 'EleutherAI/pythia-14m'" in output and "source: folder" in output
    assert not (project / "results/hub/model/source.json").exists()
