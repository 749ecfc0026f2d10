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
BLOCK = re.compile(
    r"^\*\*`([^`]+)`\*\*, (?:(new)|(at the end)|before `([^`]+)`):\n\n```\w*\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINE = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
NAME = "logit_lens"


def follow(page: str, folder: Path) -> list[Path]:
    """Do in a project folder what the page says; the files that were touched."""
    touched = []
    for path, new, end, before, text in BLOCK.findall(page):
        file = folder / path
        touched.append(file)
        if new:
            assert not file.exists(), f"{path} is not new"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        elif end:
            file.write_text(file.read_text() + text)
        else:
            _insert(file, before, text, below=False)
    for path, above, text in LINE.findall(page.replace("\\|", "|")):
        touched.append(folder / path)
        _insert(folder / path, above, text, below=True)
    return touched


def _insert(file: Path, line: str, text: str, *, below: bool) -> None:
    lines = file.read_text().splitlines(keepends=True)
    found = [i for i, other in enumerate(lines) if other.strip() == line]
    assert len(found) == 1, f"{file}: {line!r} stands there {len(found)} times"
    if below:
        text = lines[found[0]].partition(line)[0] + text + "\n"
    at = found[0] + below
    file.write_text("".join([*lines[:at], text, *lines[at:]]))


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


def formatted(folder: Path, touched: list[Path]) -> None:
    """Step 8, as far as the page's own files go."""
    (folder / "config.yaml").write_text(run(folder, sys.executable, "scripts/factfinding/config_yaml.py"))
    names = sorted({str(path.relative_to(folder)) for path in touched})
    python = [name for name in names if name.endswith(".py")]
    run(folder, "ruff", "format", *python)
    run(folder, "snakefmt", *(name for name in names if name.endswith(".smk")))
    run(folder, "ruff", "check", *python)


def test_every_block_of_the_page_is_understood_and_they_are_few():
    assert len(BLOCK.findall(PAGE)) == len(re.findall(r"^\*\*`", PAGE, re.MULTILINE)) == 5
    assert not LINE.findall(PAGE)


def test_the_page_s_experiment_runs_as_it_stands_there(edited):
    touched = follow(PAGE, edited)
    formatted(edited, touched)
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
