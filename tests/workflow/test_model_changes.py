"""A user's model folder that changes under a study: what would run again, and what refuses to run."""

from __future__ import annotations

import os
import shutil

import pytest
import yaml

from factfinding.studies import merged
from helpers.bad_input import FOLDER, GOOD, pickled
from helpers.models import save_model
from helpers.workflow import copy_project, dry_run, planned, snakemake

TARGET = "results/mine/prompts/full.parquet"
CHANGED = (
    "pytorch_model.bin", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def adopted(tmp_path_factory):
    """A study of pickled weights, up to its prompts. The folder and the table have braces in their names."""
    project = copy_project(tmp_path_factory.mktemp("adopted"))
    folder = save_model(project / "my {models}" / "{study}")
    pickled(folder)
    for name in ("special_tokens_map.json", "added_tokens.json"):
        (folder / name).write_text("{}")
    shutil.copy(project / "tests/fixtures/subjects.csv", project / "{subjects}.csv")
    named = {
        "model": {"folder": "my {models}/{study}", "allow_pickle": True},
        "subjects": {"table": "{subjects}.csv"},
    }
    (project / "mine.yaml").write_text(yaml.safe_dump(merged(merged(GOOD, FOLDER), named)))
    snakemake(project, TARGET, "--cores", "1", study="mine.yaml")
    return project, folder


def would_run(project) -> set[str]:
    code, output = dry_run(project, TARGET, study="mine.yaml")
    assert code == 0, output[-3000:]
    return planned(output)


def test_every_change_of_the_folder_makes_the_study_anew_and_no_touch_does(adopted):
    project, folder = adopted
    assert would_run(project) == set()
    for name in CHANGED:
        (folder / name).touch()
    assert would_run(project) == set(), "a time alone is no change"
    for number, name in enumerate(CHANGED):
        path = folder / name
        kept, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        if number % 3 == 0:  # in place, at the same time
            path.write_bytes(kept + b"\n")
            os.utime(path, ns=times)
        elif number % 3 == 1:  # by an older file
            path.write_bytes(kept + b"\n")
            os.utime(path, (1_000_000_000, 1_000_000_000))
        else:  # by a link
            other = project / f"other-{name}"
            other.write_bytes(kept + b"\n")
            path.unlink()
            path.symlink_to(other)
        assert would_run(project) == {"adopt_model", "prompts"}, name
        path.unlink()
        path.write_bytes(kept)
    assert would_run(project) == set(), "all is as it was"


def test_a_rule_that_runs_alone_refuses_the_other_model(adopted):
    project, folder = adopted
    path = folder / "tokenizer_config.json"
    kept = path.read_bytes()
    path.write_bytes(kept + b"\n")
    output = snakemake(
        project, TARGET, "--cores", "1", "--allowed-rules", "prompts", "--forcerun", "prompts", study="mine.yaml", check=False
    )  # fmt: skip
    path.write_bytes(kept)
    assert "tokenizer_config.json: found other content since the study's model was described" in output
