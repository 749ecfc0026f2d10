"""A digest follows what the code does: imports count, at any depth; comments, docstrings and formatting do not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from factfinding.digest import Digests, code_digest
from helpers import ROOT

SCRIPT = "from job import Job\nwith Job(snakemake):\n    from factfinding.a import f\n    f()\n"
FILES = {
    "run.py": SCRIPT,
    "job.py": "class Job: pass\n",
    "factfinding/__init__.py": "",
    "factfinding/a.py": "def f():\n    from factfinding.deep import b\n    return b.g() + 1\n",
    "factfinding/deep/__init__.py": "",
    "factfinding/deep/b.py": "import factfinding.c\n\ndef g():\n    return factfinding.c.X\n",
    "factfinding/c.py": "X = 1\n",
    "factfinding/unused.py": "Y = 1\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digest(root):
    return code_digest(root / "run.py", root=root)


def test_everything_imported_is_reached_and_nothing_else(root):
    found = {str(path.relative_to(root)) for path in Digests(root).reachable(root / "run.py")}
    assert found == set(FILES) - {"factfinding/unused.py"}


@pytest.mark.parametrize("name", [name for name in FILES if name != "factfinding/unused.py"])
def test_an_edit_anywhere_below_changes_the_digest(root, name):
    before = digest(root)
    (root / name).write_text(FILES[name] + "\nEXTRA = 2\n")
    assert digest(root) != before


def test_comments_docstrings_formatting_and_other_modules_do_not(root):
    before = digest(root)
    (root / "factfinding/unused.py").write_text("Y = 2\n")
    (root / "factfinding/c.py").write_text('"""What this is."""\n\nX = (\n    1  # one\n)\n')
    (root / "factfinding/a.py").write_text(
        'def f():\n    """Says it."""\n    from factfinding.deep import b  # late\n\n    return b.g()+1\n'
    )
    assert digest(root) == before


def test_the_configuration_does_not_count_for_its_values_are_parameters(root):
    (root / "run.py").write_text(
        SCRIPT.replace("f()\n", "f()\n    from factfinding.config import Config\n", 1)
    )
    (root / "factfinding/config.py").write_text("class Config: pass\n")
    before = digest(root)
    (root / "factfinding/config.py").write_text("class Config: pass\nclass Added: pass\n")
    assert digest(root) == before


def test_a_renamed_or_removed_module_changes_it(root):
    before = digest(root)
    (root / "factfinding/c.py").unlink()
    assert digest(root) != before


def test_reading_the_snakefile_imports_neither_torch_nor_transformers():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import factfinding.config, factfinding.digest\n"
        "heavy = {'torch', 'transformers', 'polars', 'sklearn', 'matplotlib'} & set(sys.modules); print(heavy)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_what_was_parsed_is_kept_and_a_damaged_cache_costs_only_time(root):
    cache = root / "kept" / "digests.json"
    digests = Digests(root, cache)
    before = digests.of(root / "run.py")
    digests.save()
    assert Digests(root, cache).of(root / "run.py") == before == digest(root)
    (root / "factfinding/c.py").write_text("X = 2\n")
    assert Digests(root, cache).of(root / "run.py") == digest(root) != before
    cache.write_text("{damaged")
    again = Digests(root, cache)
    assert again.of(root / "run.py") == digest(root)
    again.save()
    assert [path.name for path in cache.parent.iterdir()] == ["digests.json"]
