"""The smoke study on a true SLURM with three nodes: `make test-slurm` (minutes; not part of `make test`).

What only a scheduler can show: that GPU jobs ask for their GPU and never share it, that CPU jobs run on both other nodes at
once, that a job cancelled or killed half-way is submitted again, that the shards of a sweep are jobs of their own, and that
the tables are those of a run without a cluster.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from datetime import date, datetime

import psutil
import pytest

from factfinding.tables import read_table
from helpers import slurm
from helpers.reliability import write_row
from helpers.workflow import command, copy_project, digests, snakemake_forked

pytestmark = pytest.mark.cluster
FLAGS = [
    "--workflow-profile", "profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2", "--latency-wait", "10",
]  # fmt: skip
CANCELLED, KILLED = "layer_probes", "direct_effects"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The smoke study, run on the cluster, one job cancelled and one killed while they ran: folder, output, SLURM's jobs."""
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
        try:
            cancelled = disturb(cluster, process)
            process.wait(1500)
        finally:
            process.kill()
        found = jobs(cluster.run("scontrol", "show", "job", "-o"))
    output = (folder / "output.txt").read_text()
    assert process.returncode == 0, output[-6000:]
    return folder, output, found, cancelled


def disturb(cluster, process) -> str:
    """Cancel the job of one rule as soon as it runs, and kill -9 the script of another; the number of the first."""
    cancelled = killed = None
    while process.poll() is None and not (cancelled and killed):
        for line in cluster.run("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines():
            number, comment = line.split(" ", 1)
            if CANCELLED in comment and not cancelled:
                cluster.run("scancel", number)
                cancelled = number
        for victim in [] if killed else psutil.process_iter(["cmdline"]):
            if re.search(
                rf"/\.snakemake/scripts/tmp[^.]*\.{KILLED}\.py", " ".join(victim.info["cmdline"] or [])
            ):
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    killed = victim.pid
        time.sleep(0.3)
    assert cancelled, f"no job of {CANCELLED} was seen running"
    assert killed, f"no script of {KILLED} was seen running"
    return cancelled


def jobs(shown: str) -> list[dict[str, str]]:
    """`scontrol show job -o`: one job a line, key=value."""
    found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines() if line.strip()]
    for job in found:
        for end in ("StartTime", "EndTime"):
            known = job[end] not in ("Unknown", "None")
            job[end] = datetime.fromisoformat(job[end]).timestamp() if known else None
    return [job for job in found if job["StartTime"]]


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


def test_jobs_of_all_nodes_run_side_by_side(finished):
    _, _, found, _ = finished
    for one_node, other_node in (("cpu1", "cpu2"), ("cpu1", "gpu1")):
        pairs = [
            (a, b) for a in found for b in found if (a["NodeList"], b["NodeList"]) == (one_node, other_node)
        ]
        assert any(overlap(one, other) > 0 for one, other in pairs), (one_node, other_node)


def test_jobs_cancelled_and_killed_were_submitted_again(finished):
    _, output, found, cancelled = finished
    same = [job for job in found if CANCELLED in job["Comment"]]
    assert [job["JobState"] for job in same if job["JobId"] == cancelled] == ["CANCELLED"]
    assert "COMPLETED" in [job["JobState"] for job in same if job["JobId"] != cancelled]
    assert {"FAILED", "COMPLETED"} <= {job["JobState"] for job in found if KILLED in job["Comment"]}
    assert "steps (100%) done" in output


def test_the_tables_are_those_of_a_run_without_a_cluster(finished, tmp_path):
    folder, _, found, _ = finished
    here = copy_project(tmp_path / "here")
    snakemake_forked(here, "studies/smoke.yaml")
    assert digests(folder / "results/smoke") == digests(here / "results/smoke")
    assert (folder / "results/smoke/report.html").exists()
    seconds = max(job["EndTime"] for job in found) - min(job["StartTime"] for job in found)
    lost = "nothing: submitted again, all tables and figures identical"
    rows = (
        (f"a job cancelled while it ran ({CANCELLED})", 1, lost, "that job"),
        (f"`kill -9` of a job's script ({KILLED})", 1, lost, "that job"),
        ("the whole study as SLURM jobs", 1, "nothing", f"{len(found)} jobs, {seconds:.0f} s"),
    )
    for row in rows:
        write_row("cluster", [fault for fault, *_ in rows], (*row, date.today()))


def test_the_shards_of_the_sweep_were_jobs_of_their_own_and_are_merged(finished):
    folder, _, found, _ = finished
    shards = [
        job for job in found if "neuron_effects_shard" in job["Comment"] and job["JobState"] == "COMPLETED"
    ]
    assert len(shards) >= 2
    assert read_table(folder / "results/smoke/tables/neuron_effects.parquet").width >= 8
