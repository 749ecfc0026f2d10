"""The docs that are derived: tables and the index of experiments from their declarations, numbers from stored runs.

python scripts/factfinding/derived_docs.py                      (`make docs`)    writes all of them anew
python scripts/factfinding/derived_docs.py results/organism     (`make record`)  stores that run's numbers first
python scripts/factfinding/derived_docs.py several=results/comparison            the same under another name

A doc takes its numbers from a run through blocks:

    <!-- numbers: organism/card -->
    ...
    <!-- /numbers -->

What stands between the marks is written from the template `docs/runs/organism/card.md`, in which `row`, `rows`, `count` and
`card` look values up. What they find is kept in `docs/runs/organism/numbers.json`, so that `make docs` needs no run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from factfinding.config import read_yaml
from factfinding.declarations import STAGES, Column, Declarations, Experiment, TableDeclaration, declarations
from factfinding.errors import InputError
from factfinding.relation import STUDY, spoken
from factfinding.run_numbers import Lookups, render

ROOT = Path(__file__).resolve().parents[2]
FILES = STAGES.with_name("files.yaml")
RUNS = "docs/runs"

TABLES = """\
# Tables

<!-- Written by `make docs` from experiment.yaml of each experiment and scripts/factfinding/data/*.yaml. -->

All tables lie in `results/<study>/tables/` unless said otherwise: CSV up to 10,000 rows, Parquet above. A column whose type says
*interval* has two more behind it, `<column>_low` and `<column>_high`. Intervals are 95 %: Wilson's for shares (accuracies, recalled
shares), the percentile bootstrap over subjects for everything else. `n` counts subjects; `majority_rate` is the share of the most
frequent answer among these `n`, which is what guessing gets. In the name of a column, * stands for each answer.

The experiments go by the numbers of the study's posts: P2.1 is the first experiment of post 2. [Each has a
page](experiments/README.md): when to use it, how to read it, what can go wrong.
"""
INDEX = """\
# The experiments

<!-- Written by `make docs` from experiment.yaml of each experiment. -->

Each page says what is asked, when to use it and when not, how it is done, how to read it, and what can go wrong. The columns of
the tables are in [tables.md](../tables.md); what came out on the embedded model is in [findings.md](../findings.md); what each
hypothesis about the early MLPs predicts is in [hypotheses.md](../hypotheses.md). Numbers such as P2.7 are those of the experiments
of post 2 (and so on) of *Fact Finding* (Nanda, Rajamanoharan, Kramár, Shah, 2023). A rule has the name of its experiment.

"""
POSTS = {
    1: "Post 1: the overview",
    2: "Post 2: simplifying the circuit",
    3: "Post 3: the early MLPs",
    4: "Post 4: memorisation",
    5: "Post 5: locality",
}
OURS = """\
## Beyond the study

| | asks |
|---|---|
| [The ledger](ledger.md) | Which of the study's claims hold for this model? |
"""


def derived(root: Path = ROOT, lookups: Mapping[str, Lookups] | None = None) -> dict[Path, str]:
    """Every derived doc and what should stand in it. `lookups`: of runs that are read now, not from what is stored.

    Raises InputError, naming the block, for a number that is not stored.
    """
    declared = declarations().spoken(STUDY)
    docs = root / "docs"
    found = {
        docs / "tables.md": tables_page(
            declared, spoken(read_yaml(FILES, "paths and their meanings"), STUDY)
        ),
        docs / "experiments/README.md": index_page(declared),
    }
    for path in sorted((docs / "experiments").glob("p*.md")):
        found[path] = with_head(path.read_text(), declared, path.stem)
    for path in [root / "README.md", *sorted(docs.rglob("*.md"))]:
        if path.is_relative_to(root / RUNS):
            continue
        text = with_numbers(found.get(path, path.read_text()), root / RUNS, lookups or {})
        if path in found or text != path.read_text():
            found[path] = text
    return found


def tables_page(declared: Declarations, files: Mapping[str, str]) -> str:
    """docs/tables.md: each table, what a row of it is, and its columns."""
    before = {name: table for name, table in declared.stages.items() if name != "ledger"}
    parts = [TABLES, "## Before the experiments", *_tables(before)]
    for experiment in declared.experiments.values():
        if experiment.tables or experiment.files:
            parts += [f"## {_heading(experiment)}", *_tables(experiment.tables), *_files(experiment.files)]
    ledger = {"ledger": declared.stages["ledger"]}
    note = "`results/comparison/ledger.csv`, where several studies run: the same with `study` as the first column."
    parts += ["## [The ledger](experiments/ledger.md)", *_tables(ledger), note]
    parts += ["## Files that are no tables", *_files(files)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def index_page(declared: Declarations) -> str:
    """docs/experiments/README.md: each experiment with its page."""
    parts = [INDEX]
    for post, title in POSTS.items():
        own = [one for one in declared.experiments.values() if one.number and one.post == post]
        parts.append(
            f"## {title}\n\n| | experiment | asks | rule | tables | figures |\n|---|---|---|---|---|---|\n"
        )
        parts += [_row(experiment) for experiment in own]
        parts.append("\n")
    return "".join(parts) + OURS


def with_head(text: str, declared: Declarations, page: str) -> str:
    """A page on experiments, its second paragraph naming their tables, rules and figures."""
    number = page.replace("-", ".").upper()
    own = [experiment for experiment in declared.experiments.values() if experiment.number == number]
    if not own:
        raise InputError(f"docs/experiments/{page}.md", f"no experiment {number}", "a page named by a number")
    tables = [
        f"[{_name(table)}](../tables.md#{_anchor(_name(table))})"
        for experiment in own
        for table in experiment.tables.values()
    ]
    rules = [f"`{experiment.name}`" for experiment in own]
    figures = [f"`{figure}`" for experiment in own for figure in experiment.figures]
    lists = {"Table": tables, "rule": rules, "figure": figures}
    head = " ·\n".join(f"{word}{'s' * (len(one) > 1)} {', '.join(one)}" for word, one in lists.items() if one)
    title, _, rest = text.split("\n\n", 2)
    return f"{title}\n\n{head}\n\n{rest}"


def with_numbers(text: str, runs: Path, lookups: Mapping[str, Lookups]) -> str:
    """A doc with its blocks of numbers written anew."""

    def block(match: re.Match[str]) -> str:
        run, name = match[1], match[2]
        template = runs / run / f"{name}.md"
        if not template.is_file():
            raise InputError(template, "no such file", f"a template for the block {run}/{name}")
        stored = runs / run / "numbers.json"
        if run not in lookups and not stored.is_file():
            return match[0]  # a run that was never recorded: what stands there stays
        found = lookups.get(run) or Lookups.stored(stored)
        return f"<!-- numbers: {run}/{name} -->\n{render(template, found)}<!-- /numbers -->"

    return re.sub(r"<!-- numbers: ([\w-]+)/([\w-]+) -->\n.*?<!-- /numbers -->", block, text, flags=re.DOTALL)


def _heading(experiment: Experiment) -> str:
    return f"{experiment.number}: {experiment.title}" if experiment.number else experiment.title


def _tables(tables: Mapping[str, TableDeclaration]) -> Iterator[str]:
    for table in tables.values():
        yield f"### {_escaped(_name(table))}"
        yield _escaped(table.about, cell=False)
        rows = [_column(name, column) for name, column in table.columns.items()]
        yield "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])


def _column(name: str, column: Column) -> str:
    kind = f"{column.type}, interval" if column.interval else column.type
    return f"| {_escaped(name)} | {kind} | {_escaped(column.about)} |"


def _files(files: Mapping[str, str]) -> Iterator[str]:
    for path, about in files.items():
        yield f"### {_escaped(path)}"
        yield about


def _name(table: TableDeclaration) -> str:
    return table.path.removeprefix("tables/")


def _row(experiment: Experiment) -> str:
    page = str(experiment.number).lower().replace(".", "-")
    cells = [
        f"[{experiment.number}]({page}.md)",
        experiment.title,
        experiment.question,
        f"`{experiment.name}`",
        ", ".join(experiment.tables),
        ", ".join(experiment.figures),
    ]
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |\n"


def _escaped(text: str, *, cell: bool = True) -> str:
    """Text in which what would be markup stands for itself; code stays as it is. In a cell of a table also on one line."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()) if cell else text.strip())
    parts[::2] = [re.sub(r"([<|*])" if cell else r"([<|])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main(runs: Mapping[str, Path]) -> None:
    """Store the numbers of these runs, by name, then write every doc."""
    lookups = {name: Lookups.live(folder) for name, folder in runs.items()}
    for path, text in derived(lookups=lookups).items():
        path.write_text(text)
    for run, found in lookups.items():
        found.store(ROOT / RUNS / run / "numbers.json")


if __name__ == "__main__":
    named = (argument.rpartition("=") for argument in sys.argv[1:])
    main({name or Path(folder).name: Path(folder) for name, _, folder in named})
