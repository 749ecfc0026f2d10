"""Where a model comes from: a folder is described by what is in it, and a download that cannot be says what to do."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from factfinding.errors import InputError
from factfinding.files import read_json
from factfinding.model.source import describe, download
from helpers import ROOT
from helpers.bad_input import edit_json, edit_weights, nan_weights
from helpers.models import save_model


class OutputFiles(SimpleNamespace):
    """A rule's outputs by name, as Snakemake gives them."""

    def get(self, name):
        return getattr(self, name, None)


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model")


def test_the_digest_follows_what_is_in_the_files(folder):
    before = describe(folder, kind="folder")
    assert set(before["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert describe(folder, kind="folder") == before
    (folder / "card.json").write_text("{}")
    assert describe(folder, kind="folder")["digest"] == before["digest"], "what was measured is not the model"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(
            content.replace(b"e", b"f", 1) if name != "config.json" else content + b"\n"
        )
        assert describe(folder, kind="folder")["digest"] != before["digest"], name
        (folder / name).write_bytes(content)


def test_the_bos_that_is_asked_for_is_part_of_the_digest(folder):
    """What is kept of a model's runs is found by the digest, and must not be found under another BOS."""
    plain, own = describe(folder, kind="folder"), describe(folder, kind="folder", bos="auto")
    other = describe(folder, kind="folder", bos="<|endoftext|>")
    assert plain == own and own["bos"] == "auto" and other["bos"] == "<|endoftext|>"
    assert own["digest"] != other["digest"] and own["files"] == other["files"]


def test_a_folder_below_the_working_directory_is_given_relative_to_it(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert describe(folder, kind="folder")["folder"] == "model"
    monkeypatch.chdir(Path(os.sep))
    assert describe(folder, kind="folder")["folder"] == os.path.relpath(folder, os.sep)


def test_without_a_network_the_message_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    import huggingface_hub

    def unreachable(*_args, **_options):
        raise ConnectionError("the hub is not there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(InputError) as caught:
        download("EleutherAI/pythia-2.8b", "main", tmp_path, allow_pickle=False)
    message = str(caught.value)
    for part in (
        "EleutherAI/pythia-2.8b",
        "no download",
        "config.json, tokenizer.json, *.safetensors",
        "source: folder",
    ):
        assert part in message


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=str(folder)):
        describe(folder, kind="folder")


def download_rule(served, results, monkeypatch):
    """Run the script of download_model with a hub that serves this folder."""

    def snapshot(_id, *, local_dir, **_options):
        shutil.copytree(served, local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a job sets the threads of its own process
    model = {"id": "someone/model", "revision": "main", "allow_pickle": False, "bos": "auto"}
    rule = SimpleNamespace(
        rule="download_model", input=[], output=OutputFiles(source=str(results / "source.json")), wildcards={},
        threads=1, log=[], params=SimpleNamespace(settings=json.dumps({"model": model})),
    )  # fmt: skip
    runpy.run_path(str(ROOT / "scripts/download_model.py"), init_globals={"snakemake": rule})
    return read_json(results / "source.json")


def test_a_downloaded_model_is_described(folder, tmp_path, monkeypatch):
    source = download_rule(folder, tmp_path / "results", monkeypatch)
    assert (source["kind"], source["id"]) == ("hub", "someone/model")
    assert "model.safetensors" in source["files"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_weights(lambda weights: weights.pop("embed_out.weight")), "no weight embed_out.weight"),
        (edit_weights(nan_weights), "numbers that are not finite in gpt_neox.layers.1"),
        (edit_json("config.json", intermediate_size=64), "64 x 32 (neurons x width)"),
    ],
)
def test_a_downloaded_model_is_looked_at_like_a_folder(folder, tmp_path, monkeypatch, spoil, message):
    spoil(folder)
    with pytest.raises(SystemExit, match=re.escape(message)):
        download_rule(folder, tmp_path / "results", monkeypatch)
    assert not (tmp_path / "results/source.json").exists()
