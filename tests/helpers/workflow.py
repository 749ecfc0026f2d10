"""A copy of the project in which the tests run Snakemake, edit files and kill processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from factfinding.tables import read_table
from helpers import ROOT


def copy_project(folder: Path) -> Path:
    """All files that belong to the project (tracked, or new and not ignored), as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def command(*arguments: str, study: str = "tests/fixtures/small.yaml") -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments, "--configfile", study]


def snakemake(
    folder: Path, *arguments: str, study: str = "tests/fixtures/small.yaml", check: bool = True
) -> str:
    """Run Snakemake in a project folder; returns everything that it printed."""
    done = _printed(command(*arguments, study=study), timeout=900, cwd=folder)
    if check and done.returncode:
        raise AssertionError(
            f"snakemake {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
        )
    return done.stdout


def _printed(run: list[str], *, timeout: int, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command on one thread; its output and its errors in one text."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(run, cwd=cwd, env=_quiet(), text=True, timeout=timeout, check=False, **both)


def _quiet() -> dict[str, str]:
    """The environment, with one thread and without compiled files in the project."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def snakemake_forked(folder: Path, *studies: str, arguments: tuple[str, ...] = ("--cores", "2")) -> str:
    """Whole studies one after the other, jobs as forks of one process (forked.py): a fifth of the time."""
    run = [sys.executable, str(ROOT / "tests/helpers/forked.py"), str(folder), *studies, "--", *arguments]
    done = _printed(run, timeout=1500)
    if done.returncode:
        raise AssertionError(f"{' '.join(studies)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def digests(results: Path) -> dict[str, str]:
    """What a study found, by content: its tables, prompts, figures, probes and circuit."""
    kinds = (
        "tables/*",
        "prompts/*",
        "figures/*.svg",
        "figures/*.png",
        "*.safetensors",
        "circuit.yaml",
        "dossiers/*",
    )
    files = [path for kind in kinds for path in results.glob(kind) if path.is_file()]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tables(results: Path) -> dict[str, pl.DataFrame]:
    """All tables of a study, by file name."""
    return {path.name: read_table(path) for path in sorted((results / "tables").iterdir())}


def planned(output: str) -> set[str]:
    """The rules in the job table of a dry run."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total +\d", output, re.MULTILINE | re.DOTALL)
    if table is None:
        assert "Nothing to be done" in output, output[-3000:]
        return set()
    return {line.split()[0] for line in table[1].splitlines() if line.strip()} - {"all"}


@cache
def _forks() -> subprocess.Popen:
    """tests/forks.py, running: it ends with the tests, when its input closes."""
    server = [sys.executable, str(ROOT / "tests/helpers/forks.py")]
    return subprocess.Popen(server, env=_quiet(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def dry_run(folder: Path, *arguments: str, study: str = "tests/fixtures/small.yaml") -> tuple[int, str]:
    """Exit code of `snakemake -n` in a project folder, and what it printed."""
    server = _forks()
    server.stdin.write(json.dumps([str(folder), "-n", *arguments, "--configfile", study]) + "\n")
    server.stdin.flush()
    code, path = json.loads(server.stdout.readline())
    output = Path(path).read_text()
    Path(path).unlink()
    return code, output


def would_run(folder: Path, study: str = "tests/fixtures/small.yaml") -> set[str]:
    """The rules that `snakemake -n` would run in a project folder."""
    code, output = dry_run(folder, study=study)
    assert code == 0, output[-3000:]
    return planned(output)


def assert_close(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame], tolerance: float) -> None:
    """Text, counts and nulls equal; numbers to `tolerance` of the largest value in their column."""
    assert one.keys() == other.keys()
    for name, frame in one.items():
        floats = [column for column in frame.columns if frame.schema[column].is_float()]
        assert_frame_equal(frame.drop(floats), other[name].drop(floats))
        for column in floats:
            x, y = frame[column].to_numpy(), other[name][column].to_numpy()
            assert np.array_equal(np.isnan(x), np.isnan(y)), (name, column)
            largest = max(1.0, np.nanmax(np.abs(x), initial=0.0))
            apart = np.nanmax(np.abs(x - y), initial=0.0) / largest
            assert apart <= tolerance, f"{name}.{column}: {apart:.1e}"


def unshared() -> list[str] | None:
    """A command that runs another without any network; None where namespaces may not be made."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
        ):
            return command
    return None
