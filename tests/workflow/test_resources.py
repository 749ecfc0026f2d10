"""GPU rules: one at a time on one machine without a flag, all at once on a cluster, each asking for one GPU; of several
GPUs of a machine each job sees one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from factfinding import gpus
from helpers import ROOT
from helpers.workflow import command, snakemake

SBATCH = """#!/bin/sh
echo "$@" >> "{calls}"
grep -c . "{calls}"
"""
SQUEUE = """#!/bin/sh
grep -n . "{calls}" | cut -d: -f1 | sed 's/$/|RUNNING/'
"""


TARGETS = [f"results/small/activations/{condition}.h5" for condition in ("full", "name_only")]


def spans(folder):
    """When Snakemake started and finished each job that ran activations, by the files that bracket its work."""
    found = []
    for path in (folder / "results/small/benchmarks").glob("activations_shard_*.tsv"):
        end, seconds = path.stat().st_mtime, float(path.read_text().split()[10])
        found.append((end - seconds, end))
    return sorted(found)


def run_both(folder, *arguments):
    """The activations of both conditions, with cores enough for all jobs at once."""
    shutil.rmtree(folder / "results/.shards", ignore_errors=True)
    return snakemake(folder, *TARGETS, "--cores", "4", "--forcerun", "activations", *arguments)


def test_gpu_jobs_run_one_at_a_time_here_without_any_flag(edited):
    """`workflow.global_resources.setdefault` is undocumented: if it stops working, the two overlap."""
    run_both(edited)
    first, second = spans(edited)
    assert first[1] <= second[0] + 0.5


def test_a_flag_lets_several_run_each_on_a_gpu_of_its_own(edited, machine):
    """Two jobs for each of two conditions. They make the same files as one job for each."""
    machine(gpus=4)
    alone = [(edited / target).read_bytes() for target in TARGETS]
    with (edited / "tests/fixtures/small.yaml").open("a") as config:
        config.write("activations: {shards: 2}\n")
    run_both(edited, "--resources", "gpu=4")
    jobs = spans(edited)
    assert len(jobs) == 4 and max(start for start, _ in jobs) < min(end for _, end in jobs) - 0.5
    logs = [path.read_text() for path in (edited / "results/small/logs").glob("activations_shard_*.log")]
    assert sorted(re.search("GPU (GPU-[0-9])", log)[1] for log in logs) == [f"GPU-{i}" for i in range(4)]
    assert [(edited / target).read_bytes() for target in TARGETS] == alone
    assert not list((edited / "results/small/activations").glob("*_shard_*"))


SEES = """
import os, sys, time
from types import SimpleNamespace
from job import Job
rule = SimpleNamespace(rule="recall", input=[], output={}, wildcards={}, threads=1, log=[],
    resources=SimpleNamespace(**RESOURCES), params=SimpleNamespace(settings=SETTINGS))
with Job(rule):
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    time.sleep(600)
"""
"""A job that says which GPUs it sees, and goes on until it is killed."""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of so many GPUs, as `nvidia-smi -L` lists them; parts: how many parts each of them is divided into."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def of(gpus: int, parts: int = 0) -> None:
        lines = []
        for i in range(gpus):
            lines.append(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})")
            lines += [f"  MIG 1g.10gb     Device  {j}: (UUID: MIG-{i}-{j})" for j in range(parts)]
        program = tmp_path / "bin/nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return of


@pytest.fixture
def job():
    """Start a job with what its rule asks for and its configuration; it lasts until it is killed, at the latest now."""
    running = []

    def start(gpu: int = 1, device: str = "auto") -> tuple[subprocess.Popen, str]:
        settings = json.dumps({"compute": {"device": device}})
        resources = {"gpu": gpu} if gpu else {}
        text = SEES.replace("RESOURCES", repr(resources)).replace("SETTINGS", repr(settings))
        process = subprocess.Popen(
            [sys.executable, "-c", text], text=True, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        )  # fmt: skip
        running.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in running:
        process.kill()
        process.wait()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def test_jobs_take_the_gpu_with_the_fewest_jobs_and_a_killed_one_leaves_its_own(machine, job):
    machine(gpus=2)
    started = [job() for _ in range(3)]
    assert [sees for _, sees in started] == ["GPU-0", "GPU-1", "GPU-0"]
    # one stays on GPU-0, whose first lock is free, and none on GPU-1
    kill(started[0][0])
    kill(started[1][0])
    assert job()[1] == "GPU-1"
    kill(started[2][0])
    assert job()[1] == "GPU-0"


def test_the_users_own_list_is_what_there_is_to_choose_from(machine, monkeypatch):
    machine(gpus=4)
    for named, expected in (
        ("2,3", ["2", "3"]), ("GPU-1", ["GPU-1"]), ("", []), ("-1", []), ("1, 0,-1,2", ["1", "0"]),
    ):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert gpus.pool() == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with gpus.one_gpu() as one:
        assert one == os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_a_schedulers_choice_is_left_alone(machine, monkeypatch):
    machine(gpus=4)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with gpus.one_gpu() as one:
        assert one is None and "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with gpus.one_gpu() as one:
        assert one is None and os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # several were given, for Snakemake itself to run in
    with gpus.one_gpu() as one:
        assert one == os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_of_gpus_that_are_divided_the_parts_are_chosen(machine):
    machine(gpus=2, parts=2)
    assert gpus.pool() == ["MIG-0-0", "MIG-0-1", "MIG-1-0", "MIG-1-1"]


def test_nothing_changes_with_one_gpu_or_none_or_a_device_that_is_named(machine, monkeypatch, job):
    for count in (0, 1):
        machine(gpus=count)
        with gpus.one_gpu() as one, gpus.one_gpu() as another:
            assert one is None and another is None and "CUDA_VISIBLE_DEVICES" not in os.environ
    machine(gpus=2)
    for asked in ({"device": "cpu"}, {"device": "cuda:1"}, {"gpu": 0}):
        assert job(**asked)[1] == "None", asked


def test_where_no_locks_can_be_kept_nothing_changes(machine, tmp_path):
    machine(gpus=2)
    (tmp_path / "file").touch()
    with gpus.one_gpu(tmp_path / "file") as one:
        assert one is None and "CUDA_VISIBLE_DEVICES" not in os.environ


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
