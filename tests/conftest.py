"""The small study, run once for all tests that need a finished one, and copies of it to edit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from workflow import copy_project, snakemake


@dataclass(frozen=True, kw_only=True)
class Study:
    """A project folder with a finished study in it, and what Snakemake printed while it ran."""

    folder: Path
    output: str


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    folder = copy_project(tmp_path_factory.mktemp("study"))
    return Study(folder=folder, output=snakemake(folder, "--cores", "2"))


@pytest.fixture
def edited(study, tmp_path) -> Path:
    """The finished study in a folder of its own, file times and all, to be edited."""
    return Path(shutil.copytree(study.folder, tmp_path / "edited"))
