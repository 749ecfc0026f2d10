"""docs/adding-an-experiment.md, followed to the letter in a copy of the project: its experiment runs, and nothing is unsaid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import yaml

from factfinding.tables import read_table
from helpers import ROOT
from helpers.workflow import would_run

PAGE = (ROOT / "docs/adding-an-experiment.md").read_text()
BLOCK = re.compile(r"^\*\*`([^`]+)`\*\*, new:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = "logit_lens"


def follow(page: str, folder: Path) -> list[Path]:
    """Do in a project folder what the page says; the files that were written."""
    written = []
    for path, text in BLOCK.findall(page):
        file = folder / path
        assert not file.exists(), f"{path} is not new"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        written.append(file)
    return written


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, check=False, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}"
    return done.stdout


def formatted(folder: Path, written: list[Path]) -> None:
    """The page's last step, as far as its own files go."""
    names = sorted({str(path.relative_to(folder)) for path in written})
    python = [name for name in names if name.endswith(".py")]
    run(folder, "ruff", "format", *python)
    run(folder, "snakefmt", *(name for name in names if name.endswith(".smk")))
    run(folder, "ruff", "check", *python)
    run(folder, sys.executable, "scripts/factfinding/derived_docs.py")


def test_every_block_of_the_page_is_understood_and_they_are_few():
    assert len(BLOCK.findall(PAGE)) == len(re.findall(r"^\*\*`", PAGE, re.MULTILINE)) == 5


def test_the_page_s_experiment_runs_as_it_stands_there(edited):
    formatted(edited, follow(PAGE, edited))
    assert "## logit_lens.csv" in (edited / "docs/tables.md").read_text()
    expected = {NAME, "figure", "ledger", "report"}
    assert would_run(edited) == expected  # and nothing that was finished
    check_style(edited)
    pytest(edited, f"tests/experiments/test_{NAME}.py")
    forked = [sys.executable, str(ROOT / "tests/helpers/forked.py"), str(edited), "tests/fixtures/small.yaml"]
    run(edited, *forked, "--", "--cores", "2")
    assert would_run(edited) == set()
    check_results(edited / "results/small")
    small = yaml.safe_load((edited / "tests/fixtures/small.yaml").read_text())
    (edited / "edit.yaml").write_text(yaml.safe_dump(small | {"heads": small["heads"] | {"seed": 1}}))
    assert NAME in would_run(edited, "edit.yaml")  # its key of the configuration


def pytest(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments)


def check_style(folder: Path) -> None:
    """The house rules of the copy's own tests, on what is new: two for each module, one for the rule."""
    assert "5 passed" in pytest(folder, "tests/style/test_style.py", "-k", NAME)


def check_results(results: Path) -> None:
    table = pl.read_csv(results / f"tables/{NAME}.csv")  # declared in the copy alone
    last = table.filter(position="end", labels="true").sort("layer").row(-1, named=True)
    recall = read_table(results / "tables/recall_summary.csv").filter(condition="full", group="all")
    assert last["accuracy"] == recall["accuracy"].item()  # behind the last layer, the lens is the model
    assert last["n"] == recall["n"].item() and last["majority_rate"] == recall["majority_rate"].item()
    verdict = read_table(results / "tables/ledger.csv").filter(claim="answer-late-at-end")["verdict"]
    assert verdict.to_list() == ["not applicable"]  # of a model that knows nobody
    page = (results / "report.html").read_text()
    assert f'id="{NAME}"' in page and "the lens beats the commonest answer" in page
