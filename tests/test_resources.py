"""GPU rules: one at a time on one machine without a flag, all at once on a cluster, each asking for one GPU."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from workflow import command, snakemake

GPU_RULES = {"recall", "activations", "model_card"}
SBATCH = """#!/bin/sh
echo "$@" >> "{calls}"
grep -c . "{calls}"
"""
SQUEUE = """#!/bin/sh
grep -n . "{calls}" | cut -d: -f1 | sed 's/$/|RUNNING/'
"""


def test_gpu_jobs_are_limited_to_one_here_without_any_flag(study):
    """`workflow.global_resources.setdefault` is undocumented: if it stops working, this line is missing."""
    assert "Provided resources: gpu=1" in study.output


def test_a_flag_overrides_the_limit(edited):
    (edited / "results/small/tables/recall.csv").unlink()
    assert "Provided resources: gpu=2" in snakemake(edited, "--cores", "2", "--resources", "gpu=2")


def test_two_gpu_rules_do_not_overlap_here(study):
    """The two activation jobs are ready at the same moment on two cores, and still run one after the other."""
    logs = [study.folder / f"results/small/logs/activations_{condition}.log" for condition in ("full", "name_only")]
    spans = sorted((log.read_text().splitlines()[0][:8], log.read_text().splitlines()[-1][:8]) for log in logs)
    assert spans[0][1] <= spans[1][0]


@pytest.fixture
def slurm(edited, tmp_path):
    """Stand-ins for sbatch and squeue: jobs are written down and said to be running for ever."""
    calls = tmp_path / "calls"
    calls.touch()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SBATCH)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(calls=calls if name != "scancel" else tmp_path / "cancelled"))
        path.chmod(0o755)
    return calls


def test_on_slurm_every_gpu_job_is_submitted_at_once_and_asks_for_a_gpu(edited, slurm):
    for name in ("activations/full.h5", "activations/name_only.h5", "tables/recall.csv"):
        (edited / "results/small" / name).unlink()
    environment = os.environ | {"PATH": f"{slurm.parent / 'bin'}:{os.environ['PATH']}"}
    arguments = ["results/small/tables/layer_probes.csv", "--workflow-profile", "profiles/slurm", "--slurm-no-account"]
    arguments += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]
    process = subprocess.Popen(
        command(*arguments), cwd=edited, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.time() + 90
        while time.time() < deadline and process.poll() is None and len(slurm.read_text().splitlines()) < 3:
            time.sleep(0.2)
    finally:
        process.kill()
        output = process.communicate()[0]
    lines = slurm.read_text().splitlines()
    assert len(lines) == 3, output[-3000:]
    for line in lines:
        assert "--gpus=1" in line and "-p gpu" in line, line
        assert "--mem " in line and "-t " in line
