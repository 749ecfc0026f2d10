"""The project as a package: what it declares agrees with what is pinned, imported and said elsewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(name: str) -> set[str]:
    """Normalized names in a file of envs/."""
    text = (ROOT / "envs" / name).read_text()
    return {
        canonicalize_name(Requirement(line).name)
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


def test_citation_and_changelog_name_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    versions = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["version"]


def test_every_requirement_is_pinned_once():
    run, test = requirements("requirements.txt"), requirements("requirements-test.txt")
    assert requirements("requirements.in") <= run
    assert requirements("requirements-test.in") <= run | test
    assert not run & test
    real = requirements("real-model.txt")
    assert requirements("real-model.in") <= real and not real & run


def test_a_run_imports_only_what_a_run_installs():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    imported = set()
    for path in (ROOT / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    provider = packages_distributions()
    # triton comes with torch for a GPU, without it plain tensors serve; gguf is asked for where a GGUF file is named
    optional = {"triton", "gguf"}
    foreign = imported - set(sys.stdlib_module_names) - {"factfinding"} - scripts - optional
    packages = {canonicalize_name(provider[name][0]) for name in foreign}
    assert packages <= requirements("requirements.in")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel of the project, built from a copy of its files and unpacked."""
    folder = tmp_path_factory.mktemp("package")
    listed = ["pyproject.toml", "README.md", "LICENSE", "envs", "scripts"]
    subprocess.run(["cp", "-r", *listed, str(folder)], cwd=ROOT, check=True)
    build = [sys.executable, "-c", "from setuptools import build_meta as b; print(b.build_wheel('dist'))"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder / "site")], check=True)
    return folder / "site"


def test_the_package_holds_the_library_and_its_data(installed):
    library = ROOT / "scripts" / "factfinding"
    expected = {
        str(path.relative_to(library))
        for path in library.rglob("*")
        if path.suffix in {".py", ".yaml"} and "__pycache__" not in path.parts
    }
    found = {
        str(path.relative_to(installed / "factfinding")) for path in (installed / "factfinding").rglob("*.*")
    }
    assert found == expected
    assert {path.name for path in installed.iterdir()} == {
        "factfinding",
        f"factfinding-{PROJECT['version']}.dist-info",
    }


def test_the_package_names_its_requirements(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    named = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)
    by_extra = {True: set(), False: set()}
    for line in named:
        by_extra["extra ==" in line].add(canonicalize_name(Requirement(line).name))
    assert by_extra == {
        False: requirements("requirements.in"),
        True: requirements("requirements-test.in"),
    }


def test_the_installed_library_is_imported_without_the_project_folder(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import factfinding.config; print(factfinding.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(installed / "factfinding" / "__init__.py")
