"""A digest of a script and of every project module that it imports, so that an edit of the code counts as a change.

The digest is taken over syntax trees: comments, formatting and docstrings do not count. Neither does config.py: it holds
values, and those are parameters of the rules in their own right, so that a section added to it reruns nothing. Only the
standard library is used, because every reading of the Snakefile computes it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

NOT_COUNTED = {"factfinding.config"}


def code_digest(*entries: Path, root: Path) -> str:
    """Digest of files and all modules of the package in `root` that they import, directly or through others."""
    trees = {path: _tree(path)[0] for path in reachable(*entries, root=root)}
    lines = [f"{path.relative_to(root)} {digest}" for path, digest in trees.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def reachable(*entries: Path, root: Path) -> set[Path]:
    """The files themselves and all project files that they import, transitively."""
    found: set[Path] = set()
    waiting = [entry.resolve() for entry in entries]
    root = root.resolve()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in _tree(path)[1]:
            if not any(name == module or name.startswith(f"{module}.") for module in NOT_COUNTED):
                waiting += _files(name, root)
    return found


def _files(name: str, root: Path) -> Iterator[Path]:
    """The files behind a dotted name: the module and the packages around it. None for what is not the project's."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:depth])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                yield candidate


def _tree(path: Path) -> tuple[str, tuple[str, ...]]:
    status = path.stat()
    return _parsed(path, status.st_mtime_ns, status.st_size)


@cache
def _parsed(path: Path, _mtime: int, _size: int) -> tuple[str, tuple[str, ...]]:
    """Digest of one file's syntax tree, and the dotted names that it may import."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(names)


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        node.body = node.body[1:] or [ast.Pass()]
