"""The small study, run once for all tests that need a finished one, copies of it to edit, and the marker of such tests."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from helpers import ROOT
from helpers.workflow import copy_project, snakemake_forked

WORKFLOW = ROOT / "tests/workflow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `study` what needs a finished study, by its fixtures, and all of tests/workflow, which runs Snakemake."""
    for item in items:
        if WORKFLOW in item.path.parents or {"study", "edited"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.study)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A project folder with a finished study in it, and what Snakemake printed while it ran."""

    folder: Path
    output: str


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    """Made by the first process of the test run that needs it (`pytest -n` has several); the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, printed = shared / "study", shared / "study.txt"
    with FileLock(shared / "study.lock"):
        if not printed.exists():
            shutil.rmtree(folder, ignore_errors=True)
            output = snakemake_forked(copy_project(folder), "tests/fixtures/small.yaml")
            printed.write_text(output)
    return Study(folder=folder, output=printed.read_text())


@pytest.fixture
def edited(study, tmp_path) -> Path:
    """The finished study in a folder of its own, file times and all, to be edited."""
    return Path(shutil.copytree(study.folder, tmp_path / "edited"))
