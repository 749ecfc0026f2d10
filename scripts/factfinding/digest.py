"""A digest of a script and of every project module that it imports, so that an edit of the code counts as a change.

The digest is taken over syntax trees: comments, formatting and docstrings do not count. Neither does config.py: it holds
values, and those are parameters of the rules in their own right, so that a section added to it reruns nothing. Only the
standard library is used, because every reading of the Snakefile computes it; what was parsed once is kept on disk.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

NOT_COUNTED = {"factfinding.config"}

Parsed = tuple[str, list[str]]
"""Digest of one file's syntax tree, and the dotted names that it may import."""


def code_digest(*entries: Path, root: Path) -> str:
    """Digest of files and all modules of the project in `root` that they import, directly or through others."""
    return Digests(root).of(*entries)


class Digests:
    """Digests of the files below `root`, as they are now: make a new one after an edit.

    `cache` is a file that keeps what was parsed, by the content of the files; damaged or missing it is made anew.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root, self.cache = root.resolve(), cache
        self._files: dict[str, list[Path]] = {}
        self._trees: dict[Path, Parsed] = {}

    def of(self, *entries: Path) -> str:
        """One digest of the files and all that they import."""
        lines = [f"{path.relative_to(self.root)} {self._tree(path)[0]}" for path in self.reachable(*entries)]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

    def reachable(self, *entries: Path) -> set[Path]:
        """The files themselves and all project files that they import, transitively."""
        found: set[Path] = set()
        waiting = [entry.resolve() for entry in entries]
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                for name in self._tree(path)[1]:
                    waiting += self._files_of(name)
        return found

    def save(self) -> None:
        """Write the cache, whole. A folder that cannot be written to costs only time."""
        if self.cache is None or len(self._kept) == self._loaded:
            return
        part = self.cache.with_name(f".{self.cache.name}.{os.getpid()}.part")
        with suppress(OSError):
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._kept))
            os.replace(part, self.cache)

    @cached_property
    def _kept(self) -> dict[str, Parsed]:
        kept: dict[str, Parsed] = {}
        if self.cache is not None:
            with suppress(OSError, ValueError):
                kept = json.loads(self.cache.read_text())
        self._loaded = len(kept)
        return kept

    def _files_of(self, name: str) -> list[Path]:
        """The files behind a dotted name: the module and the packages around it. None for what is not the project's."""
        if name not in self._files:
            counted = not any(name == module or name.startswith(f"{module}.") for module in NOT_COUNTED)
            parts = name.split(".") if counted else []
            paths = [self.root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
            candidates = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]
            self._files[name] = [file for file in candidates if file.is_file()]
        return self._files[name]

    def _tree(self, path: Path) -> Parsed:
        if path not in self._trees:
            content = path.read_bytes()
            key = hashlib.sha256(content).hexdigest()
            if key not in self._kept:
                self._kept[key] = parse(content, path)
            self._trees[path] = self._kept[key]
        return self._trees[path]


def parse(content: bytes, path: Path) -> Parsed:
    """Digest of a file's syntax tree without its docstrings, and the names that it imports, wherever it does so."""
    tree = ast.parse(content, filename=str(path))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(names)


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        node.body = node.body[1:] or [ast.Pass()]
