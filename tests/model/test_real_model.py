"""A real language model, SmolLM2-135M-Instruct from the package registry (`make test-real`): what the workflow says of it
is what plain transformers says, from the file itself.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from factfinding.config import ModelConfig, RecallConfig, RelationConfig, validate
from factfinding.data.prompts import CONDITIONS, candidates, prompt_table
from factfinding.data.subjects import read_subjects
from factfinding.experiments.recall.compute import compute
from factfinding.inputs import Inputs
from factfinding.model.anatomy import load
from factfinding.model.gguf_file import convert_gguf
from helpers import ROOT

STUDY = yaml.safe_load((ROOT / "studies/smollm2-cities.yaml").read_text())
FILE = ROOT / STUDY["model"]["file"]
RELATION = validate(STUDY["relation"], RelationConfig)
BOS = validate({"bos": STUDY["model"]["bos"]}, ModelConfig).bos
CITIES = read_subjects(ROOT / STUDY["subjects"]["table"], relation=RELATION).frame.gather_every(30)[:50]
FAMOUS = {
    "Rome": "Italy",
    "Paris": "France",
    "Berlin": "Germany",
    "Tokyo": "Japan",
    "Madrid": "Spain",
    "Mumbai": "India",
}
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FILE.exists(), reason=f"no {FILE.name}: make test-real"),
]


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory):
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    record = convert_gguf(FILE, folder)
    assert record["tensor_types"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}
    # float64: in float32 the rounding of thirty layers alone moves a probability by as much as 1e-5
    return load(folder, dtype="float64", device="cpu", bos=BOS)


@pytest.fixture(scope="module")
def plain(anatomy):
    """Model and tokenizer as transformers alone reads them from the file."""
    options = {"gguf_file": FILE.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(FILE.parent, dtype=torch.float32, **options).eval()
    return model.double(), AutoTokenizer.from_pretrained(FILE.parent, **options)


def recall(anatomy, subjects: pl.DataFrame) -> pl.DataFrame:
    """The table `recall` of these cities."""
    tokens, bos = anatomy.tokenizer, anatomy.bos_token_id
    prompts = {name: prompt_table(subjects, tokens, bos, name, RELATION) for name in CONDITIONS}
    answers = sorted(set(CITIES["answer"]))
    held = {f"prompts/{name}": table for name, table in prompts.items()}
    held |= {"anatomy": anatomy, "candidates": candidates(answers, prompts["full"]["text"][0], tokens)}
    settings = SimpleNamespace(compute=SimpleNamespace(batch_size=10), recall=RecallConfig())
    return compute(Inputs(ROOT, held=held), settings, lambda _: None)["recall"]


@torch.no_grad()
def p_answer(plain, city: str, country: str, shot: str) -> float:
    """P(answer) after a prompt in one piece, its BOS as text."""
    model, tokens = plain
    prompt = f"{BOS}{shot}Fact: {city} is a city in the country of"
    ids = tokens(prompt, add_special_tokens=False)["input_ids"]
    (answer,) = tokens(f" {country}", add_special_tokens=False)["input_ids"]
    return model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)[answer].item()


def test_the_folder_holds_every_weight_of_the_file_as_transformers_reads_it(anatomy, plain):
    ours, theirs = anatomy.model.state_dict(), plain[0].state_dict()
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_probabilities_of_fifty_cities_are_those_of_plain_transformers(anatomy, plain):
    table = recall(anatomy, CITIES)
    assert table.height == 50 and table["answer"].n_unique() == 8
    shot = "Fact: Lisbon is a city in the country of Portugal\n"
    for column, before in (("full_p", shot), ("zero_shot_p", "")):
        theirs = [p_answer(plain, city, country, before) for city, country in CITIES.rows()]
        assert np.abs(table[column].to_numpy() - theirs).max() < 1e-5, column
        assert max(theirs) > 0.9 and min(theirs) < 0.1, "some are known, some are not"


def test_it_knows_where_famous_cities_are(anatomy):
    frame = pl.DataFrame({"subject": list(FAMOUS), "answer": list(FAMOUS.values())})
    assert recall(anatomy, frame)["known"].to_list() == [True] * len(FAMOUS)
