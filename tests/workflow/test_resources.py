"""GPU rules: one at a time on one machine without a flag, all at once on a cluster, each asking for one GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from helpers.workflow import command, snakemake

SBATCH = """#!/bin/sh
echo "$@" >> "{calls}"
grep -c . "{calls}"
"""
SQUEUE = """#!/bin/sh
grep -n . "{calls}" | cut -d: -f1 | sed 's/$/|RUNNING/'
"""


def spans(folder):
    """When Snakemake started and finished each of the two activation jobs, by the files that bracket its work."""
    found = []
    for condition in ("full", "name_only"):
        table = (folder / f"results/small/benchmarks/activations_{condition}.tsv").stat()
        seconds = float(
            (folder / f"results/small/benchmarks/activations_{condition}.tsv").read_text().split()[10]
        )
        found.append((table.st_mtime - seconds, table.st_mtime))
    return sorted(found)


def run_both(folder, *arguments):
    """Both activation jobs, with cores enough for both at once."""
    shutil.rmtree(folder / "results/.shards", ignore_errors=True)
    targets = [f"results/small/activations/{condition}.h5" for condition in ("full", "name_only")]
    return snakemake(folder, *targets, "--cores", "4", "--forcerun", "activations", *arguments)


def test_gpu_jobs_run_one_at_a_time_here_without_any_flag(edited):
    """`workflow.global_resources.setdefault` is undocumented: if it stops working, the two overlap."""
    run_both(edited)
    first, second = spans(edited)
    assert first[1] <= second[0] + 0.5


def test_a_flag_lets_several_run(edited):
    run_both(edited, "--resources", "gpu=2")
    first, second = spans(edited)
    assert second[0] < first[1] - 0.5


@pytest.fixture
def slurm(edited, tmp_path):
    """Stand-ins for SLURM's commands: jobs are written down and said to be running for ever; no account is known."""
    calls = tmp_path / "calls"
    calls.touch()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SBATCH), ("sacct", "#!/bin/sh\n")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(calls=calls if name != "scancel" else tmp_path / "cancelled"))
        path.chmod(0o755)
    return calls


def test_on_slurm_every_gpu_job_is_submitted_at_once_and_asks_for_a_gpu(edited, slurm):
    targets = [
        f"results/small/{name}"
        for name in ("activations/full.h5", "activations/name_only.h5", "tables/recall.csv")
    ]
    for target in targets:
        (edited / target).unlink()
    environment = os.environ | {"PATH": f"{slurm.parent / 'bin'}:{os.environ['PATH']}"}
    arguments = [
        *targets,
        "--workflow-profile",
        "profiles/slurm",
        "--slurm-no-account",
    ]
    arguments += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"]
    process = subprocess.Popen(
        command(*arguments),
        cwd=edited,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
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
