"""Which engine runs edits: on values, or on differences."""

from __future__ import annotations

from collections.abc import Callable

from factfinding.engine.difference import Difference
from factfinding.engine.suffix import Suffix
from factfinding.engine.sweep import Engine
from factfinding.errors import InputError
from factfinding.model.anatomy import Anatomy


def engine_of(
    anatomy: Anatomy,
    name: str,
    product: str = "full",
    *,
    differences: Callable[[Anatomy, str], Difference] = Difference,
) -> Engine:
    """The engine of that name (auto, difference, suffix). auto: differences where the model has that form.

    product: precision of the matrix products of differences (full, tf32, bfloat16). differences: what makes the engine of these.
    Raises InputError for `difference` on a model without it.
    """
    if name == "suffix":
        return Suffix(anatomy)
    try:
        return differences(anatomy, product)
    except InputError:
        if name == "difference":
            raise
        return Suffix(anatomy)
