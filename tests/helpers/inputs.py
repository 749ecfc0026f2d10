"""What experiments are given in tests: a model, tables and readers that are there already, in place of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factfinding.inputs import Inputs


def given(**held: Any) -> Inputs:
    """Inputs that hold these things by name, such as `anatomy` or `prompts/full`, and read no file."""
    return Inputs(Path("."), declared=(), held=held)


def quiet(message: str) -> None:
    """Progress that nobody reads."""
