"""kill -9 in the middle of a workflow, then a plain rerun: the same values, and nothing half-written."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from helpers.workflow import command, snakemake
from job import Job

TARGET = "results/small/activations/full.h5"


def values(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file if "@" in name}


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.6])
def test_activations_killed_and_rerun_are_those_of_an_unbroken_run(edited, moment):
    """Everything of the run is killed, Snakemake and the job; `moment` is seconds after the model is loaded, and a bit."""
    unbroken = values(edited / TARGET)
    (edited / TARGET).unlink()
    shutil.rmtree(edited / "results/.shards")
    log = edited / "results/small/logs/activations_shard_full_0.log"
    log.unlink()
    process = subprocess.Popen(
        command(TARGET, "--cores", "1"), cwd=edited, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(log, process)
    while log.exists() and "prompts found" not in log.read_text() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(moment * random.Random(moment).random())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(edited / ".snakemake/locks")  # what `snakemake --unlock` does; Snakemake itself was killed
    snakemake(edited, TARGET, "--cores", "1")
    again = values(edited / TARGET)
    assert unbroken.keys() == again.keys()
    assert all(np.array_equal(unbroken[name], again[name], equal_nan=True) for name in unbroken)
    assert not list((edited / "results").rglob(".*.part"))


def test_a_cache_of_another_model_put_in_place_is_refused_by_name(edited):
    """Whoever copies a file from elsewhere gets a word, not a table of mixed models."""
    path = edited / "results/small/activations/full.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["model"] = "another"
    output = snakemake(edited, "results/small/tables/layer_probes.csv", "--cores", "1", check=False)
    assert "activations/full.h5: found model 'another'" in output
    assert "remove the file to have it made again" in output
    path.unlink()
    snakemake(edited, "results/small/tables/layer_probes.csv", "--cores", "1")


def test_a_failing_rule_leaves_its_traceback_in_the_log_and_says_what_the_user_can_mend(edited):
    people = "Ann Lee,sepak takraw\nCy Day,sepak takraw\nBo Li,sepak raga\nDi May,sepak raga\n"
    (edited / "bad.csv").write_text("athlete,sport\n" + people)
    values = "study: bad\nmodel: {source: tiny}\nsubjects: {table: bad.csv, min_per_answer: 1}\nprobes: {n_folds: 2}\n"
    (edited / "bad.yaml").write_text(values)
    output = snakemake(
        edited, "results/bad/prompts/full.parquet", "--cores", "1", study="bad.yaml", check=False
    )
    assert "'sepak raga' and 'sepak takraw'" in output, output[-3000:]
    log = (edited / "results/bad/logs/prompts.log").read_text()
    assert "Traceback" in log and "InputError" in log


def rule(folder: Path, settings: dict) -> SimpleNamespace:
    """What Snakemake puts into a script's namespace."""
    return SimpleNamespace(
        rule="recall", input=[], output={}, wildcards={}, threads=1, log=[folder / "recall.log"],
        params=SimpleNamespace(settings=json.dumps(settings)),
    )  # fmt: skip


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 60), lambda: np.empty(1 << 59)])
def test_a_rule_that_runs_out_of_memory_names_the_size_of_its_batches(tmp_path, monkeypatch, ask):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a job sets its threads there
    asked = "recall: config.compute.batch_size: found 128, and memory ran out .*; allowed: a smaller number"
    with pytest.raises(SystemExit, match=asked), Job(rule(tmp_path, {"compute": {"batch_size": 128}})):
        ask()
    assert "Traceback" in (tmp_path / "recall.log").read_text()
    for without in ({"probes": {}}, {"compute": {"dtype": "float32"}}):
        with pytest.raises((RuntimeError, MemoryError)), Job(rule(tmp_path, without)):
            ask()
    with pytest.raises(RuntimeError, match="shapes"), Job(rule(tmp_path, {"compute": {"batch_size": 128}})):
        raise RuntimeError("shapes")


def test_a_bad_configuration_stops_before_anything_runs(edited):
    (edited / "bad.yaml").write_text("study: bad\nprobes: {n_folds: many}\n")
    output = snakemake(edited, "-n", study="bad.yaml", check=False)
    assert "config.probes.n_folds: found 'many'; allowed: input should be a valid integer" in output
