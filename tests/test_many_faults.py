"""What goes wrong on machines that are not ours, on the smoke study: `make test-faults` (half an hour; not in `make test`).

Every test breaks something and then does what a user would do: run the same command again. The tables must be those of an
unbroken run, byte for byte. What was done, how often, what was lost and what it cost is written to docs/reliability.md.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from workflow import ROOT, command, copy_project, planned, snakemake

pytestmark = pytest.mark.faults
SMOKE = "studies/smoke.yaml"
FAST = ["--cores", "4", "--resources", "gpu=2"]
TARGET = "results/smoke/activations/full.h5"
KILLS = 20
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A project folder with the smoke study in it, finished without a fault."""
    folder = copy_project(tmp_path_factory.mktemp("unbroken"))
    snakemake(folder, *FAST, study=SMOKE)
    return folder


@pytest.fixture(scope="module")
def reliability():
    """Rows of the page's table: fault, times tried, what was lost, what it cost. Written when all tests are through."""
    rows: list[tuple[str, int, str, str]] = []
    yield rows
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    lines = ["| fault | tried | lost | cost |", "|---|---|---|---|"]
    lines += [f"| {fault} | {tried} | {lost} | {cost} |" for fault, tried, lost, cost in rows]
    PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")


@pytest.fixture
def broken(unbroken, tmp_path):
    """The finished study in a folder of its own."""
    return Path(shutil.copytree(unbroken, tmp_path / "broken"))


def digests(folder: Path) -> dict[str, str]:
    """Every table of the study, and the page's figures, by content."""
    results = folder / "results/smoke"
    files = [*results.glob("tables/*"), *results.glob("prompts/*"), *results.glob("figures/*.svg")]
    files += [results / "circuit.yaml"]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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


def one_job(process: subprocess.Popen) -> psutil.Process | None:
    """One of the processes that run a rule's script, or None where none runs."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    scripts = [child for child in children if "/.snakemake/scripts/" in " ".join(child.cmdline())]
    return random.Random(len(scripts)).choice(scripts) if scripts else None


def test_killed_at_twenty_moments_the_study_ends_with_the_tables_of_an_unbroken_run(
    unbroken, tmp_path, reliability
):
    """Each time the study is started again from where it was, and killed a little later: a job alone, or everything."""
    folder, dice, began = copy_project(tmp_path / "killed"), random.Random(0), time.monotonic()
    jobs = whole = 0
    while jobs + whole < KILLS:
        process = start(folder, *FAST)
        time.sleep(dice.uniform(4, 12))
        assert process.poll() is None, f"the study was through after {jobs + whole} kills: kill earlier"
        victim = one_job(process) if dice.random() < 0.5 else None
        if victim is not None:
            victim.kill()
            jobs += 1
            process.wait(300)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            whole += 1
            for orphan in psutil.process_iter(
                ["cmdline"]
            ):  # jobs are killed too, as a node that goes down does
                if str(folder) in " ".join(orphan.info["cmdline"] or []):
                    orphan.kill()
        unlock(folder)
    rest = again(folder)
    assert digests(folder) == digests(unbroken)
    no_rubbish(folder)
    seconds = time.monotonic() - began
    reliability.append((
        "`kill -9` of a rule's process / of Snakemake and all its jobs, at random moments of the whole smoke study",
        KILLS, "nothing: all tables and figures identical", f"{jobs} jobs, {whole} whole runs; {seconds:.0f} s with all restarts, the last {rest:.0f} s",
    ))  # fmt: skip


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


def test_a_full_disk_is_named_and_leaves_nothing_half_written(broken, unbroken, disk, reliability):
    """results/ on a disk that has no room for the activations; then with room."""
    kept = broken.parent / "kept"
    shutil.move(broken / "results", kept)
    (broken / "results").mkdir()
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) // 1024
    disk(broken / "results", f"size={size + 64}k")
    shutil.copytree(kept, broken / "results", dirs_exist_ok=True)
    (broken / TARGET).unlink()
    shutil.rmtree(broken / "results/.shards")
    filler = broken / "results/filler"
    with filler.open("wb") as file:
        while True:
            try:
                file.write(bytes(1024))
                file.flush()
            except OSError:
                break
    output = snakemake(broken, TARGET, *FAST, study=SMOKE, check=False)
    assert "No space left on device" in output and not (broken / TARGET).exists()
    no_rubbish(broken)
    filler.unlink()
    subprocess.run(["mount", "-o", f"remount,size={4 * size}k", str(broken / "results")], check=True)
    cost = again(broken)
    assert digests(broken) == digests(unbroken)
    reliability.append(
        (
            "disk full while activations are written",
            1,
            "nothing; no file half-written",
            f"one rerun, {cost:.0f} s",
        )
    )


def test_results_that_cannot_be_written_are_named(broken, unbroken, disk, reliability):
    """A read-only file system under results/, with one table to be made again."""
    kept = broken.parent / "kept"
    shutil.move(broken / "results", kept)
    (broken / "results").mkdir()
    disk(broken / "results", "size=1g")
    shutil.copytree(kept, broken / "results", dirs_exist_ok=True)
    (broken / "results/smoke/tables/layer_probes.csv").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(broken / "results")], check=True)
    output = snakemake(broken, *FAST, study=SMOKE, check=False)
    assert "Read-only file system" in output
    subprocess.run(["mount", "-o", "remount,rw", str(broken / "results")], check=True)
    cost = again(broken)
    assert digests(broken) == digests(unbroken)
    reliability.append(("results/ on a read-only file system", 1, "nothing", f"one rerun, {cost:.0f} s"))


@pytest.mark.parametrize("harm", ["truncated", "garbage", "empty"])
def test_a_damaged_cache_is_named_and_made_again(broken, unbroken, harm, reliability):
    path = broken / TARGET
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": os.urandom(4096), "empty": b""}[harm])
    (broken / "results/smoke/tables/layer_probes.csv").unlink()
    output = snakemake(broken, *FAST, study=SMOKE, check=False)
    if (
        "activations/full.h5" in output and "remove the file" in output
    ):  # refused by name; the user does as told
        path.unlink(missing_ok=True)
        snakemake(broken, *FAST, study=SMOKE)
    assert digests(broken) == digests(unbroken)
    reliability.append(
        (f"activation file {harm}", 1, "nothing: refused by name, or made again from its shards", "one rerun")
    )


def test_two_snakemakes_at_once_do_not_meet(broken, unbroken, reliability):
    (broken / TARGET).unlink()
    first = start(broken, *FAST)
    locks = broken / ".snakemake/locks"
    while not list(locks.glob("*")) and first.poll() is None:
        time.sleep(0.05)
    output = snakemake(broken, *FAST, study=SMOKE, check=False)
    assert "LockException" in output or "locked" in output.lower()
    assert first.wait(300) == 0
    assert digests(broken) == digests(unbroken)
    reliability.append(
        (
            "a second Snakemake started in the same folder",
            1,
            "nothing: the second is refused, the first ends well",
            "none",
        )
    )


def test_a_clock_that_goes_back_makes_nothing_stale_twice(broken, unbroken, reliability):
    """Everything was made a day in the future; then one table is made again, today."""
    tomorrow = time.time() + 86400
    for path in broken.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (tomorrow, tomorrow))
    assert planned(snakemake(broken, "-n", study=SMOKE)) == set()
    (broken / "results/smoke/tables/layer_probes.csv").unlink()
    cost = again(broken)
    assert planned(snakemake(broken, "-n", study=SMOKE)) == set()
    assert digests(broken) == digests(unbroken)
    reliability.append(
        (
            "the clock goes back a day between two runs",
            1,
            "nothing; nothing runs twice",
            f"the one missing table, {cost:.0f} s",
        )
    )


def test_results_moved_elsewhere_and_linked_are_still_whole(broken, unbroken, reliability):
    elsewhere = broken.parent / "another disk"
    shutil.move(broken / "results", elsewhere)
    (broken / "results").symlink_to(elsewhere)
    assert planned(snakemake(broken, "-n", study=SMOKE)) == set()
    moved = Path(shutil.move(broken, broken.parent / "renamed"))
    assert planned(snakemake(moved, "-n", study=SMOKE)) == set()
    assert digests(moved) == digests(unbroken)
    reliability.append(
        (
            "results/ moved to another disk and linked; the whole project moved",
            2,
            "nothing; nothing reruns",
            "none",
        )
    )


def test_memory_that_runs_out_is_said_and_the_rest_of_the_study_stands(broken, unbroken, reliability):
    """The job may use less memory than its model needs: it fails by name; without the limit it goes on."""
    (broken / TARGET).unlink()
    shutil.rmtree(broken / "results/.shards")
    limited = ["bash", "-c", 'ulimit -v 2500000; exec "$@"', "limited", *command(TARGET, *FAST, study=SMOKE)]
    done = subprocess.run(
        limited, cwd=broken, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode != 0 and not (broken / TARGET).exists()
    no_rubbish(broken)
    unlock(broken)
    cost = again(broken)
    assert digests(broken) == digests(unbroken)
    reliability.append(
        (
            "a job with too little memory (address space limited)",
            1,
            "nothing; no file half-written",
            f"one rerun, {cost:.0f} s",
        )
    )
