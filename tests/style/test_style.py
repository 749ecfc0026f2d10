"""The house rules that a machine can check: formatting, lint, who may import whom, what every rule must have."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers import ROOT

LIBRARY = ROOT / "scripts" / "factfinding"
ANYONE = {"errors", "families", "files", "digest", "known", "least", "relation", "steps"}
MAY_IMPORT = {  # room -> rooms below it
    "errors": set(),
    "files": set(),
    "digest": set(),
    "known": set(),
    "least": set(),
    "steps": set(),
    "families": set(),
    "config": set(),
    "config_yaml": {"config"},
    "relation": {"config"},
    "run_numbers": {"declarations", "page", "tables"},
    "derived_docs": {"config", "declarations", "run_numbers"},
    "studies": {"config"},
    "stats": {"config"},
    "data": {"config", "stats"},
    "model_folder": set(),
    "preflight": {"config", "data", "model_folder"},
    "cost": {"config", "data", "relation", "model_folder"},
    "gpus": set(),
    "model": {"config", "data", "inputs", "tables", "model_folder"},
    "organism": {"config", "stats", "data", "model"},
    "store": {"config", "stats", "data", "model"},
    "engine": {"config", "stats", "data", "model", "store", "inputs", "tables"},
    "methods": {"config", "stats", "data", "model", "engine", "store", "inputs", "tables"},
    "declarations": {"config"},
    "tables": {"declarations"},
    "inputs": {"config", "declarations", "tables"},
    "experiments": {
        "config",
        "stats",
        "data",
        "model",
        "engine",
        "store",
        "inputs",
        "tables",
        "methods",
        "figures",
        "findings",
    },
    "ledger": {"declarations", "tables"},
    "consistency": {"declarations", "ledger"},
    "figures": {"config", "stats", "data"},
    "findings": {"config", "declarations", "figures"},
    "page": {"ledger", "tables", "units"},
    "units": set(),
    "circuit_picture": {"config", "data", "findings", "methods"},
    "closer": {"data", "findings"},
    "conclusions": {"findings", "methods"},
    "trajectories": set(),
    "synthesis": {"declarations", "findings", "ledger", "units"},
    "report": {
        "config",
        "stats",
        "data",
        "consistency",
        "declarations",
        "experiments",
        "ledger",
        "figures",
        "findings",
        "page",
        "circuit_picture",
        "closer",
        "conclusions",
        "synthesis",
        "units",
    },
    "seeds": {"ledger"},
    "comparison": {"findings", "page", "seeds", "trajectories"},
}


def tool(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "rules"],
        ["snakemake", "--lint"],
        ["mypy"],
        ["codespell"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_tools_have_nothing_to_say(command):
    done = tool(str(Path(sys.executable).parent / command[0]), *command[1:])
    assert done.returncode == 0, done.stdout + done.stderr


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "factfinding"
                else [node.module]
            )
        found |= {name.split(".")[1] for name in names if name.startswith("factfinding.")}
    return found


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_no_module_imports_upwards(path):
    here = room(path)
    if here == "__init__":
        assert not imported_rooms(path)
        return
    assert imported_rooms(path) <= MAY_IMPORT[here] | ANYONE | {here}


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_public_things_say_what_they_are_and_nothing_is_long(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    assert "snakemake" not in path.read_text().lower() or here_may_name_it(path), (
        "the library knows no Snakemake"
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{path}: {node.name} is long"


def here_may_name_it(path: Path) -> bool:
    """Prose may name Snakemake; code may not import it."""
    return not re.search(r"^\s*(import|from) snakemake", path.read_text(), re.MULTILINE)


RULES = re.findall(
    r"^ *rule (\w+):\n(.*?)(?=^ *rule |^\S|\Z)",
    "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize(("name", "body"), RULES, ids=[name for name, _ in RULES])
def test_every_rule_has_what_a_rule_must_have(name, body):
    for directive in (
        "output:",
        "log:",
        "conda:",
        "threads:",
        "resources:",
        "params:",
        "script:",
        "mem_mb=",
        "runtime=",
    ):
        assert directive in body, f"{name} lacks {directive}"
    assert "code=" in body and "provenance=" in body
    assert "run:" not in body and "shell:" not in body
    if "gpu=1" in body:
        assert "benchmark:" in body, f"{name} runs the model and is not measured"


def test_scripts_read_no_untracked_configuration():
    for path in (ROOT / "scripts").glob("*.py"):
        assert "snakemake.config" not in path.read_text(), path


def test_the_slurm_profile_sends_every_gpu_rule_to_the_gpu_partition():
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    on_gpu = {name for name, body in RULES if "gpu=1" in body}
    sent = {name for name, what in profile["set-resources"].items() if what["slurm_partition"] == "gpu"}
    assert on_gpu == sent
