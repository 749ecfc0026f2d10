"""The smoke study on a true SLURM with two nodes: `make test-slurm` (minutes; not part of `make test`).

What only a scheduler can show: that GPU jobs ask for their GPU and never share it, that CPU jobs run beside them on the
other node, that a job cancelled half-way is submitted again, and that the shards of a sweep are jobs of their own.
"""

from __future__ import annotations

import re
import subprocess
import time
from datetime import datetime

import pytest

import slurm
from factfinding.files import read_table
from workflow import command, copy_project

pytestmark = pytest.mark.cluster
FLAGS = [
    "--workflow-profile", "profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2", "--latency-wait", "10",
]  # fmt: skip
CANCELLED = "layer_probes"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The smoke study, run on the cluster, one of its jobs cancelled while it ran: folder, output, and all SLURM jobs."""
    if slurm.missing():
        slurm.install()
    if slurm.missing():
        pytest.skip(f"no SLURM to test on: {slurm.missing()}")
    folder = copy_project(tmp_path_factory.mktemp("project"))
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        process = subprocess.Popen(
            command(*FLAGS, study="studies/smoke.yaml"), cwd=folder, env=cluster.environment, text=True,
            stdout=(folder / "output.txt").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        cancelled = cancel_one(cluster, process)
        process.wait(1500)
        found = jobs(cluster.run("scontrol", "show", "job", "-o"))
    output = (folder / "output.txt").read_text()
    assert process.returncode == 0, output[-6000:]
    return folder, output, found, cancelled


def cancel_one(cluster, process) -> str:
    """Cancel the job of one rule as soon as it runs; its number."""
    while process.poll() is None:
        for line in cluster.run("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines():
            number, comment = line.split(" ", 1)
            if CANCELLED in comment:
                cluster.run("scancel", number)
                return number
        time.sleep(0.3)
    raise AssertionError(f"no job of {CANCELLED} was seen running")


def jobs(shown: str) -> list[dict[str, str]]:
    """`scontrol show job -o`: one job a line, key=value."""
    found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines() if line.strip()]
    for job in found:
        for end in ("StartTime", "EndTime"):
            known = job[end] not in ("Unknown", "None")
            job[end] = datetime.fromisoformat(job[end]).timestamp() if known else None
    return [job for job in found if job["StartTime"]]


def rule_of(job) -> str:
    return re.sub(r"^rule_|_wildcards_.*$", "", job["Comment"])


def overlap(one, other) -> float:
    return min(one["EndTime"], other["EndTime"]) - max(one["StartTime"], other["StartTime"])


def test_every_gpu_rule_asks_for_its_gpu_and_no_two_share_it(finished):
    _, _, found, _ = finished
    on_gpu = [job for job in found if job["Partition"] == "gpu"]
    assert len(on_gpu) >= 8
    assert all("gpu:1" in str(job) or "gres/gpu=1" in str(job) for job in on_gpu)
    for i, job in enumerate(on_gpu):
        for other in on_gpu[:i]:
            assert overlap(job, other) <= 0, (job["JobName"], other["JobName"])


def test_no_other_rule_asks_for_a_gpu(finished):
    _, _, found, _ = finished
    others = [job for job in found if job["Partition"] == "cpu"]
    assert len(others) >= 10 and not any("gpu" in job.get("TresPerJob", "") for job in others)


def test_jobs_of_both_nodes_run_side_by_side(finished):
    _, _, found, _ = finished
    both = [(one, other) for one in found for other in found if one["Partition"] < other["Partition"]]
    assert any(overlap(one, other) > 0 for one, other in both)
    on_cpu = [job for job in found if job["Partition"] == "cpu"]
    assert any(overlap(one, other) > 0 for i, one in enumerate(on_cpu) for other in on_cpu[:i])


def test_the_cancelled_job_was_submitted_again_and_the_study_is_whole(finished):
    folder, output, found, cancelled = finished
    same = [job for job in found if CANCELLED in job["Comment"]]
    assert [job["JobState"] for job in same if job["JobId"] == cancelled] == ["CANCELLED"]
    assert "COMPLETED" in [job["JobState"] for job in same if job["JobId"] != cancelled]
    assert "steps (100%) done" in output
    assert (folder / "results/smoke/report.html").exists()


def test_the_shards_of_the_sweep_were_jobs_of_their_own_and_are_merged(finished):
    folder, _, found, _ = finished
    shards = [
        job for job in found if "neuron_effects_shard" in job["Comment"] and job["JobState"] == "COMPLETED"
    ]
    assert len(shards) >= 2
    assert read_table(folder / "results/smoke/tables/neuron_effects.parquet").width >= 8
