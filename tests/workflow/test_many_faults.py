"""What goes wrong on machines that are not ours, on the smoke study: `make test-faults` (half an hour; not in `make test`).

Every test breaks something and then does what a user would do: run the same command again. The tables must be those of an
unbroken run, byte for byte. What was done, how often, what was lost and what it cost is written to docs/reliability.md, a row
for each fault that was survived.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from datetime import date
from pathlib import Path

import h5py
import psutil
import pytest
import yaml

from helpers.reliability import write_row
from helpers.workflow import (
    assert_close,
    command,
    copy_project,
    digests,
    planned,
    snakemake,
    snakemake_forked,
    tables,
    unshared,
)

pytestmark = pytest.mark.faults
SMOKE = "studies/smoke.yaml"
FAST = ["--cores", "4", "--resources", "gpu=2"]
RESULTS = "results/smoke"
TARGET = f"{RESULTS}/activations/full.h5"
PROBES = f"{RESULTS}/tables/layer_probes.csv"
KILLS = 20
FAULTS = {
    "killed": "`kill -9` at random moments over the whole smoke study: of a rule's process, of Snakemake with all its jobs, and of Snakemake alone, its jobs living on while it is started again",
    "full": "disk full while activations are written",
    "read-only": "results/ on a read-only file system",
    "memory": "a job with too little memory (address space limited)",
    "truncated": "activation file cut in half",
    "garbage": "activation file of random bytes",
    "empty": "activation file of no bytes",
    "flipped": "one byte of an activation file changed",
    "shard": "a shard of the activations cut in half",
    "other model": "the activation file of another model in place of ours",
    "two": "a second Snakemake started in the same folder",
    "clock": "the clock goes back a day between two runs",
    "moved": "results/ moved to another disk and linked; the whole project moved",
    "no network": "the whole study where there is no network, not even to the machine itself",
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A project folder with the smoke study in it, finished without a fault."""
    folder = copy_project(tmp_path_factory.mktemp("unbroken"))
    snakemake(folder, *FAST, study=SMOKE)
    return folder


def fresh(unbroken: Path, folder: Path) -> Path:
    """The project as `unbroken` has it, nothing run: whoever edits files meanwhile disturbs no comparison."""
    return Path(shutil.copytree(unbroken, folder, ignore=shutil.ignore_patterns("results", ".snakemake")))


@pytest.fixture(scope="module")
def survived():
    """survived(fault, times tried, what was lost, what it cost): a row of the page's table."""

    def told(fault: str, tried: int, lost: str, cost: str) -> None:
        write_row("faults", list(FAULTS.values()), (FAULTS[fault], tried, lost, cost, date.today()))

    return told


@pytest.fixture
def broken(unbroken, tmp_path):
    """The finished study in a folder of its own."""
    return Path(shutil.copytree(unbroken, tmp_path / "broken"))


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments, study=SMOKE), cwd=folder, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def unlock(folder: Path) -> None:
    """What `snakemake --unlock` does, after Snakemake itself was killed."""
    shutil.rmtree(folder / ".snakemake/locks", ignore_errors=True)


def again(folder: Path, *targets: str) -> float:
    """A plain rerun; seconds."""
    began = time.monotonic()
    snakemake(folder, *targets, *FAST, study=SMOKE)
    return time.monotonic() - began


def no_rubbish(folder: Path) -> None:
    assert not list((folder / "results").rglob("*.part"))


def scripts_of(folder: Path) -> list[psutil.Process]:
    """The processes that run a rule's script in a folder, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join(process.info["cmdline"] or [])
        if "/.snakemake/scripts/" in line and process.info["cwd"] == str(folder):
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def rule_of(process: psutil.Process) -> str:
    """The rule's script, of which Snakemake runs a copy: tmpab12.layer_probes.py"""
    return re.search(r"/\.snakemake/scripts/tmp[^.]*\.(\w+)", " ".join(process.cmdline()))[1]


def share_done(folder: Path, unbroken: Path) -> float:
    return len(digests(folder / RESULTS)) / len(digests(unbroken / RESULTS))


def kill(kind: str, process: subprocess.Popen, folder: Path, dice: random.Random) -> str | None:
    """What is killed: one `job`, `all` of it, or Snakemake `alone`. The job's rule, if it was one."""
    if kind == "job":
        try:
            victim = dice.choice(scripts_of(folder))
            name = rule_of(victim)
            victim.kill()
        except (IndexError, psutil.NoSuchProcess, TypeError):  # it ended while we looked
            return None
        process.wait(300)
        return name
    if kind == "all":
        os.killpg(process.pid, signal.SIGKILL)
        for orphan in scripts_of(folder):  # as where a node goes down: jobs have sessions of their own
            orphan.kill()
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return None


def test_killed_at_twenty_moments_the_study_ends_with_the_tables_of_an_unbroken_run(
    unbroken, tmp_path, survived
):
    """Each time the study is started again from where it was, and killed when a little more of it is done."""
    folder, dice, began = fresh(unbroken, tmp_path / "killed"), random.Random(0), time.monotonic()
    killed, rules, late = Counter(), Counter(), 0
    for i in range(KILLS):
        kind = ("job", "alone", "all", "job")[i % 4]
        process = start(folder, *FAST)
        until = (i + dice.random()) / (KILLS + 1)
        while process.poll() is None and (share_done(folder, unbroken) < until or not scripts_of(folder)):
            time.sleep(0.2)
        time.sleep(dice.uniform(0, 2))
        done = share_done(folder, unbroken)
        assert process.poll() is None, f"the study ended before kill {i + 1}, with {done:.0%} done"
        if rule := kill(kind, process, folder, dice):
            rules[rule] += 1
        killed[kind] += 1
        late += done > 0.5
        unlock(folder)
    rest = again(folder)
    assert digests(folder / RESULTS) == digests(unbroken / RESULTS)
    no_rubbish(folder)
    assert min(killed.values()) >= 5 and len(rules) >= 5 and late >= 5, (killed, rules, late)
    survived(
        "killed", KILLS, "nothing: all tables and figures identical",
        f"{killed['job']} jobs, {killed['all']} times everything, {killed['alone']} times Snakemake alone, {late} of them in the second half; "
        f"{time.monotonic() - began:.0f} s with all restarts, the last {rest:.0f} s",
    )  # fmt: skip


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, to be filled: mount(size) on a folder."""
    mounted = []

    def mount(folder: Path, options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_named_and_leaves_nothing_half_written(broken, unbroken, disk, survived):
    """results/ on a disk that has no room for the activations; then with room."""
    kept = broken.parent / "kept"
    shutil.move(broken / "results", kept)
    (broken / "results").mkdir()
    size = sum(
        -(-path.stat().st_size // 4096) * 4 for path in kept.rglob("*") if path.is_file()
    )  # kB, in pages
    disk(broken / "results", f"size={2 * size}k")
    shutil.copytree(kept, broken / "results", dirs_exist_ok=True)
    (broken / TARGET).unlink()
    shutil.rmtree(broken / "results/.shards")
    filler = broken / "results/filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    output = snakemake(broken, TARGET, *FAST, study=SMOKE, check=False)
    assert "No space left on device" in output and not (broken / TARGET).exists()
    no_rubbish(broken)
    filler.unlink()
    subprocess.run(["mount", "-o", f"remount,size={4 * size}k", str(broken / "results")], check=True)
    cost = again(broken)
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived("full", 1, "nothing; no file half-written", f"one rerun, {cost:.0f} s")


def test_results_that_cannot_be_written_are_named(broken, unbroken, disk, survived):
    """A read-only file system under results/, with one table to be made again."""
    kept = broken.parent / "kept"
    shutil.move(broken / "results", kept)
    (broken / "results").mkdir()
    disk(broken / "results", "size=1g")
    shutil.copytree(kept, broken / "results", dirs_exist_ok=True)
    (broken / PROBES).unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(broken / "results")], check=True)
    output = snakemake(broken, *FAST, study=SMOKE, check=False)
    assert "Read-only file system" in output or "Write-protected output files" in output
    subprocess.run(["mount", "-o", "remount,rw", str(broken / "results")], check=True)
    cost = again(broken)
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived("read-only", 1, "nothing", f"one rerun, {cost:.0f} s")


def damaged(path: Path, harm: str) -> bytes:
    whole = path.read_bytes()
    if harm == "flipped":
        with h5py.File(path) as file:
            at = file["resid@final_name"].id.get_chunk_info(0).byte_offset + 8
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    return {"truncated": whole[: len(whole) // 2], "garbage": os.urandom(4096), "empty": b""}[harm]


@pytest.mark.parametrize("harm", ["truncated", "garbage", "empty", "flipped"])
def test_a_damaged_cache_is_named_and_made_again(broken, unbroken, harm, survived):
    path = broken / TARGET
    path.write_bytes(damaged(path, harm))
    (broken / PROBES).unlink()
    output = snakemake(broken, PROBES, *FAST, study=SMOKE, check=False)
    assert "activations/full.h5" in output and "remove" in output
    path.unlink(missing_ok=True)
    cost = again(broken, PROBES)
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived(
        harm, 1, "nothing: refused by name", f"removing it and one rerun, {cost:.0f} s for it and one table"
    )


def test_a_damaged_shard_is_made_again(broken, unbroken, survived):
    """A half shard cannot come from a killed job (they are renamed when whole), but from a bad disk or a careless copy."""
    (broken / TARGET).unlink()
    (broken / PROBES).unlink()
    shard = max((broken / "results/.shards").rglob("*.h5"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    output = snakemake(broken, PROBES, *FAST, study=SMOKE, check=False)
    if not (broken / TARGET).exists():
        assert shard.name in output and "remove" in output
        shard.unlink()
    cost = again(broken, PROBES)
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived("shard", 1, "nothing: its rows are computed again", f"one rerun, {cost:.0f} s")


def test_a_cache_of_another_model_is_named_and_made_again(broken, unbroken, tmp_path, survived):
    """The same prompts through a GPT-2, its finished activation file laid in the place of ours."""
    other = fresh(unbroken, tmp_path / "other")
    snakemake(other, TARGET, *FAST, "--config", "model={source: tiny, family: gpt2}", study=SMOKE)
    (broken / TARGET).write_bytes((other / TARGET).read_bytes())
    (broken / PROBES).unlink()
    output = snakemake(broken, PROBES, *FAST, study=SMOKE, check=False)
    assert "activations/full.h5: found model" in output and "remove the file" in output
    (broken / TARGET).unlink()
    cost = again(broken, PROBES)
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived(
        "other model",
        1,
        "nothing: refused by name",
        f"removing it and one rerun, {cost:.0f} s for it and one table",
    )


def test_two_snakemakes_at_once_do_not_meet(broken, unbroken, survived):
    (broken / TARGET).unlink()
    (broken / PROBES).unlink()
    first = start(broken, PROBES, *FAST)
    locks = broken / ".snakemake/locks"
    while not list(locks.glob("*")) and first.poll() is None:
        time.sleep(0.05)
    output = snakemake(broken, *FAST, study=SMOKE, check=False)
    assert "LockException" in output or "locked" in output.lower()
    assert first.wait(300) == 0
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived("two", 1, "nothing: the second is refused, the first ends well", "none")


def test_a_clock_that_goes_back_is_said_and_touching_mends_it(broken, unbroken, survived):
    """Everything was made a day in the future; then one table is made again, today: Snakemake refuses, by name."""
    tomorrow = time.time() + 86400
    for path in broken.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (tomorrow, tomorrow))
    assert planned(snakemake(broken, "-n", study=SMOKE)) == set()
    (broken / PROBES).unlink()
    output = snakemake(broken, *FAST, study=SMOKE, check=False)
    assert "clock skew" in output and "layer_probes.csv" in output
    subprocess.run(
        ["find", ".", "-type", "f", "-newermt", "now", "-exec", "touch", "{}", "+"], cwd=broken, check=True
    )
    cost = again(broken)
    assert planned(snakemake(broken, "-n", study=SMOKE)) == set()
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived(
        "clock", 1, "nothing: what would be older than its input is refused",
        f"`touch` of all files from the future, and the missing table, {cost:.0f} s",
    )  # fmt: skip


def test_results_moved_elsewhere_and_linked_are_still_whole(broken, unbroken, survived):
    elsewhere = broken.parent / "another disk"
    shutil.move(broken / "results", elsewhere)
    (broken / "results").symlink_to(elsewhere)
    assert planned(snakemake(broken, "-n", study=SMOKE)) == set()
    moved = Path(shutil.move(broken, broken.parent / "renamed"))
    assert planned(snakemake(moved, "-n", study=SMOKE)) == set()
    assert digests(moved / RESULTS) == digests(unbroken / RESULTS)
    survived("moved", 2, "nothing; nothing reruns", "none")


def test_memory_that_runs_out_is_said_and_the_rest_of_the_study_stands(broken, unbroken, survived):
    """The job may use less memory than its libraries need: it fails by name; without the limit the study goes on."""
    (broken / TARGET).unlink()
    shutil.rmtree(broken / "results/.shards")
    (broken / PROBES).unlink()
    with (broken / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command(PROBES, *FAST, study=SMOKE), cwd=broken, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            for job in scripts_of(broken):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if rule_of(job) == "activations_shard":
                        job.rlimit(psutil.RLIMIT_AS, (1_000_000_000, 1_000_000_000))
            time.sleep(0.05)
    told = (broken / "output.txt").read_text()
    assert process.returncode != 0 and not (broken / TARGET).exists()
    assert "Error in rule activations_shard" in told and re.search("memory|alloc", told), told[-3000:]
    no_rubbish(broken)
    cost = again(broken, PROBES)
    assert digests(broken / RESULTS) == digests(unbroken / RESULTS)
    survived("memory", 1, "nothing; no file half-written", f"one rerun, {cost:.0f} s")


def test_without_a_network_the_whole_study_runs(unbroken, tmp_path, survived):
    """Every rule, in a network namespace without routes."""
    alone = unshared()
    if alone is None:
        pytest.skip("this system lets nobody make a network namespace (`unshare -n`): run as root to test it")
    folder, began = fresh(unbroken, tmp_path / "alone"), time.monotonic()
    done = subprocess.run(
        [*alone, *command(*FAST, study=SMOKE)], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert digests(folder / RESULTS) == digests(unbroken / RESULTS)
    survived("no network", 1, "nothing", f"none, {time.monotonic() - began:.0f} s for the whole study")


def test_one_job_at_a_time_gives_the_same_study_bit_by_bit(unbroken, tmp_path):
    folder = fresh(unbroken, tmp_path / "one")
    snakemake_forked(folder, SMOKE, arguments=("--cores", "1"))
    assert digests(folder / RESULTS) == digests(unbroken / RESULTS)


def test_another_batch_size_gives_the_same_study_within_rounding(unbroken, tmp_path):
    """Every table, by the tolerance that docs/numerics.md states for float32."""
    folder = fresh(unbroken, tmp_path / "batches")
    study = yaml.safe_load((folder / SMOKE).read_text())
    (folder / "batches.yaml").write_text(yaml.safe_dump(study | {"compute": {"batch_size": 7}}))
    snakemake_forked(folder, "batches.yaml", arguments=("--cores", "2"))
    assert_close(tables(unbroken / RESULTS), tables(folder / RESULTS), 1e-4)
