"""Where a model comes from: a folder is described by what is in it, and a download that cannot be says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from factfinding.errors import InputError
from factfinding.model.source import describe, download
from models import save_model


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
