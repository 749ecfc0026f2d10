"""Where a model comes from: a folder is described by what is in it, and a download that cannot be says what to do."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from factfinding.errors import InputError
from factfinding.files import read_json
from factfinding.model.source import check_unchanged, describe, download, load_source
from factfinding.model_folder import MEMO, file_digests
from helpers import ROOT
from helpers.bad_input import edit_json, edit_weights, nan_weights, pickled, sharded
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


EVERY_FILE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip
WEIGHTS = {
    "whole": ("model.safetensors",),
    "shards": ("model-00001-of-00001.safetensors", "model.safetensors.index.json"),
    "pickled": ("pytorch_model.bin",),
}


def folder_with(folder, weights: str):
    """A model folder with a file of every name that loading may read; those that this model does not need say nothing."""
    save_model(folder)
    if weights == "shards":
        sharded({})(folder)
    if weights == "pickled":
        pickled(folder)
    for name in ("special_tokens_map.json", "added_tokens.json", "vocab.json"):
        (folder / name).write_text("{}")
    for name in ("merges.txt", "tokenizer.model"):
        (folder / name).write_text("#version: 0.2\n")
    return folder


def in_place(path):
    """Other bytes, as many, at the same time of modification."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=times)


def by_link(path):
    """A link to a file elsewhere."""
    other = path.parent.parent / f"other-{path.name}"
    other.write_bytes(path.read_bytes() + b" ")
    path.unlink()
    path.symlink_to(other)


def by_an_older_file(path):
    """A copy that keeps a time from long ago."""
    path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, (1_000_000_000, 1_000_000_000))


def removed(path):
    path.unlink()


@pytest.mark.parametrize("change", [in_place, by_link, by_an_older_file, removed])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_file_that_loading_reads_is_watched_whatever_way_it_changes(
    change, weights, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()  # digests of settled files are remembered there
    monkeypatch.setattr("factfinding.model_folder.SETTLED", 0)
    made = folder_with(tmp_path / "model", weights)
    whole = file_digests(made)
    assert set(whole) == {*EVERY_FILE, *WEIGHTS[weights]}
    for name in whole:
        kept = (made / name).read_bytes()
        change(made / name)
        now = file_digests(made)
        assert {other for other in whole if whole[other] != now.get(other)} == {name}, name
        (made / name).unlink(missing_ok=True)
        (made / name).write_bytes(kept)
        assert file_digests(made) == whole


def test_a_study_refuses_a_model_that_changed_under_it(folder, monkeypatch):
    source = describe(folder, kind="folder")
    compute = SimpleNamespace(dtype="float32", device="cpu")
    assert load_source(source, compute, lambda message: None).n_layers == 3
    for name in source["files"]:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b"\n")
        with pytest.raises(InputError) as error:
            load_source(source, compute, lambda message: None)
        assert str(error.value).startswith(f"{folder / name}: found other content since"), str(error.value)
        (folder / name).write_bytes(kept)
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"added_tokens\.json: found a new file since"):
        load_source(source, compute, lambda message: None)
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer_config\.json: found no such file since"):
        check_unchanged(source)


def test_what_is_remembered_of_files_is_what_they_hold(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("factfinding.model_folder.SETTLED", 0)
    before = file_digests(folder)
    (tmp_path / ".snakemake").mkdir()
    assert file_digests(folder) == before == file_digests(folder)
    read = []
    monkeypatch.setattr("factfinding.model_folder.file_digest", lambda path: read.append(path) or "x")
    assert file_digests(folder) == before and not read, "nothing is read a second time"
    MEMO.write_text("[]")
    assert set(file_digests(folder).values()) == {"x"} and len(read) == len(before)


def test_loading_opens_no_other_file_of_the_folder(tmp_path):
    """As Python sees it: what is read in other ways (weights, tokenizer.json) is named in the module."""
    code = """
import sys; sys.path.insert(0, "scripts")
from pathlib import Path
from factfinding.model.anatomy import load
from factfinding.model_folder import loaded_files
folder, opened = Path(sys.argv[1]), set()
sys.addaudithook(lambda name, of: opened.add(str(of[0])) if name == "open" else None)
load(folder, device="cpu")
found = {Path(path).name for path in opened if Path(path).parent == folder}
assert {"config.json", "tokenizer_config.json"} <= found, found
print(sorted(found - set(loaded_files(folder))))
"""
    folder = folder_with(tmp_path / "model", "whole")
    (folder / "README.md").write_text("# a model")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
    before = file_digests(folder)
    (folder / "README.md").write_text("# another text")
    assert file_digests(folder) == before


def test_the_bos_that_is_asked_for_is_part_of_the_digest(folder):
    """What is kept of a model's runs is found by the digest, and must not be found under another BOS."""
    plain, own = describe(folder, kind="folder"), describe(folder, kind="folder", bos="auto")
    other = describe(folder, kind="folder", bos="<|endoftext|>")
    assert plain == own and own["bos"] == "auto" and other["bos"] == "<|endoftext|>"
    assert own["digest"] != other["digest"] and own["files"] == other["files"]
    none, words = (describe(folder, kind="folder", bos="none", template=text) for text in ("Fact:", "True:"))
    assert none["template"] == "Fact:" and "template" not in own
    assert len({one["digest"] for one in (own, other, none, words)}) == 4


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
        threads=1, log=[], params=SimpleNamespace(settings=json.dumps({"model": model}), template=""),
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
